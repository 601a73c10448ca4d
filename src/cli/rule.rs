//! `agentkeys rule`: which requests the gateway sends with an agent's key.
use std::collections::BTreeSet;

use argh::{ArgsInfo, FromArgs};

use super::agents::{about, agent_and_service, choose, label};
use super::context::Context;
use super::expose::show;
use super::report::{CliError, usage};
use super::{Checked, Finish};
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::problem::{Code, Problem};
use crate::core::rule::{Effect, Rule};
use crate::core::terms::TermsChange;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Shows or sets which requests the gateway sends with an agent's key. A rule is a \
                   method and a path: 'POST /v1/charges*'. * stands for anything within one part of \
                   the path, and at its end for any rest; in the method's place, for every method.",
    note = "What denies wins. Where a rule allows something, all that no rule allows is refused. \
            Requests that make or show keys are refused unless a rule allows them. Rules bind the \
            gateway: expose the key no further than broker, or the agent can go without it.",
    note = "A request that --ask names waits until you have approved it: agentkeys watch asks you as they \
            come, agentkeys pending lists them.",
    note = "A rule holds from the next request on, and ends answers under way that it would refuse.",
    example = "agentkeys rule my-agent openai",
    example = "agentkeys rule my-agent openai --allow 'POST /v1/chat/completions'",
    example = "agentkeys rule my-agent github --deny 'DELETE /*'",
    example = "agentkeys rule my-agent stripe --ask 'POST /v1/charges*'",
    example = "agentkeys rule my-agent github --remove 'deny DELETE /*'",
    example = "agentkeys rule my-agent openai --clear"
)]
/// see above
pub struct RuleArgs {
    /// send these requests, and no others that are not allowed; may be given again
    #[argh(option, arg_name = "rule")]
    allow: Vec<String>,
    /// refuse these requests; may be given again
    #[argh(option, arg_name = "rule")]
    deny: Vec<String>,
    /// have these requests wait for your approval; may be given again
    #[argh(option, arg_name = "rule")]
    ask: Vec<String>,
    /// take a rule out, as it is shown; may be given again
    #[argh(option, arg_name = "rule")]
    remove: Vec<String>,
    /// take all rules out first
    #[argh(switch)]
    clear: bool,
    /// agent and service
    #[argh(positional, arg_name = "[agent] service")]
    words: Vec<String>,
}

/// Which rules are added and taken out.
pub struct SetRules {
    agent: Option<AgentIdentity>,
    service: ServiceName,
    added: Vec<Rule>,
    removed: Vec<Rule>,
    clear: bool,
}

impl TryFrom<RuleArgs> for SetRules {
    type Error = Problem;

    fn try_from(raw: RuleArgs) -> Result<Self, Problem> {
        let (agent, service) = agent_and_service("rule", &raw.words)?;
        let rules = |effect, texts: &[String]| {
            texts.iter().map(|text| Rule::new(effect, text)).collect::<Result<Vec<_>, _>>()
        };
        let mut added = rules(Effect::Allow, &raw.allow)?;
        added.extend(rules(Effect::Ask, &raw.ask)?);
        added.extend(rules(Effect::Deny, &raw.deny)?);
        let removed = raw.remove.iter().map(|text| text.parse::<Rule>());
        let removed = removed.collect::<Result<Vec<_>, _>>()?;
        if raw.clear && !removed.is_empty() {
            return Err(usage(
                "--clear and --remove exclude each other",
                "--clear takes all rules out",
                "leave one of them out",
            ));
        }
        Ok(Self { agent, service, added, removed, clear: raw.clear })
    }
}

impl Checked for SetRules {
    type Raw = RuleArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let agent = choose(context, self.agent).await?;
        let open = context.open().await?;
        let answer = open.backend.resolve_identity(open.token, &agent).await;
        let name = label(&about(context, &agent, answer).await?);
        let service = &self.service;
        let now =
            open.backend.set_terms(open.token, &agent, service, TermsChange::default()).await?;
        let mut rules = if self.clear { BTreeSet::new() } else { now.rules.clone() };
        for rule in &self.removed {
            if !rules.remove(rule) {
                return Err(Problem::new(
                    Code::NotFound,
                    format!("there is no rule \"{rule}\""),
                    "--remove wants a rule as it is shown",
                    format!("agentkeys rule {name} {service} shows them"),
                )
                .into());
            }
        }
        rules.extend(self.added);
        let terms = if rules == now.rules {
            now
        } else {
            let change = TermsChange { rules: Some(rules), ..TermsChange::default() };
            open.backend.set_terms(open.token, &agent, service, change).await?
        };
        show(context, &name, service, &terms)?;
        if terms.rules.is_empty() && !context.out.json {
            context.out.say("no rule: every request is sent that makes or shows no keys");
        }
        Ok(Finish::Done)
    }
}
