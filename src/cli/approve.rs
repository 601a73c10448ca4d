//! `agentkeys approve`: shows what a child asks for, and says yes to just that.
use argh::{ArgsInfo, FromArgs};

use super::agents::label;
use super::ask;
use super::clock::{now, span};
use super::context::Context;
use super::report::{CliError, shown, usage};
use super::{Checked, Finish};
use crate::core::auth_request::{Details, Kind};
use crate::core::backend::{AgentSummary, Fetched, Grant};
use crate::core::identity::{AgentIdentity, Alias, ServiceName};
use crate::core::otp::{Otp, PairCode};
use crate::core::problem::{Code, Problem};
use crate::core::scope::Scope;
use crate::core::types::Timestamp;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Shows what the holder of a pair code asks for, and says yes after you have \
                   compared the OTP with the one on its screen. To recover an agent, its name \
                   must be typed.",
    note = "A scope is a list of services, or all, or none; :ro behind it makes it read-only. It \
            may be narrower than what was asked for, never wider. --as gives an agent that \
            exists, and ends that agent's old daemon.",
    note = "Without a terminal it takes --yes together with the --otp that the other side shows.",
    example = "agentkeys approve ABCD-EFGH",
    example = "agentkeys approve ABCD-EFGH --name my-bot --scope openrouter,github:ro",
    example = "agentkeys approve ABCD-EFGH --as my-agent",
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

/// Reads `a,b`, `all` or `none`, each with `:ro` behind it or without.
pub(super) fn scope(text: &str) -> Result<Scope, Problem> {
    let (services, read_only) = match text.strip_suffix(":ro") {
        Some(services) => (services, true),
        None => (text, false),
    };
    let services = match services {
        "all" => None,
        "none" => Some(Default::default()),
        list => Some(
            list.split(',')
                .map(|name| name.trim().parse::<ServiceName>())
                .collect::<Result<_, _>>()
                .map_err(|_| {
                    Problem::invalid(
                        "--scope",
                        "wants services with commas between them, or all, or none, \
                         and :ro behind it for read-only",
                    )
                })?,
        ),
    };
    Ok(Scope { services, read_only })
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
            scope: raw.scope.map(|text| scope(&text)).transpose()?,
        };
        let otp = raw.otp.map(|text| text.parse::<Otp>()).transpose()?;
        Ok(Self { code, grant, otp, yes: raw.yes })
    }
}

/// What a person is to see before they decide, line by line.
fn describe(request: &Fetched, details: &Details, now: Timestamp) -> Vec<(String, String)> {
    let mut lines: Vec<(String, String)> = Vec::new();
    let mut line = |word: &str, text: String| lines.push((word.to_owned(), shown(&text)));
    let agent = request.agent.as_ref();
    line("kind", kind_in_words(request.kind).to_owned());
    if let Some(agent) = agent {
        line("agent", format!("{} ({})", label(agent), agent.wallet));
    }
    let claimed = |claim: &Option<crate::core::claim::Claim>| {
        claim.as_ref().map_or("nothing".to_owned(), |claim| format!("\"{claim}\""))
    };
    let mut said = Vec::new();
    match details {
        Details::Pair(pair) => {
            line("wants", pair.scope.to_string());
            if let Some(name) = &pair.name {
                said.push(format!("name \"{name}\""));
            }
            said.push(format!("host {}", claimed(&pair.host)));
            said.push(format!("user {}", claimed(&pair.user)));
        }
        Details::Recover(recover) => {
            line("wants", format!("to go on as \"{}\", with all that it may do", recover.agent));
            said.push(format!("host {}", claimed(&recover.host)));
            said.push(format!("user {}", claimed(&recover.user)));
        }
        Details::ScopeChange(change) => {
            line("wants", change.scope.to_string());
            if let Some(agent) = agent {
                line("has now", agent.scope.to_string());
            }
            if let Some(reason) = &change.reason {
                said.push(format!("reason \"{reason}\""));
            }
        }
        Details::HighValueRelease(act) => {
            line("wants", format!("to use {} once", act.service));
            said.push(format!("{} {} of the smallest unit", act.amount, act.currency));
            said.push(format!("\"{} {}{}\"", act.method, act.host, act.path));
            line("body", act.body.to_string());
            if let Some(reason) = &act.reason {
                said.push(format!("reason \"{reason}\""));
            }
        }
        Details::KeyRotate(rotate) => {
            line("wants", "new keys for the same daemon".to_owned());
            line("old keys", fingerprint(&rotate.old.to_string()));
        }
    }
    for claim in said {
        line("claimed", claim);
    }
    let mut saw = request.saw.address.clone();
    if let Some(uid) = request.saw.uid {
        saw.push_str(&format!(", uid {uid}"));
    }
    if let Some(program) = &request.saw.program {
        saw.push_str(&format!(", program {program}"));
    }
    line("seen", saw);
    line("key", fingerprint(&request.child_pubkey.fingerprint().to_string()));
    line("age", span(now.since_ms(request.created_at)));
    line("answer in", span(request.expires_at.since_ms(now)));
    lines
}

fn kind_in_words(kind: Kind) -> &'static str {
    match kind {
        Kind::Pair => "Pair: a new daemon wants to be an agent of yours",
        Kind::Recover => "Recover: a daemon wants to take over an agent of yours",
        Kind::ScopeChange => "ScopeChange: an agent wants to be allowed other things",
        Kind::HighValueRelease => "HighValueRelease: an agent wants one act of high value",
        Kind::KeyRotate => "KeyRotate: a daemon wants to replace its keys",
    }
}

