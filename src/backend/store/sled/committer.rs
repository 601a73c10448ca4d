//! The one thread that writes: it groups commits, makes them durable, and answers.
//!
//! Owns the order of commits and the recovery from every failure of the disk. Must never answer `Ok`
//! for what is not behind a disk barrier, and must never be left by a panic.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::sled::{Batch, Db, IVec};
use tokio::sync::{mpsc, oneshot};

use super::layout::{self, Entry, HEAD, Head, PieceId, UserKey};
use super::mark::Mark;
use super::place::Place;
use super::view::{Changes, caught, explain};
use super::watchdog::Watchdog;
use super::{Shared, write_lock};
use crate::backend::store::{Check, CommitError, StoreError, Write};
use crate::harden::durability;

/// Stop adding commits to a group past this many bytes.
const GROUP_BYTES: usize = 1024 * 1024;
/// Stop adding commits to a group at this many.
const GROUP_COMMITS: usize = 1024;
/// The least time between two attempts to open the tree again.
const RETRY: Duration = Duration::from_millis(100);

pub enum Message {
    Commit(Request),
    Close(oneshot::Sender<()>),
}

/// A commit and where its answer goes.
pub struct Request {
    pub checks: Vec<Check>,
    pub writes: Vec<Write>,
    pub bytes: usize,
    pub answer: oneshot::Sender<Result<(), CommitError>>,
}

/// Why the tree must be opened again before the next commit.
struct Trouble {
    error: StoreError,
    next_try: Instant,
    /// The group that failed, by what it replaced: some, all or none of it is on disk.
    in_doubt: Changes,
}

pub struct Committer {
    shared: Arc<Shared>,
    place: Place,
    watchdog: Watchdog,
    mark: Mark,
    head: Head,
    trouble: Option<Trouble>,
    complained: Option<StoreError>,
}

impl Committer {
    /// Takes over an open tree, and proves with one write that its writes reach the disk.
    ///
    /// # Errors
    /// [`StoreError::NoBarrier`] when they do not, or what keeps the write from the disk.
    pub fn start(
        shared: Arc<Shared>,
        place: Place,
        fresh_id: [u8; 16],
    ) -> Result<Self, StoreError> {
        let (mark, marked) = Mark::open(place.dir())?;
        let mut committer = Self {
            shared,
            place,
            mark,
            watchdog: Watchdog::start()
                .map_err(|error| StoreError::io("the store gets no thread", &error))?,
            head: Head { id: fresh_id, sequence: 0 },
            trouble: None,
            complained: None,
        };
        committer.place.check_room(0)?;
        let db = committer.db()?;
        caught(|| {
            let found = read_head(&db)?;
            match found {
                Some(head) => committer.head = head,
                None if db.is_empty() => {}
                None => return Err(StoreError::Damaged("its head entry is missing")),
            }
            Mark::compare(marked, found)?;
            committer.mark.begin(committer.place.dir(), committer.head)?;
            committer.write(Changes::new(), Changes::new())
        })?;
        Ok(committer)
    }

    /// Serves commits until the store is closed or dropped.
    pub fn run(mut self, mut queue: mpsc::Receiver<Message>) {
        let mut closing = None;
        while closing.is_none()
            && let Some(message) = queue.blocking_recv()
        {
            let mut group = Vec::new();
            let mut bytes = 0;
            let mut next = Some(message);
            while let Some(message) = next {
                match message {
                    Message::Close(done) => {
                        closing = Some(done);
                        break;
                    }
                    // Whoever has given up waiting was told that the outcome is unknown; not doing
                    // it is the better of the two.
                    Message::Commit(request) if request.answer.is_closed() => {}
                    Message::Commit(request) => {
                        bytes += request.bytes;
                        group.push(request);
                    }
                }
                let full = bytes >= GROUP_BYTES || group.len() >= GROUP_COMMITS;
                next = if full { None } else { queue.try_recv().ok() };
            }
            self.shared.group_started();
            self.serve(group, bytes);
            self.shared.group_ended();
        }
        drop(queue);
        self.shared.drop_tree(StoreError::Closed);
        self.shared.watchers.wake_all();
        if let Some(done) = closing {
            // Nobody waits for it any more if this fails.
            let _ = done.send(());
        }
    }

