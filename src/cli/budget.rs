//! `agentkeys budget`: what an agent's key may cost, and what it has cost so far.
use argh::{ArgsInfo, FromArgs};
use serde_json::json;

use super::agents::{about, agent_and_service, choose, label};
use super::clock::now;
use super::context::Context;
use super::report::{CliError, shown, usage};
use super::{Checked, Finish};
use crate::core::budget::{Budget, Price, Spent};
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::metering;
use crate::core::payment::{Amount, micros, usd};
use crate::core::problem::Problem;
use crate::core::terms::TermsChange;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Shows or sets what an agent's key may cost in a day, a month and in all, in US \
                   dollars. The gateway reads from each answer what it used, and refuses the next \
                   request once a limit is reached; those under way go on. Days and months are UTC's.",
    note = "The catalog has list prices of openai and anthropic, and openrouter states its own. For \
            others, or to count otherwise, name a price: --price 2.50/10 for a million tokens sent and \
            answered, --per-request 0.01 for each request.",
    note = "--ask-at 80 has each request wait for your approval from 80 hundredths of a limit on. \
            --per-minute lets so many requests through in a minute, ten seconds' worth of them at once; \
            others wait, ten seconds at most. A budget binds the gateway: expose the key no further than broker, or the agent can go \
            without it.",
    example = "agentkeys budget my-agent openai",
    example = "agentkeys budget my-agent openai --day 5 --month 50 --ask-at 80",
    example = "agentkeys budget my-agent my-api --total 1 --per-request 0.01",
    example = "agentkeys budget my-agent openai --per-minute 60",
    example = "agentkeys budget my-agent openai --clear"
)]
/// see above
pub struct BudgetArgs {
    /// most in one day, or none
    #[argh(option, arg_name = "usd")]
    day: Option<String>,
    /// most in one month, or none
    #[argh(option, arg_name = "usd")]
    month: Option<String>,
    /// most in all, or none
    #[argh(option, arg_name = "usd")]
    total: Option<String>,
    /// from how many hundredths of a limit on you are asked, or none
    #[argh(option, arg_name = "percent")]
    ask_at: Option<String>,
    /// most requests a minute, or none; others wait for their turn
    #[argh(option, arg_name = "requests")]
    per_minute: Option<String>,
    /// a million tokens sent and answered, and maybe those sent again
    #[argh(option, arg_name = "in/out")]
    price: Option<String>,
    /// each request
    #[argh(option, arg_name = "usd")]
    per_request: Option<String>,
    /// take all limits and prices out first
    #[argh(switch)]
    clear: bool,
    /// agent and service
    #[argh(positional, arg_name = "[agent] service")]
    words: Vec<String>,
}

/// Something that is set, or taken out.
type Change<T> = Option<Option<T>>;

/// What is to be changed.
pub struct SetBudget {
    agent: Option<AgentIdentity>,
    service: ServiceName,
    day: Change<Amount>,
    month: Change<Amount>,
    total: Change<Amount>,
    ask_at: Change<u8>,
    rate: Change<u32>,
    price: Option<(Amount, Amount, Option<Amount>)>,
    per_request: Option<Amount>,
    clear: bool,
}

fn no_amount(option: &str, text: &str) -> Problem {
    usage(
        format!("{option} {text} is no amount"),
        "it wants US dollars, such as 5 or 0.25, with at most six digits behind the point",
        "agentkeys budget my-agent openai --day 5",
    )
}

fn limit(option: &str, text: Option<String>) -> Result<Change<Amount>, Problem> {
    text.map(|text| match text.as_str() {
        "none" => Ok(None),
        text => {
            micros(text).filter(|sum| *sum > 0).map(Some).ok_or_else(|| no_amount(option, text))
        }
    })
    .transpose()
}

fn price(text: &str) -> Option<(Amount, Amount, Option<Amount>)> {
    let parts: Option<Vec<Amount>> = text.split('/').map(micros).collect();
    match parts?.as_slice() {
        [input, output] => Some((*input, *output, None)),
        [input, output, cached] => Some((*input, *output, Some(*cached))),
        _ => None,
    }
}

impl TryFrom<BudgetArgs> for SetBudget {
    type Error = Problem;

    fn try_from(raw: BudgetArgs) -> Result<Self, Problem> {
        let (agent, service) = agent_and_service("budget", &raw.words)?;
        let ask_at = raw.ask_at.map(|text| match text.trim_end_matches('%') {
            "none" => Ok(None),
            text => match text.parse::<u8>() {
                Ok(part @ 1..=99) => Ok(Some(part)),
                _ => Err(usage(
                    format!("--ask-at {text} is no part of a limit"),
                    "it wants 1 to 99 hundredths, or none",
                    "agentkeys budget my-agent openai --day 5 --ask-at 80",
                )),
            },
        });
        let rate = raw.per_minute.map(|text| match text.as_str() {
            "none" => Ok(None),
            text => match text.parse::<u32>() {
                Ok(rate @ 1..=1_000_000) => Ok(Some(rate)),
                _ => Err(usage(
                    format!("--per-minute {text} is no number of requests"),
                    "it wants 1 to 1000000, or none",
                    "agentkeys budget my-agent openai --per-minute 60",
                )),
            },
        });
        let named = raw.price.map(|text| {
            price(&text).ok_or_else(|| {
                usage(
                    format!("--price {text} is no price"),
                    "it wants US dollars for a million tokens sent and answered, with a slash between",
                    "agentkeys budget my-agent my-api --day 5 --price 2.50/10",
                )
            })
        });
        let per_request = raw
            .per_request
            .map(|text| micros(&text).ok_or_else(|| no_amount("--per-request", &text)));
        Ok(Self {
            agent,
            service,
            day: limit("--day", raw.day)?,
            month: limit("--month", raw.month)?,
            total: limit("--total", raw.total)?,
            ask_at: ask_at.transpose()?,
            rate: rate.transpose()?,
            price: named.transpose()?,
            per_request: per_request.transpose()?,
            clear: raw.clear,
        })
    }
}

