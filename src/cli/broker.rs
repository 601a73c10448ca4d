//! `agentkeys run --broker` and `--proxy`: the program uses keys that it never gets. It is given
//! stand-ins, and addresses on loopback, or a proxy there, where this process hands its requests to
//! the backend's gateway. This process stays beside the program, passes signals on, and ends as it
//! did.
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use zeroize::Zeroizing;

use super::Finish;
use super::agents::{choose, label};
use super::clock::now;
use super::context::Context;
use super::env_file::Value;
use super::proxied;
use super::report::{CliError, shown, usage};
use super::room;
use super::run::{Run, names_of, not_started, read_env_file, settable};
use super::source;
use crate::client::places::Places;
use crate::client::relay::{Brokered, Proxy, Relay};
use crate::core::backend::RevokeTarget;
use crate::core::catalog::{bases_for, variable_for};
use crate::core::gateway::ServicePlace;
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::problem::{Code, Problem};
use crate::core::scope::Scope;
use crate::core::terms::Exposure;
use crate::harden::{self, ProcessHandle};

/// Variables that name hosts which no proxy is asked for; both spellings are read.
pub const NO_PROXY: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// What the program's variables are to hold.
struct Plan {
    services: Vec<Brokered>,
    /// Variable and service, for the stand-ins.
    names: Vec<(String, ServiceName)>,
    literals: BTreeMap<String, Zeroizing<String>>,
}

/// Runs the program, and ends as it does.
///
/// # Errors
/// Those of the backend, and of starting the program.
pub async fn run(
    context: &Context<'_>,
    asked: Run,
    mut command: Command,
) -> Result<Finish, CliError> {
    if source::daemon(context, None, asked.agent.as_ref()).await?.is_some() {
        return Err(usage(
            "run --broker asks a backend, and here a daemon is asked",
            "a daemon does not hand requests on yet",
            "agentkeys run without --broker, or name the backend: --backend ADDRESS",
        )
        .into());
    }
    let agent = choose(context, asked.agent.clone()).await?;
    let open = context.open().await?;
    let agents = open.backend.list_agents(open.token).await?;
    let held = open.backend.list_credentials(open.token, &agent).await?;
    let held: Vec<ServiceName> = held.into_iter().map(|one| one.service).collect();
    let (room, proxy) = (asked.sandbox.clone(), asked.proxy);
    let gateway = context.link().await?.gateway();
    let known = gateway.gateway_places(open.token, &agent).await?;
    let plan = plan(context, asked, &held, known).await?;
    if plan.services.is_empty() {
        context.out.warn(&format!("{agent} has no keys; the program runs without any"));
    }

    // Two for each request of the program's at once; the program itself keeps its own limit.
    if let Ok(before) = harden::raise_descriptor_limit() {
        before.around(&mut command);
    }
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(no_listener)?;
    let port = listener.local_addr().map_err(no_listener)?.port();
    for (name, value) in &plan.literals {
        command.env(name, value.as_str());
    }
    for (name, service) in &plan.names {
        let found = plan.services.iter().find(|one| one.service == *service);
        let found = &found.ok_or_else(Problem::internal)?.placeholder;
        let parts = found.parts(service);
        if parts.is_empty() || *name != variable_for(service) {
            command.env(name, found.text());
            continue;
        }
        for (variable, value) in parts {
            // What somebody had set there is another key's.
            match value {
                Some(value) => command.env(variable, value),
                None => command.env_remove(variable),
            };
        }
    }
    for one in &plan.services {
        for (variable, path) in bases_for(&one.service) {
            command.env(variable, format!("http://127.0.0.1:{port}/{}{path}", one.service));
        }
    }
    let in_room = room.is_some();
    // In the room nothing but the gateway is reached, so the proxy leads nowhere else either.
    let proxy = proxy.map(|strict| Proxy::new(&plan.services, strict || in_room, now()));
    let proxy = proxy.transpose()?;
    // The lists of certificates go when the program has ended.
    let certificates = match &proxy {
        None => {
            past_proxies(&mut command);
            None
        }
        Some(proxy) => Some(proxied::have(&mut command, proxy, port, context.out)?),
    };
    // What is made for the room goes when the program has ended.
    let _room = match room {
        None => None,
        Some(mut allowed) => {
            allowed.extend(certificates.iter().map(|folder| folder.path().to_owned()));
            let places = Places::from_environment()?;
            Some(room::prepare(&places, &allowed, port)?.around(&mut command)?)
        }
    };

    // A session of the run's own, which reads nothing but what the run uses, and ends with it.
    let services: BTreeSet<_> = plan.services.iter().map(|one| one.service.clone()).collect();
    let scope = Scope {
        services: Some(services),
        read_only: true,
        expose: Some(Exposure::Broker),
        ..Scope::everything()
    };
    let minted = open.backend.create_child_session(open.token, Some(&agent), scope).await?;
    let wallet = minted.wallet;
    let name = agents.iter().find(|one| one.wallet == wallet).map_or(agent.to_string(), label);

    let out = context.out;
    let tell = Box::new(move |text: &str| out.warn(&format!("gateway: {}", shown(text))));
    let of = AgentIdentity::Wallet(wallet);
    let relay = Relay::new(gateway, of, minted, plan.services, proxy, tell);
    let serving = tokio::spawn(relay.clone().serve(listener));
    let renewing = tokio::spawn(relay.clone().keep_signed_in(now));
    context.verbose(&format!("runs as {name} by the gateway at 127.0.0.1:{port}"));
    let ended = stay_beside(command, in_room).await;
    serving.abort();
    renewing.abort();
    // With the run its session ends; one that cannot be ended now ends by itself.
    let session = RevokeTarget::Session(relay.session_id().await);
    if let Err(problem) = open.backend.revoke_session(open.token, session).await {
        context.verbose(&format!("the run's session was not ended: {}", problem.detail));
    }
    ended.map(|status| Finish::Ended(exit_code(status)))
}

