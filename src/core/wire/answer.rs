//! The JSON of every answer that is not one of the contract's own types.
use serde::{Deserialize, Serialize};

use super::Shown;
use crate::core::auth_request::{Details, Kind};
use crate::core::backend::{
    AgentSummary, CredentialSummary, Fetched, Minted, Opened, Pending, Release, Seen,
};
use crate::core::cbor::CborError;
use crate::core::encoding::base64_bytes;
use crate::core::gateway::ServicePlace;
use crate::core::identity::ServiceName;
use crate::core::otp::{Otp, PairCode};
use crate::core::payment::Spending;
use crate::core::provision::{Provider, Provisioned, Recipe, Settings};
use crate::core::secret::SecretBytes;
use crate::core::sign_in::{SignInNews, SignInStart, SignInTicket};
use crate::core::token::{OpenToken, RegistrationToken, RenewalSecret, SessionToken};
use crate::core::types::{ChildKeys, Hash32, RequestId, SessionId, Timestamp, WalletAddress};

/// Answer of `GET /health`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// `ok`.
    pub status: String,
}

/// Answer of `GET /version`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// The program's version.
    pub version: String,
    /// [`super::WIRE_VERSION`] of the server.
    pub wire: u64,
}

/// Answer of an act that has nothing to tell: `{}`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Done {}

/// Answer with a session that was just made.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// The token.
    pub session: Shown<SessionToken>,
    /// Its public name.
    pub session_id: SessionId,
    /// The account's wallet for a master, the agent's for a child.
    pub wallet: WalletAddress,
    /// When it ends unless it is used or renewed.
    pub expires_at: Timestamp,
    /// What the next one is got with; child sessions only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal: Option<Shown<RenewalSecret>>,
    /// What else a sign-in by an issuer told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sign_in: Option<SignedIn>,
}

/// What a sign-in by an issuer told beside the session.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedIn {
    /// The e-mail address that the issuer has verified: a label, by which nobody is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Whether the backend had no owner, and belongs to this account from now on.
    pub owns_now: bool,
}

/// Answer of `POST /sign-in/begin`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignInBegun {
    /// The issuer, as its discovery document names itself.
    pub issuer: String,
    /// By what name the issuer knows this backend's clients.
    pub client_id: String,
    /// What some issuers want from installed programs beside; no secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<String>,
    /// What is to be asked of the issuer.
    pub scope: String,
    /// The nonce that the ID token has to carry.
    pub nonce: String,
    /// What goes back with the ID token.
    pub ticket: Shown<SignInTicket>,
    /// How long the ticket holds, in seconds.
    pub expires_in: u64,
}

impl From<SignInStart> for SignInBegun {
    fn from(start: SignInStart) -> Self {
        let SignInStart { issuer, client_id, client_secret, scope, nonce, ticket, expires_in } =
            start;
        let ticket = Shown(ticket);
        Self { issuer, client_id, client_secret, scope, nonce, ticket, expires_in }
    }
}

impl From<SignInBegun> for SignInStart {
    fn from(answer: SignInBegun) -> Self {
        let SignInBegun { issuer, client_id, client_secret, scope, nonce, ticket, expires_in } =
            answer;
        let ticket = ticket.0;
        Self { issuer, client_id, client_secret, scope, nonce, ticket, expires_in }
    }
}

impl From<Minted> for Session {
    fn from(minted: Minted) -> Self {
        Self {
            session: Shown(minted.session),
            session_id: minted.session_id,
            wallet: minted.wallet,
            expires_at: minted.expires_at,
            renewal: minted.renewal.map(Shown),
            sign_in: minted.news.map(|SignInNews { email, owns_now }| SignedIn { email, owns_now }),
        }
    }
}

impl From<Session> for Minted {
    fn from(answer: Session) -> Self {
        Self {
            session: answer.session.0,
            session_id: answer.session_id,
            wallet: answer.wallet,
            expires_at: answer.expires_at,
            renewal: answer.renewal.map(|renewal| renewal.0),
            news: answer.sign_in.map(|SignedIn { email, owns_now }| SignInNews { email, owns_now }),
        }
    }
}

