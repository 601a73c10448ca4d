//! The traits, method by method: what goes into the request and what comes out of the answer.
use std::sync::PoisonError;
use std::time::Duration;

use async_trait::async_trait;

use super::ask::Ask;
use super::{HttpBackend, fault};
use crate::core::audit::Head;
use crate::core::backend::{
    AccountBackend, AgentSummary, Approved, AuditFilter, AuditPage, ClientInfo, CredentialBackend,
    CredentialSummary, Fetched, Grant, IdentityProof, Minted, OpenRequest, Opened, Pending,
    Release, RevokeTarget, ShieldingKey, WhoAmI,
};
use crate::core::decision::Decision;
use crate::core::gateway::{RequestHead, WholeAnswer};
use crate::core::identity::{AgentIdentity, Alias, ServiceName};
use crate::core::otp::PairCode;
use crate::core::payment::{Amount, Balance, Layer, PaymentRail, Spending};
use crate::core::presence::{Act, NewLevel, Presence};
use crate::core::problem::{Answer, Problem};
use crate::core::provision::{NewProvider, Provider, Provisioned};
use crate::core::scope::Scope;
use crate::core::secret::SecretBytes;
use crate::core::set_back::Compared;
use crate::core::sign_in::{Flow, SignInStart};
use crate::core::terms::{Exposure, Terms, TermsChange};
use crate::core::token::{OpenToken, RegistrationToken, RenewalSecret, SessionToken};
use crate::core::types::{ChildKeys, Hash32, RequestId};
use crate::core::wire::{self, AuthToken, RequestDetails, Route, Shown};

/// How much longer than other requests one may take whose answer a service has to give.
const PROVISION: Duration = Duration::from_secs(40);

/// The text that serde gives a unit variant.
fn word<T: serde::Serialize>(value: &T) -> Answer<String> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => Ok(text),
        _ => Err(Problem::internal()),
    }
}

fn as_session(route: Route, session: &SessionToken) -> Ask {
    // The token leaves here, for the one server that it is for.
    Ask::new(route).bearer(session.expose())
}

impl HttpBackend {
    async fn post<B: serde::Serialize, T: serde::de::DeserializeOwned>(
        &self,
        route: Route,
        session: &SessionToken,
        body: &B,
    ) -> Answer<T> {
        self.get(as_session(route, session).body(Self::json(body, 0)?)).await
    }

    /// The same for an act that raises what someone may do.
    async fn hand_out(
        &self,
        route: Route,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
    ) -> Answer<SecretBytes> {
        let ask = || {
            let ask = as_session(route, session);
            Ok(ask.field("agent_id", agent).field("service", service))
        };
        let read = self.raise::<wire::Credential>(Act::Read { agent, service }, ask);
        read.await.map(|answer| answer.credential.0)
    }

    async fn raise_by<B: serde::Serialize + Sync, T: serde::de::DeserializeOwned>(
        &self,
        act: Act<'_>,
        route: Route,
        session: &SessionToken,
        body: &B,
    ) -> Answer<T> {
        self.raise(act, || Ok(as_session(route, session).body(Self::json(body, 0)?))).await
    }
}

#[async_trait]
impl CredentialBackend for HttpBackend {
    async fn create_session(&self, proof: IdentityProof, client: ClientInfo) -> Answer<Minted> {
        // The proof leaves here, for the server that is to check it.
        let (token, ticket) = match proof {
            IdentityProof::Peer => (None, None),
            IdentityProof::Token(token) => (Some(token), None),
            IdentityProof::IdToken { token, ticket } => (Some(token), Some(Shown(ticket))),
        };
        if token.as_ref().is_some_and(|token| std::str::from_utf8(token.expose()).is_err()) {
            return Err(Problem::invalid("auth_token", "auth_token wants UTF-8"));
        }
        let auth_token = token.map(|token| Shown(AuthToken(token)));
        let size = auth_token.as_ref().map_or(0, |token| token.0.0.len());
        let request = wire::CreateSession { auth_token, ticket, client: Some(client) };
        let ask = Ask::new(Route::SessionCreate).body(Self::json(&request, size * 6)?);
        self.get::<wire::Session>(ask).await.map(Into::into)
    }

