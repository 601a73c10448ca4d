//! The trait as an outside crate sees it: a foreign type implements it by the public API alone
//! and is used as `&dyn CredentialBackend`.
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use agentkeys::core::audit::{Action, Actor, Entry, Event, GENESIS, Head, Outcome};
use agentkeys::core::auth_request::{Details, Kind, Pair};
use agentkeys::core::backend::{
    AgentSummary, Approved, AuditFilter, AuditPage, ClientInfo, CredentialBackend, Fetched, Grant,
    IdentityProof, Minted, OpenRequest, Opened, RevokeTarget, Seen, ShieldingKey,
};
use agentkeys::core::decision::{Decision, Granted, Verdict};
use agentkeys::core::identity::{AgentIdentity, ServiceName};
use agentkeys::core::otp::{Covered, PairCode};
use agentkeys::core::problem::{Answer, Code, Problem};
use agentkeys::core::scope::Scope;
use agentkeys::core::seal::{self, Purpose, SUITE};
use agentkeys::core::secret::{Key32, SecretBytes};
use agentkeys::core::token::{OpenToken, RegistrationToken, SessionToken};
use agentkeys::core::types::{
    AccountId, BackendId, ChildKeys, Hash32, KeyId, Nonce, PublicKey, RequestId, Signature,
    Timestamp, WalletAddress,
};
use async_trait::async_trait;
use ring::signature::Ed25519KeyPair;

const ACCOUNT: AccountId = AccountId([1; 16]);
const BACKEND: BackendId = BackendId([2; 16]);
const AGENT: WalletAddress = WalletAddress([3; 20]);
const NOW: Timestamp = Timestamp(1_775_745_127_000);
const NONCE: Nonce = Nonce([4; 32]);
const REQUEST: RequestId = RequestId([5; 16]);

/// A backend of somebody else's: one agent, in memory, with no clock.
#[derive(Default)]
struct Foreign {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sealed: HashMap<ServiceName, Vec<u8>>,
    revoked: bool,
    opened: Option<(ChildKeys, Details)>,
    approved: bool,
    payload: Option<Vec<u8>>,
}

fn shielding() -> (Key32, PublicKey) {
    seal::key_pair(&Key32::new([6; 32]))
}

fn master_key() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap()
}

fn problem(code: Code) -> Problem {
    Problem::new(code, "it did not work", "it is a test", "change the test")
}

fn minted(session: SessionToken, wallet: WalletAddress) -> Minted {
    let session_id = session.id();
    Minted { session, session_id, wallet, expires_at: NOW.plus_ms(1), renewal: None, news: None }
}

fn agent() -> AgentSummary {
    AgentSummary {
        wallet: AGENT,
        name: Some("my-bot".into()),
        identities: vec!["my-bot".parse().unwrap()],
        scope: Scope::everything(),
        revoked: None,
        daemon: None,
        created_at: NOW,
    }
}

impl State {
    fn request(&self) -> Answer<(ChildKeys, Vec<u8>, &Details)> {
        let (keys, details) = self.opened.as_ref().ok_or_else(|| problem(Code::NoMatch))?;
        let bytes = details.canonical().map_err(|_| problem(Code::Invalid))?;
        Ok((*keys, bytes, details))
    }

    fn pair_code(&self) -> Answer<PairCode> {
        let (keys, bytes, details) = self.request()?;
        let covered =
            Covered { request: REQUEST, kind: details.kind(), details: &bytes, keys: &keys };
        Ok(covered.pair_code(&NONCE))
    }
}

#[async_trait]
impl CredentialBackend for Foreign {
    async fn create_session(&self, proof: IdentityProof, _: ClientInfo) -> Answer<Minted> {
        match proof {
            IdentityProof::Peer => {
                Ok(minted(SessionToken::master(&[8; 32]), WalletAddress([0; 20])))
            }
            _ => Err(problem(Code::Unauthorized)),
        }
    }

    async fn create_child_session(
        &self,
        _: &SessionToken,
        _: Option<&AgentIdentity>,
        _: Scope,
    ) -> Answer<Minted> {
        Ok(minted(SessionToken::child(&[9; 32]), AGENT))
    }

    async fn store_credential(
        &self,
        _: &SessionToken,
        _: &AgentIdentity,
        service: &ServiceName,
        sealed: Vec<u8>,
    ) -> Answer<()> {
        self.state.lock().unwrap().sealed.insert(service.clone(), sealed);
        Ok(())
    }

