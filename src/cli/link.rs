//! `agentkeys link`: another human name for an agent, for recovery.
use argh::{ArgsInfo, FromArgs};

use super::agents::{about, choose, label, maybe_agent};
use super::context::Context;
use super::report::{CliError, usage};
use super::{Checked, Finish};
use crate::core::backend::AgentSummary;
use crate::core::identity::AgentIdentity;
use crate::core::problem::Problem;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Links a human name to an agent, by which it can be named and recovered. A name \
                   that another agent has must be unlinked first.",
    note = "E-mail and ENS names are labels: nothing verifies them yet. [agent] may be left out \
            where there is just one.",
    example = "agentkeys link my-agent --alias research-bot",
    example = "agentkeys link my-agent --email bot@example.com",
    example = "agentkeys link my-agent --ens bot.example.eth"
)]
/// see above
pub struct LinkArgs {
    /// an alias
    #[argh(option, arg_name = "name")]
    alias: Option<String>,
    /// an e-mail address
    #[argh(option, arg_name = "address")]
    email: Option<String>,
    /// an ENS name
    #[argh(option, arg_name = "name.eth")]
    ens: Option<String>,
    /// agent
    #[argh(positional, arg_name = "[agent]")]
    words: Vec<String>,
}

/// What is linked to whom.
pub struct Link {
    agent: Option<AgentIdentity>,
    identity: AgentIdentity,
}

impl TryFrom<LinkArgs> for Link {
    type Error = Problem;

    fn try_from(raw: LinkArgs) -> Result<Self, Problem> {
        let agent = maybe_agent("link", &raw.words)?;
        let identity = match (raw.alias, raw.email, raw.ens) {
            (Some(alias), None, None) => AgentIdentity::Alias(alias.parse()?),
            (None, Some(email), None) => AgentIdentity::Email(email.parse()?),
            (None, None, Some(ens)) => AgentIdentity::Ens(ens.parse()?),
            _ => {
                return Err(usage(
                    "link wants one name to link",
                    "it takes one of --alias, --email and --ens",
                    "agentkeys link my-agent --alias research-bot",
                ));
            }
        };
        Ok(Self { agent, identity })
    }
}

/// Shows an agent with all its names.
///
/// # Errors
/// Standard output cannot be written.
pub fn show(context: &Context<'_>, agent: &AgentSummary, done: &str) -> Result<(), CliError> {
    if context.out.json {
        return context.out.object(agent);
    }
    let names: Vec<String> = agent.identities.iter().map(|name| name.to_string()).collect();
    context.out.say(done);
    context.out.say(&format!("{} ({}) is {}", label(agent), agent.wallet, names.join(", ")));
    Ok(())
}

impl Checked for Link {
    type Raw = LinkArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let agent = choose(context, self.agent).await?;
        let open = context.open().await?;
        let answer = open.backend.link_identity(open.token, &agent, &self.identity).await;
        let now = about(context, &agent, answer).await?;
        show(context, &now, &format!("linked {}", self.identity))?;
        Ok(Finish::Done)
    }
}
