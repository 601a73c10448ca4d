//! Heads of an account's log that clients have seen: whether the log still has them in it, and
//! what follows if not. A restored copy, or a second backend on a copy, has forgotten what was
//! revoked since, so nobody's rights are raised until the master has accepted the loss.
//!
//! Must never believe a head that the account's own key has not signed, and never tell a stranger
//! which accounts there are.
use super::access::Access;
use super::guess::{Guesser, address_in_words};
use super::journal::{Draft, Proposal};
use super::rows::{AccountRow, ChainRow};
use super::{Inner, Loaded, answer, keys};
use crate::backend::peer::Peer;
use crate::core::audit::{Action, Actor, Event, GENESIS, Head, Outcome};
use crate::core::presence::Act;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::set_back::{self, Compared, SetBack};
use crate::core::types::{AccountId, Hash32};

/// How a head stands to the log.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// The log has it in it.
    Agrees,
    /// It does not, and the master has accepted that.
    GivenUp,
    /// It does not.
    Contradicts,
}

/// One answer for heads of other backends, of no account and of wrong signature.
fn no_such_log() -> Problem {
    Problem::new(
        Code::NotFound,
        "this backend has no audit log that the head could be of",
        "it is another backend's or another account's, or the account's key has not signed it",
        "see which backend it came from: agentkeys doctor",
    )
}

fn nothing_to_accept() -> Problem {
    let mut problem = Problem::new(
        Code::NotFound,
        "there is nothing to accept",
        "the audit log has that event in it, or its loss was accepted before",
        "agentkeys audit verify checks the whole log",
    );
    problem.docs = set_back::DOCS.to_owned();
    problem
}

fn another_was_shown(found: &SetBack) -> Problem {
    let mut problem = Problem::new(
        Code::Invalid,
        format!("event {} was shown, and the loss of an earlier one is accepted", found.head.seq),
        "all that was lost is accepted at once, by whoever has seen how much that is",
        "agentkeys audit accept shows it",
    );
    problem.docs = set_back::DOCS.to_owned();
    problem
}

impl Inner {
    /// Compares a head with the log, and puts one that contradicts it on record. `None` when the
    /// account has changed meanwhile.
    pub async fn compare_head(
        &self,
        peer: &Peer,
        access: Option<&Access>,
        head: &Head,
    ) -> Answer<Option<Compared>> {
        let account = match access {
            Some(access) => {
                access.standing()?;
                self.owner(head, Some(access.account_id())).await?.ok_or_else(no_such_log)?
            }
            // To verify a signature costs as much as to answer a request: not for ever.
            None => {
                let one_try = self.try_code(Guesser::Shower(peer)).await?;
                match self.owner(head, None).await? {
                    Some(account) => account,
                    None => return Err(one_try.wrong(no_such_log()).await),
                }
            }
        };
        let (standing, end) = self.standing_of(&account.row, head).await?;
        let compared = Compared {
            agrees: standing == Standing::Agrees,
            accepted: standing == Standing::GivenUp,
        };
        let further = |found: &SetBack| found.head.place() < head.place();
        let is_news = account.row.set_back.as_ref().is_none_or(further);
        if standing != Standing::Contradicts || !is_news {
            return Ok(Some(compared));
        }
        let proposal = self.contradiction(peer, access, &account, head, end)?;
        Ok(self.propose(proposal).await?.then_some(compared))
    }

    /// The account whose own key has signed the head, as one of this backend.
    async fn owner(
        &self,
        head: &Head,
        only: Option<AccountId>,
    ) -> Answer<Option<Loaded<AccountRow>>> {
        if head.backend_id != self.backend_id || only.is_some_and(|only| only != head.account) {
            return Ok(None);
        }
        let account = self.load_cached(&self.accounts, keys::account(head.account)).await?;
        let owns = |account: &Loaded<AccountRow>| {
            account.row.master_public == head.master_key && head.is_authentic()
        };
        Ok(account.filter(owns))
    }

