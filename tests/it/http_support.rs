//! What the HTTP tests share: a backend that answers fixed values and writes down what it was
//! asked, and a real server in front of it on a real socket.
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agentkeys::backend::http::{
    self, Forward, Forwarded, Limits, ListenAddress, Listener, MakeBackend, Served, Stopped,
};
use agentkeys::backend::peer::Peer;
use agentkeys::core::audit::{Action, Actor, Entry, Event, GENESIS, Head, Outcome, Role};
use agentkeys::core::auth_request::{Details, Kind, Pair};
use agentkeys::core::backend::*;
use agentkeys::core::budget::{Budget, Spent};
use agentkeys::core::catalog::Sent;
use agentkeys::core::decision::{Decision, Granted, Verdict};
use agentkeys::core::gateway::{RequestHead, ServicePlace};
use agentkeys::core::identity::{AgentIdentity, Alias, ServiceName};
use agentkeys::core::otp::PairCode;
use agentkeys::core::payment::{Amount, Balance, Layer, PaymentRail, Spending};
use agentkeys::core::presence::{Level, NewLevel, Presence, Reset};
use agentkeys::core::problem::{Answer, Code, Problem};
use agentkeys::core::provision::{NewProvider, Provider, Provisioned, Recipe, Settings, Way};
use agentkeys::core::scope::Scope;
use agentkeys::core::secret::SecretBytes;
use agentkeys::core::set_back::{Compared, SetBack};
use agentkeys::core::sign_in::{Flow, SignInNews, SignInStart, SignInTicket, Ticket};
use agentkeys::core::terms::{Exposure, Terms, TermsChange};
use agentkeys::core::token::{OpenToken, RegistrationToken, RenewalSecret, SessionToken};
use agentkeys::core::types::*;
use async_trait::async_trait;
use ring::signature::Ed25519KeyPair;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The service whose read panics.
pub const PANICS: &str = "panics";
/// The service whose store and read take [`SLOW`].
pub const SLOWLY: &str = "slowly";
pub const SLOW: Duration = Duration::from_millis(300);
/// What a read gives.
pub const PLAINTEXT: &[u8] = b"sk-or-v1-\x00\xff plaintext";

pub fn master() -> SessionToken {
    SessionToken::master(&[1; 32])
}

/// The session whose every call is refused with [`refusal`].
pub fn refused() -> SessionToken {
    SessionToken::child(&[0xee; 32])
}

pub fn refusal() -> Problem {
    Problem::new(
        Code::RateLimited,
        "access denied: agent \"a\" was revoked",
        "revoked 2026-04-09 14:32:07 UTC by the master session on host \"Büro\"",
        "one way\nor another",
    )
    .retry_after(7)
}

/// Answers fixed values, and writes down what it was asked.
#[derive(Default)]
pub struct Fake {
    pub calls: Arc<Mutex<Vec<String>>>,
    pub peer: Option<Peer>,
    pub head: Mutex<Option<Head>>,
}

pub fn key() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[5; 32]).unwrap()
}

pub fn head(seq: u64) -> Head {
    Head::sign(BackendId([1; 16]), AccountId([2; 16]), seq, Hash32([3; 32]), &key())
}

pub fn agent_summary() -> AgentSummary {
    AgentSummary {
        wallet: WalletAddress([7; 20]),
        name: Some("My-Agent".into()),
        identities: vec!["My-Agent".parse().unwrap(), "a+b@x.org".parse().unwrap()],
        scope: scope(),
        revoked: Some(Revocation { at: Timestamp(5_000), by: "the master session".into() }),
        daemon: Some(Daemon {
            fingerprint: Hash32([8; 32]),
            since: Timestamp(4_500),
            last_used: Some(Timestamp(4_700)),
        }),
        created_at: Timestamp(4_000),
    }
}

pub fn scope() -> Scope {
    Scope {
        services: Some(["openrouter".parse().unwrap()].into()),
        read_only: true,
        ..Scope::default()
    }
}

pub fn details() -> Details {
    Details::Pair(Pair {
        host: Some("Büro-PC".parse().unwrap()),
        name: Some("My-Agent".parse().unwrap()),
        scope: scope(),
        user: Some("me".parse().unwrap()),
    })
}

