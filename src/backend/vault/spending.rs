//! What credentials cost: counted when an answer has ended, held against the budget before the next
//! request is sent. A request that is under way when a limit is reached goes on.
use std::sync::Arc;

use super::journal::{Draft, Proposal};
use super::rows::{AgentRow, BalanceRow, MovementsRow};
use super::{Inner, MAX_TRIES, answer, keys};
use crate::backend::store::{Check, Write};
use crate::core::audit::{Action, Actor, Outcome};
use crate::core::budget::{Price, Reached, Spent, Standing};
use crate::core::identity::ServiceName;
use crate::core::metering::{self, Stated};
use crate::core::payment::{Amount, Layer, Spending};
use crate::core::problem::{Answer, Code, Problem};
use crate::core::types::{AccountId, Timestamp, WalletAddress};

/// A request whose answer will cost something.
pub struct Charge {
    vault: Arc<Inner>,
    account: AccountId,
    wallet: WalletAddress,
    service: ServiceName,
    /// What its master said that it costs.
    own: Option<Price>,
}

/// Why a request is not sent whose credential's budget is used up.
pub fn over_budget(agent: &AgentRow, service: &ServiceName, what: &str, over: &Reached) -> Problem {
    let name = agent.name();
    let detail =
        format!("access denied: {what} is over the budget of the {service} key of \"{name}\"");
    let fix = format!(
        "agentkeys budget {name} {service} shows it, and sets another{}",
        match over.limit {
            crate::core::budget::Limit::Total => String::new(),
            limit => format!("; or wait for the next {limit}"),
        }
    );
    let mut problem = Problem::new(Code::Denied, detail, over.to_string(), fix);
    problem.docs = "docs/errors.md#budget".to_owned();
    problem
}

impl Charge {
    /// Counts what an answer stated.
    pub async fn settle(self, stated: &Stated, estimated: bool) {
        let known = metering::price(&self.service, stated.model.as_deref());
        let (price, is_known) = match (self.own, known) {
            (Some(own), _) => (own, true),
            (None, Some(known)) => known,
            (None, None) => return,
        };
        let amount = stated.cost(&price);
        if amount == 0 {
            return;
        }
        let sent = [stated.input, stated.cached, stated.kept[0], stated.kept[1]];
        let counted = sent.into_iter().fold(0, u64::saturating_add);
        let mut detail = format!(
            "{} {amount}: {}{counted} tokens sent, {} answered",
            Layer::ServicePayment.as_str(),
            model_in_words(stated.model.as_deref()),
            stated.output,
        );
        if !is_known && stated.cost.is_none() {
            detail.push_str(", at the price of a model that is not known");
        }
        if estimated {
            detail.push_str(", estimated");
        }
        if let Err(problem) = self.vault.settle_use(&self, amount, &detail).await {
            // The answer is there already; what it cost is at least told to whoever runs this.
            tracing::error!(service = %self.service, amount, problem = problem.detail, "a cost was not counted");
        }
    }
}

/// The model that answered, as far as a log may say what a service wrote.
fn model_in_words(model: Option<&str>) -> String {
    let plain = |model: &&str| model.len() <= 64 && model.bytes().all(|c| c.is_ascii_graphic());
    model.filter(plain).map_or_else(String::new, |model| format!("{model}, "))
}

impl Inner {
    /// What a request of an agent's will be counted by; `None` where nothing is known of prices.
    pub fn charge(self: &Arc<Self>, agent: &AgentRow, service: &ServiceName) -> Option<Charge> {
        let terms = agent.terms.get(service);
        let own = terms.and_then(|terms| terms.budget.as_ref()).and_then(|budget| budget.price);
        if own.is_none() && metering::price(service, None).is_none() {
            return None;
        }
        let (account, wallet) = (agent.account, agent.wallet);
        Some(Charge { vault: self.clone(), account, wallet, service: service.clone(), own })
    }

