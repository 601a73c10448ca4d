//! Agents: made, listed, given back their right, deleted.
use std::collections::BTreeMap;

use super::access::{Access, agent_not_found};
use super::fence::Fence;
use super::journal::Proposal;
use super::rows::{AccountRow, AgentLink, AgentRow, CredentialRow, DaemonRow};
use super::{Inner, answer, keys};
use crate::backend::store::{Check, KeyRange, Write};
use crate::core::audit::{Action, Outcome};
use crate::core::backend::AgentSummary;
use crate::core::identity::{AgentIdentity, Alias};
use crate::core::payment::Layer;
use crate::core::presence::Act;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::scope::Scope;
use crate::core::types::{ChildKeys, WalletAddress};

/// Most agents of one account.
pub const MAX_AGENTS: u32 = 10_000;

/// What a new agent begins with.
pub struct NewAgent {
    pub name: Option<Alias>,
    pub scope: Scope,
    pub daemon: Option<(ChildKeys, DaemonRow)>,
}

fn name_taken(name: &AgentIdentity) -> Problem {
    Problem::new(
        Code::Invalid,
        format!("\"{name}\" already names another agent of this account"),
        "a name means one agent",
        format!("choose another name, or first: agentkeys unlink {name}"),
    )
}

impl Inner {
    /// Adds a new agent's rows; refuses a name that is taken.
    pub fn push_agent(
        &self,
        access: &Access,
        new: NewAgent,
        proposal: &mut Proposal,
    ) -> Answer<AgentRow> {
        let account = access.account_id();
        if access.account.row.agents >= MAX_AGENTS {
            return Err(Problem::invalid(
                "agent",
                format!("an account has at most {MAX_AGENTS} agents"),
            ));
        }
        let wallet = WalletAddress(self.entropy.bytes().map_err(answer::entropy)?);
        let identities: Vec<_> = new.name.into_iter().map(AgentIdentity::Alias).collect();
        let row = AgentRow {
            wallet,
            account,
            identities,
            scope: new.scope,
            epoch: 0,
            ended: None,
            revoked: None,
            keys: new.daemon.map(|(keys, _)| keys),
            daemon: new.daemon.map(|(_, daemon)| daemon),
            terms: BTreeMap::new(),
            services: 0,
            movements: 0,
            created_at: access.now,
        };
        let key = keys::agent(account, wallet);
        proposal.checks.push(Check::Absent(key.clone()));
        proposal.writes.push(self.put(key, &row)?);
        for identity in &row.identities {
            let key = keys::identity(account, &self.identity_mac(identity));
            proposal.checks.push(Check::Absent(key.clone()));
            proposal.writes.push(self.put(key, &AgentLink { wallet })?);
        }
        self.push_agent_count(access, 1, proposal)?;
        Ok(row)
    }

    fn push_agent_count(&self, access: &Access, by: i32, proposal: &mut Proposal) -> Answer<()> {
        let old = &access.account.row;
        let agents = old.agents.saturating_add_signed(by);
        let row = AccountRow { agents, ..AccountRow::clone(old) };
        proposal.checks.push(access.account.unchanged());
        proposal.writes.push(self.put(access.account.key.clone(), &row)?);
        Ok(())
    }

    /// Makes an agent with a name. The event belongs to the account: the agent's own log begins
    /// with its first use.
    pub async fn create_agent(
        &self,
        access: &Access,
        name: &Alias,
    ) -> Answer<Option<AgentSummary>> {
        access.master()?;
        let identity = AgentIdentity::Alias(name.clone());
        if self.find_agent(access.account_id(), &identity).await?.is_some() {
            return Err(name_taken(&identity));
        }
        let mut proposal = access.unchanged();
        let new = NewAgent { name: Some(name.clone()), scope: Scope::everything(), daemon: None };
        let row = self.push_agent(access, new, &mut proposal)?;
        let event = access.event(Action::AgentCreate, Outcome::Allowed);
        proposal.events.push(event.detail(format!("{name} {}", row.wallet)));
        Ok(self.propose(proposal).await?.then(|| row.summary()))
    }

