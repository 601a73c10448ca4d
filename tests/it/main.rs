//! One integration binary, a module a topic. Tests are named by the behaviour they hold.
mod arbitrary;
mod audit_chain;
mod auth_request;
mod claims;
mod decision;
mod otp;
mod payment;
mod scope;
mod seal;
mod tokens;
mod trait_contract;
mod types;
mod vectors;
