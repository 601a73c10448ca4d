//! The gateway: a request of an agent's goes to its service from here, with the key put in on the
//! way, so that the agent's side never has it. See `docs/gateway.md`.
//!
//! Must never send a key in the clear, to another host than its service's, or before its use is on
//! record; follow a redirect; or hand on an answer that shows the key.
mod address;
mod body;
mod destination;
mod exchange;
mod held;
mod inject;
mod meter;
mod oauth;
mod places;
mod scrub;
mod signing;
mod upstream;
mod websocket;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue,
    SEC_WEBSOCKET_EXTENSIONS, TRANSFER_ENCODING,
};
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Request, StatusCode, Uri};

use self::body::{Coming, Outgoing, counted, no_body};
pub use self::destination::Own;
use self::destination::{Destination, Destinations};
use self::exchange::Relayed;
use self::meter::Meter;
use self::oauth::{Bearer, Source, Tokens};
use self::places::{Place, Places};
use self::scrub::Scrubber;
use self::signing::{MAX_SIGNED_BODY, Signing};
use self::upstream::{NotConnected, Upstream};
use self::websocket::Socket;
use super::http::{Forward, Forwarded};
use super::peer::Peer;
use super::vault::{InUse, Purpose, Taken, Vault};
use crate::core::catalog::Sent;
use crate::core::gateway::{
    Field, MAX_FIELDS, MAX_HELD_BODY, RequestHead, ResponseHead, ServicePlace, field_bytes,
    field_text, is_hop_by_hop,
};
use crate::core::identity::ServiceName;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::rule::Path;
use crate::core::secret::SecretBytes;
use crate::core::token::SessionToken;
use crate::web::Trust;

/// Longest that a service may take until its answer begins. Models think for minutes.
const UNTIL_ANSWER: Duration = Duration::from_secs(600);
/// Longest until a connection is a WebSocket, after the service has agreed.
const UNTIL_UPGRADED: Duration = Duration::from_secs(10);
/// Most characters of a path that go on record.
const MOST_RECORDED: usize = 160;

/// The gateway of one backend.
pub struct Gateway {
    vault: Vault,
    upstream: Upstream,
    destinations: Destinations,
    places: Places,
    room: signing::Room,
    tokens: Tokens,
}

impl Gateway {
    /// Over a vault; `own` are services that the operator gave an address.
    pub fn new(vault: Vault, own: BTreeMap<ServiceName, Own>) -> Self {
        Self::trusting(vault, own, None)
    }

    /// The same, believing these and not whom this machine trusts.
    pub fn trusting(vault: Vault, own: BTreeMap<ServiceName, Own>, trust: Option<Trust>) -> Self {
        let destinations = Destinations::new(own);
        let tokens = Tokens::new(trust.clone());
        let upstream = Upstream::new(trust, destinations.named());
        let (places, room) = (Places::default(), signing::Room::default());
        Self { vault, upstream, destinations, places, room, tokens }
    }
}

fn bad(what: &str, why: &str) -> Problem {
    Problem::invalid(what, why)
}

/// The program's headers, without those that belong to its connection. Without a body there is no
/// length either: the service would take what comes next on the connection, which may be another
/// agent's, for the body that it was told of.
fn headers_of(fields: &[Field], has_body: bool) -> Answer<HeaderMap> {
    if fields.len() > MAX_FIELDS {
        return Err(bad("headers", &format!("a request has at most {MAX_FIELDS}")));
    }
    let named: BTreeSet<String> = fields
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("connection"))
        .flat_map(|(_, value)| value.split(',').map(|name| name.trim().to_ascii_lowercase()))
        .collect();
    let mut headers = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields {
        let name: HeaderName = name.parse().map_err(|_| bad("headers", "a name is none"))?;
        let goes_no_further = is_hop_by_hop(name.as_str())
            || named.contains(name.as_str())
            || matches!(name.as_str(), "host" | "expect" | "accept-encoding")
            || name == CONTENT_LENGTH && !has_body;
        if goes_no_further {
            continue;
        }
        let value = field_bytes(value).and_then(|bytes| HeaderValue::from_bytes(&bytes).ok());
        headers.append(name, value.ok_or_else(|| bad("headers", "a value is none"))?);
    }
    // Of two lengths, or one that is no number, the two ends could read different requests.
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    let is_number =
        |value: &HeaderValue| value.as_bytes().iter().all(u8::is_ascii_digit) && !value.is_empty();
    if lengths.next().is_some() || length.is_some_and(|length| !is_number(length)) {
        return Err(bad("headers", "content-length is one number"));
    }
    // What comes back is looked through for the key, so it has to come as it is.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    Ok(headers)
}

