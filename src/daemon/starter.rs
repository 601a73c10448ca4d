//! What the daemon's helper does: it finds the private backend, and starts it if need be, which
//! may not be confined as the daemon is. The daemon asks over their socket pair, one line a question.
//!
//! Must never do anything else that it is asked, nor learn a secret.
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use async_trait::async_trait;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};

use super::reach::Starter;
use crate::client::places::Places;
use crate::client::private::Private;
use crate::core::problem::{Answer, Code, Problem};

const START: &str = "find the private backend";
/// Longest answer, in bytes.
const MAX_ANSWER: u64 = 64 * 1024;

/// The helper's side: answers until the daemon is gone.
pub fn serve(places: &Answer<Places>, stream: UnixStream) -> u8 {
    let Ok(mut answers) = stream.try_clone() else { return 1 };
    for line in BufReader::new(stream).lines() {
        let answer = match line.as_deref() {
            Ok(START) => start(places),
            _ => return 1,
        };
        let Ok(mut text) = serde_json::to_vec(&answer) else { return 1 };
        text.push(b'\n');
        if answers.write_all(&text).is_err() {
            return 0;
        }
    }
    0
}

fn start(places: &Answer<Places>) -> Answer<PathBuf> {
    let private = Private::of_this_user(places.clone()?)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| gone(&error.to_string()))?;
    runtime.block_on(private.find_or_start()).map(|found| found.socket)
}

/// The daemon's side.
pub struct Helper {
    stream: tokio::sync::Mutex<BufStream<tokio::net::UnixStream>>,
}

impl Helper {
    /// The helper behind this end of its socket pair.
    ///
    /// # Errors
    /// Those of handing the descriptor to the runtime.
    pub fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        let stream = tokio::net::UnixStream::from_std(stream)?;
        Ok(Self { stream: tokio::sync::Mutex::new(BufStream::new(stream)) })
    }
}

#[async_trait]
impl Starter for Helper {
    async fn start(&self) -> Answer<PathBuf> {
        let mut stream = self.stream.lock().await;
        let asked = async {
            stream.write_all(format!("{START}\n").as_bytes()).await?;
            stream.flush().await?;
            let mut line = String::new();
            (&mut *stream).take(MAX_ANSWER).read_line(&mut line).await?;
            Ok::<_, std::io::Error>(line)
        };
        let line = asked.await.map_err(|error| gone(&error.to_string()))?;
        serde_json::from_str::<Answer<PathBuf>>(&line)
            .unwrap_or_else(|_| Err(gone("it ended in the middle of an answer")))
    }
}

fn gone(why: &str) -> Problem {
    Problem::new(
        Code::Unavailable,
        "the private backend was not started",
        format!("the daemon's helper, which starts it, is gone: {why}"),
        "start it with any command, such as agentkeys list, or start the daemon again",
    )
}
