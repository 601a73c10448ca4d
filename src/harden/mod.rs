//! The kernel's protections, and the few system calls that std has no safe
//! form of; the only unsafe code of the crate.
//!
//! One function a mechanism, one error variant a system call. Every mechanism
//! says whether a role may run without it ([`Mechanism::need`]), and
//! [`report`] reads each one back from the kernel rather than repeating what
//! was asked for.
//!
//! # The order for the daemon
//!
//! All of it in plain `main`, before a thread, a runtime or a secret exists; some
//! of it binds the calling thread alone, and refuses to be called when there are
//! several.
//!
//! 1. [`fork_helper`]: what is to stay unconfined is forked off first.
//! 2. [`no_core_dumps`], [`not_dumpable`], [`no_new_privileges`],
//!    [`ignore_file_size_signal`], [`restrict_umask`].
//! 3. [`wipe_freed_memory`], before the first secret passes through a buffer.
//! 4. [`secret_memory_kind`]: reserves secret pages while nothing is refused yet.
//! 5. Bind the Unix socket; make and open the folders that are needed.
//! 6. [`landlock()`]: it opens the paths that it allows, so it comes before the
//!    capabilities go; and its calls need no privilege.
//! 7. [`drop_capabilities`].
//! 8. [`seccomp_filter`]: last, since the others need what it refuses.
//! 9. [`report`]; end here if [`Report::missing`] has something for
//!    [`Profile::Daemon`], and log the rest.
//! 10. The runtime, which calls [`wipe_stack`] whenever it has nothing to do; then the secrets.
//!
//! Must never: hold a rule of the vault, read a configuration, or decide to go
//! on after a failure. The caller decides, by the mechanism's [`Need`].
#![allow(unsafe_code)]
#![deny(clippy::undocumented_unsafe_blocks, unsafe_op_in_unsafe_fn)]

mod activation;
mod allocator;
mod arena;
mod capabilities;
mod confinement;
mod daemon;
mod descriptors;
pub mod durability;
mod family;
mod filter;
mod helper;
mod hidden;
mod inspect;
mod pages;
mod pass;
mod process;
mod report;
mod room;
mod signal;
mod socket_owner;
mod spawn;
mod stack;
mod terminal;

pub use activation::{ActivatedSocket, activated_sockets};
pub use allocator::{WipingAllocator, wipe_freed_memory};
pub use arena::{SecretMemoryError, SecretMemoryKind, secret_memory_kind};
pub use capabilities::drop_capabilities;
pub use confinement::{Confined, Confinement, Extent, landlock};
pub use daemon::{Group, spawn_daemon};
pub use descriptors::{DescriptorLimit, raise_descriptor_limit};
pub use family::{adopt_orphans, die_with_parent, end_descendants};
pub use filter::seccomp_filter;
pub use helper::fork_helper;
pub use hidden::{Hidden, Hideable};
pub use inspect::{
    duplicate_descriptor, effective_uid, exe_of, open_past_the_cache, open_without_following,
    process_start_time, real_uid, trace,
};
pub use pages::forget_code_pages;
pub use pass::{receive_with, send_with};
pub use process::{
    HardenError, ignore_file_size_signal, no_core_dumps, no_new_privileges, not_dumpable,
    restrict_umask,
};
pub use report::{Finding, Mechanism, Need, Profile, Report, State, report};
pub use room::{ClosedRoom, Room};
pub use signal::ProcessHandle;
pub use socket_owner::tcp_socket_owner;
pub use spawn::spawn_detached;
pub use stack::wipe_stack;
pub use terminal::{PeerProcess, TerminalSession, own_terminal_session};
