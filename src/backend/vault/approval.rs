//! Auth requests: opened by a child, fetched and answered by a master, once.
use std::time::Duration;

use super::access::{Access, agent_not_found, agent_was_revoked, same_hash};
use super::guess::Guesser;
pub use super::guess::Openings;
use super::journal::Proposal;
use super::rendezvous::{Parked, changes_at};
use super::rows::{AgentRow, Bound, FamilyRow, Progress, RequestLink, RequestRow, SessionKind};
use super::{Inner, Loaded, MAX_TRIES, answer, keys};
use crate::backend::peer::Peer;
use crate::backend::store::Write;
use crate::core::auth_request::{Details, Kind};
use crate::core::backend::{Fetched, Pending};
use crate::core::decision::Decision;
use crate::core::otp::PairCode;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::token::OpenToken;
use crate::core::types::{AccountId, Hash32, RequestId, Timestamp};

/// An unfetched request lives this long, and a decision waits as long at most.
pub const LIVE_MS: u64 = 5 * 60 * 1000;
const HIGH_VALUE_MS: u64 = 3 * 60 * 1000;
/// Fetching opens this long to confirm.
const CONFIRM_MS: u64 = 60 * 1000;
/// A decision may be fetched again this long, and an ended code says so.
pub const AFTER_MS: u64 = 10 * 60 * 1000;
/// Most requests that one account is shown as pending.
const MAX_PENDING: usize = 1000;

pub const fn life_ms(kind: Kind) -> u64 {
    match kind {
        Kind::HighValueRelease => HIGH_VALUE_MS,
        _ => LIVE_MS,
    }
}

pub fn no_match() -> Problem {
    Problem::new(
        Code::NoMatch,
        "no request has this pair code",
        "the code is mistyped, or its request ended a while ago",
        "look at the code that the agent shows now, and try again",
    )
}

pub fn unknown_request() -> Problem {
    Problem::new(
        Code::NotFound,
        "no such request",
        "there is no request of that id, or it ended a while ago",
        "agentkeys pending shows what waits for an answer",
    )
}

pub fn consumed() -> Problem {
    Problem::new(
        Code::AlreadyConsumed,
        "the request was already answered",
        "a request is answered once",
        "if the agent still waits, let it show a new code",
    )
}

pub fn not_yours(access: Option<&Access>) -> Problem {
    let cause = match access {
        Some(access) => format!(
            "you are signed in as {}, and the request is another account's to answer",
            access.account.row.identity
        ),
        None => "the open token is not the one of this request".to_owned(),
    };
    Problem::new(
        Code::Unauthorized,
        "not the owner of this request",
        cause,
        "sign in as the account that owns the agent; a code that another account is confirming \
         is free again after a minute",
    )
}

/// Another account has fetched it, or goes first.
fn anothers_turn(until: Timestamp, now: Timestamp, first: &str) -> Problem {
    let seconds = until.since_ms(now).div_ceil(1000).max(1);
    Problem::new(
        Code::Unauthorized,
        "another account is looking at this request",
        format!("it has {seconds} s left to answer; {first}"),
        format!(
            "wait {seconds} s, then run it again; if none but you should have the code, let the \
             agent show a new one"
        ),
    )
}

/// Until when a request can still be answered by anybody.
fn ends_at(row: &RequestRow) -> Timestamp {
    row.bound.map_or(row.live_until, |bound| bound.until.max(row.live_until))
}

pub fn expired(row: &RequestRow, now: Timestamp) -> Problem {
    let age = now.since_ms(row.created_at) / 1000;
    let limit = life_ms(row.kind) / 1000;
    let cause = match &row.progress {
        Progress::Decided { .. } | Progress::Ended { by: Some(_), .. } => {
            format!("it is {age} s old and was answered; a code is good for one answer")
        }
        _ => format!("it is {age} s old, and holds for {limit} s"),
    };
    Problem::new(
        Code::Expired,
        "the pair code has expired",
        cause,
        "the agent shows a new code at its next try: approve that one",
    )
}

/// Fetched, and not confirmed in time.
fn lapsed() -> Problem {
    Problem::new(
        Code::Expired,
        "the time to confirm has run out",
        format!("a request is to be answered within {} s of looking at it", CONFIRM_MS / 1000),
        "agentkeys approve <code> shows it again while the code holds",
    )
}