    async fn create_child_session(
        &self,
        parent: &SessionToken,
        agent: Option<&AgentIdentity>,
        scope: Scope,
    ) -> Answer<Minted> {
        let act = Act::Child { agent, scope: &scope };
        let request = wire::CreateChild { scope: Some(scope.clone()), agent_id: agent.cloned() };
        let made = self.raise_by::<_, wire::Session>(act, Route::SessionChild, parent, &request);
        made.await.map(Into::into)
    }

    async fn store_credential(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
        sealed: Vec<u8>,
    ) -> Answer<()> {
        let request = wire::StoreCredential {
            agent_id: agent.clone(),
            service: service.clone(),
            ciphertext: sealed,
        };
        let wire::Done {} = self.post(Route::CredentialStore, session, &request).await?;
        Ok(())
    }

    async fn read_credential(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
    ) -> Answer<SecretBytes> {
        self.hand_out(Route::CredentialRead, session, agent, service).await
    }

    async fn query_audit(&self, session: &SessionToken, filter: AuditFilter) -> Answer<AuditPage> {
        let action = filter.action.as_ref().map(word).transpose()?;
        let outcome = filter.outcome.as_ref().map(word).transpose()?;
        let mut ask = as_session(Route::AuditQuery, session)
            .optional("agent_id", filter.agent_id)
            .optional("service", filter.service)
            .optional("action", action)
            .optional("outcome", outcome)
            .optional("since", filter.since)
            .optional("until", filter.until)
            .optional("from", filter.from)
            .optional("limit", filter.limit);
        if let Some(seconds) = filter.wait {
            ask = ask.wait(Duration::from_secs(seconds));
        }
        self.get(ask).await
    }

    async fn revoke_session(&self, session: &SessionToken, target: RevokeTarget) -> Answer<()> {
        let request = wire::Revoke::from(target);
        let wire::Done {} = self.post(Route::SessionRevoke, session, &request).await?;
        Ok(())
    }

    async fn teardown_agent(&self, session: &SessionToken, agent: &AgentIdentity) -> Answer<()> {
        let request = wire::OneAgent { agent_id: agent.clone() };
        let wire::Done {} = self.post(Route::CredentialTeardown, session, &request).await?;
        Ok(())
    }

    async fn shielding_key(&self) -> Answer<ShieldingKey> {
        self.get(Ask::new(Route::ShieldingKey)).await
    }

    async fn register_rendezvous(
        &self,
        open: &OpenToken,
        pair_code: PairCode,
        keys: ChildKeys,
    ) -> Answer<RegistrationToken> {
        let request = wire::Register { daemon_pubkey: keys, pair_code };
        let ask = Ask::new(Route::RendezvousRegister).bearer(open.expose());
        let answer: wire::Registered = self.get(ask.body(Self::json(&request, 0)?)).await?;
        Ok(answer.registration_token.0)
    }

    async fn poll_rendezvous(
        &self,
        registration: &RegistrationToken,
        wait: Duration,
    ) -> Answer<Option<Vec<u8>>> {
        let ask = Ask::new(Route::RendezvousPoll).bearer(registration.expose()).wait(wait);
        Ok(self.poll::<wire::Polled>(ask).await?.map(|answer| answer.payload))
    }

    async fn deliver_rendezvous(
        &self,
        session: &SessionToken,
        pair_code: PairCode,
        payload: Vec<u8>,
    ) -> Answer<()> {
        let request = wire::Deliver { pair_code, payload };
        let wire::Done {} = self.post(Route::RendezvousDeliver, session, &request).await?;
        Ok(())
    }

