//! The contract's trait: what CLI, daemon and provisioner know of a backend.
//!
//! The vault (in process) and the client (HTTP) implement it, and a third party can add another
//! without touching its callers.
mod shapes;

use std::time::Duration;

use async_trait::async_trait;

pub use self::shapes::*;
use super::audit::Head;
use super::decision::Decision;
use super::gateway::{RequestHead, WholeAnswer};
use super::identity::{AgentIdentity, Alias, ServiceName};
use super::otp::PairCode;
use super::payment::PaymentRail;
use super::presence::{NewLevel, Presence};
use super::problem::Answer;
use super::provision::{self, NewProvider, Provider, Provisioned};
use super::scope::Scope;
use super::secret::SecretBytes;
use super::set_back::Compared;
use super::sign_in::{Flow, SignInStart};
use super::terms::{Exposure, Terms, TermsChange};
use super::token::{OpenToken, RegistrationToken, RenewalSecret, SessionToken};
use super::types::{ChildKeys, Hash32, RequestId};

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

    /// One credential, for the environment of a program: what may be injected, and need not be
    /// revealed.
    async fn inject_credential(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
    ) -> Answer<SecretBytes>;

    /// All of an agent's credentials that its scope allows and that may be injected, for the
    /// environment of a program; one audit event each.
    async fn read_all(&self, session: &SessionToken, agent: &AgentIdentity)
    -> Answer<Vec<Release>>;

    /// Brings the version before the current one back.
    async fn roll_back_credential(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
    ) -> Answer<CredentialSummary>;

    /// Sets on what terms an agent has a credential, which need not be there yet; gives them as
    /// they are then. A change of nothing shows them.
    async fn set_terms(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
        change: TermsChange,
    ) -> Answer<Terms>;

    /// Sets how far credentials are shown of which nobody said otherwise, for all agents of the
    /// account; gives it as it is then. Nothing to set shows it.
    async fn default_exposure(
        &self,
        session: &SessionToken,
        tier: Option<Exposure>,
    ) -> Answer<Exposure>;

    /// Deletes a credential with all its versions.
    async fn delete_credential(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
    ) -> Answer<()>;

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

    /// Forgets how keys of a service are got. Refused while keys are there that it made, unless
    /// they are abandoned: they stay at the service, for somebody else to end.
    async fn remove_provider(
        &self,
        session: &SessionToken,
        service: &ServiceName,
        abandon: bool,
    ) -> Answer<()> {
        let _ = (session, abandon);
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

    /// Sends a request of an agent's to its service, with the key put in, and gives what it answers, of
    /// its body `most` bytes. Never sent twice.
    ///
    /// # Errors
    /// `NOT_FOUND` where the backend has no gateway, as every backend that says nothing else.
    async fn send_request(
        &self,
        session: &SessionToken,
        head: &RequestHead,
        body: Vec<u8>,
        most: usize,
    ) -> Answer<WholeAnswer> {
        let _ = (session, head, body, most);
        Err(super::gateway::none())
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
