//! What is to be done at services: keys that are to be ended there. A row that is written in the
//! same commit as what makes it necessary, worked off by a task until the service has done it,
//! over restarts and while the service is away.
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::journal::{Draft, Proposal};
use super::rows::{AgentRow, CredentialRow, Errand, ErrandRow};
use super::{Inner, Loaded, Vault, answer, keys};
use crate::backend::mint::{Account, EndBy, Ended};
use crate::backend::store::{KeyRange, MAX_SCAN, Write};
use crate::core::audit::{Action, Actor, Outcome};
use crate::core::identity::ServiceName;
use crate::core::problem::{Answer, Problem};
use crate::core::provision::Way;
use crate::core::scope::MAX_SERVICES;
use crate::core::secret::SecretBytes;
use crate::core::types::{AccountId, Timestamp};

/// Errands that are run at once.
const AT_ONCE: usize = 4;
/// Errands that are looked at to find those.
const LOOKED_AT: usize = 64;
/// The first pause after one that did not work; each is twice the one before.
const FIRST_PAUSE_MS: u64 = 1000;
/// The longest pause.
const LONGEST_PAUSE_MS: u64 = 60 * 60 * 1000;
/// The longest that the task sleeps without looking.
const LOOK_EVERY: Duration = Duration::from_secs(30);

impl Vault {
    /// Runs errands as they fall due, until it is dropped.
    pub async fn run_errands(&self) {
        loop {
            let wait = match self.0.errands_due().await {
                Ok(Some(next)) => Duration::from_millis(next.since_ms(self.0.clock.now()).max(1)),
                Ok(None) => LOOK_EVERY,
                Err(problem) => {
                    tracing::warn!(problem = %problem, "could not look for errands");
                    LOOK_EVERY
                }
            };
            let _ = tokio::time::timeout(wait.min(LOOK_EVERY), self.0.errands.notified()).await;
        }
    }
}

impl Inner {
    /// Adds the errand that ends a key at its service, not before `due`, where it was made there
    /// and can be ended.
    pub fn push_ending(
        &self,
        agent: &AgentRow,
        credential: &Loaded<CredentialRow>,
        due: Timestamp,
        proposal: &mut Proposal,
    ) -> Answer<()> {
        let row = &credential.row;
        let Some(origin) = &row.origin else { return Ok(()) };
        let id: [u8; 16] = self.entropy.bytes().map_err(answer::entropy)?;
        let what = match &origin.end_by {
            Some(EndBy::Id(id)) => Errand::Id(id.clone()),
            Some(EndBy::Key) if origin.expires_at.is_some_and(|end| due >= end) => return Ok(()),
            Some(EndBy::Key) => {
                let plain = self.cells.open_secret(agent.account, &credential.key, &row.secret);
                let Ok(plain) = plain else {
                    tracing::error!("a key does not open, so it cannot be ended; it runs out");
                    return Ok(());
                };
                Errand::Key(self.for_errand(agent.account, &id, &plain)?)
            }
            None => return Ok(()),
        };
        let errand = ErrandRow {
            account: agent.account,
            service: row.service.clone(),
            settings: origin.settings.clone(),
            agent: (agent.wallet, agent.shown_name()),
            what,
            tries: 0,
            trouble: None,
        };
        proposal.writes.push(self.put(keys::errand(due, agent.account, &id), &errand)?);
        Ok(())
    }

    /// Takes the keys that were made for an agent out of the vault, and has them ended at their
    /// services, so that giving the agent its right back gives it no dead ones. Says of which
    /// services. A row that was damaged is left as it is: it keeps nobody's right from ending.
    pub async fn push_made_gone(
        &self,
        agent: &AgentRow,
        now: Timestamp,
        proposal: &mut Proposal,
    ) -> Answer<Vec<String>> {
        let range = KeyRange::prefix(&keys::credentials(agent.account, agent.wallet));
        let page = self.store.scan(range, MAX_SERVICES).await.map_err(answer::store)?;
        let mut gone = Vec::new();
        for (key, raw) in page {
            let Ok(row) = self.cells.open::<CredentialRow>(&key, &raw) else {
                tracing::error!("a credential's row does not open; its agent's right ends anyway");
                continue;
            };
            if row.origin.is_none() {
                continue;
            }
            let credential = Loaded { key, raw, row: Arc::new(row) };
            let service = &credential.row.service;
            let holder = keys::holder(agent.account, &self.service_mac(service), agent.wallet);
            self.push_ending(agent, &credential, now, proposal)?;
            proposal.checks.push(credential.unchanged());
            proposal.writes.push(Write::Delete(credential.key.clone()));
            proposal.writes.push(Write::Delete(holder));
            gone.push(service.to_string());
        }
        Ok(gone)
    }