    async fn open_auth_request(&self, request: OpenRequest) -> Answer<Opened> {
        let details = request.details.canonical();
        let details =
            details.map_err(|error| Problem::invalid("request_details", error.to_string()))?;
        let body = wire::OpenAuthRequest {
            child_pubkey: request.keys,
            request_type: request.details.kind(),
            request_details: RequestDetails::Canonical(details),
        };
        let mut ask = Ask::new(Route::AuthRequestOpen).body(Self::json(&body, 0)?);
        if let Some(session) = &request.session {
            ask = ask.bearer(session.expose());
        }
        self.get::<wire::OpenedRequest>(ask).await.map(Into::into)
    }

    async fn fetch_auth_request(
        &self,
        session: &SessionToken,
        pair_code: PairCode,
    ) -> Answer<Fetched> {
        let route = Route::AuthRequestFetch;
        let ask = as_session(route, session).field("pair_code", pair_code);
        let fetched = self.get::<wire::FetchedRequest>(ask).await?.checked();
        fetched.ok_or_else(|| {
            let why = "what it shows is not what its canonical details say";
            fault::not_wire(self.address(), route, why)
        })
    }

    async fn approve_auth_request(
        &self,
        session: &SessionToken,
        request: RequestId,
        seen: Option<Hash32>,
        grant: Grant,
    ) -> Answer<Approved> {
        let body = wire::Approve { request_id: request, seen, grant: Some(grant.clone()) };
        let act = Act::Approve { request, seen, grant: &grant };
        self.raise_by(act, Route::AuthRequestApprove, session, &body).await
    }

    async fn await_auth_decision(
        &self,
        open: &OpenToken,
        request: RequestId,
        wait: Duration,
    ) -> Answer<Option<Decision>> {
        let ask = Ask::new(Route::AuthRequestAwait)
            .bearer(open.expose())
            .field("request_id", request)
            .wait(wait);
        self.poll(ask).await
    }
}

#[async_trait]
impl PaymentRail for HttpBackend {
    async fn check_balance(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        layer: Layer,
    ) -> Answer<Balance> {
        let ask = as_session(Route::PaymentBalance, session)
            .field("agent_id", agent)
            .field("layer", layer.as_str());
        self.get(ask).await
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
        let request = wire::Debit {
            agent_id: agent.clone(),
            layer,
            amount,
            service: service.cloned(),
            reference: reference.to_owned(),
        };
        self.post(Route::PaymentDebit, session, &request).await
    }

    async fn fund_child(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        layer: Layer,
        amount: Amount,
    ) -> Answer<Balance> {
        let request = wire::Fund { agent_id: agent.clone(), layer, amount };
        let act = Act::Fund { agent, layer, amount };
        self.raise_by(act, Route::PaymentFund, session, &request).await
    }

    async fn spending_history(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        limit: usize,
    ) -> Answer<Vec<Spending>> {
        let ask = as_session(Route::PaymentHistory, session)
            .field("agent_id", agent)
            .field("limit", limit);
        Ok(self.get::<wire::History>(ask).await?.history)
    }

    fn display_name(&self) -> &'static str {
        wire::RAIL_NAME
    }
}

#[async_trait]
impl AccountBackend for HttpBackend {
    async fn provision(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
    ) -> Answer<Provisioned> {
        let request = wire::Provision { agent_id: agent.clone(), service: service.clone() };
        // The backend may have to wait for the service.
        let mut ask = as_session(Route::Provision, session).body(Self::json(&request, 0)?);
        ask.patience = PROVISION;
        let came: wire::ProvisionAnswer = self.get(ask).await?;
        Ok(came.into())
    }

    async fn set_provider(
        &self,
        session: &SessionToken,
        service: &ServiceName,
        provider: &NewProvider,
    ) -> Answer<Provider> {
        let act = Act::SetProvider { service, provider };
        let request = wire::SetProvider {
            service: service.clone(),
            way: provider.way,
            settings: provider.settings.clone(),
            secret: provider.sealed.clone().map(wire::Ciphertext),
        };
        self.raise_by(act, Route::ProviderSet, session, &request).await
    }

