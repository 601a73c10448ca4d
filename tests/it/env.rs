//! The environment that the backend's tests share: a temporary folder, a clock that is set by
//! hand, a vault over the embedded store in that folder, and a server before it on a real
//! socket, with short ways to do what every test does. Must never decide what is right: tests
//! assert, this only acts.
//!
//! Tests act through [`TestEnv::backend`], which is the client over the socket;
//! [`TestEnv::vault`] is the vault in this process, for any peer.
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use agentkeys::backend::clock::{Clock, Entropy};
use agentkeys::backend::http::{self, Limits, ListenAddress, Listener, Stopped};
use agentkeys::backend::judge::TokenJudge;
use agentkeys::backend::peer::{Peer, UnixPeer};
use agentkeys::backend::store::{Check, KeyRange, Options, SledStore, Store, Value, Write};
use agentkeys::backend::upstream::Upstreams;
use agentkeys::backend::vault::{Settings, Vault, VaultError};
use agentkeys::client::http::{Address, HttpBackend};
use agentkeys::core::audit::{Action, Entry, Event, Fault, Head, Outcome, Walk};
use agentkeys::core::backend::{
    AccountBackend, AgentSummary, AuditFilter, ClientInfo, IdentityProof, Minted,
};
use agentkeys::core::identity::{AgentIdentity, ServiceName};
use agentkeys::core::presence::Proof;
use agentkeys::core::problem::{Answer, Code, Problem};
use agentkeys::core::scope::Scope;
use agentkeys::core::seal::{self, Purpose};
use agentkeys::core::secret::{Key32, SecretBytes};
use agentkeys::core::token::SessionToken;
use agentkeys::core::types::{
    AccountId, BackendId, PublicKey, SessionId, Timestamp, WalletAddress,
};
use agentkeys::web::{Fetcher, Url};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A minute, in milliseconds.
pub const MINUTE: u64 = 60 * 1000;
/// An hour, in milliseconds.
pub const HOUR: u64 = 60 * MINUTE;
/// A day, in milliseconds.
pub const DAY: u64 = 24 * HOUR;

/// The root key of every test's store.
pub const ROOT: [u8; 32] = [0x42; 32];
/// The id of every test's backend.
pub const BACKEND: BackendId = BackendId([0xb0; 16]);
/// When every test begins: 2026-04-09 14:32:07 UTC.
pub const START: Timestamp = Timestamp(1_775_745_127_000);

/// A clock that moves when it is told to.
pub struct FakeClock(AtomicU64);

