//! A service's body on its way to the program: looked through for the key, and cut off when the right
//! to it ends.
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::places::Place;
use super::scrub::Scrubber;
use crate::backend::vault::Standing;
use crate::core::problem::Problem;

/// Such a body.
pub struct Relayed {
    body: Option<Incoming>,
    scrubber: Scrubber,
    lost: Pin<Box<dyn Future<Output = Problem> + Send>>,
    _place: Place,
}

impl Relayed {
    /// Ends when `standing` is lost.
    pub fn new(body: Incoming, scrubber: Scrubber, mut standing: Standing, place: Place) -> Self {
        let lost = Box::pin(async move { standing.lost().await });
        Self { body: Some(body), scrubber, lost, _place: place }
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
            let error =
                io::Error::new(io::ErrorKind::PermissionDenied, "the right to it has ended");
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            let Some(body) = &mut self.body else { return Poll::Ready(None) };
            match std::task::ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    // What a service says in trailers is for nobody here.
                    let Ok(bytes) = frame.into_data() else { continue };
                    let goes = self.scrubber.feed(&bytes);
                    if !goes.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(goes))));
                    }
                }
                Some(Err(error)) => {
                    self.body = None;
                    return Poll::Ready(Some(Err(io::Error::other(error))));
                }
                None => {
                    self.body = None;
                    let rest = self.scrubber.finish();
                    let last = (!rest.is_empty()).then(|| Ok(Frame::data(rest)));
                    return Poll::Ready(last);
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