/// The first half of a fingerprint in groups of four, as people compare them.
fn fingerprint(hex: &str) -> String {
    let groups: Vec<&str> = (0..8).filter_map(|at| hex.get(at * 4..at * 4 + 4)).collect();
    groups.join(" ")
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
        let asked = match details {
            Details::Pair(pair) => Some(&pair.scope),
            Details::ScopeChange(change) => Some(&change.scope),
            Details::Recover(_) | Details::HighValueRelease(_) | Details::KeyRotate(_) => None,
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

    /// Lets the person decide.
    fn confirm(&self, context: &Context<'_>, request: &Fetched) -> Result<(), CliError> {
        if self.otp.is_some_and(|otp| otp != request.otp) {
            return Err(Problem::new(
                Code::Denied,
                "the OTP is another",
                "what the other side shows does not belong to this request: \
                 it may be somebody else's",
                "do not approve it; agentkeys deny <pair-code>, and start the daemon again",
            )
            .into());
        }
        if self.yes {
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
                context.out.say("This ends the agent's old daemon: its keys and its sessions.");
                let name = label(agent);
                let question = format!("Is the OTP the same on both sides? Then type {name}");
                ask::for_word(&question, &name)
            }
            _ => {
                if let Some(agent) = &self.grant.agent_id {
                    context.out.say(&format!("This ends the old daemon of {agent}."));
                }
                ask::for_yes("Is the OTP the same on both sides, and do you allow this?")
            }
        }
    }
}

impl Checked for Approve {
    type Raw = ApproveArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let open = context.open().await?;
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
        let out = &context.out;
        for (word, text) in describe(&request, &details, now()) {
            out.say(&format!("  {word:<10} {text}"));
        }
        if let Some(scope) = &self.grant.scope {
            out.say(&format!("  {:<10} {scope}", "you give"));
        }
        let (bold, plain) = if out.colour_err { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        out.say(&format!("\n  {:<10} {bold}{}{plain}\n", "OTP", request.otp));
        self.confirm(context, &request)?;
        let seen = Some(request.seen_hash());
        let approved =
            open.backend.approve_auth_request(open.token, request.id, seen, self.grant).await?;
        if out.json {
            out.object(&approved)?;
        } else {
            let AgentSummary { wallet, scope, .. } = &approved.agent;
            let name = label(&approved.agent);
            out.say(&format!("approved: {name} ({wallet}) may {scope}"));
            out.say(&format!("to end it again: agentkeys revoke {name}"));
        }
        Ok(Finish::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::auth_request::Pair;
    use crate::core::backend::Seen;
    use crate::core::types::{ChildKeys, RequestId};

    fn raw(scope: Option<&str>, yes: bool, otp: Option<&str>) -> ApproveArgs {
        ApproveArgs {
            existing: None,
            name: None,
            scope: scope.map(str::to_owned),
            yes,
            otp: otp.map(str::to_owned),
            words: vec!["abcd-efgh".to_owned()],
        }
    }

    #[test]
    fn yes_without_the_otp_is_refused() {
        assert!(Approve::try_from(raw(None, true, None)).is_err());
        assert!(Approve::try_from(raw(None, true, Some("12345"))).is_err());
        assert!(Approve::try_from(raw(None, true, Some("123456"))).is_ok());
    }

    #[test]
    fn a_scope_is_a_list_all_or_none() {
        let text = |text: &str| scope(text).map(|scope| scope.to_string()).ok();
        assert_eq!(text("github,openrouter:ro").unwrap(), "read github, openrouter");
        assert_eq!(text("OpenRouter").unwrap(), "read and store openrouter");
        assert_eq!(text("none").unwrap(), "no service");
        assert!(text("all:ro").unwrap().starts_with("read all"));
        for bad in ["", ":ro", "a,,b", "a b", "a:rw"] {
            assert_eq!(text(bad), None, "{bad}");
        }
    }

    fn request() -> (Fetched, Details) {
        let details = Details::Pair(Pair {
            host: Some("laptop".parse().unwrap()),
            name: Some("my-bot".parse().unwrap()),
            scope: scope("openrouter:ro").unwrap(),
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
            saw: Seen {
                address: "unix socket".to_owned(),
                uid: Some(1000),
                program: Some("/bin/\x1b[2Jnode".to_owned()),
            },
            agent: None,
        };
        (fetched, details)
    }

    #[test]
    fn what_is_claimed_and_what_was_seen_stand_apart() {
        let (fetched, details) = request();
        let lines: Vec<String> = describe(&fetched, &details, Timestamp(1_012_000))
            .into_iter()
            .map(|(word, text)| format!("{word}: {text}"))
            .collect();
        assert_eq!(
            lines,
            [
                "kind: Pair: a new daemon wants to be an agent of yours",
                "wants: read openrouter",
                "claimed: name \"my-bot\"",
                "claimed: host \"laptop\"",
                "claimed: user nothing",
                "seen: unix socket, uid 1000, program /bin/\\u{1b}[2Jnode",
                "key: f2a8 3e1d 7dcb 3a6a 4b2a 4b1c 5a2f 5b3f",
                "age: 12 seconds",
                "answer in: 48 seconds",
            ]
            .map(|line| match line.strip_prefix("key: ") {
                Some(_) => format!("key: {}", fingerprint(&fetched.child_pubkey.fingerprint().to_string())),
                None => line.to_owned(),
            })
        );
        assert_eq!(
            fingerprint(&"0123456789abcdef".repeat(4)),
            "0123 4567 89ab cdef 0123 4567 89ab cdef"
        );
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
