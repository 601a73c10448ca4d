//! Requests that a rule holds until the master has approved them: each waits with a
//! `HighValueRelease` that is bound to the agent, its session, the service, method, host, path and
//! body. Equal ones that wait are one.
//!
//! Must never send a request by the approval of another one, or more of them than were shown.
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use super::access::Access;
use super::journal::Proposal;
use super::opening::Asking;
use super::rows::{AgentRow, Progress, ReleaseRow, RequestRow, SessionKind, SessionRow};
use super::using::{InUse, Purpose};
use super::verdict::Asker;
use super::{Inner, Loaded, MAX_TRIES, Vault, answer, keys, sweep};
use crate::backend::peer::Peer;
use crate::backend::store::{Check, Watch, Write};
use crate::core::audit::{Action, Outcome};
use crate::core::auth_request::{Details, HighValueRelease, Kind};
use crate::core::backend::{Grant, Lasts, MAX_LASTS};
use crate::core::claim::{PlainPath, PlainWord};
use crate::core::frame::Frame;
use crate::core::gateway::Held;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::token::SessionToken;
use crate::core::types::{AccountId, ChildKeys, Hash32, RequestId, Timestamp, WalletAddress};

/// An approval of one request is good for so long, for one that was sent again meanwhile.
const ONCE_MS: u64 = 3 * 60 * 1000;
/// One for a session is forgotten after this long, whatever became of it.
const SESSION_MS: u64 = 30 * 24 * 60 * 60 * 1000;
/// Most requests of one agent that its master is asked about at once: nobody looks at more.
const MOST_ASKED: usize = 8;
/// Most exchanges of one agent that are held at once: each keeps its body.
const MOST_HELD: u32 = 32;

/// What a request would do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Act {
    /// Host that it goes to.
    pub host: PlainWord,
    /// Path and query.
    pub path: PlainPath,
    /// SHA-256 of its body.
    pub body: Hash32,
    /// The sum that its body names, in the currency's smallest unit, and the currency.
    pub sum: Option<(u64, PlainWord)>,
}

/// The currency of a request whose body names no sum.
fn no_currency() -> PlainWord {
    "none".parse().expect("a plain word")
}

/// An approval, for the log: what it is of, and for how long.
pub fn in_words(act: &HighValueRelease, lasts: Option<Lasts>) -> String {
    let path = without_query(act.path.as_str());
    let how_long = match lasts {
        None => "once".to_owned(),
        Some(Lasts::Seconds(seconds)) => format!("for {seconds} s, whatever the body"),
        Some(Lasts::Session) => "for this session, whatever the body".to_owned(),
    };
    format!("{} {}{path} with the {} key, {how_long}", act.method, act.host, act.service)
}

fn without_query(path: &str) -> &str {
    path.split('?').next().unwrap_or_default()
}

/// Who asks, as far as an approval is bound to it. After a revocation the epoch is another.
#[derive(Clone, Copy)]
struct Whose {
    account: AccountId,
    wallet: WalletAddress,
    epoch: u64,
    family: [u8; 16],
}

impl Whose {
    fn of(session: &SessionRow, agent: &AgentRow) -> Answer<Self> {
        let SessionKind::Child { family, .. } = &session.kind else {
            return Err(Problem::internal());
        };
        let AgentRow { account, wallet, epoch, .. } = *agent;
        Ok(Self { account, wallet, epoch, family: *family })
    }

    /// Just this request, in this session.
    fn exactly(&self, act: &HighValueRelease) -> Hash32 {
        self.hash(act, Some(self.family), act.path.as_str(), Some(act.body))
    }

    /// Whatever has its method, host and path.
    fn alike(&self, act: &HighValueRelease, lasts: Lasts) -> Hash32 {
        let family = match lasts {
            Lasts::Session => Some(self.family),
            Lasts::Seconds(_) => None,
        };
        self.hash(act, family, without_query(act.path.as_str()), None)
    }

