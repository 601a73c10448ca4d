//! The client's side: a backend that is reached over HTTP, and how a command finds or starts it.
#![forbid(unsafe_code)]

pub mod config;
pub mod connect;
pub mod doctor;
pub mod files;
pub mod heads;
pub mod http;
pub mod places;
pub mod private;
pub mod sessions;
pub mod socket;
