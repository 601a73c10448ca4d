//! The proxy of a run, for programs that ask their service's own host whatever their environment
//! says. For the hosts of the run's services it speaks TLS in their name, by certificates that hold
//! for this run alone, and the requests go the relay's way; all else is handed on unseen, or refused.
//!
//! Must never serve a client without this run's token, hand a service's host on unseen, or send
//! anything of the run's services over a connection that is not encrypted.
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body as _, Incoming};
use hyper::header::{
    CONNECTION, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, ServerConfig};
use subtle::ConstantTimeEq;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::TlsAcceptor;

use super::answer::{Answered, refusal};
use super::authority::{self, Below, Issued};
use super::quiet::Quiet;
use super::site::{self, Site};
use super::{Brokered, HEAD_TIME, MAX_HEAD, Relay, tunnel};
use crate::core::gateway::is_hop_by_hop;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::types::{Timestamp, to_hex};
use crate::web::Host;

/// Who the clients are, by name.
const USER: &str = "agentkeys";
/// Random bytes of the token.
const RANDOM: usize = 24;
/// Most requests at once on one connection of HTTP/2.
const STREAMS: u32 = 128;
/// How long a connection that is ended for want of requests may take to end by itself.
const LAST_WORD: Duration = Duration::from_secs(1);
/// The port of `http://`.
const HTTP: u16 = 80;
/// Longest until an answer of a host that the proxy does not answer for begins.
const UNTIL_ANSWER: Duration = Duration::from_secs(600);

/// A run's proxy.
pub struct Proxy {
    token: String,
    root: CertificateDer<'static>,
    servers: Vec<(Site, Arc<ServerConfig>)>,
    /// For hosts that are named by what they end with alone.
    below: Option<Below>,
    /// Whether hosts of no service are refused.
    strict: bool,
    complained: Mutex<BTreeSet<String>>,
}

impl Proxy {
    /// One that answers for the hosts of these services.
    ///
    /// # Errors
    /// The system has no randomness, or a host is none that a certificate can be for.
    pub fn new(services: &[Brokered], strict: bool, now: Timestamp) -> Answer<Self> {
        let mut random = [0; RANDOM];
        SystemRandom::new().fill(&mut random).map_err(|_| Problem::internal())?;
        let mut sites: Vec<Site> = Vec::new();
        for site in services.iter().flat_map(|one| &one.sites) {
            if !sites.contains(site) {
                sites.push(site.clone());
            }
        }
        let mut hosts: Vec<Host> = Vec::new();
        for site in &sites {
            if !hosts.contains(&site.host) {
                hosts.push(site.host.clone());
            }
        }
        let endings: BTreeSet<String> =
            services.iter().flat_map(|one| &one.endings).cloned().collect();
        let Issued { root, servers, below } = authority::issue(&hosts, endings, now)?;
        let with_server = |site: Site| {
            let server = servers.get(&site.host.to_string()).cloned();
            server.map(|server| (site, server)).ok_or_else(Problem::internal)
        };
        let servers = sites.into_iter().map(with_server).collect::<Answer<_>>()?;
        let (token, complained) = (to_hex(&random), Mutex::default());
        Ok(Self { token, root, servers, below, strict, complained })
    }

    /// As it stands in a program's environment.
    pub fn address(&self, port: u16) -> String {
        format!("http://{USER}:{}@127.0.0.1:{port}", self.token)
    }

