//! A disk that fails below a file system that seems to have room: honestly, and not.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentkeys::backend::store::{Options, SledStore, StoreError};

use crate::store_failures::{Written, fill};
use crate::store_ledger::next_number;
use crate::store_victim::{Mount, image, skip};

/// A file system on a disk whose own store may be full: there seems to be room, writing is accepted,
/// and the barrier fails.
///
/// The disk is a loop device over an image file in memory that is smaller than the image. A loop
/// device calls a write that was cut short a success; the blocks behind the cut are lost without an
/// error. Only where no write is longer than the memory's page is it an honest disk.
struct ThinDisk {
    above: Option<Mount>,
    below: Mount,
    image: PathBuf,
    point: PathBuf,
    requests: PathBuf,
    former: String,
}

/// The parts of an image file that are there before anything is written to its files, in bytes.
const METADATA: usize = 6 << 20;

impl ThinDisk {
    /// Mounts a disk in `dir`, on which no single write is longer than `kilobytes`.
    fn new(dir: &Path, kilobytes: &str, options: &[&str]) -> Result<Self, String> {
        let below = Mount::new(None, "size=64m", dir.join("below"))?;
        let (disk, point) = (below.path().join("disk"), dir.join("above"));
        // The journal and all else that is not a file's content lies in front, and has its room for
        // good: a file system ends at the first failure of its journal.
        let layout = ["-b", "4096", "-N", "512", "-E", "packed_meta_blocks=1,lazy_itable_init=0"];
        image(&disk, 128, &[&layout, options].concat())?;
        let file = OpenOptions::new().read(true).write(true).open(&disk);
        let file = file.map_err(|error| error.to_string())?;
        let mut front = vec![0; METADATA];
        file.read_exact_at(&mut front, 0)
            .and_then(|()| file.write_all_at(&front, 0))
            .map_err(|error| error.to_string())?;
        let above = Mount::new(Some(&disk), "loop", point.clone())?;
        let device = fs::metadata(above.path()).map_err(|error| error.to_string())?.dev();
        let (major, minor) = (libc::major(device), libc::minor(device));
        let queue = PathBuf::from(format!("/sys/dev/block/{major}:{minor}/queue"));
        let requests = queue.join("max_sectors_kb");
        let former = fs::read_to_string(&requests).map_err(|error| error.to_string())?;
        fs::write(&requests, kilobytes).map_err(|error| error.to_string())?;
        Ok(Self { above: Some(above), below, image: disk, point, requests, former })
    }

    /// The folder at which the file system is mounted.
    fn path(&self) -> &Path {
        &self.point
    }

    /// The folder with the disk's own store.
    fn below(&self) -> &Path {
        self.below.path()
    }

    /// Mounts the file system afresh, which takes the kernel's memory of it away.
    fn mount_again(&mut self) {
        self.unmount();
        let above = Mount::new(Some(&self.image), "loop", self.point.clone());
        self.above = Some(above.expect("it mounts again"));
    }

    /// Gives what the disk holds now, as after a power cut, on a disk that has room.
    fn cut(&self, dir: &Path) -> Mount {
        let copy = dir.join("copy");
        fs::copy(&self.image, &copy).expect("it can be copied");
        Mount::new(Some(&copy), "loop", dir.join("after")).expect("the copy mounts")
    }

    /// Unmounts the file system: what only the kernel's memory held is gone.
    fn unmount(&mut self) {
        // The device keeps this when it goes to somebody else.
        let _ = fs::write(&self.requests, self.former.trim());
        self.above = None;
    }
}

