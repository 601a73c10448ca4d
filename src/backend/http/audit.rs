//! `/audit/query`, `/audit/compare`, `/audit/accept`.
use super::call::Call;
use super::reply::Reply;
use crate::core::audit::Head;
use crate::core::backend::{AccountBackend, AuditFilter, MAX_WAIT};
use crate::core::problem::Answer;
use crate::core::token::SessionToken;
use crate::core::wire::{Done, OneHead};

/// What is to be done with the audit log.
pub enum Action {
    /// Read it.
    Query(SessionToken, AuditFilter),
    /// Show it a head that was seen before.
    Compare(Option<SessionToken>, Head),
    /// Accept that it was set back.
    Accept(SessionToken, Head),
}

/// `GET /audit/query`.
pub fn query(call: &Call<'_>) -> Answer<Action> {
    let session = call.session()?;
    let fields = call.fields([
        "agent_id", "service", "action", "outcome", "since", "until", "from", "limit", "wait",
    ])?;
    let limit = fields.number("limit", 1..=1_000)?;
    let filter = AuditFilter {
        agent_id: fields.optional("agent_id")?,
        service: fields.optional("service")?,
        action: fields.word("action")?,
        outcome: fields.word("outcome")?,
        since: fields.optional("since")?,
        until: fields.optional("until")?,
        from: fields.number("from", 0..=u64::MAX)?,
        limit: limit.and_then(|limit| usize::try_from(limit).ok()),
        wait: fields.number("wait", 0..=MAX_WAIT.as_secs())?,
    };
    Ok(Action::Query(session, filter))
}

/// `POST /audit/compare`. Without a session, as from a daemon whose session has ended, the head
/// is what it has.
pub fn compare(call: &Call<'_>) -> Answer<Action> {
    Ok(Action::Compare(call.optional_session()?, call.json::<OneHead>()?.head))
}

/// `POST /audit/accept`.
pub fn accept(call: &Call<'_>) -> Answer<Action> {
    Ok(Action::Accept(call.session()?, call.json::<OneHead>()?.head))
}

impl Action {
    /// Does it.
    pub async fn apply(self, backend: &dyn AccountBackend) -> Answer<Reply> {
        match self {
            Self::Query(session, filter) => {
                Reply::json(&backend.query_audit(&session, filter).await?)
            }
            Self::Compare(session, head) => {
                Reply::json(&backend.compare_head(session.as_ref(), &head).await?)
            }
            Self::Accept(session, head) => {
                backend.accept_head(&session, &head).await?;
                Reply::json(&Done {})
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::call::tests::call;
    use super::*;
    use crate::core::audit;

    #[test]
    fn every_filter_is_read() {
        let token = SessionToken::master(&[1; 32]);
        let text = "agent_id=a&service=x&action=session_child&outcome=denied\
                    &since=2026-04-09T14:32:07+02:00&until=2026-04-10T00:00:00Z\
                    &from=7&limit=1000&wait=30";
        let Some(Action::Query(_, filter)) = query(&call(token.expose(), text, "")).ok() else {
            panic!("a query")
        };
        assert_eq!(filter.agent_id.unwrap().to_string(), "a");
        assert_eq!(filter.service.unwrap().as_str(), "x");
        assert_eq!(filter.action, Some(audit::Action::SessionChild));
        assert_eq!(filter.outcome, Some(audit::Outcome::Denied));
        assert_eq!(filter.since.unwrap().to_string(), "2026-04-09T12:32:07.000Z");
        assert_eq!(filter.until.unwrap().to_string(), "2026-04-10T00:00:00.000Z");
        assert_eq!((filter.from, filter.limit, filter.wait), (Some(7), Some(1000), Some(30)));
    }

    #[test]
    fn a_wrong_filter_is_named() {
        let token = SessionToken::master(&[1; 32]);
        for (text, field, allowed) in [
            ("action=reed", "action", "roll_back"),
            ("outcome=maybe", "outcome", "denied"),
            ("since=yesterday", "since", "RFC 3339"),
            ("limit=0", "limit", "1 to 1000"),
            ("wait=31", "wait", "0 to 30"),
            ("owner=x", "owner", "agent_id"),
        ] {
            let problem = query(&call(token.expose(), text, "")).err().unwrap();
            assert_eq!(problem.detail, format!("{field} is not valid"));
            assert!(problem.cause.contains(allowed), "{}", problem.cause);
        }
    }
}
