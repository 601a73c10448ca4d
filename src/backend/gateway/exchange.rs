//! The two bodies of an exchange, as streams: the program's, bounded; and the service's, looked
//! through for the key, and cut off when the right to it ends.
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::places::Place;
use super::scrub::Scrubber;
use crate::backend::vault::Standing;
use crate::core::gateway::MAX_BODY;
use crate::core::problem::Problem;

/// A program's body: what came along with its head, and the rest of what comes.
pub struct ProgramBody {
    first: Option<Bytes>,
    rest: Incoming,
    left: u64,
}

impl ProgramBody {
    /// From the part behind the head, and what comes after it.
    pub fn new(first: Vec<u8>, rest: Incoming) -> Self {
        let first = (!first.is_empty()).then(|| Bytes::from(first));
        Self { first, rest, left: MAX_BODY }
    }
}

impl Body for ProgramBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let bytes = match self.first.take() {
            Some(first) => first,
            None => loop {
                match std::task::ready!(Pin::new(&mut self.rest).poll_frame(cx)) {
                    // Trailers of ours mean nothing to the service.
                    Some(Ok(frame)) => {
                        if let Ok(bytes) = frame.into_data() {
                            break bytes;
                        }
                    }
                    Some(Err(error)) => return Poll::Ready(Some(Err(io::Error::other(error)))),
                    None => return Poll::Ready(None),
                }
            },
        };
        match self.left.checked_sub(bytes.len() as u64) {
            Some(left) => self.left = left,
            None => {
                let error = io::Error::new(io::ErrorKind::FileTooLarge, "the body is too large");
                return Poll::Ready(Some(Err(error)));
            }
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().map_or(0, |first| first.len() as u64);
        match self.rest.size_hint().exact() {
            Some(rest) => SizeHint::with_exact(first + rest),
            None => SizeHint::default(),
        }
    }
}

/// A service's body on its way to the program.
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
}
