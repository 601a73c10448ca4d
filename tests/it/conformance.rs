//! One suite of behaviours for whatever implements the backend's traits: it runs over the vault
//! in this process and over the client on the other side of a real socket.
//!
//! It knows the traits alone, so that a third party's backend can be held to it; [`run`] wants
//! a backend that accepts the test identities it is given.
use std::sync::Arc;
use std::time::Duration;

use agentkeys::backend::clock::Entropy;
use agentkeys::backend::http::Limits;
use agentkeys::client::http::HttpBackend;
use agentkeys::core::audit::{Action, Entry, Outcome, Walk};
use agentkeys::core::auth_request::{Details, Pair};
use agentkeys::core::backend::{
    AccountBackend, AuditFilter, ClientInfo, Grant, IdentityProof, MAX_CREDENTIAL, Minted,
    OpenRequest, RevokeTarget,
};
use agentkeys::core::identity::{AgentIdentity, ServiceName};
use agentkeys::core::payment::Layer;
use agentkeys::core::problem::{Answer, Code, Problem};
use agentkeys::core::scope::Scope;
use agentkeys::core::seal::{self, Purpose};
use agentkeys::core::secret::{Key32, SecretBytes};
use agentkeys::core::token::SessionToken;
use agentkeys::core::types::{AccountId, ChildKeys, PublicKey, RequestId, WalletAddress};

use crate::env::{TestEnv, loopback};
use crate::tls_support::{Served, self_signed};

/// A backend and somebody who is signed in.
struct Home<'a> {
    backend: &'a dyn AccountBackend,
    session: SessionToken,
    account: AccountId,
}

impl<'a> Home<'a> {
    async fn new(backend: &'a dyn AccountBackend, identity: &str) -> Self {
        let session = sign_in(backend, identity).await.expect("a good identity").session;
        let account = backend.who_am_i(&session).await.expect("a good session").account;
        Self { backend, session, account }
    }

    async fn agent(&self, name: &str) -> WalletAddress {
        let name = name.parse().expect("an alias");
        self.backend.create_agent(&self.session, &name).await.expect("an agent").wallet
    }

    async fn seal(&self, wallet: WalletAddress, name: &str, secret: &[u8]) -> Vec<u8> {
        let key = self.backend.shielding_key().await.expect("a key");
        assert_eq!(key.suite, seal::SUITE);
        let purpose = Purpose::credential(self.account, wallet, &service(name));
        let random: [u8; 32] = Entropy::system().bytes().expect("randomness");
        seal::seal(&key.public_key, &purpose, secret, &Key32::new(random)).expect("it seals")
    }

    async fn store(&self, wallet: WalletAddress, name: &str, secret: &[u8]) -> Answer<()> {
        let sealed = self.seal(wallet, name, secret).await;
        let agent = AgentIdentity::Wallet(wallet);
        self.backend.store_credential(&self.session, &agent, &service(name), sealed).await
    }

    async fn read(&self, session: &SessionToken, agent: &str, name: &str) -> Answer<Vec<u8>> {
        let read = self.backend.read_credential(session, &id(agent), &service(name)).await?;
        Ok(read.expose().to_vec())
    }

    async fn child(&self, agent: &str, scope: Scope) -> Minted {
        let agent = id(agent);
        let minted = self.backend.create_child_session(&self.session, Some(&agent), scope).await;
        minted.expect("a child session")
    }
}

async fn sign_in(backend: &dyn AccountBackend, identity: &str) -> Answer<Minted> {
    let proof = IdentityProof::Token(SecretBytes::new(identity.as_bytes().to_vec()));
    backend.create_session(proof, ClientInfo::default()).await
}

fn id(text: &str) -> AgentIdentity {
    text.parse().expect("an identity")
}

fn service(text: &str) -> ServiceName {
    text.parse().expect("a service")
}

/// The problem, once it was seen to say all that a caller is promised.
#[track_caller]
fn problem<T>(answer: Answer<T>) -> Problem {
    let Err(problem) = answer else { panic!("it was allowed") };
    assert_eq!(problem.status, problem.code.status());
    for text in [&problem.title, &problem.detail, &problem.cause, &problem.fix, &problem.docs] {
        assert!(!text.is_empty());
        assert!(!text.contains("agkm_") && !text.contains("agkc_"), "a token is told");
    }
    problem
}

