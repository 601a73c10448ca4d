//! The one way that anything is written: proposals in, group commits out.
//!
//! A proposal is checks, sealed writes and audit events. One task collects what waits,
//! evaluates each proposal's checks in order, chains the events, and commits the whole group at
//! once: state, events, chain ends and head are on disk together or not at all. The group is
//! conditional on the head row, so a second server on the same store makes it start over rather
//! than fork a chain.
//!
//! The head row carries a digest over all rows but events (an additive multiset hash of keyed
//! row hashes). Sealing notices a row that was changed or moved; the digest, checked at start,
//! notices one that was deleted or put back to an older state.
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, RwLock};

use tokio::sync::{mpsc, oneshot};

use super::cells::{CellError, Cells};
use super::fence::{Fence, Fences};
use super::keys;
use super::rows::{ChainRow, HeadRow};
use crate::backend::store::{
    Check, CommitError, KeyRange, MAX_SCAN, Store, StoreError, Value, Write,
};
use crate::core::audit::{Action, Actor, Event, GENESIS, Outcome};
use crate::core::cbor;
use crate::core::identity::ServiceName;
use crate::core::types::{AccountId, BackendId, Hash32, RequestId, Timestamp, WalletAddress};

/// Proposals that may wait before their callers do.
const QUEUE: usize = 4096;
/// Most proposals of one group.
const MAX_GROUP: usize = 512;
/// How often a group lets others run before it closes.
const MAX_TURNS: usize = 8;
/// Most checks and writes of one group, below the store's own limit.
const MAX_ITEMS: usize = 4096;
/// Most bytes of one group, below the store's own limit.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Chain ends kept in memory.
const MAX_CHAINS: usize = 16 * 1024;
/// How often a group starts over because another server committed first.
const MAX_RESTARTS: usize = 64;

/// An audit event before it has its place in the chain.
#[derive(Clone)]
pub struct Draft {
    pub account: AccountId,
    pub by: Actor,
    pub time: Timestamp,
    pub action: Action,
    pub outcome: Outcome,
    pub agent: Option<(WalletAddress, Option<String>)>,
    pub service: Option<ServiceName>,
    pub request: Option<RequestId>,
    pub detail: Option<String>,
    pub presence: String,
}

impl Draft {
    fn place(self, seq: u64, prev: Hash32) -> Event {
        let (agent, agent_name) =
            self.agent.map_or((None, None), |(agent, name)| (Some(agent), name));
        Event {
            by: self.by,
            seq,
            prev,
            time: self.time,
            agent,
            action: self.action,
            detail: self.detail,
            account: self.account,
            outcome: self.outcome,
            request: self.request,
            service: self.service,
            presence: self.presence,
            agent_name,
        }
    }
}

/// What is to happen, together or not at all.
#[derive(Default)]
pub struct Proposal {
    pub checks: Vec<Check>,
    pub writes: Vec<Write>,
    pub events: Vec<Draft>,
    /// What may never go back once this is committed.
    pub fences: Vec<Fence>,
}

impl Proposal {
    fn items(&self) -> usize {
        self.checks.len() + self.writes.len() + self.events.len()
    }

    /// What it adds to a commit. Checks are compared here and never sent to the store; their
    /// values are shared with what was read.
    fn bytes(&self) -> usize {
        let checks = self.checks.iter().map(|check| check.key().len());
        let writes = self.writes.iter().map(|write| match write {
            Write::Put(key, value) => key.len() + value.len(),
            Write::Delete(key) => key.len(),
        });
        checks.chain(writes).sum::<usize>() + self.events.len() * 1024
    }
}

/// Why a proposal did not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refused {
    /// Something it was built on has changed; look again and decide again.
    #[error("what it was built on has changed")]
    Conflict,
    /// The store cannot commit.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A row does not open.
    #[error(transparent)]
    Cell(#[from] CellError),
    /// It is larger than a commit may be.
    #[error("it is larger than one commit may be")]
    TooLarge,
    /// The store went back behind what this process committed.
    #[error("the store is older than what this process has committed")]
    RolledBack,
    /// The journal has ended.
    #[error("the backend is shutting down")]
    Closed,
}

