//! Wrong pair codes are counted, for each account, for each address without a session and for
//! each child that opened a request, so that nobody guesses one and nobody uses up another's
//! tries. The counts are stored: a restart of the backend forgives nothing. Live requests are
//! counted by address, in memory.
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex as SyncMutex};

use tokio::sync::{Mutex, OwnedMutexGuard};

use super::journal::Proposal;
use super::rows::{GuessRow, RequestRow};
use super::{Inner, keys, sweep};
use crate::backend::peer::Peer;
use crate::core::frame::Frame;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::token::OpenToken;
use crate::core::types::{AccountId, Timestamp};

/// Wrong codes a minute that are answered; one more is slowed.
const MOST: usize = 5;
const WINDOW_MS: u64 = 60_000;
/// Live requests of one address, but under `--dev`.
const MAX_OPEN: usize = 32;
/// Addresses that are counted at once.
const MAX_ADDRESSES: usize = 64 * 1024;
/// Callers whose counts are in memory at once.
const MAX_SEATS: usize = 64 * 1024;

/// Whose tries are counted.
pub enum Guesser<'a> {
    Account(AccountId),
    Address(&'a Peer),
    /// Whoever opened a request, at whatever address.
    Opener(&'a OpenToken),
    /// A peer without a session that shows a head of an audit log.
    Shower(&'a Peer),
}

impl Guesser<'_> {
    /// What is guessed, in the plural.
    fn what(&self) -> &'static str {
        match self {
            Self::Account(_) | Self::Address(_) | Self::Opener(_) => "wrong pair codes",
            Self::Shower(_) => "heads of no audit log",
        }
    }
}

/// The address by which a peer without a session is known: an IPv6 host has a whole /64.
pub fn address_of(peer: &Peer) -> Vec<u8> {
    match peer {
        Peer::Address(ip) => address_of_ip(*ip),
        Peer::Unix(peer) => address_of_uid(peer.uid),
    }
}

/// The same for people.
pub fn address_in_words(peer: &Peer) -> String {
    match peer {
        Peer::Address(ip) => ip.to_canonical().to_string(),
        Peer::Unix(peer) => format!("the Unix socket, user {}", peer.uid),
    }
}

fn address_of_ip(ip: IpAddr) -> Vec<u8> {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets()[..8].to_vec(),
    }
}

fn address_of_uid(uid: u32) -> Vec<u8> {
    format!("uid {uid}").into_bytes()
}

/// Live requests by address.
#[derive(Default)]
pub struct Openings(SyncMutex<HashMap<Vec<u8>, Vec<Timestamp>>>);

impl Openings {
    pub fn count_in(&self, address: Vec<u8>, now: Timestamp, until: Timestamp) -> Answer<()> {
        let mut live = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if live.len() >= MAX_ADDRESSES && !live.contains_key(&address) {
            live.retain(|_, ends| ends.iter().any(|end| *end > now));
            if live.len() >= MAX_ADDRESSES {
                return Err(too_many_open(60));
            }
        }
        let ends = live.entry(address).or_default();
        ends.retain(|end| *end > now);
        if ends.len() >= MAX_OPEN {
            let seconds = ends.iter().min().map_or(60, |end| end.since_ms(now).div_ceil(1000));
            return Err(too_many_open(seconds));
        }
        ends.push(until);
        Ok(())
    }

    pub fn count_out(&self, address: &[u8], until: Timestamp) {
        let mut live = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let Some(ends) = live.get_mut(address) else { return };
        if let Some(at) = ends.iter().position(|end| *end == until) {
            ends.swap_remove(at);
        }
        if ends.is_empty() {
            live.remove(address);
        }
    }

    /// Makes room for another request of whoever opened this one, which was answered.
    pub fn answered(&self, row: &RequestRow) {
        let address = match (row.saw.uid, row.saw.address.parse()) {
            (Some(uid), _) => address_of_uid(uid),
            (None, Ok(ip)) => address_of_ip(ip),
            (None, Err(_)) => return,
        };
        self.count_out(&address, row.live_until);
    }
}

fn too_many_open(seconds: u64) -> Problem {
    Problem::new(
        Code::RateLimited,
        "too many open requests",
        format!("an address may have {MAX_OPEN} requests open at once"),
        format!("wait {seconds} s, or answer the ones that are open"),
    )
    .retry_after(seconds)
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
    what: &'static str,
    seat: OwnedMutexGuard<Option<Vec<Timestamp>>>,
}

fn slowed(what: &str, times: &[Timestamp], now: Timestamp) -> Problem {
    let oldest = times[times.len().saturating_sub(MOST + 1)];
    let seconds = WINDOW_MS.saturating_sub(now.since_ms(oldest)).div_ceil(1000).max(1);
    Problem::new(
        Code::RateLimited,
        format!("too many {what}"),
        format!("more than {MOST} within a minute"),
        format!("wait {seconds} s, then look at it again and try once more"),
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
            Guesser::Shower(peer) => Frame::new("shower").field(&address_of(peer)),
        };
        let what = guesser.what();
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
            return Err(slowed(what, times, now));
        }
        Ok(Try { vault: self, who, now, what, seat })
    }
}

impl Try<'_> {
    /// Counts a wrong code, and turns its answer into a slowed one when it was one too many.
    pub async fn wrong(mut self, problem: Problem) -> Problem {
        let now = self.now;
        let times = self.seat.get_or_insert_default();
        times.push(now);
        let answer = if times.len() > MOST { slowed(self.what, times, now) } else { problem };
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
