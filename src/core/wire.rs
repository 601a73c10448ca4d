//! The wire: every endpoint's method, path and name, and the JSON shape of every request and
//! answer. Server and client are both written against this file, so they cannot disagree.
//!
//! Unknown fields are refused in both directions. Fields that hold secrets are of types that
//! serialize here and print nowhere.
use std::fmt;

use serde::de::{self, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::auth_request::{Details, Kind};
use super::backend::{
    AgentSummary, ClientInfo, CredentialSummary, Fetched, Grant, Minted, Opened, Pending, Release,
    RevokeTarget, Seen,
};
use super::encoding::{base64_bytes, from_base64, to_base64};
use super::identity::{AgentIdentity, Alias, ServiceName};
use super::otp::{Otp, PairCode};
use super::payment::{Amount, Layer, Spending};
use super::problem::{Answer, Problem};
use super::scope::Scope;
use super::secret::SecretBytes;
use super::token::{OpenToken, RegistrationToken, RenewalSecret, SessionToken};
use super::types::{ChildKeys, Hash32, Malformed, RequestId, SessionId, Timestamp, WalletAddress};

/// The number of this wire; a change that an older client cannot read counts it up.
pub const WIRE_VERSION: u64 = 1;
/// Header of every answer: [`WIRE_VERSION`].
pub const WIRE_HEADER: &str = "agentkeys-wire";
/// Header of answers to masters and of renewals: base64 of the signed head's JSON.
pub const HEAD_HEADER: &str = "agentkeys-head";
/// Header of answers that are problems: what the log calls this request.
pub const REQUEST_ID_HEADER: &str = "agentkeys-request-id";
/// How long a long poll waits unless its `wait` says otherwise, in seconds.
pub const DEFAULT_WAIT_SECONDS: u64 = 25;
/// Most characters of a debit's `reference`.
pub const MAX_REFERENCE: usize = 64;
/// Most movements that one answer of `/payment/history` holds.
pub const MAX_HISTORY: usize = 1_000;
/// What people call the payment rail behind this wire.
pub const RAIL_NAME: &str = "internal ledger";

/// Declares the endpoints once: variant, name in the logs, method, path.
macro_rules! routes {
    ($($(#[$doc:meta])* $route:ident $name:literal $method:literal $path:literal;)+) => {
        /// One endpoint of the wire.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Route {
            $($(#[$doc])* $route,)+
        }

        impl Route {
            /// Every endpoint.
            pub const ALL: &'static [Self] = &[$(Self::$route,)+];

            /// The endpoint of a method and a path, if there is one.
            pub fn find(method: &str, path: &str) -> Option<Self> {
                match (method, path) {
                    $(($method, $path) => Some(Self::$route),)+
                    _ => None,
                }
            }

            /// What logs and the OpenAPI document call it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$route => $name,)+
                }
            }

            /// Its HTTP method.
            pub const fn method(self) -> &'static str {
                match self {
                    $(Self::$route => $method,)+
                }
            }

            /// Its path.
            pub const fn path(self) -> &'static str {
                match self {
                    $(Self::$route => $path,)+
                }
            }
        }
    };
}

routes! {
    /// Whether the server answers at all.
    Health "health" "GET" "/health";
    /// Its version and the wire's.
    Version "version" "GET" "/version";
    /// The description of the wire.
    OpenApi "openapi" "GET" "/openapi.json";
    /// The key to seal credentials to.
    ShieldingKey "shielding_key" "GET" "/shielding-key";
    /// Who the session is.
    SessionShow "session_show" "GET" "/session";
    /// Makes a master session.
    SessionCreate "session_create" "POST" "/session/create";
    /// Makes a child session.
    SessionChild "session_child" "POST" "/session/child";
    /// Trades a renewal secret for the next session.
    SessionRenew "session_renew" "POST" "/session/renew";
    /// Ends a session, or an agent's access.
    SessionRevoke "session_revoke" "POST" "/session/revoke";
    /// Makes an agent.
    AgentCreate "agent_create" "POST" "/agents";
    /// Lists the agents.
    AgentList "agent_list" "GET" "/agents";
    /// Gives a revoked agent its right back.
    AgentReinstate "agent_reinstate" "POST" "/agent/reinstate";
    /// Lists an agent's credentials, never their values.
    CredentialList "credential_list" "GET" "/credentials";
    /// Stores a sealed credential.
    CredentialStore "credential_store" "POST" "/credential/store";
    /// Hands out one credential.
    CredentialRead "credential_read" "GET" "/credential/read";
    /// Hands out all of an agent's credentials.
    CredentialReadAll "credential_read_all" "GET" "/credential/read-all";
    /// Brings the version before back.
    CredentialRollBack "credential_roll_back" "POST" "/credential/roll-back";
    /// Deletes an agent and its credentials.
    CredentialTeardown "credential_teardown" "DELETE" "/credential/teardown";
    /// Reads the audit log.
    AuditQuery "audit_query" "GET" "/audit/query";
    /// Registers a child at the rendezvous.
    RendezvousRegister "rendezvous_register" "POST" "/rendezvous/register";
    /// Waits for the payload.
    RendezvousPoll "rendezvous_poll" "GET" "/rendezvous/poll";
    /// Leaves a payload.
    RendezvousDeliver "rendezvous_deliver" "POST" "/rendezvous/deliver";
    /// Opens an auth request.
    AuthRequestOpen "auth_request_open" "POST" "/auth-request/open";
    /// Fetches an auth request to show it.
    AuthRequestFetch "auth_request_fetch" "GET" "/auth-request/fetch";
    /// Lists what waits for an answer.
    AuthRequestPending "auth_request_pending" "GET" "/auth-request/pending";
    /// Says yes.
    AuthRequestApprove "auth_request_approve" "POST" "/auth-request/approve";
    /// Says no.
    AuthRequestDeny "auth_request_deny" "POST" "/auth-request/deny";
    /// Waits for the signed decision.
    AuthRequestAwait "auth_request_await" "GET" "/auth-request/await";
    /// Links a human name to an agent.
    IdentityLink "identity_link" "POST" "/identity/link";
    /// Unlinks a human name.
    IdentityUnlink "identity_unlink" "POST" "/identity/unlink";
    /// Finds the agent that a name means.
    IdentityResolve "identity_resolve" "GET" "/identity/resolve";
    /// What an agent has on one layer.
    PaymentBalance "payment_balance" "GET" "/payment/balance";
    /// Gives an agent an amount.
    PaymentFund "payment_fund" "POST" "/payment/fund";
    /// Takes an amount.
    PaymentDebit "payment_debit" "POST" "/payment/debit";
    /// An agent's newest movements.
    PaymentHistory "payment_history" "GET" "/payment/history";
}

