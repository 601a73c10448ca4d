//! `agentkeys expose`: how far an agent's key is shown.
use argh::{ArgsInfo, FromArgs};
use serde_json::json;

use super::agents::{about, agent_and_service, choose, label};
use super::context::Context;
use super::report::{CliError, shown, usage};
use super::{Checked, Finish};
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::problem::Problem;
use crate::core::terms::{Exposure, Terms, TermsChange};

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Shows how far an agent's key of a service is shown, or sets it. broker: it is \
                   used by the gateway alone (run --broker), and never leaves the backend. inject: \
                   run also puts it into a program's environment. reveal: it is also read as \
                   plaintext.",
    note = "It is in force for the next read, for master and agent alike, and ends no copy that \
            somebody has already. A key that is still to come has it from the start. A scope can \
            set a lower limit for all of an agent's keys: scope --expose.",
    note = "--default says it for all keys of all agents of which nothing else is said; it is reveal at \
            first.",
    note = "[agent] may be left out where there is just one.",
    example = "agentkeys expose my-agent openrouter",
    example = "agentkeys expose my-agent openrouter broker",
    example = "agentkeys expose --default broker"
)]
/// see above
pub struct ExposeArgs {
    /// for all keys of which nothing else is said
    #[argh(switch)]
    default: bool,
    /// agent, service, and broker, inject or reveal
    #[argh(positional, arg_name = "[agent] service [tier]")]
    words: Vec<String>,
}

/// Of what, and how far it is to be shown.
pub struct Expose {
    of: Of,
    tier: Option<Exposure>,
}

/// Of which keys.
enum Of {
    /// Of which nothing else is said.
    All,
    One(Option<AgentIdentity>, ServiceName),
}

impl TryFrom<ExposeArgs> for Expose {
    type Error = Problem;

    fn try_from(raw: ExposeArgs) -> Result<Self, Problem> {
        let mut words = raw.words;
        if raw.default {
            let tier = match words.as_slice() {
                [] => None,
                [tier] => Some(tier.parse()?),
                _ => {
                    return Err(usage(
                        "--default takes a tier and nothing else",
                        "it is for all keys of all agents",
                        "agentkeys expose --default broker",
                    ));
                }
            };
            return Ok(Self { of: Of::All, tier });
        }
        let last = words.last().and_then(|word| word.parse().ok());
        let tier = match (words.len(), last) {
            // `expose my-agent openrouter brokr`: the third word is a tier, or wrong.
            (3, None) => Some(words[2].parse()?),
            (2 | 3, tier) => tier,
            _ => None,
        };
        if tier.is_some() {
            words.pop();
        }
        let (agent, service) = agent_and_service("expose", &words)?;
        Ok(Self { of: Of::One(agent, service), tier })
    }
}

/// Says what a tier means.
pub fn in_words(tier: Exposure) -> &'static str {
    match tier {
        Exposure::Broker => "used by the gateway only (run --broker)",
        Exposure::Inject => "put into a program's environment by run, and not read as plaintext",
        Exposure::Reveal => "read as plaintext too",
    }
}

/// Shows the terms of a key.
///
/// # Errors
/// Standard output cannot be written.
pub fn show(
    context: &Context<'_>,
    name: &str,
    service: &ServiceName,
    terms: &Terms,
) -> Result<(), CliError> {
    let out = &context.out;
    let tier = terms.exposure();
    if out.json {
        let (expose, rules) = (tier, &terms.rules);
        return out.object(&json!({
            "agent": name, "service": service, "expose": expose, "rules": rules,
        }));
    }
    out.sentence(&shown(&format!("{service} of {name}: {tier}, {}", in_words(tier))))?;
    for rule in &terms.rules {
        out.line(&format!("  {}", shown(&rule.to_string())))?;
    }
    Ok(())
}

impl Checked for Expose {
    type Raw = ExposeArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let Self { of, tier } = self;
        let Of::One(agent, service) = of else {
            let open = context.open().await?;
            let tier = open.backend.default_exposure(open.token, tier).await?;
            if context.out.json {
                context.out.object(&json!({ "default": tier }))?;
            } else {
                let words = in_words(tier);
                context
                    .out
                    .sentence(&format!("keys of which nothing else is said: {tier}, {words}"))?;
            }
            return Ok(Finish::Done);
        };
        let agent = choose(context, agent).await?;
        let open = context.open().await?;
        let answer = open.backend.resolve_identity(open.token, &agent).await;
        let name = label(&about(context, &agent, answer).await?);
        let change = TermsChange { expose: tier, ..TermsChange::default() };
        let terms = open.backend.set_terms(open.token, &agent, &service, change).await?;
        show(context, &name, &service, &terms)?;
        Ok(Finish::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<(bool, String, Option<Exposure>), Problem> {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        Expose::try_from(ExposeArgs { default: false, words }).map(|it| match it.of {
            Of::One(agent, service) => (agent.is_some(), service.to_string(), it.tier),
            Of::All => panic!("it is of all"),
        })
    }

    #[test]
    fn a_tier_stands_last_and_may_be_left_out() {
        let broker = Some(Exposure::Broker);
        assert_eq!(read(&["a", "x", "broker"]).unwrap(), (true, "x".into(), broker));
        assert_eq!(read(&["x", "broker"]).unwrap(), (false, "x".into(), broker));
        assert_eq!(read(&["a", "x"]).unwrap(), (true, "x".into(), None));
        assert_eq!(read(&["x"]).unwrap(), (false, "x".into(), None));
        assert!(read(&["a", "x", "brokr"]).unwrap_err().cause.contains("broker, inject or reveal"));
        assert!(read(&[]).is_err() && read(&["a", "x", "broker", "y"]).is_err());
    }
}