impl FakeClock {
    /// A clock that stands at [`START`].
    pub fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(START.0)))
    }

    /// Moves the clock on.
    pub fn advance(&self, millis: u64) {
        self.0.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

/// All rows of a store.
pub type Rows = BTreeMap<Vec<u8>, Value>;

/// A folder with a store, and the vault over it while it is open.
pub struct TestEnv {
    dir: tempfile::TempDir,
    /// The backend's time.
    pub clock: Arc<FakeClock>,
    dev: bool,
    judge: Option<Arc<dyn TokenJudge>>,
    provider_urls: Vec<Url>,
    open: Option<Open>,
}

struct Open {
    store: Arc<SledStore>,
    vault: Vault,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    server: JoinHandle<std::io::Result<Stopped>>,
}

impl Open {
    fn new(store: Arc<SledStore>, vault: Vault) -> Self {
        let any_port = ListenAddress::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let listener = Listener::bind(&any_port).expect("a free port");
        let ListenAddress::Tcp(address) = *listener.address() else {
            unreachable!("it was bound over TCP")
        };
        let served = vault.clone();
        let make: http::MakeBackend =
            Arc::new(move |peer, proof| Arc::new(served.for_peer(peer).proving(proof)));
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(http::run(vec![listener], make, Limits::default(), async {
            // A dropped sender is a test that has ended: stop as well.
            let _ = stopped.await;
        }));
        Self { store, vault, address, stop, server }
    }
}

impl TestEnv {
    /// A fresh backend that accepts test identities.
    pub async fn new() -> Self {
        Self::with_dev(true).await
    }

    /// A fresh backend, with or without `--dev`.
    pub async fn with_dev(dev: bool) -> Self {
        Self::with(dev, None, Vec::new()).await
    }

    /// A fresh backend that is signed in at by an issuer, and by no test identity.
    pub async fn with_judge(judge: Arc<dyn TokenJudge>) -> Self {
        Self::with(false, Some(judge), Vec::new()).await
    }

    /// A fresh backend that asks services at these addresses too.
    pub async fn asking(urls: &[&str]) -> Self {
        let urls = urls.iter().map(|url| url.parse().expect("a good address")).collect();
        Self::with(true, None, urls).await
    }

    async fn with(dev: bool, judge: Option<Arc<dyn TokenJudge>>, provider_urls: Vec<Url>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let clock = FakeClock::new();
        let mut env = Self { dir, clock, dev, judge, provider_urls, open: None };
        env.try_open().await.expect("a fresh store opens");
        env
    }

    /// The folder of the store.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    fn open(&self) -> &Open {
        self.open.as_ref().expect("the vault is open")
    }

    /// The store below the live vault, to read and write behind its back.
    pub fn raw(&self) -> Arc<SledStore> {
        self.open().store.clone()
    }

    /// The vault itself, for the sweeper.
    pub fn whole_vault(&self) -> Vault {
        self.open().vault.clone()
    }

    /// The vault in this process, for one peer.
    pub fn vault(&self, peer: Peer) -> Arc<dyn AccountBackend> {
        Arc::new(self.open().vault.for_peer(peer))
    }

    /// The same with a proof of presence, as one request brings it along.
    pub fn vault_proving(&self, peer: Peer, proof: Proof) -> Arc<dyn AccountBackend> {
        Arc::new(self.open().vault.for_peer(peer).proving(Some(proof)))
    }

    /// The address of the server.
    pub fn address(&self) -> SocketAddr {
        self.open().address
    }

    /// A new client over the socket.
    pub fn http(&self) -> Arc<dyn AccountBackend> {
        Arc::new(HttpBackend::new(Address::from(self.address())))
    }

    /// The backend as tests use it.
    pub fn backend(&self) -> Arc<dyn AccountBackend> {
        self.http()
    }

    /// Ends the server and the vault, and frees the folder.
    pub async fn close(&mut self) {
        if let Some(Open { store, vault, stop, server, .. }) = self.open.take() {
            // The server may have ended by itself; what it says is looked at next.
            let _ = stop.send(());
            let stopped = server.await.expect("the server did not panic").expect("it ran");
            assert!(stopped.drained, "requests were still under way");
            drop(vault);
            store.close().await;
        }
    }

    /// Opens the vault over what is in the folder.
    pub async fn try_open(&mut self) -> Result<(), VaultError> {
        let store = self.open_store();
        let settings = Settings {
            backend_id: BACKEND,
            dev: self.dev,
            clock: self.clock.clone(),
            entropy: Entropy::system(),
            judge: self.judge.clone(),
            mint: Arc::new(Upstreams::new(Fetcher::new(), self.provider_urls.clone())),
        };
        match Vault::open(store.clone(), &ROOT, settings).await {
            Ok(vault) => {
                self.open = Some(Open::new(store, vault));
                Ok(())
            }
            Err(error) => {
                store.close().await;
                Err(error)
            }
        }
    }

    /// Ends the backend and starts it again over the same folder.
    pub async fn restart(&mut self) {
        self.close().await;
        self.try_open().await.expect("the store opens again");
    }

    fn open_store(&self) -> Arc<SledStore> {
        let dir = self.dir.path().join("store");
        Arc::new(SledStore::open(&dir, Options::default()).expect("the store opens"))
    }

    /// All rows as they are on disk now.
    pub async fn rows(&self) -> Rows {
        rows_of(&*self.open().store).await
    }

    /// Changes rows behind the live vault's back; `None` deletes.
    pub async fn overwrite(&self, changes: Vec<(Vec<u8>, Option<Value>)>) {
        overwrite(&*self.open().store, changes).await;
    }

    /// Ends the backend, changes rows, and tries to start it again.
    pub async fn reopen_with(
        &mut self,
        changes: Vec<(Vec<u8>, Option<Value>)>,
    ) -> Result<(), VaultError> {
        self.close().await;
        let store = self.open_store();
        overwrite(&*store, changes).await;
        store.close().await;
        self.try_open().await
    }

    /// Signs in as a test identity.
    pub async fn master(&self, identity: &str) -> Master {
        Master::sign_in(self.backend(), identity).await
    }
}

