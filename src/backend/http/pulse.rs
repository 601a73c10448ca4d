//! One connection's signs of life, and when it is to be closed for want of them: a header
//! section that does not come to its end, or nothing at all.
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Read, ReadBufCursor, Write};

use super::limits::Limits;

/// What was last seen of a connection. Times are milliseconds since it was accepted.
pub struct Pulse {
    accepted: Instant,
    running: AtomicUsize,
    quiet_since: AtomicU64,
    /// When the first byte since then came, and 1 more; 0 for none.
    bytes_since: AtomicU64,
    is_h2: AtomicBool,
}

/// What the watch over a connection does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Look again after this long.
    LookAgain(Duration),
    /// Close it.
    Close,
}

impl Pulse {
    /// Of a connection that was accepted at `accepted`. Its first request has to come as fast
    /// as a header section.
    pub fn new(accepted: Instant) -> Arc<Self> {
        Arc::new(Self {
            accepted,
            running: AtomicUsize::new(0),
            quiet_since: AtomicU64::new(0),
            bytes_since: AtomicU64::new(1),
            is_h2: AtomicBool::new(false),
        })
    }

    fn millis(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.accepted).as_millis();
        u64::try_from(since).unwrap_or(u64::MAX)
    }

    /// A header section is complete, and its request begins.
    pub fn begin(&self, is_h2: bool) {
        self.running.fetch_add(1, Ordering::Relaxed);
        self.bytes_since.store(0, Ordering::Relaxed);
        if is_h2 {
            self.is_h2.store(true, Ordering::Relaxed);
        }
    }

    /// A request ended.
    pub fn end(&self, now: Instant) {
        self.quiet_since.store(self.millis(now), Ordering::Relaxed);
        self.running.fetch_sub(1, Ordering::Release);
    }

    /// Bytes came in.
    fn bytes(&self) {
        // While a request runs they are its body, or the next in line; HTTP/2 sends frames that
        // are no request. Both are left to the idle time.
        if self.running.load(Ordering::Relaxed) == 0
            && self.bytes_since.load(Ordering::Relaxed) == 0
            && !self.is_h2.load(Ordering::Relaxed)
        {
            self.bytes_since.store(self.millis(Instant::now()) + 1, Ordering::Relaxed);
        }
    }

    /// Whether the connection may stay.
    pub fn judge(&self, now: Instant, limits: &Limits) -> Verdict {
        if self.running.load(Ordering::Acquire) > 0 {
            return Verdict::LookAgain(limits.head_time);
        }
        let left = |since: u64, most: Duration| {
            let gone = Duration::from_millis(self.millis(now).saturating_sub(since));
            most.checked_sub(gone).filter(|left| !left.is_zero())
        };
        let idle = left(self.quiet_since.load(Ordering::Relaxed), limits.idle_time);
        let head = match self.bytes_since.load(Ordering::Relaxed) {
            // Some may begin the moment after, so the next look is no later than theirs.
            0 => Some(limits.head_time),
            since => left(since - 1, limits.head_time),
        };
        match (idle, head) {
            (Some(idle), Some(head)) => Verdict::LookAgain(idle.min(head)),
            _ => Verdict::Close,
        }
    }
}

/// A stream that tells its pulse when bytes come in.
pub struct Watched<S> {
    pub stream: S,
    pub pulse: Arc<Pulse>,
}

impl<S: Read + Unpin> Read for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_ready() {
            self.pulse.bytes();
        }
        read
    }
}

impl<S: Write + Unpin> Write for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_head_and_a_silent_connection_are_closed_and_a_running_request_is_not() {
        let limits = Limits::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let pulse = Pulse::new(start);
        assert_eq!(pulse.judge(at(1), &limits), Verdict::LookAgain(Duration::from_secs(9)));
        assert_eq!(pulse.judge(at(10), &limits), Verdict::Close);
        pulse.begin(false);
        assert_ne!(pulse.judge(at(1_000), &limits), Verdict::Close);
        pulse.end(at(1_000));
        assert_ne!(pulse.judge(at(1_074), &limits), Verdict::Close);
        assert_eq!(pulse.judge(at(1_075), &limits), Verdict::Close);
        pulse.bytes();
        // The bytes came now, which is long before the times of this test.
        assert_eq!(pulse.judge(at(1_010), &limits), Verdict::Close);
    }
}