    async fn remove_provider(
        &self,
        session: &SessionToken,
        service: &ServiceName,
        abandon: bool,
    ) -> Answer<()> {
        let request = wire::RemoveProvider { service: service.clone(), abandon };
        let wire::Done {} = self.post(Route::ProviderRemove, session, &request).await?;
        Ok(())
    }

    async fn list_providers(&self, session: &SessionToken) -> Answer<Vec<Provider>> {
        let list: wire::Providers = self.get(as_session(Route::ProviderList, session)).await?;
        Ok(list.providers)
    }

    async fn check_provider(&self, session: &SessionToken, service: &ServiceName) -> Answer<()> {
        let request = wire::OneService { service: service.clone() };
        let mut ask = as_session(Route::ProviderCheck, session).body(Self::json(&request, 0)?);
        ask.patience = PROVISION;
        let wire::Done {} = self.get(ask).await?;
        Ok(())
    }

    async fn begin_sign_in(&self, flow: Flow) -> Answer<SignInStart> {
        let body = Self::json(&wire::BeginSignIn { flow }, 0)?;
        let ask = Ask::new(Route::SignInBegin).body(body);
        self.get::<wire::SignInBegun>(ask).await.map(Into::into)
    }

    async fn who_am_i(&self, session: &SessionToken) -> Answer<WhoAmI> {
        self.get(as_session(Route::SessionShow, session)).await
    }

    async fn create_agent(&self, session: &SessionToken, name: &Alias) -> Answer<AgentSummary> {
        let request = wire::CreateAgent { name: name.clone() };
        self.post(Route::AgentCreate, session, &request).await
    }

    async fn list_agents(&self, session: &SessionToken) -> Answer<Vec<AgentSummary>> {
        Ok(self.get::<wire::Agents>(as_session(Route::AgentList, session)).await?.agents)
    }

    async fn list_credentials(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
    ) -> Answer<Vec<CredentialSummary>> {
        let ask = as_session(Route::CredentialList, session).field("agent_id", agent);
        Ok(self.get::<wire::Credentials>(ask).await?.credentials)
    }

    async fn inject_credential(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
    ) -> Answer<SecretBytes> {
        self.hand_out(Route::CredentialInject, session, agent, service).await
    }

    async fn set_terms(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
        change: TermsChange,
    ) -> Answer<Terms> {
        let act = Act::SetTerms { agent, service, change: &change };
        let request = wire::SetTerms {
            agent_id: agent.clone(),
            service: service.clone(),
            expose: change.expose,
            rules: change.rules.clone(),
            budget: change.budget.clone(),
        };
        self.raise_by(act, Route::CredentialTerms, session, &request).await
    }

    async fn read_all(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
    ) -> Answer<Vec<Release>> {
        let ask = || Ok(as_session(Route::CredentialReadAll, session).field("agent_id", agent));
        let answer: wire::AllReleased = self.raise(Act::ReadAll { agent }, ask).await?;
        Ok(answer.credentials.into_iter().map(Into::into).collect())
    }

    async fn default_exposure(
        &self,
        session: &SessionToken,
        tier: Option<Exposure>,
    ) -> Answer<Exposure> {
        let request = wire::DefaultExposure { expose: tier };
        let answer: wire::DefaultExposure = match tier {
            Some(tier) => {
                let act = Act::SetDefault { tier };
                self.raise_by(act, Route::CredentialDefault, session, &request).await?
            }
            None => self.post(Route::CredentialDefault, session, &request).await?,
        };
        answer.expose.ok_or_else(Problem::internal)
    }

    async fn roll_back_credential(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
    ) -> Answer<CredentialSummary> {
        let request = wire::OneCredential { agent_id: agent.clone(), service: service.clone() };
        self.post(Route::CredentialRollBack, session, &request).await
    }

    async fn delete_credential(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
    ) -> Answer<()> {
        let request = wire::OneCredential { agent_id: agent.clone(), service: service.clone() };
        let wire::Done {} = self.post(Route::CredentialDelete, session, &request).await?;
        Ok(())
    }

