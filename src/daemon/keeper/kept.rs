//! Keys that were made and are not stored yet: sealed to the backend, in a file each beside the
//! mirror, until the backend has them.
//!
//! Must never let a second key be made while there is a first, or remove one that nobody has.
use std::path::{Path, PathBuf};
use std::sync::Weak;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use tokio::time::sleep;

use super::Keeper;
use crate::client::connect::now;
use crate::client::files::{self, Keep};
use crate::core::encoding::{from_base64, to_base64};
use crate::core::holder::{Held, Ready, Refusal};
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::problem::{Answer, Code, Problem};
use crate::core::types::{Hash32, Timestamp, WalletAddress};
use crate::daemon::keys::Keys;
use crate::daemon::reach::Backend;

/// How long the backend is given before it is tried once more.
const AGAIN: Duration = Duration::from_secs(2);
/// How often a daemon that nobody calls tries.
const LATER: Duration = Duration::from_secs(30);
/// Largest file, in bytes: a key of the largest size, sealed and in base64.
const MAX_FILE: usize = 256 * 1024;
/// How a file's name ends.
const ENDING: &str = ".sealed";
/// How it begins.
const BEGINNING: &str = "provision-";

/// For what the daemon vouches: anybody can seal to the backend, so a file that another program put
/// there could slip the agent a key that is not its own.
const PURPOSE: &str = "agentkeys kept key 1";

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Vouched {
    kept: Written,
    by: Hash32,
}

/// What the file holds. Nothing in it is secret but to the backend, which alone can open it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    service: ServiceName,
    agent: WalletAddress,
    made_at: Timestamp,
    sealed: String,
}

impl Written {
    /// What this daemon's keys say of it.
    fn vouched(&self, keys: &Keys) -> Answer<Hash32> {
        let bytes = serde_json::to_vec(self).map_err(|_| Problem::internal())?;
        Ok(keys.vouch(PURPOSE, &bytes))
    }
}

/// A key that is not stored yet.
pub(super) struct Kept {
    service: ServiceName,
    made_at: Timestamp,
    sealed: Vec<u8>,
    path: PathBuf,
}

impl Kept {
    fn path(folder: &Path, service: &ServiceName, agent: WalletAddress) -> PathBuf {
        folder.join(format!("{BEGINNING}{service}{}", ending(agent)))
    }

    /// Writes one down, so that it survives a loss of power.
    pub fn keep(
        folder: &Path,
        service: &ServiceName,
        agent: WalletAddress,
        sealed: Vec<u8>,
        keys: &Keys,
    ) -> Answer<Self> {
        let path = Self::path(folder, service, agent);
        let made_at = now();
        let text = to_base64(&sealed);
        let written = Written { service: service.clone(), agent, made_at, sealed: text };
        let by = written.vouched(keys)?;
        let whole = Vouched { kept: written, by };
        let bytes = serde_json::to_vec(&whole).map_err(|_| Problem::internal())?;
        files::replace(&path, &bytes, Keep::Durably)?;
        Ok(Self { service: service.clone(), made_at, sealed, path })
    }

    /// The one of an agent for a service.
    ///
    /// # Errors
    /// `INTERNAL` for a file that others could have written, that does not read, or that this
    /// daemon's keys do not vouch for: nobody knows then whether there is a key.
    pub fn find(
        folder: &Path,
        service: &ServiceName,
        agent: WalletAddress,
        keys: &Keys,
    ) -> Answer<Option<Self>> {
        let path = Self::path(folder, service, agent);
        let Some(bytes) = files::read(&path, MAX_FILE)? else { return Ok(None) };
        let whole: Option<Vouched> = serde_json::from_slice(&bytes).ok();
        let written = whole.filter(|whole| {
            whole.kept.vouched(keys).is_ok_and(|by| bool::from(by.0.ct_eq(&whole.by.0)))
        });
        let written = written.map(|whole| whole.kept);
        let written = written.filter(|found| found.service == *service && found.agent == agent);
        let sealed = written.as_ref().and_then(|found| from_base64("sealed", &found.sealed).ok());
        match (written, sealed) {
            (Some(Written { made_at, .. }), Some(sealed)) => {
                Ok(Some(Self { service: service.clone(), made_at, sealed, path }))
            }
            _ => Err(files::trouble(
                format!("{} is not what this daemon wrote", path.display()),
                "it should hold a key that was made and not stored yet; it was changed, or written \
                 before the daemon's keys were rotated",
                "delete it; then a new key is made, and the old one can be deleted at its service",
            )),
        }
    }

    /// The services of which an agent has one.
    fn all(folder: &Path, agent: WalletAddress) -> Vec<ServiceName> {
        let ending = ending(agent);
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| {
                let name = entry.file_name();
                let name = name.to_str()?.strip_prefix(BEGINNING)?.strip_suffix(&ending)?;
                name.parse().ok()
            })
            .collect()
    }
}

