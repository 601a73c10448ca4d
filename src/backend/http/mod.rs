//! The HTTP server: from a socket to a typed action to [`AccountBackend`] and back.
//!
//! ```text
//! server (accept, stop) -> service (wrapper) -> guard, body -> router -> a resource -> trait
//! ```
//!
//! It never knows the vault, a store or a key, and never writes a URI, a body or a token into a
//! log.
mod address;
mod body;
mod call;
mod doorway;
mod explain;
mod gate;
mod guard;
pub mod limits;
mod listener;
mod pulse;
mod reply;
mod router;
mod server;
mod service;
mod unix;

mod agent;
mod audit;
mod auth_request;
mod credential;
mod gateway;
mod identity;
pub mod meta;
mod payment;
mod presence;
mod provider;
mod rendezvous;
mod session;

use std::sync::Arc;

pub use self::address::{ListenAddress, ListenAddressError};
pub use self::gateway::{AnswerBody, Forward, Forwarded};
pub use self::limits::Limits;
pub use self::listener::{BindError, GivenSocket, Listener};
pub use self::server::{Stopped, run};
use super::peer::Peer;
use crate::core::backend::AccountBackend;
use crate::core::presence::Proof;

/// Makes the backend of one request, for who sent it and what proof of presence came with it. It
/// is called for every request, so that `last_head` is that request's, and the proof no other's.
pub type MakeBackend = Arc<dyn Fn(Peer, Option<Proof>) -> Arc<dyn AccountBackend> + Send + Sync>;

/// What is served.
#[derive(Clone)]
pub struct Served {
    /// The contract's traits.
    pub make_backend: MakeBackend,
    /// Requests to services, where they are served.
    pub gateway: Option<Arc<dyn Forward>>,
}

impl From<MakeBackend> for Served {
    fn from(make_backend: MakeBackend) -> Self {
        Self { make_backend, gateway: None }
    }
}
