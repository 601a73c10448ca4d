//! `POST /gateway/forward`: a request inside a request, both as streams; and `GET /gateway/places`.
//! Everything but the bytes' way is the gateway's; see [`crate::core::gateway`] for what the bodies
//! are.
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::Response;
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::http::request::Parts;

use super::call::{Bearer, Call};
use super::guard;
use super::reply::Reply;
use super::service::{Connection, Logged, WIRE_NUMBER};
use crate::backend::peer::Peer;
use crate::core::backend::AccountBackend;
use crate::core::gateway::{
    AnswerHead, Decoder, HeadError, Held, MEDIA_TYPE, RequestHead, ResponseHead, ServicePlace,
    encode,
};
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::problem::{Answer, Code, Problem};
use crate::core::token::SessionToken;
use crate::core::wire::{self, WIRE_HEADER};
use crate::web::Prefixed;

/// The body of a service's answer, on its way.
pub type AnswerBody = UnsyncBoxBody<Bytes, io::Error>;

/// The same behind its head. It keeps what writes it to the log when it has ended.
pub type Streamed = Prefixed<AnswerBody, Logged>;

/// What became of a request.
pub enum Forwarded {
    /// The service has answered.
    Answered(ResponseHead, AnswerBody),
    /// It waits for an approval; the answer comes later.
    Held(Held, Later),
}

/// An answer that is still to come.
pub type Later = Pin<Box<dyn Future<Output = Answer<(ResponseHead, AnswerBody)>> + Send>>;

/// Whoever asks services.
#[async_trait]
pub trait Forward: Send + Sync {
    /// Where a service is, and how its key travels.
    fn place(&self, service: &ServiceName) -> ServicePlace;

    /// Asks a service, and gives its answer's head once it is there, or says that it waits. `first` is what of the
    /// program's body came along with its head.
    async fn forward(
        self: Arc<Self>,
        peer: Peer,
        session: SessionToken,
        head: RequestHead,
        first: Vec<u8>,
        body: Incoming,
    ) -> Answer<Forwarded>;
}

/// `GET /gateway/places`: of which agent.
pub struct Action(SessionToken, AgentIdentity);

/// `GET /gateway/places`.
pub fn places(call: &Call<'_>) -> Answer<Action> {
    Ok(Action(call.session()?, call.fields(["agent_id"])?.required("agent_id")?))
}

impl Action {
    /// The places of the services that the agent has keys of, for whoever may list those.
    pub async fn apply(
        self,
        backend: &dyn AccountBackend,
        gateway: Option<&dyn Forward>,
    ) -> Answer<Reply> {
        let Some(gateway) = gateway else { return Err(crate::core::gateway::none()) };
        let held = backend.list_credentials(&self.0, &self.1).await?;
        let places = held.iter().map(|one| gateway.place(&one.service)).collect();
        Reply::json(&wire::GatewayPlaces { places })
    }
}

/// What a request's answer begins with, and what comes after that.
pub async fn exchange(
    connection: &Arc<Connection>,
    parts: &Parts,
    mut body: Incoming,
) -> Answer<(AnswerHead, AnswerBody)> {
    guard::check_origin(parts, &connection.hosts)?;
    guard::check_headers(parts)?;
    if parts.method != hyper::Method::POST {
        let mut problem =
            Problem::new(Code::Invalid, "method not allowed", "this path takes POST", "use POST");
        problem.status = 405;
        return Err(problem);
    }
    let kind = parts.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    if kind != Some(MEDIA_TYPE.as_bytes()) {
        return Err(Problem::invalid("content-type", format!("it wants {MEDIA_TYPE}")));
    }
    let query = parts.uri.query().unwrap_or_default();
    let call = Call { bearer: Bearer::of(&parts.headers), query, body: &[] };
    call.without_query()?;
    let session = call.session()?;
    let Some(gateway) = connection.shared.served.gateway.clone() else {
        return Err(crate::core::gateway::none());
    };
    let late = || {
        Problem::new(
            Code::Invalid,
            "the exchange is late",
            "its head did not come in time",
            "send it at once",
        )
    };
    let head_time = connection.shared.limits.head_time;
    let head = tokio::time::timeout(head_time, head_of(&mut body)).await;
    let (head, first) = head.map_err(|_| late())??;
    Ok(match gateway.forward(connection.peer.clone(), session, head, first, body).await? {
        Forwarded::Answered(head, body) => (AnswerHead::Answered(head), body),
        Forwarded::Held(held, later) => {
            (AnswerHead::Held { held }, HeldBody { later: Some(later), rest: None }.boxed_unsync())
        }
    })
}

/// What follows when a request was held: the head of its answer, and the answer's body; or why there
/// is none.
struct HeldBody {
    later: Option<Later>,
    rest: Option<AnswerBody>,
}

impl Body for HeldBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(later) = &mut self.later {
            let answered = std::task::ready!(later.as_mut().poll(cx));
            self.later = None;
            let head = match answered {
                Ok((head, body)) => {
                    self.rest = Some(body);
                    AnswerHead::Answered(head)
                }
                Err(problem) => AnswerHead::Refused { problem },
            };
            let bytes = encode(&head).map_err(io::Error::other)?;
            return Poll::Ready(Some(Ok(Frame::data(bytes.into()))));
        }
        match &mut self.rest {
            Some(rest) => Pin::new(rest).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }
}

async fn head_of(body: &mut Incoming) -> Answer<(RequestHead, Vec<u8>)> {
    let mut decoder = Decoder::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| HeadError::CutOff)?;
        let Ok(bytes) = frame.into_data() else { continue };
        if let Some(found) = decoder.feed(&bytes)? {
            return Ok(found);
        }
    }
    Err(HeadError::CutOff.into())
}

/// The answer as ours: its head first, then its body as it comes. It is logged when it has ended.
pub fn response(head: &AnswerHead, body: AnswerBody, logged: Logged) -> Response<Streamed> {
    // What the service sent fits, since its headers were bounded when they were read; and if it did
    // not, an empty head is no head, and whoever reads it says so.
    let head = encode(head).unwrap_or_default();
    let mut response = Response::new(Prefixed::keeping(head, body, logged));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static(WIRE_HEADER), WIRE_NUMBER);
    response
}
