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
mod request;
mod retry;
mod scrub;
mod signing;
mod upstream;
mod websocket;

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{
    CONTENT_ENCODING, HOST, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_EXTENSIONS,
    TRANSFER_ENCODING,
};
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Request, Response, StatusCode, Uri};

use self::body::{Coming, Outgoing, counted, no_body};
pub use self::destination::Own;
use self::destination::{Destination, Destinations};
use self::exchange::Relayed;
use self::meter::Meter;
use self::oauth::{Bearer, Source, Tokens};
use self::places::{Place, Places};
use self::request::{bad, checked_target, content_length, headers_of, in_short, no_other_meaning};
use self::retry::{MAX_KEPT, Retries};
use self::scrub::Scrubber;
use self::signing::{MAX_SIGNED_BODY, Signing};
use self::upstream::{NotConnected, Upstream};
use self::websocket::Socket;
use super::clock::Entropy;
use super::http::{AnswerBody, Forward, Forwarded};
use super::peer::Peer;
use super::vault::{InUse, Purpose, Right, Vault};
use crate::core::catalog::Sent;
use crate::core::gateway::{
    Field, MAX_HELD_BODY, RequestHead, ResponseHead, ServicePlace, field_text, is_hop_by_hop,
};
use crate::core::identity::ServiceName;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::rule::Path;
use crate::core::secret::SecretBytes;
use crate::core::token::SessionToken;
use crate::web::Prefixed;
use crate::web::Trust;

/// Longest that a service may take until its answer begins. Models think for minutes.
const UNTIL_ANSWER: Duration = Duration::from_secs(600);
/// Longest until a connection is a WebSocket, after the service has agreed.
const UNTIL_UPGRADED: Duration = Duration::from_secs(10);

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

fn not_answered(service: &ServiceName, authority: &str, cause: String) -> Problem {
    let fix = "try again; agentkeys usage shows what was asked";
    let detail = format!("{service} did not answer at {authority}");
    Problem::new(Code::Unavailable, detail, cause, fix)
}

/// A request that was sent.
struct Sending {
    answered: Result<Response<Incoming>, NoAnswer>,
    frames: Option<Prefixed<Incoming>>,
    right: Right,
    scrubber: Scrubber,
    meter: Option<Meter>,
    bearer: Option<Bearer>,
}

/// Why there is no answer, in words that hold nothing of the request.
enum NoAnswer {
    /// Nobody was there to be asked.
    NotConnected(String),
    /// It may have been asked.
    Broken(String),
}

/// By what a request is taken into use once more, to be sent again.
struct Again {
    peer: Peer,
    session: SessionToken,
    purpose: Purpose,
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
        if head.misplaced {
            let to = head.host.unwrap_or_default();
            return Err(self
                .vault
                .misplaced(peer, &session, &head.agent_id, &head.service, &to)
                .await);
        }
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
        let is_small = content_length(&headers).is_some_and(|length| length <= MAX_KEPT as u64);
        let (mut room, mut coming) = (None, Coming::Nothing);
        if has_body || websocket {
            coming = Coming::Streamed(first, body);
        }
        let signing_body = signing.as_mut().filter(|signing| signing.wants_body());
        let is_kept = has_body && is_small && !websocket;
        if signing_body.is_some() || is_kept {
            // Nobody else has anything kept here.
            self.vault.knows(&session).await?;
        }
        if let Some(signing) = signing_body {
            room = Some(self.room.enter(&headers)?);
            let whole = coming.whole(MAX_SIGNED_BODY, signing::too_large).await?;
            signing.take_body(&whole);
            coming = Coming::Whole(whole);
        } else if is_kept {
            coming = Coming::Whole(coming.whole(MAX_KEPT, held::too_large).await?);
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
        let answered = match self.vault.use_in_turn(&peer, &session, &purpose).await? {
            Some(using) => {
                let again = Again { peer, session, purpose };
                let answered = self.ask(asked, using, coming.sent(websocket), Some(again)).await;
                answered.map(|(head, body)| Forwarded::Answered(head, body))
            }
            None => self.hold(peer, &session, purpose, asked, coming, websocket).await,
        };
        drop(room);
        answered
    }
}

impl Gateway {
    /// Has a request wait until its master has answered, and then asks the service.
    async fn hold(
        self: Arc<Self>,
        peer: Peer,
        session: &SessionToken,
        purpose: Purpose,
        asked: Asked,
        coming: Coming,
        websocket: bool,
    ) -> Answer<Forwarded> {
        let (whole, outgoing) = match coming {
            // What goes over a WebSocket later is not what is asked about.
            coming if websocket => (Bytes::new(), coming.sent(true)),
            Coming::Nothing => (Bytes::new(), Outgoing::Nothing),
            coming => {
                let whole = coming.whole(MAX_HELD_BODY, held::too_large).await?;
                (whole.clone(), Outgoing::Whole(whole))
            }
        };
        let host = asked.host.as_deref().unwrap_or(&asked.authority);
        let act = held::act(host, &asked.target, &asked.headers, &whole)?;
        match self.vault.hold(peer, session, purpose, act).await? {
            Ok(using) => {
                let (head, body) = self.ask(asked, using, outgoing, None).await?;
                Ok(Forwarded::Answered(head, body))
            }
            Err(waiting) => {
                let held = waiting.held().clone();
                let later = async move {
                    let using = waiting.answer().await?;
                    self.ask(asked, using, outgoing, None).await
                };
                Ok(Forwarded::Held(held, Box::pin(later)))
            }
        }
    }

