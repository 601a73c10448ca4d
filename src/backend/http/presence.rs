//! `/presence`: show, set, ask for a reset, take that back.
use super::call::Call;
use super::reply::Reply;
use crate::core::backend::AccountBackend;
use crate::core::presence::NewLevel;
use crate::core::problem::Answer;
use crate::core::token::SessionToken;
use crate::core::wire;

/// What is to be done with an account's presence.
pub enum Action {
    /// Show how it stands.
    Show(SessionToken),
    /// Set the level.
    Set(SessionToken, NewLevel),
    /// Ask for a reset.
    Reset(SessionToken),
    /// Take that back.
    CancelReset(SessionToken),
}

/// `GET /presence`.
pub fn show(call: &Call<'_>) -> Answer<Action> {
    call.without_query()?;
    Ok(Action::Show(call.session()?))
}

/// `POST /presence/set`.
pub fn set(call: &Call<'_>) -> Answer<Action> {
    let session = call.session()?;
    Ok(Action::Set(session, call.json()?))
}

/// `POST /presence/reset`.
pub fn reset(call: &Call<'_>) -> Answer<Action> {
    let session = call.session()?;
    let wire::Nothing {} = call.json_or_nothing()?;
    Ok(Action::Reset(session))
}

/// `POST /presence/cancel-reset`.
pub fn cancel_reset(call: &Call<'_>) -> Answer<Action> {
    let session = call.session()?;
    let wire::Nothing {} = call.json_or_nothing()?;
    Ok(Action::CancelReset(session))
}

impl Action {
    /// Does it.
    pub async fn apply(self, backend: &dyn AccountBackend) -> Answer<Reply> {
        Reply::json(&match self {
            Self::Show(session) => backend.presence(&session).await?,
            Self::Set(session, new) => backend.set_presence(&session, &new).await?,
            Self::Reset(session) => backend.ask_presence_reset(&session).await?,
            Self::CancelReset(session) => backend.cancel_presence_reset(&session).await?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::call::tests::call;
    use super::*;

    #[test]
    fn a_level_is_named_and_no_field_is_passed_over() {
        let session = SessionToken::master(&[1; 32]);
        let ok = |body: &str| set(&call(session.expose(), "", body)).is_ok();
        assert!(ok(r#"{"level":"none"}"#));
        for body in ["", "{}", r#"{"level":"touch"}"#, r#"{"level":"none","force":true}"#] {
            assert!(!ok(body), "{body}");
        }
        assert!(reset(&call(session.expose(), "", "")).is_ok());
        assert!(reset(&call(session.expose(), "", r#"{"now":true}"#)).is_err());
    }
}
