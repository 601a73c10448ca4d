//! Connections of the proxy to hosts that it does not answer for: their bytes go through as they are.
//!
//! Must never lead back to this run's own listener.
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::core::problem::{Answer, Code, Problem};
use crate::web::Host;

/// Longest that it takes to be connected, the resolver included.
const CONNECT: Duration = Duration::from_secs(10);
/// A tunnel by which nothing has come for so long, and at most twice as long, is closed.
const IDLE: Duration = Duration::from_secs(15 * 60);
/// Most addresses of one name that are tried.
const MOST_ADDRESSES: usize = 8;

/// Connects to a host, but not to `ours`.
///
/// # Errors
/// `UNAVAILABLE` when it cannot be reached, `DENIED` when it is this listener.
pub async fn dial(host: &Host, port: u16, ours: SocketAddr) -> Answer<TcpStream> {
    let unreachable = |why: String| {
        Problem::new(
            Code::Unavailable,
            format!("{host} cannot be reached"),
            why,
            "see whether this machine reaches it without the proxy",
        )
    };
    let dialled = async {
        let found: Vec<SocketAddr> = match host {
            Host::Ip(ip) => vec![SocketAddr::new(*ip, port)],
            Host::Name(name) => {
                let found = tokio::net::lookup_host((name.as_str(), port)).await;
                found
                    .map_err(|error| unreachable(error.to_string()))?
                    .take(MOST_ADDRESSES)
                    .collect()
            }
        };
        if found.iter().any(|address| leads_to(*address, ours)) {
            return Err(Problem::new(
                Code::Denied,
                "access denied: that is this run's own proxy",
                "it does not connect to itself",
                "use the base URL that stands in the program's environment",
            ));
        }
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let share = CONNECT / (found.len().max(1) as u32 + 1);
        for address in found {
            match tokio::time::timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(unreachable(last.to_string()))
    };
    let late = || unreachable(format!("it did not answer within {} seconds", CONNECT.as_secs()));
    tokio::time::timeout(CONNECT, dialled).await.unwrap_or_else(|_| Err(late()))
}

/// Whether an address is that of our listener, also in the other ways to write this machine.
fn leads_to(address: SocketAddr, ours: SocketAddr) -> bool {
    let here = match address.ip().to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unspecified(),
    };
    here && address.port() == ours.port()
}

/// Hands bytes on in both directions until both have ended, one fails, or nothing comes any more.
pub async fn join<A, B>(one: A, other: B)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    join_within(one, other, IDLE).await;
}

async fn join_within<A, B>(one: A, other: B, idle: Duration)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let moved = Arc::new(AtomicU64::new(0));
    let mut one = Counted(one, Arc::clone(&moved));
    let mut other = Counted(other, Arc::clone(&moved));
    let watch = async {
        let mut before = 0;
        loop {
            tokio::time::sleep(idle).await;
            let now = moved.load(Ordering::Relaxed);
            if now == before {
                return;
            }
            before = now;
        }
    };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut one, &mut other) => {}
        () = watch => {}
    }
}

/// A stream that counts what comes by it.
struct Counted<S>(S, Arc<AtomicU64>);

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.0).poll_read(cx, buffer);
        let came = (buffer.filled().len() - before) as u64;
        self.1.fetch_add(came, Ordering::Relaxed);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn every_way_to_write_this_listener_is_known() {
        let ours = "127.0.0.1:4000".parse().unwrap();
        for own in [
            "127.0.0.1:4000",
            "127.9.9.9:4000",
            "0.0.0.0:4000",
            "[::1]:4000",
            "[::]:4000",
            "[::ffff:127.0.0.1]:4000",
        ] {
            assert!(leads_to(own.parse().unwrap(), ours), "{own}");
        }
        for other in ["127.0.0.1:4001", "10.0.0.1:4000", "[2001:db8::1]:4000"] {
            assert!(!leads_to(other.parse().unwrap(), ours), "{other}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_that_nothing_comes_by_is_closed_and_one_in_use_is_not() {
        let (mut program, one) = tokio::io::duplex(64);
        let (other, mut host) = tokio::io::duplex(64);
        let joined = tokio::spawn(join_within(one, other, Duration::from_secs(10)));
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(7)).await;
            program.write_all(b"ping").await.unwrap();
            let mut got = [0; 4];
            host.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"ping");
        }
        assert!(!joined.is_finished());
        joined.await.unwrap();
        assert_eq!(program.read(&mut [0; 4]).await.unwrap(), 0);
    }
}
