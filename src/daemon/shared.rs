//! Several daemons of one agent on one machine: the first has the seat, and so the session; the
//! later ones relay to it over its socket, and when it ends, one of them takes over from the
//! session's mirror.
//!
//! Must never build a keeper without the seat's lock, and must have ended its own before it gives
//! the lock back: what one keeper still writes to the mirror, the next must not miss.
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex as Shelf, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{Mutex, OnceCell, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::seat::{Bound, Seat};
use super::socket::{Limits, serve};
use crate::client::files::Lock;
use crate::client::holder::{HolderClient, is_gone};
use crate::core::backend::Release;
use crate::core::claim::Reason;
use crate::core::holder::{
    Access, Held, HttpAnswer, HttpAsk, Listing, Provisioning, Refusal, SessionHolder, Standing,
    Waiting,
};
use crate::core::identity::ServiceName;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::secret::SecretBytes;

/// How long one is looked for who has the seat, or a free one, before callers are told.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a wait for a change stands where there is nothing yet that could change.
const CHANGE: Duration = Duration::from_secs(25);
/// After how long it is tried again what failed while nobody asked.
const AGAIN: Duration = Duration::from_secs(5);

/// What a keeper being built comes to.
pub type Making = Pin<Box<dyn Future<Output = Answer<Arc<dyn SessionHolder>>> + Send>>;
/// Builds the keeper of the session from its mirror. Called with the seat's lock held; where it
/// fails, callers get its problem, and it is called again when the next one asks.
pub type MakeKeeper = Box<dyn Fn() -> Making + Send + Sync>;

/// What this process is to the agent's session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part {
    /// It has the seat.
    Holder {
        /// Why the others cannot reach it, if they cannot.
        unreachable: Option<Problem>,
    },
    /// It relays to the process that has it.
    Relay {
        /// That process.
        pid: Option<u32>,
    },
}

/// The one session, whichever process holds it. Its generation numbers are its own: they count
/// the changes that it saw, of whichever holder, and one for each take-over.
pub struct Shared {
    seat: Seat,
    make: Arc<MakeKeeper>,
    state: Mutex<State>,
    generation: watch::Sender<u64>,
    ended: watch::Sender<bool>,
    watcher: Shelf<Option<Task>>,
}

struct State {
    position: Position,
    /// When nobody and nothing was found, and the problem: for those who were waiting for it.
    failed: Option<(Instant, Problem)>,
}

enum Position {
    Nowhere,
    Holding(Holding),
    Relaying(Arc<HolderClient>),
}

/// A task that ends when this is dropped.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whom a call goes to.
#[derive(Clone)]
enum Behind {
    Own(Arc<Own>),
    Other(Arc<HolderClient>),
}

impl Behind {
    fn holder(&self) -> Arc<dyn SessionHolder> {
        match self {
            Self::Own(own) => own.clone(),
            Self::Other(other) => other.clone(),
        }
    }
}

impl Shared {
    /// Begins to look for the seat, or for who has it. Returns at once; whoever asks meanwhile
    /// waits for what comes of it.
    pub fn start(seat: Seat, make: MakeKeeper) -> Arc<Self> {
        let shared = Arc::new(Self {
            seat,
            make: Arc::new(make),
            state: Mutex::new(State { position: Position::Nowhere, failed: None }),
            generation: watch::Sender::new(1),
            ended: watch::Sender::new(false),
            watcher: Shelf::new(None),
        });
        let watcher = Task(tokio::spawn(keep_watch(Arc::downgrade(&shared))));
        *shared.watcher.lock().unwrap_or_else(PoisonError::into_inner) = Some(watcher);
        shared
    }

    /// What this process is now.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the seat is neither free nor its holder there.
    pub async fn part(&self) -> Answer<Part> {
        let behind = self.behind().await?;
        let state = self.state.lock().await;
        Ok(match (&state.position, behind) {
            (Position::Holding(holding), _) => {
                Part::Holder { unreachable: holding.unreachable.clone() }
            }
            (_, Behind::Other(other)) => Part::Relay { pid: other.pid() },
            (_, Behind::Own(_)) => return Err(ending()),
        })
    }

