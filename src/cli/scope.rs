//! `agentkeys scope`: shows what an agent may do, or sets it.
use std::collections::BTreeSet;

use argh::{ArgsInfo, FromArgs};
use serde_json::json;

use super::agents::{about, choose, label, maybe_agent};
use super::context::Context;
use super::report::{CliError, shown, usage};
use super::scopes::{Difference, difference, or_nothing, services};
use super::{Checked, Finish};
use crate::core::backend::{AgentSummary, CredentialSummary};
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::problem::Problem;
use crate::core::scope::Scope;
use crate::core::terms::Exposure;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Shows what an agent may do, or sets it: which services, and whether it may \
                   also store. Its next read obeys the new scope, also in sessions that it has.",
    note = "[agent] may be left out where there is just one. Without an option the scope is shown. \
            The list replaces the one before; what no option names stays as it is. A service that \
            nothing is stored for yet may be in it.",
    note = "A session that was given less than its agent keeps to both: widening the agent does \
            not widen it. Its daemon can ask for more, and agentkeys approve gives it.",
    example = "agentkeys scope my-agent",
    example = "agentkeys scope my-agent --services openrouter,github",
    example = "agentkeys scope my-agent --read-only",
    example = "agentkeys scope my-agent --no-services",
    example = "agentkeys scope my-agent --all-services --read-write",
    example = "agentkeys scope my-agent --provision openrouter",
    example = "agentkeys scope my-agent --expose broker"
)]
/// see above
pub struct ScopeArgs {
    /// these services and no others
    #[argh(option, arg_name = "a,b")]
    services: Option<String>,
    /// all services that the agent has, later ones too
    #[argh(switch)]
    all_services: bool,
    /// no service at all
    #[argh(switch)]
    no_services: bool,
    /// it may read, and not store
    #[argh(switch)]
    read_only: bool,
    /// it may read and store
    #[argh(switch)]
    read_write: bool,
    /// keys of these services may be made for it
    #[argh(option, arg_name = "a,b")]
    provision: Option<String>,
    /// no key may be made for it
    #[argh(switch)]
    no_provision: bool,
    /// how far any key of it is shown at most: broker, inject or reveal
    #[argh(option, arg_name = "tier")]
    expose: Option<String>,
    /// agent
    #[argh(positional, arg_name = "[agent]")]
    words: Vec<String>,
}

/// What is to be set; what is absent stays.
#[derive(PartialEq, Eq, Debug)]
struct Change {
    services: Option<Option<BTreeSet<ServiceName>>>,
    provision: Option<BTreeSet<ServiceName>>,
    read_only: Option<bool>,
    expose: Option<Exposure>,
}

impl Change {
    fn is_none(&self) -> bool {
        *self == Self { services: None, provision: None, read_only: None, expose: None }
    }

    fn of(&self, now: &Scope) -> Scope {
        Scope {
            services: self.services.clone().unwrap_or_else(|| now.services.clone()),
            provision: self.provision.clone().unwrap_or_else(|| now.provision.clone()),
            read_only: self.read_only.unwrap_or(now.read_only),
            // As far as it goes is no limit.
            expose: self.expose.or(now.expose).filter(|tier| *tier < Exposure::Reveal),
        }
    }
}

/// Whose scope, and what it is to be.
pub struct SetScope {
    agent: Option<AgentIdentity>,
    change: Change,
}

impl TryFrom<ScopeArgs> for SetScope {
    type Error = Problem;

