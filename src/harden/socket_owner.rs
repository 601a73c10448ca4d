//! Which user has a TCP socket of this machine, asked of the kernel for that one socket
//! (sock_diag(7)): its table of all sockets takes milliseconds to read where there are thousands.
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::process::check;

/// `SOCK_DIAG_BY_FAMILY`, and the lengths of what is sent and received: a message's header, an
/// `inet_diag_req_v2`, an `inet_diag_msg`, and the `inet_diag_sockid` in both.
const BY_FAMILY: u16 = 20;
const HEADER: usize = 16;
const REQUEST: usize = HEADER + 56;
const ANSWER: usize = HEADER + 72;
const SOCKET: usize = 48;

/// The user of the socket `local` that is connected to `remote`; `None` where there is none, or one
/// that no process has any more.
///
/// # Errors
/// The kernel has no such way to ask, or does not let this process.
pub fn tcp_socket_owner(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<u32>> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: socket takes integers.
    let raw = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_SOCK_DIAG) };
    check(raw)?;
    // SAFETY: the descriptor was just made, and is nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let asked = request(local, remote);
    // SAFETY: the buffer outlives the call and has the length that is said.
    let sent = unsafe { libc::send(socket.as_raw_fd(), asked.as_ptr().cast(), asked.len(), 0) };
    if sent != asked.len() as isize {
        return Err(io::Error::last_os_error());
    }
    // The kernel has answered by the time that the send is over.
    let mut answer = [0_u8; 512];
    let (room, flags) = (answer.len(), libc::MSG_DONTWAIT);
    // SAFETY: the buffer outlives the call and has the length that is said.
    let got = unsafe { libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), room, flags) };
    let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    read(&answer[..got], &asked)
}

/// The socket's two ends, as the kernel writes them; without an interface, and with the cookie that
/// stands for any.
fn socket_id(local: SocketAddr, remote: SocketAddr) -> [u8; SOCKET] {
    let mut id = [0; SOCKET];
    id[..2].copy_from_slice(&local.port().to_be_bytes());
    id[2..4].copy_from_slice(&remote.port().to_be_bytes());
    for (at, address) in [(4, local), (20, remote)] {
        match address.ip() {
            IpAddr::V4(ip) => id[at..at + 4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => id[at..at + 16].copy_from_slice(&ip.octets()),
        }
    }
    id[40..].fill(0xff);
    id
}

fn request(local: SocketAddr, remote: SocketAddr) -> [u8; REQUEST] {
    let mut bytes = [0; REQUEST];
    bytes[..4].copy_from_slice(&(REQUEST as u32).to_ne_bytes());
    bytes[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
    bytes[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    bytes[HEADER] = if local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u8;
    bytes[HEADER + 1] = libc::IPPROTO_TCP as u8;
    // In whatever state.
    bytes[HEADER + 4..HEADER + 8].fill(0xff);
    bytes[HEADER + 8..].copy_from_slice(&socket_id(local, remote));
    bytes
}

fn read(answer: &[u8], asked: &[u8; REQUEST]) -> io::Result<Option<u32>> {
    let odd = || io::Error::from(io::ErrorKind::InvalidData);
    let number = |at: usize| {
        let four = answer.get(at..at + 4).and_then(|four| four.try_into().ok());
        four.map(u32::from_ne_bytes).ok_or_else(odd)
    };
    let kind = answer.get(4..6).and_then(|two| two.try_into().ok()).map(u16::from_ne_bytes);
    match kind.ok_or_else(odd)? {
        BY_FAMILY if answer.len() >= ANSWER => {}
        kind if libc::c_int::from(kind) == libc::NLMSG_ERROR => {
            let error = io::Error::from_raw_os_error((number(HEADER)? as i32).wrapping_neg());
            let gone = error.raw_os_error() == Some(libc::ENOENT);
            return if gone { Ok(None) } else { Err(error) };
        }
        _ => return Err(odd()),
    }
    // It may be another: where the one that was asked for is gone, who listens at its address.
    let (id, wanted) = (&answer[HEADER + 4..], &asked[HEADER + 8..]);
    let ends = SOCKET - 12;
    // One that was closed is said to be root's, and has no inode.
    let (user, inode) = (number(HEADER + 64)?, number(HEADER + 68)?);
    Ok((id[..ends] == wanted[..ends] && inode != 0).then_some(user))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_connection_is_of_who_made_it_and_a_closed_one_is_nobodys() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, theirs) = listener.accept().unwrap();
            let ours = server.local_addr().unwrap();
            let own = Some(crate::harden::effective_uid());
            assert_eq!(tcp_socket_owner(theirs, ours).unwrap(), own);
            assert_eq!(tcp_socket_owner(ours, theirs).unwrap(), own);
            drop(client);
            assert_eq!(tcp_socket_owner(theirs, ours).unwrap(), None);
            // Somebody listens there, and that is another socket.
            let nobody = "127.0.0.1:1".parse().unwrap();
            let at = listener.local_addr().unwrap();
            if at.is_ipv4() {
                assert_eq!(tcp_socket_owner(at, nobody).unwrap(), None);
            }
        }
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let at: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let asked = request(at, at);
        for length in 0..ANSWER {
            assert!(read(&vec![0; length], &asked).is_err());
        }
        let mut refused = [0; HEADER + 4];
        refused[4] = libc::NLMSG_ERROR as u8;
        refused[HEADER..].copy_from_slice(&(-libc::EPERM).to_ne_bytes());
        assert_eq!(read(&refused, &asked).unwrap_err().raw_os_error(), Some(libc::EPERM));
    }
}
