//! The ordered key-value store with conditional commits: the one thing the vault asks of a database.
//!
//! Owns the trait, its plain types and limits, the stores behind it, and the conformance suite that
//! each of them passes. Must never know what the keys and values mean, and must never acknowledge a
//! commit that a power cut could still undo.

mod sled;
mod watch;

pub mod conformance;

use std::io;

pub use self::sled::{Options, SledStore};
pub use self::watch::{Watch, Watchers};

/// A stored value: bytes that are cheap to clone and compare.
pub type Value = bytes::Bytes;

/// The longest key, in bytes.
pub const MAX_KEY: usize = 512;
/// The longest value, in bytes.
pub const MAX_VALUE: usize = 128 * 1024;
/// The most checks and writes, counted together, in one commit.
pub const MAX_COMMIT_ITEMS: usize = 8192;
/// The most bytes of keys and values in one commit, checks included.
pub const MAX_COMMIT_BYTES: usize = 8 * 1024 * 1024;
/// The most entries that one scan gives.
pub const MAX_SCAN: usize = 16 * 1024;

/// An ordered key-value store with conditional commits.
///
/// Reads see durable commits only, and each read sees whole commits: never half of one, never one
/// that is still on its way to the disk.
#[async_trait::async_trait]
pub trait Store: Send + Sync + 'static {
    /// Gives the value under `key`, or `None`.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] for a key past [`MAX_KEY`], or what keeps the store from reading.
    async fn get(&self, key: &[u8]) -> Result<Option<Value>, StoreError>;

    /// Gives the first `limit` entries of `range`, in its order, as they stood at one moment.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] for a limit past [`MAX_SCAN`], or what keeps the store from reading.
    async fn scan(
        &self,
        range: KeyRange,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Value)>, StoreError>;

    /// Does all the writes if all the checks hold, or nothing. `Ok` means durable on disk. Writes to
    /// one key take effect in their order; checks see the state before all of this commit's writes.
    ///
    /// Not cancel safe: a dropped commit may still happen.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] when a check did not hold: nothing was written.
    /// [`CommitError::Store`] when the store cannot commit. Nothing was written then either, with two
    /// exceptions: after [`StoreError::TimedOut`] the outcome is unknown, and if the process dies
    /// before the store has recovered, the writes may be found, all or none, at its next start.
    async fn commit(&self, checks: Vec<Check>, writes: Vec<Write>) -> Result<(), CommitError>;

    /// Watches `key` from this call on (not from the first poll of what it gives).
    fn watch(&self, key: &[u8]) -> Watch;
}

/// The order of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// Smallest key first.
    #[default]
    Ascending,
    /// Largest key first.
    Descending,
}

/// A range of keys, and the order to go through it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key that belongs to the range.
    pub start: Vec<u8>,
    /// The first key past the range; `None` leaves it open.
    pub end: Option<Vec<u8>>,
    /// Which end of the range a scan starts from.
    pub order: Order,
}

impl KeyRange {
    /// Makes the ascending range from `start` up to, without, `end`.
    pub fn new(start: impl Into<Vec<u8>>, end: Option<Vec<u8>>) -> Self {
        Self { start: start.into(), end, order: Order::Ascending }
    }

    /// Makes the ascending range of every key that begins with `prefix`; all keys for an empty one.
    pub fn prefix(prefix: &[u8]) -> Self {
        // The end is the prefix with its last byte below 0xff counted up and all after it cut off.
        // A prefix of nothing but 0xff has no such byte: no key follows it, so the range is open.
        let end = prefix.iter().rposition(|&byte| byte != 0xff).map(|last| {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            end
        });
        Self::new(prefix, end)
    }

    /// Makes the range of every key.
    pub fn all() -> Self {
        Self::prefix(&[])
    }

    /// The same keys, largest first.
    pub fn descending(mut self) -> Self {
        self.order = Order::Descending;
        self
    }
}

/// A condition of a commit. Values are compared byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// Nothing is stored under the key.
    Absent(Vec<u8>),
    /// Exactly this value is stored under the key.
    Equals(Vec<u8>, Value),
}

impl Check {
    /// The key that the check reads.
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Absent(key) | Self::Equals(key, _) => key,
        }
    }

    fn holds(&self, found: Option<&[u8]>) -> bool {
        match self {
            Self::Absent(_) => found.is_none(),
            Self::Equals(_, wanted) => found == Some(&wanted[..]),
        }
    }
}

/// A change that a commit makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Stores the value under the key, over whatever is there.
    Put(Vec<u8>, Value),
    /// Removes the key; nothing happens if it is not there.
    Delete(Vec<u8>),
}

impl Write {
    /// The key that the write changes.
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }
}