    fn try_from(raw: ScopeArgs) -> Result<Self, Problem> {
        let agent = maybe_agent("scope", &raw.words)?;
        let services = match (raw.services, raw.all_services, raw.no_services) {
            (None, false, false) => None,
            (Some(list), false, false) => Some(Some(services("--services", &list)?)),
            (None, true, false) => Some(None),
            (None, false, true) => Some(Some(BTreeSet::new())),
            _ => {
                return Err(usage(
                    "--services, --all-services and --no-services exclude one another",
                    "each says which services the agent has from now on",
                    "leave all but one of them out",
                ));
            }
        };
        let read_only = match (raw.read_only, raw.read_write) {
            (false, false) => None,
            (true, false) => Some(true),
            (false, true) => Some(false),
            (true, true) => {
                return Err(usage(
                    "--read-only and --read-write exclude each other",
                    "one forbids to store, the other allows it",
                    "leave one of them out",
                ));
            }
        };
        let provision = match (raw.provision, raw.no_provision) {
            (None, false) => None,
            (Some(list), false) => Some(self::services("--provision", &list)?),
            (None, true) => Some(BTreeSet::new()),
            (Some(_), true) => {
                return Err(usage(
                    "--provision and --no-provision exclude each other",
                    "one names services that keys may be made for, the other forbids it",
                    "leave one of them out",
                ));
            }
        };
        let expose = raw.expose.map(|text| text.parse()).transpose()?;
        Ok(Self { agent, change: Change { services, provision, read_only, expose } })
    }
}

/// How an agent's credentials lie to a scope.
struct Against {
    /// Allowed, and there.
    readable: Vec<String>,
    /// Allowed by name, and not there yet.
    missing: Vec<String>,
    /// There, and not allowed.
    outside: Vec<String>,
}

fn against(scope: &Scope, credentials: &[CredentialSummary]) -> Against {
    let there: BTreeSet<&ServiceName> = credentials.iter().map(|one| &one.service).collect();
    let text = |name: &ServiceName| name.as_str().to_owned();
    let (readable, outside): (Vec<&ServiceName>, Vec<_>) =
        there.iter().partition(|name| scope.allows(name));
    let named = scope.services.iter().flatten();
    Against {
        readable: readable.into_iter().map(text).collect(),
        missing: named.filter(|name| !there.contains(name)).map(text).collect(),
        outside: outside.into_iter().map(text).collect(),
    }
}

fn show(context: &Context<'_>, agent: &AgentSummary, lie: &Against) -> Result<(), CliError> {
    let out = &context.out;
    if out.json {
        return out.object(&json!({
            "agent": agent,
            "readable": lie.readable,
            "missing": lie.missing,
            "outside": lie.outside,
        }));
    }
    out.line(&shown(&format!("{} ({})", label(agent), agent.wallet)))?;
    let line = |word: &str, text: &str| out.line(&format!("  {word:<10} {}", shown(text)));
    line("scope", &agent.scope.to_string())?;
    if let Some(why) = &agent.revoked {
        line("revoked", &format!("{} by {}", why.at.for_people(), why.by))?;
    }
    line("can read", &or_nothing(&lie.readable))?;
    if !lie.missing.is_empty() {
        line("not stored", &lie.missing.join(", "))?;
    }
    if !lie.outside.is_empty() {
        line("kept from", &lie.outside.join(", "))?;
    }
    Ok(())
}

fn tell(context: &Context<'_>, before: &Scope, agent: &AgentSummary, lie: &Against) {
    let name = label(agent);
    let say = |text: String| context.out.say(&shown(&text));
    let Difference { added, taken } = difference(before, &agent.scope);
    if added.is_empty() && taken.is_empty() {
        say(format!("unchanged: {name} may {}", agent.scope));
    } else {
        say(format!("{name} may {}", agent.scope));
        say(format!("  added      {}", or_nothing(&added)));
        say(format!("  taken away {}", or_nothing(&taken)));
        say("the next read obeys it".to_owned());
    }
    if let Some(first) = lie.missing.first() {
        say(format!("nothing is stored yet for: {}", lie.missing.join(", ")));
        say(format!("to store it: agentkeys store {name} {first}"));
    }
    if let Some(why) = &agent.revoked {
        say(format!(
            "it was revoked {} and reads nothing until: agentkeys reinstate {name}",
            why.at.for_people()
        ));
    }
}

