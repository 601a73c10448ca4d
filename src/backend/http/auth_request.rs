//! `/auth-request`: open, fetch, pending, approve, deny, await.
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::call::Call;
use super::explain;
use super::rendezvous::wait;
use super::reply::Reply;
use crate::core::auth_request::{Details, Kind};
use crate::core::backend::{AccountBackend, Grant, OpenRequest};
use crate::core::otp::PairCode;
use crate::core::problem::{Answer, Problem};
use crate::core::token::{OpenToken, SessionToken};
use crate::core::types::{Hash32, RequestId};
use crate::core::wire::{self, RequestDetails};

/// What is to be done with auth requests.
pub enum Action {
    /// Open one.
    Open(Box<OpenRequest>),
    /// Fetch one to show it.
    Fetch(SessionToken, PairCode),
    /// List what waits.
    Pending(SessionToken),
    /// Say yes.
    Approve(SessionToken, RequestId, Option<Hash32>, Grant),
    /// Say no.
    Deny(SessionToken, RequestId),
    /// Wait for the decision.
    Await(OpenToken, RequestId, Duration),
}

const FIELD: &str = "request_details";

/// The details, from either of their two forms.
fn details(kind: Kind, given: RequestDetails) -> Answer<Details> {
    fn fields<T: DeserializeOwned>(object: &serde_json::Value) -> Answer<T> {
        explain::value(object, FIELD)
    }
    let object = match given {
        RequestDetails::Canonical(bytes) => {
            return Details::from_canonical(kind, &bytes).map_err(|_| {
                let why = format!(
                    "it wants the canonical CBOR (RFC 8949 section 4.2.1) of a {}, as \
                     docs/auth-request.cddl has it",
                    kind.as_str()
                );
                Problem::invalid(FIELD, why)
            });
        }
        RequestDetails::Object(object) => object,
    };
    Ok(match kind {
        Kind::Pair => Details::Pair(fields(&object)?),
        Kind::Recover => Details::Recover(fields(&object)?),
        Kind::ScopeChange => Details::ScopeChange(fields(&object)?),
        Kind::HighValueRelease => Details::HighValueRelease(fields(&object)?),
        Kind::KeyRotate => Details::KeyRotate(fields(&object)?),
    })
}

/// `POST /auth-request/open`. Whether a session is needed depends on the kind, and is the
/// vault's to say.
pub fn open(call: &Call<'_>) -> Answer<Action> {
    let session = call.optional_session()?;
    let request: wire::OpenAuthRequest = call.json()?;
    let details = details(request.request_type, request.request_details)?;
    Ok(Action::Open(Box::new(OpenRequest { keys: request.child_pubkey, details, session })))
}

/// `GET /auth-request/fetch`.
pub fn fetch(call: &Call<'_>) -> Answer<Action> {
    let session = call.session()?;
    Ok(Action::Fetch(session, call.fields(["pair_code"])?.required("pair_code")?))
}

/// `GET /auth-request/pending`.
pub fn pending(call: &Call<'_>) -> Answer<Action> {
    call.without_query()?;
    Ok(Action::Pending(call.session()?))
}

/// `POST /auth-request/approve`.
pub fn approve(call: &Call<'_>) -> Answer<Action> {
    let session = call.session()?;
    let request: wire::Approve = call.json()?;
    let grant = request.grant.unwrap_or_default();
    Ok(Action::Approve(session, request.request_id, request.seen, grant))
}

/// `POST /auth-request/deny`.
pub fn deny(call: &Call<'_>) -> Answer<Action> {
    let session = call.session()?;
    let request: wire::Deny = call.json()?;
    Ok(Action::Deny(session, request.request_id))
}

/// `GET /auth-request/await`.
pub fn await_decision(call: &Call<'_>) -> Answer<Action> {
    let open = call.token("open token", OpenToken::parse)?;
    let fields = call.fields(["request_id", "wait"])?;
    Ok(Action::Await(open, fields.required("request_id")?, wait(&fields)?))
}

