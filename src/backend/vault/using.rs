//! Credentials that the backend uses in an agent's name and hands to nobody: what the gateway puts
//! into a request. A use is on record before the request is sent, and what it was allowed by is
//! watched for as long as the answer lasts.
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use super::access::Access;
use super::credential::Refusal;
use super::holding::Act;
use super::rotation::Stored;
use super::rows::AgentRow;
use super::spending::{Charge, over_budget};
use super::terms::not_sent;
use super::{Inner, MAX_TRIES, Vault, answer, keys};
use crate::backend::peer::Peer;
use crate::backend::store::Watch;
use crate::core::audit::{Action, Outcome};
use crate::core::budget::Standing;
use crate::core::catalog;
use crate::core::gateway;
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::problem::{Answer, Code, Problem};
use crate::core::rule::Path;
use crate::core::secret::SecretBytes;
use crate::core::terms::Sendable;
use crate::core::token::SessionToken;
use crate::core::types::{RequestId, Timestamp};

/// Most characters of where a request was to go that go on record.
const MAX_TOLD: usize = 160;
/// How often time alone is looked at: a session may end by it.
const LOOK_AT_TIME: Duration = Duration::from_secs(15);

/// What a credential is to be used for.
#[derive(Clone)]
pub struct Purpose {
    /// Whose it is.
    pub agent: AgentIdentity,
    /// Of which service.
    pub service: ServiceName,
    /// The request's method.
    pub method: String,
    /// Its path, in its plain form.
    pub path: Path,
    /// The request in short, as it goes on record.
    pub what: String,
    /// The whole of it, once that is known.
    pub act: Option<Act>,
}

/// What becomes of it.
pub enum Taken {
    /// It may be sent.
    InUse(Box<InUse>),
    /// Its master is to be asked: see [`Vault::hold`].
    Asks,
    /// It is not its turn yet, by the rate that its master has set.
    Later(Duration),
}

/// A credential for one request.
pub struct InUse {
    /// The key.
    pub secret: SecretBytes,
    /// Where it is stored.
    pub stored: Stored,
    /// Whether it may still be used.
    pub standing: Right,
    /// What its answer is counted by, where that is known to cost anything.
    pub charge: Option<Charge>,
    /// The auth request by whose approval it is sent, where one was needed.
    pub by: Option<RequestId>,
}

/// The right that a use was allowed by.
pub struct Right {
    vault: Arc<Inner>,
    session: SessionToken,
    agent: Watch,
    row: Watch,
    /// What it was for, in order to decide again when the agent's row has changed.
    purpose: Purpose,
}

impl Right {
    /// Waits until the right is gone: the agent revoked or torn down, the session ended or over,
    /// the credential deleted, or scope and rules such that it would be refused now.
    pub async fn lost(&mut self) -> Problem {
        loop {
            tokio::select! {
                () = self.agent.changed() => {}
                () = self.row.changed() => {}
                () = tokio::time::sleep(LOOK_AT_TIME) => {}
            }
            if let Err(problem) = self.look().await {
                return problem;
            }
        }
    }

    async fn look(&self) -> Answer<()> {
        let access = self.vault.recognise(&self.session).await?;
        access.standing()?;
        let Some(agent) = &access.agent else { return Ok(()) };
        let given = self.vault.given(&access, &agent.row, &self.purpose.service).await;
        if let Err(Refusal::Denied(problem) | Refusal::Plain(problem)) = given {
            return Err(problem);
        }
        may_send(&agent.row, &self.purpose).map(drop)
    }
}

/// Refuses a request that the credential's rules do not let through.
fn may_send(agent: &AgentRow, purpose: &Purpose) -> Answer<Sendable> {
    let Purpose { service, method, path, what, .. } = purpose;
    let guarded = catalog::find(service).map_or(&[][..], |entry| &entry.guarded);
    let sent = agent.terms_of(service).allow(method, path, guarded);
    sent.map_err(|why| not_sent(agent, service, what, &why))
}

impl Vault {
    /// The time by which requests are signed.
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// Whether a session is good, before anything else is done for whoever shows it.
    ///
    /// # Errors
    /// `UNAUTHORIZED` or `DENIED`.
    pub async fn knows(&self, session: &SessionToken) -> Answer<()> {
        self.0.authenticate(session).await?.standing()
    }

    /// Takes a credential into use for the agent whose session it is; what it is used for goes on
    /// record. Where its master is to be asked first, that was done if the purpose has an act that
    /// was approved.
    ///
    /// # Errors
    /// Those of reading it, but no proof of presence is wanted: an agent's session has its own
    /// rights. `DENIED` for a master's session, which is to make one of the agent first.
    pub async fn use_credential(
        &self,
        peer: Peer,
        session: &SessionToken,
        purpose: &Purpose,
    ) -> Answer<Taken> {
        for _ in 0..MAX_TRIES {
            let mut access = self.0.authenticate(session).await?;
            access.peer = Some(peer.clone());
            if let Some(taken) = self.0.take_into_use(&access, session, purpose).await? {
                return Ok(taken);
            }
        }
        Err(answer::busy())
    }
}

/// Longest that a request waits for its turn.
const LONGEST_TURN: Duration = Duration::from_secs(10);

/// That a request would have to wait too long for its turn.
fn too_many(purpose: &Purpose, wait: Duration) -> Problem {
    let seconds = wait.as_secs().max(1);
    Problem::new(
        Code::RateLimited,
        format!("too many requests with the {} key", purpose.service),
        format!("its budget has a rate, and the next turn is in {seconds} s"),
        "send fewer, or have another rate set: agentkeys budget --per-minute",
    )
    .retry_after(seconds)
}

