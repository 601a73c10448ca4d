//! The requests of a keeper's: for the session, and those that an agent with a session opens; how
//! each is waited for, and what becomes of its answer.
//!
//! Must never tell a stranger's answer as the master's, and never let go of new keys because the
//! session before them has ended.
use super::{Keeper, Live, Open, Slot};
use crate::client::connect::{client_info, now};
use crate::core::auth_request::{Details, Pair, Recover};
use crate::core::holder::{Held, Waiting};
use crate::core::identity::AgentIdentity;
use crate::core::problem::{Answer, Code, Problem};
use crate::daemon::keys::Keys;
use crate::daemon::request::{Given, Pinned, Request, is_strangers};

impl Keeper {
    /// The request for a session: the one that waits, or a new one. Runs in its turn.
    pub(super) async fn ask(&self) -> Answer<Waiting> {
        if let Some(open) = &self.state().request {
            return Ok(open.waiting.clone());
        }
        let info = client_info();
        let (host, user) = (info.host, info.user);
        let me = self.state().me.clone();
        let because = {
            let state = self.state();
            state.strangers.clone().or_else(|| state.lost.clone())
        };
        let unknown = |lost: &Problem| lost.code == Code::Unauthorized;
        let is_gone = self.state().lost.as_ref().is_some_and(unknown);
        let because = because.map(|why| if is_gone && unknown(&why) { deleted() } else { why });
        let agent = match (&me, &self.options.recover) {
            // The backend knows nothing of that agent's line any more, as after its teardown: it
            // could never be approved as that one. The master gives it a new one, or names one.
            (Some(_), _) if is_gone => None,
            // Whoever was an agent asks to be that one again.
            (Some(me), _) => Some(AgentIdentity::Wallet(me.identity.agent)),
            (None, named) => named.clone(),
        };
        let details = match agent {
            Some(agent) => Details::Recover(Recover { agent, host, user }),
            None => Details::Pair(Pair {
                host,
                name: self.options.agent.clone(),
                scope: self.options.scope.clone(),
                user,
            }),
        };
        let keys = Keys::fresh()?;
        let mut request = Request::open(&self.reach, details, keys, None, now()).await?;
        request.waiting.because = because;
        self.state().strangers = None;
        Ok(self.wait_for(Slot::Session, request))
    }

    /// Waits for a request's answer beside everything else.
    fn wait_for(&self, slot: Slot, request: Request) -> Waiting {
        let waiting = request.waiting.clone();
        let details = request.details().clone();
        let pinned = self.pinned();
        let this = self.this.clone();
        // Its place is taken before it runs, so that it never ends before it is there.
        let mut state = self.state();
        // It has no keeper while it waits, so that the one who drops the keeper ends it too.
        let reach = self.reach.clone();
        let task = tokio::spawn(async move {
            let answer = request.wait(&reach, &pinned).await;
            if let Some(keeper) = this.upgrade() {
                keeper.answered(slot, answer).await;
            }
        });
        let open = Open { waiting: waiting.clone(), details, task: Some(task.abort_handle()) };
        match slot {
            Slot::Session => state.request = Some(open),
            Slot::Own => state.own = Some(open),
        }
        drop(state);
        self.moved();
        waiting
    }

    fn pinned(&self) -> Pinned {
        let identity = self.state().me.as_ref().map(|me| me.identity.clone());
        Pinned { identity, account: self.options.account }
    }

    /// Takes what an answer gives, or notes what is to be told.
    async fn answered(&self, slot: Slot, answer: Answer<Given>) {
        let _turn = self.turn.lock().await;
        let taken = match answer {
            Ok(given) => self.take(given).await,
            Err(problem) => Err(problem),
        };
        {
            let mut state = self.state();
            let open = match slot {
                Slot::Session => state.request.take(),
                Slot::Own => state.own.take(),
            };
            // That is this task, which ends by itself.
            if let Some(mut open) = open {
                open.task = None;
            }
            let had = taken.is_ok() && state.session.is_some();
            let untold = match taken {
                // A code that has run out is replaced by the next call, without a word.
                Err(problem) if problem.code == Code::Expired => None,
                Err(problem) => {
                    tracing::warn!(cause = %problem.cause, "{problem}");
                    Some(problem)
                }
                Ok(()) => None,
            };
            match slot {
                // A session that was asked for is there in another way.
                Slot::Own if had => state.request = None,
                // Whatever the one before it asked for ended with it, and so did its answer.
                Slot::Session if had => {
                    state.own = None;
                    state.own_untold = None;
                }
                _ => {}
            }
            let (strangers, untold) = match untold {
                Some(problem) if slot == Slot::Session && is_strangers(&problem) => {
                    (Some(problem), None)
                }
                untold => (None, untold),
            };
            state.strangers = strangers.or(state.strangers.take());
            match slot {
                Slot::Session => state.untold = untold,
                Slot::Own => state.own_untold = untold,
            }
        }
        self.moved();
    }

    /// Opens one of the agent's own requests in place of the one that waits. Runs in its turn.
    pub(super) async fn ask_as_agent(
        &self,
        live: &Live,
        details: Details,
        keys: Keys,
    ) -> Held<Waiting> {
        if let Some(untold) = self.state().own_untold.take() {
            return Err(untold.into());
        }
        let token = live.session.token();
        let request = Request::open(&self.reach, details, keys, Some(&token), now()).await?;
        Ok(self.wait_for(Slot::Own, request))
    }

    /// The keys that the daemon has, once more.
    pub(super) fn present_keys(&self) -> Answer<Keys> {
        let me = self.state().me.clone().ok_or_else(Problem::internal)?;
        let (ed25519, x25519) = me.keys.expose();
        Ok(Keys::restore(me.keys.public, &ed25519, &x25519)?)
    }
}

/// Why a daemon asks to be another agent than it was.
fn deleted() -> Problem {
    Problem::new(
        Code::Unauthorized,
        "the agent that this daemon was is not known to the backend any more",
        "it was deleted (agentkeys teardown), or the backend has other data than before",
        "approve the daemon as a new agent, or as another one with --as",
    )
}
