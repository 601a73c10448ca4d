//! The one integration test binary: a module a topic.
mod client_config;
mod client_connect;
mod client_private;
mod client_stand_in;
mod custody;
mod harden;
mod http_client;
mod http_hostile;
mod http_lifecycle;
mod http_openapi;
mod http_support;
mod keyring;
