//! What stands before a connection is served: the TLS handshake, and the words for one that is
//! not let in. All of it in tasks of their own, within a bounded time, so that whoever is slow
//! keeps nobody else out.
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::limits::{MAX_TURNED_AWAY, TURN_AWAY};
use super::service;
use crate::core::problem::Problem;
use crate::core::wire::{WIRE_HEADER, WIRE_VERSION};

/// The first byte of a TLS handshake (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;

/// Does the TLS handshake, within a time; `None` for one that failed. A request in plain HTTP is
/// told what is spoken here.
pub async fn secure(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    within: Duration,
) -> Option<TlsStream<TcpStream>> {
    let handshake = async {
        let mut first = [0];
        if stream.peek(&mut first).await.ok()? == 0 {
            return None;
        }
        if first[0] == HANDSHAKE {
            match TlsAcceptor::from(config).accept(stream).await {
                Ok(secured) => return Some(secured),
                Err(error) => tracing::debug!(%error, "a TLS handshake failed"),
            }
        } else {
            tracing::debug!("a connection without TLS");
            let _ = timeout(TURN_AWAY, tell(stream, "400 Bad Request", &service::not_tls())).await;
        }
        None
    };
    timeout(within, handshake).await.ok().flatten()
}

/// Tells a connection that there is no place for it, in a task that is short and of which there
/// are few; beyond those it is just closed.
pub fn turn_away<S>(stream: S, turned_away: &Arc<AtomicUsize>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if turned_away.fetch_add(1, Ordering::Relaxed) >= MAX_TURNED_AWAY {
        turned_away.fetch_sub(1, Ordering::Relaxed);
        return;
    }
    tracing::warn!("refused a connection: too many are open");
    let turned_away = Arc::clone(turned_away);
    tokio::spawn(async move {
        let full = service::full();
        let _ = timeout(TURN_AWAY, tell(stream, "503 Service Unavailable", &full)).await;
        turned_away.fetch_sub(1, Ordering::Relaxed);
    });
}

/// Answers with a problem, whatever was asked, and closes.
async fn tell<S>(mut stream: S, status: &str, problem: &Problem) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let body = serde_json::to_string(problem).unwrap_or_default();
    let retry_after = match problem.retry_after {
        Some(seconds) => format!("retry-after: {seconds}\r\n"),
        None => String::new(),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\n\
         content-length: {}\r\ncache-control: no-store\r\nx-content-type-options: nosniff\r\n\
         {WIRE_HEADER}: {WIRE_VERSION}\r\n{retry_after}connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    // Reads what was sent to us, else closing would take the answer back.
    let mut thrown_away = [0; 4096];
    while stream.read(&mut thrown_away).await? > 0 {}
    Ok(())
}
