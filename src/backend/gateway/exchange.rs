//! A service's body on its way to the program: looked through for the key, and cut off when the right
//! to it ends.
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::meter::{Meter, Settling};
use super::places::Place;
use super::scrub::Scrubber;
use crate::backend::vault::Right;
use crate::core::problem::Problem;

/// Such a body.
pub struct Relayed {
    body: Option<Incoming>,
    scrubber: Scrubber,
    lost: Pin<Box<dyn Future<Output = Problem> + Send>>,
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
        let lost = Box::pin(async move { right.lost().await });
        let body = Some(body);
        let (settling, last) = (None, Bytes::new());
        Self { body, scrubber, lost, meter, settling, last, _place: place }
    }

    /// The service has said all: `last` is what is left of it.
    fn end(&mut self, last: Bytes) {
        self.body = None;
        self.last = last;
        self.settling = self.meter.as_mut().and_then(|meter| meter.settle(true));
    }
}

impl Body for Relayed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.body.is_some() && self.lost.as_mut().poll(cx).is_ready() {
            // Dropped, so that the service is hung up on as well.
            self.body = None;
            self.meter = None;
            let error =
                io::Error::new(io::ErrorKind::PermissionDenied, "the right to it has ended");
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            if let Some(settling) = &mut self.settling {
                std::task::ready!(settling.as_mut().poll(cx));
                self.settling = None;
            }
            let Some(body) = &mut self.body else {
                let last = std::mem::take(&mut self.last);
                return Poll::Ready((!last.is_empty()).then(|| Ok(Frame::data(last))));
            };
            match std::task::ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    // What a service says in trailers is for nobody here.
                    let Ok(bytes) = frame.into_data() else { continue };
                    let is_last = body.is_end_stream();
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
                Some(Err(error)) => {
                    self.body = None;
                    self.meter = None;
                    return Poll::Ready(Some(Err(io::Error::other(error))));
                }
                None => {
                    let rest = self.scrubber.finish();
                    self.end(rest);
                }
            }
        }
    }

    /// Where the service said how much comes, so do we: whoever reads it sees the end with the last
    /// byte, and the connection is free for the next exchange. A mask is as long as what it covers.
    fn size_hint(&self) -> SizeHint {
        match &self.body {
            None => SizeHint::with_exact(0),
            Some(body) => match body.size_hint().exact() {
                Some(rest) => SizeHint::with_exact(rest + self.scrubber.holds() as u64),
                None => SizeHint::default(),
            },
        }
    }
}