impl Action {
    /// Does it.
    pub async fn apply(self, backend: &dyn AccountBackend) -> Answer<Reply> {
        match self {
            Self::Open(request) => {
                let opened = backend.open_auth_request(*request).await?;
                Reply::secret(&wire::OpenedRequest::from(opened), 512)
            }
            Self::Fetch(session, pair_code) => {
                let fetched = backend.fetch_auth_request(&session, pair_code).await?;
                let shown = wire::FetchedRequest::try_from(fetched);
                Reply::json(&shown.map_err(|_| Problem::internal())?)
            }
            Self::Pending(session) => {
                let requests = backend.list_pending(&session).await?;
                Reply::json(&wire::PendingRequests { requests })
            }
            Self::Approve(session, request, seen, grant) => {
                Reply::json(&backend.approve_auth_request(&session, request, seen, grant).await?)
            }
            Self::Deny(session, request) => {
                backend.deny_auth_request(&session, request).await?;
                Ok(Reply::done())
            }
            Self::Await(open, request, wait) => {
                match backend.await_auth_decision(&open, request, wait).await? {
                    Some(decision) => Reply::json(&decision),
                    None => Ok(Reply::Nothing),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::call::tests::call;
    use super::*;
    use crate::core::encoding::to_base64;

    fn opened(kind: &str, details: &str) -> Answer<Details> {
        let body = format!(
            r#"{{"child_pubkey":"{}","request_type":"{kind}","request_details":{details}}}"#,
            "ab".repeat(64)
        );
        match open(&call("", "", &body))? {
            Action::Open(request) => Ok(request.details),
            _ => panic!("another action"),
        }
    }

    #[test]
    fn both_forms_of_the_same_details_are_one_request() {
        let as_object =
            opened("Pair", r#"{"name":"bot","scope":{"services":["x"],"read_only":true}}"#);
        let as_object = as_object.unwrap();
        let canonical = as_object.canonical().unwrap();
        let as_bytes = opened("Pair", &format!("\"{}\"", to_base64(&canonical))).unwrap();
        assert_eq!(as_bytes, as_object);
        let mut other = canonical;
        other.push(0);
        let problem = opened("Pair", &format!("\"{}\"", to_base64(&other))).unwrap_err();
        assert_eq!(problem.detail, "request_details is not valid");
    }

    #[test]
    fn wrong_details_are_named_and_not_repeated() {
        for (kind, details, field) in [
            ("Pair", r#"{"name":"SECRET/"}"#, "name"),
            ("Pair", r#"{"host":7}"#, "host"),
            ("Pair", r#"{"agent":"x"}"#, "agent"),
            ("Recover", "{}", "agent"),
            ("ScopeChange", r#"{"agent":"SECRET","scope":{}}"#, "agent"),
            ("Pair", "7", "request_details"),
            ("Pair", r#""%%""#, "request_details"),
            ("Marry", "{}", "request_type"),
        ] {
            let problem = opened(kind, details).unwrap_err();
            assert!(problem.detail.contains(field), "{kind} {details}: {}", problem.detail);
            assert!(!problem.cause.contains("SECRET"), "{}", problem.cause);
        }
    }

    #[test]
    fn a_code_is_read_in_any_case_and_the_request_id_is_hex() {
        let session = SessionToken::master(&[1; 32]);
        match fetch(&call(session.expose(), "pair_code=abcdefgh", "")) {
            Ok(Action::Fetch(_, code)) => assert_eq!(code.to_string(), "ABCD-EFGH"),
            _ => panic!("refused"),
        }
        let open = OpenToken::new(&[1; 32]);
        let query = format!("request_id={}&wait=0", "07".repeat(16));
        match await_decision(&call(open.expose(), &query, "")) {
            Ok(Action::Await(_, id, wait)) => {
                assert_eq!((id, wait), (RequestId([7; 16]), Duration::ZERO));
            }
            _ => panic!("refused"),
        }
        assert!(await_decision(&call(open.expose(), "request_id=7", "")).is_err());
    }

    #[test]
    fn an_approval_may_carry_what_was_seen_and_a_grant() {
        let session = SessionToken::master(&[1; 32]);
        let body = format!(
            r#"{{"request_id":"{}","seen":"{}","grant":{{"agent_id":"a","scope":{{}}}}}}"#,
            "01".repeat(16),
            "02".repeat(32)
        );
        match approve(&call(session.expose(), "", &body)) {
            Ok(Action::Approve(_, id, seen, grant)) => {
                assert_eq!((id, seen), (RequestId([1; 16]), Some(Hash32([2; 32]))));
                assert!(grant.agent_id.is_some() && grant.scope.is_some());
            }
            _ => panic!("refused"),
        }
    }
}
