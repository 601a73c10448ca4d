//! Who is at the other end of a connection, as this machine sees it and nobody can claim it.
use std::net::IpAddr;
use std::path::PathBuf;

use crate::harden::PeerProcess;

/// The process behind a Unix socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnixPeer {
    /// Its user id, from the kernel.
    pub uid: u32,
    /// Its process id when it connected, if the kernel says.
    pub pid: Option<i32>,
    /// The process itself, where the kernel can name it for good.
    pub process: Option<PeerProcess>,
    /// Its program, read from `/proc` when it connected.
    pub program: Option<PathBuf>,
}

/// The other end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Peer {
    /// Over TCP.
    Address(IpAddr),
    /// Over a Unix socket.
    Unix(UnixPeer),
}