    async fn read_credential(
        &self,
        _: &SessionToken,
        _: &AgentIdentity,
        service: &ServiceName,
    ) -> Answer<SecretBytes> {
        let state = self.state.lock().unwrap();
        if state.revoked {
            return Err(problem(Code::Denied));
        }
        let sealed = state.sealed.get(service).ok_or_else(|| problem(Code::NotFound))?;
        let purpose = Purpose::credential(ACCOUNT, AGENT, service);
        seal::open(&shielding().0, &purpose, sealed).map_err(|_| problem(Code::Invalid))
    }

    async fn query_audit(&self, _: &SessionToken, _: AuditFilter) -> Answer<AuditPage> {
        let event = Event {
            by: Actor::default(),
            seq: 1,
            prev: GENESIS,
            time: NOW,
            agent: None,
            action: Action::SessionCreate,
            detail: None,
            account: ACCOUNT,
            outcome: Outcome::Allowed,
            request: None,
            service: None,
            presence: "none".into(),
            set_backs: None,
            agent_name: None,
        };
        let head = Head::sign(BACKEND, ACCOUNT, 1, event.hash(BACKEND), &master_key());
        Ok(AuditPage { events: vec![Entry::Event(Box::new(event))], next: None, head })
    }

    async fn revoke_session(&self, _: &SessionToken, target: RevokeTarget) -> Answer<()> {
        match target {
            RevokeTarget::Agent(_) => self.state.lock().unwrap().revoked = true,
            RevokeTarget::Session(_) | RevokeTarget::Token(_) => {}
        }
        Ok(())
    }

    async fn teardown_agent(&self, _: &SessionToken, _: &AgentIdentity) -> Answer<()> {
        self.state.lock().unwrap().sealed.clear();
        Ok(())
    }

    async fn shielding_key(&self) -> Answer<ShieldingKey> {
        let public_key = shielding().1;
        Ok(ShieldingKey { key_id: KeyId::of(&public_key), public_key, suite: SUITE.into() })
    }

    async fn register_rendezvous(
        &self,
        _: &OpenToken,
        code: PairCode,
        _: ChildKeys,
    ) -> Answer<RegistrationToken> {
        if self.state.lock().unwrap().pair_code()? == code {
            Ok(RegistrationToken::new(&[10; 32]))
        } else {
            Err(problem(Code::NoMatch))
        }
    }

    async fn poll_rendezvous(&self, _: &RegistrationToken, _: Duration) -> Answer<Option<Vec<u8>>> {
        Ok(self.state.lock().unwrap().payload.take())
    }

    async fn deliver_rendezvous(
        &self,
        _: &SessionToken,
        _: PairCode,
        payload: Vec<u8>,
    ) -> Answer<()> {
        self.state.lock().unwrap().payload = Some(payload);
        Ok(())
    }

    async fn open_auth_request(&self, request: OpenRequest) -> Answer<Opened> {
        let mut state = self.state.lock().unwrap();
        state.opened = Some((request.keys, request.details));
        let (keys, bytes, details) = state.request()?;
        let covered =
            Covered { request: REQUEST, kind: details.kind(), details: &bytes, keys: &keys };
        Ok(Opened {
            id: REQUEST,
            otp: covered.otp(&NONCE),
            pair_code: covered.pair_code(&NONCE),
            ttl_seconds: 300,
            nonce_hash: Hash32::of(&NONCE.0),
            open_token: OpenToken::new(&[11; 32]),
            created_at: NOW,
        })
    }

    async fn fetch_auth_request(&self, _: &SessionToken, code: PairCode) -> Answer<Fetched> {
        let state = self.state.lock().unwrap();
        let (keys, bytes, details) = state.request()?;
        if state.pair_code()? != code {
            return Err(problem(Code::NoMatch));
        }
        let covered =
            Covered { request: REQUEST, kind: details.kind(), details: &bytes, keys: &keys };
        Ok(Fetched {
            id: REQUEST,
            kind: details.kind(),
            otp: covered.otp(&NONCE),
            child_pubkey: keys,
            created_at: NOW,
            expires_at: NOW.plus_ms(60_000),
            saw: Seen::default(),
            agent: None,
            details: bytes.clone(),
            held: None,
        })
    }

    async fn approve_auth_request(
        &self,
        _: &SessionToken,
        request: RequestId,
        _: Option<Hash32>,
        _: Grant,
    ) -> Answer<Approved> {
        let mut state = self.state.lock().unwrap();
        if std::mem::replace(&mut state.approved, true) {
            return Err(problem(Code::AlreadyConsumed));
        }
        Ok(Approved { request_id: request, kind: Kind::Pair, agent: agent() })
    }

