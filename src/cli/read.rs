//! `agentkeys read`: the value, and nothing but the value, on standard output.
use std::path::PathBuf;

use argh::{ArgsInfo, FromArgs};
use serde::Serialize;
use zeroize::Zeroizing;

use super::agents::agent_and_service;
use super::context::Context;
use super::report::CliError;
use super::source::Source;
use super::{Checked, Finish};
use crate::core::encoding::to_base64;
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::problem::{Code, Problem};

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Prints an agent's key for a service. The read is on record before the key \
                   comes out. Where standard output is no terminal, no line end follows.",
    note = "[agent] may be left out where there is just one. With --json, a key that is no text \
            is credential_base64 instead of credential.",
    note = "Beside a daemon the key comes from it, by the agent's own session: the one at \
            --socket, else at AGENTKEYS_SOCKET, else, where no --backend, AGENTKEYS_BACKEND or \
            config file names a backend and this user keeps no keys of their own, the one that \
            runs. It serves one agent; [agent], if it is there, is its wallet address or the \
            name that its daemon was started with. Exits with 8 while it waits for an approval.",
    example = "agentkeys read my-agent openrouter",
    example = "agentkeys read openrouter > key.txt",
    example = "agentkeys read agentkeys://my-agent/openrouter --json"
)]
/// see above
pub struct ReadArgs {
    /// ask the daemon that listens there
    #[argh(option, arg_name = "path")]
    socket: Option<String>,
    /// agent and service
    #[argh(positional, arg_name = "[agent] service")]
    words: Vec<String>,
}

/// What is read.
pub struct Read {
    socket: Option<PathBuf>,
    agent: Option<AgentIdentity>,
    service: ServiceName,
}

impl TryFrom<ReadArgs> for Read {
    type Error = Problem;

    fn try_from(raw: ReadArgs) -> Result<Self, Problem> {
        let (agent, service) = agent_and_service("read", &raw.words)?;
        Ok(Self { socket: raw.socket.map(PathBuf::from), agent, service })
    }
}

#[derive(Serialize)]
struct Value<'a> {
    agent: String,
    service: &'a ServiceName,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential_base64: Option<&'a str>,
}

impl Checked for Read {
    type Raw = ReadArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let Self { socket, agent: named, service } = self;
        let alone = named.is_none();
        let source = Source::open(context, socket, named).await?;
        let key = match (source.read(context, &service).await, &source) {
            (Err(CliError::Problem(problem)), Source::Backend { .. }) if alone => {
                return Err(perhaps_an_agent(context, &service, problem).await);
            }
            (answer, _) => answer?,
        };
        // The plaintext comes out here because that is what was asked for.
        let bytes = key.expose();
        if context.out.json {
            let text = std::str::from_utf8(bytes).ok();
            let encoded = text.is_none().then(|| Zeroizing::new(to_base64(bytes)));
            context.out.object(&Value {
                agent: source.agent().await?.to_string(),
                service: &service,
                credential: text,
                credential_base64: encoded.as_ref().map(|text| text.as_str()),
            })?;
        } else {
            context.out.raw(bytes)?;
            if context.out.terminal {
                context.out.raw(b"\n")?;
            }
        }
        Ok(Finish::Done)
    }
}

/// With one word, which is the service: says so where it is an agent's name.
async fn perhaps_an_agent(
    context: &Context<'_>,
    service: &ServiceName,
    mut problem: Problem,
) -> CliError {
    if problem.code != Code::NotFound {
        return problem.into();
    }
    let Ok(open) = context.open().await else { return problem.into() };
    let agents = open.backend.list_agents(open.token).await.unwrap_or_default();
    let named = |name: &Option<String>| {
        name.as_ref().is_some_and(|name| name.eq_ignore_ascii_case(service.as_str()))
    };
    if agents.iter().any(|agent| named(&agent.name)) {
        problem.fix = format!(
            "\"{service}\" is an agent; name the service too: \
             agentkeys read {service} openrouter\n{}",
            problem.fix
        );
    }
    problem.into()
}
