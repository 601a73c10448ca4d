//! A WebSocket of a program's through the backend: the bytes of both directions are the bodies of one
//! exchange.
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Frame};
use hyper::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_KEY, UPGRADE};
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Response, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::HEAD_TIME;
use super::answer::Answered;
use crate::client::http::ServiceBody;

/// Most bytes that are read of a program at once.
const AT_ONCE: usize = 16 * 1024;
/// How many of such parts wait for the backend.
const WAITING: usize = 8;
/// How long a service may take to end after the program has.
const AFTER: Duration = Duration::from_secs(10);

/// What a program will send: the end of it that is the exchange's body.
pub struct FromProgram(mpsc::Receiver<Bytes>);

impl Body for FromProgram {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// A program's end of a WebSocket that is not there yet.
pub struct Asked {
    upgrade: OnUpgrade,
    sender: mpsc::Sender<Bytes>,
}

/// Whether a request asks for a WebSocket, over HTTP/1.1; if so, its two ends.
pub fn asked(parts: &mut Parts) -> Option<(Asked, FromProgram)> {
    let lists = |name, word: &str| {
        parts.headers.get_all(name).iter().any(|value| {
            let value = value.to_str().unwrap_or_default();
            value.split(',').any(|one| one.trim().eq_ignore_ascii_case(word))
        })
    };
    let is_it = parts.method == Method::GET
        && parts.version == Version::HTTP_11
        && lists(UPGRADE, "websocket")
        && lists(CONNECTION, "upgrade")
        && parts.headers.contains_key(SEC_WEBSOCKET_KEY);
    let upgrade = parts.extensions.remove::<OnUpgrade>().filter(|_| is_it)?;
    let (sender, receiver) = mpsc::channel(WAITING);
    Some((Asked { upgrade, sender }, FromProgram(receiver)))
}

impl Asked {
    /// The service has agreed: `head` goes to the program, and from then on the bytes of both.
    pub fn agreed(self, head: Response<Answered>, service: ServiceBody) -> Response<Answered> {
        tokio::spawn(self.join(service));
        let (mut parts, _) = head.into_parts();
        parts.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        parts.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        let nothing = Empty::new().map_err(|never| match never {}).boxed_unsync();
        Response::from_parts(parts, nothing)
    }

    async fn join(self, mut service: ServiceBody) {
        let Self { upgrade, sender } = self;
        let Ok(Ok(upgraded)) = tokio::time::timeout(HEAD_TIME, upgrade).await else { return };
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
        let up = async move {
            let mut buffer = BytesMut::new();
            loop {
                buffer.reserve(AT_ONCE);
                match read.read_buf(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(_) if sender.send(buffer.split().freeze()).await.is_err() => break,
                    Ok(_) => {}
                }
            }
            drop(sender);
            tokio::time::sleep(AFTER).await;
        };
        let down = async move {
            while let Some(Ok(frame)) = service.frame().await {
                let Ok(bytes) = frame.into_data() else { continue };
                if write.write_all(&bytes).await.is_err() || write.flush().await.is_err() {
                    return;
                }
            }
            let _ = write.shutdown().await;
        };
        tokio::select! {
            () = up => {}
            () = down => {}
        }
    }
}
