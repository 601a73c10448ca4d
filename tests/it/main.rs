//! The one integration test binary: a module a topic. Tests are named by the behaviour they hold.
mod arbitrary;
mod architecture;
mod audit_chain;
mod auth_request;
mod claims;
//! The one integration test binary: a module a topic.
mod client_config;
mod client_connect;
mod client_private;
mod client_stand_in;
mod custody;
mod decision;
mod harden;
mod keyring;
mod otp;
mod payment;
mod scope;
mod seal;
mod store_conformance;
mod store_crash;
mod store_failures;
mod store_ledger;
mod store_victim;
mod tokens;
mod trait_contract;
mod types;
mod vectors;
//! The one integration test binary: a module a topic.
mod http_client;
mod http_hostile;
mod http_lifecycle;
mod http_openapi;
mod http_support;
