//! What the kernel says is in force, as a value: for `doctor`, for the start-up
//! log and for the tests.
//!
//! Must never report what was asked for: each line is read back.
use super::arena::{self, SecretMemoryKind};
use super::confinement::{self, Proof};
use super::{allocator, filter};
use std::fmt;
use std::io;

/// The roles that live long and keep secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// The server: its users' files, its sockets, a store.
    Backend,
    /// The agent's session keeper: started by a stranger, in a sandbox, for one session.
    Daemon,
}

/// Whether a role may run without a mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The role does not start without it.
    Required,
    /// The role runs without it, and says so.
    BestEffort,
}

/// A protection that the kernel offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// No core file is ever written (`RLIMIT_CORE` 0, soft and hard).
    NoCoreDumps,
    /// Closed to other processes of the same user (`PR_SET_DUMPABLE` 0).
    NotDumpable,
    /// No `execve` brings privileges (`PR_SET_NO_NEW_PRIVS`).
    NoNewPrivileges,
    /// Writing past `RLIMIT_FSIZE` is an error, not a death (`SIGXFSZ` ignored).
    FileSizeSignalIgnored,
    /// New files are the user's alone (umask 077).
    RestrictedUmask,
    /// Keys lie in memory that is never swapped, dumped or inherited.
    SecretMemory,
    /// That memory is also out of the kernel's own address space.
    MemfdSecret,
    /// Freed memory is zeroed before it is used again.
    WipedMemory,
    /// No capability is left, not even root's.
    EmptyCapabilities,
    /// Calls that only an intruder wants are refused (seccomp).
    SystemCallFilter,
    /// Only the files and ports that were given can be reached.
    Landlock,
}

impl Mechanism {
    /// Whether a role may run without this mechanism; `None` if the role does not use it.
    ///
    /// What every Linux that runs this program has, and every process may ask for without a
    /// privilege, is required: a surrounding that refuses it refuses that a process gives rights
    /// up, and is not one to keep a secret in. That includes seccomp (Linux 3.17, and gVisor). What
    /// kernels and sandboxes lack for honest reasons is best effort: memfd_secret and Landlock.
    pub fn need(self, profile: Profile) -> Option<Need> {
        use Need::{BestEffort, Required};
        match (self, profile) {
            (
                Self::NoCoreDumps
                | Self::NotDumpable
                | Self::NoNewPrivileges
                | Self::FileSizeSignalIgnored
                | Self::RestrictedUmask
                | Self::SecretMemory,
                _,
            ) => Some(Required),
            (Self::MemfdSecret, _) => Some(BestEffort),
            (
                Self::WipedMemory | Self::EmptyCapabilities | Self::SystemCallFilter,
                Profile::Daemon,
            ) => Some(Required),
            (Self::Landlock, Profile::Daemon) => Some(BestEffort),
            (
                Self::WipedMemory
                | Self::EmptyCapabilities
                | Self::SystemCallFilter
                | Self::Landlock,
                Profile::Backend,
            ) => None,
        }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoCoreDumps => "no core dumps",
            Self::NotDumpable => "not dumpable",
            Self::NoNewPrivileges => "no new privileges",
            Self::FileSizeSignalIgnored => "file size signal ignored",
            Self::RestrictedUmask => "restricted umask",
            Self::SecretMemory => "secret memory",
            Self::MemfdSecret => "memfd_secret",
            Self::WipedMemory => "wiped memory",
            Self::EmptyCapabilities => "no capabilities",
            Self::SystemCallFilter => "system call filter",
            Self::Landlock => "Landlock",
        })
    }
}

/// What the kernel answered about a mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It protects this process now.
    InForce,
    /// It does not.
    Absent,
    /// The kernel could not be asked; treat it as absent.
    Unknown,
}

/// One mechanism, what the kernel says of it, and the value that it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which mechanism.
    pub mechanism: Mechanism,
    /// Whether it is in force.
    pub state: State,
    /// What was read, such as `umask 0077`.
    pub detail: String,
}

/// The state of every mechanism, in a fixed order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    findings: Vec<Finding>,
}

impl Report {
    /// One finding for each mechanism, in a fixed order.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Whether the kernel confirmed `mechanism`.
    pub fn in_force(&self, mechanism: Mechanism) -> bool {
        self.findings.iter().any(|f| f.mechanism == mechanism && f.state == State::InForce)
    }

    /// The mechanisms that a role uses, in the same order, each with whether the role needs it.
    pub fn of(&self, profile: Profile) -> impl Iterator<Item = (&Finding, Need)> {
        self.findings.iter().filter_map(move |f| Some((f, f.mechanism.need(profile)?)))
    }

    /// The mechanisms that a role requires and the kernel did not confirm. The
    /// role runs only when there are none.
    pub fn missing(&self, profile: Profile) -> impl Iterator<Item = &Finding> {
        self.of(profile)
            .filter(|(f, need)| f.state != State::InForce && *need == Need::Required)
            .map(|(f, _)| f)
    }
}