impl Route {
    /// Whether the request has a JSON body.
    pub fn has_body(self) -> bool {
        self.method() != "GET"
    }

    /// Whether it may wait for something to happen; such a wait ends at shutdown.
    pub const fn may_wait(self) -> bool {
        matches!(self, Self::RendezvousPoll | Self::AuthRequestAwait | Self::AuditQuery)
    }
}

/// A secret at the one place where it is to be seen: in a body of the wire. It serializes;
/// there is no `Debug`, `Display` or `Clone`.
pub struct Shown<T>(pub T);

/// What [`Shown`] can carry.
pub trait AsText: Sized {
    /// What a wrong value's error says is wanted.
    const WANTED: &'static str;
    /// Hands the text to `write`; an intermediate copy is wiped.
    fn with_text<R>(&self, write: impl FnOnce(&str) -> R) -> R;
    /// Reads the text.
    fn from_text(text: &str) -> Result<Self, Malformed>;
}

impl<T: AsText> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.0.with_text(|text| s.serialize_str(text))
    }
}

impl<'de, T: AsText> Deserialize<'de> for Shown<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Text<T>(std::marker::PhantomData<T>);
        impl<T: AsText> Visitor<'_> for Text<T> {
            type Value = T;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str(T::WANTED)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
                T::from_text(text).map_err(|e| E::custom(e.why))
            }
        }
        d.deserialize_str(Text(std::marker::PhantomData)).map(Shown)
    }
}

macro_rules! token_as_text {
    ($($token:ty, $wanted:literal;)+) => {$(
        impl AsText for $token {
            const WANTED: &'static str = $wanted;
            fn with_text<R>(&self, write: impl FnOnce(&str) -> R) -> R {
                write(self.expose())
            }
            fn from_text(text: &str) -> Result<Self, Malformed> {
                Self::parse(text)
            }
        }
    )+};
}
token_as_text! {
    SessionToken, "a session token";
    OpenToken, "an open token";
    RegistrationToken, "a registration token";
    RenewalSecret, "a renewal secret";
}

/// A credential's bytes travel as base64.
impl AsText for SecretBytes {
    const WANTED: &'static str = "standard base64, with padding";
    fn with_text<R>(&self, write: impl FnOnce(&str) -> R) -> R {
        write(&Zeroizing::new(to_base64(self.expose())))
    }
    fn from_text(text: &str) -> Result<Self, Malformed> {
        from_base64("credential", text)
            .map(Self::new)
            .map_err(|_| Malformed::new("credential", "wants standard base64, with padding"))
    }
}

/// What proves an identity: a text, as it was given.
pub struct AuthToken(pub SecretBytes);

impl AsText for AuthToken {
    const WANTED: &'static str = "a text";
    fn with_text<R>(&self, write: impl FnOnce(&str) -> R) -> R {
        write(std::str::from_utf8(self.0.expose()).unwrap_or_default())
    }
    fn from_text(text: &str) -> Result<Self, Malformed> {
        Ok(Self(SecretBytes::new(text.as_bytes().to_vec())))
    }
}

/// `POST /session/create`. Without a token the Unix socket's peer is the proof.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateSession {
    /// The proof of identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_token: Option<Shown<AuthToken>>,
    /// What the client says of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientInfo>,
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

/// `POST /credential/roll-back`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollBack {
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

/// `POST /agents`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateAgent {
    /// Its alias.
    pub name: Alias,
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
    /// Makes a repeated call count once; 1 to [`MAX_REFERENCE`] printable ASCII characters.
    pub reference: String,
}

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
    /// [`WIRE_VERSION`] of the server.
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
}

impl From<Minted> for Session {
    fn from(minted: Minted) -> Self {
        Self {
            session: Shown(minted.session),
            session_id: minted.session_id,
            wallet: minted.wallet,
            expires_at: minted.expires_at,
            renewal: minted.renewal.map(Shown),
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
    /// [`Fetched::seen_hash`]; goes into `seen` of approve.
    pub seen: Hash32,
}

impl TryFrom<Fetched> for FetchedRequest {
    type Error = super::cbor::CborError;

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
    fn every_endpoint_is_found_by_its_own_method_and_path_and_no_two_share_one() {
        for route in Route::ALL {
            assert_eq!(Route::find(route.method(), route.path()), Some(*route));
            let named = Route::ALL.iter().filter(|other| other.name() == route.name());
            assert_eq!(named.count(), 1, "{}", route.name());
        }
        assert_eq!(Route::find("PUT", "/agents"), None);
        assert_eq!(Route::find("GET", "/agents/"), None);
    }

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

    #[test]
    fn details_beside_the_canonical_ones_must_say_the_same() {
        let details = Details::Pair(super::super::auth_request::Pair {
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
