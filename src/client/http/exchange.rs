//! A request to a service through the backend's gateway, both ways as streams.
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Limited};
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use zeroize::Zeroizing;

use super::pool::Pool;
use super::sender::Sender;
use super::{HttpBackend, connect};
use crate::core::gateway::{
    Decoder, HeadError, MEDIA_TYPE, PATH, RequestHead, ResponseHead, encode,
};
use crate::core::problem::{Answer, Code, Problem};
use crate::core::token::SessionToken;
use crate::core::wire::{WIRE_HEADER, WIRE_VERSION};
use crate::web::{Prefixed, wiped};

/// A program's body on its way.
pub type ProgramBody = UnsyncBoxBody<Bytes, io::Error>;
/// Most bytes of a refusal.
const MAX_PROBLEM: usize = 64 * 1024;
/// Longest until an answer begins: somewhat more than the backend waits for a service.
const UNTIL_ANSWER: Duration = Duration::from_secs(620);

/// Longest that a connection whose answer is over may take to be ready for the next.
const UNTIL_FREE: Duration = Duration::from_millis(100);

/// What a service answers, from its first byte on. It keeps the connection that it comes by.
pub type ServiceBody = Prefixed<Incoming, Lent>;

/// A connection for one exchange. Once that is over it serves the next. If it broke off, it alone
/// ends over HTTP/2, and the connection with it over HTTP/1.1.
pub struct Lent {
    sender: Option<Sender<ProgramBody>>,
    from: Arc<Pool<ProgramBody>>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(mut sender) = self.sender.take() else { return };
        if sender.is_free() {
            return self.from.keep(sender);
        }
        // It may be about to be: whoever reads an answer of a known length sees its end before the
        // connection does. One that stays busy, with a body that nobody waits for, would hold up the
        // next exchange.
        let from = Arc::clone(&self.from);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let free = tokio::time::timeout(UNTIL_FREE, sender.is_ready()).await;
                if free == Ok(true) {
                    from.keep(sender);
                }
            });
        }
    }
}

fn broken(backend: &HttpBackend, why: &str) -> Problem {
    Problem::new(
        Code::Unavailable,
        format!("the gateway at {} did not answer", backend.address()),
        why,
        "try again; agentkeys doctor says how the backend stands",
    )
}

impl HttpBackend {
    /// Asks a service through the backend, as the agent whose session it is.
    ///
    /// # Errors
    /// What the backend says, or that it does not answer. Nothing is sent twice: a connection that
    /// was kept, and has ended before anything was sent, is replaced without a word.
    pub async fn forward(
        &self,
        session: &SessionToken,
        head: &RequestHead,
        body: ProgramBody,
    ) -> Answer<(ResponseHead, ServiceBody)> {
        let head = encode(head)?;
        let mut bearer = Zeroizing::new(String::with_capacity(128));
        bearer.push_str("Bearer ");
        bearer.push_str(session.expose());
        let bytes = Zeroizing::new(bearer.as_bytes().to_vec());
        let mut bearer =
            HeaderValue::from_maybe_shared(wiped(bytes)).map_err(|_| Problem::internal())?;
        bearer.set_sensitive(true);
        let host = self.address.host();
        let mut request = Request::post(PATH)
            .header(HOST, HeaderValue::from_str(&host).map_err(|_| Problem::internal())?)
            .header(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE))
            .header(AUTHORIZATION, bearer)
            .body(Prefixed::new(head, body).boxed_unsync())
            .map_err(|_| Problem::internal())?;
        let (response, sender) = loop {
            let kept = self.exchanges.take().await;
            let was_kept = kept.is_some();
            let mut sender = match kept {
                Some(sender) => sender,
                // Its state is large, and is not to be kept for as long as the answer lasts.
                None => {
                    let (address, options) = (&self.address, &self.options);
                    Box::pin(connect::with_retries(address, options, &self.belief)).await?
                }
            };
            let sent = tokio::time::timeout(UNTIL_ANSWER, sender.try_send(request)).await;
            match sent.map_err(|_| broken(self, "no answer began in time"))? {
                Ok(response) => break (response, sender),
                Err(mut error) => match error.take_message().filter(|_| was_kept) {
                    Some(unsent) => request = unsent,
                    None => return Err(broken(self, "it hung up")),
                },
            }
        };
        let lent = Lent { sender: Some(sender), from: self.exchanges.clone() };
        let (parts, mut rest) = response.into_parts();
        let wire = parts.headers.get(WIRE_HEADER).and_then(|value| value.to_str().ok());
        if wire.and_then(|wire| wire.parse().ok()) != Some(WIRE_VERSION) {
            return Err(broken(self, "it does not speak the wire of this version"));
        }
        if !parts.status.is_success() {
            let whole = Limited::new(rest, MAX_PROBLEM).collect().await;
            let bytes = whole.map_err(|_| broken(self, "its refusal broke off"))?.to_bytes();
            let problem = serde_json::from_slice::<Problem>(&bytes);
            return Err(problem.unwrap_or_else(|_| broken(self, "its refusal is none")));
        }
        let mut decoder = Decoder::default();
        loop {
            let frame = rest.frame().await.ok_or(HeadError::CutOff)?;
            let frame = frame.map_err(|_| broken(self, "its answer broke off"))?;
            let Ok(bytes) = frame.into_data() else { continue };
            if let Some((head, first)) = decoder.feed::<ResponseHead>(&bytes)? {
                return Ok((head, Prefixed::keeping(first, rest, lent)));
            }
        }
    }
}
