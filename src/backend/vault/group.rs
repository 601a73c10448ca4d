//! A group of proposals while it is put together: each is held against what the rows will be by
//! then, and its events take their places in the chains. Must never write anything itself.
use std::collections::HashMap;

use tokio::sync::oneshot;

use super::cells::{CellError, Cells};
use super::fence::Fences;
use super::journal::{Draft, Ends, MAX_BYTES, MAX_ITEMS, Proposal, Refused};
use super::keys;
use super::rows::{ChainRow, HeadRow};
use super::sum::Sum;
use crate::backend::store::{Check, Store, Value, Write};
use crate::core::audit::Event;
use crate::core::cbor;
use crate::core::types::{AccountId, BackendId};

/// Most proposals of one group.
const MAX_GROUP: usize = 512;
/// Longest value that a group remembers of what it has only read, in bytes.
const MAX_KEPT: usize = 4096;

/// A proposal and where its answer goes.
pub struct Waiting {
    pub proposal: Proposal,
    pub answer: oneshot::Sender<Result<(), Refused>>,
}

impl Waiting {
    /// Answers. A caller that has gone needs none: what it asked for was decided.
    pub fn answer(self, verdict: Result<(), Refused>) {
        let _ = self.answer.send(verdict);
    }
}

/// The rows and chain ends that a group read or changed, as they are after it.
#[derive(Default)]
pub struct Effect {
    rows: HashMap<Vec<u8>, Option<Value>>,
    /// Ends of the chains that the group moved.
    pub chains: HashMap<AccountId, ChainRow>,
}

/// What a group stands on: the store, and what is on its way there.
pub struct Ground<'a> {
    pub store: &'a dyn Store,
    pub cells: &'a Cells,
    pub backend_id: BackendId,
    pub ends: &'a Ends,
    /// The effect of the commit under way.
    pub under_way: Option<&'a Effect>,
}

/// A head row, sealed and open.
pub type Head = (Value, HeadRow);

/// The group.
pub struct Group {
    base: Head,
    waiting: Vec<Waiting>,
    verdicts: Vec<Result<(), Refused>>,
    effect: Effect,
    writes: Vec<Write>,
    /// Ends of the chains that the group needs, as they are within it.
    ends: HashMap<AccountId, ChainRow>,
    sum: Sum,
    items: usize,
    bytes: usize,
}

/// What a group asks of the store.
pub struct Closed {
    pub checks: Vec<Check>,
    pub writes: Vec<Write>,
    /// The head that is on disk once it is done.
    pub head: Head,
}

impl Group {
    /// An empty group that follows on a head.
    pub fn after(base: Head) -> Self {
        let sum = Sum::of(&base.1.digest);
        Self {
            base,
            waiting: Vec::new(),
            verdicts: Vec::new(),
            effect: Effect::default(),
            writes: Vec::new(),
            ends: HashMap::new(),
            sum,
            items: 0,
            bytes: 0,
        }
    }

    /// Whether it has room for one more.
    pub fn fits(&self, proposal: &Proposal) -> bool {
        self.waiting.is_empty()
            || self.waiting.len() < MAX_GROUP
                && self.items + proposal.items() <= MAX_ITEMS
                && self.bytes + proposal.bytes() <= MAX_BYTES
    }

    /// Takes a proposal in: accepts all of it, or notes why not.
    ///
    /// # Errors
    /// What makes the whole group impossible; the proposal is among its [`Self::waiting`] then, too.
    pub async fn admit(&mut self, on: &Ground<'_>, one: Waiting) -> Result<(), Refused> {
        self.items += one.proposal.items();
        self.bytes += one.proposal.bytes();
        let verdict = self.judge(on, &one.proposal).await;
        self.waiting.push(one);
        self.verdicts.push(verdict?);
        Ok(())
    }

    async fn judge(
        &mut self,
        on: &Ground<'_>,
        proposal: &Proposal,
    ) -> Result<Result<(), Refused>, Refused> {
        for check in &proposal.checks {
            if !self.holds(on, check).await? {
                return Ok(Err(Refused::Conflict));
            }
        }
        // A damaged chain end concerns its own account: the others' proposals go on.
        match self.load_ends(on, &proposal.events).await {
            Ok(()) => self.accept(on, proposal).await.map(Ok),
            Err(own @ (Refused::Cell(_) | Refused::RolledBack)) => Ok(Err(own)),
            Err(refused) => Err(refused),
        }
    }

    /// Adds the ends of the chains and the head; `None` when there is nothing to write.
    ///
    /// # Errors
    /// What makes the whole group impossible.
    pub async fn close(&mut self, on: &Ground<'_>) -> Result<Option<Closed>, Refused> {
        if self.writes.is_empty() {
            return Ok(None);
        }
        for (account, end) in self.effect.chains.clone() {
            let key = keys::chain(account);
            let value = on.cells.seal(&key, &end)?;
            self.put(on, key, Some(value)).await?;
        }
        let (base, row) = &self.base;
        let row = HeadRow { batch: row.batch + 1, digest: self.sum.digest() };
        let raw = on.cells.seal(&keys::head(), &row)?;
        let checks = vec![Check::Equals(keys::head(), base.clone())];
        let mut writes = std::mem::take(&mut self.writes);
        writes.push(Write::Put(keys::head(), raw.clone()));
        Ok(Some(Closed { checks, writes, head: (raw, row) }))
    }

