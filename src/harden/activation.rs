//! Sockets that a service manager bound and hands to this process, as sd_listen_fds(3) has it:
//! descriptors from 3 on, counted in `LISTEN_FDS`, for the process that `LISTEN_PID` names.
//!
//! Must never take a descriptor that is not a listening stream socket of a kind we serve.
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};

/// Length of a socket's queue, for one that we are to listen at again.
const QUEUE: libc::c_int = 4096;
/// Most sockets that are taken.
const MOST: usize = 16;

/// A bound, listening socket of the service manager's.
#[derive(Debug)]
pub enum ActivatedSocket {
    /// IPv4 or IPv6.
    Tcp(TcpListener),
    /// A Unix socket. Who connects from now on is told that this process listens.
    Unix(UnixListener),
}

/// The sockets that the service manager gave this process, none if it gave none. A second call
/// finds none: they are owned by whoever asked first.
///
/// # Errors
/// `InvalidInput` for variables that make no sense, and for a descriptor that is no listening
/// stream socket of IP or Unix; those of `getsockopt(2)` and `listen(2)`.
pub fn activated_sockets() -> io::Result<Vec<ActivatedSocket>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let given = sd_notify::listen_fds()?;
    if given.len() > MOST {
        return Err(unfit(format!("{} sockets were given, and {MOST} are taken", given.len())));
    }
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    // SAFETY: the service manager opened these for this process before it began, and the flag
    // above lets one caller own them; one that is not open is refused by the first question.
    given.map(|number| unsafe { adopt(number) }).collect()
}

/// # Safety
/// Nobody else owns descriptor `number`.
unsafe fn adopt(number: RawFd) -> io::Result<ActivatedSocket> {
    let option = |option| socket_option(number, option).map_err(|_| no_socket(number));
    let (kind, listens) = (option(libc::SO_TYPE)?, option(libc::SO_ACCEPTCONN)?);
    if kind != libc::SOCK_STREAM || listens != 1 {
        return Err(no_socket(number));
    }
    let domain = option(libc::SO_DOMAIN)?;
    if !matches!(domain, libc::AF_INET | libc::AF_INET6 | libc::AF_UNIX) {
        return Err(no_socket(number));
    }
    // SAFETY: it is open, since it has just answered, and by the caller's word it is ours.
    let owned = unsafe { OwnedFd::from_raw_fd(number) };
    if domain != libc::AF_UNIX {
        return Ok(ActivatedSocket::Tcp(owned.into()));
    }
    // The kernel names to those who connect the process that called listen(2) last.
    // SAFETY: takes integers, and the descriptor is ours and open.
    if unsafe { libc::listen(owned.as_raw_fd(), QUEUE) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ActivatedSocket::Unix(owned.into()))
}

fn no_socket(number: RawFd) -> io::Error {
    unfit(format!("descriptor {number} is no listening stream socket of IP or Unix"))
}

fn unfit(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

fn socket_option(number: RawFd, option: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `value` is `length` bytes that outlive the call; the kernel checks `number`.
    let answer = unsafe {
        libc::getsockopt(
            number,
            libc::SOL_SOCKET,
            option,
            std::ptr::from_mut(&mut value).cast(),
            &mut length,
        )
    };
    if answer == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;
    use std::os::unix::net::UnixDatagram;

    fn taken(socket: impl Into<OwnedFd>) -> io::Result<ActivatedSocket> {
        // SAFETY: the descriptor was just given up, so nobody owns it.
        unsafe { adopt(socket.into().into_raw_fd()) }
    }

    #[test]
    fn listening_sockets_of_ip_and_unix_are_taken_and_nothing_else() {
        let tcp = TcpListener::bind("[::1]:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        match taken(tcp) {
            Ok(ActivatedSocket::Tcp(tcp)) => assert_eq!(tcp.local_addr().unwrap().port(), port),
            other => panic!("{other:?}"),
        }
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("s");
        assert!(matches!(taken(UnixListener::bind(&path).unwrap()), Ok(ActivatedSocket::Unix(_))));
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(taken(one).is_err());
        assert!(taken(UnixDatagram::unbound().unwrap()).is_err());
        assert!(taken(std::fs::File::open("/dev/null").unwrap()).is_err());
        // SAFETY: no such descriptor is open.
        assert!(unsafe { adopt(1_000_000) }.is_err());
    }
}
