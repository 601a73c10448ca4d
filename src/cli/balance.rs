//! `agentkeys balance`: what agents have in the payment ledger, layer by layer.
use argh::{ArgsInfo, FromArgs};
use serde_json::json;

use super::agents::{about, label, maybe_agent};
use super::context::Context;
use super::report::CliError;
use super::{Checked, Finish};
use crate::core::identity::AgentIdentity;
use crate::core::payment::{Amount, Balances, Layer};
use crate::core::problem::Problem;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Shows what an agent, or every agent, has in the payment ledger. The two layers \
                   are never added up: system gas runs AgentKeys itself, service payment pays \
                   services. --json has the smallest unit, a millionth of a US dollar.",
    example = "agentkeys balance my-agent",
    example = "agentkeys balance --json"
)]
/// see above
pub struct BalanceArgs {
    /// agent
    #[argh(positional, arg_name = "[agent]")]
    words: Vec<String>,
}

/// Whose balance; without an agent, everyone's.
pub struct Balance(Option<AgentIdentity>);

impl TryFrom<BalanceArgs> for Balance {
    type Error = Problem;

    fn try_from(raw: BalanceArgs) -> Result<Self, Problem> {
        maybe_agent("balance", &raw.words).map(Self)
    }
}

/// An amount in US dollars, with all its digits: `5.250000`.
pub fn dollars(amount: Amount) -> String {
    format!("{}.{:06}", amount / 1_000_000, amount % 1_000_000)
}

/// What a layer is called.
pub fn layer_name(layer: Layer) -> &'static str {
    match layer {
        Layer::SystemGas => "system gas",
        Layer::ServicePayment => "service payment",
    }
}

impl Checked for Balance {
    type Raw = BalanceArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let open = context.open().await?;
        let agents = match self.0 {
            Some(agent) => {
                let answer = open.backend.resolve_identity(open.token, &agent).await;
                vec![about(context, &agent, answer).await?]
            }
            None => open.backend.list_agents(open.token).await?,
        };
        let mut all = Vec::new();
        let mut rows = Vec::new();
        for agent in &agents {
            let mut balances = Vec::new();
            for layer in Layer::ALL {
                let named = AgentIdentity::Wallet(agent.wallet);
                let balance = open.backend.check_balance(open.token, &named, layer).await?;
                rows.push(vec![
                    label(agent),
                    layer_name(layer).to_owned(),
                    dollars(balance.available),
                    dollars(balance.spent),
                ]);
                balances.push(balance);
            }
            all.push(Balances { agent: agent.wallet, balances });
        }
        if context.out.json {
            let rail = open.backend.display_name();
            context.out.object(&json!({ "rail": rail, "balances": all }))?;
        } else if rows.is_empty() {
            context.out.say("there is no agent yet; make one: agentkeys store my-agent openrouter");
        } else {
            context.out.table(&["AGENT", "LAYER", "AVAILABLE USD", "SPENT USD"], &rows)?;
        }
        Ok(Finish::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_keeps_every_digit() {
        assert_eq!(dollars(0), "0.000000");
        assert_eq!(dollars(5_250_001), "5.250001");
        assert_eq!(dollars(u64::MAX), "18446744073709.551615");
    }
}