struct Waiting {
    proposal: Proposal,
    answer: oneshot::Sender<Result<(), Refused>>,
}

/// The committed ends of the chains, for whoever signs heads.
pub type Ends = Arc<RwLock<HashMap<AccountId, ChainRow>>>;

/// A handle on the journal's task.
#[derive(Clone)]
pub struct Journal {
    queue: mpsc::Sender<Waiting>,
    ends: Ends,
    /// What this process has ended.
    pub fences: Arc<Fences>,
}

impl Journal {
    /// Checks the digest over all rows and starts the task. `first` holds the rows of a new
    /// store, and is used only if the store is empty.
    pub async fn open(
        store: Arc<dyn Store>,
        cells: Arc<Cells>,
        backend_id: BackendId,
        first: Vec<Write>,
    ) -> Result<Self, OpenError> {
        let head = match store.get(&keys::head()).await? {
            Some(raw) => {
                let row: HeadRow = cells.open(&keys::head(), &raw)?;
                verify_digest(&*store, &cells, &row).await?;
                (raw, row)
            }
            None => begin(&*store, &cells, first).await?,
        };
        let (queue, waiting) = mpsc::channel(QUEUE);
        let ends = Ends::default();
        let fences = Arc::new(Fences::default());
        let task = Task {
            store,
            cells,
            backend_id,
            head: Some(head),
            ends: ends.clone(),
            fences: fences.clone(),
            last: 0,
        };
        tokio::spawn(task.run(waiting));
        Ok(Self { queue, ends, fences })
    }

    /// Proposes a change; `Ok` means that all of it is on disk.
    pub async fn commit(&self, proposal: Proposal) -> Result<(), Refused> {
        if proposal.items() > MAX_ITEMS || proposal.bytes() > MAX_BYTES {
            return Err(Refused::TooLarge);
        }
        let (answer, answered) = oneshot::channel();
        self.queue.send(Waiting { proposal, answer }).await.map_err(|_| Refused::Closed)?;
        answered.await.map_err(|_| Refused::Closed)?
    }

    /// The committed end of an account's chain, if this process has seen it.
    pub fn end(&self, account: AccountId) -> Option<ChainRow> {
        self.ends.read().unwrap_or_else(|e| e.into_inner()).get(&account).copied()
    }

    /// Remembers a chain's end that was read from the store, unless a newer one is known.
    pub fn learn(&self, account: AccountId, end: ChainRow) {
        publish(&self.ends, account, end);
    }
}

fn publish(ends: &Ends, account: AccountId, end: ChainRow) {
    let mut ends = ends.write().unwrap_or_else(|e| e.into_inner());
    if ends.len() >= MAX_CHAINS && !ends.contains_key(&account) {
        ends.clear();
    }
    let known = ends.entry(account).or_insert(end);
    if end.seq > known.seq {
        *known = end;
    }
}

/// Why the journal does not start.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A row does not open.
    #[error("the store was altered outside of the backend, or the root key is another one: {0}")]
    Cell(#[from] CellError),
    /// There are rows and no head.
    #[error("the store was altered outside of the backend: its head is missing")]
    Headless,
    /// The rows are not those that were committed.
    #[error(
        "the store was altered outside of the backend: a row was changed, removed, inserted, \
         or put back to an older state"
    )]
    Altered,
    /// Somebody else made the store at the same time.
    #[error("another process is making this store")]
    Raced,
}

