//! Services that are asked with an access token of OAuth 2 (RFC 6749): it is got here, by the client's
//! credentials (section 4.4) or a refresh token (section 6), kept in memory until shortly before it
//! ends, and sent as a bearer token.
//!
//! Must never send the client's secret or a refresh token anywhere but to the token URL that the
//! backend's operator named, use a token before what came with it is stored, or send one refresh
//! token twice.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::backend::vault::{Stored, Vault};
use crate::core::backend::MAX_CREDENTIAL;
use crate::core::identity::ServiceName;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::secret::SecretBytes;
use crate::core::types::{Hash32, Timestamp};
use crate::web::{Asked, Fetcher, Form, Method, Trust, Url, form};

/// How long a token is kept of which nobody says how long it holds, in seconds.
const UNSAID: u64 = 300;
/// Longest that one is kept, in seconds.
const LONGEST: u64 = 24 * 60 * 60;
/// How long before its end it is used no more, in seconds; of a short one, a tenth of its life.
const BEFORE_END: u64 = 60;
/// After a token URL has refused a credential it is not asked again so soon.
const PAUSE_MS: u64 = 5_000;
/// Longest access token.
const MAX_TOKEN: usize = 16 * 1024;
/// Credentials of which something is kept.
const MOST: usize = 4096;
/// Longest wait that a token URL's `Retry-After` is believed, in seconds.
const MAX_WAIT: u64 = 60 * 60;

/// Where tokens of a service are got, and for what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    url: String,
    scope: Option<String>,
}

impl Source {
    /// Reads `https://TOKEN-URL`, and behind a blank what the tokens are for.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (url, scope) = match text.split_once(' ') {
            Some((url, scope)) => (url, Some(scope.trim())),
            None => (text, None),
        };
        let is_url = url.parse::<Url>().is_ok_and(|url| url.tls);
        // What a scope may have in it (RFC 6749, section 3.3).
        let fits = |c: u8| c == b' ' || c.is_ascii_graphic() && c != b'"' && c != b'\\';
        let has_scope = scope.is_none_or(|scope| !scope.is_empty() && scope.bytes().all(fits));
        if !is_url || !has_scope {
            return Err("oauth= wants where tokens are got, and behind a blank what for: \
                        oauth=https://HOST/PATH SCOPE"
                .to_owned());
        }
        Ok(Self { url: url.to_owned(), scope: scope.map(str::to_owned) })
    }
}

/// What is stored: a client's credentials, or a refresh token with its client.
#[derive(Serialize, Deserialize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
struct Client {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_secret: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
}

/// What a token URL answers.
#[derive(Deserialize)]
struct Answered {
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    token_type: Option<String>,
    #[serde(default)]
    expires_in: Option<serde_json::Value>,
    #[serde(default)]
    refresh_token: Option<String>,
    #[serde(default)]
    error: Option<String>,
}

impl Drop for Answered {
    fn drop(&mut self) {
        self.access_token.zeroize();
        self.refresh_token.zeroize();
    }
}

/// A token, until when it is used, and what besides it no answer may show: what it was got by.
#[derive(Clone)]
struct Fresh {
    token: Arc<SecretBytes>,
    until: Timestamp,
    hidden: Arc<Vec<SecretBytes>>,
}

/// A refresh token that came and is not stored yet.
struct Unsaved {
    /// In place of which credential, by its hash.
    of: Hash32,
    credential: SecretBytes,
    fresh: Fresh,
}

/// What is kept of one credential. Whoever holds it is the only one who asks for a token by it.
#[derive(Default)]
struct Entry {
    /// Of which credential the token is, by its hash.
    of: Option<Hash32>,
    fresh: Option<Fresh>,
    /// By which credential none was got, when, and why.
    missed: Option<(Hash32, Timestamp, Problem)>,
    unsaved: Option<Unsaved>,
}

