//! Answers questions to a session's holder over its Unix socket, by the line protocol of
//! [`crate::core::holder`].
//!
//! Must never answer another user, hold more than it has limits for, repeat what it was sent, or
//! leave a credential behind in memory that it gives back.
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use zeroize::Zeroizing;

use crate::client::holder::NO_QUESTION;
use crate::core::holder::{Ask, Held, MAX_ASK, MAX_REPLY, Question, Refusal, Reply, SessionHolder};
use crate::core::problem::{Code, Problem};
use crate::core::wire::Released;
use crate::core::wire::Shown;
use crate::harden;

/// What one holder gives to all who ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Connections at a time. One more takes the place of the one that has been idle longest, if
    /// that is over [`Limits::grace`]; else it is told so and closed.
    pub connections: usize,
    /// How long no connection is closed in another's favour.
    pub grace: Duration,
    /// Questions at a time on one connection; the next one waits.
    pub at_once: usize,
    /// Questions that one connection may ask.
    pub questions: usize,
    /// How long a connection may take to its next whole question.
    pub idle: Duration,
    /// How long it may take to take an answer.
    pub taking: Duration,
    /// How long an answer may take.
    pub answer: Duration,
    /// How long one may take for which a key has to be got.
    pub provision: Duration,
    /// How long a request to a service may take.
    pub request: Duration,
    /// How long a wait for a change stands before it is answered all the same.
    pub change: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            grace: Duration::from_secs(1),
            at_once: 16,
            questions: 1000,
            idle: Duration::from_secs(30),
            taking: Duration::from_secs(10),
            answer: Duration::from_secs(60),
            provision: Duration::from_secs(240),
            request: Duration::from_secs(740),
            change: Duration::from_secs(25),
        }
    }
}

/// Answers everyone of this user who connects, until `stop` is there; then closes the listener
/// and every connection, and drops the calls that were under way.
pub async fn serve(
    holder: Arc<dyn SessionHolder>,
    listener: UnixListener,
    limits: Limits,
    stop: impl Future<Output = ()>,
) {
    let table = Table::default();
    let mut connections = JoinSet::new();
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) if is_ours(&stream) => {
                let Some(place) = table.admit(limits.connections, limits.grace) else {
                    // It fits into the socket's own buffer.
                    let _ = stream.try_write(&reply::<()>(NO_QUESTION, Err(busy().into())));
                    continue;
                };
                let (holder, number) = (holder.clone(), place.number);
                let talk = async move { converse(stream, holder, limits, &place).await };
                table.started(number, connections.spawn(talk));
            }
            Ok(_) => {}
            // Out of descriptors: others will be closed meanwhile.
            Err(error) => {
                tracing::warn!(%error, "a connection to the socket could not be accepted");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    connections.shutdown().await;
}

/// Whether this very user is at the other end, as the kernel says.
fn is_ours(stream: &UnixStream) -> bool {
    let us = harden::effective_uid();
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == us => true,
        Ok(peer) => {
            let (uid, pid) = (peer.uid(), peer.pid());
            tracing::warn!(uid, pid, "another user connected to the socket, and was turned away");
            false
        }
        Err(error) => {
            tracing::warn!(%error, "nobody knows who connected to the socket; turned away");
            false
        }
    }
}

fn busy() -> Problem {
    let cause = "it has as many connections as it takes";
    let problem = Problem::new(Code::Unavailable, "the daemon is busy", cause, "try again");
    problem.retry_after(1)
}

/// Who is connected, and since when without a question.
#[derive(Clone, Default)]
struct Table(Arc<Mutex<Rows>>);

#[derive(Default)]
struct Rows {
    next: u64,
    rows: HashMap<u64, Row>,
}

struct Row {
    idle_since: Option<Instant>,
    task: Option<AbortHandle>,
}

/// A connection's place in the table, free again when this is dropped.
struct Place {
    table: Table,
    number: u64,
}

impl Table {
    fn rows(&self) -> MutexGuard<'_, Rows> {
        // Nothing in here can panic half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(&self, most: usize, grace: Duration) -> Option<Place> {
        let mut table = self.rows();
        if table.rows.len() >= most {
            let idle = |(number, row): (&u64, &Row)| Some((row.idle_since?, *number));
            let (since, longest) = table.rows.iter().filter_map(idle).min()?;
            if since.elapsed() < grace {
                return None;
            }
            if let Some(task) = table.rows.remove(&longest).and_then(|row| row.task) {
                task.abort();
            }
        }
        table.next += 1;
        let number = table.next;
        table.rows.insert(number, Row { idle_since: Some(Instant::now()), task: None });
        Some(Place { table: self.clone(), number })
    }

    fn started(&self, number: u64, task: AbortHandle) {
        if let Some(row) = self.rows().rows.get_mut(&number) {
            row.task = Some(task);
        }
    }
}