async fn begin(
    store: &dyn Store,
    cells: &Cells,
    first: Vec<Write>,
) -> Result<(Value, HeadRow), OpenError> {
    if !store.scan(KeyRange::all(), 1).await?.is_empty() {
        return Err(OpenError::Headless);
    }
    let mut sum = Sum::default();
    for write in &first {
        if let Write::Put(key, value) = write {
            sum.add(&cells.row_hash(key, value));
        }
    }
    let row = HeadRow { batch: 0, digest: sum.digest() };
    let raw = cells.seal(&keys::head(), &row)?;
    let mut writes = first;
    writes.push(Write::Put(keys::head(), raw.clone()));
    match store.commit(vec![Check::Absent(keys::head())], writes).await {
        Ok(()) => Ok((raw, row)),
        Err(CommitError::Conflict { .. }) => Err(OpenError::Raced),
        Err(CommitError::Store(error)) => Err(error.into()),
    }
}

async fn verify_digest(store: &dyn Store, cells: &Cells, head: &HeadRow) -> Result<(), OpenError> {
    let mut sum = Sum::default();
    let before = KeyRange::new(Vec::new(), KeyRange::prefix(&[keys::EVENT]).start.into());
    let after = KeyRange::new(vec![keys::EVENT + 1], None);
    for mut range in [before, after] {
        loop {
            let page = store.scan(range.clone(), MAX_SCAN.min(4096)).await?;
            for (key, value) in &page {
                if *key != keys::head() {
                    sum.add(&cells.row_hash(key, value));
                }
            }
            match page.last() {
                Some((last, _)) => {
                    range.start = last.clone();
                    range.start.push(0);
                }
                None => break,
            }
        }
    }
    if sum.digest() == head.digest { Ok(()) } else { Err(OpenError::Altered) }
}

/// A sum of 256-bit numbers modulo 2^256: the multiset hash MSet-Add-Hash of Clarke et al.,
/// "Incremental Multiset Hash Functions and Their Application to Memory Integrity Checking"
/// (2003), over keyed row hashes.
#[derive(Clone, Copy, Default)]
struct Sum([u64; 4]);

impl Sum {
    fn of(digest: &Hash32) -> Self {
        let mut limbs = [0; 4];
        for (limb, bytes) in limbs.iter_mut().zip(digest.0.chunks_exact(8)) {
            *limb = u64::from_le_bytes(bytes.try_into().expect("chunks of eight"));
        }
        Self(limbs)
    }

    fn digest(&self) -> Hash32 {
        let mut out = [0; 32];
        for (bytes, limb) in out.chunks_exact_mut(8).zip(self.0) {
            bytes.copy_from_slice(&limb.to_le_bytes());
        }
        Hash32(out)
    }

    fn add(&mut self, hash: &[u8; 32]) {
        let other = Self::of(&Hash32(*hash));
        let mut carry = false;
        for (limb, more) in self.0.iter_mut().zip(other.0) {
            let (sum, first) = limb.overflowing_add(more);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            (*limb, carry) = (sum, first || second);
        }
    }

    fn subtract(&mut self, hash: &[u8; 32]) {
        let other = Self::of(&Hash32(*hash));
        let mut borrow = false;
        for (limb, less) in self.0.iter_mut().zip(other.0) {
            let (left, first) = limb.overflowing_sub(less);
            let (left, second) = left.overflowing_sub(u64::from(borrow));
            (*limb, borrow) = (left, first || second);
        }
    }
}

struct Task {
    store: Arc<dyn Store>,
    cells: Arc<Cells>,
    backend_id: BackendId,
    /// The head as it is on disk; `None` when it must be read again.
    head: Option<(Value, HeadRow)>,
    ends: Ends,
    fences: Arc<Fences>,
    /// The highest batch that this process has committed.
    last: u64,
}

/// A group while it is put together: what the store will look like after it.
struct Group {
    overlay: HashMap<Vec<u8>, Option<Value>>,
    writes: Vec<Write>,
    /// Ends of the chains that the group needs, as they are within it.
    ends: HashMap<AccountId, ChainRow>,
    /// Those of them that the group moved.
    chains: HashMap<AccountId, ChainRow>,
    sum: Sum,
}