impl Vault {
    /// Puts on record that a placeholder stood where it does not belong; gives the refusal.
    pub async fn misplaced(
        &self,
        peer: Peer,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
        to: &str,
    ) -> Problem {
        let plain: String = to.chars().filter(char::is_ascii_graphic).take(MAX_TOLD).collect();
        let problem = gateway::misplaced(service, &plain);
        let recorded = async {
            let mut access = self.0.authenticate(session).await?;
            access.peer = Some(peer);
            let agent = match self.0.reachable(&access, agent).await {
                Ok(agent) => agent,
                Err((Refusal::Denied(problem) | Refusal::Plain(problem), _)) => {
                    return Err(problem);
                }
            };
            let whose = Some(&*agent.row);
            self.0.denied::<Infallible>(&access, Action::Use, whose, Some(service), problem).await
        };
        match recorded.await {
            Err(problem) => problem,
            Ok(never) => match never {},
        }
    }

    /// The same as [`Vault::use_credential`], when it is its turn; `None` if its master is to be
    /// asked.
    ///
    /// # Errors
    /// Those, and `RATE_LIMITED` when that is too far off.
    pub async fn use_in_turn(
        &self,
        peer: &Peer,
        session: &SessionToken,
        purpose: &Purpose,
    ) -> Answer<Option<Box<InUse>>> {
        let until = tokio::time::Instant::now() + LONGEST_TURN;
        loop {
            match self.use_credential(peer.clone(), session, purpose).await? {
                Taken::Later(wait) if tokio::time::Instant::now() + wait > until => {
                    return Err(too_many(purpose, wait));
                }
                Taken::Later(wait) => tokio::time::sleep(wait).await,
                Taken::InUse(using) => return Ok(Some(using)),
                Taken::Asks => return Ok(None),
            }
        }
    }
}

impl Inner {
    async fn take_into_use(
        self: &Arc<Self>,
        access: &Access,
        session: &SessionToken,
        purpose: &Purpose,
    ) -> Answer<Option<Taken>> {
        let action = Action::Use;
        let service = &purpose.service;
        let agent = match self.reachable(access, &purpose.agent).await {
            Ok(agent) => agent,
            Err((Refusal::Denied(problem), whose)) => {
                return self.denied(access, action, whose.as_deref(), Some(service), problem).await;
            }
            Err((Refusal::Plain(problem), _)) => return Err(problem),
        };
        if access.agent.is_none() {
            return Err(Problem::new(
                Code::Denied,
                "access denied: the gateway serves agents",
                "the session is a master's",
                "make one of the agent's: agentkeys run --broker does",
            ));
        }
        // Before the right is looked at, so that no change of it is missed.
        let standing = Right {
            vault: self.clone(),
            // A copy of its own, wiped with it.
            session: SessionToken::parse(session.expose()).map_err(|_| Problem::internal())?,
            agent: self.store.watch(&agent.key),
            row: self.store.watch(&keys::session(access.session_id)),
            purpose: purpose.clone(),
        };
        let credential = match self.given(access, &agent.row, service).await {
            Ok(credential) => credential,
            Err(Refusal::Denied(problem)) => {
                let whose = Some(&*agent.row);
                return self.denied(access, action, whose, Some(service), problem).await;
            }
            Err(Refusal::Plain(problem)) => return Err(problem),
        };
        let sendable = match may_send(&agent.row, purpose) {
            Ok(sendable) => sendable,
            Err(problem) => {
                return self.denied(access, action, Some(&agent.row), Some(service), problem).await;
            }
        };
        let asks = match self.budget_standing(&agent.row, service, access.now).await? {
            Standing::Within => sendable != Sendable::AtOnce,
            Standing::Asks(_) => true,
            Standing::Over(over) => {
                let problem = over_budget(&agent.row, service, &purpose.what, &over);
                return self.denied(access, action, Some(&agent.row), Some(service), problem).await;
            }
        };
        let release = match &purpose.act {
            _ if !asks => None,
            None => return Ok(Some(Taken::Asks)),
            Some(act) => match self.released(access, &agent.row, purpose, act).await? {
                Some(release) => Some(release),
                None => return Ok(Some(Taken::Asks)),
            },
        };
        if let Some(rate) = agent.row.terms_of(service).budget.and_then(|budget| budget.rate)
            && let Err(wait) = self.rates.take(agent.row.wallet, service, rate, access.now)
        {
            return Ok(Some(Taken::Later(wait)));
        }
        let Some(credential) = self.fresh(access, &agent, credential).await? else {
            return Ok(None);
        };
        let secret = self.reveal(&credential, &agent.row)?;
        // The commit checks that neither session, agent nor credential has changed since.
        let mut proposal = access.unchanged_with(&agent);
        proposal.checks.push(credential.unchanged());
        let event = access.event(action, Outcome::Allowed).of(&agent.row);
        let mut event = event.service(&credential.row.service).detail(purpose.what.clone());
        let by = release.as_ref().map(|release| release.row.request);
        if let Some(release) = &release {
            self.use_release(release, &mut proposal)?;
            event.request = by;
        }
        proposal.events.push(event);
        let charge = self.charge(&agent.row, service);
        let event = access.event(Action::Store, Outcome::Allowed).of(&agent.row).service(service);
        let stored = Stored { credential, agent: agent.row.clone(), event };
        let used = InUse { secret, stored, standing, charge, by };
        Ok(self.propose(proposal).await?.then_some(Taken::InUse(Box::new(used))))
    }
}
