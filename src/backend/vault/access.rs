//! Who is calling, and whether they still may: the first step of every operation.
use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use subtle::ConstantTimeEq;

use super::journal::{Draft, Proposal, Refused};
use super::presence::Shown;
use super::rows::{AccountRow, AgentLink, AgentRow, Progress, RequestRow, SessionKind, SessionRow};
use super::{Inner, Loaded, MAX_TRIES, answer, keys};
use crate::backend::peer::Peer;
use crate::backend::store::Value;
use crate::core::audit::{Action, Actor, Outcome, Role};
use crate::core::backend::Revocation;
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::presence::Proof;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::scope::Scope;
use crate::core::set_back;
use crate::core::token::SessionToken;
use crate::core::types::{AccountId, Hash32, RequestId, SessionId, Timestamp, WalletAddress};

/// A master session ends after this long without use.
pub const MASTER_IDLE_MS: u64 = 24 * 60 * 60 * 1000;
/// How stale the record of a session's last use may be.
const LAST_USE_MS: u64 = 10 * 60 * 1000;
/// Opened rows that one cache keeps.
const MAX_CACHED: usize = 4096;

/// Rows that were opened before, by key and stored value: a row that has changed in the store
/// is never found here.
pub struct Cache<T>(RwLock<HashMap<Vec<u8>, Opened<T>>>);

/// A stored value and what it opened to.
type Opened<T> = (Value, Arc<T>);

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<T> Cache<T> {
    pub fn get(&self, key: &[u8], raw: &Value) -> Option<Arc<T>> {
        let rows = self.0.read().unwrap_or_else(|e| e.into_inner());
        rows.get(key).filter(|(known, _)| known == raw).map(|(_, row)| row.clone())
    }

    pub fn put(&self, key: &[u8], raw: &Value, row: Arc<T>) {
        let mut rows = self.0.write().unwrap_or_else(|e| e.into_inner());
        if rows.len() >= MAX_CACHED && !rows.contains_key(key) {
            rows.clear();
        }
        rows.insert(key.to_vec(), (raw.clone(), row));
    }
}

/// A caller whose token was recognised.
pub struct Access {
    pub now: Timestamp,
    pub session_id: SessionId,
    pub session: Loaded<SessionRow>,
    pub account: Loaded<AccountRow>,
    /// The agent of a child session.
    pub agent: Option<Loaded<AgentRow>>,
    /// Who sent it, as this machine sees it; absent where nobody asked by a connection.
    pub peer: Option<Peer>,
    /// The proof of presence that came along.
    pub proof: Option<Proof>,
    /// Why the session may do nothing any more; its attempts are still on record.
    ended: Option<Problem>,
}

impl Access {
    pub fn account_id(&self) -> AccountId {
        self.account.row.id
    }

    /// Refuses a session that was ended.
    pub fn standing(&self) -> Answer<()> {
        self.ended.clone().map_or(Ok(()), Err)
    }

    /// Refuses everybody but a master whose session stands.
    pub fn master(&self) -> Answer<()> {
        self.standing()?;
        if self.agent.is_none() {
            return Ok(());
        }
        Err(Problem::new(
            Code::Denied,
            "access denied: only the master may do this",
            "the session is an agent's",
            "ask the master to do it",
        ))
    }

    /// Refuses what raises rights while the account's log is set back, and otherwise has the commit
    /// check that it still is not.
    pub fn not_set_back(&self, proposal: &mut Proposal) -> Answer<()> {
        if let Some(found) = &self.account.row.set_back {
            return Err(set_back::on_record(found));
        }
        proposal.checks.push(self.account.unchanged());
        Ok(())
    }

    /// The scope that a child session's reads and stores obey; a master's, the agent's own.
    pub fn scope_for(&self, agent: &AgentRow) -> Scope {
        match &self.session.row.kind {
            SessionKind::Child { scope: Some(scope), .. } => agent.scope.and(scope),
            _ => agent.scope.clone(),
        }
    }