    /// What was counted of an agent's credential.
    pub async fn spent(&self, agent: &AgentRow, service: &ServiceName) -> Answer<Spent> {
        let key = keys::cost(agent.account, agent.wallet, &self.service_mac(service));
        Ok(self.load::<Spent>(key).await?.map_or_else(Spent::default, |row| *row.row))
    }

    /// How it stands with the budget of an agent's credential.
    pub async fn budget_standing(
        &self,
        agent: &AgentRow,
        service: &ServiceName,
        now: Timestamp,
    ) -> Answer<Standing> {
        let budget = agent.terms.get(service).and_then(|terms| terms.budget.as_ref());
        let Some(budget) = budget.filter(|budget| budget.has_limit()) else {
            return Ok(Standing::Within);
        };
        Ok(budget.standing(self.spent(agent, service).await?, now))
    }

    async fn settle_use(&self, charge: &Charge, amount: Amount, detail: &str) -> Answer<()> {
        let Charge { account, wallet, service, .. } = charge;
        // Each changes the same rows, so one after the other is the fastest.
        let _turn = self.settling.lock().await;
        for _ in 0..MAX_TRIES {
            // With the agent its ledger is gone.
            let Some(agent) = self.agent(*account, *wallet).await? else { return Ok(()) };
            let now = self.clock.now();
            let layer = Layer::ServicePayment;
            let mut proposal = Proposal::default();
            let key = keys::cost(*account, *wallet, &self.service_mac(service));
            let before = self.load::<Spent>(key.clone()).await?;
            let spent = before.as_ref().map_or_else(Spent::default, |row| *row.row);
            proposal.checks.push(match &before {
                Some(row) => row.unchanged(),
                None => Check::Absent(key.clone()),
            });
            proposal.writes.push(self.put(key, &spent.plus(amount, now))?);

            let (key, before) = self.balance_row(&agent.row, layer).await?;
            let mut balance = before.as_ref().map_or_else(BalanceRow::default, |row| *row.row);
            balance.available = balance.available.saturating_sub(amount);
            balance.spent = balance.spent.saturating_add(amount);
            proposal.checks.push(match &before {
                Some(row) => row.unchanged(),
                None => Check::Absent(key.clone()),
            });
            proposal.writes.push(self.put(key, &balance)?);

            let service = Some(service.clone());
            let moved = Spending { time: now, layer, debited: amount, funded: 0, service };
            self.push_movement(&agent.row, &moved, &mut proposal).await?;
            proposal.events.push(Draft {
                account: *account,
                by: Actor::default(),
                time: now,
                action: Action::Debit,
                outcome: Outcome::Allowed,
                agent: Some((agent.row.wallet, agent.row.shown_name())),
                service: moved.service,
                request: None,
                detail: Some(detail.to_owned()),
                presence: self.account(*account).await?.row.presence.clone(),
                set_backs: None,
            });
            if self.propose(proposal).await? {
                return Ok(());
            }
        }
        Err(answer::busy())
    }

    /// Adds a movement to an agent's ledger, and takes the oldest out where there are too many.
    pub async fn push_movement(
        &self,
        agent: &AgentRow,
        moved: &Spending,
        proposal: &mut Proposal,
    ) -> Answer<()> {
        let (account, wallet) = (agent.account, agent.wallet);
        let key = keys::movement_count(account, wallet);
        let before = self.load::<MovementsRow>(key.clone()).await?;
        proposal.checks.push(match &before {
            Some(row) => row.unchanged(),
            None => Check::Absent(key.clone()),
        });
        let count = before.map_or(agent.movements, |row| row.row.count) + 1;
        proposal.writes.push(self.put(key, &MovementsRow { count })?);
        proposal.writes.push(self.put(keys::movement(account, wallet, count), moved)?);
        if let Some(old) = count.checked_sub(super::ledger::MAX_MOVEMENTS as u64) {
            proposal.writes.push(Write::Delete(keys::movement(account, wallet, old)));
        }
        Ok(())
    }
}
