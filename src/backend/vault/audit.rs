//! Reading the audit log of one account.
use std::time::Duration;

use super::access::Access;
use super::rows::ChainRow;
use super::{Inner, answer, keys};
use crate::backend::store::KeyRange;
use crate::core::audit::{Entry, Event};
use crate::core::backend::{AuditFilter, AuditPage, MAX_WAIT};
use crate::core::cbor;
use crate::core::problem::{Answer, Problem};
use crate::core::token::SessionToken;
use crate::core::types::WalletAddress;

const PAGE: usize = 200;
const MAX_PAGE: usize = 1000;
/// Most events that one request looks at, matching or not.
const MAX_LOOKED_AT: usize = 10_000;

impl Inner {
    pub async fn query_audit(
        &self,
        session: &SessionToken,
        mut access: Access,
        filter: &AuditFilter,
    ) -> Answer<AuditPage> {
        access.standing()?;
        let limit = filter.limit.unwrap_or(PAGE);
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(Problem::invalid("limit", format!("limit wants 1 to {MAX_PAGE}")));
        }
        let agent = match (&access.agent, &filter.agent_id) {
            (_, Some(identity)) => Some(self.audited_agent(&access, identity).await?),
            (Some(own), None) => Some(own.row.wallet),
            (None, None) => None,
        };
        let wait = Duration::from_secs(filter.wait.unwrap_or(0)).min(MAX_WAIT);
        let deadline = tokio::time::Instant::now() + wait;
        let mut watch = self.store.watch(&keys::chain(access.account_id()));
        loop {
            access.standing()?;
            let page = self.page(&access, filter, agent, limit).await?;
            if !page.events.is_empty() || page.next.is_some() {
                return Ok(page);
            }
            tokio::select! {
                // The event may be the end of this very session.
                () = watch.changed() => access = self.authenticate(session).await?,
                () = tokio::time::sleep_until(deadline) => return Ok(page),
            }
        }
    }

    /// The agent whose events are asked for; one that was torn down is still found by its
    /// wallet address.
    async fn audited_agent(
        &self,
        access: &Access,
        identity: &crate::core::identity::AgentIdentity,
    ) -> Answer<WalletAddress> {
        match identity {
            crate::core::identity::AgentIdentity::Wallet(wallet) if access.agent.is_none() => {
                Ok(*wallet)
            }
            _ => Ok(self.target(access, identity).await?.row.wallet),
        }
    }

    async fn page(
        &self,
        access: &Access,
        filter: &AuditFilter,
        agent: Option<WalletAddress>,
        limit: usize,
    ) -> Answer<AuditPage> {
        let account = access.account_id();
        // The end is read first: what is committed after it belongs to the next page. It is read
        // from the store, which wakes those who wait before the journal says what it committed.
        let end: ChainRow = self.chain_end_now(account).await?;
        let head = self.signed_head(&access.account.row, end)?;
        let mut next_seq = filter.from.unwrap_or(1).max(1);
        let mut events = Vec::new();
        let mut looked_at = 0;
        while next_seq <= end.seq && events.len() < limit && looked_at < MAX_LOOKED_AT {
            let range = KeyRange::new(
                keys::event(account, next_seq),
                Some(keys::event(account, end.seq + 1)),
            );
            // Where every event is wanted, no more is read than that.
            let most = if is_for_all(filter, agent) { limit - events.len() } else { MAX_PAGE };
            let rows = self.store.scan(range, most).await.map_err(answer::store)?;
            if rows.is_empty() {
                // The rest of the chain is missing: the reader's walk says so by the head.
                next_seq = end.seq + 1;
            }
            for (key, raw) in rows {
                let mut place = [0; 8];
                place.copy_from_slice(&key[key.len() - 8..]);
                let seq = u64::from_be_bytes(place);
                let entry = match self
                    .cells
                    .open_bytes(&key, &raw)
                    .ok()
                    .and_then(|plain| cbor::from_row::<Event>(&plain).ok())
                {
                    Some(event) => Entry::Event(Box::new(event)),
                    None => Entry::Damaged { damaged: seq },
                };
                next_seq = seq + 1;
                looked_at += 1;
                if matches(&entry, filter, agent) {
                    events.push(entry);
                }
                if events.len() >= limit || looked_at >= MAX_LOOKED_AT {
                    break;
                }
            }
        }
        let next = (next_seq <= end.seq).then_some(next_seq);
        Ok(AuditPage { events, next, head: (*head).clone() })
    }
}

/// Whether every event is wanted.
fn is_for_all(filter: &AuditFilter, agent: Option<WalletAddress>) -> bool {
    let AuditFilter { service, action, outcome, since, until, .. } = filter;
    agent.is_none()
        && service.is_none()
        && action.is_none()
        && outcome.is_none()
        && since.is_none()
        && until.is_none()
}

/// Whether an entry is wanted. A damaged one always is: nobody knows what it was.
fn matches(entry: &Entry, filter: &AuditFilter, agent: Option<WalletAddress>) -> bool {
    let Entry::Event(event) = entry else { return true };
    agent.is_none_or(|agent| event.agent == Some(agent))
        && filter.service.as_ref().is_none_or(|service| event.service.as_ref() == Some(service))
        && filter.action.is_none_or(|action| event.action == action)
        && filter.outcome.is_none_or(|outcome| event.outcome == outcome)
        && filter.since.is_none_or(|since| event.time >= since)
        && filter.until.is_none_or(|until| event.time < until)
}
