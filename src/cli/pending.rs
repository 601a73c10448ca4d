//! `agentkeys pending`: the requests that wait for an answer.
use argh::{ArgsInfo, FromArgs};
use serde_json::json;

use super::Finish;
use super::agents::label;
use super::clock::{now, span};
use super::context::Context;
use super::report::CliError;
use crate::core::problem::Problem;
use crate::core::types::WalletAddress;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Lists the requests that wait for your answer. A new daemon's is among them \
                   once you have fetched it with its code.",
    example = "agentkeys pending",
    example = "agentkeys pending --json"
)]
/// see above
pub struct PendingArgs {}

/// Everything that waits.
pub struct Pending;

impl TryFrom<PendingArgs> for Pending {
    type Error = Problem;

    fn try_from(_: PendingArgs) -> Result<Self, Problem> {
        Ok(Self)
    }
}

impl super::Checked for Pending {
    type Raw = PendingArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let open = context.open().await?;
        let waiting = open.backend.list_pending(open.token).await?;
        if context.out.json {
            context.out.object(&json!({ "pending": waiting }))?;
            return Ok(Finish::Done);
        }
        if waiting.is_empty() {
            context.out.say("nothing waits for an answer");
            context.out.say("a new daemon's request is known by its code: agentkeys approve CODE");
            return Ok(Finish::Done);
        }
        // A request holds an address; people know names.
        let agents = if waiting.iter().any(|request| request.agent.is_some()) {
            open.backend.list_agents(open.token).await?
        } else {
            Vec::new()
        };
        let name = |wallet: WalletAddress| {
            let known = agents.iter().find(|agent| agent.wallet == wallet);
            known.map_or_else(|| wallet.to_string(), label)
        };
        let now = now();
        let rows: Vec<Vec<String>> = waiting
            .iter()
            .map(|request| {
                vec![
                    request.pair_code.to_string(),
                    request.kind.as_str().to_owned(),
                    request.agent.map_or("-".to_owned(), name),
                    span(now.since_ms(request.created_at)),
                    span(request.expires_at.since_ms(now)),
                ]
            })
            .collect();
        context.out.table(&["CODE", "KIND", "AGENT", "AGE", "ANSWER IN"], &rows)?;
        context.out.say("see one and decide: agentkeys approve CODE, agentkeys deny CODE");
        Ok(Finish::Done)
    }
}
