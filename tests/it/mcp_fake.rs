//! A session holder for tests of the MCP side alone: answers what it is told to, and counts.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use agentkeys::core::auth_request::Kind;
use agentkeys::core::backend::{CredentialSummary, Release};
use agentkeys::core::claim::Reason;
use agentkeys::core::holder::{
    Access, Held, HttpAnswer, HttpAsk, Listing, Provisioning, Ready, Refusal, SessionHolder,
    SessionState, Standing, Waiting,
};
use agentkeys::core::identity::ServiceName;
use agentkeys::core::problem::{Code, Problem};
use agentkeys::core::secret::SecretBytes;
use agentkeys::core::types::{Timestamp, WalletAddress};
use async_trait::async_trait;
use tokio::sync::watch;

/// What the holder is like.
#[derive(Clone)]
pub enum Mood {
    /// A person has to approve.
    Waits,
    /// All works.
    Works,
    /// The agent was revoked.
    Revoked,
    /// The backend does not answer.
    Away,
    /// Nothing is ever answered.
    Hangs,
}

/// The holder.
pub struct Fake {
    mood: watch::Sender<(u64, Mood)>,
    keys: BTreeMap<ServiceName, Vec<u8>>,
    /// Calls that were asked for anything.
    pub asked: AtomicUsize,
    /// Calls that are being answered now, and the most that there were.
    pub under_way: AtomicUsize,
    pub most_under_way: AtomicUsize,
}

/// Counts a call for as long as it is being answered.
struct Counted<'a>(&'a Fake);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Fake {
    pub fn new(mood: Mood) -> Self {
        let keys = [
            ("openrouter", b"sk-or-v1-test".to_vec()),
            ("github", b"ghp_\"quoted\"\n\\ \xE2\x82\xAC".to_vec()),
            ("binary", vec![0xFF, 0x00, 0x80]),
        ];
        Self {
            mood: watch::Sender::new((1, mood)),
            keys: keys.into_iter().map(|(name, key)| (name.parse().unwrap(), key)).collect(),
            asked: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            most_under_way: AtomicUsize::new(0),
        }
    }

    pub fn becomes(&self, mood: Mood) {
        self.mood.send_modify(|now| *now = (now.0 + 1, mood));
    }

    fn agent() -> WalletAddress {
        format!("0x{}", "ab".repeat(20)).parse().unwrap()
    }

    pub fn waiting(kind: Kind) -> Waiting {
        Waiting {
            kind,
            pair_code: "ABCD-EFGH".to_owned(),
            otp: "042137".to_owned(),
            expires_at: Timestamp(4_102_444_800_000),
            because: None,
            command: "agentkeys approve ABCD-EFGH".to_owned(),
        }
    }

    fn revoked() -> Problem {
        Problem::new(
            Code::Denied,
            "access denied: agent \"my-agent\" was revoked",
            "revoked 2026-04-09 14:32:07 UTC by the master session on host \"laptop\"",
            "agentkeys reinstate my-agent",
        )
    }

    async fn enter(&self) -> Held<Counted<'_>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        let counted = Counted(self);
        self.most_under_way.fetch_max(now, Ordering::SeqCst);
        let mood = self.mood.borrow().1.clone();
        match mood {
            Mood::Works => Ok(counted),
            Mood::Waits => Err(Refusal::Waiting(Self::waiting(Kind::Pair))),
            Mood::Revoked => Err(Self::revoked().into()),
            Mood::Away => Err(Problem::new(
                Code::Unavailable,
                "cannot reach the backend at https://keys.example",
                "3 tries in 7 s failed",
                "agentkeys doctor",
            )
            .into()),
            Mood::Hangs => std::future::pending().await,
        }
    }
}

#[async_trait]
impl SessionHolder for Fake {
    async fn standing(&self) -> Held<Standing> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let (generation, mood) = self.mood.borrow().clone();
        Ok(Standing {
            pid: 1,
            backend: None,
            agent: None,
            account: None,
            pinned_by_first_approval: false,
            session: match mood {
                Mood::Waits => SessionState::Unpaired,
                Mood::Revoked => SessionState::Ended(Self::revoked()),
                _ => SessionState::Paired { expires_at: Timestamp(0), asks: None, refused: None },
            },
            provisioning: Vec::new(),
            generation,
            mirror: String::new(),
            protections: Vec::new(),
        })
    }

    async fn changed(&self, seen: u64) -> Held<u64> {
        let mut mood = self.mood.subscribe();
        let new = mood.wait_for(|(generation, _)| *generation != seen).await;
        Ok(new.map_or(seen, |now| now.0))
    }

    async fn read(&self, service: &ServiceName) -> Held<SecretBytes> {
        let _counted = self.enter().await?;
        tokio::task::yield_now().await;
        match self.keys.get(service) {
            Some(key) => Ok(SecretBytes::new(key.clone())),
            None if service.as_str() == "outside" => Err(Problem::new(
                Code::Denied,
                "access denied: \"outside\" is outside the scope of agent \"my-agent\"",
                "its scope is: openrouter, github",
                "ask the master for a wider scope",
            )
            .into()),
            None => Err(Problem::new(
                Code::NotFound,
                format!("no credential for \"{service}\""),
                "none was stored",
                format!("agentkeys store my-agent {service}"),
            )
            .into()),
        }
    }

    async fn inject(&self, service: &ServiceName) -> Held<SecretBytes> {
        self.read(service).await
    }

    async fn read_all(&self) -> Held<Vec<Release>> {
        Ok(Vec::new())
    }

    async fn list(&self) -> Held<Listing> {
        let _counted = self.enter().await?;
        let credentials = self.keys.keys().map(|service| CredentialSummary {
            service: service.clone(),
            version: 3,
            kept: 2,
            stored_at: Timestamp(1_775_745_127_000),
            expires_at: None,
            made: false,
            terms: Default::default(),
            spent: None,
        });
        Ok(Listing { agent: Self::agent(), credentials: credentials.collect() })
    }

    async fn request_access(
        &self,
        service: &ServiceName,
        _reason: Option<&Reason>,
    ) -> Held<Access> {
        let _counted = self.enter().await?;
        Ok(match self.keys.contains_key(service) {
            true => Access::Allowed,
            false => Access::Waiting(Self::waiting(Kind::ScopeChange)),
        })
    }

    async fn provision(
        &self,
        _service: &ServiceName,
        _reason: Option<&Reason>,
    ) -> Held<Provisioning> {
        let _counted = self.enter().await?;
        Ok(Provisioning::Ready(Ready { made: true, expires_at: None, note: None }))
    }

    async fn http_request(&self, ask: &HttpAsk) -> Held<HttpAnswer> {
        let _counted = self.enter().await?;
        let headers = vec![("content-type".to_owned(), "text/plain".to_owned())];
        let body = format!("{} {}", ask.method, ask.target).into_bytes();
        Ok(HttpAnswer { status: 200, headers, body, cut: false })
    }

    async fn rotate(&self) -> Held<Waiting> {
        Ok(Self::waiting(Kind::KeyRotate))
    }
}
