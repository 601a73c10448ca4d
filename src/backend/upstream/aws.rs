//! AWS: sessions of a role, by `AssumeRole` of the Security Token Service
//! (<https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html>). They run out, and
//! cannot be ended before.
use async_trait::async_trait;
use serde::Serialize;

use super::talk::{Ask, Body, Talk, base, part};
use super::{Upstream, sigv4};
use crate::backend::mint::{Account, Ended, Failed, Minted};
use crate::core::problem::{Answer, Problem};
use crate::core::provision::Settings;
use crate::core::secret::SecretBytes;
use crate::core::types::Timestamp;
use crate::web::{Fetched, Fetcher, Form, Method, Url, UrlError, form};

const VERSION: &str = "2011-06-15";
/// A session's life where none is set, in seconds.
const HOUR: u64 = 60 * 60;
/// What it may be; AWS's own limits.
const LIVES: std::ops::RangeInclusive<u64> = 900..=43_200;
/// Longest name of a session; AWS's own limit.
const MAX_NAME: usize = 64;

pub struct Aws;

/// A credential as `credential_process` of AWS's own tools has it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Process<'a> {
    version: u8,
    access_key_id: &'a str,
    secret_access_key: &'a str,
    session_token: &'a str,
    expiration: &'a str,
}

fn wrong<T>(why: &str) -> Answer<T> {
    Err(Problem::invalid("settings", why))
}

fn region(settings: &Settings) -> Answer<&str> {
    match settings.get("region").and_then(part) {
        Some(region) => Ok(region),
        None => wrong("region is such as eu-central-1"),
    }
}

fn access_key_id(settings: &Settings) -> Answer<&str> {
    match settings.get("access_key_id").and_then(part) {
        Some(id) if id.len() >= 16 => Ok(id),
        _ => wrong("access_key_id is such as AKIA..., and the secret access key is the secret"),
    }
}

fn role(settings: &Settings) -> Answer<&str> {
    match settings.get("role") {
        Some(role) if role.starts_with("arn:") && role.contains(":role/") => Ok(role),
        _ => wrong("role is such as arn:aws:iam::123456789012:role/agents"),
    }
}

fn life(settings: &Settings) -> Answer<u64> {
    let Some(text) = settings.get("duration") else { return Ok(HOUR) };
    match text.parse() {
        Ok(life) if LIVES.contains(&life) => Ok(life),
        _ => wrong("duration is a session's life in seconds, 900 to 43200"),
    }
}

/// Where the service of a region is.
fn endpoint(settings: &Settings) -> Answer<String> {
    let region = region(settings)?;
    let end = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    Ok(format!("{}/", base(settings, &format!("https://sts.{region}.{end}"))))
}

/// The session's name, of what its agent is called here.
fn session_name(name: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
    name.chars().map(|c| if fits(c) { c } else { '-' }).take(MAX_NAME).collect()
}

/// Asks, signed by Signature Version 4.
async fn ask(talk: &Talk<'_>, fields: &[(&str, &str)]) -> Result<Fetched, Failed> {
    let settings = talk.account.settings;
    let address = endpoint(settings)?;
    let url: Url = address.parse().map_err(|error: UrlError| talk.failed(error.to_string()))?;
    let body = form(fields);
    let signer = sigv4::Signer {
        access_key_id: access_key_id(settings)?,
        secret: talk.secret()?,
        region: region(settings)?,
        service: "sts",
        time: talk.account.now,
    };
    let (date, authorization) = signer.sign_form(&url, &body);
    let headers = &[("x-amz-date", date.as_str()), ("authorization", authorization.as_str())];
    let (method, body) = (Method::POST, Body::Form(body));
    talk.send(Ask { method, url: &address, headers, form: Form::Xml, body }).await
}

/// The credentials out of `AssumeRoleResponse`, as JSON.
fn credentials(text: &str) -> Option<(SecretBytes, Timestamp)> {
    let document = roxmltree::Document::parse(text).ok()?;
    let named =
        |name: &'static str| move |node: &roxmltree::Node<'_, '_>| node.tag_name().name() == name;
    let found = document.descendants().find(named("Credentials"))?;
    let member = |name| found.children().find(named(name))?.text().map(str::trim);
    let expiration = member("Expiration")?;
    let process = Process {
        version: 1,
        access_key_id: member("AccessKeyId")?,
        secret_access_key: member("SecretAccessKey")?,
        session_token: member("SessionToken")?,
        expiration,
    };
    let json = serde_json::to_vec(&process).ok()?;
    Some((SecretBytes::new(json), expiration.parse().ok()?))
}

#[async_trait]
impl Upstream for Aws {
    fn service(&self) -> &'static str {
        "aws"
    }

    fn fits(&self, settings: &Settings) -> Answer<()> {
        region(settings)?;
        access_key_id(settings)?;
        role(settings)?;
        life(settings).map(drop)
    }

    async fn make(
        &self,
        fetch: &Fetcher,
        account: &Account<'_>,
        name: &str,
    ) -> Result<Minted, Failed> {
        let talk = Talk { fetch, account, step: "ask AWS for a session of the role" };
        let settings = account.settings;
        let (life, session) = (life(settings)?.to_string(), session_name(name));
        let mut fields = vec![
            ("Action", "AssumeRole"),
            ("Version", VERSION),
            ("RoleArn", role(settings)?),
            ("RoleSessionName", &session),
            ("DurationSeconds", &life),
        ];
        let others = [("Policy", "policy"), ("ExternalId", "external_id")];
        let others = others.map(|(field, name)| settings.get(name).map(|value| (field, value)));
        fields.extend(others.into_iter().flatten());
        let fetched = ask(&talk, &fields).await?;
        let found = fetched.text().and_then(credentials);
        let (key, expires_at) =
            found.ok_or_else(|| talk.unread("its answer has no credentials"))?;
        Ok(Minted { key, end_by: None, expires_at: Some(expires_at) })
    }

    async fn end(&self, _: &Fetcher, _: &Account<'_>, _: Ended<'_>) -> Answer<()> {
        // There is no such call: nothing that comes from here says how it is ended.
        Err(Problem::internal())
    }

    async fn check(&self, fetch: &Fetcher, account: &Account<'_>) -> Answer<()> {
        let talk = Talk { fetch, account, step: "ask AWS whose access key it is" };
        let fields = [("Action", "GetCallerIdentity"), ("Version", VERSION)];
        ask(&talk, &fields).await?;
        Ok(())
    }
}
