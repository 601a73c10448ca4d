//! The system call filter of the daemon: a list of calls that it has no use for, and that an
//! intruder in it, or beside it, would want.
//!
//! Everything else is allowed, so that a new libc or kernel does not break a running daemon; what a
//! new kernel adds and nobody has listed needs a capability, a descriptor or a path that the daemon
//! does not have. Refused calls answer `EPERM`; nobody is killed for asking, but for a call in
//! another architecture's numbering, which no code of ours can make.
//!
//! **Kernel memory devices.** A filter sees numbers, never paths, so it cannot tell `/dev/mem` from
//! another file. What keeps `/dev/mem`, `/dev/port`, `/proc/kcore` and disks shut is: their modes,
//! for an ordinary user; `CAP_SYS_RAWIO` at their open, which not even root's daemon has any more;
//! Landlock, where there is one; and, here, `mknod`, so that no other node of theirs can be made.
//!
//! Must never be installed before the helper is forked, nor name a call that the secret memory, the
//! runtime or the network needs: tests hold that.
use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter_all_threads, sock_filter,
};

use super::process::HardenError;

/// The calls that nobody has a use for whom we start or are, whatever their arguments.
pub(super) const EVERYBODYS_REFUSED: &[libc::c_long] = &[
    // Other processes' memory, descriptors and likeness.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // The kernel's key rings.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Where kernel faults are found and exploited.
    libc::SYS_userfaultfd,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_lookup_dcookie,
    libc::SYS_fanotify_init,
    // Calls made in a ring do not pass this filter.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Other code in the kernel, and in its place.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    KEXEC_FILE_LOAD,
    libc::SYS_personality,
    // Another view of the file system, and ways into it that no path guards.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    OPEN_TREE_ATTR,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    // The machine.
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_syslog,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_nfsservctl,
    libc::SYS_vhangup,
];

/// What the daemon is refused besides: other code in its place, which its helper starts where it must
/// be; and nodes.
const REFUSED: &[libc::c_long] = &[libc::SYS_execve, libc::SYS_execveat, libc::SYS_mknodat];

/// The calls that only x86 has, or only under a number of its own.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[libc::c_long] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_mknod,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[libc::c_long] = &[];

// Numbers that some libc lacks. From 424 on they are the same everywhere.
const OPEN_TREE_ATTR: libc::c_long = 467;
#[cfg(target_arch = "x86_64")]
const KEXEC_FILE_LOAD: libc::c_long = 320;
#[cfg(not(target_arch = "x86_64"))]
const KEXEC_FILE_LOAD: libc::c_long = 294;

/// The address families that are left: local, IPv4, IPv6, and the one that name lookup asks for
/// this machine's addresses.
const FAMILIES: [libc::c_int; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Refuses, from now on, every call of the list above to this process: all its threads, those to
/// come, and what it forks. For good: no later filter gives a call back.
///
/// Also refused by argument: becoming dumpable again, letting a tracer in (`PR_SET_PTRACER`), a
/// `clone` that makes a process rather than a thread, and sockets outside four address families.
/// `clone3`, whose flags a filter cannot see, answers `ENOSYS`, so that the C library falls back
/// to `clone`.
///
/// Sets no new privileges as well, without which the kernel takes no filter from an ordinary user.
///
/// # Errors
/// [`HardenError::SystemCallFilter`]: the kernel has no filters (`ENOSYS`, `EINVAL`), or a thread
/// has another one already.
pub fn seccomp_filter() -> Result<(), HardenError> {
    let refused = program(refused()?, libc::EPERM)?;
    let absent = program(BTreeMap::from([(libc::SYS_clone3, vec![])]), libc::ENOSYS)?;
    // Both are asked at every call, and the stricter answer counts.
    for program in [absent, without_x32(refused)] {
        apply_filter_all_threads(&program).map_err(|error| failed(error.into()))?;
    }
    Ok(())
}

pub(super) fn failed(error: FilterError) -> HardenError {
    HardenError::SystemCallFilter(match error {
        FilterError::Program(seccompiler::Error::Prctl(error))
        | FilterError::Program(seccompiler::Error::Seccomp(error)) => error,
        FilterError::Program(other) => io::Error::other(other),
        FilterError::Rule(other) => io::Error::other(other),
    })
}

/// What seccompiler says, from its two layers.
pub(super) enum FilterError {
    Program(seccompiler::Error),
    Rule(seccompiler::BackendError),
}

impl From<seccompiler::Error> for FilterError {
    fn from(error: seccompiler::Error) -> Self {
        Self::Program(error)
    }
}

impl From<seccompiler::BackendError> for FilterError {
    fn from(error: seccompiler::BackendError) -> Self {
        Self::Rule(error)
    }
}

pub(super) type Rules = BTreeMap<i64, Vec<SeccompRule>>;

pub(super) fn program(rules: Rules, answer: libc::c_int) -> Result<BpfProgram, HardenError> {
    let make = || -> Result<BpfProgram, FilterError> {
        let here = TargetArch::try_from(std::env::consts::ARCH)?;
        let answer = SeccompAction::Errno(answer.cast_unsigned());
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, here)?;
        Ok(BpfProgram::try_from(filter)?)
    };
    make().map_err(failed)
}

