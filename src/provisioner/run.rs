//! Carries out one run of a recipe over its sockets, and gives the key or says why there is none.
//!
//! Dropping the run ends it: the sockets close, and the supervisor kills what it has started. Must
//! never lose a key that the recipe has given, whatever the recipe does then; nor let one out of
//! memory that is wiped.
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout, timeout_at};
use zeroize::Zeroizing;

use super::failure;
use super::launch::Ends;
use super::protocol::{Key, Message, Messages, Start, VERSION};
use super::supervise::{Ended, Told};
use crate::core::catalog;
use crate::core::identity::ServiceName;
use crate::core::problem::Problem;
use crate::core::provision::Settings;
use crate::core::secret::SecretBytes;
use crate::core::words::cleaned;

/// How long a recipe may take, from its start.
const DEADLINE: Duration = Duration::from_secs(120);
/// How long it may take to say that it is there; Node starts slowly on a busy machine.
const HELLO: Duration = Duration::from_secs(30);
/// How long before the deadline the recipe is told that its time is over, so that it can say so.
const MARGIN: Duration = Duration::from_secs(5);
/// How long it may take to end once it has given its result.
const AFTER_RESULT: Duration = Duration::from_secs(5);
/// How long the supervisor may take to end what it has started.
const CLEANUP: Duration = Duration::from_secs(15);
/// Most bytes of what a recipe says on stderr before it has been told anything.
const MAX_SAID: usize = 2 * 1024;
/// What is told when a recipe failed once it had given the key.
const NOT_WELL: &str = "the recipe gave the key, and did not end well after it";
/// Longest answer of the supervisor, in bytes.
const MAX_TOLD: usize = 16 * 1024;

/// What a recipe is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Get a key.
    Run,
    /// See whether it would work, and make nothing.
    Check,
}

/// One run.
pub struct Task<'a> {
    /// Of which service.
    pub service: &'a ServiceName,
    /// What is to be done.
    pub mode: Mode,
    /// The provider's settings.
    pub settings: &'a Settings,
    /// The provider's secret.
    pub secret: Option<&'a SecretBytes>,
    /// Where a picture of the page may be put when something fails.
    pub screenshot: Option<&'a Path>,
}

/// What came of it.
pub struct Done {
    /// The key; `None` of a check.
    pub key: Option<SecretBytes>,
    /// What is to be known besides: that the recipe did not end well after it had given the key.
    pub note: Option<String>,
}

/// Carries out `task` over `ends`; `progress` is told of each step and how far the run is, in
/// percent. When this returns, everything that was started has ended.
///
/// # Errors
/// `PROVISION_FAILED` with the step.
pub async fn carry_out(
    ends: Ends,
    task: Task<'_>,
    progress: &(dyn Fn(&str, u8) + Sync),
) -> Result<Done, Problem> {
    let Ends { control, recipe, stderr } = ends;
    let deadline = Instant::now() + DEADLINE;
    let (reader, writer) = recipe.into_split();
    let mut run = Run {
        task,
        step: failure::START.to_owned(),
        percent: 0,
        messages: Messages::new(reader),
        progress,
    };
    let mut said = Said { from: stderr, tail: Vec::new(), keep: true };
    let mut supervisor = Supervisor { control, line: Vec::new() };

    let outcome = {
        let work = run.work(writer, deadline, &mut said);
        tokio::select! {
            outcome = timeout_at(deadline, work) => outcome.unwrap_or(Outcome::Late),
            told = supervisor.told() => Outcome::Told(told),
        }
    };
    match outcome {
        // It may have written its result just before it ended.
        Outcome::Told(told) => run.after_the_end(told, &said).await,
        Outcome::Key(key) => {
            let ended = timeout(AFTER_RESULT, supervisor.told()).await;
            let note = match ended {
                Ok(Some(Told::Ended(Ended::Code(0)))) => None,
                Ok(_) => Some(NOT_WELL.to_owned()),
                Err(_) => {
                    supervisor.end().await;
                    Some("the recipe gave the key, and had to be ended after it".to_owned())
                }
            };
            Ok(Done { key, note })
        }
        // Once it has closed its output, how it ended says more.
        Outcome::Closed => {
            let told = timeout(AFTER_RESULT, supervisor.told()).await;
            match told {
                Ok(told) => Err(run.ended(told, &said)),
                Err(_) => {
                    supervisor.end().await;
                    Err(failure::out_of_place(&run.step, "it closed its output and went on"))
                }
            }
        }
        Outcome::Late => {
            supervisor.end().await;
            Err(failure::late(&run.step, DEADLINE.as_secs()))
        }
        Outcome::Failed(problem) => {
            supervisor.end().await;
            Err(problem)
        }
    }
}

