//! Presence: whether the master is there in person, asked before every act that raises what
//! someone may do. One function that every such act calls.
//!
//! A challenge is not kept: it carries its own end and a keyed hash over session and act. One that
//! was answered is, until it is over, so that no proof is good twice. Wrong passphrases are
//! counted in the store, one after the other, where no client can forget them.
use std::collections::HashMap;
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};

use tokio::sync::Mutex;

use super::access::{Access, same_hash};
use super::journal::Proposal;
use super::rows::{AccountRow, AgentRow, PassphraseRow, TriesRow};
use super::{Inner, answer, keys, sweep};
use crate::backend::peer::Peer;
use crate::backend::store::{Check, Write};
use crate::core::audit::{Action, Outcome};
use crate::core::frame::Frame;
use crate::core::presence::{Act, Demand, Level, NewLevel, Presence, Proof, Reset, Why};
use crate::core::problem::{Answer, Code, Problem};
use crate::core::types::{AccountId, Challenge, Hash32, Timestamp, WalletAddress};

/// A challenge is good for this long.
const CHALLENGE_MS: u64 = 5 * 60 * 1000;
/// Wrong passphrases before there is a pause.
const FREE_TRIES: u64 = 5;
/// The first pause; each wrong one after it doubles it.
const FIRST_PAUSE_MS: u64 = 30 * 1000;
/// The longest pause.
const LONGEST_PAUSE_MS: u64 = 15 * 60 * 1000;
/// A reset may be finished this long after it was asked for.
pub const RESET_AFTER_MS: u64 = 3 * 24 * 60 * 60 * 1000;
/// And for this long from then on.
pub const RESET_OPEN_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// Accounts whose passphrase is tried at once.
const MAX_KEPT: usize = 4096;

/// How an act was allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shown {
    /// No presence is wanted.
    NotWanted,
    /// By a proof of its own.
    Proven,
    /// By the proof of an earlier read, so many milliseconds before, in the same terminal.
    Before(u64),
}

/// Tries of one account's passphrase are looked at one after the other.
#[derive(Default)]
pub struct TryingPassphrase(SyncMutex<HashMap<AccountId, Arc<Mutex<()>>>>);

impl TryingPassphrase {
    fn of(&self, account: AccountId) -> Arc<Mutex<()>> {
        let mut seats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seats.len() >= MAX_KEPT {
            seats.retain(|_, seat| Arc::strong_count(seat) > 1);
        }
        seats.entry(account).or_default().clone()
    }
}

fn demanded(act: &Act<'_>, demand: Demand) -> Problem {
    let (detail, cause) = match demand.why {
        Why::Missing => (
            "access denied: this wants your passphrase",
            "the account's presence level is passphrase, and no proof came with it",
        ),
        Why::Stale => (
            "access denied: the proof of presence does not count any more",
            "its challenge is over, was used already, or was for another act or session",
        ),
        Why::Wrong => ("access denied: the passphrase is wrong", "the proof was made with another"),
    };
    let what = act.in_words();
    let fix = format!(
        "to {what}, run agentkeys in a terminal, or set AGENTKEYS_ASKPASS to a program that asks\n\
         if it is lost: agentkeys presence --reset"
    );
    Problem::new(Code::Denied, detail, cause, fix).demanding(demand)
}

fn slowed(until: Timestamp, wrong: u64, now: Timestamp) -> Problem {
    let seconds = until.since_ms(now).div_ceil(1000).max(1);
    Problem::new(
        Code::RateLimited,
        "too many wrong passphrases",
        format!("{wrong} since the last right one; the right one too has to wait"),
        format!("wait {seconds} s; if it was not you: agentkeys usage shows who tried"),
    )
    .retry_after(seconds)
}

fn pause_after(wrong: u64) -> u64 {
    match wrong.checked_sub(FREE_TRIES) {
        None => 0,
        Some(more) => (FIRST_PAUSE_MS << more.min(16)).min(LONGEST_PAUSE_MS),
    }
}

