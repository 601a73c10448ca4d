//! A WebSocket (RFC 6455) between a program and a service: the bytes of both directions on their way,
//! those of the service looked through for the key, frame by frame, and cut off when the right to it
//! ends.
//!
//! Must never hand on frames that cannot be looked through: compressed or masked ones.
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use hyper::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, UPGRADE,
};
use hyper::upgrade::Upgraded;
use hyper::{HeaderMap, Method};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::places::Place;
use super::scrub::Scrubber;
use crate::backend::vault::Right;
use crate::core::problem::{Answer, Problem};

/// Most bytes that are read of a service at once.
const AT_ONCE: usize = 16 * 1024;

type Stream = TokioIo<Upgraded>;

/// Makes a request's headers ask for a WebSocket, without extensions: what is compressed cannot be
/// looked through.
///
/// # Errors
/// It is no request for one.
pub fn ask(method: &Method, headers: &mut HeaderMap) -> Answer<()> {
    if method != Method::GET {
        return Err(Problem::invalid("method", "a WebSocket is asked for by GET"));
    }
    if !headers.contains_key(SEC_WEBSOCKET_KEY) {
        return Err(Problem::invalid("headers", "a WebSocket wants Sec-WebSocket-Key"));
    }
    headers.remove(SEC_WEBSOCKET_EXTENSIONS);
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    Ok(())
}

/// What a service sends over one.
pub struct Socket {
    read: Option<ReadHalf<Stream>>,
    frames: Frames,
    lost: oneshot::Receiver<()>,
    writing: JoinHandle<()>,
    _place: Place,
}

impl Socket {
    /// Over an upgraded connection, to which what comes of `program` is sent. Ends when `right` is
    /// lost.
    pub fn new<B>(
        upgraded: Upgraded,
        program: B,
        scrubber: Scrubber,
        mut right: Right,
        place: Place,
    ) -> Self
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Send,
    {
        let (read, write) = tokio::io::split(TokioIo::new(upgraded));
        let (tell, lost) = oneshot::channel();
        // In a task of its own: a program that reads nothing, so that nobody asks for more of the
        // service, is not to go on sending once the right to it has ended.
        let writing = tokio::spawn(async move {
            let sent = async {
                send(program, write).await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                biased;
                _ = right.lost() => {}
                () = sent => {}
            }
            let _ = tell.send(());
        });
        Self { read: Some(read), frames: Frames::new(scrubber), lost, writing, _place: place }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.writing.abort();
    }
}

/// Sends what comes of the program, and says that it has ended.
async fn send<B: Body<Data = Bytes> + Unpin>(mut program: B, mut write: WriteHalf<Stream>) {
    while let Some(Ok(frame)) = program.frame().await {
        let Ok(bytes) = frame.into_data() else { continue };
        if write.write_all(&bytes).await.is_err() || write.flush().await.is_err() {
            return;
        }
    }
    let _ = write.shutdown().await;
}

impl Body for Socket {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        let Some(read) = &mut this.read else { return Poll::Ready(None) };
        let ended = if Pin::new(&mut this.lost).poll(cx).is_ready() {
            Some(io::Error::new(io::ErrorKind::PermissionDenied, "the right to it has ended"))
        } else {
            let mut space = [0; AT_ONCE];
            let mut buffer = ReadBuf::new(&mut space);
            match std::task::ready!(Pin::new(read).poll_read(cx, &mut buffer)) {
                // Between two frames an end is one, however it is made: a WebSocket says by itself
                // whether it has ended well. An error would take the last frame with it.
                Err(error) => Some(error).filter(|_| !this.frames.is_between()),
                Ok(()) if buffer.filled().is_empty() => None,
                Ok(()) => match this.frames.feed(buffer.filled()) {
                    Err(why) => Some(io::Error::new(io::ErrorKind::InvalidData, why)),
                    Ok(goes) if goes.is_empty() => {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    Ok(goes) => return Poll::Ready(Some(Ok(Frame::data(goes)))),
                },
            }
        };
        // Dropped, so that the service is hung up on as well.
        this.read = None;
        this.writing.abort();
        Poll::Ready(ended.map(Err))
    }
}

/// A service's frames. A key is looked for within each, since none waits for the next.
struct Frames {
    scrubber: Scrubber,
    head: Vec<u8>,
    /// How many bytes of the frame's payload are still to come.
    left: u64,
}