    /// The certificate by which its programs believe it.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// The hosts that it answers for.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.servers.iter().map(|(site, _)| &site.host)
    }

    /// What the names of others that it answers for end with.
    pub fn endings(&self) -> impl Iterator<Item = &str> {
        self.below.iter().flat_map(Below::endings)
    }

    fn server(&self, site: &Site) -> Option<Arc<ServerConfig>> {
        let known = self.servers.iter().find(|(one, _)| one == site);
        let known = known.map(|(_, server)| Arc::clone(server));
        known.or_else(|| {
            let below = self.below.as_ref().filter(|_| site.port == site::HTTPS)?;
            below.server(&site.host)
        })
    }

    /// Whether plain HTTP there would go to one of the services. On this machine, of which others may
    /// use the other ports, only by the service's own port.
    fn is_in_the_clear(&self, site: &Site) -> bool {
        self.servers.iter().any(|(one, _)| {
            one.host == site.host
                && (!site.host.is_loopback() || site.port == one.port || site.port == HTTP)
        }) || self.below.as_ref().is_some_and(|below| below.has(&site.host))
    }

    fn is_authentic(&self, headers: &HeaderMap) -> bool {
        let mut given = headers.get_all(PROXY_AUTHORIZATION).iter();
        let (Some(value), None) = (given.next(), given.next()) else { return false };
        let text = value.to_str().unwrap_or_default();
        let Some((scheme, pair)) = text.split_once(' ') else { return false };
        let pair = STANDARD.decode(pair.trim()).unwrap_or_default();
        let wanted = format!("{USER}:{}", self.token);
        scheme.eq_ignore_ascii_case("basic") && wanted.as_bytes().ct_eq(&pair).into()
    }

    /// Whether this is said for the first time.
    fn first(&self, what: &str) -> bool {
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        complained.len() < 1000 && complained.insert(what.to_owned())
    }
}

fn no_token() -> Response<Answered> {
    let mut problem = Problem::new(
        Code::Unauthorized,
        "the proxy wants this run's token",
        "it stands in HTTPS_PROXY, and is good for one run",
        "let the program take the proxy's whole address from its environment",
    );
    problem.status = 407;
    let mut response = refusal(&problem);
    let wanted = HeaderValue::from_static("Basic realm=\"agentkeys run\"");
    response.headers_mut().insert(PROXY_AUTHENTICATE, wanted);
    response
}

fn in_the_clear(host: &Host) -> Problem {
    Problem::new(
        Code::Denied,
        format!("access denied: {host} is not asked over plain HTTP"),
        "anybody on the way could read the request, and a key is sent over TLS alone",
        format!("use https://{host}"),
    )
}

fn strict(site: &Site) -> Problem {
    Problem::new(
        Code::Denied,
        format!("access denied: {site} is no host of this run's services"),
        "the run goes with --strict or --sandbox, so that the proxy leads nowhere else",
        "agentkeys run --proxy without --strict, or give the agent a key of that service",
    )
}

fn not_understood(why: &str) -> Problem {
    let fix = "ask as HTTP clients do: CONNECT HOST:PORT, or GET http://HOST/";
    Problem::new(Code::Invalid, "the proxy does not understand the request", why, fix)
}

impl Relay {
    /// Answers what is asked of a proxy. `place` is kept for as long as the connection lasts.
    pub(super) async fn answer_as_proxy(
        self: &Arc<Self>,
        proxy: &Arc<Proxy>,
        request: Request<Incoming>,
        ours: SocketAddr,
        place: Arc<OwnedSemaphorePermit>,
    ) -> Response<Answered> {
        if !proxy.is_authentic(request.headers()) {
            return no_token();
        }
        let answered = if request.method() == Method::CONNECT {
            self.connect(proxy, request, ours, place).await
        } else {
            self.forward_plain(proxy, request, ours).await
        };
        answered.unwrap_or_else(|problem| refusal(&problem))
    }

