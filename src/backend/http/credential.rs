//! `/credential` and `/credentials`: list, store, read, read all, roll back, delete, tear down.
use super::call::Call;
use super::reply::Reply;
use crate::core::backend::AccountBackend;
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::problem::Answer;
use crate::core::secret::SecretBytes;
use crate::core::terms::{Exposure, TermsChange};
use crate::core::token::SessionToken;
use crate::core::wire::{self, Shown};

/// What is to be done with credentials.
pub enum Action {
    /// List them, without values.
    List(SessionToken, AgentIdentity),
    /// Store sealed bytes.
    Store(SessionToken, AgentIdentity, ServiceName, Vec<u8>),
    /// Hand out one.
    Read(SessionToken, AgentIdentity, ServiceName),
    /// Hand out one, for a program's environment.
    Inject(SessionToken, AgentIdentity, ServiceName),
    /// Set its terms.
    Terms(SessionToken, AgentIdentity, ServiceName, TermsChange),
    /// How far credentials are shown by default.
    Default(SessionToken, Option<Exposure>),
    /// Hand out all.
    ReadAll(SessionToken, AgentIdentity),
    /// Bring the version before back.
    RollBack(SessionToken, AgentIdentity, ServiceName),
    /// Delete one, with its versions.
    Delete(SessionToken, AgentIdentity, ServiceName),
    /// Delete the agent and all it has.
    Teardown(SessionToken, AgentIdentity),
}

fn session_and_agent(call: &Call<'_>) -> Answer<(SessionToken, AgentIdentity)> {
    Ok((call.session()?, call.fields(["agent_id"])?.required("agent_id")?))
}

/// `GET /credentials`.
pub fn list(call: &Call<'_>) -> Answer<Action> {
    session_and_agent(call).map(|(session, agent)| Action::List(session, agent))
}

/// `POST /credential/store`.
pub fn store(call: &Call<'_>) -> Answer<Action> {
    let session = call.session()?;
    let request: wire::StoreCredential = call.json()?;
    Ok(Action::Store(session, request.agent_id, request.service, request.ciphertext))
}

fn one(call: &Call<'_>) -> Answer<(SessionToken, AgentIdentity, ServiceName)> {
    let session = call.session()?;
    let fields = call.fields(["agent_id", "service"])?;
    Ok((session, fields.required("agent_id")?, fields.required("service")?))
}

/// `GET /credential/read`.
pub fn read(call: &Call<'_>) -> Answer<Action> {
    one(call).map(|(session, agent, service)| Action::Read(session, agent, service))
}

/// `GET /credential/inject`.
pub fn inject(call: &Call<'_>) -> Answer<Action> {
    one(call).map(|(session, agent, service)| Action::Inject(session, agent, service))
}

/// `POST /credential/terms`.
pub fn terms(call: &Call<'_>) -> Answer<Action> {
    let session = call.session()?;
    let request: wire::SetTerms = call.json()?;
    let change =
        TermsChange { expose: request.expose, rules: request.rules, budget: request.budget };
    Ok(Action::Terms(session, request.agent_id, request.service, change))
}

/// `POST /credential/default`.
pub fn default_exposure(call: &Call<'_>) -> Answer<Action> {
    let session = call.session()?;
    let request: wire::DefaultExposure = call.json()?;
    Ok(Action::Default(session, request.expose))
}

/// `GET /credential/read-all`.
pub fn read_all(call: &Call<'_>) -> Answer<Action> {
    session_and_agent(call).map(|(session, agent)| Action::ReadAll(session, agent))
}

/// `POST /credential/roll-back`.
pub fn roll_back(call: &Call<'_>) -> Answer<Action> {
    let session = call.session()?;
    let request: wire::OneCredential = call.json()?;
    Ok(Action::RollBack(session, request.agent_id, request.service))
}

/// `DELETE /credential`.
pub fn delete(call: &Call<'_>) -> Answer<Action> {
    let session = call.session()?;
    let request: wire::OneCredential = call.json()?;
    Ok(Action::Delete(session, request.agent_id, request.service))
}

