//! The rights of root, given up one by one: what a process may do beyond its user's files.
//!
//! Must never keep one: there is no list of wanted capabilities.
use std::io;

use super::process::{HardenError, check, single_threaded};

/// `capset`'s third version: two words of 32 capabilities each.
const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    /// 0 is this thread.
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Words {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Empties the effective, permitted, inheritable and ambient capabilities, and, where this process
/// may, the bounding set, so that nothing it could ever execute gets one back. Works for root and
/// for an ordinary user, who has none to begin with.
///
/// Root without capabilities is an ordinary user who owns root's files: it reads and writes what
/// user 0 owns, and nothing else.
///
/// The kernel keeps capabilities by thread, so this is called while there is one.
///
/// # Errors
/// [`HardenError::Capabilities`], [`HardenError::Threads`].
pub fn drop_capabilities() -> Result<(), HardenError> {
    single_threaded()?;
    give_up_all().map_err(HardenError::Capabilities)
}

/// The same for the calling thread, which is the only one in a child between fork and exec:
/// async-signal-safe.
pub(super) fn give_up_all() -> io::Result<()> {
    drop_bounding_set();
    let (clear, none) = (libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0 as libc::c_ulong);
    // SAFETY: PR_CAP_AMBIENT takes integers and touches no memory of ours. Kernels that have no
    // ambient set (before 4.3) answer EINVAL; the others empty it with the permitted set below too.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, clear, none, none, none) };
    let header = Header { version: VERSION_3, pid: 0 };
    let empty = [Words { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: `header` and both words are as capset(2) has them, and outlive the call.
    let returned = unsafe { libc::syscall(libc::SYS_capset, &raw const header, empty.as_ptr()) };
    check(if returned < 0 { -1 } else { 0 })
}

/// Needs CAP_SETPCAP, which an ordinary user has not: what stays in the set there is no right, only
/// what a setuid program could bring, and no new privileges shuts that door.
fn drop_bounding_set() {
    let none: libc::c_ulong = 0;
    for capability in 0..64 as libc::c_ulong {
        // SAFETY: both take integers and touch no memory of ours; past the last one is EINVAL.
        let left = unsafe {
            match libc::prctl(libc::PR_CAPBSET_READ, capability, none, none, none) {
                1 => libc::prctl(libc::PR_CAPBSET_DROP, capability, none, none, none),
                known => known,
            }
        };
        if left < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) {
            return;
        }
    }
}