/// Whether the request is over by time or by an answer; says why.
fn must_be_live(row: &RequestRow, access: &Access) -> Answer<()> {
    match &row.progress {
        Progress::Live if access.now < ends_at(row) => Ok(()),
        Progress::Live => Err(expired(row, access.now)),
        Progress::Decided { by, .. } if *by == access.account_id() => Err(consumed()),
        Progress::Ended { by: Some(by), consumed: true, .. } if *by == access.account_id() => {
            Err(consumed())
        }
        Progress::Decided { .. } | Progress::Ended { .. } => Err(expired(row, access.now)),
    }
}

impl Inner {
    /// The request that a code leads to, or the answer to a wrong code.
    async fn by_code(&self, code: PairCode) -> Answer<Loaded<RequestRow>> {
        let link = self.load::<RequestLink>(keys::code(code)).await?.ok_or_else(no_match)?;
        let request = self.load::<RequestRow>(keys::request(link.row.request)).await?;
        request.filter(|request| self.is_remembered(&request.row)).ok_or_else(no_match)
    }

    /// Ended codes say why for ten minutes; after that they are as if they never were, whether
    /// or not the sweeper has come by.
    fn is_remembered(&self, row: &RequestRow) -> bool {
        let ended = match &row.progress {
            Progress::Live => ends_at(row),
            Progress::Decided { at, .. } | Progress::Ended { at, .. } => *at,
        };
        self.clock.now().since_ms(ended) < AFTER_MS
    }

    /// A code that a master typed: found, and this account's to see.
    pub async fn code_of_master(
        &self,
        access: &Access,
        code: PairCode,
    ) -> Answer<Loaded<RequestRow>> {
        let one_try = self.try_code(Guesser::Account(access.account_id())).await?;
        let request = match self.by_code(code).await {
            Ok(request) => request,
            Err(problem) if problem.code == Code::NoMatch => {
                return Err(one_try.wrong(problem).await);
            }
            Err(problem) => return Err(problem),
        };
        let account = access.account_id();
        let row = &request.row;
        let foreign = match (&row.agent, &row.bound) {
            (Some((owner, _)), _) => *owner != account,
            (None, Some(bound)) => bound.account != account && bound.until > access.now,
            (None, None) => false,
        };
        // Once it is over, whoever has the code learns that, swept or not.
        let live = matches!(row.progress, Progress::Live) && access.now < ends_at(row);
        if !(foreign && live) {
            return Ok(request);
        }
        let problem = match row.bound.filter(|_| row.agent.is_none()) {
            None => not_yours(Some(access)),
            Some(bound) => {
                self.note_waiting(account, &request).await?;
                anothers_turn(bound.until, access.now, "if it does not, you go before it")
            }
        };
        Err(one_try.wrong(problem).await)
    }

    /// Remembers that an account came while the request was another's.
    async fn note_waiting(&self, account: AccountId, found: &Loaded<RequestRow>) -> Answer<()> {
        let mut request = found.clone();
        for _ in 0..MAX_TRIES {
            let mut row = RequestRow::clone(&request.row);
            if !matches!(row.progress, Progress::Live) || !row.turns.came(account) {
                return Ok(());
            }
            let mut proposal = Proposal::default();
            proposal.checks.push(request.unchanged());
            proposal.writes.push(self.put(request.key.clone(), &row)?);
            if self.propose(proposal).await? {
                return Ok(());
            }
            let Some(now) = self.load(request.key.clone()).await? else { return Ok(()) };
            request = now;
        }
        Err(answer::busy())
    }

    /// A code that a peer without a session sent.
    pub async fn code_of_stranger(
        &self,
        peer: &Peer,
        code: PairCode,
        open: &OpenToken,
    ) -> Answer<Loaded<RequestRow>> {
        let found = self.by_code(code).await;
        // Whoever opened the request is known by its token, and has guessed nothing: strangers
        // at the same address cannot shut it out, only its own wrong codes can.
        if let Ok(request) = &found
            && same_hash(&request.row.open_hash, &open.hash())
        {
            self.try_code(Guesser::Opener(open)).await?;
            return found;
        }
        let by_address = self.try_code(Guesser::Address(peer)).await?;
        let by_opener = self.try_code(Guesser::Opener(open)).await?;
        let problem = match found {
            Ok(_) => not_yours(None),
            Err(problem) if problem.code == Code::NoMatch => problem,
            Err(problem) => return Err(problem),
        };
        let problem = by_address.wrong(problem).await;
        Err(by_opener.wrong(problem).await)
    }

