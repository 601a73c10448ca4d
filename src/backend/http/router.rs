//! One match from method and path to a typed action, and one from the action to the trait.
use super::call::Call;
use super::reply::Reply;
use super::{
    Forward, agent, audit, auth_request, credential, gateway, identity, meta, payment, presence,
    provider, rendezvous, session,
};
use crate::core::backend::AccountBackend;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::wire::Route;

/// Everything that the wire can ask for.
pub enum Action {
    /// Health, version, description, shielding key.
    Meta(meta::Action),
    /// See [`session`].
    Session(session::Action),
    /// See [`agent`].
    Agent(agent::Action),
    /// See [`credential`].
    Credential(credential::Action),
    /// See [`audit`].
    Audit(audit::Action),
    /// See [`rendezvous`].
    Rendezvous(rendezvous::Action),
    /// See [`auth_request`].
    AuthRequest(auth_request::Action),
    /// See [`identity`].
    Identity(identity::Action),
    /// See [`payment`].
    Payment(payment::Action),
    /// See [`presence`].
    Presence(presence::Action),
    /// See [`provider`].
    Provider(provider::Action),
    /// See [`gateway`].
    Gateway(gateway::Action),
}

/// Why there is no endpoint.
#[derive(Debug, PartialEq, Eq)]
pub enum NoRoute {
    /// Nothing is at this path.
    Path,
    /// The path takes these methods only, as the `Allow` header lists them.
    Method(String),
}

/// The endpoint of a method and a path.
pub fn find(method: &str, path: &str) -> Result<Route, NoRoute> {
    Route::find(method, path).ok_or_else(|| {
        let there = Route::ALL.iter().filter(|route| route.path() == path);
        let methods: Vec<_> = there.map(|route| route.method()).collect();
        if methods.is_empty() { NoRoute::Path } else { NoRoute::Method(methods.join(", ")) }
    })
}

impl From<&NoRoute> for Problem {
    fn from(why: &NoRoute) -> Self {
        const FIX: &str = "GET /openapi.json lists what there is";
        match why {
            NoRoute::Path => {
                Self::new(Code::NotFound, "no such endpoint", "nothing is at this path", FIX)
            }
            NoRoute::Method(allowed) => {
                let cause = format!("this path takes {allowed}");
                let mut problem = Self::new(Code::Invalid, "method not allowed", cause, FIX);
                problem.status = 405;
                problem
            }
        }
    }
}

