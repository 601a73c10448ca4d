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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Mutex, PoisonError};

    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::backend::clock::Entropy;
    use crate::backend::store::{Check, KeyRange, StoreError, Value, Watch, Watchers, Write};
    use crate::backend::vault::journal::{Journal, Proposal};

    type Verdict = Result<(), CommitError>;

    /// A store in memory whose commits wait until the test says what becomes of them.
    struct Held {
        rows: Mutex<BTreeMap<Vec<u8>, Value>>,
        arrived: mpsc::UnboundedSender<oneshot::Sender<Verdict>>,
    }

    impl Held {
        fn rows(&self) -> std::sync::MutexGuard<'_, BTreeMap<Vec<u8>, Value>> {
            self.rows.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    #[async_trait::async_trait]
    impl Store for Held {
        async fn get(&self, key: &[u8]) -> Result<Option<Value>, StoreError> {
            Ok(self.rows().get(key).cloned())
        }

        async fn scan(
            &self,
            range: KeyRange,
            limit: usize,
        ) -> Result<Vec<(Vec<u8>, Value)>, StoreError> {
            let within = |key: &[u8]| range.end.as_deref().is_none_or(|end| key < end);
            let rows = self.rows();
            let found = rows.range(range.start.clone()..).filter(|(key, _)| within(key));
            Ok(found.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
        }

        async fn commit(&self, checks: Vec<Check>, writes: Vec<Write>) -> Verdict {
            let (say, said) = oneshot::channel();
            self.arrived.send(say).expect("the test listens");
            said.await.expect("the test says")?;
            let mut rows = self.rows();
            for check in checks {
                let found = rows.get(check.key());
                let holds = match &check {
                    Check::Absent(_) => found.is_none(),
                    Check::Equals(_, value) => found == Some(value),
                };
                if !holds {
                    return Err(CommitError::Conflict { key: check.key().to_vec() });
                }
            }
            for write in writes {
                match write {
                    Write::Put(key, value) => rows.insert(key, value),
                    Write::Delete(key) => rows.remove(&key),
                };
            }
            Ok(())
        }

        fn watch(&self, key: &[u8]) -> Watch {
            Watchers::default().register(key)
        }
    }

    struct Bench {
        store: Arc<Held>,
        cells: Arc<Cells>,
        journal: Journal,
        arrived: mpsc::UnboundedReceiver<oneshot::Sender<Verdict>>,
    }

    impl Bench {
        async fn new() -> Self {
            let (sender, mut arrived) = mpsc::unbounded_channel();
            let store = Arc::new(Held { rows: Mutex::default(), arrived: sender });
            let cells = Arc::new(Cells::new(&[7; 32], &Entropy::system()).unwrap());
            let opening = Journal::open(store.clone(), cells.clone(), BackendId([1; 16]), vec![]);
            let first = async { arrived.recv().await.unwrap().send(Ok(())) };
            let (journal, _) = tokio::join!(opening, first);
            Self { store, cells, journal: journal.unwrap(), arrived }
        }

        /// Proposes to put `key`, on condition of `check`; it is taken in when this returns.
        async fn propose(&self, check: Check, key: &[u8]) -> JoinHandle<Result<(), Refused>> {
            let put = Write::Put(key.to_vec(), Value::from_static(b"new"));
            let proposal =
                Proposal { checks: vec![check], writes: vec![put], ..Proposal::default() };
            let journal = self.journal.clone();
            let proposed = tokio::spawn(async move { journal.commit(proposal).await });
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
            proposed
        }

        async fn next_commit(&mut self) -> oneshot::Sender<Verdict> {
            self.arrived.recv().await.expect("a commit")
        }

        /// The keys that the test put, once the digest over all rows was found right.
        async fn keys(&mut self) -> Vec<Vec<u8>> {
            let again = Journal::open(
                self.store.clone(),
                self.cells.clone(),
                BackendId([1; 16]),
                Vec::new(),
            );
            assert!(again.await.is_ok(), "the digest is not that of the rows");
            let head = keys::head();
            self.store.rows().keys().filter(|key| **key != head).cloned().collect()
        }
    }

    const A: &[u8] = b"\xf0a";
    const B: &[u8] = b"\xf0b";
    const C: &[u8] = b"\xf0c";

    fn new(key: &[u8]) -> Check {
        Check::Equals(key.to_vec(), Value::from_static(b"new"))
    }

    fn absent(key: &[u8]) -> Check {
        Check::Absent(key.to_vec())
    }

    #[tokio::test]
    async fn the_next_group_rests_on_the_one_under_way_and_waits_for_it() {
        let mut bench = Bench::new().await;
        let a = bench.propose(absent(A), A).await;
        let first = bench.next_commit().await;
        let b = bench.propose(new(A), B).await;
        let c = bench.propose(absent(A), C).await;
        assert!(bench.arrived.try_recv().is_err(), "the second left before the first had landed");
        assert!(!a.is_finished() && !b.is_finished());
        assert!(!c.is_finished(), "a refusal was told that rests on what is not on disk");
        first.send(Ok(())).unwrap();
        let second = bench.next_commit().await;
        assert!(a.await.unwrap().is_ok());
        assert!(!b.is_finished() && !c.is_finished());
        second.send(Ok(())).unwrap();
        assert!(b.await.unwrap().is_ok());
        assert!(matches!(c.await.unwrap(), Err(Refused::Conflict)));
        assert_eq!(bench.keys().await, [A, B]);
    }

    #[tokio::test]
    async fn what_rests_on_a_group_that_failed_is_decided_again() {
        let mut bench = Bench::new().await;
        let a = bench.propose(absent(A), A).await;
        let first = bench.next_commit().await;
        let b = bench.propose(new(A), B).await;
        let c = bench.propose(absent(A), C).await;
        first.send(Err(StoreError::Closed.into())).unwrap();
        let second = bench.next_commit().await;
        assert!(matches!(a.await.unwrap(), Err(Refused::Store(StoreError::Closed))));
        second.send(Ok(())).unwrap();
        assert!(matches!(b.await.unwrap(), Err(Refused::Conflict)));
        assert!(c.await.unwrap().is_ok());
        assert_eq!(bench.keys().await, [C]);
    }

    #[tokio::test]
    async fn a_group_that_another_server_overtook_starts_over_in_its_order() {
        let mut bench = Bench::new().await;
        let a = bench.propose(absent(A), A).await;
        let first = bench.next_commit().await;
        let b = bench.propose(new(A), B).await;
        first.send(Err(CommitError::Conflict { key: keys::head() })).unwrap();
        bench.next_commit().await.send(Ok(())).unwrap();
        assert!(a.await.unwrap().is_ok() && b.await.unwrap().is_ok());
        assert_eq!(bench.keys().await, [A, B]);
    }
}
