//! On what terms an agent has a credential: set by its master, and held against each release.
use super::Inner;
use super::access::Access;
use super::rows::{AccountRow, AgentRow};
use crate::core::audit::{Action, Outcome};
use crate::core::budget::Budget;
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::metering;
use crate::core::presence::Act;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::rule::MAX_RULES;
use crate::core::scope::{MAX_SERVICES, Scope};
use crate::core::terms::{Exposure, Terms, TermsChange, Unsent};

/// Most rules of an agent's credentials together: its row is read with each of its requests.
const MAX_RULES_OF_AGENT: usize = 256;

/// How far a credential is shown, whatever the scope.
fn own(account: &AccountRow, agent: &AgentRow, service: &ServiceName) -> Exposure {
    let said = agent.terms.get(service).and_then(|terms| terms.expose);
    said.unwrap_or_else(|| account.exposure())
}

/// How far a credential is shown in a scope.
pub fn exposure(
    account: &AccountRow,
    agent: &AgentRow,
    scope: &Scope,
    service: &ServiceName,
) -> Exposure {
    own(account, agent, service).min(scope.exposure())
}

/// Refuses what would show a credential further than it may be.
pub fn may_show(
    account: &AccountRow,
    agent: &AgentRow,
    scope: &Scope,
    service: &ServiceName,
    wanted: Exposure,
) -> Answer<()> {
    let tier = exposure(account, agent, scope, service);
    if wanted <= tier {
        return Ok(());
    }
    let name = agent.name();
    let (is, way) = match tier {
        Exposure::Broker => (
            "is used by the gateway only",
            format!("agentkeys run --broker {name} -- ...: the program uses it without having it"),
        ),
        _ => (
            "is not shown as plaintext",
            format!("agentkeys run {name} -- ...: the program has it in its environment"),
        ),
    };
    let limit = own(account, agent, service);
    let (cause, wider) = if limit < wanted {
        let wider = format!("agentkeys expose {name} {service} {wanted}");
        let whose = match agent.terms.get(service).and_then(|terms| terms.expose) {
            Some(_) => "its exposure",
            None => "the account's default exposure",
        };
        (format!("{whose} is {limit}: agentkeys expose says what that is"), wider)
    } else if agent.scope.exposure() < wanted {
        let ceiling = agent.scope.exposure();
        let wider = format!("agentkeys scope {name} --expose {wanted}");
        (format!("the agent's scope shows no key further than {ceiling}"), wider)
    } else {
        let ceiling = scope.exposure();
        let wider = "a session that was given more".to_owned();
        (format!("this session was given no more than {ceiling}"), wider)
    };
    let detail = format!("access denied: \"{service}\" of agent \"{name}\" {is}");
    let mut problem = Problem::new(Code::Denied, detail, cause, format!("{way}\nor: {wider}"));
    problem.docs = "docs/errors.md#exposure".to_owned();
    Err(problem)
}

/// Why a request is not sent, for who asked for it.
pub fn not_sent(agent: &AgentRow, service: &ServiceName, request: &str, why: &Unsent) -> Problem {
    let name = agent.name();
    let (cause, fix) = match why {
        Unsent::Denied(rule) => (
            format!("the rule \"{rule}\" refuses it"),
            format!("agentkeys rule {name} {service} --remove '{rule}'"),
        ),
        Unsent::NotNamed => (
            "no rule allows it, and there are rules that allow others".to_owned(),
            format!("agentkeys rule {name} {service} --allow 'METHOD PATH'"),
        ),
        Unsent::MakesKeys => (
            "it makes or shows keys, which is refused unless a rule names it".to_owned(),
            format!("agentkeys rule {name} {service} --allow 'METHOD PATH'"),
        ),
    };
    let detail =
        format!("access denied: {request} is not sent with the {service} key of \"{name}\"");
    let mut problem = Problem::new(Code::Denied, detail, cause, fix);
    problem.docs = "docs/errors.md#rule".to_owned();
    problem
}

impl Inner {
    /// Sets on what terms an agent has a credential, also one that is still to come.
    pub async fn set_terms(
        &self,
        access: &Access,
        identity: &AgentIdentity,
        service: &ServiceName,
        change: &TermsChange,
    ) -> Answer<Option<Terms>> {
        access.master()?;
        let agent = self.target(access, identity).await?;
        let before = agent.row.terms_of(service);
        let after = change.of(&before);
        // With what holds where nothing is said.
        let default = access.account.row.exposure();
        let whole = |terms: &Terms| Terms {
            expose: terms.expose.or((default < Exposure::Reveal).then_some(default)),
            ..terms.clone()
        };
        if after == before {
            return Ok(Some(whole(&after)));
        }
        let mut next = AgentRow::clone(&agent.row);
        if after.is_none() {
            next.terms.remove(service);
        } else {
            next.terms.insert(service.clone(), after.clone());
        }
        if after.budget.as_ref().is_some_and(|budget| !budget.is_sound()) {
            let why = "a limit is above 0, and ask_at 1 to 99 of a hundred, with a limit beside it";
            return Err(Problem::invalid("budget", why));
        }
        let priced = after.budget.as_ref().is_some_and(|budget| budget.price.is_some())
            || metering::price(service, None).is_some();
        if after.budget.as_ref().is_some_and(Budget::has_limit) && !priced {
            let name = agent.row.name();
            return Err(Problem::new(
                Code::Invalid,
                format!("what {service} costs is not known"),
                "the catalog has no prices of it, and a limit without one would limit nothing",
                format!("agentkeys budget {name} {service} --price IN/OUT or --per-request USD"),
            ));
        }
        let rules: usize = next.terms.values().map(|terms| terms.rules.len()).sum();
        if !after.is_bounded() || rules > MAX_RULES_OF_AGENT || next.terms.len() > MAX_SERVICES {
            return Err(Problem::invalid(
                "rules",
                format!(
                    "a credential has at most {MAX_RULES}, and all of an agent's have \
                     {MAX_RULES_OF_AGENT} together, for {MAX_SERVICES} services"
                ),
            ));
        }
        let mut proposal = access.unchanged();
        proposal.checks.push(agent.unchanged());
        if !whole(&after).within(&whole(&before)) {
            let act = Act::SetTerms { agent: identity, service, change };
            self.present(access, &act, &mut proposal).await?;
        }
        proposal.writes.push(self.put(agent.key.clone(), &next)?);
        let event = access.event(Action::Terms, Outcome::Allowed).of(&next).service(service);
        proposal.events.push(event.detail(format!("{after}; before: {before}")));
        Ok(self.propose(proposal).await?.then_some(whole(&after)))
    }

    /// Sets how far credentials are shown of which nobody said otherwise.
    pub async fn default_exposure(
        &self,
        access: &Access,
        tier: Option<Exposure>,
    ) -> Answer<Option<Exposure>> {
        access.master()?;
        let before = access.account.row.exposure();
        let Some(tier) = tier.filter(|tier| *tier != before) else { return Ok(Some(before)) };
        let mut proposal = access.unchanged();
        proposal.checks.push(access.account.unchanged());
        if tier > before {
            self.present(access, &Act::SetDefault { tier }, &mut proposal).await?;
        }
        let row = AccountRow { expose: Some(tier), ..AccountRow::clone(&access.account.row) };
        proposal.writes.push(self.put(access.account.key.clone(), &row)?);
        let event = access.event(Action::Terms, Outcome::Allowed);
        let detail = format!("{tier} where nothing else is said; before: {before}");
        proposal.events.push(event.detail(detail));
        Ok(self.propose(proposal).await?.then_some(tier))
    }
}
