//! What was acknowledged survives `kill -9` and a power cut.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use agentkeys::backend::store::{Options, SledStore};

use crate::store_ledger::Ledger;
use crate::store_victim::{Mount, Victim, arbitrary, example, image, skip};

const KILLS: usize = 40;
const POWER_CUTS: usize = 14;

async fn faults(dir: &Path, ledger: &Ledger) -> Vec<String> {
    let store = match SledStore::open(dir, Options::default()) {
        Ok(store) => store,
        Err(error) => return vec![format!("the store does not open: {error}")],
    };
    let faults = ledger.faults(&store).await;
    store.close().await;
    faults
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_in_40_kills() {
    let writer = example("store_writer");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut acknowledged = 0;
    for kill in 0..KILLS {
        // One store for all of them: each start also recovers from the kill before.
        let victim = Victim::start(&writer, dir.path());
        std::thread::sleep(Duration::from_millis(arbitrary(120)));
        let ledger = victim.kill();
        acknowledged = acknowledged.max(ledger.count());
        let faults = faults(dir.path(), &ledger).await;
        assert!(faults.is_empty(), "kill {kill}: {} faults, {:?}", faults.len(), faults[0]);
    }
    assert!(acknowledged > 1000, "{acknowledged} acknowledged commits are no load");
}

/// Runs a writer on a file system of its own, takes the disk away under it, and gives the disk as it
/// was at that moment, with all that the writer had acknowledged.
///
/// The copy is made of the image file below the loop device while the writer stands still: it holds
/// what the file system has handed to its disk, and not what it still has in memory, as after a cut.
fn cut_power(writer: &Path, dir: &Path) -> Result<(Mount, Ledger), String> {
    let (disk, copy) = (dir.join("disk"), dir.join("copy"));
    image(&disk, 192, &[])?;
    let before = Mount::new(Some(&disk), "loop", dir.join("before"))?;
    let mut victim = Victim::start(writer, &before.path().join("store"));
    // Less than the five seconds after which ext4 writes its journal out by itself.
    std::thread::sleep(Duration::from_millis(100 + arbitrary(900)));
    victim.stop();
    fs::copy(&disk, &copy).map_err(|error| error.to_string())?;
    let ledger = victim.kill();
    Ok((Mount::new(Some(&copy), "loop", dir.join("after"))?, ledger))
}

/// Whether this machine lets us mount an image.
fn can_mount() -> Result<(), String> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let disk = dir.path().join("disk");
    image(&disk, 16, &[])?;
    Mount::new(Some(&disk), "loop", dir.path().join("mount")).map(drop)
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_in_14_power_cuts() {
    if let Err(why) = can_mount() {
        return skip("power cuts: they need root and a loop device", &why);
    }
    let writer = example("store_writer");
    for cut in 0..POWER_CUTS {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (disk, ledger) = cut_power(&writer, dir.path()).expect("the disk can be handled");
        let faults = faults(&disk.path().join("store"), &ledger).await;
        assert!(faults.is_empty(), "cut {cut}: {} faults, {:?}", faults.len(), faults[0]);
    }
}

/// The negative control: without it, the test above could pass because its cuts cut nothing off.
#[tokio::test]
async fn sled_without_our_barrier_loses_acknowledged_writes_in_a_power_cut() {
    if let Err(why) = can_mount() {
        return skip("the control of the power cuts: it needs root and a loop device", &why);
    }
    let writer = example("store_writer_uncured");
    for _ in 0..POWER_CUTS {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (disk, ledger) = cut_power(&writer, dir.path()).expect("the disk can be handled");
        if !plain_has_all(&disk.path().join("store"), &ledger) {
            return;
        }
    }
    panic!("plain sled lost nothing in {POWER_CUTS} power cuts: they do not cut anything off");
}

/// Whether plain sled still has the last acknowledged commit of each task.
fn plain_has_all(dir: &Path, ledger: &Ledger) -> bool {
    let config = sled::Config::new().path(dir).segment_size(1024 * 1024).flush_every_ms(None);
    // sled may also panic over what it finds; that is a loss like any other.
    let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
    let Ok(Ok(db)) = opened else { return false };
    ledger.last_rows().all(|(key, value)| {
        db.get(key).ok().flatten().is_some_and(|found| found.as_ref() == &value[..])
    })
}

#[test]
fn the_barrier_is_linked_into_the_writer_and_not_into_its_control() {
    // The linker may drop a symbol without a word, above all with link-time optimisation. In every
    // build it is the store itself that asks for proof when it opens; this asks the binary.
    let writer = example("store_writer");
    let symbols = std::process::Command::new("nm").arg(&writer).output();
    let Ok(symbols) = symbols else {
        return skip("the symbol table of the writer", "nm is not installed");
    };
    let symbols = String::from_utf8_lossy(&symbols.stdout).into_owned();
    let defined = |line: &str| line.ends_with(" T sync_file_range");
    assert!(symbols.lines().any(defined), "sync_file_range is not ours in {}", writer.display());
    let control = example("store_writer_uncured");
    let control = std::process::Command::new("nm").arg(&control).output().expect("nm runs");
    assert!(
        !String::from_utf8_lossy(&control.stdout).lines().any(defined),
        "the control has our barrier, and so controls nothing"
    );
}
