//! Child sessions, and the end of any session.
use super::access::{Access, agent_not_found};
use super::agent::NewAgent;
use super::fence::Fence;
use super::journal::Proposal;
use super::rows::{AgentRow, FamilyRow, RenewalRow, SessionKind, SessionRow};
use super::{Inner, answer, keys, sweep};
use crate::backend::store::Check;
use crate::core::audit::{Action, Outcome};
use crate::core::backend::{Minted, Revocation, RevokeTarget};
use crate::core::identity::AgentIdentity;
use crate::core::presence::Act;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::scope::{MAX_SERVICES, Scope};
use crate::core::token::{RenewalSecret, SessionToken};
use crate::core::types::{Hash32, RequestId, Timestamp};

/// A child session lives this long.
pub const CHILD_MS: u64 = 4 * 60 * 60 * 1000;

/// What a fresh child session belongs to.
pub struct ChildOf<'a> {
    pub agent: &'a AgentRow,
    pub scope: Option<Scope>,
    pub request: Option<RequestId>,
    pub family: [u8; 16],
    pub host: Option<String>,
    pub user: Option<String>,
}

/// Refuses a scope that names too many services.
pub fn bounded(scope: &Scope) -> Answer<()> {
    if scope.is_bounded() {
        return Ok(());
    }
    Err(Problem::invalid("scope", format!("services wants at most {MAX_SERVICES} names")))
}

/// The first half of a hash, by which rows of tokens are found.
pub fn half(hash: &Hash32) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&hash.0[..16]);
    half
}

fn no_such_session() -> Problem {
    Problem::new(
        Code::NotFound,
        "session not found",
        "this account has no session of that id",
        "agentkeys usage shows the ids of sessions",
    )
}

impl Inner {
    /// Adds a session's row, and the note to sweep it.
    pub fn push_session(
        &self,
        token: &SessionToken,
        row: &SessionRow,
        proposal: &mut Proposal,
    ) -> Answer<()> {
        let key = keys::session(token.id());
        proposal.checks.push(Check::Absent(key.clone()));
        proposal.writes.push(self.put(key, row)?);
        proposal.writes.push(self.note_due(row.expires_at, sweep::SESSION, &token.id().0)?);
        Ok(())
    }

    /// A name for a line of sessions that begins.
    pub fn new_family(&self) -> Answer<[u8; 16]> {
        self.entropy.bytes().map_err(answer::entropy)
    }

    /// Adds a fresh child session, with a renewal family of its own.
    pub fn mint_child(
        &self,
        now: Timestamp,
        of: ChildOf<'_>,
        proposal: &mut Proposal,
    ) -> Answer<Minted> {
        let token = SessionToken::child(self.entropy.key().map_err(answer::entropy)?.expose());
        let renewal = RenewalSecret::new(self.entropy.key().map_err(answer::entropy)?.expose());
        let ChildOf { agent, scope, request, family: family_id, host, user } = of;
        let session = SessionRow {
            hash: token.hash(),
            account: agent.account,
            kind: SessionKind::Child {
                wallet: agent.wallet,
                epoch: agent.epoch,
                scope: scope.clone(),
                family: family_id,
                request,
                used: false,
            },
            created_at: now,
            expires_at: now.plus_ms(CHILD_MS),
            last_used: now,
            revoked: None,
            host: host.clone(),
            user: user.clone(),
        };
        self.push_session(&token, &session, proposal)?;
        let family = FamilyRow {
            account: agent.account,
            wallet: agent.wallet,
            epoch: agent.epoch,
            scope,
            current: renewal.hash(),
            previous: None,
            session: token.id(),
            revoked: None,
            host,
            user,
        };
        proposal.writes.push(self.put(keys::family(&family_id), &family)?);
        self.push_renewal(&renewal, family_id, proposal)?;
        Ok(Minted {
            news: None,
            session_id: token.id(),
            session: token,
            wallet: agent.wallet,
            expires_at: session.expires_at,
            renewal: Some(renewal),
        })
    }

    /// Adds the row by which a renewal secret is found.
    pub fn push_renewal(
        &self,
        renewal: &RenewalSecret,
        family: [u8; 16],
        proposal: &mut Proposal,
    ) -> Answer<()> {
        let hash = renewal.hash();
        let key = keys::renewal(&half(&hash));
        proposal.checks.push(Check::Absent(key.clone()));
        proposal.writes.push(self.put(key, &RenewalRow { hash, family })?);
        Ok(())
    }