    /// All errands of an account.
    pub async fn errands_of(&self, account: AccountId) -> Answer<Vec<ErrandRow>> {
        let range = KeyRange::prefix(&keys::errands());
        let page = self.store.scan(range, MAX_SCAN).await.map_err(answer::store)?;
        let is_theirs =
            |key: &[u8]| keys::parts_of_errand(key).is_some_and(|(_, whose, _)| whose == account);
        page.iter()
            .filter(|(key, _)| is_theirs(key))
            .map(|(key, raw)| self.cells.open(key, raw).map_err(answer::cell))
            .collect()
    }

    /// Has errands at a service that did not work run again now.
    pub async fn hasten(&self, account: AccountId, service: &ServiceName) -> Answer<()> {
        for errand in self.load_all::<ErrandRow>(&keys::errands(), MAX_SCAN).await? {
            let row = &errand.row;
            if row.account != account || row.service != *service || row.tries == 0 {
                continue;
            }
            let parts = keys::parts_of_errand(&errand.key);
            let (_, account, id) = parts.ok_or_else(Problem::internal)?;
            let mut proposal = Proposal::default();
            proposal.checks.push(errand.unchanged());
            proposal.writes.push(Write::Delete(errand.key.clone()));
            let key = keys::errand(self.clock.now(), account, &id);
            proposal.writes.push(self.put(key, &**row)?);
            // Overtaken: it was run meanwhile.
            self.propose(proposal).await?;
        }
        self.errands.notify_one();
        Ok(())
    }

    /// Runs what is due, a few at once; returns when the next is.
    async fn errands_due(self: &Arc<Self>) -> Answer<Option<Timestamp>> {
        loop {
            let range = KeyRange::prefix(&keys::errands());
            let page = self.store.scan(range, LOOKED_AT).await.map_err(answer::store)?;
            // One damaged row keeps its place, and nobody else's.
            let opened = page.into_iter().filter_map(|(key, raw)| {
                let row = Arc::new(self.cells.open(&key, &raw).ok()?);
                Some(Loaded { key, raw, row })
            });
            let first: Vec<Loaded<ErrandRow>> = opened.take(AT_ONCE).collect();
            let due = |errand: &Loaded<ErrandRow>| {
                keys::parts_of_errand(&errand.key).map_or(Timestamp(0), |(at, ..)| at)
            };
            let now = self.clock.now();
            let next = first.iter().map(due).min();
            let mut running = JoinSet::new();
            for errand in first.into_iter().filter(|errand| due(errand) <= now) {
                let inner = Arc::clone(self);
                running.spawn(async move { inner.run_errand(errand).await });
            }
            if running.is_empty() {
                return Ok(next);
            }
            while let Some(ran) = running.join_next().await {
                ran.map_err(|_| Problem::internal())??;
            }
        }
    }

    /// Runs one: afterwards it is gone, or is due later.
    async fn run_errand(&self, errand: Loaded<ErrandRow>) -> Answer<()> {
        let row = &errand.row;
        let presence = self.account(row.account).await?.row.presence.clone();
        let mut proposal = Proposal::default();
        proposal.checks.push(errand.unchanged());
        proposal.writes.push(Write::Delete(errand.key.clone()));
        let event = |outcome, detail: String| Draft {
            account: row.account,
            by: Actor::default(),
            time: self.clock.now(),
            action: Action::EndUpstream,
            outcome,
            agent: Some(row.agent.clone()),
            service: Some(row.service.clone()),
            request: None,
            detail: Some(detail),
            presence: presence.clone(),
            set_backs: None,
        };
        match self.at_the_service(&errand).await {
            Ok(Done::Ended(0)) => {}
            Ok(Done::Ended(_)) => {
                proposal.events.push(event(Outcome::Allowed, "ended at the service".to_owned()));
            }
            Ok(Done::GivenUp(why)) => {
                tracing::warn!(service = %row.service, why, "a key is left at its service");
                let left = format!("a key may be left at the service, {}: {why}", named(&row.what));
                proposal.events.push(event(Outcome::Denied, left));
            }
            Err(problem) => {
                let (_, account, id) =
                    keys::parts_of_errand(&errand.key).ok_or_else(Problem::internal)?;
                let trouble = told(&problem);
                if row.tries == 0 {
                    let detail = format!("not ended yet: {trouble}");
                    proposal.events.push(event(Outcome::Denied, detail));
                }
                tracing::warn!(service = %row.service, trouble, "a key could not be ended yet");
                let at = self.clock.now().plus_ms(self.pause(row.tries, &problem)?);
                let next = ErrandRow {
                    tries: row.tries.saturating_add(1),
                    trouble: Some(trouble),
                    ..(**row).clone()
                };
                proposal.writes.push(self.put(keys::errand(at, account, &id), &next)?);
            }
        }
        // Overtaken: whoever did that has decided what becomes of it.
        self.propose(proposal).await.map(drop)
    }

