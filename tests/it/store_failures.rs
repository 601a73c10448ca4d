//! Failures of the disk: commits are refused in plain words, and work again without a restart.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agentkeys::backend::store::{CommitError, Options, SledStore, Store, StoreError, Value, Write};

use crate::store_ledger::{Ledger, commit};
use crate::store_victim::{Mount, Victim, example, image, run, skip};

/// A store with what it has acknowledged.
pub struct Written {
    pub store: SledStore,
    pub ledger: Ledger,
    pub next: u64,
}

impl Written {
    pub fn open(dir: &Path) -> Self {
        let store = SledStore::open(dir, Options::default()).expect("the store opens");
        Self { store, ledger: Ledger::default(), next: 1 }
    }

    /// Commits once. After a refusal the same commit is tried again by the next call, and would
    /// conflict if it had happened after all.
    pub async fn commit(&mut self) -> Result<(), StoreError> {
        let (checks, writes) = commit(0, self.next);
        match self.store.commit(checks, writes).await {
            Ok(()) => {
                self.ledger.take_in(&format!("0 {}", self.next));
                self.next += 1;
                Ok(())
            }
            Err(CommitError::Store(error)) => Err(error),
            Err(conflict) => panic!("commit {} has happened before: {conflict}", self.next),
        }
    }

    pub async fn commit_many(&mut self, count: usize) {
        for _ in 0..count {
            self.commit().await.expect("nothing is wrong with the disk");
        }
    }

    /// Commits until it is refused, and gives the refusal.
    pub async fn commit_until_refused(&mut self) -> StoreError {
        let patience = Instant::now() + Duration::from_secs(60);
        while Instant::now() < patience {
            if let Err(error) = self.commit().await {
                return error;
            }
        }
        panic!("the store goes on as if nothing had happened");
    }

    /// Commits until it works again: the store may take a moment, but no restart.
    pub async fn commit_until_accepted(&mut self) {
        let patience = Instant::now() + Duration::from_secs(10);
        while let Err(error) = self.commit().await {
            assert!(Instant::now() < patience, "the store does not recover: {error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.commit_many(20).await;
    }

    /// Nothing acknowledged is missing, neither now nor after a restart.
    pub async fn verify(self, dir: &Path) {
        assert_eq!(self.ledger.faults(&self.store).await, Vec::<String>::new());
        self.store.close().await;
        let again = SledStore::open(dir, Options::default()).expect("the store opens again");
        assert_eq!(self.ledger.faults(&again).await, Vec::<String>::new());
        again.close().await;
    }
}

/// Fills a disk, to the last byte if it can.
pub fn fill(dir: &Path) -> PathBuf {
    let path = dir.join("ballast");
    let mut file = OpenOptions::new().create_new(true).write(true).open(&path).expect("a file");
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![0xa5; size]).is_ok() {}
    }
    let _ = file.sync_all();
    path
}

#[tokio::test]
async fn a_full_disk_refuses_commits_until_there_is_room() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let disk = match Mount::new(None, "size=40m", dir.path().join("disk")) {
        Ok(disk) => disk,
        Err(why) => return skip("a full disk: it needs root", &why),
    };
    let folder = disk.path().join("store");
    let mut written = Written::open(&folder);
    written.commit_many(50).await;
    for _ in 0..2 {
        let ballast = fill(disk.path());
        for _ in 0..3 {
            let refused = written.commit().await;
            let full = matches!(refused, Err(StoreError::DiskFull { free: 0, needed: 1.. }));
            assert!(full, "expected a full disk, got {refused:?}");
        }
        assert_eq!(written.ledger.faults(&written.store).await, Vec::<String>::new());
        fs::remove_file(ballast).expect("the ballast can be removed");
        written.commit_until_accepted().await;
    }
    written.verify(&folder).await;
}