/// What the kernel says of who asks, beside the host that their session claims.
fn seen_of(access: &Access) -> String {
    match &access.peer {
        Some(Peer::Unix(peer)) => {
            let program = peer.program.as_ref().and_then(|path| path.file_name()?.to_str());
            let program = program.filter(|name| name.len() <= 64);
            let clean = program.filter(|name| name.bytes().all(|c| c.is_ascii_graphic()));
            let program = clean.map(|name| format!(", by {name}")).unwrap_or_default();
            format!(" (as it claims; seen: user id {} on this machine{program})", peer.uid)
        }
        Some(Peer::Address(address)) => format!(" (as it claims; seen: from {address})"),
        None => String::new(),
    }
}

impl Inner {
    /// Refuses a master's act without the proof that the account's level wants, and adds to the
    /// proposal what makes a proof good once. Every act of [`Act`] calls it, last before it
    /// proposes. What an agent does by its own session is bounded by its scope instead.
    pub async fn present(
        &self,
        access: &Access,
        act: &Act<'_>,
        proposal: &mut Proposal,
    ) -> Answer<Shown> {
        self.present_for(access, act, None, proposal).await
    }

    /// The same for a read of that agent's keys: a proof that the same terminal gave for one a
    /// short time ago will do.
    pub async fn present_read(
        &self,
        access: &Access,
        act: &Act<'_>,
        agent: &AgentRow,
        proposal: &mut Proposal,
    ) -> Answer<Shown> {
        self.present_for(access, act, Some(agent.wallet), proposal).await
    }

    async fn present_for(
        &self,
        access: &Access,
        act: &Act<'_>,
        read_of: Option<WalletAddress>,
        proposal: &mut Proposal,
    ) -> Answer<Shown> {
        // Also what an agent does: on older data, nobody knows whether it was revoked since.
        if !matches!(act, Act::AcceptHead { .. }) {
            access.not_set_back(proposal)?;
        }
        if access.agent.is_some() {
            return Ok(Shown::NotWanted);
        }
        // Decided by the level of now: if it is raised meanwhile, this is decided again.
        proposal.checks.push(access.account.unchanged());
        let Some(passphrase) = &access.account.row.passphrase else { return Ok(Shown::NotWanted) };
        let opened = read_of.and_then(|agent| access.opened(agent));
        let before = opened.and_then(|opened| self.open_terminals.proven_at(opened, access.now));
        match (&access.proof, before) {
            (None, Some(at)) => Ok(Shown::Before(access.now.since_ms(at))),
            (None, None) => Err(self.demand(access, act, passphrase, Why::Missing)?),
            (Some(proof), _) => {
                self.check_proof(access, act, passphrase, proof, proposal).await?;
                // The terminal that whoever signed said is theirs, or nobody's: a program between
                // them and the backend does not get its own opened.
                if let Some(opened) = opened
                    && proof.terminal == Some(opened.terminal.digest())
                {
                    self.open_terminals.open(opened, access.now);
                }
                Ok(Shown::Proven)
            }
        }
    }

    async fn check_proof(
        &self,
        access: &Access,
        act: &Act<'_>,
        passphrase: &PassphraseRow,
        proof: &Proof,
        proposal: &mut Proposal,
    ) -> Answer<()> {
        let account = access.account_id();
        let hash = act.hash();
        let (ends, id) = parts(&proof.challenge);
        let made = self.challenge(access, &hash, ends, id);
        // A challenge of ours, for just this; else its signature is not even looked at.
        let ours = same_hash(&Hash32::of(&made.0), &Hash32::of(&proof.challenge.0));
        // One after the other, from the first look at what was used up: many signatures under one
        // challenge would be judged at once, and counted as one.
        let seat = self.trying_passphrase.of(account);
        let _turn = seat.lock().await;
        let spent = keys::spent(&id);
        let used = self.load::<()>(spent.clone()).await?.is_some();
        if !ours || access.now >= ends || used {
            return Err(self.demand(access, act, passphrase, Why::Stale)?);
        }
        let key = keys::tries(account);
        let tries = self.load::<TriesRow>(key.clone()).await?;
        let wrong = tries.as_ref().map_or(0, |tries| tries.row.wrong);
        if let Some(until) = tries.as_ref().map(|tries| tries.row.until)
            && access.now < until
        {
            return Err(slowed(until, wrong, access.now));
        }
        proposal.checks.push(match &tries {
            Some(tries) => tries.unchanged(),
            None => Check::Absent(key.clone()),
        });
        // Good once, and only together with what it is for.
        proposal.checks.push(Check::Absent(spent.clone()));
        let used_up = [self.put(spent, &())?, self.note_due(ends, sweep::SPENT, &id)?];
        if proof.is_by(&passphrase.public_key, &hash) {
            proposal.writes.extend(used_up);
            if tries.is_some() {
                proposal.writes.push(Write::Delete(key));
            }
            // Whoever has the passphrase has not lost it.
            if access.account.row.reset.is_some() {
                self.end_reset(access, "the passphrase was given").await?;
            }
            return Ok(());
        }
        let wrong = wrong + 1;
        let until = access.now.plus_ms(pause_after(wrong));
        let event = access.event(Action::Presence, Outcome::Denied);
        let mut counted = Proposal {
            checks: proposal.checks.split_off(proposal.checks.len() - 2),
            events: vec![event.detail(format!("wrong passphrase, to {}", act.in_words()))],
            ..Proposal::default()
        };
        counted.writes.extend(used_up);
        counted.writes.push(self.put(key, &TriesRow { wrong, until })?);
        if !self.propose(counted).await? {
            return Err(answer::busy());
        }
        if access.now < until {
            return Err(slowed(until, wrong, access.now));
        }
        Err(self.demand(access, act, passphrase, Why::Wrong)?)
    }