impl Checked for SetScope {
    type Raw = ScopeArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let named = choose(context, self.agent).await?;
        let open = context.open().await?;
        let answer = open.backend.resolve_identity(open.token, &named).await;
        let before = about(context, &named, answer).await?;
        let now = if self.change.is_none() {
            before.clone()
        } else {
            // By its address: a name could be another agent's by now.
            let agent = AgentIdentity::Wallet(before.wallet);
            let scope = self.change.of(&before.scope);
            open.backend.set_scope(open.token, &agent, scope).await?
        };
        let agent = AgentIdentity::Wallet(now.wallet);
        let credentials = open.backend.list_credentials(open.token, &agent).await?;
        let lie = against(&now.scope, &credentials);
        if self.change.is_none() {
            show(context, &now, &lie)?;
        } else if context.out.json {
            context.out.object(&json!({
                "agent": now,
                "before": before.scope,
                "missing": lie.missing,
            }))?;
        } else {
            tell(context, &before.scope, &now, &lie);
        }
        Ok(Finish::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::types::Timestamp;

    fn raw() -> ScopeArgs {
        ScopeArgs {
            services: None,
            all_services: false,
            no_services: false,
            read_only: false,
            read_write: false,
            provision: None,
            no_provision: false,
            expose: None,
            words: vec!["my-agent".to_owned()],
        }
    }

    fn set(raw: ScopeArgs, now: &str) -> String {
        let now = super::super::scopes::short_form("now", now).unwrap();
        SetScope::try_from(raw).unwrap().change.of(&now).to_string()
    }

    #[test]
    fn what_no_option_names_stays() {
        assert!(SetScope::try_from(raw()).unwrap().change.is_none());
        let list = || Some("github".to_owned());
        assert_eq!(set(ScopeArgs { services: list(), ..raw() }, "a:ro"), "read github");
        assert_eq!(set(ScopeArgs { read_only: true, ..raw() }, "a"), "read a");
        assert_eq!(set(ScopeArgs { read_write: true, ..raw() }, "a:ro"), "read and store a");
        assert_eq!(set(ScopeArgs { no_services: true, ..raw() }, "a"), "no service");
        let all = ScopeArgs { all_services: true, read_only: true, ..raw() };
        assert_eq!(set(all, "a"), "read all of the agent's services, later ones too");
        let made = ScopeArgs { provision: list(), ..raw() };
        assert_eq!(set(made, "github,+a"), "read and store a, github; have keys made for github");
        let none = ScopeArgs { no_provision: true, ..raw() };
        assert_eq!(set(none, "+a"), "read and store a");
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        let list = || Some("github".to_owned());
        for wrong in [
            ScopeArgs { services: list(), all_services: true, ..raw() },
            ScopeArgs { services: list(), no_services: true, ..raw() },
            ScopeArgs { no_services: true, all_services: true, ..raw() },
            ScopeArgs { read_only: true, read_write: true, ..raw() },
            ScopeArgs { provision: list(), no_provision: true, ..raw() },
            ScopeArgs { services: Some(String::new()), ..raw() },
            ScopeArgs { words: vec!["a".to_owned(), "b".to_owned()], ..raw() },
        ] {
            assert!(SetScope::try_from(wrong).is_err());
        }
    }

    #[test]
    fn what_is_stored_is_held_against_the_scope() {
        let stored: Vec<CredentialSummary> = ["github", "stripe"]
            .map(|name| CredentialSummary {
                service: name.parse().unwrap(),
                version: 1,
                kept: 0,
                stored_at: Timestamp(0),
                expires_at: None,
                made: false,
                terms: Default::default(),
                spent: None,
            })
            .into();
        let lie = |text| {
            let scope = super::super::scopes::short_form("now", text).unwrap();
            let Against { readable, missing, outside } = against(&scope, &stored);
            [or_nothing(&readable), or_nothing(&missing), or_nothing(&outside)]
        };
        assert_eq!(lie("github,brave"), ["github", "brave", "stripe"]);
        assert_eq!(lie("all"), ["github, stripe", "nothing", "nothing"]);
        assert_eq!(lie("none"), ["nothing", "nothing", "github, stripe"]);
    }
}