    fn hash(
        &self,
        act: &HighValueRelease,
        family: Option<[u8; 16]>,
        path: &str,
        body: Option<Hash32>,
    ) -> Hash32 {
        let framed = Frame::new("AgentKeys-v1-Release")
            .field(&self.account.0)
            .field(&self.wallet.0)
            .field(&self.epoch.to_be_bytes())
            .optional(family.as_ref().map(|family| &family[..]))
            .field(act.service.as_str().as_bytes())
            .field(act.method.as_str().as_bytes())
            .field(act.host.as_str().as_bytes())
            .field(path.as_bytes())
            .optional(body.as_ref().map(|body| &body.0[..]));
        Hash32::of(framed.bytes())
    }

    /// Whatever could have been approved that this request is part of.
    fn all(&self, act: &HighValueRelease) -> [Hash32; 3] {
        [self.alike(act, Lasts::Seconds(0)), self.alike(act, Lasts::Session), self.exactly(act)]
    }
}

/// The details of the request that a purpose comes to.
fn details_of(purpose: &Purpose, act: &Act, wallet: WalletAddress) -> Answer<HighValueRelease> {
    let (amount, currency) = act.sum.clone().unwrap_or_else(|| (0, no_currency()));
    Ok(HighValueRelease {
        agent: wallet,
        amount,
        body: act.body,
        currency,
        host: act.host.clone(),
        method: purpose.method.parse()?,
        path: act.path.clone(),
        reason: None,
        service: purpose.service.clone(),
    })
}

/// Equal requests that wait.
struct Group {
    request: RequestId,
    agent: (AccountId, WalletAddress),
    waiting: u32,
    until: Timestamp,
    /// Whether an answer is still to come.
    open: bool,
}

/// What is held in this process.
#[derive(Default)]
pub struct Holding {
    groups: Mutex<HashMap<Hash32, Group>>,
    /// So that equal ones that come at once open one request.
    opening: tokio::sync::Mutex<()>,
}

impl Holding {
    fn lock(&self) -> MutexGuard<'_, HashMap<Hash32, Group>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many wait for a request's answer now.
    pub fn waiting(&self, request: RequestId) -> u32 {
        let groups = self.lock();
        groups.values().find(|group| group.request == request).map_or(0, |group| group.waiting)
    }

    fn enter(&self, of: Hash32) {
        if let Some(group) = self.lock().get_mut(&of) {
            group.waiting += 1;
        }
    }

    fn answered(&self, of: &Hash32) {
        if let Some(group) = self.lock().get_mut(of) {
            group.open = false;
        }
    }

    fn leave(&self, of: &Hash32, request: RequestId) {
        if let Some(group) = self.lock().get_mut(of).filter(|group| group.request == request) {
            group.waiting = group.waiting.saturating_sub(1);
        }
    }

    /// Refuses one more of an agent that has enough; `new` if it is unlike all that wait.
    fn has_place(
        &self,
        agent: (AccountId, WalletAddress),
        now: Timestamp,
        new: bool,
    ) -> Answer<()> {
        let mut groups = self.lock();
        groups.retain(|_, group| group.waiting > 0 || group.until > now);
        let own = || groups.values().filter(|group| group.agent == agent);
        let waiting: u32 = own().map(|group| group.waiting).sum();
        let asked = own().filter(|group| group.open && group.until > now).count();
        if waiting < MOST_HELD && (!new || asked < MOST_ASKED) {
            return Ok(());
        }
        Err(Problem::new(
            Code::RateLimited,
            "too many requests wait for an approval",
            format!("an agent has {MOST_HELD} at most, and {MOST_ASKED} different ones"),
            "let your master answer some, or wait until they have lapsed",
        )
        .retry_after(10))
    }
}

/// A request that waits. It is one fewer when this is dropped.
pub struct Waiting {
    place: Place,
    peer: Peer,
    session: SessionToken,
    purpose: Purpose,
    watches: Vec<Watch>,
    held: Held,
}

/// A place among equal ones.
struct Place {
    vault: Arc<Inner>,
    of: Hash32,
    request: RequestId,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.vault.holding.leave(&self.of, self.request);
    }
}

fn said_no() -> (&'static str, &'static str) {
    ("the master said no", "ask the master, and send something else")
}