    fn demand(
        &self,
        access: &Access,
        act: &Act<'_>,
        passphrase: &PassphraseRow,
        why: Why,
    ) -> Answer<Problem> {
        let id = self.entropy.bytes().map_err(answer::entropy)?;
        let ends = access.now.plus_ms(CHALLENGE_MS);
        let challenge = self.challenge(access, &act.hash(), ends, id);
        Ok(demanded(act, Demand { why, challenge, salt: passphrase.salt }))
    }

    /// The challenge of that end and id for this session and act.
    fn challenge(&self, access: &Access, act: &Hash32, ends: Timestamp, id: [u8; 16]) -> Challenge {
        let framed = Frame::new("challenge")
            .field(&access.account_id().0)
            .field(&access.session_id.0)
            .field(&act.0)
            .field(&ends.0.to_be_bytes())
            .field(&id);
        let mut challenge = Challenge([0; 40]);
        challenge.0[..8].copy_from_slice(&ends.0.to_be_bytes());
        challenge.0[8..24].copy_from_slice(&id);
        challenge.0[24..].copy_from_slice(&self.cells.mac("presence", framed.bytes()));
        challenge
    }

    /// How it stands with the account's presence.
    pub async fn presence(&self, access: &Access) -> Answer<Presence> {
        access.master()?;
        let row = &access.account.row;
        let tries = self.load::<TriesRow>(keys::tries(row.id)).await?;
        let open_until = self.open_terminals.open_until(access);
        let tries = tries.as_ref();
        Ok(Presence {
            level: row.level(),
            since: row.presence_since,
            reset: row.reset.clone().filter(|reset| access.now < reset.until),
            wrong: tries.map_or(0, |tries| tries.row.wrong),
            slowed_until: tries.map(|tries| tries.row.until).filter(|until| access.now < *until),
            open_until,
        })
    }

