//! Providers: what an account has set up to get keys of a service. Their secrets (an
//! administrator's key, a mailbox's password) are sealed as credentials are, and no agent reads
//! them; a recipe beside an agent is given one by [`super::provision`] alone.
use super::access::Access;
use super::agent::MAX_AGENTS;
use super::errand::Ongoing;
use super::rows::{AgentLink, CredentialRow, ErrandRow, ProviderRow, Sealed};
use super::{Inner, Loaded, answer, keys};
use crate::backend::mint::Account;
use crate::backend::peer::Peer;
use crate::backend::store::{Check, Write};
use crate::core::audit::{Action, Outcome};
use crate::core::identity::ServiceName;
use crate::core::presence::Act;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::provision::{MAX_PROVIDER_SECRET, NewProvider, Provider, Settings, Way, no_way};
use crate::core::seal::{self, Purpose, SealError};
use crate::core::secret::{Key32, SecretBytes};
use crate::core::types::AccountId;
use crate::harden::effective_uid;

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
            self.mint.fits(service, &new.settings, runs_this_backend(access))?;
        }
        let before = self.provider(account, service).await?;
        if let Some(before) = before.as_ref().filter(|before| goes_elsewhere(&before.row, new)) {
            self.nothing_left(&before.row, access).await?;
        }
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
        if new.way == Way::Api && secret.is_none() {
            return Err(Problem::invalid("secret", "the service is asked by it: give one"));
        }
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
            asked: before.map_or(0, |before| before.row.asked),
        };
        proposal.writes.push(self.put(key, &row)?);
        let event = access.event(Action::ProviderSet, Outcome::Allowed).service(service);
        proposal.events.push(event.detail(told(new.way, &new.settings)));
        if !self.propose(proposal).await? {
            return Ok(None);
        }
        // What could not be ended with the old secret may be with the new one.
        self.hasten(account, service).await?;
        let errands = self.errands_of(account).await?;
        self.shown(account, &row, &errands).await.map(Some)
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
        let errands = self.errands_of(access.account_id()).await?;
        let mut list = Vec::with_capacity(rows.len());
        for row in rows {
            list.push(self.shown(access.account_id(), &row.row, &errands).await?);
        }
        list.sort_by(|a, b| a.service.cmp(&b.service));
        Ok(list)
    }

    pub async fn remove_provider(
        &self,
        access: &Access,
        service: &ServiceName,
        abandon: bool,
    ) -> Answer<bool> {
        access.master()?;
        let found = self.provider(access.account_id(), service).await?;
        let found = found.ok_or_else(|| no_way(service))?;
        if !abandon {
            self.nothing_left(&found.row, access).await?;
        }
        let mut proposal = access.unchanged();
        proposal.checks.push(found.unchanged());
        proposal.writes.push(Write::Delete(found.key));
        let event = access.event(Action::ProviderRemove, Outcome::Allowed);
        let event = if abandon { event.detail("its keys are abandoned") } else { event };
        proposal.events.push(event.service(service));
        let done = self.propose(proposal).await?;
        self.errands.notify_one();
        Ok(done)
    }

    /// Refuses what would leave keys at their service that nobody could end there any more.
    async fn nothing_left(&self, row: &ProviderRow, access: &Access) -> Answer<()> {
        let errands = self.errands_of(access.account_id()).await?;
        let Provider { service, keys, ending, trouble, .. } =
            self.shown(access.account_id(), row, &errands).await?;
        if keys == 0 && ending == 0 {
            return Ok(());
        }
        let cause = match trouble {
            Some(trouble) => format!("{keys} are in use, {ending} still to be ended: {trouble}"),
            None => format!("{keys} are in use, {ending} still to be ended"),
        };
        Err(Problem::new(
            Code::Invalid,
            format!("there are keys of \"{service}\" that only this can end"),
            cause,
            format!(
                "revoke or tear down the agents that have them, and wait until they are ended\n\
                 or leave them at the service: agentkeys provisioner remove {service} --abandon"
            ),
        ))
    }

    /// How many keys of a service the account's agents have that were made for them.
    async fn made_keys(&self, account: AccountId, service: &ServiceName) -> Answer<u64> {
        let mac = self.service_mac(service);
        let holders = keys::holders(account, &mac);
        let mut count = 0;
        for link in self.load_all::<AgentLink>(&holders, MAX_AGENTS as usize).await? {
            let key = keys::credential(account, link.row.wallet, &mac);
            let found = self.load::<CredentialRow>(key).await?;
            count += u64::from(found.is_some_and(|found| found.row.origin.is_some()));
        }
        Ok(count)
    }

    async fn shown(
        &self,
        account: AccountId,
        row: &ProviderRow,
        errands: &[ErrandRow],
    ) -> Answer<Provider> {
        let Ongoing { ending, trouble } = Ongoing::of(errands, &row.service);
        let keys = match row.way {
            Way::Api => self.made_keys(account, &row.service).await?,
            Way::Browser => 0,
        };
        Ok(Provider {
            service: row.service.clone(),
            way: row.way,
            settings: row.settings.clone(),
            set_at: row.set_at,
            keys,
            ending,
            trouble,
        })
    }

    /// Whether what is set up works. What a recipe needs, the recipe itself says.
    pub async fn check_provider(&self, access: &Access, service: &ServiceName) -> Answer<()> {
        access.master()?;
        let found = self.provider(access.account_id(), service).await?;
        let found = found.ok_or_else(|| no_way(service))?;
        let secret = self.provider_secret(access.account_id(), &found)?;
        if found.row.way == Way::Browser {
            return Ok(());
        }
        let settings = &found.row.settings;
        self.mint.fits(service, settings, true)?;
        let secret = secret.unwrap_or_else(|| SecretBytes::new(Vec::new()));
        self.mint.check(&Account { service, settings, secret: &secret, now: access.now }).await
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

/// Whether keys that were made could not be ended any more by what is set up now.
fn goes_elsewhere(before: &ProviderRow, new: &NewProvider) -> bool {
    let other = before.settings.get("url") != new.settings.get("url");
    before.way == Way::Api && (new.way != Way::Api || other)
}

/// Whether the caller is the user who runs this backend, as the kernel says.
fn runs_this_backend(access: &Access) -> bool {
    let peer = access.peer.as_ref();
    peer.is_some_and(|peer| matches!(peer, Peer::Unix(unix) if unix.uid == effective_uid()))
}

/// The way and its settings, for the log.
fn told(way: Way, settings: &Settings) -> String {
    let settings: Vec<String> =
        settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let whole = format!("{way} {}", settings.join(" "));
    whole.trim_end().chars().take(MAX_TOLD).collect()
}
