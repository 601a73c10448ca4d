//! Credentials that the backend uses in an agent's name and hands to nobody: what the gateway puts
//! into a request. A use is on record before the request is sent, and what it was allowed by is
//! watched for as long as the answer lasts.
use std::sync::Arc;
use std::time::Duration;

use super::access::Access;
use super::credential::Refusal;
use super::{Inner, MAX_TRIES, Vault, answer, keys};
use crate::backend::peer::Peer;
use crate::backend::store::Watch;
use crate::core::audit::{Action, Outcome};
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::problem::{Answer, Code, Problem};
use crate::core::secret::SecretBytes;
use crate::core::token::SessionToken;

/// How often time alone is looked at: a session may end by it.
const LOOK_AT_TIME: Duration = Duration::from_secs(15);

/// A credential for one request.
pub struct InUse {
    /// The key.
    pub secret: SecretBytes,
    /// Whether it may still be used.
    pub standing: Standing,
}

/// The right that a use was allowed by.
pub struct Standing {
    vault: Arc<Inner>,
    session: SessionToken,
    agent: Watch,
    row: Watch,
}

impl Standing {
    /// Waits until the right is gone: the agent revoked or torn down, the session ended or over.
    pub async fn lost(&mut self) -> Problem {
        loop {
            tokio::select! {
                () = self.agent.changed() => {}
                () = self.row.changed() => {}
                () = tokio::time::sleep(LOOK_AT_TIME) => {}
            }
            let standing = self.vault.recognise(&self.session).await;
            if let Err(problem) = standing.and_then(|access| access.standing()) {
                return problem;
            }
        }
    }
}

impl Vault {
    /// Takes a credential into use for the agent whose session it is; `what` it is used for goes on
    /// record.
    ///
    /// # Errors
    /// Those of reading it, but no proof of presence is wanted: an agent's session has its own
    /// rights. `DENIED` for a master's session, which is to make one of the agent first.
    pub async fn use_credential(
        &self,
        peer: Peer,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
        what: &str,
    ) -> Answer<InUse> {
        for _ in 0..MAX_TRIES {
            let mut access = self.0.authenticate(session).await?;
            access.peer = Some(peer.clone());
            if let Some((standing, secret)) =
                self.0.take_into_use(&access, session, agent, service, what).await?
            {
                return Ok(InUse { secret, standing });
            }
        }
        Err(answer::busy())
    }
}

impl Inner {
    async fn take_into_use(
        self: &Arc<Self>,
        access: &Access,
        session: &SessionToken,
        identity: &AgentIdentity,
        service: &ServiceName,
        what: &str,
    ) -> Answer<Option<(Standing, SecretBytes)>> {
        let action = Action::Use;
        let agent = match self.reachable(access, identity).await {
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
        let standing = Standing {
            vault: self.clone(),
            // A copy of its own, wiped with it.
            session: SessionToken::parse(session.expose()).map_err(|_| Problem::internal())?,
            agent: self.store.watch(&agent.key),
            row: self.store.watch(&keys::session(access.session_id)),
        };
        let credential = match self.given(access, &agent.row, service).await {
            Ok(credential) => credential,
            Err(Refusal::Denied(problem)) => {
                let whose = Some(&*agent.row);
                return self.denied(access, action, whose, Some(service), problem).await;
            }
            Err(Refusal::Plain(problem)) => return Err(problem),
        };
        let Some(credential) = self.fresh(access, &agent, credential).await? else {
            return Ok(None);
        };
        let secret = self.reveal(&credential, &agent.row)?;
        // The commit checks that neither session, agent nor credential has changed since.
        let mut proposal = access.unchanged_with(&agent);
        proposal.checks.push(credential.unchanged());
        let event = access.event(action, Outcome::Allowed).of(&agent.row);
        proposal.events.push(event.service(&credential.row.service).detail(what));
        Ok(self.propose(proposal).await?.then_some((standing, secret)))
    }
}
