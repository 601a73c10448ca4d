//! The gateway's end beside a program: a listener on loopback that takes the program's requests by
//! their placeholder, and hands them to the backend, which puts the key in. No key comes here.
//!
//! Must never serve another Unix user, a request without this run's placeholder, or one that shows a
//! placeholder where none belongs.
mod peer;
mod placeholder;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::header::{
    CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue, ORIGIN, TRANSFER_ENCODING,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Semaphore};

pub use self::placeholder::Placeholder;
use super::http::{HttpBackend, ServiceBody};
use crate::core::backend::{AccountBackend as _, Minted};
use crate::core::catalog::{self, Sent};
use crate::core::gateway::{
    Field, MAX_FIELDS, RequestHead, ResponseHead, field_bytes, field_text, is_hop_by_hop,
};
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::problem::{Answer, Code, Problem};
use crate::core::token::{RenewalSecret, SessionToken};
use crate::core::types::{SessionId, Timestamp};
use crate::harden;

/// Longest until a request's head is there.
const HEAD_TIME: Duration = Duration::from_secs(15);
/// Most bytes of a request's head.
const MAX_HEAD: usize = 48 * 1024;
/// Most connections at once: somewhat more than the backend lets one session have under way.
const CONNECTIONS: usize = 1_152;
/// How long before its end a session is renewed.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * 60);
/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(60);

/// A service that a program may use.
pub struct Brokered {
    /// Which.
    pub service: ServiceName,
    /// What the program has in place of its key.
    pub placeholder: Placeholder,
    sent: Sent,
}

impl Brokered {
    /// With a new placeholder.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn new(service: ServiceName) -> Answer<Self> {
        let bearer = || Sent::Header { name: "Authorization".into(), value: "Bearer {}".into() };
        let sent = catalog::find(&service).map_or_else(bearer, |entry| entry.sent.clone());
        Ok(Self { placeholder: Placeholder::new(&service)?, service, sent })
    }
}

/// What a run's requests go through.
pub struct Relay {
    backend: Arc<HttpBackend>,
    agent: AgentIdentity,
    /// Whoever sends a request takes it along, so that renewing waits for nobody.
    token: RwLock<Arc<SessionToken>>,
    kept: Mutex<Kept>,
    services: Vec<Brokered>,
    /// Told what a person should know: a placeholder that was tried elsewhere.
    tell: Box<dyn Fn(&str) + Send + Sync>,
}

/// What else there is of the run's session.
struct Kept {
    id: SessionId,
    expires_at: Timestamp,
    renewal: Option<RenewalSecret>,
}

type Answered = Either<Full<Bytes>, ServiceBody>;

impl Relay {
    /// For one run, with a session of its own.
    pub fn new(
        backend: Arc<HttpBackend>,
        agent: AgentIdentity,
        session: Minted,
        services: Vec<Brokered>,
        tell: Box<dyn Fn(&str) + Send + Sync>,
    ) -> Arc<Self> {
        let Minted { session, session_id: id, expires_at, renewal, .. } = session;
        let (token, kept) = (RwLock::new(Arc::new(session)), Kept { id, expires_at, renewal });
        Arc::new(Self { backend, agent, token, kept: Mutex::new(kept), services, tell })
    }