/// Path and query in origin form: they begin with one slash, and name no host.
fn checked_target(target: &str) -> Answer<()> {
    let visible = target.bytes().all(|c| c.is_ascii_graphic() && c != b'#' && c != b'\\');
    let parsed = target.parse::<PathAndQuery>().is_ok_and(|read| read.as_str() == target);
    if target.starts_with('/') && !target.starts_with("//") && visible && parsed {
        return Ok(());
    }
    Err(bad("target", "it wants a path that begins with one slash, and a query"))
}

/// Headers that some services take for another method or path than the request has: what was held
/// against the rules would not be what is done.
const OTHER_MEANINGS: [&str; 6] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
    "x-forwarded-prefix",
];

fn no_other_meaning(headers: &HeaderMap) -> Answer<()> {
    match OTHER_MEANINGS.iter().find(|name| headers.contains_key(**name)) {
        Some(name) => Err(bad("headers", &format!("{name} does not go through the gateway"))),
        None => Ok(()),
    }
}

/// What goes on record of a request: method, host and path, without the query, which may hold
/// anything.
fn in_short(method: &Method, authority: &str, target: &str) -> String {
    let path = target.split('?').next().unwrap_or_default();
    let cut: String = path.chars().take(MOST_RECORDED).collect();
    let more = if cut.len() < path.len() { "…" } else { "" };
    format!("{method} {authority}{cut}{more}")
}

fn not_answered(service: &ServiceName, authority: &str, cause: String) -> Problem {
    let fix = "try again; agentkeys usage shows what was asked";
    let detail = format!("{service} did not answer at {authority}");
    Problem::new(Code::Unavailable, detail, cause, fix)
}

/// A request that was found to be in order, but for whether it may be sent.
struct Asked {
    service: ServiceName,
    authority: String,
    /// Where it is another than that of the authority.
    host: Option<String>,
    sent: Sent,
    signing: Option<Signing>,
    oauth: Option<Source>,
    method: Method,
    target: String,
    headers: HeaderMap,
    place: Place,
}

#[async_trait]
impl Forward for Gateway {
    fn place(&self, service: &ServiceName) -> ServicePlace {
        self.destinations.place(service)
    }

    async fn forward(
        self: Arc<Self>,
        peer: Peer,
        session: SessionToken,
        head: RequestHead,
        first: Vec<u8>,
        body: Incoming,
    ) -> Answer<Forwarded> {
        let method: Method = head.method.parse().map_err(|_| bad("method", "it is none"))?;
        if method == Method::CONNECT || method == Method::TRACE {
            return Err(bad("method", "CONNECT and TRACE do not go through the gateway"));
        }
        checked_target(&head.target)?;
        let mut headers = headers_of(&head.headers, head.body)?;
        let host = head.host.as_deref();
        let Destination { authority, host: below, sent, oauth } =
            self.destinations.find(&head.service, host, &head.target)?;
        let path = Path::plain(&head.target)
            .map_err(|why| bad("target", &format!("its path is not in its plain form: {why}")))?;
        no_other_meaning(&headers)?;
        if head.websocket {
            websocket::ask(&method, &mut headers)?;
        }
        let asked_host = below.as_deref().unwrap_or(&authority);
        let mut signing = match &sent {
            Sent::Signed(_) if head.websocket => {
                return Err(bad(
                    "websocket",
                    "to a service whose requests are signed there is none",
                ));
            }
            Sent::Signed(_) => Some(Signing::read(asked_host, &headers, &head.target, head.body)?),
            _ => None,
        };
        let what = in_short(&method, asked_host, &head.target);
        // Before anything goes on record: what is turned away here was not used. By another's id
        // nobody takes a place, since that is the hash of the whole token.
        let place = self.places.enter(session.id())?;
        let RequestHead { agent_id: agent, service, target, body: has_body, websocket, .. } = head;
        let purpose = Purpose {
            agent,
            service: service.clone(),
            method: method.as_str().to_owned(),
            path,
            what,
            act: None,
        };
        let (mut room, mut coming) = (None, Coming::Nothing);
        if has_body || websocket {
            coming = Coming::Streamed(first, body);
        }
        if let Some(signing) = signing.as_mut().filter(|signing| signing.wants_body()) {
            // Nobody else has anything kept here.
            self.vault.knows(&session).await?;
            room = Some(self.room.enter(&headers)?);
            let whole = coming.whole(MAX_SIGNED_BODY, signing::too_large).await?;
            signing.take_body(&whole);
            coming = Coming::Whole(whole);
        }
        let asked = Asked {
            service,
            authority,
            host: below,
            sent,
            signing,
            oauth,
            method,
            target,
            headers,
            place,
        };
        let using = match self.vault.use_credential(peer.clone(), &session, &purpose).await? {
            Taken::InUse(using) => using,
            Taken::Asks => {
                // What goes over a WebSocket later is not what is asked about.
                let (whole, outgoing) = match coming {
                    coming if websocket => (Bytes::new(), coming.sent(true)),
                    Coming::Nothing => (Bytes::new(), Outgoing::Nothing),
                    coming => {
                        let whole = coming.whole(MAX_HELD_BODY, held::too_large).await?;
                        (whole.clone(), Outgoing::whole(whole))
                    }
                };
                let host = asked.host.as_deref().unwrap_or(&asked.authority);
                let act = held::act(host, &asked.target, &asked.headers, &whole)?;
                return match self.vault.hold(peer, &session, purpose, act).await? {
                    Ok(using) => self.ask(asked, using, outgoing).await,
                    Err(waiting) => {
                        let held = waiting.held().clone();
                        let later = async move {
                            let using = waiting.answer().await?;
                            match self.ask(asked, using, outgoing).await? {
                                Forwarded::Answered(head, body) => Ok((head, body)),
                                Forwarded::Held(..) => Err(Problem::internal()),
                            }
                        };
                        Ok(Forwarded::Held(held, Box::pin(later)))
                    }
                };
            }
        };
        let outgoing = coming.sent(websocket);
        let answered = self.ask(asked, using, outgoing).await;
        drop(room);
        answered
    }
}

