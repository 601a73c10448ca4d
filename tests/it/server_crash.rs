//! What the real server has acknowledged survives `kill -9` and a power cut: every store is
//! there, every read that was answered has its event, and the audit log is whole.
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentkeys::client::http::{Address, HttpBackend};
use agentkeys::core::audit::{Action, Entry, Head, Outcome, Walk};
use agentkeys::core::backend::AccountBackend;

use crate::env::Master;
use crate::home::BINARY;
use crate::store_victim::{Mount, arbitrary, image, run, skip};

const KILLS: usize = 40;
const POWER_CUTS: usize = 8;
const AGENTS: usize = 4;

/// A real server over a data folder.
struct Server {
    child: Child,
    address: Address,
}

impl Server {
    fn start(data: &Path, home: &Path) -> Self {
        let mut child = Command::new(BINARY)
            .args(["serve", "--dev", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .env_clear()
            .env("HOME", home)
            .env("AGENTKEYS_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("the ready line");
        let address = line.trim().strip_prefix("listening on ").expect("the ready line");
        Self { child, address: address.parse().expect("an address") }
    }

    async fn master(&self) -> Master {
        let backend: Arc<dyn AccountBackend> = Arc::new(HttpBackend::new(self.address.clone()));
        Master::sign_in(backend, "ada").await
    }

    fn signal(&self, name: &str) {
        run("kill", &[&format!("-{name}"), &self.child.id().to_string()]).expect("it is there");
    }

    fn kill(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGKILL: it gets no chance to tidy up.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What was acknowledged, counted as soon as the answer was there.
#[derive(Default)]
struct Acknowledged {
    /// The last value stored, for each agent.
    stored: [AtomicU64; AGENTS],
    /// Reads that were answered, for each agent.
    read: [AtomicU64; AGENTS],
    /// The furthest head that an answer carried.
    head: Mutex<Option<Head>>,
}

impl Acknowledged {
    fn note_head(&self, master: &Master) {
        let Some(head) = master.backend.last_head() else { return };
        let mut known = self.head.lock().unwrap();
        if known.as_ref().is_none_or(|known| known.place() < head.place()) {
            *known = Some(head);
        }
    }
}

/// Stores and reads as fast as it goes, until the server is gone.
async fn load(master: Arc<Master>, at: usize, acknowledged: Arc<Acknowledged>) {
    let name = format!("agent-{at}");
    let mut next = acknowledged.stored[at].load(Ordering::SeqCst);
    loop {
        next += 1;
        if master.try_store(&name, "openrouter", next.to_string().as_bytes()).await.is_err() {
            return;
        }
        acknowledged.stored[at].store(next, Ordering::SeqCst);
        acknowledged.note_head(&master);
        for _ in 0..3 {
            match master.try_read(&name, "openrouter").await {
                Ok(value) => {
                    assert_eq!(value, next.to_string().as_bytes());
                    acknowledged.read[at].fetch_add(1, Ordering::SeqCst);
                    acknowledged.note_head(&master);
                }
                Err(_) => return,
            }
        }
    }
}

/// Looks for anything acknowledged that is not there.
async fn check(server: &Server, acknowledged: &Acknowledged) {
    let master = server.master().await;
    let (entries, head) = master.log().await;
    let mut walk = Walk::new(head.backend_id, head.account, None);
    let mut reads = [0u64; AGENTS];
    for entry in &entries {
        walk.step(entry).expect("the chain is whole");
        let Entry::Event(event) = entry else { panic!("a damaged event") };
        if event.action == Action::Read && event.outcome == Outcome::Allowed {
            let name = event.agent_name.as_deref().expect("a named agent");
            reads[name["agent-".len()..].parse::<usize>().expect("a number")] += 1;
        }
    }
    walk.finish(&head).expect("the head is the end of the chain");
    // Nobody who saw a head takes the log for one that was set back.
    let seen = acknowledged.head.lock().unwrap().clone();
    if let Some(seen) = seen {
        let compared = master.backend.compare_head(None, &seen).await.expect("it is compared");
        assert!(compared.agrees, "event {} was shown; the log ends at {}", seen.seq, head.seq);
    }
    for (at, reads) in reads.into_iter().enumerate() {
        let released = acknowledged.read[at].load(Ordering::SeqCst);
        assert!(reads >= released, "{released} reads answered, {reads} on record");
        let stored = acknowledged.stored[at].load(Ordering::SeqCst);
        let value = master.read(&format!("agent-{at}"), "openrouter").await;
        let there: u64 = String::from_utf8(value).unwrap().parse().unwrap();
        assert!(there >= stored, "{stored} was acknowledged, {there} is there");
        acknowledged.stored[at].store(there, Ordering::SeqCst);
        acknowledged.read[at].store(reads + 1, Ordering::SeqCst);
    }
}

/// Puts the server under load until `stop` ends it.
async fn under_load(
    server: Server,
    acknowledged: &Arc<Acknowledged>,
    stop: impl AsyncFnOnce(Server),
) {
    let master = Arc::new(server.master().await);
    let tasks: Vec<_> = (0..AGENTS)
        .map(|at| tokio::spawn(load(master.clone(), at, acknowledged.clone())))
        .collect();
    stop(server).await;
    for task in tasks {
        task.await.expect("the load ends by itself");
    }
}

async fn prepare(server: &Server) {
    let master = server.master().await;
    for at in 0..AGENTS {
        master.agent(&format!("agent-{at}")).await;
        master.store(&format!("agent-{at}"), "openrouter", b"0").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_in_40_kills_of_the_server() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let data = dir.path().join("data");
    let acknowledged = Arc::new(Acknowledged::default());
    let server = Server::start(&data, dir.path());
    prepare(&server).await;
    server.kill();
    for _ in 0..KILLS {
        let server = Server::start(&data, dir.path());
        check(&server, &acknowledged).await;
        under_load(server, &acknowledged, async |server| {
            tokio::time::sleep(Duration::from_millis(10 + arbitrary(120))).await;
            server.kill();
        })
        .await;
    }
    let server = Server::start(&data, dir.path());
    check(&server, &acknowledged).await;
    server.kill();
    let stored: u64 = acknowledged.stored.iter().map(|n| n.load(Ordering::SeqCst)).sum();
    assert!(stored > 100, "{stored} acknowledged stores are no load");
    let seen = acknowledged.head.lock().unwrap().as_ref().map_or(0, |head| head.seq);
    assert!(seen > 100, "heads up to event {seen} were seen");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_the_server_loses_its_power() {
    for cut in 0..POWER_CUTS {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (disk, copy) = (dir.path().join("disk"), dir.path().join("copy"));
        let before = image(&disk, 192, &[])
            .and_then(|()| Mount::new(Some(&disk), "loop", dir.path().join("before")));
        let before = match before {
            Ok(before) => before,
            Err(why) => return skip("power cuts: they need root and a loop device", &why),
        };
        let data = before.path().join("data");
        let acknowledged = Arc::new(Acknowledged::default());
        let server = Server::start(&data, dir.path());
        prepare(&server).await;
        let seen = Arc::new(Acknowledged::default());
        under_load(server, &acknowledged, async |server| {
            tokio::time::sleep(Duration::from_millis(100 + arbitrary(900))).await;
            // The server stands still; what it has not made durable is only in memory.
            server.signal("STOP");
            for at in 0..AGENTS {
                let copy = |from: &AtomicU64, to: &AtomicU64| {
                    to.store(from.load(Ordering::SeqCst), Ordering::SeqCst);
                };
                copy(&acknowledged.stored[at], &seen.stored[at]);
                copy(&acknowledged.read[at], &seen.read[at]);
            }
            seen.head.lock().unwrap().clone_from(&acknowledged.head.lock().unwrap());
            fs::copy(&disk, &copy).expect("the image can be copied");
            server.kill();
        })
        .await;
        let after = Mount::new(Some(&copy), "loop", dir.path().join("after")).expect("it mounts");
        let server = Server::start(&after.path().join("data"), dir.path());
        check(&server, &seen).await;
        server.kill();
        let reads: u64 = seen.read.iter().map(|n| n.load(Ordering::SeqCst)).sum();
        assert!(reads > 20, "cut {cut}: {reads} acknowledged reads are no load");
    }
}
