//! Wakes sled when it waits for a write that has already failed.
//!
//! Owns the way around one bug: when the first of the two writes of a batch fails last, sled 0.34
//! keeps the error and wakes nobody, and `flush` waits for ever. Any attempt to write that meets the
//! kept error wakes all the same, so one is made. Must never write anything itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

use ::sled::Db;

use super::view::caught;

/// How often to look while sled works.
const TICK: Duration = Duration::from_millis(25);

/// A thread that watches over sled while it writes, and sleeps while it does not.
pub struct Watchdog {
    watched: Arc<Watched>,
    thread: Thread,
}

#[derive(Default)]
struct Watched {
    db: Mutex<Option<Db>>,
    asleep: AtomicBool,
    gone: AtomicBool,
}

impl Watched {
    fn lock(&self) -> MutexGuard<'_, Option<Db>> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watchdog {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system's, when it gives no thread.
    pub fn start() -> std::io::Result<Self> {
        let watched = Arc::new(Watched::default());
        let handle = thread::Builder::new().name("store-watchdog".into()).spawn({
            let watched = watched.clone();
            move || watch(&watched)
        })?;
        Ok(Self { watched, thread: handle.thread().clone() })
    }

    /// Runs `work`, which writes to `db` and waits for it.
    pub fn over<T>(&self, db: &Db, work: impl FnOnce() -> T) -> T {
        *self.watched.lock() = Some(db.clone());
        let _end = End(&self.watched);
        if self.watched.asleep.swap(false, Ordering::SeqCst) {
            self.thread.unpark();
        }
        work()
    }
}

/// Ends the watch, also when the work panics.
struct End<'a>(&'a Watched);

impl Drop for End<'_> {
    fn drop(&mut self) {
        // Never the last owner: whoever called `over` has the tree as well.
        *self.0.lock() = None;
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.watched.gone.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

fn watch(watched: &Watched) {
    while !watched.gone.load(Ordering::SeqCst) {
        thread::park_timeout(TICK);
        let db = watched.lock();
        match &*db {
            Some(db) => {
                // With the error kept, this fails before it writes, and wakes whoever waits.
                let _ = caught(|| {
                    if db.context.global_error().is_err() {
                        let _ = db.open_tree("never made");
                    }
                    Ok(())
                });
            }
            None => {
                // Under the lock: who sets a tree after this sees that it must wake us.
                watched.asleep.store(true, Ordering::SeqCst);
                drop(db);
                while watched.asleep.load(Ordering::SeqCst) && !watched.gone.load(Ordering::SeqCst)
                {
                    thread::park();
                }
            }
        }
    }
}
