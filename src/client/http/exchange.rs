//! A request to a service through the backend's gateway, both ways as streams.
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::ask::Ask;
use super::pool::Pool;
use super::sender::Sender;
use super::{HttpBackend, connect};
use crate::core::gateway::{
    AnswerHead, Decoder, HeadError, Held, MEDIA_TYPE, PATH, RequestHead, ResponseHead,
    ServicePlace, WholeAnswer, encode,
};
use crate::core::identity::AgentIdentity;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::token::SessionToken;
use crate::core::wire::{self, Route, WIRE_HEADER, WIRE_VERSION};
use crate::web::{Prefixed, wiped};

/// A program's body on its way.
pub type ProgramBody = UnsyncBoxBody<Bytes, io::Error>;
/// Most bytes of a refusal.
const MAX_PROBLEM: usize = 64 * 1024;
/// Longest that an answer in one piece is waited for, from its beginning on.
const WHOLE: Duration = Duration::from_secs(120);
/// Longest that a request waits for an approval, whatever the backend says.
const MAX_HELD: Duration = Duration::from_secs(600);
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
    /// Where an agent's services are, and how their keys travel.
    ///
    /// # Errors
    /// What the backend says, or that it does not answer.
    pub async fn gateway_places(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
    ) -> Answer<Vec<ServicePlace>> {
        // The token leaves here, for the one server that it is for.
        let ask = Ask::new(Route::GatewayPlaces).bearer(session.expose());
        Ok(self.get::<wire::GatewayPlaces>(ask.field("agent_id", agent)).await?.places)
    }

    /// Asks a service through the backend, as the agent whose session it is.
    /// `held` is told when the request waits for an approval, before the answer is there; if it
    /// refuses to, nothing is waited for.
    ///
    /// # Errors
    /// What the backend says, or that it does not answer. Nothing is sent twice: a connection that
    /// was kept, and has ended before anything was sent, is replaced without a word.
    pub async fn forward(
        &self,
        session: &SessionToken,
        head: &RequestHead,
        body: ProgramBody,
        held: impl Fn(&Held) -> Answer<()>,
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
        let mut until = Instant::now() + UNTIL_ANSWER;
        let mut part = Vec::new();
        loop {
            match decoder.feed::<AnswerHead>(&std::mem::take(&mut part))? {
                Some((AnswerHead::Answered(head), first)) => {
                    return Ok((head, Prefixed::keeping(first, rest, lent)));
                }
                Some((AnswerHead::Refused { problem }, _)) => return Err(problem),
                Some((AnswerHead::Held { held: waits }, more)) => {
                    held(&waits)?;
                    let seconds = waits.seconds.min(MAX_HELD.as_secs());
                    until = Instant::now() + UNTIL_ANSWER + Duration::from_secs(seconds);
                    decoder = Decoder::default();
                    part = more;
                    continue;
                }
                None => {}
            }
            let frame = tokio::time::timeout_at(until, rest.frame()).await;
            let frame = frame.map_err(|_| broken(self, "no answer began in time"))?;
            let frame = frame.ok_or(HeadError::CutOff)?;
            let frame = frame.map_err(|_| broken(self, "its answer broke off"))?;
            if let Ok(bytes) = frame.into_data() {
                part = bytes.into();
            }
        }
    }
}

impl HttpBackend {
    /// Sends a request in one piece; see [`crate::core::backend::AccountBackend::send_request`].
    pub(super) async fn send_whole(
        &self,
        session: &SessionToken,
        head: &RequestHead,
        body: Vec<u8>,
        most: usize,
    ) -> Answer<WholeAnswer> {
        let waits = Mutex::new(None);
        let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
        let held = |held: &Held| {
            *waits.lock().unwrap_or_else(PoisonError::into_inner) = Some(held.clone());
            Err(Problem::internal())
        };
        let answered = self.forward(session, head, body, held).await;
        if let Some(held) = waits.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Ok(WholeAnswer::Held(held));
        }
        let (head, mut body) = answered?;
        let until = Instant::now() + WHOLE;
        let mut whole = Vec::new();
        loop {
            let frame = match tokio::time::timeout_at(until, body.frame()).await {
                Ok(Some(frame)) => frame.map_err(|_| broken(self, "its answer broke off"))?,
                Ok(None) => return Ok(WholeAnswer::Answered(head, whole, false)),
                // A stream without an end: what has come so far is more than nothing.
                Err(_) => return Ok(WholeAnswer::Answered(head, whole, true)),
            };
            let Ok(bytes) = frame.into_data() else { continue };
            let room = most - whole.len();
            whole.extend_from_slice(bytes.get(..room).unwrap_or(&bytes));
            if bytes.len() > room {
                return Ok(WholeAnswer::Answered(head, whole, true));
            }
        }
    }
}
