//! Credentials: stored, handed out, listed. A plaintext leaves only after the
//! commit that records it, and that commit checks that nothing it was allowed by has changed.
use std::sync::Arc;

use super::access::{Access, agent_was_revoked};
use super::rows::{AgentLink, AgentRow, CredentialRow};
use super::terms::{exposure, may_show};
use super::{Inner, Loaded, answer, keys};
use crate::backend::store::{Check, Write};
use crate::core::audit::{Action, Outcome};
use crate::core::backend::{CredentialSummary, MAX_CREDENTIAL, Release, ShieldingKey};
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::presence::Act;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::scope::{MAX_SERVICES, Scope};
use crate::core::seal::{self, Purpose, SealError};
use crate::core::secret::{Key32, SecretBytes};
use crate::core::set_back::is_set_back;
use crate::core::terms::{Exposure, Terms};

/// Versions that are kept besides the current one.
pub const KEPT_VERSIONS: u64 = 5;

/// What is on record of a key that was handed out for a program's environment.
const FOR_A_PROGRAM: &str = "for run";

/// A refusal, and whether somebody was denied, which is on record.
pub enum Refusal {
    Denied(Problem),
    Plain(Problem),
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Plain(problem)
    }
}

fn out_of_scope(agent: &AgentRow, scope: &Scope, service: &ServiceName) -> Problem {
    let name = agent.name();
    Problem::new(
        Code::Denied,
        format!("access denied: \"{service}\" is outside the scope of agent \"{name}\""),
        format!("its scope is: {scope}"),
        if agent.scope.allows(service) {
            // The agent may; this session of its was given less.
            "the agent may, and this session was given less: its daemon asks for more \
             (request_access), or is paired again"
                .to_owned()
        } else {
            format!("agentkeys scope {name} --services ...\nor let its daemon ask (request_access)")
        },
    )
}

fn not_given(agent: &AgentRow, service: &ServiceName) -> Problem {
    let name = agent.name();
    Problem::new(
        Code::Denied,
        format!("access denied: agent \"{name}\" was not given \"{service}\""),
        "another agent of this account has a credential of that service; this one has none",
        format!("agentkeys store {name} {service}"),
    )
}

pub fn not_stored(agent: &AgentRow, service: &ServiceName) -> Problem {
    let name = agent.name();
    Problem::new(
        Code::NotFound,
        format!("no credential of \"{service}\""),
        "nobody in this account has one",
        format!("agentkeys store {name} {service}"),
    )
}

impl Inner {
    pub fn shielding_key(&self) -> ShieldingKey {
        ShieldingKey {
            key_id: self.shielding_id(),
            public_key: self.shielding_public,
            suite: seal::SUITE.to_owned(),
        }
    }

    /// Where a credential lies.
    pub fn credential_key(&self, agent: &AgentRow, service: &ServiceName) -> Vec<u8> {
        keys::credential(agent.account, agent.wallet, &self.service_mac(service))
    }

    fn unseal(
        &self,
        agent: &AgentRow,
        service: &ServiceName,
        sealed: &[u8],
    ) -> Answer<SecretBytes> {
        let purpose = Purpose::credential(agent.account, agent.wallet, service);
        // HPKE wants the key's bytes; this copy is wiped when it is dropped.
        let secret = Key32::new(*self.shielding_secret.expose());
        let plain = seal::open(&secret, &purpose, sealed).map_err(|error| {
            let cause = match error {
                SealError::OtherKey => "it is sealed to another backend's shielding key",
                SealError::Unauthentic => {
                    "it was changed, or sealed for another account, agent or service"
                }
                SealError::Format | SealError::Key => "it is not sealed bytes of a known version",
            };
            let name = agent.name();
            Problem::new(
                Code::Invalid,
                "ciphertext is not valid",
                cause,
                format!("seal it with: agentkeys seal {name} {service}"),
            )
        })?;
        if plain.is_empty() {
            return Err(Problem::invalid("credential", "a credential is not empty"));
        }
        if plain.len() > MAX_CREDENTIAL {
            return Err(Problem::new(
                Code::TooLarge,
                "the credential is too large",
                format!("a credential has at most {MAX_CREDENTIAL} bytes"),
                "store something smaller",
            ));
        }
        Ok(plain)
    }

