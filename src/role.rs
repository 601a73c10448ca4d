//! Which role this process plays, from `argv[0]` and the first argument, and what becomes of it.
//! The one place that knows all roles, and the only one where the process ends.
//!
//! `argv[0]` is the caller's choice, so it never grants a right.
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::ExitCode;

use crate::backend::custody::{self, CustodyChoice};
use crate::backend::gateway::Own;
use crate::backend::http::{BindError, GivenSocket, ListenAddress};
use crate::backend::judge::IssuerOffer;
use crate::backend::oidc::OpenIdSettings;
use crate::backend::serve::{self, ServeError, ServeOptions, TlsChoice};
use crate::backend::tls::CertificateFiles;
use crate::cli::args::{Global, unknown_command, wants_json};
use crate::cli::daemon::Daemon;
use crate::cli::machine::ThisMachine;
use crate::cli::output::Output;
use crate::cli::probe;
use crate::cli::report::{CliError, render, usage};
use crate::cli::run::not_started;
use crate::cli::serve::{LogFormat, Serve, ServeOpenId, Tls};
use crate::cli::{self, Finish, Invocation};
use crate::client::places::Places;
use crate::core::identity::ServiceName;
use crate::core::problem::{Code, Problem};
use crate::core::types::Malformed;
use crate::daemon;
use crate::provisioner;
use crate::web::Url;

/// Most bytes of a file with a client secret that are read.
const MAX_CLIENT_SECRET: u64 = 1024;

/// What this process is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// A person's commands.
    Cli,
    /// The server.
    Backend,
    /// What holds an agent's session.
    Daemon,
}

/// A first argument that names no role and no command.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the first argument names no command")]
pub struct UnknownFirst;

/// Names of the program that stand for a role by themselves.
const NAMES: &[(&str, Role)] =
    &[("agentkeys", Role::Cli), ("agentkeysd", Role::Daemon), ("agentkeys-daemon", Role::Daemon)];

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
        // By that name the arguments are the daemon's, all of them.
        _ if role == Role::Daemon => Ok(role),
        None => Ok(role),
        // Options come before the command.
        Some(first) if first.as_encoded_bytes().starts_with(b"-") => Ok(role),
        Some(first) if first == "serve" => Ok(Role::Backend),
        Some(first) if first == "daemon" => Ok(Role::Daemon),
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
    if let Some(service) = supervised(&args) {
        return report(json, supervise(service));
    }
    if matches!(args.as_slice(), [first, second] if first == "doctor" && second == probe::WORD) {
        return report(json, probe::run().map_err(CliError::from));
    }
    let ended = match role_of(name.as_deref(), args.first().map(OsString::as_os_str)) {
        Err(UnknownFirst) => {
            let first = args.first().map(|first| first.to_string_lossy()).unwrap_or_default();
            Err(unknown_command(&first, cli::first_words()).into())
        }
        Ok(role) => {
            let mut args = args;
            if role == Role::Daemon && args.first().is_none_or(|first| first != "daemon") {
                args.insert(0, "daemon".into());
            }
            Invocation::read(args).map_err(CliError::from).and_then(play)
        }
    };
    report(json, ended)
}

/// The service of `provisioner run SERVICE`: how a daemon's helper starts what watches over a
/// recipe. It is no command of a person's, so no help has it.
fn supervised(args: &[OsString]) -> Option<&OsStr> {
    match args {
        [first, second, service] if first == "provisioner" && second == "run" => Some(service),
        _ => None,
    }
}

fn supervise(service: &OsStr) -> Result<u8, CliError> {
    crate::harden::no_core_dumps()
        .and_then(|()| crate::harden::not_dumpable())
        .map_err(unprotected)?;
    let service = service.to_str().and_then(|text| text.parse().ok());
    let service = service.ok_or_else(|| Problem::invalid("service", "it is no service's name"))?;
    Ok(provisioner::supervise(&service)?)
}

fn unprotected(error: crate::harden::HardenError) -> Problem {
    let fix = "see what in this machine's set-up forbids it";
    Problem::new(Code::Internal, "the program could not protect itself", error.to_string(), fix)
}