impl Drop for ThinDisk {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// The longest write, in KiB, with which a thin disk is honest, and one with which it is not.
const HONEST: &str = "4";
const LYING: &str = "1280";

/// Gives a few pages back, in the middle of which the next writes are cut short.
fn leave_a_little(ballast: &Path) {
    let file = OpenOptions::new().write(true).open(ballast).expect("it is there");
    let len = file.metadata().expect("it is there").len();
    file.set_len(len - 5 * 4096).expect("it can be cut");
}

/// Commits until a barrier fails, twice, and each time goes on without a restart.
async fn fail_and_recover(disk: &ThinDisk, written: &mut Written) {
    written.commit_many(50).await;
    for _ in 0..2 {
        let ballast = fill(disk.below());
        leave_a_little(&ballast);
        let error = written.commit_until_refused().await;
        // The loop device hands on its own disk's ENOSPC; others would say EIO.
        let failed = match error {
            StoreError::DiskFull { free, needed } => free > needed,
            ref other => matches!(other, StoreError::Io { .. }),
        };
        assert!(failed, "expected a failed barrier, got {error:?}");
        for _ in 0..5 {
            assert!(written.commit().await.is_err(), "the disk has not changed");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        fs::remove_file(ballast).expect("the ballast can be removed");
        written.commit_until_accepted().await;
    }
}

#[tokio::test]
async fn a_failing_barrier_refuses_commits_until_the_disk_works_again() {
    for options in [&["-J", "size=4"][..], &["-O", "^has_journal"]] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut disk = match ThinDisk::new(dir.path(), HONEST, options) {
            Ok(disk) => disk,
            Err(why) => return skip("failing barriers: root and a loop device", &why),
        };
        let folder = disk.path().join("store");
        let mut written = Written::open(&folder);
        fail_and_recover(&disk, &mut written).await;
        let ledger = written.ledger.clone();
        written.verify(&folder).await;
        // After a failed barrier the kernel may show what never reached the disk.
        disk.mount_again();
        let store = SledStore::open(&folder, Options::default()).expect("the store opens");
        assert_eq!(ledger.faults(&store).await, Vec::<String>::new());
        store.close().await;
    }
}

/// The disk has confirmed a barrier and not kept what came before it: acknowledged commits are in
/// the kernel's memory only when the next barrier fails.
#[tokio::test]
async fn a_disk_that_loses_what_it_has_confirmed_is_given_it_again() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut disk = match ThinDisk::new(dir.path(), LYING, &["-J", "size=4"]) {
        Ok(disk) => disk,
        Err(why) => return skip("a disk that lies: root and a loop device", &why),
    };
    let folder = disk.path().join("store");
    let mut written = Written::open(&folder);
    fail_and_recover(&disk, &mut written).await;
    let ledger = written.ledger.clone();
    written.verify(&folder).await;
    disk.mount_again();
    let store = SledStore::open(&folder, Options::default()).expect("the store opens");
    assert_eq!(ledger.faults(&store).await, Vec::<String>::new());
    store.close().await;
}

/// Where the kernel's memory is gone as well, nothing can give those commits back. The store must
/// notice, and go on noticing: what opens it must not make the rest look whole.
#[tokio::test]
async fn a_disk_that_has_lost_what_it_confirmed_never_opens_with_less() {
    let mut refused = 0;
    for _ in 0..3 {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut disk = match ThinDisk::new(dir.path(), LYING, &["-J", "size=4"]) {
            Ok(disk) => disk,
            Err(why) => return skip("a disk that has lied: root and a loop device", &why),
        };
        let mut written = Written::open(&disk.path().join("store"));
        written.commit_many(50).await;
        leave_a_little(&fill(disk.below()));
        written.commit_until_refused().await;
        written.store.close().await;
        disk.unmount();
        let after = disk.cut(dir.path());
        let folder = after.path().join("store");
        let mut answers = Vec::new();
        for _ in 0..3 {
            match SledStore::open(&folder, Options::default()) {
                Ok(store) => {
                    assert_eq!(written.ledger.faults(&store).await, Vec::<String>::new());
                    store.close().await;
                    answers.push(true);
                }
                Err(StoreError::Damaged(_)) => answers.push(false),
                Err(other) => panic!("expected a damaged store, got {other}"),
            }
        }
        assert!(answers.iter().all(|open| *open == answers[0]), "it changed its mind: {answers:?}");
        refused += usize::from(!answers[0]);
    }
    assert!(refused > 0, "the disk lost nothing, so this has shown nothing");
}

/// A process that ends after a failed barrier leaves its bytes in the kernel's memory, called
/// written. The next one must not build on them.
#[tokio::test]
async fn a_restart_after_a_failed_barrier_builds_on_what_the_disk_holds_only() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let disk = match ThinDisk::new(dir.path(), HONEST, &["-J", "size=4"]) {
        Ok(disk) => disk,
        Err(why) => return skip("a restart after a failed barrier: a loop device", &why),
    };
    let folder = disk.path().join("store");
    let mut written = Written::open(&folder);
    written.commit_many(50).await;
    let ballast = fill(disk.below());
    written.commit_until_refused().await;
    written.store.close().await;
    fs::remove_file(ballast).expect("the ballast can be removed");
    let store = SledStore::open(&folder, Options::default()).expect("the store opens");
    assert_eq!(written.ledger.faults(&store).await, Vec::<String>::new());
    // The commit that was refused may have happened.
    let next = next_number(&store, 0).await;
    let mut written = Written { store, ledger: written.ledger, next };
    written.commit_many(20).await;
    let after = disk.cut(dir.path());
    written.store.close().await;
    let store = SledStore::open(&after.path().join("store"), Options::default());
    let store = store.expect("the store opens after the cut");
    assert_eq!(written.ledger.faults(&store).await, Vec::<String>::new());
    store.close().await;
}
