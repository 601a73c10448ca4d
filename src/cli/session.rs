//! What a command needs from the outside world, as traits: a connection to a backend, and the
//! machine that it runs on. `role.rs` supplies both, so that the commands know a backend only as
//! an [`AccountBackend`], and tests can give them one in process.
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;

use crate::client::heads::SeenHead;
use crate::client::http::HttpBackend;
use crate::core::audit::Head;
use crate::core::backend::{AccountBackend, IdentityProof};
use crate::core::holder::SessionHolder;
use crate::core::identity::{AgentIdentity, Alias, ServiceName};
use crate::core::presence::Reset;
use crate::core::problem::Answer;
use crate::core::sign_in::{Flow, SignInNews, Tell};
use crate::core::token::SessionToken;
use crate::core::types::AccountId;

/// Where the master session is kept between two commands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SessionPlace {
    /// In the desktop's keyring.
    Keyring,
    /// In a file of mode 0600, where there is no keyring.
    File(PathBuf),
}

/// How it stands with one thing that `doctor` looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// As it should be.
    Good,
    /// It works, and less safely than it could.
    Warning,
    /// It does not work.
    Broken,
}

/// One line of `doctor`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Fact {
    /// What was looked at, in a word or two.
    pub name: String,
    /// How it stands.
    pub health: Health,
    /// What was found.
    pub found: String,
    /// What to do about it; absent where there is nothing to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Fact {
    /// Something that is as it should be.
    pub fn good(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self { name: name.into(), health: Health::Good, found: found.into(), fix: None }
    }

    /// Something that could be safer.
    pub fn warning(
        name: impl Into<String>,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        let fix = Some(fix.into());
        Self { name: name.into(), health: Health::Warning, found: found.into(), fix }
    }

    /// Something that does not work.
    pub fn broken(
        name: impl Into<String>,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        let fix = Some(fix.into());
        Self { name: name.into(), health: Health::Broken, found: found.into(), fix }
    }
}

/// A connection to the backend that this command talks to.
#[async_trait(?Send)]
pub trait Link {
    /// The backend.
    fn backend(&self) -> &dyn AccountBackend;

    /// The backend, for what goes through its gateway, as long as a run lasts.
    fn gateway(&self) -> Arc<HttpBackend>;

    /// Its address: `https://...`, `unix:/...` or `http://127.0.0.1:1234`.
    fn address(&self) -> String;

    /// What chose it: `--backend`, `AGENTKEYS_BACKEND`, `the config file` or `the default`.
    fn chosen_by(&self) -> &'static str;

    /// The stored master session. A private backend's is made anew by the peer's uid when there
    /// is none or it has ended.
    async fn session(&self) -> Answer<SessionToken>;

    /// Proves an identity, and stores the master session that it gives.
    async fn sign_in(&self, proof: IdentityProof) -> Answer<()>;

    /// Signs in by the issuer that the backend names, with the person's help, and stores the
    /// master session that it gives. What the person has to do is told, a line at a time.
    async fn sign_in_by_issuer(&self, flow: Flow, tell: Tell<'_>) -> Answer<SignInNews>;

    /// Compares the newest head of an answer with the highest that was seen, and remembers it;
    /// gives what there is to say about it.
    ///
    /// # Errors
    /// The log was set back since this client last looked, or the backend has that on record.
    async fn remember_head(&self) -> Answer<Option<String>>;

    /// The highest head that this client has seen of an account.
    fn seen_head(&self, account: AccountId) -> Option<SeenHead>;

    /// Takes it from the answer to the acceptance that the log was set back, and goes on from there.
    ///
    /// # Errors
    /// The answer's head does not say so.
    async fn take_accepted(&self) -> Answer<()>;

    /// Forgets that the log contradicted what was seen: all of it was verified up to `head`.
    async fn verified(&self, seen: &Head, head: &Head) -> Answer<()>;

    /// A reset of the presence level that was asked for, as the session's check showed it.
    fn presence_reset(&self) -> Option<Reset>;

    /// Where the session is kept.
    fn session_place(&self) -> SessionPlace;

    /// What the project's file and the user's own say of agent, services and variables.
    fn defaults(&self) -> Defaults;

    /// What connecting did, for `--verbose`; never a secret.
    fn notes(&self) -> Vec<String>;
}

/// What is meant where a command does not say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Defaults {
    /// The agent.
    pub agent: Option<AgentIdentity>,
    /// The services that the project uses.
    pub services: Vec<ServiceName>,
    /// Variable and service.
    pub variables: Vec<(String, ServiceName)>,
}

/// Which backend is wanted, and how much to say about it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// The `--backend` option.
    pub backend: Option<String>,
    /// The `--verbose` option.
    pub verbose: bool,
}

/// Which daemon a command may ask instead of a backend.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WantedDaemon {
    /// The `--socket` option.
    pub socket: Option<PathBuf>,
    /// The `--backend` option.
    pub backend: Option<String>,
    /// The agent that is named.
    pub agent: Option<AgentIdentity>,
}

/// A daemon that a command asks instead of a backend.
pub struct Daemon {
    /// Its agent's session.
    pub holder: Box<dyn SessionHolder>,
    /// What this machine calls its agent.
    pub name: Option<Alias>,
    /// Its socket.
    pub place: String,
    /// What chose it: `--socket`, `AGENTKEYS_SOCKET`, or that it runs.
    pub chosen_by: &'static str,
    /// What the project's file and the user's own say.
    pub defaults: Defaults,
}

/// The machine that a command runs on.
#[async_trait(?Send)]
pub trait Machine {
    /// Finds the backend that is configured, or starts the private one.
    async fn connect(&self, wanted: &Wanted) -> Answer<Box<dyn Link>>;

    /// The daemon that a command is to ask instead of a backend; `None` when it is to ask a
    /// backend. Starts nothing.
    async fn daemon(&self, wanted: &WantedDaemon) -> Answer<Option<Daemon>>;

    /// Ends the private backend; says in words what was done.
    async fn stop_private(&self) -> Answer<String>;

    /// How everything stands, for `doctor`. Starts and changes nothing.
    async fn facts(&self, wanted: &Wanted) -> Answer<Vec<Fact>>;
}