    /// Sets the level, or another passphrase. `None` to be decided again.
    pub async fn set_presence(&self, access: &Access, new: &NewLevel) -> Answer<Option<Presence>> {
        access.master()?;
        let passphrase = match (new.level, new.public_key, new.salt) {
            (Level::None, None, None) => None,
            (Level::Passphrase, Some(public_key), Some(salt)) => {
                Some(PassphraseRow { public_key, salt })
            }
            _ => {
                let why = "public_key and salt go with level passphrase, both, and with no other";
                return Err(Problem::invalid("level", why));
            }
        };
        let row = &access.account.row;
        let mut proposal = access.unchanged();
        proposal.checks.push(access.account.unchanged());
        let reset = row.reset.as_ref().filter(|_| new.level == Level::None);
        let reset = reset.filter(|reset| access.now >= reset.from && access.now < reset.until);
        if row.level() == Level::None && passphrase.is_none() {
            return self.presence(access).await.map(Some);
        }
        let mut detail = match (row.level(), new.level) {
            (Level::Passphrase, Level::Passphrase) => "another passphrase".to_owned(),
            (_, level) => format!("level {level}"),
        };
        match reset {
            Some(reset) => {
                // That it was taken back may be what was forgotten.
                access.not_set_back(&mut proposal)?;
                let asked = reset.asked_at.for_people();
                detail = format!("{detail}, by the reset that {} asked for {asked}", reset.by);
                if let Some(tries) = self.load::<TriesRow>(keys::tries(row.id)).await? {
                    proposal.checks.push(tries.unchanged());
                    proposal.writes.push(Write::Delete(tries.key));
                }
            }
            None => {
                self.present(access, &Act::SetPresence { new }, &mut proposal).await?;
            }
        }
        let next = AccountRow {
            presence: new.level.to_string(),
            presence_since: Some(access.now),
            passphrase,
            reset: None,
            ..AccountRow::clone(row)
        };
        proposal.writes.push(self.put(access.account.key.clone(), &next)?);
        let mut event = access.event(Action::Presence, Outcome::Allowed).detail(detail);
        event.presence.clone_from(&next.presence);
        proposal.events.push(event);
        if !self.propose(proposal).await? {
            return Ok(None);
        }
        self.open_terminals.close(next.id);
        Ok(Some(Presence {
            level: next.level(),
            since: next.presence_since,
            reset: None,
            wrong: 0,
            slowed_until: None,
            open_until: None,
        }))
    }

    /// Notes that the passphrase was lost. Needs no proof, and nothing is lowered by it yet.
    pub async fn ask_presence_reset(&self, access: &Access) -> Answer<Option<Presence>> {
        access.master()?;
        let row = &access.account.row;
        if row.level() == Level::None {
            let why = "the level is none: there is no passphrase to be rid of";
            return Err(Problem::invalid("reset", why));
        }
        if row.reset.as_ref().is_some_and(|reset| access.now < reset.until) {
            return self.presence(access).await.map(Some);
        }
        let from = access.now.plus_ms(RESET_AFTER_MS);
        let reset = Reset {
            asked_at: access.now,
            by: format!("{}{}", access.in_words(), seen_of(access)),
            from,
            until: from.plus_ms(RESET_OPEN_MS),
        };
        let detail =
            format!("reset asked for; the level may be lowered from {}", from.for_people());
        self.put_reset(access, Some(reset), detail).await
    }

    /// Takes a reset back. Needs no proof: it lowers nothing.
    pub async fn cancel_presence_reset(&self, access: &Access) -> Answer<Option<Presence>> {
        access.master()?;
        if access.account.row.reset.is_none() {
            return self.presence(access).await.map(Some);
        }
        self.put_reset(access, None, "reset taken back".to_owned()).await
    }

    /// Ends a reset by a commit of its own, after which the act that ends it is decided again.
    async fn end_reset(&self, access: &Access, why: &str) -> Answer<()> {
        self.put_reset(access, None, format!("reset ended: {why}")).await.map(drop)
    }

    async fn put_reset(
        &self,
        access: &Access,
        reset: Option<Reset>,
        detail: String,
    ) -> Answer<Option<Presence>> {
        let mut proposal = access.unchanged();
        proposal.checks.push(access.account.unchanged());
        let next = AccountRow { reset: reset.clone(), ..AccountRow::clone(&access.account.row) };
        proposal.writes.push(self.put(access.account.key.clone(), &next)?);
        proposal.events.push(access.event(Action::Presence, Outcome::Allowed).detail(detail));
        let done = self.propose(proposal).await?;
        let shown = self.presence(access).await?;
        Ok(done.then_some(Presence { reset, ..shown }))
    }
}

/// A challenge's end and id, as they stand in it.
fn parts(challenge: &Challenge) -> (Timestamp, [u8; 16]) {
    let (mut ends, mut id) = ([0; 8], [0; 16]);
    ends.copy_from_slice(&challenge.0[..8]);
    id.copy_from_slice(&challenge.0[8..24]);
    (Timestamp(u64::from_be_bytes(ends)), id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_begin_with_the_fifth_wrong_one_double_and_are_bounded() {
        let pauses: Vec<_> = [1, 4, 5, 6, 7, 10, 11, 1_000_000].map(pause_after).into();
        let second = 1000;
        assert_eq!(
            pauses,
            [
                0,
                0,
                30 * second,
                60 * second,
                120 * second,
                900 * second,
                900 * second,
                900 * second
            ]
        );
    }
}
