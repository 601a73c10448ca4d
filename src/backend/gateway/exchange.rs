//! A service's body on its way to the program: looked through for the key, and cut off when the right
//! to it ends.
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::meter::{Meter, Settling};
use super::places::Place;
use super::scrub::Scrubber;
use crate::backend::vault::Right;

/// What a service's body gives next; `None` at its end.
type Next = Option<hyper::Result<Frame<Bytes>>>;

/// Such a body.
pub struct Relayed {
    /// Gone when it has ended, or the right to it has.
    body: Arc<Mutex<Option<Incoming>>>,
    /// Whether the service has said all.
    whole: bool,
    scrubber: Scrubber,
    lost: oneshot::Receiver<()>,
    watching: JoinHandle<()>,
    meter: Option<Meter>,
    /// Its cost, which is counted before `last` is handed on: the next request of whoever waits for
    /// it finds it counted.
    settling: Option<Settling>,
    last: Bytes,
    _place: Place,
}

impl Relayed {
    /// Ends when `right` is lost.
    pub fn new(
        body: Incoming,
        scrubber: Scrubber,
        mut right: Right,
        meter: Option<Meter>,
        place: Place,
    ) -> Self {
        let body = Arc::new(Mutex::new(Some(body)));
        let (tell, lost) = oneshot::channel();
        // In a task of its own, since nobody asks for more in the name of a program that does not
        // read: the service is hung up on all the same.
        let watched = Arc::clone(&body);
        let watching = tokio::spawn(async move {
            right.lost().await;
            held(&watched).take();
            let _ = tell.send(());
        });
        let (settling, last, whole) = (None, Bytes::new(), false);
        Self { body, whole, scrubber, lost, watching, meter, settling, last, _place: place }
    }

    /// The service has said all: `last` is what is left of it.
    fn end(&mut self, last: Bytes) {
        held(&self.body).take();
        self.whole = true;
        self.last = last;
        self.settling = self.meter.as_mut().and_then(|meter| meter.settle(true));
    }

    /// The next frame of the service, and whether it is the last; `None` when the right has ended.
    fn poll_service(&self, cx: &mut Context<'_>) -> Poll<Option<(Next, bool)>> {
        let mut body = held(&self.body);
        let Some(body) = body.as_mut() else { return Poll::Ready(None) };
        let frame = std::task::ready!(Pin::new(&mut *body).poll_frame(cx));
        Poll::Ready(Some((frame, body.is_end_stream())))
    }
}

fn held(body: &Mutex<Option<Incoming>>) -> MutexGuard<'_, Option<Incoming>> {
    body.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Relayed {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl Body for Relayed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            if let Some(settling) = &mut self.settling {
                std::task::ready!(settling.as_mut().poll(cx));
                self.settling = None;
            }
            if self.whole {
                let last = std::mem::take(&mut self.last);
                return Poll::Ready((!last.is_empty()).then(|| Ok(Frame::data(last))));
            }
            let ended = Pin::new(&mut self.lost).poll(cx).is_ready();
            let polled = match self.poll_service(cx) {
                Poll::Ready(polled) => polled.filter(|_| !ended),
                Poll::Pending if ended => None,
                Poll::Pending => return Poll::Pending,
            };
            match polled {
                None => {
                    (self.whole, self.meter) = (true, None);
                    let cause = "the right to it has ended";
                    let error = io::Error::new(io::ErrorKind::PermissionDenied, cause);
                    return Poll::Ready(Some(Err(error)));
                }
                Some((Some(Ok(frame)), is_last)) => {
                    // What a service says in trailers is for nobody here.
                    let Ok(bytes) = frame.into_data() else { continue };
                    if let Some(meter) = &mut self.meter {
                        meter.feed(&bytes);
                    }
                    let goes = self.scrubber.feed(&bytes);
                    if is_last && self.meter.is_some() {
                        let rest = self.scrubber.finish();
                        self.end([goes, rest].concat().into());
                    } else if !goes.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(goes))));
                    }
                }
                Some((Some(Err(error)), _)) => {
                    (self.whole, self.meter) = (true, None);
                    return Poll::Ready(Some(Err(io::Error::other(error))));
                }
                Some((None, _)) => {
                    let rest = self.scrubber.finish();
                    self.end(rest);
                }
            }
        }
    }

    /// Where the service said how much comes, so do we: whoever reads it sees the end with the last
    /// byte, and the connection is free for the next exchange. A mask is as long as what it covers.
    fn size_hint(&self) -> SizeHint {
        if self.whole {
            return SizeHint::with_exact(self.last.len() as u64);
        }
        match held(&self.body).as_ref().and_then(|body| body.size_hint().exact()) {
            Some(rest) => SizeHint::with_exact(rest + self.scrubber.holds() as u64),
            None => SizeHint::default(),
        }
    }
}
