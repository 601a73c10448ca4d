//! What the gateway costs, beside what this machine can do at all. One run measures all that it
//! compares, in turns: a service over TLS asked straight, by a pass-through that does the least, by
//! ours (release binary: a real backend and a real `run --broker`), and by Portkey's, if it is
//! there. Then streams, one by one and a thousand at once.
//!
//! `cargo bench --bench gateway [-- ROUNDS [ours]]` (8 rounds unless told; `ours` leaves Portkey's
//! out). Portkey's is looked for in `target/test-tools/portkey`, or where `PORTKEY_GATEWAY` says:
//! `npm install --prefix target/test-tools/portkey @portkey-ai/gateway@1.15.2`.
mod ask;
mod pass;
mod streams;
mod upstream;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ask::{Measured, Target, load};
use streams::{Seen, crowd, memory_of, one_by_one};

/// Ours, unless the variable `AGENTKEYS` names another build of it.
const AGENTKEYS: &str = env!("CARGO_BIN_EXE_agentkeys");
/// How long one is asked before it is the next one's turn.
const TURN: Duration = Duration::from_millis(1500);
/// Streams at once.
const CROWD: usize = 1000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["upstream", folder] => runtime().block_on(upstream::serve(Path::new(folder))),
        ["pass", ca, service] => runtime().block_on(pass::serve(Path::new(ca), service)),
        ["program"] => program(),
        _ => {
            let rounds = words.first().and_then(|rounds| rounds.parse().ok()).unwrap_or(8);
            measure(rounds, !words.contains(&"ours"));
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

/// What `run --broker` runs: tells what it was given, and stays until its input ends.
fn program() {
    println!("{} {}", variable("OPENAI_BASE_URL"), variable("OPENAI_API_KEY"));
    let _ = std::io::stdin().lines().count();
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap()
}

/// A process, ended with this value.
struct Process {
    child: Child,
    /// The first line that it said.
    said: String,
    input: Option<ChildStdin>,
}

impl Process {
    fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let (input, mut said) = (child.stdin.take(), String::new());
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        Self { child, said: said.trim().to_owned(), input }
    }

    fn own(arguments: &[&str]) -> Self {
        Self::start(Command::new(std::env::current_exe().unwrap()).args(arguments))
    }

    fn address(&self) -> SocketAddr {
        self.said.strip_prefix("listening on ").expect("the ready line").parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Whoever waits for its input ends by itself, and what it started with it.
        drop(self.input.take());
        let until = Instant::now() + Duration::from_millis(300);
        while Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The real backend, and the real `run --broker` with a program that waits.
struct Ours {
    run: Process,
    backend: Process,
}

fn ours(folder: &Path, service: SocketAddr) -> Ours {
    let binary = std::env::var_os("AGENTKEYS").unwrap_or_else(|| AGENTKEYS.into());
    let agentkeys = |arguments: &[&str]| {
        let mut command = Command::new(&binary);
        command.args(arguments).env("HOME", folder).env("AGENTKEYS_LOG", "warn");
        command.env("SSL_CERT_FILE", folder.join("ca.pem"));
        command.env("AGENTKEYS_BACKEND", format!("unix:{}/run/s", folder.display()));
        command.stderr(Stdio::null());
        command
    };
    let (listen, service) =
        (format!("unix:{}/run/s", folder.display()), format!("openai=https://{service}"));
    let data = folder.join("data");
    let mut serve = agentkeys(&["serve", "--listen", &listen, "--service", &service, "--data"]);
    let backend = Process::start(serve.arg(data));
    assert!(agentkeys(&["init"]).stdout(Stdio::null()).status().unwrap().success());
    let mut store = agentkeys(&["store", "bench", "openai", "-"]);
    let mut store = store.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    store.stdin.take().unwrap().write_all(upstream::KEY.as_bytes()).unwrap();
    assert!(store.wait().unwrap().success());
    let own = std::env::current_exe().unwrap();
    let own = own.to_str().unwrap();
    let run = Process::start(&mut agentkeys(&["run", "--broker", "bench", "--", own, "program"]));
    Ours { run, backend }
}

/// Portkey's gateway, if it is there.
fn portkey(ca: &Path) -> Option<(Process, SocketAddr)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join("target/test-tools/portkey/node_modules/@portkey-ai/gateway");
    let folder = std::env::var_os("PORTKEY_GATEWAY").map_or(folder, PathBuf::from);
    let server = folder.join("build/start-server.js");
    if !server.exists() {
        println!("Portkey's gateway is not at {}: left out\n", folder.display());
        return None;
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = Command::new("node");
    command.arg(server).arg("--headless").arg(format!("--port={}", port.port()));
    command.env("NODE_EXTRA_CA_CERTS", ca).env("NODE_ENV", "production");
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let process = Process { child: child.spawn().ok()?, said: String::new(), input: None };
    let until = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(port).is_err() {
        assert!(Instant::now() < until, "Portkey's gateway does not listen");
        thread::sleep(Duration::from_millis(50));
    }
    Some((process, port))
}

fn measure(rounds: usize, others: bool) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("run")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(folder.path().join("run"), mode).unwrap();
    upstream::make_certificates(folder.path());
    let ca = folder.path().join("ca.pem");

    let upstream = Process::own(&["upstream", folder.path().to_str().unwrap()]);
    let service = upstream.address();
    let pass = Process::own(&["pass", ca.to_str().unwrap(), &service.to_string()]);
    let ours = ours(folder.path(), service);
    let processes = [ours.run.child.id(), ours.backend.child.id()];
    let idle = processes.map(memory_of);
    let straight = Target {
        name: "straight, over TLS",
        address: service,
        base: "/v1".to_owned(),
        bearer: upstream::KEY.to_owned(),
        headers: String::new(),
        tls: Some(pass::client_config(&ca)),
        processes: Vec::new(),
    };
    let plain = Target { tls: None, bearer: "stand-in".to_owned(), ..straight.clone() };
    let passed = Target {
        name: "minimal pass-through",
        address: pass.address(),
        processes: vec![pass.child.id()],
        ..plain.clone()
    };
    let (url, stand_in) = ours.run.said.split_once(' ').expect("the program's line");
    let (address, base) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let our_own = Target {
        name: "agentkeys run --broker",
        address: address.parse().unwrap(),
        base: format!("/{base}"),
        bearer: stand_in.to_owned(),
        processes: processes.to_vec(),
        ..plain.clone()
    };
    let mut targets = vec![straight, passed, our_own];
    let portkey = others.then(|| portkey(&ca)).flatten();
    if let Some((process, address)) = &portkey {
        // It knows no key of its own: the program has it, and says it.
        targets.push(Target {
            name: "Portkey's gateway",
            address: *address,
            bearer: upstream::KEY.to_owned(),
            processes: vec![process.child.id()],
            headers: format!(
                "x-portkey-provider: openai\r\nx-portkey-custom-host: https://{service}/v1\r\n"
            ),
            ..plain
        });
    }
    println!("fdatasync of a small write: median {:.0} us\n", fdatasync(folder.path()));
    requests(&targets, rounds);
    one_stream(&targets[..3], rounds);
    many_streams(&targets[2], &processes, idle);
}

fn requests(targets: &[Target], rounds: usize) {
    let mut one: Vec<_> = targets.iter().map(|_| Measured::default()).collect();
    let mut many: Vec<_> = targets.iter().map(|_| Measured::default()).collect();
    for round in 0..rounds {
        // Another one begins each time.
        for turn in 0..targets.len() {
            let which = (round + turn) % targets.len();
            load(&targets[which], 1, TURN, &mut one[which]);
            load(&targets[which], 64, TURN, &mut many[which]);
        }
    }
    println!(
        "| | median us | 90 % | 99 % | median over straight | requests/s at 64 | of the pass-through | its processor time a request at 64, us |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (target, (single, crowd)) in targets.iter().zip(one.iter().zip(&many)) {
        println!(
            "| {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} % | {:.0} |",
            target.name,
            single.at(0.5),
            single.at(0.9),
            single.at(0.99),
            single.at(0.5) - one[0].at(0.5),
            crowd.rate(),
            100.0 * crowd.rate() / many[1].rate(),
            crowd.processor_each()
        );
    }
    let rates = |many: &Measured| {
        let texts: Vec<String> = many.per_second.iter().map(|rate| format!("{rate:.0}")).collect();
        texts.join(" ")
    };
    println!("\nrequests/s at 64, round by round:");
    for (target, many) in targets.iter().zip(&many) {
        println!("  {}: {}", target.name, rates(many));
    }
}

fn one_stream(targets: &[Target], rounds: usize) {
    let mut seen: Vec<_> = targets.iter().map(|_| Seen::default()).collect();
    for round in 0..rounds {
        for turn in 0..targets.len() {
            let which = (round + turn) % targets.len();
            one_by_one(&targets[which], 5, 20, 20, &mut seen[which]);
        }
    }
    println!("\nOne stream after another, an event every 20 ms; milliseconds\n");
    println!(
        "| | first event, median | 99 % | to the next, median | 99 % | on its way, median | 99 % |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (target, seen) in targets.iter().zip(&seen) {
        println!("{}", seen.row(target.name));
    }
}

fn many_streams(target: &Target, processes: &[u32; 2], idle: [u64; 2]) {
    let before = processes.map(memory_of);
    let crowd = crowd(target, CROWD, 12, processes);
    let megabytes = |kilobytes: u64| kilobytes as f64 / 1024.0;
    println!("\n{CROWD} streams at once through ours, two events a second each, for 12 s\n");
    println!("had all of their events: {} of {CROWD}", crowd.whole);
    println!("all had begun after: {:.2} s", crowd.all_begun.as_secs_f64());
    println!(
        "an event on its way: median {:.2} ms, 99 % {:.2} ms",
        streams_at(&crowd.seen, 0.5),
        streams_at(&crowd.seen, 0.99)
    );
    println!(
        "\n| memory (PSS), MB | idle | after the requests | {CROWD} streams |\n|---|---|---|---|"
    );
    for (at, name) in ["agentkeys run", "the backend"].iter().enumerate() {
        println!(
            "| {name} | {:.1} | {:.1} | {:.1} |",
            megabytes(idle[at]),
            megabytes(before[at]),
            megabytes(crowd.memory[at])
        );
    }
    let sum = |parts: &[u64]| megabytes(parts.iter().sum());
    println!("| both | {:.1} | {:.1} | {:.1} |", sum(&idle), sum(&before), sum(&crowd.memory));
}

fn streams_at(seen: &Seen, share: f64) -> f64 {
    ask::at(&seen.way, share) / 1000.0
}

/// The median of one small write with `fdatasync`, in microseconds.
fn fdatasync(folder: &Path) -> f64 {
    let mut file = std::fs::File::create(folder.join("sync")).unwrap();
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
