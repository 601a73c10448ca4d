//! Keys that the backend has made at a service: asked for, kept, and renewed before they run out.
//!
//! What is asked for is on disk before the service hears of it, with the name that the key will
//! have there: if it is made and then not kept, for whatever reason, an errand looks it up by that
//! name and ends it. No row is written twice for one key, and no key is handed out that is not in
//! a row.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::access::{Access, agent_not_found, agent_was_revoked};
use super::rows::{
    AgentLink, AgentRow, CredentialRow, Errand, ErrandRow, Origin, ProviderRow, Sealed,
};
use super::{Inner, Loaded, MAX_TRIES, answer, keys};
use crate::backend::mint::{Account, EndBy, Minted};
use crate::backend::store::{Check, Write};
use crate::core::audit::{Action, Outcome};
use crate::core::backend::CredentialSummary;
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::problem::{Answer, Code, Problem};
use crate::core::provision::{Way, no_way};
use crate::core::scope::MAX_SERVICES;
use crate::core::secret::SecretBytes;
use crate::core::types::{Timestamp, to_hex};

/// When a key that was asked for and not kept is looked for: by then no answer comes any more.
const LOOK_AFTER_MS: u64 = 2 * 60 * 1000;
/// A key is renewed when no more than this is left, or than a sixth of its life.
const LEFT_MS: u64 = 5 * 60 * 1000;
/// After a renewal, and after one that failed while the key still holds, there is no other so soon.
const PAUSE_MS: u64 = 30 * 1000;
/// Places of which is remembered whose turn it is.
const MAX_TURNS: usize = 4096;

/// Whose turn it is to have a key made: one at a time for each agent and service.
#[derive(Default)]
pub struct Turns(Mutex<HashMap<Vec<u8>, Arc<Turn>>>);

/// The last attempt that failed, if the one before did.
type Turn = tokio::sync::Mutex<Option<Miss>>;

/// An attempt that failed.
struct Miss {
    at: Timestamp,
    problem: Problem,
}

impl Turns {
    fn of(&self, credential: &[u8]) -> Arc<Turn> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if turns.len() >= MAX_TURNS {
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
        turns.entry(credential.to_vec()).or_default().clone()
    }
}

/// A key that is to be made.
struct Order<'a> {
    access: &'a Access,
    agent: &'a Loaded<AgentRow>,
    service: &'a ServiceName,
    provider: Loaded<ProviderRow>,
    /// Where it will be.
    place: Vec<u8>,
    /// What is there before; the key takes its place.
    before: Option<Loaded<CredentialRow>>,
}

/// An order that is on disk.
struct Begun {
    errand: Loaded<ErrandRow>,
    id: [u8; 16],
    name: String,
}

impl Inner {
    /// Has a key made for an agent that has none.
    pub async fn mint(
        &self,
        access: &Access,
        agent: &Loaded<AgentRow>,
        service: &ServiceName,
        provider: Loaded<ProviderRow>,
    ) -> Answer<Option<CredentialSummary>> {
        if agent.row.services as usize >= MAX_SERVICES {
            let most = format!("an agent has credentials of at most {MAX_SERVICES} services");
            return Err(Problem::invalid("service", most));
        }
        let place = self.credential_key(&agent.row, service);
        let turn = self.minting.of(&place);
        let mut missed = turn.lock().await;
        if self.load::<CredentialRow>(place.clone()).await?.is_some() {
            // Whoever had the turn before got one; the caller looks again.
            return Ok(None);
        }
        if let Some(miss) = missed.as_ref().filter(|miss| miss.at >= access.now) {
            // It was tried while this caller waited.
            return Err(miss.problem.clone());
        }
        let order = Order { access, agent, service, provider, place, before: None };
        let made = self.carry_out(order, &mut missed).await?;
        Ok(made.map(|row| super::credential::summary(&row)))
    }

