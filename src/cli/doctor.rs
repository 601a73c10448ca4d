//! `agentkeys doctor`: how things stand, and what to do where they do not stand well.
use argh::{ArgsInfo, FromArgs};
use serde_json::json;

use super::clock::now;
use super::context::Context;
use super::report::{CliError, shown};
use super::session::{Fact, Health, SessionPlace};
use super::{Checked, Finish};
use crate::core::backend::WhoAmI;
use crate::core::problem::Problem;
use crate::core::types::Timestamp;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Looks at the backend, the session, the clock, the machine's protections and \
                   where things are kept. Each line that is not well says what to do. Exits with \
                   1 if something is broken.",
    example = "agentkeys doctor",
    example = "agentkeys doctor --json"
)]
/// see above
pub struct DoctorArgs {}

/// Everything.
pub struct Doctor;

impl TryFrom<DoctorArgs> for Doctor {
    type Error = Problem;

    fn try_from(_: DoctorArgs) -> Result<Self, Problem> {
        Ok(Self)
    }
}

/// A problem as a line.
fn broken(name: &str, problem: &Problem) -> Fact {
    let found = format!("{}: {}", problem.detail, problem.cause.replace('\n', " "));
    Fact::broken(name, found, problem.fix.clone())
}

/// How long a master session lives at most, in milliseconds.
const LONGEST_SESSION: u64 = 30 * 86_400_000;
/// By how much the clocks may differ before it is told, in milliseconds.
const SKEW: u64 = 60_000;

/// What a session that the backend accepts now says about the two clocks.
fn clock(me: &WhoAmI, now: Timestamp) -> Fact {
    let fix = "set this machine's clock, for example by timedatectl set-ntp true";
    if now.since_ms(me.expires_at) > SKEW {
        let ahead = "this machine's clock is ahead of the backend's: it says that the session, \
                     which the backend accepts, has ended";
        return Fact::warning("clock", ahead, fix);
    }
    if me.expires_at.since_ms(now) > LONGEST_SESSION + SKEW {
        let behind = "this machine's clock is behind the backend's: no session lives as long as \
                      it says that this one will";
        return Fact::warning("clock", behind, fix);
    }
    Fact::good("clock", format!("{}, which fits the backend's", now.for_people()))
}

fn session(me: &WhoAmI, place: &SessionPlace) -> Vec<Fact> {
    let who = format!("signed in as {}, until {} unless used", me.identity, me.expires_at.for_people());
    let kept = match place {
        SessionPlace::Keyring => Fact::good("session kept", "in the keyring"),
        SessionPlace::File(path) => Fact::warning(
            "session kept",
            format!("in {}, mode 0600, since no keyring answers", path.display()),
            "unlock or install a Secret Service keyring (gnome-keyring, KWallet), \
             then agentkeys init",
        ),
    };
    let presence = if me.presence == "none" {
        Fact::warning(
            "presence",
            "level none: any program of your user can read and approve as you can",
            "let agents run as another user or in a container",
        )
    } else {
        Fact::good("presence", format!("level {}", me.presence))
    };
    vec![Fact::good("session", who), kept, presence]
}

async fn backend(context: &Context<'_>) -> Vec<Fact> {
    let link = match context.link().await {
        Ok(link) => link,
        Err(problem) => return vec![broken("backend", &problem)],
    };
    let address = link.address();
    // The shielding key needs no session: whoever gives it is there and speaks our wire.
    let mut facts = match link.backend().shielding_key().await {
        Ok(key) => vec![Fact::good(
            "backend",
            format!("{address}, by {}; shielding key {}", link.chosen_by(), key.key_id),
        )],
        Err(problem) => return vec![broken("backend", &problem)],
    };
    let open = match context.open().await {
        Ok(open) => open,
        Err(problem) => {
            facts.push(broken("session", &problem));
            return facts;
        }
    };
    match open.backend.who_am_i(open.token).await {
        Ok(me) => {
            facts.extend(session(&me, &link.session_place()));
            facts.push(clock(&me, now()));
            facts.push(match link.seen_head(me.account) {
                Some(head) => Fact::good("audit log", format!("seen up to event {}", head.seq)),
                None => Fact::good("audit log", "nothing seen of it before"),
            });
        }
        Err(problem) => facts.push(broken("session", &problem)),
    }
    facts.extend(link.facts().await);
    facts
}

impl Checked for Doctor {
    type Raw = DoctorArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let mut facts = backend(context).await;
        facts.extend(context.machine.facts().await);
        let broken = facts.iter().any(|fact| fact.health == Health::Broken);
        if context.out.json {
            context.out.object(&json!({ "well": !broken, "facts": facts }))?;
        } else {
            for fact in &facts {
                show(context, fact)?;
            }
        }
        Ok(if broken { Finish::Unwell } else { Finish::Done })
    }
}

fn show(context: &Context<'_>, fact: &Fact) -> Result<(), CliError> {
    let (word, colour) = match fact.health {
        Health::Good => ("ok", "\x1b[32m"),
        Health::Warning => ("warn", "\x1b[33m"),
        Health::Broken => ("BROKEN", "\x1b[1;31m"),
    };
    let (colour, plain) = if context.out.colour { (colour, "\x1b[0m") } else { ("", "") };
    let line = format!("{colour}{word:<6}{plain}  {:<14}  {}", shown(&fact.name), shown(&fact.found));
    context.out.line(&line)?;
    for line in fact.fix.iter().flat_map(|fix| fix.lines()) {
        context.out.line(&format!("{:<24}fix: {}", "", shown(line)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::types::{AccountId, PublicKey, SessionId, WalletAddress};

    fn me(expires_at: u64) -> WhoAmI {
        WhoAmI {
            session_id: SessionId([0; 16]),
            account: AccountId([1; 16]),
            master_key: PublicKey([0; 32]),
            identity: "unix:1000".into(),
            presence: "none".into(),
            wallet: WalletAddress([0; 20]),
            child: false,
            expires_at: Timestamp(expires_at),
        }
    }

    #[test]
    fn a_clock_that_cannot_be_right_is_told() {
        let day = 86_400_000;
        let now = Timestamp(1_800_000_000_000);
        assert_eq!(clock(&me(now.0 + day), now).health, Health::Good);
        assert_eq!(clock(&me(now.0 - day), now).health, Health::Warning);
        assert_eq!(clock(&me(now.0 + 40 * day), now).health, Health::Warning);
    }

    #[test]
    fn a_session_file_and_no_presence_are_warned_of_with_what_to_do() {
        let facts = session(&me(0), &SessionPlace::File("/home/x/session".into()));
        let warned: Vec<_> = facts.iter().filter(|fact| fact.health == Health::Warning).collect();
        assert_eq!(warned.len(), 2);
        assert!(warned.iter().all(|fact| fact.fix.is_some()));
        assert_eq!(session(&me(0), &SessionPlace::Keyring)[1].health, Health::Good);
    }
}