    /// Binds a Pair or Recover to the account for a minute, unless it is bound to it already.
    pub fn bind(
        &self,
        access: &Access,
        request: &Loaded<RequestRow>,
    ) -> Answer<Option<(RequestRow, Proposal)>> {
        let bound = request.row.bound.filter(|bound| bound.until > access.now);
        if !request.row.kind.is_bound_by_fetch() || bound.is_some() {
            return Ok(None);
        }
        if access.now >= request.row.live_until {
            return Err(expired(&request.row, access.now));
        }
        let mut row = RequestRow::clone(&request.row);
        let account = access.account_id();
        if let Some(lapsed) = &row.bound {
            row.turns.lapsed(lapsed.account);
            let first_until = lapsed.until.plus_ms(CONFIRM_MS);
            let over = access.now >= first_until;
            if !over && row.turns.must_wait(account) {
                return Err(anothers_turn(
                    first_until,
                    access.now,
                    "it waited, and you had a turn",
                ));
            }
            row.turns.begins(account, over);
        }
        let until = access.now.plus_ms(CONFIRM_MS);
        let mut proposal = access.unchanged();
        proposal.checks.push(request.unchanged());
        if let Some(lapsed) = row.bound.filter(|lapsed| lapsed.account != account) {
            // Whoever had it and did not confirm leaves nothing behind: no payload for the
            // child, and no row in their list.
            row.relay = None;
            proposal.writes.push(Write::Delete(keys::pending(lapsed.account, row.id)));
        }
        row.bound = Some(Bound { account, until });
        proposal.writes.push(self.put(request.key.clone(), &row)?);
        let key = keys::pending(account, row.id);
        proposal.writes.push(self.put(key, &RequestLink { request: row.id, hash: None })?);
        Ok(Some((row, proposal)))
    }

    pub async fn fetch(&self, access: &Access, code: PairCode) -> Answer<Option<Fetched>> {
        access.master()?;
        let request = self.code_of_master(access, code).await?;
        must_be_live(&request.row, access)?;
        let agent = self.named_agent(access, &request.row).await?;
        let row = match self.bind(access, &request)? {
            None => (*request.row).clone(),
            Some((row, proposal)) => {
                if !self.propose(proposal).await? {
                    return Ok(None);
                }
                row
            }
        };
        let mut fetched = self.as_shown(&row, agent.as_ref().map(|agent| &*agent.row));
        let daemon = fetched.agent.as_mut().and_then(|agent| agent.daemon.as_mut());
        if let (Some(daemon), Some(agent)) = (daemon, &agent) {
            daemon.last_used = self.last_use(&agent.row).await?;
        }
        Ok(Some(fetched))
    }

    /// When the daemon that an agent was given to last used its session, as far as is on record.
    async fn last_use(&self, agent: &AgentRow) -> Answer<Option<Timestamp>> {
        let Some(daemon) = agent.daemon else { return Ok(None) };
        let line = self.load::<FamilyRow>(keys::family(&daemon.family)).await?;
        let Some(line) = line else { return Ok(None) };
        let Some(session) = self.session(line.row.session).await? else { return Ok(None) };
        // To renew is a use as well.
        let used = line.row.previous.is_some()
            || matches!(session.row.kind, SessionKind::Child { used: true, .. });
        Ok(used.then_some(session.row.last_used))
    }

    /// The agent that a request names, looked up in the account of whoever asks.
    pub async fn named_agent(
        &self,
        access: &Access,
        row: &RequestRow,
    ) -> Answer<Option<Loaded<AgentRow>>> {
        let details = self.details(row)?;
        let identity = match (&details, &row.agent) {
            (Details::Pair(_), _) => return Ok(None),
            (Details::Recover(recover), _) => recover.agent.clone(),
            (_, Some((_, wallet))) => crate::core::identity::AgentIdentity::Wallet(*wallet),
            (_, None) => return Err(answer::cell(super::CellError::Shape)),
        };
        let found = self.find_agent(access.account_id(), &identity).await?;
        found.map(Some).ok_or_else(|| agent_not_found(&identity))
    }

    pub fn details(&self, row: &RequestRow) -> Answer<Details> {
        Details::from_canonical(row.kind, &row.details)
            .map_err(|_| answer::cell(super::CellError::Shape))
    }

