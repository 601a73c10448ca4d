//! Asks: one thread a connection, which is the same for all that are measured, and so falls out of
//! the ratios. Straight is over TLS, all else in plain HTTP on loopback.
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// Where and how one of those that are measured is asked.
#[derive(Clone)]
pub struct Target {
    pub name: &'static str,
    pub address: SocketAddr,
    /// What its paths begin with.
    pub base: String,
    pub bearer: String,
    /// Further header lines, each with its end.
    pub headers: String,
    pub tls: Option<Arc<ClientConfig>>,
    /// What it consists of, between the asker and the service.
    pub processes: Vec<u32>,
}

impl Target {
    /// A chat request.
    pub fn request(&self) -> Vec<u8> {
        let body = r#"{"model":"m","messages":[{"role":"user","content":"Say some words."}]}"#;
        let head = self.head("POST", "/chat/completions");
        format!(
            "{head}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }

    /// A request for a stream.
    pub fn events(&self, count: usize, millis: u64) -> Vec<u8> {
        let head = self.head("GET", &format!("/events/{count}/{millis}"));
        format!("{head}\r\n").into_bytes()
    }

    fn head(&self, method: &str, path: &str) -> String {
        let Self { address, base, bearer, headers, .. } = self;
        format!(
            "{method} {base}{path} HTTP/1.1\r\nhost: {address}\r\n\
             authorization: Bearer {bearer}\r\n{headers}"
        )
    }

    pub fn connect(&self) -> Connection {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        let stream: Box<dyn Both> = match &self.tls {
            None => Box::new(stream),
            Some(config) => {
                let name = ServerName::from(self.address.ip());
                let session = ClientConnection::new(config.clone(), name).unwrap();
                Box::new(StreamOwned::new(session, stream))
            }
        };
        Connection { stream, buffer: Vec::new() }
    }
}

/// What is asked by.
pub trait Both: Read + Write + Send {}
impl<T: Read + Write + Send> Both for T {}

/// One keep-alive connection that knows just enough HTTP to see where an answer ends.
pub struct Connection {
    pub stream: Box<dyn Both>,
    buffer: Vec<u8>,
}

impl Connection {
    pub fn ask(&mut self, request: &[u8]) {
        self.stream.write_all(request).unwrap();
        self.stream.flush().unwrap();
        self.buffer.clear();
        let mut chunk = [0; 8192];
        while !is_whole(&self.buffer) {
            let read = self.stream.read(&mut chunk).unwrap();
            assert!(read > 0, "hung up: {}", String::from_utf8_lossy(&self.buffer));
            self.buffer.extend_from_slice(&chunk[..read]);
        }
        let text = String::from_utf8_lossy(&self.buffer);
        assert!(text.starts_with("HTTP/1.1 200 ") && text.contains("word word"), "{text}");
    }
}

fn is_whole(answer: &[u8]) -> bool {
    let Some(head) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return false;
    };
    let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
    match length {
        Some(length) => answer.len() >= head + 4 + length.trim().parse::<usize>().unwrap(),
        None => answer.ends_with(b"\r\n0\r\n\r\n"),
    }
}

/// What was measured of one, over all rounds: nanoseconds each, sorted; and requests a second by
/// round.
#[derive(Default)]
pub struct Measured {
    pub took: Vec<u64>,
    pub per_second: Vec<f64>,
    /// Processor time that its processes took, in seconds, in all rounds.
    pub processor: f64,
}

impl Measured {
    /// Microseconds that this share of all stays within.
    pub fn at(&self, share: f64) -> f64 {
        at(&self.took, share)
    }

    /// Microseconds of processor time a request.
    pub fn processor_each(&self) -> f64 {
        self.processor * 1e6 / self.took.len() as f64
    }

    /// The middle one of the rounds.
    pub fn rate(&self) -> f64 {
        let mut rates = self.per_second.clone();
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    }
}

/// Of sorted nanoseconds, the microseconds that this share stays within.
pub fn at(sorted: &[u64], share: f64) -> f64 {
    sorted[((sorted.len() as f64 * share) as usize).min(sorted.len() - 1)] as f64 / 1000.0
}

/// Asks by `connections` at once for this long.
pub fn load(target: &Target, connections: usize, time: Duration, into: &mut Measured) {
    let stop = Arc::new(AtomicBool::new(false));
    let start = Arc::new(Barrier::new(connections + 1));
    let work = |_| {
        let (stop, start, target) = (stop.clone(), start.clone(), target.clone());
        let asks = move || {
            let request = target.request();
            let mut connection = target.connect();
            for _ in 0..10 {
                connection.ask(&request);
            }
            let mut took = Vec::with_capacity(1 << 12);
            start.wait();
            while !stop.load(Ordering::Relaxed) {
                let asked = Instant::now();
                connection.ask(&request);
                took.push(asked.elapsed().as_nanos() as u64);
            }
            took
        };
        thread::Builder::new().stack_size(256 * 1024).spawn(asks).unwrap()
    };
    let workers: Vec<_> = (0..connections).map(work).collect();
    start.wait();
    let (began, before) = (Instant::now(), processor_time(&target.processes));
    thread::sleep(time);
    stop.store(true, Ordering::Relaxed);
    let took: Vec<u64> = workers.into_iter().flat_map(|one| one.join().unwrap()).collect();
    into.processor += processor_time(&target.processes) - before;
    into.per_second.push(took.len() as f64 / began.elapsed().as_secs_f64());
    into.took.extend(took);
    into.took.sort_unstable();
}

/// What processes have had of the processors, in seconds.
fn processor_time(processes: &[u32]) -> f64 {
    let ticks = processes.iter().map(|process| {
        let text = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
        let fields = text[text.rfind(')').unwrap() + 2..].split(' ').skip(11).take(2);
        fields.map(|field| field.parse::<u64>().unwrap()).sum::<u64>()
    });
    // A hundred a second, as Linux tells every program.
    ticks.sum::<u64>() as f64 / 100.0
}