/// How the file name of one of an agent's ends.
fn ending(agent: WalletAddress) -> String {
    format!("-{agent}{ENDING}")
}

impl Keeper {
    /// Stores a key that is kept, trying once more where that fails, and then forgets it.
    ///
    /// # Errors
    /// What kept it from being stored, saying that the key stays.
    pub(super) async fn store_kept(&self, kept: &Kept) -> Held<Ready> {
        let mut tried = self.store_it(kept).await;
        if matches!(&tried, Err(Refusal::Problem(problem)) if may_pass(problem)) {
            sleep(AGAIN).await;
            tried = self.store_it(kept).await;
        }
        match tried {
            Ok(made) => {
                if let Err(error) = std::fs::remove_file(&kept.path) {
                    tracing::warn!(%error, "{} stays", kept.path.display());
                }
                Ok(Ready { made, expires_at: None, note: None })
            }
            Err(Refusal::Problem(problem)) => Err(not_stored(kept, problem).into()),
            waiting @ Err(_) => waiting.map(|made| Ready { made, expires_at: None, note: None }),
        }
    }

    /// Whether this is what stored it: there may be one already, from a try whose answer was lost
    /// or from somebody else.
    async fn store_it(&self, kept: &Kept) -> Held<bool> {
        self.with_session(|backend, token, agent| async move {
            let agent = AgentIdentity::Wallet(agent);
            let list = backend.list_credentials(&token, &agent).await?;
            if let Some(found) = list.into_iter().find(|found| found.service == kept.service) {
                if found.stored_at < kept.made_at {
                    tracing::warn!(service = %kept.service, "an older key is there already");
                }
                return Ok(false);
            }
            backend.store_credential(&token, &agent, &kept.service, kept.sealed.clone()).await?;
            Ok(true)
        })
        .await
    }
}

/// Whether the same may work a moment later.
fn may_pass(problem: &Problem) -> bool {
    matches!(problem.code, Code::Unavailable | Code::Internal | Code::RateLimited)
}

fn not_stored(kept: &Kept, problem: Problem) -> Problem {
    let path = kept.path.display();
    let service = &kept.service;
    let mut told = problem.clone();
    told.detail = format!("a key of {service} was made, and is not stored yet");
    told.cause = format!("{}: {}", problem.detail, problem.cause);
    told.fix = if may_pass(&problem) {
        "nothing: it is kept sealed, and stored as soon as the backend takes it; asking again \
         tries at once, and makes no second key"
            .to_owned()
    } else {
        format!(
            "{}\nthe key is kept, sealed, in {path}; asking again tries again, and makes no second \
             key; delete that file to have a new one made",
            problem.fix
        )
    };
    told.at_step("store the key")
}

/// Stores what is kept, as soon as that is possible, while nobody asks; ends when nothing is.
pub(super) async fn store_later(keeper: Weak<Keeper>) {
    loop {
        let Some(strong) = keeper.upgrade() else { return };
        let folder = strong.runs.recipes.kept.clone();
        if !is_any(&folder) {
            return;
        }
        // Without a session whose they are nobody knows; it is not asked for from here.
        let live = strong.live();
        let services = live.as_ref().map_or_else(Vec::new, |live| Kept::all(&folder, live.agent));
        for (service, live) in services.iter().zip(live.iter().cycle()) {
            let Ok(keys) = strong.own_keys() else { continue };
            let stored = match Kept::find(&folder, service, live.agent, &keys) {
                Ok(Some(kept)) => strong.store_quietly(&kept, live).await,
                Ok(None) => continue,
                Err(problem) => Err(problem),
            };
            match stored {
                Ok(()) => tracing::info!(%service, "a key that was kept is stored now"),
                Err(problem) => tracing::debug!(%service, cause = %problem.cause, "{problem}"),
            }
        }
        drop(live);
        drop(strong);
        sleep(LATER).await;
    }
}

/// Whether a key of any agent is kept.
fn is_any(folder: &Path) -> bool {
    let mut entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.any(|entry| {
        let name = entry.file_name();
        name.to_str().is_some_and(|name| name.starts_with(BEGINNING) && name.ends_with(ENDING))
    })
}

impl Keeper {
    /// Stores a kept key with the session that there is, and opens no request where there is none.
    async fn store_quietly(&self, kept: &Kept, live: &super::Live) -> Answer<()> {
        let (agent, token) = (AgentIdentity::Wallet(live.agent), live.session.token());
        let store = |backend: Backend| {
            let (agent, token) = (agent.clone(), &token);
            async move {
                let list = backend.list_credentials(token, &agent).await?;
                if list.iter().any(|found| found.service == kept.service) {
                    return Ok(());
                }
                backend.store_credential(token, &agent, &kept.service, kept.sealed.clone()).await
            }
        };
        self.reach.once(store).await?;
        std::fs::remove_file(&kept.path)
            .map_err(|error| files::failed("remove", &kept.path, &error))
    }
}
