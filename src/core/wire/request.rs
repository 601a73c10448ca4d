//! The JSON of every request.
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{self, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{AsText, AuthToken, Shown};
use crate::core::audit::Head;
use crate::core::auth_request::Kind;
use crate::core::backend::{ClientInfo, Grant, RevokeTarget};
use crate::core::budget::Budget;
use crate::core::encoding::{base64_bytes, from_base64};
use crate::core::identity::{AgentIdentity, Alias, ServiceName};
use crate::core::otp::PairCode;
use crate::core::payment::{Amount, Layer};
use crate::core::problem::{Answer, Problem};
use crate::core::provision::{Settings, Way};
use crate::core::rule::Rule;
use crate::core::scope::Scope;
use crate::core::sign_in::{Flow, SignInTicket};
use crate::core::terms::Exposure;
use crate::core::token::SessionToken;
use crate::core::types::{ChildKeys, Hash32, Malformed, RequestId, SessionId};

/// `POST /session/create`. Without a token the Unix socket's peer is the proof.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateSession {
    /// The proof of identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_token: Option<Shown<AuthToken>>,
    /// What the sign-in was begun with, beside an ID token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<Shown<SignInTicket>>,
    /// What the client says of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientInfo>,
}

/// `POST /sign-in/begin`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BeginSignIn {
    /// How the person gets to the issuer.
    pub flow: Flow,
}

/// `POST /session/child`. Without a scope: everything that the agent may.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateChild {
    /// What the session may do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// Whose session; absent for a new agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentIdentity>,
}

/// A request without fields, such as `POST /session/renew`; its body may also be empty.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// A session, by its public id or by the token itself.
pub enum SessionTarget {
    /// Its id.
    Id(SessionId),
    /// The token.
    Token(SessionToken),
}

impl AsText for SessionTarget {
    const WANTED: &'static str = "a session's id, or the session token itself";
    fn with_text<R>(&self, write: impl FnOnce(&str) -> R) -> R {
        match self {
            Self::Id(id) => write(&id.to_string()),
            Self::Token(token) => write(token.expose()),
        }
    }
    fn from_text(text: &str) -> Result<Self, Malformed> {
        let wrong = Malformed::new(
            "target_session",
            "wants a session's id (32 hex digits), or the session token itself",
        );
        match text.parse() {
            Ok(id) => Ok(Self::Id(id)),
            Err(_) => SessionToken::parse(text).map(Self::Token).map_err(|_| wrong),
        }
    }
}

/// `POST /session/revoke`: exactly one of the two.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoke {
    /// One session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_session: Option<Shown<SessionTarget>>,
    /// An agent: all its sessions, and every read in its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentIdentity>,
}

impl From<RevokeTarget> for Revoke {
    fn from(target: RevokeTarget) -> Self {
        let session = |target| Self { target_session: Some(Shown(target)), agent_id: None };
        match target {
            RevokeTarget::Session(id) => session(SessionTarget::Id(id)),
            RevokeTarget::Token(token) => session(SessionTarget::Token(token)),
            RevokeTarget::Agent(agent) => Self { target_session: None, agent_id: Some(agent) },
        }
    }
}

impl TryFrom<Revoke> for RevokeTarget {
    type Error = Problem;

    fn try_from(request: Revoke) -> Answer<Self> {
        match (request.target_session, request.agent_id) {
            (Some(Shown(SessionTarget::Id(id))), None) => Ok(Self::Session(id)),
            (Some(Shown(SessionTarget::Token(token))), None) => Ok(Self::Token(token)),
            (None, Some(agent)) => Ok(Self::Agent(agent)),
            _ => Err(Problem::invalid(
                "target_session",
                "either target_session or agent_id is wanted, and not both",
            )),
        }
    }
}

/// `POST /credential/store`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreCredential {
    /// Whose.
    pub agent_id: AgentIdentity,
    /// For which service.
    pub service: ServiceName,
    /// Sealed to the shielding key; base64.
    #[serde(with = "base64_bytes")]
    pub ciphertext: Vec<u8>,
}

/// `POST /provision`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provision {
    /// Whose.
    pub agent_id: AgentIdentity,
    /// For which service.
    pub service: ServiceName,
}

/// `POST /provider/set`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetProvider {
    /// For which service.
    pub service: ServiceName,
    /// How keys are got.
    pub way: Way,
    /// With what.
    #[serde(default)]
    pub settings: Settings,
    /// The account's own secret there, sealed to the shielding key; absent: the one that is
    /// there stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Ciphertext>,
}

/// Sealed bytes, as base64.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ciphertext(#[serde(with = "base64_bytes")] pub Vec<u8>);

/// `DELETE /provider`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveProvider {
    /// Of which service.
    pub service: ServiceName,
    /// Whether keys that it made may be left at the service.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub abandon: bool,
}

/// `POST /provider/check`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneService {
    /// Which.
    pub service: ServiceName,
}

