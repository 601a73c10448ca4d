//! The task behind the journal: one group is on its way to the disk while the next is put together.
//!
//! The next group is made on top of the one under way, and is handed to the store only once that
//! one is durable. If it fails, the next group is taken apart, and its proposals are looked at
//! again on what is on disk. Must never answer anybody before all that the answer rests on is on
//! disk: a refusal, too, may rest on the commit under way.
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::sync::mpsc;

use super::cells::Cells;
use super::fence::Fences;
use super::group::{Closed, Effect, Ground, Group, Head, Waiting};
use super::journal::{Ends, Refused, publish};
use super::keys;
use super::rows::HeadRow;
use crate::backend::store::{CommitError, Store};
use crate::core::types::BackendId;

/// How often in a row groups start over because another server committed first.
const MAX_RESTARTS: usize = 64;

/// The store's answer to a commit.
type Landing = Pin<Box<dyn Future<Output = Result<(), CommitError>> + Send>>;

/// A group on its way to the disk.
struct Flight {
    group: Group,
    /// The head that is on disk when it has landed.
    head: Head,
    landing: Landing,
    /// What became of it, if that was known at once.
    landed: Option<Result<(), CommitError>>,
}

impl Flight {
    /// Hands the commit to the store: nothing happens to it before.
    async fn set_off(&mut self) {
        self.landed = poll_fn(|context| match self.landing.as_mut().poll(context) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending => Poll::Ready(None),
        })
        .await;
    }

    fn under_way(&self) -> (&Head, &Effect) {
        (&self.head, self.group.effect())
    }
}

/// The task's state.
pub struct Sequencer {
    pub store: Arc<dyn Store>,
    pub cells: Arc<Cells>,
    pub backend_id: BackendId,
    /// The head as it is on disk; `None` when it must be read again.
    pub head: Option<Head>,
    pub ends: Ends,
    pub fences: Arc<Fences>,
    /// The highest batch that this process has committed.
    pub last: u64,
}

enum Happened {
    Landed(Result<(), CommitError>),
    Came(Waiting),
    Ended,
}

impl Sequencer {
    /// Serves proposals until the last [`super::journal::Journal`] is gone.
    pub async fn run(mut self, mut queue: mpsc::Receiver<Waiting>) {
        let mut flight: Option<Flight> = None;
        let mut open: Option<Group> = None;
        // What found no room, or starts over; it comes before the queue.
        let mut backlog = VecDeque::new();
        let mut restarts = 0;
        let mut ended = false;
        loop {
            let happened = tokio::select! {
                biased;
                result = landed(&mut flight), if flight.is_some() => Happened::Landed(result),
                next = queue.recv(), if backlog.is_empty() && !ended => {
                    next.map_or(Happened::Ended, Happened::Came)
                }
                else => return,
            };
            let mut done = None;
            match happened {
                Happened::Came(next) => backlog.push_back(next),
                Happened::Ended => ended = true,
                Happened::Landed(result) => {
                    let Some(Flight { group, head, .. }) = flight.take() else { continue };
                    if result.is_ok() {
                        restarts = 0;
                        self.settle(&group, head);
                        // The next group's way to the disk begins before these are answered.
                        done = Some(group);
                    } else {
                        self.head = None;
                        let next = open.take().map(Group::waiting).unwrap_or_default();
                        next.into_iter().rev().for_each(|one| backlog.push_front(one));
                        match result {
                            Err(CommitError::Conflict { .. }) if restarts < MAX_RESTARTS => {
                                restarts += 1;
                                let again = group.waiting().into_iter().rev();
                                again.for_each(|one| backlog.push_front(one));
                            }
                            Err(CommitError::Store(error)) => fail(group, &error.into()),
                            _ => {
                                restarts = 0;
                                fail(group, &Refused::Conflict);
                            }
                        }
                    }
                }
            }
            loop {
                let under_way = flight.as_ref().map(Flight::under_way);
                self.fill(&mut open, under_way, &mut backlog, &mut queue).await;
                if flight.is_some() {
                    break;
                }
                if open.is_some() {
                    // Requests that are ready to be proposed now share this group's barrier, as far
                    // as one turn brings them.
                    tokio::task::yield_now().await;
                    self.fill(&mut open, None, &mut backlog, &mut queue).await;
                }
                let Some(group) = open.take() else { break };
                flight = self.launch(group).await;
            }
            if let Some(group) = done {
                group.answer();
            }
        }
    }

    /// Takes in what waits, as far as there is room.
    async fn fill(
        &mut self,
        open: &mut Option<Group>,
        under_way: Option<(&Head, &Effect)>,
        backlog: &mut VecDeque<Waiting>,
        queue: &mut mpsc::Receiver<Waiting>,
    ) {
        while let Some(next) = backlog.pop_front().or_else(|| queue.try_recv().ok()) {
            let mut group = match (open.take(), under_way) {
                (Some(group), _) => group,
                (None, Some((head, _))) => Group::after(head.clone()),
                (None, None) => match self.load_head().await {
                    Ok(head) => Group::after(head),
                    Err(refused) => {
                        next.answer(Err(refused));
                        continue;
                    }
                },
            };
            if !group.fits(&next.proposal) {
                backlog.push_front(next);
                *open = Some(group);
                return;
            }
            let ground = self.ground(under_way.map(|(_, effect)| effect));
            match group.admit(&ground, next).await {
                Ok(()) => *open = Some(group),
                Err(refused) => fail(group, &refused),
            }
        }
    }

    /// Sends a group on its way; `None` when it was answered at once.
    async fn launch(&self, mut group: Group) -> Option<Flight> {
        let Closed { checks, writes, head } = match group.close(&self.ground(None)).await {
            Ok(Some(closed)) => closed,
            Ok(None) => {
                group.answer();
                return None;
            }
            Err(refused) => {
                fail(group, &refused);
                return None;
            }
        };
        let store = self.store.clone();
        let landing = Box::pin(async move { store.commit(checks, writes).await });
        let mut flight = Flight { group, head, landing, landed: None };
        flight.set_off().await;
        Some(flight)
    }

    /// Notes what is on disk now.
    fn settle(&mut self, group: &Group, head: Head) {
        self.last = head.1.batch;
        self.head = Some(head);
        for (account, end) in &group.effect().chains {
            publish(&self.ends, *account, *end);
        }
        group.put_up(&self.fences);
    }

    fn ground<'a>(&'a self, under_way: Option<&'a Effect>) -> Ground<'a> {
        Ground {
            store: &*self.store,
            cells: &self.cells,
            backend_id: self.backend_id,
            ends: &self.ends,
            under_way,
        }
    }

    async fn load_head(&mut self) -> Result<Head, Refused> {
        if let Some(head) = &self.head {
            return Ok(head.clone());
        }
        let raw = self.store.get(&keys::head()).await?.ok_or(Refused::RolledBack)?;
        let row: HeadRow = self.cells.open(&keys::head(), &raw)?;
        if row.batch < self.last {
            return Err(Refused::RolledBack);
        }
        self.head = Some((raw.clone(), row.clone()));
        Ok((raw, row))
    }
}

/// Waits for the store's answer.
async fn landed(flight: &mut Option<Flight>) -> Result<(), CommitError> {
    match flight {
        Some(flight) => match flight.landed.take() {
            Some(result) => result,
            None => flight.landing.as_mut().await,
        },
        None => std::future::pending().await,
    }
}

fn fail(group: Group, refused: &Refused) {
    tracing::error!(error = %refused, "commit failed, nothing was released");
    group.refuse(refused);
}