#[tokio::test]
async fn a_disk_that_fills_up_in_the_middle_of_a_commit_is_recovered_from() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let disk = match Mount::new(None, "size=40m", dir.path().join("disk")) {
        Ok(disk) => disk,
        Err(why) => return skip("a full disk: it needs root", &why),
    };
    let folder = disk.path().join("store");
    // Without the reserve the store runs into sled's own error, which stays until sled is reopened.
    let options = Options { reserve_bytes: 0, ..Options::default() };
    let store = SledStore::open(&folder, options).expect("the store opens");
    let mut written = Written { store, ledger: Ledger::default(), next: 1 };
    written.commit_many(50).await;
    for _ in 0..2 {
        let ballast = fill(disk.path());
        // Leave a little, so that the check before the commit sees room for it.
        let len = fs::metadata(&ballast).expect("it is there").len();
        let file = OpenOptions::new().write(true).open(&ballast).expect("it is there");
        file.set_len(len - 80 * 1024).expect("it can be cut");
        // Removing a file that is open frees nothing.
        drop(file);
        let error = written.commit_until_refused().await;
        assert!(
            matches!(error, StoreError::DiskFull { .. }),
            "expected a full disk, got {error:?}"
        );
        fs::remove_file(ballast).expect("the ballast can be removed");
        written.commit_until_accepted().await;
    }
    written.verify(&folder).await;
}

/// sled takes a half-written snapshot for a whole one, and its log for corrupt.
#[tokio::test]
async fn a_start_that_was_cut_off_does_not_keep_the_store_closed() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut written = Written::open(dir.path());
    written.commit_many(20).await;
    written.store.close().await;
    for half in [&b""[..], &[7; 100]] {
        let name = dir.path().join("snap.00000000FFFFFFFF.generating");
        fs::write(&name, half).expect("it can be written");
        let store = SledStore::open(dir.path(), Options::default()).expect("the store opens");
        assert_eq!(written.ledger.faults(&store).await, Vec::<String>::new());
        store.close().await;
        assert!(!name.exists());
    }
}

#[tokio::test]
async fn files_that_are_moved_away_refuse_commits_until_they_are_back() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (folder, away) = (dir.path().join("store"), dir.path().join("away"));
    let mut written = Written::open(&folder);
    written.commit_many(20).await;
    for (from, to) in [(folder.clone(), away.clone()), (folder.join("db"), folder.join("db.old"))] {
        fs::rename(&from, &to).expect("it can be moved");
        for _ in 0..3 {
            assert_eq!(written.commit().await, Err(StoreError::Gone));
        }
        assert_eq!(
            written.ledger.faults(&written.store).await,
            Vec::<String>::new(),
            "reads go on"
        );
        assert!(!from.exists(), "the store made new files in the place of the missing ones");
        fs::rename(&to, &from).expect("it can be moved back");
        written.commit_until_accepted().await;
    }
    written.verify(&folder).await;
}

#[tokio::test]
async fn files_that_are_replaced_refuse_commits_until_the_originals_are_back() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (folder, away) = (dir.path().join("store"), dir.path().join("away"));
    let mut written = Written::open(&folder);
    written.commit_many(20).await;

    // The whole folder, by another good store.
    fs::rename(&folder, &away).expect("it can be moved");
    let mut other = Written::open(&folder);
    other.commit_many(5).await;
    assert_eq!(written.commit().await, Err(StoreError::Replaced));
    other.commit_many(5).await;
    other.verify(&folder).await;
    fs::remove_dir_all(&folder).expect("it can be removed");
    assert_eq!(written.commit().await, Err(StoreError::Gone));
    fs::rename(&away, &folder).expect("it can be moved back");
    written.commit_until_accepted().await;

    // The data file, by a copy of itself: what goes to the one is not in the other.
    let (db, old) = (folder.join("db"), folder.join("db.old"));
    fs::rename(&db, &old).expect("it can be moved");
    fs::copy(&old, &db).expect("it can be copied");
    assert_eq!(written.commit().await, Err(StoreError::Replaced));
    fs::rename(&old, &db).expect("it can be moved back");
    written.commit_until_accepted().await;
    written.verify(&folder).await;
}

#[tokio::test]
async fn deleted_files_refuse_every_commit() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let folder = dir.path().join("store");
    let mut written = Written::open(&folder);
    written.commit_many(20).await;
    fs::remove_dir_all(&folder).expect("it can be removed");
    for _ in 0..3 {
        assert_eq!(written.commit().await, Err(StoreError::Gone));
    }
    assert!(!folder.exists(), "the store made a new folder in the place of the missing one");
}

