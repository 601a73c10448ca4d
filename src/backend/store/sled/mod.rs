//! The embedded store, over sled.
//!
//! Owns the opening of the store and its face to callers; [`committer`] writes, [`view`] reads,
//! [`layout`] knows the bytes, [`place`] the files, [`salvage`] what a failing disk did not take,
//! [`watchdog`] a bug. Must never call `flush_async`, which deadlocks from eight callers on, and must
//! never hand out a sled type.

mod committer;
mod layout;
mod mark;
mod place;
mod salvage;
mod view;
mod watchdog;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::{Duration, Instant};

use ring::rand::SecureRandom;
use tokio::sync::{mpsc, oneshot};

use self::committer::{Committer, Message, Request};
use self::place::Place;
use self::view::{Changes, View, caught};
use super::{
    Check, CommitError, KeyRange, Store, StoreError, Value, Watch, Watchers, Write, measure,
};
use crate::harden::durability;

/// Commits that wait for the committer before callers wait to hand theirs in.
const QUEUE: usize = 1024;

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// Memory for cached pages, in bytes.
    pub cache_bytes: u64,
    /// How long one commit may take.
    pub deadline: Duration,
    /// Bytes of the disk that must be free, besides the commits themselves, for a commit to start.
    pub reserve_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 4 * 1024 * 1024,
            deadline: Duration::from_secs(10),
            reserve_bytes: 8 * 1024 * 1024,
        }
    }
}

/// A store in a folder of its own. One at a time: the folder is locked while it is open.
pub struct SledStore {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Message>,
    deadline: Duration,
}

struct Shared {
    view: RwLock<View>,
    watchers: Watchers,
    opened: Instant,
    /// When the group in hand was begun, in milliseconds after `opened`, plus one; 0 for no group.
    busy_since: AtomicU64,
}

impl Shared {
    /// Drops the tree, and with it the lock on its files; readers get `why` from now on.
    fn drop_tree(&self, why: StoreError) {
        let mut view = write_lock(&self.view);
        view.why = why;
        let db = view.db.take();
        drop(view);
        // sled writes when it is dropped, and panics when it cannot. All that matters is on disk.
        let _ = caught(|| {
            drop(db);
            Ok(())
        });
    }

    fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }

    fn group_started(&self) {
        self.busy_since.store(self.now() + 1, Ordering::Relaxed);
    }

    fn group_ended(&self) {
        self.busy_since.store(0, Ordering::Relaxed);
    }

    /// How long the committer has been at the group in hand.
    fn busy_for(&self) -> Duration {
        match self.busy_since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis((self.now() + 1).saturating_sub(since)),
        }
    }
}

impl SledStore {
    /// Opens the store in `dir`, which is made (mode 0700) if it is missing. Blocks for as long as
    /// reading the store takes, and up to two seconds for the lock of another process.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::DiskFull`], [`StoreError::Damaged`],
    /// [`StoreError::NoBarrier`] when this program's writes do not reach the disk, or
    /// [`StoreError::Io`].
    pub fn open(dir: &Path, options: Options) -> Result<Self, StoreError> {
        let failed = |error| StoreError::io("the store cannot be prepared", &error);
        durability::survive_file_size_limit().map_err(failed)?;
        let mut id = [0; 16];
        ring::rand::SystemRandom::new()
            .fill(&mut id)
            .map_err(|_| failed(std::io::Error::other("no randomness")))?;
        let deadline = options.deadline;
        let (place, db) = caught(|| Place::open(dir, options))?;
        let shared = Arc::new(Shared {
            view: RwLock::new(View { db: Some(db), why: StoreError::Closed, undo: Changes::new() }),
            watchers: Watchers::default(),
            opened: Instant::now(),
            busy_since: AtomicU64::new(0),
        });
        let (queue, waiting) = mpsc::channel(QUEUE);
        let committer = Committer::start(shared.clone(), place, id);
        let committer = committer.inspect_err(|_| shared.drop_tree(StoreError::Closed))?;
        thread::Builder::new()
            .name("store-committer".into())
            .spawn(move || committer.run(waiting))
            .map_err(failed)?;
        Ok(Self { shared, queue, deadline })
    }

    /// Gives the value under `key` without a future: one lookup in memory, or one read of the file.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn get_now(&self, key: &[u8]) -> Result<Option<Value>, StoreError> {
        read_lock(&self.shared.view).get(key)
    }

    /// Scans without a future.
    ///
    /// # Errors
    /// As [`Store::scan`].
    pub fn scan_now(
        &self,
        range: &KeyRange,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Value)>, StoreError> {
        read_lock(&self.shared.view).scan(range, limit)
    }

    /// Closes the store once the commits handed in before are done. When this returns the folder's
    /// lock is free, and every call gives [`StoreError::Closed`]. Dropping the store does the same,
    /// without waiting for it.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.queue.send(Message::Close(done)).await.is_ok() {
            // An error means that the committer is gone, which is what was asked for.
            let _ = closed.await;
        }
    }
}

#[async_trait::async_trait]
impl Store for SledStore {
    async fn get(&self, key: &[u8]) -> Result<Option<Value>, StoreError> {
        self.get_now(key)
    }

    async fn scan(
        &self,
        range: KeyRange,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Value)>, StoreError> {
        self.scan_now(&range, limit)
    }

    async fn commit(&self, checks: Vec<Check>, writes: Vec<Write>) -> Result<(), CommitError> {
        let bytes = measure(&checks, &writes)?;
        if self.shared.busy_for() > self.deadline {
            // Somebody has waited for this group in vain already: no point in queueing behind it.
            let kind = std::io::ErrorKind::TimedOut;
            return Err(StoreError::Io { what: "the store's disk does not answer", kind }.into());
        }
        let (answer, answered) = oneshot::channel();
        let message = Message::Commit(Request { checks, writes, bytes, answer });
        let work = async {
            if self.queue.send(message).await.is_err() {
                return Err(StoreError::Closed.into());
            }
            answered.await.unwrap_or(Err(StoreError::Closed.into()))
        };
        tokio::time::timeout(self.deadline, work).await.unwrap_or(Err(StoreError::TimedOut.into()))
    }

    fn watch(&self, key: &[u8]) -> Watch {
        self.shared.watchers.register(key)
    }
}

// No code panics while it holds this lock for writing, so a poisoned one still holds whole state.
fn read_lock(view: &RwLock<View>) -> RwLockReadGuard<'_, View> {
    view.read().unwrap_or_else(PoisonError::into_inner)
}

fn write_lock(view: &RwLock<View>) -> RwLockWriteGuard<'_, View> {
    view.write().unwrap_or_else(PoisonError::into_inner)
}