/// The tokens of one backend.
pub struct Tokens {
    fetch: Arc<Fetcher>,
    kept: Mutex<HashMap<Vec<u8>, Arc<tokio::sync::Mutex<Entry>>>>,
}

/// What a request is sent with.
pub struct Bearer {
    fresh: Fresh,
    place: Vec<u8>,
}

impl Bearer {
    /// The access token.
    pub fn token(&self) -> &SecretBytes {
        &self.fresh.token
    }

    /// What no answer may show.
    pub fn hidden(&self) -> impl Iterator<Item = &SecretBytes> {
        self.fresh.hidden.iter().chain([self.token()])
    }
}

fn unfit(service: &ServiceName, why: &str) -> Problem {
    let fix = format!(
        "store it as JSON: agentkeys store <agent> {service}\n\
         {{\"client_id\":...,\"client_secret\":...}}, or with \"refresh_token\" besides"
    );
    Problem::new(Code::Invalid, format!("no token of {service} can be got"), why, fix)
}

fn overtaken(service: &ServiceName) -> Problem {
    let detail = format!("the credential of {service} was replaced meanwhile");
    let cause = "another one was stored, or it was deleted, while a token was got by it";
    Problem::new(Code::Unavailable, detail, cause, "try again").retry_after(1)
}

impl Client {
    fn read(service: &ServiceName, secret: &SecretBytes) -> Answer<Self> {
        let read: Self = serde_json::from_slice(secret.expose()).map_err(|_| {
            unfit(service, "it is not JSON with client_id, client_secret and refresh_token")
        })?;
        let is_client = read.client_id.is_some() && read.client_secret.is_some();
        if !is_client && read.refresh_token.is_none() {
            return Err(unfit(service, "it has neither a client's secret nor a refresh token"));
        }
        if read.client_secret.is_some() && read.client_id.is_none() {
            return Err(unfit(service, "it has a client's secret without the client's id"));
        }
        Ok(read)
    }

    /// As `Authorization` has it: each part as a form has it (RFC 6749, section 2.3.1).
    fn basic(&self) -> Option<Zeroizing<String>> {
        let (id, secret) = (self.client_id.as_ref()?, self.client_secret.as_ref()?);
        let (id, secret) = (form(&[("", id)]), form(&[("", secret)]));
        let pair = Zeroizing::new([&id[1..], b":", &secret[1..]].concat());
        let text = Zeroizing::new(STANDARD.encode(&*pair));
        Some(Zeroizing::new(format!("Basic {}", *text)))
    }

    async fn ask(&self, fetch: &Fetcher, of: &ServiceName, source: &Source) -> Answer<Answered> {
        let mut fields = Vec::new();
        match &self.refresh_token {
            Some(token) => {
                fields.extend([("grant_type", "refresh_token"), ("refresh_token", token.as_str())]);
            }
            None => fields.push(("grant_type", "client_credentials")),
        }
        if let (Some(id), None) = (&self.client_id, &self.client_secret) {
            fields.push(("client_id", id));
        }
        if let Some(scope) = &source.scope {
            fields.push(("scope", scope));
        }
        let basic = self.basic();
        let headers: Vec<_> = basic.iter().map(|basic| ("authorization", basic.as_str())).collect();
        let fetched = fetch.send(Asked {
            method: Method::POST,
            url: &source.url,
            headers: &headers,
            form: Form::Json,
            kind: Some("application/x-www-form-urlencoded"),
            body: form(&fields),
        });
        let failed = |code, cause: String, fix: &str| {
            Problem::new(code, format!("no token of {of} could be got"), cause, fix)
        };
        let again = "try again; agentkeys usage shows what was asked";
        let fetched =
            fetched.await.map_err(|error| failed(Code::Unavailable, error.to_string(), again))?;
        let answered = fetched.json::<Answered>();
        if fetched.is_success()
            && let Ok(answered) = answered
            && answered.access_token.is_some()
        {
            return Ok(answered);
        }
        // The word for it, one of a few (RFC 6749, section 5.2), and nothing else of the answer.
        let word = fetched.json::<Answered>().ok().and_then(|mut answered| answered.error.take());
        let is_word = |c: u8| c.is_ascii_lowercase() || c == b'_';
        let word = word.filter(|word| word.len() <= 40 && word.bytes().all(is_word));
        let said = word.map_or_else(String::new, |word| format!(": {word}"));
        let cause = format!("its token URL answered with status {}{said}", fetched.status);
        let passes = fetched.status >= 500 || fetched.status == 429;
        let code = if passes { Code::Unavailable } else { Code::Invalid };
        let fix = if passes { again } else { "store a credential that its service takes" };
        let mut problem = failed(code, cause, fix);
        problem.retry_after = fetched.retry_after.map(|seconds| seconds.min(MAX_WAIT));
        Err(problem)
    }

