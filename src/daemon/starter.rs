//! What the daemon's helper does: it finds the private backend, and starts it if need be; and it
//! starts what watches over a recipe, with the sockets that come with the question. Neither may be
//! confined as the daemon is. The daemon asks over their socket pair, one line a question.
//!
//! Must never do anything else that it is asked, learn a secret, or keep a recipe's socket.
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Interest};

use super::reach::Starter;
use crate::client::places::Places;
use crate::client::private::Private;
use crate::core::identity::ServiceName;
use crate::core::problem::{Answer, Code, Problem};
use crate::harden;
use crate::provisioner::{Ends, Theirs, launch};

const START: &str = "find the private backend";
const RECIPE: &str = "run the recipe for ";
/// Longest question, in bytes.
const MAX_QUESTION: usize = 128;
/// Longest answer, in bytes.
const MAX_ANSWER: u64 = 64 * 1024;

/// The helper's side: answers until the daemon is gone.
pub fn serve(places: &Answer<Places>, mut stream: UnixStream) -> u8 {
    let mut question = [0; MAX_QUESTION];
    loop {
        // The daemon waits for each answer, so a message is one question.
        let (length, came) = match harden::receive_with(&stream, &mut question) {
            Ok((0, _)) => return 0,
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return 1,
        };
        let line = std::str::from_utf8(&question[..length]).ok();
        let Some(line) = line.and_then(|line| line.strip_suffix('\n')) else { return 1 };
        let service = line.strip_prefix(RECIPE).and_then(|service| service.parse().ok());
        let answer = match (line, service, Theirs::of(came)) {
            (START, None, None) => serde_json::to_vec(&start(places)),
            (_, Some(service), Some(theirs)) => {
                serde_json::to_vec(&launch(&service, theirs).map_err(|error| no_recipe(&error)))
            }
            _ => return 1,
        };
        let Ok(mut text) = answer else { return 1 };
        text.push(b'\n');
        if stream.write_all(&text).is_err() {
            return 0;
        }
    }
}

fn start(places: &Answer<Places>) -> Answer<PathBuf> {
    let private = Private::of_this_user(places.clone()?)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| gone(&error.to_string()))?;
    runtime.block_on(private.find_or_start()).map(|found| found.socket)
}

/// The daemon's side.
pub struct Helper(Arc<Line>);

/// The line to the helper.
struct Line {
    stream: tokio::sync::Mutex<BufReader<tokio::net::UnixStream>>,
    /// The same socket, for what only its descriptor can do.
    sends: UnixStream,
}

impl Helper {
    /// The helper behind this end of its socket pair.
    ///
    /// # Errors
    /// Those of handing the descriptor to the runtime.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let sends = stream.try_clone()?;
        let stream = tokio::net::UnixStream::from_std(stream)?;
        let stream = tokio::sync::Mutex::new(BufReader::new(stream));
        Ok(Self(Arc::new(Line { stream, sends })))
    }

    /// Asks to the end, also when the caller gives up: the next question's answer is not to be
    /// this one's.
    async fn ask<T: DeserializeOwned + Send + 'static>(
        &self,
        question: String,
        with: Option<Theirs>,
    ) -> io::Result<Answer<T>> {
        let line = self.0.clone();
        let asked = tokio::spawn(async move { line.ask(&question, with).await });
        asked.await.map_err(io::Error::other)?
    }
}

impl Line {
    /// Asks, passing on what goes with the question, and reads the answer.
    async fn ask<T: DeserializeOwned>(
        &self,
        question: &str,
        with: Option<Theirs>,
    ) -> io::Result<Answer<T>> {
        let mut stream = self.stream.lock().await;
        let ends = with.as_ref().map(Theirs::as_fds);
        let ends = ends.as_ref().map_or(&[][..], |ends| ends);
        let line = format!("{question}\n");
        let send = || harden::send_with(&self.sends, line.as_bytes(), ends);
        stream.get_ref().async_io(Interest::WRITABLE, send).await?;
        // From here on the helper's copies are the only ones.
        drop(with);
        let mut line = String::new();
        (&mut *stream).take(MAX_ANSWER).read_line(&mut line).await?;
        serde_json::from_str(&line)
            .map_err(|_| io::Error::other("it ended in the middle of an answer"))
    }
}

#[async_trait]
impl Starter for Helper {
    async fn start(&self) -> Answer<PathBuf> {
        self.ask(START.to_owned(), None).await.unwrap_or_else(|error| Err(gone(&error.to_string())))
    }

    async fn recipe(&self, service: &ServiceName) -> Answer<Ends> {
        let (ends, theirs) = Ends::pairs().map_err(|error| no_recipe(&error))?;
        let asked = self.ask::<()>(format!("{RECIPE}{service}"), Some(theirs)).await;
        asked.unwrap_or_else(|error| Err(no_recipe(&error)))?;
        Ok(ends)
    }
}

fn no_recipe(error: &io::Error) -> Problem {
    Problem::new(
        Code::ProvisionFailed,
        "the recipe was not started",
        format!("the daemon's helper, which starts it, did not: {error}"),
        "start the daemon again; see whether the system is out of processes or memory",
    )
    .at_step("start the recipe")
}

fn gone(why: &str) -> Problem {
    Problem::new(
        Code::Unavailable,
        "the private backend was not started",
        format!("the daemon's helper, which starts it, is gone: {why}"),
        "start it with any command, such as agentkeys list, or start the daemon again",
    )
}
