//! Which terminal session the process at the other end of a Unix socket belongs to, as the kernel
//! says.
//!
//! Must never answer for another process than the one that connected: pids are given out again,
//! so what was read counts only if that process was still there afterwards.
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use super::inspect::process_start_time;
use crate::core::frame::Frame;
use crate::core::types::Hash32;

/// A terminal session: everything that was started from one login or one terminal window, and has
/// its controlling terminal. A program cannot make itself a member of one that it was not started
/// in: `setsid` and `script` only make new ones. It can have a member act for it: by what a
/// terminal multiplexer types, or by a debugger where the kernel lets it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TerminalSession {
    /// The process that leads it.
    leader: u32,
    /// When that process started, in clock ticks since the machine booted.
    started: u64,
    /// The device number of its terminal.
    terminal: i32,
}

impl TerminalSession {
    /// What both ends of a socket call it.
    pub fn digest(&self) -> Hash32 {
        let framed = Frame::new("AgentKeys-v1-Terminal")
            .field(&self.leader.to_be_bytes())
            .field(&self.started.to_be_bytes())
            .field(&self.terminal.to_be_bytes());
        Hash32::of(framed.bytes())
    }
}

/// The terminal session of this process, if it has one.
pub fn own_terminal_session() -> Option<TerminalSession> {
    terminal_session(std::process::id())
}

/// The process that connected to the other end of a Unix socket, for as long as it runs.
#[derive(Clone, Debug)]
pub struct PeerProcess {
    handle: Arc<OwnedFd>,
    pid: u32,
}

impl PartialEq for PeerProcess {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.handle, &other.handle)
    }
}

impl Eq for PeerProcess {}

impl PeerProcess {
    /// Whoever connected to the other end of `socket`, as process `pid`. `None` on kernels before
    /// 6.5, which cannot name a process for good.
    pub fn of(socket: BorrowedFd<'_>, pid: u32) -> Option<Self> {
        let handle = Arc::new(peer_process(socket).ok()?);
        Some(Self { handle, pid })
    }

    /// The terminal session that it is in now. `None` for one without a controlling terminal, one
    /// whose session's leader has ended, one that cannot be seen from here, and one that has
    /// ended, whoever has its connection now.
    pub fn terminal_session(&self) -> Option<TerminalSession> {
        let found = terminal_session(self.pid)?;
        is_running(&self.handle).then_some(found)
    }
}

fn terminal_session(pid: u32) -> Option<TerminalSession> {
    let (leader, terminal) = session_and_terminal(pid)?;
    if terminal == 0 {
        return None;
    }
    // The leader leads its own session on the same terminal, or this number is another's by now.
    if session_and_terminal(leader)? != (leader, terminal) {
        return None;
    }
    Some(TerminalSession { leader, started: process_start_time(leader)?, terminal })
}

/// Fields 6 and 7 of proc(5)'s `stat`: the session, and the device of the controlling terminal.
fn session_and_terminal(pid: u32) -> Option<(u32, i32)> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.iter().rposition(|b| *b == b')')? + 1;
    let rest = std::str::from_utf8(stat.get(after_name..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace().skip(6 - 3);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// A descriptor of the process that connected, which stays that process's (`SO_PEERPIDFD`).
fn peer_process(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const SO_PEERPIDFD: libc::c_int = 77;
    let mut descriptor: libc::c_int = -1;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `descriptor` and `length` are valid for writes of their own sizes, and outlive the
    // call; the kernel writes at most `length` bytes.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut descriptor).cast(),
            &raw mut length,
        )
    };
    if done < 0 || descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel made this descriptor just now, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// A descriptor of a process becomes readable when the process ends.
fn is_running(process: &OwnedFd) -> bool {
    let mut ended = libc::pollfd { fd: process.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: `ended` is one valid pollfd, and outlives the call.
    unsafe { libc::poll(&raw mut ended, 1, 0) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_session_of_this_process_is_the_one_that_the_kernel_names() {
        let (session, _) = session_and_terminal(std::process::id()).unwrap();
        // SAFETY: getsid of this process reads no memory and cannot fail.
        assert_eq!(session, unsafe { libc::getsid(0) } as u32);
        assert_eq!(session_and_terminal(1 << 23), None);
    }

    #[test]
    fn a_peer_is_named_for_good_and_a_file_has_none() {
        let (one, _other) = UnixStream::pair().unwrap();
        assert!(is_running(&peer_process(one.as_fd()).unwrap()));
        let file = std::fs::File::open("/proc/self/stat").unwrap();
        assert!(peer_process(file.as_fd()).is_err());
    }

    #[test]
    fn a_process_that_has_ended_is_not_running() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        // SAFETY: pidfd_open takes two integers; the child was not waited for yet.
        let process = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) };
        assert!(process >= 0);
        // SAFETY: the kernel made this descriptor just now.
        let process = unsafe { OwnedFd::from_raw_fd(process as libc::c_int) };
        child.wait().unwrap();
        assert!(!is_running(&process));
    }
}