/// Answer of `GET /credential/read`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// The plaintext; base64.
    pub credential: Shown<SecretBytes>,
}

/// One row of `GET /credential/read-all`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Released {
    /// For which service.
    pub service: ServiceName,
    /// The plaintext; base64.
    pub credential: Shown<SecretBytes>,
}

impl From<Release> for Released {
    fn from(release: Release) -> Self {
        Self { service: release.service, credential: Shown(release.credential) }
    }
}

impl From<Released> for Release {
    fn from(row: Released) -> Self {
        Self { service: row.service, credential: row.credential.0 }
    }
}

/// Answer of `GET /credential/read-all`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllReleased {
    /// One row a credential.
    pub credentials: Vec<Released>,
}

/// Answer of `GET /credentials`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// One row a service; never a value.
    pub credentials: Vec<CredentialSummary>,
}

/// Answer of `GET /gateway/places`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayPlaces {
    /// One row a service that the agent has a key of.
    pub places: Vec<ServicePlace>,
}

/// Answer of `POST /provision`.
#[derive(Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case", deny_unknown_fields)]
pub enum ProvisionAnswer {
    /// There was a key already.
    Exists {
        /// It, without its value.
        credential: CredentialSummary,
    },
    /// One was made.
    Made {
        /// It, without its value.
        credential: CredentialSummary,
    },
    /// A recipe is to be run beside the agent.
    Recipe {
        /// With these settings.
        settings: Settings,
        /// With this secret; base64.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret: Option<Shown<SecretBytes>>,
    },
}

impl From<Provisioned> for ProvisionAnswer {
    fn from(came: Provisioned) -> Self {
        match came {
            Provisioned::Exists(credential) => Self::Exists { credential },
            Provisioned::Made(credential) => Self::Made { credential },
            Provisioned::Recipe(Recipe { settings, secret }) => {
                Self::Recipe { settings, secret: secret.map(Shown) }
            }
        }
    }
}

impl From<ProvisionAnswer> for Provisioned {
    fn from(answer: ProvisionAnswer) -> Self {
        match answer {
            ProvisionAnswer::Exists { credential } => Self::Exists(credential),
            ProvisionAnswer::Made { credential } => Self::Made(credential),
            ProvisionAnswer::Recipe { settings, secret } => {
                Self::Recipe(Recipe { settings, secret: secret.map(|secret| secret.0) })
            }
        }
    }
}

/// Answer of `GET /providers`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Providers {
    /// One row a service; never a secret.
    pub providers: Vec<Provider>,
}

/// Answer of `GET /agents`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agents {
    /// The account's agents.
    pub agents: Vec<AgentSummary>,
}

/// Answer of `POST /rendezvous/register`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registered {
    /// What the daemon polls with.
    pub registration_token: Shown<RegistrationToken>,
}

/// Answer of `GET /rendezvous/poll`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Polled {
    /// The payload, byte for byte as it was left; base64.
    #[serde(with = "base64_bytes")]
    pub payload: Vec<u8>,
}

/// Answer of `POST /auth-request/open`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenedRequest {
    /// The request's id.
    pub id: RequestId,
    /// Six digits to show.
    pub otp: Otp,
    /// The code to show.
    pub pair_code: PairCode,
    /// How long both hold.
    pub ttl_seconds: u64,
    /// SHA-256 of the nonce.
    pub nonce_hash: Hash32,
    /// What the child proves itself with.
    pub open_token: Shown<OpenToken>,
    /// When it was opened.
    pub created_at: Timestamp,
}

impl From<Opened> for OpenedRequest {
    fn from(opened: Opened) -> Self {
        Self {
            id: opened.id,
            otp: opened.otp,
            pair_code: opened.pair_code,
            ttl_seconds: opened.ttl_seconds,
            nonce_hash: opened.nonce_hash,
            open_token: Shown(opened.open_token),
            created_at: opened.created_at,
        }
    }
}

