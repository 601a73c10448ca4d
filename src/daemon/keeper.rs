//! The keeper: the one who holds an agent's session, asks for it, renews it, and uses it.
//!
//! What it knows stands in `State`, behind one lock that is never held over a wait; whoever
//! changes the session has taken its turn first, so that it is asked for and renewed once.
//! Must never keep a credential, and never use a session that it has not yet mirrored: the
//! backend takes the last renewal secret back only until its successor is used.
mod asking;
mod calls;
mod heads;
mod kept;
mod provisioning;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::AbortHandle;

pub use self::provisioning::Recipes;
use self::provisioning::Runs;
use super::keys::{HeldRenewal, HeldSession, Keys};
use super::mirror::{Identity, Mirror, Restored};
use super::options::Options;
use super::reach::{Backend, Reach};
use super::request::{Given, Minted};
use crate::client::connect::now;
use crate::client::heads::Heads;
use crate::core::auth_request::Details;
use crate::core::backend::{self, WhoAmI};
use crate::core::decision::Mistrust;
use crate::core::holder::{Held, Protection, Refusal, Waiting};
use crate::core::problem::{Answer, Code, Problem};
use crate::core::token::SessionToken;
use crate::core::types::{AccountId, PublicKey, WalletAddress};

/// Longest wait for a change.
const CHANGE_WAIT: Duration = Duration::from_secs(25);
/// How often the renewal looks at the clock: a machine that slept is not told how long.
const LOOK: Duration = Duration::from_secs(30);

/// How long a call waits for new keys that have ended the session before them.
const ROTATION: Duration = Duration::from_secs(5);

/// Who the daemon is, and what it goes on with.
struct Me {
    identity: Identity,
    keys: Arc<Keys>,
    renewal: HeldRenewal,
}

