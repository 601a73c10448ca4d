//! Scoped, revocable credentials for AI agents: one crate, one binary.
//!
//! The map of the crate, from the bottom up. Who may import whom is held by
//! `tests/it/architecture.rs`.
//!
//! - [`core`]: words and contract. No I/O, no clock, no randomness of its own.
//! - [`harden`]: the kernel's protections; the only unsafe code.
//! - [`keyring`]: the desktop's Secret Service.
//! - [`web`]: TLS and certificates, for both sides of it.
//! - [`backend`]: the vault, its stores, root-key custody, the HTTP server.
//! - [`client`]: `CredentialBackend` over HTTP; starts the private backend.
//! - [`provisioner`]: gets keys by recipes: programs beside the agent, watched over.
//! - [`cli`]: one file a command.
//! - [`daemon`]: pairing, session keeping, MCP, the local socket.
//! - [`role`]: ties the roles together; the one place that knows them all.
#![deny(unsafe_code)]

pub mod backend;
pub mod cli;
pub mod client;
pub mod core;
pub mod daemon;
pub mod harden;
pub mod keyring;
pub mod provisioner;
pub mod role;
pub mod web;