pub fn fetched() -> Fetched {
    Fetched {
        id: RequestId([4; 16]),
        kind: Kind::Pair,
        details: details().canonical().unwrap(),
        child_pubkey: ChildKeys([6; 64]),
        otp: "012345".parse().unwrap(),
        created_at: Timestamp(1_000),
        expires_at: Timestamp(61_000),
        saw: Seen { address: "unix socket".into(), uid: Some(0), program: Some("/bin/x".into()) },
        agent: Some(agent_summary()),
        held: Some(2),
    }
}

pub fn decision() -> Decision {
    let mut decision = Decision {
        request_id: RequestId([4; 16]),
        kind: Kind::Pair,
        details: details().canonical().unwrap(),
        child_pubkey: ChildKeys([6; 64]),
        parent_session: Some(master().id()),
        created_at: Timestamp(1_000),
        nonce: Nonce([8; 32]),
        verdict: Verdict::Approved,
        backend_id: BackendId([1; 16]),
        account: AccountId([2; 16]),
        granted: Some(Granted {
            agent: WalletAddress([7; 20]),
            scope: scope(),
            expires_at: Timestamp(9_000),
            session_hash: Some(Hash32([9; 32])),
        }),
        master_key: PublicKey([0; 32]),
        signature: Signature([0; 64]),
    };
    decision.sign(&key());
    decision
}

pub fn page() -> AuditPage {
    let event = Event {
        by: Actor {
            host: Some("laptop".into()),
            role: Role::Master,
            user: Some("me".into()),
            session: Some(master().id()),
        },
        seq: 1,
        prev: GENESIS,
        time: Timestamp(2_000),
        agent: Some(WalletAddress([7; 20])),
        action: Action::Read,
        detail: Some("words".into()),
        account: AccountId([2; 16]),
        outcome: Outcome::Denied,
        request: Some(RequestId([4; 16])),
        service: Some("openrouter".parse().unwrap()),
        presence: "none".into(),
        set_backs: None,
        agent_name: Some("My-Agent".into()),
    };
    AuditPage {
        events: vec![Entry::Event(Box::new(event)), Entry::Damaged { damaged: 2 }],
        next: Some(3),
        head: head(2),
    }
}

pub fn who() -> WhoAmI {
    WhoAmI {
        session_id: master().id(),
        account: AccountId([2; 16]),
        master_key: PublicKey([3; 32]),
        identity: "unix:1000".into(),
        presence: "passphrase".into(),
        set_back: Some(SetBack {
            head: head(9),
            ended: 5,
            at: Timestamp(7_000),
            by: "the master session on host \"h\"".into(),
        }),
        presence_reset: presence().reset,
        wallet: WalletAddress([7; 20]),
        child: false,
        expires_at: Timestamp(9_000),
    }
}

pub fn presence() -> Presence {
    Presence {
        level: Level::Passphrase,
        since: Some(Timestamp(1)),
        reset: Some(Reset {
            asked_at: Timestamp(2),
            by: "the master session on host \"laptop\"".into(),
            from: Timestamp(3),
            until: Timestamp(4),
        }),
        wrong: 5,
        slowed_until: Some(Timestamp(6)),
        open_until: Some(Timestamp(7)),
    }
}

pub fn provider() -> Provider {
    let settings = [("email".to_owned(), "a@x.org".to_owned())].into();
    Provider {
        service: "x".parse().unwrap(),
        way: Way::Browser,
        settings: Settings::new(settings).unwrap(),
        set_at: Timestamp(8_000),
        keys: 2,
        ending: 1,
        trouble: Some("status 500".to_owned()),
    }
}

pub fn terms() -> Terms {
    let rules = ["allow POST /v1/x*", "deny * /v1/y"];
    Terms {
        expose: Some(Exposure::Inject),
        rules: rules.iter().map(|rule| rule.parse().unwrap()).collect(),
        budget: Some(Budget { day: Some(5), ask_at: Some(80), ..Budget::default() }),
    }
}