    /// The credential, renewed if little of its life is left.
    pub async fn fresh(
        &self,
        access: &Access,
        agent: &Loaded<AgentRow>,
        credential: Loaded<CredentialRow>,
    ) -> Answer<Option<Loaded<CredentialRow>>> {
        if !is_due(&credential.row, self.clock.now()) {
            return Ok(Some(credential));
        }
        let turn = self.minting.of(&credential.key);
        let mut missed = turn.lock().await;
        let Some(credential) = self.load::<CredentialRow>(credential.key).await? else {
            return Ok(None);
        };
        let now = self.clock.now();
        if !is_due(&credential.row, now) {
            return Ok(Some(credential));
        }
        let over = credential.row.expires_at().is_some_and(|end| now >= end);
        let pause = if over { 0 } else { PAUSE_MS };
        let tried =
            missed.as_ref().filter(|miss| miss.at >= access.now || now.since_ms(miss.at) < pause);
        let renewed = match tried {
            Some(miss) => Err(miss.problem.clone()),
            None => self.renew_credential(access, agent, &credential, &mut missed).await,
        };
        match renewed {
            Ok(true) => self.load(credential.key).await,
            Ok(false) => Ok(None),
            Err(problem) if over => Err(problem),
            Err(problem) => {
                let service = &credential.row.service;
                tracing::warn!(%service, problem = %problem, "a key could not be renewed yet");
                Ok(Some(credential))
            }
        }
    }

    async fn renew_credential(
        &self,
        access: &Access,
        agent: &Loaded<AgentRow>,
        credential: &Loaded<CredentialRow>,
        missed: &mut Option<Miss>,
    ) -> Answer<bool> {
        let service = &credential.row.service;
        let provider = self.provider(agent.row.account, service).await?;
        let provider = provider.filter(|provider| provider.row.way == Way::Api);
        let order = Order {
            access,
            agent,
            service,
            provider: provider.ok_or_else(|| no_way(service))?,
            place: credential.key.clone(),
            before: Some(credential.clone()),
        };
        Ok(self.carry_out(order, missed).await?.is_some())
    }

    /// Asks the service, and keeps what it gives. `None`: something that it was decided by has
    /// changed, before anything was asked.
    async fn carry_out(
        &self,
        order: Order<'_>,
        missed: &mut Option<Miss>,
    ) -> Answer<Option<CredentialRow>> {
        let Some(begun) = self.begin(&order).await? else { return Ok(None) };
        let secret = self.provider_secret(order.agent.row.account, &order.provider)?;
        let secret = secret.unwrap_or_else(|| SecretBytes::new(Vec::new()));
        let account = Account {
            service: order.service,
            settings: &order.provider.row.settings,
            secret: &secret,
            now: self.clock.now(),
        };
        let done = match self.mint.make(&account, &begun.name).await {
            Ok(minted) => self.keep(&order, begun, minted).await,
            Err(failed) => {
                self.not_made(&order, &begun, failed.maybe_made, &failed.problem).await?;
                Err(failed.problem)
            }
        };
        *missed = done
            .as_ref()
            .err()
            .map(|problem| Miss { at: self.clock.now(), problem: problem.clone() });
        done.map(Some)
    }

