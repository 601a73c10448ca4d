//! What root finds in the memory of a daemon whose session is live and that has nothing to do:
//! the test reads all of it through `/proc/PID/mem`, as well as its helper's, and looks for every
//! secret that went through it, whole and in part.
//!
//! The session never leaves the daemon but towards its backend, so the test stands between the
//! two and takes the tokens out of what passes.
use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agentkeys::core::backend::Grant;
use agentkeys::core::cbor;
use agentkeys::core::encoding::{from_base64, to_base64};
use agentkeys::core::identity::AgentIdentity;
use ring::digest::{SHA512, digest};
use serde_json::{Value, json};

use crate::daemon_process::Daemon;
use crate::env::{HOUR, Master, START, TestEnv};
use crate::home::Home;
use crate::store_victim::skip;
use crate::tls_relay::{Seen, relay};
use crate::tls_support::self_signed;

/// A part of a secret that is looked for, in bytes, and how far the next one is from it: whatever
/// part of `PART + STEP` bytes is left holds one whole.
const PART: usize = 16;
const STEP: usize = 4;
/// Bytes by which parts are told apart at first sight.
const SIGHT: usize = 8;

/// What is looked for, and what it is called.
#[derive(Default)]
struct Wanted {
    parts: HashMap<[u8; SIGHT], Vec<([u8; PART], String)>>,
    /// Whether a part begins with these two bytes.
    begins: Vec<bool>,
}

impl Wanted {
    fn add(&mut self, name: &str, secret: &[u8]) {
        assert!(secret.len() >= PART, "{name} is too short to be looked for");
        if self.begins.is_empty() {
            self.begins = vec![false; 1 << 16];
        }
        for at in (0..=secret.len() - PART).step_by(STEP) {
            let part: [u8; PART] = secret[at..at + PART].try_into().unwrap();
            let sight = part[..SIGHT].try_into().unwrap();
            let names = self.parts.entry(sight).or_default();
            if !names.iter().any(|(known, _)| *known == part) {
                names.push((part, format!("{name}[{at}..]")));
            }
            self.begins[usize::from(u16::from_le_bytes([part[0], part[1]]))] = true;
        }
    }

    /// A key: its bytes, their hexadecimal digits, and their base64.
    fn add_key(&mut self, name: &str, key: &[u8]) {
        self.add(name, key);
        self.add(&format!("{name} in hex"), hex(key).as_bytes());
        self.add(&format!("{name} in base64"), to_base64(key).as_bytes());
    }

