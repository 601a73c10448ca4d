//! Starts a program that is nobody's child: the private backend, which a command starts on its
//! way to becoming another program by `exec`. That program must find no child of its own.
//!
//! Must never let a descriptor above 2 through, or the starter's terminal.
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use super::spawn::leave_everything_behind;

/// The process group that a started program is in; the program need not be alive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Group(libc::pid_t);

impl Group {
    /// Ends every process of the group without asking: `SIGKILL`. For a program that was just
    /// started and does not become ready.
    ///
    /// # Errors
    /// Those of `kill(2)`: `ESRCH` if none is left.
    pub fn kill(self) -> io::Result<()> {
        // SAFETY: kill takes integers and touches no memory of ours. INVARIANT: the id is above
        // 1, so that this is neither our own group nor everybody.
        if unsafe { libc::kill(-self.0, libc::SIGKILL) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// Starts `command` in a new session, as a child of the system's and not of this process,
/// without a controlling terminal and unable to get one, with `/dev/null` as its input, and with
/// no descriptor above 2. Its errors go where the caller said. Waits until its `execve` is done.
///
/// Returns the program's process group, and the pipe that is its output.
///
/// # Errors
/// Those of `fork`, `setsid` and `execve`, and of marking the descriptors; the program was then
/// not started.
pub fn spawn_daemon(mut command: Command) -> io::Result<(Group, io::PipeReader)> {
    let (reader, writer) = io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer);
    // SAFETY: the closures run in the child between fork and exec, and make only system calls
    // that are safe there: they neither allocate nor lock.
    unsafe {
        command.pre_exec(leave_everything_behind);
        command.pre_exec(leave_the_parent);
    }
    let mut between = command.spawn()?;
    // Ours is the one that made the session and has ended already; its id stays the group's.
    let group = libc::pid_t::try_from(between.id()).ok().filter(|id| *id > 1);
    between.wait()?;
    // The command holds a copy of the pipe's other end, and would keep it open.
    drop(command);
    let group =
        group.ok_or_else(|| io::Error::other("the kernel gave out no usable process id"))?;
    Ok((Group(group), reader))
}

/// Runs in the child before exec: forks once more, and ends the one between.
fn leave_the_parent() -> io::Result<()> {
    // SAFETY: this process has one thread, and goes on to exec; fork(2) is safe between the two.
    match unsafe { libc::fork() } {
        0 => Ok(()),
        // SAFETY: _exit runs nothing of ours. std learns of a failed exec by the other one.
        1.. => unsafe { libc::_exit(0) },
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn fields_of(stat: &str) -> (i32, i32, i32) {
        let rest = &stat[stat.rfind(')').unwrap() + 2..];
        let fields: Vec<&str> = rest.split(' ').collect();
        let number = |at: usize| fields[at].parse().unwrap();
        (number(1), number(2), number(3))
    }

    #[test]
    fn what_is_started_is_not_our_child_and_in_a_session_of_its_own() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "cat /proc/$$/stat; readlink /proc/$$/fd/0; echo /proc/$$/fd/*"]);
        let inherited = std::fs::File::open("/dev/null").unwrap();
        let (group, mut out) = spawn_daemon(command).unwrap();
        let mut text = String::new();
        out.read_to_string(&mut text).unwrap();
        drop(inherited);
        let mut lines = text.lines();
        let (parent, its_group, session) = fields_of(lines.next().unwrap());
        assert_ne!(parent, std::process::id() as i32);
        assert_eq!((its_group, session), (group.0, group.0));
        assert_eq!(lines.next(), Some("/dev/null"));
        let open = lines.next().unwrap();
        assert!(open.split(' ').count() <= 4, "{open}");
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error_and_starts_nothing() {
        let missing = spawn_daemon(Command::new("/nowhere/program")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_group_can_be_ended() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo ready; sleep 600; echo late"]);
        let (group, mut out) = spawn_daemon(command).unwrap();
        let mut ready = [0; 6];
        out.read_exact(&mut ready).unwrap();
        group.kill().unwrap();
        // The end of the pipe is the end of all that held it.
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
    }
}
