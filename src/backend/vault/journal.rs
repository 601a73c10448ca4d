//! The one way that anything is written: proposals in, group commits out.
//!
//! A proposal is checks, sealed writes and audit events. One task ([`sequencer`]) collects what
//! waits, evaluates each proposal's checks in order, chains the events ([`group`]), and commits the
//! whole group at once: state, events, chain ends and head are on disk together or not at all. The
//! group is conditional on the head row, so a second server on the same store makes it start over
//! rather than fork a chain.
//!
//! [`group`]: super::group
//! [`sequencer`]: super::sequencer
//!
//! The head row carries a digest over all rows but events (an additive multiset hash of keyed
//! row hashes). Sealing notices a row that was changed or moved; the digest, checked at start,
//! notices one that was deleted or put back to an older state.
use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use tokio::sync::{mpsc, oneshot};

use super::cells::{CellError, Cells};
use super::fence::{Fence, Fences};
use super::group::Waiting;
use super::keys;
use super::rows::{ChainRow, HeadRow};
use super::sequencer::Sequencer;
use super::sum::Sum;
use crate::backend::store::{
    Check, CommitError, KeyRange, MAX_SCAN, Store, StoreError, Value, Write,
};
use crate::core::audit::{Action, Actor, Event, Outcome};
use crate::core::identity::ServiceName;
use crate::core::types::{AccountId, BackendId, Hash32, RequestId, Timestamp, WalletAddress};

/// Proposals that may wait before their callers do.
const QUEUE: usize = 4096;
/// Most checks and writes of one group, below the store's own limit.
pub const MAX_ITEMS: usize = 4096;
/// Most bytes of one group, below the store's own limit.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Chain ends kept in memory.
const MAX_CHAINS: usize = 16 * 1024;

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
    /// With the acceptance of a set-back: what heads count from then on.
    pub set_backs: Option<u64>,
}

impl Draft {
    /// The event at its place.
    pub fn place(self, seq: u64, prev: Hash32) -> Event {
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
            set_backs: self.set_backs,
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
    /// How many checks, writes and events it has.
    pub fn items(&self) -> usize {
        self.checks.len() + self.writes.len() + self.events.len()
    }

    /// What it adds to a commit. Checks are compared here and never sent to the store; their
    /// values are shared with what was read.
    pub fn bytes(&self) -> usize {
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
        let task = Sequencer {
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

/// Notes a committed end, unless a newer one is known.
pub fn publish(ends: &Ends, account: AccountId, end: ChainRow) {
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
