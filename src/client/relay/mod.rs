//! The gateway's end beside a program: a listener on loopback that takes the program's requests by
//! their placeholder, and hands them to the backend, which puts the key in; and, for programs that
//! cannot be told an address, a proxy. No key comes here.
//!
//! Must never serve another Unix user, a request without this run's placeholder or, by the proxy, its
//! token, or one that shows a placeholder where none belongs.
mod answer;
mod authority;
mod peer;
mod placeholder;
mod proxy;
mod quiet;
mod site;
mod tunnel;
mod websocket;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Body as _, Incoming};
use hyper::header::{
    CONTENT_LENGTH, COOKIE, HOST, HeaderValue, ORIGIN, PROXY_AUTHORIZATION, TRANSFER_ENCODING,
};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use self::answer::{Answered, fields, refusal, response};
pub use self::placeholder::Placeholder;
use self::placeholder::is_signed_by_another;
pub use self::proxy::Proxy;
use self::site::{HTTPS, Site};
use super::http::HttpBackend;
use crate::core::backend::{AccountBackend as _, Minted};
use crate::core::catalog::{self, Sent};
use crate::core::gateway::{Held, MAX_FIELDS, RequestHead, ServicePlace, misplaced};
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::problem::{Answer, Code, Problem};
use crate::core::token::{RenewalSecret, SessionToken};
use crate::core::types::{SessionId, Timestamp};
use crate::harden;
pub use crate::web::Host;

/// Longest until a request's head is there.
const HEAD_TIME: Duration = Duration::from_secs(15);
/// Most bytes of a request's head.
const MAX_HEAD: usize = 48 * 1024;
/// Most connections at once: somewhat more than the backend lets one session have under way.
const CONNECTIONS: usize = 1_152;
/// How long before its end a session is renewed.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * 60);
/// Most characters of a host that the backend is told.
const MAX_TOLD: usize = 160;
/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(60);

/// A service that a program may use.
pub struct Brokered {
    /// Which.
    pub service: ServiceName,
    /// What the program has in place of its key.
    pub placeholder: Placeholder,
    sent: Sent,
    /// Where its own hosts are, if its key can be sent at all.
    sites: Vec<Site>,
    /// What names end with that are its hosts too: `.example.org`.
    endings: Vec<String>,
}

impl Brokered {
    /// With a new placeholder.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn new(place: ServicePlace) -> Answer<Self> {
        let ServicePlace { service, hosts, sent } = place;
        let endings = hosts.iter().filter_map(|host| catalog::ending(host));
        let endings = endings.map(str::to_owned).collect();
        let sites = hosts.iter().filter_map(|host| Site::read(host, HTTPS)).collect();
        Ok(Self { placeholder: Placeholder::new(&service)?, service, sent, sites, endings })
    }

    fn is_at(&self, site: &Site) -> bool {
        self.sites.contains(site) || self.endings.iter().any(|ending| site.ends_with(ending))
    }

    /// Refuses what is signed with a key that is not this run's.
    fn signed_by_us(&self, headers: &HeaderMap) -> Answer<()> {
        if !is_signed_by_another(&self.sent, headers) {
            return Ok(());
        }
        let service = &self.service;
        Err(Problem::new(
            Code::Denied,
            format!("access denied: the request to {service} is signed with another key"),
            "it is signed with none of this run's stand-ins, and the gateway does not put its own key \
             in place of one that the program chose",
            "let the program take its key from its environment, and no other profile",
        ))
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
    proxy: Option<Arc<Proxy>>,
    /// Told what a person should know: a placeholder that was tried elsewhere.
    tell: Box<dyn Fn(&str) + Send + Sync>,
}

/// What else there is of the run's session.
struct Kept {
    id: SessionId,
    expires_at: Timestamp,
    renewal: Option<RenewalSecret>,
}

/// How the listener's HTTP/1.1 is read.
fn http1_server() -> http1::Builder {
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
    server.max_buf_size(MAX_HEAD).max_headers(MAX_FIELDS).half_close(false);
    server
}