/// Why a commit wrote nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// A check did not hold.
    #[error("a condition of the commit did not hold")]
    Conflict {
        /// The key of the first check that failed.
        key: Vec<u8>,
    },
    /// The store cannot commit.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why the store cannot do what was asked. The texts are for operators and name no path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Too little room for the next commit. Commits work again once there is room.
    #[error(
        "the disk that holds the store is full: by its account {free} bytes are free, {needed} are needed"
    )]
    DiskFull {
        /// Bytes that the file system says this process may still write; more than `needed` when
        /// it is the disk below, or a quota, that is full.
        free: u64,
        /// Bytes that must be free before a commit starts.
        needed: u64,
    },
    /// The store's files were deleted or moved away. Commits work again once they are back.
    #[error("the store's files are gone from their place")]
    Gone,
    /// Other files are in the place of the store's. Commits work again once the originals are back.
    #[error("the store's files were replaced by others")]
    Replaced,
    /// The system refused to read or write.
    #[error("{what}: {kind}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        kind: io::ErrorKind,
    },
    /// What is on disk is not what was committed.
    #[error("the store is damaged: {0}")]
    Damaged(&'static str),
    /// Another process, or another store in this one, has the folder open.
    #[error("the store is in use by another process")]
    InUse,
    /// Writes do not reach the disk before they are acknowledged, so none are accepted.
    #[error("the store's writes are not followed by a disk barrier in this program")]
    NoBarrier,
    /// The commit took longer than its deadline. Whether it happened is unknown.
    #[error("the store did not answer in time")]
    TimedOut,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// A key, value, commit or scan is past its limit.
    #[error("{what} of {size} is past the store's limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size: bytes, or entries for a count.
        size: usize,
        /// The limit that it breaks.
        limit: usize,
    },
}

impl StoreError {
    pub(crate) fn io(what: &'static str, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { free: 0, needed: 1 }
            }
            kind => Self::Io { what, kind },
        }
    }
}

/// Holds a size against its limit.
///
/// # Errors
/// [`StoreError::TooLarge`] when it is past it.
pub fn within(what: &'static str, size: usize, limit: usize) -> Result<(), StoreError> {
    if size > limit { Err(StoreError::TooLarge { what, size, limit }) } else { Ok(()) }
}

/// Holds a commit against the limits that every store keeps, and gives its size in bytes.
///
/// # Errors
/// [`StoreError::TooLarge`] with the first limit that it breaks.
pub fn measure(checks: &[Check], writes: &[Write]) -> Result<usize, StoreError> {
    within("the number of checks and writes", checks.len() + writes.len(), MAX_COMMIT_ITEMS)?;
    let mut bytes = 0;
    for check in checks {
        within("a key", check.key().len(), MAX_KEY)?;
        bytes += check.key().len();
        if let Check::Equals(_, value) = check {
            within("a value", value.len(), MAX_VALUE)?;
            bytes += value.len();
        }
    }
    for write in writes {
        within("a key", write.key().len(), MAX_KEY)?;
        bytes += write.key().len();
        if let Write::Put(_, value) = write {
            within("a value", value.len(), MAX_VALUE)?;
            bytes += value.len();
        }
    }
    within("a commit", bytes, MAX_COMMIT_BYTES)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_range_ends_before_the_next_prefix() {
        assert_eq!(KeyRange::prefix(b"a/").end, Some(b"a0".to_vec()));
        assert_eq!(KeyRange::prefix(b"a\xff\xff").end, Some(b"b".to_vec()));
        assert_eq!(KeyRange::prefix(b"\xff\xff").end, None);
        assert_eq!(KeyRange::all(), KeyRange::new(b"".to_vec(), None));
    }

    #[test]
    fn a_commit_is_measured_with_its_checks() {
        let checks = [Check::Equals(b"ab".to_vec(), Value::from_static(b"123"))];
        let writes = [Write::Delete(b"c".to_vec()), Write::Put(vec![], Value::new())];
        assert_eq!(measure(&checks, &writes), Ok(6));
    }

    #[test]
    fn every_limit_is_held() {
        let key = |n| Write::Delete(vec![0; n]);
        let put = |n| Write::Put(vec![], Value::from(vec![0; n]));
        let limit = |writes: Vec<Write>| match measure(&[], &writes) {
            Err(StoreError::TooLarge { limit, .. }) => limit,
            other => panic!("expected a limit, got {other:?}"),
        };
        assert_eq!(measure(&[], &[key(MAX_KEY), put(MAX_VALUE)]), Ok(MAX_KEY + MAX_VALUE));
        assert_eq!(limit(vec![key(MAX_KEY + 1)]), MAX_KEY);
        assert_eq!(limit(vec![put(MAX_VALUE + 1)]), MAX_VALUE);
        assert_eq!(limit(vec![key(0); MAX_COMMIT_ITEMS + 1]), MAX_COMMIT_ITEMS);
        assert_eq!(limit(vec![put(MAX_VALUE); 65]), MAX_COMMIT_BYTES);
    }
}