impl From<OpenedRequest> for Opened {
    fn from(answer: OpenedRequest) -> Self {
        Self {
            id: answer.id,
            otp: answer.otp,
            pair_code: answer.pair_code,
            ttl_seconds: answer.ttl_seconds,
            nonce_hash: answer.nonce_hash,
            open_token: answer.open_token.0,
            created_at: answer.created_at,
        }
    }
}

/// Answer of `GET /auth-request/fetch`: [`Fetched`], and for people the same details as an
/// object and the hash that approving wants back.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FetchedRequest {
    /// The request's id.
    pub id: RequestId,
    /// Its kind.
    pub kind: Kind,
    /// Its canonical details; base64.
    #[serde(with = "base64_bytes")]
    pub details: Vec<u8>,
    /// The same details, to be read.
    pub request_details: serde_json::Value,
    /// The child's public keys.
    pub child_pubkey: ChildKeys,
    /// The digits that the child shows.
    pub otp: Otp,
    /// When it was opened.
    pub created_at: Timestamp,
    /// Until when this account can approve it.
    pub expires_at: Timestamp,
    /// What the backend saw of the child.
    pub saw: Seen,
    /// The agent it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentSummary>,
    /// How many equal requests the gateway holds for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<u32>,
    /// [`Fetched::seen_hash`]; goes into `seen` of approve.
    pub seen: Hash32,
}

impl TryFrom<Fetched> for FetchedRequest {
    type Error = CborError;

    fn try_from(fetched: Fetched) -> Result<Self, Self::Error> {
        let details = Details::from_canonical(fetched.kind, &fetched.details)?;
        Ok(Self {
            seen: fetched.seen_hash(),
            request_details: details.to_json(),
            id: fetched.id,
            kind: fetched.kind,
            details: fetched.details,
            child_pubkey: fetched.child_pubkey,
            otp: fetched.otp,
            created_at: fetched.created_at,
            expires_at: fetched.expires_at,
            saw: fetched.saw,
            agent: fetched.agent,
            held: fetched.held,
        })
    }
}

impl FetchedRequest {
    /// The request itself, or `None` if what stands beside its canonical details says
    /// something else than they do.
    pub fn checked(self) -> Option<Fetched> {
        let shown = Details::from_canonical(self.kind, &self.details).ok()?.to_json();
        let (seen, request_details) = (self.seen, self.request_details);
        let fetched = Fetched {
            id: self.id,
            kind: self.kind,
            details: self.details,
            child_pubkey: self.child_pubkey,
            otp: self.otp,
            created_at: self.created_at,
            expires_at: self.expires_at,
            saw: self.saw,
            agent: self.agent,
            held: self.held,
        };
        (shown == request_details && fetched.seen_hash() == seen).then_some(fetched)
    }
}

/// Answer of `GET /auth-request/pending`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PendingRequests {
    /// What waits.
    pub requests: Vec<Pending>,
}

/// Answer of `GET /payment/history`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct History {
    /// Newest first.
    pub history: Vec<Spending>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_beside_the_canonical_ones_must_say_the_same() {
        let details = Details::Pair(crate::core::auth_request::Pair {
            name: Some("my-agent".parse().unwrap()),
            ..Default::default()
        });
        let fetched = Fetched {
            id: RequestId([1; 16]),
            kind: Kind::Pair,
            details: details.canonical().unwrap(),
            child_pubkey: ChildKeys([2; 64]),
            otp: "123456".parse().unwrap(),
            created_at: Timestamp(1),
            expires_at: Timestamp(2),
            saw: Seen::default(),
            agent: None,
            held: None,
        };
        let honest = FetchedRequest::try_from(fetched.clone()).unwrap();
        assert_eq!(honest.clone().checked(), Some(fetched));
        let mut lying = honest.clone();
        lying.request_details["name"] = "your-agent".into();
        assert_eq!(lying.checked(), None);
        let mut lying = honest;
        lying.otp = "654321".parse().unwrap();
        assert_eq!(lying.checked(), None);
    }
}
