//! `agentkeys usage`: the audit log as a table.
use std::collections::VecDeque;

use argh::{ArgsInfo, FromArgs};
use serde::Serialize;
use serde_json::json;

use super::agents::{about, label, maybe_agent};
use super::budget::in_words;
use super::clock::{moment, now};
use super::context::Context;
use super::report::{CliError, shown};
use super::{Checked, Finish};
use crate::core::audit::{Action, Entry, Event, Outcome, Role};
use crate::core::backend::{AuditFilter, AuditPage, MAX_WAIT};
use crate::core::budget::{Budget, Spent};
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::payment::usd;
use crate::core::problem::Problem;
use crate::core::types::Timestamp;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Shows what was done, by whom, and what was denied: the audit log, oldest first. \
                   No value is in it. At its end stands what keys have cost.",
    note = "A time is an age such as 2h or 7d, a date, or RFC 3339. On a terminal the last 100 \
            events are shown unless --limit says otherwise; --json and a pipe get them all, and \
            --follow with --json gives one event a line.",
    example = "agentkeys usage",
    example = "agentkeys usage my-agent --denied --since 7d",
    example = "agentkeys usage my-agent --service openrouter --json",
    example = "agentkeys usage --follow"
)]
/// see above
pub struct UsageArgs {
    /// only events of this service
    #[argh(option, arg_name = "service")]
    service: Option<String>,
    /// only events at or after this time
    #[argh(option, arg_name = "time")]
    since: Option<String>,
    /// only events before this time
    #[argh(option, arg_name = "time")]
    until: Option<String>,
    /// only what was denied
    #[argh(switch)]
    denied: bool,
    /// only the last events, this many
    #[argh(option, arg_name = "number")]
    limit: Option<String>,
    /// go on with new events as they come
    #[argh(switch)]
    follow: bool,
    /// agent
    #[argh(positional, arg_name = "[agent]")]
    words: Vec<String>,
}

/// Which events are shown.
pub struct Usage {
    filter: AuditFilter,
    last: Option<usize>,
    follow: bool,
}

impl TryFrom<UsageArgs> for Usage {
    type Error = Problem;

    fn try_from(raw: UsageArgs) -> Result<Self, Problem> {
        let now = now();
        let time =
            |field, text: Option<String>| text.map(|text| moment(field, &text, now)).transpose();
        let last = raw
            .limit
            .map(|text| text.parse::<usize>())
            .transpose()
            .map_err(|_| Problem::invalid("--limit", "wants a number"))?;
        let filter = AuditFilter {
            agent_id: maybe_agent("usage", &raw.words)?,
            service: raw.service.map(|text| text.parse::<ServiceName>()).transpose()?,
            outcome: raw.denied.then_some(Outcome::Denied),
            since: time("--since", raw.since)?,
            until: time("--until", raw.until)?,
            limit: Some(1_000),
            ..AuditFilter::default()
        };
        Ok(Self { filter, last, follow: raw.follow })
    }
}

/// Events of a terminal's first look.
const LAST: usize = 100;

/// Asks for one page.
async fn page(context: &Context<'_>, filter: &AuditFilter) -> Result<AuditPage, CliError> {
    let open = context.open().await?;
    let answer = open.backend.query_audit(open.token, filter.clone()).await;
    Ok(match &filter.agent_id {
        Some(agent) => about(context, agent, answer).await?,
        None => answer?,
    })
}

/// The word of an action, as it stands in the table.
fn word(action: Action) -> String {
    serde_json::to_value(action)
        .ok()
        .and_then(|value| value.as_str().map(|text| text.replace('_', " ")))
        .unwrap_or_default()
}

/// What was taken or given, in dollars, with what stands behind it.
fn money(detail: &str) -> Option<String> {
    let (_layer, rest) = detail.split_once(' ')?;
    let end = rest.find(':').unwrap_or(rest.len());
    let (sum, more) = rest.split_at(end);
    Some(format!("{} USD{more}", usd(sum.parse().ok()?)))
}