    pub fn actor(&self) -> Actor {
        Actor {
            host: self.session.row.host.clone(),
            role: if self.agent.is_some() { Role::Child } else { Role::Master },
            user: self.session.row.user.clone(),
            session: Some(self.session_id),
        }
    }

    /// Who acts, in words: `the master session on host "laptop"`.
    pub fn in_words(&self) -> String {
        let role = if self.agent.is_some() { "the agent's session" } else { "the master session" };
        match &self.session.row.host {
            Some(host) => format!("{role} on host \"{host}\""),
            None => role.to_owned(),
        }
    }

    /// An event of this caller, to be completed.
    pub fn event(&self, action: Action, outcome: Outcome) -> Draft {
        Draft {
            account: self.account_id(),
            by: self.actor(),
            time: self.now,
            action,
            outcome,
            agent: None,
            service: None,
            request: None,
            detail: None,
            presence: self.account.row.presence.clone(),
            set_backs: None,
        }
    }

    /// That neither the session nor the agent has changed since it was allowed.
    pub fn unchanged(&self) -> Proposal {
        let mut proposal = Proposal::default();
        proposal.checks.push(self.session.unchanged());
        if let Some(agent) = &self.agent {
            proposal.checks.push(agent.unchanged());
        }
        proposal
    }

    /// The same, and that the agent that it is about has not changed.
    pub fn unchanged_with(&self, agent: &Loaded<AgentRow>) -> Proposal {
        let mut proposal = self.unchanged();
        if self.agent.as_ref().is_none_or(|own| own.key != agent.key || own.raw != agent.raw) {
            proposal.checks.push(agent.unchanged());
        }
        proposal
    }
}

impl Draft {
    /// About an agent.
    pub fn of(mut self, agent: &AgentRow) -> Self {
        self.agent = Some((agent.wallet, agent.shown_name()));
        self
    }

    /// About a service.
    pub fn service(mut self, service: &ServiceName) -> Self {
        self.service = Some(service.clone());
        self
    }

    /// By which presence, where it was that of an earlier act.
    pub fn shown(self, shown: Shown) -> Self {
        match shown {
            Shown::Before(ms) => self.detail(format!(
                "by the passphrase given {} s before, in the same terminal",
                ms / 1000
            )),
            Shown::NotWanted | Shown::Proven => self,
        }
    }

    /// With further words for a person.
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }
}

/// Compares two hashes of tokens in constant time.
pub fn same_hash(a: &Hash32, b: &Hash32) -> bool {
    a.0.ct_eq(&b.0).into()
}

fn unknown_session() -> Problem {
    Problem::new(
        Code::Unauthorized,
        "not signed in",
        "the session token is not known here, or has expired",
        "master: agentkeys init\nagent: start its daemon again",
    )
}

fn session_was_revoked(why: &Revocation) -> Problem {
    Problem::new(
        Code::Denied,
        "access denied: this session was revoked",
        format!("revoked {} by {}", why.at.for_people(), why.by),
        "master: agentkeys init\nagent: pair it again, then agentkeys approve <code>",
    )
}

fn session_was_ended(agent: &AgentRow) -> Problem {
    let cause = match &agent.ended {
        Some(why) => format!("ended {} by {}", why.at.for_people(), why.by),
        None => "the agent has newer sessions".to_owned(),
    };
    Problem::new(
        Code::Denied,
        format!("access denied: this session of agent \"{}\" was ended", agent.name()),
        cause,
        "pair it again: start its daemon, then agentkeys approve <code>",
    )
    .pair_again()
}

/// The refusal that everybody gets who asks for a revoked agent.
pub fn agent_was_revoked(agent: &AgentRow, why: &Revocation) -> Problem {
    let name = agent.name();
    Problem::new(
        Code::Denied,
        format!("access denied: agent \"{name}\" was revoked"),
        format!("revoked {} by {}", why.at.for_people(), why.by),
        format!(
            "agentkeys reinstate {name}\n\
             or pair it again: start its daemon, then agentkeys approve <code>"
        ),
    )
}

