//! A daemon's life: hardening before there is any secret, then the runtime, then the end.
//!
//! Must never write to stdout: it is the MCP client's.
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::keeper::{Keeper, Recipes};
use super::mirror::Mirror;
use super::options::Options;
use super::reach::{Reach, Starter};
use super::request::is_no;
use super::seat::Seat;
use super::shared::Shared;
use super::starter::{self, Helper};
use super::stdio::{Stdin, Stdout};
use super::{confine, mcp, notice};
use crate::client::config::Config;
use crate::client::connect::now;
use crate::client::heads::Heads;
use crate::client::places::Places;
use crate::core::holder::{Held, Protection, Refusal, SessionHolder, SessionState};
use crate::core::problem::{Answer, Code, Problem};
use crate::harden;
use crate::keyring::BusAddress;

/// How long what still runs may take once the daemon is to end.
const END: Duration = Duration::from_millis(300);
/// Between two tries of a daemon that nobody calls, while something keeps it from its session.
const PAUSE: Duration = Duration::from_secs(10);

/// When the start is over.
const SETTLED: Duration = Duration::from_secs(2);

/// What a daemon does besides holding the session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Work {
    /// Speaks MCP on stdin and stdout until the client is gone.
    Mcp,
    /// Stays for the programs beside it until it is told to end.
    Stay,
    /// Gets new keys, and ends.
    Rotate,
}

impl Work {
    /// What stdin tells when nobody has said it: clients give a pipe, or a socket as Node does.
    fn of(options: &Options) -> Self {
        let is_pipe = || {
            let own = io::stdin().as_fd().try_clone_to_owned().map(File::from);
            own.and_then(|stdin| stdin.metadata())
                .is_ok_and(|found| found.file_type().is_fifo() || found.file_type().is_socket())
        };
        match options {
            Options { rotate: true, .. } => Self::Rotate,
            Options { stdio: true, .. } => Self::Mcp,
            _ if is_pipe() => Self::Mcp,
            _ => Self::Stay,
        }
    }
}

/// Runs a daemon until its client is gone or it is told to end, and gives its exit code.
///
/// # Errors
/// What kept it from starting; with no MCP client, also what ended it.
pub fn run(options: Options) -> Result<u8, Problem> {
    let work = Work::of(&options);
    let places = Places::from_environment();
    // First of all, while there is one thread, nothing to hide, and nothing refused.
    let for_helper = places.clone();
    let helper = harden::fork_helper(|stream| starter::serve(&for_helper, stream))
        .map_err(|error| not_started("its helper", &error))?;
    let places = places?;
    start_log(options.verbose);
    // Settings that are not what they may be are told by every tool, since an MCP client shows
    // those answers to its user, and nothing of a server that did not start.
    let config = Config::load(&places, options.backend.as_deref());
    let seat = Seat::new(&places, options.agent.as_ref(), options.socket.as_deref())?;
    let protections = confine::confine(&places, &seat, config.as_ref().ok())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Whenever there is nothing to do.
        .on_thread_park(harden::wipe_stack)
        .build()
        .map_err(|error| not_started("its runtime", &error))?;
    let ended = runtime.block_on(live(work, options, places, config, seat, helper, protections));
    // What waits for the system in another thread cannot be given up; the process ends all the
    // same.
    runtime.shutdown_timeout(END);
    ended
}

