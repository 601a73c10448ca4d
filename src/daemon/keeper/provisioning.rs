//! Gets keys: asks the backend, which has them made or gives the way to a recipe; runs that, and
//! stores what it gave.
//!
//! One run a service, however many ask for it; it ends when nobody waits for it any more. Must
//! never let a key out of memory that is wiped, but sealed to the backend.
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use super::Keeper;
use super::kept::{Kept, store_later};
use crate::client::sealing;
use crate::core::backend::CredentialSummary;
use crate::core::claim::Reason;
use crate::core::holder::{Held, Provisioning, Ready, UnderWay};
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::problem::{Answer, Code, Problem};
use crate::core::provision::{Provisioned, Recipe, Settings};
use crate::core::scope::Scope;
use crate::core::types::WalletAddress;
use crate::daemon::keys::Keys;
use crate::daemon::reach::Starter;
use crate::provisioner::{Mode, Task, carry_out};

/// Most keys that are being got at a time.
const AT_ONCE: usize = 2;
/// How many hex digits of its address tell an agent apart, in an e-mail address for example.
const TAG_DIGITS: usize = 10;
/// The setting that holds them. The daemon's goes before one that was set.
const TAG: &str = "tag";

/// What recipes are run with.
pub struct Recipes {
    /// Starts them.
    pub starter: Arc<dyn Starter>,
    /// Where keys are kept that could not be stored, sealed.
    pub kept: PathBuf,
    /// Where recipes put pictures.
    pub screenshots: PathBuf,
}

/// The keys that are being got.
pub(super) struct Runs {
    pub(super) recipes: Recipes,
    table: Arc<Mutex<BTreeMap<ServiceName, Arc<Run>>>>,
    turns: Semaphore,
}

/// One of them.
struct Run {
    waiters: Mutex<usize>,
    at: Mutex<(String, u8)>,
    came: watch::Receiver<Option<Held<Provisioning>>>,
    task: AbortHandle,
}

type Table = BTreeMap<ServiceName, Arc<Run>>;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Runs {
    pub fn new(recipes: Recipes) -> Self {
        Self { recipes, table: Arc::default(), turns: Semaphore::new(AT_ONCE) }
    }

    /// What is under way, for those who look.
    pub fn under_way(&self) -> Vec<UnderWay> {
        let table = locked(&self.table);
        table
            .iter()
            .map(|(service, run)| {
                let (step, percent) = locked(&run.at).clone();
                UnderWay { service: service.clone(), step, percent }
            })
            .collect()
    }
}

/// One who waits for a run, which ends with the last of them.
struct Waiter {
    service: ServiceName,
    run: Arc<Run>,
    table: Arc<Mutex<Table>>,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut table = locked(&self.table);
        let mut waiters = locked(&self.run.waiters);
        *waiters -= 1;
        if *waiters == 0 {
            self.run.task.abort();
            if table.get(&self.service).is_some_and(|run| Arc::ptr_eq(run, &self.run)) {
                table.remove(&self.service);
            }
        }
    }
}

