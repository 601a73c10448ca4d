//! Stands between a client and a backend over TLS, in both versions of HTTP: it takes TLS off,
//! writes down what passes, and asks the backend in the clear.
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::tls_support::Issued;

/// What has passed so far.
pub type Seen = Arc<Mutex<Vec<u8>>>;

/// Starts one before `backend`; it ends with the runtime.
pub async fn relay(backend: SocketAddr, issued: &Issued, seen: Seen) -> SocketAddr {
    let acceptor = TlsAcceptor::from(issued.served().config().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, seen) = (acceptor.clone(), seen.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(move |request| {
                    let seen = seen.clone();
                    async move { Ok::<_, Infallible>(pass_on(request, backend, &seen).await) }
                });
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

async fn pass_on(
    request: Request<Incoming>,
    backend: SocketAddr,
    seen: &Seen,
) -> Response<Full<Bytes>> {
    let (mut parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let token = parts.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
    let version = format!("\n{:?}\n", parts.version);
    let passed = [version.as_bytes(), token, b"\n", &body].concat();
    seen.lock().unwrap().extend(passed);
    parts.version = Version::HTTP_11;
    parts.uri = parts.uri.path_and_query().unwrap().as_str().parse().unwrap();
    parts.headers.insert(HOST, backend.to_string().parse().unwrap());
    let stream = TcpStream::connect(backend).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let answer = sender.send_request(Request::from_parts(parts, Full::new(body))).await.unwrap();
    let (mut parts, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    seen.lock().unwrap().extend_from_slice(&body);
    parts.headers.remove("connection");
    Response::from_parts(parts, Full::new(body))
}
