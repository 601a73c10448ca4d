//! The daemon's helper: a process of the same program, forked before anything is confined and
//! before there is a secret, that starts what must not be confined (the private backend, a
//! provisioner) when it is asked to over its socket.
//!
//! Must never hold the pipes of an MCP client, a descriptor of the daemon's, or a secret; and never
//! outlive the daemon.
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::process::{check, no_core_dumps, not_dumpable, single_threaded};

/// What the helper ends with if `child` panics, or its surroundings cannot be made.
const FAILED: u8 = 101;
/// How long the helper may take to end once its stream has.
const PATIENCE: Duration = Duration::from_secs(2);

/// Forks the helper, which runs `child` with its end of a socket pair and ends with the code that
/// it returns; returns the other end. Called in plain `main`, first of all.
///
/// The helper has `/dev/null` as input and output, this process's stderr, its end of the pair, and
/// no other descriptor; a session of its own, so that a terminal's signals pass it by; no core
/// dumps; and it is not dumpable. `child` returns when its stream ends: this process has closed its
/// end, or has died. Should it not have returned two seconds later, the helper and what else is in
/// its process group are killed. It has a second thread, which watches over that: the kernel's own
/// means (`PR_SET_PDEATHSIG`) does not reach out of a Landlock room that scopes signals, which the
/// dying daemon is in.
///
/// A helper that has died shows as the end of the stream, or as a broken pipe. It leaves no zombie:
/// from now on the children of this process are not waited for, so **it starts none of its own**.
///
/// # Errors
/// There are several threads already, or `socketpair`, `/dev/null` or `fork` failed; no helper was
/// made then.
pub fn fork_helper(child: impl FnOnce(UnixStream) -> u8) -> io::Result<UnixStream> {
    single_threaded().map_err(io::Error::other)?;
    let (ours, theirs) = UnixStream::pair()?;
    // Opened here, where a failure can still be told.
    let null = File::options().read(true).write(true).open("/dev/null")?;
    // SAFETY: this process has one thread, so the child's copy of it is whole: no lock is held by a
    // thread that is not there.
    match unsafe { libc::fork() } {
        0 => {
            drop(ours);
            // INVARIANT: nothing leaves this block, by return or by panic, into the caller's frames,
            // which would then run a second time.
            let run = AssertUnwindSafe(|| match surround(&null, &theirs) {
                Ok(()) => child(theirs),
                Err(error) => {
                    eprintln!("agentkeys: the helper does not start: {error}");
                    FAILED
                }
            });
            let code = catch_unwind(run).unwrap_or(FAILED);
            // SAFETY: _exit runs nothing of ours, so no buffer of the parent's is written twice.
            unsafe { libc::_exit(code.into()) }
        }
        helper @ 1.. => {
            leave_no_zombie(helper)?;
            Ok(ours)
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes the helper's surroundings, in the helper.
fn surround(null: &File, stream: &UnixStream) -> io::Result<()> {
    // SAFETY: these take integers and touch no memory of ours; 0 and 1 become copies of `null`.
    unsafe {
        check(libc::setsid())?;
        check(libc::dup2(null.as_raw_fd(), 0))?;
        check(libc::dup2(null.as_raw_fd(), 1))?;
    }
    no_core_dumps().and_then(|()| not_dumpable()).map_err(io::Error::other)?;
    close_all_but(stream.as_raw_fd())?;
    let watched = stream.try_clone()?;
    std::thread::Builder::new().name("watch".to_owned()).spawn(move || end_with(&watched))?;
    Ok(())
}

/// Waits until the other end is closed, gives the helper its time, and ends it.
fn end_with(stream: &UnixStream) {
    let mut one = libc::pollfd { fd: stream.as_raw_fd(), events: 0, revents: 0 };
    // A hang-up is told without being asked for, also when there is something left to read.
    // SAFETY: `one` is one valid pollfd that outlives the call.
    while unsafe { libc::poll(&raw mut one, 1, -1) } < 1 {}
    std::thread::sleep(PATIENCE);
    // SAFETY: 0 is the group of the caller, which `setsid` made this process's own.
    unsafe { libc::kill(0, libc::SIGKILL) };
}

/// Closes every descriptor above 2 but `kept`. The `File` of `/dev/null` is closed with them; the
/// helper ends without running its drop.
fn close_all_but(kept: RawFd) -> io::Result<()> {
    let kept = libc::c_uint::try_from(kept).map_err(io::Error::other)?;
    for (first, last) in [(3, kept - 1), (kept + 1, libc::c_uint::MAX)] {
        if first > last {
            continue;
        }
        // SAFETY: close_range takes integers. What it closes is used by nobody any more: this
        // process goes on with `kept` alone.
        if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } != 0 {
            return close_one_by_one(kept);
        }
    }
    Ok(())
}

/// For kernels before 5.9, and containers whose filter does not know the call.
fn close_one_by_one(kept: libc::c_uint) -> io::Result<()> {
    let open: Vec<libc::c_int> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for number in open {
        if number > 2 && number.cast_unsigned() != kept {
            // SAFETY: as above; the listing's own descriptor is closed already, which is EBADF.
            unsafe { libc::close(number) };
        }
    }
    Ok(())
}

/// Has the kernel forget the helper when it ends, instead of keeping it until somebody asks.
fn leave_no_zombie(helper: libc::pid_t) -> io::Result<()> {
    // SAFETY: zeros are a valid sigaction (SIG_DFL, an empty mask); it outlives the call.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        action.sa_flags = libc::SA_NOCLDWAIT;
        check(libc::sigaction(libc::SIGCHLD, &raw const action, std::ptr::null_mut()))?;
        // One that ended before that is collected here; one that lives is not waited for.
        libc::waitpid(helper, std::ptr::null_mut(), libc::WNOHANG);
    }
    Ok(())
}
