//! OpenAI's administration: service accounts of a project, with an admin key
//! (<https://platform.openai.com/docs/api-reference/project-service-accounts>).
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::Upstream;
use super::talk::{Body, Talk, base, part};
use crate::backend::mint::{Account, EndBy, Ended, Failed, Minted};
use crate::core::problem::{Answer, Problem};
use crate::core::provision::Settings;
use crate::core::secret::SecretBytes;
use crate::core::types::Timestamp;
use crate::web::{Fetcher, Method};

const OWN: &str = "https://api.openai.com";
/// Service accounts on a page of the list.
const PAGE: usize = 100;
/// Most pages that are looked through.
const MAX_PAGES: usize = 20;
/// What a key's life may be, in seconds: at least what leaves time to renew it.
const LIVES: std::ops::RangeInclusive<u64> = 900..=31_536_000;

pub struct OpenAi;

#[derive(Serialize)]
struct New<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in_seconds: Option<u64>,
}

#[derive(Deserialize)]
struct Made {
    id: String,
    api_key: Key,
}

#[derive(Deserialize)]
struct Key {
    value: String,
    #[serde(default)]
    expires_at: Option<u64>,
}

#[derive(Deserialize)]
struct List {
    data: Vec<Row>,
    #[serde(default)]
    has_more: bool,
}

#[derive(Deserialize)]
struct Row {
    id: String,
    #[serde(default)]
    name: String,
}

fn project(settings: &Settings) -> Answer<&str> {
    let project = settings.get("project").and_then(part);
    let wrong = "project is the id of the project that the accounts are made in: proj_...";
    project.ok_or_else(|| Problem::invalid("settings", wrong))
}

fn life(settings: &Settings) -> Answer<Option<u64>> {
    let Some(text) = settings.get("expires_in") else { return Ok(None) };
    let life = text.parse().ok().filter(|life| LIVES.contains(life));
    let wrong = "expires_in is a key's life in seconds, 900 to 31536000";
    life.map(Some).ok_or_else(|| Problem::invalid("settings", wrong))
}

/// Where a project's service accounts are.
fn accounts(account: &Account<'_>) -> Answer<String> {
    let (base, project) = (base(account.settings, OWN), project(account.settings)?);
    Ok(format!("{base}/v1/organization/projects/{project}/service_accounts"))
}

#[async_trait]
impl Upstream for OpenAi {
    fn service(&self) -> &'static str {
        "openai"
    }

    fn fits(&self, settings: &Settings) -> Answer<()> {
        life(settings)?;
        project(settings).map(drop)
    }

    async fn make(
        &self,
        fetch: &Fetcher,
        account: &Account<'_>,
        name: &str,
    ) -> Result<Minted, Failed> {
        let talk = Talk { fetch, account, step: "ask OpenAI for a service account" };
        let new = New { name, expires_in_seconds: life(account.settings)? };
        let url = accounts(account)?;
        let fetched = talk.by_secret(Method::POST, &url, Body::json(&new)?).await?;
        let made: Made = talk.read(&fetched)?;
        let key = SecretBytes::new(made.api_key.value.into_bytes());
        let expires_at = made.api_key.expires_at.map(|at| Timestamp(at.saturating_mul(1000)));
        Ok(Minted { key, end_by: Some(EndBy::Id(made.id)), expires_at })
    }

    async fn called(
        &self,
        fetch: &Fetcher,
        account: &Account<'_>,
        name: &str,
    ) -> Answer<Vec<String>> {
        let talk = Talk { fetch, account, step: "look for a service account at OpenAI" };
        let (accounts, mut found, mut after) = (accounts(account)?, Vec::new(), String::new());
        for _ in 0..MAX_PAGES {
            let url = format!("{accounts}?limit={PAGE}{after}");
            let list: List = talk.read(&talk.by_secret(Method::GET, &url, Body::Nothing).await?)?;
            let last = list.data.last().and_then(|row| part(&row.id).map(str::to_owned));
            found.extend(list.data.into_iter().filter(|row| row.name == name).map(|row| row.id));
            match last {
                Some(last) if list.has_more => after = format!("&after={last}"),
                _ => return Ok(found),
            }
        }
        Err(talk.failed(format!("there are more than {} service accounts", MAX_PAGES * PAGE)))
    }

    async fn end(&self, fetch: &Fetcher, account: &Account<'_>, ended: Ended<'_>) -> Answer<()> {
        let talk = Talk { fetch, account, step: "end the service account at OpenAI" };
        let Ended::Id(id) = ended else { return Err(Problem::internal()) };
        let id = part(id).ok_or_else(|| talk.failed("the service account's id is none"))?;
        talk.end_by_secret(&format!("{}/{id}", accounts(account)?)).await
    }

    async fn check(&self, fetch: &Fetcher, account: &Account<'_>) -> Answer<()> {
        let talk = Talk { fetch, account, step: "ask OpenAI which service accounts there are" };
        let url = format!("{}?limit=1", accounts(account)?);
        let fetched = talk.by_secret(Method::GET, &url, Body::Nothing).await?;
        Ok(talk.read::<List>(&fetched).map(drop)?)
    }
}
