//! How fast reads are, beside what this machine can do at all. One run measures everything, so
//! that figures compare: a bare hyper responder, the real backend with its durable audit log
//! (release binary, loopback TCP), `fdatasync`, and whole commands beside `/bin/true`.
//!
//! `cargo bench --bench load [-- SECONDS]` (5 seconds a row unless told).
use std::convert::Infallible;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use agentkeys::core::identity::ServiceName;
use agentkeys::core::seal::{self, Purpose};
use agentkeys::core::secret::Key32;
use agentkeys::core::types::{AccountId, PublicKey, WalletAddress};

const AGENTKEYS: &str = env!("CARGO_BIN_EXE_agentkeys");
/// The size of the credential that is read, in bytes.
const CREDENTIAL: usize = 64;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    match arguments.next().as_deref() {
        Some("bare-responder") => bare_responder(),
        seconds => {
            let seconds = seconds.and_then(|s| s.parse().ok()).unwrap_or(5);
            measure(Duration::from_secs(seconds));
        }
    }
}

/// What an HTTP server on this machine can do at all: hyper, one fixed answer.
fn bare_responder() {
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    let body = format!("{{\"credential\":\"{}\"}}", "A".repeat(CREDENTIAL.div_ceil(3) * 4));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("listening on http://{}", listener.local_addr().unwrap());
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let body = bytes::Bytes::from(body.clone());
            tokio::spawn(async move {
                let service = service_fn(move |_| {
                    let body = http_body_util::Full::new(body.clone());
                    async move { Ok::<_, Infallible>(hyper::Response::new(body)) }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
}

/// A server in a process of its own, ended with this value.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(command: &mut Command) -> Self {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").expect("the ready line");
        Self { child, address: address.parse().unwrap() }
    }

    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One keep-alive connection that knows just enough HTTP to count answers.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    fn ask(&mut self, request: &[u8]) -> (u16, Vec<u8>) {
        self.stream.write_all(request).unwrap();
        self.buffer.clear();
        let mut chunk = [0; 4096];
        loop {
            let read = self.stream.read(&mut chunk).unwrap();
            assert!(read > 0, "the server hung up");
            self.buffer.extend_from_slice(&chunk[..read]);
            let Some(head) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") else {
                continue;
            };
            let text = std::str::from_utf8(&self.buffer[..head]).unwrap().to_ascii_lowercase();
            let length: usize = text
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.trim().parse().unwrap());
            if self.buffer.len() >= head + 4 + length {
                let status = text[9..12].parse().unwrap();
                return (status, self.buffer[head + 4..].to_vec());
            }
        }
    }
}

fn post(path: &str, token: &str, json: &str) -> Vec<u8> {
    let bearer =
        if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\n{bearer}Content-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{json}",
        json.len()
    )
    .into_bytes()
}

fn get(path: &str, token: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n")
        .into_bytes()
}

fn member(json: &[u8], name: &str) -> String {
    let value: serde_json::Value = serde_json::from_slice(json).unwrap();
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}")).to_owned()
}

/// Signs in, makes an agent with one credential, and returns its session's read request.
fn prepare(address: SocketAddr) -> Vec<u8> {
    let mut connection = Connection::open(address);
    let (status, answer) =
        connection.ask(&post("/session/create", "", "{\"auth_token\":\"bench\"}"));
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
    let master = member(&answer, "session");
    let (_, answer) = connection.ask(&get("/session", &master));
    let account: AccountId = member(&answer, "account").parse().unwrap();
    let (_, answer) = connection.ask(&post("/session/child", &master, "{\"scope\":{}}"));
    let wallet: WalletAddress = member(&answer, "wallet").parse().unwrap();
    let child = member(&answer, "session");
    let (_, answer) = connection.ask(&get("/shielding-key", &master));
    let key: PublicKey = member(&answer, "public_key").parse().unwrap();
    let service: ServiceName = "openrouter".parse().unwrap();
    let purpose = Purpose::credential(account, wallet, &service);
    let sealed = seal::seal(&key, &purpose, &[b'k'; CREDENTIAL], &Key32::new([9; 32])).unwrap();
    let sealed = agentkeys::core::encoding::to_base64(&sealed);
    let json = format!(
        "{{\"agent_id\":\"{wallet}\",\"service\":\"openrouter\",\"ciphertext\":\"{sealed}\"}}"
    );
    let (status, answer) = connection.ask(&post("/credential/store", &master, &json));
    assert!(status < 300, "{}", String::from_utf8_lossy(&answer));
    get(&format!("/credential/read?agent_id={wallet}&service=openrouter"), &child)
}

/// Requests a second, and latencies in microseconds at the middle and the 99th percentile.
struct Row {
    per_second: f64,
    median: f64,
    p99: f64,
}