    /// A token: its text, but for the prefix, which is no secret, and the bytes it stands for.
    fn add_token(&mut self, token: &str) {
        let (name, digits) = token.split_at(5);
        let random: Vec<u8> = (0..32)
            .map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap())
            .collect();
        let name = format!("{name}{}…", &digits[..4]);
        self.add(&name, digits.as_bytes());
        self.add(&format!("{name} in bytes"), &random);
        self.add(&format!("{name} in base64"), to_base64(&random).as_bytes());
    }

    fn add_text(&mut self, name: &str, text: &str) {
        self.add(name, text.as_bytes());
        self.add(&format!("{name} in base64"), to_base64(text.as_bytes()).as_bytes());
        self.add(&format!("{name} in hex"), hex(text.as_bytes()).as_bytes());
    }

    /// The names of the parts that are in `bytes`, with where they are.
    fn found_in(&self, bytes: &[u8], start: u64, found: &mut Vec<(u64, String)>) {
        const PAGE: usize = 4096;
        let last = bytes.len().saturating_sub(PART - 1);
        for page in (0..last).step_by(PAGE) {
            // What begins here may end in the next page.
            let end = (page + PAGE).min(last);
            if bytes[page..end] == [0; PAGE][..end - page] {
                continue;
            }
            let mut at = page;
            while at < end {
                let begin = u16::from_le_bytes([bytes[at], bytes[at + 1]]);
                if self.begins[usize::from(begin)] {
                    let window = &bytes[at..at + PART];
                    let parts = self.parts.get(&window[..SIGHT]);
                    for (part, name) in parts.into_iter().flatten() {
                        if part == window {
                            found.push((start + at as u64, name.clone()));
                        }
                    }
                }
                at += 1;
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a scan of a process came to.
struct Scan {
    /// Where what was found lies: the mapping, the address, the part's name.
    found: Vec<String>,
    /// Names of the mappings that could be read from end to end.
    read: BTreeSet<String>,
    /// Names of those that could not.
    closed: BTreeSet<String>,
}

/// Reads all of a process's memory, or what of it can be written, and looks for what is wanted.
fn scan(pid: u32, wanted: &Wanted, all: bool) -> Scan {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut scan = Scan { found: Vec::new(), read: BTreeSet::new(), closed: BTreeSet::new() };
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        if !all && !rights.contains('w') {
            continue;
        }
        let name = words.nth(3).unwrap_or("anonymous").to_owned();
        let (start, end) = range.split_once('-').unwrap();
        let start = u64::from_str_radix(start, 16).unwrap();
        let end = u64::from_str_radix(end, 16).unwrap();
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        // Reading by this file asks for no right of the mapping's, so guard pages show as well.
        match memory.read_exact_at(&mut bytes, start) {
            Ok(()) => {
                let mut here = Vec::new();
                wanted.found_in(&bytes, start, &mut here);
                for (at, part) in here {
                    scan.found.push(format!("{part} at {at:x} in {name} {range} {rights}"));
                }
                scan.read.insert(name);
            }
            Err(_) => {
                scan.closed.insert(name);
            }
        }
    }
    scan
}

/// Scans until nothing is found: the process may still be at what it was asked last.
fn scan_when_idle(pid: u32, wanted: &Wanted) -> Scan {
    let begun = Instant::now();
    // So much sooner than all of it that it can be done often.
    while !scan(pid, wanted, false).found.is_empty() && begun.elapsed() < Duration::from_secs(15) {
        std::thread::sleep(Duration::from_millis(200));
    }
    scan(pid, wanted, true)
}

/// Passes bytes on between the daemon and its backend, and keeps a copy.
struct Between {
    /// How the daemon is told to reach it.
    backend: String,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Between {
    fn new(backend: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let copies = seen.clone();
        std::thread::spawn(move || {
            for daemon in listener.incoming().map_while(Result::ok) {
                let to_backend = TcpStream::connect(backend).unwrap();
                let ways = [(&daemon, &to_backend, true), (&to_backend, &daemon, false)];
                for (from, to, asks) in ways {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let (copies, host) = (copies.clone(), asks.then_some((address, backend)));
                    std::thread::spawn(move || pass_on(from, to, &copies, host));
                }
            }
        });
        Self { backend: format!("http://{address}"), seen }
    }

    /// The same with TLS, and so HTTP/2, between the daemon and itself.
    async fn over_tls(backend: SocketAddr) -> Self {
        let (issued, seen) = (self_signed(&["127.0.0.1"]), Seen::default());
        let address = relay(backend, &issued, seen.clone()).await;
        Self { backend: format!("https://{address}#{}", issued.pin()), seen }
    }

    /// All tokens that have passed so far, of whatever kind.
    fn tokens(&self) -> BTreeSet<String> {
        let seen = self.seen.lock().unwrap();
        let mut tokens = BTreeSet::new();
        for window in seen.windows(5 + 72) {
            if window.starts_with(b"agk")
                && window[4] == b'_'
                && window[5..].iter().all(u8::is_ascii_hexdigit)
            {
                tokens.insert(String::from_utf8(window.to_vec()).unwrap());
            }
        }
        tokens
    }
}

/// Passes on until either side hangs up. Requests come in one piece, and name the first of `host`,
/// where the backend wants to be named itself.
fn pass_on(
    mut from: TcpStream,
    mut to: TcpStream,
    copies: &Mutex<Vec<u8>>,
    host: Option<(SocketAddr, SocketAddr)>,
) {
    let mut some = [0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut some) {
        copies.lock().unwrap().extend_from_slice(&some[..read]);
        let mut bytes = some[..read].to_vec();
        if let Some((named, meant)) = host {
            let (named, meant) = (named.to_string(), meant.to_string());
            if let Some(at) = bytes.windows(named.len()).position(|w| w == named.as_bytes()) {
                bytes.splice(at..at + named.len(), meant.into_bytes());
            }
        }
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

/// The secrets in a mirror that nothing seals: both keys and the renewal secret.
fn secrets_of(home: &Home) -> (String, Vec<u8>, Vec<u8>, String) {
    let mirror = home.path().join(".agentkeys/agents/my-bot/session");
    let mirror: Value = serde_json::from_slice(&fs::read(mirror).unwrap()).unwrap();
    let text = mirror["secrets"].as_str().unwrap().to_owned();
    let secrets: HashMap<String, String> =
        cbor::from_canonical(&from_base64("secrets", &text).unwrap()).unwrap();
    let key = |name: &str| from_base64("a key", &secrets[name]).unwrap();
    (text, key("ed25519"), key("x25519"), secrets["renewal"].clone())
}

fn add_mirror(wanted: &mut Wanted, home: &Home) {
    let (text, ed25519, x25519, renewal) = secrets_of(home);
    wanted.add("the mirror", text.as_bytes());
    wanted.add_key("the Ed25519 key", &ed25519);
    wanted.add_key("the X25519 key", &x25519);
    // What signing makes of the seed. Of the first half, bits at both ends are changed.
    let expanded = digest(&SHA512, &ed25519);
    wanted.add("the Ed25519 scalar", &expanded.as_ref()[1..31]);
    wanted.add("the Ed25519 prefix", &expanded.as_ref()[32..]);
    wanted.add_token(&renewal);
}

fn helper_of(pid: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.split_whitespace().next().expect("it has a helper").parse().unwrap()
}

/// Whether this test may look into other processes at all.
fn may_scan() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let all = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let all = u64::from_str_radix(all.unwrap().trim(), 16).unwrap();
    // CAP_SYS_PTRACE
    let may = all & (1 << 19) != 0;
    if !may {
        skip("the memory of a daemon", "only root may read it");
    }
    may
}

fn unix_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

async fn approve(master: &Master, waits: &Value) {
    let code = waits["pair_code"].as_str().unwrap_or_else(|| panic!("it does not ask: {waits}"));
    let code = code.parse().unwrap();
    let fetched = master.backend.fetch_auth_request(&master.session, code).await.unwrap();
    let grant =
        Grant { agent_id: Some("my-bot".parse::<AgentIdentity>().unwrap()), ..Grant::default() };
    let seen = Some(fetched.seen_hash());
    master.backend.approve_auth_request(&master.session, fetched.id, seen, grant).await.unwrap();
}

fn read(daemon: &mut Daemon, service: &str) -> String {
    let read = daemon.call("get_credential", json!({ "service": service }));
    let credential = read["structuredContent"]["credential"].as_str();
    credential.unwrap_or_else(|| panic!("{read}")).to_owned()
}

fn until_paired(daemon: &mut Daemon) {
    let begun = Instant::now();
    while daemon.call("list_credentials", json!({}))["structuredContent"]["credentials"].is_null() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", daemon.stderr());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The scan finds what an ordinary process holds, be it that it never looks at it.
#[test]
fn the_scan_finds_every_secret_in_a_process_that_is_not_hardened() {
    if !may_scan() {
        return;
    }
    let token = format!("agkc_{}", "b47d0c92e15f83a6d9027e4c".repeat(3));
    let key: Vec<u8> = (0..32_u8).map(|at| at.wrapping_mul(167) ^ 0x5a).collect();
    let mut wanted = Wanted::default();
    wanted.add_token(&token);
    wanted.add_key("a key", &key);
    for what in [token.as_bytes(), &key, hex(&key).as_bytes(), to_base64(&key).as_bytes()] {
        let mut other =
            Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let before = scan(other.id(), &wanted, true);
        other.stdin.as_mut().unwrap().write_all(what).unwrap();
        let begun = Instant::now();
        let after = loop {
            let after = scan(other.id(), &wanted, false);
            if !after.found.is_empty() || begun.elapsed() > Duration::from_secs(10) {
                break after;
            }
        };
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(before.found.is_empty(), "{:?}", before.found);
        assert!(after.found.len() >= (what.len() - PART) / STEP, "{:?}", after.found);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_of_an_idle_daemon_finds_no_session_no_key_and_no_credential() {
    if may_scan() {
        let env = TestEnv::new().await;
        let between = Between::new(env.address());
        finds_nothing(&env, &between).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_of_an_idle_daemon_finds_nothing_that_went_over_tls_either() {
    if may_scan() {
        let env = TestEnv::new().await;
        let between = Between::over_tls(env.address()).await;
        finds_nothing(&env, &between).await;
        let seen = String::from_utf8_lossy(&between.seen.lock().unwrap()).into_owned();
        assert!(seen.contains("\nHTTP/2.0\nBearer agkc_"), "it did not go by HTTP/2");
    }
}

async fn finds_nothing(env: &TestEnv, between: &Between) {
    // The daemon's clock is the system's.
    env.clock.advance(unix_ms() - START.0);
    let master = env.master("ada").await;
    let agent = master.agent("my-bot").await;
    let mut credentials: Vec<(String, String)> = (0..8)
        .map(|number| (format!("service-{number}"), format!("sk-or-v1-{number}-q7Vx2mNwKd8ZrT4y")))
        .collect();
    // One that no buffer takes whole at first.
    let mut large: Vec<u8> = b"begin".to_vec();
    while large.len() < 40_000 {
        large.extend(hex(digest(&SHA512, &large).as_ref()).as_bytes());
    }
    credentials.push(("large".to_owned(), String::from_utf8(large).unwrap()));
    for (service, secret) in &credentials {
        master.store("my-bot", service, secret.as_bytes()).await;
    }
    let home = Home::new();
    let start = || {
        let mut command = home.command(&["daemon", "--agent", "my-bot"]);
        let mut daemon = Daemon::spawn(command.env("AGENTKEYS_BACKEND", &between.backend));
        daemon.initialize();
        daemon
    };
    let mut daemon = start();
    let asked = daemon.call("list_credentials", json!({}));
    assert!(asked["structuredContent"].is_object(), "{asked}");
    approve(&master, &asked["structuredContent"]).await;
    until_paired(&mut daemon);
    let mut wanted = Wanted::default();
    add_mirror(&mut wanted, &home);
    for (service, secret) in &credentials {
        wanted.add_text(service, secret);
    }
    let read_all = |daemon: &mut Daemon| {
        for (service, secret) in &credentials {
            assert_eq!(read(daemon, service), *secret);
        }
        // All at once, over as many connections.
        let call = |(service, _): &(String, String)| json!({ "name": "get_credential", "arguments": { "service": service } });
        let begun: Vec<u64> =
            credentials.iter().map(|one| daemon.begin("tools/call", call(one))).collect();
        for (id, (_, secret)) in begun.into_iter().zip(&credentials) {
            let answer = daemon.answer_to(id);
            assert_eq!(answer["result"]["structuredContent"]["credential"], **secret);
        }
        // By programs beside it, over its socket.
        for (service, secret) in &credentials {
            assert_eq!(home.run(&["read", "my-bot", service]).exits(0).stdout, *secret);
        }
        let beside = ["run", "my-bot", "--", "sh", "-c", "echo $SERVICE_3_API_KEY"];
        assert_eq!(home.run(&beside).exits(0).stdout.trim(), credentials[3].1);
        let asked = daemon.call("request_access", json!({ "service": "large", "reason": "why" }));
        assert_eq!(asked["structuredContent"]["status"], "allowed", "{asked}");
    };
    read_all(&mut daemon);
    let session = |tokens: &BTreeSet<String>| {
        tokens.iter().filter(|token| token.starts_with("agkc_")).count()
    };
    let clean = |daemon: &Daemon, wanted: &mut Wanted, when: &str| {
        for token in between.tokens() {
            wanted.add_token(&token);
        }
        for pid in [daemon.pid(), helper_of(daemon.pid())] {
            let scan = scan_when_idle(pid, wanted);
            assert!(scan.found.is_empty(), "{when}, process {pid}:\n{}", scan.found.join("\n"));
            for place in ["[heap]", "[stack]"] {
                assert!(scan.read.contains(place), "{place} was not read: {:?}", scan.closed);
            }
        }
        // The same scan finds what the daemon does hold in ordinary memory.
        let mut open = Wanted::default();
        open.add("the agent's address", &agent.wallet.0);
        assert!(!scan(daemon.pid(), &open, false).found.is_empty(), "the scan sees nothing at all");
    };
    // Every kind has passed by, so every kind is looked for.
    let tokens = between.tokens();
    for kind in ["agkc_", "agko_", "agkp_"] {
        assert!(tokens.iter().any(|token| token.starts_with(kind)), "no {kind} in {tokens:?}");
    }
    clean(&daemon, &mut wanted, "after pairing and reading");
    // The session ends; the daemon gets the next one by itself.
    env.clock.advance(5 * HOUR);
    let before = session(&between.tokens());
    read_all(&mut daemon);
    assert!(session(&between.tokens()) > before, "it was not renewed");
    add_mirror(&mut wanted, &home);
    clean(&daemon, &mut wanted, "after renewing");
    // One that goes on from the mirror.
    drop(daemon);
    let mut daemon = start();
    let before = session(&between.tokens());
    read_all(&mut daemon);
    assert!(session(&between.tokens()) > before, "it did not sign in again");
    add_mirror(&mut wanted, &home);
    clean(&daemon, &mut wanted, "after going on from the mirror");
}
