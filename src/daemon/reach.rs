//! How a daemon reaches its backend: the one that it is told, or the user's private one if there
//! is one. It never makes a new one, since nobody could approve there.
//!
//! A call that nobody answers is made three times within seven seconds. Must never send anything
//! to another backend than the one that was named, and never keep an answer.
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep, sleep_until};

use crate::client::config::{Chooser, Config};
use crate::client::http::{Address, HttpBackend, Options as HttpOptions};
use crate::client::places::Places;
use crate::core::backend::AccountBackend;
use crate::core::identity::ServiceName;
use crate::core::problem::{Answer, Code, Problem};
use crate::provisioner::Ends;

/// When a call is made again after the first try, counted from it.
const TRIES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(7)];
/// Longest that one try to connect takes.
const CONNECT: Duration = Duration::from_secs(2);
/// Longest that one request takes, a long poll's wait apart.
const REQUEST: Duration = Duration::from_secs(20);
/// Connections are given up after this long without a call: their buffers hold what was sent.
const IDLE: Duration = Duration::from_secs(1);

/// A backend, for one call.
pub type Backend = Arc<dyn AccountBackend>;

/// Starts what the daemon's own process may not: what it starts would be confined as it is.
#[async_trait]
pub trait Starter: Send + Sync {
    /// Finds the private backend, and starts it if need be; what says where it is lies beside the
    /// master's session. Gives its socket.
    async fn start(&self) -> Answer<PathBuf>;

    /// Starts the recipe for a service, and gives this side's ends of its sockets.
    async fn recipe(&self, service: &ServiceName) -> Answer<Ends>;
}

/// Which backend.
enum Target {
    /// The one that was named.
    Named(Arc<HttpBackend>),
    /// This user's own. Where it listens may change when it is started again.
    Private { places: Places, starter: Arc<dyn Starter>, found: Mutex<Option<Arc<HttpBackend>>> },
    /// Any other, given in process.
    Given(Backend),
    /// None: what every call answers.
    Nowhere(Problem),
}

/// The way to a backend.
pub struct Reach {
    target: Target,
    address: Option<String>,
}

impl Reach {
    /// The backend that the settings name.
    pub fn new(places: Places, config: &Config, starter: Arc<dyn Starter>) -> Self {
        match (&config.backend, config.chosen_by) {
            (Some(address), chosen_by) => Self {
                address: Some(address.to_string()),
                target: Target::Named(Arc::new(backend_at(address.clone(), chosen_by))),
            },
            (None, _) => Self {
                address: Some(format!("private:{}", places.data().display())),
                target: Target::Private { places, starter, found: Mutex::default() },
            },
        }
    }

    /// No backend: every call answers `problem`, such as a setting that is not what it may be.
    pub fn nowhere(problem: Problem) -> Self {
        Self { target: Target::Nowhere(problem), address: None }
    }

    /// A backend that is given in process.
    pub fn over(backend: Backend, address: impl Into<String>) -> Self {
        Self { target: Target::Given(backend), address: Some(address.into()) }
    }

    /// What a session of this backend is bound to; `None` when there is none.
    pub fn address(&self) -> Option<&str> {
        self.address.as_deref()
    }

    /// Makes a call, three times if nobody answers. Only what may be done twice is called so.
    ///
    /// # Errors
    /// Those of `call`; `UNAVAILABLE` says how often and how long it was tried.
    pub async fn call<T, F>(&self, call: impl Fn(Backend) -> F) -> Answer<T>
    where
        F: Future<Output = Answer<T>>,
    {
        let begun = Instant::now();
        let mut tries = TRIES.iter();
        loop {
            let failed = match self.once(&call).await {
                Err(problem) if problem.code == Code::Unavailable => problem,
                answer => return answer,
            };
            match tries.next() {
                Some(after) => sleep_until(begun + *after).await,
                None => return Err(away(failed, begun.elapsed())),
            }
        }
    }

    /// Makes a call once.
    ///
    /// # Errors
    /// Those of `call`.
    pub async fn once<T, F>(&self, call: impl Fn(Backend) -> F) -> Answer<T>
    where
        F: Future<Output = Answer<T>>,
    {
        let http = match &self.target {
            Target::Given(backend) => return call(backend.clone()).await,
            Target::Nowhere(problem) => return Err(problem.clone()),
            Target::Named(backend) => backend.clone(),
            Target::Private { .. } => self.private().await?,
        };
        let answer = call(http.clone()).await;
        hang_up_soon(&http);
        if answer.as_ref().is_err_and(|problem| problem.code == Code::Unavailable) {
            self.look_again();
        }
        answer
    }

    async fn private(&self) -> Answer<Arc<HttpBackend>> {
        let Target::Private { places, starter, found } = &self.target else {
            return Err(Problem::internal());
        };
        if let Some(known) = &*found.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(known.clone());
        }
        if !has_private(places) {
            return Err(nowhere());
        }
        let socket = starter.start().await?;
        let backend = Arc::new(backend_at(Address::Unix(socket), Chooser::Default));
        *found.lock().unwrap_or_else(PoisonError::into_inner) = Some(backend.clone());
        Ok(backend)
    }

    /// Where the private backend was, it may not be any more.
    fn look_again(&self) {
        if let Target::Private { found, .. } = &self.target {
            found.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}

/// Gives the connection up soon after the last call.
fn hang_up_soon(backend: &Arc<HttpBackend>) {
    let backend = Arc::downgrade(backend);
    tokio::spawn(async move {
        sleep(IDLE).await;
        if let Some(backend) = backend.upgrade() {
            backend.hang_up(IDLE);
        }
    });
}

fn backend_at(address: Address, chosen_by: Chooser) -> HttpBackend {
    let options = HttpOptions {
        connect: CONNECT,
        tries: 1,
        pauses: Duration::ZERO,
        request: REQUEST,
        named_by: Some(chosen_by.as_str()),
        ..HttpOptions::default()
    };
    HttpBackend::with_options(address, options)
}

/// Whether this user has a private backend, running or not.
fn has_private(places: &Places) -> bool {
    // What it holds is not the daemon's to look at; that it is there may be asked.
    places.data().is_dir()
}

fn nowhere() -> Problem {
    Problem::new(
        Code::Invalid,
        "no backend is set",
        "neither --backend nor AGENTKEYS_BACKEND nor the config file names one, and this user has \
         no private backend, where nobody could approve anyway",
        "set AGENTKEYS_BACKEND in the daemon's environment (in the MCP client's settings: env) to \
         the address of the backend that the master uses\n\
         or, if the master is this same user on this machine: agentkeys init",
    )
}

fn away(last: Problem, after: Duration) -> Problem {
    let mut problem = last;
    let tries = TRIES.len() + 1;
    problem.cause =
        format!("{}; tried {tries} times in {} seconds", problem.cause, after.as_secs());
    problem
}
