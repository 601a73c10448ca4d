//! A backend in whose store there is a row of every kind, and all states it went through; and a
//! store in memory, to open thousands of altered copies of it.
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use agentkeys::backend::clock::Entropy;
use agentkeys::backend::store::{
    Check, CommitError, KeyRange, Order, Store, StoreError, Value, Watch, Watchers, Write,
};
use agentkeys::backend::upstream::Upstreams;
use agentkeys::backend::vault::{Settings, Vault, VaultError};
use agentkeys::core::auth_request::{Details, Pair};
use agentkeys::core::backend::{OpenRequest, RevokeTarget};
use agentkeys::core::payment::Layer;
use agentkeys::core::problem::Code;
use agentkeys::core::scope::Scope;
use agentkeys::core::seal;
use agentkeys::core::secret::Key32;
use agentkeys::core::types::{ChildKeys, PublicKey};
use agentkeys::web::Fetcher;

use crate::env::{BACKEND, FakeClock, Master, ROOT, Rows, TestEnv, code, id, service};

/// The first byte of each kind of row: meta, head, account, proof, chain, event, agent,
/// name, credential, version, holder, session, renewal, family, request, code, registration,
/// pending, due, guesses, balance, movement, reference, movements so far.
pub const KINDS: &[u8; 25] = b"mhAIHEGNCVSsrfqpgPtlBLROM";
/// Audit events: the hash chain holds these, not the digest over the rows.
pub const EVENT: u8 = b'E';

/// What the rows came from.
pub struct Scene {
    pub env: TestEnv,
    pub alice: Master,
    pub bob: Master,
    /// A child session of `my-agent`.
    pub child: Master,
    /// The rows after each step, the last ones last.
    pub history: Vec<Rows>,
}

impl Scene {
    /// Plays it: `my-agent` of alice has `openrouter` (`sk-2`, before that `sk-1`) and
    /// `anthropic` (`sk-3`), `ended` has `openrouter` (`sk-4`) and is revoked, `other` has
    /// nothing; bob's `bobs` has `openrouter` (`sk-5`).
    pub async fn play() -> Self {
        let env = TestEnv::new().await;
        let mut history = vec![env.rows().await];
        let alice = env.master("alice").await;
        let bob = env.master("bob").await;
        history.push(env.rows().await);
        for agent in ["my-agent", "ended", "other"] {
            alice.agent(agent).await;
        }
        bob.agent("bobs").await;
        history.push(env.rows().await);
        for (agent, name, secret) in [
            ("my-agent", "openrouter", "sk-1"),
            ("my-agent", "openrouter", "sk-2"),
            ("my-agent", "anthropic", "sk-3"),
            ("ended", "openrouter", "sk-4"),
        ] {
            alice.store(agent, name, secret.as_bytes()).await;
            history.push(env.rows().await);
        }
        bob.store("bobs", "openrouter", b"sk-5").await;
        let minted = alice.mint("my-agent", Scope::everything()).await;
        history.push(env.rows().await);
        let renewal = minted.renewal.as_ref().expect("a child has one");
        let renewed = alice.backend.renew_session(renewal).await.expect("it is renewed");
        history.push(env.rows().await);
        let child = Master::of(env.backend(), renewed).await;
        history.push(env.rows().await);
        let (session, agent, layer) = (&alice.session, &id("my-agent"), Layer::ServicePayment);
        alice.backend.fund_child(session, agent, layer, 10).await.expect("it is funded");
        history.push(env.rows().await);
        child.backend.debit(&child.session, agent, layer, 4, None, "r-1").await.expect("debited");
        history.push(env.rows().await);
        Self::ask(&env, &alice, &mut history).await;
        let linked = alice.backend.link_identity(session, agent, &id("a@b.example")).await;
        linked.expect("it is linked");
        history.push(env.rows().await);
        let ended = RevokeTarget::Session(minted.session_id);
        alice.backend.revoke_session(session, ended).await.expect("it is revoked");
        let spare = alice.mint("other", Scope::everything()).await;
        history.push(env.rows().await);
        let ended = RevokeTarget::Session(spare.session_id);
        alice.backend.revoke_session(session, ended).await.expect("it is revoked");
        history.push(env.rows().await);
        let ended = RevokeTarget::Agent(id("ended"));
        alice.backend.revoke_session(session, ended).await.expect("it is revoked");
        history.push(env.rows().await);
        let scene = Self { env, alice, bob, child, history };
        let kinds: BTreeSet<u8> = scene.rows().keys().map(|key| key[0]).collect();
        assert_eq!(kinds, KINDS.iter().copied().collect(), "a row of every kind");
        scene
    }