    /// Asks the service; `again` once more where it did nothing, and that is no other act: each time
    /// is a use of its own, on record and by the rules.
    async fn ask(
        &self,
        asked: Asked,
        mut using: Box<InUse>,
        mut outgoing: Outgoing,
        again: Option<Again>,
    ) -> Answer<(ResponseHead, AnswerBody)> {
        let entropy = Entropy::system();
        let mut retries = Retries::default();
        loop {
            let kept = again.as_ref().and_then(|again| Some((again, outgoing.again()?)));
            let mut sent = self.send(&asked, using, outgoing).await?;
            let pause = match (&kept, &sent.answered) {
                (Some(_), Ok(response)) => retries.after(response, &entropy),
                (Some(_), Err(NoAnswer::NotConnected(_))) => retries.unreachable(&entropy),
                _ => None,
            };
            let (Some(pause), Some((again, kept))) = (pause, kept) else {
                return self.answer(asked, sent).await;
            };
            if let Some(meter) = &mut sent.meter {
                meter.forget();
            }
            drop(sent.answered);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                problem = sent.right.lost() => return Err(problem),
            }
            let Again { peer, session, purpose } = again;
            using = self.vault.use_in_turn(peer, session, purpose).await?.ok_or_else(|| {
                let cause = "it did nothing, and its rules have changed before it was asked again";
                not_answered(&asked.service, &asked.authority, cause.to_owned())
            })?;
            outgoing = kept;
        }
    }

    /// Sends a request once.
    async fn send(&self, asked: &Asked, using: Box<InUse>, outgoing: Outgoing) -> Answer<Sending> {
        let Asked { service, authority, host, sent, signing, oauth, method, target, .. } = asked;
        let mut headers = asked.headers.clone();
        let (key, mut right) = (using.secret, using.standing);
        let bearer = match oauth {
            None => None,
            Some(source) => Some(tokio::select! {
                got = self.tokens.get(&self.vault, service, source, &key, using.stored) => got?,
                problem = right.lost() => return Err(problem),
            }),
        };
        let sent_key = bearer.as_ref().map_or(&key, Bearer::token);
        let target = inject::inject(service, sent, sent_key, &mut headers, target)?;
        let path: PathAndQuery = target.parse().map_err(|_| Problem::internal())?;
        let uri = Uri::builder().scheme("https").authority(authority.as_str());
        let uri = uri.path_and_query(path).build().map_err(|_| Problem::internal())?;
        let secrets = match signing {
            _ if bearer.is_some() => Vec::new(),
            Some(signing) => {
                let now = self.vault.now();
                signing.sign(service, &key, now, method, &target, &mut headers)?
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

        let meter = using.charge.map(Meter::new);
        let (body, frames) = match outgoing {
            Outgoing::Nothing => (no_body(), None),
            Outgoing::Whole(whole) => (body::whole(whole), None),
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
                Some(_) => self.upstream.upgrade(request).await.map_err(NoAnswer::Broken),
                None => self.upstream.send(request).await.map_err(|error| why(&error)),
            }
        };
        let answered = tokio::select! {
            answered = tokio::time::timeout(UNTIL_ANSWER, asking) => answered,
            problem = right.lost() => return Err(problem),
        };
        let late = format!("its answer did not begin within {} seconds", UNTIL_ANSWER.as_secs());
        let answered = answered.map_err(|_| not_answered(service, authority, late))?;
        Ok(Sending { answered, frames, right, scrubber, meter, bearer })
    }

    /// What the service answered, for the program.
    async fn answer(&self, asked: Asked, sent: Sending) -> Answer<(ResponseHead, AnswerBody)> {
        let Asked { service, authority, method, place, .. } = asked;
        let Sending { answered, frames, right, scrubber, mut meter, bearer } = sent;
        let mut response = answered.map_err(|why| {
            if let Some(meter) = &mut meter {
                meter.forget();
            }
            let (NoAnswer::NotConnected(why) | NoAnswer::Broken(why)) = why;
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
            return Ok((head, body));
        };
        let upgraded = tokio::time::timeout(UNTIL_UPGRADED, upgraded).await;
        let broken = || not_answered(&service, &authority, "it agreed and hung up".to_owned());
        let upgraded = upgraded.map_err(|_| broken())?.map_err(|_| broken())?;
        let body = Socket::new(upgraded, frames, scrubber, right, place).boxed_unsync();
        Ok((head, body))
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

/// Why there is no answer.
fn why(error: &hyper_util::client::legacy::Error) -> NoAnswer {
    let mut next = error.source();
    while let Some(cause) = next {
        match cause.downcast_ref::<NotConnected>() {
            Some(known @ NotConnected::Unreachable(_)) => {
                return NoAnswer::NotConnected(known.to_string());
            }
            // What is not believed or not allowed is no better the next time.
            Some(known) => return NoAnswer::Broken(known.to_string()),
            None => next = cause.source(),
        }
    }
    if error.is_connect() {
        NoAnswer::NotConnected("the connection could not be made".to_owned())
    } else {
        NoAnswer::Broken("the connection broke before an answer came".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
