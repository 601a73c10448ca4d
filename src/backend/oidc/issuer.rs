//! The issuer as the backend reaches it: discovery and key set, fetched when they are first
//! needed, once for everybody who waits, and kept as long as the issuer allows, within bounds.
//!
//! A stranger can make the backend ask for new keys by naming one that nobody has; that is done
//! once in a while, however many ask. An issuer that is down keeps nobody out whose key is known.
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::keys::{IssuerKey, KeySet};
use crate::core::problem::{Answer, Code, Problem};
use crate::web::{FetchError, Fetched, Fetcher};

/// How long keys are kept when the issuer does not say.
const KEEP: Duration = Duration::from_secs(10 * 60);
/// The least and the most, whatever it says.
const KEEP_LEAST: Duration = Duration::from_secs(60);
const KEEP_MOST: Duration = Duration::from_secs(60 * 60);
/// The least time between two fetches for keys that were not known.
const ANEW: Duration = Duration::from_secs(10);
/// How long a failure answers for the next ones who ask.
const FAILED: Duration = Duration::from_secs(10);

/// Keys as they were fetched.
#[derive(Clone)]
pub struct Kept {
    /// The keys.
    pub keys: Arc<[IssuerKey]>,
    fetched: Instant,
    fresh_until: Instant,
}

/// What the discovery document says that matters here.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// One issuer.
pub struct Issuer {
    name: String,
    fetcher: Fetcher,
    kept: RwLock<Option<Kept>>,
    /// Held while keys are fetched: one fetch at a time. When the last one failed, and how.
    fetching: Mutex<Option<(Instant, Problem)>>,
}

fn unavailable(issuer: &str, cause: String) -> Problem {
    Problem::new(
        Code::Unavailable,
        format!("the issuer {issuer} cannot be asked for its keys"),
        format!("as the backend's machine sees it: {cause}"),
        "try again; if it stays, the backend's operator looks at its way to the issuer; a \
         certificate of an authority of one's own is trusted by SSL_CERT_FILE in the environment \
         of serve",
    )
    .retry_after(5)
}

impl Issuer {
    /// The issuer of this name, an `https://` URL, or `http://` on this machine.
    pub fn new(name: String, fetcher: Fetcher) -> Self {
        Self { name, fetcher, kept: RwLock::default(), fetching: Mutex::default() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn fresh(&self, now: Instant) -> Option<Kept> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().filter(|kept| now < kept.fresh_until).cloned()
    }

    /// Its keys.
    ///
    /// # Errors
    /// `UNAVAILABLE` when none are kept and the issuer does not give any.
    pub async fn keys(&self) -> Answer<Kept> {
        if let Some(kept) = self.fresh(Instant::now()) {
            return Ok(kept);
        }
        let mut failed = self.fetching.lock().await;
        // Whoever held the lock has fetched for everybody who waited.
        if let Some(kept) = self.fresh(Instant::now()) {
            return Ok(kept);
        }
        self.fetch(&mut failed).await
    }

    /// Newer keys than those that `known` has not the right one among; `None` if there are none
    /// to be had, since these were fetched for this very caller.
    ///
    /// # Errors
    /// `UNAVAILABLE` when it may not be asked again yet, or does not answer.
    pub async fn newer_keys(&self, known: &Kept, since: Instant) -> Answer<Option<Kept>> {
        if known.fetched >= since {
            return Ok(None);
        }
        let mut failed = self.fetching.lock().await;
        if let Some(kept) = self.fresh(Instant::now())
            && kept.fetched > known.fetched
        {
            return Ok(Some(kept));
        }
        let wait = ANEW.saturating_sub(known.fetched.elapsed());
        if !wait.is_zero() {
            let seconds = wait.as_secs() + 1;
            let cause = format!(
                "the ID token is signed with a key that was not among the issuer's {} s ago",
                known.fetched.elapsed().as_secs()
            );
            return Err(unavailable(&self.name, cause).retry_after(seconds));
        }
        self.fetch(&mut failed).await.map(Some)
    }

    async fn fetch(&self, failed: &mut Option<(Instant, Problem)>) -> Answer<Kept> {
        if let Some((at, problem)) = failed
            && at.elapsed() < FAILED
        {
            return Err(problem.clone());
        }
        match self.fetch_now().await {
            Ok(kept) => {
                *failed = None;
                let mut place = self.kept.write().unwrap_or_else(PoisonError::into_inner);
                *place = Some(kept.clone());
                Ok(kept)
            }
            Err(why) => {
                tracing::warn!(issuer = %self.name, why = %why, "the issuer's keys are not to be had");
                let problem = unavailable(&self.name, why);
                *failed = Some((Instant::now(), problem.clone()));
                Err(problem)
            }
        }
    }

    async fn fetch_now(&self) -> Result<Kept, String> {
        let at = crate::core::sign_in::discovery_url(&self.name);
        let (discovery, _) = self.get::<Discovery>(&at).await?;
        if discovery.issuer != self.name {
            return Err(format!("{at} is the discovery document of another issuer"));
        }
        if self.name.starts_with("https:") && !discovery.jwks_uri.starts_with("https:") {
            return Err(format!("{at} names keys that are not at an https:// address"));
        }
        let (set, max_age) = self.get::<KeySet>(&discovery.jwks_uri).await?;
        let keys = set.usable().map_err(|why| format!("the key set that {at} names: {why}"))?;
        let fetched = Instant::now();
        let keep = max_age.unwrap_or(KEEP).clamp(KEEP_LEAST, KEEP_MOST);
        Ok(Kept { keys: keys.into(), fetched, fresh_until: fetched + keep })
    }

    async fn get<T: serde::de::DeserializeOwned>(
        &self,
        url: &str,
    ) -> Result<(T, Option<Duration>), String> {
        let told = |error: FetchError| error.to_string();
        let answer: Fetched = self.fetcher.get_json(url).await.map_err(told)?;
        if !answer.is_success() {
            return Err(format!("{url} answered with status {}", answer.status));
        }
        Ok((answer.json().map_err(told)?, answer.max_age))
    }
}
