//! What a daemon is told when it starts.
use std::path::PathBuf;

use crate::core::identity::{AgentIdentity, Alias};
use crate::core::pin::Fingerprint;
use crate::core::scope::Scope;

/// The words of its command line, read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Whether MCP was asked for, whatever stdin is.
    pub stdio: bool,
    /// The name to ask for, and what this machine calls the agent.
    pub agent: Option<Alias>,
    /// The scope to ask for.
    pub scope: Scope,
    /// The agent to go on as.
    pub recover: Option<AgentIdentity>,
    /// The account and master key that it must be.
    pub account: Option<Fingerprint>,
    /// Where its socket is, if not at the usual place.
    pub socket: Option<PathBuf>,
    /// Ask for new keys, and end.
    pub rotate: bool,
    /// Which backend, if the command line says.
    pub backend: Option<String>,
    /// Whether to say on stderr what is done.
    pub verbose: bool,
}
