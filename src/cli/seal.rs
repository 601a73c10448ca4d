//! `agentkeys seal`: seals a key to the backend and prints it, for those who store it with curl.
use argh::{ArgsInfo, FromArgs};
use serde_json::json;

use super::agents::{agent_and_service, label};
use super::context::Context;
use super::report::CliError;
use super::secret_input::Source;
use super::store::read_and_seal;
use super::{Checked, Finish};
use crate::core::encoding::to_base64;
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::problem::Problem;
use crate::core::seal::SUITE;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Seals a key from standard input to the backend's shielding key and prints it \
                   as base64, for POST /credential/store. It opens for this account, agent and \
                   service alone. An agent that does not exist is made.",
    note = "[agent] may be left out where there is just one.",
    example = "pass show openrouter | agentkeys seal my-agent openrouter",
    example = "agentkeys seal my-agent github --from-env GITHUB_TOKEN"
)]
/// see above
pub struct SealArgs {
    /// read the key from a file
    #[argh(option, arg_name = "file")]
    from_file: Option<String>,
    /// read the key from an environment variable
    #[argh(option, arg_name = "name")]
    from_env: Option<String>,
    /// agent and service
    #[argh(positional, arg_name = "[agent] service")]
    words: Vec<String>,
}

/// What is sealed for whom.
pub struct Seal {
    agent: Option<AgentIdentity>,
    service: ServiceName,
    source: Source,
}

impl TryFrom<SealArgs> for Seal {
    type Error = Problem;

    fn try_from(mut raw: SealArgs) -> Result<Self, Problem> {
        // Standard input is what it reads; a dash that says so is welcome.
        if raw.words.len() > 1 && raw.words.last().is_some_and(|word| word == "-") {
            raw.words.pop();
        }
        let (agent, service) = agent_and_service("seal", &raw.words)?;
        let source = match Source::chosen(raw.from_file, raw.from_env, None)? {
            Source::Prompt if !std::io::IsTerminal::is_terminal(&std::io::stdin()) => Source::Stdin,
            source => source,
        };
        Ok(Self { agent, service, source })
    }
}

impl Checked for Seal {
    type Raw = SealArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let sealed = read_and_seal(context, self.agent, &self.service, self.source).await?;
        let ciphertext = to_base64(&sealed.bytes);
        if context.out.json {
            context.out.object(&json!({
                "agent": label(&sealed.agent),
                "wallet": sealed.agent.wallet,
                "agent_created": sealed.made,
                "service": self.service,
                "suite": SUITE,
                "ciphertext": ciphertext,
            }))?;
        } else {
            if sealed.made {
                let name = label(&sealed.agent);
                context.out.say(&format!("made agent {name} ({})", sealed.agent.wallet));
            }
            context.out.line(&ciphertext)?;
        }
        Ok(Finish::Done)
    }
}
