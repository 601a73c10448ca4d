//! The embedded default: the private backend of this Unix user, started by the first command
//! that needs one, as ssh-agent stays when that command has ended.
//!
//! Where it listens is written down in a record of ours, so that finding it takes one small file
//! and one connect. Must never start two over the same data, pass a secret of the starter's
//! environment on, or end a process that is not a backend over this user's own data.
use std::ffi::{OsStr, OsString};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::time::timeout;

use super::files::{self, Keep};
use super::places::Places;
use super::socket::{Reached, reach};
use crate::core::problem::{Answer, Code, Problem};
use crate::harden::{ProcessHandle, spawn_daemon};

/// How long a started backend may take until it answers.
pub const START_LIMIT: Duration = Duration::from_secs(20);
/// How long a backend may take to end when it is asked to.
pub const STOP_LIMIT: Duration = Duration::from_secs(15);
/// How long one command waits while another starts or ends the backend.
const LOCK_LIMIT: Duration = Duration::from_secs(40);
/// Size from which the log is put aside, in bytes.
pub const MAX_LOG: u64 = 4 * 1024 * 1024;
/// Largest record of where the backend is, in bytes.
const MAX_RECORD: usize = 4096;

/// What a backend answers as soon as it serves.
const KNOCK: &[u8] = b"GET /health HTTP/1.1\r\nHost: agentkeys\r\nConnection: close\r\n\r\n";

/// What of the starter's environment the backend gets: where things are, and nothing that could
/// be a secret, since it stands in `/proc` for as long as the backend runs.
const PASSED_ON: [&str; 18] = [
    "HOME",
    "PATH",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_CACHE_HOME",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "CREDENTIALS_DIRECTORY",
    "AGENTKEYS_LOG",
    "RUST_LOG",
    "RUST_BACKTRACE",
];

/// The private backend of one user, running or not.
pub struct Private {
    places: Places,
    program: PathBuf,
}

/// A private backend that answers.
#[derive(Debug)]
pub struct Found {
    /// Where it listens.
    pub socket: PathBuf,
    /// The connection by which it was found.
    pub reached: Reached,
    /// Whether it was started for this.
    pub started: bool,
}

/// What `serve --stop` did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StopOutcome {
    /// It ran, and has ended.
    Stopped {
        /// Its process id.
        pid: u32,
    },
    /// There was none.
    NotRunning,
}

/// Where a private backend was last started.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    socket: PathBuf,
    pid: u32,
}

/// Ends this user's private backend and waits until it is gone.
///
/// # Errors
/// `UNAVAILABLE` if it does not end within [`STOP_LIMIT`]; those of looking for it.
pub async fn stop_private() -> Answer<StopOutcome> {
    Private::of_this_user(Places::from_environment()?)?.stop().await
}

impl Private {
    /// The private backend that this very program starts.
    ///
    /// # Errors
    /// `INTERNAL` when the system does not say which program this is.
    pub fn of_this_user(places: Places) -> Answer<Self> {
        let program = std::env::current_exe().map_err(|error| {
            let fix = "run agentkeys by its absolute path";
            files::trouble("cannot tell which program this is", error.to_string(), fix)
        })?;
        Ok(Self::with_program(places, program))
    }

    /// The private backend that `program` starts, which takes the arguments of `serve`.
    pub fn with_program(places: Places, program: PathBuf) -> Self {
        Self { places, program }
    }

    /// The running backend, if there is one. Takes no lock and starts nothing.
    ///
    /// # Errors
    /// Those of reading the record and of [`reach`].
    pub async fn find(&self) -> Answer<Option<Found>> {
        let Some(Record { socket, pid }) = self.record()? else { return Ok(None) };
        // Where ours was, another one may listen by now, with other data. In a container the
        // kernel may have no name for the process at all.
        let reached = reach(&socket).await?;
        let reached = reached.filter(|reached| reached.pid.is_none_or(|found| found == pid));
        Ok(reached.map(|reached| Found { socket, reached, started: false }))
    }

    /// The running backend, or one that is started for this. Commands that come here at once get
    /// the same one.
    ///
    /// # Errors
    /// `UNAVAILABLE` when it does not start, with what it said; those of [`Private::find`].
    pub async fn find_or_start(&self) -> Answer<Found> {
        if let Some(found) = self.find().await? {
            self.put_log_aside().await?;
            return Ok(found);
        }
        files::make_folder(self.places.state())?;
        let _lock = files::lock(&self.places.start_lock(), LOCK_LIMIT).await?;
        if let Some(found) = self.find().await? {
            return Ok(found);
        }
        let mut free = None;
        for socket in self.places.sockets() {
            match reach(&socket).await? {
                // Ours, and only its record was lost.
                Some(reached) if reached.pid.is_some_and(|pid| self.is_backend(pid)) => {
                    return self.remember(socket, reached);
                }
                Some(other) => {
                    self.end_lost().await?;
                    if let Some(reached) = self.activated(&socket, other).await? {
                        return self.remember(socket, reached);
                    }
                }
                None => free = free.or(Some(socket)),
            }
        }
        let Some(socket) = free else {
            return Err(self.not_started("other programs listen at all of its sockets"));
        };
        self.end_lost().await?;
        self.start(socket).await
    }