impl Task {
    async fn run(mut self, mut waiting: mpsc::Receiver<Waiting>) {
        let mut group = Vec::with_capacity(MAX_GROUP);
        let mut left_over: Option<Waiting> = None;
        loop {
            let first = match left_over.take() {
                Some(first) => first,
                None => match waiting.recv().await {
                    Some(first) => first,
                    None => return,
                },
            };
            let (mut items, mut bytes) = (first.proposal.items(), first.proposal.bytes());
            group.push(first);
            // Requests that are ready to be proposed now share this group's barrier: they run
            // first, for as long as each turn brings more. With nobody else there it costs nothing.
            for _ in 0..MAX_TURNS {
                tokio::task::yield_now().await;
                let before = group.len();
                while group.len() < MAX_GROUP && left_over.is_none() {
                    let Ok(next) = waiting.try_recv() else { break };
                    items += next.proposal.items();
                    bytes += next.proposal.bytes();
                    if items > MAX_ITEMS || bytes > MAX_BYTES {
                        left_over = Some(next);
                    } else {
                        group.push(next);
                    }
                }
                if group.len() == before || group.len() >= MAX_GROUP || left_over.is_some() {
                    break;
                }
            }
            let verdicts = self.commit(&group).await;
            for (one, verdict) in group.drain(..).zip(verdicts) {
                // A caller that has gone needs no answer: what it asked for was decided.
                let _ = one.answer.send(verdict);
            }
        }
    }

    async fn commit(&mut self, group: &[Waiting]) -> Vec<Result<(), Refused>> {
        for _ in 0..MAX_RESTARTS {
            match self.try_commit(group).await {
                Ok(verdicts) => return verdicts,
                Err(Refused::Conflict) => self.head = None,
                Err(refused) => {
                    tracing::error!(error = %refused, "commit failed, nothing was released");
                    self.head = None;
                    return vec![Err(refused); group.len()];
                }
            }
        }
        vec![Err(Refused::Conflict); group.len()]
    }

    async fn try_commit(&mut self, group: &[Waiting]) -> Result<Vec<Result<(), Refused>>, Refused> {
        let (head_raw, head) = self.load_head().await?;
        let mut state = Group {
            overlay: HashMap::new(),
            writes: Vec::new(),
            ends: HashMap::new(),
            chains: HashMap::new(),
            sum: Sum::of(&head.digest),
        };
        let mut verdicts = Vec::with_capacity(group.len());
        for one in group {
            if !self.holds(&state, &one.proposal.checks).await? {
                verdicts.push(Err(Refused::Conflict));
                continue;
            }
            // A damaged chain end concerns its own account: the others' proposals go on.
            match self.load_ends(&mut state, &one.proposal.events).await {
                Ok(()) => {
                    self.accept(&mut state, &one.proposal).await?;
                    verdicts.push(Ok(()));
                }
                Err(own @ (Refused::Cell(_) | Refused::RolledBack)) => verdicts.push(Err(own)),
                Err(refused) => return Err(refused),
            }
        }
        if state.writes.is_empty() {
            return Ok(verdicts);
        }
        for (account, end) in state.chains.clone() {
            let key = keys::chain(account);
            let value = self.cells.seal(&key, &end)?;
            self.put(&mut state, key, Some(value)).await?;
        }
        let row = HeadRow { batch: head.batch + 1, digest: state.sum.digest() };
        let raw = self.cells.seal(&keys::head(), &row)?;
        state.writes.push(Write::Put(keys::head(), raw.clone()));
        let checks = vec![Check::Equals(keys::head(), head_raw)];
        match self.store.commit(checks, state.writes).await {
            Ok(()) => {}
            Err(CommitError::Conflict { .. }) => return Err(Refused::Conflict),
            Err(CommitError::Store(error)) => return Err(error.into()),
        }
        self.last = row.batch;
        self.head = Some((raw, row));
        for (account, end) in state.chains {
            publish(&self.ends, account, end);
        }
        for (one, _) in group.iter().zip(&verdicts).filter(|(_, verdict)| verdict.is_ok()) {
            self.fences.put_up(&one.proposal.fences);
        }
        Ok(verdicts)
    }

