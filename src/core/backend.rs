//! The contract's trait: what CLI, daemon and provisioner know of a backend.
//!
//! The vault (in process) and the client (HTTP) implement it, and a third party can add another
//! without touching its callers.
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::audit::{Action, Entry, Head, Outcome};
use super::auth_request::{Details, Kind};
use super::decision::Decision;
use super::identity::{AgentIdentity, Alias, ServiceName};
use super::otp::{Otp, PairCode};
use super::payment::PaymentRail;
use super::presence::{NewLevel, Presence, Reset};
use super::problem::Answer;
use super::provision::{self, NewProvider, Provider, Provisioned};
use super::scope::Scope;
use super::secret::SecretBytes;
use super::set_back::{Compared, SetBack};
use super::sign_in::{Flow, SignInNews, SignInStart, SignInTicket};
use super::token::{OpenToken, RegistrationToken, RenewalSecret, SessionToken};
use super::types::{
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
    pub host: Option<super::claim::Claim>,
    /// Its user's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<super::claim::Claim>,
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
    /// See [`super::seal::SUITE`].
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
    #[serde(with = "super::encoding::base64_bytes")]
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
}

impl Fetched {
    /// Hash of what was shown; approving with it approves just that. It covers the request,
    /// what the backend saw of the child, and the agent as it is now: name, scope, revocation
    /// and daemon. How long there is left, and when the daemon was last used, are not covered:
    /// they change while a person reads.
    pub fn seen_hash(&self) -> Hash32 {
        let plain = "they hold nothing that CBOR forbids";
        let saw = super::cbor::to_canonical(&self.saw).expect(plain);
        let agent = self.agent.clone().map(|mut agent| {
            if let Some(daemon) = &mut agent.daemon {
                daemon.last_used = None;
            }
            super::cbor::to_canonical(&agent).expect(plain)
        });
        let framed = super::frame::Frame::new("AgentKeys-v1-Seen")
            .field(&self.id.0)
            .field(self.kind.as_str().as_bytes())
            .field(&self.details)
            .field(&self.child_pubkey.0)
            .field(self.otp.to_string().as_bytes())
            .field(&self.created_at.0.to_be_bytes())
            .field(&saw)
            .optional(agent.as_deref());
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
}

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

/// The fifteen methods of the contract.
#[async_trait]
pub trait CredentialBackend: Send + Sync {
    /// Proves an identity and makes a master session; the account is made with the first.
    async fn create_session(&self, proof: IdentityProof, client: ClientInfo) -> Answer<Minted>;

    /// Makes a child session of an agent, or of a new one.
    async fn create_child_session(
        &self,
        parent: &SessionToken,
        agent: Option<&AgentIdentity>,
        scope: Scope,
    ) -> Answer<Minted>;

    /// Stores a credential that was sealed to the shielding key for this account, agent and
    /// service.
    async fn store_credential(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
        sealed: Vec<u8>,
    ) -> Answer<()>;

    /// Hands out a plaintext; its audit event is durable before this returns.
    async fn read_credential(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
    ) -> Answer<SecretBytes>;

    /// Reads the audit log of the session's account.
    async fn query_audit(&self, session: &SessionToken, filter: AuditFilter) -> Answer<AuditPage>;

    /// Ends a session, or an agent's access, at once.
    async fn revoke_session(&self, session: &SessionToken, target: RevokeTarget) -> Answer<()>;

    /// Ends an agent's access and deletes the agent and its credentials.
    async fn teardown_agent(&self, session: &SessionToken, agent: &AgentIdentity) -> Answer<()>;

    /// The public key to seal credentials to.
    async fn shielding_key(&self) -> Answer<ShieldingKey>;

    /// Registers the child that opened a request at the rendezvous.
    async fn register_rendezvous(
        &self,
        open: &OpenToken,
        pair_code: PairCode,
        keys: ChildKeys,
    ) -> Answer<RegistrationToken>;

    /// Waits for the payload; `None` when there is none after `wait`.
    async fn poll_rendezvous(
        &self,
        registration: &RegistrationToken,
        wait: Duration,
    ) -> Answer<Option<Vec<u8>>>;

    /// Leaves a payload, sealed to the daemon, at the rendezvous.
    async fn deliver_rendezvous(
        &self,
        session: &SessionToken,
        pair_code: PairCode,
        payload: Vec<u8>,
    ) -> Answer<()>;

    /// Opens an auth request.
    async fn open_auth_request(&self, request: OpenRequest) -> Answer<Opened>;

    /// Fetches a request to show it; a Pair or Recover is bound to the session's account.
    async fn fetch_auth_request(
        &self,
        session: &SessionToken,
        pair_code: PairCode,
    ) -> Answer<Fetched>;

    /// Approves a request, once. `seen` is [`Fetched::seen_hash`] of what was shown.
    async fn approve_auth_request(
        &self,
        session: &SessionToken,
        request: RequestId,
        seen: Option<Hash32>,
        grant: Grant,
    ) -> Answer<Approved>;

