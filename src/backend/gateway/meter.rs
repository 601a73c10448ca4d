//! Reads on its way what an answer states of its cost, and has that counted when it has ended, before
//! the program learns that it has. An answer that was broken off is counted by what came of it.
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::header::{CONTENT_TYPE, HeaderMap};
use hyper::{Method, StatusCode};

use crate::backend::vault::Charge;
use crate::core::metering::Stated;

/// Largest answer in one piece, and largest event of a stream, that is read.
const MOST: usize = 8 * 1024 * 1024;
/// Bytes that are taken for a token where nothing is stated.
const PER_TOKEN: u64 = 3;
/// Tokens that an answer is taken to have that the program did not wait for.
const UNSEEN: u64 = 4096;

/// What is read of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// None has come.
    Unanswered,
    /// Nothing in it costs anything.
    Free,
    Json,
    Events,
    /// It states nothing that we know of.
    Other,
}

/// The meter of one exchange.
pub struct Meter {
    charge: Option<Charge>,
    /// Bytes of the request's body.
    sent: Arc<AtomicU64>,
    shape: Shape,
    /// What is to be read when it is whole: the answer, or a line of it.
    part: Vec<u8>,
    /// Whether that was too much to be kept.
    too_long: bool,
    stated: Stated,
    /// Bytes of the answer, and events of it.
    bytes: u64,
    events: u64,
}

/// A count that is under way.
pub type Settling = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Meter {
    /// For a request that is about to be sent.
    pub fn new(charge: Charge) -> Self {
        Self {
            charge: Some(charge),
            sent: Arc::default(),
            shape: Shape::Unanswered,
            part: Vec::new(),
            too_long: false,
            stated: Stated::default(),
            bytes: 0,
            events: 0,
        }
    }

    /// Where bytes of the request are counted.
    pub fn sent(&self) -> Arc<AtomicU64> {
        self.sent.clone()
    }

    /// Nothing was answered, and nothing is charged.
    pub fn forget(&mut self) {
        self.charge = None;
    }

    /// The answer begins.
    pub fn begin(&mut self, method: &Method, status: StatusCode, headers: &HeaderMap) {
        let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
        let kind = kind.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
        self.shape = if !status.is_success() {
            // What is refused or redirected costs nothing.
            self.charge = None;
            Shape::Free
        } else if *method != Method::POST {
            Shape::Free
        } else if kind == "text/event-stream" {
            Shape::Events
        } else if kind == "application/json" || kind.ends_with("+json") {
            Shape::Json
        } else {
            Shape::Other
        };
    }

    /// The next bytes of it.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        match self.shape {
            Shape::Json => self.keep(bytes),
            Shape::Events => {
                let mut rest = bytes;
                while let Some(end) = memchr::memchr2(b'\n', b'\r', rest) {
                    self.keep(&rest[..end]);
                    self.line();
                    rest = &rest[end + 1..];
                }
                self.keep(rest);
            }
            Shape::Unanswered | Shape::Free | Shape::Other => {}
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.part.len() + bytes.len() > MOST {
            self.too_long = true;
            self.part = Vec::new();
        }
        if !self.too_long {
            self.part.extend_from_slice(bytes);
        }
    }

    /// One line of a stream.
    fn line(&mut self) {
        if let Some(data) = self.part.strip_prefix(b"data:") {
            self.events += 1;
            self.stated.read(data);
        }
        self.part.clear();
        self.too_long = false;
    }

    /// Counts what there is; `whole` if the answer has come to its end.
    pub fn settle(&mut self, whole: bool) -> Option<Settling> {
        let charge = self.charge.take()?;
        let mut stated = std::mem::take(&mut self.stated);
        let sent = self.sent.load(Ordering::Relaxed).div_ceil(PER_TOKEN);
        let mut estimated = false;
        let mut at_least = |stated: &mut Stated, output: u64| {
            estimated = true;
            if !stated.any {
                stated.input = sent;
            }
            stated.output = stated.output.max(output);
        };
        match self.shape {
            Shape::Unanswered => at_least(&mut stated, UNSEEN),
            Shape::Free | Shape::Other => {}
            Shape::Json => {
                if whole && !self.too_long {
                    stated.read(&self.part);
                } else {
                    at_least(&mut stated, self.bytes.div_ceil(PER_TOKEN));
                }
            }
            Shape::Events => {
                self.line();
                // An event has a token at least, and no service states fewer than it sent.
                if !whole || !stated.any {
                    at_least(&mut stated, self.events);
                }
            }
        }
        self.part = Vec::new();
        Some(Box::pin(async move { charge.settle(&stated, estimated).await }))
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        // The program did not wait for the end.
        if let Some(settling) = self.settle(false)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(settling);
        }
    }
}
