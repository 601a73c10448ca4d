//! A closed room for a program that we start: it reaches the folders that it was given, one TCP
//! port of this machine, and nothing else. Unlike the daemon's confinement, all of it is in force or
//! the program does not start.
//!
//! Landlock holds files and TCP connects. What it lets through is refused by a system call filter:
//! sockets of any other kind (Unix, UDP, raw, netlink, vsock, and MPTCP, which Landlock does not
//! look at), the connect that hides in a send (TCP Fast Open), listening without having bound,
//! rings, whose calls pass no filter, and keys typed into the terminal that the room was started in.
//!
//! Must never start a program with less than that.
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope, make_bitflags,
};
use seccompiler::{BpfProgram, SeccompCmpOp, SeccompRule};

use super::capabilities::give_up_all;
use super::confinement::{is_folder, kernel_abi, open_path};
use super::filter::{self, EVERYBODYS_REFUSED, Rules, int, masked};
use super::process::{HardenError, check};
use super::spawn::close_on_exec_from_3;

/// What a room needs of Landlock: files, TCP, and signals and abstract sockets of others.
const NEEDED: ABI = ABI::V6;

/// What a program in a room may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Files and folders that may be read, listed and executed.
    pub read: Vec<PathBuf>,
    /// Folders in which everything may be done but make a device.
    pub write: Vec<PathBuf>,
    /// Devices that may be read and written.
    pub devices: Vec<PathBuf>,
    /// The TCP port that may be connected to.
    pub port: u16,
}

/// A room that the kernel can hold, to start a program in.
pub struct ClosedRoom {
    ruleset: OwnedFd,
    filters: [BpfProgram; 2],
}

impl ClosedRoom {
    /// Prepares a room. A path that is not there is left out: it stays shut.
    ///
    /// # Errors
    /// [`HardenError::NoRoom`]: the kernel has no Landlock, or less of it than a room needs;
    /// [`HardenError::Landlock`], [`HardenError::SystemCallFilter`].
    pub fn new(room: &Room) -> Result<Self, HardenError> {
        let abi = kernel_abi();
        if abi < NEEDED as u32 {
            return Err(HardenError::NoRoom(abi));
        }
        let ruleset = ruleset(room).map_err(|error| HardenError::Landlock(Box::new(error)))?;
        let ruleset = ruleset.ok_or(HardenError::NoRoom(abi))?;
        let refused = filter::program(refused()?, libc::EPERM)?;
        let absent = BTreeMap::from([(libc::SYS_clone3, vec![])]);
        let filters = [filter::program(absent, libc::ENOSYS)?, filter::without_x32(refused)];
        Ok(Self { ruleset, filters })
    }

    /// Has the command start its program in this room, with no descriptor above 2.
    pub fn around(self, command: &mut Command) {
        // SAFETY: the closure runs in the child between fork and exec, and makes system calls only:
        // what they need was made before, so it neither allocates nor locks.
        unsafe { command.pre_exec(move || self.enter()) };
    }

    /// Shuts this process in; async-signal-safe.
    fn enter(&self) -> io::Result<()> {
        close_on_exec_from_3()?;
        let none: libc::c_ulong = 0;
        let yes: libc::c_ulong = 1;
        // SAFETY: PR_SET_NO_NEW_PRIVS takes integers.
        check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, yes, none, none, none) })?;
        // Root's would let it read what Landlock keeps from it (CAP_PERFMON, CAP_SYS_PTRACE).
        give_up_all()?;
        let ruleset = self.ruleset.as_raw_fd();
        // SAFETY: the descriptor is open as long as this is held; the call takes two integers.
        if unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
        for program in &self.filters {
            let length = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
            let filter = libc::sock_fprog {
                len: length,
                filter: program.as_ptr().cast_mut().cast::<libc::sock_filter>(),
            };
            // SAFETY: `filter` points to so many instructions, whose layout is the kernel's, and the
            // kernel copies them.
            let done = unsafe {
                libc::syscall(
                    libc::SYS_seccomp,
                    libc::SECCOMP_SET_MODE_FILTER,
                    0,
                    &raw const filter,
                )
            };
            if done != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
}

fn ruleset(room: &Room) -> Result<Option<OwnedFd>, RulesetError> {
    let read = make_bitflags!(AccessFs::{ReadFile | ReadDir | Execute});
    let write =
        AccessFs::from_all(NEEDED) & !make_bitflags!(AccessFs::{MakeChar | MakeBlock | IoctlDev});
    let device = make_bitflags!(AccessFs::{ReadFile | WriteFile | IoctlDev});
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(NEEDED))?
        .handle_access(AccessNet::from_all(NEEDED))?
        .scope(Scope::from_all(NEEDED))?
        .create()?;
    for (paths, access) in [(&room.read, read), (&room.write, write), (&room.devices, device)] {
        for path in paths {
            let Ok(open) = open_path(path) else { continue };
            // The kernel refuses a folder's rights on a file.
            let access: BitFlags<AccessFs> = match is_folder(&open) {
                Ok(true) => access,
                _ => access & AccessFs::from_file(NEEDED),
            };
            rules = rules.add_rule(PathBeneath::new(open, access))?;
        }
    }
    Ok(rules.add_rule(NetPort::new(room.port, AccessNet::ConnectTcp))?.into())
}

