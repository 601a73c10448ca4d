//! Where `read`, `run` and `list` get an agent's keys from: a backend, by this user's master
//! session, or a daemon beside, which has the agent's own. The one place that tells them apart.
use std::path::PathBuf;

use super::agents::{about, about_service, choose};
use super::context::{Context, Open};
use super::report::CliError;
use super::session::{Daemon, Defaults, WantedDaemon};
use crate::core::backend::{CredentialSummary, Release};
use crate::core::holder::{Held, Refusal};
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::problem::{Code, Problem};
use crate::core::secret::SecretBytes;
use crate::core::types::WalletAddress;

/// Whose keys, and from whom.
pub enum Source<'a> {
    /// A backend.
    Backend {
        /// With its master session.
        open: Open<'a>,
        /// The agent.
        agent: AgentIdentity,
    },
    /// A daemon.
    Daemon {
        /// It.
        daemon: Daemon,
        /// Its agent as it was named, which it was checked to be.
        named: Option<AgentIdentity>,
    },
}

/// The daemon that this command is to ask instead of a backend, if it is to ask one.
///
/// # Errors
/// Settings contradict each other, or do not say which daemon is meant.
pub async fn daemon(
    context: &Context<'_>,
    socket: Option<PathBuf>,
    agent: Option<&AgentIdentity>,
) -> Result<Option<Daemon>, CliError> {
    let backend = context.global.backend.clone();
    let wanted = WantedDaemon { socket, backend, agent: agent.cloned() };
    let found = context.machine.daemon(&wanted).await?;
    if let Some(daemon) = &found {
        context.verbose(&format!("daemon {}, by {}", daemon.place, daemon.chosen_by));
    }
    Ok(found)
}

impl<'a> Source<'a> {
    /// The source that the options, the environment and this machine name.
    ///
    /// # Errors
    /// Those of reaching a backend or a daemon, and where the daemon is not `agent`'s.
    pub async fn open(
        context: &'a Context<'_>,
        socket: Option<PathBuf>,
        agent: Option<AgentIdentity>,
    ) -> Result<Self, CliError> {
        match daemon(context, socket, agent.as_ref()).await? {
            Some(daemon) => Self::daemon(daemon, agent).await,
            None => Self::backend(context, agent).await,
        }
    }

    /// That backend, and the agent that is named or meant.
    ///
    /// # Errors
    /// Those of reaching it, and where it is not clear which agent is meant.
    pub async fn backend(
        context: &'a Context<'_>,
        agent: Option<AgentIdentity>,
    ) -> Result<Self, CliError> {
        let agent = choose(context, agent).await?;
        Ok(Self::Backend { open: context.open().await?, agent })
    }

    /// That daemon, if it is `agent`'s.
    ///
    /// # Errors
    /// `AGENT_NOT_FOUND` when it is another's.
    pub async fn daemon(daemon: Daemon, agent: Option<AgentIdentity>) -> Result<Self, CliError> {
        if let Some(agent) = &agent {
            check(&daemon, agent).await?;
        }
        Ok(Self::Daemon { daemon, named: agent })
    }

    /// The agent, as it was named, else by its wallet address.
    ///
    /// # Errors
    /// A daemon that has gone, or is nobody's yet.
    pub async fn agent(&self) -> Result<AgentIdentity, CliError> {
        match self {
            Self::Backend { agent, .. } | Self::Daemon { named: Some(agent), .. } => {
                Ok(agent.clone())
            }
            Self::Daemon { daemon, named: None } => match wallet(daemon).await? {
                Some(wallet) => Ok(AgentIdentity::Wallet(wallet)),
                None => Err(unpaired().into()),
            },
        }
    }

    /// What configuration says of services and variables.
    ///
    /// # Errors
    /// Those of reaching a backend.
    pub async fn defaults(&self, context: &Context<'_>) -> Result<Defaults, CliError> {
        match self {
            Self::Backend { .. } => Ok(context.link().await?.defaults()),
            Self::Daemon { daemon, .. } => Ok(daemon.defaults.clone()),
        }
    }