    async fn connect(
        self: &Arc<Self>,
        proxy: &Arc<Proxy>,
        mut request: Request<Incoming>,
        ours: SocketAddr,
        place: Arc<OwnedSemaphorePermit>,
    ) -> Answer<Response<Answered>> {
        let authority = request.uri().authority().map(|authority| authority.as_str());
        let site = authority.filter(|_| request.uri().scheme().is_none());
        // The port is always written there; a 0 could not be, and is none.
        let site = site.and_then(|text| Site::read(text, 0)).filter(|site| site.port != 0);
        let site = site.ok_or_else(|| not_understood("CONNECT wants a host and a port"))?;
        if !request.body().is_end_stream() {
            return Err(not_understood("CONNECT has no body"));
        }
        let upgrade = hyper::upgrade::on(&mut request);
        let upgraded = async move {
            let upgraded = tokio::time::timeout(HEAD_TIME, upgrade).await;
            upgraded.ok().and_then(Result::ok).map(TokioIo::new)
        };
        if let Some(server) = proxy.server(&site) {
            let (relay, proxy) = (Arc::clone(self), Arc::clone(proxy));
            tokio::spawn(async move {
                if let Some(stream) = upgraded.await {
                    relay.answer_for(&proxy, Arc::new(site), server, stream).await;
                }
                drop(place);
            });
        } else {
            self.may_go_on(proxy, &site)?;
            let stream = tunnel::dial(&site.host, site.port, ours).await?;
            tokio::spawn(async move {
                if let Some(program) = upgraded.await {
                    tunnel::join(program, stream).await;
                }
                drop(place);
            });
        }
        Ok(Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync()))
    }

    /// Whether the proxy hands on what is for a site that it does not answer for.
    fn may_go_on(&self, proxy: &Proxy, site: &Site) -> Answer<()> {
        if site.port == HTTP && proxy.is_in_the_clear(site) {
            (self.tell)(&format!("refused plain HTTP to {}", site.host));
            return Err(in_the_clear(&site.host));
        }
        if proxy.strict {
            if proxy.first(&format!("strict {site}")) {
                (self.tell)(&format!("refused a connection to {site}, no host of a service here"));
            }
            return Err(strict(site));
        }
        Ok(())
    }

    /// Speaks TLS as the server of a site, and answers its requests.
    async fn answer_for<S>(
        self: Arc<Self>,
        proxy: &Proxy,
        site: Arc<Site>,
        server: Arc<ServerConfig>,
        stream: S,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = TlsAcceptor::from(server).accept(stream);
        let stream = match tokio::time::timeout(HEAD_TIME, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                if let Some(what) = failed_handshake(&site, &error)
                    && proxy.first(&what)
                {
                    (self.tell)(&what);
                }
                return;
            }
            Err(_) => return,
        };
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let quiet = Quiet::new();
        let requests = Arc::clone(&quiet);
        let service = service_fn(move |request| {
            let (relay, site, running) = (Arc::clone(&self), Arc::clone(&site), requests.begin());
            async move {
                let answered = relay.answer_at(request, &site).await;
                let answered = answered.unwrap_or_else(|problem| refusal(&problem));
                Ok::<_, Infallible>(running.with(answered))
            }
        });
        let stream = TokioIo::new(stream);
        if is_h2 {
            let mut server = http2::Builder::new(TokioExecutor::new());
            server.timer(TokioTimer::new()).max_concurrent_streams(STREAMS);
            server.max_header_list_size(MAX_HEAD as u32);
            let mut connection = pin!(server.serve_connection(stream, service));
            let ended = tokio::select! {
                _ = connection.as_mut() => true,
                () = quiet.too_long() => false,
            };
            if !ended {
                // It says so; a client that is still there then asks by another.
                connection.as_mut().graceful_shutdown();
                let _ = tokio::time::timeout(LAST_WORD, connection).await;
            }
        } else {
            let _ = super::http1_server().serve_connection(stream, service).with_upgrades().await;
        }
    }

    /// A request to a site, which one of its services answers: the one whose placeholder it has, or,
    /// without one, the only one there is.
    async fn answer_at(
        &self,
        request: Request<Incoming>,
        site: &Site,
    ) -> Answer<Response<Answered>> {
        let (mut parts, body) = request.into_parts();
        site.is_named_by(&parts)?;
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let mut target = target.to_owned();
        let here: Vec<&Brokered> = self.services.iter().filter(|one| one.is_at(site)).collect();
        let mut shown = None;
        for one in &here {
            if one.placeholder.take(&one.sent, &mut parts.headers, &mut target) {
                shown = Some(*one);
                break;
            }
        }
        let of = match (shown, here.as_slice()) {
            (Some(one), _) => one,
            (None, [one]) => *one,
            (None, several) => {
                self.misplaced(&site.to_string(), &parts.headers, &target).await?;
                return Err(which_of(site, several));
            }
        };
        self.misplaced(of.service.as_str(), &parts.headers, &target).await?;
        of.signed_by_us(&parts.headers)?;
        if shown.is_none() && site::is_of_a_page(&parts.headers, site) {
            (self.tell)(&format!("refused a request to {site} of a page in a browser"));
            return Err(of_a_page(site));
        }
        self.exchange(of, Some(site), parts, target, body).await
    }

    /// Hands on a request in plain HTTP.
    async fn forward_plain(
        &self,
        proxy: &Proxy,
        request: Request<Incoming>,
        ours: SocketAddr,
    ) -> Answer<Response<Answered>> {
        let (mut parts, body) = request.into_parts();
        if parts.uri.scheme_str() != Some("http") {
            return Err(not_understood("for https:// it is asked by CONNECT"));
        }
        let authority = parts.uri.authority().map(|authority| authority.as_str().to_owned());
        let site = authority.as_deref().and_then(|text| Site::read(text, HTTP));
        let (Some(site), Some(authority)) = (site, authority) else {
            return Err(not_understood("its host is none"));
        };
        // What stands in the request's line goes before what a header says (RFC 9112, 3.2.2).
        let host =
            HeaderValue::try_from(authority).map_err(|_| not_understood("its host is none"))?;
        parts.headers.insert(HOST, host);
        if site.host.is_loopback() && site.port == ours.port() {
            parts.headers.remove(PROXY_AUTHORIZATION);
            return self.relay(Request::from_parts(parts, body), ours).await;
        }
        if proxy.is_in_the_clear(&site) {
            (self.tell)(&format!("refused plain HTTP to {}", site.host));
            return Err(in_the_clear(&site.host));
        }
        self.may_go_on(proxy, &site)?;
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        self.misplaced(&site.to_string(), &parts.headers, &target).await?;
        parts.uri = target.parse::<Uri>().map_err(|_| not_understood("its path is none"))?;
        without_hops(&mut parts.headers);
        let stream = tunnel::dial(&site.host, site.port, ours).await?;
        let broken = |why: &str| {
            let detail = format!("{} did not answer", site.host);
            Problem::new(Code::Unavailable, detail, why, "see whether it answers without the proxy")
        };
        let mut client = hyper::client::conn::http1::Builder::new();
        let shaken = client.max_buf_size(MAX_HEAD * 2).handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.map_err(|_| broken("it hung up"))?;
        tokio::spawn(connection);
        let body = body.map_err(io::Error::other).boxed_unsync();
        let asked = sender.send_request(Request::from_parts(parts, body));
        let answered = tokio::time::timeout(UNTIL_ANSWER, asked).await;
        let answered = answered.map_err(|_| broken("no answer began in time"))?;
        let mut answered = answered.map_err(|_| broken("what it said is no HTTP"))?;
        without_hops(answered.headers_mut());
        Ok(answered.map(|body: Incoming| body.map_err(io::Error::other).boxed_unsync()))
    }
}