pub fn credential_summary() -> CredentialSummary {
    CredentialSummary {
        service: "openrouter".parse().unwrap(),
        version: 3,
        kept: 2,
        stored_at: Timestamp(8_000),
        expires_at: Some(Timestamp(9_000)),
        made: true,
        terms: terms(),
        spent: Some(Spent { at_day: 1, at_month: 2, day: 3, month: 4, total: 5 }),
    }
}

pub fn pending() -> Pending {
    Pending {
        id: RequestId([4; 16]),
        pair_code: "ABCD-EFGH".parse().unwrap(),
        kind: Kind::Recover,
        agent: Some(WalletAddress([7; 20])),
        created_at: Timestamp(1),
        expires_at: Timestamp(2),
    }
}

pub fn balance() -> Balance {
    Balance { layer: Layer::ServicePayment, available: u64::MAX, spent: 3 }
}

pub fn spending() -> Spending {
    Spending {
        time: Timestamp(6_000),
        layer: Layer::SystemGas,
        debited: 5,
        funded: 0,
        service: Some("openrouter".parse().unwrap()),
    }
}

pub fn shielding() -> ShieldingKey {
    ShieldingKey { key_id: KeyId([1; 8]), public_key: PublicKey([2; 32]), suite: "suite".into() }
}

pub fn ticket() -> SignInTicket {
    let says = Ticket { flow: Flow::Device, until: Timestamp(7), random: [3; 16] };
    SignInTicket::new(says, |_| [4; 16])
}

pub fn sign_in_start() -> SignInStart {
    SignInStart {
        issuer: "https://issuer.example".into(),
        client_id: "client".into(),
        client_secret: Some("told to everybody".into()),
        scope: "openid email".into(),
        nonce: ticket().nonce(),
        ticket: ticket(),
        expires_in: 1800,
    }
}

fn minted(session: SessionToken, renewal: Option<RenewalSecret>) -> Minted {
    Minted {
        news: None,
        session_id: session.id(),
        session,
        wallet: WalletAddress([7; 20]),
        expires_at: Timestamp(9_000),
        renewal,
    }
}

impl Fake {
    fn note(&self, session: &SessionToken, call: String) -> Answer<()> {
        let by = session.id();
        if by == refused().id() {
            return Err(refusal());
        }
        assert_eq!(by, master().id(), "the token changed on its way");
        self.write(call);
        Ok(())
    }

    fn write(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }
}

#[async_trait]
impl CredentialBackend for Fake {
    async fn create_session(&self, proof: IdentityProof, client: ClientInfo) -> Answer<Minted> {
        let proof = match proof {
            IdentityProof::Peer => format!("peer {:?}", self.peer),
            IdentityProof::Token(token) => String::from_utf8(token.expose().to_vec()).unwrap(),
            IdentityProof::IdToken { token, ticket } => {
                let token = String::from_utf8(token.expose().to_vec()).unwrap();
                self.write(format!("create_session {token} {} {client:?}", ticket.expose()));
                let news = SignInNews { email: Some("a@x.org".into()), owns_now: true };
                return Ok(Minted { news: Some(news), ..minted(master(), None) });
            }
        };
        self.write(format!("create_session {proof} {client:?}"));
        Ok(minted(master(), None))
    }

    async fn create_child_session(
        &self,
        parent: &SessionToken,
        agent: Option<&AgentIdentity>,
        scope: Scope,
    ) -> Answer<Minted> {
        self.note(parent, format!("create_child_session {agent:?} {scope:?}"))?;
        Ok(minted(SessionToken::child(&[2; 32]), Some(RenewalSecret::new(&[3; 32]))))
    }

    async fn store_credential(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
        sealed: Vec<u8>,
    ) -> Answer<()> {
        if service.as_str() == SLOWLY {
            tokio::time::sleep(SLOW).await;
        }
        self.note(session, format!("store_credential {agent:?} {service:?} {sealed:?}"))
    }

