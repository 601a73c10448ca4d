//! `agentkeys reinstate`: gives a revoked agent its right back; never a session or a key.
use argh::{ArgsInfo, FromArgs};
use serde_json::json;

use super::agents::{about, choose, maybe_agent};
use super::context::Context;
use super::report::CliError;
use super::{Checked, Finish};
use crate::core::identity::AgentIdentity;
use crate::core::problem::Problem;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Gives a revoked agent its access back. Sessions and keys that ended stay \
                   ended: a daemon pairs again.",
    note = "[agent] may be left out where there is just one.",
    example = "agentkeys reinstate my-agent"
)]
/// see above
pub struct ReinstateArgs {
    /// agent
    #[argh(positional, arg_name = "[agent]")]
    words: Vec<String>,
}

/// Who gets access back.
pub struct Reinstate(Option<AgentIdentity>);

impl TryFrom<ReinstateArgs> for Reinstate {
    type Error = Problem;

    fn try_from(raw: ReinstateArgs) -> Result<Self, Problem> {
        maybe_agent("reinstate", &raw.words).map(Self)
    }
}

impl Checked for Reinstate {
    type Raw = ReinstateArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let agent = choose(context, self.0).await?;
        let open = context.open().await?;
        let answer = open.backend.reinstate_agent(open.token, &agent).await;
        about(context, &agent, answer).await?;
        if context.out.json {
            context.out.object(&json!({ "reinstated": agent }))?;
        } else {
            context.out.say(&format!("{agent} has access again"));
            context.out.say("a daemon of it that was running pairs again: agentkeys approve CODE");
        }
        Ok(Finish::Done)
    }
}
