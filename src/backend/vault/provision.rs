//! A key for an agent that lacks one: the one that is there, a new one, or the way to it.
//!
//! Must never hand a provider's secret to anybody but an agent's own session whose scope names
//! the service, and not before that is on record.
use super::Inner;
use super::access::Access;
use super::credential::{Refusal, summary};
use super::rows::{AgentRow, CredentialRow};
use crate::core::audit::{Action, Outcome};
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::problem::{Answer, Code, Problem};
use crate::core::provision::{Provisioned, Recipe, Way, no_way};

impl Inner {
    pub async fn provision(
        &self,
        access: &Access,
        identity: &AgentIdentity,
        service: &ServiceName,
    ) -> Answer<Option<Provisioned>> {
        let agent = match self.reachable(access, identity).await {
            Ok(agent) => agent,
            Err((Refusal::Denied(problem), whose)) => {
                return self
                    .denied(access, Action::Provision, whose.as_deref(), Some(service), problem)
                    .await;
            }
            Err((Refusal::Plain(problem), _)) => return Err(problem),
        };
        if access.agent.is_some() && !access.scope_for(&agent.row).may_provision(service) {
            let problem = not_allowed(access, &agent.row, service);
            return self
                .denied(access, Action::Provision, Some(&agent.row), Some(service), problem)
                .await;
        }
        let key = self.credential_key(&agent.row, service);
        if let Some(found) = self.load::<CredentialRow>(key.clone()).await? {
            return Ok(Some(Provisioned::Exists(summary(&found.row))));
        }
        let account = access.account_id();
        let provider = self.provider(account, service).await?.ok_or_else(|| no_way(service))?;
        if provider.row.way == Way::Api {
            let made = self.mint(access, &agent, service, provider).await?;
            return Ok(made.map(Provisioned::Made));
        }
        if access.agent.is_none() {
            return Err(beside_the_agent(&agent.row, service));
        }
        let mut proposal = access.unchanged_with(&agent);
        access.not_set_back(&mut proposal)?;
        proposal.checks.push(provider.unchanged());
        proposal.checks.push(crate::backend::store::Check::Absent(key));
        let secret = self.provider_secret(account, &provider)?;
        let event = access.event(Action::Provision, Outcome::Allowed).of(&agent.row);
        proposal.events.push(event.service(service).detail("a recipe is run beside the agent"));
        let settings = provider.row.settings.clone();
        let done = self.propose(proposal).await?;
        Ok(done.then_some(Provisioned::Recipe(Recipe { settings, secret })))
    }
}

fn not_allowed(access: &Access, agent: &AgentRow, service: &ServiceName) -> Problem {
    let name = agent.name();
    Problem::new(
        Code::Denied,
        format!("access denied: no key of \"{service}\" may be made for agent \"{name}\""),
        format!("its scope is: {}", access.scope_for(agent)),
        format!("agentkeys scope {name} --provision {service}\nor let its daemon ask (provision)"),
    )
}

fn beside_the_agent(agent: &AgentRow, service: &ServiceName) -> Problem {
    let name = agent.name();
    Problem::new(
        Code::Invalid,
        format!("a key of \"{service}\" is got beside the agent"),
        "it comes from a recipe in a browser, which the agent's own daemon runs",
        format!("let {name} ask for it: its MCP tool provision"),
    )
}
