//! `/sign-in` and `/session`: begin, who am I, create, child, renew, revoke.
use super::call::Call;
use super::reply::Reply;
use crate::core::backend::{AccountBackend, ClientInfo, IdentityProof, Minted, RevokeTarget};
use crate::core::identity::AgentIdentity;
use crate::core::problem::{Answer, Problem};
use crate::core::scope::Scope;
use crate::core::sign_in::Flow;
use crate::core::token::{RenewalSecret, SessionToken};
use crate::core::wire;

/// What is to be done with a session.
pub enum Action {
    /// Begin a sign-in.
    Begin(Flow),
    /// Say who the session is.
    Show(SessionToken),
    /// Make a master session.
    Create(IdentityProof, ClientInfo),
    /// Make a child session.
    Child(SessionToken, Option<AgentIdentity>, Scope),
    /// Trade a renewal secret.
    Renew(RenewalSecret),
    /// End a session, or an agent's access.
    Revoke(SessionToken, RevokeTarget),
}

/// `POST /sign-in/begin`: needs no bearer, since it is how one comes to have one.
pub fn begin(call: &Call<'_>) -> Answer<Action> {
    let wire::BeginSignIn { flow } = call.json()?;
    Ok(Action::Begin(flow))
}

/// `GET /session`.
pub fn show(call: &Call<'_>) -> Answer<Action> {
    call.without_query()?;
    Ok(Action::Show(call.session()?))
}

/// `POST /session/create`: needs no bearer, since the proof is in the body or in the socket.
pub fn create(call: &Call<'_>) -> Answer<Action> {
    let request: wire::CreateSession = call.json_or_nothing()?;
    let proof = match (request.auth_token, request.ticket) {
        (Some(token), Some(ticket)) => {
            IdentityProof::IdToken { token: token.0.0, ticket: ticket.0 }
        }
        (Some(token), None) => IdentityProof::Token(token.0.0),
        (None, None) => IdentityProof::Peer,
        (None, Some(_)) => {
            return Err(Problem::invalid("ticket", "it goes beside an ID token as auth_token"));
        }
    };
    Ok(Action::Create(proof, request.client.unwrap_or_default()))
}

/// `POST /session/child`.
pub fn child(call: &Call<'_>) -> Answer<Action> {
    let session = call.session()?;
    let request: wire::CreateChild = call.json_or_nothing()?;
    Ok(Action::Child(session, request.agent_id, request.scope.unwrap_or_default()))
}

/// `POST /session/renew`: the renewal secret is the bearer, as every token is.
pub fn renew(call: &Call<'_>) -> Answer<Action> {
    let renewal = call.token("renewal secret", RenewalSecret::parse)?;
    let wire::Nothing {} = call.json_or_nothing()?;
    Ok(Action::Renew(renewal))
}

/// `POST /session/revoke`.
pub fn revoke(call: &Call<'_>) -> Answer<Action> {
    let session = call.session()?;
    let request: wire::Revoke = call.json()?;
    Ok(Action::Revoke(session, request.try_into()?))
}

fn minted(minted: Minted) -> Answer<Reply> {
    Reply::secret(&wire::Session::from(minted), 512)
}

impl Action {
    /// Does it.
    pub async fn apply(self, backend: &dyn AccountBackend) -> Answer<Reply> {
        match self {
            Self::Begin(flow) => {
                Reply::secret(&wire::SignInBegun::from(backend.begin_sign_in(flow).await?), 1024)
            }
            Self::Show(session) => Reply::json(&backend.who_am_i(&session).await?),
            Self::Create(proof, client) => minted(backend.create_session(proof, client).await?),
            Self::Child(session, agent, scope) => {
                minted(backend.create_child_session(&session, agent.as_ref(), scope).await?)
            }
            Self::Renew(renewal) => minted(backend.renew_session(&renewal).await?),
            Self::Revoke(session, target) => {
                backend.revoke_session(&session, target).await?;
                Ok(Reply::done())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::call::tests::call;
    use super::*;
    use crate::core::sign_in::{SignInTicket, Ticket};
    use crate::core::types::Timestamp;

    #[test]
    fn without_a_token_the_peer_is_the_proof() {
        let proof = |body| match create(&call("", "", body)) {
            Ok(Action::Create(proof, client)) => Ok((proof, client)),
            Ok(_) => panic!("another action"),
            Err(problem) => Err(problem),
        };
        assert!(matches!(proof(""), Ok((IdentityProof::Peer, _))));
        assert!(matches!(proof("{}"), Ok((IdentityProof::Peer, _))));
        let (given, client) =
            proof(r#"{"auth_token":"mock:\u0061lice","client":{"host":"laptop"}}"#).ok().unwrap();
        assert!(matches!(given, IdentityProof::Token(t) if t.expose() == b"mock:alice"));
        assert_eq!(client.host.unwrap().as_str(), "laptop");
        assert!(proof(r#"{"auth_token":7}"#).is_err());
        assert!(proof(r#"{"client":{"host":"a\u0000b"}}"#).is_err());
        assert!(proof(r#"{"token":"x"}"#).is_err());
        let says = Ticket { flow: Flow::Code, until: Timestamp(1), random: [1; 16] };
        let ticket = SignInTicket::new(says, |_| [2; 16]);
        let with = |token: &str| format!(r#"{{{token}"ticket":"{}"}}"#, ticket.expose());
        let both = with(r#""auth_token":"a.b.c","#);
        let (given, _) = proof(&both).ok().unwrap();
        assert!(matches!(given, IdentityProof::IdToken { token, .. } if token.len() == 5));
        assert!(proof(&with("")).is_err(), "a ticket alone proves nothing");
    }

    #[test]
    fn a_renewal_wants_a_renewal_secret_and_nothing_else() {
        let secret = RenewalSecret::new(&[1; 32]);
        assert!(matches!(renew(&call(secret.expose(), "", "")), Ok(Action::Renew(_))));
        let session = SessionToken::child(&[1; 32]);
        assert!(renew(&call(session.expose(), "", "")).is_err());
        assert!(renew(&call(secret.expose(), "", r#"{"renewal":"x"}"#)).is_err());
        assert!(renew(&call(secret.expose(), "renewal=x", "")).is_err());
    }

    #[test]
    fn an_absent_scope_is_everything_and_an_empty_one_nothing() {
        let session = SessionToken::master(&[1; 32]);
        let scope = |body| match child(&call(session.expose(), "", body)) {
            Ok(Action::Child(_, _, scope)) => scope,
            _ => panic!("refused: {body}"),
        };
        assert_eq!(scope(""), Scope::everything());
        assert_eq!(scope(r#"{"scope":{"services":[]}}"#).services, Some(Default::default()));
    }
}