fn not_approved(purpose: &Purpose, (cause, fix): (&str, &str)) -> Problem {
    let detail = format!("access denied: {} was not approved", purpose.what);
    let mut problem = Problem::new(Code::Denied, detail, cause, fix);
    problem.docs = "docs/errors.md#approval".to_owned();
    problem
}

impl Waiting {
    /// What the agent's side is told.
    pub fn held(&self) -> &Held {
        &self.held
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// `DENIED` when it was refused, nobody answered, its approval was used by an equal one, or the
    /// agent's right ended meanwhile.
    pub async fn answer(mut self) -> Answer<Box<InUse>> {
        let vault = Vault(self.place.vault.clone());
        loop {
            // Looked at in this order: what approves it is one commit with its release.
            let found = self.look().await?;
            let taken = vault.use_in_turn(&self.peer, &self.session, &self.purpose).await;
            if taken.is_err() {
                self.place.vault.holding.answered(&self.place.of);
            }
            if let Some(using) = taken? {
                self.place.vault.holding.answered(&self.place.of);
                if using.by != Some(self.place.request) {
                    self.withdraw().await;
                }
                return Ok(using);
            }
            let left = match found {
                Ok(left) => left,
                Err(why) => {
                    self.place.vault.holding.answered(&self.place.of);
                    return self.refuse(not_approved(&self.purpose, why)).await;
                }
            };
            let watches = self.watches.iter_mut();
            let mut changed: Vec<_> = watches.map(|watch| Box::pin(watch.changed())).collect();
            let any = std::future::poll_fn(|cx| {
                match changed.iter_mut().any(|one| one.as_mut().poll(cx).is_ready()) {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            });
            // Now and then the time is looked at anew: the machine may have slept, or its clock
            // been set.
            let lapses = tokio::time::sleep(Duration::from_millis(left.clamp(1, 1000)));
            tokio::select! {
                () = any => {}
                () = lapses => {}
            }
        }
    }

    /// How many milliseconds there are left to answer, or how it ended.
    async fn look(&self) -> Answer<Result<u64, (&'static str, &'static str)>> {
        let vault = &self.place.vault;
        let now = vault.clock.now();
        let row = vault.load::<RequestRow>(keys::request(self.place.request)).await?;
        let lapsed =
            ("nobody answered within 180 seconds", "send it again, and have your master answer");
        Ok(match row.as_ref().map(|row| (&row.row.progress, row.row.live_until)) {
            Some((Progress::Live, until)) if now < until => Ok(until.since_ms(now)),
            Some((Progress::Decided { decision, .. }, _)) if decision.granted.is_none() => {
                Err(said_no())
            }
            Some((Progress::Decided { .. } | Progress::Ended { consumed: true, .. }, _)) => {
                Err(("its approval was used by an equal request", "send it again to ask again"))
            }
            _ => Err(lapsed),
        })
    }

    /// Puts on record that it was not sent.
    async fn refuse(&self, problem: Problem) -> Answer<Box<InUse>> {
        let vault = &self.place.vault;
        let mut access = vault.recognise(&self.session).await?;
        access.peer = Some(self.peer.clone());
        let agent = access.agent.as_ref().map(|agent| agent.row.clone());
        let service = Some(&self.purpose.service);
        vault.denied(&access, Action::Use, agent.as_deref(), service, problem).await
    }

    /// Takes the question back, where another approval has let the last one through that waited.
    async fn withdraw(&self) {
        let vault = &self.place.vault;
        if vault.holding.waiting(self.place.request) > 1 {
            return;
        }
        // Nothing hangs on it: it lapses by itself.
        let Ok(Some(request)) = vault.load::<RequestRow>(keys::request(self.place.request)).await
        else {
            return;
        };
        if !matches!(request.row.progress, Progress::Live) {
            return;
        }
        let mut row = RequestRow::clone(&request.row);
        row.progress = Progress::Ended { by: None, at: vault.clock.now(), consumed: false };
        row.nonce = None;
        let mut proposal = Proposal::default();
        proposal.checks.push(request.unchanged());
        if let Ok(write) = vault.put(request.key.clone(), &row) {
            proposal.writes.push(write);
            if let Some((account, _)) = row.agent {
                proposal.writes.push(Write::Delete(keys::pending(account, row.id)));
            }
            let _ = vault.propose(proposal).await;
        }
    }
}

impl Vault {
    /// Takes a credential into use for a request that its master is asked about, if that was
    /// approved already; and else has it wait.
    ///
    /// # Errors
    /// Those of [`Vault::use_credential`]; `RATE_LIMITED` when the agent has enough that waits.
    pub async fn hold(
        &self,
        peer: Peer,
        session: &SessionToken,
        purpose: Purpose,
        act: Act,
    ) -> Answer<Result<Box<InUse>, Waiting>> {
        let purpose = Purpose { act: Some(act), ..purpose };
        for _ in 0..MAX_TRIES {
            if let Some(using) = self.use_in_turn(&peer, session, &purpose).await? {
                return Ok(Ok(using));
            }
            let access = self.0.authenticate(session).await?;
            access.standing()?;
            if let Some((request, place)) = self.0.join(&access, &peer, &purpose).await? {
                let row = &request.row;
                let of = place.of;
                let (Some(agent), Some(act)) = (&access.agent, &purpose.act) else {
                    return Err(Problem::internal());
                };
                let act = details_of(&purpose, act, agent.row.wallet)?;
                let whose = Whose::of(&access.session.row, &agent.row)?;
                debug_assert!(whose.exactly(&act) == of);
                let store = &self.0.store;
                let mut watches: Vec<Watch> =
                    whose.all(&act).iter().map(|of| store.watch(&self.0.release_key(of))).collect();
                watches.push(store.watch(&request.key));
                watches.push(store.watch(&agent.key));
                watches.push(store.watch(&keys::session(access.session_id)));
                let held = Held {
                    request_id: row.id,
                    pair_code: row.pair_code,
                    otp: row.otp,
                    seconds: row.live_until.since_ms(access.now) / 1000,
                };
                let session =
                    SessionToken::parse(session.expose()).map_err(|_| Problem::internal())?;
                return Ok(Err(Waiting { place, peer, session, purpose, watches, held }));
            }
        }
        Err(answer::busy())
    }
}

impl Inner {
    fn release_key(&self, of: &Hash32) -> Vec<u8> {
        keys::release(&self.cells.mac("release", &of.0))
    }

    /// The approval that a request may be sent by, if there is one.
    pub async fn released(
        &self,
        access: &Access,
        agent: &AgentRow,
        purpose: &Purpose,
        act: &Act,
    ) -> Answer<Option<Loaded<ReleaseRow>>> {
        let act = details_of(purpose, act, agent.wallet)?;
        for of in Whose::of(&access.session.row, agent)?.all(&act) {
            let found = self.load::<ReleaseRow>(self.release_key(&of)).await?;
            let good = |row: &ReleaseRow| row.of == of && access.now < row.until;
            if let Some(found) = found.filter(|found| good(&found.row)) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Counts a use of an approval.
    pub fn use_release(&self, release: &Loaded<ReleaseRow>, proposal: &mut Proposal) -> Answer<()> {
        proposal.checks.push(release.unchanged());
        let key = release.key.clone();
        match release.row.left {
            None => {}
            Some(0 | 1) => proposal.writes.push(Write::Delete(key)),
            Some(more) => {
                let left = ReleaseRow { left: Some(more - 1), ..ReleaseRow::clone(&release.row) };
                proposal.writes.push(self.put(key, &left)?);
            }
        }
        Ok(())
    }

    /// Takes a place among equal ones, and opens the request if it is the first; `None` if
    /// something changed meanwhile.
    async fn join(
        self: &Arc<Self>,
        access: &Access,
        peer: &Peer,
        purpose: &Purpose,
    ) -> Answer<Option<(Loaded<RequestRow>, Place)>> {
        let (Some(agent), Some(act)) = (&access.agent, &purpose.act) else {
            return Err(Problem::internal());
        };
        let act = details_of(purpose, act, agent.row.wallet)?;
        let of = Whose::of(&access.session.row, &agent.row)?.exactly(&act);
        let whose = (access.account_id(), agent.row.wallet);
        let _opening = self.holding.opening.lock().await;
        let known = {
            let groups = self.holding.lock();
            groups.get(&of).filter(|group| group.until > access.now).map(|group| group.request)
        };
        if let Some(id) = known
            && let Some(request) = self.load::<RequestRow>(keys::request(id)).await?
        {
            match &request.row.progress {
                Progress::Live => {
                    self.holding.has_place(whose, access.now, false)?;
                    self.holding.enter(of);
                    let place = Place { vault: self.clone(), of, request: id };
                    return Ok(Some((request, place)));
                }
                // Nobody is asked again at once what was just refused.
                Progress::Decided { decision, .. } if decision.granted.is_none() => {
                    return Err(not_approved(purpose, said_no()));
                }
                Progress::Decided { .. } | Progress::Ended { .. } => {}
            }
        }
        self.holding.has_place(whose, access.now, true)?;
        let details = Details::HighValueRelease(act)
            .canonical()
            .map_err(|error| Problem::invalid("request", error.to_string()))?;
        // No child is to fetch the decision; what the child's keys would be is left empty.
        let keys_of_none = ChildKeys([0; 64]);
        let kind = Kind::HighValueRelease;
        let asks = Asking { peer, kind, details: &details, keys: keys_of_none };
        let (mut row, ..) = self.new_request(&asks, Some(access))?;
        row.held = true;
        let mut proposal = self.opening(&row, Some(access))?;
        let event = access.event(Action::Ask, Outcome::Allowed).of(&agent.row);
        let mut event = event.service(&purpose.service).detail(purpose.what.clone());
        event.request = Some(row.id);
        proposal.events.push(event);
        if !self.propose(proposal).await? {
            return Ok(None);
        }
        let until = row.live_until;
        let group = Group { request: row.id, agent: whose, waiting: 1, until, open: true };
        self.holding.lock().insert(of, group);
        let place = Place { vault: self.clone(), of, request: row.id };
        let request = self.load::<RequestRow>(keys::request(row.id)).await?;
        Ok(request.map(|request| (request, place)))
    }

    /// Adds to an approval what it lets through.
    pub async fn release(
        &self,
        access: &Access,
        row: &RequestRow,
        act: &HighValueRelease,
        asker: &Asker,
        grant: &Grant,
        proposal: &mut Proposal,
    ) -> Answer<()> {
        let whose = Whose::of(&asker.session.row, &asker.agent.row)?;
        let now = access.now;
        let (of, mut left, mut until) = match grant.lasts {
            None => {
                let waiting = self.holding.waiting(row.id).max(1);
                (whose.exactly(act), Some(waiting), now.plus_ms(ONCE_MS))
            }
            Some(Lasts::Seconds(seconds)) => {
                if !(1..=MAX_LASTS).contains(&seconds) {
                    let why = format!("an approval lasts 1 to {MAX_LASTS} seconds");
                    return Err(Problem::invalid("lasts", why));
                }
                let lasts = Lasts::Seconds(seconds);
                (whose.alike(act, lasts), None, now.plus_ms(seconds * 1000))
            }
            Some(Lasts::Session) => {
                (whose.alike(act, Lasts::Session), None, now.plus_ms(SESSION_MS))
            }
        };
        let key = self.release_key(&of);
        match self.load::<ReleaseRow>(key.clone()).await? {
            None => proposal.checks.push(Check::Absent(key.clone())),
            Some(before) => {
                proposal.checks.push(before.unchanged());
                if before.row.of == of && now < before.row.until {
                    until = until.max(before.row.until);
                    left = left.zip(before.row.left).map(|(left, more)| left.saturating_add(more));
                }
            }
        }
        let release = ReleaseRow { of, request: row.id, left, until };
        proposal.writes.push(self.put(key, &release)?);
        let id = self.cells.mac("release", &of.0);
        proposal.writes.push(self.note_due(until, sweep::RELEASE, &id)?);
        Ok(())
    }
}
