//! `agentkeys audit accept`: the person says that the audit log was set back on purpose, and what
//! was lost is given up. From then on rights can be raised again.
//!
//! Must never accept anything of itself: a person at the terminal says yes, or the script `--yes`.
use argh::{ArgsInfo, FromArgs};
use serde_json::json;

use super::ask;
use super::context::{Context, Open};
use super::report::{CliError, shown, usage};
use super::{Checked, Finish};
use crate::core::audit::{Entry, Head};
use crate::core::backend::{AuditFilter, WhoAmI};
use crate::core::problem::{Code, Problem};
use crate::core::set_back;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Accepts that the backend's audit log was set back, as after an older copy of \
                   its data was put back: shows what was seen and where the log ends now, asks, \
                   and gives the rest up. Until then nobody's rights are raised. It is on record \
                   in the log.",
    note = "What was revoked or narrowed in the part that is lost holds no more: revoke it again \
            first, which is never refused.",
    note = "Exits with 4 where there is nothing to accept.",
    example = "agentkeys audit accept",
    example = "agentkeys audit accept --yes"
)]
/// see above
pub struct AuditAcceptArgs {
    /// do not ask
    #[argh(switch)]
    yes: bool,
}

/// What was asked for.
pub struct AuditAccept {
    yes: bool,
}

impl TryFrom<AuditAcceptArgs> for AuditAccept {
    type Error = Problem;

    fn try_from(raw: AuditAcceptArgs) -> Result<Self, Problem> {
        Ok(Self { yes: raw.yes })
    }
}

fn nothing() -> Problem {
    let mut problem = Problem::new(
        Code::NotFound,
        "there is nothing to accept",
        "the audit log has in it all that this client has seen, and the backend knows of nobody \
         who saw more",
        "agentkeys audit verify checks the whole log",
    );
    problem.docs = set_back::DOCS.to_owned();
    problem
}

/// The head that is to be given up, and in words who saw it when.
struct Lost {
    head: Head,
    seen: String,
}

/// What the backend has on record, or what this client found, whichever is further on.
fn lost(context_seen: Option<crate::client::heads::SeenHead>, me: &WhoAmI) -> Option<Lost> {
    let here = context_seen.filter(|seen| seen.contradicted.is_some()).map(|seen| Lost {
        seen: format!("this client saw it on {}", seen.seen_at.for_people()),
        head: seen.head,
    });
    let there = me.set_back.as_ref().map(|found| Lost {
        seen: format!("{} showed it on {}", found.by, found.at.for_people()),
        head: found.head.clone(),
    });
    match (here, there) {
        (Some(here), Some(there)) if there.head.place() > here.head.place() => Some(there),
        (Some(here), _) => Some(here),
        (None, there) => there,
    }
}

/// Where the log ends now, and in words when its last event was.
async fn end(open: &Open<'_>, from: u64) -> Result<(Head, String), Problem> {
    let filter = |from| AuditFilter { from: Some(from), limit: Some(1), ..AuditFilter::default() };
    let head = open.backend.query_audit(open.token, filter(from)).await?.head;
    let page = open.backend.query_audit(open.token, filter(head.seq)).await?;
    let when = match page.events.first() {
        Some(Entry::Event(event)) => format!(", of {}", event.time.for_people()),
        _ => String::new(),
    };
    Ok((page.head, when))
}

impl Checked for AuditAccept {
    type Raw = AuditAcceptArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        context.tells_of_the_log();
        let link = context.link().await?;
        let open = context.open().await?;
        let me = open.backend.who_am_i(open.token).await?;
        let lost = lost(link.seen_head(me.account), &me).ok_or_else(nothing)?;
        let (now, when) = end(&open, lost.head.seq).await?;
        // What the backend had when it was shown, before its own events of that.
        let ended = me.set_back.as_ref().map_or(now.seq, |found| found.ended.min(now.seq));
        let least = lost.head.seq.saturating_sub(ended);
        let gone = match least {
            0 => "the log has grown since: how many events are lost cannot be told".to_owned(),
            1 => "at least one event is lost".to_owned(),
            _ => format!("at least {least} events are lost"),
        };
        context.out.say(&format!("seen before: event {}; {}", lost.head.seq, lost.seen));
        context.out.say(&format!("now the audit log ends at event {}{when}", now.seq));
        context
            .out
            .say(&format!("{gone}: what they revoked, narrowed or stored is as if it never was"));
        context.out.say(&format!(
            "the presence level is {} in this log: if it was another, set it again",
            shown(&me.presence)
        ));
        if !self.yes {
            if !ask::is_terminal() {
                return Err(usage(
                    "nobody is here to say that the loss is meant",
                    "standard input or standard error is no terminal",
                    "run it in a terminal, or with --yes",
                )
                .into());
            }
            ask::for_yes(&format!("give up event {} and what led to it?", lost.head.seq))?;
        }
        open.backend.accept_head(open.token, &lost.head).await?;
        // The answer's head says that it was accepted: this client goes on from there.
        link.take_accepted().await?;
        if context.out.json {
            context.out.object(&json!({ "given_up": lost.head, "ended": now.seq }))?;
        } else {
            context.out.say("accepted, and on record: rights can be raised again");
            context
                .out
                .say("revoke again what was revoked since: agentkeys list, agentkeys revoke");
        }
        Ok(Finish::Done)
    }
}