    async fn read_credential(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
    ) -> Answer<SecretBytes> {
        match service.as_str() {
            PANICS => panic!("as the test wants it"),
            SLOWLY => tokio::time::sleep(SLOW).await,
            _ => {}
        }
        self.note(session, format!("read_credential {agent:?} {service:?}"))?;
        Ok(SecretBytes::new(PLAINTEXT.to_vec()))
    }

    async fn query_audit(&self, session: &SessionToken, filter: AuditFilter) -> Answer<AuditPage> {
        self.note(session, format!("query_audit {filter:?}"))?;
        Ok(page())
    }

    async fn revoke_session(&self, session: &SessionToken, target: RevokeTarget) -> Answer<()> {
        let target = match target {
            RevokeTarget::Session(id) => format!("id {id}"),
            RevokeTarget::Token(token) => format!("token {}", token.expose()),
            RevokeTarget::Agent(agent) => format!("agent {agent}"),
        };
        self.note(session, format!("revoke_session {target}"))
    }

    async fn teardown_agent(&self, session: &SessionToken, agent: &AgentIdentity) -> Answer<()> {
        self.note(session, format!("teardown_agent {agent:?}"))
    }

    async fn shielding_key(&self) -> Answer<ShieldingKey> {
        Ok(shielding())
    }

    async fn register_rendezvous(
        &self,
        open: &OpenToken,
        pair_code: PairCode,
        keys: ChildKeys,
    ) -> Answer<RegistrationToken> {
        self.write(format!("register_rendezvous {} {pair_code} {keys}", open.expose()));
        Ok(RegistrationToken::new(&[4; 32]))
    }

    async fn poll_rendezvous(
        &self,
        registration: &RegistrationToken,
        wait: Duration,
    ) -> Answer<Option<Vec<u8>>> {
        self.write(format!("poll_rendezvous {} {wait:?}", registration.expose()));
        // The token of [6; 32] finds its payload at once; any other waits in vain.
        if registration.hash() == RegistrationToken::new(&[6; 32]).hash() {
            return Ok(Some(vec![0, 255, 1]));
        }
        tokio::time::sleep(wait).await;
        Ok(None)
    }

    async fn deliver_rendezvous(
        &self,
        session: &SessionToken,
        pair_code: PairCode,
        payload: Vec<u8>,
    ) -> Answer<()> {
        self.note(session, format!("deliver_rendezvous {pair_code} {payload:?}"))
    }

    async fn open_auth_request(&self, request: OpenRequest) -> Answer<Opened> {
        let session = request.session.map(|session| session.id());
        self.write(format!("open_auth_request {} {:?} {session:?}", request.keys, request.details));
        Ok(Opened {
            id: RequestId([4; 16]),
            otp: "000001".parse().unwrap(),
            pair_code: "ABCD-EFGH".parse().unwrap(),
            ttl_seconds: 300,
            nonce_hash: Hash32([1; 32]),
            open_token: OpenToken::new(&[5; 32]),
            created_at: Timestamp(1_234),
        })
    }

    async fn fetch_auth_request(
        &self,
        session: &SessionToken,
        pair_code: PairCode,
    ) -> Answer<Fetched> {
        self.note(session, format!("fetch_auth_request {pair_code}"))?;
        Ok(fetched())
    }

    async fn approve_auth_request(
        &self,
        session: &SessionToken,
        request: RequestId,
        seen: Option<Hash32>,
        grant: Grant,
    ) -> Answer<Approved> {
        self.note(session, format!("approve_auth_request {request} {seen:?} {grant:?}"))?;
        Ok(Approved { request_id: request, kind: Kind::Pair, agent: agent_summary() })
    }

    async fn await_auth_decision(
        &self,
        open: &OpenToken,
        request: RequestId,
        wait: Duration,
    ) -> Answer<Option<Decision>> {
        self.write(format!("await_auth_decision {} {request} {wait:?}", open.expose()));
        if request == RequestId([4; 16]) {
            return Ok(Some(decision()));
        }
        tokio::time::sleep(wait).await;
        Ok(None)
    }
}

#[async_trait]
impl PaymentRail for Fake {
    async fn check_balance(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        layer: Layer,
    ) -> Answer<Balance> {
        self.note(session, format!("check_balance {agent:?} {layer:?}"))?;
        Ok(balance())
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
        let call = format!("debit {agent:?} {layer:?} {amount} {service:?} {reference}");
        self.note(session, call)?;
        Ok(balance())
    }