impl Keeper {
    /// Joins the run for `service`, or begins one.
    pub(super) async fn provision_once(
        &self,
        service: &ServiceName,
        reason: Option<&Reason>,
    ) -> Held<Provisioning> {
        let waiter = self.join(service, reason)?;
        let mut came = waiter.run.came.clone();
        let outcome = match came.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => None,
        };
        drop(waiter);
        self.moved();
        outcome.unwrap_or_else(|| Err(Problem::internal().into()))
    }

    fn join(&self, service: &ServiceName, reason: Option<&Reason>) -> Answer<Waiter> {
        let keeper = self.this.upgrade().ok_or_else(Problem::internal)?;
        let mut table = locked(&self.runs.table);
        let run = match table.get(service) {
            Some(run) => run.clone(),
            None => {
                let (tell, came) = watch::channel(None);
                let (wanted, reason) = (service.clone(), reason.cloned());
                let task = tokio::spawn(async move {
                    let outcome = keeper.get_one(&wanted, reason.as_ref()).await;
                    tell.send_replace(Some(outcome));
                });
                let (waiters, at) = (Mutex::new(0), Mutex::new(("begin".to_owned(), 0)));
                let run = Arc::new(Run { waiters, at, came, task: task.abort_handle() });
                table.insert(service.clone(), run.clone());
                run
            }
        };
        *locked(&run.waiters) += 1;
        Ok(Waiter { service: service.clone(), run, table: self.runs.table.clone() })
    }

    /// Notes how far the run for `service` is.
    pub(super) fn at_step(&self, service: &ServiceName, step: &str, percent: u8) {
        if let Some(run) = locked(&self.runs.table).get(service) {
            *locked(&run.at) = (step.to_owned(), percent);
        }
        self.moved();
    }

    /// Gets one key, from the question whether it may to the stored credential.
    async fn get_one(&self, service: &ServiceName, reason: Option<&Reason>) -> Held<Provisioning> {
        let me = self.own_summary().await?;
        if !me.scope.may_provision(service) {
            let wider = |scope: &Scope| scope.provisioning(service);
            let waiting = self.ask_for_scope(&me.scope, wider, reason).await?;
            return Ok(Provisioning::Waiting(waiting));
        }
        // A second one must not be made while the first is only not stored yet.
        let keys = self.own_keys()?;
        if let Some(kept) = Kept::find(&self.runs.recipes.kept, service, me.wallet, &keys)? {
            self.at_step(service, "store the key that is kept", 90);
            return Ok(Provisioning::Ready(self.store_kept(&kept).await?));
        }
        let _turn = self.runs.turns.acquire().await.map_err(|_| Problem::internal())?;
        self.at_step(service, "ask the backend", 5);
        let came = self.with_session(|backend, token, agent| async move {
            backend.provision(&token, &AgentIdentity::Wallet(agent), service).await
        });
        match came.await? {
            Provisioned::Exists(found) => Ok(Provisioning::Ready(ready(false, &found))),
            Provisioned::Made(made) => Ok(Provisioning::Ready(ready(true, &made))),
            Provisioned::Recipe(recipe) => {
                Ok(Provisioning::Ready(self.by_recipe(service, me.wallet, recipe).await?))
            }
        }
    }

    /// The daemon's keys.
    pub(super) fn own_keys(&self) -> Answer<Arc<Keys>> {
        self.state().me.as_ref().map(|me| me.keys.clone()).ok_or_else(Problem::internal)
    }

    /// Runs a recipe and stores the key that it gives.
    async fn by_recipe(
        &self,
        service: &ServiceName,
        wallet: WalletAddress,
        recipe: Recipe,
    ) -> Held<Ready> {
        // Fetched first: nothing is begun that could not be sealed.
        let shielding = self.reach.call(|backend| async move { backend.shielding_key().await });
        let shielding = sealing::usable(shielding.await?)?;
        let account = self.state().me.as_ref().map(|me| me.identity.account);
        let account = account.ok_or_else(Problem::internal)?;
        let Recipe { settings, secret } = recipe;
        let digits: String =
            wallet.to_string().trim_start_matches("0x").chars().take(TAG_DIGITS).collect();
        let tag = format!("agentkeys-{digits}");
        let screenshot = self.runs.recipes.screenshots.join(format!("{service}-{tag}.png"));
        let settings = with_tag(settings, tag)?;
        let ends = self.runs.recipes.starter.recipe(service).await?;
        let task = Task {
            service,
            mode: Mode::Run,
            settings: &settings,
            secret: secret.as_ref(),
            screenshot: Some(&screenshot),
        };
        // The last tenth is the vault's.
        let progress = |step: &str, percent: u8| {
            let percent = 10 + u16::from(percent) * 8 / 10;
            self.at_step(service, step, u8::try_from(percent).unwrap_or(90));
        };
        let done = carry_out(ends, task, &progress).await?;
        let key = done.key.ok_or_else(Problem::internal)?;
        if let Some(note) = &done.note {
            tracing::warn!(%service, "{note}");
        }
        self.at_step(service, "store the key", 92);
        let sealed = sealing::seal_credential(shielding, account, wallet, service, &key)?;
        drop(key);
        // Written down before it is sent: from here on it cannot be lost, only late.
        let kept =
            Kept::keep(&self.runs.recipes.kept, service, wallet, sealed, &*self.own_keys()?)?;
        let stored = self.store_kept(&kept).await.inspect_err(|_| {
            tokio::spawn(store_later(self.this.clone()));
        })?;
        Ok(Ready { note: done.note, made: true, ..stored })
    }
}

fn ready(made: bool, summary: &CredentialSummary) -> Ready {
    Ready { made, expires_at: summary.expires_at, note: None }
}

/// The settings with this agent's own tag among them.
fn with_tag(settings: Settings, tag: String) -> Answer<Settings> {
    let mut all: BTreeMap<String, String> =
        settings.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    all.insert(TAG.to_owned(), tag);
    Settings::new(all).map_err(|wrong| {
        let fix = "agentkeys provisioner set, with fewer settings";
        Problem::new(Code::Invalid, "the recipe has too many settings", wrong.why, fix)
    })
}
