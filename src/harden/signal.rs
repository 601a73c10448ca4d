//! Ends another process of ours, by a handle that cannot come to mean another one.
//!
//! Must never signal by a bare process id, which the kernel gives out again.
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// One process, for as long as this is held, also when it has ended.
#[derive(Debug)]
pub struct ProcessHandle(OwnedFd);

impl ProcessHandle {
    /// A handle on the process that has this id now.
    ///
    /// # Errors
    /// Those of `pidfd_open(2)`: `ESRCH` if there is none, `ENOSYS` before Linux 5.3.
    pub fn open(pid: u32) -> io::Result<Self> {
        let pid = libc::pid_t::try_from(pid).ok().filter(|pid| *pid > 0);
        let pid = pid.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
        // SAFETY: pidfd_open takes integers and touches no memory of ours.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = RawFd::try_from(fd).ok().filter(|fd| *fd >= 0);
        let fd = fd.ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the kernel made `fd` just now, so nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Asks it to end: `SIGTERM`. One that has ended already needs no asking.
    ///
    /// # Errors
    /// Those of `pidfd_send_signal(2)`: `EPERM` if it is not ours.
    pub fn terminate(&self) -> io::Result<()> {
        self.send(libc::SIGTERM)
    }

    /// Tells it that its terminal is gone: `SIGHUP`.
    ///
    /// # Errors
    /// Those of [`ProcessHandle::terminate`].
    pub fn hang_up(&self) -> io::Result<()> {
        self.send(libc::SIGHUP)
    }

    /// Ends it without asking: `SIGKILL`.
    ///
    /// # Errors
    /// Those of [`ProcessHandle::terminate`].
    pub fn kill(&self) -> io::Result<()> {
        self.send(libc::SIGKILL)
    }

    /// Waits until it has ended, for at most `limit`, holding this thread up; true if it has.
    /// One that nobody has waited for yet has ended as well.
    ///
    /// # Errors
    /// Those of `poll(2)`.
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        let begun = Instant::now();
        loop {
            let left = limit.saturating_sub(begun.elapsed()).as_millis();
            let left = libc::c_int::try_from(left).unwrap_or(libc::c_int::MAX);
            let mut one = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: `one` is one valid pollfd that outlives the call.
            match unsafe { libc::poll(&mut one, 1, left) } {
                0 => return Ok(false),
                1.. => return Ok(true),
                _ => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(error),
                },
            }
        }
    }

    fn send(&self, signal: libc::c_int) -> io::Result<()> {
        let no_details = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is open as long as `self`, and a null `siginfo_t` is allowed.
        let sent = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal, no_details, 0)
        };
        match io::Error::last_os_error() {
            _ if sent >= 0 => Ok(()),
            error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            error => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    #[test]
    fn the_process_that_is_meant_ends_by_the_signal_that_was_sent() {
        type Send = fn(&ProcessHandle) -> io::Result<()>;
        for (send, signal) in [
            (ProcessHandle::terminate as Send, libc::SIGTERM),
            (ProcessHandle::hang_up, libc::SIGHUP),
            (ProcessHandle::kill, libc::SIGKILL),
        ] {
            let mut child = Command::new("sleep").arg("600").spawn().unwrap();
            let handle = ProcessHandle::open(child.id()).unwrap();
            assert!(!handle.wait(Duration::ZERO).unwrap());
            send(&handle).unwrap();
            assert!(handle.wait(Duration::from_secs(10)).unwrap());
            assert_eq!(child.wait().unwrap().signal(), Some(signal));
            send(&handle).unwrap();
        }
    }

    #[test]
    fn ids_that_name_no_process_have_no_handle() {
        for pid in [0, 1 << 23, u32::MAX] {
            assert!(ProcessHandle::open(pid).is_err(), "{pid}");
        }
    }
}