    async fn fund_child(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        layer: Layer,
        amount: Amount,
    ) -> Answer<Balance> {
        self.note(session, format!("fund_child {agent:?} {layer:?} {amount}"))?;
        Ok(balance())
    }

    async fn spending_history(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        limit: usize,
    ) -> Answer<Vec<Spending>> {
        self.note(session, format!("spending_history {agent:?} {limit}"))?;
        Ok(vec![spending()])
    }

    fn display_name(&self) -> &'static str {
        "fake"
    }
}

#[async_trait]
impl AccountBackend for Fake {
    async fn begin_sign_in(&self, flow: Flow) -> Answer<SignInStart> {
        self.write(format!("begin_sign_in {flow}"));
        Ok(sign_in_start())
    }

    async fn provision(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
    ) -> Answer<Provisioned> {
        self.note(session, format!("provision {agent:?} {service}"))?;
        Ok(Provisioned::Recipe(Recipe {
            settings: provider().settings,
            secret: Some(SecretBytes::new(b"a mailbox's password".to_vec())),
        }))
    }

    async fn set_provider(
        &self,
        session: &SessionToken,
        service: &ServiceName,
        new: &NewProvider,
    ) -> Answer<Provider> {
        self.note(session, format!("set_provider {service} {new:?}"))?;
        Ok(provider())
    }

    async fn remove_provider(
        &self,
        session: &SessionToken,
        service: &ServiceName,
        abandon: bool,
    ) -> Answer<()> {
        self.note(session, format!("remove_provider {service} {abandon}"))
    }

    async fn list_providers(&self, session: &SessionToken) -> Answer<Vec<Provider>> {
        self.note(session, "list_providers".to_owned())?;
        Ok(vec![provider()])
    }

    async fn check_provider(&self, session: &SessionToken, service: &ServiceName) -> Answer<()> {
        self.note(session, format!("check_provider {service}"))
    }

    async fn who_am_i(&self, session: &SessionToken) -> Answer<WhoAmI> {
        self.note(session, "who_am_i".into())?;
        Ok(who())
    }

    async fn create_agent(&self, session: &SessionToken, name: &Alias) -> Answer<AgentSummary> {
        self.note(session, format!("create_agent {name:?}"))?;
        Ok(agent_summary())
    }

    async fn list_agents(&self, session: &SessionToken) -> Answer<Vec<AgentSummary>> {
        self.note(session, "list_agents".into())?;
        Ok(vec![agent_summary()])
    }

    async fn list_credentials(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
    ) -> Answer<Vec<CredentialSummary>> {
        self.note(session, format!("list_credentials {agent:?}"))?;
        Ok(vec![credential_summary()])
    }

    async fn read_all(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
    ) -> Answer<Vec<Release>> {
        self.note(session, format!("read_all {agent:?}"))?;
        let credential = SecretBytes::new(PLAINTEXT.to_vec());
        Ok(vec![Release { service: "openrouter".parse().unwrap(), credential }])
    }

    async fn roll_back_credential(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
    ) -> Answer<CredentialSummary> {
        self.note(session, format!("roll_back_credential {agent:?} {service:?}"))?;
        Ok(credential_summary())
    }

    async fn inject_credential(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
    ) -> Answer<SecretBytes> {
        self.note(session, format!("inject_credential {agent:?} {service:?}"))?;
        Ok(SecretBytes::new(PLAINTEXT.to_vec()))
    }

    async fn default_exposure(
        &self,
        session: &SessionToken,
        tier: Option<Exposure>,
    ) -> Answer<Exposure> {
        self.note(session, format!("default_exposure {tier:?}"))?;
        Ok(Exposure::Inject)
    }

    async fn set_terms(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
        change: TermsChange,
    ) -> Answer<Terms> {
        self.note(session, format!("set_terms {agent:?} {service:?} {change:?}"))?;
        Ok(terms())
    }

