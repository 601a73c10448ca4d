//! `agentkeys watch`: shows what agents do as they do it, and asks about what waits for an answer.
use std::collections::HashSet;

use argh::{ArgsInfo, FromArgs};

use super::agents::{about, maybe_agent};
use super::approve::{Approve, Said, lasts};
use super::ask;
use super::context::Context;
use super::report::{CliError, shown};
use super::usage::row;
use super::{Checked, Finish};
use crate::core::audit::Entry;
use crate::core::auth_request::Kind;
use crate::core::backend::{AuditFilter, Fetched, Pending};
use crate::core::identity::AgentIdentity;
use crate::core::problem::{Code, Problem};
use crate::core::types::{RequestId, WalletAddress};

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Shows each act as it comes, and asks you about each request that waits for your \
                   approval: once, for a time, or for as long as the run lasts. It ends with Ctrl-C.",
    note = "Without a terminal to ask on it shows what waits, and leaves the answer to approve and \
            deny. --json writes one line for each.",
    example = "agentkeys watch",
    example = "agentkeys watch my-agent"
)]
/// see above
pub struct WatchArgs {
    /// of this agent only
    #[argh(positional, arg_name = "agent")]
    words: Vec<String>,
}

/// Of whom.
pub struct Watch(Option<AgentIdentity>);

impl TryFrom<WatchArgs> for Watch {
    type Error = Problem;

    fn try_from(raw: WatchArgs) -> Result<Self, Problem> {
        maybe_agent("watch", &raw.words).map(Self)
    }
}

/// How long one look waits for an event, in seconds. Requests that no event tells of are seen after
/// that time.
const LOOK: u64 = 1;

impl Checked for Watch {
    type Raw = WatchArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let open = context.open().await?;
        let wallet = match &self.0 {
            None => None,
            Some(agent) => {
                let answer = open.backend.resolve_identity(open.token, agent).await;
                Some(about(context, agent, answer).await?.wallet)
            }
        };
        let asks = ask::is_terminal() && !context.out.json;
        if !context.out.json {
            let answers = if asks { "it asks here" } else { "answer with agentkeys approve CODE" };
            context.out.say(&format!("watching; what waits for you: {answers}. Ctrl-C ends it."));
        }
        let limit = Some(1);
        let mut filter = AuditFilter { agent_id: self.0, limit, ..AuditFilter::default() };
        let end = open.backend.query_audit(open.token, filter.clone()).await?.head.seq;
        (filter.from, filter.limit, filter.wait) = (Some(end + 1), None, Some(LOOK));
        let mut known = HashSet::new();
        loop {
            ask_about_new(context, wallet, asks, &mut known).await?;
            // Opened anew each time: a session may be renewed meanwhile.
            let open = context.open().await?;
            let page = open.backend.query_audit(open.token, filter.clone()).await?;
            for event in &page.events {
                tell(context, event)?;
            }
            let next = page.next.unwrap_or(page.head.seq + 1);
            filter.from = filter.from.max(Some(next));
        }
    }
}

fn tell(context: &Context<'_>, event: &Entry) -> Result<(), CliError> {
    if context.out.json {
        let text = serde_json::to_string(event).map_err(|_| Problem::internal())?;
        return context.out.line(&text);
    }
    let cells: Vec<String> = row(event).iter().map(|cell| shown(cell)).collect();
    context.out.line(&cells.join("  "))
}

/// Asks, or tells, about each request that was not known yet.
async fn ask_about_new(
    context: &Context<'_>,
    wallet: Option<WalletAddress>,
    asks: bool,
    known: &mut HashSet<RequestId>,
) -> Result<(), CliError> {
    let open = context.open().await?;
    let waiting = open.backend.list_pending(open.token).await?;
    known.retain(|id| waiting.iter().any(|request| request.id == *id));
    let of_whom = |request: &&Pending| wallet.is_none() || request.agent == wallet;
    for request in waiting.iter().filter(of_whom) {
        if !known.insert(request.id) {
            continue;
        }
        if context.out.json {
            let text = serde_json::to_string(request).map_err(|_| Problem::internal())?;
            context.out.line(&text)?;
        } else if !asks {
            let (kind, code) = (request.kind.as_str(), request.pair_code);
            context.out.line(&format!("waits for you: {kind}  agentkeys approve {code}"))?;
        } else if let Err(error) = Approve::of(request.pair_code).decide(context, true, said).await
        {
            // One that was answered elsewhere, or gave up, while it was shown is no reason to end.
            match error {
                CliError::Exit { problem, .. } if has_passed(&problem) => {
                    context.out.say(&shown(&format!("{}: {}", problem.detail, problem.cause)));
                }
                error => return Err(error),
            }
        }
    }
    Ok(())
}

fn has_passed(problem: &Problem) -> bool {
    use Code::{AlreadyConsumed, Denied, Expired, Invalid, NoMatch, NotFound};
    matches!(problem.code, AlreadyConsumed | Denied | Expired | Invalid | NoMatch | NotFound)
}

/// What the person says to a request that was shown.
fn said(request: &Fetched) -> Result<Said, CliError> {
    let held = request.kind == Kind::HighValueRelease && request.held.is_some();
    loop {
        let question = if held {
            "Same OTP on both sides, and do you allow it? yes: once; 10m, 2h: for that time; run; no; \
             Enter: later"
        } else {
            "Same OTP on both sides, and do you allow it? yes; no; Enter: later"
        };
        let answer = ask::line(question)?.to_ascii_lowercase();
        match answer.as_str() {
            "" => return Ok(Said::Later),
            "yes" | "y" | "once" => return Ok(Said::Yes(None)),
            "no" | "n" => return Ok(Said::No),
            other if held => match lasts(other) {
                Ok(lasts) => return Ok(Said::Yes(Some(lasts))),
                Err(_) => continue,
            },
            _ => {}
        }
    }
}
