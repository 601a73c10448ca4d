//! The vault as one peer may use it: the contract's traits over the operations. Each operation
//! is decided again when something it was decided by changed before its commit.
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use super::access::Access;
use super::rows::AccountRow;
use super::{Inner, MAX_TRIES, answer};
use crate::backend::peer::Peer;
use crate::core::audit::Head;
use crate::core::backend::{
    AccountBackend, AgentSummary, Approved, AuditFilter, AuditPage, ClientInfo, CredentialBackend,
    CredentialSummary, Fetched, Grant, IdentityProof, Minted, OpenRequest, Opened, Pending,
    Release, RevokeTarget, ShieldingKey, WhoAmI,
};
use crate::core::decision::Decision;
use crate::core::identity::{AgentIdentity, Alias, ServiceName};
use crate::core::otp::PairCode;
use crate::core::payment::{Amount, Balance, Layer, PaymentRail, Spending};
use crate::core::presence::{NewLevel, Presence, Proof};
use crate::core::problem::Answer;
use crate::core::provision::{NewProvider, Provider, Provisioned};
use crate::core::scope::Scope;
use crate::core::secret::SecretBytes;
use crate::core::set_back::Compared;
use crate::core::sign_in::{Flow, SignInStart};
use crate::core::terms::{Exposure, Terms, TermsChange};
use crate::core::token::{OpenToken, RegistrationToken, RenewalSecret, SessionToken};
use crate::core::types::{AccountId, ChildKeys, Hash32, RequestId};

/// The vault for one peer. Knows whose head the last answer of a master carries.
pub struct Caller {
    vault: Arc<Inner>,
    peer: Peer,
    proof: Option<Proof>,
    answered: Mutex<Option<AccountId>>,
}

/// Runs an operation until it was decided on what is still true.
macro_rules! until_settled {
    ($attempt:expr) => {{
        for _ in 0..MAX_TRIES {
            if let Some(done) = $attempt {
                return Ok(done);
            }
        }
        Err(answer::busy())
    }};
}

/// The same for operations that only say whether they are done.
macro_rules! until_done {
    ($attempt:expr) => {{
        for _ in 0..MAX_TRIES {
            if $attempt {
                return Ok(());
            }
        }
        Err(answer::busy())
    }};
}

impl Caller {
    pub(super) fn new(vault: Arc<Inner>, peer: Peer) -> Self {
        Self { vault, peer, proof: None, answered: Mutex::new(None) }
    }

    /// The same with a proof of presence, for one call.
    pub fn proving(self, proof: Option<Proof>) -> Self {
        Self { proof, ..self }
    }

    async fn access(&self, session: &SessionToken) -> Answer<Access> {
        let mut access = self.vault.authenticate(session).await?;
        (access.peer, access.proof) = (Some(self.peer.clone()), self.proof);
        if access.agent.is_none() {
            self.answers(&access.account.row).await?;
        }
        Ok(access)
    }

    /// Notes whose head the answer carries, and that its chain's end is known.
    async fn answers(&self, account: &AccountRow) -> Answer<()> {
        self.vault.chain_end(account.id).await?;
        // Opened now, so that signing the head later cannot fail.
        self.vault.master_key(account)?;
        *self.answered.lock().unwrap_or_else(|e| e.into_inner()) = Some(account.id);
        Ok(())
    }
}

#[async_trait]
impl CredentialBackend for Caller {
    async fn create_session(&self, proof: IdentityProof, client: ClientInfo) -> Answer<Minted> {
        let (account, minted) = self.vault.create_session(&self.peer, proof, client).await?;
        self.answers(&self.vault.account(account).await?.row).await?;
        Ok(minted)
    }

    async fn create_child_session(
        &self,
        parent: &SessionToken,
        agent: Option<&AgentIdentity>,
        scope: Scope,
    ) -> Answer<Minted> {
        until_settled!({
            let access = self.access(parent).await?;
            self.vault.create_child_session(&access, agent, &scope).await?
        })
    }

    async fn store_credential(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
        sealed: Vec<u8>,
    ) -> Answer<()> {
        until_done!({
            let access = self.access(session).await?;
            self.vault.store(&access, agent, service, &sealed).await?
        })
    }

    async fn read_credential(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
    ) -> Answer<SecretBytes> {
        until_settled!({
            let access = self.access(session).await?;
            self.vault.read(&access, agent, service, Exposure::Reveal).await?
        })
    }

    async fn query_audit(&self, session: &SessionToken, filter: AuditFilter) -> Answer<AuditPage> {
        let access = self.access(session).await?;
        self.vault.query_audit(session, access, &filter).await
    }

    async fn revoke_session(&self, session: &SessionToken, target: RevokeTarget) -> Answer<()> {
        until_done!({
            let access = self.access(session).await?;
            self.vault.revoke(&access, &target).await?
        })
    }

