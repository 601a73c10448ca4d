//! `agentkeys approve`: shows what a child asks for, and says yes to just that.
use argh::{ArgsInfo, FromArgs};

use serde_json::json;

use super::agents::{about, label};
use super::ask;
use super::claims::folded;
use super::clock::now;
use super::context::{Context, Open};
use super::report::{CliError, shown, usage};
use super::request::View;
use super::scopes::short_form;
use super::{Checked, Finish};
use crate::core::auth_request::{Details, Kind};
use crate::core::backend::{AgentSummary, Approved, Fetched, Grant, Lasts, MAX_LASTS};
use crate::core::identity::{AgentIdentity, Alias};
use crate::core::otp::{Otp, PairCode};
use crate::core::pin::Fingerprint;
use crate::core::problem::{Code, Problem};
use crate::core::scope::Scope;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Shows what the holder of a pair code asks for, and says yes after you have \
                   compared the OTP with the one on its screen. To recover an agent, its name \
                   must be typed. Text that the other side supplied is quoted, as claimed.",
    note = "A scope is a list of services, or all, or none; :ro behind it makes it read-only. It \
            may be narrower than what was asked for, never wider. --as gives an agent that \
            exists, and ends that agent's old daemon.",
    note = "The last line names your account: a daemon that is started with it takes an answer \
            from no other.",
    note = "A request that the gateway holds is sent once by an approval. With --for others of the same \
            method, host and path are sent unasked, whatever their body: for a time (--for 10m), or \
            for as long as the run lasts (--for run).",
    note = "Without a terminal it takes --yes together with the --otp that the other side shows.",
    example = "agentkeys approve ABCD-EFGH",
    example = "agentkeys approve ABCD-EFGH --name my-bot --scope openrouter,github:ro",
    example = "agentkeys approve ABCD-EFGH --as my-agent",
    example = "agentkeys approve ABCD-EFGH --for 10m",
    example = "agentkeys approve ABCD-EFGH --yes --otp 123456"
)]
/// see above
pub struct ApproveArgs {
    /// pair only: give this agent, which exists
    #[argh(option, long = "as", arg_name = "agent")]
    existing: Option<String>,
    /// pair only: the new agent's name
    #[argh(option, arg_name = "name")]
    name: Option<String>,
    /// a narrower scope: services, or all, or none; :ro for read-only
    #[argh(option, arg_name = "a,b[:ro]")]
    scope: Option<String>,
    /// held requests only: how long others like it go unasked: 90s, 10m, 2h, or run
    #[argh(option, long = "for", arg_name = "time")]
    lasts: Option<String>,
    /// do not ask; wants --otp
    #[argh(switch)]
    yes: bool,
    /// the six digits that the other side shows
    #[argh(option, arg_name = "digits")]
    otp: Option<String>,
    /// pair code
    #[argh(positional, arg_name = "pair-code")]
    words: Vec<String>,
}

/// What is said yes to, and how.
pub struct Approve {
    code: PairCode,
    grant: Grant,
    otp: Option<Otp>,
    yes: bool,
}

/// For how long an approval lets requests through.
///
/// # Errors
/// It is neither a time nor `run`.
pub fn lasts(text: &str) -> Result<Lasts, Problem> {
    if text == "run" {
        return Ok(Lasts::Session);
    }
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 60 * 60,
        _ => 0,
    };
    let number = text.get(..text.len().saturating_sub(1)).unwrap_or_default();
    let digits = number.bytes().all(|c| c.is_ascii_digit());
    let seconds = number.parse::<u64>().ok().filter(|_| digits);
    match seconds.and_then(|number| number.checked_mul(unit)) {
        Some(seconds) if (1..=MAX_LASTS).contains(&seconds) => Ok(Lasts::Seconds(seconds)),
        _ => Err(usage(
            format!("--for {text} is no time"),
            "it wants seconds, minutes or hours up to a day, or run",
            "agentkeys approve ABCD-EFGH --for 10m",
        )),
    }
}

/// The one pair code among a command's words.
///
/// # Errors
/// There is none, or another word.
pub fn pair_code(command: &str, words: &[String]) -> Result<PairCode, Problem> {
    match words {
        [code] => Ok(code.parse()?),
        _ => Err(usage(
            format!("{command} wants one pair code"),
            "it is the eight letters and digits that the daemon shows",
            format!("agentkeys {command} ABCD-EFGH"),
        )),
    }
}

impl TryFrom<ApproveArgs> for Approve {
    type Error = Problem;