    /// Ends a backend that was recorded and can no longer be reached, because its socket was
    /// swept away: it would keep the data to itself.
    async fn end_lost(&self) -> Answer<()> {
        let recorded = self.record()?.map(|record| record.pid);
        match recorded.and_then(|pid| Some((pid, self.handle(pid)?))) {
            Some((pid, lost)) => self.end(pid, lost).await,
            None => Ok(()),
        }
    }

    /// The backend behind a socket that a service manager holds: its first connection starts the
    /// backend, and only the next one names it as the listener. `None` if what answers there is
    /// no backend over our data, or nothing does.
    async fn activated(&self, socket: &Path, held: Reached) -> Answer<Option<Reached>> {
        let mut held = held.stream;
        let knock = async {
            held.write_all(KNOCK).await?;
            held.read_u8().await
        };
        if !matches!(timeout(START_LIMIT, knock).await, Ok(Ok(_))) {
            return Ok(None);
        }
        let reached = reach(socket).await?;
        Ok(reached.filter(|reached| reached.pid.is_some_and(|pid| self.is_backend(pid))))
    }

    /// Ends the running backend and waits until it is gone.
    ///
    /// # Errors
    /// `UNAVAILABLE` if it does not end within [`STOP_LIMIT`].
    pub async fn stop(&self) -> Answer<StopOutcome> {
        if !self.places.state().exists() {
            return Ok(StopOutcome::NotRunning);
        }
        files::make_folder(self.places.state())?;
        let _lock = files::lock(&self.places.start_lock(), LOCK_LIMIT).await?;
        // Each has to be known by its arguments: of a socket that a service manager holds, the
        // kernel names whoever listened last, which may have ended.
        let recorded = self.record()?.map(|record| record.pid);
        let mut pids: Vec<u32> = recorded.filter(|pid| self.is_backend(*pid)).into_iter().collect();
        for socket in self.places.sockets() {
            let pid = reach(&socket).await?.and_then(|reached| reached.pid);
            pids.extend(pid.filter(|pid| self.is_backend(*pid)));
        }
        let Some(&pid) = pids.first() else { return Ok(StopOutcome::NotRunning) };
        // One that ended meanwhile by itself has no handle, and is gone as well.
        if let Ok(handle) = ProcessHandle::open(pid) {
            self.end(pid, handle).await?;
        }
        match std::fs::remove_file(self.places.record_file()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(files::failed("remove", &self.places.record_file(), &error))
            }
            _ => Ok(StopOutcome::Stopped { pid }),
        }
    }

    fn record(&self) -> Answer<Option<Record>> {
        let Some(bytes) = files::read(&self.places.record_file(), MAX_RECORD)? else {
            return Ok(None);
        };
        // One that does not read, after a power cut, is as good as none: it is only a shortcut.
        Ok(serde_json::from_slice::<Record>(&bytes).ok().filter(|r| r.socket.is_absolute()))
    }

    fn remember(&self, socket: PathBuf, reached: Reached) -> Answer<Found> {
        let record = Record { socket, pid: reached.pid.unwrap_or(0) };
        let bytes = serde_json::to_vec(&record).map_err(|_| {
            let why = "its path is not UTF-8";
            self.not_started(&format!("{} cannot be recorded: {why}", record.socket.display()))
        })?;
        files::replace(&self.places.record_file(), &bytes, Keep::Cheaply)?;
        Ok(Found { socket: record.socket, reached, started: false })
    }

    async fn start(&self, socket: PathBuf) -> Answer<Found> {
        for folder in self.places.socket_folders(&socket) {
            files::make_strict_folder(&folder)?;
        }
        let mut log = files::open_to_append(&self.places.log_file())?;
        let begin = log.metadata().map_or(0, |found| found.len());
        let errors = log
            .try_clone()
            .map_err(|error| files::failed("open", &self.places.log_file(), &error))?;
        let (group, output) = spawn_daemon(self.command(&socket, errors))
            .map_err(|error| self.not_started(&format!("{}: {error}", self.program.display())))?;
        let output = pipe::Receiver::from_owned_fd(output.into())
            .map_err(|error| self.not_started(&error.to_string()))?;
        let ready = timeout(START_LIMIT, says_ready(output)).await;
        let why = match ready {
            Ok(true) => match reach(&socket).await? {
                Some(reached) => {
                    return Ok(Found { started: true, ..self.remember(socket, reached)? });
                }
                None => "it said that it listens, and nobody does".to_owned(),
            },
            Ok(false) => match last_words(&mut log, begin) {
                words if words.is_empty() => "it ended without a word".to_owned(),
                words => words,
            },
            Err(_) => {
                format!("it did not answer within {} seconds", START_LIMIT.as_secs())
            }
        };
        // If it has ended there is nobody left to end.
        let _ = group.kill();
        Err(self.not_started(&why))
    }

    fn command(&self, socket: &Path, errors: std::fs::File) -> Command {
        let mut listen = OsString::from("unix:");
        listen.push(socket);
        let mut command = Command::new(&self.program);
        command.arg("serve").arg("--listen").arg(listen).arg("--data").arg(self.places.data());
        // Not the starter's folder, which would keep its file system busy.
        command.current_dir("/").stderr(errors).env_clear();
        let passed = PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        command.envs(passed);
        command
    }

    fn not_started(&self, why: &str) -> Problem {
        Problem::new(
            Code::Unavailable,
            "the private backend did not start",
            why,
            format!("read {}\nagentkeys doctor", self.places.log_file().display()),
        )
    }

    /// Whether the process serves this user's own data, by its arguments. They tell only what a
    /// process of ours is; that it is ours, the kernel has said.
    fn is_backend(&self, pid: u32) -> bool {
        let Ok(arguments) = std::fs::read(format!("/proc/{pid}/cmdline")) else { return false };
        let arguments: Vec<&OsStr> = arguments.split(|b| *b == 0).map(OsStr::from_bytes).collect();
        arguments.iter().any(|one| *one == "serve")
            && arguments.iter().any(|one| *one == self.places.data().as_os_str())
    }

    /// A handle on the process, if it is a backend over our data. Asked again once the handle is
    /// there, so that the answer is about the process that the handle means.
    fn handle(&self, pid: u32) -> Option<ProcessHandle> {
        let handle = ProcessHandle::open(pid).ok().filter(|_| pid != std::process::id())?;
        Some(handle).filter(|_| self.is_backend(pid))
    }

    async fn end(&self, pid: u32, handle: ProcessHandle) -> Answer<()> {
        let unable = |why: String| {
            let detail = format!("the private backend (process {pid}) did not end");
            Problem::new(Code::Unavailable, detail, why, format!("kill {pid}"))
        };
        handle.terminate().map_err(|error| unable(error.to_string()))?;
        // On a thread that may wait; the limit ends it.
        let gone = tokio::task::spawn_blocking(move || handle.wait(STOP_LIMIT)).await;
        match gone.map_err(std::io::Error::other).flatten() {
            Ok(true) => Ok(()),
            Err(error) => Err(unable(error.to_string())),
            Ok(false) => Err(unable(format!(
                "it was asked to, and is still there after {} seconds",
                STOP_LIMIT.as_secs()
            ))),
        }
    }

    /// Puts a log that has grown too large aside, in place of the one before. The backend goes on
    /// writing to the same file, at its end, so it is copied and emptied; a line that is written
    /// between the two is lost.
    async fn put_log_aside(&self) -> Answer<()> {
        let path = self.places.log_file();
        if !std::fs::symlink_metadata(&path).is_ok_and(|found| found.len() > MAX_LOG) {
            return Ok(());
        }
        // Another command may be at it; then there is nothing left to do.
        let Ok(_lock) = files::lock(&self.places.start_lock(), Duration::ZERO).await else {
            return Ok(());
        };
        let log = files::open_to_append(&path)?;
        let length = log.metadata().map_or(0, |found| found.len());
        if length <= MAX_LOG {
            return Ok(());
        }
        let mut kept = Vec::new();
        let copied = (&log)
            .seek(SeekFrom::Start(length - MAX_LOG))
            .and_then(|_| (&log).take(MAX_LOG).read_to_end(&mut kept));
        copied.map_err(|error| files::failed("read", &path, &error))?;
        let mut aside = path.as_os_str().to_owned();
        aside.push(".1");
        files::replace(Path::new(&aside), &kept, Keep::Cheaply)?;
        log.set_len(0).map_err(|error| files::failed("empty", &path, &error))
    }
}

