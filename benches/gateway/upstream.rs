//! The service that all are asked for: HTTP/1.1 over TLS, with an authority of its own. One fixed
//! answer, and a stream of server-sent events of which each says when it was sent.
use std::convert::Infallible;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio::time::{Instant, Sleep, sleep};

/// The key that the service wants.
pub const KEY: &str = "sk-bench-0123456789abcdefghijklmnopqrstuvwxyz";

/// Writes `ca.pem`, and `chain.der` and `key.der` of a server at 127.0.0.1.
pub fn make_certificates(folder: &Path) {
    let named = |name: &str, hosts: &[String]| {
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let mut root = named("authority of the bench", &[]);
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_key = KeyPair::generate().unwrap();
    let root_der = STANDARD.encode(root.self_signed(&root_key).unwrap().der());
    let key = KeyPair::generate().unwrap();
    let issuer = Issuer::from_params(&root, &root_key);
    let server = named("server of the bench", &["127.0.0.1".to_owned()]);
    let chain = server.signed_by(&key, &issuer).unwrap();
    let label = |what| format!("-----{what} CERTIFICATE-----\n");
    let root_pem = format!("{}{root_der}\n{}", label("BEGIN"), label("END"));
    std::fs::write(folder.join("ca.pem"), root_pem).unwrap();
    std::fs::write(folder.join("chain.der"), chain.der()).unwrap();
    std::fs::write(folder.join("key.der"), key.serialize_der()).unwrap();
}

/// Serves for as long as the process lasts, with what [`make_certificates`] wrote.
pub async fn serve(folder: &Path) {
    let chain = vec![CertificateDer::from(std::fs::read(folder.join("chain.der")).unwrap())];
    let key = PrivatePkcs8KeyDer::from(std::fs::read(folder.join("key.der")).unwrap());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from(key))
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    // Whoever opens a thousand connections at once finds a place in the queue.
    let listener: TcpListener = socket.listen(2048).unwrap();
    println!("listening on {}", listener.local_addr().unwrap());
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let http = hyper::server::conn::http1::Builder::new();
            let _ = http.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
        });
    }
}

/// As OpenAI's looks, and about as long as a short one.
fn completion() -> Bytes {
    static WHOLE: std::sync::OnceLock<Bytes> = std::sync::OnceLock::new();
    let make = || {
        let json = serde_json::json!({
            "id": "chatcmpl-bench", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {
                "role": "assistant", "content": "word ".repeat(100)}}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 100, "total_tokens": 110}});
        json.to_string().into()
    };
    WHOLE.get_or_init(make).clone()
}

async fn answer(
    request: Request<Incoming>,
) -> Result<Response<Either<Full<Bytes>, Events>>, Infallible> {
    let (parts, body) = request.into_parts();
    let _ = body.collect().await;
    let bearer = parts.headers.get("authorization").map(|value| value.as_bytes());
    let mut response = if bearer != Some(format!("Bearer {KEY}").as_bytes()) {
        let mut refused = Response::new(Either::Left(Full::new(Bytes::from("{}"))));
        *refused.status_mut() = hyper::StatusCode::UNAUTHORIZED;
        refused
    } else if let Some(asked) = parts.uri.path().strip_prefix("/v1/events/") {
        let (count, millis) = asked.split_once('/').expect("/v1/events/COUNT/MILLIS");
        let mut streamed = Response::new(Either::Right(Events {
            left: count.parse().unwrap(),
            every: Duration::from_millis(millis.parse().unwrap()),
            next: Box::pin(sleep(Duration::ZERO)),
        }));
        streamed.headers_mut().insert("content-type", "text/event-stream".parse().unwrap());
        return Ok(streamed);
    } else {
        Response::new(Either::Left(Full::new(completion())))
    };
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    Ok(response)
}

/// Nanoseconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// The length of each event.
pub const EVENT: usize = 64;

/// Events at a fixed pace.
struct Events {
    left: usize,
    every: Duration,
    next: Pin<Box<Sleep>>,
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        ready!(self.next.as_mut().poll(cx));
        let next = self.next.deadline().max(Instant::now() - self.every) + self.every;
        self.next.as_mut().reset(next);
        self.left -= 1;
        let text = format!("data: {:<width$}\n\n", now(), width = EVENT - 8);
        Poll::Ready(Some(Ok(Frame::data(text.into()))))
    }
}
