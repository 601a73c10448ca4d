//! Words and contract. No I/O, no clock and no randomness of its own.
#![forbid(unsafe_code)]

pub mod audit;
pub mod auth_request;
pub mod backend;
pub mod budget;
pub mod catalog;
pub mod cbor;
pub mod claim;
pub mod decision;
pub mod encoding;
pub mod frame;
pub mod gateway;
pub mod holder;
pub mod identity;
pub mod metering;
pub mod otp;
pub mod passphrase;
pub mod payment;
pub mod pin;
pub mod presence;
pub mod problem;
pub mod provision;
pub mod rule;
pub mod scope;
pub mod seal;
pub mod secret;
pub mod set_back;
pub mod sign_in;
pub mod terms;
pub mod token;
pub mod types;
pub mod wire;
pub mod words;
