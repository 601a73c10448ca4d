//! How many descriptors this process may have open. A stream through the gateway takes two, and the
//! usual limit of 1,024 is there for programs that use `select()`, which break above it: so what we
//! start gets the limit that we were started with.
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::process::check;

/// Most that are asked for: far above what our own limits on connections let come about.
const MOST: libc::rlim_t = 65_536;

/// The limit that this process was started with.
#[derive(Clone, Copy)]
pub struct DescriptorLimit(libc::rlimit);

/// Raises the soft limit of open descriptors towards the hard one, and returns the one before. Where
/// the system does not let it, things stay as they are.
pub fn raise_descriptor_limit() -> io::Result<DescriptorLimit> {
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `before` is a valid rlimit that the kernel fills before the call returns.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut before) })?;
    let wanted = before.rlim_max.min(MOST);
    if before.rlim_cur < wanted {
        let raised = libc::rlimit { rlim_cur: wanted, ..before };
        // SAFETY: `raised` is a valid rlimit that outlives the call; nothing else is read.
        check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) })?;
    }
    Ok(DescriptorLimit(before))
}

impl DescriptorLimit {
    /// Has the command start its program with this limit.
    pub fn around(self, command: &mut Command) {
        let enter = move || {
            // SAFETY: the limit is a valid rlimit that outlives the call; nothing else is read.
            check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &self.0) })
        };
        // SAFETY: the closure runs in the child between fork and exec, and makes one system call,
        // which is safe there: it neither allocates nor locks.
        unsafe { command.pre_exec(enter) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_started_has_the_limit_of_before() {
        let limit = || {
            let text = std::fs::read_to_string("/proc/self/limits").unwrap();
            let line = text.lines().find(|line| line.starts_with("Max open files")).unwrap();
            let fields: Vec<u64> =
                line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
            (fields[0], fields[1])
        };
        let (_, hard) = limit();
        let first = raise_descriptor_limit().unwrap();
        assert_eq!(limit(), (hard.min(MOST).max(first.0.rlim_cur), hard));
        // One as most systems have it, whatever this one has.
        let usual = DescriptorLimit(libc::rlimit { rlim_cur: 1024.min(hard), rlim_max: hard });
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -Sn"]);
        usual.around(&mut command);
        let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert_eq!(said.trim(), usual.0.rlim_cur.to_string());
        assert_eq!(limit().0, hard.min(MOST).max(first.0.rlim_cur));
    }
}