/// A frozen file system lets nobody write until it is thawed, and gives no error.
#[tokio::test]
async fn a_disk_that_does_not_answer_holds_nobody_past_the_deadline() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let disk = dir.path().join("disk");
    image(&disk, 64, &[]).expect("an image can be made");
    let mount = match Mount::new(Some(&disk), "loop", dir.path().join("mount")) {
        Ok(mount) => mount,
        Err(why) => return skip("a disk that hangs: it needs root and a loop device", &why),
    };
    let point = mount.path().to_str().expect("a temporary path is plain");
    let deadline = Duration::from_millis(400);
    let options = Options { deadline, ..Options::default() };
    let store = SledStore::open(&mount.path().join("store"), options).expect("the store opens");
    let write = |text| store.commit(vec![], vec![Write::Put(b"key".to_vec(), text)]);
    write(Value::from_static(b"before")).await.expect("nothing is wrong yet");

    run("fsfreeze", &["-f", point]).expect("the disk can be frozen");
    let begun = Instant::now();
    let first = write(Value::from_static(b"frozen")).await;
    let waited = begun.elapsed();
    // Time for the group that hangs to be past the deadline by more than the clock's grain.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (begun, second) = (Instant::now(), write(Value::from_static(b"frozen too")).await);
    let refused_in = begun.elapsed();
    let seen = store.get_now(b"key");
    // Thaw before the first assertion: a frozen disk cannot be unmounted.
    run("fsfreeze", &["-u", point]).expect("the disk can be thawed");
    assert_eq!(first, Err(CommitError::Store(StoreError::TimedOut)));
    assert!(waited >= deadline && waited < 5 * deadline, "it took {waited:?}");
    assert!(matches!(second, Err(CommitError::Store(StoreError::Io { .. }))), "got {second:?}");
    assert!(refused_in < deadline / 4, "nobody queues behind a disk that hangs: {refused_in:?}");
    assert_eq!(seen, Ok(Some(Value::from_static(b"before"))), "reads show what is durable");

    let patience = Instant::now() + Duration::from_secs(10);
    while write(Value::from_static(b"after")).await.is_err() {
        assert!(Instant::now() < patience, "the store does not recover");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(store.get_now(b"key"), Ok(Some(Value::from_static(b"after"))));
    store.close().await;
}

#[tokio::test]
async fn a_file_size_limit_is_an_error_and_not_the_end() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let folder = dir.path().join("store");
    let mut victim = Victim::start(&example("store_writer"), &folder);
    let limit = |fsize: &str| run("prlimit", &["--pid", &victim.id(), fsize]);
    let now = fs::metadata(folder.join("db")).expect("it is there").len();
    if let Err(why) = limit(&format!("--fsize={}:unlimited", now + 100_000)) {
        return skip("a file size limit: it needs prlimit", &why);
    }
    victim.wait_for("refused: ");
    run("prlimit", &["--pid", &victim.id(), "--fsize=unlimited"]).expect("the limit can be raised");
    victim.wait_for_progress();
    victim.wait_for_progress();
    let ledger = victim.kill();
    let store = SledStore::open(&folder, Options::default()).expect("the store opens again");
    assert_eq!(ledger.faults(&store).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_second_store_in_one_folder_is_refused_and_the_first_goes_on() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut written = Written::open(dir.path());
    let second = SledStore::open(dir.path(), Options::default()).err();
    assert_eq!(second, Some(StoreError::InUse));
    written.commit_many(20).await;
    // The lock goes with the store, though not at once.
    drop(written);
    SledStore::open(dir.path(), Options::default()).expect("the lock is free in time");
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut written = Written::open(dir.path());
    written.commit_many(3).await;
    let mut watch = written.store.watch(b"key");
    written.store.close().await;
    written.store.close().await;
    tokio::time::timeout(Duration::from_secs(5), watch.changed()).await.expect("waiters are woken");
    assert_eq!(written.commit().await, Err(StoreError::Closed));
    assert_eq!(written.store.get_now(b"key"), Err(StoreError::Closed));
}

