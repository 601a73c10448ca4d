//! The one integration test binary: a module a topic.
mod custody;
mod env;
mod harden;
mod keyring;
mod session;
mod store_conformance;