fn load(address: SocketAddr, request: &[u8], connections: usize, time: Duration) -> Row {
    let stop = Arc::new(AtomicBool::new(false));
    let start = Arc::new(Barrier::new(connections + 1));
    // Few threads with many connections each would be cheaper; one thread a connection is the
    // same for all servers, which is what a ratio needs.
    let workers: Vec<_> = (0..connections)
        .map(|_| {
            let (stop, start, request) = (stop.clone(), start.clone(), request.to_vec());
            thread::Builder::new()
                .stack_size(128 * 1024)
                .spawn(move || {
                    let mut connection = Connection::open(address);
                    for _ in 0..20 {
                        assert_eq!(connection.ask(&request).0, 200);
                    }
                    let mut latencies = Vec::with_capacity(1 << 16);
                    start.wait();
                    while !stop.load(Ordering::Relaxed) {
                        let asked = Instant::now();
                        let (status, _) = connection.ask(&request);
                        assert_eq!(status, 200);
                        latencies.push(asked.elapsed().as_nanos() as u64);
                    }
                    latencies
                })
                .unwrap()
        })
        .collect();
    start.wait();
    let began = Instant::now();
    thread::sleep(time);
    stop.store(true, Ordering::Relaxed);
    let mut latencies: Vec<u64> =
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect();
    let elapsed = began.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let at = |share: f64| latencies[(latencies.len() as f64 * share) as usize] as f64 / 1000.0;
    Row { per_second: latencies.len() as f64 / elapsed, median: at(0.5), p99: at(0.99) }
}

fn show(name: &str, connections: usize, row: &Row, bare: &Row) {
    println!(
        "| {name} | {connections} | {:.0} | {:.0} | {:.0} | {:.0} % |",
        row.per_second,
        row.median,
        row.p99,
        100.0 * row.per_second / bare.per_second
    );
}

fn measure(time: Duration) {
    let folder = tempfile::tempdir().unwrap();
    let sync = fdatasync(folder.path());
    println!("fdatasync of a small write: median {sync:.0} us\n");

    let bare = Server::start(Command::new(std::env::current_exe().unwrap()).arg("bare-responder"));
    let backend = Server::start(
        Command::new(AGENTKEYS)
            .env("HOME", folder.path())
            .env("AGENTKEYS_LOG", "warn")
            .args(["serve", "--dev", "--listen", "127.0.0.1:0", "--data"])
            .arg(folder.path().join("data")),
    );
    thread::sleep(Duration::from_secs(1));
    println!("backend, idle: {:.1} MB resident\n", backend.resident_kib() as f64 / 1024.0);
    let read = prepare(backend.address);

    println!("| server | connections | requests/s | median us | 99 % us | of bare |");
    println!("|---|---|---|---|---|---|");
    for connections in [1, 64] {
        let responder = load(bare.address, &read, connections, time);
        let reads = load(backend.address, &read, connections, time);
        show("bare hyper responder", connections, &responder, &responder);
        show("agentkeys read, audited", connections, &reads, &responder);
    }
    println!(
        "\nbackend, after the load: {:.1} MB resident\n",
        backend.resident_kib() as f64 / 1024.0
    );
    drop(backend);
    commands(folder.path());
}

/// The median of one small write with `fdatasync`, in microseconds.
fn fdatasync(folder: &Path) -> f64 {
    let mut file = File::create(folder.join("sync")).unwrap();
    let mut times: Vec<_> = (0..500)
        .map(|_| {
            let began = Instant::now();
            file.write_all(&[7; 512]).unwrap();
            file.sync_data().unwrap();
            began.elapsed().as_nanos() as f64 / 1000.0
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Whole commands on the embedded default, beside the smallest program there is.
fn commands(home: &Path) {
    let agentkeys = |arguments: &[&str]| {
        let mut command = Command::new(AGENTKEYS);
        command.args(arguments).env_clear().env("HOME", home).env("PATH", "/usr/bin:/bin");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    std::fs::write(home.join("key"), "sk-or-v1-bench").unwrap();
    let key = home.join("key");
    let stored =
        agentkeys(&["store", "bench", "openrouter", "--from-file", key.to_str().unwrap()]).status();
    assert!(stored.unwrap().success(), "store works");
    let mut bare = Command::new("/bin/true");
    bare.stdin(Stdio::null());
    let mut rows = vec![
        ("/bin/true", bare, Vec::new()),
        ("agentkeys --version", agentkeys(&["--version"]), Vec::new()),
        (
            "agentkeys read bench openrouter",
            agentkeys(&["read", "bench", "openrouter"]),
            Vec::new(),
        ),
        ("agentkeys run bench -- true", agentkeys(&["run", "bench", "--", "true"]), Vec::new()),
    ];
    for _ in 0..200 {
        for (name, command, times) in &mut rows {
            let began = Instant::now();
            assert!(command.status().unwrap().success(), "{name}");
            times.push(began.elapsed().as_nanos() as f64 / 1e6);
        }
    }
    println!("| command | median ms | over /bin/true, ms |\n|---|---|---|");
    let mut floor = 0.0;
    for (name, _, times) in &mut rows {
        times.sort_by(f64::total_cmp);
        let median = times[times.len() / 2];
        if floor == 0.0 {
            floor = median;
        }
        println!("| `{name}` | {median:.2} | {:.2} |", median - floor);
    }
    assert!(agentkeys(&["serve", "--stop"]).status().unwrap().success());
}
