//! Durability: the disk barrier under the embedded store, and what the kernel knows of its disk.
//!
//! Owns the process's `sync_file_range` symbol, the count that proves it is the one in use, and the
//! few system calls of the store that std has no safe form of. Must never report a barrier that the
//! kernel did not confirm.
//!
//! sled's `flush` ends in `sync_file_range`, which writes data back but neither the file's metadata
//! nor the drive's cache: after a power cut the acknowledged bytes are often not reachable. Because
//! the executable's own symbols come before those of libc, defining that function here turns every
//! such call into `fdatasync`. A linker may drop such a definition without a word, so the store asks
//! [`barriers`] for proof, at its opening and in every commit, and refuses to work without it.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

static BARRIERS: AtomicU64 = AtomicU64::new(0);

/// Counts the barriers that the kernel has confirmed in this process.
pub fn barriers() -> u64 {
    // Naming the function here keeps its definition in every binary that asks for the count.
    std::hint::black_box(
        sync_file_range as unsafe extern "C" fn(i32, libc::off64_t, libc::off64_t, u32) -> i32,
    );
    BARRIERS.load(Ordering::SeqCst)
}

/// How long a call may wait for the one that was announced to follow it.
const FOLLOW: Duration = Duration::from_millis(2);

/// Whether the next call will be followed by another for the same file.
static PAIR_EXPECTED: AtomicBool = AtomicBool::new(false);
static WAITING: Mutex<Option<Waiting>> = Mutex::new(None);
static SERVED: Condvar = Condvar::new();

/// The call that waits for the barrier of the one after it.
struct Waiting {
    fd: i32,
    ticket: u64,
    /// What became of the barrier that covers this call: 0, or an `errno`.
    outcome: Option<i32>,
}

/// Announces that the next two calls of [`sync_file_range`] come for one file, close together: sled
/// writes a batch in two parts. The first then waits for the barrier of the second, which covers
/// both, so that a batch costs one barrier. If none follows in time it makes its own.
pub fn expect_pair() {
    PAIR_EXPECTED.store(true, Ordering::SeqCst);
}

/// Makes the whole file durable where libc's function of this name would only start to write a part.
///
/// Returns 0, or -1 with `errno` set by `fdatasync`. When it returns 0, a barrier that began after
/// the call has been confirmed.
///
/// # Safety
/// Safe for any argument: the kernel checks `fd`, the others are not used. It is `unsafe` because it
/// replaces a C function for the whole process.
// SAFETY: the symbol has the signature and result of the function that it replaces, and does more
// than that function promises. Nothing in it can panic.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sync_file_range(
    fd: i32,
    _offset: libc::off64_t,
    _bytes: libc::off64_t,
    _flags: u32,
) -> i32 {
    if PAIR_EXPECTED.swap(false, Ordering::SeqCst)
        && let Some(outcome) = served_by_next(fd)
    {
        return answer(outcome);
    }
    // Who waits by now has written before this barrier begins, and so is covered by it.
    let covered = lock(&WAITING).as_ref().filter(|waiting| waiting.fd == fd).map(|it| it.ticket);
    let outcome = loop {
        // SAFETY: takes a number and touches no memory of ours.
        if unsafe { libc::fdatasync(fd) } == 0 {
            BARRIERS.fetch_add(1, Ordering::SeqCst);
            break 0;
        }
        match io::Error::last_os_error().raw_os_error() {
            Some(libc::EINTR) => {}
            other => break other.unwrap_or(libc::EIO),
        }
    };
    if covered.is_some() {
        // A failure is handed on as well: the kernel reports it once for each open file, so that a
        // second barrier would succeed over what the first one lost.
        let mut waiting = lock(&WAITING);
        if let Some(waiting) = waiting.as_mut().filter(|it| Some(it.ticket) == covered) {
            waiting.outcome = Some(outcome);
            SERVED.notify_all();
        }
    }
    answer(outcome)
}

/// Answers as a C function does.
#[allow(unsafe_code)]
fn answer(outcome: i32) -> i32 {
    if outcome == 0 {
        return 0;
    }
    // SAFETY: the address is this thread's own `errno`, valid for as long as the thread lives.
    unsafe { *libc::__errno_location() = outcome };
    -1
}