/// Asks the kernel about every mechanism.
///
/// Sets the secret memory up if nothing has used it yet, since there is nothing
/// to be read back otherwise.
pub fn report() -> Report {
    // Most of it binds a thread and what it starts: ask about this one.
    let status = std::fs::read_to_string("/proc/thread-self/status");
    let status = status.as_deref().map_err(|e| e.to_string());
    let mut findings = vec![
        core_limit(),
        dumpable(),
        from_status(Mechanism::NoNewPrivileges, &status, "NoNewPrivs", |v| v == "1"),
        from_status(Mechanism::FileSizeSignalIgnored, &status, "SigIgn", |v| {
            // Bit n-1 stands for signal n.
            u64::from_str_radix(v, 16).is_ok_and(|mask| mask >> (libc::SIGXFSZ - 1) & 1 == 1)
        }),
        from_status(Mechanism::RestrictedUmask, &status, "Umask", |v| {
            u32::from_str_radix(v, 8).is_ok_and(|mask| mask & 0o077 == 0o077)
        }),
    ];
    findings.extend(secret_memory());
    findings.push(wiped_memory());
    findings.push(capabilities(&status));
    findings.push(system_call_filter(&status));
    findings.push(landlock());
    Report { findings }
}

fn finding(mechanism: Mechanism, in_force: bool, detail: String) -> Finding {
    let state = if in_force { State::InForce } else { State::Absent };
    Finding { mechanism, state, detail }
}

fn unknown(mechanism: Mechanism, detail: String) -> Finding {
    Finding { mechanism, state: State::Unknown, detail }
}

/// Reads one field of `/proc/thread-self/status`.
fn from_status(
    mechanism: Mechanism,
    status: &Result<&str, String>,
    field: &str,
    holds: impl Fn(&str) -> bool,
) -> Finding {
    match value_of(status, field) {
        Ok(value) => finding(mechanism, holds(value), format!("{field} {value}")),
        Err(why) => unknown(mechanism, why),
    }
}

fn value_of<'a>(status: &Result<&'a str, String>, field: &str) -> Result<&'a str, String> {
    let text = match status {
        Ok(text) => text,
        Err(e) => return Err(format!("cannot read /proc/thread-self/status: {e}")),
    };
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.map(str::trim).ok_or_else(|| format!("/proc/thread-self/status has no {field}"))
}

fn capabilities(status: &Result<&str, String>) -> Finding {
    let mechanism = Mechanism::EmptyCapabilities;
    let mut details = Vec::new();
    let mut empty = true;
    // The bounding set is no right: it is told, and an ordinary user's stays full.
    for (field, counts) in
        [("CapEff", true), ("CapPrm", true), ("CapInh", true), ("CapAmb", true), ("CapBnd", false)]
    {
        match value_of(status, field) {
            Ok(value) => {
                empty &= !counts || u64::from_str_radix(value, 16) == Ok(0);
                details.push(format!("{field} {value}"));
            }
            // Before Linux 4.3 there was no ambient set.
            Err(_) if field == "CapAmb" => {}
            Err(why) => return unknown(mechanism, why),
        }
    }
    finding(mechanism, empty, details.join(", "))
}

fn system_call_filter(status: &Result<&str, String>) -> Finding {
    let mechanism = Mechanism::SystemCallFilter;
    let value = match value_of(status, "Seccomp") {
        Ok(value) => value,
        Err(why) => return unknown(mechanism, why),
    };
    // A container's filter shows in the status as well, so ask for what ours alone refuses.
    let refuses = filter::probe();
    let says = if refuses { "refuses what it should" } else { "not this program's filter" };
    let says = if value == "0" { "no filter" } else { says };
    finding(mechanism, value == "2" && refuses, format!("Seccomp {value}, {says}"))
}

fn landlock() -> Finding {
    let mechanism = Mechanism::Landlock;
    match confinement::probe() {
        Proof::Holds(detail) => finding(mechanism, true, detail),
        Proof::Open(detail) => unknown(mechanism, detail),
        Proof::Absent(detail) => finding(mechanism, false, detail),
    }
}

fn wiped_memory() -> Finding {
    let mechanism = Mechanism::WipedMemory;
    match allocator::probe() {
        Ok(true) => finding(mechanism, true, "a freed block reads as zeros".to_owned()),
        Ok(false) => finding(mechanism, false, "a freed block keeps its content".to_owned()),
        Err(e) => unknown(mechanism, format!("cannot see freed memory: {e}")),
    }
}

fn core_limit() -> Finding {
    let mut limit = libc::rlimit { rlim_cur: 1, rlim_max: 1 };
    // SAFETY: `limit` is a valid rlimit that the kernel fills before the call returns.
    if unsafe { libc::getrlimit(libc::RLIMIT_CORE, &mut limit) } != 0 {
        return unknown(Mechanism::NoCoreDumps, io::Error::last_os_error().to_string());
    }
    let none = limit.rlim_cur == 0 && limit.rlim_max == 0;
    let detail = format!("core file limit {} bytes, at most {}", limit.rlim_cur, limit.rlim_max);
    finding(Mechanism::NoCoreDumps, none, detail)
}

fn dumpable() -> Finding {
    // SAFETY: PR_GET_DUMPABLE takes no argument and touches no memory of ours.
    let value = unsafe { libc::prctl(libc::PR_GET_DUMPABLE) };
    if value < 0 {
        return unknown(Mechanism::NotDumpable, io::Error::last_os_error().to_string());
    }
    finding(Mechanism::NotDumpable, value == 0, format!("dumpable {value}"))
}

fn secret_memory() -> [Finding; 2] {
    let (memory, secret) = (Mechanism::SecretMemory, Mechanism::MemfdSecret);
    match arena::read_back() {
        Ok((kind, flags)) => [
            finding(
                memory,
                // locked, not dumped, not copied to a child
                ["lo", "dd", "dc"].iter().all(|f| flags.split(' ').any(|g| g == *f)),
                format!("{kind}, flags {flags}"),
            ),
            finding(secret, kind == SecretMemoryKind::MemfdSecret, kind.to_string()),
        ],
        Err(e) => [unknown(memory, e.to_string()), unknown(secret, e.to_string())],
    }
}