impl Gateway {
    /// Asks the service.
    async fn ask(&self, asked: Asked, using: Box<InUse>, outgoing: Outgoing) -> Answer<Forwarded> {
        let Asked { service, authority, host, sent, signing, oauth, method, target, .. } = asked;
        let (mut headers, place) = (asked.headers, asked.place);
        let (key, mut right) = (using.secret, using.standing);
        let bearer = match &oauth {
            None => None,
            Some(source) => Some(tokio::select! {
                got = self.tokens.get(&self.vault, &service, source, &key, using.stored) => got?,
                problem = right.lost() => return Err(problem),
            }),
        };
        let sent_key = bearer.as_ref().map_or(&key, Bearer::token);
        let target = inject::inject(&service, &sent, sent_key, &mut headers, &target)?;
        let path: PathAndQuery = target.parse().map_err(|_| Problem::internal())?;
        let uri = Uri::builder().scheme("https").authority(authority.as_str());
        let uri = uri.path_and_query(path).build().map_err(|_| Problem::internal())?;
        let secrets = match signing {
            _ if bearer.is_some() => Vec::new(),
            Some(signing) => {
                let now = self.vault.now();
                signing.sign(&service, &key, now, &method, &target, &mut headers)?
            }
            None => vec![key],
        };
        if let Some(host) = host {
            let host = HeaderValue::try_from(host).map_err(|_| Problem::internal())?;
            headers.insert(HOST, host);
        }
        let got_by = bearer.iter().flat_map(Bearer::hidden);
        let kept: Vec<&[u8]> = secrets.iter().chain(got_by).map(SecretBytes::expose).collect();
        let scrubber = Scrubber::of(&kept);
        drop(secrets);

        let mut meter = using.charge.map(Meter::new);
        let (body, frames) = match outgoing {
            Outgoing::Nothing => (no_body(), None),
            Outgoing::Body(body) => (body, None),
            Outgoing::Frames(frames) => (no_body(), Some(frames)),
        };
        let body = match &meter {
            None => body,
            Some(meter) => counted(body, meter.sent()),
        };
        let mut request = Request::new(body);
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let asking = async {
            match &frames {
                Some(_) => self.upstream.upgrade(request).await,
                None => self.upstream.send(request).await.map_err(|error| why(&error)),
            }
        };
        let answered = tokio::select! {
            answered = tokio::time::timeout(UNTIL_ANSWER, asking) => answered,
            problem = right.lost() => return Err(problem),
        };
        let late = format!("its answer did not begin within {} seconds", UNTIL_ANSWER.as_secs());
        let answered = answered.map_err(|_| not_answered(&service, &authority, late))?;
        let mut response = answered.map_err(|why| {
            if let Some(meter) = &mut meter {
                meter.forget();
            }
            not_answered(&service, &authority, why)
        })?;
        let frames = frames.filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS);
        let upgraded = hyper::upgrade::on(&mut response);

