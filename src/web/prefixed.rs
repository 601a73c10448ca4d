//! A body that begins with bytes which are here already, and goes on with one that is still to come:
//! a head and what it is the head of, or what of a body was read along with its head.
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// Such a body. Its trailers mean nothing, and are left out. `T` is what is kept until it has ended,
/// such as the connection that it comes by.
pub struct Prefixed<B, T = ()> {
    first: Option<Bytes>,
    rest: B,
    _kept: T,
}

impl<B> Prefixed<B> {
    /// `first`, and then `rest`.
    pub fn new(first: impl Into<Bytes>, rest: B) -> Self {
        Self::keeping(first, rest, ())
    }
}

impl<B, T> Prefixed<B, T> {
    /// The same, keeping something for as long as it lasts.
    pub fn keeping(first: impl Into<Bytes>, rest: B, kept: T) -> Self {
        let first = Some(first.into()).filter(|first| !first.is_empty());
        Self { first, rest, _kept: kept }
    }
}

impl<B, T> Body for Prefixed<B, T>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
    T: Unpin,
{
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        loop {
            match std::task::ready!(Pin::new(&mut self.rest).poll_frame(cx)) {
                Some(Ok(frame)) if frame.is_data() => return Poll::Ready(Some(Ok(frame))),
                Some(Ok(_trailers)) => {}
                Some(Err(error)) => return Poll::Ready(Some(Err(io::Error::other(error)))),
                None => return Poll::Ready(None),
            }
        }
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

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;

    #[tokio::test]
    async fn the_first_bytes_come_first_and_the_length_counts_both() {
        let body = Prefixed::new("head", Full::new(Bytes::from("body")));
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(8), false));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "headbody");
        let nothing = Prefixed::new("", Full::new(Bytes::new()));
        assert!(nothing.is_end_stream());
    }

    #[tokio::test]
    async fn trailers_are_left_out() {
        let mut trailers = hyper::HeaderMap::new();
        trailers.insert("x-late", hyper::header::HeaderValue::from_static("1"));
        let body = Full::new(Bytes::from("body"));
        let body = body.with_trailers(async move { Some(Ok(trailers)) }).boxed_unsync();
        let whole = Prefixed::new("head", body).collect().await.unwrap();
        assert!(whole.trailers().is_none());
        assert_eq!(whole.to_bytes(), "headbody");
    }
}
