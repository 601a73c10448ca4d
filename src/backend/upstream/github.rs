//! Installation tokens of a GitHub App, by its private key. They hold for an hour
//! (<https://docs.github.com/rest/apps/apps#create-an-installation-access-token-for-an-app>).
use std::collections::BTreeMap;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::rsa::KeyPair;
use ring::signature::RSA_PKCS1_SHA256;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Upstream;
use super::talk::{Ask, Body, Talk, base, bearer, part};
use crate::backend::mint::{Account, EndBy, Ended, Failed, Minted};
use crate::core::problem::{Answer, Problem};
use crate::core::provision::Settings;
use crate::core::secret::SecretBytes;
use crate::core::types::Timestamp;
use crate::web::{Fetched, Fetcher, Form, Method};

const OWN: &str = "https://api.github.com";
const VERSION: (&str, &str) = ("x-github-api-version", "2022-11-28");
/// The app's own token is dated back a minute, for clocks that differ, and holds for nine; GitHub
/// takes ten at most.
const BACK: u64 = 60;
const LIFE: u64 = 9 * 60;
/// Most repositories that a token is for; GitHub's own limit.
const MAX_REPOSITORIES: usize = 500;

pub struct GitHub;

#[derive(Serialize)]
struct New<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    repositories: Vec<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    permissions: BTreeMap<&'a str, &'a str>,
}

#[derive(Deserialize)]
struct Made {
    token: String,
    expires_at: String,
}

#[derive(Serialize)]
struct Claims<'a> {
    iat: u64,
    exp: u64,
    iss: &'a str,
}

fn installation(settings: &Settings) -> Answer<&str> {
    let number = |text: &&str| text.bytes().all(|c| c.is_ascii_digit());
    let found = settings.get("installation").and_then(part).filter(number);
    let wrong = "installation is the installation's number";
    found.ok_or_else(|| Problem::invalid("settings", wrong))
}

/// A client id, such as `Iv23li...` or `Iv1.8a61...`, or the number.
fn app(settings: &Settings) -> Answer<&str> {
    let fits = |text: &&str| {
        let fits = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
        (1..=64).contains(&text.len()) && text.bytes().all(fits)
    };
    let found = settings.get("app").filter(fits);
    found.ok_or_else(|| Problem::invalid("settings", "app is the app's client id or number"))
}

/// What a token may do, and where.
fn new(settings: &Settings) -> Answer<New<'_>> {
    let words = |name| {
        let words = settings.get(name).unwrap_or_default().split(',').map(str::trim);
        words.filter(|word| !word.is_empty())
    };
    let wrong = |why: &str| Err(Problem::invalid("settings", why));
    let repositories: Vec<&str> = words("repositories").collect();
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if repositories.len() > MAX_REPOSITORIES
        || !repositories.iter().all(|one| one.chars().all(fits))
    {
        return wrong("repositories are names without their owner, with commas between");
    }
    let mut permissions = BTreeMap::new();
    for word in words("permissions") {
        let named = word.split_once(':').filter(|(name, level)| {
            part(name).is_some() && matches!(*level, "read" | "write" | "admin")
        });
        match named {
            Some((name, level)) if permissions.insert(name, level).is_none() => {}
            _ => return wrong("permissions are such as contents:read,issues:write"),
        }
    }
    Ok(New { repositories, permissions })
}

/// The app's private key, out of the PEM file that GitHub gives.
fn key(talk: &Talk<'_>) -> Answer<KeyPair> {
    let wrong = || {
        talk.failed(
            "the account's own secret is no RSA private key in PEM form, as GitHub gives it \
             (-----BEGIN RSA PRIVATE KEY-----)",
        )
    };
    let pair = match PrivateKeyDer::from_pem_slice(talk.account.secret.expose()) {
        Ok(PrivateKeyDer::Pkcs1(key)) => KeyPair::from_der(key.secret_pkcs1_der()),
        Ok(PrivateKeyDer::Pkcs8(key)) => KeyPair::from_pkcs8(key.secret_pkcs8_der()),
        _ => return Err(wrong()),
    };
    pair.map_err(|_| wrong())
}

/// A token of the app itself (RFC 7519), signed by RS256.
fn own_token(talk: &Talk<'_>) -> Answer<Zeroizing<String>> {
    let key = key(talk)?;
    let now = talk.account.now.0 / 1000;
    let iss = app(talk.account.settings)?;
    let claims = Claims { iat: now.saturating_sub(BACK), exp: now + LIFE, iss };
    let claims = serde_json::to_vec(&claims).map_err(|_| Problem::internal())?;
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let signed = format!("{}.{}", encode(br#"{"alg":"RS256","typ":"JWT"}"#), encode(&claims));
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
        .map_err(|_| Problem::internal())?;
    Ok(Zeroizing::new(format!("{signed}.{}", encode(&signature))))
}

/// Asks as the app.
async fn as_app(talk: &Talk<'_>, method: Method, url: &str, body: Body) -> Result<Fetched, Failed> {
    let bearer = bearer(&own_token(talk)?);
    let headers = &[("authorization", bearer.as_str()), VERSION];
    talk.send(Ask { method, url, headers, form: Form::Json, body }).await
}

#[async_trait]
impl Upstream for GitHub {
    fn service(&self) -> &'static str {
        "github"
    }

    fn fits(&self, settings: &Settings) -> Answer<()> {
        app(settings)?;
        installation(settings)?;
        new(settings).map(drop)
    }

    async fn make(
        &self,
        fetch: &Fetcher,
        account: &Account<'_>,
        _name: &str,
    ) -> Result<Minted, Failed> {
        let talk = Talk { fetch, account, step: "ask GitHub for an installation token" };
        let (base, id) = (base(account.settings, OWN), installation(account.settings)?);
        let url = format!("{base}/app/installations/{id}/access_tokens");
        let body = Body::json(&new(account.settings)?)?;
        let made: Made = talk.read(&as_app(&talk, Method::POST, &url, body).await?)?;
        let key = SecretBytes::new(made.token.into_bytes());
        let expires_at: Timestamp =
            made.expires_at.parse().map_err(|_| talk.unread("its expires_at is no time"))?;
        Ok(Minted { key, end_by: Some(EndBy::Key), expires_at: Some(expires_at) })
    }

    async fn end(&self, fetch: &Fetcher, account: &Account<'_>, ended: Ended<'_>) -> Answer<()> {
        let talk = Talk { fetch, account, step: "end the token at GitHub" };
        let Ended::Key(token) = ended else { return Err(Problem::internal()) };
        let token = std::str::from_utf8(token.expose()).map_err(|_| Problem::internal())?;
        let bearer = bearer(token);
        let headers = &[("authorization", bearer.as_str()), VERSION];
        let url = format!("{}/installation/token", base(account.settings, OWN));
        let (method, form, body) = (Method::DELETE, Form::Json, Body::Nothing);
        // A token that has run out, or was ended, is not known any more.
        talk.end(Ask { method, url: &url, headers, form, body }, &[401, 404]).await
    }

    async fn check(&self, fetch: &Fetcher, account: &Account<'_>) -> Answer<()> {
        #[derive(Deserialize)]
        struct Found {}
        let talk = Talk { fetch, account, step: "ask GitHub for the installation" };
        let (base, id) = (base(account.settings, OWN), installation(account.settings)?);
        let url = format!("{base}/app/installations/{id}");
        let fetched = as_app(&talk, Method::GET, &url, Body::Nothing).await?;
        Ok(talk.read::<Found>(&fetched).map(drop)?)
    }
}