/// Runs the suite. Each part signs in as somebody of its own.
pub async fn run(backend: &dyn AccountBackend) {
    identities_and_accounts(backend).await;
    credentials(backend).await;
    scopes_and_children(backend).await;
    revocation(backend).await;
    renewal(backend).await;
    names(backend).await;
    money(backend).await;
    the_log(backend).await;
    pairing(backend).await;
}

async fn identities_and_accounts(backend: &dyn AccountBackend) {
    let first = sign_in(backend, "c-alice").await.expect("a good identity");
    let again = sign_in(backend, "c-alice").await.expect("a good identity");
    let other = sign_in(backend, "c-bob").await.expect("a good identity");
    assert_eq!(first.wallet, again.wallet);
    assert_ne!(first.session_id, again.session_id);
    assert_ne!(first.wallet, other.wallet);
    assert!(first.renewal.is_none());
    assert_eq!(first.session_id, first.session.id());
    assert_eq!(problem(sign_in(backend, "").await).code, Code::Unauthorized);
    let unknown = SessionToken::master(&[1; 32]);
    assert_eq!(problem(backend.who_am_i(&unknown).await).code, Code::Unauthorized);
    let who = backend.who_am_i(&first.session).await.expect("a good session");
    assert_eq!((who.session_id, who.wallet, who.child), (first.session_id, first.wallet, false));
    assert_eq!(backend.display_name(), "internal ledger");
}

async fn credentials(backend: &dyn AccountBackend) {
    let home = Home::new(backend, "c-credentials").await;
    let (one, two) = (home.agent("one").await, home.agent("two").await);
    home.store(one, "openrouter", b"sk-1").await.expect("stored");
    home.store(one, "openrouter", b"sk-2").await.expect("replaced");
    home.store(two, "anthropic", b"\x00\xff binary").await.expect("stored");
    let read = async |agent, name| home.read(&home.session, agent, name).await;
    assert_eq!(read("one", "openrouter").await.expect("released"), b"sk-2");
    assert_eq!(read("two", "anthropic").await.expect("released"), b"\x00\xff binary");
    assert_eq!(problem(read("one", "anthropic").await).code, Code::Denied);
    assert_eq!(problem(read("one", "nobody-has-it").await).code, Code::NotFound);
    assert_eq!(problem(read("nobody", "openrouter").await).code, Code::AgentNotFound);
    let largest = vec![0x5A; MAX_CREDENTIAL];
    home.store(one, "large", &largest).await.expect("the largest");
    assert_eq!(read("one", "large").await.expect("released"), largest);
    let larger = home.store(one, "large", &[&largest[..], b"!"].concat()).await;
    assert_eq!(problem(larger).code, Code::TooLarge);
    let for_two = home.seal(two, "openrouter", b"x").await;
    let misplaced =
        backend.store_credential(&home.session, &id("one"), &service("openrouter"), for_two).await;
    assert_eq!(problem(misplaced).code, Code::Invalid);

    let list = backend.list_credentials(&home.session, &id("one")).await.expect("a list");
    let list: Vec<_> =
        list.iter().map(|one| (one.service.as_str(), one.version, one.kept)).collect();
    assert_eq!(list, [("large", 1, 0), ("openrouter", 2, 1)]);
    let (agent, name) = (id("one"), service("openrouter"));
    let back = backend.roll_back_credential(&home.session, &agent, &name).await;
    assert_eq!(back.expect("one is kept").version, 3);
    assert_eq!(read("one", "openrouter").await.expect("released"), b"sk-1");
    let all = backend.read_all(&home.session, &id("one")).await.expect("released");
    let all: Vec<_> = all.iter().map(|one| one.credential.expose().len()).collect();
    assert_eq!(all, [MAX_CREDENTIAL, 4]);
    let large = service("large");
    backend.delete_credential(&home.session, &agent, &large).await.expect("deleted");
    assert_eq!(problem(read("one", "large").await).code, Code::NotFound);
}

