//! Measures the embedded store: `cargo run --release --example store_bench -- DIR [SECONDS [CACHE_KIB]]`.
//!
//! DIR must lie on the disk that is to be measured; a store is made in a new folder under it and
//! removed. Prints a table. The bare `fdatasync` line is the floor for the single-writer one.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agentkeys::backend::store::{Check, KeyRange, Options, SledStore, Store, Value, Write};
use agentkeys::harden::durability::barriers;

fn main() {
    let mut args = std::env::args().skip(1);
    let Some(parent) = args.next() else {
        eprintln!("usage: store_bench DIR [SECONDS [CACHE_KIB]]");
        std::process::exit(2);
    };
    let seconds = args.next().map_or(3, |text| text.parse().expect("SECONDS is a number"));
    let mut options = Options::default();
    if let Some(text) = args.next() {
        options.cache_bytes = 1024 * text.parse::<u64>().expect("CACHE_KIB is a number");
    }
    let dir = Path::new(&parent).join(format!("store-bench-{}", std::process::id()));
    fs::create_dir(&dir).expect("DIR is a folder that can be written");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    runtime.block_on(bench(&dir, options, Duration::from_secs(seconds)));
    fs::remove_dir_all(&dir).expect("the folder can be removed");
}

async fn bench(dir: &Path, options: Options, time: Duration) {
    println!("idle without a store: {} KiB resident", resident());
    bare(dir, time);
    let path = dir.join("store");
    let store = Arc::new(SledStore::open(&path, options.clone()).expect("the store opens"));
    println!("idle with a new store: {} KiB resident", resident());
    for tasks in [1, 64, 256] {
        commits(&store, tasks, time).await;
        println!("    {} KiB resident, {} KiB on disk", resident(), on_disk(&path));
    }
    reads(&store, time);
    println!("after the load: {} KiB resident, {} KiB on disk", resident(), on_disk(&path));
    // One thousand rows, overwritten for ever: the files must not grow with the writes.
    for round in 1..=5 {
        let begun = Instant::now();
        for n in 0..1000u32 {
            let rows = (0..20).map(|i| row("churn", u64::from((n * 20 + i) % 1000))).collect();
            store.commit(vec![], rows).await.expect("commits");
        }
        println!(
            "churn {round}: {:.0} ms, {} KiB on disk, {} KiB resident",
            begun.elapsed().as_secs_f64() * 1e3,
            on_disk(&path),
            resident()
        );
    }
    let begun = Instant::now();
    store.close().await;
    drop(store);
    println!("close: {:.1} ms", begun.elapsed().as_secs_f64() * 1e3);
    let begun = Instant::now();
    let store = SledStore::open(&path, options.clone()).expect("the store opens");
    println!("open: {:.1} ms", begun.elapsed().as_secs_f64() * 1e3);
    println!("opened again: {} KiB resident", resident());
    store.close().await;
}

fn row(prefix: &str, n: u64) -> Write {
    Write::Put(format!("{prefix}/{n:012}").into_bytes(), Value::from(noise(n, 400)))
}

/// Bytes that differ between calls, so that no write is a write of what is there already.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let mut state = seed ^ (CALLS.fetch_add(1, Ordering::Relaxed) as u64) << 32 | 1;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    })
    .take(len)
    .collect()
}

fn bare(dir: &Path, time: Duration) {
    let path = dir.join("bare");
    let file = OpenOptions::new().create_new(true).write(true).open(&path).expect("a file");
    let mut took = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < time {
        let one = Instant::now();
        file.write_all_at(&noise(1, 1000), took.len() as u64 * 1000).expect("writes");
        file.sync_data().expect("syncs");
        took.push(one.elapsed());
    }
    report("bare append of 1 KB + fdatasync", begun.elapsed(), took);
}

/// Each commit checks one row and writes three: an audit event, a session, a head.
async fn commits(store: &Arc<SledStore>, tasks: u64, time: Duration) {
    let (begun, barriers) = (Instant::now(), barriers());
    let handles: Vec<_> = (0..tasks)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut took = Vec::new();
                while begun.elapsed() < time {
                    let n = took.len() as u64;
                    let checks = vec![Check::Absent(format!("none/{task}").into_bytes())];
                    let writes = vec![
                        row(&format!("event/{tasks}/{task}"), n),
                        row("session", task),
                        row("head", task),
                    ];
                    let one = Instant::now();
                    store.commit(checks, writes).await.expect("commits");
                    took.push(one.elapsed());
                }
                took
            })
        })
        .collect();
    let mut took: Vec<Duration> = Vec::new();
    for handle in handles {
        took.extend(handle.await.expect("no task fails"));
    }
    let each = (self::barriers() - barriers) as f64 / took.len() as f64;
    report(&format!("commits, {tasks} tasks, {each:.3} barriers each"), begun.elapsed(), took);
}

fn reads(store: &SledStore, time: Duration) {
    let rows = store.scan_now(&KeyRange::prefix(b"event/1/"), 1000).expect("scans");
    let (begun, mut count) = (Instant::now(), 0u32);
    while begun.elapsed() < time {
        for (key, _) in &rows {
            std::hint::black_box(store.get_now(key).expect("reads"));
            count += 1;
        }
    }
    println!(
        "reads of 400 bytes: {:.0} ns each",
        begun.elapsed().as_nanos() as f64 / f64::from(count)
    );
}

fn report(what: &str, elapsed: Duration, mut took: Vec<Duration>) {
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    println!(
        "{what}: {:.0}/s, p50 {:.0} us, p99 {:.0} us, max {:.0} us",
        took.len() as f64 / elapsed.as_secs_f64(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux");
    line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number")
}

fn on_disk(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::read_dir(dir)
        .expect("a folder")
        .filter_map(|entry| entry.ok()?.metadata().ok())
        .map(|metadata| metadata.blocks() / 2)
        .sum()
}