    /// A request by its id, that this account may answer now.
    pub async fn answerable(&self, access: &Access, id: RequestId) -> Answer<Loaded<RequestRow>> {
        access.master()?;
        let request = self
            .load::<RequestRow>(keys::request(id))
            .await?
            .filter(|request| self.is_remembered(&request.row))
            .ok_or_else(unknown_request)?;
        let (row, account) = (&request.row, access.account_id());
        let owner = match &row.progress {
            Progress::Decided { by, .. } | Progress::Ended { by: Some(by), .. } => Some(*by),
            _ => row.agent.map(|(owner, _)| owner).or_else(|| {
                row.bound.filter(|bound| bound.until > access.now).map(|bound| bound.account)
            }),
        };
        if owner.is_some_and(|owner| owner != account) {
            return Err(not_yours(Some(access)));
        }
        must_be_live(row, access)?;
        let lapsed_now = row.bound.is_some_and(|bound| bound.until <= access.now);
        if row.kind.is_bound_by_fetch() && lapsed_now {
            return Err(lapsed());
        }
        Ok(request)
    }

    pub async fn list_pending(&self, access: &Access) -> Answer<Vec<Pending>> {
        access.master()?;
        let mut pending = Vec::new();
        let prefix = keys::all_pending(access.account_id());
        for link in self.load_all::<RequestLink>(&prefix, MAX_PENDING).await? {
            let request = self.load::<RequestRow>(keys::request(link.row.request)).await?;
            let Some(request) = request else { continue };
            let row = &request.row;
            let live = matches!(row.progress, Progress::Live);
            let mine = row.bound.is_none_or(|bound| bound.account == access.account_id());
            if !live || !mine || access.now >= ends_at(row) {
                continue;
            }
            pending.push(Pending {
                id: row.id,
                pair_code: row.pair_code,
                kind: row.kind,
                agent: row.agent.map(|(_, wallet)| wallet),
                created_at: row.created_at,
                expires_at: ends_at(row),
            });
        }
        pending.sort_by_key(|request| request.created_at);
        Ok(pending)
    }

    /// Waits for the decision of a request that this token opened.
    pub async fn await_decision(
        &self,
        open: &OpenToken,
        id: RequestId,
        wait: Duration,
    ) -> Answer<Option<Decision>> {
        let mut parked = Parked::on(self, &self.opened_by(open, id).await?, wait);
        loop {
            let last_look = parked.is_over();
            let request = self.opened_by(open, id).await?;
            let (row, now) = (&request.row, self.clock.now());
            match &row.progress {
                Progress::Decided { until, decision, .. } if now < *until => {
                    self.still_stands(row).await?;
                    return Ok(Some((**decision).clone()));
                }
                Progress::Decided { .. } | Progress::Ended { consumed: true, .. } => {
                    return Err(consumed());
                }
                Progress::Ended { .. } => return Err(expired(row, now)),
                Progress::Live if now >= ends_at(row) => return Err(expired(row, now)),
                Progress::Live => self.still_stands(row).await?,
            }
            if last_look {
                return Ok(None);
            }
            parked.wait(changes_at(row).since_ms(now)).await;
        }
    }

    fn as_shown(&self, row: &RequestRow, agent: Option<&AgentRow>) -> Fetched {
        Fetched {
            id: row.id,
            kind: row.kind,
            details: row.details.clone(),
            child_pubkey: row.keys,
            otp: row.otp,
            created_at: row.created_at,
            expires_at: row.bound.map_or(row.live_until, |bound| bound.until),
            saw: row.saw.clone(),
            agent: agent.map(AgentRow::summary),
            held: row.held.then(|| self.holding.waiting(row.id)),
        }
    }

    /// What of a request its master was shown, hashed as the approver hashes it.
    pub fn seen_hash(&self, row: &RequestRow, agent: Option<&AgentRow>) -> Hash32 {
        self.as_shown(row, agent).seen_hash()
    }

    async fn opened_by(&self, open: &OpenToken, id: RequestId) -> Answer<Loaded<RequestRow>> {
        self.load::<RequestRow>(keys::request(id))
            .await?
            .filter(|request| same_hash(&request.row.open_hash, &open.hash()))
            .ok_or_else(|| not_yours(None))
    }
}

/// Refuses an agent whose right was ended.
pub fn must_be_active(agent: &AgentRow) -> Answer<()> {
    match &agent.revoked {
        Some(why) => Err(agent_was_revoked(agent, why)),
        None => Ok(()),
    }
}
