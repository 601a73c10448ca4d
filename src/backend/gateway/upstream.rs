//! Connections to services: over TLS to the host that the catalog or the operator names, at an
//! address of the internet unless the operator named the host, kept and used again.
use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::header::{HOST, HeaderValue};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::{Request, Response, Uri, body::Incoming};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::address::is_public;
use crate::web::handshake::{self, Why, words};
use crate::web::{Host, Trust, url};

/// Longest that it takes to be connected, resolver and handshake included.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a connection is kept for the next request.
const KEEP_IDLE: Duration = Duration::from_secs(60);
/// Most connections that are kept for one service.
const MOST_IDLE: usize = 256;
/// Most bytes that a connection holds of an answer that is not read as fast as it comes; its head has
/// to be shorter.
const MAX_BUFFER: usize = 64 * 1024;
/// Most addresses of one name that are tried.
const MOST_ADDRESSES: usize = 8;
/// What is spoken to services. Over HTTP/2 all exchanges would share a connection: one that nobody
/// reads would use up the window of all, and those above what the service allows on one connection
/// would wait for others to end. So it is spoken only to services that speak nothing else.
const H1: &[&[u8]] = &[b"http/1.1"];
const H2: &[&[u8]] = &[b"h2"];
/// What one answer over HTTP/2 may send ahead of its reader, and all of a connection: so much that a
/// thousand that nobody reads leave room for others.
const H2_WINDOW: u32 = 64 * 1024;
const H2_CONNECTION_WINDOW: u32 = 1024 * H2_WINDOW;

/// A program's body, and why it broke off.
pub type OutBody = UnsyncBoxBody<Bytes, io::Error>;

/// Asks services.
pub struct Upstream {
    client: Client<Connector, OutBody>,
    dialer: Arc<Dialer>,
}

/// Why there is no connection; words for a person, and nothing of the request.
#[derive(Debug, thiserror::Error)]
pub enum NotConnected {
    /// The resolver, or every address.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// It is at an address that keys do not go to.
    #[error(
        "its name leads to {0}, which is no address of the internet: a key goes there only where \
         the backend's operator names it (serve --service)"
    )]
    Private(SocketAddr),
    /// The server was not believed.
    #[error("it was not believed: {0}")]
    NotBelieved(Why),
    /// This machine cannot check certificates.
    #[error("{0}")]
    Trust(String),
    /// The time was up.
    #[error("it did not answer within {} seconds", CONNECT.as_secs())]
    Late,
}

impl Upstream {
    /// Goes also to private addresses of hosts that are `named`, by name and port.
    pub fn new(trust: Option<Trust>, named: BTreeSet<String>) -> Self {
        let trust = trust.map_or_else(OnceLock::new, OnceLock::from);
        let dialer = Arc::new(Dialer { trust, named });
        let connector = Connector(Arc::clone(&dialer));
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(KEEP_IDLE)
            .pool_max_idle_per_host(MOST_IDLE)
            .pool_timer(TokioTimer::new())
            .http1_max_buf_size(MAX_BUFFER)
            .http2_initial_stream_window_size(H2_WINDOW)
            .http2_initial_connection_window_size(H2_CONNECTION_WINDOW)
            .timer(TokioTimer::new())
            .build(connector);
        Self { client, dialer }
    }

    /// Sends a request; the answer's body is still to come.
    pub async fn send(&self, request: Request<OutBody>) -> Result<Response<Incoming>, Error> {
        self.client.request(request).await
    }

    /// Sends a request that asks for another protocol, over a connection of its own, and over
    /// HTTP/1.1: what comes after the answer is no HTTP any more.
    ///
    /// # Errors
    /// Why there is no answer; nothing of the request is in it.
    pub async fn upgrade(
        &self,
        mut request: Request<OutBody>,
    ) -> Result<Response<Incoming>, String> {
        let broken = |_| "the connection broke before an answer came".to_owned();
        let uri = std::mem::take(request.uri_mut());
        let host = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
        let host = HeaderValue::try_from(host).map_err(|_| "its name is none".to_owned())?;
        request.headers_mut().insert(HOST, host);
        let target = uri.path_and_query().cloned();
        *request.uri_mut() = target.map(Uri::from).unwrap_or_default();
        let dialled = tokio::time::timeout(CONNECT, self.dialer.dial_by(&uri, H1)).await;
        let stream = dialled.unwrap_or(Err(NotConnected::Late)).map_err(|why| why.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(stream).await.map_err(broken)?;
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.map_err(broken)
    }
}

struct Dialer {
    trust: OnceLock<Trust>,
    named: BTreeSet<String>,
}

impl Dialer {
    fn trust(&self) -> Result<Trust, NotConnected> {
        if let Some(trust) = self.trust.get() {
            return Ok(trust.clone());
        }
        let machine = Trust::machine().map_err(|error| NotConnected::Trust(error.to_string()))?;
        Ok(self.trust.get_or_init(|| machine).clone())
    }

    async fn dial(&self, uri: Uri) -> Result<Stream, NotConnected> {
        match self.dial_by(&uri, H1).await {
            Err(NotConnected::NotBelieved(Why::NoProtocol)) => self.dial_by(&uri, H2).await,
            dialled => dialled,
        }
    }

    async fn dial_by(&self, uri: &Uri, protocols: &[&[u8]]) -> Result<Stream, NotConnected> {
        let unreachable = |error: io::Error| NotConnected::Unreachable(words(&error));
        let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
        let (host, port) = url::split(authority)
            .ok_or_else(|| NotConnected::Unreachable("its name is none".to_owned()))?;
        let port = port.unwrap_or(443);
        let found: Vec<SocketAddr> = match (&host, host.known()) {
            (_, Some(known)) => known.into_iter().map(|ip| SocketAddr::new(ip, port)).collect(),
            (Host::Ip(ip), None) => vec![SocketAddr::new(*ip, port)],
            (Host::Name(name), None) => {
                let found = tokio::net::lookup_host((name.as_str(), port)).await;
                found.map_err(unreachable)?.take(MOST_ADDRESSES).collect()
            }
        };
        if !self.named.contains(&format!("{host}:{port}")) {
            // One that is not leads somewhere that it should not: the whole name is not believed.
            if let Some(private) = found.iter().find(|address| !is_public(address.ip())) {
                return Err(NotConnected::Private(*private));
            }
        }
        let trust = self.trust()?;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let share = CONNECT / (found.len().max(1) as u32 + 1);
        for address in found {
            // To the address that was looked at, and not to the name again.
            match tokio::time::timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true).map_err(unreachable)?;
                    let secured = handshake::client(&trust, &host, protocols, stream).await;
                    let secured =
                        secured.map_err(|refused| NotConnected::NotBelieved(refused.why))?;
                    let is_h2 = secured.alpn.as_deref() == Some(b"h2");
                    return Ok(Stream { io: TokioIo::new(secured.stream), is_h2 });
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(unreachable(last))
    }
}

#[derive(Clone)]
struct Connector(Arc<Dialer>);

impl tower_service::Service<Uri> for Connector {
    type Response = Stream;
    type Error = NotConnected;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, NotConnected>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NotConnected>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialer = Arc::clone(&self.0);
        Box::pin(async move {
            let dialled = tokio::time::timeout(CONNECT, dialer.dial(uri)).await;
            dialled.unwrap_or(Err(NotConnected::Late))
        })
    }
}

/// A connection that was believed.
struct Stream {
    io: TokioIo<TlsStream<TcpStream>>,
    is_h2: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        let connected = Connected::new();
        if self.is_h2 { connected.negotiated_h2() } else { connected }
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