    async fn teardown_agent(&self, session: &SessionToken, agent: &AgentIdentity) -> Answer<()> {
        until_done!({
            let access = self.access(session).await?;
            self.vault.teardown(&access, agent).await?
        })
    }

    async fn shielding_key(&self) -> Answer<ShieldingKey> {
        Ok(self.vault.shielding_key())
    }

    async fn register_rendezvous(
        &self,
        open: &OpenToken,
        pair_code: PairCode,
        keys: ChildKeys,
    ) -> Answer<RegistrationToken> {
        until_settled!(self.vault.register(&self.peer, open, pair_code, keys).await?)
    }

    async fn poll_rendezvous(
        &self,
        registration: &RegistrationToken,
        wait: Duration,
    ) -> Answer<Option<Vec<u8>>> {
        self.vault.poll(registration, wait).await
    }

    async fn deliver_rendezvous(
        &self,
        session: &SessionToken,
        pair_code: PairCode,
        payload: Vec<u8>,
    ) -> Answer<()> {
        until_done!({
            let access = self.access(session).await?;
            self.vault.deliver(&access, pair_code, &payload).await?
        })
    }

    async fn open_auth_request(&self, request: OpenRequest) -> Answer<Opened> {
        self.vault.open_request(&self.peer, &request).await
    }

    async fn fetch_auth_request(
        &self,
        session: &SessionToken,
        pair_code: PairCode,
    ) -> Answer<Fetched> {
        until_settled!({
            let access = self.access(session).await?;
            self.vault.fetch(&access, pair_code).await?
        })
    }

    async fn approve_auth_request(
        &self,
        session: &SessionToken,
        request: RequestId,
        seen: Option<Hash32>,
        grant: Grant,
    ) -> Answer<Approved> {
        until_settled!({
            let access = self.access(session).await?;
            self.vault.approve(&access, request, seen, &grant).await?
        })
    }

    async fn await_auth_decision(
        &self,
        open: &OpenToken,
        request: RequestId,
        wait: Duration,
    ) -> Answer<Option<Decision>> {
        self.vault.await_decision(open, request, wait).await
    }
}

#[async_trait]
impl AccountBackend for Caller {
    async fn provision(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
    ) -> Answer<Provisioned> {
        until_settled!({
            let access = self.access(session).await?;
            self.vault.provision(&access, agent, service).await?
        })
    }

    async fn set_provider(
        &self,
        session: &SessionToken,
        service: &ServiceName,
        provider: &NewProvider,
    ) -> Answer<Provider> {
        until_settled!({
            let access = self.access(session).await?;
            self.vault.set_provider(&access, service, provider).await?
        })
    }

    async fn remove_provider(
        &self,
        session: &SessionToken,
        service: &ServiceName,
        abandon: bool,
    ) -> Answer<()> {
        until_done!({
            let access = self.access(session).await?;
            self.vault.remove_provider(&access, service, abandon).await?
        })
    }

    async fn list_providers(&self, session: &SessionToken) -> Answer<Vec<Provider>> {
        let access = self.access(session).await?;
        self.vault.list_providers(&access).await
    }

    async fn check_provider(&self, session: &SessionToken, service: &ServiceName) -> Answer<()> {
        let access = self.access(session).await?;
        self.vault.check_provider(&access, service).await
    }

    async fn begin_sign_in(&self, flow: Flow) -> Answer<SignInStart> {
        self.vault.begin_sign_in(flow)
    }

    async fn who_am_i(&self, session: &SessionToken) -> Answer<WhoAmI> {
        let access = self.access(session).await?;
        self.vault.who_am_i(&access)
    }

    async fn create_agent(&self, session: &SessionToken, name: &Alias) -> Answer<AgentSummary> {
        until_settled!({
            let access = self.access(session).await?;
            self.vault.create_agent(&access, name).await?
        })
    }

    async fn list_agents(&self, session: &SessionToken) -> Answer<Vec<AgentSummary>> {
        let access = self.access(session).await?;
        self.vault.list_agents(&access).await
    }

    async fn list_credentials(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
    ) -> Answer<Vec<CredentialSummary>> {
        let access = self.access(session).await?;
        self.vault.list_credentials(&access, agent).await
    }

    async fn read_all(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
    ) -> Answer<Vec<Release>> {
        until_settled!({
            let access = self.access(session).await?;
            self.vault.read_all(&access, agent).await?
        })
    }

    async fn inject_credential(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
    ) -> Answer<SecretBytes> {
        until_settled!({
            let access = self.access(session).await?;
            self.vault.read(&access, agent, service, Exposure::Inject).await?
        })
    }

    async fn set_terms(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
        change: TermsChange,
    ) -> Answer<Terms> {
        until_settled!({
            let access = self.access(session).await?;
            self.vault.set_terms(&access, agent, service, &change).await?
        })
    }

    async fn default_exposure(
        &self,
        session: &SessionToken,
        tier: Option<Exposure>,
    ) -> Answer<Exposure> {
        until_settled!({
            let access = self.access(session).await?;
            self.vault.default_exposure(&access, tier).await?
        })
    }

