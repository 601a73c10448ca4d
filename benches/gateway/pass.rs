//! What any gateway has to do, and nothing else: plain HTTP in on loopback, the bearer replaced,
//! TLS out over connections that are kept. The same libraries as ours.
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::service::service_fn;
use hyper::{Request, Response, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::upstream::KEY;

/// A client's side of TLS that believes the bench's authority.
pub fn client_config(ca: &Path) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_root_certificates(roots).with_no_client_auth())
}

/// Serves for as long as the process lasts.
pub async fn serve(ca: &Path, service: &str) {
    let tls = TlsConnector::from(client_config(ca));
    let client = Client::builder(TokioExecutor::new()).build(Dial(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("listening on {}", listener.local_addr().unwrap());
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (client, service): (Client<_, Incoming>, _) = (client.clone(), service.to_owned());
        tokio::spawn(async move {
            let answer = service_fn(|mut request: Request<Incoming>| {
                let path = request.uri().path();
                let uri: Uri = format!("https://{service}{path}").parse().unwrap();
                *request.uri_mut() = uri;
                let headers = request.headers_mut();
                headers.insert("authorization", format!("Bearer {KEY}").parse().unwrap());
                headers.remove("host");
                let answered = client.request(request);
                async move {
                    Ok::<_, Infallible>(match answered.await {
                        Ok(response) => response.map(|body| Either::Left(body.boxed())),
                        Err(error) => {
                            let text = Full::new(bytes::Bytes::from(error.to_string()));
                            let mut response = Response::new(Either::Right(text));
                            *response.status_mut() = hyper::StatusCode::BAD_GATEWAY;
                            response
                        }
                    })
                }
            });
            let http = hyper::server::conn::http1::Builder::new();
            let _ = http.serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

#[derive(Clone)]
struct Dial(TlsConnector);

struct Secured(TokioIo<TlsStream<TcpStream>>);

impl tower_service::Service<Uri> for Dial {
    type Response = Secured;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Secured>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let tls = self.0.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(uri.authority().unwrap().as_str()).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from(uri.host().unwrap().to_owned()).unwrap();
            Ok(Secured(TokioIo::new(tls.connect(name, stream).await?)))
        })
    }
}

impl Connection for Secured {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl Write for Secured {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