    async fn load_head(&mut self) -> Result<(Value, HeadRow), Refused> {
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

    async fn current(&self, state: &Group, key: &[u8]) -> Result<Option<Value>, Refused> {
        match state.overlay.get(key) {
            Some(value) => Ok(value.clone()),
            None => Ok(self.store.get(key).await?),
        }
    }

    async fn holds(&self, state: &Group, checks: &[Check]) -> Result<bool, Refused> {
        for check in checks {
            let found = self.current(state, check.key()).await?;
            let holds = match check {
                Check::Absent(_) => found.is_none(),
                Check::Equals(_, wanted) => found.as_ref() == Some(wanted),
            };
            if !holds {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn accept(&self, state: &mut Group, proposal: &Proposal) -> Result<(), Refused> {
        for write in &proposal.writes {
            match write {
                Write::Put(key, value) => {
                    self.put(state, key.clone(), Some(value.clone())).await?;
                }
                Write::Delete(key) => self.put(state, key.clone(), None).await?,
            }
        }
        for draft in &proposal.events {
            let account = draft.account;
            let end = state.ends[&account];
            let event = draft.clone().place(end.seq + 1, end.hash);
            let encoded = cbor::to_row(&event).map_err(|_| CellError::Shape)?;
            let hash = Event::hash_encoded(self.backend_id, &encoded);
            let key = keys::event(account, event.seq);
            let value = self.cells.seal_bytes(&key, &encoded)?;
            state.writes.push(Write::Put(key, value));
            let end = ChainRow { seq: event.seq, hash };
            state.ends.insert(account, end);
            state.chains.insert(account, end);
        }
        Ok(())
    }

    async fn load_ends(&self, state: &mut Group, events: &[Draft]) -> Result<(), Refused> {
        for draft in events {
            if let Entry::Vacant(vacant) = state.ends.entry(draft.account) {
                let key = keys::chain(draft.account);
                let end: ChainRow = match self.store.get(&key).await? {
                    Some(raw) => self.cells.open(&key, &raw)?,
                    None => ChainRow { seq: 0, hash: GENESIS },
                };
                // An end that went back would have events written over.
                let known = self.ends.read().unwrap_or_else(|e| e.into_inner());
                if known.get(&draft.account).is_some_and(|known| known.seq > end.seq) {
                    return Err(Refused::RolledBack);
                }
                drop(known);
                vacant.insert(end);
            }
        }
        Ok(())
    }

    async fn put(
        &self,
        state: &mut Group,
        key: Vec<u8>,
        value: Option<Value>,
    ) -> Result<(), Refused> {
        if let Some(old) = self.current(state, &key).await? {
            state.sum.subtract(&self.cells.row_hash(&key, &old));
        }
        match &value {
            Some(value) => {
                state.sum.add(&self.cells.row_hash(&key, value));
                state.writes.push(Write::Put(key.clone(), value.clone()));
            }
            None => state.writes.push(Write::Delete(key.clone())),
        }
        state.overlay.insert(key, value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Sum;
    use crate::core::types::Hash32;

    #[test]
    fn what_is_added_and_taken_away_leaves_nothing() {
        let hashes: Vec<[u8; 32]> = (0..50u8).map(|i| Hash32::of(&[i]).0).collect();
        let mut sum = Sum::default();
        hashes.iter().for_each(|hash| sum.add(hash));
        let whole = sum.digest();
        hashes.iter().rev().for_each(|hash| sum.subtract(hash));
        assert_eq!(sum.digest(), Hash32([0; 32]));
        hashes.iter().rev().for_each(|hash| sum.add(hash));
        assert_eq!(sum.digest(), whole);
        sum.subtract(&hashes[3]);
        assert_ne!(sum.digest(), whole);
    }

    #[test]
    fn carries_run_through_all_limbs() {
        let mut sum = Sum([u64::MAX; 4]);
        let mut one = [0; 32];
        one[0] = 1;
        sum.add(&one);
        assert_eq!(sum.0, [0; 4]);
        sum.subtract(&one);
        assert_eq!(sum.0, [u64::MAX; 4]);
    }
}