    fn serve(&mut self, group: Vec<Request>, bytes: usize) {
        let outcome = self.ready(bytes).and_then(|()| match self.attempt(&group) {
            Err((error, in_doubt)) => {
                let error = self.place.with_figures(error);
                let next_try = Instant::now();
                self.trouble = Some(Trouble { error: error.clone(), next_try, in_doubt });
                Err(error)
            }
            Ok(verdicts) => Ok(verdicts),
        });
        self.log(outcome.as_ref().err());
        match outcome {
            Ok(verdicts) => {
                for (request, verdict) in group.iter().zip(&verdicts) {
                    if verdict.is_ok() {
                        self.shared.watchers.wake(request.writes.iter().map(Write::key));
                    }
                }
                // Nobody waits for an answer any more if sending it fails.
                for (request, verdict) in group.into_iter().zip(verdicts) {
                    let _ = request.answer.send(verdict);
                }
            }
            Err(error) => {
                for request in group {
                    let _ = request.answer.send(Err(CommitError::Store(error.clone())));
                }
            }
        }
    }

    /// Logs a condition when it begins and when it ends, not for each commit in between.
    fn log(&mut self, error: Option<&StoreError>) {
        let kind = |error: &StoreError| std::mem::discriminant(error);
        if error.map(kind) != self.complained.as_ref().map(kind) {
            let dir = self.place.dir().display();
            match error {
                Some(error) => tracing::error!(%dir, %error, "the store refuses commits"),
                None => tracing::info!(%dir, "the store accepts commits again"),
            }
            self.complained = error.cloned();
        }
    }

    fn ready(&mut self, bytes: usize) -> Result<(), StoreError> {
        self.place.check()?;
        self.place.check_room(bytes)?;
        let Some(trouble) = &mut self.trouble else { return Ok(()) };
        if Instant::now() < trouble.next_try {
            return Err(trouble.error.clone());
        }
        trouble.next_try = Instant::now() + RETRY;
        let undo = std::mem::take(&mut trouble.in_doubt);
        let recovered = caught(|| self.recover(&undo));
        match (recovered, &mut self.trouble) {
            (Err(error), Some(trouble)) => {
                let error = self.place.with_figures(error);
                trouble.in_doubt = undo;
                trouble.error = error.clone();
                Err(error)
            }
            _ => {
                self.trouble = None;
                Ok(())
            }
        }
    }

    /// Opens the tree again and brings it to exactly the last durable group.
    fn recover(&mut self, undo: &Changes) -> Result<(), StoreError> {
        let error = self.trouble.as_ref().map_or(StoreError::Closed, |t| t.error.clone());
        self.shared.drop_tree(error);
        let db = self.place.reopen()?;
        caught(|| {
            let found = read_head(&db)?.ok_or(StoreError::Damaged("its head entry is missing"))?;
            if found == self.head {
                // Nothing of the failed group was found. Its place in the log may hold half of it
                // all the same, so the next line's barrier is needed in this case too.
                return self.barrier(&db, &[(HEAD.to_vec(), Some(self.head.encode()))].into());
            }
            let failed = Head { sequence: self.head.sequence + 1, ..self.head };
            if found != failed || undo.is_empty() {
                return Err(StoreError::Damaged("it is not as its last commit left it"));
            }
            // The group reached the disk though its callers were told that it did not.
            self.barrier(&db, undo)?;
            match read_head(&db)? {
                Some(head) if head == self.head => Ok(()),
                _ => Err(StoreError::Damaged("a failed commit cannot be taken back")),
            }
        })?;
        let mut view = write_lock(&self.shared.view);
        view.db = Some(db);
        view.undo.clear();
        drop(view);
        // A waiter may have missed nothing, or its reads failed meanwhile: let all look again.
        self.shared.watchers.wake_all();
        Ok(())
    }

    fn db(&self) -> Result<Db, StoreError> {
        let view = super::read_lock(&self.shared.view);
        view.db.clone().ok_or_else(|| view.why.clone())
    }

    /// Commits a group: gives each commit's own verdict, or the error that all of them share and
    /// what the group had replaced by then.
    #[allow(clippy::type_complexity)]
    fn attempt(
        &mut self,
        group: &[Request],
    ) -> Result<Vec<Result<(), CommitError>>, (StoreError, Changes)> {
        let result = caught(|| {
            let db = self.db()?;
            let mut plan = Plan::new(&db, self.head.sequence + 1);
            let mut verdicts = Vec::with_capacity(group.len());
            for request in group {
                verdicts.push(match plan.first_failed(&request.checks)? {
                    Some(key) => Err(CommitError::Conflict { key: key.to_vec() }),
                    None => {
                        plan.add(&request.writes)?;
                        Ok(())
                    }
                });
            }
            if !plan.changes.is_empty() {
                self.write(plan.changes, plan.replaced)?;
            }
            Ok(verdicts)
        });
        // Readers go on without the failed group for as long as its undo stays in the view.
        result.map_err(|error| (error, super::read_lock(&self.shared.view).undo.clone()))
    }