    /// A child that asks to be paired, registers and is looked at, and a code that is wrong.
    async fn ask(env: &TestEnv, alice: &Master, history: &mut Vec<Rows>) {
        let (_, x25519) = seal::key_pair(&Key32::new([3; 32]));
        let keys = ChildKeys::new(PublicKey([4; 32]), x25519);
        let request = OpenRequest { keys, details: Details::Pair(Pair::default()), session: None };
        let child = env.backend();
        let opened = child.open_auth_request(request).await.expect("it is open");
        history.push(env.rows().await);
        let registered =
            child.register_rendezvous(&opened.open_token, opened.pair_code, keys).await;
        registered.expect("it is registered");
        history.push(env.rows().await);
        alice.backend.fetch_auth_request(&alice.session, opened.pair_code).await.expect("shown");
        history.push(env.rows().await);
        let wrong = match "0000-0000".parse() {
            Ok(code) if code != opened.pair_code => code,
            _ => "0000-0001".parse().expect("a code"),
        };
        let answer = alice.backend.fetch_auth_request(&alice.session, wrong).await;
        assert_eq!(code(answer), Code::NoMatch);
        history.push(env.rows().await);
    }

    /// The rows as they are in the end.
    pub fn rows(&self) -> &Rows {
        self.history.last().expect("there was a step")
    }

    /// What alice and her child read at the moment, as the secrets themselves.
    pub async fn released(&self) -> Vec<Vec<u8>> {
        let mut released = Vec::new();
        for (who, agent, name) in [
            (&self.alice, "my-agent", "openrouter"),
            (&self.alice, "my-agent", "anthropic"),
            (&self.alice, "other", "openrouter"),
            (&self.alice, "ended", "openrouter"),
            (&self.child, "my-agent", "openrouter"),
            (&self.child, "ended", "openrouter"),
            (&self.bob, "bobs", "openrouter"),
        ] {
            released.extend(who.try_read(agent, name).await.ok());
            let all = who.backend.read_all(&who.session, &id(agent)).await;
            let of_name = all.into_iter().flatten().filter(|one| one.service == service(name));
            released.extend(of_name.map(|one| one.credential.expose().to_vec()));
        }
        released
    }
}

/// Opens a vault over a copy of rows.
pub async fn open(rows: Rows) -> Result<Vault, VaultError> {
    let store = MemStore { rows: Mutex::new(rows), watchers: Watchers::default() };
    let settings = Settings {
        backend_id: BACKEND,
        dev: true,
        clock: FakeClock::new(),
        entropy: Entropy::system(),
        judge: None,
        mint: Arc::new(Upstreams::new(Fetcher::new(), Vec::new())),
    };
    Vault::open(Arc::new(store), &ROOT, settings).await
}

/// A store in memory.
struct MemStore {
    rows: Mutex<Rows>,
    watchers: Watchers,
}

#[async_trait::async_trait]
impl Store for MemStore {
    async fn get(&self, key: &[u8]) -> Result<Option<Value>, StoreError> {
        Ok(self.rows.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }

    async fn scan(
        &self,
        range: KeyRange,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Value)>, StoreError> {
        assert_eq!(range.order, Order::Ascending, "the vault scans upwards only");
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let found = rows.range(range.start..);
        let within = found.take_while(|(key, _)| range.end.as_ref().is_none_or(|end| *key < end));
        Ok(within.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    async fn commit(&self, checks: Vec<Check>, writes: Vec<Write>) -> Result<(), CommitError> {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        for check in checks {
            let holds = match &check {
                Check::Absent(key) => !rows.contains_key(key),
                Check::Equals(key, value) => rows.get(key) == Some(value),
            };
            if !holds {
                return Err(CommitError::Conflict { key: check.key().to_vec() });
            }
        }
        for write in writes {
            match write {
                Write::Put(key, value) => rows.insert(key, value),
                Write::Delete(key) => rows.remove(&key),
            };
        }
        drop(rows);
        self.watchers.wake_all();
        Ok(())
    }

    fn watch(&self, key: &[u8]) -> Watch {
        self.watchers.register(key)
    }
}
