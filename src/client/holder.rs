//! A daemon's socket seen from the outside: [`HolderClient`] is a [`SessionHolder`] over the line
//! protocol, and the records say which daemons there are.
//!
//! One connection a call, so that a call that is given up ends its work on the other side too.
//! Must never send anything to a process that could be anybody's, and leaves no copy of a
//! credential behind in memory that it gives back.
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use super::files;
use super::places::Places;
use super::socket::{Reached, reach_a};
use crate::core::backend::Release;
use crate::core::claim::Reason;
use crate::core::holder::{
    Access, Ask, Held, HttpAnswer, HttpAsk, Listing, MAX_REPLY, Provisioning, Question, Refusal,
    Reply, SessionHolder, Standing, Waiting,
};
use crate::core::identity::{Alias, ServiceName};
use crate::core::problem::{Answer, Code, Problem};
use crate::core::secret::SecretBytes;
use crate::core::wire::Released;
use crate::core::wire::Shown;

/// How long a holder may take to answer. It tries its backend three times before it gives up.
const PATIENCE: Duration = Duration::from_secs(65);
/// How long it may take to get a key: it gives up before.
const PROVISION_PATIENCE: Duration = Duration::from_secs(250);
/// How long a request to a service may take: its own limits come before.
const REQUEST_PATIENCE: Duration = Duration::from_secs(750);
/// How long it may take where nothing but its own memory is asked.
const STANDING_PATIENCE: Duration = Duration::from_secs(10);
/// How long it may let a wait for a change stand. It answers within 30 seconds.
const CHANGE_PATIENCE: Duration = Duration::from_secs(40);
/// How long one with as many connections as it takes is asked again, and how often.
const BUSY_PATIENCE: Duration = Duration::from_secs(5);
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// The id of a reply that is not about one question: the line could not be read, or the holder
/// has too much to do.
pub const NO_QUESTION: u64 = 0;
/// The id of the one question of a connection.
const QUESTION: u64 = 1;
/// Size of the first buffer for a reply, in bytes.
const FIRST_BUFFER: usize = 4 * 1024;
/// Largest record, in bytes, and the most records that are looked at.
const MAX_RECORD: usize = 4 * 1024;
const MAX_RECORDS: usize = 64;
const GONE: &str = "docs/errors.md#daemon_gone";

/// Whether a problem says that the holder has gone: nobody listens, or the connection was closed
/// before an answer. Nothing was handed out then, and another holder may be asked the same.
pub fn is_gone(problem: &Problem) -> bool {
    problem.code == Code::Unavailable && problem.docs == GONE
}

fn gone(socket: &Path, why: &str) -> Problem {
    let mut problem = Problem::new(
        Code::Unavailable,
        format!("no daemon answers at {}", socket.display()),
        why,
        "start it: agentkeys daemon\nagentkeys doctor shows which ones there are",
    );
    problem.docs = GONE.to_owned();
    problem
}

/// Where a holder is, as it wrote it down.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Its process.
    pub pid: u32,
    /// Its socket.
    pub socket: PathBuf,
}

impl Record {
    /// Reads one; `None` if there is none, or none that reads, which is as good: a holder that
    /// begins writes a new one.
    ///
    /// # Errors
    /// `INTERNAL` for a file that others could have written.
    pub fn read(path: &Path) -> Answer<Option<Self>> {
        let Some(bytes) = files::read(path, MAX_RECORD)? else { return Ok(None) };
        Ok(serde_json::from_slice::<Self>(&bytes).ok().filter(|found| found.socket.is_absolute()))
    }
}

/// A daemon that left a record; it may have been killed since.
pub struct Recorded {
    /// What this machine calls its agent.
    pub name: Option<Alias>,
    /// The way to it.
    pub client: HolderClient,
}