    /// Ends this process's part: closes the socket and removes it, drops the keeper, and gives
    /// the seat back, within a second. Calls under way, and later ones, get `UNAVAILABLE`.
    pub async fn shutdown(&self) {
        self.ended.send_replace(true);
        drop(self.watcher.lock().unwrap_or_else(PoisonError::into_inner).take());
        // Whoever is looking for a seat looks whether it has ended every 100 ms.
        let Ok(mut state) = timeout(Duration::from_millis(300), self.state.lock()).await else {
            return;
        };
        let position = std::mem::replace(&mut state.position, Position::Nowhere);
        if let Position::Holding(holding) = position {
            holding.end().await;
        }
    }

    async fn behind(&self) -> Answer<Behind> {
        let asked = Instant::now();
        let mut state = self.state.lock().await;
        if *self.ended.borrow() {
            return Err(ending());
        }
        match &state.position {
            Position::Holding(holding) => return Ok(Behind::Own(holding.own.clone())),
            Position::Relaying(other) => return Ok(Behind::Other(other.clone())),
            Position::Nowhere => {}
        }
        if let Some((at, problem)) = &state.failed
            && *at >= asked
        {
            return Err(problem.clone());
        }
        match self.find().await {
            Ok(position) => state.position = position,
            Err(problem) => {
                state.failed = Some((Instant::now(), problem.clone()));
                return Err(problem);
            }
        }
        match &state.position {
            Position::Holding(holding) => Ok(Behind::Own(holding.own.clone())),
            Position::Relaying(other) => Ok(Behind::Other(other.clone())),
            Position::Nowhere => Err(ending()),
        }
    }

    /// Takes the seat, or finds who has it. One that begins has the lock and does not listen yet,
    /// and one that ends does not listen any more: both are waited for.
    async fn find(&self) -> Answer<Position> {
        let begun = Instant::now();
        loop {
            if *self.ended.borrow() {
                return Err(ending());
            }
            if let Some(lock) = self.seat.take().await? {
                return Ok(Position::Holding(self.hold(lock)));
            }
            if let Some(other) = self.seat.occupant()?
                && other.is_there().await?
            {
                return Ok(Position::Relaying(Arc::new(other)));
            }
            if begun.elapsed() > PATIENCE {
                return Err(Problem::new(
                    Code::Unavailable,
                    "the daemon that holds this agent's session cannot be reached",
                    format!(
                        "one has the lock, and does not listen; waited {} seconds",
                        PATIENCE.as_secs()
                    ),
                    "see which processes run: pgrep -af agentkeys; end the one that hangs",
                ));
            }
            sleep(pause()).await;
        }
    }

    fn hold(&self, lock: Lock) -> Holding {
        let own = Arc::new(Own {
            make: self.make.clone(),
            keeper: OnceCell::new(),
            built: watch::Sender::new(false),
        });
        let (server, bound, unreachable) = match self.seat.bind(&lock) {
            Ok((listener, bound)) => {
                let (stop, stopped) = oneshot::channel::<()>();
                let holder: Arc<dyn SessionHolder> = own.clone();
                let stopped = async { drop(stopped.await) };
                let task = Task(tokio::spawn(serve(holder, listener, Limits::default(), stopped)));
                (Some(Server { stop, task }), Some(bound), None)
            }
            // Its own client is served all the same.
            Err(problem) => {
                tracing::warn!(detail = %problem.detail, cause = %problem.cause, "no socket");
                (None, None, Some(problem))
            }
        };
        Holding { bound, server, own, unreachable, lock }
    }

    /// Forgets a holder that has gone, unless somebody else did already.
    async fn lost(&self, gone: &Arc<HolderClient>) {
        let mut state = self.state.lock().await;
        match &state.position {
            Position::Relaying(other) if Arc::ptr_eq(other, gone) => {
                state.position = Position::Nowhere;
            }
            _ => {}
        }
    }