    fn try_from(raw: ApproveArgs) -> Result<Self, Problem> {
        let code = pair_code("approve", &raw.words)?;
        if raw.yes && raw.otp.is_none() {
            return Err(usage(
                "--yes wants --otp too",
                "the OTP that the other side shows is what tells its request from another's",
                "agentkeys approve ABCD-EFGH --yes --otp 123456",
            ));
        }
        if raw.existing.is_some() && raw.name.is_some() {
            return Err(usage(
                "--as and --name exclude each other",
                "--as gives an agent that exists, --name names a new one",
                "leave one of them out",
            ));
        }
        let grant = Grant {
            agent_id: raw.existing.map(|text| text.parse::<AgentIdentity>()).transpose()?,
            name: raw.name.map(|text| text.parse::<Alias>()).transpose()?,
            scope: raw.scope.map(|text| short_form("--scope", &text)).transpose()?,
            lasts: raw.lasts.map(|text| lasts(&text)).transpose()?,
        };
        let otp = raw.otp.map(|text| text.parse::<Otp>()).transpose()?;
        Ok(Self { code, grant, otp, yes: raw.yes })
    }
}

impl Approve {
    /// Whether the grant goes with the request; the backend checks it again.
    fn check(&self, request: &Fetched, details: &Details) -> Result<(), Problem> {
        let pair_only = self.grant.agent_id.is_some() || self.grant.name.is_some();
        if pair_only && request.kind != Kind::Pair {
            return Err(usage(
                "--as and --name go with a Pair alone",
                format!("this request is a {}, which names its agent", request.kind.as_str()),
                "leave them out",
            ));
        }
        if self.grant.lasts.is_some() && request.held.is_none() {
            return Err(usage(
                "--for goes with a request that the gateway holds",
                format!("this is a {} that a child opened", request.kind.as_str()),
                "leave it out",
            ));
        }
        let asked = match details {
            Details::Pair(pair) => Some(&pair.scope),
            Details::ScopeChange(change) => Some(&change.scope),
            Details::Recover(_) => request.agent.as_ref().map(|agent| &agent.scope),
            Details::HighValueRelease(_) | Details::KeyRotate(_) => None,
        };
        match (&self.grant.scope, asked) {
            (None, _) => Ok(()),
            (Some(given), Some(asked)) if given.within(asked) => Ok(()),
            (Some(_), Some(asked)) => Err(Problem::invalid(
                "--scope",
                format!("it is wider than what was asked for: {asked}"),
            )),
            (Some(_), None) => Err(Problem::invalid(
                "--scope",
                format!("a {} has no scope to narrow", request.kind.as_str()),
            )),
        }
    }
}

/// Lets the person decide.
fn confirm(request: &Fetched, otp: Option<Otp>, yes: bool) -> Result<(), CliError> {
    if otp.is_some_and(|otp| otp != request.otp) {
        return Err(Problem::new(
            Code::Denied,
            "the OTP is another",
            "what the other side shows does not belong to this request: \
                 it may be somebody else's",
            "do not approve it; agentkeys deny <pair-code>, and start the daemon again",
        )
        .into());
    }
    if yes {
        return Ok(());
    }
    if !ask::is_terminal() {
        return Err(usage(
            "there is no terminal to ask on",
            "an approval is a person's: they compare the OTP on both sides",
            "run it in a terminal, or give --yes and the --otp that the other side shows",
        )
        .into());
    }
    match (&request.kind, &request.agent) {
        (Kind::Recover, Some(agent)) => {
            let name = label(agent);
            let question = format!("Is the OTP the same on both sides? Then type {name}");
            ask::for_word(&question, &name)
        }
        _ => ask::for_yes("Is the OTP the same on both sides, and do you allow this?"),
    }
}

/// Settles which agent is meant where a daemon asks for a name that an agent has already: that
/// agent, by a person's word, or another name. Nothing is made by default.
async fn settle_name(
    context: &Context<'_>,
    open: Open<'_>,
    code: PairCode,
    grant: &mut Grant,
    details: &Details,
    asks: bool,
) -> Result<(), CliError> {
    let Details::Pair(pair) = details else { return Ok(()) };
    let Some(wished) = pair.name.as_ref().map(|name| name.shown()) else { return Ok(()) };
    if grant.agent_id.is_some() || grant.name.is_some() {
        return Ok(());
    }
    let Ok(identity) = wished.parse::<AgentIdentity>() else { return Ok(()) };
    match open.backend.resolve_identity(open.token, &identity).await {
        Err(problem) if problem.code == Code::AgentNotFound => return Ok(()),
        answer => answer?,
    };
    if asks && ask::is_terminal() {
        context.out.say(&format!(
            "The daemon asks to be called \"{wished}\", and you have an agent of that name."
        ));
        if ask::whether("Is it that agent's, to have its keys?")? {
            grant.agent_id = Some(identity);
            return Ok(());
        }
    }
    Err(usage(
        format!("which agent is it? You have one that is called \"{wished}\""),
        "a daemon that asks for a name that is taken is that agent's, or needs another name",
        format!(
            "agentkeys approve {code} --as {wished}\n\
             or, as a new agent without keys: agentkeys approve {code} --name ANOTHER"
        ),
    )
    .into())
}

