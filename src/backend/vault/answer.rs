//! How faults below the vault are told to a caller: what was not done, why, and what to do;
//! never a path, a key of the store, or a secret.
use super::cells::CellError;
use super::journal::Refused;
use crate::backend::clock::NoEntropy;
use crate::backend::store::StoreError;
use crate::core::problem::{Code, Problem};

/// The store does not answer, or cannot record what was to be recorded.
pub fn store(error: StoreError) -> Problem {
    let (cause, fix) = match &error {
        StoreError::DiskFull { .. } => (
            "the disk that holds the backend's store is full".to_owned(),
            "free some space on the backend's disk; it goes on by itself",
        ),
        StoreError::Gone | StoreError::Replaced => {
            (error.to_string(), "put the backend's own data folder back; it goes on by itself")
        }
        StoreError::Damaged(_) => (
            "what is on the backend's disk is not what was committed".to_owned(),
            "restore the data folder from a backup; the backend's log says more",
        ),
        StoreError::TooLarge { .. } => {
            return Problem::new(
                Code::TooLarge,
                "the change is larger than one commit may be",
                "too many rows at once",
                "do it in smaller parts",
            );
        }
        _ => (
            "the backend's store did not take it".to_owned(),
            "try again; if it stays, look at the backend's log and disk",
        ),
    };
    tracing::error!(error = %error, "the store failed");
    Problem::new(
        Code::Unavailable,
        "the backend cannot record anything now, so nothing was done or released",
        cause,
        fix,
    )
    .retry_after(1)
}

/// A row does not open.
pub fn cell(error: CellError) -> Problem {
    tracing::error!(error = %error, "a row does not open");
    match error {
        CellError::Unauthentic | CellError::Shape => Problem::new(
            Code::Internal,
            "the backend's store holds something that it did not write, so nothing was released",
            "a row was changed, moved or inserted outside of the backend",
            "restore the data folder from a backup, and find out who can write to it",
        ),
        CellError::Memory(_) | CellError::Entropy(_) => Problem::internal(),
    }
}

/// The system's random generator failed.
pub fn entropy(error: NoEntropy) -> Problem {
    tracing::error!(error = %error, "no randomness");
    Problem::internal()
}

/// The journal did not commit. Conflicts are the caller's to try again.
pub fn refused(refused: Refused) -> Problem {
    match refused {
        Refused::Store(error) => store(error),
        Refused::Cell(error) => cell(error),
        Refused::TooLarge => store(StoreError::TooLarge { what: "a change", size: 0, limit: 0 }),
        Refused::Conflict => busy(),
        Refused::RolledBack => Problem::new(
            Code::Unavailable,
            "the backend cannot record anything now, so nothing was done or released",
            "its store is older than what it has committed",
            "put the backend's own data folder back; it goes on by itself",
        ),
        Refused::Closed => Problem::new(
            Code::Unavailable,
            "the backend is shutting down",
            "it was told to stop",
            "try again",
        )
        .retry_after(1),
    }
}

/// Too many changed the same thing at the same time.
pub fn busy() -> Problem {
    Problem::new(
        Code::Unavailable,
        "the backend is busy",
        "too many callers changed the same thing at once",
        "try again",
    )
    .retry_after(1)
}