    pub async fn create_child_session(
        &self,
        access: &Access,
        agent: Option<&AgentIdentity>,
        scope: &Scope,
    ) -> Answer<Option<Minted>> {
        access.master()?;
        bounded(scope)?;
        let mut proposal = access.unchanged();
        self.present(access, &Act::Child { agent, scope }, &mut proposal).await?;
        let (row, narrower) = match agent {
            Some(identity) => {
                let agent = self.target(access, identity).await?;
                if let Some(why) = &agent.row.revoked {
                    return Err(super::access::agent_was_revoked(&agent.row, why));
                }
                proposal.checks.push(agent.unchanged());
                let narrower = (*scope != agent.row.scope).then(|| scope.clone());
                (AgentRow::clone(&agent.row), narrower)
            }
            None => {
                let new = NewAgent { name: None, scope: scope.clone(), daemon: None };
                (self.push_agent(access, new, &mut proposal)?, None)
            }
        };
        let of = ChildOf {
            agent: &row,
            scope: narrower,
            request: None,
            family: self.new_family()?,
            host: access.session.row.host.clone(),
            user: access.session.row.user.clone(),
        };
        let minted = self.mint_child(access.now, of, &mut proposal)?;
        let event = access.event(Action::SessionChild, Outcome::Allowed).of(&row);
        proposal.events.push(event.detail(scope.to_string()));
        Ok(self.propose(proposal).await?.then_some(minted))
    }

    pub async fn revoke(&self, access: &Access, target: &RevokeTarget) -> Answer<bool> {
        let id = match target {
            RevokeTarget::Agent(agent) => return self.revoke_agent(access, agent).await,
            RevokeTarget::Session(id) => *id,
            RevokeTarget::Token(token) => token.id(),
        };
        access.standing()?;
        let session = self
            .load::<SessionRow>(keys::session(id))
            .await?
            .filter(|session| session.row.account == access.account_id())
            .ok_or_else(no_such_session)?;
        if access.agent.is_some() && id != access.session_id {
            access.master()?;
        }
        if session.row.revoked.is_some() {
            return Ok(true);
        }
        let why = Revocation { at: access.now, by: access.in_words() };
        let mut row = SessionRow::clone(&session.row);
        row.revoked = Some(why.clone());
        let mut proposal = access.unchanged();
        proposal.checks.push(session.unchanged());
        proposal.writes.push(self.put(session.key.clone(), &row)?);
        proposal.fences.push(Fence::Session(id));
        let mut event =
            access.event(Action::SessionRevoke, Outcome::Allowed).detail(id.to_string());
        if let SessionKind::Child { family, wallet, .. } = &row.kind {
            if let Some(loaded) = self.load::<FamilyRow>(keys::family(family)).await? {
                let mut family_row = FamilyRow::clone(&loaded.row);
                family_row.revoked = Some(why);
                proposal.checks.push(loaded.unchanged());
                proposal.writes.push(self.put(loaded.key.clone(), &family_row)?);
            }
            let wallet = AgentIdentity::Wallet(*wallet);
            if let Some(agent) = self.find_agent(access.account_id(), &wallet).await? {
                event = event.of(&agent.row);
            }
        }
        proposal.events.push(event);
        self.propose(proposal).await
    }

    async fn revoke_agent(&self, access: &Access, identity: &AgentIdentity) -> Answer<bool> {
        access.master()?;
        let agent = self
            .find_agent(access.account_id(), identity)
            .await?
            .ok_or_else(|| agent_not_found(identity))?;
        if agent.row.revoked.is_some() {
            return Ok(true);
        }
        let why = Revocation { at: access.now, by: access.in_words() };
        let mut row = AgentRow::clone(&agent.row);
        row.epoch += 1;
        row.ended = Some(why.clone());
        row.revoked = Some(why);
        let mut proposal = access.unchanged();
        proposal.checks.push(agent.unchanged());
        let ended = self.push_made_gone(&agent.row, access.now, &mut proposal).await?;
        row.services = row.services.saturating_sub(ended.len() as u32);
        proposal.writes.push(self.put(agent.key.clone(), &row)?);
        proposal.fences.push(Fence::Agent(row.wallet, row.epoch));
        let mut event = access.event(Action::Revoke, Outcome::Allowed).of(&row);
        if !ended.is_empty() {
            event = event.detail(format!("keys made for it are ended: {}", ended.join(", ")));
        }
        proposal.events.push(event);
        let done = self.propose(proposal).await?;
        self.errands.notify_one();
        Ok(done)
    }
}
