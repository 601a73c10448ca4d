//! What the kernel says is in force, as a value: for `doctor`, for the start-up
//! log and for the tests.
//!
//! Must never report what was asked for: each line is read back.
use super::arena::{self, SecretMemoryKind};
use std::fmt;
use std::io;

/// Whether the backend may serve without a mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The backend does not start without it.
    Required,
    /// The backend runs without it, and says so.
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
}

impl Mechanism {
    /// Whether the backend may serve without this mechanism.
    pub fn need(self) -> Need {
        match self {
            Self::NoCoreDumps
            | Self::NotDumpable
            | Self::NoNewPrivileges
            | Self::FileSizeSignalIgnored
            | Self::RestrictedUmask
            | Self::SecretMemory => Need::Required,
            Self::MemfdSecret => Need::BestEffort,
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

    /// The required mechanisms that the kernel did not confirm. The backend
    /// serves only when there are none.
    pub fn missing(&self) -> impl Iterator<Item = &Finding> {
        self.findings
            .iter()
            .filter(|f| f.state != State::InForce && f.mechanism.need() == Need::Required)
    }
}

/// Asks the kernel about every mechanism.
///
/// Sets the secret memory up if nothing has used it yet, since there is nothing
/// to be read back otherwise.
pub fn report() -> Report {
    // No new privileges binds a thread and what it starts: ask about this one.
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
    let text = match status {
        Ok(text) => text,
        Err(e) => return unknown(mechanism, format!("cannot read /proc/thread-self/status: {e}")),
    };
    let value =
        text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).map(str::trim);
    match value {
        Some(value) => finding(mechanism, holds(value), format!("{field} {value}")),
        None => unknown(mechanism, format!("/proc/thread-self/status has no {field}")),
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
