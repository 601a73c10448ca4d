//! Starts a program that outlives its starter: the private backend.
//!
//! Must never let a descriptor above 2 through, or the starter's terminal.
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Starts `command` as the leader of a new session, without a controlling
/// terminal, with `/dev/null` as its input, and with no descriptor above 2,
/// whether or not it was marked close-on-exec. Output goes where the caller
/// said.
///
/// The child is still ours: whoever stays alive waits for it or leaves a zombie.
///
/// # Errors
/// Those of `fork` and `execve`, of `setsid`, and of marking the descriptors;
/// the program was then not started.
pub fn spawn_detached(mut command: Command) -> io::Result<Child> {
    command.stdin(Stdio::null());
    // SAFETY: the closure runs in the child between fork and exec, and makes
    // only system calls that are safe there: it neither allocates nor locks.
    unsafe { command.pre_exec(leave_everything_behind) };
    command.spawn()
}

/// Runs in the child before exec; async-signal-safe.
pub(super) fn leave_everything_behind() -> io::Result<()> {
    // SAFETY: setsid takes nothing and touches no memory.
    if unsafe { libc::setsid() } < 0 {
        return Err(io::Error::last_os_error());
    }
    close_on_exec_from_3()
}

/// Marks every descriptor above 2 close-on-exec. They are not closed at once,
/// because std tells a failed exec over one of them.
pub(super) fn close_on_exec_from_3() -> io::Result<()> {
    const FLAG: libc::c_uint = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: close_range takes integers; with this flag nothing is closed here.
    if unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, FLAG) } == 0 {
        return Ok(());
    }
    // Kernels before 5.11, and containers whose filter does not know the call.
    mark_one_by_one()
}

fn mark_one_by_one() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit that the kernel fills before the call returns.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // A million calls take a fifth of a second; nobody waits for a thousand million.
    let end = match libc::c_int::try_from(limit.rlim_cur) {
        Ok(end) if end <= 1 << 20 => end,
        _ => return Err(io::Error::from_raw_os_error(libc::EMFILE)),
    };
    for descriptor in 3..end {
        // SAFETY: fcntl checks the descriptor itself; one that is not open is left alone.
        unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsRawFd;

    #[test]
    fn both_ways_of_marking_descriptors_mark_an_inheritable_one() {
        for mark in [close_on_exec_from_3, mark_one_by_one] {
            let file = File::open("/dev/null").unwrap();
            // SAFETY: `file` is open; its flags are set and read, nothing else.
            let flags = unsafe {
                assert_eq!(libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0), 0);
                mark().unwrap();
                libc::fcntl(file.as_raw_fd(), libc::F_GETFD)
            };
            assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
        }
    }
}
