//! The kernel's protections, and the few system calls that std has no safe
//! form of; the only unsafe code of the crate.
//!
//! One function a mechanism, one error variant a system call. Every mechanism
//! says whether the backend may run without it ([`Mechanism::need`]), and
//! [`report`] reads each one back from the kernel rather than repeating what
//! was asked for.
//!
//! Must never: hold a rule of the vault, read a configuration, or decide to go
//! on after a failure. The caller decides, by the mechanism's [`Need`].
#![allow(unsafe_code)]
#![deny(clippy::undocumented_unsafe_blocks, unsafe_op_in_unsafe_fn)]

mod arena;
mod daemon;
pub mod durability;
mod hidden;
mod inspect;
mod process;
mod report;
mod signal;
mod spawn;

pub use arena::{SecretMemoryError, SecretMemoryKind, secret_memory_kind};
pub use daemon::{Group, spawn_daemon};
pub use hidden::{Hidden, Hideable};
pub use inspect::{
    duplicate_descriptor, effective_uid, exe_of, open_without_following, process_start_time,
    real_uid,
};
pub use process::{
    HardenError, ignore_file_size_signal, no_core_dumps, no_new_privileges, not_dumpable,
    restrict_umask,
};
pub use report::{Finding, Mechanism, Need, Report, State, report};
pub use signal::ProcessHandle;
pub use spawn::spawn_detached;
