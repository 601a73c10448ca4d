//! The integration tests: one binary, a module a topic.

mod store_conformance;
mod store_crash;
mod store_failures;
mod store_ledger;
mod store_victim;
