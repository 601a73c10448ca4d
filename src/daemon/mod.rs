//! The daemon: pairs, holds an agent's session in secret memory, and hands its credentials to
//! the MCP client that started it and to programs beside it.
//!
//! - [`life`]: from start to end: hardening before any secret, then the runtime, then the end.
//! - [`mcp`]: what an MCP client sees.
//!
//! Must never print anything on stdout that is not protocol, keep a credential, or take from a
//! backend what it has not checked.
#![forbid(unsafe_code)]

pub mod life;
pub mod mcp;
mod options;

pub use self::life::run;
pub use self::options::Options;