    async fn roll_back_credential(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
    ) -> Answer<CredentialSummary> {
        until_settled!({
            let access = self.access(session).await?;
            self.vault.roll_back(&access, agent, service).await?
        })
    }

    async fn delete_credential(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
    ) -> Answer<()> {
        until_done!({
            let access = self.access(session).await?;
            self.vault.delete_credential(&access, agent, service).await?
        })
    }

    async fn list_pending(&self, session: &SessionToken) -> Answer<Vec<Pending>> {
        let access = self.access(session).await?;
        self.vault.list_pending(&access).await
    }

    async fn deny_auth_request(&self, session: &SessionToken, request: RequestId) -> Answer<()> {
        until_done!({
            let access = self.access(session).await?;
            self.vault.deny(&access, request).await?
        })
    }

    async fn renew_session(&self, renewal: &RenewalSecret) -> Answer<Minted> {
        let (account, minted) = self.vault.renew(renewal).await?;
        self.answers(&self.vault.account(account).await?.row).await?;
        Ok(minted)
    }

    async fn set_scope(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        scope: Scope,
    ) -> Answer<AgentSummary> {
        until_settled!({
            let access = self.access(session).await?;
            self.vault.set_scope(&access, agent, &scope).await?
        })
    }

    async fn reinstate_agent(&self, session: &SessionToken, agent: &AgentIdentity) -> Answer<()> {
        until_done!({
            let access = self.access(session).await?;
            self.vault.reinstate(&access, agent).await?
        })
    }

    async fn presence(&self, session: &SessionToken) -> Answer<Presence> {
        let access = self.access(session).await?;
        self.vault.presence(&access).await
    }

    async fn set_presence(&self, session: &SessionToken, new: &NewLevel) -> Answer<Presence> {
        until_settled!({
            let access = self.access(session).await?;
            self.vault.set_presence(&access, new).await?
        })
    }

    async fn ask_presence_reset(&self, session: &SessionToken) -> Answer<Presence> {
        until_settled!({
            let access = self.access(session).await?;
            self.vault.ask_presence_reset(&access).await?
        })
    }

    async fn cancel_presence_reset(&self, session: &SessionToken) -> Answer<Presence> {
        until_settled!({
            let access = self.access(session).await?;
            self.vault.cancel_presence_reset(&access).await?
        })
    }

    async fn link_identity(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        identity: &AgentIdentity,
    ) -> Answer<AgentSummary> {
        until_settled!({
            let access = self.access(session).await?;
            self.vault.link(&access, agent, identity).await?
        })
    }

    async fn unlink_identity(
        &self,
        session: &SessionToken,
        identity: &AgentIdentity,
    ) -> Answer<AgentSummary> {
        until_settled!({
            let access = self.access(session).await?;
            self.vault.unlink(&access, identity).await?
        })
    }

    async fn resolve_identity(
        &self,
        session: &SessionToken,
        identity: &AgentIdentity,
    ) -> Answer<AgentSummary> {
        let access = self.access(session).await?;
        self.vault.resolve(&access, identity).await
    }

    async fn compare_head(&self, session: Option<&SessionToken>, head: &Head) -> Answer<Compared> {
        until_settled!({
            let access = match session {
                Some(session) => Some(self.access(session).await?),
                None => None,
            };
            self.vault.compare_head(&self.peer, access.as_ref(), head).await?
        })
    }

    async fn accept_head(&self, session: &SessionToken, head: &Head) -> Answer<()> {
        until_done!({
            let access = self.access(session).await?;
            self.vault.accept_head(&access, head).await?
        })
    }

    fn last_head(&self) -> Option<Head> {
        let account = (*self.answered.lock().unwrap_or_else(|e| e.into_inner()))?;
        let end = self.vault.journal.end(account)?;
        self.vault.known_head(account, end).map(|head| (*head).clone())
    }
}

#[async_trait]
impl PaymentRail for Caller {
    async fn check_balance(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        layer: Layer,
    ) -> Answer<Balance> {
        let access = self.access(session).await?;
        self.vault.check_balance(&access, agent, layer).await
    }

    async fn debit(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        layer: Layer,
        amount: Amount,
        service: Option<&ServiceName>,
        reference: &str,
    ) -> Answer<Balance> {
        until_settled!({
            let access = self.access(session).await?;
            self.vault.debit(&access, agent, layer, amount, service, reference).await?
        })
    }

    async fn fund_child(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        layer: Layer,
        amount: Amount,
    ) -> Answer<Balance> {
        until_settled!({
            let access = self.access(session).await?;
            self.vault.fund(&access, agent, layer, amount).await?
        })
    }

    async fn spending_history(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        limit: usize,
    ) -> Answer<Vec<Spending>> {
        let access = self.access(session).await?;
        self.vault.spending_history(&access, agent, limit).await
    }

    fn display_name(&self) -> &'static str {
        "internal ledger"
    }
}
