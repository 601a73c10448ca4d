//! Auth requests: what a child asks for, and the bytes that everybody hashes.
//!
//! The schema of each kind stands in `docs/auth-request.cddl`.
use serde::{Deserialize, Serialize};

use super::cbor::{self, CborError};
use super::claim::{Claim, PlainPath, PlainWord, Reason};
use super::identity::{AgentIdentity, Alias, ServiceName};
use super::problem::{Answer, Problem};
use super::scope::Scope;
use super::types::{Hash32, WalletAddress};

/// What kind of consent is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// A new daemon wants to be an agent.
    Pair,
    /// A daemon wants to be an agent that exists.
    Recover,
    /// An agent wants another scope.
    ScopeChange,
    /// An agent wants one act of high value.
    HighValueRelease,
    /// A daemon wants to replace its keys.
    KeyRotate,
}

impl Kind {
    /// The name on the wire and in signed bytes.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pair => "Pair",
            Self::Recover => "Recover",
            Self::ScopeChange => "ScopeChange",
            Self::HighValueRelease => "HighValueRelease",
            Self::KeyRotate => "KeyRotate",
        }
    }

    /// Whether fetching binds the request to the account that fetched it.
    pub const fn is_bound_by_fetch(self) -> bool {
        matches!(self, Self::Pair | Self::Recover)
    }
}

/// A new agent is wished for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// The host it says it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Claim>,
    /// The name it wishes for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Alias>,
    /// What it wants to do.
    #[serde(default)]
    pub scope: Scope,
    /// The user it says it runs as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Claim>,
}

/// An agent that exists is to go on elsewhere.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recover {
    /// Which agent: looked up in the account that fetches the request.
    pub agent: AgentIdentity,
    /// The host it says it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Claim>,
    /// The user it says it runs as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Claim>,
}

/// Another scope is wished for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScopeChange {
    /// The agent that asks.
    pub agent: WalletAddress,
    /// Why it asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The whole scope that it wants from then on.
    pub scope: Scope,
}

/// One act of high value.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HighValueRelease {
    /// The agent that asks.
    pub agent: WalletAddress,
    /// What it costs, in the currency's smallest unit.
    pub amount: u64,
    /// SHA-256 of the request's body.
    pub body: Hash32,
    /// ISO 4217 code, or the name of the ledger's unit.
    pub currency: PlainWord,
    /// Host that the request goes to.
    pub host: PlainWord,
    /// HTTP method.
    pub method: PlainWord,
    /// Path and query of the request.
    pub path: PlainPath,
    /// Why it asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Whose credential it uses.
    pub service: ServiceName,
}

/// New keys for the same daemon.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRotate {
    /// The agent that asks.
    pub agent: WalletAddress,
    /// Fingerprint of the keys that it replaces.
    pub old: Hash32,
}

/// What is asked for, by kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Details {
    /// See [`Pair`].
    Pair(Pair),
    /// See [`Recover`].
    Recover(Recover),
    /// See [`ScopeChange`].
    ScopeChange(ScopeChange),
    /// See [`HighValueRelease`].
    HighValueRelease(HighValueRelease),
    /// See [`KeyRotate`].
    KeyRotate(KeyRotate),
}

impl Details {
    /// The kind of these details.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Pair(_) => Kind::Pair,
            Self::Recover(_) => Kind::Recover,
            Self::ScopeChange(_) => Kind::ScopeChange,
            Self::HighValueRelease(_) => Kind::HighValueRelease,
            Self::KeyRotate(_) => Kind::KeyRotate,
        }
    }

    /// The wallet address of the agent that they name; absent where they name none, or by
    /// another identity.
    pub const fn wallet(&self) -> Option<WalletAddress> {
        match self {
            Self::Pair(_) => None,
            Self::Recover(d) => match d.agent {
                AgentIdentity::Wallet(wallet) => Some(wallet),
                _ => None,
            },
            Self::ScopeChange(d) => Some(d.agent),
            Self::HighValueRelease(d) => Some(d.agent),
            Self::KeyRotate(d) => Some(d.agent),
        }
    }

    /// The bytes that OTP, pair code and decision cover.
    ///
    /// # Errors
    /// [`CborError::TooLong`] for more than anybody would read back, which only a scope over
    /// [`super::scope::MAX_SERVICES`] can cause.
    pub fn canonical(&self) -> Result<Vec<u8>, CborError> {
        let bytes = match self {
            Self::Pair(d) => cbor::to_canonical(d),
            Self::Recover(d) => cbor::to_canonical(d),
            Self::ScopeChange(d) => cbor::to_canonical(d),
            Self::HighValueRelease(d) => cbor::to_canonical(d),
            Self::KeyRotate(d) => cbor::to_canonical(d),
        }?;
        if bytes.len() > cbor::MAX_CANONICAL { Err(CborError::TooLong) } else { Ok(bytes) }
    }

    /// Reads canonical bytes; refuses any other encoding of the same details.
    pub fn from_canonical(kind: Kind, bytes: &[u8]) -> Result<Self, CborError> {
        Ok(match kind {
            Kind::Pair => Self::Pair(cbor::from_canonical(bytes)?),
            Kind::Recover => Self::Recover(cbor::from_canonical(bytes)?),
            Kind::ScopeChange => Self::ScopeChange(cbor::from_canonical(bytes)?),
            Kind::HighValueRelease => Self::HighValueRelease(cbor::from_canonical(bytes)?),
            Kind::KeyRotate => Self::KeyRotate(cbor::from_canonical(bytes)?),
        })
    }

    /// Reads details that a person or a script wrote as a JSON object.
    pub fn from_json(kind: Kind, object: serde_json::Value) -> Answer<Self> {
        // serde also reads a struct from an array, and an empty one as all defaults.
        if !object.is_object() {
            return Err(Problem::invalid("request_details", "request_details wants an object"));
        }
        let wrong = |e: serde_json::Error| {
            Problem::invalid("request_details", super::types::without_input(&e.to_string()))
        };
        Ok(match kind {
            Kind::Pair => Self::Pair(serde_json::from_value(object).map_err(wrong)?),
            Kind::Recover => Self::Recover(serde_json::from_value(object).map_err(wrong)?),
            Kind::ScopeChange => Self::ScopeChange(serde_json::from_value(object).map_err(wrong)?),
            Kind::HighValueRelease => {
                Self::HighValueRelease(serde_json::from_value(object).map_err(wrong)?)
            }
            Kind::KeyRotate => Self::KeyRotate(serde_json::from_value(object).map_err(wrong)?),
        })
    }

    /// The same as a JSON object, to be shown.
    pub fn to_json(&self) -> serde_json::Value {
        let value = match self {
            Self::Pair(d) => serde_json::to_value(d),
            Self::Recover(d) => serde_json::to_value(d),
            Self::ScopeChange(d) => serde_json::to_value(d),
            Self::HighValueRelease(d) => serde_json::to_value(d),
            Self::KeyRotate(d) => serde_json::to_value(d),
        };
        value.expect("details are plain structs with text keys")
    }
}
