//! What a keeper makes of the heads of its account's audit log: it holds each against the highest
//! that this machine has seen, and takes nothing of a backend whose log was set back.
//!
//! Must never go on with such a backend before the master has accepted it.
use std::time::{Duration, Instant};

use super::{Keeper, Me, refused};
use crate::client::head_watch::{self, Found};
use crate::core::audit::Head;
use crate::core::decision::Mistrust;
use crate::core::problem::{Answer, Code};
use crate::core::set_back;
use crate::daemon::mirror::Identity;
use crate::daemon::reach::Backend;

/// How long a log that was set back is not asked for again: each time is on record at the backend.
const ASK_AGAIN: Duration = Duration::from_secs(5);

impl Keeper {
    pub(super) fn not_set_back_just_now(&self) -> Answer<()> {
        let state = self.state();
        match &state.set_back {
            Some((at, problem)) if at.elapsed() < ASK_AGAIN => Err(problem.clone()),
            _ => Ok(()),
        }
    }

    /// Renews; says that the audit log was set back where that is why it cannot. Nothing is held
    /// of a backend then: on older data, it does not know what was revoked. Runs in its turn.
    pub(super) async fn renew_or_see_why(&self, me: &Me) -> Answer<()> {
        let renewed = match self.renew(me).await {
            // A copy of older data does not know a secret that was given out since.
            Err(problem) if problem.pair_again => match self.ask_for_seen(&me.identity).await {
                Err(found) if set_back::is_set_back(&found) => Err(found),
                // Until that is known, nobody is asked to pair it anew.
                Err(found) if matches!(found.code, Code::RateLimited | Code::Unavailable) => {
                    Err(found)
                }
                _ => Err(problem),
            },
            answer => answer,
        };
        let mut state = self.state();
        match &renewed {
            Err(problem) if set_back::is_set_back(problem) => {
                if state.set_back.is_none() {
                    tracing::error!(cause = %problem.cause, "{problem}");
                }
                state.set_back = Some((Instant::now(), problem.clone()));
                state.session = None;
                drop(state);
                self.moved();
            }
            _ => state.set_back = None,
        }
        renewed
    }

    /// Asks whether the backend still has in its log what this machine has seen of it.
    async fn ask_for_seen(&self, identity: &Identity) -> Answer<()> {
        let Some((heads, address)) = &self.heads else { return Ok(()) };
        let Some(seen) = heads.seen(identity.backend_id, identity.account)? else { return Ok(()) };
        let seen = &seen;
        let ask = |backend: Backend| async move {
            head_watch::ask(heads, &*backend, seen, address).await
        };
        self.reach.once(ask).await
    }

    /// Compares the head of the audit log with the highest that this machine has seen.
    pub(super) async fn remember(&self, head: &Head, identity: &Identity) -> Answer<()> {
        if !identity.owns(head) {
            return Err(refused(Mistrust::Pin.to_string()));
        }
        let Some((heads, address)) = &self.heads else { return Ok(()) };
        let token = self.live().map(|live| live.session.token());
        let session = token.as_ref();
        let look = |backend: Backend| async move {
            head_watch::look(heads, &*backend, session, head, address).await
        };
        match self.reach.once(look).await? {
            Found::GoesOn => Ok(()),
            // A command of the master's on this machine may have overtaken this answer: what is
            // tried again then is further on, and the log has in it what was seen.
            Found::Overtaken(seen) => {
                let mut problem = heads.older(head, &seen);
                problem.docs = "docs/errors.md#audit".to_owned();
                Err(problem)
            }
            Found::Accepted(seen) => {
                tracing::warn!(
                    seen = seen.head.seq,
                    now = head.seq,
                    "the master has accepted that the audit log was set back"
                );
                Ok(())
            }
        }
    }
}
