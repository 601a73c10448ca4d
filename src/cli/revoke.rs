//! `agentkeys revoke`: ends an agent's access, or one session, at once.
use argh::{ArgsInfo, FromArgs};
use serde_json::json;

use super::agents::{about, choose, maybe_agent};
use super::context::Context;
use super::report::{CliError, usage};
use super::{Checked, Finish};
use crate::core::backend::RevokeTarget;
use crate::core::identity::AgentIdentity;
use crate::core::problem::Problem;
use crate::core::types::SessionId;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Ends an agent's access at once. When this returns, no read in its name is \
                   answered any more, by anybody. Its credentials are kept: reinstate gives \
                   access back, teardown deletes.",
    note = "Keys that services made for it by their own interface are ended there too, and it has \
            none of them after a reinstate; provisioner list shows what is still to be ended.",
    note = "[agent] may be left out where there is just one.",
    example = "agentkeys revoke my-agent",
    example = "agentkeys revoke --session 0123456789abcdef0123456789abcdef"
)]
/// see above
pub struct RevokeArgs {
    /// end one session instead, by its id
    #[argh(option, arg_name = "id")]
    session: Option<String>,
    /// agent
    #[argh(positional, arg_name = "[agent]")]
    words: Vec<String>,
}

/// What is ended.
pub enum Revoke {
    /// An agent's access.
    Agent(Option<AgentIdentity>),
    /// One session.
    Session(SessionId),
}

impl TryFrom<RevokeArgs> for Revoke {
    type Error = Problem;

    fn try_from(raw: RevokeArgs) -> Result<Self, Problem> {
        match raw.session {
            None => maybe_agent("revoke", &raw.words).map(Self::Agent),
            Some(_) if !raw.words.is_empty() => Err(usage(
                "revoke wants an agent or a session",
                "it was given both",
                "leave one of them out",
            )),
            Some(id) => Ok(Self::Session(id.parse()?)),
        }
    }
}

impl Checked for Revoke {
    type Raw = RevokeArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let agent = match self {
            Self::Agent(named) => choose(context, named).await?,
            Self::Session(id) => {
                let open = context.open().await?;
                open.backend.revoke_session(open.token, RevokeTarget::Session(id)).await?;
                if context.out.json {
                    context.out.object(&json!({ "revoked_session": id }))?;
                } else {
                    context.out.say(&format!("session {id} has ended"));
                }
                return Ok(Finish::Done);
            }
        };
        let open = context.open().await?;
        let target = RevokeTarget::Agent(agent.clone());
        let answer = open.backend.revoke_session(open.token, target).await;
        about(context, &agent, answer).await?;
        if context.out.json {
            context.out.object(&json!({ "revoked": agent }))?;
        } else {
            context.out.say(&format!("revoked {agent}: from now on every read is denied"));
            context.out.say(&format!("to give access back: agentkeys reinstate {agent}"));
        }
        Ok(Finish::Done)
    }
}