    /// Puts on record what is asked for, and what to look for if it is made and not kept.
    async fn begin(&self, order: &Order<'_>) -> Answer<Option<Begun>> {
        let Order { access, agent, service, provider, place, before } = order;
        let account = agent.row.account;
        let id: [u8; 16] = self.entropy.bytes().map_err(answer::entropy)?;
        let name = format!("agentkeys/{}/{}", agent.row.wallet, to_hex(&id[..8]));
        let errand = ErrandRow {
            account,
            service: (*service).clone(),
            settings: provider.row.settings.clone(),
            agent: (agent.row.wallet, agent.row.shown_name()),
            what: Errand::Called(name.clone()),
            tries: 0,
            trouble: None,
        };
        let mut proposal = access.unchanged_with(agent);
        access.not_set_back(&mut proposal)?;
        proposal.checks.push(provider.unchanged());
        proposal.checks.push(match before {
            Some(before) => before.unchanged(),
            None => Check::Absent(place.clone()),
        });
        let asked = ProviderRow { asked: provider.row.asked + 1, ..(*provider.row).clone() };
        proposal.writes.push(self.put(provider.key.clone(), &asked)?);
        let due = self.clock.now().plus_ms(LOOK_AFTER_MS);
        let key = keys::errand(due, account, &id);
        let value = self.cells.seal(&key, &errand).map_err(answer::cell)?;
        proposal.checks.push(Check::Absent(key.clone()));
        proposal.writes.push(Write::Put(key.clone(), value.clone()));
        let event = access.event(Action::Provision, Outcome::Allowed).of(&agent.row);
        let detail = match before {
            Some(_) => format!("a key that runs out is asked for anew: {name}"),
            None => format!("a key is asked for: {name}"),
        };
        proposal.events.push(event.service(service).detail(detail));
        let errand = Loaded { key, raw: value, row: Arc::new(errand) };
        Ok(self.propose(proposal).await?.then_some(Begun { errand, id, name }))
    }

    /// Records that there is no key. If the service may have made one, the errand stays.
    async fn not_made(
        &self,
        order: &Order<'_>,
        begun: &Begun,
        maybe_made: bool,
        problem: &Problem,
    ) -> Answer<()> {
        let mut proposal = super::journal::Proposal::default();
        if !maybe_made {
            proposal.checks.push(begun.errand.unchanged());
            proposal.writes.push(Write::Delete(begun.errand.key.clone()));
        }
        let event = order.access.event(Action::Provision, Outcome::Denied).of(&order.agent.row);
        proposal.events.push(event.service(order.service).detail(problem.cause.clone()));
        self.propose(proposal).await?;
        Ok(())
    }

    /// Puts a key in its place, unless the agent has lost its right meanwhile; then it is ended.
    async fn keep(&self, order: &Order<'_>, begun: Begun, minted: Minted) -> Answer<CredentialRow> {
        let (account, wallet) = (order.agent.row.account, order.agent.row.wallet);
        let now = self.clock.now();
        for _ in 0..MAX_TRIES {
            let agent = self.agent(account, wallet).await?;
            let there = self.load::<CredentialRow>(order.place.clone()).await?;
            let raw = |row: &Option<Loaded<CredentialRow>>| row.as_ref().map(|row| row.raw.clone());
            let refused = match &agent {
                None => Some(agent_not_found(&AgentIdentity::Wallet(wallet))),
                Some(agent) => match &agent.row.revoked {
                    Some(why) => Some(agent_was_revoked(&agent.row, why)),
                    None if raw(&there) != raw(&order.before) => Some(overtaken(order.service)),
                    None => None,
                },
            };
            let (agent, problem) = match (agent, refused) {
                (Some(agent), None) => (agent, None),
                (agent, problem) => (agent.unwrap_or_else(|| order.agent.clone()), problem),
            };
            if let Some(problem) = problem {
                if self.end_unkept(order, &begun, &minted).await? {
                    return Err(problem);
                }
                continue;
            }
            let mut proposal = super::journal::Proposal::default();
            proposal.checks.extend([agent.unchanged(), begun.errand.unchanged()]);
            proposal.writes.push(Write::Delete(begun.errand.key.clone()));
            let secret = self
                .cells
                .seal_secret(account, &order.place, minted.key.expose(), &self.entropy)
                .map_err(answer::cell)?;
            let origin = Origin {
                end_by: minted.end_by.clone(),
                expires_at: minted.expires_at,
                settings: order.provider.row.settings.clone(),
            };
            let version = match &order.before {
                Some(before) => {
                    proposal.checks.push(before.unchanged());
                    // Whoever still uses the old one may until it runs out.
                    let until = before.row.expires_at().unwrap_or(now);
                    self.push_ending(&agent.row, before, until, &mut proposal)?;
                    before.row.version + 1
                }
                None => {
                    proposal.checks.push(Check::Absent(order.place.clone()));
                    let mut row = AgentRow::clone(&agent.row);
                    row.services += 1;
                    let holder = keys::holder(account, &self.service_mac(order.service), wallet);
                    proposal.writes.push(self.put(agent.key.clone(), &row)?);
                    proposal.writes.push(self.put(holder, &AgentLink { wallet })?);
                    1
                }
            };
            let row = CredentialRow {
                service: order.service.clone(),
                version,
                oldest: version,
                stored_at: now,
                secret,
                origin: Some(origin),
            };
            proposal.writes.push(self.put(order.place.clone(), &row)?);
            let event = order.access.event(Action::Provision, Outcome::Allowed).of(&agent.row);
            let detail = match minted.expires_at {
                Some(end) => format!("made, until {}: {}", end.for_people(), begun.name),
                None => format!("made: {}", begun.name),
            };
            proposal.events.push(event.service(order.service).detail(detail));
            if self.propose(proposal).await? {
                self.errands.notify_one();
                return Ok(row);
            }
            // The errand that would end the key is under way: it is too late to keep it.
            let errand = self.load::<ErrandRow>(begun.errand.key.clone()).await?;
            if errand.is_none_or(|errand| errand.raw != begun.errand.raw) {
                return Err(too_late(order.service));
            }
        }
        Err(answer::busy())
    }

