//! The HTTP server: from a socket to a typed action to [`AccountBackend`] and back.
//!
//! It never knows the vault, a store or a key, and never writes a URI, a body or a token into a
//! log.
//!
//! [`AccountBackend`]: crate::core::backend::AccountBackend

pub mod agent;
pub mod audit;
pub mod auth_request;
pub mod call;
pub mod credential;
pub mod explain;
pub mod identity;
pub mod meta;
pub mod payment;
pub mod rendezvous;
pub mod reply;
pub mod router;
pub mod session;