/// Waits for the barrier of the call that follows; gives what became of it, if there was one for
/// `fd`.
fn served_by_next(fd: i32) -> Option<i32> {
    static TICKETS: AtomicU64 = AtomicU64::new(0);
    let mut waiting = lock(&WAITING);
    if waiting.is_some() {
        return None;
    }
    let ticket = TICKETS.fetch_add(1, Ordering::Relaxed);
    *waiting = Some(Waiting { fd, ticket, outcome: None });
    let unserved = |it: &mut Option<Waiting>| it.as_ref().is_some_and(|it| it.outcome.is_none());
    let (mut waiting, _) = SERVED
        .wait_timeout_while(waiting, FOLLOW, unserved)
        .unwrap_or_else(PoisonError::into_inner);
    waiting.take().and_then(|it| it.outcome)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives the bytes that this process may still write on the file system of `path`; what only root
/// may use does not count.
///
/// # Errors
/// The system's, from `statvfs`.
#[allow(unsafe_code)]
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `path` ends in NUL and outlives the call; `stat` is as large as the call expects.
    if unsafe { libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, and so has filled the structure.
    let stat = unsafe { stat.assume_init() };
    // The widths of these fields differ between targets.
    #[allow(clippy::unnecessary_cast)]
    Ok((stat.f_bavail as u64).saturating_mul(stat.f_frsize as u64))
}

/// Drops the kernel's clean cached pages of `file`, so that the next read sees the disk.
///
/// After a failed `fdatasync` Linux keeps the unwritten pages and calls them clean; whoever reads
/// them takes for stored what is not. The caller must have saved what is worth keeping of them.
///
/// # Errors
/// The system's, from `posix_fadvise`.
#[allow(unsafe_code)]
pub fn forget_cached(file: &File) -> io::Result<()> {
    // SAFETY: takes numbers only; the descriptor is open for as long as `file` is borrowed.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

extern "C" fn do_nothing(_signal: i32) {}

/// Turns a write past `RLIMIT_FSIZE` from the death of the process (SIGXFSZ) into an error.
///
/// A handler, not `SIG_IGN`: the latter would be handed on to every program that is executed.
///
/// # Errors
/// The system's, from `sigaction`.
#[allow(unsafe_code)]
pub fn survive_file_size_limit() -> io::Result<()> {
    // SAFETY: all zeroes is a valid `sigaction`: no flags, an empty mask, the default handler.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = do_nothing as extern "C" fn(i32) as usize;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the structure is complete, and its handler does nothing, which is safe in a signal.
    match unsafe { libc::sigaction(libc::SIGXFSZ, &action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(unsafe_code)]
    fn a_call_from_c_reaches_our_barrier_and_errors_are_handed_on() {
        let file = tempfile::tempfile().expect("a temporary file");
        let before = barriers();
        // SAFETY: takes numbers only.
        assert_eq!(unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, 0) }, 0);
        assert!(barriers() > before, "libc's own sync_file_range was called");
        // SAFETY: takes numbers only.
        assert_eq!(unsafe { libc::sync_file_range(-1, 0, 0, 0) }, -1);
        assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    #[allow(unsafe_code)]
    fn a_call_whose_announced_successor_never_comes_makes_its_own_barrier() {
        let file = tempfile::tempfile().expect("a temporary file");
        for _ in 0..5 {
            expect_pair();
            let before = barriers();
            // SAFETY: takes numbers only.
            assert_eq!(unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, 0) }, 0);
            assert!(barriers() > before, "it returned without a barrier");
        }
    }

    #[test]
    #[allow(unsafe_code)]
    fn a_call_is_served_by_a_barrier_of_its_own_file_only_and_shares_its_failure() {
        let file = tempfile::tempfile().expect("a temporary file");
        let other = tempfile::tempfile().expect("a temporary file");
        // A pipe cannot be synced: the barrier fails.
        let (pipe, _writer) = io::pipe().expect("a pipe");
        let (file, other, pipe) = (file.as_raw_fd(), other.as_raw_fd(), pipe.as_raw_fd());
        for (fd, successor, outcome) in
            [(file, other, None), (file, pipe, None), (pipe, pipe, Some(libc::EINVAL))]
        {
            let first = std::thread::spawn(move || served_by_next(fd));
            while lock(&WAITING).is_none() && !first.is_finished() {
                std::hint::spin_loop();
            }
            // SAFETY: takes numbers only.
            let result = unsafe { libc::sync_file_range(successor, 0, 0, 0) };
            assert_eq!(result != 0, successor == pipe);
            // Another test of this process may be waiting in its place.
            let got = first.join().expect("it does not panic");
            assert!(got == outcome || got.is_none(), "{got:?} instead of {outcome:?}");
        }
        // SAFETY: takes numbers only.
        let failed = std::thread::spawn(move || unsafe { sync_file_range(-1, 0, 0, 0) });
        assert_eq!(failed.join().expect("it does not panic"), -1);
    }

    #[test]
    fn free_space_is_known_for_a_folder_that_exists_only() {
        assert!(free_bytes(Path::new("/")).expect("the root has a file system") > 0);
        let missing = free_bytes(Path::new("/nowhere/at/all")).expect_err("no such folder");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
