//! `agentkeys delete`: deletes one key of an agent, with its earlier versions.
use argh::{ArgsInfo, FromArgs};
use serde_json::json;

use super::agents::{about, about_service, agent_and_service, choose};
use super::ask;
use super::context::Context;
use super::report::{CliError, usage};
use super::{Checked, Finish};
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::problem::Problem;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Deletes an agent's key of one service, with its earlier versions. This cannot \
                   be undone; the record of what was done with it stays. At a terminal it asks \
                   first; elsewhere it wants --yes.",
    note = "How far it was shown and its rules stay, for a key that is stored later. A key that a service made by its own interface is ended there too. [agent] may be left \
            out where there is just one; teardown deletes the agent with all its keys.",
    example = "agentkeys delete my-agent openrouter",
    example = "agentkeys delete my-agent openrouter --yes"
)]
/// see above
pub struct DeleteArgs {
    /// do not ask
    #[argh(switch)]
    yes: bool,
    /// agent and service
    #[argh(positional, arg_name = "[agent] service")]
    words: Vec<String>,
}

/// Which key is deleted.
pub struct Delete {
    agent: Option<AgentIdentity>,
    service: ServiceName,
    ask: bool,
}

impl TryFrom<DeleteArgs> for Delete {
    type Error = Problem;

    fn try_from(raw: DeleteArgs) -> Result<Self, Problem> {
        let (agent, service) = agent_and_service("delete", &raw.words)?;
        Ok(Self { agent, service, ask: !raw.yes })
    }
}

impl Checked for Delete {
    type Raw = DeleteArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let Self { agent, service, ask: asks } = self;
        if asks && !ask::is_terminal() {
            return Err(usage(
                "there is no terminal to ask on",
                "a key that is deleted does not come back",
                "add --yes",
            )
            .into());
        }
        let agent = choose(context, agent).await?;
        let open = context.open().await?;
        let answer = open.backend.resolve_identity(open.token, &agent).await;
        let name = super::agents::label(&about(context, &agent, answer).await?);
        if asks {
            let kept = open.backend.list_credentials(open.token, &agent).await?;
            let found = kept.iter().find(|one| one.service == service);
            if let Some(found) = found {
                let earlier = match found.kept {
                    0 => String::new(),
                    1 => ", and its earlier version".to_owned(),
                    many => format!(", and its {many} earlier versions"),
                };
                let question = format!("Delete the {service} key of {name}{earlier}?");
                ask::for_yes(&question)?;
            }
        }
        let answer = open.backend.delete_credential(open.token, &agent, &service).await;
        if let Err(mut problem) = about_service(context, &agent, &service, answer).await {
            // To store one is no way to be rid of it.
            let store = format!("agentkeys store {name} {service}");
            problem.fix =
                problem.fix.replace(&store, &format!("agentkeys list {name} shows what it has"));
            return Err(problem.into());
        }
        if context.out.json {
            context.out.object(&json!({ "agent": name, "deleted": service }))?;
        } else {
            context.out.say(&format!("{name} has no {service} key any more"));
        }
        Ok(Finish::Done)
    }
}