/// Takes out what belongs to one connection.
fn without_hops(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.to_str().unwrap_or_default().split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let listed: Vec<HeaderName> =
        headers.keys().filter(|name| is_hop_by_hop(name.as_str())).cloned().collect();
    for name in named.into_iter().chain(listed).filter(|name| *name != HOST) {
        headers.remove(name);
    }
}

fn of_a_page(site: &Site) -> Problem {
    Problem::new(
        Code::Denied,
        format!("access denied: a page in a browser asks {site}"),
        "it comes from another host, and shows no placeholder of this run",
        "let the program that wants it ask, and not a page",
    )
}

fn which_of(site: &Site, several: &[&Brokered]) -> Problem {
    let names: Vec<&str> = several.iter().map(|one| one.service.as_str()).collect();
    Problem::new(
        Code::Unauthorized,
        format!("the request to {site} has no placeholder of this run"),
        format!("several services are there, and it says by nothing which: {}", names.join(", ")),
        "let the program read its key from its environment, and not from elsewhere",
    )
}

/// What a person should know of a handshake that failed; one that was broken off is nothing.
fn failed_handshake(site: &Site, error: &io::Error) -> Option<String> {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())?;
    Some(match inner {
        rustls::Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown,
        ) => format!(
            "a program does not believe this run's certificate for {site}: it takes its own list, \
             and not the one in SSL_CERT_FILE and the like (docs/gateway.md)"
        ),
        other => {
            let cause = other.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            format!("refused a TLS connection to {site}: {other}{cause}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::site::HTTPS;
    use super::*;
    use crate::core::catalog::Sent;
    use crate::core::gateway::ServicePlace;

    fn proxy(hosts: &[&str]) -> Proxy {
        let service = Brokered::new(ServicePlace {
            service: "mine".parse().unwrap(),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            sent: Sent::bearer(),
        });
        Proxy::new(&[service.unwrap()], false, Timestamp(1_800_000_000_000)).unwrap()
    }

    fn site(text: &str) -> Site {
        Site::read(text, HTTPS).unwrap()
    }

    #[test]
    fn only_this_runs_token_opens_it() {
        let proxy = proxy(&["a.example"]);
        let address = proxy.address(1);
        let pair = address.strip_prefix("http://").unwrap().split('@').next().unwrap();
        let is_authentic = |values: &[String]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(PROXY_AUTHORIZATION, value.parse().unwrap());
            }
            proxy.is_authentic(&headers)
        };
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        assert!(is_authentic(&[basic(pair)]));
        assert!(is_authentic(&[basic(pair).replace("Basic", "basic")]));
        for wrong in [
            vec![],
            vec![String::new()],
            vec![basic("")],
            vec![basic("agentkeys:")],
            vec![basic(&pair[..pair.len() - 1])],
            vec![basic(&format!("{pair}0"))],
            vec![basic(&pair.replace("agentkeys", "other"))],
            vec![format!("Bearer {}", proxy.token)],
            vec![basic(pair), basic(pair)],
        ] {
            assert!(!is_authentic(&wrong), "{wrong:?}");
        }
    }

    #[test]
    fn it_answers_for_its_services_ports_and_lets_none_of_them_go_in_the_clear() {
        let proxy = proxy(&["a.example", "127.0.0.1:8443"]);
        for own in ["a.example", "A.example.:443", "127.0.0.1:8443"] {
            assert!(proxy.server(&site(own)).is_some(), "{own}");
        }
        for other in ["b.example", "a.example:8443", "x.a.example", "127.0.0.1", "[::1]:8443"] {
            assert!(proxy.server(&site(other)).is_none(), "{other}");
        }
        for clear in ["a.example:80", "a.example:8080", "127.0.0.1:80", "127.0.0.1:8443"] {
            assert!(proxy.is_in_the_clear(&site(clear)), "{clear}");
        }
        assert!(!proxy.is_in_the_clear(&site("127.0.0.1:3000")));
        assert!(!proxy.is_in_the_clear(&site("b.example:80")));
    }

    #[test]
    fn it_answers_for_what_is_below_a_name_and_for_nothing_else() {
        let proxy = proxy(&["*.amazonaws.com"]);
        assert_eq!(proxy.endings().collect::<Vec<_>>(), [".amazonaws.com"]);
        for own in ["sts.amazonaws.com", "B.s3.eu-central-1.amazonaws.com.:443"] {
            assert!(proxy.server(&site(own)).is_some(), "{own}");
        }
        for other in ["amazonaws.com", "sts.amazonaws.com:8443", "sts.amazonaws.com.evil.example"] {
            assert!(proxy.server(&site(other)).is_none(), "{other}");
        }
        assert!(proxy.is_in_the_clear(&site("s3.amazonaws.com:80")));
        assert!(!proxy.is_in_the_clear(&site("amazonaws.com.evil.example:80")));
    }

    #[test]
    fn what_belongs_to_one_connection_is_taken_out() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Own, Host"),
            ("x-own", "1"),
            ("proxy-authorization", "Basic x"),
            ("host", "a.example"),
            ("accept", "a"),
        ] {
            headers.insert(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        without_hops(&mut headers);
        let left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["host", "accept"]);
    }
}