    /// What of it no answer may show.
    fn hidden(&self) -> Vec<SecretBytes> {
        let parts = [self.client_secret.as_deref(), self.refresh_token.as_deref()];
        parts.into_iter().flatten().map(|text| SecretBytes::new(text.into())).collect()
    }

    /// The credential with another refresh token, if that is one.
    fn with(&self, refresh_token: &str) -> Answer<SecretBytes> {
        let client = Self {
            client_id: self.client_id.clone(),
            client_secret: self.client_secret.clone(),
            refresh_token: Some(refresh_token.to_owned()),
        };
        serde_json::to_vec(&client).map(SecretBytes::new).map_err(|_| Problem::internal())
    }
}

impl Answered {
    fn fresh(&self, of: &ServiceName, client: &Client, now: Timestamp) -> Answer<Fresh> {
        let token = self.access_token.as_deref().unwrap_or_default();
        let is_bearer =
            self.token_type.as_ref().is_none_or(|kind| kind.eq_ignore_ascii_case("bearer"));
        let fits = (1..=MAX_TOKEN).contains(&token.len());
        if !is_bearer || !fits || !token.bytes().all(|c| c.is_ascii_graphic()) {
            return Err(unfit(of, "what its token URL answered is no bearer token"));
        }
        let life = match &self.expires_in {
            Some(serde_json::Value::String(text)) => text.parse().ok(),
            Some(value) => value.as_u64(),
            None => None,
        };
        let life = life.unwrap_or(UNSAID).min(LONGEST);
        let until = now.plus_ms((life - BEFORE_END.min(life.div_ceil(10))) * 1000);
        let mut hidden = client.hidden();
        hidden.extend(self.refresh_token.as_deref().map(|token| SecretBytes::new(token.into())));
        let token = Arc::new(SecretBytes::new(token.into()));
        Ok(Fresh { token, until, hidden: Arc::new(hidden) })
    }
}

impl Entry {
    fn good(&self, of: Hash32, now: Timestamp) -> Option<Fresh> {
        let fresh = self.fresh.as_ref().filter(|_| self.of == Some(of))?;
        (now < fresh.until).then(|| fresh.clone())
    }

    /// Stores what came, and only then has its token used.
    async fn save(&mut self, vault: &Vault, of: &ServiceName, stored: &Stored) -> Answer<()> {
        let Some(unsaved) = &self.unsaved else { return Ok(()) };
        // If that fails it is kept here, and tried again before anything else.
        let is_in_place = vault.replace_stored(stored, &unsaved.credential).await?;
        let Some(unsaved) = self.unsaved.take().filter(|_| is_in_place) else {
            return Err(overtaken(of));
        };
        self.of = Some(Hash32::of(unsaved.credential.expose()));
        self.fresh = Some(unsaved.fresh);
        Ok(())
    }