    async fn list_pending(&self, session: &SessionToken) -> Answer<Vec<Pending>> {
        let ask = as_session(Route::AuthRequestPending, session);
        Ok(self.get::<wire::PendingRequests>(ask).await?.requests)
    }

    async fn deny_auth_request(&self, session: &SessionToken, request: RequestId) -> Answer<()> {
        let body = wire::Deny { request_id: request };
        let wire::Done {} = self.post(Route::AuthRequestDeny, session, &body).await?;
        Ok(())
    }

    async fn renew_session(&self, renewal: &RenewalSecret) -> Answer<Minted> {
        // The secret leaves here, for the server that gave it.
        let ask = Ask::new(Route::SessionRenew).bearer(renewal.expose());
        self.get::<wire::Session>(ask).await.map(Into::into)
    }

    async fn set_scope(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        scope: Scope,
    ) -> Answer<AgentSummary> {
        let act = Act::SetScope { agent, scope: &scope };
        let request = wire::SetScope { agent_id: agent.clone(), scope: scope.clone() };
        self.raise_by(act, Route::AgentScope, session, &request).await
    }

    async fn reinstate_agent(&self, session: &SessionToken, agent: &AgentIdentity) -> Answer<()> {
        let request = wire::OneAgent { agent_id: agent.clone() };
        let act = Act::Reinstate { agent };
        let done = self.raise_by(act, Route::AgentReinstate, session, &request);
        let wire::Done {} = done.await?;
        Ok(())
    }

    async fn presence(&self, session: &SessionToken) -> Answer<Presence> {
        self.get(as_session(Route::PresenceShow, session)).await
    }

    async fn set_presence(&self, session: &SessionToken, new: &NewLevel) -> Answer<Presence> {
        self.raise_by(Act::SetPresence { new }, Route::PresenceSet, session, new).await
    }

    async fn ask_presence_reset(&self, session: &SessionToken) -> Answer<Presence> {
        self.post(Route::PresenceReset, session, &wire::Nothing {}).await
    }

    async fn cancel_presence_reset(&self, session: &SessionToken) -> Answer<Presence> {
        self.post(Route::PresenceCancelReset, session, &wire::Nothing {}).await
    }

    async fn link_identity(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        identity: &AgentIdentity,
    ) -> Answer<AgentSummary> {
        let request = wire::Link { agent_id: agent.clone(), identity: identity.clone() };
        let act = Act::Link { agent, identity };
        self.raise_by(act, Route::IdentityLink, session, &request).await
    }

    async fn unlink_identity(
        &self,
        session: &SessionToken,
        identity: &AgentIdentity,
    ) -> Answer<AgentSummary> {
        let request = wire::Unlink { identity: identity.clone() };
        self.post(Route::IdentityUnlink, session, &request).await
    }

    async fn resolve_identity(
        &self,
        session: &SessionToken,
        identity: &AgentIdentity,
    ) -> Answer<AgentSummary> {
        let ask = as_session(Route::IdentityResolve, session).field("identity", identity);
        self.get(ask).await
    }

    async fn send_request(
        &self,
        session: &SessionToken,
        head: &RequestHead,
        body: Vec<u8>,
        most: usize,
    ) -> Answer<WholeAnswer> {
        self.send_whole(session, head, body, most).await
    }

    async fn compare_head(&self, session: Option<&SessionToken>, head: &Head) -> Answer<Compared> {
        let ask = match session {
            Some(session) => as_session(Route::AuditCompare, session),
            None => Ask::new(Route::AuditCompare),
        };
        let request = wire::OneHead { head: head.clone() };
        self.get(ask.body(Self::json(&request, 0)?)).await
    }

    async fn accept_head(&self, session: &SessionToken, head: &Head) -> Answer<()> {
        let request = wire::OneHead { head: head.clone() };
        let act = Act::AcceptHead { head };
        let wire::Done {} = self.raise_by(act, Route::AuditAccept, session, &request).await?;
        Ok(())
    }

    fn last_head(&self) -> Option<Head> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
