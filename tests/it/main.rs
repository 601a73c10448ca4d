//! The one integration test binary: a module a topic.
mod architecture;
mod custody;
mod harden;
mod keyring;
mod store_conformance;
