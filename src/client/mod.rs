//! `CredentialBackend` over HTTP and Unix socket, and how a command reaches its backend.
#![forbid(unsafe_code)]

pub mod config;
pub mod files;
pub mod heads;
pub mod places;
pub mod private;
pub mod sessions;
pub mod socket;
