//! What a daemon costs: how soon it answers after its start, how long a read through MCP takes,
//! and what memory an idle one holds. The daemon is spoken to as an MCP client does, over pipes.
//!
//! `cargo bench --bench daemon`
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/it/daemon_process.rs"]
mod daemon_process;
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/it/home.rs"]
mod home;

use daemon_process::{Daemon, pair};
use home::Home;

const STARTS: usize = 100;
const READS: usize = 2000;

fn main() {
    let home = Home::new();
    home.run(&["init"]).exits(0);
    home.store("bench", "openrouter", "sk-or-v1-0123456789abcdef0123456789abcdef");
    starts(&home);
    let mut daemon = Daemon::start(&home, &["--agent", "bench"]);
    daemon.initialize();
    pair(&home, &mut daemon, "bench");
    memory("paired", &daemon);
    reads(&mut daemon);
    std::thread::sleep(Duration::from_secs(4));
    memory("paired, after the reads, idle", &daemon);
    let read = daemon.call("get_credential", json!({ "service": "openrouter" }));
    assert_eq!(read["isError"], false);
    std::thread::sleep(Duration::from_secs(2));
    memory("idle, after one more", &daemon);
}

/// From the start of the process to the answer, in turns with a program that does nothing.
fn starts(home: &Home) {
    let (mut nothing, mut version, mut answer) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let begun = Instant::now();
        Command::new("/bin/true").stdout(Stdio::null()).status().unwrap();
        nothing.push(begun.elapsed());
        let begun = Instant::now();
        home.run(&["--version"]).exits(0);
        version.push(begun.elapsed());
        let begun = Instant::now();
        let mut daemon = Daemon::start(home, &[]);
        daemon.initialize();
        answer.push(begun.elapsed());
        daemon.hang_up();
        daemon.wait_exit();
    }
    let [nothing, version, answer] = [nothing, version, answer].map(Spread::of);
    println!("/bin/true, start to end: {nothing}");
    println!("agentkeys --version, start to end: {version}");
    println!("agentkeys daemon, start to the answer to initialize: {answer}");
    let over = answer.median.saturating_sub(nothing.median);
    println!("over /bin/true: {:.1} ms\n", over.as_secs_f64() * 1000.0);
}

fn reads(daemon: &mut Daemon) {
    let mut took = Vec::new();
    for _ in 0..READS {
        let begun = Instant::now();
        let read = daemon.call("get_credential", json!({ "service": "openrouter" }));
        took.push(begun.elapsed());
        assert_eq!(read["isError"], false);
    }
    println!("get_credential over MCP, one after another: {}\n", Spread::of(took));
}

struct Spread {
    median: Duration,
    late: Duration,
}

impl Spread {
    fn of(mut took: Vec<Duration>) -> Self {
        took.sort();
        Self { median: took[took.len() / 2], late: took[took.len() * 99 / 100] }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
        write!(f, "median {:.2} ms, 99 % {:.2} ms", ms(self.median), ms(self.late))
    }
}

/// What the kernel counts for the daemon and for its helper.
fn memory(when: &str, daemon: &Daemon) {
    let pid = daemon.pid();
    println!("daemon, {when}: {}", figures(pid));
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    for helper in children.split_whitespace() {
        println!("  its helper: {}", figures(helper.parse().unwrap()));
    }
}

fn figures(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let of = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kib.map_or("?".to_owned(), |kib| format!("{:.1}", kib / 1024.0))
    };
    format!(
        "{} MB resident: {} its own, {} of files it maps (its share of all that map them: {} MB)",
        of(&status, "VmRSS:"),
        of(&status, "RssAnon:"),
        of(&status, "RssFile:"),
        of(&rollup, "Pss:"),
    )
}