impl Frames {
    fn new(scrubber: Scrubber) -> Self {
        Self { scrubber, head: Vec::new(), left: 0 }
    }

    fn is_between(&self) -> bool {
        self.left == 0 && self.head.is_empty()
    }

    /// The next bytes, however they are cut: what can go on.
    fn feed(&mut self, mut bytes: &[u8]) -> Result<Bytes, &'static str> {
        let mut out = Vec::with_capacity(bytes.len() + 16);
        while !bytes.is_empty() {
            if self.left == 0 {
                self.head.push(bytes[0]);
                bytes = &bytes[1..];
                if let Some(length) = payload_length(&self.head)? {
                    out.append(&mut self.head);
                    self.left = length;
                }
                continue;
            }
            let most = usize::try_from(self.left).unwrap_or(usize::MAX);
            let (part, rest) = bytes.split_at(most.min(bytes.len()));
            out.extend_from_slice(&self.scrubber.feed(part));
            self.left -= part.len() as u64;
            bytes = rest;
            if self.left == 0 {
                out.extend_from_slice(&self.scrubber.finish());
            }
        }
        Ok(out.into())
    }
}

/// How long a frame's payload is, once its head is whole (RFC 6455, section 5.2).
fn payload_length(head: &[u8]) -> Result<Option<u64>, &'static str> {
    let [first, second, rest @ ..] = head else { return Ok(None) };
    if first & 0x70 != 0 {
        return Err("a frame is of an extension that was not asked for");
    }
    if second & 0x80 != 0 {
        return Err("a frame of a service is masked");
    }
    Ok(match second & 0x7f {
        126 => rest.first_chunk::<2>().map(|length| u64::from(u16::from_be_bytes(*length))),
        127 => rest.first_chunk::<8>().map(|length| u64::from_be_bytes(*length)),
        length => Some(u64::from(length)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"sk-real-0123456789abcdef";

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![first];
        match payload.len() {
            length @ 0..126 => out.push(length as u8),
            length @ 126..=0xffff => {
                out.push(126);
                out.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                out.push(127);
                out.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        out.extend_from_slice(payload);
        out
    }

    fn through(bytes: &[u8], by: usize) -> Result<Vec<u8>, &'static str> {
        let mut frames = Frames::new(Scrubber::of(&[KEY]));
        let mut out = Vec::new();
        for part in bytes.chunks(by) {
            out.extend_from_slice(&frames.feed(part)?);
        }
        Ok(out)
    }

    #[test]
    fn a_key_in_a_frame_is_masked_and_every_length_stays() {
        let mut long = vec![b'x'; 70_000];
        long[40_000..40_000 + KEY.len()].copy_from_slice(KEY);
        let words = [b"you are ", KEY, b"."].concat();
        let sent =
            [frame(0x81, &words), frame(0x82, &long), frame(0x8a, b""), frame(0x81, &[b'y'; 200])];
        let sent = sent.concat();
        for by in [1, 2, 3, 7, 1000, sent.len()] {
            let got = through(&sent, by).unwrap();
            assert_eq!(got.len(), sent.len());
            assert!(!got.windows(KEY.len()).any(|window| window == KEY), "{by}");
            assert_eq!(got.iter().filter(|byte| **byte == b'*').count(), 2 * KEY.len());
        }
    }

    #[test]
    fn a_frame_that_ends_as_a_key_begins_waits_for_no_other() {
        let sent = frame(0x81, b"it is s");
        assert_eq!(through(&sent, 3).unwrap(), sent);
    }

    #[test]
    fn what_cannot_be_looked_through_is_cut_off() {
        assert!(through(&frame(0xc1, b"compressed"), 5).is_err());
        assert!(through(&[0x81, 0x81, 1, 2, 3, 4, 5], 5).is_err());
    }

    #[test]
    fn what_is_asked_for_has_no_extensions() {
        let mut headers = HeaderMap::new();
        assert!(ask(&Method::GET, &mut headers).is_err());
        headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("x"));
        headers.insert(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static("permessage-deflate"));
        ask(&Method::GET, &mut headers).unwrap();
        assert!(!headers.contains_key(SEC_WEBSOCKET_EXTENSIONS));
        assert!(ask(&Method::POST, &mut headers).is_err());
        assert_eq!(headers[UPGRADE], "websocket");
    }
}
