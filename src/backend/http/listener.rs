//! A bound socket. Binding needs no runtime, so that a process can bind, harden itself, and
//! build the runtime then.
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net;

use super::address::ListenAddress;
use super::guard::Hosts;
use super::unix::{self, SocketGuard};
use crate::backend::peer::Peer;

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
    /// A backend already listens on that socket.
    #[error("a backend is already running on unix:{}", .0.display())]
    AlreadyRunning(PathBuf),
    /// Something that is no socket stands there.
    #[error("unix:{} is taken by a file that is no socket", .0.display())]
    Occupied(PathBuf),
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
    Unix(UnixListener, SocketGuard),
}

/// A bound socket that nobody accepts from yet.
pub struct Listener {
    address: ListenAddress,
    socket: Socket,
}

impl Listener {
    /// Binds `address`. Blocks for as long as a few file operations take.
    ///
    /// # Errors
    /// Names the address and why; see [`BindError`].
    pub fn bind(address: &ListenAddress) -> Result<Self, BindError> {
        match address {
            ListenAddress::Tcp(addr) => {
                let wrong = |source| BindError::Tcp { addr: *addr, source };
                let socket = TcpListener::bind(addr).map_err(wrong)?;
                let address = ListenAddress::Tcp(socket.local_addr().map_err(wrong)?);
                Ok(Self { address, socket: Socket::Tcp(socket) })
            }
            ListenAddress::Unix(path) => {
                let (socket, guard) = unix::bind(path)?;
                Ok(Self { address: address.clone(), socket: Socket::Unix(socket, guard) })
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
            Socket::Unix(socket, guard) => {
                socket.set_nonblocking(true)?;
                (Open::Unix(net::UnixListener::from_std(socket)?), Hosts::unix(), Some(guard))
            }
        };
        Ok(Accepting { socket, hosts: Arc::new(hosts), guard })
    }
}

enum Open {
    Tcp(net::TcpListener),
    Unix(net::UnixListener),
}

/// A listener that accepts.
pub(super) struct Accepting {
    socket: Open,
    pub hosts: Arc<Hosts>,
    guard: Option<SocketGuard>,
}

/// A connection of either kind.
pub(super) enum Stream {
    Tcp(net::TcpStream),
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
            Open::Unix(socket) => {
                let (stream, _) = socket.accept().await?;
                let peer = unix::peer(&stream)?;
                let owner = self.guard.as_ref().map(|guard| guard.owner);
                if Some(peer.uid) != owner {
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
