//! Providers: what an account has set up to get keys of a service. Their secrets (an
//! administrator's key, a mailbox's password) are sealed as credentials are, and no agent reads
//! them; a recipe beside an agent is given one by [`super::provision`] alone.
use super::access::Access;
use super::rows::{ProviderRow, Sealed};
use super::{Inner, Loaded, answer, keys};
use crate::backend::store::{Check, Write};
use crate::core::audit::{Action, Outcome};
use crate::core::identity::ServiceName;
use crate::core::presence::Act;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::provision::{MAX_PROVIDER_SECRET, NewProvider, Provider, Settings, Way, no_way};
use crate::core::seal::{self, Purpose, SealError};
use crate::core::secret::{Key32, SecretBytes};
use crate::core::types::AccountId;

/// Most services that one account has set up.
const MAX_PROVIDERS: usize = 256;
/// Settings that say where a secret goes: with another of these, the old secret does not go along.
const WHERE: [&str; 3] = ["url", "imap", "imap_user"];
/// Most characters of settings in an event.
const MAX_TOLD: usize = 200;

impl Inner {
    /// What an account has set up for a service.
    pub async fn provider(
        &self,
        account: AccountId,
        service: &ServiceName,
    ) -> Answer<Option<Loaded<ProviderRow>>> {
        self.load(keys::provider(account, &self.service_mac(service))).await
    }

    /// The secret of a provider.
    pub fn provider_secret(
        &self,
        account: AccountId,
        provider: &Loaded<ProviderRow>,
    ) -> Answer<Option<SecretBytes>> {
        let open = |sealed: &Sealed| {
            self.cells.open_secret(account, &provider.key, &sealed.0).map_err(answer::cell)
        };
        provider.row.secret.as_ref().map(open).transpose()
    }

    pub async fn set_provider(
        &self,
        access: &Access,
        service: &ServiceName,
        new: &NewProvider,
    ) -> Answer<Option<Provider>> {
        access.master()?;
        let account = access.account_id();
        if new.way == Way::Api {
            return Err(no_interface(service));
        }
        let before = self.provider(account, service).await?;
        let key = keys::provider(account, &self.service_mac(service));
        let secret = match &new.sealed {
            Some(sealed) => {
                let plain = self.unseal_provider(account, service, sealed)?;
                let sealed = self
                    .cells
                    .seal_secret(account, &key, plain.expose(), &self.entropy)
                    .map_err(answer::cell)?;
                Some(Sealed(sealed))
            }
            None => kept(before.as_ref().map(|before| &*before.row), new)?,
        };
        let mut proposal = access.unchanged();
        let act = Act::SetProvider { service, provider: new };
        self.present(access, &act, &mut proposal).await?;
        match &before {
            Some(before) => proposal.checks.push(before.unchanged()),
            None => {
                let prefix = keys::providers(account);
                let there = self.load_all::<ProviderRow>(&prefix, MAX_PROVIDERS).await?.len();
                if there >= MAX_PROVIDERS {
                    let most = format!("an account gets keys of at most {MAX_PROVIDERS} services");
                    return Err(Problem::invalid("service", most));
                }
                proposal.checks.push(Check::Absent(key.clone()));
            }
        }
        let row = ProviderRow {
            service: service.clone(),
            way: new.way,
            settings: new.settings.clone(),
            set_at: access.now,
            secret,
        };
        proposal.writes.push(self.put(key, &row)?);
        let event = access.event(Action::ProviderSet, Outcome::Allowed).service(service);
        proposal.events.push(event.detail(told(new.way, &new.settings)));
        Ok(self.propose(proposal).await?.then(|| shown(&row)))
    }

    fn unseal_provider(
        &self,
        account: AccountId,
        service: &ServiceName,
        sealed: &[u8],
    ) -> Answer<SecretBytes> {
        // HPKE wants the key's bytes; this copy is wiped when it is dropped.
        let shielding = Key32::new(*self.shielding_secret.expose());
        let purpose = Purpose::provider(account, service);
        let plain = seal::open(&shielding, &purpose, sealed).map_err(|error| {
            let cause = match error {
                SealError::OtherKey => "it is sealed to another backend's shielding key",
                SealError::Unauthentic => {
                    "it was changed, or sealed for another account or service"
                }
                SealError::Format | SealError::Key => "it is not sealed bytes of a known version",
            };
            let fix = format!("seal it anew: agentkeys provisioner set {service}");
            Problem::new(Code::Invalid, "secret is not valid", cause, fix)
        })?;
        if plain.is_empty() || plain.len() > MAX_PROVIDER_SECRET {
            let why = format!("the secret has 1 to {MAX_PROVIDER_SECRET} bytes");
            return Err(Problem::invalid("secret", why));
        }
        Ok(plain)
    }

    pub async fn list_providers(&self, access: &Access) -> Answer<Vec<Provider>> {
        access.master()?;
        let prefix = keys::providers(access.account_id());
        let rows = self.load_all::<ProviderRow>(&prefix, MAX_PROVIDERS).await?;
        let mut list: Vec<Provider> = rows.iter().map(|row| shown(&row.row)).collect();
        list.sort_by(|a, b| a.service.cmp(&b.service));
        Ok(list)
    }

    pub async fn remove_provider(&self, access: &Access, service: &ServiceName) -> Answer<bool> {
        access.master()?;
        let found = self.provider(access.account_id(), service).await?;
        let found = found.ok_or_else(|| no_way(service))?;
        let mut proposal = access.unchanged();
        proposal.checks.push(found.unchanged());
        proposal.writes.push(Write::Delete(found.key));
        let event = access.event(Action::ProviderRemove, Outcome::Allowed);
        proposal.events.push(event.service(service));
        self.propose(proposal).await
    }

    /// Whether what is set up is whole. What a recipe needs beyond that, the recipe itself says.
    pub async fn check_provider(&self, access: &Access, service: &ServiceName) -> Answer<()> {
        access.master()?;
        let found = self.provider(access.account_id(), service).await?;
        let found = found.ok_or_else(|| no_way(service))?;
        self.provider_secret(access.account_id(), &found).map(drop)
    }
}

/// The secret that stays when none is given: the old one, if it goes where it went.
fn kept(before: Option<&ProviderRow>, new: &NewProvider) -> Answer<Option<Sealed>> {
    let Some(before) = before.filter(|before| before.secret.is_some()) else { return Ok(None) };
    let same = |name: &&str| before.settings.get(name) == new.settings.get(name);
    if before.way == new.way && WHERE.iter().all(same) {
        return Ok(before.secret.clone());
    }
    Err(Problem::invalid(
        "secret",
        "it was given for another way, url or mailbox, and is not sent elsewhere: give it again",
    ))
}

fn shown(row: &ProviderRow) -> Provider {
    Provider {
        service: row.service.clone(),
        way: row.way,
        settings: row.settings.clone(),
        set_at: row.set_at,
        keys: 0,
        ending: 0,
        trouble: None,
    }
}

/// The way and its settings, for the log.
fn told(way: Way, settings: &Settings) -> String {
    let settings: Vec<String> =
        settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let whole = format!("{way} {}", settings.join(" "));
    whole.trim_end().chars().take(MAX_TOLD).collect()
}

fn no_interface(service: &ServiceName) -> Problem {
    Problem::new(
        Code::Invalid,
        format!("no interface is known by which \"{service}\" makes keys"),
        "this version knows none",
        format!("agentkeys provisioner set {service} --way browser"),
    )
}