/// The agent that `--as` names, and where a name is wished for, all agents that it could be
/// taken for.
async fn beside(
    context: &Context<'_>,
    open: Open<'_>,
    grant: &Grant,
    details: &Details,
) -> Result<(Option<AgentSummary>, Vec<AgentSummary>), CliError> {
    if let Some(named) = &grant.agent_id {
        let answer = open.backend.resolve_identity(open.token, named).await;
        return Ok((Some(about(context, named, answer).await?), Vec::new()));
    }
    match details {
        Details::Pair(pair) if pair.name.is_some() && grant.name.is_none() => {
            Ok((None, open.backend.list_agents(open.token).await?))
        }
        _ => Ok((None, Vec::new())),
    }
}

/// What was done, and what comes next.
fn done(
    approved: &Approved,
    given: Option<&Scope>,
    replaced: bool,
    lasts: Option<Lasts>,
    held: Option<u32>,
) -> Vec<String> {
    let agent = &approved.agent;
    let name = label(agent);
    let who = format!("{name} ({})", agent.wallet);
    let may = given.unwrap_or(&agent.scope);
    let mut said = match approved.kind {
        Kind::Pair | Kind::Recover => vec![
            format!("approved: {who} may {may}"),
            "its daemon takes its session by itself, within seconds".to_owned(),
        ],
        Kind::ScopeChange => {
            vec![format!("approved: {who} may {may}"), "its next read obeys it".to_owned()]
        }
        Kind::KeyRotate => vec![
            format!("approved: {who} has new keys"),
            "its daemon goes on with them by itself; the old keys and sessions have ended"
                .to_owned(),
        ],
        Kind::HighValueRelease => vec![match (lasts, held) {
            (Some(Lasts::Session), _) => {
                format!(
                    "approved: {who} may do this, and others like it, for as long as the run lasts"
                )
            }
            (Some(Lasts::Seconds(seconds)), _) => {
                format!("approved: {who} may do this, and others like it, for {seconds} s")
            }
            (None, Some(0)) => {
                format!(
                    "approved: it no longer waits; {who} may send it again within three minutes"
                )
            }
            (None, Some(_)) => format!("approved: {who} has it sent now"),
            (None, None) => format!("approved: {who} may do this one act, within three minutes"),
        }],
    };
    if replaced {
        said.push("the daemon that had it before has lost its access".to_owned());
    }
    if matches!(approved.kind, Kind::Pair | Kind::ScopeChange) {
        said.push(format!("to give it a credential: agentkeys store {name} SERVICE"));
    }
    if approved.kind == Kind::Pair && agent.name.is_none() {
        said.push(format!("to name it: agentkeys link {name} --alias NAME"));
    }
    said.push(format!("to end its access: agentkeys revoke {name}"));
    said
}

/// What a person said to a request that was shown.
pub enum Said {
    /// Yes, and for how long others like it go unasked.
    Yes(Option<Lasts>),
    No,
    /// Nothing.
    Later,
}

impl Checked for Approve {
    type Raw = ApproveArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let (otp, yes) = (self.otp, self.yes);
        let lasts = self.grant.lasts;
        let confirm = |request: &Fetched| confirm(request, otp, yes).map(|()| Said::Yes(lasts));
        self.decide(context, !yes, confirm).await?;
        Ok(Finish::Done)
    }
}

impl Approve {
    /// A request that is to be shown, and nothing decided yet.
    pub fn of(code: PairCode) -> Self {
        Self { code, grant: Grant::default(), otp: None, yes: false }
    }

