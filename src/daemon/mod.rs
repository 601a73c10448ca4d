//! The daemon: pairs, holds an agent's session in secret memory, and hands its credentials to
//! the MCP client that started it and to programs beside it.
//!
//! - `life`: from start to end: the helper, hardening before any secret, then the runtime.
//! - `confine`: what the process may still do; `starter`: what its helper does for it.
//! - [`shared`]: which of an agent's daemons on this machine holds its session: one keeps, the
//!   others relay to it, and one of them takes over.
//! - [`seat`]: the lock, the record and the socket's place by which they agree on that.
//! - [`keeper`]: asks for the session, renews it, uses it.
//! - `request`: one auth request, up to a decision that passed every check.
//! - `keys`, `mirror`: keys and tokens in memory; what a restart needs of them, on disk.
//! - [`reach`]: the way to the backend, and what happens while it is away.
//! - [`socket`]: answers the others, and programs beside, over the local socket.
//! - [`mcp`]: what an MCP client sees; `stdio`: the streams between. `notice`: what a person at the terminal sees.
//!
//! Must never print anything on stdout that is not protocol, keep a credential, or take from a
//! backend what it has not checked.
#![forbid(unsafe_code)]

mod confine;
pub mod keeper;
mod keys;
mod life;
pub mod mcp;
pub mod mirror;
mod notice;
mod options;
pub mod reach;
mod request;
pub mod seat;
pub mod shared;
pub mod socket;
mod starter;
mod stdio;

pub use self::life::run;
pub use self::options::Options;
