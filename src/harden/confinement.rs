//! Landlock: this process sees the files that it was given, and reaches the ports that it was given.
//!
//! Best effort by nature: many kernels and sandboxes have no Landlock, and each of its ABIs has less
//! than the next. What a kernel lacks is left out and said, never an error.
//!
//! What no ABI up to 8 holds: UDP, connects to Unix sockets by path, and sockets that were open
//! before. Abstract Unix sockets are left alone on purpose: a desktop's message bus, and the
//! keyring behind it, may be one.
//!
//! Must never be called before the daemon's sockets are bound and its files opened.
use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags,
};

use super::process::{HardenError, single_threaded};

/// The rights that are handled: those of the newest ABI that this file was written for.
const KNOWN: ABI = ABI::V9;

/// What a process may still reach. Nothing of it may be executed, and no device node made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confinement {
    /// Files, and folders with all below them, that may be read and listed.
    pub read: Vec<PathBuf>,
    /// Those that may be read, listed, written, made and removed; sockets in them may be bound and
    /// connected to.
    pub write: Vec<PathBuf>,
    /// Unix sockets, or folders of them, that may be connected to (held from ABI 9 on).
    pub sockets: Vec<PathBuf>,
    /// TCP ports of any host that may be connected to (held from ABI 4 on). None may be bound.
    pub connect_ports: Vec<u16>,
}

/// How much of a [`Confinement`] the kernel holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confined {
    /// How far it goes.
    pub extent: Extent,
    /// The kernel's ABI; 0 where it has no Landlock.
    pub abi: u32,
    /// Paths that were left out, since they are not there or may not be reached: they stay shut,
    /// also when they are made later.
    pub skipped: Vec<PathBuf>,
}

/// How far the confinement goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All that this program asks for.
    Full,
    /// The rights that the kernel's ABI knows.
    Partial,
    /// Nothing: the kernel has no Landlock, or it is switched off.
    None,
}

impl fmt::Display for Confined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.extent {
            Extent::Full => write!(f, "Landlock ABI {}, fully enforced", self.abi),
            Extent::Partial => {
                let known = KNOWN as u32;
                write!(f, "Landlock ABI {}, partly enforced: {known} has more", self.abi)
            }
            Extent::None => f.write_str("this kernel has no Landlock"),
        }
    }
}

/// What [`landlock`] achieved, and its proof. There is no way back, so it is set once.
static CONFINED: OnceLock<(Confined, OwnProcess)> = OnceLock::new();

/// Holds `/proc/self` open: the kernel may otherwise forget the entry, and the rule with it, and
/// the report could no longer be read.
type OwnProcess = Option<OwnedFd>;

/// Confines this process, and everything that it starts, to `allowed` and to its own entry in
/// `/proc`, for good; and keeps it from signalling processes outside (from ABI 6 on).
///
/// Paths that do not exist are skipped. Binds the calling thread, so it is called while there is
/// only one. Sets no new privileges as well.
///
/// # Errors
/// [`HardenError::Landlock`]: the kernel has Landlock and refused, as in the seventeenth nested
/// room. [`HardenError::Threads`]. A kernel without Landlock is no error.
pub fn landlock(allowed: &Confinement) -> Result<Confined, HardenError> {
    single_threaded()?;
    let own = open_path(Path::new("/proc/self")).ok();
    let (extent, skipped) =
        restrict(allowed, own.as_ref()).map_err(|e| HardenError::Landlock(Box::new(e)))?;
    let abi = if extent == Extent::None { 0 } else { kernel_abi() };
    let confined = Confined { extent, abi, skipped };
    if extent != Extent::None {
        // A second, tighter room inside the first changes nothing that the report says.
        let _ = CONFINED.set((confined.clone(), own));
    }
    Ok(confined)
}

fn restrict(
    allowed: &Confinement,
    own: Option<&OwnedFd>,
) -> Result<(Extent, Vec<PathBuf>), RulesetError> {
    let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let write = read
        | make_bitflags!(AccessFs::{
            WriteFile | Truncate | Refer | MakeReg | MakeDir | MakeSock | RemoveFile | RemoveDir
                | ResolveUnix
        });
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::Signal)?
        .create()?;
    let mut skipped = Vec::new();
    if let Some(own) = own {
        rules = rules.add_rule(PathBeneath::new(own, read))?;
    }
    let connect = BitFlags::from(AccessFs::ResolveUnix);
    for (paths, access) in
        [(&allowed.read, read), (&allowed.write, write), (&allowed.sockets, connect)]
    {
        for path in paths {
            match open_path(path).and_then(|open| Ok((is_folder(&open)?, open))) {
                // The kernel refuses a folder's rights on a file.
                Ok((false, open)) => {
                    let access = access & AccessFs::from_file(KNOWN);
                    rules = rules.add_rule(PathBeneath::new(open, access))?;
                }
                Ok((true, open)) => rules = rules.add_rule(PathBeneath::new(open, access))?,
                Err(_) => skipped.push(path.clone()),
            }
        }
    }
    for port in &allowed.connect_ports {
        rules = rules.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    let extent = match rules.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => Extent::Full,
        RulesetStatus::PartiallyEnforced => Extent::Partial,
        RulesetStatus::NotEnforced => Extent::None,
    };
    Ok((extent, skipped))
}

/// A descriptor that names a path and opens nothing.
pub(super) fn open_path(path: &Path) -> io::Result<OwnedFd> {
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    Ok(OpenOptions::new().read(true).custom_flags(flags).open(path)?.into())
}

pub(super) fn is_folder(open: &OwnedFd) -> io::Result<bool> {
    Ok(std::fs::File::from(open.as_fd().try_clone_to_owned()?).metadata()?.is_dir())
}

/// The Landlock ABI that the kernel offers; 0 if none.
pub(super) fn kernel_abi() -> u32 {
    const VERSION: libc::c_uint = 1;
    let nothing = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag the call reads no memory, and answers a number.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0, VERSION) };
    u32::try_from(abi).unwrap_or(0)
}

/// What the report needs to know.
pub(super) enum Proof {
    /// Confined, and a folder outside was refused just now.
    Holds(String),
    /// Confined, but the root folder, which stands for the outside, opens: it was allowed.
    Open(String),
    /// Not confined.
    Absent(String),
}

pub(super) fn probe() -> Proof {
    let Some((confined, _)) = CONFINED.get() else {
        return Proof::Absent(match kernel_abi() {
            0 => "this kernel has no Landlock".to_owned(),
            abi => format!("not confined; this kernel has Landlock ABI {abi}"),
        });
    };
    let outside = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open("/");
    match outside {
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
            Proof::Holds(confined.to_string())
        }
        Err(error) => Proof::Open(format!("{confined}; the folder / answers {error}")),
        Ok(_) => Proof::Open(format!("{confined}; the folder / opens")),
    }
}
