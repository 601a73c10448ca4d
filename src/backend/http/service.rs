//! The one wrapper around every request: request id, deadline, body limit, disconnect, panic,
//! and one event in the log, with the route's name and never a URI, a body or a token.
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Incoming};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, EXPECT, HeaderName, HeaderValue, RETRY_AFTER,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode, Version};
use tokio::sync::{mpsc, watch};

use super::call::{Bearer, Call};
use super::guard::{self, Hosts};
use super::limits::Limits;
use super::pulse::Pulse;
use super::reply::Reply;
use super::router::{self, Action, NoRoute};
use super::{Served, body, gateway};
use crate::backend::peer::Peer;
use crate::core::audit::Head;
use crate::core::encoding::to_base64;
use crate::core::presence::Proof;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::wire::{HEAD_HEADER, REQUEST_ID_HEADER, Route, WIRE_HEADER, WIRE_VERSION};

/// How far the server's life has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// It accepts and answers.
    Running,
    /// It answers what is under way, and ends what waits.
    Draining,
    /// It hangs up.
    Ended,
}

/// What all connections share. The server is drained when the last one has let go of it.
pub struct Shared {
    pub served: Served,
    pub limits: Limits,
    pub stage: watch::Receiver<Stage>,
    pub requests: AtomicU64,
    /// Nothing is ever sent: it closes with the last connection and handler.
    pub _alive: mpsc::Sender<Infallible>,
}

/// What all requests of one connection share.
pub struct Connection {
    pub shared: Arc<Shared>,
    pub peer: Peer,
    pub hosts: Arc<Hosts>,
    pub pulse: Arc<Pulse>,
}

/// One request in the log: written when it is dropped, so that it is also there when the
/// client has gone.
pub struct Logged {
    connection: Arc<Connection>,
    id: u64,
    route: &'static str,
    status: u16,
    started: Instant,
}

/// The body of an answer: one of ours, or a service's as it comes.
pub type AnswerOf = Either<Full<Bytes>, gateway::Streamed>;

/// What the log has as the status of a request whose client went before the answer.
const CLIENT_GONE: u16 = 499;

impl Drop for Logged {
    fn drop(&mut self) {
        let now = Instant::now();
        self.connection.pulse.end(now);
        let took = now.duration_since(self.started).as_micros();
        tracing::info!(
            request = self.id,
            route = self.route,
            status = self.status,
            micros = u64::try_from(took).unwrap_or(u64::MAX),
            peer = match self.connection.peer {
                Peer::Address(_) if self.connection.hosts.are_over_tls() => "tls",
                Peer::Address(_) => "tcp",
                Peer::Unix(_) => "unix",
            },
            "request"
        );
    }
}

/// An answer, before it is HTTP.
struct Outcome {
    answer: Answer<Reply>,
    head: Option<HeaderValue>,
    allow: Option<HeaderValue>,
    /// A part of the body was not read, so the connection cannot go on.
    close: bool,
}

impl Outcome {
    fn refused(problem: Problem) -> Self {
        Self { answer: Err(problem), head: None, allow: None, close: false }
    }
}