/// How the talk with a recipe ended.
enum Outcome {
    Key(Option<SecretBytes>),
    Failed(Problem),
    Closed,
    Late,
    Told(Option<Told>),
}

struct Run<'a> {
    task: Task<'a>,
    step: String,
    percent: u8,
    messages: Messages<tokio::net::unix::OwnedReadHalf>,
    progress: &'a (dyn Fn(&str, u8) + Sync),
}

impl Run<'_> {
    async fn work(
        &mut self,
        mut writer: tokio::net::unix::OwnedWriteHalf,
        deadline: Instant,
        said: &mut Said,
    ) -> Outcome {
        let hello = {
            let listening = said.listen();
            tokio::pin!(listening);
            let hello = timeout(HELLO, self.messages.next());
            tokio::pin!(hello);
            tokio::select! {
                hello = &mut hello => hello,
                () = &mut listening => hello.await,
            }
        };
        match hello {
            Ok(Ok(Some(Message::Hello { service, .. }))) if service == *self.task.service => {}
            Ok(Ok(Some(_))) => return self.out_of_place("it did not begin with its hello"),
            Ok(Ok(None)) => return Outcome::Closed,
            Ok(Err(garbage)) => return Outcome::Failed(failure::garbage(&self.step, garbage)),
            Err(_) => return Outcome::Failed(failure::late(&self.step, HELLO.as_secs())),
        }
        // From here on it knows a secret, and nothing that it says is told.
        said.keep = false;
        said.tail.clear();
        let Some(start) = self.start(deadline) else {
            return Outcome::Failed(Problem::internal());
        };
        // Its end shows where it is read from.
        let _ = writer.write_all(&start).await;
        drop(start);
        let listening = said.listen();
        tokio::pin!(listening);
        let mut listens = true;
        loop {
            let message = tokio::select! {
                message = self.messages.next() => message,
                () = &mut listening, if listens => {
                    listens = false;
                    continue;
                }
            };
            match message {
                Ok(Some(message)) => {
                    if let Some(outcome) = self.take(message) {
                        // The writer is kept up to here: its end would tell the recipe to give up.
                        drop(writer);
                        return outcome;
                    }
                }
                Ok(None) => return Outcome::Closed,
                Err(garbage) => return Outcome::Failed(failure::garbage(&self.step, garbage)),
            }
        }
    }

    /// The start message, in memory that is wiped.
    fn start(&self, deadline: Instant) -> Option<Zeroizing<Vec<u8>>> {
        let Task { service, mode, settings, secret, screenshot } = &self.task;
        let secret = secret.map(|secret| std::str::from_utf8(secret.expose())).transpose().ok()?;
        let start = Start {
            v: VERSION,
            kind: "start",
            service,
            mode: match mode {
                Mode::Run => "run",
                Mode::Check => "check",
            },
            settings,
            secret,
            screenshot: screenshot.and_then(Path::to_str),
            seconds: deadline.saturating_duration_since(Instant::now() + MARGIN).as_secs(),
        };
        // Large enough for all settings and the secret, so that it never grows and leaves a copy.
        let mut line = Zeroizing::new(Vec::with_capacity(256 * 1024));
        serde_json::to_writer(&mut *line, &start).ok()?;
        line.push(b'\n');
        Some(line)
    }

    /// What a message means for the run; `None`: it goes on.
    fn take(&mut self, message: Message) -> Option<Outcome> {
        let secret: Vec<&[u8]> = self.task.secret.iter().map(|secret| secret.expose()).collect();
        let service = self.task.service;
        Some(match message {
            Message::Progress { step, percent, .. } => {
                self.step = cleaned(&step, &secret);
                self.percent = self.percent.max(percent.min(100));
                (self.progress)(&self.step, self.percent);
                return None;
            }
            Message::Result { credential, .. } => match (self.task.mode, credential) {
                (Mode::Check, None) => Outcome::Key(None),
                (Mode::Check, Some(_)) => {
                    return Some(self.out_of_place("it made a key, and was to check only"));
                }
                (Mode::Run, None) => {
                    Outcome::Failed(failure::no_key(&self.step, service, "its result is empty"))
                }
                (Mode::Run, Some(Key(key))) => match catalog::looks_wrong(service, key.expose()) {
                    Some(looks) => Outcome::Failed(failure::no_key(
                        &self.step,
                        service,
                        &format!("a key of {service} {looks}, and what it gave is none"),
                    )),
                    None => Outcome::Key(Some(key)),
                },
            },
            Message::NeedInput { step, what, message, .. } => {
                let (step, message) = (cleaned(&step, &secret), cleaned(&message, &secret));
                Outcome::Failed(failure::needs_person(&step, service, what, &message))
            }
            Message::Error { step, reason, message, screenshot, .. } => {
                let (step, message) = (cleaned(&step, &secret), cleaned(&message, &secret));
                let given = self.task.screenshot.and_then(Path::to_str);
                let screenshot = given.filter(|given| screenshot.as_deref() == Some(given));
                Outcome::Failed(failure::reported(&step, service, reason, &message, screenshot))
            }
            Message::Hello { .. } => return Some(self.out_of_place("it said hello twice")),
        })
    }

    fn out_of_place(&self, what: &str) -> Outcome {
        Outcome::Failed(failure::out_of_place(&self.step, what))
    }

    /// The supervisor was faster than the recipe's last words, which are still there to be read.
    async fn after_the_end(mut self, told: Option<Told>, said: &Said) -> Result<Done, Problem> {
        let begun = !said.keep;
        loop {
            // Everything is in the socket by now, so this does not wait.
            let next = timeout(Duration::from_millis(200), self.messages.next()).await;
            let message = match next {
                Ok(Ok(Some(message))) if begun => message,
                Ok(Err(garbage)) => return Err(failure::garbage(&self.step, garbage)),
                _ => break,
            };
            match self.take(message) {
                None => {}
                Some(Outcome::Key(key)) => {
                    let well = matches!(told, Some(Told::Ended(Ended::Code(0))));
                    return Ok(Done { key, note: (!well).then(|| NOT_WELL.to_owned()) });
                }
                Some(Outcome::Failed(problem)) => return Err(problem),
                Some(Outcome::Closed | Outcome::Late | Outcome::Told(_)) => break,
            }
        }
        Err(self.ended(told, said))
    }

    fn ended(&self, told: Option<Told>, said: &Said) -> Problem {
        match told {
            Some(Told::Ended(ended)) => {
                let said = String::from_utf8_lossy(&said.tail);
                failure::died(&self.step, ended, &cleaned(&said, &[]))
            }
            Some(Told::Problem(problem)) => problem,
            None => failure::gone(&self.step),
        }
    }
}