    pub async fn list_agents(&self, access: &Access) -> Answer<Vec<AgentSummary>> {
        access.standing()?;
        let mut agents = match &access.agent {
            Some(own) => vec![own.row.summary()],
            None => {
                let prefix = keys::agents(access.account_id());
                let rows = self.load_all::<AgentRow>(&prefix, MAX_AGENTS as usize).await?;
                rows.iter().map(|agent| agent.row.summary()).collect()
            }
        };
        agents.sort_by_cached_key(|agent| {
            (agent.name.as_ref().map(|name| name.to_ascii_lowercase()), agent.wallet)
        });
        Ok(agents)
    }

    pub async fn reinstate(&self, access: &Access, identity: &AgentIdentity) -> Answer<bool> {
        access.master()?;
        let agent = self.target(access, identity).await?;
        if agent.row.revoked.is_none() {
            return Ok(true);
        }
        let mut row = AgentRow::clone(&agent.row);
        row.revoked = None;
        let mut proposal = access.unchanged();
        proposal.checks.push(agent.unchanged());
        self.present(access, &Act::Reinstate { agent: identity }, &mut proposal).await?;
        proposal.writes.push(self.put(agent.key.clone(), &row)?);
        proposal.events.push(access.event(Action::Reinstate, Outcome::Allowed).of(&row));
        self.propose(proposal).await
    }

    pub async fn teardown(&self, access: &Access, identity: &AgentIdentity) -> Answer<bool> {
        access.master()?;
        let account = access.account_id();
        let agent =
            self.find_agent(account, identity).await?.ok_or_else(|| agent_not_found(identity))?;
        let wallet = agent.row.wallet;
        let mut proposal = access.unchanged();
        proposal.checks.push(agent.unchanged());
        let mut gone = vec![agent.key.clone()];
        for identity in &agent.row.identities {
            gone.push(keys::identity(account, &self.identity_mac(identity)));
        }
        // A store of a new service changes the agent's row, and one over an existing service
        // the credential's: with both checked, no credential can be left behind.
        let limit = agent.row.services as usize + 1;
        let prefix = keys::credentials(account, wallet);
        for credential in self.load_all::<CredentialRow>(&prefix, limit).await? {
            let mac = self.service_mac(&credential.row.service);
            let kept = credential.row.oldest..credential.row.version;
            gone.extend(kept.map(|version| keys::version(account, wallet, &mac, version)));
            gone.push(keys::holder(account, &mac, wallet));
            gone.push(credential.key.clone());
            proposal.checks.push(credential.unchanged());
            self.push_ending(&agent.row, &credential, access.now, &mut proposal)?;
        }
        gone.extend((0..Layer::ALL.len()).map(|at| keys::balance(account, wallet, at as u8)));
        gone.push(keys::movement_count(account, wallet));
        gone.extend(self.ledger_tail(account, wallet).await?);
        proposal.writes.extend(gone.into_iter().map(Write::Delete));
        self.push_agent_count(access, -1, &mut proposal)?;
        proposal.fences.push(Fence::Agent(wallet, u64::MAX));
        proposal.events.push(access.event(Action::Teardown, Outcome::Allowed).of(&agent.row));
        let done = self.propose(proposal).await?;
        self.errands.notify_one();
        Ok(done)
    }

    /// Some rows of the agent's ledger; the sweeper takes what is left of a long one.
    async fn ledger_tail(
        &self,
        account: crate::core::types::AccountId,
        wallet: WalletAddress,
    ) -> Answer<Vec<Vec<u8>>> {
        let mut found = Vec::new();
        let prefixes = [
            keys::costs(account, wallet),
            keys::movements(account, wallet),
            keys::references(account, wallet),
        ];
        for prefix in prefixes {
            let page = self
                .store
                .scan(KeyRange::prefix(&prefix), super::ledger::MAX_MOVEMENTS)
                .await
                .map_err(answer::store)?;
            found.extend(page.into_iter().map(|(key, _)| key));
        }
        Ok(found)
    }
}
