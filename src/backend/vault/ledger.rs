//! The internal ledger: the one payment rail of this version. Amounts are integers in the
//! layer's smallest unit; the two layers never meet.
use super::access::Access;
use super::journal::Proposal;
use super::rows::{AgentRow, BalanceRow};
use super::{Inner, Loaded, keys};
use crate::backend::store::Check;
use crate::core::audit::{Action, Outcome};
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::payment::{Amount, Balance, Layer, Spending};
use crate::core::presence::Act;
use crate::core::problem::{Answer, Code, Problem};

/// Movements that are kept of one agent; older ones stay in the audit log alone.
pub const MAX_MOVEMENTS: usize = 1000;
/// Longest reference of a debit, in characters.
const MAX_REFERENCE: usize = 64;

const fn number(layer: Layer) -> u8 {
    match layer {
        Layer::SystemGas => 0,
        Layer::ServicePayment => 1,
    }
}

fn shown(layer: Layer, row: BalanceRow) -> Balance {
    Balance { layer, available: row.available, spent: row.spent }
}

/// A debit that was done.
#[derive(serde::Serialize, serde::Deserialize, PartialEq)]
struct ReferenceRow {
    layer: Layer,
    amount: Amount,
}

impl Inner {
    pub async fn balance_row(
        &self,
        agent: &AgentRow,
        layer: Layer,
    ) -> Answer<(Vec<u8>, Option<Loaded<BalanceRow>>)> {
        let key = keys::balance(agent.account, agent.wallet, number(layer));
        let row = self.load(key.clone()).await?;
        Ok((key, row))
    }

    pub async fn check_balance(
        &self,
        access: &Access,
        identity: &AgentIdentity,
        layer: Layer,
    ) -> Answer<Balance> {
        access.standing()?;
        let agent = self.target(access, identity).await?;
        let (_, row) = self.balance_row(&agent.row, layer).await?;
        Ok(shown(layer, row.map_or_else(BalanceRow::default, |row| *row.row)))
    }

    pub async fn fund(
        &self,
        access: &Access,
        identity: &AgentIdentity,
        layer: Layer,
        amount: Amount,
    ) -> Answer<Option<Balance>> {
        access.master()?;
        if amount == 0 {
            return Err(Problem::invalid("amount", "amount wants more than 0"));
        }
        let agent = self.target(access, identity).await?;
        let (_, row) = self.balance_row(&agent.row, layer).await?;
        let mut next = row.as_ref().map_or_else(BalanceRow::default, |row| *row.row);
        next.available = next.available.checked_add(amount).ok_or_else(|| {
            Problem::invalid("amount", "the balance would be larger than 64 bits hold")
        })?;
        let moved = Spending { time: access.now, layer, debited: 0, funded: amount, service: None };
        let mut proposal = access.unchanged();
        let act = Act::Fund { agent: identity, layer, amount };
        self.present(access, &act, &mut proposal).await?;
        self.settle(access, &agent, layer, row, next, moved, proposal).await
    }

    pub async fn debit(
        &self,
        access: &Access,
        identity: &AgentIdentity,
        layer: Layer,
        amount: Amount,
        service: Option<&ServiceName>,
        reference: &str,
    ) -> Answer<Option<Balance>> {
        access.standing()?;
        if amount == 0 {
            return Err(Problem::invalid("amount", "amount wants more than 0"));
        }
        let printable = reference.bytes().all(|c| c.is_ascii_graphic());
        if reference.is_empty() || reference.len() > MAX_REFERENCE || !printable {
            return Err(Problem::invalid(
                "reference",
                format!("reference wants 1 to {MAX_REFERENCE} printable ASCII characters"),
            ));
        }
        let agent = self.target(access, identity).await?;
        super::approval::must_be_active(&agent.row)?;
        let mac = self.cells.mac("reference", reference.as_bytes());
        let reference_key = keys::reference(agent.row.account, agent.row.wallet, &mac);
        let (_, row) = self.balance_row(&agent.row, layer).await?;
        let mut next = row.as_ref().map_or_else(BalanceRow::default, |row| *row.row);
        let done = ReferenceRow { layer, amount };
        if let Some(known) = self.load::<ReferenceRow>(reference_key.clone()).await? {
            if *known.row != done {
                return Err(Problem::invalid("reference", "it was used for another debit"));
            }
            return Ok(Some(shown(layer, next)));
        }
        let Some(left) = next.available.checked_sub(amount) else {
            return Err(Problem::new(
                Code::Denied,
                format!("access denied: agent \"{}\" has too little", agent.row.name()),
                format!("{} is left, {amount} is needed", next.available),
                format!("agentkeys fund {} <amount>", agent.row.name()),
            ));
        };
        next.available = left;
        next.spent = next.spent.saturating_add(amount);
        let service = service.cloned();
        let moved = Spending { time: access.now, layer, debited: amount, funded: 0, service };
        let mut proposal = access.unchanged();
        proposal.checks.push(Check::Absent(reference_key.clone()));
        proposal.writes.push(self.put(reference_key, &done)?);
        self.settle(access, &agent, layer, row, next, moved, proposal).await
    }

    /// Writes a balance, its movement and its event in one commit.
    #[expect(clippy::too_many_arguments, reason = "one settlement has as many parts")]
    async fn settle(
        &self,
        access: &Access,
        agent: &Loaded<AgentRow>,
        layer: Layer,
        old: Option<Loaded<BalanceRow>>,
        next: BalanceRow,
        moved: Spending,
        mut proposal: Proposal,
    ) -> Answer<Option<Balance>> {
        let key = keys::balance(agent.row.account, agent.row.wallet, number(layer));
        match &old {
            Some(old) => proposal.checks.push(old.unchanged()),
            None => proposal.checks.push(Check::Absent(key.clone())),
        }
        proposal.checks.push(agent.unchanged());
        proposal.writes.push(self.put(key, &next)?);
        self.push_movement(&agent.row, &moved, &mut proposal).await?;
        let action = if moved.funded > 0 { Action::Fund } else { Action::Debit };
        let amount = moved.funded.max(moved.debited);
        let mut event = access.event(action, Outcome::Allowed).of(&agent.row);
        event.service = moved.service;
        proposal.events.push(event.detail(format!("{} {amount}", layer.as_str())));
        Ok(self.propose(proposal).await?.then(|| shown(layer, next)))
    }

    pub async fn spending_history(
        &self,
        access: &Access,
        identity: &AgentIdentity,
        limit: usize,
    ) -> Answer<Vec<Spending>> {
        access.standing()?;
        if !(1..=MAX_MOVEMENTS).contains(&limit) {
            return Err(Problem::invalid("limit", format!("limit wants 1 to {MAX_MOVEMENTS}")));
        }
        let agent = self.target(access, identity).await?;
        let prefix = keys::movements(agent.row.account, agent.row.wallet);
        let mut rows = self.load_all::<Spending>(&prefix, MAX_MOVEMENTS).await?;
        rows.reverse();
        Ok(rows.iter().take(limit).map(|row| (*row.row).clone()).collect())
    }
}