/// Answers one request.
pub async fn handle(
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<AnswerOf>, Infallible> {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    connection.pulse.begin(parts.version == Version::HTTP_2);
    let mut logged = Logged {
        connection: Arc::clone(&connection),
        id: connection.shared.requests.fetch_add(1, Ordering::Relaxed) + 1,
        route: "none",
        status: CLIENT_GONE,
        started,
    };
    if parts.uri.path() == crate::core::gateway::PATH {
        logged.route = "gateway_forward";
        let exchanged = Box::pin(catching(gateway::exchange(&connection, &parts, body))).await;
        return Ok(match exchanged {
            Ok(Ok((head, body))) => {
                logged.status = 200;
                gateway::response(&head, body, logged).map(Either::Right)
            }
            Ok(Err(problem)) => refused(problem, &mut logged, parts.version),
            Err(Panicked) => refused(Problem::internal(), &mut logged, parts.version),
        });
    }
    let found = router::find(parts.method.as_str(), parts.uri.path());
    logged.route = found.as_ref().map_or("none", |route| route.name());
    // In a box of its own: a connection keeps room for all that this function may hold, and those
    // that streams go by are many and hold nothing of this.
    let answered = Box::pin(catching(answer(&connection, found, parts, body, started))).await;
    let outcome = answered.unwrap_or_else(|Panicked| {
        tracing::error!(request = logged.id, "a handler panicked");
        Outcome::refused(Problem::internal())
    });
    let response = response(outcome, logged.id);
    logged.status = response.status().as_u16();
    Ok(response.map(Either::Left))
}

/// The answer to an exchange that did not come about. Some of its body is unread, so that over
/// HTTP/1.1 the connection ends with it.
fn refused(problem: Problem, logged: &mut Logged, version: Version) -> Response<AnswerOf> {
    let mut outcome = Outcome::refused(problem);
    outcome.close = version < Version::HTTP_2;
    let response = response(outcome, logged.id);
    logged.status = response.status().as_u16();
    response.map(Either::Left)
}

struct Panicked;

/// The future's output, or that it panicked.
async fn catching<F: Future>(future: F) -> Result<F::Output, Panicked> {
    let mut future = pin!(future);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Err(_) => Poll::Ready(Err(Panicked)),
    })
    .await
}

async fn answer(
    connection: &Connection,
    found: Result<Route, NoRoute>,
    parts: Parts,
    mut body: Incoming,
    started: Instant,
) -> Outcome {
    let mut unread = !body.is_end_stream();
    let prepared = prepare(connection, &found, &parts, &mut body, &mut unread).await;
    let mut outcome = match prepared {
        Ok((route, action, proof)) => {
            return perform(connection, route, action, proof, started).await;
        }
        Err(problem) => Outcome::refused(problem),
    };
    if let Err(NoRoute::Method(allowed)) = &found {
        outcome.allow = HeaderValue::from_str(allowed).ok();
    }
    if unread {
        // Over HTTP/2 only this stream ends, and `Connection` means nothing.
        outcome.close = parts.version < Version::HTTP_2;
        // Who asked first whether to send is told no, and sends nothing.
        if !parts.headers.contains_key(EXPECT) {
            body::discard(body, &connection.shared);
        }
    }
    outcome
}

/// Everything before something is done: the checks, the body, the parsing.
async fn prepare(
    connection: &Connection,
    found: &Result<Route, NoRoute>,
    parts: &Parts,
    body: &mut Incoming,
    unread: &mut bool,
) -> Answer<(Route, Action, Option<Proof>)> {
    guard::check_origin(parts, &connection.hosts)?;
    let route = found.as_ref().copied().map_err(Problem::from)?;
    guard::check_headers(parts)?;
    if *unread {
        guard::check_body_kind(parts, route.has_body())?;
    }
    let bytes = body::read(body, &connection.shared.limits).await?;
    *unread = false;
    let query = parts.uri.query().unwrap_or_default();
    let call = Call { bearer: Bearer::of(&parts.headers), query, body: &bytes };
    Ok((route, router::parse(route, &call)?, guard::proof(parts)?))
}