#[tokio::test]
async fn a_new_folder_is_for_its_owner_only() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let folder = dir.path().join("a").join("b");
    let _store = SledStore::open(&folder, Options::default()).expect("the store opens");
    assert_eq!(fs::metadata(&folder).expect("it is there").mode() & 0o777, 0o700);
}

/// Copies the files of a store that is closed.
fn copy_of(folder: &Path, to: &Path) {
    fs::create_dir(to).expect("it can be made");
    for entry in fs::read_dir(folder).expect("it can be listed") {
        let path = entry.expect("it is there").path();
        if path.is_file() {
            let name = path.file_name().expect("it has a name");
            fs::copy(&path, to.join(name)).expect("it can be copied");
        }
    }
}

/// sled alone takes a changed byte for the torn end of a crash and forgets all that came later.
#[tokio::test]
async fn a_changed_file_is_refused_or_holds_all_that_was_acknowledged() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let folder = dir.path().join("store");
    let mut written = Written::open(&folder);
    written.commit_many(100).await;
    written.store.close().await;
    let length = fs::metadata(folder.join("db")).expect("it is there").len() as usize;
    let mut damages = vec![(0, 4096), (length / 2, 4096), (100, length - 100), (0, length)];
    damages.extend((0..48).map(|at| (at * length / 48 + at, 1)));
    let mut refused = 0;
    for (trial, (at, len)) in damages.into_iter().enumerate() {
        let copy = dir.path().join(trial.to_string());
        copy_of(&folder, &copy);
        let mut bytes = fs::read(copy.join("db")).expect("it can be read");
        let end = (at + len).min(bytes.len());
        bytes[at..end].iter_mut().for_each(|byte| *byte ^= 0x55);
        fs::write(copy.join("db"), bytes).expect("it can be written");
        match SledStore::open(&copy, Options::default()) {
            Ok(store) => {
                let faults = written.ledger.faults(&store).await;
                assert_eq!(faults, Vec::<String>::new(), "{len} bytes changed at {at}");
                store.close().await;
            }
            Err(StoreError::Damaged(_) | StoreError::Io { .. }) => refused += 1,
            Err(other) => panic!("{len} bytes changed at {at}: {other}"),
        }
    }
    assert!(refused > 20, "{refused} changes were noticed");
    // A log that is cut off, and one without its mark, are refused as well.
    for damage in ["cut", "no mark", "emptied"] {
        let copy = dir.path().join(damage);
        copy_of(&folder, &copy);
        match damage {
            "no mark" => fs::remove_file(copy.join("mark")).expect("it is there"),
            "cut" => {
                let file = fs::OpenOptions::new().write(true).open(copy.join("db"));
                let half = length as u64 / 2;
                file.and_then(|file| file.set_len(half)).expect("it can be cut");
            }
            _ => fs::write(copy.join("db"), b"").expect("it can be written"),
        }
        let opened = SledStore::open(&copy, Options::default());
        assert!(matches!(opened, Err(StoreError::Damaged(_))), "{damage} opens");
    }
    // The original is as good as it was.
    let again = SledStore::open(&folder, Options::default()).expect("the store opens");
    assert_eq!(written.ledger.faults(&again).await, Vec::<String>::new());
    again.close().await;
}

/// sled moves large pages to files of their own, which it does not sync. None may come to be.
#[tokio::test]
async fn the_longest_keys_and_values_stay_in_the_synced_file() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = SledStore::open(dir.path(), Options::default()).expect("the store opens");
    for round in 0..140u64 {
        // Keys that share no prefix, as long as they may be, in no order; enough of them to fill
        // index pages.
        let writes = (0..64u64).map(|n| {
            let mut key = vec![0; 512];
            let scattered = (round * 64 + n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            key[..8].copy_from_slice(&scattered.to_be_bytes());
            key[504..].copy_from_slice(&n.to_be_bytes());
            let len = match round {
                0..10 => 10_240,
                10..20 => 30_720,
                _ => 100,
            };
            Write::Put(key, Value::from(vec![round as u8; len]))
        });
        store.commit(vec![], writes.collect()).await.expect("commits");
    }
    let pages = fs::read_dir(dir.path().join("blobs")).expect("sled makes this folder");
    assert_eq!(pages.count(), 0, "pages outside of the synced file");
}
