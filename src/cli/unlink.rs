//! `agentkeys unlink`: takes a human name from its agent.
use argh::{ArgsInfo, FromArgs};

use super::agents::{about, count};
use super::context::Context;
use super::link::show;
use super::report::{CliError, usage};
use super::{Checked, Finish};
use crate::core::identity::AgentIdentity;
use crate::core::problem::Problem;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Takes a human name from the agent that it is linked to. The agent, its wallet \
                   address and its credentials stay.",
    example = "agentkeys unlink research-bot",
    example = "agentkeys unlink bot@example.com"
)]
/// see above
pub struct UnlinkArgs {
    /// the name
    #[argh(positional, arg_name = "identity")]
    words: Vec<String>,
}

/// What is unlinked.
pub struct Unlink(AgentIdentity);

impl TryFrom<UnlinkArgs> for Unlink {
    type Error = Problem;

    fn try_from(raw: UnlinkArgs) -> Result<Self, Problem> {
        match raw.words.as_slice() {
            [identity] => Ok(Self(identity.parse()?)),
            words => Err(usage(
                "unlink wants one name",
                format!("it was given {}", count(words.len())),
                "agentkeys unlink research-bot",
            )),
        }
    }
}

impl Checked for Unlink {
    type Raw = UnlinkArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let open = context.open().await?;
        let answer = open.backend.unlink_identity(open.token, &self.0).await;
        let agent = about(context, &self.0, answer).await?;
        show(context, &agent, &format!("unlinked {}", self.0))?;
        Ok(Finish::Done)
    }
}