/// Plays the role of a line that was understood. `--verbose serve` is the backend too, which is
/// known only now.
fn play(invocation: Invocation) -> Result<u8, CliError> {
    match invocation.as_serve().transpose()? {
        Some(request) if !request.stop => return serve(request).map(|()| 0),
        _ => {}
    }
    match invocation.as_daemon().transpose()? {
        Some(request) => daemon(request, invocation.global),
        None => command(invocation),
    }
}

fn no_runtime(error: std::io::Error) -> CliError {
    let fix = "see whether the system is out of file descriptors or threads";
    Problem::new(Code::Internal, "the program could not start", error.to_string(), fix).into()
}

/// A person's command.
fn command(invocation: Invocation) -> Result<u8, CliError> {
    // Until this process becomes another program, no other one of the same user looks into it.
    crate::harden::wipe_freed_memory();
    crate::harden::not_dumpable().map_err(unprotected)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(no_runtime)?;
    let finish = runtime.block_on(cli::run(invocation, &ThisMachine));
    // Before exec: nothing of ours is to run on while the other program begins.
    drop(runtime);
    match finish? {
        Finish::Done => Ok(0),
        Finish::Unwell => Ok(1),
        Finish::Ended(code) => Ok(code),
        Finish::Exec(mut command) => {
            let error = command.exec();
            Err(not_started(command.get_program(), &error))
        }
    }
}

/// The backend, until it is told to stop.
fn serve(request: Serve) -> Result<(), CliError> {
    if request.listen.is_empty() {
        return Err(usage(
            "serve wants --listen",
            "a private backend starts by itself; one that is started by hand is told where to be",
            "agentkeys serve --listen 127.0.0.1:8080 --data FOLDER",
        )
        .into());
    }
    let has_certificate = request.tls.is_some();
    let (systemd, addresses): (Vec<_>, Vec<_>) =
        request.listen.iter().partition(|place| place.as_str() == "systemd");
    let listen: Vec<ListenAddress> = addresses
        .into_iter()
        .map(|address| ListenAddress::read(address, has_certificate))
        .collect::<Result<_, _>>()
        .map_err(|wrong| Problem::invalid("--listen", wrong.to_string()))?;
    let tls = request.tls.map(|tls| match tls {
        Tls::Files { certificate, key } => TlsChoice::Files(CertificateFiles { certificate, key }),
        Tls::SelfSigned => TlsChoice::SelfSigned,
    });
    let data = match request.data {
        Some(data) => data,
        // Test identities never come near a folder with keys in it.
        None if request.dev => Places::from_environment()?.data().with_file_name("agentkeys-dev"),
        None => {
            return Err(usage(
                "serve wants --data",
                "the folder that it keeps everything in",
                "agentkeys serve --listen 127.0.0.1:8080 --data FOLDER",
            )
            .into());
        }
    };
    let root_key = match request.root_key.as_deref() {
        None => CustodyChoice::Auto,
        Some(text) => text.parse().map_err(|wrong: custody::CustodyError| {
            Problem::invalid("--root-key", wrong.to_string())
        })?,
    };
    let log = match request.log_format {
        LogFormat::Text => serve::LogFormat::Text,
        LogFormat::Json => serve::LogFormat::Json,
    };
    let (dev, passphrase_fd) = (request.dev, request.passphrase_fd);
    let openid = request.openid.map(openid).transpose()?;
    let provider_urls = request
        .provider_urls
        .iter()
        .map(|url| url.parse::<Url>())
        .collect::<Result<_, _>>()
        .map_err(|wrong| Problem::invalid("--provider-url", wrong.to_string()))?;
    let services = request.services.iter().map(|(name, url)| service_at(name, url));
    let services = services.collect::<Result<_, Problem>>()?;
    // Last, so that a line with a mistake leaves them alone.
    let given = match systemd.as_slice() {
        [] => Vec::new(),
        _ => GivenSocket::all(has_certificate).map_err(|error| not_serving(&error.into()))?,
    };
    let options = ServeOptions {
        listen,
        given,
        tls,
        data,
        dev,
        root_key,
        passphrase_fd,
        openid,
        provider_urls,
        services,
        log,
    };
    serve::serve(options).map_err(|error| not_serving(&error).into())
}