/// The action; a use or a read with what it was for.
fn what(event: &Event) -> String {
    let of_money = matches!(event.action, Action::Debit | Action::Fund);
    if let Some(sum) = event.detail.as_deref().filter(|_| of_money).and_then(money) {
        return format!("{} {sum}", word(event.action));
    }
    match (event.action, &event.detail, event.outcome) {
        (Action::Ask | Action::Use | Action::Read, Some(detail), Outcome::Allowed) => {
            format!("{} {detail}", word(event.action))
        }
        _ => word(event.action),
    }
}

fn who(event: &Event) -> String {
    let role = match event.by.role {
        Role::Master => "master",
        Role::Child => "agent",
        Role::Backend => "backend",
    };
    match &event.by.host {
        Some(host) => format!("{role} on {host}"),
        None => role.to_owned(),
    }
}

/// An event's cells, under [`HEAD`].
pub fn row(entry: &Entry) -> Vec<String> {
    let event = match entry {
        Entry::Event(event) => event,
        Entry::Damaged { damaged } => {
            let what = format!("event {damaged} is damaged: agentkeys audit verify");
            return vec![
                String::new(),
                String::new(),
                what,
                String::new(),
                String::new(),
                String::new(),
            ];
        }
    };
    let time = event.time.for_people();
    let agent = event.agent_name.clone().or_else(|| event.agent.map(|wallet| wallet.to_string()));
    let outcome = match event.outcome {
        Outcome::Allowed => "ok",
        Outcome::Denied => "DENIED",
    };
    vec![
        time.strip_suffix(" UTC").unwrap_or(&time).to_owned(),
        agent.unwrap_or_else(|| "-".to_owned()),
        what(event),
        event.service.as_ref().map_or("-".to_owned(), |service| service.to_string()),
        outcome.to_owned(),
        who(event),
    ]
}

const HEAD: [&str; 6] = ["TIME (UTC)", "AGENT", "ACTION", "SERVICE", "RESULT", "BY"];

impl Checked for Usage {
    type Raw = UsageArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let Self { mut filter, last, follow } = self;
        let out = &context.out;
        let keep = match last {
            Some(last) => last,
            None if out.terminal && !out.json => LAST,
            None => usize::MAX,
        };
        let mut events: VecDeque<Entry> = VecDeque::new();
        let mut skipped = 0_u64;
        let head = loop {
            let page = page(context, &filter).await?;
            for event in page.events {
                events.push_back(event);
                if events.len() > keep {
                    events.pop_front();
                    skipped += 1;
                }
            }
            match page.next {
                // A page that leads nowhere new would lead there for ever.
                Some(next) if filter.from.is_none_or(|from| next > from) => {
                    filter.from = Some(next)
                }
                Some(_) | None => break page.head,
            }
        };
        let spent = spent(context, filter.agent_id.as_ref()).await?;
        if out.json && !follow {
            out.object(&json!({ "events": events, "spent": spent }))?;
            return Ok(Finish::Done);
        }
        if out.json {
            for event in &events {
                line(context, event)?;
            }
        } else {
            let rows: Vec<Vec<String>> = events.iter().map(row).collect();
            if skipped > 0 {
                out.say(&format!(
                    "{skipped} earlier events are not shown; see --limit and --since"
                ));
            }
            if rows.is_empty() {
                out.say("no event yet");
            } else {
                out.table_keeping(&["TIME (UTC)", "RESULT"], &HEAD, &rows)?;
            }
            for one in &spent {
                let words = in_words(&one.budget, &one.spent).join(", ");
                out.line(&shown(&format!("{} of {} cost {words}", one.service, one.agent)))?;
            }
        }
        if follow {
            filter.from = Some(head.seq + 1);
            filter.wait = Some(MAX_WAIT.as_secs().saturating_sub(5));
            follow_on(context, filter).await?;
        }
        Ok(Finish::Done)
    }
}

/// What an agent's credential has cost.
#[derive(Serialize)]
struct Cost {
    agent: String,
    service: ServiceName,
    spent: Spent,
    budget: Budget,
}

