//! Dispatch, nothing else: `argv[0]` and the first argument name the role.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    agentkeys::role::run(std::env::args_os().collect())
}