async fn scopes_and_children(backend: &dyn AccountBackend) {
    let home = Home::new(backend, "c-scopes").await;
    let wallet = home.agent("one").await;
    home.store(wallet, "openrouter", b"sk-1").await.expect("stored");
    home.store(wallet, "anthropic", b"sk-2").await.expect("stored");
    let some = Scope {
        services: Some([service("anthropic")].into()),
        read_only: true,
        ..Scope::default()
    };
    let none = Scope { services: Some([].into()), read_only: false, ..Scope::default() };
    let all = home.child("one", Scope::everything()).await;
    let some = home.child("one", some).await;
    let none = home.child("one", none).await;
    for (minted, allowed) in [(&all, [true, true]), (&some, [false, true]), (&none, [false, false])]
    {
        assert_eq!(minted.wallet, wallet);
        for (name, allowed) in ["openrouter", "anthropic"].into_iter().zip(allowed) {
            match home.read(&minted.session, "one", name).await {
                Ok(_) => assert!(allowed),
                refused => assert!(!allowed && problem(refused).code == Code::Denied),
            }
        }
        let who = backend.who_am_i(&minted.session).await.expect("a good session");
        assert!(who.child);
        // What is the master's alone.
        let session = &minted.session;
        let target = RevokeTarget::Agent(id("one"));
        assert_eq!(problem(backend.revoke_session(session, target).await).code, Code::Denied);
        assert_eq!(problem(backend.teardown_agent(session, &id("one")).await).code, Code::Denied);
        assert_eq!(problem(backend.list_pending(session).await).code, Code::Denied);
        let wider = backend.set_scope(session, &id("one"), Scope::everything()).await;
        assert_eq!(problem(wider).code, Code::Denied);
    }
    let sealed = home.seal(wallet, "anthropic", b"x").await;
    let by_reader =
        backend.store_credential(&some.session, &id("one"), &service("anthropic"), sealed).await;
    assert_eq!(problem(by_reader).code, Code::Denied);
    // The master sets it, and each session obeys it at once: no wider than before by itself.
    let only = Scope {
        services: Some([service("openrouter")].into()),
        read_only: false,
        ..Scope::default()
    };
    let set = backend.set_scope(&home.session, &id("one"), only.clone()).await.expect("set");
    assert_eq!((set.wallet, &set.scope), (wallet, &only));
    home.read(&all.session, "one", "openrouter").await.expect("released");
    for (session, name) in [(&all, "anthropic"), (&some, "anthropic"), (&some, "openrouter")] {
        let refused = problem(home.read(&session.session, "one", name).await);
        assert_eq!(refused.code, Code::Denied);
    }
    let set = backend.set_scope(&home.session, &id("one"), Scope::everything()).await;
    assert_eq!(set.expect("set").scope, Scope::everything());
    home.read(&some.session, "one", "anthropic").await.expect("released");
    let missing = backend.set_scope(&home.session, &id("nobody"), only).await;
    assert_eq!(problem(missing).code, Code::AgentNotFound);
    let nameless =
        backend.create_child_session(&home.session, None, Scope::everything()).await.expect("new");
    assert_ne!(nameless.wallet, wallet);
}

async fn revocation(backend: &dyn AccountBackend) {
    let home = Home::new(backend, "c-revocation").await;
    let wallet = home.agent("one").await;
    home.store(wallet, "openrouter", b"sk-1").await.expect("stored");
    let child = home.child("one", Scope::everything()).await;
    let agent = || RevokeTarget::Agent(id("one"));
    backend.revoke_session(&home.session, agent()).await.expect("revoked");
    for session in [&home.session, &child.session] {
        let refused = problem(home.read(session, "one", "openrouter").await);
        assert_eq!(refused.code, Code::Denied);
        assert!(refused.cause.starts_with("revoked 20"), "{}", refused.cause);
    }
    let listed = backend.list_agents(&home.session).await.expect("a list");
    assert!(listed[0].revoked.as_ref().is_some_and(|why| why.by.contains("master session")));
    backend.reinstate_agent(&home.session, &id("one")).await.expect("it is back");
    home.read(&home.session, "one", "openrouter").await.expect("released");
    assert_eq!(problem(home.read(&child.session, "one", "openrouter").await).code, Code::Denied);

    let child = home.child("one", Scope::everything()).await;
    let target = RevokeTarget::Session(child.session_id);
    backend.revoke_session(&home.session, target).await.expect("revoked");
    assert_eq!(problem(home.read(&child.session, "one", "openrouter").await).code, Code::Denied);
    let child = home.child("one", Scope::everything()).await;
    let token = SessionToken::parse(child.session.expose()).expect("a token");
    backend.revoke_session(&home.session, RevokeTarget::Token(token)).await.expect("revoked");
    assert_eq!(problem(home.read(&child.session, "one", "openrouter").await).code, Code::Denied);

    let child = home.child("one", Scope::everything()).await;
    backend.teardown_agent(&home.session, &id("one")).await.expect("deleted");
    let by_master = problem(home.read(&home.session, "one", "openrouter").await);
    assert_eq!(by_master.code, Code::AgentNotFound);
    let by_child = problem(home.read(&child.session, "one", "openrouter").await);
    assert_eq!(by_child.code, Code::Unauthorized);
}

