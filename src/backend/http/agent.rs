//! `/agents` and `/agent`: create, list, scope, reinstate.
use super::call::Call;
use super::reply::Reply;
use crate::core::backend::AccountBackend;
use crate::core::identity::{AgentIdentity, Alias};
use crate::core::problem::Answer;
use crate::core::scope::Scope;
use crate::core::token::SessionToken;
use crate::core::wire;

/// What is to be done with agents.
pub enum Action {
    /// Make one.
    Create(SessionToken, Alias),
    /// List them.
    List(SessionToken),
    /// Set what one may do.
    SetScope(SessionToken, AgentIdentity, Scope),
    /// Give one its right back.
    Reinstate(SessionToken, AgentIdentity),
}

/// `POST /agents`.
pub fn create(call: &Call<'_>) -> Answer<Action> {
    let session = call.session()?;
    let request: wire::CreateAgent = call.json()?;
    Ok(Action::Create(session, request.name))
}

/// `GET /agents`.
pub fn list(call: &Call<'_>) -> Answer<Action> {
    call.without_query()?;
    Ok(Action::List(call.session()?))
}

/// `POST /agent/scope`.
pub fn scope(call: &Call<'_>) -> Answer<Action> {
    let session = call.session()?;
    let request: wire::SetScope = call.json()?;
    Ok(Action::SetScope(session, request.agent_id, request.scope))
}

/// `POST /agent/reinstate`.
pub fn reinstate(call: &Call<'_>) -> Answer<Action> {
    let session = call.session()?;
    let request: wire::OneAgent = call.json()?;
    Ok(Action::Reinstate(session, request.agent_id))
}

impl Action {
    /// Does it.
    pub async fn apply(self, backend: &dyn AccountBackend) -> Answer<Reply> {
        match self {
            Self::Create(session, name) => {
                Reply::json(&backend.create_agent(&session, &name).await?)
            }
            Self::List(session) => {
                let agents = backend.list_agents(&session).await?;
                Reply::json(&wire::Agents { agents })
            }
            Self::SetScope(session, agent, scope) => {
                Reply::json(&backend.set_scope(&session, &agent, scope).await?)
            }
            Self::Reinstate(session, agent) => {
                backend.reinstate_agent(&session, &agent).await?;
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
    fn a_scope_that_was_forgotten_is_not_everything() {
        let session = SessionToken::master(&[1; 32]);
        let set = |body: &str| match scope(&call(session.expose(), "", body)) {
            Ok(Action::SetScope(_, _, scope)) => Some(scope),
            Ok(_) => panic!("another action"),
            Err(_) => None,
        };
        assert_eq!(set(r#"{"agent_id":"a","scope":{}}"#), Some(Scope::everything()));
        for body in [
            "",
            r#"{"agent_id":"a"}"#,
            r#"{"agent_id":"a","scope":null}"#,
            r#"{"agent_id":"a","scope":{"services":null}}"#,
            r#"{"agent_id":"a","scope":["x"]}"#,
            r#"{"scope":{}}"#,
        ] {
            assert_eq!(set(body), None, "{body}");
        }
    }

    #[test]
    fn a_name_with_a_nul_or_of_another_kind_is_refused() {
        let session = SessionToken::master(&[1; 32]);
        assert!(create(&call(session.expose(), "", r#"{"name":"My-Bot"}"#)).is_ok());
        for name in ["a\\u0000b", "", "a b", "a@b.c", "bot.eth", "\\u202e"] {
            let body = format!(r#"{{"name":"{name}"}}"#);
            let problem = create(&call(session.expose(), "", &body)).err().unwrap();
            assert_eq!(problem.detail, "name is not valid", "{name}");
        }
    }
}
