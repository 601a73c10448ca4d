//! The supervisor: a process of its own that starts one recipe, and when that ends, is told to, or
//! takes too long, ends everything that it has started and removes the folder that it worked in.
//!
//! Holds no secret: what the recipe says passes it by. Must never end before what it started has.
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};

use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use super::failure;
use super::found::{self, Found};
use crate::core::identity::ServiceName;
use crate::core::problem::{Answer, Problem};
use crate::harden;

/// How long a recipe may run, whoever waits for it; whoever does gives up before.
const LONGEST: Duration = Duration::from_secs(130);
/// Between two looks at the recipe.
const LOOK: Duration = Duration::from_millis(50);
/// How long what it has started may take to be gone.
const END: Duration = Duration::from_secs(10);
/// What the folders are called, and from what age on one that nobody holds is removed.
const FOLDER: &str = "agentkeys-recipe.";
const STALE: Duration = Duration::from_secs(10);
/// What a recipe gets of the environment, where it is there.
const KEPT: [&str; 15] = [
    "PATH",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
    "AGENTKEYS_CHROMIUM",
];
/// What is set to the folder that it works in.
const PLACES: [&str; 7] = [
    "HOME",
    "TMPDIR",
    "XDG_CONFIG_HOME",
    "XDG_CACHE_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
    "XDG_RUNTIME_DIR",
];

/// What the supervisor says when it is done: one line of JSON.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// How the recipe ended.
    Ended(Ended),
    /// Why there was none.
    Problem(Problem),
}

/// How a recipe ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// With an exit code.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

/// Runs the recipe for `service` with stdin as the control socket and stdout as the recipe's, and
/// gives this process's exit code. Called in plain `main`.
///
/// # Errors
/// Stdin or stdout is no socket: a person has called it.
pub fn supervise(service: &ServiceName) -> Result<u8, Problem> {
    let socket = |from: std::io::Result<std::os::fd::OwnedFd>| -> Result<UnixStream, Problem> {
        let socket = UnixStream::from(from.map_err(|_| failure::not_for_people())?);
        socket.local_addr().map_err(|_| failure::not_for_people())?;
        Ok(socket)
    };
    let control = socket(std::io::stdin().as_fd().try_clone_to_owned())?;
    let recipe = socket(std::io::stdout().as_fd().try_clone_to_owned())?;
    let told = match oversee(service, &control, recipe) {
        Ok(ended) => Told::Ended(ended),
        Err(problem) => Told::Problem(problem),
    };
    let mut line = serde_json::to_vec(&told).map_err(|_| Problem::internal())?;
    line.push(b'\n');
    // Whoever wanted to know may have gone.
    let _ = (&control).write_all(&line);
    Ok(0)
}

fn oversee(service: &ServiceName, control: &UnixStream, recipe: UnixStream) -> Answer<Ended> {
    harden::adopt_orphans().map_err(|error| failure::not_started(&error))?;
    remove_stale();
    let Found { node, main } = found::find(service)?;
    let folder = WorkFolder::make().map_err(|error| failure::no_folder(&error))?;
    let started = start(&node, &main, service, folder.path(), recipe);
    let ended = started.and_then(|mut child| watch(&mut child, control));
    harden::end_descendants(END);
    drop(folder);
    ended.map_err(|error| failure::not_started(&error))
}

fn start(
    node: &Path,
    main: &Path,
    service: &ServiceName,
    folder: &Path,
    recipe: UnixStream,
) -> std::io::Result<Child> {
    let output = recipe.try_clone()?;
    let mut command = Command::new(node);
    command.arg(main).arg(service.as_str()).current_dir(folder).env_clear().process_group(0);
    command.envs(KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command.envs(PLACES.iter().map(|name| (name, folder)));
    command.stdin(Stdio::from(std::os::fd::OwnedFd::from(recipe)));
    command.stdout(Stdio::from(std::os::fd::OwnedFd::from(output)));
    harden::die_with_parent(&mut command).spawn()
}

/// Waits until the recipe ends, the control socket is closed, or it has taken too long; kills it
/// in the last two cases.
fn watch(child: &mut Child, mut control: &UnixStream) -> std::io::Result<Ended> {
    control.set_read_timeout(Some(LOOK))?;
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let closed = match control.read(&mut [0; 16]) {
            Ok(0) => true,
            // Nothing is to come here; it is not let set the pace.
            Ok(_) => {
                std::thread::sleep(LOOK);
                false
            }
            Err(error) => !matches!(
                error.kind(),
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
            ),
        };
        if closed || begun.elapsed() > LONGEST {
            child.kill()?;
            break child.wait()?;
        }
    };
    Ok(how(status))
}

fn how(status: ExitStatus) -> Ended {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Code(code),
        (None, signal) => Ended::Signal(signal.unwrap_or_default()),
    }
}

/// A folder for one run, held by a lock as long as that lasts.
struct WorkFolder {
    path: PathBuf,
    _lock: File,
}

impl WorkFolder {
    fn make() -> std::io::Result<Self> {
        let mut random = [0; 8];
        SystemRandom::new()
            .fill(&mut random)
            .map_err(|_| std::io::Error::other("the system gave no randomness"))?;
        let name = format!("{FOLDER}{:016x}", u64::from_ne_bytes(random));
        let path = std::env::temp_dir().join(name);
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        let lock = File::open(&path)?;
        lock.lock()?;
        Ok(Self { path, _lock: lock })
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("{} stays: {error}", self.path.display());
        }
    }
}

/// Removes the folders of supervisors that were killed: nobody holds them any more. One that is
/// just being made is not held yet, and is too young.
fn remove_stale() {
    let us = harden::effective_uid();
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(FOLDER) {
            continue;
        }
        let path = entry.path();
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        let age = found.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
        if !found.is_dir() || found.uid() != us || age.is_none_or(|age| age < STALE) {
            continue;
        }
        let Ok(folder) = File::open(&path) else { continue };
        match folder.try_lock() {
            Ok(()) => drop(fs::remove_dir_all(&path)),
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
}
