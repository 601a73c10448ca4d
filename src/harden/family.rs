//! Ends everything that a process has started, whatever became of it: as a subreaper
//! (`PR_SET_CHILD_SUBREAPER`, prctl(2)) the process gets the orphans among its descendants as
//! children, so that none slips away by a session or a process group of its own.
use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use super::process::check;

/// Between two looks at what is left.
const PAUSE: Duration = Duration::from_millis(10);

/// From now on orphans among this process's descendants become its children.
///
/// # Errors
/// Those of `prctl`.
pub fn adopt_orphans() -> io::Result<()> {
    // SAFETY: prctl with this option takes integers.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) })
}

/// Has the kernel kill what `command` starts when the thread that starts it ends, also by a
/// signal that nobody can catch.
pub fn die_with_parent(command: &mut Command) -> &mut Command {
    let parent = std::process::id();
    // SAFETY: the closure runs between fork and exec and makes two system calls, nothing else.
    unsafe {
        command.pre_exec(move || {
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            // It may have ended before that was asked for.
            if libc::getppid().cast_unsigned() != parent {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            Ok(())
        })
    }
}

/// Kills every descendant of this process, and collects those that have ended, until none is left
/// or `patience` is over. Whether none is left. Whoever wants a child's exit code has asked for it
/// before.
pub fn end_descendants(patience: Duration) -> bool {
    let begun = Instant::now();
    loop {
        let family = descendants();
        for process in &family {
            // SAFETY: kill takes integers. The number cannot have been given to a stranger: each is
            // a descendant, and its parent, if it is not this process, is killed before it could
            // collect it; those of this process are collected below, in this thread.
            unsafe { libc::kill(*process, libc::SIGKILL) };
        }
        // SAFETY: waitpid with no place for a status takes integers.
        while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {}
        if family.is_empty() {
            return true;
        }
        if begun.elapsed() > patience {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
}

/// The descendants of this process, as `/proc` has them, parents first.
fn descendants() -> Vec<libc::pid_t> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(process.path().join("stat")) else { continue };
        // After the name, which may hold anything and ends with the last parenthesis: state, parent.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
        if let Some(parent) = parent.and_then(|parent| parent.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = children.remove(&std::process::id()).unwrap_or_default();
    let mut next = 0;
    while let Some(one) = found.get(next).copied() {
        found.extend(children.remove(&one).unwrap_or_default());
        next += 1;
    }
    found.into_iter().map(u32::cast_signed).collect()
}