    fn count_up(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// Makes a call of whoever holds the session. If that one ends under way, it is made again of
    /// the next one: nothing was handed out, and the same wish is the same request.
    async fn call<T, F, R>(&self, call: F) -> Held<T>
    where
        F: Fn(Arc<dyn SessionHolder>) -> R,
        R: Future<Output = Held<T>>,
    {
        let mut ended = self.ended.subscribe();
        tokio::select! {
            _ = ended.wait_for(|ended| *ended) => Err(ending().into()),
            answer = self.persist(call) => answer,
        }
    }

    async fn persist<T, F, R>(&self, call: F) -> Held<T>
    where
        F: Fn(Arc<dyn SessionHolder>) -> R,
        R: Future<Output = Held<T>>,
    {
        let mut since = None;
        loop {
            let behind = self.behind().await?;
            let answer = call(behind.holder()).await;
            let (Err(Refusal::Problem(problem)), Behind::Other(other)) = (&answer, &behind) else {
                return answer;
            };
            if !is_gone(problem) {
                return answer;
            }
            self.lost(other).await;
            // The first time at once; a holder that closes every connection is given up.
            match since {
                None => since = Some(Instant::now()),
                Some(since) if since.elapsed() > PATIENCE => return answer,
                Some(_) => sleep(pause()).await,
            }
        }
    }
}

/// Sees to it that the seat is never without a holder for long, also while nobody asks, and
/// counts the changes.
async fn keep_watch(shared: Weak<Shared>) {
    let mut known: Option<(Behind, u64)> = None;
    loop {
        let found = match shared.upgrade() {
            Some(shared) => shared.behind().await,
            None => return,
        };
        let Ok(behind) = found else {
            sleep(AGAIN).await;
            continue;
        };
        let seen = known.as_ref().filter(|(known, _)| same(known, &behind)).map(|(_, seen)| *seen);
        if let Behind::Own(own) = &behind
            && own.keeper().await.is_err()
        {
            sleep(AGAIN).await;
            continue;
        }
        let begun = Instant::now();
        // No holder has counted as far: of one that is new, it is asked where it stands.
        let answer = behind.holder().changed(seen.unwrap_or(u64::MAX)).await;
        let Some(shared) = shared.upgrade() else { return };
        match (answer, &behind) {
            (Ok(now), _) if Some(now) != seen => {
                known = Some((behind, now));
                shared.count_up();
            }
            (Ok(_), _) => {
                drop(shared);
                // One that answers early is not asked again at once.
                if begun.elapsed() < Duration::from_millis(200) {
                    sleep(Duration::from_millis(200)).await;
                }
            }
            (Err(Refusal::Problem(problem)), Behind::Other(other)) if is_gone(&problem) => {
                shared.lost(other).await;
            }
            (Err(_), _) => {
                drop(shared);
                sleep(AGAIN).await;
            }
        }
    }
}

fn same(one: &Behind, other: &Behind) -> bool {
    match (one, other) {
        (Behind::Own(one), Behind::Own(other)) => Arc::ptr_eq(one, other),
        (Behind::Other(one), Behind::Other(other)) => Arc::ptr_eq(one, other),
        _ => false,
    }
}

/// Between 20 and 100 ms, so that those who wait for the same do not come at once.
fn pause() -> Duration {
    let mut byte = [0];
    // Without randomness they come at once, and the lock decides all the same.
    let _ = SystemRandom::new().fill(&mut byte);
    Duration::from_millis(20 + u64::from(byte[0]) * 80 / 255)
}

fn ending() -> Problem {
    let cause = "it was told to end, or its client has gone";
    Problem::new(Code::Unavailable, "the daemon is ending", cause, "start it again")
}

/// The seat, taken. The fields are dropped in this order: the lock last.
struct Holding {
    bound: Option<Bound>,
    server: Option<Server>,
    own: Arc<Own>,
    unreachable: Option<Problem>,
    lock: Lock,
}

struct Server {
    stop: oneshot::Sender<()>,
    task: Task,
}

impl Holding {
    async fn end(self) {
        let Self { bound, server, own, unreachable: _, lock } = self;
        // From here on nobody new finds the socket.
        drop(bound);
        if let Some(Server { stop, mut task }) = server {
            drop(stop);
            let _ = timeout(Duration::from_millis(300), &mut task.0).await;
        }
        // The calls of this process see for themselves that it ends.
        let begun = Instant::now();
        while Arc::strong_count(&own) > 1 && begun.elapsed() < Duration::from_millis(300) {
            sleep(Duration::from_millis(2)).await;
        }
        drop(own);
        drop(lock);
    }
}

/// This process's own keeper, built when the seat was taken, or, where that failed, when it is
/// asked for again.
struct Own {
    make: Arc<MakeKeeper>,
    keeper: OnceCell<Arc<dyn SessionHolder>>,
    built: watch::Sender<bool>,
}

impl Own {
    async fn keeper(&self) -> Answer<&Arc<dyn SessionHolder>> {
        let keeper = self.keeper.get_or_try_init(|| (self.make)()).await?;
        self.built.send_replace(true);
        Ok(keeper)
    }
}

#[async_trait]
impl SessionHolder for Own {
    async fn standing(&self) -> Held<Standing> {
        self.keeper().await?.standing().await
    }