    /// Looks for the head in the log: reads one event at most.
    async fn standing_of(&self, account: &AccountRow, head: &Head) -> Answer<(Standing, ChainRow)> {
        // Whoever has seen a head was answered after its event was on disk, so it is found here.
        let end = self.chain_end_now(account.id).await?;
        let there = match head.seq {
            0 => Some(GENESIS),
            seq if seq == end.seq => Some(end.hash),
            seq if seq < end.seq => self.event_hash(account.id, seq).await?,
            _ => None,
        };
        let standing = if there == Some(head.hash) && head.set_backs <= end.set_backs {
            Standing::Agrees
        } else if head.set_backs < end.set_backs && head.seq <= account.given_up {
            Standing::GivenUp
        } else {
            Standing::Contradicts
        };
        Ok((standing, end))
    }

    /// The hash of an event; `None` if it is missing. One that does not open is a fault of the
    /// store, and no word on what the log was.
    async fn event_hash(&self, account: AccountId, seq: u64) -> Answer<Option<Hash32>> {
        let key = keys::event(account, seq);
        let Some(raw) = self.store.get(&key).await.map_err(answer::store)? else {
            return Ok(None);
        };
        let plain = self.cells.open_bytes(&key, &raw).map_err(answer::cell)?;
        Ok(Some(Event::hash_encoded(self.backend_id, &plain)))
    }

    /// Puts a head on record that the log does not have in it. One that is further on than what
    /// is on record already takes its place, without an event of its own.
    fn contradiction(
        &self,
        peer: &Peer,
        access: Option<&Access>,
        account: &Loaded<AccountRow>,
        head: &Head,
        end: ChainRow,
    ) -> Answer<Proposal> {
        let now = self.clock.now();
        let by = match access {
            Some(access) => access.in_words(),
            None => format!("a client at {}", address_in_words(peer)),
        };
        let mut row = AccountRow::clone(&account.row);
        let mut proposal = Proposal::default();
        proposal.checks.push(account.unchanged());
        let found = match row.set_back.take() {
            Some(found) => SetBack { head: head.clone(), ..found },
            None => {
                let actor = access.map_or_else(Actor::default, Access::actor);
                let detail = format!(
                    "{by} showed event {} ({}), and the log ended at event {} ({}) without it",
                    head.seq, head.hash, end.seq, end.hash
                );
                proposal.events.push(Draft {
                    account: row.id,
                    by: actor,
                    time: now,
                    action: Action::HeadContradicted,
                    outcome: Outcome::Denied,
                    agent: None,
                    service: None,
                    request: None,
                    detail: Some(detail),
                    presence: row.presence.clone(),
                    set_backs: None,
                });
                tracing::error!(
                    account = %row.id, shown = head.seq, end = end.seq,
                    "the audit log was set back: nobody's rights are raised until its master accepts it"
                );
                SetBack { head: head.clone(), ended: end.seq, at: now, by }
            }
        };
        row.set_back = Some(found);
        proposal.writes.push(self.put(account.key.clone(), &row)?);
        Ok(proposal)
    }

    /// Gives a head up that the log does not have in it, with all that followed from it.
    pub async fn accept_head(&self, access: &Access, head: &Head) -> Answer<bool> {
        access.master()?;
        let account = &access.account;
        let own = self.owner(head, Some(access.account_id())).await?.ok_or_else(no_such_log)?;
        if own.raw != account.raw {
            return Ok(false);
        }
        let (standing, end) = self.standing_of(&account.row, head).await?;
        match &account.row.set_back {
            Some(found) if found.head.place() > head.place() => {
                return Err(another_was_shown(found));
            }
            Some(found) if found.head == *head => {}
            _ if standing != Standing::Contradicts => return Err(nothing_to_accept()),
            _ => {}
        }
        let given_up = account.row.given_up.max(head.seq);
        let row = AccountRow { set_back: None, given_up, ..AccountRow::clone(&account.row) };
        let mut proposal = access.unchanged();
        self.present(access, &Act::AcceptHead { head }, &mut proposal).await?;
        proposal.checks.push(account.unchanged());
        proposal.writes.push(self.put(account.key.clone(), &row)?);
        let detail = format!(
            "event {} ({}) and what led to it are given up; the log ended at event {}",
            head.seq, head.hash, end.seq
        );
        let mut event = access.event(Action::HeadAccepted, Outcome::Allowed).detail(detail);
        // More than whatever is given up had: earlier acceptances may be among it.
        event.set_backs = Some(end.set_backs.max(head.set_backs) + 1);
        proposal.events.push(event);
        self.propose(proposal).await
    }
}
