//! The one integration test binary: a module a topic.
mod custody;
mod harden;
mod keyring;
