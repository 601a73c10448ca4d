//! The rendezvous: how a payload reaches a child that nobody can dial. The relay sees
//! ciphertext alone, and hands it on byte for byte.
use std::time::Duration;

use tokio::time::Instant;

use super::access::{Access, same_hash};
use super::approval::{consumed, expired};
use super::journal::Proposal;
use super::rows::{Progress, RequestLink, RequestRow, Sealed};
use super::session::half;
use super::{Inner, Loaded, answer, keys};
use crate::backend::peer::Peer;
use crate::backend::store::{Check, Watch, Write};
use crate::core::audit::{Action, Outcome};
use crate::core::backend::{MAX_PAYLOAD, MAX_WAIT};
use crate::core::otp::PairCode;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::seal::OVERHEAD;
use crate::core::token::{OpenToken, RegistrationToken};
use crate::core::types::{ChildKeys, Hash32, Timestamp};

fn already_delivered() -> Problem {
    Problem::new(
        Code::AlreadyDelivered,
        "the rendezvous has its payload already",
        "a pair code takes one payload",
        "let the agent show a new code",
    )
}

fn not_registered() -> Problem {
    Problem::new(
        Code::Unauthorized,
        "not registered at the rendezvous",
        "the registration token is not known here, or was replaced by a newer one",
        "register again with the open token",
    )
}

fn said_no() -> Problem {
    Problem::new(
        Code::Denied,
        "access denied: the master said no",
        "the request was denied",
        "ask the master, then try again with a new code",
    )
}

/// Until when a request's rendezvous is open.
fn open_until(row: &RequestRow) -> Timestamp {
    row.bound.map_or(row.live_until, |bound| bound.until.max(row.live_until))
}

/// When time alone makes something else of what a long poll would answer.
pub fn changes_at(row: &RequestRow) -> Timestamp {
    match &row.progress {
        Progress::Live => open_until(row),
        Progress::Decided { until, .. } => *until,
        Progress::Ended { at, .. } => *at,
    }
}

/// A long poll while it waits: registered before the first look, so that nothing is missed.
/// It wakes when the request changes, and when the right of whoever asks does.
pub struct Parked {
    request: Watch,
    agent: Option<Watch>,
    session: Option<Watch>,
    deadline: Instant,
}

impl Parked {
    pub fn on(vault: &Inner, request: &Loaded<RequestRow>, wait: Duration) -> Self {
        let row = &request.row;
        let agent = match &row.progress {
            Progress::Decided { by, decision, .. } => {
                decision.granted.as_ref().map(|granted| (*by, granted.agent))
            }
            _ => row.agent,
        };
        Self {
            request: vault.store.watch(&request.key),
            agent: agent.map(|(account, wallet)| vault.store.watch(&keys::agent(account, wallet))),
            session: row.parent_session.map(|id| vault.store.watch(&keys::session(id))),
            deadline: Instant::now() + wait.min(MAX_WAIT),
        }
    }

    /// Whether the next look is the last one.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// Waits for a change, for `left` milliseconds at most, and never past the deadline.
    pub async fn wait(&mut self, left: u64) {
        // A moment at least: a wrong figure must not make this spin.
        let left = Duration::from_millis(left.max(1));
        tokio::select! {
            () = self.request.changed() => {}
            () = changed(&mut self.agent) => {}
            () = changed(&mut self.session) => {}
            () = tokio::time::sleep_until(self.deadline.min(Instant::now() + left)) => {}
        }
    }
}

