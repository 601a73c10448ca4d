//! The master's answer to an auth request, and what it hangs on: that whoever asked still stands.
//! One commit holds the change of state, the minted
//! session, its sealing to the child, and the signed decision.
use zeroize::Zeroizing;

use super::access::Access;
use super::agent::NewAgent;
use super::approval::{AFTER_MS, must_be_active, not_yours};
use super::fence::Fence;
use super::journal::Proposal;
use super::rows::{
    AgentRow, DaemonRow, FamilyRow, Progress, RequestRow, Sealed, SessionKind, SessionRow,
};
use super::session::{ChildOf, bounded};
use super::{Inner, Loaded, answer, holding, keys, sweep};
use crate::backend::store::Write;
use crate::core::audit::{Action, Outcome};
use crate::core::auth_request::Details;
use crate::core::backend::{Approved, Grant, Minted, Revocation};
use crate::core::cbor;
use crate::core::claim::Claim;
use crate::core::decision::{Decision, Granted, Payload, Verdict};
use crate::core::presence::{Act, Level};
use crate::core::problem::{Answer, Code, Problem};
use crate::core::scope::Scope;
use crate::core::seal::{self, Purpose};
use crate::core::types::{Hash32, PublicKey, RequestId, Signature};

/// A high-value release is good this long after its approval.
const RELEASE_MS: u64 = 3 * 60 * 1000;

/// What an approval comes to.
struct Outcomes {
    agent: AgentRow,
    scope: Scope,
    minted: Option<Minted>,
}

fn wider() -> Problem {
    Problem::invalid("scope", "a grant may be narrower than what was asked for, never wider")
}

fn only_for_pair(grant: &Grant) -> Answer<()> {
    if grant.agent_id.is_none() && grant.name.is_none() {
        return Ok(());
    }
    Err(Problem::invalid("grant", "agent_id and name go with a Pair only"))
}

fn only_for_held(row: &RequestRow, grant: &Grant) -> Answer<()> {
    if row.held || grant.lasts.is_none() {
        return Ok(());
    }
    Err(Problem::invalid("grant", "lasts goes with a request that the gateway holds only"))
}

fn claims(details: &Details) -> (Option<String>, Option<String>) {
    let text = |claim: &Option<Claim>| claim.as_ref().map(ToString::to_string);
    match details {
        Details::Pair(pair) => (text(&pair.host), text(&pair.user)),
        Details::Recover(recover) => (text(&recover.host), text(&recover.user)),
        _ => (None, None),
    }
}

/// Who asked, where only an agent's own session may.
pub struct Asker {
    pub agent: Loaded<AgentRow>,
    pub session: Loaded<SessionRow>,
}

impl Asker {
    /// What the session that asked may do now.
    pub fn scope(&self) -> Scope {
        match &self.session.row.kind {
            SessionKind::Child { scope: Some(own), .. } => self.agent.row.scope.and(own),
            _ => self.agent.row.scope.clone(),
        }
    }
}

fn agent_is_gone() -> Problem {
    Problem::new(
        Code::Unauthorized,
        "not signed in",
        "the agent that asks was deleted",
        "pair it again: start its daemon, then agentkeys approve <code>",
    )
}

fn asker_ended(agent: &AgentRow) -> Problem {
    Problem::new(
        Code::Denied,
        format!("access denied: the session that asks for agent \"{}\" was ended", agent.name()),
        "it was revoked, or the agent was given to another daemon, after the request was opened",
        "let the agent's daemon ask again",
    )
}