        let (parts, body) = response.into_parts();
        if let Some(bearer) = bearer.filter(|_| parts.status == StatusCode::UNAUTHORIZED) {
            self.tokens.forget(&bearer, self.vault.now()).await;
        }
        if let Some(meter) = &mut meter {
            meter.begin(&method, parts.status, &parts.headers);
        }
        if is_encoded(&parts.headers) {
            let cause = "it was compressed, though that was not asked for, and cannot be looked \
                         through for the key";
            return Err(Problem::new(
                Code::Unavailable,
                format!("the answer of {service} is not handed on"),
                cause,
                "ask for something else; nothing of it was handed on",
            ));
        }
        let head = ResponseHead {
            status: parts.status.as_u16(),
            headers: answer_fields(&parts.headers, &scrubber),
        };
        let Some(frames) = frames else {
            let body = Relayed::new(body, scrubber, right, meter, place).boxed_unsync();
            return Ok(Forwarded::Answered(head, body));
        };
        let upgraded = tokio::time::timeout(UNTIL_UPGRADED, upgraded).await;
        let broken = || not_answered(&service, &authority, "it agreed and hung up".to_owned());
        let upgraded = upgraded.map_err(|_| broken())?.map_err(|_| broken())?;
        let body = Socket::new(upgraded, frames, scrubber, right, place).boxed_unsync();
        Ok(Forwarded::Answered(head, body))
    }
}

/// Whether a body is written in any other way than as it is.
fn is_encoded(headers: &HeaderMap) -> bool {
    let other = |name, plain: &str| {
        let values = headers.get_all(name).iter();
        values.into_iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(plain.as_bytes()))
    };
    other(CONTENT_ENCODING, "identity")
        || other(TRANSFER_ENCODING, "chunked")
        || headers.contains_key(SEC_WEBSOCKET_EXTENSIONS)
}

/// The service's headers, without those that belong to its connection, and without the key.
fn answer_fields(headers: &HeaderMap, scrubber: &Scrubber) -> Vec<Field> {
    let goes_on = |name: &HeaderName| !is_hop_by_hop(name.as_str());
    let fields = headers.iter().filter(|(name, _)| goes_on(name));
    fields
        .map(|(name, value)| {
            (name.as_str().to_owned(), field_text(&scrubber.whole(value.as_bytes())))
        })
        .collect()
}

/// Why there is no answer, in words that hold nothing of the request.
fn why(error: &hyper_util::client::legacy::Error) -> String {
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(known) = cause.downcast_ref::<NotConnected>() {
            return known.to_string();
        }
        next = cause.source();
    }
    if error.is_connect() {
        "the connection could not be made".to_owned()
    } else {
        "the connection broke before an answer came".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_could_mean_another_host_or_end_the_line_is_refused() {
        for good in ["/", "/v1/chat?a=b&c=%20"] {
            assert!(checked_target(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "v1",
            "//evil.example/v1",
            "https://evil.example/",
            "/a b",
            "/a\r\nx: y",
            "/a#b",
            "/a\\b",
            "*",
            "/\u{e9}",
        ] {
            assert!(checked_target(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_belongs_to_the_programs_connection_goes_no_further() {
        let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let sent = [
            field("connection", "close, X-Own"),
            field("x-own", "1"),
            field("host", "evil.example"),
            field("transfer-encoding", "chunked"),
            field("te", "trailers"),
            field("accept-encoding", "gzip"),
            field("accept", "a"),
            field("accept", "b"),
        ];
        let headers = headers_of(&sent, true).unwrap();
        let names: Vec<_> = headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["accept", "accept", "accept-encoding"]);
        assert_eq!(headers["accept-encoding"], "identity");
        for wrong in [
            vec![field("content-length", "1"), field("content-length", "1")],
            vec![field("content-length", "1, 2")],
            vec![field("content-length", "")],
            vec![field("a\r\nb", "1")],
            vec![field("a", "1\r\nb: 2")],
            vec![field("a", "\u{100}")],
            vec![field("a", "1"); MAX_FIELDS + 1],
        ] {
            assert!(headers_of(&wrong, true).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_length_without_a_body_would_swallow_the_next_agents_request() {
        let sent = [("content-length".to_owned(), "40".to_owned())];
        assert!(headers_of(&sent, true).unwrap().contains_key(CONTENT_LENGTH));
        assert!(!headers_of(&sent, false).unwrap().contains_key(CONTENT_LENGTH));
    }

    #[test]
    fn a_body_that_cannot_be_looked_through_is_known() {
        let of = |name: HeaderName, value: &str| {
            is_encoded(&HeaderMap::from_iter([(name, value.parse().unwrap())]))
        };
        assert!(!is_encoded(&HeaderMap::new()));
        assert!(!of(TRANSFER_ENCODING, "chunked") && !of(CONTENT_ENCODING, "Identity"));
        assert!(of(CONTENT_ENCODING, "gzip") && of(CONTENT_ENCODING, "identity, br"));
        assert!(of(TRANSFER_ENCODING, "gzip, chunked"));
    }

    #[test]
    fn what_goes_on_record_has_no_query_and_an_end() {
        let target = format!("/{}?key=secret", "x".repeat(500));
        let text = in_short(&Method::GET, "api.example", &target);
        assert!(text.starts_with("GET api.example/xxx") && text.ends_with('…'));
        assert!(!text.contains("secret") && text.chars().count() < 200);
    }
}
