//! `agentkeys fund`: gives an agent an amount in the payment ledger.
use argh::{ArgsInfo, FromArgs};

use super::agents::{about, choose};
use super::balance::{dollars, layer_name};
use super::context::Context;
use super::report::{CliError, usage};
use super::{Checked, Finish};
use crate::core::identity::AgentIdentity;
use crate::core::payment::{Amount, Layer, micros};
use crate::core::problem::Problem;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Gives an agent an amount of US dollars in the payment ledger, with up to six \
                   digits behind the point. The ledger is a figure that the backend keeps: no \
                   money moves.",
    note = "[agent] may be left out where there is just one.",
    example = "agentkeys fund my-agent 5",
    example = "agentkeys fund my-agent 0.25 --layer system_gas"
)]
/// see above
pub struct FundArgs {
    /// service_payment (unless told) or system_gas
    #[argh(option, arg_name = "layer")]
    layer: Option<String>,
    /// agent and amount
    #[argh(positional, arg_name = "[agent] amount")]
    words: Vec<String>,
}

/// Who gets how much on which layer.
pub struct Fund {
    agent: Option<AgentIdentity>,
    amount: Amount,
    layer: Layer,
}

/// Reads dollars into millionths, without rounding.
fn amount(text: &str) -> Result<Amount, Problem> {
    let wrong = || {
        Problem::invalid(
            "amount",
            "wants US dollars above 0, such as 5 or 0.25, at most six digits behind the point",
        )
    };
    micros(text).filter(|micros| *micros > 0).ok_or_else(wrong)
}

impl TryFrom<FundArgs> for Fund {
    type Error = Problem;

    fn try_from(raw: FundArgs) -> Result<Self, Problem> {
        let (agent, text) = match raw.words.as_slice() {
            [text] => (None, text),
            [agent, text] => (Some(agent.parse()?), text),
            _ => {
                return Err(usage(
                    "fund wants an agent and an amount",
                    "the amount is in US dollars",
                    "agentkeys fund my-agent 5",
                ));
            }
        };
        let layer = match raw.layer.as_deref() {
            None => Layer::ServicePayment,
            Some(name) => {
                Layer::ALL.into_iter().find(|layer| layer.as_str() == name).ok_or_else(|| {
                    Problem::invalid("--layer", "wants service_payment or system_gas")
                })?
            }
        };
        Ok(Self { agent, amount: amount(text)?, layer })
    }
}

impl Checked for Fund {
    type Raw = FundArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let agent = choose(context, self.agent).await?;
        let open = context.open().await?;
        let answer = open.backend.fund_child(open.token, &agent, self.layer, self.amount).await;
        let now = about(context, &agent, answer).await?;
        if context.out.json {
            context.out.object(&now)?;
        } else {
            context.out.say(&format!(
                "{agent} has {} USD for {}",
                dollars(now.available),
                layer_name(now.layer)
            ));
        }
        Ok(Finish::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_become_millionths_without_rounding() {
        for (text, micros) in [
            ("5", 5_000_000),
            ("0.25", 250_000),
            ("0.000001", 1),
            ("18446744073709.551615", u64::MAX),
        ] {
            assert_eq!(amount(text).unwrap(), micros);
        }
        for bad in ["", "0", "0.0", "-1", "1.", ".5", "1.0000001", "1e3", "1,5", "18446744073710"] {
            assert!(amount(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_shown_reads_back() {
        fn holds(micros: u64) -> bool {
            micros == 0 || amount(&dollars(micros)).is_ok_and(|read| read == micros)
        }
        quickcheck::quickcheck(holds as fn(u64) -> bool);
    }
}
