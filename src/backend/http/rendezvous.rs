//! `/rendezvous`: register, poll, deliver. Payloads are handed on byte for byte.
use std::time::Duration;

use super::call::{Call, Fields};
use super::reply::Reply;
use crate::core::backend::{AccountBackend, MAX_WAIT};
use crate::core::otp::PairCode;
use crate::core::problem::Answer;
use crate::core::token::{OpenToken, RegistrationToken, SessionToken};
use crate::core::types::ChildKeys;
use crate::core::wire::{self, DEFAULT_WAIT_SECONDS, Shown};

/// What is to be done at the rendezvous.
pub enum Action {
    /// Register a child.
    Register(OpenToken, PairCode, ChildKeys),
    /// Wait for the payload.
    Poll(RegistrationToken, Duration),
    /// Leave a payload.
    Deliver(SessionToken, PairCode, Vec<u8>),
}

/// The `wait` of a long poll.
pub fn wait<const N: usize>(fields: &Fields<'_, N>) -> Answer<Duration> {
    let seconds = fields.number("wait", 0..=MAX_WAIT.as_secs())?;
    Ok(Duration::from_secs(seconds.unwrap_or(DEFAULT_WAIT_SECONDS)))
}

/// `POST /rendezvous/register`.
pub fn register(call: &Call<'_>) -> Answer<Action> {
    let open = call.token("open token", OpenToken::parse)?;
    let request: wire::Register = call.json()?;
    Ok(Action::Register(open, request.pair_code, request.daemon_pubkey))
}

/// `GET /rendezvous/poll`.
pub fn poll(call: &Call<'_>) -> Answer<Action> {
    let registration = call.token("registration token", RegistrationToken::parse)?;
    Ok(Action::Poll(registration, wait(&call.fields(["wait"])?)?))
}

/// `POST /rendezvous/deliver`.
pub fn deliver(call: &Call<'_>) -> Answer<Action> {
    let session = call.session()?;
    let request: wire::Deliver = call.json()?;
    Ok(Action::Deliver(session, request.pair_code, request.payload))
}

impl Action {
    /// Does it.
    pub async fn apply(self, backend: &dyn AccountBackend) -> Answer<Reply> {
        match self {
            Self::Register(open, pair_code, keys) => {
                let token = backend.register_rendezvous(&open, pair_code, keys).await?;
                Reply::secret(&wire::Registered { registration_token: Shown(token) }, 256)
            }
            Self::Poll(registration, wait) => {
                match backend.poll_rendezvous(&registration, wait).await? {
                    Some(payload) => Reply::json(&wire::Polled { payload }),
                    None => Ok(Reply::Nothing),
                }
            }
            Self::Deliver(session, pair_code, payload) => {
                backend.deliver_rendezvous(&session, pair_code, payload).await?;
                Ok(Reply::done())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::call::tests::call;
    use super::*;

    #[test]
    fn each_step_wants_its_own_token() {
        let open = OpenToken::new(&[1; 32]);
        let registration = RegistrationToken::new(&[1; 32]);
        let body = format!(r#"{{"daemon_pubkey":"{}","pair_code":"abcd-efgh"}}"#, "0a".repeat(64));
        match register(&call(open.expose(), "", &body)) {
            Ok(Action::Register(_, code, keys)) => {
                assert_eq!(code.to_string(), "ABCD-EFGH");
                assert_eq!(keys, ChildKeys([10; 64]));
            }
            _ => panic!("refused"),
        }
        assert!(register(&call(registration.expose(), "", &body)).is_err());
        assert!(poll(&call(open.expose(), "", "")).is_err());
    }

    #[test]
    fn a_poll_waits_25_seconds_unless_told_and_30_at_most() {
        let token = RegistrationToken::new(&[1; 32]);
        let waits = |query| match poll(&call(token.expose(), query, "")) {
            Ok(Action::Poll(_, wait)) => Ok(wait.as_secs()),
            Ok(_) => panic!("another action"),
            Err(problem) => Err(problem.cause.clone()),
        };
        assert_eq!(waits(""), Ok(25));
        assert_eq!(waits("wait=0"), Ok(0));
        assert_eq!(waits("wait=30"), Ok(30));
        assert!(waits("wait=31").unwrap_err().contains("0 to 30"));
    }
}