/// No agent of that name in the account.
pub fn agent_not_found(identity: &AgentIdentity) -> Problem {
    Problem::new(
        Code::AgentNotFound,
        format!("agent not found: \"{identity}\""),
        "this account has no agent of that name",
        "agentkeys list shows the agents; a wallet address (0x and 40 hex digits) works too",
    )
}

impl Inner {
    /// Proposes a change: `true` when all of it is on disk, `false` when something that it was
    /// decided by has changed meanwhile.
    pub async fn propose(&self, proposal: Proposal) -> Answer<bool> {
        match self.journal.commit(proposal).await {
            Ok(()) => Ok(true),
            Err(Refused::Conflict) => Ok(false),
            Err(refused) => Err(answer::refused(refused)),
        }
    }

    /// Recognises a token. A session that was ended is still recognised, so that its attempts
    /// can be recorded; [`Access::standing`] refuses it.
    pub async fn authenticate(&self, token: &SessionToken) -> Answer<Access> {
        for _ in 0..MAX_TRIES {
            let access = self.recognise(token).await?;
            if access.ended.is_some() {
                return Ok(access);
            }
            let Some(proposal) = self.record_use(&access).await? else { return Ok(access) };
            // Done or overtaken: either way, look again.
            self.propose(proposal).await?;
        }
        Err(answer::busy())
    }

    pub async fn recognise(&self, token: &SessionToken) -> Answer<Access> {
        let now = self.clock.now();
        let hash = token.hash();
        let session_id = SessionToken::id_of(&hash);
        let session = self.session(session_id).await?.ok_or_else(unknown_session)?;
        if !same_hash(&session.row.hash, &hash) {
            return Err(unknown_session());
        }
        let idle = match session.row.kind {
            SessionKind::Master => now.since_ms(session.row.last_used) >= MASTER_IDLE_MS,
            SessionKind::Child { .. } => false,
        };
        let is_child = matches!(session.row.kind, SessionKind::Child { .. });
        let mut ended = session.row.revoked.as_ref().map(|why| {
            let problem = session_was_revoked(why);
            if is_child { problem.pair_again() } else { problem }
        });
        if ended.is_none() && (now >= session.row.expires_at || idle) {
            return Err(unknown_session());
        }
        let account = self
            .load_cached(&self.accounts, keys::account(session.row.account))
            .await?
            .ok_or_else(unknown_session)?;
        let mut agent = None;
        if let SessionKind::Child { wallet, epoch, .. } = &session.row.kind {
            // After teardown there is nobody that the session could be.
            let loaded =
                self.agent(session.row.account, *wallet).await?.ok_or_else(unknown_session)?;
            if let Some(why) = &loaded.row.revoked {
                ended = Some(agent_was_revoked(&loaded.row, why));
            } else if loaded.row.epoch != *epoch && ended.is_none() {
                ended = Some(session_was_ended(&loaded.row));
            }
            agent = Some(loaded);
        }
        Ok(Access { now, session_id, session, account, agent, peer: None, proof: None, ended })
    }

    /// What this use changes: a child's first use ends the request that minted its session, and
    /// destroys the nonce; a master's is noted now and then.
    async fn record_use(&self, access: &Access) -> Answer<Option<Proposal>> {
        let row = &access.session.row;
        let stale = access.now.since_ms(row.last_used) >= LAST_USE_MS;
        let first = matches!(row.kind, SessionKind::Child { used: false, .. });
        if !first && !stale {
            return Ok(None);
        }
        let mut next = SessionRow::clone(row);
        next.last_used = access.now;
        let mut proposal = access.unchanged();
        if first && let SessionKind::Child { used, request, .. } = &mut next.kind {
            *used = true;
            if let Some(request) = request.take() {
                self.end_request(request, access, &mut proposal).await?;
            }
        }
        proposal.writes.push(self.put(access.session.key.clone(), &next)?);
        Ok(Some(proposal))
    }

