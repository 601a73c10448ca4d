//! The client's side: a backend that is reached over HTTP, and how a command finds or starts it; and
//! a daemon beside, over its socket.
#![forbid(unsafe_code)]

pub mod beside;
pub mod bundle;
pub mod config;
pub mod connect;
pub mod doctor;
pub mod files;
pub mod guard;
pub mod head_watch;
pub mod heads;
pub mod holder;
pub mod http;
pub mod places;
pub mod private;
pub mod relay;
pub mod sealing;
pub mod sessions;
pub mod sign_in;
pub mod socket;
pub mod wait;
pub mod wiring;
