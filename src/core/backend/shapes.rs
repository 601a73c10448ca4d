//! What the contract's methods take and give.
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::core::audit::{Action, Entry, Head, Outcome};
use crate::core::auth_request::{Details, Kind};
use crate::core::budget::Spent;
use crate::core::identity::{AgentIdentity, Alias, ServiceName};
use crate::core::otp::{Otp, PairCode};
use crate::core::presence::Reset;
use crate::core::scope::Scope;
use crate::core::secret::SecretBytes;
use crate::core::set_back::SetBack;
use crate::core::sign_in::{SignInNews, SignInTicket};
use crate::core::terms::Terms;
use crate::core::token::{OpenToken, RenewalSecret, SessionToken};
use crate::core::types::{
    AccountId, ChildKeys, Hash32, KeyId, PublicKey, RequestId, SessionId, Timestamp, WalletAddress,
};

/// Largest credential, in bytes of plaintext.
pub const MAX_CREDENTIAL: usize = 64 * 1024;
/// Largest payload of a rendezvous, in bytes.
pub const MAX_PAYLOAD: usize = 16 * 1024;
/// Longest that one long poll waits.
pub const MAX_WAIT: Duration = Duration::from_secs(30);

/// How a master proves who they are.
pub enum IdentityProof {
    /// The Unix socket's peer uid; there is nothing to send.
    Peer,
    /// A token: a test identity under `serve --dev`.
    Token(SecretBytes),
    /// An ID token of the issuer that the backend names.
    IdToken {
        /// The token.
        token: SecretBytes,
        /// What the sign-in was begun with.
        ticket: SignInTicket,
    },
}

/// What a client says of itself when it signs in; shown as claimed, in events and errors.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientInfo {
    /// Its host's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<crate::core::claim::Claim>,
    /// Its user's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<crate::core::claim::Claim>,
}

/// A session that was just made. The token is shown this once.
pub struct Minted {
    /// The token.
    pub session: SessionToken,
    /// Its public name.
    pub session_id: SessionId,
    /// The account's wallet address for a master, the agent's for a child.
    pub wallet: WalletAddress,
    /// When it ends unless it is used or renewed.
    pub expires_at: Timestamp,
    /// What the next one is got with; child sessions only.
    pub renewal: Option<RenewalSecret>,
    /// What else a sign-in by an issuer told; absent for every other session.
    pub news: Option<SignInNews>,
}

/// What is to be revoked.
pub enum RevokeTarget {
    /// One session, by its id.
    Session(SessionId),
    /// One session, by the token itself.
    Token(SessionToken),
    /// An agent: all its sessions, and every read in its name.
    Agent(AgentIdentity),
}

/// The backend's public key, to seal credentials to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShieldingKey {
    /// Short name of the key; stands in sealed bytes.
    pub key_id: KeyId,
    /// X25519.
    pub public_key: PublicKey,
    /// See [`crate::core::seal::SUITE`].
    pub suite: String,
}

/// Which events are wanted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditFilter {
    /// Only events of this agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentIdentity>,
    /// Only events of this service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// Only events of this kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    /// Only events that ended so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Only events at or after this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Only events before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// First sequence number to look at; a page's `next` goes here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// Most events of this page, 1 to 1,000; 200 unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Wait up to this many seconds for an event when there is none, at most 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<u64>,
}

/// A page of the audit log, oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditPage {
    /// The events.
    pub events: Vec<Entry>,
    /// Where the next page begins; absent when this one reached the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// The signed end of the account's log at this moment.
    pub head: Head,
}

/// What a child sends to open a request.
pub struct OpenRequest {
    /// Its public keys.
    pub keys: ChildKeys,
    /// What it asks for.
    pub details: Details,
    /// The session it has; needed for all kinds but Pair and Recover.
    pub session: Option<SessionToken>,
}

/// What the child gets for it.
pub struct Opened {
    /// The request's id.
    pub id: RequestId,
    /// Six digits to show.
    pub otp: Otp,
    /// The code to show.
    pub pair_code: PairCode,
    /// How long both hold, in seconds.
    pub ttl_seconds: u64,
    /// SHA-256 of the nonce.
    pub nonce_hash: Hash32,
    /// What the child proves itself with from now on.
    pub open_token: OpenToken,
    /// When it was opened; stands in the decision.
    pub created_at: Timestamp,
}

/// What the backend itself saw of the child that opened a request.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// Address it came from, or `unix socket`.
    pub address: String,
    /// Its user id, over a Unix socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Its program, over a Unix socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
}

/// The agent that a request names, as the fetcher's account knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSummary {
    /// Its lasting name.
    pub wallet: WalletAddress,
    /// Its alias, or its first identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Every identity that is linked to it.
    pub identities: Vec<AgentIdentity>,
    /// What it may do.
    pub scope: Scope,
    /// When it was revoked; absent while it is active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Revocation>,
    /// The daemon that has it; absent while none was paired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daemon: Option<Daemon>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// The daemon that an agent was given to last.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Daemon {
    /// [`ChildKeys::fingerprint`] of its keys.
    pub fingerprint: Hash32,
    /// When it was given these keys' session.
    pub since: Timestamp,
    /// When its session was last used, to within ten minutes. Known in the answer to a fetch
    /// only, and while it has a session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Timestamp>,
}