    async fn renew(
        &mut self,
        fetch: &Fetcher,
        vault: &Vault,
        (service, source): (&ServiceName, &Source),
        stored: &Stored,
    ) -> Answer<Fresh> {
        // Whoever had the turn before may have replaced it.
        let now_stored = vault.stored_now(stored).await?;
        let (secret, stored) = now_stored.ok_or_else(|| overtaken(service))?;
        let (of, now) = (Hash32::of(secret.expose()), vault.now());
        if self.unsaved.as_ref().is_some_and(|unsaved| unsaved.of == of) {
            self.save(vault, service, &stored).await?;
            return self.fresh.clone().ok_or_else(Problem::internal);
        }
        self.unsaved = None;
        if let Some(fresh) = self.good(of, now) {
            return Ok(fresh);
        }
        if let Some((missed, at, problem)) = &self.missed
            && *missed == of
            && now.since_ms(*at) < PAUSE_MS
        {
            return Err(problem.clone());
        }
        let got = self.ask(fetch, vault, (service, source), &secret, &stored).await;
        self.missed = got.as_ref().err().map(|problem| (of, vault.now(), problem.clone()));
        got
    }

    async fn ask(
        &mut self,
        fetch: &Fetcher,
        vault: &Vault,
        (service, source): (&ServiceName, &Source),
        secret: &SecretBytes,
        stored: &Stored,
    ) -> Answer<Fresh> {
        let client = Client::read(service, secret)?;
        let answered = client.ask(fetch, service, source).await?;
        let of = Hash32::of(secret.expose());
        let fresh = answered.fresh(service, &client, vault.now());
        let before = client.refresh_token.as_deref();
        let rotated = answered.refresh_token.as_deref();
        let rotated = rotated.filter(|token| before.is_some_and(|before| before != *token));
        match rotated.map(|token| client.with(token)).transpose()? {
            Some(credential) if credential.len() <= MAX_CREDENTIAL => {
                // Of a token that is none the refresh token is stored all the same.
                let (used, bad) = match fresh {
                    Ok(fresh) => (fresh, None),
                    Err(bad) => {
                        let token = Arc::new(SecretBytes::new(Vec::new()));
                        let none = Fresh { token, until: Timestamp(0), hidden: Arc::default() };
                        (none, Some(bad))
                    }
                };
                self.unsaved = Some(Unsaved { of, credential, fresh: used.clone() });
                self.save(vault, service, stored).await?;
                bad.map_or(Ok(used), Err)
            }
            Some(_) => Err(unfit(service, "what its token URL answered is too large")),
            None => {
                let fresh = fresh?;
                (self.of, self.fresh) = (Some(of), Some(fresh.clone()));
                Ok(fresh)
            }
        }
    }
}

impl Tokens {
    /// None yet.
    pub fn new(trust: Option<Trust>) -> Self {
        let fetch = trust.map_or_else(Fetcher::new, Fetcher::trusting);
        Self { fetch: Arc::new(fetch), kept: Mutex::default() }
    }

