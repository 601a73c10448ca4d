//! What binds the whole process: core dumps, dumpability, privileges, signals
//! and the file mode mask.
//!
//! Each function is idempotent, needs no right that an ordinary user lacks, and
//! is called from a plain `main` before any other thread exists. Must never
//! undo a protection.
use std::io;

/// A system call that should have protected this process failed.
#[derive(Debug, thiserror::Error)]
pub enum HardenError {
    /// `setrlimit(RLIMIT_CORE)` failed.
    #[error("cannot forbid core dumps: setrlimit(RLIMIT_CORE, 0)")]
    CoreLimit(#[source] io::Error),
    /// `prctl(PR_SET_DUMPABLE)` failed.
    #[error("cannot keep other processes out of this one's memory: prctl(PR_SET_DUMPABLE, 0)")]
    Dumpable(#[source] io::Error),
    /// `prctl(PR_SET_NO_NEW_PRIVS)` failed.
    #[error("cannot give up new privileges: prctl(PR_SET_NO_NEW_PRIVS, 1)")]
    NoNewPrivileges(#[source] io::Error),
    /// `signal(SIGXFSZ)` failed.
    #[error("cannot ignore the file size signal: signal(SIGXFSZ, SIG_IGN)")]
    FileSizeSignal(#[source] io::Error),
    /// `capset` failed.
    #[error("cannot give up capabilities: capset")]
    Capabilities(#[source] io::Error),
    /// The kernel takes no system call filter.
    #[error("cannot filter system calls: seccomp(SECCOMP_SET_MODE_FILTER)")]
    SystemCallFilter(#[source] io::Error),
    /// The kernel has Landlock, and refused the rules.
    #[error("cannot confine this process to its own files: landlock")]
    Landlock(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The kernel cannot hold a closed room.
    #[error("this kernel cannot hold a closed room: it wants Landlock ABI 6, and there is {0}")]
    NoRoom(u32),
    /// What binds one thread alone was asked for when there were several.
    #[error("cannot protect a process of {0} threads: it is called before others start")]
    Threads(usize),
    /// `/proc` does not say how many threads there are.
    #[error("cannot count this process's threads in /proc/self/task")]
    CountThreads(#[source] io::Error),
}

/// Turns a C return value into a result with the thread's last error.
pub(super) fn check(returned: libc::c_int) -> io::Result<()> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// That this process has one thread, so that what binds a thread binds the process, and a fork
/// leaves no lock behind that nobody will open.
///
/// # Errors
/// [`HardenError::Threads`], [`HardenError::CountThreads`].
pub(super) fn single_threaded() -> Result<(), HardenError> {
    let tasks = std::fs::read_dir("/proc/self/task").map_err(HardenError::CountThreads)?;
    match tasks.count() {
        1 => Ok(()),
        many => Err(HardenError::Threads(many)),
    }
}

/// Sets the soft and the hard limit of core files to 0, for this process and
/// for everything that it starts.
///
/// # Errors
/// [`HardenError::CoreLimit`].
pub fn no_core_dumps() -> Result<(), HardenError> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `none` is a valid rlimit that outlives the call; nothing else is read.
    check(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) }).map_err(HardenError::CoreLimit)
}

/// Makes this process not dumpable: other processes of the same user may no
/// longer attach to it or open its `/proc/PID/mem`, `environ`, `fd` and so on.
///
/// Lasts until the next `execve`; a child of `fork` inherits it.
///
/// # Errors
/// [`HardenError::Dumpable`].
pub fn not_dumpable() -> Result<(), HardenError> {
    let off: libc::c_ulong = 0;
    // SAFETY: PR_SET_DUMPABLE takes one integer and touches no memory of ours.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, off, off, off, off) })
        .map_err(HardenError::Dumpable)
}

/// Gives up, for good and for all children, every privilege that a later
/// `execve` could bring (setuid, file capabilities).
///
/// # Errors
/// [`HardenError::NoNewPrivileges`].
pub fn no_new_privileges() -> Result<(), HardenError> {
    let (on, off): (libc::c_ulong, libc::c_ulong) = (1, 0);
    // SAFETY: PR_SET_NO_NEW_PRIVS takes integers and touches no memory of ours.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, on, off, off, off) })
        .map_err(HardenError::NoNewPrivileges)
}

/// Ignores `SIGXFSZ`, so that a write past `RLIMIT_FSIZE` is the error `EFBIG`,
/// which the store can answer, and not this process's death.
///
/// # Errors
/// [`HardenError::FileSizeSignal`].
pub fn ignore_file_size_signal() -> Result<(), HardenError> {
    // SAFETY: SIG_IGN is a valid disposition for SIGXFSZ; no handler of ours runs.
    if unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(HardenError::FileSizeSignal(io::Error::last_os_error()));
    }
    Ok(())
}

/// Sets the file mode mask to 077: what this process creates is its user's
/// alone, whatever mode was asked for. Cannot fail.
pub fn restrict_umask() {
    // SAFETY: umask takes an integer, touches no memory and cannot fail.
    unsafe { libc::umask(0o077) };
}