    fn may_store(
        &self,
        access: &Access,
        agent: &AgentRow,
        service: &ServiceName,
        before: Option<&Loaded<CredentialRow>>,
    ) -> Answer<()> {
        if access.agent.is_none() {
            return Ok(());
        }
        let scope = access.scope_for(agent);
        if !scope.allows(service) {
            return Err(out_of_scope(agent, &scope, service));
        }
        // Whose key was made for it may store it, and nothing over what the master stored.
        let first = scope.may_provision(service) && before.is_none();
        if scope.read_only && !first {
            return Err(Problem::new(
                Code::Denied,
                "access denied: this session may only read",
                format!("its scope is: {scope}"),
                "ask the master to store it",
            ));
        }
        Ok(())
    }

    pub async fn store(
        &self,
        access: &Access,
        identity: &AgentIdentity,
        service: &ServiceName,
        sealed: &[u8],
    ) -> Answer<bool> {
        let agent = match self.reachable(access, identity).await {
            Ok(agent) => agent,
            Err((Refusal::Denied(problem), whose)) => {
                return self
                    .denied(access, Action::Store, whose.as_deref(), Some(service), problem)
                    .await;
            }
            Err((Refusal::Plain(problem), _)) => return Err(problem),
        };
        let key = self.credential_key(&agent.row, service);
        let before = self.load::<CredentialRow>(key.clone()).await?;
        if let Err(problem) = self.may_store(access, &agent.row, service, before.as_ref()) {
            return self
                .denied(access, Action::Store, Some(&agent.row), Some(service), problem)
                .await;
        }
        let plain = self.unseal(&agent.row, service, sealed)?;
        let secret = self
            .cells
            .seal_secret(agent.row.account, &key, plain.expose(), &self.entropy)
            .map_err(answer::cell)?;
        drop(plain);
        let mut proposal = access.unchanged_with(&agent);
        let mac = self.service_mac(service);
        let (account, wallet) = (agent.row.account, agent.row.wallet);
        let row = match before {
            Some(old) if old.row.origin.is_some() => {
                // A key that was made is ended at its service, and not kept.
                let version = old.row.version + 1;
                proposal.checks.push(old.unchanged());
                self.push_ending(&agent.row, &old, access.now, &mut proposal)?;
                CredentialRow {
                    service: service.clone(),
                    version,
                    oldest: version,
                    stored_at: access.now,
                    secret,
                    origin: None,
                }
            }
            Some(old) => {
                let version = old.row.version + 1;
                let oldest = old.row.oldest.max(version.saturating_sub(KEPT_VERSIONS));
                let kept = keys::version(account, wallet, &mac, old.row.version);
                proposal.checks.push(old.unchanged());
                proposal.writes.push(self.put(kept, &*old.row)?);
                proposal.writes.extend(
                    (old.row.oldest..oldest)
                        .map(|gone| Write::Delete(keys::version(account, wallet, &mac, gone))),
                );
                CredentialRow {
                    version,
                    oldest,
                    stored_at: access.now,
                    secret,
                    ..(*old.row).clone()
                }
            }
            None => {
                let mut row = AgentRow::clone(&agent.row);
                if row.services as usize >= MAX_SERVICES {
                    return Err(Problem::invalid(
                        "service",
                        format!("an agent has credentials of at most {MAX_SERVICES} services"),
                    ));
                }
                row.services += 1;
                let holder = keys::holder(account, &mac, wallet);
                proposal.checks.push(Check::Absent(key.clone()));
                proposal.writes.push(self.put(agent.key.clone(), &row)?);
                proposal.writes.push(self.put(holder, &AgentLink { wallet })?);
                CredentialRow {
                    service: service.clone(),
                    version: 1,
                    oldest: 1,
                    stored_at: access.now,
                    secret,
                    origin: None,
                }
            }
        };
        proposal.writes.push(self.put(key, &row)?);
        let event = access.event(Action::Store, Outcome::Allowed).of(&agent.row).service(service);
        proposal.events.push(event.detail(format!("version {}", row.version)));
        let done = self.propose(proposal).await?;
        self.errands.notify_one();
        Ok(done)
    }

