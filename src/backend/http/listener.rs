//! A bound socket. Binding needs no runtime, so that a process can bind, harden itself, and
//! build the runtime then.
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::net;

use super::address::{ListenAddress, ListenAddressError};
use super::guard::Hosts;
use super::unix::{self, SocketGuard};
use crate::backend::peer::Peer;
use crate::backend::tls::{CertificateError, ServerCertificate};
use crate::harden::{self, ActivatedSocket};

/// Why an address could not be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another program has the TCP port.
    #[error("cannot listen on {addr}")]
    Tcp {
        /// The address.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// An address that speaks TLS, without a certificate that can be shown there.
    #[error("cannot speak TLS on {addr}")]
    Tls {
        /// The address.
        addr: SocketAddr,
        /// What is wrong with the certificate, if there is one.
        source: CertificateError,
    },
    /// A backend already listens on that socket.
    #[error("a backend is already running on unix:{}", .0.display())]
    AlreadyRunning(PathBuf),
    /// Something that is no socket stands there.
    #[error("unix:{} is taken by a file that is no socket", .0.display())]
    Occupied(PathBuf),
    /// The service manager's sockets cannot be had.
    #[error("--listen systemd: the sockets cannot be had")]
    NotGiven(#[source] io::Error),
    /// There are none.
    #[error("--listen systemd: no service manager gave this process a socket (LISTEN_FDS)")]
    NoneGiven,
    /// One of them is not to be served.
    #[error("--listen systemd: a socket that was given cannot be served: {0}")]
    Given(&'static str),
    /// The same, by the rules for addresses.
    #[error("--listen systemd: a socket that was given cannot be served")]
    GivenAddress(#[source] ListenAddressError),
    /// The folder is not one of this user's alone.
    #[error("the folder {} cannot hold the socket: {why}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },
    /// A system call failed.
    #[error("cannot {what} at {}", path.display())]
    System {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

enum Socket {
    Tcp(TcpListener),
    Tls(TcpListener, Arc<ServerConfig>, Arc<ServerCertificate>),
    /// With its place, which is the service manager's where that bound it.
    Unix(UnixListener, Option<SocketGuard>),
}

/// A socket that the service manager bound, and the address that it is.
pub struct GivenSocket {
    address: ListenAddress,
    socket: ActivatedSocket,
}

impl GivenSocket {
    /// Those that this process was given, each by the rules of [`ListenAddress::read`]; to be
    /// called once, before the process has threads.
    ///
    /// # Errors
    /// There are none, or one of them may not be served.
    pub fn all(has_certificate: bool) -> Result<Vec<Self>, BindError> {
        let sockets = harden::activated_sockets().map_err(BindError::NotGiven)?;
        if sockets.is_empty() {
            return Err(BindError::NoneGiven);
        }
        let given = sockets.into_iter().map(|socket| {
            let address = match &socket {
                ActivatedSocket::Tcp(tcp) => {
                    let addr = tcp.local_addr().map_err(BindError::NotGiven)?;
                    ListenAddress::of_tcp(addr, has_certificate).map_err(BindError::GivenAddress)?
                }
                ActivatedSocket::Unix(unix) => ListenAddress::Unix(unix::path_of_given(unix)?),
            };
            Ok(Self { address, socket })
        });
        given.collect()
    }

    /// Where it is.
    pub fn address(&self) -> &ListenAddress {
        &self.address
    }
}

/// A bound socket that nobody accepts from yet.
pub struct Listener {
    address: ListenAddress,
    socket: Socket,
}

/// A certificate, and how it is shown.
type Shown = (Arc<ServerConfig>, Arc<ServerCertificate>);

/// What is shown at an address that speaks TLS.
fn shown(
    address: &ListenAddress,
    certificate: Option<&Arc<ServerCertificate>>,
) -> Result<Option<Shown>, BindError> {
    let ListenAddress::Tls(addr) = address else { return Ok(None) };
    let none = || CertificateError::Unusable("there is none".to_owned());
    let certificate = certificate.ok_or_else(none);
    let shown = certificate.and_then(|shown| Ok((shown.config()?, shown.clone())));
    shown.map(Some).map_err(|source| BindError::Tls { addr: *addr, source })
}

impl Listener {
    /// Binds `address`, which does not speak TLS. Blocks for as long as a few file operations
    /// take.
    ///
    /// # Errors
    /// Names the address and why; see [`BindError`].
    pub fn bind(address: &ListenAddress) -> Result<Self, BindError> {
        Self::bind_with(address, None)
    }

    /// The same, showing `certificate` where the address speaks TLS.
    ///
    /// # Errors
    /// Names the address and why; see [`BindError`].
    pub fn bind_with(
        address: &ListenAddress,
        certificate: Option<&Arc<ServerCertificate>>,
    ) -> Result<Self, BindError> {
        match address {
            ListenAddress::Tcp(addr) | ListenAddress::Tls(addr) => {
                let wrong = |source| BindError::Tcp { addr: *addr, source };
                // Before the port is taken: without a certificate it is of no use.
                let shown = shown(address, certificate)?;
                let socket = TcpListener::bind(addr).map_err(wrong)?;
                let taken = socket.local_addr().map_err(wrong)?;
                Ok(Self::tcp(socket, taken, shown))
            }
            ListenAddress::Unix(path) => {
                let (socket, guard) = unix::bind(path)?;
                Ok(Self { address: address.clone(), socket: Socket::Unix(socket, Some(guard)) })
            }
        }
    }

    /// The same for a socket that is bound already.
    ///
    /// # Errors
    /// [`BindError::Tls`].
    pub fn given(
        given: GivenSocket,
        certificate: Option<&Arc<ServerCertificate>>,
    ) -> Result<Self, BindError> {
        let GivenSocket { address, socket } = given;
        let shown = shown(&address, certificate)?;
        match (socket, &address) {
            (ActivatedSocket::Tcp(socket), ListenAddress::Tcp(addr) | ListenAddress::Tls(addr)) => {
                Ok(Self::tcp(socket, *addr, shown))
            }
            (ActivatedSocket::Unix(socket), _) => {
                Ok(Self { address, socket: Socket::Unix(socket, None) })
            }
            (ActivatedSocket::Tcp(_), ListenAddress::Unix(_)) => {
                Err(BindError::Given("its address is of another kind"))
            }
        }
    }

    fn tcp(socket: TcpListener, addr: SocketAddr, shown: Option<Shown>) -> Self {
        match shown {
            None => Self { address: ListenAddress::Tcp(addr), socket: Socket::Tcp(socket) },
            Some((config, certificate)) => {
                let socket = Socket::Tls(socket, config, certificate);
                Self { address: ListenAddress::Tls(addr), socket }
            }
        }
    }

    /// The address with the port that was taken; `Display` is what a client takes.
    pub fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// Makes it ready to accept, inside a runtime.
    pub(super) fn open(self) -> io::Result<Accepting> {
        let (socket, hosts, guard) = match self.socket {
            Socket::Tcp(socket) => {
                let port = socket.local_addr()?.port();
                socket.set_nonblocking(true)?;
                (Open::Tcp(net::TcpListener::from_std(socket)?), Hosts::tcp(port), None)
            }
            Socket::Tls(socket, config, certificate) => {
                socket.set_nonblocking(true)?;
                let socket = net::TcpListener::from_std(socket)?;
                (Open::Tls(socket, config), Hosts::tls(certificate), None)
            }
            Socket::Unix(socket, guard) => {
                socket.set_nonblocking(true)?;
                (Open::Unix(net::UnixListener::from_std(socket)?), Hosts::unix(), guard)
            }
        };
        Ok(Accepting { socket, hosts: Arc::new(hosts), guard })
    }
}

enum Open {
    Tcp(net::TcpListener),
    Tls(net::TcpListener, Arc<ServerConfig>),
    Unix(net::UnixListener),
}

/// A listener that accepts.
pub(super) struct Accepting {
    socket: Open,
    pub hosts: Arc<Hosts>,
    guard: Option<SocketGuard>,
}

/// A connection of any kind.
pub(super) enum Stream {
    Tcp(net::TcpStream),
    /// Before its handshake.
    Tls(net::TcpStream, Arc<ServerConfig>),
    Unix(net::UnixStream),
}

impl Accepting {
    /// The next connection, and who it is; `None` for one that was refused.
    pub async fn accept(&self) -> io::Result<Option<(Stream, Peer)>> {
        match &self.socket {
            Open::Tcp(socket) => {
                let (stream, from) = socket.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Some((Stream::Tcp(stream), Peer::Address(from.ip()))))
            }
            Open::Tls(socket, config) => {
                let (stream, from) = socket.accept().await?;
                stream.set_nodelay(true)?;
                // Where both versions of IP are listened to, an IPv4 address comes as one of IPv6.
                let peer = Peer::Address(from.ip().to_canonical());
                Ok(Some((Stream::Tls(stream, config.clone()), peer)))
            }
            Open::Unix(socket) => {
                let (stream, _) = socket.accept().await?;
                let peer = unix::peer(&stream)?;
                // Only this process's own user is served, whoever made the socket.
                if peer.uid != harden::effective_uid() {
                    tracing::warn!(uid = peer.uid, "refused a connection of another user");
                    return Ok(None);
                }
                Ok(Some((Stream::Unix(stream), Peer::Unix(peer))))
            }
        }
    }

    /// Closes the socket, and gives back its place.
    pub fn close(self) -> Option<SocketGuard> {
        self.guard
    }
}
