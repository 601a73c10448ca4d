//! What readers see: the tree, without the group of commits that is not durable yet.
//!
//! Owns the reads. Must never show what a power cut could still undo, and must never panic, whatever
//! the files have become.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ::sled::{Db, IVec};

use super::layout::{self, UserKey};
use crate::backend::store::{KeyRange, MAX_SCAN, Order, StoreError, Value, within};

/// Raw keys with what they hold; `None` for nothing.
pub type Changes = BTreeMap<Vec<u8>, Option<IVec>>;

type RawEntry = Result<(IVec, Option<IVec>), StoreError>;

/// The tree, and what the commits on their way to the disk have replaced in it.
pub struct View {
    /// `None` while the store is closed or between two attempts to open it again.
    pub db: Option<Db>,
    /// Why `db` is `None`.
    pub why: StoreError,
    /// The former values of all that the group in flight changes; empty when none is.
    pub undo: Changes,
}

impl View {
    fn db(&self) -> Result<&Db, StoreError> {
        self.db.as_ref().ok_or_else(|| self.why.clone())
    }

    fn raw(&self, key: &[u8]) -> Result<Option<IVec>, StoreError> {
        match self.undo.get(key) {
            Some(old) => Ok(old.clone()),
            None => self.db()?.get(key).map_err(|error| explain(&error)),
        }
    }

    /// Gives the durable value under a user's key.
    ///
    /// # Errors
    /// What keeps the tree from being read.
    pub fn get(&self, key: &[u8]) -> Result<Option<Value>, StoreError> {
        let key = UserKey::new(key)?;
        caught(|| {
            self.db()?;
            let Some(raw) = self.raw(key.as_ref())? else { return Ok(None) };
            layout::decode(&raw, |piece| self.raw(piece)).map(Some)
        })
    }

    /// Gives the first `limit` durable entries of a range.
    ///
    /// # Errors
    /// What keeps the tree from being read.
    pub fn scan(
        &self,
        range: &KeyRange,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Value)>, StoreError> {
        within("a scan", limit, MAX_SCAN)?;
        let db = self.db()?;
        let (start, end) = layout::bounds(&range.start, range.end.as_deref());
        if start >= end {
            return Ok(Vec::new());
        }
        caught(|| {
            let durable = self
                .undo
                .range::<[u8], _>((Bound::Included(&start[..]), Bound::Excluded(&end[..])));
            let durable = durable.map(|(key, old)| Ok((IVec::from(&key[..]), old.clone())));
            let tree = db.range(&start[..]..&end[..]).map(|found| {
                found.map(|(key, value)| (key, Some(value))).map_err(|error| explain(&error))
            });
            match range.order {
                Order::Ascending => self.merge(durable, tree, |a, b| a < b, limit),
                Order::Descending => self.merge(durable.rev(), tree.rev(), |a, b| a > b, limit),
            }
        })
    }

    /// Goes through both in one order; where both know a key, `durable` is right.
    fn merge(
        &self,
        durable: impl Iterator<Item = RawEntry>,
        tree: impl Iterator<Item = RawEntry>,
        before: impl Fn(&IVec, &IVec) -> bool,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Value)>, StoreError> {
        let (mut durable, mut tree) = (durable.peekable(), tree.peekable());
        let mut found = Vec::new();
        while found.len() < limit {
            let next = match (durable.peek(), tree.peek()) {
                (None, None) => break,
                (Some(Ok((old, _))), Some(Ok((new, _)))) => {
                    if before(new, old) {
                        tree.next()
                    } else {
                        if old == new {
                            tree.next();
                        }
                        durable.next()
                    }
                }
                (None, Some(_)) | (Some(_), Some(Err(_))) => tree.next(),
                (Some(_), _) => durable.next(),
            };
            let Some(next) = next else { break };
            if let (key, Some(raw)) = next? {
                let value = layout::decode(&raw, |piece| self.raw(piece))?;
                found.push((layout::user_key(&key), value));
            }
        }
        Ok(found)
    }
}

/// Runs `work`, and turns a panic inside sled into an error.
///
/// # Errors
/// Those of `work`, or [`StoreError::Damaged`] for a panic.
pub fn caught<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    // Unwind safety: whatever a panic leaves behind in sled is dropped and read from disk again.
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or(Err(StoreError::Damaged("the storage engine failed on it")))
}

/// Puts sled's error into the store's words. Its own text may hold a path and goes nowhere.
pub fn explain(error: &::sled::Error) -> StoreError {
    match error {
        ::sled::Error::Io(error) => StoreError::io("the store's files cannot be used", error),
        ::sled::Error::Corruption { .. } => StoreError::Damaged("its files are corrupt"),
        ::sled::Error::Unsupported(_) => StoreError::Damaged("its files are of another kind"),
        _ => StoreError::Damaged("the storage engine is out of order"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree in which the group in flight has changed `b`, removed `d`, and added `a` and `f`.
    fn in_flight() -> (tempfile::TempDir, View) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let db = ::sled::Config::new().path(dir.path()).flush_every_ms(None).open().expect("opens");
        let mut undo = Changes::new();
        for (key, old, new) in [
            (b"a", None, Some(b"\0new")),
            (b"b", Some(b"\0old"), Some(b"\0new")),
            (b"d", Some(b"\0old"), None),
            (b"f", None, Some(b"\0new")),
        ] {
            let raw = UserKey::new(key).expect("short").as_ref().to_vec();
            match new {
                Some(value) => db.insert(&raw, value).expect("inserts"),
                None => db.remove(&raw).expect("removes"),
            };
            undo.insert(raw, old.map(IVec::from));
        }
        for key in [b"c", b"e"] {
            let raw = UserKey::new(key).expect("short");
            db.insert(raw.as_ref(), b"\0old").expect("inserts");
        }
        (dir, View { db: Some(db), why: StoreError::Closed, undo })
    }

    #[test]
    fn readers_see_nothing_of_the_group_in_flight() {
        let (_dir, view) = in_flight();
        for (key, expected) in [
            (b"a", None),
            (b"b", Some("old")),
            (b"c", Some("old")),
            (b"d", Some("old")),
            (b"f", None),
        ] {
            let got = view.get(key).expect("readable");
            assert_eq!(got.as_deref(), expected.map(str::as_bytes));
        }
        let keys = |range: KeyRange, limit| -> String {
            let rows = view.scan(&range, limit).expect("readable");
            assert!(rows.iter().all(|(_, value)| &value[..] == b"old"));
            rows.into_iter().map(|(key, _)| key[0] as char).collect()
        };
        assert_eq!(keys(KeyRange::all(), 100), "bcde");
        assert_eq!(keys(KeyRange::all().descending(), 100), "edcb");
        assert_eq!(keys(KeyRange::all(), 2), "bc");
        assert_eq!(keys(KeyRange::all().descending(), 2), "ed");
        assert_eq!(keys(KeyRange::new(b"c", Some(b"e".to_vec())), 9), "cd");
    }

    #[test]
    fn a_panic_becomes_an_error() {
        let result: Result<(), _> = caught(|| panic!("on purpose"));
        assert!(matches!(result, Err(StoreError::Damaged(_))));
    }
}
