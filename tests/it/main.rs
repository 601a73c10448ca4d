<<<<<<< HEAD
//! The one integration test binary: a module a topic.
mod harden;
=======
//! The integration tests: one binary, a module a topic.

mod store_conformance;
>>>>>>> store
