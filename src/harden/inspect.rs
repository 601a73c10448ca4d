//! Questions about processes and descriptors that std cannot ask.
//!
//! Must never answer with a guess: what cannot be read is `None` or an error.
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The real user id of this process.
pub fn real_uid() -> u32 {
    // SAFETY: getuid takes nothing, touches no memory and cannot fail.
    unsafe { libc::getuid() }
}

/// The effective user id of this process: the owner of what it creates.
pub fn effective_uid() -> u32 {
    // SAFETY: geteuid takes nothing, touches no memory and cannot fail.
    unsafe { libc::geteuid() }
}

/// When process `pid` started, in clock ticks since the machine booted; with
/// the pid it names a process for good, since the kernel gives pids out again.
///
/// `None` if there is no such process or it cannot be seen.
pub fn process_start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    start_time_in(&stat)
}

/// Field 22 of proc(5)'s `stat`. The second field is the program's name in
/// brackets, which the program chooses and which may hold spaces and brackets,
/// so counting starts behind the last closing bracket.
fn start_time_in(stat: &[u8]) -> Option<u64> {
    let after_name = stat.iter().rposition(|b| *b == b')')? + 1;
    let rest = std::str::from_utf8(stat.get(after_name..)?).ok()?;
    rest.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

/// The program that process `pid` runs. A program that was replaced on disk
/// ends in ` (deleted)`.
///
/// `None` if there is no such process or this one may not look (another user's,
/// or one that is not dumpable).
pub fn exe_of(pid: u32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// Opens `path` for reading; a symbolic link as its last part is an error
/// (`ELOOP`), and a FIFO or device does not make the open wait.
///
/// # Errors
/// Those of `open(2)`.
pub fn open_without_following(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

/// Opens `path` for reading what is on the disk, past the kernel's memory (`O_DIRECT`): into
/// buffers, at offsets and of lengths that are aligned to the disk's blocks.
///
/// # Errors
/// Those of `open(2)`; `EINVAL` where the file system has no such thing.
pub fn open_past_the_cache(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path)
}

/// A descriptor of our own for what descriptor `number` refers to, such as one
/// that the caller of this program named on the command line.
///
/// `number` itself stays as it is: who owns it is not ours to say.
///
/// # Errors
/// Those of `fcntl(2)`, for one that is not open.
pub fn duplicate_descriptor(number: i32) -> io::Result<File> {
    // SAFETY: fcntl checks `number` itself and touches no memory of ours.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel made `copy` just now, so nobody else owns it.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(copy) }))
}

/// Attaches to process `pid` as a debugger does, without stopping it, and lets go of it: whether this
/// process may look into that one and change it.
///
/// # Errors
/// Those of `ptrace(2)`.
pub fn trace(pid: u32) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: PTRACE_SEIZE reads and writes no memory of ours; its address and data are 0.
    if unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, nothing, nothing) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the same. It wants the process stopped; one that is not is let go of when we end.
    unsafe { libc::ptrace(libc::PTRACE_DETACH, pid, nothing, nothing) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_brackets_and_digits_does_not_shift_the_start_time() {
        let fields: Vec<String> = (4..=52).map(|n| n.to_string()).collect();
        let stat = format!("7 (a) 1 2 (b) S {}", fields.join(" "));
        assert_eq!(start_time_in(stat.as_bytes()), Some(22));
    }

    #[test]
    fn a_cut_off_stat_has_no_start_time() {
        assert_eq!(start_time_in(b"7 (a) S 1 2 3"), None);
        assert_eq!(start_time_in(b"no bracket at all"), None);
        assert_eq!(start_time_in(b""), None);
    }

    #[test]
    fn a_process_that_is_not_there_has_neither_start_time_nor_program() {
        // Above the largest pid that the kernel gives out (2^22).
        assert_eq!(process_start_time(1 << 23), None);
        assert_eq!(exe_of(1 << 23), None);
    }

    #[test]
    fn this_process_started_after_its_parent_and_runs_this_program() {
        let own = process_start_time(std::process::id()).unwrap();
        assert!(own >= process_start_time(std::os::unix::process::parent_id()).unwrap());
        assert_eq!(exe_of(std::process::id()), std::env::current_exe().ok());
    }

    #[test]
    fn a_descriptor_that_is_not_open_cannot_be_duplicated() {
        assert_eq!(duplicate_descriptor(1_000_000).unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert!(duplicate_descriptor(-1).is_err());
    }
}