/// When access was ended, and by whom.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// When.
    pub at: Timestamp,
    /// In words: `the master session on host "laptop"`.
    pub by: String,
}

/// The whole request, to be shown to the person who decides.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fetched {
    /// The request's id.
    pub id: RequestId,
    /// Its kind.
    pub kind: Kind,
    /// Its canonical details.
    #[serde(with = "crate::core::encoding::base64_bytes")]
    pub details: Vec<u8>,
    /// The child's public keys.
    pub child_pubkey: ChildKeys,
    /// The digits that the child shows.
    pub otp: Otp,
    /// When it was opened.
    pub created_at: Timestamp,
    /// Until when it can be approved by this account.
    pub expires_at: Timestamp,
    /// What the backend saw of the child.
    pub saw: Seen,
    /// The agent it names; absent for a Pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentSummary>,
    /// How many equal requests of the agent's the gateway holds until it is answered, and sends
    /// by one approval; absent where a child opened it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<u32>,
}

impl Fetched {
    /// Hash of what was shown; approving with it approves just that. It covers the request,
    /// what the backend saw of the child, how many equal ones are held, and the agent as it is now:
    /// name, scope, revocation and daemon. How long there is left, and when the daemon was last used, are not covered:
    /// they change while a person reads.
    pub fn seen_hash(&self) -> Hash32 {
        let plain = "they hold nothing that CBOR forbids";
        let saw = crate::core::cbor::to_canonical(&self.saw).expect(plain);
        let agent = self.agent.clone().map(|mut agent| {
            if let Some(daemon) = &mut agent.daemon {
                daemon.last_used = None;
            }
            crate::core::cbor::to_canonical(&agent).expect(plain)
        });
        let framed = crate::core::frame::Frame::new("AgentKeys-v1-Seen")
            .field(&self.id.0)
            .field(self.kind.as_str().as_bytes())
            .field(&self.details)
            .field(&self.child_pubkey.0)
            .field(self.otp.to_string().as_bytes())
            .field(&self.created_at.0.to_be_bytes())
            .field(&saw)
            .optional(agent.as_deref());
        let framed = match self.held {
            Some(count) => framed.field(&count.to_be_bytes()),
            None => framed,
        };
        Hash32::of(framed.bytes())
    }
}

/// What the master gives with an approval; what is absent stays as it was asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Pair only: an agent that exists, instead of a new one. Ends its old daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentIdentity>,
    /// Pair only: the new agent's name, instead of the one it wished for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Alias>,
    /// A scope no wider than the one asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// A request that the gateway holds only: for how long others like it are sent unasked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lasts: Option<Lasts>,
}

/// For how long requests of the same method, host and path are sent unasked, whatever their body
/// and query.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lasts {
    /// For so many seconds, at most [`MAX_LASTS`].
    Seconds(u64),
    /// For as long as the session that asked lasts, with those that it is renewed to.
    Session,
}

/// Longest that an approval lasts, in seconds: a day.
pub const MAX_LASTS: u64 = 24 * 60 * 60;

/// What an approval did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approved {
    /// The request.
    pub request_id: RequestId,
    /// Its kind.
    pub kind: Kind,
    /// The agent that it made or changed.
    pub agent: AgentSummary,
}

/// An agent's credential without its value.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialSummary {
    /// For which service.
    pub service: ServiceName,
    /// Counts up with each store.
    pub version: u64,
    /// How many earlier versions are kept.
    pub kept: u64,
    /// When this version was stored.
    pub stored_at: Timestamp,
    /// Until when it holds, for one that its service gave a time; it is renewed in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Whether the backend had it made by its service, and ends it there when it is revoked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub made: bool,
    /// On what terms the agent has it; absent for none.
    #[serde(default, skip_serializing_if = "Terms::is_none")]
    pub terms: Terms,
    /// What was counted of it; absent for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spent: Option<Spent>,
}

/// A credential as a batch read hands it out.
pub struct Release {
    /// For which service.
    pub service: ServiceName,
    /// The plaintext.
    pub credential: SecretBytes,
}

/// A request that waits for an answer of this account.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pending {
    /// The request's id.
    pub id: RequestId,
    /// The code to approve it with.
    pub pair_code: PairCode,
    /// Its kind.
    pub kind: Kind,
    /// The agent it names, if it names one of this account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<WalletAddress>,
    /// When it was opened.
    pub created_at: Timestamp,
    /// Until when it can be answered.
    pub expires_at: Timestamp,
}

/// Who a session is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhoAmI {
    /// The session.
    pub session_id: SessionId,
    /// Its account.
    pub account: AccountId,
    /// The account's master public key.
    pub master_key: PublicKey,
    /// The identity that is signed in, such as `unix:1000`.
    pub identity: String,
    /// The account's presence level.
    pub presence: String,
    /// That the account's audit log was set back, which stops what raises rights; for a master.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_back: Option<SetBack>,
    /// A reset of the presence level that was asked for, for everybody to see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presence_reset: Option<Reset>,
    /// The account's wallet for a master, the agent's for a child.
    pub wallet: WalletAddress,
    /// Whether this is a child session.
    pub child: bool,
    /// When it ends.
    pub expires_at: Timestamp,
}
