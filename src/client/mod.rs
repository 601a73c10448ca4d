//! The client's side: a backend that is reached over HTTP.
#![forbid(unsafe_code)]

pub mod http;