/// `DELETE /credential/teardown`.
pub fn teardown(call: &Call<'_>) -> Answer<Action> {
    let session = call.session()?;
    let request: wire::OneAgent = call.json()?;
    Ok(Action::Teardown(session, request.agent_id))
}

/// Length of the base64 of so many bytes.
fn base64_size(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}

fn released(credential: SecretBytes) -> Answer<Reply> {
    let size = base64_size(credential.len());
    Reply::secret(&wire::Credential { credential: Shown(credential) }, size)
}

impl Action {
    /// Does it.
    pub async fn apply(self, backend: &dyn AccountBackend) -> Answer<Reply> {
        match self {
            Self::List(session, agent) => {
                let credentials = backend.list_credentials(&session, &agent).await?;
                Reply::json(&wire::Credentials { credentials })
            }
            Self::Store(session, agent, service, sealed) => {
                backend.store_credential(&session, &agent, &service, sealed).await?;
                Ok(Reply::done())
            }
            Self::Read(session, agent, service) => {
                released(backend.read_credential(&session, &agent, &service).await?)
            }
            Self::Inject(session, agent, service) => {
                released(backend.inject_credential(&session, &agent, &service).await?)
            }
            Self::Terms(session, agent, service, change) => {
                Reply::json(&backend.set_terms(&session, &agent, &service, change).await?)
            }
            Self::Default(session, tier) => {
                let expose = Some(backend.default_exposure(&session, tier).await?);
                Reply::json(&wire::DefaultExposure { expose })
            }
            Self::ReadAll(session, agent) => {
                let released = backend.read_all(&session, &agent).await?;
                let row = |release: &crate::core::backend::Release| {
                    base64_size(release.credential.len()) + 128
                };
                let size = released.iter().map(row).sum();
                let credentials = released.into_iter().map(Into::into).collect();
                Reply::secret(&wire::AllReleased { credentials }, size)
            }
            Self::RollBack(session, agent, service) => {
                Reply::json(&backend.roll_back_credential(&session, &agent, &service).await?)
            }
            Self::Delete(session, agent, service) => {
                backend.delete_credential(&session, &agent, &service).await?;
                Ok(Reply::done())
            }
            Self::Teardown(session, agent) => {
                backend.teardown_agent(&session, &agent).await?;
                Ok(Reply::done())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::call::tests::call;
    use super::*;
    use crate::core::problem::Code;

    #[test]
    fn a_read_names_agent_and_service() {
        let token = SessionToken::child(&[1; 32]);
        match read(&call(token.expose(), "service=OpenRouter&agent_id=My-Agent", "")) {
            Ok(Action::Read(session, agent, service)) => {
                assert_eq!(session.id(), token.id());
                assert_eq!(agent.to_string(), "My-Agent");
                assert_eq!(service.as_str(), "openrouter");
            }
            _ => panic!("refused"),
        }
        let code = |bearer, query| read(&call(bearer, query, "")).err().unwrap().code;
        assert_eq!(code(token.expose(), "service=x"), Code::Invalid);
        assert_eq!(code(token.expose(), "agent_id=a&service=x&token=y"), Code::Invalid);
        assert_eq!(code("", "agent_id=a&service=x"), Code::Unauthorized);
    }

    #[test]
    fn sealed_bytes_come_as_base64() {
        let token = SessionToken::master(&[1; 32]);
        let body = r#"{"agent_id":"a","service":"x","ciphertext":"AAEC"}"#;
        match store(&call(token.expose(), "", body)) {
            Ok(Action::Store(_, _, _, sealed)) => assert_eq!(sealed, [0, 1, 2]),
            _ => panic!("refused"),
        }
        for bad in ["AAE", "AA EC", "AAEC\\n", "-_-_", "!"] {
            let body = format!(r#"{{"agent_id":"a","service":"x","ciphertext":"{bad}"}}"#);
            let problem = store(&call(token.expose(), "", &body)).err().unwrap();
            assert_eq!(problem.detail, "ciphertext is not valid", "{bad}");
        }
    }
}