async fn renewal(backend: &dyn AccountBackend) {
    let home = Home::new(backend, "c-renewal").await;
    home.agent("one").await;
    let first = home.child("one", Scope::everything()).await;
    let secret = first.renewal.expect("a child has one");
    let second = backend.renew_session(&secret).await.expect("renewed");
    assert_eq!(second.wallet, first.wallet);
    backend.who_am_i(&second.session).await.expect("a good session");
    assert_eq!(problem(backend.renew_session(&secret).await).code, Code::Denied);
    assert_eq!(problem(backend.who_am_i(&second.session).await).code, Code::Denied);
}

async fn names(backend: &dyn AccountBackend) {
    let home = Home::new(backend, "c-names").await;
    let wallet = home.agent("One").await;
    home.agent("two").await;
    for name in ["uno", "one@example.com", "one.eth"] {
        let linked = backend.link_identity(&home.session, &id("one"), &id(name)).await;
        assert_eq!(linked.expect("linked").wallet, wallet);
        let other = backend.link_identity(&home.session, &id("two"), &id(name)).await;
        assert_eq!(problem(other).code, Code::Invalid);
        let found = backend.resolve_identity(&home.session, &id(&name.to_uppercase())).await;
        assert!(name == "one.eth" || found.expect("it resolves").wallet == wallet);
    }
    let found = backend.resolve_identity(&home.session, &id("ONE")).await.expect("it resolves");
    assert_eq!((found.name.as_deref(), found.identities.len()), (Some("One"), 4));
    backend.unlink_identity(&home.session, &id("uno")).await.expect("unlinked");
    let gone = backend.resolve_identity(&home.session, &id("uno")).await;
    assert_eq!(problem(gone).code, Code::AgentNotFound);
    let listed = backend.list_agents(&home.session).await.expect("a list");
    let listed: Vec<_> = listed.iter().filter_map(|agent| agent.name.clone()).collect();
    assert_eq!(listed, ["One", "two"]);
}

async fn money(backend: &dyn AccountBackend) {
    let home = Home::new(backend, "c-money").await;
    home.agent("one").await;
    let (session, agent) = (&home.session, &id("one"));
    let (gas, paid) = (Layer::SystemGas, Layer::ServicePayment);
    backend.fund_child(session, agent, paid, 10).await.expect("funded");
    for _ in 0..2 {
        let left = backend.debit(session, agent, paid, 4, Some(&service("x")), "r").await;
        let left = left.expect("a reference counts once");
        assert_eq!((left.available, left.spent), (6, 4));
    }
    let over = backend.debit(session, agent, paid, 7, None, "s").await;
    assert_eq!(problem(over).code, Code::Denied);
    let other = backend.check_balance(session, agent, gas).await.expect("a balance");
    assert_eq!((other.layer, other.available, other.spent), (gas, 0, 0));
    let history = backend.spending_history(session, agent, 10).await.expect("a list");
    let history: Vec<_> = history.iter().map(|one| (one.debited, one.funded)).collect();
    assert_eq!(history, [(4, 0), (0, 10)]);
}

async fn the_log(backend: &dyn AccountBackend) {
    let home = Home::new(backend, "c-log").await;
    let wallet = home.agent("one").await;
    home.store(wallet, "openrouter", b"sk-1").await.expect("stored");
    home.read(&home.session, "one", "openrouter").await.expect("released");
    let all = backend.query_audit(&home.session, AuditFilter::default()).await.expect("a page");
    let acts: Vec<_> = all
        .events
        .iter()
        .map(|entry| match entry {
            Entry::Event(event) => (event.seq, event.action, event.outcome),
            Entry::Damaged { damaged } => panic!("event {damaged} is damaged"),
        })
        .collect();
    let actions = [Action::SessionCreate, Action::AgentCreate, Action::Store, Action::Read];
    let expected: Vec<_> = (1..).zip(actions).map(|(n, a)| (n, a, Outcome::Allowed)).collect();
    assert_eq!(acts, expected);
    assert_eq!((all.next, all.head.seq), (None, 4));
    let mut walk = Walk::new(all.head.backend_id, home.account, None);
    for entry in &all.events {
        walk.step(entry).expect("it follows");
    }
    assert_eq!(walk.finish(&all.head), Ok(4));
    assert_eq!(backend.last_head(), Some(all.head));

    let filter = AuditFilter {
        agent_id: Some(id("one")),
        action: Some(Action::Read),
        limit: Some(1),
        ..AuditFilter::default()
    };
    let page = backend.query_audit(&home.session, filter).await.expect("a page");
    assert_eq!(page.events, all.events[3..]);
    let page = AuditFilter { limit: Some(3), ..AuditFilter::default() };
    let page = backend.query_audit(&home.session, page).await.expect("a page");
    assert_eq!((page.events.len(), page.next), (3, Some(4)));
    let zero = AuditFilter { limit: Some(0), ..AuditFilter::default() };
    assert_eq!(problem(backend.query_audit(&home.session, zero).await).code, Code::Invalid);
}

