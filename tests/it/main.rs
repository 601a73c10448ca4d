//! The one integration test binary: a module a topic.
mod architecture;
mod credential;
mod custody;
mod env;
mod harden;
mod identity;
mod keyring;
mod renewal;
mod session;
mod store_conformance;
mod store_crash;
mod store_failures;
mod store_ledger;
mod store_victim;
