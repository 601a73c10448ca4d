//! When a connection of HTTP/2 is to end, because its program asks nothing by it: a head that never
//! comes to its end would hold one of the relay's places for good. HTTP/1.1 has hyper's own timer.
//!
//! Must never end a connection while a request, or the answer to one, is under way.
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Response;
use tokio::time::{Instant, sleep};

use super::HEAD_TIME;
use super::answer::Answered;

/// Longest between the end of all requests and the next.
const QUIET: Duration = Duration::from_secs(75);

/// The requests of one connection.
pub struct Quiet {
    running: AtomicUsize,
    /// Since when there was none, and how long that may last.
    since: Mutex<(Instant, Duration)>,
}

/// One request, until its answer was handed on or given up.
pub struct Running(Arc<Quiet>);

impl Quiet {
    /// Of a connection that was made now: its first request has to come as fast as any head.
    pub fn new() -> Arc<Self> {
        let since = Mutex::new((Instant::now(), HEAD_TIME));
        Arc::new(Self { running: AtomicUsize::new(0), since })
    }

    /// A request's head is there.
    pub fn begin(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(Arc::clone(self))
    }

    /// Ends when nothing was asked for too long.
    pub async fn too_long(&self) {
        loop {
            let (since, most) = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
            let left = match self.running.load(Ordering::Acquire) {
                0 => most.saturating_sub(since.elapsed()),
                _ => QUIET,
            };
            if left.is_zero() {
                return;
            }
            sleep(left).await;
        }
    }
}

impl Running {
    /// Lasts until the answer's body has gone.
    pub fn with(self, answer: Response<Answered>) -> Response<Answered> {
        let kept = move |frame| {
            let _running = &self;
            frame
        };
        answer.map(|body| body.map_frame(kept).boxed_unsync())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        *self.0.since.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), QUIET);
        self.0.running.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use http_body_util::Full;

    use super::*;

    async fn ends_after(quiet: &Quiet) -> Duration {
        let began = Instant::now();
        quiet.too_long().await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_asks_nothing_ends_and_one_that_is_answered_does_not() {
        let quiet = Quiet::new();
        assert_eq!(ends_after(&quiet).await, HEAD_TIME);
        let running = Quiet::new();
        let body = Full::new(Bytes::from_static(b"x")).map_err(|never: Infallible| match never {});
        let answer = running.begin().with(Response::new(body.boxed_unsync()));
        let waiting = tokio::time::timeout(Duration::from_secs(86_400), running.too_long());
        assert!(waiting.await.is_err());
        drop(answer);
        assert_eq!(ends_after(&running).await, QUIET);
    }
}
