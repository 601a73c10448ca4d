//! What a master does with a credential that is there: brings the version before back, or deletes
//! it with all its versions.
use super::access::Access;
use super::credential::{KEPT_VERSIONS, not_stored, summary};
use super::keys;
use super::rows::{AgentRow, CredentialRow};
use super::{Inner, Loaded};
use crate::backend::store::Write;
use crate::core::audit::{Action, Outcome};
use crate::core::backend::CredentialSummary;
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::problem::{Answer, Code, Problem};

impl Inner {
    /// An agent and its credential, for its master.
    async fn masters(
        &self,
        access: &Access,
        identity: &AgentIdentity,
        service: &ServiceName,
    ) -> Answer<(Loaded<AgentRow>, Loaded<CredentialRow>)> {
        access.master()?;
        let agent = self.target(access, identity).await?;
        let current = self.load(self.credential_key(&agent.row, service)).await?;
        let current = current.ok_or_else(|| not_stored(&agent.row, service))?;
        Ok((agent, current))
    }

    pub async fn roll_back(
        &self,
        access: &Access,
        identity: &AgentIdentity,
        service: &ServiceName,
    ) -> Answer<Option<CredentialSummary>> {
        let (agent, current) = self.masters(access, identity, service).await?;
        let none_kept = || {
            Problem::new(
                Code::NotFound,
                format!("no earlier version of \"{service}\""),
                "only versions that were replaced are kept, and the last few of them",
                "store the credential again",
            )
        };
        if current.row.oldest == current.row.version {
            return Err(none_kept());
        }
        // The version before comes back as a new one, so that this too can be undone.
        let mac = self.service_mac(service);
        let (account, wallet) = (agent.row.account, agent.row.wallet);
        let before = keys::version(account, wallet, &mac, current.row.version - 1);
        let before = self.load::<CredentialRow>(before).await?.ok_or_else(none_kept)?;
        let version = current.row.version + 1;
        let oldest = current.row.oldest.max(version.saturating_sub(KEPT_VERSIONS));
        let row = CredentialRow {
            service: service.clone(),
            version,
            oldest,
            stored_at: access.now,
            secret: before.row.secret.clone(),
            origin: None,
        };
        let mut proposal = access.unchanged();
        proposal.checks.extend([agent.unchanged(), current.unchanged(), before.unchanged()]);
        let kept = keys::version(account, wallet, &mac, current.row.version);
        proposal.writes.push(self.put(kept, &*current.row)?);
        proposal.writes.extend(
            (current.row.oldest..oldest)
                .map(|gone| Write::Delete(keys::version(account, wallet, &mac, gone))),
        );
        proposal.writes.push(self.put(current.key.clone(), &row)?);
        let event = access.event(Action::RollBack, Outcome::Allowed).of(&agent.row);
        let detail = format!("version {} is version {} again", version, current.row.version - 1);
        proposal.events.push(event.service(service).detail(detail));
        let terms = agent.row.terms_of(service);
        let done = self.propose(proposal).await?;
        Ok(done.then(|| CredentialSummary { terms, ..summary(&row) }))
    }

    /// Deletes a credential and its earlier versions; a key that was made is ended at its service.
    /// Its terms stay: a key that is stored later is shown no further without a proof of presence.
    pub async fn delete_credential(
        &self,
        access: &Access,
        identity: &AgentIdentity,
        service: &ServiceName,
    ) -> Answer<bool> {
        let (agent, current) = self.masters(access, identity, service).await?;
        let mac = self.service_mac(service);
        let (account, wallet) = (agent.row.account, agent.row.wallet);
        let mut row = AgentRow::clone(&agent.row);
        row.services = row.services.saturating_sub(1);
        let mut proposal = access.unchanged();
        proposal.checks.extend([agent.unchanged(), current.unchanged()]);
        proposal.writes.push(self.put(agent.key.clone(), &row)?);
        let kept = current.row.oldest..current.row.version;
        let kept = kept.map(|version| keys::version(account, wallet, &mac, version));
        let gone = kept.chain([keys::holder(account, &mac, wallet), current.key.clone()]);
        proposal.writes.extend(gone.map(Write::Delete));
        self.push_ending(&agent.row, &current, access.now, &mut proposal)?;
        let event = access.event(Action::Delete, Outcome::Allowed).of(&agent.row);
        let detail = format!("version {}", current.row.version);
        proposal.events.push(event.service(service).detail(detail));
        let done = self.propose(proposal).await?;
        self.errands.notify_one();
        Ok(done)
    }
}