impl Inner {
    pub async fn approve(
        &self,
        access: &Access,
        id: RequestId,
        seen: Option<Hash32>,
        grant: &Grant,
    ) -> Answer<Option<Approved>> {
        let request = self.answerable(access, id).await?;
        let named = self.named_agent(access, &request.row).await.map_err(|problem| {
            let fetched =
                request.row.bound.is_some_and(|bound| bound.account == access.account_id());
            match problem.code {
                // Nobody answers for another account's agent, whatever its name.
                Code::AgentNotFound if !fetched => not_yours(Some(access)),
                _ => problem,
            }
        })?;
        if seen.is_some_and(|seen| {
            seen != self.seen_hash(&request.row, named.as_ref().map(|agent| &*agent.row))
        }) {
            return Err(Problem::new(
                Code::Invalid,
                "the request is not what was shown",
                "it, or the agent it names, has changed since it was fetched",
                "fetch it again, and look at it again",
            ));
        }
        let details = self.details(&request.row)?;
        only_for_held(&request.row, grant)?;
        let mut proposal = access.unchanged();
        proposal.checks.push(request.unchanged());
        if access.account.row.level() != Level::None && seen.is_none() {
            let why = "above presence level none, what was shown is approved, and nothing unseen";
            return Err(Problem::invalid("seen", why));
        }
        self.present(access, &Act::Approve { request: id, seen, grant }, &mut proposal).await?;
        // Whoever asked must still be who it was: a daemon that was replaced or cut off meanwhile
        // gets nothing by a request that it left behind.
        let asker = self.asker_now(&request.row).await?;
        if let Some(asker) = &asker {
            proposal.checks.push(asker.session.unchanged());
        }
        let outcomes = match (&details, named, &asker) {
            (Details::Pair(pair), ..) => {
                self.pair(access, &request.row, pair, grant, &mut proposal).await?
            }
            (Details::Recover(_), Some(agent), _) => {
                only_for_pair(grant)?;
                let scope = narrowed(&agent.row.scope, grant)?;
                self.replace_daemon(access, &request.row, &agent, scope, &mut proposal)?
            }
            (Details::KeyRotate(_), Some(agent), Some(asker)) => {
                only_for_pair(grant)?;
                // Other keys are no reason for a wider scope than the session has that asks.
                let scope = narrowed(&asker.scope(), grant)?;
                self.replace_daemon(access, &request.row, &agent, scope, &mut proposal)?
            }
            (Details::ScopeChange(change), Some(agent), Some(asker)) => {
                only_for_pair(grant)?;
                let scope = narrowed(&change.scope, grant)?;
                self.change_scope(asker, &agent, scope, &mut proposal).await?
            }
            (Details::HighValueRelease(act), Some(agent), Some(asker)) => {
                only_for_pair(grant)?;
                proposal.checks.push(agent.unchanged());
                if request.row.held {
                    self.release(access, &request.row, act, asker, grant, &mut proposal).await?;
                }
                let scope = asker.scope();
                Outcomes { agent: (*agent.row).clone(), scope, minted: None }
            }
            (_, None, _) | (_, _, None) => return Err(answer::cell(super::CellError::Shape)),
        };
        let agent = outcomes.agent.summary();
        let kind = request.row.kind;
        let event = access.event(Action::Approve, Outcome::Allowed).of(&outcomes.agent);
        let what = match &details {
            Details::HighValueRelease(act) => holding::in_words(act, grant.lasts),
            _ => outcomes.scope.to_string(),
        };
        let mut event = event.detail(format!("{}: {what}", kind.as_str()));
        event.request = Some(id);
        proposal.events.push(event);
        self.decide(access, &request, Verdict::Approved, Some(outcomes), &mut proposal)?;
        let done = Approved { request_id: id, kind, agent };
        Ok(self.propose_answer(&request.row, proposal).await?.then_some(done))
    }

    async fn pair(
        &self,
        access: &Access,
        row: &RequestRow,
        pair: &crate::core::auth_request::Pair,
        grant: &Grant,
        proposal: &mut Proposal,
    ) -> Answer<Outcomes> {
        let scope = narrowed(&pair.scope, grant)?;
        if let Some(existing) = &grant.agent_id {
            if grant.name.is_some() {
                return Err(Problem::invalid("grant", "an agent that exists keeps its name"));
            }
            let agent = self.target(access, existing).await?;
            let scope = scope.and(&agent.row.scope);
            return self.replace_daemon(access, row, &agent, scope, proposal);
        }
        let name = match (&grant.name, &pair.name) {
            (Some(chosen), _) => Some(chosen.clone()),
            (None, Some(wished)) => {
                // A wish that is taken is not a reason to refuse, nor to take another's name.
                let identity = crate::core::identity::AgentIdentity::Alias(wished.clone());
                let taken = self.find_agent(access.account_id(), &identity).await?.is_some();
                (!taken).then(|| wished.clone())
            }
            (None, None) => None,
        };
        if let Some(chosen) = &grant.name {
            let identity = crate::core::identity::AgentIdentity::Alias(chosen.clone());
            if self.find_agent(access.account_id(), &identity).await?.is_some() {
                return Err(Problem::invalid("name", "another agent of this account has it"));
            }
        }
        let daemon = DaemonRow { since: access.now, family: self.new_family()? };
        let new = NewAgent { name, scope: scope.clone(), daemon: Some((row.keys, daemon)) };
        let agent = self.push_agent(access, new, proposal)?;
        let minted = self.mint_for(access, row, (&agent, daemon.family), None, proposal)?;
        Ok(Outcomes { agent, scope, minted: Some(minted) })
    }

