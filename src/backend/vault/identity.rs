//! Human names of agents: linked, unlinked, looked up. Unique within one account.
use super::access::{Access, agent_not_found};
use super::rows::{AgentLink, AgentRow};
use super::{Inner, keys};
use crate::backend::store::{Check, Write};
use crate::core::audit::{Action, Outcome};
use crate::core::backend::AgentSummary;
use crate::core::identity::AgentIdentity;
use crate::core::presence::Act;
use crate::core::problem::{Answer, Code, Problem};

/// Most names of one agent.
const MAX_IDENTITIES: usize = 32;

impl Inner {
    pub async fn link(
        &self,
        access: &Access,
        named: &AgentIdentity,
        identity: &AgentIdentity,
    ) -> Answer<Option<AgentSummary>> {
        access.master()?;
        if matches!(identity, AgentIdentity::Wallet(_)) {
            return Err(Problem::invalid(
                "identity",
                "a wallet address is an agent's own name and is not linked",
            ));
        }
        let account = access.account_id();
        let agent = self.target(access, named).await?;
        if agent.row.identities.contains(identity) {
            return Ok(Some(agent.row.summary()));
        }
        if let Some(other) = self.find_agent(account, identity).await? {
            let other = other.row.name();
            return Err(Problem::new(
                Code::Invalid,
                format!("\"{identity}\" already names another agent of this account"),
                format!("it is linked to \"{other}\", and a name means one agent"),
                format!("agentkeys unlink {identity}, then link it again"),
            ));
        }
        if agent.row.identities.len() >= MAX_IDENTITIES {
            return Err(Problem::invalid(
                "identity",
                format!("an agent has at most {MAX_IDENTITIES} names"),
            ));
        }
        let mut row = AgentRow::clone(&agent.row);
        row.identities.push(identity.clone());
        let mut proposal = access.unchanged();
        let act = Act::Link { agent: named, identity };
        self.present(access, &act, &mut proposal).await?;
        let key = keys::identity(account, &self.identity_mac(identity));
        proposal.checks.push(agent.unchanged());
        proposal.checks.push(Check::Absent(key.clone()));
        proposal.writes.push(self.put(key, &AgentLink { wallet: row.wallet })?);
        proposal.writes.push(self.put(agent.key.clone(), &row)?);
        let event = access.event(Action::Link, Outcome::Allowed).of(&row);
        proposal.events.push(event.detail(format!("{} {identity}", identity.kind())));
        Ok(self.propose(proposal).await?.then(|| row.summary()))
    }

    pub async fn unlink(
        &self,
        access: &Access,
        identity: &AgentIdentity,
    ) -> Answer<Option<AgentSummary>> {
        access.master()?;
        let account = access.account_id();
        let agent = self
            .find_agent(account, identity)
            .await?
            .filter(|agent| agent.row.identities.contains(identity))
            .ok_or_else(|| agent_not_found(identity))?;
        let mut row = AgentRow::clone(&agent.row);
        row.identities.retain(|known| known != identity);
        let mut proposal = access.unchanged();
        let key = keys::identity(account, &self.identity_mac(identity));
        proposal.checks.push(agent.unchanged());
        proposal.writes.push(Write::Delete(key));
        proposal.writes.push(self.put(agent.key.clone(), &row)?);
        let event = access.event(Action::Unlink, Outcome::Allowed).of(&agent.row);
        proposal.events.push(event.detail(format!("{} {identity}", identity.kind())));
        Ok(self.propose(proposal).await?.then(|| row.summary()))
    }

    pub async fn resolve(&self, access: &Access, identity: &AgentIdentity) -> Answer<AgentSummary> {
        access.standing()?;
        let agent = self.target(access, identity).await?.row;
        let mut summary = agent.summary();
        if access.agent.is_some() {
            // An agent that asks is told what it may do itself: its session may have been given
            // less, and it would believe that it has what it is refused.
            summary.scope = access.scope_for(&agent);
        }
        Ok(summary)
    }
}