/// Does it, within what is left of the request's time.
async fn perform(
    connection: &Connection,
    route: Route,
    action: Action,
    proof: Option<Proof>,
    started: Instant,
) -> Outcome {
    let shared = &connection.shared;
    let deadline = (started + shared.limits.request_time).into();
    // One backend a request, so that its head is this call's.
    let backend = (shared.served.make_backend)(connection.peer.clone(), proof);
    let gateway = shared.served.gateway.clone();
    let work = async move {
        let answer = action.apply(&*backend, gateway.as_deref()).await;
        (answer, backend.last_head())
    };
    let late = |_| Err(too_late(route));
    let done = if router::must_finish(route) {
        let keeps_the_server_up = Arc::clone(shared);
        let task = tokio::spawn(async move {
            let done = work.await;
            drop(keeps_the_server_up);
            done
        });
        match tokio::time::timeout_at(deadline, task).await {
            Ok(joined) => joined.map_err(|error| {
                tracing::error!(route = route.name(), panicked = error.is_panic(), "handler died");
                Problem::internal()
            }),
            Err(elapsed) => late(elapsed),
        }
    } else if route.may_wait() {
        let mut stage = shared.stage.clone();
        tokio::select! {
            biased;
            done = tokio::time::timeout_at(deadline, work) => done.map_or_else(late, Ok),
            _ = stage.wait_for(|stage| *stage != Stage::Running) => Err(stopping()),
        }
    } else {
        tokio::time::timeout_at(deadline, work).await.map_or_else(late, Ok)
    };
    match done {
        Ok((answer, head)) => {
            Outcome { answer, head: head.as_ref().and_then(header), allow: None, close: false }
        }
        Err(problem) => Outcome::refused(problem),
    }
}

fn header(head: &Head) -> Option<HeaderValue> {
    let json = serde_json::to_vec(head).ok()?;
    HeaderValue::try_from(to_base64(&json)).ok()
}

fn too_late(route: Route) -> Problem {
    let cause = if router::must_finish(route) {
        "it took too long; it goes on, and may yet be done"
    } else {
        "it took too long, and was given up"
    };
    Problem::new(Code::Unavailable, "the backend is too slow", cause, "try again").retry_after(1)
}

fn stopping() -> Problem {
    let fix = "try again when it is back";
    Problem::new(Code::Unavailable, "the backend is stopping", "it was told to stop", fix)
        .retry_after(1)
}

/// The problem of a request in plain HTTP on a port that speaks TLS.
pub fn not_tls() -> Problem {
    let cause = "the request came in plain HTTP, for anybody on the way to read";
    let fix = "use https:// with this address, and take what was sent for known to others";
    let mut problem = Problem::new(Code::Invalid, "this port speaks https only", cause, fix);
    problem.status = 400;
    problem
}

/// The problem of a connection that there is no place for.
pub fn full() -> Problem {
    let cause = "as many connections are open as the backend allows, in all or from this address";
    Problem::new(Code::Unavailable, "too many connections", cause, "close some, or try again")
        .retry_after(1)
}

fn response(outcome: Outcome, id: u64) -> Response<Full<Bytes>> {
    const JSON: HeaderValue = HeaderValue::from_static("application/json");
    const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
    let (status, kind, bytes) = match &outcome.answer {
        Ok(Reply::Json(bytes)) => (StatusCode::OK, Some(JSON), bytes.clone()),
        Ok(Reply::Nothing) => (StatusCode::NO_CONTENT, None, Bytes::new()),
        Err(problem) => {
            let status = StatusCode::from_u16(problem.status);
            let json = serde_json::to_vec(problem).unwrap_or_default();
            (status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), Some(PROBLEM), json.into())
        }
    };
    let mut response = Response::new(Full::new(bytes));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.reserve(8);
    if let Some(kind) = kind {
        headers.insert(CONTENT_TYPE, kind);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    const WIRE: HeaderName = HeaderName::from_static(WIRE_HEADER);
    headers.insert(WIRE, WIRE_NUMBER);
    if let Some(head) = outcome.head {
        headers.insert(HeaderName::from_static(HEAD_HEADER), head);
    }
    if let Some(allow) = outcome.allow {
        headers.insert(ALLOW, allow);
    }
    if outcome.close {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if let Err(problem) = &outcome.answer {
        headers.insert(HeaderName::from_static(REQUEST_ID_HEADER), id.into());
        if let Some(seconds) = problem.retry_after {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
    }
    response
}

/// [`WIRE_VERSION`] as a header's value.
pub const WIRE_NUMBER: HeaderValue = HeaderValue::from_static("1");
const _: () = assert!(WIRE_VERSION == 1, "write the number there, too");