impl SetBudget {
    fn of(&self, before: Budget) -> Budget {
        let mut budget = if self.clear { Budget::default() } else { before };
        budget.day = self.day.unwrap_or(budget.day);
        budget.month = self.month.unwrap_or(budget.month);
        budget.total = self.total.unwrap_or(budget.total);
        budget.ask_at = self.ask_at.unwrap_or(budget.ask_at);
        budget.rate = self.rate.unwrap_or(budget.rate);
        if self.price.is_some() || self.per_request.is_some() {
            let mut price = budget.price.unwrap_or_default();
            if let Some((input, output, cached)) = self.price {
                price = Price { input, output, cached, ..price };
            }
            price.request = self.per_request.unwrap_or(price.request);
            budget.price = Some(price);
        }
        budget
    }
}

/// What was spent, beside the limits.
pub fn in_words(budget: &Budget, spent: &Spent) -> Vec<String> {
    let line = |of: Option<Amount>, sum: Amount, when: &str| match of {
        Some(of) => format!("{} of {} USD {when}", usd(sum), usd(of)),
        None => format!("{} USD {when}", usd(sum)),
    };
    vec![
        line(budget.day, spent.day, "today"),
        line(budget.month, spent.month, "this month"),
        line(budget.total, spent.total, "in all"),
    ]
}

impl Checked for SetBudget {
    type Raw = BudgetArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let agent = choose(context, self.agent.clone()).await?;
        let open = context.open().await?;
        let answer = open.backend.resolve_identity(open.token, &agent).await;
        let name = label(&about(context, &agent, answer).await?);
        let service = &self.service;
        let nothing = TermsChange::default();
        let before = open.backend.set_terms(open.token, &agent, service, nothing).await?;
        let before = before.budget.unwrap_or_default();
        let mut budget = self.of(before.clone());
        if budget != before {
            let change = TermsChange { budget: Some(budget), ..TermsChange::default() };
            let terms = open.backend.set_terms(open.token, &agent, service, change).await?;
            budget = terms.budget.unwrap_or_default();
        }
        let held = open.backend.list_credentials(open.token, &agent).await?;
        let spent = held.iter().find(|one| one.service == *service).and_then(|one| one.spent);
        let spent = spent.unwrap_or_default().at(now());
        if context.out.json {
            context.out.object(&json!({
                "agent": name, "service": service, "budget": budget, "spent": spent,
            }))?;
            return Ok(Finish::Done);
        }
        context.out.sentence(&shown(&format!("{service} of {name}: {budget}")))?;
        context.out.line(&format!("  spent: {}", in_words(&budget, &spent).join(", ")))?;
        if budget.price.is_none() && metering::price(service, None).is_none() {
            context.out.say(&format!(
                "nothing is counted: the catalog has no prices of {service}; see --price, --per-request"
            ));
        }
        Ok(Finish::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> Result<SetBudget, Problem> {
        let raw = BudgetArgs::from_args(&["budget"], words).unwrap();
        SetBudget::try_from(raw)
    }

    #[test]
    fn what_is_not_said_stays_and_none_takes_a_limit_out() {
        let before = Budget { day: Some(1), total: Some(2), ask_at: Some(80), ..Budget::default() };
        let of = |words: &[&str]| args(words).unwrap().of(before.clone());
        assert_eq!(of(&["a", "openai"]), before);
        let changed = of(&["a", "openai", "--day", "0.25", "--total", "none", "--ask-at", "50%"]);
        let wanted = Budget { day: Some(250_000), ask_at: Some(50), ..Budget::default() };
        assert_eq!(changed, wanted);
        assert_eq!(of(&["a", "openai", "--clear"]), Budget::default());
        let price =
            of(&["a", "x", "--price", "2.50/10/0.1", "--per-request", "0.01"]).price.unwrap();
        let wanted =
            Price { input: 2_500_000, output: 10_000_000, cached: Some(100_000), request: 10_000 };
        assert_eq!(price, wanted);
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for words in [
            ["--day", "0"],
            ["--day", "-1"],
            ["--month", "1e3"],
            ["--total", "0.0000001"],
            ["--ask-at", "100"],
            ["--ask-at", "0"],
            ["--price", "1"],
            ["--price", "1/2/3/4"],
            ["--per-request", "x"],
        ] {
            assert!(args(&["a", "openai", words[0], words[1]]).is_err(), "{words:?}");
        }
    }
}