    /// Builds nothing: it would be tried again with each wait.
    async fn changed(&self, seen: u64) -> Held<u64> {
        let mut built = self.built.subscribe();
        let Ok(Ok(_)) = timeout(CHANGE, built.wait_for(|built| *built)).await else {
            return Ok(seen);
        };
        self.keeper().await?.changed(seen).await
    }

    async fn read(&self, service: &ServiceName) -> Held<SecretBytes> {
        self.keeper().await?.read(service).await
    }

    async fn inject(&self, service: &ServiceName) -> Held<SecretBytes> {
        self.keeper().await?.inject(service).await
    }

    async fn read_all(&self) -> Held<Vec<Release>> {
        self.keeper().await?.read_all().await
    }

    async fn list(&self) -> Held<Listing> {
        self.keeper().await?.list().await
    }

    async fn request_access(&self, service: &ServiceName, reason: Option<&Reason>) -> Held<Access> {
        self.keeper().await?.request_access(service, reason).await
    }

    async fn provision(
        &self,
        service: &ServiceName,
        reason: Option<&Reason>,
    ) -> Held<Provisioning> {
        self.keeper().await?.provision(service, reason).await
    }

    async fn http_request(&self, ask: &HttpAsk) -> Held<HttpAnswer> {
        self.keeper().await?.http_request(ask).await
    }

    async fn rotate(&self) -> Held<Waiting> {
        self.keeper().await?.rotate().await
    }
}

#[async_trait]
impl SessionHolder for Shared {
    async fn standing(&self) -> Held<Standing> {
        // Before it is asked: a change in between is then told once more, and never missed.
        let generation = *self.generation.borrow();
        let mut standing = self.call(|holder| async move { holder.standing().await }).await?;
        standing.generation = generation;
        Ok(standing)
    }

    async fn changed(&self, seen: u64) -> Held<u64> {
        let mut generation = self.generation.subscribe();
        let mut ended = self.ended.subscribe();
        tokio::select! {
            _ = ended.wait_for(|ended| *ended) => Err(ending().into()),
            now = generation.wait_for(|now| *now != seen) => {
                now.map(|now| *now).map_err(|_| ending().into())
            }
        }
    }

    async fn read(&self, service: &ServiceName) -> Held<SecretBytes> {
        self.call(|holder| async move { holder.read(service).await }).await
    }

    async fn inject(&self, service: &ServiceName) -> Held<SecretBytes> {
        self.call(|holder| async move { holder.inject(service).await }).await
    }

    async fn read_all(&self) -> Held<Vec<Release>> {
        self.call(|holder| async move { holder.read_all().await }).await
    }

    async fn list(&self) -> Held<Listing> {
        self.call(|holder| async move { holder.list().await }).await
    }

    async fn request_access(&self, service: &ServiceName, reason: Option<&Reason>) -> Held<Access> {
        self.call(|holder| async move { holder.request_access(service, reason).await }).await
    }

    async fn provision(
        &self,
        service: &ServiceName,
        reason: Option<&Reason>,
    ) -> Held<Provisioning> {
        self.call(|holder| async move { holder.provision(service, reason).await }).await
    }

    /// Asked once: a holder that ends under way may have sent it.
    async fn http_request(&self, ask: &HttpAsk) -> Held<HttpAnswer> {
        let mut ended = self.ended.subscribe();
        tokio::select! {
            _ = ended.wait_for(|ended| *ended) => Err(ending().into()),
            answer = async { self.behind().await?.holder().http_request(ask).await } => answer,
        }
    }

    async fn rotate(&self) -> Held<Waiting> {
        self.call(|holder| async move { holder.rotate().await }).await
    }
}