    /// One key.
    ///
    /// # Errors
    /// It is not there, or not for this agent; a person has to approve first.
    pub async fn read(
        &self,
        context: &Context<'_>,
        service: &ServiceName,
    ) -> Result<SecretBytes, CliError> {
        match self {
            Self::Backend { open, agent } => {
                let answer = open.backend.read_credential(open.token, agent, service).await;
                Ok(about_service(context, agent, service, answer).await?)
            }
            Self::Daemon { daemon, .. } => held(daemon.holder.read(service).await),
        }
    }

    /// One key for a program's environment: the agent's, or that of another which is named.
    ///
    /// # Errors
    /// Those of [`Self::read`]; a daemon has one agent's keys only.
    pub async fn inject(
        &self,
        context: &Context<'_>,
        other: Option<&AgentIdentity>,
        service: &ServiceName,
    ) -> Result<SecretBytes, CliError> {
        match self {
            Self::Backend { open, agent } => {
                let agent = other.unwrap_or(agent);
                let answer = open.backend.inject_credential(open.token, agent, service).await;
                Ok(about_service(context, agent, service, answer).await?)
            }
            Self::Daemon { daemon, .. } => {
                if let Some(other) = other {
                    check(daemon, other).await?;
                }
                held(daemon.holder.inject(service).await)
            }
        }
    }

    /// All the agent's keys.
    ///
    /// # Errors
    /// Those of [`Self::read`].
    pub async fn read_all(&self, context: &Context<'_>) -> Result<Vec<Release>, CliError> {
        match self {
            Self::Backend { open, agent } => {
                let answer = open.backend.read_all(open.token, agent).await;
                Ok(about(context, agent, answer).await?)
            }
            Self::Daemon { daemon, .. } => held(daemon.holder.read_all().await),
        }
    }

    /// Which keys there are, and whose.
    ///
    /// # Errors
    /// Those of [`Self::read`].
    pub async fn list(
        &self,
        context: &Context<'_>,
    ) -> Result<(AgentIdentity, Vec<CredentialSummary>), CliError> {
        match self {
            Self::Backend { open, agent } => {
                let answer = open.backend.list_credentials(open.token, agent).await;
                Ok((agent.clone(), about(context, agent, answer).await?))
            }
            Self::Daemon { daemon, named } => {
                let listing = held(daemon.holder.list().await)?;
                let agent = named.clone().unwrap_or(AgentIdentity::Wallet(listing.agent));
                Ok((agent, listing.credentials))
            }
        }
    }
}

fn held<T>(held: Held<T>) -> Result<T, CliError> {
    held.map_err(|refusal| match refusal {
        Refusal::Waiting(waiting) => CliError::waiting(waiting),
        Refusal::Problem(problem) => problem.into(),
    })
}

async fn wallet(daemon: &Daemon) -> Result<Option<WalletAddress>, CliError> {
    Ok(held(daemon.holder.standing().await)?.agent)
}

fn unpaired() -> Problem {
    let fix = "run the command without the agent's name: it shows the code to approve";
    Problem::new(Code::Unauthorized, "the daemon is nobody's yet", "it was not paired", fix)
}

/// Whether the daemon is that agent's. It knows its wallet address only; names are the master's,
/// but for the one that this machine gave it.
async fn check(daemon: &Daemon, agent: &AgentIdentity) -> Result<(), CliError> {
    if let (AgentIdentity::Alias(alias), Some(name)) = (agent, &daemon.name)
        && alias == name
    {
        return Ok(());
    }
    let wallet = wallet(daemon).await?;
    if let AgentIdentity::Wallet(wanted) = agent
        && wallet == Some(*wanted)
    {
        return Ok(());
    }
    let whose = match (&daemon.name, wallet) {
        (Some(name), Some(wallet)) => format!("\"{name}\", {wallet}"),
        (Some(name), None) => format!("\"{name}\", which was not paired yet"),
        (None, Some(wallet)) => format!("{wallet}, which has no name on this machine"),
        (None, None) => "one that was not paired yet".to_owned(),
    };
    Err(Problem::new(
        Code::AgentNotFound,
        format!("the daemon here is not agent \"{agent}\"'s"),
        format!("a daemon holds the session of one agent, and this one is {whose}"),
        "leave the agent out to use the daemon's\n\
         or ask the backend: --backend ADDRESS; or another daemon: --socket PATH",
    )
    .into())
}
