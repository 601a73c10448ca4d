//! `PaymentRail`: what pays. Two layers that are never added up into one figure.
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::identity::{AgentIdentity, ServiceName};
use super::problem::Answer;
use super::token::SessionToken;
use super::types::{Timestamp, WalletAddress};

/// Which payment layer is meant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// What running the system itself costs.
    SystemGas,
    /// What services charge for being used.
    ServicePayment,
}

impl Layer {
    /// Both, in the order they are shown.
    pub const ALL: [Self; 2] = [Self::SystemGas, Self::ServicePayment];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SystemGas => "system_gas",
            Self::ServicePayment => "service_payment",
        }
    }
}

/// An amount in the layer's smallest unit (micro-USD in the internal ledger).
pub type Amount = u64;

/// An amount in US dollars: two digits behind the point, and more where there are more.
pub fn usd(amount: Amount) -> String {
    let (whole, part) = (amount / 1_000_000, format!("{:06}", amount % 1_000_000));
    let more = part.get(2..).unwrap_or_default().trim_end_matches('0');
    format!("{whole}.{}{more}", part.get(..2).unwrap_or_default())
}

/// Reads dollars into millionths, without rounding; `None` for what is no amount.
pub fn micros(text: &str) -> Option<Amount> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 6 {
        return None;
    }
    let whole: Amount = whole.parse().ok()?;
    let part: Amount = format!("{part:0<6}").parse().ok()?;
    whole.checked_mul(1_000_000)?.checked_add(part)
}

/// What an agent has on one layer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Balance {
    /// The layer.
    pub layer: Layer,
    /// What is left.
    pub available: Amount,
    /// What was spent in all.
    pub spent: Amount,
}

/// One movement of the ledger.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spending {
    /// When.
    pub time: Timestamp,
    /// On which layer.
    pub layer: Layer,
    /// How much was taken; 0 for money that came in.
    pub debited: Amount,
    /// How much came in; 0 for money that was taken.
    pub funded: Amount,
    /// For which service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
}

/// A way to pay. v0 has one: an internal ledger.
#[async_trait]
pub trait PaymentRail: Send + Sync {
    /// What the agent has on `layer`.
    async fn check_balance(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        layer: Layer,
    ) -> Answer<Balance>;

    /// Takes `amount`; refused whole when there is less. `reference` makes a repeated call
    /// count once.
    async fn debit(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        layer: Layer,
        amount: Amount,
        service: Option<&ServiceName>,
        reference: &str,
    ) -> Answer<Balance>;

    /// Gives `amount` to the agent. Only its master may.
    async fn fund_child(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        layer: Layer,
        amount: Amount,
    ) -> Answer<Balance>;

    /// The newest movements of the agent, at most `limit`, newest first.
    async fn spending_history(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        limit: usize,
    ) -> Answer<Vec<Spending>>;

    /// What people call this rail.
    fn display_name(&self) -> &'static str;
}

/// An agent's balances by name, for listings.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Balances {
    /// Whose.
    pub agent: WalletAddress,
    /// One row a layer; never added up.
    pub balances: Vec<Balance>,
}