    async fn await_auth_decision(
        &self,
        _: &OpenToken,
        request: RequestId,
        _: Duration,
    ) -> Answer<Option<Decision>> {
        let state = self.state.lock().unwrap();
        if !state.approved {
            return Ok(None);
        }
        let (keys, details, wanted) = state.request()?;
        let mut decision = Decision {
            request_id: request,
            kind: wanted.kind(),
            details,
            child_pubkey: keys,
            parent_session: None,
            created_at: NOW,
            nonce: NONCE,
            verdict: Verdict::Approved,
            backend_id: BACKEND,
            account: ACCOUNT,
            granted: Some(Granted {
                agent: AGENT,
                scope: Scope::everything(),
                expires_at: NOW.plus_ms(1),
                session_hash: None,
            }),
            master_key: PublicKey([0; 32]),
            signature: Signature([0; 64]),
        };
        decision.sign(&master_key());
        Ok(Some(decision))
    }
}

/// A caller that knows nothing but the trait uses all fifteen methods.
async fn use_it(backend: &dyn CredentialBackend) -> Answer<()> {
    let name: AgentIdentity = "my-bot".parse()?;
    let service: ServiceName = "openrouter".parse()?;
    let wait = Duration::from_millis(1);

    let refused = IdentityProof::Token(SecretBytes::new(b"nobody".to_vec()));
    let refused = backend.create_session(refused, ClientInfo::default()).await;
    assert_eq!(refused.err().map(|p| p.code), Some(Code::Unauthorized));
    let master = backend.create_session(IdentityProof::Peer, ClientInfo::default()).await?.session;
    let child = backend.create_child_session(&master, Some(&name), Scope::everything()).await?;
    assert_eq!(child.session_id, child.session.id());

    let key = backend.shielding_key().await?;
    assert_eq!(key.key_id, KeyId::of(&key.public_key));
    let purpose = Purpose::credential(ACCOUNT, child.wallet, &service);
    let sealed = seal::seal(&key.public_key, &purpose, b"sk-test", &Key32::new([12; 32]));
    backend.store_credential(&master, &name, &service, sealed.expect("a good key")).await?;
    let read = backend.read_credential(&child.session, &name, &service).await?;
    assert_eq!(read.expose(), b"sk-test");

    let page = backend.query_audit(&master, AuditFilter::default()).await?;
    assert!(page.head.is_authentic());
    assert_eq!(page.events.len(), 1);

    let keys = ChildKeys([13; 64]);
    let details = Details::Pair(Pair::default());
    let request = OpenRequest { keys, details: details.clone(), session: None };
    let opened = backend.open_auth_request(request).await?;
    let fetched = backend.fetch_auth_request(&master, opened.pair_code).await?;
    assert_eq!((fetched.otp, fetched.details.clone()), (opened.otp, details.canonical().unwrap()));
    let registration =
        backend.register_rendezvous(&opened.open_token, opened.pair_code, keys).await?;
    assert_eq!(backend.poll_rendezvous(&registration, wait).await?, None);
    assert!(backend.await_auth_decision(&opened.open_token, opened.id, wait).await?.is_none());
    let seen = Some(fetched.seen_hash());
    backend.approve_auth_request(&master, opened.id, seen, Grant::default()).await?;
    let twice = backend.approve_auth_request(&master, opened.id, seen, Grant::default()).await;
    assert_eq!(twice.err().map(|p| p.code), Some(Code::AlreadyConsumed));
    let decision = backend.await_auth_decision(&opened.open_token, opened.id, wait).await?;
    assert_eq!(decision.expect("it was approved").request_id, opened.id);
    backend.deliver_rendezvous(&master, opened.pair_code, b"opaque".to_vec()).await?;
    assert_eq!(backend.poll_rendezvous(&registration, wait).await?, Some(b"opaque".to_vec()));

    backend.revoke_session(&master, RevokeTarget::Agent(name.clone())).await?;
    let denied = backend.read_credential(&child.session, &name, &service).await;
    assert_eq!(denied.err().map(|p| p.code), Some(Code::Denied));
    backend.teardown_agent(&master, &name).await
}

/// A foreign type implements `CredentialBackend`, as an outside crate would, and works behind
/// a reference and in a box that other threads share.
#[test]
fn compiles() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let foreign = Foreign::default();
    let as_reference: &dyn CredentialBackend = &foreign;
    runtime.block_on(use_it(as_reference)).unwrap();

    let shared: std::sync::Arc<dyn CredentialBackend> = std::sync::Arc::new(Foreign::default());
    let task = runtime.spawn(async move { use_it(shared.as_ref()).await });
    runtime.block_on(task).unwrap().unwrap();
}