fn no_listener(error: std::io::Error) -> Problem {
    let fix = "see whether 127.0.0.1 is there: ip address show lo";
    Problem::new(Code::Internal, "cannot listen on loopback", error.to_string(), fix)
}

/// Which services, under which names.
async fn plan(
    context: &Context<'_>,
    asked: Run,
    held: &[ServiceName],
    mut known: Vec<ServicePlace>,
) -> Result<Plan, CliError> {
    let project = context.link().await?.defaults();
    let (mut literals, mut from_file) = (BTreeMap::new(), Vec::new());
    for (name, value) in asked.file.as_deref().map(read_env_file).transpose()?.unwrap_or_default() {
        settable(&name)?;
        match value {
            Value::Literal(text) => {
                literals.insert(name, text);
            }
            Value::Credential(None, service) => from_file.push((name, service)),
            Value::Credential(Some(other), _) => {
                return Err(usage(
                    format!("{name} is a key of another agent, \"{other}\""),
                    "a run by the gateway is one agent's",
                    "agentkeys run without --broker, or store the key for this agent",
                )
                .into());
            }
        }
    }
    let from_project = if asked.only { Vec::new() } else { project.variables };
    for (name, _) in &from_project {
        settable(name)?;
    }
    let names = names_of(&[from_project, from_file, asked.named], held, asked.only);
    if let Some((name, service)) = names.iter().find(|(_, service)| !held.contains(service)) {
        return Err(Problem::new(
            Code::NotFound,
            format!("no credential of \"{service}\" for {name}"),
            "the agent was not given one",
            format!("agentkeys store <agent> {service}"),
        )
        .into());
    }
    let services: BTreeSet<&ServiceName> = names.iter().map(|(_, service)| service).collect();
    known.retain(|place| services.contains(&place.service));
    let services = known.into_iter().map(Brokered::new).collect::<Result<_, _>>()?;
    Ok(Plan { services, names, literals })
}

/// Has the program ask us itself, where it asks others through a proxy.
fn past_proxies(command: &mut Command) {
    for name in NO_PROXY {
        let before = std::env::var(name).unwrap_or_default();
        let value =
            if before.is_empty() { "127.0.0.1".to_owned() } else { format!("{before},127.0.0.1") };
        command.env(name, value);
    }
}

/// Starts the program and waits until it has ended. What is meant to end us goes on to it; what a
/// terminal sends reaches it by itself, and is not to end us before it.
async fn stay_beside(mut command: Command, in_room: bool) -> Result<ExitStatus, CliError> {
    let catch = |kind| signal(kind).map_err(|error| CliError::from(no_signals(&error)));
    let mut interrupt = catch(SignalKind::interrupt())?;
    let mut quit = catch(SignalKind::quit())?;
    let mut terminate = catch(SignalKind::terminate())?;
    let mut hang_up = catch(SignalKind::hangup())?;
    let mut child = command.spawn().map_err(|error| {
        let mut failed = not_started(command.get_program(), &error);
        if in_room
            && error.kind() == std::io::ErrorKind::PermissionDenied
            && let CliError::Exit { problem, .. } = &mut failed
        {
            problem.fix = "in the room there are the system's programs and its own folder; \
                           name where this one lies: --allow-read FOLDER"
                .to_owned();
        }
        failed
    })?;
    // A copy of its environment has the stand-ins, which are nobody else's business.
    drop(command);
    let handle = ProcessHandle::open(child.id());
    let mut ended = tokio::task::spawn_blocking(move || child.wait());
    loop {
        tokio::select! {
            status = &mut ended => {
                let status = status.map_err(std::io::Error::other).flatten();
                return status.map_err(|error| no_signals(&error).into());
            }
            _ = interrupt.recv() => {}
            _ = quit.recv() => {}
            _ = terminate.recv() => {
                if let Ok(handle) = &handle {
                    let _ = handle.terminate();
                }
            }
            _ = hang_up.recv() => {
                if let Ok(handle) = &handle {
                    let _ = handle.hang_up();
                }
            }
        }
    }
}

fn no_signals(error: &std::io::Error) -> Problem {
    let fix = "see whether the system is out of file descriptors or threads";
    Problem::new(Code::Internal, "cannot stay beside the program", error.to_string(), fix)
}

/// As a shell tells it: the program's own code, or 128 and the signal that ended it.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}