impl Place {
    fn idle_since(&self, since: Option<Instant>) {
        if let Some(row) = self.table.rows().rows.get_mut(&self.number) {
            row.idle_since = since;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.rows().rows.remove(&self.number);
    }
}

/// One connection, to its end. When the other side closes it, the answers that it waits for are
/// not worked out any further.
async fn converse(
    stream: UnixStream,
    holder: Arc<dyn SessionHolder>,
    limits: Limits,
    place: &Place,
) {
    let (reader, mut writer) = stream.into_split();
    let mut lines = Lines::new(reader);
    let mut calls = JoinSet::new();
    let mut asked = 0;
    let mut active = Instant::now();
    loop {
        let idle = calls.is_empty();
        place.idle_since(idle.then_some(active));
        tokio::select! {
            line = lines.next(), if calls.len() < limits.at_once => {
                active = Instant::now();
                let ask = match line {
                    Ok(Some(_)) if asked == limits.questions => {
                        Err(unreadable("the connection has asked as much as one may"))
                    }
                    Ok(Some(line)) => serde_json::from_slice::<Ask>(line).map_err(|error| {
                        // In words of ours: serde's repeat what stands there.
                        unreadable(format!("it is no question, at column {}", error.column()))
                    }),
                    Ok(None) => return,
                    Err(TooLong) => Err(too_long()),
                };
                match ask {
                    Ok(ask) => {
                        asked += 1;
                        let holder = holder.clone();
                        calls.spawn(async move { answer(&*holder, ask, limits).await });
                    }
                    // What comes after it may not be what its sender takes it for.
                    Err(problem) => {
                        let refusal = reply::<()>(NO_QUESTION, Err(problem.into()));
                        send(&mut writer, &refusal, limits.taking).await;
                        return;
                    }
                }
            }
            Some(answered) = calls.join_next() => {
                let Ok(line) = answered else { return };
                if !send(&mut writer, &line, limits.taking).await {
                    return;
                }
                active = Instant::now();
            }
            () = sleep_until(active + limits.idle), if idle => return,
        }
    }
}

async fn send(writer: &mut OwnedWriteHalf, line: &[u8], limit: Duration) -> bool {
    matches!(timeout(limit, writer.write_all(line)).await, Ok(Ok(())))
}

/// Size of the first buffer for questions, in bytes.
const FIRST_BUFFER: usize = 4 * 1024;

/// A line over the limit.
#[derive(Debug)]
struct TooLong;

/// The lines of a connection. Holds questions only, which are no secrets.
struct Lines {
    reader: OwnedReadHalf,
    /// As long as the longest line so far: most are short.
    buffer: Vec<u8>,
    filled: usize,
    taken: usize,
}

impl Lines {
    fn new(reader: OwnedReadHalf) -> Self {
        Self { reader, buffer: vec![0; FIRST_BUFFER], filled: 0, taken: 0 }
    }