/// Waits for the line by which `serve` says that it is ready; false if its output ends before.
async fn says_ready(mut output: pipe::Receiver) -> bool {
    let mut said = Vec::new();
    let mut part = [0; 512];
    while said.len() < 8 * 1024 {
        match output.read(&mut part).await {
            Ok(0) | Err(_) => return false,
            Ok(length) => said.extend_from_slice(&part[..length]),
        }
        let complete = said.iter().rposition(|b| *b == b'\n').unwrap_or(0);
        if said[..complete].split(|b| *b == b'\n').any(|line| line.starts_with(b"listening on ")) {
            return true;
        }
    }
    false
}

/// Why the backend ended, by what it wrote to the log since `begin`, on one line.
fn last_words(log: &mut std::fs::File, begin: u64) -> String {
    const MOST: u64 = 4096;
    let end = log.metadata().map_or(begin, |found| found.len());
    let mut bytes = Vec::new();
    let from = begin.max(end.saturating_sub(MOST));
    if log.seek(SeekFrom::Start(from)).is_err() || log.take(MOST).read_to_end(&mut bytes).is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let mut lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    // The backend ends with an error as commands do, which names its cause on a line of its own.
    let cause = lines.iter().rev().find_map(|line| line.strip_prefix("cause "));
    let words = match cause {
        Some(cause) => cause.trim().to_owned(),
        None => lines.split_off(lines.len().saturating_sub(6)).join("; "),
    };
    words.chars().filter(|c| !c.is_control()).collect()
}