/// All rows of a store.
pub async fn rows_of(store: &dyn Store) -> Rows {
    let mut rows = Rows::new();
    let mut range = KeyRange::all();
    loop {
        let page = store.scan(range.clone(), 1000).await.expect("the store scans");
        let Some((last, _)) = page.last() else { return rows };
        range.start = last.clone();
        range.start.push(0);
        rows.extend(page);
    }
}

/// Changes rows of a store; `None` deletes.
pub async fn overwrite(store: &dyn Store, changes: Vec<(Vec<u8>, Option<Value>)>) {
    let writes = changes
        .into_iter()
        .map(|(key, value)| match value {
            Some(value) => Write::Put(key, value),
            None => Write::Delete(key),
        })
        .collect();
    store.commit(Vec::<Check>::new(), writes).await.expect("the raw store takes it");
}

/// A peer over loopback TCP.
pub fn loopback() -> Peer {
    Peer::Address(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// A peer at another address.
pub fn address(last: u8) -> Peer {
    Peer::Address(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)))
}

/// A peer over the Unix socket.
pub fn unix(uid: u32) -> Peer {
    Peer::Unix(UnixPeer { uid, pid: None, process: None, program: None })
}

/// What `identity` is as a proof under `--dev`.
pub fn proof(identity: &str) -> IdentityProof {
    IdentityProof::Token(SecretBytes::new(identity.as_bytes().to_vec()))
}

/// An agent's identity from its text.
pub fn id(text: &str) -> AgentIdentity {
    text.parse().expect("a good identity")
}

/// A service's name from its text.
pub fn service(text: &str) -> ServiceName {
    text.parse().expect("a good service name")
}

/// A scope of these services, reading and storing.
pub fn scope(services: &[&str]) -> Scope {
    Scope {
        services: Some(services.iter().map(|name| service(name)).collect()),
        read_only: false,
        ..Scope::default()
    }
}

/// The problem that an operation was refused with.
#[track_caller]
pub fn refused<T>(answer: Answer<T>) -> Problem {
    match answer {
        Ok(_) => panic!("it was allowed"),
        Err(problem) => problem,
    }
}

/// The code that an operation was refused with.
#[track_caller]
pub fn code<T>(answer: Answer<T>) -> Code {
    refused(answer).code
}

/// A second session token with the same text.
pub fn copy_of(token: &SessionToken) -> SessionToken {
    SessionToken::parse(token.expose()).expect("it was one before")
}

/// A token that nobody was ever given.
pub fn unknown_token() -> SessionToken {
    SessionToken::child(&[9; 32])
}

/// Somebody who is signed in: a master, or an agent by its child session.
pub struct Master {
    /// What they talk to.
    pub backend: Arc<dyn AccountBackend>,
    /// Their token.
    pub session: SessionToken,
    /// Its id.
    pub session_id: SessionId,
    /// The account's wallet, or the agent's.
    pub wallet: WalletAddress,
    /// Their account.
    pub account: AccountId,
    /// The account's public key.
    pub master_key: PublicKey,
}

impl Master {
    /// Signs in as a test identity over `backend`, from the host `laptop`.
    pub async fn sign_in(backend: Arc<dyn AccountBackend>, identity: &str) -> Self {
        let client = ClientInfo {
            host: Some("laptop".parse().expect("a good claim")),
            user: Some("ada".parse().expect("a good claim")),
        };
        let minted = backend.create_session(proof(identity), client).await.expect("signs in");
        Self::of(backend, minted).await
    }

    /// Whoever holds the minted session.
    pub async fn of(backend: Arc<dyn AccountBackend>, minted: Minted) -> Self {
        let who = backend.who_am_i(&minted.session).await.expect("the session is good");
        Self {
            backend,
            session: minted.session,
            session_id: minted.session_id,
            wallet: minted.wallet,
            account: who.account,
            master_key: who.master_key,
        }
    }