    /// Gives an agent that exists to another daemon; the old one's keys and sessions end in the
    /// same commit.
    fn replace_daemon(
        &self,
        access: &Access,
        row: &RequestRow,
        agent: &Loaded<AgentRow>,
        scope: Scope,
        proposal: &mut Proposal,
    ) -> Answer<Outcomes> {
        must_be_active(&agent.row)?;
        let mut next = AgentRow::clone(&agent.row);
        next.epoch += 1;
        next.ended = Some(Revocation {
            at: access.now,
            by: format!("{}, which approved a {}", access.in_words(), row.kind.as_str()),
        });
        next.keys = Some(row.keys);
        let daemon = DaemonRow { since: access.now, family: self.new_family()? };
        next.daemon = Some(daemon);
        proposal.checks.push(agent.unchanged());
        proposal.writes.push(self.put(agent.key.clone(), &next)?);
        proposal.fences.push(Fence::Agent(next.wallet, next.epoch));
        let narrower = (scope != next.scope).then(|| scope.clone());
        let minted = self.mint_for(access, row, (&next, daemon.family), narrower, proposal)?;
        Ok(Outcomes { agent: next, scope, minted: Some(minted) })
    }

    fn mint_for(
        &self,
        access: &Access,
        row: &RequestRow,
        (agent, family): (&AgentRow, [u8; 16]),
        scope: Option<Scope>,
        proposal: &mut Proposal,
    ) -> Answer<Minted> {
        let (host, user) = claims(&self.details(row)?);
        let of = ChildOf { agent, scope, request: Some(row.id), family, host, user };
        self.mint_child(access.now, of, proposal)
    }

    async fn change_scope(
        &self,
        asker: &Asker,
        agent: &Loaded<AgentRow>,
        scope: Scope,
        proposal: &mut Proposal,
    ) -> Answer<Outcomes> {
        let next = self.push_scope(agent, &scope, proposal)?;
        // The session that asked obeys the new scope too, even if it had a narrower one, and so
        // do those that it is renewed to.
        let mut session = SessionRow::clone(&asker.session.row);
        if let SessionKind::Child { scope: own, family, .. } = &mut session.kind
            && own.take().is_some()
        {
            if let Some(line) = self.load::<FamilyRow>(keys::family(family)).await? {
                let row = FamilyRow { scope: None, ..FamilyRow::clone(&line.row) };
                proposal.checks.push(line.unchanged());
                proposal.writes.push(self.put(line.key.clone(), &row)?);
            }
            proposal.writes.push(self.put(asker.session.key.clone(), &session)?);
        }
        Ok(Outcomes { agent: next, scope, minted: None })
    }

    /// Refuses a child whose right ended since it asked, or since it was answered.
    pub async fn still_stands(&self, row: &RequestRow) -> Answer<()> {
        match &row.progress {
            Progress::Live => self.asker_now(row).await.map(|_| ()),
            Progress::Decided { by, decision, .. } => {
                let Some(granted) = &decision.granted else { return Ok(()) };
                let agent = self.agent(*by, granted.agent).await?;
                must_be_active(&agent.ok_or_else(agent_is_gone)?.row)
            }
            Progress::Ended { .. } => Ok(()),
        }
    }

    /// The agent and the session that asked, if the request was opened with one; refuses it
    /// when the agent was revoked or deleted since, or the session ended.
    pub async fn asker_now(&self, row: &RequestRow) -> Answer<Option<Asker>> {
        let (Some((account, wallet)), Some(id)) = (row.agent, row.parent_session) else {
            return Ok(None);
        };
        let agent = self.agent(account, wallet).await?;
        let agent = agent.ok_or_else(agent_is_gone)?;
        must_be_active(&agent.row)?;
        let session = self
            .session(id)
            .await?
            .filter(|session| session.row.revoked.is_none())
            .filter(|session| is_child_of(&session.row, &agent.row))
            .ok_or_else(|| asker_ended(&agent.row))?;
        Ok(Some(Asker { agent, session }))
    }