async fn changed(watch: &mut Option<Watch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

impl Inner {
    pub async fn register(
        &self,
        peer: &Peer,
        open: &OpenToken,
        code: PairCode,
        keys_sent: ChildKeys,
    ) -> Answer<Option<RegistrationToken>> {
        let request = self.code_of_stranger(peer, code, open).await?;
        let (row, now) = (&request.row, self.clock.now());
        match &row.progress {
            Progress::Ended { consumed: true, .. } => return Err(consumed()),
            Progress::Ended { .. } => return Err(expired(row, now)),
            Progress::Live if now >= open_until(row) => return Err(expired(row, now)),
            Progress::Decided { until, .. } if now >= *until => return Err(consumed()),
            Progress::Live | Progress::Decided { .. } => {}
        }
        if keys_sent != row.keys {
            return Err(Problem::invalid(
                "daemon_pubkey",
                "it is not the key that the request was opened with",
            ));
        }
        let token = RegistrationToken::new(self.entropy.key().map_err(answer::entropy)?.expose());
        let hash = token.hash();
        let mut next = RequestRow::clone(row);
        next.registered = Some(hash);
        let key = keys::registration(&half(&hash));
        let mut proposal = Proposal::default();
        proposal.checks.push(request.unchanged());
        proposal.checks.push(Check::Absent(key.clone()));
        if let Some(old) = &row.registered {
            // Whoever registers again has lost the answer: the old token is worth nothing.
            proposal.writes.push(Write::Delete(keys::registration(&half(old))));
        }
        proposal.writes.push(self.put(key, &RequestLink { request: row.id, hash: Some(hash) })?);
        proposal.writes.push(self.put(request.key.clone(), &next)?);
        Ok(self.propose(proposal).await?.then_some(token))
    }

    async fn registered(&self, hash: &Hash32) -> Answer<Loaded<RequestRow>> {
        let link = self
            .load::<RequestLink>(keys::registration(&half(hash)))
            .await?
            .filter(|link| link.row.hash.is_some_and(|known| same_hash(&known, hash)))
            .ok_or_else(not_registered)?;
        self.load(keys::request(link.row.request)).await?.ok_or_else(not_registered)
    }

    pub async fn poll(
        &self,
        registration: &RegistrationToken,
        wait: Duration,
    ) -> Answer<Option<Vec<u8>>> {
        let hash = registration.hash();
        let mut parked = Parked::on(self, &self.registered(&hash).await?, wait);
        loop {
            let last_look = parked.is_over();
            let request = self.registered(&hash).await?;
            let (row, now) = (&request.row, self.clock.now());
            let payload = waiting_payload(row, now)?;
            self.still_stands(row).await?;
            if payload.is_some() || last_look {
                return Ok(payload);
            }
            parked.wait(changes_at(row).since_ms(now)).await;
        }
    }

    pub async fn deliver(&self, access: &Access, code: PairCode, payload: &[u8]) -> Answer<bool> {
        access.master()?;
        if !(OVERHEAD..=MAX_PAYLOAD).contains(&payload.len()) {
            return Err(Problem::invalid(
                "payload",
                format!("a payload is sealed bytes of {OVERHEAD} to {MAX_PAYLOAD} bytes"),
            ));
        }
        let request = self.code_of_master(access, code).await?;
        let row = &request.row;
        match &row.progress {
            Progress::Live if access.now >= open_until(row) => {
                return Err(expired(row, access.now));
            }
            Progress::Live if row.relay.is_some() && !has_lapsed(row, access) => {
                return Err(already_delivered());
            }
            Progress::Live => {}
            Progress::Decided { by, .. } if *by == access.account_id() => {
                return Err(already_delivered());
            }
            Progress::Ended { consumed: true, by: Some(by), .. } if *by == access.account_id() => {
                return Err(already_delivered());
            }
            Progress::Decided { .. } | Progress::Ended { .. } => {
                return Err(expired(row, access.now));
            }
        }
        // Leaving a payload binds the request as fetching it does.
        let (mut next, mut proposal) = match self.bind(access, &request)? {
            Some((next, proposal)) => (next, proposal),
            None => {
                let mut proposal = access.unchanged();
                proposal.checks.push(request.unchanged());
                ((**row).clone(), proposal)
            }
        };
        next.relay = Some(Sealed(payload.to_vec()));
        proposal.writes.push(self.put(request.key.clone(), &next)?);
        let mut event = access.event(Action::Deliver, Outcome::Allowed);
        event.request = Some(row.id);
        proposal.events.push(event);
        self.propose(proposal).await
    }
}

/// Whether another account had it and did not confirm: what that one left is void.
fn has_lapsed(row: &RequestRow, access: &Access) -> bool {
    row.bound.is_some_and(|bound| bound.account != access.account_id() && bound.until <= access.now)
}

/// What there is for the child now. An approval's own payload goes before one that was left.
fn waiting_payload(row: &RequestRow, now: Timestamp) -> Answer<Option<Vec<u8>>> {
    let left = || row.relay.as_ref().map(|relay| relay.0.clone());
    match &row.progress {
        Progress::Live if now >= open_until(row) => Err(expired(row, now)),
        Progress::Live => Ok(left()),
        Progress::Decided { until, .. } if now >= *until => Err(consumed()),
        Progress::Decided { payload: Some(payload), .. } => Ok(Some(payload.0.clone())),
        Progress::Decided { decision, .. } if decision.granted.is_none() => Err(said_no()),
        Progress::Decided { .. } => Ok(left()),
        Progress::Ended { consumed: true, .. } => Err(consumed()),
        Progress::Ended { .. } => Err(expired(row, now)),
    }
}