    /// Makes an agent with a name.
    pub async fn agent(&self, name: &str) -> AgentSummary {
        let name = name.parse().expect("a good alias");
        self.backend.create_agent(&self.session, &name).await.expect("the agent is made")
    }

    /// Makes a child session of an agent.
    pub async fn child(&self, agent: &str, scope: Scope) -> Self {
        Self::of(self.backend.clone(), self.mint(agent, scope).await).await
    }

    /// Makes a child session of an agent, and does not use it.
    pub async fn mint(&self, agent: &str, scope: Scope) -> Minted {
        self.backend
            .create_child_session(&self.session, Some(&id(agent)), scope)
            .await
            .expect("the child session is made")
    }

    /// Seals a secret for an agent of this account.
    pub async fn seal(&self, agent: WalletAddress, name: &str, secret: &[u8]) -> Vec<u8> {
        self.try_seal(agent, name, secret).await.expect("the shielding key")
    }

    async fn try_seal(&self, agent: WalletAddress, name: &str, secret: &[u8]) -> Answer<Vec<u8>> {
        let key = self.backend.shielding_key().await?.public_key;
        let purpose = Purpose::credential(self.account, agent, &service(name));
        let random: [u8; 32] = Entropy::system().bytes().expect("randomness");
        Ok(seal::seal(&key, &purpose, secret, &Key32::new(random)).expect("the key is usable"))
    }

    /// Seals and stores a secret.
    pub async fn try_store(&self, agent: &str, name: &str, secret: &[u8]) -> Answer<()> {
        let wallet =
            self.backend.resolve_identity(&self.session, &id(agent)).await.map(|a| a.wallet);
        let sealed = self.try_seal(wallet.unwrap_or(self.wallet), name, secret).await?;
        self.backend.store_credential(&self.session, &id(agent), &service(name), sealed).await
    }

    /// Seals and stores a secret that is to be accepted.
    pub async fn store(&self, agent: &str, name: &str, secret: &[u8]) {
        self.try_store(agent, name, secret).await.expect("the credential is stored");
    }

    /// Reads a secret.
    pub async fn try_read(&self, agent: &str, name: &str) -> Answer<Vec<u8>> {
        let read = self.backend.read_credential(&self.session, &id(agent), &service(name)).await?;
        Ok(read.expose().to_vec())
    }

    /// Reads a secret that is to be released.
    pub async fn read(&self, agent: &str, name: &str) -> Vec<u8> {
        self.try_read(agent, name).await.expect("the credential is released")
    }

    /// All that is in the log, damaged places too, and the head of its last page.
    pub async fn log(&self) -> (Vec<Entry>, Head) {
        let mut entries = Vec::new();
        let mut filter = AuditFilter { limit: Some(100), ..AuditFilter::default() };
        loop {
            let page = self
                .backend
                .query_audit(&self.session, filter.clone())
                .await
                .expect("the log is readable");
            entries.extend(page.events);
            match page.next {
                Some(next) => filter.from = Some(next),
                None => return (entries, page.head),
            }
        }
    }

    /// All events of the log.
    pub async fn events(&self) -> Vec<Event> {
        let (entries, _) = self.log().await;
        entries
            .into_iter()
            .map(|entry| match entry {
                Entry::Event(event) => *event,
                Entry::Damaged { damaged } => panic!("event {damaged} is damaged"),
            })
            .collect()
    }

    /// What was done and how it ended, in order, from the event after `after` on.
    pub async fn acts_after(&self, after: usize) -> Vec<(Action, Outcome)> {
        self.events().await.iter().skip(after).map(|e| (e.action, e.outcome)).collect()
    }

    /// Walks the log as `agentkeys audit verify` does; `seen` is what this client remembers.
    pub async fn verify(&self, seen: Option<&Head>) -> Result<u64, Fault> {
        let (entries, head) = self.log().await;
        let mut walk = Walk::new(BACKEND, self.account, seen);
        for entry in &entries {
            walk.step(entry)?;
        }
        assert_eq!(head.master_key, self.master_key);
        walk.finish(&head)
    }
}
