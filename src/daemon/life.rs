//! A daemon's life.
use super::Options;
use crate::core::problem::{Code, Problem};

/// Runs a daemon until its client is gone or it is told to end, and gives its exit code.
///
/// # Errors
/// What kept it from starting.
pub fn run(_options: Options) -> Result<u8, Problem> {
    Err(Problem::new(Code::Unavailable, "under construction", "", ""))
}