async fn live(
    work: Work,
    options: Options,
    places: Places,
    config: Answer<Config>,
    seat: Seat,
    helper: UnixStream,
    protections: Vec<Protection>,
) -> Result<u8, Problem> {
    let mut asked_to_end = Signals::new()?;
    let helper = Helper::new(helper).map_err(|error| not_started("its helper", &error))?;
    let helper: Arc<dyn Starter> = Arc::new(helper);
    tokio::spawn(async {
        tokio::time::sleep(SETTLED).await;
        if let Err(error) = harden::forget_code_pages() {
            tracing::debug!(%error, "the start's pages of code stay");
        }
    });
    let socket = seat.socket().display().to_string();
    // Called each time that this process comes to hold the session.
    let keeper = move || -> Answer<Arc<dyn SessionHolder>> {
        let reach = match &config {
            Ok(config) => Reach::new(places.clone(), config, helper.clone()),
            Err(problem) => Reach::nowhere(problem.clone()),
        };
        let mirror = Mirror::new(places.mirror_file(options.agent.as_ref())?, bus());
        let heads = Some(Heads::new(&places));
        let recipes = Recipes {
            starter: helper.clone(),
            kept: places.daemon_folder(options.agent.as_ref())?,
            screenshots: places.screenshots(),
        };
        Ok(Keeper::new(options.clone(), reach, mirror, heads, recipes, protections.clone()))
    };
    let holder = Shared::start(
        seat,
        Box::new(move || {
            let made = keeper();
            Box::pin(async move { made })
        }),
    );
    let working = async {
        match work {
            Work::Mcp => {
                let streams = |error| not_started("its streams", &error);
                let (input, output) = (Stdin::new(), Stdout::new());
                let (input, output) = (input.map_err(streams)?, output.map_err(streams)?);
                let client = mcp::serve(holder.clone(), input, output);
                client.await.map(|()| 0).map_err(|error| broken_off(&error))
            }
            Work::Stay => stay(&*holder, &socket).await,
            Work::Rotate => rotate(&*holder).await,
        }
    };
    let showing = async {
        match work {
            Work::Mcp | Work::Stay => show_requests(&*holder).await,
            // It shows its own.
            Work::Rotate => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        ended = working => ended,
        () = showing => Ok(0),
        () = asked_to_end.any() => {
            tracing::info!("asked to end");
            Ok(0)
        }
    };
    holder.shutdown().await;
    ended
}

fn bus() -> Answer<Option<BusAddress>> {
    BusAddress::from_environment().map_err(|error| {
        let fix = "correct DBUS_SESSION_BUS_ADDRESS, or leave it out";
        Problem::new(Code::Invalid, "the keyring cannot be looked for", error.to_string(), fix)
    })
}

fn broken_off(error: &dyn std::error::Error) -> Problem {
    let cause = error.source().map_or_else(String::new, |source| format!(": {source}"));
    let fix =
        "let the MCP client start the daemon again; what it wrote last is at fault, or we are";
    Problem::new(Code::Internal, "the MCP session broke off", format!("{error}{cause}"), fix)
}

/// The signals that ask a process to end.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Answer<Self> {
        let catch = |kind| signal(kind).map_err(|error| not_started("its signals", &error));
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            hang_up: catch(SignalKind::hangup())?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

/// Says something to whoever started the daemon. That nobody reads it is no reason to end.
fn say(text: &str) {
    let mut err = io::stderr().lock();
    let _ = writeln!(err, "{}", text.trim_end());
}

/// Shows code and OTP of each request that waits for an answer, once. Never returns.
async fn show_requests(holder: &dyn SessionHolder) {
    let mut shown = String::new();
    loop {
        let Ok(standing) = holder.standing().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let waiting = match &standing.session {
            SessionState::Waiting(waiting) => Some(waiting),
            SessionState::Paired { asks, .. } => asks.as_ref(),
            SessionState::Unpaired | SessionState::Ended(_) => None,
        };
        if let Some(waiting) = waiting.filter(|waiting| waiting.pair_code != shown) {
            say(&notice::waiting(waiting, now()));
            shown.clone_from(&waiting.pair_code);
        }
        until_changed(holder, standing.generation).await;
    }
}

/// Asks for a session at once, asks anew when a code has run out, and stays. Ends when the master
/// says no: asking on would be pestering.
async fn stay(holder: &dyn SessionHolder, socket: &str) -> Result<u8, Problem> {
    let mut told = String::new();
    let tell = |told: &mut String, text: String| {
        if text != *told {
            say(&text);
            *told = text;
        }
    };
    say("end it with Ctrl-C");
    loop {
        let seen = holder.standing().await.map_or(0, |standing| standing.generation);
        match holder.list().await {
            Ok(listing) => {
                let has = match listing.credentials.len() {
                    1 => "one credential".to_owned(),
                    number => format!("{number} credentials"),
                };
                let text = format!(
                    "agent {} is paired and has {has}; programs beside it use agentkeys read, \
                     list and run (socket {socket})",
                    listing.agent
                );
                tell(&mut told, text);
            }
            // What comes after it is news, whatever it is.
            Err(Refusal::Waiting(_)) => told.clear(),
            Err(Refusal::Problem(problem)) if is_no(&problem) => return Err(problem),
            Err(Refusal::Problem(problem)) => {
                let text = notice::problem(&problem);
                tell(&mut told, format!("{text}it is tried again every {} s", PAUSE.as_secs()));
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        }
        until_changed(holder, seen).await;
    }
}

async fn until_changed(holder: &dyn SessionHolder, seen: u64) {
    loop {
        match holder.changed(seen).await {
            Ok(generation) if generation == seen => {}
            Ok(_) => return,
            Err(_) => {
                tokio::time::sleep(PAUSE).await;
                return;
            }
        }
    }
}

/// Asks for new keys and waits until they are there.
async fn rotate(holder: &dyn SessionHolder) -> Result<u8, Problem> {
    let waiting = told(holder.rotate().await)?;
    say(&notice::waiting(&waiting, now()));
    loop {
        let standing = told(holder.standing().await)?;
        match &standing.session {
            SessionState::Paired { asks: Some(asks), .. }
                if asks.pair_code == waiting.pair_code => {}
            SessionState::Paired { refused: Some(problem), .. } => return Err(problem.clone()),
            SessionState::Paired { .. } => break,
            SessionState::Ended(problem) => return Err(problem.clone()),
            SessionState::Unpaired | SessionState::Waiting(_) => return Err(Problem::internal()),
        }
        until_changed(holder, standing.generation).await;
    }
    say("the daemon has new keys; the old ones and their sessions have ended");
    Ok(0)
}

/// What a call gave; what it was refused with, as a problem.
fn told<T>(held: Held<T>) -> Result<T, Problem> {
    held.map_err(|refusal| match refusal {
        Refusal::Problem(problem) => problem,
        // The request that it opened ends with this process.
        Refusal::Waiting(_) => Problem::new(
            Code::Unauthorized,
            "the agent is not paired yet",
            "there are no keys that new ones could take the place of",
            "pair it first: start its daemon without --rotate, then agentkeys approve <code>",
        ),
    })
}

fn start_log(verbose: bool) {
    use tracing_subscriber::EnvFilter;
    let usual = if verbose { "agentkeys=debug" } else { "agentkeys=info" };
    let filter = std::env::var("AGENTKEYS_LOG").unwrap_or_else(|_| usual.to_owned());
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new(usual));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal());
    // A second start in one process keeps the first log.
    let _ = log.try_init();
}

fn not_started(what: &str, error: &io::Error) -> Problem {
    Problem::new(
        Code::Internal,
        "the daemon does not start",
        format!("{what}: {error}"),
        "see whether the system is out of processes, descriptors or memory",
    )
}