/// A request that waits for its answer.
struct Open {
    waiting: Waiting,
    details: Details,
    /// Who waits for it; `None` once that is done.
    task: Option<AbortHandle>,
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Of two kinds of requests, which one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot {
    /// The one that gets a session.
    Session,
    /// The one that an agent with a session opens.
    Own,
}

#[derive(Default)]
struct State {
    loaded: bool,
    me: Option<Arc<Me>>,
    session: Option<Arc<HeldSession>>,
    /// Why there is no going on with what the mirror held.
    lost: Option<Problem>,
    /// That the audit log was set back, and when that was found.
    set_back: Option<(Instant, Problem)>,
    /// What a call has not been told yet.
    untold: Option<Problem>,
    /// That another account answered the last request: told with the next one.
    strangers: Option<Problem>,
    request: Option<Open>,
    own: Option<Open>,
    own_untold: Option<Problem>,
    pinned_now: bool,
    mirrored: String,
}

/// A session, for one call.
struct Live {
    session: Arc<HeldSession>,
    agent: WalletAddress,
}

/// Holds an agent's session.
pub struct Keeper {
    options: Options,
    runs: Runs,
    reach: Arc<Reach>,
    heads: Option<(Heads, String)>,
    protections: Vec<Protection>,
    mirror: tokio::sync::Mutex<Mirror>,
    turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    generation: watch::Sender<u64>,
    this: Weak<Self>,
}

/// Whether a call that may have arrived is made again.
#[derive(Clone, Copy)]
enum Tries {
    One,
    Several,
}

impl Keeper {
    /// A keeper that has looked at nothing yet. Heads are compared where a place for them is
    /// given.
    pub fn new(
        options: Options,
        reach: Reach,
        mirror: Mirror,
        heads: Option<Heads>,
        recipes: Recipes,
        protections: Vec<Protection>,
    ) -> Arc<Self> {
        let heads = heads.map(|heads| (heads, reach.address().unwrap_or_default().to_owned()));
        let mirrored = mirror.path().display().to_string();
        let keeper = Arc::new_cyclic(|this| Self {
            options,
            runs: Runs::new(recipes),
            reach: Arc::new(reach),
            heads,
            protections,
            mirror: tokio::sync::Mutex::new(mirror),
            turn: tokio::sync::Mutex::default(),
            state: Mutex::new(State { mirrored, ..State::default() }),
            generation: watch::Sender::new(0),
            this: this.clone(),
        });
        tokio::spawn(stay_signed_in(Arc::downgrade(&keeper)));
        tokio::spawn(kept::store_later(Arc::downgrade(&keeper)));
        keeper
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moved(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// The session that is held; whether it has ended is the backend's to say.
    fn live(&self) -> Option<Live> {
        let state = self.state();
        let (me, session) = (state.me.as_ref()?, state.session.as_ref()?);
        Some(Live { session: session.clone(), agent: me.identity.agent })
    }

    /// The session: the one that is there, or the next one, or the request that asks for one.
    ///
    /// # Errors
    /// The request, while it waits; what keeps it from being asked for.
    async fn session(&self) -> Held<Live> {
        if let Some(live) = self.live() {
            return Ok(live);
        }
        let _turn = self.turn.lock().await;
        if let Some(live) = self.live() {
            return Ok(live);
        }
        self.load().await?;
        let me = self.state().me.clone();
        let lost = self.state().lost.is_some();
        if let (Some(me), false) = (me, lost) {
            self.not_set_back_just_now()?;
            match self.renew_or_see_why(&me).await {
                Ok(()) => {
                    return self.live().ok_or_else(|| Problem::internal().into());
                }
                // It may be asked for anew, and says why in that request.
                Err(problem) if problem.pair_again => {
                    let mut state = self.state();
                    state.lost = Some(problem);
                    drop(state);
                    self.moved();
                }
                Err(problem) => return Err(problem.into()),
            }
        }
        if let Some(untold) = self.state().untold.take() {
            return Err(untold.into());
        }
        Err(Refusal::Waiting(self.ask().await?))
    }

    /// Reads the mirror, once.
    async fn load(&self) -> Answer<()> {
        if self.state().loaded {
            return Ok(());
        }
        let mut mirror = self.mirror.lock().await;
        let restored = mirror.load().await?;
        if let Some(Restored { identity, keys, renewal }) = restored {
            let expected = self.reach.address().unwrap_or_default();
            if identity.backend != expected {
                return Err(other_backend(&identity.backend, expected, &mirror));
            }
            if self.options.account.is_some_and(|account| account != identity.fingerprint()) {
                return Err(other_account(&identity, &mirror));
            }
            let me = Me { identity, keys: Arc::new(keys), renewal };
            self.state().me = Some(Arc::new(me));
        }
        let mut state = self.state();
        state.loaded = true;
        state.mirrored = mirror.protection();
        Ok(())
    }

    /// Trades the renewal secret for the next session. Runs in its turn.
    async fn renew(&self, me: &Me) -> Answer<()> {
        let identity = &me.identity;
        let minted = self.renewed(me).await?;
        if minted.wallet != identity.agent {
            return Err(refused(Mistrust::OtherAgent.to_string()));
        }
        if !minted.session.is_child() {
            return Err(refused("the session is a master's, not an agent's".to_owned()));
        }
        let renewal = minted.renewal.ok_or_else(|| refused("it renews once only".to_owned()))?;
        let session = Minted { token: minted.session, renewal, expires_at: minted.expires_at };
        self.adopt(identity.clone(), me.keys.clone(), session).await
    }

    async fn renewed(&self, me: &Me) -> Answer<backend::Minted> {
        let renewed = self.reach.call(|backend| {
            let secret = me.renewal.secret();
            async move {
                let before = backend.last_head();
                let minted = backend.renew_session(&secret).await?;
                Ok((minted, before, backend.last_head()))
            }
        });
        let (minted, before, head) = renewed.await?;
        let none = || refused("it shows no head of the audit log with this renewal".to_owned());
        let head = head.ok_or_else(none)?;
        self.remember(&head, &me.identity).await?;
        // The one that an earlier answer carried is none of this answer's, which has an event of
        // its own in the log.
        if before.as_ref() == Some(&head) { Err(none()) } else { Ok(minted) }
    }

    /// Mirrors a session and then holds it. Runs in its turn.
    async fn adopt(&self, identity: Identity, keys: Arc<Keys>, minted: Minted) -> Answer<()> {
        let Minted { token, renewal, expires_at } = minted;
        let session = HeldSession::new(&token, now(), expires_at)?;
        let held = HeldRenewal::new(&renewal)?;
        let mut mirror = self.mirror.lock().await;
        if let Err(problem) = mirror.save(&identity, &keys, &renewal).await {
            // Nothing was used yet, so the mirror as it is still holds a good secret.
            if self.live().is_some() {
                return Err(problem);
            }
            // It must be used now, and what is mirrored will then be a spent secret, which would
            // end every session if it came back.
            tracing::warn!(cause = %problem.cause, "the session is in memory alone: {problem}");
            if let Err(problem) = mirror.forget() {
                tracing::warn!(cause = %problem.cause, "{problem}");
            }
        }
        let mut state = self.state();
        state.loaded = true;
        state.mirrored = mirror.protection();
        state.me = Some(Arc::new(Me { identity, keys, renewal: held }));
        state.session = Some(Arc::new(session));
        state.lost = None;
        state.untold = None;
        state.strangers = None;
        drop(state);
        self.moved();
        Ok(())
    }

    async fn take(&self, given: Given) -> Answer<()> {
        let Given { identity, scope, session, keys } = given;
        tracing::info!(agent = %identity.agent, %scope, "granted");
        let Some(minted) = session else { return Ok(()) };
        let known = self.state().me.is_some();
        let unknown = !known && self.options.account.is_none();
        self.adopt(identity.clone(), Arc::new(keys), minted).await?;
        self.state().pinned_now |= unknown;
        tracing::info!(
            agent = %identity.agent, account = %identity.fingerprint(),
            "paired with account {}", identity.fingerprint()
        );
        // The first use: from now on nobody can fetch the decision again. If it does not come
        // through, the next call is the first use.
        let Some(live) = self.live() else { return Ok(()) };
        let who = |backend: Backend| {
            let token = live.session.token();
            async move { backend.who_am_i(&token).await }
        };
        match self.reach.once(who).await {
            Ok(who) if !is_us(&who, &identity) => {
                self.let_go(known);
                Err(refused(Mistrust::Pin.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// Lets go of a session that was just taken. Whoever was `known` before stays pinned, and goes
    /// on with its new secret: to forget it would be to trust the next one who answers.
    fn let_go(&self, known: bool) {
        let mut state = self.state();
        state.session = None;
        if known {
            return;
        }
        state.me = None;
        state.pinned_now = false;
        drop(state);
        // Whoever changes the mirror has the turn, as this one has.
        if let Ok(mirror) = self.mirror.try_lock()
            && let Err(problem) = mirror.forget()
        {
            tracing::warn!(cause = %problem.cause, "{problem}");
        }
    }

    /// Calls the backend with the session; with the next one, where it has ended.
    async fn with_session<T, F>(
        &self,
        call: impl Fn(Backend, SessionToken, WalletAddress) -> F,
    ) -> Held<T>
    where
        F: Future<Output = Answer<T>>,
    {
        self.with_session_by(Tries::Several, call).await
    }

    /// The same, for what may be done more than once or not.
    async fn with_session_by<T, F>(
        &self,
        tries: Tries,
        call: impl Fn(Backend, SessionToken, WalletAddress) -> F,
    ) -> Held<T>
    where
        F: Future<Output = Answer<T>>,
    {
        let mut again = true;
        loop {
            let live = self.session().await?;
            let call = |backend| call(backend, live.session.token(), live.agent);
            let answer = match tries {
                Tries::Several => self.reach.call(call).await,
                Tries::One => self.reach.once(call).await,
            };
            match answer {
                Err(problem) if problem.code == Code::Unauthorized && again => {
                    again = false;
                    self.end(&live, None);
                }
                Err(problem) if problem.pair_again => {
                    if again && self.has_rotated(&live).await {
                        again = false;
                        continue;
                    }
                    self.end(&live, Some(problem.clone()));
                    return Err(problem.into());
                }
                Err(problem) => return Err(problem.into()),
                Ok(value) => return Ok(value),
            }
        }
    }

    /// Lets go of a session, unless another one has taken its place meanwhile.
    fn end(&self, live: &Live, lost: Option<Problem>) {
        let mut state = self.state();
        if state.session.as_ref().is_none_or(|now| now.id != live.session.id) {
            return;
        }
        state.session = None;
        if lost.is_some() {
            state.lost = lost;
            // New keys are what comes after the session that they end.
            state.own.take_if(|own| !matches!(own.details, Details::KeyRotate(_)));
        }
        drop(state);
        self.moved();
    }

    /// Whether a session ended because new keys took its place, whose own is on its way: it is
    /// waited for.
    async fn has_rotated(&self, live: &Live) -> bool {
        let end = tokio::time::Instant::now() + ROTATION;
        let mut generation = self.generation.subscribe();
        loop {
            {
                let state = self.state();
                if state.session.as_ref().is_some_and(|now| now.id != live.session.id) {
                    return true;
                }
                let own = state.own.as_ref().map(|own| &own.details);
                if !matches!(own, Some(Details::KeyRotate(_))) {
                    return false;
                }
            }
            if !matches!(tokio::time::timeout_at(end, generation.changed()).await, Ok(Ok(()))) {
                return false;
            }
        }
    }

    /// Renews the session when its time has come; whether there is one to look after.
    async fn look_after(&self) {
        let due = |keeper: &Self| {
            let state = keeper.state();
            let session = state.session.as_ref()?;
            (now() >= session.renew_at).then(|| state.me.clone()).flatten()
        };
        if due(self).is_none() {
            return;
        }
        let _turn = self.turn.lock().await;
        let Some(me) = due(self) else { return };
        if let Err(problem) = self.renew_or_see_why(&me).await {
            tracing::warn!(cause = %problem.cause, "the session was not renewed: {problem}");
            if problem.pair_again {
                let mut state = self.state();
                state.session = None;
                state.lost = Some(problem.clone());
                state.untold = Some(problem);
                drop(state);
                self.moved();
            }
        }
    }
}

/// Keeps a keeper's session renewed for as long as somebody has the keeper.
async fn stay_signed_in(keeper: Weak<Keeper>) {
    loop {
        tokio::time::sleep(LOOK).await;
        match keeper.upgrade() {
            Some(keeper) => keeper.look_after().await,
            None => return,
        }
    }
}

fn is_us(who: &WhoAmI, identity: &Identity) -> bool {
    let (account, key): (AccountId, PublicKey) = (who.account, who.master_key);
    account == identity.account && key == identity.master_key && who.wallet == identity.agent
}

fn refused(why: String) -> Problem {
    Problem::new(
        Code::Denied,
        "the backend's answer was refused",
        why,
        "do not trust this backend, or what is between it and here, until you know why; nothing \
         was taken from it",
    )
}

fn other_backend(paired: &str, told: &str, mirror: &Mirror) -> Problem {
    let path = mirror.path().display();
    Problem::new(
        Code::Invalid,
        "this agent is paired at another backend",
        format!("{path} is for {paired}, and the daemon is told to use {told}"),
        format!(
            "set AGENTKEYS_BACKEND to that one\n\
             or give the agent here another name: --agent NAME\n\
             or pair it anew: rm {path}"
        ),
    )
}

fn other_account(identity: &Identity, mirror: &Mirror) -> Problem {
    let path = mirror.path().display();
    Problem::new(
        Code::Denied,
        "this agent is paired with another account",
        format!("{path} is for account {}", identity.fingerprint()),
        format!("leave --account out\nor pair it anew: rm {path}"),
    )
}
