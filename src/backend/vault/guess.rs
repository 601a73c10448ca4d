//! Wrong pair codes are counted, for each account and for each address without a session, so
//! that nobody guesses one and nobody uses up another's tries. The counts are stored: a
//! restart of the backend forgives nothing.
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex as SyncMutex};

use tokio::sync::{Mutex, OwnedMutexGuard};

use super::journal::Proposal;
use super::rows::GuessRow;
use super::{Inner, keys, sweep};
use crate::backend::peer::Peer;
use crate::core::frame::Frame;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::token::OpenToken;
use crate::core::types::{AccountId, Timestamp};

/// Wrong codes a minute that are answered; one more is slowed.
const MOST: usize = 5;
const WINDOW_MS: u64 = 60_000;
/// Callers whose counts are in memory at once.
const MAX_SEATS: usize = 64 * 1024;

/// Whose tries are counted.
pub enum Guesser<'a> {
    Account(AccountId),
    Address(&'a Peer),
    /// Whoever opened a request, at whatever address.
    Opener(&'a OpenToken),
}

/// The address by which a peer without a session is known: an IPv6 host has a whole /64.
pub fn address_of(peer: &Peer) -> Vec<u8> {
    match peer {
        Peer::Address(ip) => address_of_ip(*ip),
        Peer::Unix(peer) => address_of_uid(peer.uid),
    }
}

/// See [`address_of`].
pub fn address_of_ip(ip: IpAddr) -> Vec<u8> {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets()[..8].to_vec(),
    }
}

/// See [`address_of`].
pub fn address_of_uid(uid: u32) -> Vec<u8> {
    format!("uid {uid}").into_bytes()
}

type Seat = Arc<Mutex<Option<Vec<Timestamp>>>>;

/// The counts in memory, one seat a guesser. A seat is held while a code is tried, so that
/// tries at the same moment are counted one after the other.
#[derive(Default)]
pub struct Guesses(SyncMutex<HashMap<keys::Mac, Seat>>);

impl Guesses {
    fn seat(&self, who: keys::Mac) -> Seat {
        let mut seats = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if seats.len() >= MAX_SEATS && !seats.contains_key(&who) {
            // Whoever is not trying right now is read from the store again.
            seats.retain(|_, seat| Arc::strong_count(seat) > 1);
        }
        seats.entry(who).or_default().clone()
    }
}

/// One try of a code.
pub struct Try<'a> {
    vault: &'a Inner,
    who: keys::Mac,
    now: Timestamp,
    seat: OwnedMutexGuard<Option<Vec<Timestamp>>>,
}

fn slowed(times: &[Timestamp], now: Timestamp) -> Problem {
    let oldest = times[times.len().saturating_sub(MOST + 1)];
    let seconds = WINDOW_MS.saturating_sub(now.since_ms(oldest)).div_ceil(1000).max(1);
    Problem::new(
        Code::RateLimited,
        "too many wrong pair codes",
        format!("more than {MOST} within a minute"),
        format!("wait {seconds} s, then look at the code again and try once more"),
    )
    .retry_after(seconds)
}

impl Inner {
    /// Begins a try; refused while there were too many wrong ones.
    pub async fn try_code(&self, guesser: Guesser<'_>) -> Answer<Try<'_>> {
        let framed = match guesser {
            Guesser::Account(account) => Frame::new("account").field(&account.0),
            Guesser::Address(peer) => Frame::new("address").field(&address_of(peer)),
            Guesser::Opener(open) => Frame::new("opener").field(&open.hash().0),
        };
        let who = self.cells.mac("guesser", framed.bytes());
        let mut seat = self.guesses.seat(who).lock_owned().await;
        let now = self.clock.now();
        if seat.is_none() {
            let stored = self.load::<GuessRow>(keys::guesses(&who)).await?;
            *seat = Some(stored.map(|row| row.row.times.clone()).unwrap_or_default());
        }
        let times = seat.get_or_insert_default();
        times.retain(|time| now.since_ms(*time) < WINDOW_MS);
        if times.len() > MOST {
            return Err(slowed(times, now));
        }
        Ok(Try { vault: self, who, now, seat })
    }
}

impl Try<'_> {
    /// Counts a wrong code, and turns its answer into a slowed one when it was one too many.
    pub async fn wrong(mut self, problem: Problem) -> Problem {
        let now = self.now;
        let times = self.seat.get_or_insert_default();
        times.push(now);
        let answer = if times.len() > MOST { slowed(times, now) } else { problem };
        let row = GuessRow { times: times.clone() };
        match self.record(&row).await {
            Ok(()) => answer,
            Err(problem) => problem,
        }
    }

    async fn record(&self, row: &GuessRow) -> Answer<()> {
        let key = keys::guesses(&self.who);
        let mut proposal = Proposal::default();
        proposal.writes.push(self.vault.put(key, row)?);
        let due = self.now.plus_ms(WINDOW_MS);
        proposal.writes.push(self.vault.note_due(due, sweep::GUESSES, &self.who)?);
        self.vault.propose(proposal).await.map(|_| ())
    }
}