    /// Records that somebody was denied; only then is the refusal given.
    pub async fn denied<T>(
        &self,
        access: &Access,
        action: Action,
        agent: Option<&AgentRow>,
        service: Option<&ServiceName>,
        problem: Problem,
    ) -> Answer<T> {
        let mut event = access.event(action, Outcome::Denied).detail(problem.detail.clone());
        if let Some(agent) = agent {
            event = event.of(agent);
        }
        if let Some(service) = service {
            event = event.service(service);
        }
        let proposal = super::journal::Proposal { events: vec![event], ..Default::default() };
        self.propose(proposal).await?;
        Err(problem)
    }

    /// The agent whose credentials are meant, if the caller may touch them.
    pub async fn reachable(
        &self,
        access: &Access,
        identity: &AgentIdentity,
    ) -> Result<Loaded<AgentRow>, (Refusal, Option<Arc<AgentRow>>)> {
        let own = access.agent.as_ref().map(|agent| agent.row.clone());
        if let Err(problem) = access.standing() {
            return Err((Refusal::Denied(problem), own));
        }
        let agent = self.target(access, identity).await.map_err(|problem| {
            let refusal = match problem.code {
                Code::Denied => Refusal::Denied(problem),
                _ => Refusal::Plain(problem),
            };
            (refusal, own)
        })?;
        match &agent.row.revoked {
            Some(why) => {
                let problem = agent_was_revoked(&agent.row, why);
                Err((Refusal::Denied(problem), Some(agent.row.clone())))
            }
            None => Ok(agent),
        }
    }

    /// The credential, if this agent was given it and its scope allows it.
    pub async fn given(
        &self,
        access: &Access,
        agent: &AgentRow,
        service: &ServiceName,
    ) -> Result<Loaded<CredentialRow>, Refusal> {
        let scope = access.scope_for(agent);
        let in_scope = scope.allows(service);
        if in_scope && let Some(found) = self.load(self.credential_key(agent, service)).await? {
            return Ok(found);
        }
        // What nobody has is not found, whatever the scope says of it.
        let holders = keys::holders(agent.account, &self.service_mac(service));
        Err(if self.load_all::<AgentLink>(&holders, 1).await?.is_empty() {
            Refusal::Plain(not_stored(agent, service))
        } else if in_scope {
            Refusal::Denied(not_given(agent, service))
        } else {
            Refusal::Denied(out_of_scope(agent, &scope, service))
        })
    }

    pub fn reveal(&self, row: &Loaded<CredentialRow>, agent: &AgentRow) -> Answer<SecretBytes> {
        self.cells.open_secret(agent.account, &row.key, &row.row.secret).map_err(answer::cell)
    }

    /// Hands out a credential's plaintext, to be shown as far as `wanted`.
    pub async fn read(
        &self,
        access: &Access,
        identity: &AgentIdentity,
        service: &ServiceName,
        wanted: Exposure,
    ) -> Answer<Option<SecretBytes>> {
        let agent = match self.reachable(access, identity).await {
            Ok(agent) => agent,
            Err((Refusal::Denied(problem), whose)) => {
                return self
                    .denied(access, Action::Read, whose.as_deref(), Some(service), problem)
                    .await;
            }
            Err((Refusal::Plain(problem), _)) => return Err(problem),
        };
        let credential = match self.given(access, &agent.row, service).await {
            Ok(credential) => credential,
            Err(Refusal::Denied(problem)) => {
                return self
                    .denied(access, Action::Read, Some(&agent.row), Some(service), problem)
                    .await;
            }
            Err(Refusal::Plain(problem)) => return Err(problem),
        };
        let scope = access.scope_for(&agent.row);
        if let Err(problem) = may_show(&access.account.row, &agent.row, &scope, service, wanted) {
            let whose = Some(&*agent.row);
            return self.denied(access, Action::Read, whose, Some(service), problem).await;
        }
        let mut proposal = access.unchanged_with(&agent);
        let act = Act::Read { agent: identity, service };
        let shown = match self.present_read(access, &act, &agent.row, &mut proposal).await {
            Err(problem) if is_set_back(&problem) => {
                return self
                    .denied(access, Action::Read, Some(&agent.row), Some(service), problem)
                    .await;
            }
            shown => shown?,
        };
        let Some(credential) = self.fresh(access, &agent, credential).await? else {
            return Ok(None);
        };
        proposal.checks.push(credential.unchanged());
        let plain = self.reveal(&credential, &agent.row)?;
        let mut event = access.event(Action::Read, Outcome::Allowed).of(&agent.row).shown(shown);
        if wanted == Exposure::Inject {
            event = event.detail(FOR_A_PROGRAM);
        }
        proposal.events.push(event.service(&credential.row.service));
        Ok(self.propose(proposal).await?.then_some(plain))
    }