    /// What the rows are after it.
    pub fn effect(&self) -> &Effect {
        &self.effect
    }

    /// Puts up the fences of all that it accepted.
    pub fn put_up(&self, fences: &Fences) {
        for (one, _) in self.waiting.iter().zip(&self.verdicts).filter(|(_, it)| it.is_ok()) {
            fences.put_up(&one.proposal.fences);
        }
    }

    /// Answers each with its own verdict.
    pub fn answer(self) {
        for (one, verdict) in self.waiting.into_iter().zip(self.verdicts) {
            one.answer(verdict);
        }
    }

    /// Answers all with the same refusal.
    pub fn refuse(self, refused: &Refused) {
        for one in self.waiting {
            one.answer(Err(refused.clone()));
        }
    }

    /// Those that are in it, for another try.
    pub fn waiting(self) -> Vec<Waiting> {
        self.waiting
    }

    async fn current(&mut self, on: &Ground<'_>, key: &[u8]) -> Result<Option<Value>, Refused> {
        if let Some(known) = self.effect.rows.get(key) {
            return Ok(known.clone());
        }
        if let Some(known) = on.under_way.and_then(|effect| effect.rows.get(key)) {
            return Ok(known.clone());
        }
        let found = on.store.get(key).await?;
        // Whoever else writes moves the head, and then this group starts over.
        if found.as_ref().is_none_or(|value| value.len() <= MAX_KEPT) {
            self.effect.rows.insert(key.to_vec(), found.clone());
        }
        Ok(found)
    }

    async fn holds(&mut self, on: &Ground<'_>, check: &Check) -> Result<bool, Refused> {
        let found = self.current(on, check.key()).await?;
        Ok(match check {
            Check::Absent(_) => found.is_none(),
            Check::Equals(_, wanted) => found.as_ref() == Some(wanted),
        })
    }

    async fn accept(&mut self, on: &Ground<'_>, proposal: &Proposal) -> Result<(), Refused> {
        for write in &proposal.writes {
            match write {
                Write::Put(key, value) => {
                    self.put(on, key.clone(), Some(value.clone())).await?;
                }
                Write::Delete(key) => self.put(on, key.clone(), None).await?,
            }
        }
        for draft in &proposal.events {
            let account = draft.account;
            let end = self.ends[&account];
            let event = draft.clone().place(end.seq + 1, end.hash);
            let encoded = cbor::to_row(&event).map_err(|_| CellError::Shape)?;
            let hash = Event::hash_encoded(on.backend_id, &encoded);
            let key = keys::event(account, event.seq);
            let value = on.cells.seal_bytes(&key, &encoded)?;
            self.writes.push(Write::Put(key, value));
            let set_backs = event.set_backs.unwrap_or(end.set_backs);
            let end = ChainRow { seq: event.seq, hash, set_backs };
            self.ends.insert(account, end);
            self.effect.chains.insert(account, end);
        }
        Ok(())
    }

    async fn load_ends(&mut self, on: &Ground<'_>, events: &[Draft]) -> Result<(), Refused> {
        for draft in events {
            if self.ends.contains_key(&draft.account) {
                continue;
            }
            if let Some(end) = on.under_way.and_then(|it| it.chains.get(&draft.account)) {
                self.ends.insert(draft.account, *end);
                continue;
            }
            let key = keys::chain(draft.account);
            let end: ChainRow = match self.current(on, &key).await? {
                Some(raw) => on.cells.open(&key, &raw)?,
                None => ChainRow::EMPTY,
            };
            // An end that went back would have events written over.
            let known = on.ends.read().unwrap_or_else(|e| e.into_inner());
            if known.get(&draft.account).is_some_and(|known| known.seq > end.seq) {
                return Err(Refused::RolledBack);
            }
            drop(known);
            self.ends.insert(draft.account, end);
        }
        Ok(())
    }

    async fn put(
        &mut self,
        on: &Ground<'_>,
        key: Vec<u8>,
        value: Option<Value>,
    ) -> Result<(), Refused> {
        if let Some(old) = self.current(on, &key).await? {
            self.sum.subtract(&on.cells.row_hash(&key, &old));
        }
        match &value {
            Some(value) => {
                self.sum.add(&on.cells.row_hash(&key, value));
                self.writes.push(Write::Put(key.clone(), value.clone()));
            }
            None => self.writes.push(Write::Delete(key.clone())),
        }
        self.effect.rows.insert(key, value);
        Ok(())
    }
}
