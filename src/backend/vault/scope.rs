//! What an agent may do, set by its master without anybody having asked.
use super::access::Access;
use super::journal::Proposal;
use super::rows::AgentRow;
use super::session::bounded;
use super::{Inner, Loaded};
use crate::core::audit::{Action, Outcome};
use crate::core::backend::AgentSummary;
use crate::core::identity::AgentIdentity;
use crate::core::presence::Act;
use crate::core::problem::Answer;
use crate::core::scope::Scope;

impl Inner {
    /// Puts another scope into an agent's row. Whatever was allowed by the old one, and is not
    /// committed yet, is decided again: every release checks the row. A session that was given
    /// less than its agent keeps to both, see [`Access::scope_for`].
    pub fn push_scope(
        &self,
        agent: &Loaded<AgentRow>,
        scope: &Scope,
        proposal: &mut Proposal,
    ) -> Answer<AgentRow> {
        let next = AgentRow { scope: scope.clone(), ..AgentRow::clone(&agent.row) };
        proposal.checks.push(agent.unchanged());
        proposal.writes.push(self.put(agent.key.clone(), &next)?);
        Ok(next)
    }

    /// Sets an agent's scope. A revoked agent's may be set too: it holds once it is reinstated.
    pub async fn set_scope(
        &self,
        access: &Access,
        identity: &AgentIdentity,
        scope: &Scope,
    ) -> Answer<Option<AgentSummary>> {
        access.master()?;
        bounded(scope)?;
        let agent = self.target(access, identity).await?;
        if agent.row.scope == *scope {
            return Ok(Some(agent.row.summary()));
        }
        let mut proposal = access.unchanged();
        if !scope.within(&agent.row.scope) {
            let act = Act::SetScope { agent: identity, scope };
            self.present(access, &act, &mut proposal).await?;
        }
        let next = self.push_scope(&agent, scope, &mut proposal)?;
        let event = access.event(Action::ScopeChange, Outcome::Allowed).of(&next);
        proposal.events.push(event.detail(format!("{scope}; before: {}", agent.row.scope)));
        Ok(self.propose(proposal).await?.then(|| next.summary()))
    }
}
