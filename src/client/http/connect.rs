//! Connecting: a few bounded tries, and before anything is sent the check of who listens: by its
//! certificate over TLS, by the kernel's word over a Unix socket. Must never go over to plain HTTP.
use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::Body;
use hyper::http::uri::Authority;
use tokio::net::{TcpStream, UnixStream};

use super::sender::{H2, Sender};
use super::{Address, Options, Unreachable, belief, fault};
use crate::core::problem::{Answer, Problem};
use crate::harden;
use crate::web::handshake::{self, words};
use crate::web::{Certificate, Trust, TrustError, dial};

/// Longest that one try to connect to another machine takes, where the options say less: finding
/// its address and the TLS handshake are in it.
const FAR: Duration = Duration::from_secs(5);

/// Whom to believe, read when it is first asked for.
#[derive(Default)]
pub struct Belief {
    trust: OnceLock<Trust>,
    /// The certificate that was believed last.
    believed: Mutex<Option<Certificate>>,
}

impl Belief {
    /// Nobody but these, where an address pins no certificate.
    pub fn from(trust: Option<Trust>) -> Self {
        let trust = trust.map_or_else(OnceLock::new, OnceLock::from);
        Self { trust, believed: Mutex::default() }
    }

    /// The certificate that was believed last.
    pub fn believed(&self) -> Option<Certificate> {
        self.believed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The pinned certificate, or whom this machine trusts.
    fn at(&self, address: &Address) -> Result<Trust, TrustError> {
        if let Address::Tls { pin: Some(pin), .. } = address {
            return Ok(Trust::pinned(*pin));
        }
        match self.trust.get() {
            Some(trust) => Ok(trust.clone()),
            None => {
                let machine = Trust::machine()?;
                Ok(self.trust.get_or_init(|| machine).clone())
            }
        }
    }
}

pub enum Failed {
    /// Nobody listens, or not yet: worth another try.
    Refused(io::Error),
    /// Another try would not help.
    Final(Problem),
}

/// Connects, trying again as the options allow.
pub async fn with_retries<B>(
    address: &Address,
    options: &Options,
    belief: &Belief,
) -> Answer<Sender<B>>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let begun = Instant::now();
    let tries = options.tries.max(1);
    let mut tried = 0;
    loop {
        tried += 1;
        let why = match once(address, options.connect, belief).await {
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

async fn once<B>(address: &Address, within: Duration, belief: &Belief) -> Result<Sender<B>, Failed>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let within = match address {
        Address::Tls { .. } => within.max(FAR),
        _ => within,
    };
    let late = || Failed::Refused(io::ErrorKind::TimedOut.into());
    tokio::time::timeout(within, open(address, within, belief)).await.map_err(|_| late())?
}

async fn open<B>(address: &Address, within: Duration, belief: &Belief) -> Result<Sender<B>, Failed>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let began = |begun: hyper::Result<Sender<B>>| {
        begun.map_err(|error| Failed::Refused(io::Error::other(error)))
    };
    match address {
        Address::Tcp { candidates, .. } => {
            let stream = TcpStream::connect(&candidates[..]).await.map_err(Failed::Refused)?;
            stream.set_nodelay(true).map_err(Failed::Refused)?;
            began(Sender::one(stream).await)
        }
        Address::Tls { host, port, .. } => {
            let trust = belief.at(address);
            let trust = trust.map_err(|error| Failed::Final(belief::no_trust(address, &error)))?;
            let stream = dial::tcp(host, *port, within).await.map_err(Failed::Refused)?;
            let secured = handshake::client(&trust, host, &[H2, b"http/1.1"], stream).await;
            let secured = secured.map_err(|refused| {
                belief::failed(address, refused, crate::client::connect::now())
            })?;
            *belief.believed.lock().unwrap_or_else(PoisonError::into_inner) = secured.certificate;
            match secured.alpn.as_deref() {
                Some(H2) => {
                    let authority: Authority =
                        address.host().parse().map_err(|_| Failed::Final(Problem::internal()))?;
                    began(Sender::two(secured.stream, authority).await)
                }
                _ => began(Sender::one(secured.stream).await),
            }
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(Failed::Refused)?;
            let uid = stream.peer_cred().map_err(Failed::Refused)?.uid();
            if uid != harden::effective_uid() {
                return Err(Failed::Final(fault::foreign_server(address, uid)));
            }
            began(Sender::one(stream).await)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

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
        let problem = with_retries::<Full<Bytes>>(&address, &options, &Belief::default())
            .await
            .err()
            .unwrap();
        assert!(super::super::is_unreachable(&problem));
        assert!(problem.cause.starts_with("3 tries over 0.0 s"), "{}", problem.cause);
        assert!(problem.cause.ends_with("connection refused"), "{}", problem.cause);
    }
}