/// The daemons that left a record, the one without a name first.
///
/// # Errors
/// `INTERNAL` for a record that others could have written.
pub fn recorded(places: &Places) -> Answer<Vec<Recorded>> {
    // Without a home there is no daemon's folder either.
    if places.daemon_folder(None).is_err() {
        return Ok(Vec::new());
    }
    let mut names: Vec<Option<Alias>> = places.daemon_names().into_iter().map(Some).collect();
    names.push(None);
    names.sort_by_key(|name| name.as_ref().map(Alias::folded));
    names.truncate(MAX_RECORDS);
    let mut found = Vec::new();
    for name in names {
        if let Some(record) = Record::read(&places.holder_record(name.as_ref())?)? {
            found.push(Recorded { name, client: HolderClient::of(record) });
        }
    }
    Ok(found)
}

/// A holder in another process.
#[derive(Clone, Debug)]
pub struct HolderClient {
    socket: PathBuf,
    pid: Option<u32>,
}

impl HolderClient {
    /// Whoever of this user listens at `socket`.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, pid: None }
    }

    /// The holder of a record, and no other process that may listen there by now.
    pub fn of(record: Record) -> Self {
        Self { socket: record.socket, pid: Some(record.pid) }
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its process, where a record named it.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Whether it can be connected to. Asks it nothing.
    ///
    /// # Errors
    /// `INTERNAL` for a socket whose folder is open to others, `DENIED` for another user's.
    pub async fn is_there(&self) -> Answer<bool> {
        Ok(self.reach().await?.is_some())
    }

    async fn reach(&self) -> Answer<Option<Reached>> {
        let reached = reach_a("daemon", &self.socket).await?;
        // In a container the kernel may have no name for the process at all.
        let meant = |found: u32| self.pid.is_none_or(|pid| pid == found);
        Ok(reached.filter(|reached| reached.pid.is_none_or(meant)))
    }

    async fn ask<T: DeserializeOwned>(&self, ask: Question, patience: Duration) -> Held<T> {
        let line = serde_json::to_vec(&Ask { id: QUESTION, ask }).map(|mut line| {
            line.push(b'\n');
            line
        });
        let line = line.map_err(|_| Problem::internal())?;
        let begun = Instant::now();
        loop {
            let reply = timeout(patience, self.exchange(&line)).await;
            let reply = reply.map_err(|_| self.silent(patience))??;
            let reply: Reply<T> = serde_json::from_slice(&reply).map_err(|_| self.unreadable())?;
            match reply {
                Reply { id: NO_QUESTION, refused: Some(Refusal::Problem(busy)), ok: None }
                    if busy.retry_after.is_some() && begun.elapsed() < BUSY_PATIENCE =>
                {
                    sleep(BUSY_PAUSE).await;
                }
                Reply { refused: Some(refusal), ok: None, .. } => return Err(refusal),
                Reply { id: QUESTION, ok: Some(ok), refused: None } => return Ok(ok),
                _ => return Err(self.unreadable().into()),
            }
        }
    }

    /// Sends a line and gives the one that comes back.
    async fn exchange(&self, line: &[u8]) -> Answer<Zeroizing<Vec<u8>>> {
        let Some(Reached { mut stream, .. }) = self.reach().await? else {
            return Err(gone(&self.socket, "nobody listens there"));
        };
        let asked = match stream.write_all(line).await {
            // It may have said why before it closed the connection.
            Err(error) if is_closed(&error) => Ok(()),
            asked => asked,
        };
        let read = match asked {
            Ok(()) => read_line(&mut stream, MAX_REPLY).await,
            Err(error) => Err(error),
        };
        match read {
            Ok(Some(line)) => Ok(line),
            Ok(None) => Err(gone(&self.socket, "it closed the connection without an answer")),
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Err(self.unreadable()),
            Err(error) => Err(gone(&self.socket, &error.to_string())),
        }
    }

    fn silent(&self, patience: Duration) -> Problem {
        Problem::new(
            Code::Unavailable,
            format!("the daemon at {} does not answer", self.socket.display()),
            format!("it was waited for, {} seconds long", patience.as_secs()),
            "see whether it is stopped; start it again",
        )
    }

    fn unreadable(&self) -> Problem {
        files::trouble(
            format!("the daemon at {} gave an answer that does not read", self.socket.display()),
            "it may be another version of this program",
            "use the same version on both sides: start the daemon again",
        )
    }
}

fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected)
}

/// Reads up to the first line end, of at most `limit` bytes; `None` when the stream ends before.
/// What was read is wiped, also where the buffer grew.
async fn read_line(
    stream: &mut UnixStream,
    limit: usize,
) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut buffer = Zeroizing::new(vec![0; FIRST_BUFFER]);
    let mut filled = 0;
    loop {
        if filled == buffer.len() {
            if filled > limit {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            let mut larger = Zeroizing::new(vec![0; (filled * 2).min(limit + 1)]);
            larger[..filled].copy_from_slice(&buffer);
            buffer = larger;
        }
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Ok(None);
        }
        let end = buffer[filled..filled + read].iter().position(|byte| *byte == b'\n');
        filled += read;
        if let Some(end) = end {
            buffer.truncate(filled - read + end);
            return Ok(Some(buffer));
        }
    }
}

#[async_trait]
impl SessionHolder for HolderClient {
    async fn standing(&self) -> Held<Standing> {
        self.ask(Question::Standing {}, STANDING_PATIENCE).await
    }

    async fn changed(&self, seen: u64) -> Held<u64> {
        self.ask(Question::Changed { seen }, CHANGE_PATIENCE).await
    }

    async fn read(&self, service: &ServiceName) -> Held<SecretBytes> {
        let ask = Question::Read { service: service.clone() };
        self.ask::<Shown<SecretBytes>>(ask, PATIENCE).await.map(|Shown(credential)| credential)
    }

    async fn inject(&self, service: &ServiceName) -> Held<SecretBytes> {
        let ask = Question::Inject { service: service.clone() };
        self.ask::<Shown<SecretBytes>>(ask, PATIENCE).await.map(|Shown(credential)| credential)
    }

    async fn read_all(&self) -> Held<Vec<Release>> {
        let rows: Vec<Released> = self.ask(Question::ReadAll {}, PATIENCE).await?;
        Ok(rows.into_iter().map(Release::from).collect())
    }

    async fn list(&self) -> Held<Listing> {
        self.ask(Question::List {}, PATIENCE).await
    }

    async fn request_access(&self, service: &ServiceName, reason: Option<&Reason>) -> Held<Access> {
        let (service, reason) = (service.clone(), reason.cloned());
        self.ask(Question::RequestAccess { service, reason }, PATIENCE).await
    }

    async fn provision(
        &self,
        service: &ServiceName,
        reason: Option<&Reason>,
    ) -> Held<Provisioning> {
        let (service, reason) = (service.clone(), reason.cloned());
        self.ask(Question::Provision { service, reason }, PROVISION_PATIENCE).await
    }

    async fn http_request(&self, ask: &HttpAsk) -> Held<HttpAnswer> {
        self.ask(Question::HttpRequest { request: Box::new(ask.clone()) }, REQUEST_PATIENCE).await
    }

    async fn rotate(&self) -> Held<Waiting> {
        self.ask(Question::Rotate {}, PATIENCE).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_is_read_whole_over_many_pieces_and_never_past_its_limit() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let long = vec![b'x'; FIRST_BUFFER * 3 + 5];
        let sent = [&long[..], b"\nmore"].concat();
        let writer = tokio::spawn(async move {
            for piece in sent.chunks(1000) {
                theirs.write_all(piece).await.unwrap();
            }
            theirs
        });
        let line = read_line(&mut ours, MAX_REPLY).await.unwrap().unwrap();
        assert!(*line == long);
        drop(writer.await.unwrap());

        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&[b'x'; 5001]).await.unwrap();
        let refused = read_line(&mut ours, 5000).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::FileTooLarge);

        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"half a line").await.unwrap();
        drop(theirs);
        assert!(read_line(&mut ours, 100).await.unwrap().is_none());
    }
}