    /// Makes one group durable. Until it is, readers are shown what it replaces; `undo` has what is
    /// known of that already.
    fn write(&mut self, mut changes: Changes, mut undo: Changes) -> Result<(), StoreError> {
        let db = self.db()?;
        let head = Head { sequence: self.head.sequence + 1, ..self.head };
        changes.insert(HEAD.to_vec(), Some(head.encode()));
        for key in changes.keys() {
            if !undo.contains_key(key) {
                undo.insert(key.clone(), db.get(key).map_err(|error| explain(&error))?);
            }
        }
        write_lock(&self.shared.view).undo = undo;
        self.barrier(&db, &changes)?;
        self.head = head;
        self.mark.advance(head);
        let done = std::mem::take(&mut write_lock(&self.shared.view).undo);
        drop(done);
        Ok(())
    }

    /// Writes the changes as one batch, and returns when the kernel says that they are on disk.
    fn barrier(&self, db: &Db, changes: &Changes) -> Result<(), StoreError> {
        let before = durability::barriers();
        let mut batch = Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(&key[..], value.clone()),
                None => batch.remove(&key[..]),
            }
        }
        durability::expect_pair();
        self.watchdog
            .over(db, || db.apply_batch(batch).and_then(|()| db.flush()))
            .map_err(|error| explain(&error))?;
        if durability::barriers() == before { Err(StoreError::NoBarrier) } else { Ok(()) }
    }
}

/// A group of commits, as changes to the tree.
struct Plan<'a> {
    db: &'a Db,
    changes: Changes,
    /// What the tree holds under some of the changed keys; all of them are in `changes`.
    replaced: Changes,
    next_piece: PieceId,
}

impl<'a> Plan<'a> {
    fn new(db: &'a Db, sequence: u64) -> Self {
        Self {
            db,
            changes: Changes::new(),
            replaced: Changes::new(),
            next_piece: PieceId { sequence, number: 0 },
        }
    }

    fn raw(&self, key: &[u8]) -> Result<Option<IVec>, StoreError> {
        match self.changes.get(key) {
            Some(planned) => Ok(planned.clone()),
            None => self.db.get(key).map_err(|error| explain(&error)),
        }
    }

    /// Gives the key of the first check that does not hold after what is planned so far.
    fn first_failed<'k>(&self, checks: &'k [Check]) -> Result<Option<&'k [u8]>, StoreError> {
        for check in checks {
            let raw = self.raw(UserKey::new(check.key())?.as_ref())?;
            let holds = match raw.as_deref() {
                None => check.holds(None),
                Some(raw) => match Entry::decode(raw)? {
                    Entry::Whole(value) => check.holds(Some(value)),
                    Entry::Split { .. } => {
                        check.holds(Some(&layout::decode(raw, |piece| self.raw(piece))?))
                    }
                },
            };
            if !holds {
                return Ok(Some(check.key()));
            }
        }
        Ok(None)
    }

    fn add(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        for write in writes {
            let key = UserKey::new(write.key())?.as_ref().to_vec();
            let old = self.raw(&key)?;
            if !self.changes.contains_key(&key) {
                self.replaced.insert(key.clone(), old.clone());
            }
            if let Some(old) = old {
                for piece in Entry::decode(&old)?.pieces() {
                    self.changes.insert(piece, None);
                }
            }
            let entry = match write {
                Write::Delete(_) => None,
                Write::Put(_, value) => {
                    let id = self.next_piece;
                    self.next_piece.number += 1;
                    let changes = &mut self.changes;
                    Some(layout::encode(value, id, |key, piece| {
                        changes.insert(key, Some(piece));
                    }))
                }
            };
            self.changes.insert(key, entry);
        }
        Ok(())
    }
}

fn read_head(db: &Db) -> Result<Option<Head>, StoreError> {
    let raw = db.get(HEAD).map_err(|error| explain(&error))?;
    raw.map(|raw| Head::decode(&raw)).transpose()
}