    /// Waits for the signed decision; `None` when there is none after `wait`.
    async fn await_auth_decision(
        &self,
        open: &OpenToken,
        request: RequestId,
        wait: Duration,
    ) -> Answer<Option<Decision>>;
}

/// What a master does beside the fifteen, and what a daemon does to stay signed in.
#[async_trait]
pub trait AccountBackend: CredentialBackend + PaymentRail {
    /// Begins a sign-in by the issuer that this backend names. Makes nothing that is kept.
    ///
    /// # Errors
    /// `NOT_FOUND` where it names none, as every backend does that says nothing else.
    async fn begin_sign_in(&self, flow: Flow) -> Answer<SignInStart> {
        let _ = flow;
        Err(super::sign_in::no_issuer())
    }

    /// Who the session is.
    async fn who_am_i(&self, session: &SessionToken) -> Answer<WhoAmI>;

    /// Makes an agent with a name and no credentials.
    async fn create_agent(&self, session: &SessionToken, name: &Alias) -> Answer<AgentSummary>;

    /// The account's agents, by name.
    async fn list_agents(&self, session: &SessionToken) -> Answer<Vec<AgentSummary>>;

    /// An agent's credentials, never their values.
    async fn list_credentials(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
    ) -> Answer<Vec<CredentialSummary>>;

    /// All of an agent's credentials that its scope allows, one audit event each.
    async fn read_all(&self, session: &SessionToken, agent: &AgentIdentity)
    -> Answer<Vec<Release>>;

    /// Brings the version before the current one back.
    async fn roll_back_credential(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
    ) -> Answer<CredentialSummary>;

    /// What waits for an answer of this account.
    async fn list_pending(&self, session: &SessionToken) -> Answer<Vec<Pending>>;

    /// Says no to a request.
    async fn deny_auth_request(&self, session: &SessionToken, request: RequestId) -> Answer<()>;

    /// Trades a renewal secret for the next session and the next secret.
    async fn renew_session(&self, renewal: &RenewalSecret) -> Answer<Minted>;

    /// Sets what an agent may do, wider or narrower; the next read obeys it. A session that was
    /// given less than its agent keeps to both.
    async fn set_scope(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        scope: Scope,
    ) -> Answer<AgentSummary>;

    /// Gives a revoked agent its right back; never a session or key.
    async fn reinstate_agent(&self, session: &SessionToken, agent: &AgentIdentity) -> Answer<()>;

    /// How it stands with the account's presence.
    async fn presence(&self, session: &SessionToken) -> Answer<Presence>;

    /// Sets the presence level, or another passphrase.
    async fn set_presence(&self, session: &SessionToken, new: &NewLevel) -> Answer<Presence>;

    /// Asks to be rid of a passphrase that was lost; it takes days, and everybody sees it.
    async fn ask_presence_reset(&self, session: &SessionToken) -> Answer<Presence>;

    /// Takes that back.
    async fn cancel_presence_reset(&self, session: &SessionToken) -> Answer<Presence>;

    /// Links a human name to an agent.
    async fn link_identity(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        identity: &AgentIdentity,
    ) -> Answer<AgentSummary>;

    /// Unlinks a human name.
    async fn unlink_identity(
        &self,
        session: &SessionToken,
        identity: &AgentIdentity,
    ) -> Answer<AgentSummary>;

    /// The agent that an identity of this account names.
    async fn resolve_identity(
        &self,
        session: &SessionToken,
        identity: &AgentIdentity,
    ) -> Answer<AgentSummary>;

    /// Sees to it that an agent has a key of a service: the one that is there, or one that the
    /// service makes for it. May be called again: no second key is made.
    ///
    /// # Errors
    /// `DENIED` where the scope does not name it, `NOT_FOUND` where the account has no way set
    /// up, `PROVISION_FAILED` with the step at which it stopped.
    async fn provision(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
    ) -> Answer<Provisioned> {
        let _ = (session, agent);
        Err(provision::no_way(service))
    }

    /// Sets up how keys of a service are got, for all agents of the account.
    async fn set_provider(
        &self,
        session: &SessionToken,
        service: &ServiceName,
        provider: &NewProvider,
    ) -> Answer<Provider> {
        let _ = (session, provider);
        Err(provision::no_way(service))
    }

    /// Forgets how keys of a service are got. Refused while keys are there that it made.
    async fn remove_provider(&self, session: &SessionToken, service: &ServiceName) -> Answer<()> {
        let _ = session;
        Err(provision::no_way(service))
    }

    /// How keys are got, by service; never a secret.
    async fn list_providers(&self, session: &SessionToken) -> Answer<Vec<Provider>> {
        let _ = session;
        Ok(Vec::new())
    }

    /// Asks the service whether what was set up still works there. Makes nothing.
    async fn check_provider(&self, session: &SessionToken, service: &ServiceName) -> Answer<()> {
        let _ = session;
        Err(provision::no_way(service))
    }

    /// Shows a head of the account's log that was seen before; one that the log does not have in
    /// it is put on record, and stops what raises rights. The session may be missing: the head
    /// itself is the proof.
    async fn compare_head(&self, session: Option<&SessionToken>, head: &Head) -> Answer<Compared>;

    /// Accepts that the log was set back behind a head, which is given up with all that followed
    /// from it.
    async fn accept_head(&self, session: &SessionToken, head: &Head) -> Answer<()>;

    /// The newest signed head that an answer carried, if any did.
    fn last_head(&self) -> Option<Head>;
}
