//! Words and contract. No I/O, no clock and no randomness of its own.
#![forbid(unsafe_code)]

pub mod secret;