/// A service, where the gateway finds it, and how its key travels.
fn service_at(name: &str, place: &str) -> Result<(ServiceName, Own), Problem> {
    let own = Own::parse(place).map_err(|wrong| Problem::invalid("--service", wrong))?;
    Ok((name.parse()?, own))
}

/// By whom people sign in, once every value is one.
fn openid(asked: ServeOpenId) -> Result<OpenIdSettings, Problem> {
    let ServeOpenId { issuer, client_id, client_secret_file, allow } = asked;
    let client_secret = client_secret_file.map(|file| {
        let read = std::fs::File::open(file).and_then(|file| {
            let mut text = String::new();
            file.take(MAX_CLIENT_SECRET).read_to_string(&mut text).map(|_| text)
        });
        let wrong = |error: std::io::Error| {
            Problem::invalid("--oidc-client-secret-file", format!("it cannot be read: {error}"))
        };
        read.map(|text| text.trim_end().to_owned()).map_err(wrong)
    });
    let client_secret = client_secret.transpose()?;
    let allow = allow.iter().map(|entry| entry.parse()).collect::<Result<_, Malformed>>()?;
    let offer = IssuerOffer { issuer, client_id, client_secret };
    Ok(OpenIdSettings::new(offer, allow)?)
}

/// An agent's daemon, until its client is gone or it is told to stop.
fn daemon(request: Daemon, global: Global) -> Result<u8, CliError> {
    let Daemon { stdio, agent, scope, recover, account, socket, rotate } = request;
    let Global { json: _, verbose, backend } = global;
    let options =
        daemon::Options { stdio, agent, scope, recover, account, socket, rotate, backend, verbose };
    Ok(daemon::run(options)?)
}

/// Whether somewhere below it the system said that this user may not.
fn refused_by_the_system(error: &ServeError) -> bool {
    let denied = |error: &std::io::Error| error.kind() == std::io::ErrorKind::PermissionDenied;
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        if error.downcast_ref::<std::io::Error>().is_some_and(denied) {
            return true;
        }
        next = error.source();
    }
    false
}

/// What the log has said already, for the person who started the backend by hand.
fn not_serving(error: &ServeError) -> Problem {
    let fix = match error {
        error if refused_by_the_system(error) => {
            "choose a port above 1023 and a folder of this user's own, or let a service manager \
             give it both: a user who is not root gets no port below 1024"
        }
        ServeError::Bind(
            BindError::NoneGiven
            | BindError::NotGiven(_)
            | BindError::Given(_)
            | BindError::GivenAddress(_),
        ) => {
            "start it from a unit with a .socket beside it, as in packaging/systemd, or name the \
             address here: --listen ADDRESS:PORT"
        }
        ServeError::Bind(_) => "choose another --listen, or end what listens there",
        ServeError::DevBeyondLoopback(_) => "listen on 127.0.0.1, or leave --dev out",
        ServeError::Certificate(_) => {
            "give --tls-cert a PEM file with the certificate and its chain, and --tls-key one with \
             its key that only this user can read (chmod 600); or use --tls-self-signed"
        }
        ServeError::Custody(_) => "give the --root-key that this data folder was made with",
        ServeError::Store(_) | ServeError::Vault(_) => {
            "see that --data is this user's alone, and that no other backend uses it"
        }
        _ => "see the log above; agentkeys doctor says how this machine stands",
    };
    let mut cause = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(inner) = next {
        let text = inner.to_string();
        if !cause.contains(&text) {
            cause.push_str(": ");
            cause.push_str(&text);
        }
        next = inner.source();
    }
    let mut problem = Problem::new(Code::Internal, "the backend does not run", cause, fix);
    problem.docs = "docs/errors.md#serve".to_owned();
    problem
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
            let _ = out.object(&error.document());
        } else {
            out.say(render(problem, out.colour_err).trim_end());
        }
    }
    ExitCode::from(error.exit_code())
}