    async fn at_the_service(&self, errand: &Loaded<ErrandRow>) -> Answer<Done> {
        let row = &errand.row;
        let (service, settings, now) = (&row.service, &row.settings, self.clock.now());
        let none = SecretBytes::new(Vec::new());
        if let Errand::Key(sealed) = &row.what {
            let (.., id) = keys::parts_of_errand(&errand.key).ok_or_else(Problem::internal)?;
            let key = self.cells.open_secret(row.account, &id, &sealed.0);
            // The key is its own right to be ended: no secret of the account is needed.
            let account = Account { service, settings, secret: &none, now };
            self.mint.end(&account, Ended::Key(&key.map_err(answer::cell)?)).await?;
            return Ok(Done::Ended(1));
        }
        let provider = self.provider(row.account, &row.service).await?;
        let Some(provider) = provider.filter(|provider| provider.row.way == Way::Api) else {
            return Ok(Done::GivenUp("how keys are got there was forgotten"));
        };
        // The secret was given for one address, and goes to no other.
        if provider.row.settings.get("url") != row.settings.get("url") {
            return Ok(Done::GivenUp("keys are got at another address now"));
        }
        let secret = self.provider_secret(row.account, &provider)?.unwrap_or(none);
        let account = Account { service, settings, secret: &secret, now };
        match &row.what {
            Errand::Id(id) => self.mint.end(&account, Ended::Id(id)).await?,
            Errand::Key(_) => {}
            Errand::Called(name) => {
                let found = self.mint.called(&account, name).await?;
                for id in &found {
                    self.mint.end(&account, Ended::Id(id)).await?;
                }
                return Ok(Done::Ended(found.len()));
            }
        }
        Ok(Done::Ended(1))
    }

    /// How long to wait after another failure, in milliseconds: twice as long each time, a quarter
    /// more or less of it by chance, and at least what the service asked for.
    fn pause(&self, tries: u32, problem: &Problem) -> Answer<u64> {
        let base = FIRST_PAUSE_MS.saturating_mul(1 << tries.min(20)).min(LONGEST_PAUSE_MS);
        let [chance]: [u8; 1] = self.entropy.bytes().map_err(answer::entropy)?;
        let asked = problem.retry_after.unwrap_or(0).saturating_mul(1000).min(LONGEST_PAUSE_MS);
        Ok((base * 3 / 4 + base / 2 * u64::from(chance) / 255).max(asked))
    }
}

/// How an errand ended.
enum Done {
    /// As many keys were ended.
    Ended(usize),
    /// It cannot be done any more.
    GivenUp(&'static str),
}

/// Which key an errand is about, for people; nothing secret.
fn named(what: &Errand) -> String {
    match what {
        Errand::Id(id) => format!("of the id {id}"),
        Errand::Key(_) => "until it runs out".to_owned(),
        Errand::Called(name) => format!("called {name}"),
    }
}

/// A failure on one line.
fn told(problem: &Problem) -> String {
    match &problem.step {
        Some(step) => format!("{step}: {}", problem.cause),
        None => problem.cause.clone(),
    }
}

/// What an account has going on at a service.
pub struct Ongoing {
    pub ending: u64,
    pub trouble: Option<String>,
}

impl Ongoing {
    /// Of all errands of an account, those at one service.
    pub fn of(errands: &[ErrandRow], service: &ServiceName) -> Self {
        let there = || errands.iter().filter(|errand| errand.service == *service);
        let trouble = there().find_map(|errand| errand.trouble.clone());
        Self { ending: there().count() as u64, trouble }
    }
}
