//! A session's holder for the tests of what stands around one: it answers as it is told to, and
//! counts. It knows no backend.
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentkeys::client::places::Places;
use agentkeys::core::auth_request::Kind;
use agentkeys::core::backend::{CredentialSummary, Release};
use agentkeys::core::claim::Reason;
use agentkeys::core::holder::{
    Access, Held, HttpAnswer, HttpAsk, Listing, Protection, Provisioning, Ready, Refusal,
    SessionHolder, SessionState, Standing, Waiting,
};
use agentkeys::core::identity::{Alias, ServiceName};
use agentkeys::core::problem::{Code, Problem};
use agentkeys::core::secret::SecretBytes;
use agentkeys::core::types::{Timestamp, WalletAddress};
use agentkeys::daemon::seat::Seat;
use agentkeys::daemon::shared::MakeKeeper;
use async_trait::async_trait;
use tokio::sync::watch;

pub const AGENT: WalletAddress = WalletAddress([0xAB; 20]);
/// A service whose read does not end.
pub const SLOW: &str = "slow";

pub fn waiting() -> Waiting {
    Waiting {
        kind: Kind::Pair,
        pair_code: "ABCD-EFGH".into(),
        otp: "123456".into(),
        expires_at: Timestamp(1_800_000_000_000),
        because: None,
        command: "agentkeys approve ABCD-EFGH".into(),
    }
}

pub struct Fake {
    pub generation: watch::Sender<u64>,
    pub credentials: Mutex<BTreeMap<String, Vec<u8>>>,
    pub waits: Mutex<Option<Waiting>>,
    pub asked: Mutex<Vec<(String, Option<String>)>>,
    pub slow_begun: AtomicUsize,
    pub slow_ended: AtomicUsize,
}

impl Fake {
    /// One whose `who` credential is `who`.
    pub fn new(who: &str) -> Arc<Self> {
        let credentials = [
            ("who".to_owned(), who.as_bytes().to_vec()),
            ("openrouter".to_owned(), b"sk-or-v1-fake".to_vec()),
            ("binary".to_owned(), vec![0xFF, 0, b'\n', b'"']),
        ];
        Arc::new(Self {
            generation: watch::Sender::new(7),
            credentials: Mutex::new(credentials.into()),
            waits: Mutex::default(),
            asked: Mutex::default(),
            slow_begun: AtomicUsize::default(),
            slow_ended: AtomicUsize::default(),
        })
    }

    pub fn change(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }

    fn ready(&self) -> Held<()> {
        match &*self.waits.lock().unwrap() {
            Some(waiting) => Err(Refusal::Waiting(waiting.clone())),
            None => Ok(()),
        }
    }
}

struct Ending<'a>(&'a AtomicUsize);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl SessionHolder for Fake {
    async fn standing(&self) -> Held<Standing> {
        let waits = self.waits.lock().unwrap().clone();
        let (agent, session) = match waits {
            Some(waiting) => (None, SessionState::Waiting(waiting)),
            None => {
                let expires_at = Timestamp(1_800_000_000_000);
                (Some(AGENT), SessionState::Paired { expires_at, asks: None, refused: None })
            }
        };
        let protection = |name: &str, in_force, required| Protection {
            name: name.into(),
            in_force,
            required,
            detail: "as read back".into(),
        };
        Ok(Standing {
            pid: std::process::id(),
            backend: Some("http://127.0.0.1:9".into()),
            agent,
            account: None,
            pinned_by_first_approval: false,
            session,
            provisioning: Vec::new(),
            generation: *self.generation.borrow(),
            mirror: "/h/.agentkeys/session, in the clear: there is no keyring".into(),
            protections: vec![
                protection("seccomp", true, true),
                protection("landlock", false, false),
                protection("no core dumps", false, true),
            ],
        })
    }

    async fn changed(&self, seen: u64) -> Held<u64> {
        let mut generation = self.generation.subscribe();
        Ok(*generation.wait_for(|now| *now != seen).await.unwrap())
    }

    async fn read(&self, service: &ServiceName) -> Held<SecretBytes> {
        self.ready()?;
        if let Some(found) = self.credentials.lock().unwrap().get(service.as_str()) {
            return Ok(SecretBytes::new(found.clone()));
        }
        if service.as_str() == SLOW {
            self.slow_begun.fetch_add(1, Ordering::SeqCst);
            let _ending = Ending(&self.slow_ended);
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
        let detail = format!("no credential for \"{service}\"");
        Err(Problem::new(Code::NotFound, detail, "nobody stored one", "store one").into())
    }

    async fn inject(&self, service: &ServiceName) -> Held<SecretBytes> {
        self.read(service).await
    }

    async fn read_all(&self) -> Held<Vec<Release>> {
        self.ready()?;
        let all = self.credentials.lock().unwrap().clone();
        Ok(all
            .into_iter()
            .map(|(service, key)| Release {
                service: service.parse().unwrap(),
                credential: SecretBytes::new(key),
            })
            .collect())
    }

    async fn list(&self) -> Held<Listing> {
        self.ready()?;
        let stored_at = Timestamp(1_800_000_000_000);
        let one = |service: &String| CredentialSummary {
            service: service.parse().unwrap(),
            version: 1,
            kept: 0,
            stored_at,
            expires_at: None,
            made: false,
            terms: Default::default(),
            spent: None,
        };
        let credentials = self.credentials.lock().unwrap().keys().map(one).collect();
        Ok(Listing { agent: AGENT, credentials })
    }

    async fn request_access(&self, service: &ServiceName, reason: Option<&Reason>) -> Held<Access> {
        let asked = (service.to_string(), reason.map(|reason| reason.to_string()));
        self.asked.lock().unwrap().push(asked);
        if service.as_str() == "who" {
            return Ok(Access::Allowed);
        }
        Ok(Access::Waiting(Waiting { kind: Kind::ScopeChange, ..waiting() }))
    }

    async fn provision(
        &self,
        _service: &ServiceName,
        _reason: Option<&Reason>,
    ) -> Held<Provisioning> {
        self.ready()?;
        Ok(Provisioning::Ready(Ready { made: false, expires_at: None, note: None }))
    }

    async fn http_request(&self, ask: &HttpAsk) -> Held<HttpAnswer> {
        let _counted = self.ready()?;
        let headers = vec![("content-type".to_owned(), "text/plain".to_owned())];
        let body = format!("{} {}", ask.method, ask.target).into_bytes();
        Ok(HttpAnswer { status: 200, headers, body, cut: false })
    }

    async fn rotate(&self) -> Held<Waiting> {
        Ok(Waiting { kind: Kind::KeyRotate, ..waiting() })
    }
}

pub fn service(name: &str) -> ServiceName {
    name.parse().unwrap()
}

/// The places of somebody whose home that is.
pub fn places(home: &Path) -> Places {
    let find = |name: &str| (name == "HOME").then(|| home.into());
    Places::find(find, agentkeys::harden::effective_uid()).unwrap()
}

pub fn seat(home: &Path, name: Option<&str>) -> Seat {
    let name: Option<Alias> = name.map(|name| name.parse().unwrap());
    Seat::new(&places(home), name.as_ref(), None).unwrap()
}

/// Gives this keeper each time, and counts how often.
pub fn making(keeper: Arc<Fake>, count: Arc<AtomicUsize>) -> MakeKeeper {
    Box::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
        let keeper: Arc<dyn SessionHolder> = keeper.clone();
        Box::pin(async move { Ok(keeper) })
    })
}

/// Waits until it holds, for ten seconds at most.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}