    pub async fn read_all(
        &self,
        access: &Access,
        identity: &AgentIdentity,
    ) -> Answer<Option<Vec<Release>>> {
        let agent = match self.reachable(access, identity).await {
            Ok(agent) => agent,
            Err((Refusal::Denied(problem), whose)) => {
                return self.denied(access, Action::Read, whose.as_deref(), None, problem).await;
            }
            Err((Refusal::Plain(problem), _)) => return Err(problem),
        };
        let scope = access.scope_for(&agent.row);
        let mut proposal = access.unchanged_with(&agent);
        let act = Act::ReadAll { agent: identity };
        let shown = match self.present_read(access, &act, &agent.row, &mut proposal).await {
            Err(problem) if is_set_back(&problem) => {
                return self.denied(access, Action::Read, Some(&agent.row), None, problem).await;
            }
            shown => shown?,
        };
        let mut releases = Vec::new();
        for credential in self.credentials_of(&agent.row).await? {
            let service = &credential.row.service;
            let tier = exposure(&access.account.row, &agent.row, &scope, service);
            if !scope.allows(service) || tier < Exposure::Inject {
                continue;
            }
            let Some(credential) = self.fresh(access, &agent, credential).await? else {
                return Ok(None);
            };
            let event = access.event(Action::Read, Outcome::Allowed).of(&agent.row).shown(shown);
            let event = event.detail(FOR_A_PROGRAM);
            proposal.events.push(event.service(&credential.row.service));
            proposal.checks.push(credential.unchanged());
            releases.push(Release {
                service: credential.row.service.clone(),
                credential: self.reveal(&credential, &agent.row)?,
            });
        }
        releases.sort_by(|a, b| a.service.cmp(&b.service));
        proposal.events.sort_by(|a, b| a.service.cmp(&b.service));
        Ok(self.propose(proposal).await?.then_some(releases))
    }

    pub async fn credentials_of(&self, agent: &AgentRow) -> Answer<Vec<Loaded<CredentialRow>>> {
        let prefix = keys::credentials(agent.account, agent.wallet);
        self.load_all(&prefix, MAX_SERVICES).await
    }

    pub async fn list_credentials(
        &self,
        access: &Access,
        identity: &AgentIdentity,
    ) -> Answer<Vec<CredentialSummary>> {
        access.standing()?;
        let agent = self.target(access, identity).await?;
        let scope = access.scope_for(&agent.row);
        let visible = |service: &ServiceName| access.agent.is_none() || scope.allows(service);
        let mut list: Vec<_> = Vec::new();
        for credential in self.credentials_of(&agent.row).await? {
            let service = &credential.row.service;
            if !visible(service) {
                continue;
            }
            let mut terms = agent.row.terms_of(service);
            // As far as this session sees it.
            let shown = exposure(&access.account.row, &agent.row, &scope, service);
            terms.expose = (shown < Exposure::Reveal).then_some(shown);
            let spent = Some(self.spent(&agent.row, service).await?.at(access.now));
            let spent = spent.filter(|spent| spent.total > 0);
            list.push(CredentialSummary { terms, spent, ..summary(&credential.row) });
        }
        list.sort_by(|a, b| a.service.cmp(&b.service));
        Ok(list)
    }
}

/// A credential without its value.
pub fn summary(row: &CredentialRow) -> CredentialSummary {
    CredentialSummary {
        service: row.service.clone(),
        version: row.version,
        kept: row.version - row.oldest,
        stored_at: row.stored_at,
        expires_at: row.expires_at(),
        made: row.origin.is_some(),
        terms: Terms::default(),
        spent: None,
    }
}
