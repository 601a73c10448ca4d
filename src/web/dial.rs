//! Connecting by TCP: every address of a host, each with its share of the time.
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::Host;

/// Most addresses of one name that are tried.
const MOST: usize = 16;

/// Connects to the host, within a time that covers the resolver as well. An address that does
/// not answer leaves the ones after it their share.
///
/// # Errors
/// What the last address said; `TimedOut` when the time is up.
pub async fn tcp(host: &Host, port: u16, within: Duration) -> io::Result<TcpStream> {
    let deadline = Instant::now() + within;
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let found = timeout_at(deadline, resolve(host, port)).await.map_err(|_| late())??;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for (at, address) in found.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(found.len() - at).unwrap_or(1);
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = late(),
        }
    }
    Err(last)
}

async fn resolve(host: &Host, port: u16) -> io::Result<Vec<SocketAddr>> {
    match (host.known(), host) {
        (Some(known), _) => Ok(known.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()),
        (None, Host::Name(name)) => {
            Ok(tokio::net::lookup_host((name.as_str(), port)).await?.take(MOST).collect())
        }
        (None, Host::Ip(ip)) => Ok(vec![SocketAddr::new(*ip, port)]),
    }
}