    async fn delete_credential(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        service: &ServiceName,
    ) -> Answer<()> {
        self.note(session, format!("delete_credential {agent:?} {service:?}"))
    }

    async fn list_pending(&self, session: &SessionToken) -> Answer<Vec<Pending>> {
        self.note(session, "list_pending".into())?;
        Ok(vec![pending()])
    }

    async fn deny_auth_request(&self, session: &SessionToken, request: RequestId) -> Answer<()> {
        self.note(session, format!("deny_auth_request {request}"))
    }

    async fn renew_session(&self, renewal: &RenewalSecret) -> Answer<Minted> {
        self.write(format!("renew_session {}", renewal.expose()));
        Ok(minted(SessionToken::child(&[2; 32]), Some(RenewalSecret::new(&[9; 32]))))
    }

    async fn set_scope(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        scope: Scope,
    ) -> Answer<AgentSummary> {
        self.note(session, format!("set_scope {agent:?} {scope:?}"))?;
        Ok(agent_summary())
    }

    async fn reinstate_agent(&self, session: &SessionToken, agent: &AgentIdentity) -> Answer<()> {
        self.note(session, format!("reinstate_agent {agent:?}"))
    }

    async fn presence(&self, session: &SessionToken) -> Answer<Presence> {
        self.note(session, "presence".to_owned())?;
        Ok(presence())
    }

    async fn set_presence(&self, session: &SessionToken, new: &NewLevel) -> Answer<Presence> {
        self.note(session, format!("set_presence {new:?}"))?;
        Ok(presence())
    }

    async fn ask_presence_reset(&self, session: &SessionToken) -> Answer<Presence> {
        self.note(session, "ask_presence_reset".to_owned())?;
        Ok(presence())
    }

    async fn cancel_presence_reset(&self, session: &SessionToken) -> Answer<Presence> {
        self.note(session, "cancel_presence_reset".to_owned())?;
        Ok(presence())
    }

    async fn link_identity(
        &self,
        session: &SessionToken,
        agent: &AgentIdentity,
        identity: &AgentIdentity,
    ) -> Answer<AgentSummary> {
        self.note(session, format!("link_identity {agent:?} {identity:?}"))?;
        Ok(agent_summary())
    }

    async fn unlink_identity(
        &self,
        session: &SessionToken,
        identity: &AgentIdentity,
    ) -> Answer<AgentSummary> {
        self.note(session, format!("unlink_identity {identity:?}"))?;
        Ok(agent_summary())
    }

    async fn resolve_identity(
        &self,
        session: &SessionToken,
        identity: &AgentIdentity,
    ) -> Answer<AgentSummary> {
        self.note(session, format!("resolve_identity {identity:?}"))?;
        Ok(agent_summary())
    }

    async fn compare_head(&self, session: Option<&SessionToken>, head: &Head) -> Answer<Compared> {
        match session {
            Some(session) => self.note(session, format!("compare_head {}", head.seq))?,
            None => self.write(format!("compare_head {} without a session", head.seq)),
        }
        Ok(Compared { agrees: false, accepted: true })
    }

    async fn accept_head(&self, session: &SessionToken, head: &Head) -> Answer<()> {
        self.note(session, format!("accept_head {}", head.seq))
    }

    fn last_head(&self) -> Option<Head> {
        self.head.lock().unwrap().clone()
    }
}

/// A gateway that knows where services are, and asks none.
struct NoService;

#[async_trait]
impl Forward for NoService {
    fn place(&self, service: &ServiceName) -> ServicePlace {
        let hosts = vec!["openrouter.ai".to_owned(), "keys.example:8443".to_owned()];
        ServicePlace { service: service.clone(), hosts, sent: Sent::bearer() }
    }

    async fn forward(
        self: Arc<Self>,
        _: Peer,
        _: SessionToken,
        _: RequestHead,
        _: Vec<u8>,
        _: hyper::body::Incoming,
    ) -> Answer<Forwarded> {
        Err(Problem::internal())
    }
}