/// What the credentials of an agent, or of all, have cost.
async fn spent(context: &Context<'_>, of: Option<&AgentIdentity>) -> Result<Vec<Cost>, CliError> {
    let open = context.open().await?;
    // Of an agent that was deleted there is a record, and no credential.
    let agents = match of {
        Some(agent) => open.backend.resolve_identity(open.token, agent).await.into_iter().collect(),
        None => open.backend.list_agents(open.token).await?,
    };
    let mut costs = Vec::new();
    for agent in &agents {
        let wallet = AgentIdentity::Wallet(agent.wallet);
        for held in open.backend.list_credentials(open.token, &wallet).await? {
            let Some(spent) = held.spent else { continue };
            let budget = held.terms.budget.unwrap_or_default();
            costs.push(Cost { agent: label(agent), service: held.service, spent, budget });
        }
    }
    Ok(costs)
}

/// One event on one line, as JSON.
fn line(context: &Context<'_>, event: &Entry) -> Result<(), CliError> {
    let text = serde_json::to_string(event).map_err(|_| Problem::internal())?;
    context.out.line(&text)
}

/// Waits for events until somebody ends it or the backend goes.
async fn follow_on(context: &Context<'_>, mut filter: AuditFilter) -> Result<(), CliError> {
    loop {
        let page = page(context, &filter).await?;
        for event in &page.events {
            if context.out.json {
                line(context, event)?;
            } else {
                let cells = row(event);
                let text: Vec<String> = cells.iter().map(|cell| shown(cell)).collect();
                context.out.line(&text.join("  "))?;
            }
        }
        // What did not pass the filter is behind us too.
        let next = page.next.unwrap_or(page.head.seq + 1);
        filter.from = Some(filter.from.unwrap_or(1).max(next));
        if filter.until.is_some_and(|until: Timestamp| now() >= until) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::audit::Actor;
    use crate::core::types::{AccountId, Hash32, WalletAddress};

    #[test]
    fn an_event_is_one_row() {
        let mut event = Event {
            by: Actor { host: Some("laptop".into()), role: Role::Master, ..Actor::default() },
            seq: 3,
            prev: Hash32([0; 32]),
            time: "2026-04-09T14:32:07Z".parse().unwrap(),
            agent: Some(WalletAddress([1; 20])),
            action: Action::RollBack,
            detail: None,
            account: AccountId([2; 16]),
            outcome: Outcome::Denied,
            request: None,
            service: Some("openrouter".parse().unwrap()),
            presence: "none".into(),
            set_backs: None,
            agent_name: Some("my-agent".into()),
        };
        assert_eq!(
            row(&Entry::Event(Box::new(event.clone()))),
            [
                "2026-04-09 14:32:07",
                "my-agent",
                "roll back",
                "openrouter",
                "DENIED",
                "master on laptop"
            ]
        );
        event.agent_name = None;
        event.agent = None;
        event.service = None;
        event.by = Actor::default();
        event.outcome = Outcome::Allowed;
        assert_eq!(
            row(&Entry::Event(Box::new(event))),
            ["2026-04-09 14:32:07", "-", "roll back", "-", "ok", "backend"]
        );
    }

    #[test]
    fn a_damaged_row_shows_as_one() {
        assert!(row(&Entry::Damaged { damaged: 7 })[2].contains("event 7 is damaged"));
    }

    #[test]
    fn a_limit_that_is_no_number_is_named() {
        let raw = |limit: &str| UsageArgs {
            service: None,
            since: None,
            until: None,
            denied: true,
            limit: Some(limit.to_owned()),
            follow: false,
            words: vec![],
        };
        assert!(Usage::try_from(raw("ten")).is_err_and(|p| p.detail.contains("--limit")));
        assert!(Usage::try_from(raw("-1")).is_err());
        let usage = Usage::try_from(raw("10")).unwrap_or_else(|_| panic!("a number"));
        assert_eq!((usage.last, usage.filter.outcome), (Some(10), Some(Outcome::Denied)));
    }
}
