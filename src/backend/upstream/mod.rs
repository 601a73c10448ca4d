//! The services that make keys by an interface of their own, one file each; [`Upstreams`] is the
//! vault's [`Mint`] over all of them. What each of them wants set stands in the catalog.
//!
//! Must never send an account's secret to an address that was not set for it, or follow a service
//! anywhere else.
mod aws;
mod github;
mod openai;
mod openrouter;
pub(super) mod sigv4;
mod talk;

use async_trait::async_trait;

use super::mint::{Account, Ended, Failed, Mint, Minted};
use crate::core::backend::MAX_CREDENTIAL;
use crate::core::catalog::{self, Makes};
use crate::core::identity::ServiceName;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::provision::Settings;
use crate::web::{Fetcher, Url};

/// One service's interface.
#[async_trait]
trait Upstream: Send + Sync {
    /// Whose it is.
    fn service(&self) -> &'static str;
    /// Whether the values of the settings can be used; their names were looked at.
    fn fits(&self, settings: &Settings) -> Answer<()>;
    /// See [`Mint::make`].
    async fn make(
        &self,
        fetch: &Fetcher,
        account: &Account<'_>,
        name: &str,
    ) -> Result<Minted, Failed>;
    /// See [`Mint::called`]. Services whose keys run out within hours need not know names.
    async fn called(
        &self,
        _fetch: &Fetcher,
        _account: &Account<'_>,
        _name: &str,
    ) -> Answer<Vec<String>> {
        Ok(Vec::new())
    }
    /// See [`Mint::end`].
    async fn end(&self, fetch: &Fetcher, account: &Account<'_>, ended: Ended<'_>) -> Answer<()>;
    /// See [`Mint::check`].
    async fn check(&self, fetch: &Fetcher, account: &Account<'_>) -> Answer<()>;
}

const ALL: [&dyn Upstream; 4] =
    [&openrouter::OpenRouter, &openai::OpenAi, &github::GitHub, &aws::Aws];

/// All of them.
pub struct Upstreams {
    fetch: Fetcher,
    allowed: Vec<Url>,
}

impl Upstreams {
    /// Asks services at their own addresses; and, for masters that do not run this backend, at
    /// those that its operator named, and at no others.
    pub fn new(fetch: Fetcher, allowed: Vec<Url>) -> Self {
        Self { fetch, allowed }
    }

    /// Whether a service may be asked at another address than its own.
    fn may_ask(&self, url: &str, own: bool) -> Answer<()> {
        let url: Url = url
            .parse()
            .map_err(|wrong| Problem::invalid("settings", format!("url is not valid: {wrong}")))?;
        if url.target.contains('?') {
            return Err(Problem::invalid("settings", "url is an address without a ?"));
        }
        if own || self.allowed.contains(&url) {
            return Ok(());
        }
        Err(Problem::new(
            Code::Denied,
            "access denied: this backend does not ask a service at that address",
            "its operator did not name the address, and it is not on your own account's machine",
            "leave url out, or have the backend started with serve --provider-url URL",
        ))
    }
}

fn find(service: &ServiceName) -> Answer<(&'static dyn Upstream, &'static Makes)> {
    let upstream = ALL.into_iter().find(|upstream| upstream.service() == service.as_str());
    let makes = catalog::find(service).and_then(|entry| entry.makes.as_ref());
    upstream.zip(makes).ok_or_else(|| {
        let known: Vec<&str> = ALL.iter().map(|upstream| upstream.service()).collect();
        Problem::new(
            Code::Invalid,
            format!("no interface is known by which \"{service}\" makes keys"),
            format!("this version knows those of: {}", known.join(", ")),
            format!("agentkeys provisioner set {service} --way browser"),
        )
    })
}

/// Refuses settings that the service does not have, and the lack of those that it wants.
fn named(makes: &Makes, settings: &Settings) -> Answer<()> {
    let known = |name: &str| name == "url" || makes.settings.iter().any(|one| one.name == name);
    if let Some((name, _)) = settings.iter().find(|(name, _)| !known(name)) {
        let names: Vec<&str> = makes.settings.iter().map(|one| one.name.as_str()).collect();
        let why = format!("\"{name}\" is none of them; there are: {}, url", names.join(", "));
        return Err(Problem::invalid("settings", why));
    }
    match makes.settings.iter().find(|one| one.required && settings.get(&one.name).is_none()) {
        None => Ok(()),
        Some(missing) => {
            let why = format!("{} is missing: {}", missing.name, missing.about);
            Err(Problem::invalid("settings", why))
        }
    }
}

#[async_trait]
impl Mint for Upstreams {
    fn fits(&self, service: &ServiceName, settings: &Settings, own: bool) -> Answer<()> {
        let (upstream, makes) = find(service)?;
        named(makes, settings)?;
        settings.get("url").map_or(Ok(()), |url| self.may_ask(url, own))?;
        upstream.fits(settings)
    }

    async fn make(&self, account: &Account<'_>, name: &str) -> Result<Minted, Failed> {
        let minted = find(account.service)?.0.make(&self.fetch, account, name).await?;
        if minted.key.is_empty() || minted.key.len() > MAX_CREDENTIAL {
            let service = account.service;
            let problem = Problem::new(
                Code::ProvisionFailed,
                format!("no key of {service} could be got"),
                "what it gave is no key: it is empty, or larger than a credential may be",
                format!("agentkeys provisioner check {service}"),
            );
            let problem = problem.at_step("read the key");
            return Err(Failed { problem, maybe_made: true });
        }
        Ok(minted)
    }

    async fn called(&self, account: &Account<'_>, name: &str) -> Answer<Vec<String>> {
        find(account.service)?.0.called(&self.fetch, account, name).await
    }

    async fn end(&self, account: &Account<'_>, ended: Ended<'_>) -> Answer<()> {
        find(account.service)?.0.end(&self.fetch, account, ended).await
    }

    async fn check(&self, account: &Account<'_>) -> Answer<()> {
        find(account.service)?.0.check(&self.fetch, account).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalog_says_what_each_of_them_wants_and_of_no_others() {
        let here: Vec<&str> = ALL.iter().map(|upstream| upstream.service()).collect();
        let making = catalog::all().iter().filter(|entry| entry.makes.is_some());
        let mut there: Vec<&str> = making.map(|entry| entry.name.as_str()).collect();
        there.sort_by_key(|name| here.iter().position(|one| one == name));
        assert_eq!(here, there);
    }
}