async fn pairing(backend: &dyn AccountBackend) {
    let home = Home::new(backend, "c-pairing").await;
    let random: [u8; 32] = Entropy::system().bytes().expect("randomness");
    let (secret, x25519) = seal::key_pair(&Key32::new(random));
    let keys = ChildKeys::new(PublicKey(random), x25519);
    let pair = Pair { name: Some("paired".parse().expect("an alias")), ..Pair::default() };
    let request = || OpenRequest { keys, details: Details::Pair(pair.clone()), session: None };
    let short = Duration::from_millis(0);

    let opened = backend.open_auth_request(request()).await.expect("it is open");
    assert_eq!(opened.ttl_seconds, 300);
    let registered =
        backend.register_rendezvous(&opened.open_token, opened.pair_code, keys).await.expect("in");
    let nothing = backend.poll_rendezvous(&registered, short).await;
    assert!(nothing.expect("a clean time-out").is_none());
    let undecided = backend.await_auth_decision(&opened.open_token, opened.id, short).await;
    assert!(undecided.expect("a clean time-out").is_none());
    let shown = backend.fetch_auth_request(&home.session, opened.pair_code).await.expect("shown");
    assert_eq!((shown.id, shown.otp, shown.child_pubkey), (opened.id, opened.otp, keys));
    let pending = backend.list_pending(&home.session).await.expect("a list");
    assert_eq!(pending.iter().map(|one| one.id).collect::<Vec<_>>(), [opened.id]);
    let seen = Some(shown.seen_hash());
    let approve = async || {
        backend.approve_auth_request(&home.session, opened.id, seen, Grant::default()).await
    };
    let approved = approve().await.expect("approved");
    assert_eq!(approved.agent.name.as_deref(), Some("paired"));
    assert_eq!(problem(approve().await).code, Code::AlreadyConsumed);
    let decision = backend
        .await_auth_decision(&opened.open_token, opened.id, short)
        .await
        .expect("it is decided")
        .expect("there is a decision");
    assert_eq!(decision.account, home.account);
    let payload = backend.poll_rendezvous(&registered, short).await.expect("it is there");
    let payload = payload.expect("the minted session");
    let plain =
        seal::open(&secret, &Purpose::payload(opened.id), &payload).expect("for this child");
    decision.verify_payload(plain.expose()).expect("the one that was signed");

    let opened = backend.open_auth_request(request()).await.expect("it is open");
    backend.fetch_auth_request(&home.session, opened.pair_code).await.expect("shown");
    backend.deny_auth_request(&home.session, opened.id).await.expect("denied");
    let said = backend.await_auth_decision(&opened.open_token, opened.id, short).await;
    assert!(said.expect("it is decided").expect("a decision").granted.is_none());
    let unknown = backend.deny_auth_request(&home.session, RequestId([9; 16])).await;
    assert_eq!(problem(unknown).code, Code::NotFound);
}

async fn over(backend: Arc<dyn AccountBackend>) {
    run(&*backend).await;
}

#[tokio::test]
async fn the_vault_conforms() {
    let env = TestEnv::new().await;
    over(env.vault(loopback())).await;
}

#[tokio::test]
async fn the_client_over_tls_conforms() {
    let env = TestEnv::new().await;
    let issued = self_signed(&["localhost"]);
    let served = Served::vault(env.whole_vault(), &issued.served(), Limits::default());
    let pinned = format!("https://localhost:{}#{}", served.address.port(), issued.pin());
    over(Arc::new(HttpBackend::new(pinned.parse().expect("an address")))).await;
    assert!(served.stop().await.drained);
}

#[tokio::test]
async fn the_client_over_a_socket_conforms() {
    let env = TestEnv::new().await;
    over(env.http()).await;
}