fn refused() -> Result<Rules, HardenError> {
    let all = EVERYBODYS_REFUSED.iter().chain(REFUSED).chain(REFUSED_HERE);
    let mut rules: Rules = all.map(|call| (*call, vec![])).collect();
    let by_argument = || -> Result<[(libc::c_long, Vec<SeccompRule>); 3], FilterError> {
        let is = |at, value: libc::c_int| int(at, SeccompCmpOp::Eq, value);
        let dumpable = vec![
            is(0, libc::PR_SET_DUMPABLE)?,
            // The kernel takes the whole register, so the whole of it is looked at.
            SeccompCondition::new(1, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0)?,
        ];
        let a_thread = libc::CLONE_THREAD.cast_unsigned().into();
        let process = SeccompCmpOp::MaskedEq(a_thread);
        let foreign = FAMILIES.iter().map(|family| int(0, SeccompCmpOp::Ne, *family));
        Ok([
            (
                libc::SYS_prctl,
                vec![
                    SeccompRule::new(dumpable)?,
                    SeccompRule::new(vec![is(0, libc::PR_SET_PTRACER)?])?,
                ],
            ),
            // The flags come first on both architectures.
            (libc::SYS_clone, vec![SeccompRule::new(vec![int(0, process, 0)?])?]),
            (libc::SYS_socket, vec![SeccompRule::new(foreign.collect::<Result<_, _>>()?)?]),
        ])
    };
    for (call, rule) in by_argument().map_err(failed)? {
        rules.insert(call, rule);
    }
    Ok(rules)
}

/// That the bits of `mask` in such an argument are those of `value`.
pub(super) fn masked(
    at: u8,
    mask: libc::c_int,
    value: libc::c_int,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    int(at, SeccompCmpOp::MaskedEq(mask.cast_unsigned().into()), value)
}

/// A condition on an argument that the kernel takes as an `int`: its lower half.
pub(super) fn int(
    at: u8,
    how: SeccompCmpOp,
    value: libc::c_int,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(at, SeccompCmpArgLen::Dword, how, value.cast_unsigned().into())
}

/// The same program, with the x32 numbering refused before it: there the same calls have other
/// numbers, in the same architecture by name.
#[cfg(target_arch = "x86_64")]
pub(super) fn without_x32(program: BpfProgram) -> BpfProgram {
    const X32: u32 = 0x4000_0000;
    let load_number = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let below = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
    let refuse = u32::from(SeccompAction::Errno(libc::EPERM.cast_unsigned()));
    let mut all = vec![
        instruction(load_number, 0, 0, 0),
        instruction(below, 0, 1, X32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, refuse),
    ];
    // Jumps are relative, so what follows is as it was.
    all.extend(program);
    all
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn without_x32(program: BpfProgram) -> BpfProgram {
    program
}

#[cfg(target_arch = "x86_64")]
fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    let code = u16::try_from(code).expect("BPF's operations have 16 bits");
    sock_filter { code, jt, jf, k }
}

/// Two refused calls that change nothing where they are allowed: `kcmp` of this process with
/// itself, and an impossible dumpability, which is `EINVAL` where no filter of ours is. A
/// container's own filter often refuses the first, and never the second.
pub(super) fn probe() -> bool {
    let us = std::process::id();
    let none: libc::c_ulong = 0;
    // SAFETY: KCMP_VM (1) compares two processes by number, and touches no memory of ours.
    let compared = unsafe { libc::syscall(libc::SYS_kcmp, us, us, 1, none, none) };
    let compared = compared < 0 && is_refused();
    let impossible: libc::c_ulong = 7;
    // SAFETY: PR_SET_DUMPABLE takes one integer; 7 is none that it takes.
    let dumpable = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, impossible, none, none, none) };
    compared && dumpable < 0 && is_refused()
}

fn is_refused() -> bool {
    io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_listed_twice_and_every_argument_rule_is_kept() {
        let all = EVERYBODYS_REFUSED.len() + REFUSED.len() + REFUSED_HERE.len();
        assert_eq!(refused().unwrap().len(), all + 3);
    }

    #[test]
    fn the_filter_stays_far_below_the_kernels_limit() {
        let program = without_x32(program(refused().unwrap(), libc::EPERM).unwrap());
        assert!((100..4096 / 2).contains(&program.len()), "{}", program.len());
    }

    #[test]
    fn without_a_filter_the_probe_says_so() {
        assert!(!probe());
    }
}