    async fn end_request(
        &self,
        id: RequestId,
        access: &Access,
        proposal: &mut Proposal,
    ) -> Answer<()> {
        let Some(loaded) = self.load::<RequestRow>(keys::request(id)).await? else {
            return Ok(());
        };
        let mut row = RequestRow::clone(&loaded.row);
        row.nonce = None;
        row.relay = None;
        row.progress =
            Progress::Ended { by: Some(access.account_id()), at: access.now, consumed: true };
        proposal.checks.push(loaded.unchanged());
        proposal.writes.push(self.put(loaded.key.clone(), &row)?);
        Ok(())
    }

    /// The agent of this account that an identity names.
    pub async fn find_agent(
        &self,
        account: AccountId,
        identity: &AgentIdentity,
    ) -> Answer<Option<Loaded<AgentRow>>> {
        let wallet = match identity {
            AgentIdentity::Wallet(wallet) => *wallet,
            named => {
                let key = keys::identity(account, &self.identity_mac(named));
                match self.load::<AgentLink>(key).await? {
                    Some(link) => link.row.wallet,
                    None => return Ok(None),
                }
            }
        };
        self.agent(account, wallet).await
    }

    /// An agent as it is now, and not as it was before it was revoked or given away.
    pub async fn agent(
        &self,
        account: AccountId,
        wallet: WalletAddress,
    ) -> Answer<Option<Loaded<AgentRow>>> {
        // A row may be read just before the commit that puts its fence up, and be compared just
        // after. One that is read once the fence is up was put back.
        for _ in 0..2 {
            let found: Option<Loaded<AgentRow>> =
                self.load_cached(&self.agents, keys::agent(account, wallet)).await?;
            if !found.as_ref().is_some_and(|agent| self.journal.fences.is_behind(&agent.row)) {
                return Ok(found);
            }
        }
        Err(answer::cell(super::CellError::Unauthentic))
    }

    /// A session as it is now, and not as it was before it was ended.
    pub async fn session(&self, id: SessionId) -> Answer<Option<Loaded<SessionRow>>> {
        // Twice, as for an agent.
        for _ in 0..2 {
            let found: Option<Loaded<SessionRow>> =
                self.load_cached(&self.sessions, keys::session(id)).await?;
            let revived =
                |session: &Loaded<SessionRow>| self.journal.fences.is_revived(id, &session.row);
            if !found.as_ref().is_some_and(revived) {
                return Ok(found);
            }
        }
        Err(answer::cell(super::CellError::Unauthentic))
    }

    /// The keyed hash under which an identity is indexed.
    pub fn identity_mac(&self, identity: &AgentIdentity) -> keys::Mac {
        self.cells.mac("identity", identity.canonical().as_bytes())
    }

    /// The keyed hash under which a service is indexed.
    pub fn service_mac(&self, service: &ServiceName) -> keys::Mac {
        self.cells.mac("service", service.as_str().as_bytes())
    }

    /// The agent that a caller names: for a master any of the account, for a child its own.
    /// A child that names another gets no word on whether there is such an agent.
    pub async fn target(
        &self,
        access: &Access,
        identity: &AgentIdentity,
    ) -> Answer<Loaded<AgentRow>> {
        if let (Some(own), AgentIdentity::Wallet(wallet)) = (&access.agent, identity)
            && own.row.wallet == *wallet
        {
            return Ok(own.clone());
        }
        let found = self.find_agent(access.account_id(), identity).await?;
        match &access.agent {
            None => found.ok_or_else(|| agent_not_found(identity)),
            Some(own) => match found {
                Some(found) if found.row.wallet == own.row.wallet => Ok(found),
                _ => Err(Problem::new(
                    Code::Denied,
                    format!("access denied: \"{identity}\" is not this agent"),
                    "an agent's session reaches its own agent only",
                    "use the agent's own name, or ask the master",
                )),
            },
        }
    }
}
