//! The store's folder: opening it, knowing it again, and the room on its disk.
//!
//! Owns every look at the file system that is not sled's own. Must never let one commit go to files
//! that are not those that were opened.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use ::sled::Db;

use super::Options;
use super::layout::SEGMENT;
use super::salvage::Salvage;
use super::view::{caught, explain};
use crate::backend::store::StoreError;
use crate::harden::durability;

/// How long to wait for the lock of a process that has just been killed.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// A folder and the data file in it, as they were when the store was opened.
pub struct Place {
    dir: PathBuf,
    identity: [(u64, u64); 2],
    options: Options,
    salvage: Salvage,
}

impl Place {
    /// Opens the folder, which is made if it is missing, and the tree in it.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when it stays locked for two seconds, or the system's refusal.
    pub fn open(dir: &Path, options: Options) -> Result<(Self, Db), StoreError> {
        let failed = |error: io::Error| StoreError::io("the store's folder cannot be made", &error);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        // An absolute path: a later change of the working directory must not move the store.
        let dir = fs::canonicalize(dir).map_err(failed)?;
        // The kernel may have been told of writes, by a process before this one, that failed.
        let mut salvage = Salvage::default();
        if dir.join("db").exists() {
            settle(&dir, &mut salvage, None)?;
        }
        let db = open_tree(&dir, &options)?;
        for path in [dir.join("conf"), dir.join("blobs"), dir.clone(), dir.join("..")] {
            // sled makes these without syncing them; after a power cut they could be missing.
            File::open(path)
                .and_then(|file| file.sync_all())
                .map_err(|error| StoreError::io("the store's folder cannot be synced", &error))?;
        }
        let identity = identify(&dir)?;
        Ok((Self { dir, identity, options, salvage }, db))
    }

    /// Opens the tree again, once the disk holds all that the kernel remembers of it.
    ///
    /// # Errors
    /// As [`Self::open`] and [`Self::check`].
    pub fn reopen(&mut self) -> Result<Db, StoreError> {
        self.check()?;
        settle(&self.dir, &mut self.salvage, Some(self.identity[1]))?;
        let db = open_tree(&self.dir, &self.options)?;
        self.check()?;
        Ok(db)
    }

    /// Checks that the path still names what was opened.
    ///
    /// # Errors
    /// [`StoreError::Gone`] or [`StoreError::Replaced`] when it does not.
    pub fn check(&self) -> Result<(), StoreError> {
        if identify(&self.dir)? == self.identity { Ok(()) } else { Err(StoreError::Replaced) }
    }

    /// Checks that there is room for a group of commits of `bytes`.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`] when there is not.
    pub fn check_room(&self, bytes: usize) -> Result<(), StoreError> {
        let free = self.free()?;
        let needed = self.needed(bytes);
        if free < needed { Err(StoreError::DiskFull { free, needed }) } else { Ok(()) }
    }

    /// Fills in the figures of a full disk.
    pub fn with_figures(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::DiskFull { .. } => {
                StoreError::DiskFull { free: self.free().unwrap_or(0), needed: self.needed(0) }
            }
            other => other,
        }
    }

    fn free(&self) -> Result<u64, StoreError> {
        durability::free_bytes(&self.dir)
            .map_err(|error| StoreError::io("the store's disk cannot be examined", &error))
    }

    fn needed(&self, bytes: usize) -> u64 {
        // sled rewrites a page of up to 17 entries for a few changes to it, so a group costs several
        // times its size; opening again takes a segment and a snapshot. What this underestimates
        // ends in sled's own error, from which the store recovers as well.
        self.options.reserve_bytes + 4 * bytes as u64
    }

    /// The folder, for the log.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Makes the disk hold what the kernel remembers of the data file; `identity` is what that file must
/// be. A disk that refuses it stays refused: sled must not be opened on what only the kernel
/// remembers, since it would build on it.
fn settle(
    dir: &Path,
    salvage: &mut Salvage,
    identity: Option<(u64, u64)>,
) -> Result<(), StoreError> {
    let failed = |error: io::Error| StoreError::io("the store's disk fails", &error);
    let path = dir.join("db");
    let file = OpenOptions::new().read(true).write(true).open(&path).map_err(failed)?;
    // sled's threads hold the lock until the last of them has ended its writing.
    let patience = Instant::now() + LOCK_PATIENCE;
    while let Err(error) = file.try_lock() {
        match error {
            TryLockError::WouldBlock if Instant::now() < patience => {
                thread::sleep(Duration::from_millis(5));
            }
            TryLockError::WouldBlock => return Err(StoreError::InUse),
            TryLockError::Error(error) => return Err(failed(error)),
        }
    }
    let metadata = file.metadata().map_err(failed)?;
    if identity.is_some_and(|identity| identity != (metadata.dev(), metadata.ino())) {
        return Err(StoreError::Replaced);
    }
    salvage.settle(&file, &path).and_then(|()| remove_torn_snapshots(dir)).map_err(failed)
}

/// Removes the snapshots that sled did not come to give their final names. It would take one for a
/// good snapshot, and the store for a corrupt one; without it the log tells the same.
fn remove_torn_snapshots(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if name.starts_with(b"snap.") && name.ends_with(b".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn identify(dir: &Path) -> Result<[(u64, u64); 2], StoreError> {
    let of = |path: &Path| match fs::metadata(path) {
        Ok(metadata) => Ok((metadata.dev(), metadata.ino())),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Err(StoreError::Gone),
            _ => Err(StoreError::io("the store's folder cannot be examined", &error)),
        },
    };
    Ok([of(dir)?, of(&dir.join("db"))?])
}

fn open_tree(dir: &Path, options: &Options) -> Result<Db, StoreError> {
    let patience = Instant::now() + LOCK_PATIENCE;
    loop {
        let opened = caught(|| {
            let config = ::sled::Config::new()
                .path(dir)
                .segment_size(SEGMENT)
                .cache_capacity(options.cache_bytes)
                .flush_every_ms(None);
            Ok(config.open())
        })?;
        match opened {
            Ok(db) => return Ok(db),
            Err(error) if is_lock(&error) => {
                if Instant::now() > patience {
                    return Err(StoreError::InUse);
                }
                thread::sleep(Duration::from_millis(20));
            }
            Err(error) => {
                tracing::error!(dir = %dir.display(), %error, "the store cannot be opened");
                return Err(explain(&error));
            }
        }
    }
}

/// sled reports a lock that it did not get as an I/O error that only its text tells apart.
fn is_lock(error: &::sled::Error) -> bool {
    matches!(error, ::sled::Error::Io(error)
        if error.kind() == io::ErrorKind::Other && error.to_string().contains("acquire lock"))
}
