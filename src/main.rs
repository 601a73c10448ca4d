//! Dispatch, nothing else: `argv[0]` and the first argument name the role.
#![forbid(unsafe_code)]

/// Requests make and drop many small things on several threads, which glibc's does slowly.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    agentkeys::role::run(std::env::args_os().collect())
}
