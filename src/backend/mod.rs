//! The backend: the vault over a store, root-key custody, the HTTP server.
#![forbid(unsafe_code)]

pub mod clock;
pub mod custody;
pub mod gateway;
pub mod http;
pub mod judge;
pub mod mint;
pub mod oidc;
pub mod peer;
pub mod serve;
pub mod store;
pub mod tls;
pub mod upstream;
pub mod vault;