/// What a room is refused besides: what reaches other processes of its user, and listening. Without
/// an address a socket is bound to a port of the kernel's choice, past Landlock.
const REFUSED: &[libc::c_long] = &[
    libc::SYS_listen,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
];

/// The calls that are refused, by themselves or by their arguments.
fn refused() -> Result<Rules, HardenError> {
    let all = EVERYBODYS_REFUSED.iter().chain(REFUSED);
    let mut rules: Rules = all.map(|call| (*call, vec![])).collect();
    for (call, rule) in by_argument().map_err(filter::failed)? {
        rules.insert(call, rule);
    }
    Ok(rules)
}

type ByArgument = Vec<(libc::c_long, Vec<SeccompRule>)>;

fn by_argument() -> Result<ByArgument, filter::FilterError> {
    /// The part of a socket's type that is no flag.
    const TYPE: libc::c_int = 0xf;
    let is = |at, value| int(at, SeccompCmpOp::Eq, value);
    let is_not = |at, value| int(at, SeccompCmpOp::Ne, value);
    let mut socket = vec![
        SeccompRule::new(vec![is_not(0, libc::AF_INET)?, is_not(0, libc::AF_INET6)?])?,
        SeccompRule::new(vec![is_not(2, 0)?, is_not(2, libc::IPPROTO_TCP)?])?,
    ];
    for kind in (0..=TYPE).filter(|kind| *kind != libc::SOCK_STREAM) {
        socket.push(SeccompRule::new(vec![masked(1, TYPE, kind)?])?);
    }
    // A pair of stream sockets is connected for good. One of datagrams could be pointed at any Unix
    // socket by its path; the kernel makes one of a raw one, too.
    let pair = [libc::SOCK_DGRAM, libc::SOCK_RAW]
        .into_iter()
        .map(|kind| Ok(SeccompRule::new(vec![masked(1, TYPE, kind)?])?))
        .collect::<Result<Vec<_>, filter::FilterError>>()?;
    let opens = |at| {
        let flag = libc::MSG_FASTOPEN;
        Ok::<_, filter::FilterError>(vec![SeccompRule::new(vec![masked(at, flag, flag)?])?])
    };
    let typed = [libc::TIOCSTI, libc::TIOCLINUX]
        .into_iter()
        .map(|request| {
            let request = libc::c_int::try_from(request).unwrap_or_default();
            Ok(SeccompRule::new(vec![is(1, request)?])?)
        })
        .collect::<Result<Vec<_>, filter::FilterError>>()?;
    // A process in a user namespace of its own has there what it has not here.
    let spaces = [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
    ]
    .into_iter()
    .map(|flag| Ok(SeccompRule::new(vec![masked(0, flag, flag)?])?))
    .collect::<Result<Vec<_>, filter::FilterError>>()?;
    let tracer = SeccompRule::new(vec![is(0, libc::PR_SET_PTRACER)?])?;
    Ok(vec![
        (libc::SYS_socket, socket),
        (libc::SYS_socketpair, pair),
        (libc::SYS_sendto, opens(3)?),
        (libc::SYS_sendmsg, opens(2)?),
        (libc::SYS_sendmmsg, opens(3)?),
        (libc::SYS_ioctl, typed),
        (libc::SYS_clone, spaces),
        (libc::SYS_prctl, vec![tracer]),
        // Limits of other processes.
        (libc::SYS_prlimit64, vec![SeccompRule::new(vec![is_not(0, 0)?])?]),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_has_a_filter_that_the_kernel_takes_and_names_each_call_once() {
        let rules = refused().unwrap();
        assert_eq!(
            rules.len(),
            EVERYBODYS_REFUSED.len() + REFUSED.len() + by_argument().ok().unwrap().len()
        );
        let program = filter::without_x32(filter::program(rules, libc::EPERM).unwrap());
        assert!((100..2048).contains(&program.len()), "{}", program.len());
    }

    #[test]
    fn a_path_that_is_not_there_stays_shut_and_is_no_error() {
        let room =
            Room { read: vec!["/nowhere".into(), "/usr".into()], port: 1, ..Room::default() };
        assert!(ClosedRoom::new(&room).is_ok());
    }
}
