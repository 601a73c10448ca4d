//! Which Unix user is at the other end of a TCP connection on this machine, as the kernel says of
//! that one socket, or else in `/proc/net/tcp` (proc_pid_net(5)).
use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::harden;

/// The user that has the socket `theirs`, connected to `ours`; `None` if the kernel knows none, as
/// for one of another network namespace, or one that is closed already.
pub fn uid_of(theirs: SocketAddr, ours: SocketAddr) -> io::Result<Option<u32>> {
    match harden::tcp_socket_owner(theirs, ours) {
        Ok(found) => Ok(found),
        // Not in this kernel, or not in this container.
        Err(_) => listed(theirs, ours),
    }
}

fn listed(theirs: SocketAddr, ours: SocketAddr) -> io::Result<Option<u32>> {
    let table = match theirs.ip() {
        IpAddr::V4(_) => std::fs::read_to_string("/proc/self/net/tcp")?,
        IpAddr::V6(_) => std::fs::read_to_string("/proc/self/net/tcp6")?,
    };
    Ok(find(&table, &written(theirs), &written(ours)))
}

/// An address as the table writes it: each four bytes as a number of this machine's byte order.
fn written(address: SocketAddr) -> String {
    let bytes = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let words = bytes.chunks_exact(4).map(|word| {
        let word: [u8; 4] = word.try_into().unwrap_or_default();
        format!("{:08X}", u32::from_ne_bytes(word))
    });
    format!("{}:{:04X}", words.collect::<String>(), address.port())
}

fn find(table: &str, local: &str, remote: &str) -> Option<u32> {
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (one, other) = (fields.nth(1)?, fields.next()?);
        if one != local || other != remote {
            return None;
        }
        // st, queues, timer, retransmits; then the user, a timeout, and the inode. What was closed is
        // said to be root's, and has none.
        let user = fields.nth(4)?.parse().ok()?;
        (fields.nth(1)? != "0").then_some(user)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_user_of_a_connection_is_the_one_that_made_it() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, theirs) = listener.accept().unwrap();
            let ours = server.local_addr().unwrap();
            let other = "127.0.0.1:1".parse().unwrap();
            for way in [uid_of, listed] {
                assert_eq!(way(theirs, ours).unwrap(), Some(harden::effective_uid()));
                assert_eq!(way(theirs, other).unwrap(), None);
            }
            drop(client);
            for way in [uid_of, listed] {
                assert_eq!(way(theirs, ours).unwrap(), None, "a closed one is somebody's");
            }
        }
    }

    #[test]
    fn a_line_that_is_none_is_nobodys() {
        let table = "head\n  0: 0100007F:0016 0100007F:9C40 01 0:0 00:0 0 1000 0 7\n 1: x\n\n";
        assert_eq!(find(table, "0100007F:0016", "0100007F:9C40"), Some(1000));
        assert_eq!(find(table, "0100007F:9C40", "0100007F:0016"), None);
    }
}
