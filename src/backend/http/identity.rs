//! `/identity`: link, unlink, resolve.
use super::call::Call;
use super::reply::Reply;
use crate::core::backend::AccountBackend;
use crate::core::identity::AgentIdentity;
use crate::core::problem::Answer;
use crate::core::token::SessionToken;
use crate::core::wire;

/// What is to be done with identities.
pub enum Action {
    /// Link a name to an agent.
    Link(SessionToken, AgentIdentity, AgentIdentity),
    /// Unlink a name.
    Unlink(SessionToken, AgentIdentity),
    /// Find the agent that a name means.
    Resolve(SessionToken, AgentIdentity),
}

/// `POST /identity/link`.
pub fn link(call: &Call<'_>) -> Answer<Action> {
    let session = call.session()?;
    let request: wire::Link = call.json()?;
    Ok(Action::Link(session, request.agent_id, request.identity))
}

/// `POST /identity/unlink`.
pub fn unlink(call: &Call<'_>) -> Answer<Action> {
    let session = call.session()?;
    let request: wire::Unlink = call.json()?;
    Ok(Action::Unlink(session, request.identity))
}

/// `GET /identity/resolve`.
pub fn resolve(call: &Call<'_>) -> Answer<Action> {
    let session = call.session()?;
    Ok(Action::Resolve(session, call.fields(["identity"])?.required("identity")?))
}

impl Action {
    /// Does it.
    pub async fn apply(self, backend: &dyn AccountBackend) -> Answer<Reply> {
        Reply::json(&match self {
            Self::Link(session, agent, identity) => {
                backend.link_identity(&session, &agent, &identity).await?
            }
            Self::Unlink(session, identity) => backend.unlink_identity(&session, &identity).await?,
            Self::Resolve(session, identity) => {
                backend.resolve_identity(&session, &identity).await?
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::call::tests::call;
    use super::*;

    #[test]
    fn the_text_says_what_kind_of_name_it_is() {
        let session = SessionToken::master(&[1; 32]);
        let kind = |identity: &str| {
            let query = format!("identity={identity}");
            match resolve(&call(session.expose(), &query, "")) {
                Ok(Action::Resolve(_, identity)) => identity.kind(),
                _ => panic!("refused: {identity}"),
            }
        };
        assert_eq!(kind("bot"), "alias");
        assert_eq!(kind("a+b@x.org"), "email");
        assert_eq!(kind("bot.eth"), "ens");
        assert_eq!(kind(&format!("0x{}", "ab".repeat(20))), "wallet");
    }

    #[test]
    fn a_link_names_agent_and_identity() {
        let session = SessionToken::master(&[1; 32]);
        let body = r#"{"agent_id":"bot","identity":"me@x.org"}"#;
        match link(&call(session.expose(), "", body)) {
            Ok(Action::Link(_, agent, identity)) => {
                assert_eq!((agent.kind(), identity.kind()), ("alias", "email"));
            }
            _ => panic!("refused"),
        }
        assert!(unlink(&call(session.expose(), "", r#"{"agent_id":"bot"}"#)).is_err());
    }
}