/// `POST /credential/terms`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetTerms {
    /// Whose.
    pub agent_id: AgentIdentity,
    /// For which service.
    pub service: ServiceName,
    /// How far it is shown from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expose: Option<Exposure>,
    /// The rules from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<BTreeSet<Rule>>,
    /// What it may cost from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
}

/// `POST /credential/default`: a tier to be set, or nothing; and its answer, the tier.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefaultExposure {
    /// How far credentials are shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expose: Option<Exposure>,
}

/// `POST /credential/roll-back` and `DELETE /credential`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneCredential {
    /// Whose.
    pub agent_id: AgentIdentity,
    /// For which service.
    pub service: ServiceName,
}

/// `DELETE /credential/teardown` and `POST /agent/reinstate`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneAgent {
    /// Which agent.
    pub agent_id: AgentIdentity,
}

/// `POST /agent/scope`. The scope is wanted: one that was forgotten must not be everything.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetScope {
    /// Which agent.
    pub agent_id: AgentIdentity,
    /// What it may do from now on.
    pub scope: Scope,
}

/// `POST /agents`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateAgent {
    /// Its alias.
    pub name: Alias,
}

/// `POST /audit/compare` and `POST /audit/accept`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneHead {
    /// The head.
    pub head: Head,
}

/// `POST /rendezvous/register`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// The child's public keys.
    pub daemon_pubkey: ChildKeys,
    /// The code of its request.
    pub pair_code: PairCode,
}

/// `POST /rendezvous/deliver`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deliver {
    /// The code of the request.
    pub pair_code: PairCode,
    /// Sealed to the daemon; base64.
    #[serde(with = "base64_bytes")]
    pub payload: Vec<u8>,
}

/// The details of a request: base64 of their canonical CBOR, or the same fields as an object.
#[derive(Clone, PartialEq, Debug)]
pub enum RequestDetails {
    /// Canonical CBOR.
    Canonical(Vec<u8>),
    /// The fields.
    Object(serde_json::Value),
}

impl Serialize for RequestDetails {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Canonical(bytes) => base64_bytes::serialize(bytes, s),
            Self::Object(object) => object.serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for RequestDetails {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = RequestDetails;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("base64 of canonical CBOR, or an object")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<RequestDetails, E> {
                from_base64("request_details", text)
                    .map(RequestDetails::Canonical)
                    .map_err(|e| E::custom(&e.cause))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RequestDetails, A::Error> {
                Deserialize::deserialize(MapAccessDeserializer::new(map))
                    .map(RequestDetails::Object)
            }
        }
        d.deserialize_any(Either)
    }
}

/// `POST /auth-request/open`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenAuthRequest {
    /// The child's public keys.
    pub child_pubkey: ChildKeys,
    /// What kind of consent.
    pub request_type: Kind,
    /// What it asks for.
    pub request_details: RequestDetails,
}

/// `POST /auth-request/approve`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approve {
    /// Which request.
    pub request_id: RequestId,
    /// Hash of what was shown; from the answer to fetch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Hash32>,
    /// What is given; absent: as it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<Grant>,
}

/// `POST /auth-request/deny`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deny {
    /// Which request.
    pub request_id: RequestId,
}

/// `POST /identity/link`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Which agent.
    pub agent_id: AgentIdentity,
    /// The name to link.
    pub identity: AgentIdentity,
}

/// `POST /identity/unlink`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unlink {
    /// The name to unlink.
    pub identity: AgentIdentity,
}

/// `POST /payment/fund`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fund {
    /// Which agent.
    pub agent_id: AgentIdentity,
    /// On which layer.
    pub layer: Layer,
    /// How much, in the layer's smallest unit.
    pub amount: Amount,
}

/// `POST /payment/debit`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Debit {
    /// Which agent.
    pub agent_id: AgentIdentity,
    /// On which layer.
    pub layer: Layer,
    /// How much, in the layer's smallest unit.
    pub amount: Amount,
    /// For which service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// Makes a repeated call count once; 1 to [`super::MAX_REFERENCE`] printable ASCII characters.
    pub reference: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revoke_names_one_target() {
        let read = |text| serde_json::from_str::<Revoke>(text).map(RevokeTarget::try_from);
        let token = SessionToken::master(&[1; 32]);
        let by_token = format!(r#"{{"target_session":"{}"}}"#, token.expose());
        assert!(matches!(read(&by_token), Ok(Ok(RevokeTarget::Token(_)))));
        let by_id = format!(r#"{{"target_session":"{}"}}"#, token.id());
        assert!(matches!(read(&by_id), Ok(Ok(RevokeTarget::Session(_)))));
        assert!(matches!(read(r#"{"agent_id":"a"}"#), Ok(Ok(RevokeTarget::Agent(_)))));
        assert!(read("{}").unwrap().is_err());
        let both = format!(r#"{{"target_session":"{}","agent_id":"a"}}"#, token.id());
        assert!(read(&both).unwrap().is_err());
    }
}