    /// Serves until it is dropped.
    ///
    /// # Errors
    /// The listener does not work.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) -> io::Result<Infallible> {
        let ours = listener.local_addr()?;
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
            let (stream, theirs) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(_) => {
                    // Out of descriptors, for a moment.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let us = harden::effective_uid();
            if !matches!(peer::uid_of(theirs, ours), Ok(Some(uid)) if uid == us) {
                (self.tell)("refused a connection of another Unix user");
                continue;
            }
            let _ = stream.set_nodelay(true);
            let relay = Arc::clone(&self);
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let relay = Arc::clone(&relay);
                    async move { Ok::<_, Infallible>(relay.answer(request, ours).await) }
                });
                let mut server = http1::Builder::new();
                server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
                server.max_buf_size(MAX_HEAD).max_headers(MAX_FIELDS).half_close(false);
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
                drop(place);
            });
        }
    }

    /// Renews the session in time, for as long as the run lasts.
    pub async fn keep_signed_in(self: Arc<Self>, now: fn() -> Timestamp) {
        loop {
            tokio::time::sleep(LOOK).await;
            let mut kept = self.kept.lock().await;
            if kept.expires_at.since_ms(now()) > RENEW_BEFORE.as_millis() as u64 {
                continue;
            }
            let Some(renewal) = kept.renewal.take() else { return };
            match self.backend.renew_session(&renewal).await {
                Ok(Minted { session, session_id: id, expires_at, renewal, .. }) => {
                    *kept = Kept { id, expires_at, renewal };
                    let mut token = self.token.write().unwrap_or_else(PoisonError::into_inner);
                    *token = Arc::new(session);
                }
                // It may be a moment without the backend; a secret that was not taken is still good.
                Err(problem) if problem.code == Code::Unavailable => kept.renewal = Some(renewal),
                Err(_) => return,
            }
        }
    }

    /// The run's session, to be ended with it.
    pub async fn session_id(&self) -> SessionId {
        self.kept.lock().await.id
    }

    async fn answer(&self, request: Request<Incoming>, ours: SocketAddr) -> Response<Answered> {
        match self.relay(request, ours).await {
            Ok(response) => response.map(Either::Right),
            Err(problem) => refusal(&problem).map(Either::Left),
        }
    }

    async fn relay(
        &self,
        request: Request<Incoming>,
        ours: SocketAddr,
    ) -> Answer<Response<ServiceBody>> {
        let (parts, body) = request.into_parts();
        let mut headers = parts.headers;
        is_for_us(&headers, ours)?;
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let (brokered, mut target) = self.service_at(target)?;
        if !brokered.placeholder.take(&brokered.sent, &mut headers, &mut target) {
            self.misplaced(brokered, &headers, &target)?;
            return Err(no_placeholder(&brokered.service));
        }
        self.misplaced(brokered, &headers, &target)?;
        let has_body =
            headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING);
        let head = RequestHead {
            agent_id: self.agent.clone(),
            service: brokered.service.clone(),
            method: parts.method.as_str().to_owned(),
            target,
            headers: fields(&headers),
            body: has_body,
        };
        let body = body.map_err(io::Error::other).boxed_unsync();
        let token = Arc::clone(&self.token.read().unwrap_or_else(PoisonError::into_inner));
        let (head, body) = self.backend.forward(&token, &head, body).await?;
        response(&head, body)
    }

    /// The service that a path names, and the path there.
    fn service_at(&self, target: &str) -> Answer<(&Brokered, String)> {
        let rest = target.strip_prefix('/').unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        let found = self.services.iter().find(|one| one.service.as_str() == name);
        let found = found.ok_or_else(|| {
            let known: Vec<&str> = self.services.iter().map(|one| one.service.as_str()).collect();
            Problem::new(
                Code::NotFound,
                "there is no such service here",
                format!("this run has: {}", known.join(", ")),
                "use the base URL that stands in the program's environment",
            )
        })?;
        let rest = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
        Ok((found, rest))
    }

    /// Refuses a request that has a placeholder of this run where none belongs: in another service's
    /// request, or anywhere but where the key goes.
    fn misplaced(&self, of: &Brokered, headers: &HeaderMap, target: &str) -> Answer<()> {
        for one in &self.services {
            let in_headers = headers.values().any(|value| one.placeholder.is_in(value.as_bytes()));
            if in_headers || one.placeholder.is_in(target.as_bytes()) {
                let (whose, to) = (&one.service, &of.service);
                (self.tell)(&format!("refused a request to {to} with the placeholder of {whose}"));
                return Err(Problem::new(
                    Code::Denied,
                    format!("access denied: the placeholder of {whose} does not belong there"),
                    format!("it stands in a request to {to}, where no key of {whose} goes"),
                    "look at what the program sends, and to whom",
                ));
            }
        }
        Ok(())
    }
}

/// A page in a browser can reach loopback too; it says where it comes from.
fn is_for_us(headers: &HeaderMap, ours: SocketAddr) -> Answer<()> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok());
    let names = [ours.to_string(), format!("localhost:{}", ours.port())];
    let named = host.is_some_and(|host| names.iter().any(|name| name == host));
    if named && hosts.next().is_none() && !headers.contains_key(ORIGIN) {
        return Ok(());
    }
    Err(Problem::new(
        Code::Denied,
        "the request's host is refused",
        "it does not name this listener, or comes from a page in a browser",
        "use the base URL that stands in the program's environment",
    ))
}

fn no_placeholder(service: &ServiceName) -> Problem {
    Problem::new(
        Code::Unauthorized,
        format!("the request to {service} has no placeholder of this run"),
        "it is what stands in the program's environment in place of the key, and is good for one run",
        "let the program read its key from its environment, and not from elsewhere",
    )
}

fn fields(headers: &HeaderMap) -> Vec<Field> {
    let fields = headers.iter();
    fields.map(|(name, value)| (name.as_str().to_owned(), field_text(value.as_bytes()))).collect()
}

/// The service's answer, for the program.
fn response(head: &ResponseHead, body: ServiceBody) -> Answer<Response<ServiceBody>> {
    let wrong = || {
        let cause = "its head is not one of HTTP";
        Problem::new(Code::Unavailable, "the answer cannot be handed on", cause, "try again")
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(head.status).map_err(|_| wrong())?;
    for (name, value) in &head.headers {
        let name: HeaderName = name.parse().map_err(|_| wrong())?;
        if is_hop_by_hop(name.as_str()) {
            continue;
        }
        let value = field_bytes(value).and_then(|bytes| HeaderValue::from_bytes(&bytes).ok());
        response.headers_mut().append(name, value.ok_or_else(wrong)?);
    }
    Ok(response)
}

/// A refusal, as programs of every service can show it: the words stand also where they look for
/// them, in `error.message`.
fn refusal(problem: &Problem) -> Response<Full<Bytes>> {
    let mut json = serde_json::to_value(problem).unwrap_or_default();
    let words = format!("{}: {}", problem.detail, problem.cause);
    if let Some(members) = json.as_object_mut() {
        let error =
            serde_json::json!({ "message": words, "type": problem.code, "code": problem.code });
        members.insert("error".to_owned(), error);
    }
    let bytes = serde_json::to_vec(&json).unwrap_or_default();
    let mut response = Response::new(Full::new(bytes.into()));
    *response.status_mut() =
        StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let kind = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
