//! The daemon: pairs, holds an agent's session in secret memory, and hands its credentials to
//! the MCP client that started it and to programs beside it.
//!
//! - [`life`]: from start to end: hardening before any secret, then the runtime, then the end.
//! - [`shared`]: which of an agent's daemons on this machine holds its session: one keeps, the
//!   others relay to it, and one of them takes over.
//! - [`seat`]: the lock, the record and the socket's place by which they agree on that.
//! - [`socket`]: answers the others, and programs beside, over that socket.
//!
//! Must never print anything on stdout that is not protocol, keep a credential, or take from a
//! backend what it has not checked.
#![forbid(unsafe_code)]

pub mod life;
mod options;
pub mod seat;
pub mod shared;
pub mod socket;

pub use self::life::run;
pub use self::options::Options;
