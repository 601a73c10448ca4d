//! `/provision` and `/provider`: a key for an agent that lacks one; how keys are got: list, set,
//! check, remove.
use super::call::Call;
use super::reply::Reply;
use crate::core::backend::AccountBackend;
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::problem::Answer;
use crate::core::provision::{MAX_PROVIDER_SECRET, MAX_SETTINGS, NewProvider};
use crate::core::token::SessionToken;
use crate::core::wire;

/// Largest answer of `/provision`, in bytes: settings and a secret in base64.
const MAX_ANSWER: usize = 2 * MAX_PROVIDER_SECRET + MAX_SETTINGS * 2 * 1024;

/// What is to be done.
pub enum Action {
    /// See to it that an agent has a key.
    Provision(SessionToken, AgentIdentity, ServiceName),
    /// List how keys are got.
    List(SessionToken),
    /// Set it up for a service.
    Set(SessionToken, ServiceName, NewProvider),
    /// Ask the service whether it still works.
    Check(SessionToken, ServiceName),
    /// Forget it; with the flag, though it leaves keys at the service.
    Remove(SessionToken, ServiceName, bool),
}

/// `POST /provision`.
pub fn provision(call: &Call<'_>) -> Answer<Action> {
    let session = call.session()?;
    let request: wire::Provision = call.json()?;
    Ok(Action::Provision(session, request.agent_id, request.service))
}

/// `GET /providers`.
pub fn list(call: &Call<'_>) -> Answer<Action> {
    call.without_query()?;
    Ok(Action::List(call.session()?))
}

/// `POST /provider/set`.
pub fn set(call: &Call<'_>) -> Answer<Action> {
    let session = call.session()?;
    let wire::SetProvider { service, way, settings, secret } = call.json()?;
    let sealed = secret.map(|secret| secret.0);
    Ok(Action::Set(session, service, NewProvider { way, settings, sealed }))
}

/// `POST /provider/check`.
pub fn check(call: &Call<'_>) -> Answer<Action> {
    let session = call.session()?;
    let wire::OneService { service } = call.json()?;
    Ok(Action::Check(session, service))
}

/// `DELETE /provider`.
pub fn remove(call: &Call<'_>) -> Answer<Action> {
    let session = call.session()?;
    let wire::RemoveProvider { service, abandon } = call.json()?;
    Ok(Action::Remove(session, service, abandon))
}

impl Action {
    /// Does it.
    pub async fn apply(self, backend: &dyn AccountBackend) -> Answer<Reply> {
        match self {
            Self::Provision(session, agent, service) => {
                let came = backend.provision(&session, &agent, &service).await?;
                Reply::secret(&wire::ProvisionAnswer::from(came), MAX_ANSWER)
            }
            Self::List(session) => {
                let providers = backend.list_providers(&session).await?;
                Reply::json(&wire::Providers { providers })
            }
            Self::Set(session, service, provider) => {
                Reply::json(&backend.set_provider(&session, &service, &provider).await?)
            }
            Self::Check(session, service) => {
                backend.check_provider(&session, &service).await?;
                Ok(Reply::done())
            }
            Self::Remove(session, service, abandon) => {
                backend.remove_provider(&session, &service, abandon).await?;
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
    fn what_is_set_up_is_a_way_settings_and_sealed_bytes() {
        let session = SessionToken::master(&[1; 32]);
        let body =
            r#"{"service":"OpenRouter","way":"api","settings":{"limit":"5"},"secret":"AAEC"}"#;
        match set(&call(session.expose(), "", body)) {
            Ok(Action::Set(_, service, provider)) => {
                assert_eq!(service.as_str(), "openrouter");
                assert_eq!(provider.settings.get("limit"), Some("5"));
                assert_eq!(provider.sealed, Some(vec![0, 1, 2]));
            }
            _ => panic!("refused"),
        }
        for wrong in [
            r#"{"service":"a","way":"magic"}"#,
            r#"{"service":"a","way":"api","settings":{"Limit":"5"}}"#,
            r#"{"service":"a","way":"api","settings":{"limit":5}}"#,
            r#"{"service":"a","way":"api","secret":"plain text"}"#,
            r#"{"service":"a","way":"api","key":"AAEC"}"#,
        ] {
            assert!(set(&call(session.expose(), "", wrong)).is_err(), "{wrong}");
        }
    }
}