    fn entry(&self, place: &[u8], now: Timestamp) -> Arc<tokio::sync::Mutex<Entry>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST {
            kept.retain(|_, entry| {
                entry.try_lock().map_or(true, |entry| {
                    let is_good = entry.fresh.as_ref().is_some_and(|fresh| now < fresh.until);
                    is_good || entry.unsaved.is_some() || entry.missed.is_some()
                })
            });
        }
        Arc::clone(kept.entry(place.to_vec()).or_default())
    }

    /// A token by a credential that is in use.
    ///
    /// # Errors
    /// `INVALID` if the credential is none for it or its service does not take it, `UNAVAILABLE` if
    /// nobody answers.
    pub async fn get(
        &self,
        vault: &Vault,
        service: &ServiceName,
        source: &Source,
        secret: &SecretBytes,
        stored: Stored,
    ) -> Answer<Bearer> {
        let place = stored.place().to_vec();
        let mut entry: OwnedMutexGuard<Entry> = self.entry(&place, vault.now()).lock_owned().await;
        if let Some(fresh) = entry.good(Hash32::of(secret.expose()), vault.now()) {
            return Ok(Bearer { fresh, place });
        }
        // Whether or not the program waits for it: what came is stored.
        let (fetch, vault) = (Arc::clone(&self.fetch), vault.clone());
        let (service, source) = (service.clone(), source.clone());
        let renewing =
            tokio::spawn(
                async move { entry.renew(&fetch, &vault, (&service, &source), &stored).await },
            );
        let fresh = renewing.await.map_err(|_| Problem::internal())??;
        Ok(Bearer { fresh, place })
    }

    /// The service did not take it: the next request gets another one.
    pub async fn forget(&self, bearer: &Bearer, now: Timestamp) {
        let entry = self.entry(&bearer.place, now);
        let mut entry = entry.lock().await;
        let is_it = |fresh: &Fresh| Arc::ptr_eq(&fresh.token, &bearer.fresh.token);
        if entry.fresh.as_ref().is_some_and(is_it) {
            entry.fresh = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_token_url_over_tls_and_what_for() {
        let read = |text| Source::parse(text).map(|source| (source.url, source.scope));
        let url = "https://auth.example.org/token";
        assert_eq!(read(url), Ok((url.to_owned(), None)));
        let scoped = read("https://auth.example.org/token read write").unwrap();
        assert_eq!(scoped.1.as_deref(), Some("read write"));
        for wrong in
            ["", "x", "http://127.0.0.1/token", "https://a.example/t ", "https://a.example/t a\"b"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_credential_is_a_client_or_a_refresh_token() {
        let of: ServiceName = "mine".parse().unwrap();
        let read = |text: &str| Client::read(&of, &SecretBytes::new(text.into()));
        let client = read(r#"{"client_id":"a b","client_secret":"c:d"}"#).unwrap();
        assert_eq!(*client.basic().unwrap(), format!("Basic {}", STANDARD.encode("a%20b:c%3Ad")));
        let refresh = read(r#"{"refresh_token":"one","client_id":"a"}"#).unwrap();
        assert!(refresh.basic().is_none());
        let next = refresh.with("two").unwrap();
        assert_eq!(next.expose(), br#"{"client_id":"a","refresh_token":"two"}"#);
        for wrong in [
            "sk-1",
            "{}",
            r#"{"client_id":"a"}"#,
            r#"{"client_secret":"a"}"#,
            r#"{"client_secret":"a","refresh_token":"b"}"#,
            r#"{"refresh_token":"a","other":1}"#,
        ] {
            let problem = read(wrong).err().unwrap();
            assert_eq!(problem.code, Code::Invalid, "{wrong}");
        }
    }

    #[test]
    fn a_token_is_used_until_shortly_before_its_end() {
        let of: ServiceName = "mine".parse().unwrap();
        let now = Timestamp(1_000_000);
        let client = SecretBytes::new(br#"{"refresh_token":"one"}"#.to_vec());
        let client = Client::read(&of, &client).unwrap();
        let until = |text: &str| {
            let answered: Answered = serde_json::from_str(text).unwrap();
            answered.fresh(&of, &client, now).map(|fresh| fresh.until.since_ms(now) / 1000)
        };
        for (text, seconds) in [
            (r#"{"access_token":"a","token_type":"Bearer","expires_in":3600}"#, 3540),
            (r#"{"access_token":"a","token_type":"bearer","expires_in":"100"}"#, 90),
            (r#"{"access_token":"a","expires_in":1}"#, 0),
            (r#"{"access_token":"a","expires_in":0}"#, 0),
            (r#"{"access_token":"a"}"#, 270),
            (r#"{"access_token":"a","expires_in":99999999999}"#, 86340),
        ] {
            assert_eq!(until(text).unwrap(), seconds, "{text}");
        }
        for wrong in
            [r#"{"access_token":"a","token_type":"mac"}"#, r#"{"access_token":"a\nb"}"#, "{}"]
        {
            assert!(until(wrong).is_err(), "{wrong}");
        }
    }
}
