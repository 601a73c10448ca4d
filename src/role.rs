//! Which role this process plays, from `argv[0]` and the first argument, and what becomes of it.
//! The one place that knows all roles, and the only one where the process ends.
//!
//! `argv[0]` is the caller's choice, so it never grants a right.
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::ExitCode;

use crate::cli::args::{unknown_command, wants_json};
use crate::cli::machine::ThisMachine;
use crate::cli::output::Output;
use crate::cli::report::{CliError, render};
use crate::cli::run::not_started;
use crate::cli::serve::Serve;
use crate::cli::{self, Finish, Invocation};
use crate::core::problem::{Code, Problem};

/// What this process is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// A person's commands.
    Cli,
    /// The server.
    Backend,
}

/// A first argument that names no role and no command.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the first argument names no command")]
pub struct UnknownFirst;

/// Names of the program that stand for a role by themselves.
const NAMES: &[(&str, Role)] = &[("agentkeys", Role::Cli)];

/// The role that `argv[0]` and the first argument name, by exact match. A program name that is
/// not known, such as that of a renamed copy, is as good as `agentkeys`.
///
/// # Errors
/// The first argument names neither a role nor a command.
pub fn role_of(name: Option<&OsStr>, first: Option<&OsStr>) -> Result<Role, UnknownFirst> {
    let file = name.and_then(|name| Path::new(name).file_name());
    let by_name = NAMES.iter().find(|(known, _)| file == Some(OsStr::new(known)));
    let role = by_name.map_or(Role::Cli, |(_, role)| *role);
    match first {
        None => Ok(role),
        // Options come before the command.
        Some(first) if first.as_encoded_bytes().starts_with(b"-") => Ok(role),
        Some(first) if first == "serve" => Ok(Role::Backend),
        Some(first) if cli::first_words().iter().any(|word| first == *word) => Ok(Role::Cli),
        Some(_) => Err(UnknownFirst),
    }
}

/// Runs the role that the arguments name and returns its exit code.
pub fn run(argv: Vec<OsString>) -> ExitCode {
    let mut argv = argv.into_iter();
    let name = argv.next();
    let args: Vec<OsString> = argv.collect();
    let json = wants_json(&args);
    let ended = match role_of(name.as_deref(), args.first().map(OsString::as_os_str)) {
        Err(UnknownFirst) => {
            let first = args.first().map(|first| first.to_string_lossy()).unwrap_or_default();
            Err(unknown_command(&first, cli::first_words()).into())
        }
        Ok(Role::Cli | Role::Backend) => Invocation::read(args).map_err(CliError::from).and_then(play),
    };
    report(json, ended)
}

/// Plays the role of a line that was understood. `--verbose serve` is the backend too, which is
/// known only now.
fn play(invocation: Invocation) -> Result<u8, CliError> {
    match invocation.as_serve().transpose()? {
        Some(request) if !request.stop => serve(request).map(|()| 0),
        _ => command(invocation),
    }
}

fn no_runtime(error: std::io::Error) -> CliError {
    let fix = "see whether the system is out of file descriptors or threads";
    Problem::new(Code::Internal, "the program could not start", error.to_string(), fix).into()
}

/// A person's command.
fn command(invocation: Invocation) -> Result<u8, CliError> {
    // Until this process becomes another program, no other one of the same user looks into it.
    crate::harden::not_dumpable().map_err(|error| {
        let fix = "see what in this machine's set-up forbids it";
        Problem::new(Code::Internal, "the program could not protect itself", error.to_string(), fix)
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(no_runtime)?;
    let finish = runtime.block_on(cli::run(invocation, &ThisMachine));
    // Before exec: nothing of ours is to run on while the other program begins.
    drop(runtime);
    match finish? {
        Finish::Done => Ok(0),
        Finish::Unwell => Ok(1),
        Finish::Exec(mut command) => {
            let error = command.exec();
            Err(not_started(command.get_program(), &error))
        }
    }
}

/// The backend, until it is told to stop.
fn serve(_request: Serve) -> Result<(), CliError> {
    Err(Problem::internal().into())
}

/// Tells what went wrong, if anything did, and gives the exit code.
fn report(json: bool, ended: Result<u8, CliError>) -> ExitCode {
    let error = match ended {
        Ok(code) => return ExitCode::from(code),
        Err(error) => error,
    };
    if let Some(problem) = error.problem() {
        let out = Output::new(json);
        if json {
            // If that fails too, the exit code is all that is left to tell.
            let _ = out.object(problem);
        } else {
            out.say(render(problem, out.colour_err).trim_end());
        }
    }
    ExitCode::from(error.exit_code())
}
