//! The one integration test binary: a module a topic.
mod architecture;
mod audit_log;
mod credential;
mod custody;
mod env;
mod harden;
mod identity;
mod keyring;
mod ledger;
mod renewal;
mod session;
mod store_conformance;
mod store_crash;
mod store_failures;
mod store_ledger;
mod store_victim;