    pub async fn deny(&self, access: &Access, id: RequestId) -> Answer<bool> {
        let request = self.answerable(access, id).await?;
        let mut proposal = access.unchanged();
        proposal.checks.push(request.unchanged());
        let mut event = access.event(Action::Deny, Outcome::Allowed);
        if let Ok(Some(agent)) = self.named_agent(access, &request.row).await {
            event = event.of(&agent.row);
        }
        event.request = Some(id);
        proposal.events.push(event.detail(request.row.kind.as_str()));
        self.decide(access, &request, Verdict::Denied, None, &mut proposal)?;
        self.propose_answer(&request.row, proposal).await
    }

    async fn propose_answer(&self, row: &RequestRow, proposal: Proposal) -> Answer<bool> {
        let done = self.propose(proposal).await?;
        if done && !self.dev {
            self.openings.answered(row);
        }
        Ok(done)
    }

    /// Signs the decision and moves the request to it.
    fn decide(
        &self,
        access: &Access,
        request: &Loaded<RequestRow>,
        verdict: Verdict,
        outcomes: Option<Outcomes>,
        proposal: &mut Proposal,
    ) -> Answer<()> {
        let mut row = RequestRow::clone(&request.row);
        let nonce = row.nonce.ok_or_else(super::approval::consumed)?;
        let mut payload = None;
        let granted = match outcomes {
            None => None,
            Some(outcomes) => {
                let agent = outcomes.agent.wallet;
                let mut session_hash = None;
                let mut expires_at = access.now.plus_ms(RELEASE_MS);
                if let Some(minted) = outcomes.minted {
                    expires_at = minted.expires_at;
                    let (plain, sealed) = self.seal_session(&row, minted)?;
                    session_hash = Some(plain);
                    payload = Some(sealed);
                }
                Some(Granted { agent, scope: outcomes.scope, expires_at, session_hash })
            }
        };
        let mut decision = Decision {
            request_id: row.id,
            kind: row.kind,
            details: row.details.clone(),
            child_pubkey: row.keys,
            parent_session: row.parent_session,
            created_at: row.created_at,
            nonce,
            verdict,
            backend_id: self.backend_id,
            account: access.account_id(),
            granted,
            master_key: PublicKey([0; 32]),
            signature: Signature([0; 64]),
        };
        decision.sign(self.master_key(&access.account.row)?.expose());
        let until = access.now.plus_ms(AFTER_MS);
        row.progress = Progress::Decided {
            by: access.account_id(),
            at: access.now,
            until,
            decision: Box::new(decision),
            payload,
        };
        proposal.writes.push(self.put(request.key.clone(), &row)?);
        proposal.writes.push(Write::Delete(keys::pending(access.account_id(), row.id)));
        proposal.writes.push(self.note_due(until, sweep::REQUEST, &row.id.0)?);
        Ok(())
    }

    /// The minted session as the child will get it: the hash that is signed, and sealed bytes.
    fn seal_session(&self, row: &RequestRow, minted: Minted) -> Answer<(Hash32, Sealed)> {
        let payload = Payload {
            agent: minted.wallet,
            expires_at: minted.expires_at,
            renewal: minted.renewal.as_ref().map(|r| r.expose().to_owned()).unwrap_or_default(),
            session: minted.session.expose().to_owned(),
        };
        let plain = cbor::to_canonical(&payload)
            .map(Zeroizing::new)
            .map_err(|_| answer::cell(super::CellError::Shape))?;
        let random = self.entropy.key().map_err(answer::entropy)?;
        let sealed = seal::seal(&row.keys.x25519(), &Purpose::payload(row.id), &plain, &random)
            .map_err(|_| {
                Problem::invalid("child_pubkey", "the child's X25519 key is not usable")
            })?;
        Ok((Hash32::of(&plain), Sealed(sealed)))
    }
}

/// The scope that is given: what was asked for, or the narrower one that the master chose.
fn narrowed(asked: &Scope, grant: &Grant) -> Answer<Scope> {
    match &grant.scope {
        None => Ok(asked.clone()),
        Some(scope) => {
            bounded(scope)?;
            if scope.within(asked) { Ok(scope.clone()) } else { Err(wider()) }
        }
    }
}

/// The child session that a request was opened with, if it still is what it was.
fn is_child_of(session: &SessionRow, agent: &AgentRow) -> bool {
    matches!(session.kind, SessionKind::Child { wallet, epoch, .. }
        if wallet == agent.wallet && epoch == agent.epoch)
}
