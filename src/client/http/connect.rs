//! Connecting: a few bounded tries, and over a Unix socket the check of who listens, before
//! anything is sent.
use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::{Address, Options, Unreachable, fault};
use crate::core::problem::{Answer, Problem};

/// What requests are sent by.
pub type Sender = SendRequest<Full<Bytes>>;

/// A connection that waits for its next request.
pub struct Idle {
    pub sender: Sender,
    pub since: Instant,
}

pub enum Failed {
    /// Nobody listens, or not yet: worth another try.
    Refused(io::Error),
    /// Another try would not help.
    Final(Problem),
}

/// Connects, trying again as the options allow.
pub async fn with_retries(address: &Address, options: &Options) -> Answer<Sender> {
    let begun = Instant::now();
    let tries = options.tries.max(1);
    let mut tried = 0;
    loop {
        tried += 1;
        let why = match once(address, options.connect).await {
            Ok(sender) => return Ok(sender),
            Err(Failed::Final(problem)) => return Err(problem),
            Err(Failed::Refused(why)) => why,
        };
        if tried >= tries {
            let (address, over, named_by) =
                (address.to_string(), begun.elapsed(), options.named_by);
            let reason = words(&why);
            return Err(Unreachable { address, tries: tried, over, reason, named_by }.into());
        }
        tokio::time::sleep(pause(options.pauses, tries, tried)).await;
    }
}

/// The pause after the `tried`th of `tries`: each is longer than the one before, and all
/// together are `all`.
fn pause(all: Duration, tries: u32, tried: u32) -> Duration {
    let parts = u64::from(tries) * u64::from(tries - 1) / 2;
    let millis = u64::try_from(all.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(millis / parts.max(1) * u64::from(tried))
}

/// An error of the system without its number.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((text, _)) => text.to_lowercase(),
        None => text,
    }
}

async fn once(address: &Address, within: Duration) -> Result<Sender, Failed> {
    let late = || Failed::Refused(io::ErrorKind::TimedOut.into());
    tokio::time::timeout(within, open(address)).await.map_err(|_| late())?
}

async fn open(address: &Address) -> Result<Sender, Failed> {
    match address {
        Address::Tcp { candidates, .. } => {
            let stream = TcpStream::connect(&candidates[..]).await.map_err(Failed::Refused)?;
            stream.set_nodelay(true).map_err(Failed::Refused)?;
            handshake(stream).await
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(Failed::Refused)?;
            let uid = stream.peer_cred().map_err(Failed::Refused)?.uid();
            if uid != own_uid().map_err(Failed::Refused)? {
                return Err(Failed::Final(fault::foreign_server(address, uid)));
            }
            handshake(stream).await
        }
    }
}

/// This process's user id, as the kernel tells it to the other end of a socket.
fn own_uid() -> io::Result<u32> {
    let (one, _other) = UnixStream::pair()?;
    Ok(one.peer_cred()?.uid())
}

/// Begins HTTP on a connection.
pub async fn handshake<S>(stream: S) -> Result<Sender, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Failed::Refused(io::Error::other(error)))?;
    // The task ends with its connection: when the sender is dropped, or the server hangs up.
    // What it ends with reaches whoever waits for an answer.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pauses_grow_and_add_up() {
        let all = Duration::from_millis(900);
        let pauses: Vec<_> = (1..3).map(|tried| pause(all, 3, tried).as_millis()).collect();
        assert_eq!(pauses, [300, 600]);
        assert_eq!(pause(all, 2, 1), all);
    }

    #[tokio::test]
    async fn nobody_at_the_address_is_unreachable_with_tries_and_time() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::from(listener.local_addr().unwrap());
        drop(listener);
        let options = Options { pauses: Duration::from_millis(30), ..Options::default() };
        let problem = with_retries(&address, &options).await.err().unwrap();
        assert!(super::super::is_unreachable(&problem));
        assert!(problem.cause.starts_with("3 tries over 0.0 s"), "{}", problem.cause);
        assert!(problem.cause.ends_with("connection refused"), "{}", problem.cause);
    }
}
