//! Streams: how long until the first event and between events, by one stream after another; and a
//! thousand at once, with what they cost in memory. Each event says when it was sent.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::ask::{Target, at};
use crate::upstream::{EVENT, now};

/// What was seen of streams, in nanoseconds, sorted.
#[derive(Default)]
pub struct Seen {
    /// From the request to the first event.
    pub first: Vec<u64>,
    /// From an event to the next.
    pub gaps: Vec<u64>,
    /// From sent to received.
    pub way: Vec<u64>,
}

impl Seen {
    fn sort(&mut self) {
        for times in [&mut self.first, &mut self.gaps, &mut self.way] {
            times.sort_unstable();
        }
    }

    /// As a row of a table: median and 99 % of each.
    pub fn row(&self, name: &str) -> String {
        let both = |times: &[u64]| {
            format!("{:.2} | {:.2}", at(times, 0.5) / 1000.0, at(times, 0.99) / 1000.0)
        };
        format!("| {name} | {} | {} | {} |", both(&self.first), both(&self.gaps), both(&self.way))
    }
}

/// Takes events out of what was read so far, and gives the times that they say.
#[derive(Default)]
struct Events(Vec<u8>);

impl Events {
    fn feed(&mut self, part: &[u8]) -> Vec<u64> {
        self.0.extend_from_slice(part);
        let mut found = Vec::new();
        let mut done = 0;
        while let Some(begin) = find(&self.0[done..], b"data: ").map(|at| at + done) {
            let Some(event) = self.0.get(begin..begin + EVENT) else { break };
            found.push(std::str::from_utf8(&event[6..]).unwrap().trim().parse().unwrap());
            done = begin + EVENT;
        }
        self.0.drain(..done);
        found
    }

    fn is_over(&self) -> bool {
        self.0.ends_with(b"\r\n0\r\n\r\n")
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    memchr::memmem::find(text, what)
}

/// One stream after another on one connection.
pub fn one_by_one(target: &Target, streams: usize, events: usize, every: u64, into: &mut Seen) {
    let request = target.events(events, every);
    let mut connection = target.connect();
    for round in 0..streams {
        let asked = Instant::now();
        connection.stream.write_all(&request).unwrap();
        connection.stream.flush().unwrap();
        let (mut parsed, mut count, mut last) = (Events::default(), 0, asked);
        let mut chunk = [0; 8192];
        while !parsed.is_over() {
            let read = connection.stream.read(&mut chunk).unwrap();
            assert!(read > 0, "hung up: {}", String::from_utf8_lossy(&parsed.0));
            let (arrived, clock) = (Instant::now(), now());
            for sent in parsed.feed(&chunk[..read]) {
                // The first stream makes the connections.
                if round > 0 {
                    into.way.push(clock.saturating_sub(sent));
                    let since = arrived.duration_since(last).as_nanos() as u64;
                    if count == 0 { &mut into.first } else { &mut into.gaps }.push(since);
                }
                last = arrived;
                count += 1;
            }
        }
        assert_eq!(count, events);
    }
    into.sort();
}

/// A thousand streams at once.
pub struct Crowd {
    pub seen: Seen,
    /// Those that had all of their events.
    pub whole: usize,
    /// From the first request to when each had an event.
    pub all_begun: Duration,
    /// Kilobytes of each process while all were open.
    pub memory: Vec<u64>,
}

/// Opens `streams` at once, and looks at the memory of `processes` when all have begun.
pub fn crowd(target: &Target, streams: usize, seconds: usize, processes: &[u32]) -> Crowd {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let begun = Arc::new(AtomicUsize::new(0));
        let request: Arc<[u8]> = target.events(seconds * 2, 500).into();
        let (address, began) = (target.address, Instant::now());
        let open = |_| {
            let (request, begun) = (request.clone(), begun.clone());
            tokio::spawn(async move { one_of_many(address, &request, &begun).await })
        };
        let tasks: Vec<_> = (0..streams).map(open).collect();
        let limit = Duration::from_secs(seconds as u64);
        while begun.load(Ordering::Relaxed) < streams && began.elapsed() < limit {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let all_begun = began.elapsed();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let memory = processes.iter().map(|process| memory_of(*process)).collect();
        let (mut seen, mut whole) = (Seen::default(), 0);
        for task in tasks {
            let Some((first, way)) = task.await.unwrap() else { continue };
            whole += usize::from(way.len() == seconds * 2);
            seen.first.push(first);
            // Once all have begun: before, it is the rush that is measured.
            seen.way.extend(&way[way.len() / 2..]);
        }
        seen.sort();
        Crowd { seen, whole, all_begun, memory }
    })
}

async fn one_of_many(
    address: std::net::SocketAddr,
    request: &[u8],
    begun: &AtomicUsize,
) -> Option<(u64, Vec<u64>)> {
    let asked = Instant::now();
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(request).await.ok()?;
    let (mut parsed, mut first, mut way) = (Events::default(), None, Vec::new());
    let mut chunk = [0; 2048];
    while !parsed.is_over() {
        let read = stream.read(&mut chunk).await.ok()?;
        if read == 0 {
            eprintln!("a stream ended: {}", String::from_utf8_lossy(&parsed.0));
            return None;
        }
        let clock = now();
        let sent = parsed.feed(&chunk[..read]);
        way.extend(sent.iter().map(|sent| clock.saturating_sub(*sent)));
        if first.is_none() && !way.is_empty() {
            first = Some(asked.elapsed().as_nanos() as u64);
            begun.fetch_add(1, Ordering::Relaxed);
        }
    }
    Some((first?, way))
}

/// Kilobytes that a process holds, what it shares divided among those that share it.
pub fn memory_of(process: u32) -> u64 {
    let path = format!("/proc/{process}/smaps_rollup");
    let text = std::fs::read_to_string(path).expect("as root, or with CAP_SYS_PTRACE");
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