/// What a recipe says on stderr. It is read whatever becomes of it, so that the recipe does not
/// wait for its reader.
struct Said {
    from: UnixStream,
    tail: Vec<u8>,
    keep: bool,
}

impl Said {
    /// Reads on until it is closed.
    async fn listen(&mut self) {
        let mut buffer = [0; 512];
        while let Ok(read) = self.from.read(&mut buffer).await {
            if read == 0 {
                return;
            }
            if self.keep {
                self.tail.extend_from_slice(&buffer[..read]);
                let over = self.tail.len().saturating_sub(MAX_SAID);
                self.tail.drain(..over);
            }
        }
    }
}

struct Supervisor {
    control: UnixStream,
    line: Vec<u8>,
}

impl Supervisor {
    /// What it says when it is done; `None` when it is gone without a word. Cancel safe.
    async fn told(&mut self) -> Option<Told> {
        let mut buffer = [0; 512];
        loop {
            match self.control.read(&mut buffer).await {
                Ok(0) | Err(_) => return serde_json::from_slice(&self.line).ok(),
                Ok(read) => self.line.extend_from_slice(&buffer[..read]),
            }
            if self.line.len() > MAX_TOLD {
                return None;
            }
        }
    }

    /// Has it end what it has started, and waits until that is done.
    async fn end(&mut self) {
        let _ = self.control.shutdown().await;
        let _ = timeout(CLEANUP, self.told()).await;
    }
}
