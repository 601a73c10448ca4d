//! `/agents` and `/agent`: create, list, reinstate.
use super::call::Call;
use super::reply::Reply;
use crate::core::backend::AccountBackend;
use crate::core::identity::{AgentIdentity, Alias};
use crate::core::problem::Answer;
use crate::core::token::SessionToken;
use crate::core::wire;

/// What is to be done with agents.
pub enum Action {
    /// Make one.
    Create(SessionToken, Alias),
    /// List them.
    List(SessionToken),
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