    /// The next line without its end; `None` when the other side has closed the connection.
    /// Cancel safe.
    async fn next(&mut self) -> Result<Option<&[u8]>, TooLong> {
        self.buffer.copy_within(self.taken..self.filled, 0);
        self.filled -= std::mem::take(&mut self.taken);
        loop {
            if let Some(end) = self.buffer[..self.filled].iter().position(|byte| *byte == b'\n') {
                self.taken = end + 1;
                return Ok(Some(&self.buffer[..end]));
            }
            if self.filled > MAX_ASK {
                return Err(TooLong);
            }
            if self.filled == self.buffer.len() {
                self.buffer.resize((self.filled * 2).min(MAX_ASK + 1), 0);
            }
            match self.reader.read(&mut self.buffer[self.filled..]).await {
                Ok(0) | Err(_) => return Ok(None),
                Ok(read) => self.filled += read,
            }
        }
    }
}

fn unreadable(why: impl Into<String>) -> Problem {
    let fix = "send one JSON object a line, as core/holder.rs has it";
    Problem::new(Code::Invalid, "the line was not understood", why, fix)
}

fn too_long() -> Problem {
    let cause = format!("a question has at most {MAX_ASK} bytes");
    Problem::new(Code::TooLarge, "the line is too long", cause, "send one JSON object a line")
}

/// Asks the holder, and writes its answer down.
async fn answer(
    holder: &dyn SessionHolder,
    Ask { id, ask }: Ask,
    limits: Limits,
) -> Zeroizing<Vec<u8>> {
    let limit = match ask {
        Question::Provision { .. } => limits.provision,
        Question::HttpRequest { .. } => limits.request,
        _ => limits.answer,
    };
    let answer = async {
        match ask {
            Question::Standing {} => reply(id, holder.standing().await),
            Question::Changed { seen } => {
                let changed = timeout(limits.change, holder.changed(seen)).await;
                reply(id, changed.unwrap_or(Ok(seen)))
            }
            Question::Read { service } => reply(id, holder.read(&service).await.map(Shown)),
            Question::Inject { service } => reply(id, holder.inject(&service).await.map(Shown)),
            Question::ReadAll {} => {
                let rows = |all: Vec<_>| all.into_iter().map(Released::from).collect::<Vec<_>>();
                reply(id, holder.read_all().await.map(rows))
            }
            Question::List {} => reply(id, holder.list().await),
            Question::RequestAccess { service, reason } => {
                reply(id, holder.request_access(&service, reason.as_ref()).await)
            }
            Question::Provision { service, reason } => {
                reply(id, holder.provision(&service, reason.as_ref()).await)
            }
            Question::HttpRequest { request } => reply(id, holder.http_request(&request).await),
            Question::Rotate {} => reply(id, holder.rotate().await),
        }
    };
    timeout(limit, answer).await.unwrap_or_else(|_| reply::<()>(id, Err(late(limit))))
}

fn late(limit: Duration) -> Refusal {
    let cause = format!("it had {} seconds", limit.as_secs());
    let detail = "the daemon did not come to an answer";
    Problem::new(Code::Unavailable, detail, cause, "try again; agentkeys doctor").into()
}

/// An answer as a line. It is counted before it is written, so that no copy of it is left where
/// the buffer grew, and wiped when it is dropped.
fn reply<T: Serialize>(id: u64, held: Held<T>) -> Zeroizing<Vec<u8>> {
    let whole = match held {
        Ok(ok) => Reply { id, ok: Some(ok), refused: None },
        Err(refusal) => Reply { id, ok: None, refused: Some(refusal) },
    };
    if let Some(line) = line(&whole) {
        return line;
    }
    let cause = format!("an answer has at most {MAX_REPLY} bytes");
    let fix = "ask for one service at a time";
    let problem = Problem::new(Code::TooLarge, "the answer is too large", cause, fix);
    let refused = Reply::<()> { id, ok: None, refused: Some(problem.into()) };
    line(&refused).unwrap_or_default()
}

fn line<T: Serialize>(reply: &Reply<T>) -> Option<Zeroizing<Vec<u8>>> {
    let mut size = Counted(0);
    serde_json::to_writer(&mut size, reply).ok()?;
    if size.0 >= MAX_REPLY {
        return None;
    }
    let mut line = Zeroizing::new(Vec::with_capacity(size.0 + 1));
    serde_json::to_writer(&mut *line, reply).ok()?;
    line.push(b'\n');
    Some(line)
}

/// Counts what would be written.
struct Counted(usize);

impl io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::secret::SecretBytes;

    #[test]
    fn an_answer_that_is_too_large_is_a_refusal_that_says_so() {
        let fits = SecretBytes::new(vec![b'x'; 65_536]);
        let line = reply(7, Ok(Shown(fits)));
        assert!(line.starts_with(br#"{"id":7,"ok":"eHh4"#) && line.ends_with(b"\"}\n"));
        assert_eq!(line.len(), line.capacity());
        let large = SecretBytes::new(vec![b'x'; MAX_REPLY]);
        let line = reply(8, Ok(Shown(large)));
        let line = std::str::from_utf8(&line).unwrap();
        assert!(line.starts_with(r#"{"id":8,"refused""#) && line.contains("TOO_LARGE"), "{line}");
    }

    #[tokio::test]
    async fn the_one_that_has_been_idle_longest_gives_way_and_a_busy_one_does_not() {
        let table = Table::default();
        let (now, grace) = (Instant::now(), Duration::from_secs(3));
        let before = |seconds| now.checked_sub(Duration::from_secs(seconds));
        let places: Vec<Place> = (0..3).map(|_| table.admit(3, grace).unwrap()).collect();
        assert!(table.admit(3, grace).is_none());
        places[0].idle_since(None);
        places[1].idle_since(before(4));
        places[2].idle_since(before(5));
        let fourth = table.admit(3, grace).unwrap();
        let there: Vec<bool> =
            places.iter().map(|place| table.rows().rows.contains_key(&place.number)).collect();
        assert_eq!(there, [true, true, false]);
        for place in [&places[1], &fourth] {
            place.idle_since(None);
        }
        assert!(table.admit(3, Duration::ZERO).is_none());
        drop(places);
        assert!(table.admit(3, grace).is_some());
    }
}