    /// Makes the errand one that ends the key, now that it is known.
    async fn end_unkept(&self, order: &Order<'_>, begun: &Begun, minted: &Minted) -> Answer<bool> {
        let mut proposal = super::journal::Proposal::default();
        proposal.checks.push(begun.errand.unchanged());
        proposal.writes.push(Write::Delete(begun.errand.key.clone()));
        let account = order.agent.row.account;
        let what = match &minted.end_by {
            Some(EndBy::Id(id)) => Some(Errand::Id(id.clone())),
            Some(EndBy::Key) => {
                Some(Errand::Key(self.for_errand(account, &begun.id, &minted.key)?))
            }
            None => None,
        };
        if let Some(what) = what {
            let row = ErrandRow { what, ..(*begun.errand.row).clone() };
            let key = keys::errand(self.clock.now(), account, &begun.id);
            proposal.writes.push(self.put(key, &row)?);
        }
        let event = order.access.event(Action::Provision, Outcome::Denied).of(&order.agent.row);
        let detail = format!("made and not kept, so it is ended: {}", begun.name);
        proposal.events.push(event.service(order.service).detail(detail));
        let done = self.propose(proposal).await?;
        self.errands.notify_one();
        Ok(done)
    }

    /// A key that ends itself, sealed for the errand that shows it.
    pub fn for_errand(
        &self,
        account: crate::core::types::AccountId,
        id: &[u8; 16],
        key: &SecretBytes,
    ) -> Answer<Sealed> {
        let sealed = self.cells.seal_secret(account, id, key.expose(), &self.entropy);
        sealed.map(Sealed).map_err(answer::cell)
    }
}

/// Whether so little of a key's life is left that it is renewed before it is handed out. One that
/// was just made is not, whatever it says: clocks differ, and no read is to cost a key each.
fn is_due(row: &CredentialRow, now: Timestamp) -> bool {
    let Some(end) = row.expires_at() else { return false };
    if now.since_ms(row.stored_at) < PAUSE_MS {
        return false;
    }
    let life = end.since_ms(row.stored_at);
    end.since_ms(now) <= LEFT_MS.max(life / 6)
}

fn overtaken(service: &ServiceName) -> Problem {
    Problem::new(
        Code::Unavailable,
        format!("the key of \"{service}\" was replaced meanwhile"),
        "it was stored while another one was made, which is ended again",
        "try again: the one that was stored is there",
    )
    .retry_after(1)
}

fn too_late(service: &ServiceName) -> Problem {
    Problem::new(
        Code::Unavailable,
        format!("the key of \"{service}\" came too late"),
        "it was made, and could not be kept in time; it is ended again",
        "try again",
    )
    .retry_after(1)
}
