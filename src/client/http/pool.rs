//! Connections that wait for their next request.
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Body;

use super::sender::Sender;

/// How long an idle connection is kept; below the server's 75 s, so that it is the client who
/// hangs up.
const KEEP_IDLE: Duration = Duration::from_secs(30);
/// Most idle connections: what a burst of exchanges leaves behind is not to use up the backend's.
const MOST_IDLE: usize = 128;

/// Idle connections, for requests whose body is a `B`.
pub struct Pool<B = Full<Bytes>> {
    idle: Mutex<Vec<Idle<B>>>,
    /// Whether calls at once share a connection that takes more than one.
    shares: bool,
}

struct Idle<B> {
    sender: Sender<B>,
    since: Instant,
}

impl<B> Pool<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// For calls whose answers are read at once: over HTTP/2 they share a connection.
    pub fn shared() -> Self {
        Self { idle: Mutex::default(), shares: true }
    }

    /// For answers that may be read slowly: over HTTP/2 too each has a connection of its own, since
    /// one that nobody reads would use up the window of all that share it.
    pub fn one_each() -> Self {
        Self { idle: Mutex::default(), shares: false }
    }

    /// One for a request, if there is any.
    pub async fn take(&self) -> Option<Sender<B>> {
        loop {
            let mut sender = {
                let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
                let now = Instant::now();
                idle.retain(|kept| now - kept.since < KEEP_IDLE && !kept.sender.is_closed());
                // One that is shared stays for the next call.
                match self.share(&idle.last()?.sender) {
                    Some(shared) => shared,
                    None => idle.pop()?.sender,
                }
            };
            if sender.is_ready().await {
                return Some(sender);
            }
        }
    }

    /// Keeps one whose request is over.
    pub fn keep(&self, sender: Sender<B>) {
        if sender.is_closed() {
            return;
        }
        let since = Instant::now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let full = idle.len() >= MOST_IDLE;
        // One shared connection is enough; whichever was made beside it ends with its call.
        match idle.iter_mut().find(|kept| self.share(&kept.sender).is_some()) {
            Some(shared) if !shared.sender.is_closed() => shared.since = since,
            Some(closed) => *closed = Idle { sender, since },
            None if full => {}
            None => idle.push(Idle { sender, since }),
        }
    }

    /// The shared connection is not the next try's: it may take long to know that it has ended.
    pub fn drop_shared(&self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|kept| self.share(&kept.sender).is_none());
    }

    /// Closes those that no request has used for `idle`.
    pub fn hang_up(&self, idle: Duration) {
        let mut kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|connection| connection.since.elapsed() < idle);
    }

    /// The same connection for another call at once.
    fn share(&self, sender: &Sender<B>) -> Option<Sender<B>> {
        if self.shares { sender.share() } else { None }
    }
}