    /// Shows the request, has the person decide, and does so.
    ///
    /// # Errors
    /// Those of the backend and of the person's answer.
    pub async fn decide(
        mut self,
        context: &Context<'_>,
        asks: bool,
        confirm: impl Fn(&Fetched) -> Result<Said, CliError>,
    ) -> Result<(), CliError> {
        let open = context.open().await?;
        let me = open.backend.who_am_i(open.token).await?;
        let account = Fingerprint::of(me.account, &me.master_key);
        let request = open.backend.fetch_auth_request(open.token, self.code).await?;
        let details = Details::from_canonical(request.kind, &request.details).map_err(|_| {
            Problem::new(
                Code::Invalid,
                "the request cannot be shown",
                "its details are not what this version understands",
                "use the same version everywhere; compare agentkeys --version",
            )
        })?;
        self.check(&request, &details)?;
        settle_name(context, open, self.code, &mut self.grant, &details, asks).await?;
        let (existing, agents) = beside(context, open, &self.grant, &details).await?;
        let view = View {
            request: &request,
            details: &details,
            grant: &self.grant,
            existing: existing.as_ref(),
            agents: &agents,
            account,
            now: now(),
        };
        let out = &context.out;
        folded(&view.lines()).iter().for_each(|line| out.say(line));
        let (bold, plain) = if out.colour_err { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        out.say(&format!("\n  {:<10} {bold}{}{plain}\n", "OTP", request.otp));
        let given = view.given();
        let had = existing.as_ref().or(request.agent.as_ref());
        let replaced = view.replaced().is_some() && had.is_some_and(|agent| agent.daemon.is_some());
        if replaced {
            out.say("The daemon that has this agent now loses its access: keys and sessions.");
        }
        match confirm(&request)? {
            Said::Yes(lasts) => self.grant.lasts = lasts,
            Said::No => {
                open.backend.deny_auth_request(open.token, request.id).await?;
                out.say("denied: whoever asked is told so");
                return Ok(());
            }
            Said::Later => return Ok(()),
        }
        if let Some(agent) = &existing {
            // The one that was shown, and no more than was shown, whatever became of it since.
            self.grant.agent_id = Some(AgentIdentity::Wallet(agent.wallet));
            self.grant.scope.clone_from(&given);
        }
        let (seen, lasts) = (Some(request.seen_hash()), self.grant.lasts);
        let approved =
            open.backend.approve_auth_request(open.token, request.id, seen, self.grant).await?;
        if out.json {
            out.object(&json!({
                "request_id": approved.request_id,
                "kind": approved.kind,
                "agent": approved.agent,
                "scope": given,
                "account": account,
            }))?;
        } else {
            for line in done(&approved, given.as_ref(), replaced, lasts, request.held) {
                out.say(&shown(&line));
            }
            out.say(&format!("account {account}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::auth_request::Pair;
    use crate::core::backend::Seen;
    use crate::core::types::{ChildKeys, RequestId, Timestamp};

    fn raw(scope: Option<&str>, yes: bool, otp: Option<&str>) -> ApproveArgs {
        ApproveArgs {
            existing: None,
            name: None,
            scope: scope.map(str::to_owned),
            lasts: None,
            yes,
            otp: otp.map(str::to_owned),
            words: vec!["abcd-efgh".to_owned()],
        }
    }

    #[test]
    fn a_time_is_seconds_minutes_or_hours_up_to_a_day() {
        assert_eq!(lasts("90s"), Ok(Lasts::Seconds(90)));
        assert_eq!(lasts("10m"), Ok(Lasts::Seconds(600)));
        assert_eq!(lasts("24h"), Ok(Lasts::Seconds(MAX_LASTS)));
        assert_eq!(lasts("run"), Ok(Lasts::Session));
        for bad in
            ["", "m", "10", "0s", "25h", "+1m", "1 m", "1d", "99999999999999999999h", "1\u{e9}"]
        {
            assert!(lasts(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn yes_without_the_otp_is_refused() {
        assert!(Approve::try_from(raw(None, true, None)).is_err());
        assert!(Approve::try_from(raw(None, true, Some("12345"))).is_err());
        assert!(Approve::try_from(raw(None, true, Some("123456"))).is_ok());
    }

    fn request() -> (Fetched, Details) {
        let details = Details::Pair(Pair {
            host: Some("laptop".parse().unwrap()),
            name: Some("my-bot".parse().unwrap()),
            scope: short_form("--scope", "openrouter:ro").unwrap(),
            user: None,
        });
        let fetched = Fetched {
            id: RequestId([1; 16]),
            kind: Kind::Pair,
            details: details.canonical().unwrap(),
            child_pubkey: ChildKeys([7; 64]),
            otp: "012345".parse().unwrap(),
            created_at: Timestamp(1_000_000),
            expires_at: Timestamp(1_060_000),
            saw: Seen::default(),
            agent: None,
            held: None,
        };
        (fetched, details)
    }

    #[test]
    fn a_scope_that_is_wider_than_asked_is_refused_before_anybody_is_asked() {
        let (fetched, details) = request();
        let check = |text| {
            Approve::try_from(raw(Some(text), false, None)).unwrap().check(&fetched, &details)
        };
        assert!(check("openrouter:ro").is_ok() && check("none:ro").is_ok());
        assert!(check("openrouter").is_err() && check("github:ro").is_err());
        assert!(check("all:ro").is_err());
    }
}
