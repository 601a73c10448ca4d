//! Which daemon a command uses instead of a backend, if it is to use one: the option, the
//! environment, and, where nothing names a backend and this user keeps none, the daemon that runs.
//!
//! Must never take a daemon for another agent's, nor ask one for more than who it is.
use std::env;
use std::path::{Path, PathBuf};

use super::config::{Config, Names};
use super::files;
use super::holder::{HolderClient, Recorded, recorded};
use super::places::Places;
use super::private::Private;
use crate::core::identity::{AgentIdentity, Alias};
use crate::core::problem::{Answer, Code, Problem};

/// The variable that names a daemon's socket.
pub const SOCKET_VARIABLE: &str = "AGENTKEYS_SOCKET";
/// Largest record of a store that is looked for, in bytes.
const MAX_ROOT: usize = 16 * 1024;

/// What a command line and an environment say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Asked {
    /// The value of `--socket`.
    pub socket: Option<PathBuf>,
    /// The value of `--backend`.
    pub backend: Option<String>,
    /// The value of `AGENTKEYS_SOCKET`, unless it is empty.
    pub variable: Option<PathBuf>,
    /// The agent that is named.
    pub agent: Option<AgentIdentity>,
}

impl Asked {
    /// With what this process's environment says.
    pub fn here(
        socket: Option<PathBuf>,
        backend: Option<String>,
        agent: Option<AgentIdentity>,
    ) -> Self {
        let variable = env::var_os(SOCKET_VARIABLE).filter(|value| !value.is_empty());
        Self { socket, backend, variable: variable.map(PathBuf::from), agent }
    }
}

/// A daemon that a command is to use.
pub struct Beside {
    /// The way to it.
    pub client: HolderClient,
    /// What this machine calls its agent.
    pub name: Option<Alias>,
    /// What decided that it is used.
    pub chosen_by: &'static str,
    /// What configuration files say of agent, services and variables.
    pub names: Names,
}

/// The daemon that this command is to use; `None` when it is to use a backend.
///
/// # Errors
/// `INVALID` for settings that are not what they may be or contradict each other, or where more
/// than one daemon could be meant; `INTERNAL` and `DENIED` for places that are not this user's.
pub async fn find(asked: &Asked) -> Answer<Option<Beside>> {
    let places = Places::from_environment()?;
    let config = Config::load(&places, asked.backend.as_deref())?;
    find_in(&places, config, asked).await
}

/// The same for given places and settings.
///
/// # Errors
/// Those of [`find`].
pub async fn find_in(places: &Places, config: Config, asked: &Asked) -> Answer<Option<Beside>> {
    let named = match (&asked.socket, &asked.backend, &asked.variable) {
        (Some(_), Some(_), _) => {
            let mut problem = Problem::new(
                Code::Invalid,
                "a daemon and a backend were named",
                "--socket asks a daemon for the key, --backend asks the backend itself",
                "leave one of them out",
            );
            problem.docs = "docs/errors.md#usage".to_owned();
            return Err(problem);
        }
        (Some(path), None, _) => Some((path, "--socket")),
        (None, Some(_), _) => return Ok(None),
        (None, None, Some(path)) => Some((path, SOCKET_VARIABLE)),
        (None, None, None) => None,
    };
    if let Some((path, chosen_by)) = named {
        let path = std::path::absolute(path)
            .map_err(|_| Problem::invalid(chosen_by, "it is no path of a socket"))?;
        let name = name_at(places, &path)?;
        let client = HolderClient::new(path);
        return Ok(Some(Beside { client, name, chosen_by, names: config.names }));
    }
    if config.backend.is_some() || keeps_keys(places).await? {
        return Ok(None);
    }
    let found = running(places, asked.agent.as_ref().or(config.names.agent.as_ref())).await?;
    Ok(found.map(|Recorded { name, client }| Beside {
        client,
        name,
        chosen_by: "the daemon that runs",
        names: config.names,
    }))
}

/// Whether this user has a private backend, with or without keys in it yet.
async fn keeps_keys(places: &Places) -> Answer<bool> {
    if files::read(&places.data().join("root.json"), MAX_ROOT)?.is_some() {
        return Ok(true);
    }
    // One whose data was moved away still answers.
    Ok(Private::of_this_user(places.clone())?.find().await?.is_some())
}

/// What this machine calls the agent whose daemon listens at `socket`.
fn name_at(places: &Places, socket: &Path) -> Answer<Option<Alias>> {
    let found = recorded(places)?.into_iter().find(|one| one.client.socket() == socket);
    Ok(found.and_then(|one| one.name))
}

/// The daemon that runs: the wanted agent's, else the one without a name, else the only one.
async fn running(places: &Places, wanted: Option<&AgentIdentity>) -> Answer<Option<Recorded>> {
    let mut there = Vec::new();
    for one in recorded(places)? {
        if one.client.is_there().await? {
            there.push(one);
        }
    }
    let named = |one: &Recorded| match (wanted, &one.name) {
        (Some(AgentIdentity::Alias(wanted)), Some(name)) => wanted == name,
        _ => false,
    };
    // A wallet address is the backend's word: the daemons have to be asked who they are.
    let mut by_wallet = None;
    if let Some(AgentIdentity::Wallet(wallet)) = wanted {
        for (at, one) in there.iter().enumerate() {
            use crate::core::holder::SessionHolder as _;
            let standing = one.client.standing().await;
            if standing.is_ok_and(|standing| standing.agent.as_ref() == Some(wallet)) {
                by_wallet = Some(at);
            }
        }
    }
    let at = by_wallet
        .or_else(|| there.iter().position(named))
        .or_else(|| there.iter().position(|one| one.name.is_none()));
    match (at, there.len()) {
        (Some(at), _) => Ok(Some(there.swap_remove(at))),
        (None, 0) => Ok(None),
        (None, 1) => Ok(there.pop()),
        (None, many) => {
            let names: Vec<String> =
                there.iter().filter_map(|one| Some(one.name.as_ref()?.to_string())).collect();
            let mut problem = Problem::new(
                Code::Invalid,
                "which agent is meant?",
                format!("{many} daemons run here: {}", names.join(", ")),
                "name one of them",
            );
            problem.docs = "docs/errors.md#usage".to_owned();
            Err(problem)
        }
    }
}
/// What else there is to do where the backend gives nothing, and a daemon runs beside: a line for
/// a problem's fix. That nobody knows of one is no problem.
pub fn hint() -> Option<String> {
    let places = Places::from_environment().ok()?;
    let there =
        |one: &Recorded| std::os::unix::net::UnixStream::connect(one.client.socket()).is_ok();
    let daemon = recorded(&places).ok()?.into_iter().find(there)?;
    let socket = daemon.client.socket().display();
    Some(format!("the daemon that runs here answers read, list and run: --socket {socket}"))
}
