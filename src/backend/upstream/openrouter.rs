//! OpenRouter's key management: `/api/v1/keys`, with a management key
//! (<https://openrouter.ai/docs/guides/overview/auth/management-api-keys>).
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::Upstream;
use super::talk::{Body, Talk, base, part};
use crate::backend::mint::{Account, EndBy, Ended, Failed, Minted};
use crate::core::problem::{Answer, Problem};
use crate::core::provision::Settings;
use crate::core::secret::SecretBytes;
use crate::web::{Fetcher, Method};

const OWN: &str = "https://openrouter.ai";
const RESETS: [&str; 3] = ["daily", "weekly", "monthly"];
/// Keys on a page of the list.
const PAGE: usize = 100;
/// Most pages that are looked through.
const MAX_PAGES: usize = 20;

pub struct OpenRouter;

#[derive(Serialize)]
struct New<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit_reset: Option<&'a str>,
}

#[derive(Deserialize)]
struct Made {
    data: Row,
    key: String,
}

#[derive(Deserialize)]
struct List {
    data: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    hash: String,
    #[serde(default)]
    name: String,
}

/// What a key may spend, in dollars; `None` where no limit is wanted.
fn limit(settings: &Settings) -> Answer<Option<f64>> {
    let wrong = "limit is what a key may spend, in dollars, such as 5; or none";
    match settings.get("limit") {
        Some("none") => Ok(None),
        Some(text) => match text.parse::<f64>() {
            Ok(limit) if limit.is_finite() && limit >= 0.0 => Ok(Some(limit)),
            _ => Err(Problem::invalid("settings", wrong)),
        },
        None => Err(Problem::invalid("settings", format!("limit is missing: {wrong}"))),
    }
}

fn keys(account: &Account<'_>) -> String {
    format!("{}/api/v1/keys", base(account.settings, OWN))
}

#[async_trait]
impl Upstream for OpenRouter {
    fn service(&self) -> &'static str {
        "openrouter"
    }

    fn fits(&self, settings: &Settings) -> Answer<()> {
        limit(settings)?;
        match settings.get("limit_reset") {
            Some(reset) if !RESETS.contains(&reset) => {
                Err(Problem::invalid("settings", "limit_reset is daily, weekly or monthly"))
            }
            _ => Ok(()),
        }
    }

    async fn make(
        &self,
        fetch: &Fetcher,
        account: &Account<'_>,
        name: &str,
    ) -> Result<Minted, Failed> {
        let talk = Talk { fetch, account, step: "ask OpenRouter for a key" };
        let limit_reset = account.settings.get("limit_reset");
        let new = New { name, limit: limit(account.settings)?, limit_reset };
        let fetched = talk.by_secret(Method::POST, &keys(account), Body::json(&new)?).await?;
        let made: Made = talk.read(&fetched)?;
        let key = SecretBytes::new(made.key.into_bytes());
        Ok(Minted { key, end_by: Some(EndBy::Id(made.data.hash)), expires_at: None })
    }

    async fn called(
        &self,
        fetch: &Fetcher,
        account: &Account<'_>,
        name: &str,
    ) -> Answer<Vec<String>> {
        let talk = Talk { fetch, account, step: "look for a key at OpenRouter" };
        let mut found = Vec::new();
        for page in 0..MAX_PAGES {
            let url = format!("{}?offset={}", keys(account), page * PAGE);
            let fetched = talk.by_secret(Method::GET, &url, Body::Nothing).await?;
            let list: List = talk.read(&fetched)?;
            let last = list.data.len() < PAGE;
            found.extend(list.data.into_iter().filter(|row| row.name == name).map(|row| row.hash));
            if last {
                return Ok(found);
            }
        }
        Err(talk.failed(format!("there are more than {} keys", MAX_PAGES * PAGE)))
    }

    async fn end(&self, fetch: &Fetcher, account: &Account<'_>, ended: Ended<'_>) -> Answer<()> {
        let talk = Talk { fetch, account, step: "end the key at OpenRouter" };
        let Ended::Id(id) = ended else { return Err(Problem::internal()) };
        let id = part(id).ok_or_else(|| talk.failed("the key's id is none"))?;
        talk.end_by_secret(&format!("{}/{id}", keys(account))).await
    }

    async fn check(&self, fetch: &Fetcher, account: &Account<'_>) -> Answer<()> {
        let talk = Talk { fetch, account, step: "ask OpenRouter which keys there are" };
        let fetched = talk.by_secret(Method::GET, &keys(account), Body::Nothing).await?;
        Ok(talk.read::<List>(&fetched).map(drop)?)
    }
}