impl Relay {
    /// For one run, with a session of its own, and a proxy if there is to be one.
    pub fn new(
        backend: Arc<HttpBackend>,
        agent: AgentIdentity,
        session: Minted,
        services: Vec<Brokered>,
        proxy: Option<Proxy>,
        tell: Box<dyn Fn(&str) + Send + Sync>,
    ) -> Arc<Self> {
        let Minted { session, session_id: id, expires_at, renewal, .. } = session;
        let (token, kept) = (RwLock::new(Arc::new(session)), Kept { id, expires_at, renewal });
        let (kept, proxy) = (Mutex::new(kept), proxy.map(Arc::new));
        Arc::new(Self { backend, agent, token, kept, services, proxy, tell })
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
            let (relay, place) = (Arc::clone(&self), Arc::new(place));
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let (relay, place) = (Arc::clone(&relay), Arc::clone(&place));
                    async move { Ok::<_, Infallible>(relay.answer(request, ours, place).await) }
                });
                let served = http1_server().serve_connection(TokioIo::new(stream), service);
                let _ = served.with_upgrades().await;
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

    async fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
        ours: SocketAddr,
        place: Arc<OwnedSemaphorePermit>,
    ) -> Response<Answered> {
        let of_a_proxy = request.method() == Method::CONNECT || request.uri().authority().is_some();
        if let Some(proxy) = self.proxy.as_ref().filter(|_| of_a_proxy) {
            return self.answer_as_proxy(proxy, request, ours, place).await;
        }
        self.relay(request, ours).await.unwrap_or_else(|problem| refusal(&problem))
    }

    async fn relay(
        &self,
        request: Request<Incoming>,
        ours: SocketAddr,
    ) -> Answer<Response<Answered>> {
        let (mut parts, body) = request.into_parts();
        is_for_us(&parts.headers, ours)?;
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let (brokered, mut target) = self.service_at(target)?;
        let taken = brokered.placeholder.take(&brokered.sent, &mut parts.headers, &mut target);
        self.misplaced(brokered.service.as_str(), &parts.headers, &target).await?;
        brokered.signed_by_us(&parts.headers)?;
        if !taken {
            return Err(no_placeholder(&brokered.service));
        }
        self.exchange(brokered, None, parts, target, body).await
    }

    /// Hands a request to the backend, which asks the service; `site` is the one of its hosts that
    /// the program named.
    async fn exchange(
        &self,
        of: &Brokered,
        site: Option<&Site>,
        mut parts: Parts,
        target: String,
        body: Incoming,
    ) -> Answer<Response<Answered>> {
        // The proxy's own token is nobody else's business.
        parts.headers.remove(PROXY_AUTHORIZATION);
        join_cookies(&mut parts.headers);
        // Over HTTP/2 a body comes without a word.
        let websocket = websocket::asked(&mut parts);
        let has_body = websocket.is_some()
            || parts.headers.contains_key(CONTENT_LENGTH)
            || parts.headers.contains_key(TRANSFER_ENCODING)
            || !body.is_end_stream();
        let head = RequestHead {
            agent_id: self.agent.clone(),
            service: of.service.clone(),
            host: site.map(Site::to_string),
            method: parts.method.as_str().to_owned(),
            target,
            headers: fields(&parts.headers),
            body: has_body,
            websocket: websocket.is_some(),
            misplaced: false,
        };
        let (asked, body) = match websocket {
            Some((asked, body)) => {
                (Some(asked), body.map_err(|never| match never {}).boxed_unsync())
            }
            None => (None, body.map_err(io::Error::other).boxed_unsync()),
        };
        let token = Arc::clone(&self.token.read().unwrap_or_else(PoisonError::into_inner));
        let what = || format!("{} {}{}", head.method, head.service, without_query(&head.target));
        let held = |waits: &Held| {
            (self.tell)(&waits_for_approval(&what(), waits));
            Ok(())
        };
        let (head, body) = self.backend.forward(&token, &head, body, held).await?;
        match asked.filter(|_| head.status == 101) {
            Some(asked) => {
                let nothing = Empty::new().map_err(|never| match never {});
                Ok(asked.agreed(response(&head, nothing)?, body))
            }
            None => response(&head, body),
        }
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
    async fn misplaced(&self, to: &str, headers: &HeaderMap, target: &str) -> Answer<()> {
        let stands = |one: &&Brokered| {
            let in_headers = headers.values().any(|value| one.placeholder.is_in(value.as_bytes()));
            in_headers || one.placeholder.is_in(target.as_bytes())
        };
        let Some(one) = self.services.iter().find(stands) else { return Ok(()) };
        let whose = &one.service;
        (self.tell)(&format!("refused a request to {to} with the placeholder of {whose}"));
        // The backend puts it on record; nothing of the request goes there but where it was to go.
        let head = RequestHead {
            agent_id: self.agent.clone(),
            service: whose.clone(),
            host: Some(to.chars().take(MAX_TOLD).collect()),
            method: "GET".to_owned(),
            target: "/".to_owned(),
            headers: Vec::new(),
            body: false,
            websocket: false,
            misplaced: true,
        };
        let token = Arc::clone(&self.token.read().unwrap_or_else(PoisonError::into_inner));
        let nothing = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let told = self.backend.forward(&token, &head, nothing, |_| Ok(())).await;
        Err(told.err().unwrap_or_else(|| misplaced(whose, to)))
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

fn without_query(target: &str) -> &str {
    target.split('?').next().unwrap_or_default()
}

/// What a person is to do, so that a request goes on.
fn waits_for_approval(what: &str, held: &Held) -> String {
    let Held { pair_code, otp, seconds, .. } = held;
    format!("{what} waits for approval, {seconds} s: agentkeys approve {pair_code} (OTP {otp})")
}

/// HTTP/2 may send a cookie in pieces, which over HTTP/1.1 is one field (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let pieces: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if pieces.len() > 1
        && let Ok(whole) = HeaderValue::from_bytes(&pieces.join(&b"; "[..]))
    {
        headers.insert(COOKIE, whole);
    }
}