/// What the request asks for. Nothing is done yet.
pub fn parse(route: Route, call: &Call<'_>) -> Answer<Action> {
    Ok(match route {
        Route::Health => Action::Meta(meta::parse(call, meta::Action::Health)?),
        Route::Version => Action::Meta(meta::parse(call, meta::Action::Version)?),
        Route::OpenApi => Action::Meta(meta::parse(call, meta::Action::OpenApi)?),
        Route::ShieldingKey => Action::Meta(meta::parse(call, meta::Action::ShieldingKey)?),
        Route::SignInBegin => Action::Session(session::begin(call)?),
        Route::SessionShow => Action::Session(session::show(call)?),
        Route::SessionCreate => Action::Session(session::create(call)?),
        Route::SessionChild => Action::Session(session::child(call)?),
        Route::SessionRenew => Action::Session(session::renew(call)?),
        Route::SessionRevoke => Action::Session(session::revoke(call)?),
        Route::AgentCreate => Action::Agent(agent::create(call)?),
        Route::AgentList => Action::Agent(agent::list(call)?),
        Route::AgentScope => Action::Agent(agent::scope(call)?),
        Route::AgentReinstate => Action::Agent(agent::reinstate(call)?),
        Route::CredentialList => Action::Credential(credential::list(call)?),
        Route::CredentialStore => Action::Credential(credential::store(call)?),
        Route::CredentialRead => Action::Credential(credential::read(call)?),
        Route::CredentialReadAll => Action::Credential(credential::read_all(call)?),
        Route::CredentialInject => Action::Credential(credential::inject(call)?),
        Route::CredentialTerms => Action::Credential(credential::terms(call)?),
        Route::CredentialDefault => Action::Credential(credential::default_exposure(call)?),
        Route::GatewayPlaces => Action::Gateway(gateway::places(call)?),
        Route::CredentialDelete => Action::Credential(credential::delete(call)?),
        Route::CredentialRollBack => Action::Credential(credential::roll_back(call)?),
        Route::CredentialTeardown => Action::Credential(credential::teardown(call)?),
        Route::AuditQuery => Action::Audit(audit::query(call)?),
        Route::AuditCompare => Action::Audit(audit::compare(call)?),
        Route::AuditAccept => Action::Audit(audit::accept(call)?),
        Route::RendezvousRegister => Action::Rendezvous(rendezvous::register(call)?),
        Route::RendezvousPoll => Action::Rendezvous(rendezvous::poll(call)?),
        Route::RendezvousDeliver => Action::Rendezvous(rendezvous::deliver(call)?),
        Route::AuthRequestOpen => Action::AuthRequest(auth_request::open(call)?),
        Route::AuthRequestFetch => Action::AuthRequest(auth_request::fetch(call)?),
        Route::AuthRequestPending => Action::AuthRequest(auth_request::pending(call)?),
        Route::AuthRequestApprove => Action::AuthRequest(auth_request::approve(call)?),
        Route::AuthRequestDeny => Action::AuthRequest(auth_request::deny(call)?),
        Route::AuthRequestAwait => Action::AuthRequest(auth_request::await_decision(call)?),
        Route::IdentityLink => Action::Identity(identity::link(call)?),
        Route::IdentityUnlink => Action::Identity(identity::unlink(call)?),
        Route::IdentityResolve => Action::Identity(identity::resolve(call)?),
        Route::PresenceShow => Action::Presence(presence::show(call)?),
        Route::PresenceSet => Action::Presence(presence::set(call)?),
        Route::PresenceReset => Action::Presence(presence::reset(call)?),
        Route::PresenceCancelReset => Action::Presence(presence::cancel_reset(call)?),
        Route::Provision => Action::Provider(provider::provision(call)?),
        Route::ProviderList => Action::Provider(provider::list(call)?),
        Route::ProviderSet => Action::Provider(provider::set(call)?),
        Route::ProviderCheck => Action::Provider(provider::check(call)?),
        Route::ProviderRemove => Action::Provider(provider::remove(call)?),
        Route::PaymentBalance => Action::Payment(payment::balance(call)?),
        Route::PaymentFund => Action::Payment(payment::fund(call)?),
        Route::PaymentDebit => Action::Payment(payment::debit(call)?),
        Route::PaymentHistory => Action::Payment(payment::history(call)?),
    })
}

impl Action {
    /// Does it; `gateway` knows where services are.
    pub async fn apply(
        self,
        backend: &dyn AccountBackend,
        gateway: Option<&dyn Forward>,
    ) -> Answer<Reply> {
        match self {
            Self::Gateway(action) => action.apply(backend, gateway).await,
            Self::Meta(action) => action.apply(backend).await,
            Self::Session(action) => action.apply(backend).await,
            Self::Agent(action) => action.apply(backend).await,
            Self::Credential(action) => action.apply(backend).await,
            Self::Audit(action) => action.apply(backend).await,
            Self::Rendezvous(action) => action.apply(backend).await,
            Self::AuthRequest(action) => action.apply(backend).await,
            Self::Identity(action) => action.apply(backend).await,
            Self::Payment(action) => action.apply(backend).await,
            Self::Presence(action) => action.apply(backend).await,
            Self::Provider(action) => action.apply(backend).await,
        }
    }
}

/// Whether what it does must be finished even if its client has gone. Fetching binds a request
/// to an account, so it is one of them.
pub fn must_finish(route: Route) -> bool {
    route.has_body() || route == Route::AuthRequestFetch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_path_and_a_wrong_method_are_told_apart() {
        assert_eq!(find("GET", "/agents"), Ok(Route::AgentList));
        assert_eq!(find("PUT", "/agents"), Err(NoRoute::Method("POST, GET".into())));
        assert_eq!(find("GET", "/agents/"), Err(NoRoute::Path));
        assert_eq!(find("get", "/health"), Err(NoRoute::Method("GET".into())));
        assert_eq!(Problem::from(&NoRoute::Method("GET".into())).status, 405);
    }
}