/// A server that runs until it is stopped, or the test's runtime ends.
pub struct Server {
    pub address: ListenAddress,
    pub calls: Arc<Mutex<Vec<String>>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Stopped>,
}
impl Server {
    /// On a free TCP port.
    pub fn tcp(limits: Limits) -> Self {
        Self::at("127.0.0.1:0", limits)
    }

    pub fn at(address: &str, limits: Limits) -> Self {
        Self::with_head(address, limits, || Some(head(2)))
    }

    /// With the head that each answer is to carry.
    pub fn with_head(
        address: &str,
        limits: Limits,
        head: impl Fn() -> Option<Head> + Send + Sync + 'static,
    ) -> Self {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let make: MakeBackend = {
            let calls = Arc::clone(&calls);
            Arc::new(move |peer, _proof| {
                Arc::new(Fake {
                    calls: Arc::clone(&calls),
                    peer: Some(peer),
                    head: Mutex::new(head()),
                })
            })
        };
        // A child that another test has just forked may hold a lock of ours until it starts its
        // program.
        let begun = Instant::now();
        let listener = loop {
            match Listener::bind(&address.parse().unwrap()) {
                Ok(listener) => break listener,
                Err(error) => assert!(begun.elapsed() < Duration::from_secs(5), "{error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let address = listener.address().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            let served = Served { make_backend: make, gateway: Some(Arc::new(NoService)) };
            http::run(vec![listener], served, limits, stopped).await.unwrap()
        });
        Self { address, calls, stop, task }
    }

    pub fn port(&self) -> u16 {
        match &self.address {
            ListenAddress::Tcp(addr) | ListenAddress::Tls(addr) => addr.port(),
            ListenAddress::Unix(_) => panic!("no port"),
        }
    }

    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    /// Begins to stop; the result is there when it has stopped.
    pub fn stop(self) -> JoinHandle<Stopped> {
        let _ = self.stop.send(());
        self.task
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port())).await.unwrap()
    }

    /// Sends raw bytes and reads until the server hangs up.
    pub async fn raw(&self, bytes: impl AsRef<[u8]>) -> Heard {
        let mut stream = self.connect().await;
        stream.write_all(bytes.as_ref()).await.unwrap();
        hear(&mut stream).await
    }

    /// Sends a request of these head lines and this body, and hangs up after the answer.
    pub async fn ask(&self, line: &str, headers: &[&str], body: &[u8]) -> Heard {
        let mut bytes = format!("{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
        for header in headers {
            bytes.push_str(header);
            bytes.push_str("\r\n");
        }
        if !body.is_empty() {
            bytes.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        bytes.push_str("\r\n");
        let mut bytes = bytes.into_bytes();
        bytes.extend_from_slice(body);
        self.raw(bytes).await
    }

    /// Fails unless the server still answers.
    pub async fn must_serve(&self) {
        let heard = self.ask("GET /health", &[], b"").await;
        assert_eq!((heard.status, heard.body.as_str()), (200, r#"{"status":"ok"}"#));
    }
}

/// An answer as it came over the socket.
#[derive(Debug)]
pub struct Heard {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Heard {
    pub fn problem(&self) -> Problem {
        assert!(self.head.contains("application/problem+json"), "{self:?}");
        let problem: Problem = serde_json::from_str(&self.body).unwrap();
        assert_eq!(problem.status, self.status, "{self:?}");
        problem
    }

    #[track_caller]
    pub fn must_be(&self, status: u16, code: Code, cause: &str) {
        let problem = self.problem();
        assert_eq!((self.status, problem.code), (status, code), "{self:?}");
        let words = format!("{} / {}", problem.detail, problem.cause);
        assert!(words.contains(cause), "{cause:?} is not in {words:?}");
    }
}

/// Reads one answer, to the end of the connection.
pub async fn hear(stream: &mut (impl AsyncReadExt + Unpin)) -> Heard {
    let mut bytes = Vec::new();
    let reading = stream.read_to_end(&mut bytes);
    let read = tokio::time::timeout(Duration::from_secs(30), reading).await;
    read.expect("the server neither answered nor hung up").expect("the connection was reset");
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Heard {
        status: status.unwrap_or_else(|| panic!("no answer: {text:?}")),
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    }
}
