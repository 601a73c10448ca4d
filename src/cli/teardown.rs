//! `agentkeys teardown`: ends an agent's access and deletes it with its credentials.
use argh::{ArgsInfo, FromArgs};
use serde_json::json;

use super::agents::{about, count, label};
use super::ask;
use super::context::Context;
use super::report::{CliError, usage};
use super::{Checked, Finish};
use crate::core::identity::AgentIdentity;
use crate::core::problem::Problem;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Ends an agent's access and deletes the agent with all its credentials. This \
                   cannot be undone; the record of what it did stays. At a terminal the agent's \
                   name must be typed first; where there is none, nothing is asked.",
    note = "Keys that services made for it by their own interface are ended there too; \
            provisioner list shows what is still to be ended.",
    example = "agentkeys teardown my-agent",
    example = "agentkeys teardown my-agent --yes"
)]
/// see above
pub struct TeardownArgs {
    /// do not ask
    #[argh(switch)]
    yes: bool,
    /// agent
    #[argh(positional, arg_name = "agent")]
    words: Vec<String>,
}

/// Who is deleted.
pub struct Teardown {
    agent: AgentIdentity,
    ask: bool,
}

impl TryFrom<TeardownArgs> for Teardown {
    type Error = Problem;

    fn try_from(raw: TeardownArgs) -> Result<Self, Problem> {
        match raw.words.as_slice() {
            [agent] => Ok(Self { agent: agent.parse()?, ask: !raw.yes }),
            // What cannot be undone is never done to the agent that happens to be the only one.
            words => Err(usage(
                "teardown wants the agent's name",
                format!("it was given {}", count(words.len())),
                "agentkeys teardown my-agent",
            )),
        }
    }
}

impl Checked for Teardown {
    type Raw = TeardownArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let Self { agent, ask: asks } = self;
        let open = context.open().await?;
        if asks && ask::is_terminal() {
            let answer = open.backend.resolve_identity(open.token, &agent).await;
            let found = about(context, &agent, answer).await?;
            let name = label(&found);
            let kept = open.backend.list_credentials(open.token, &agent).await?;
            let services: Vec<&str> = kept.iter().map(|kept| kept.service.as_str()).collect();
            context.out.say(&format!("This deletes agent {name} ({})", found.wallet));
            if !services.is_empty() {
                context.out.say(&format!("and its credentials: {}", services.join(", ")));
            }
            ask::for_word(&format!("Type its name to go on: {name}"), &name)?;
        }
        let answer = open.backend.teardown_agent(open.token, &agent).await;
        about(context, &agent, answer).await?;
        if context.out.json {
            context.out.object(&json!({ "torn_down": agent }))?;
        } else {
            context.out.say(&format!("{agent} and its credentials are gone"));
        }
        Ok(Finish::Done)
    }
}
