//! Holds the head of every answer against what this user's clients have seen before, and says so
//! when the log does not have that in it any more. What would raise somebody's rights is not sent
//! before it was done.
//!
//! Asked for is the event itself that was seen last: a backend that does not have it cannot make
//! one up that has the same hash. Must never take the backend's word that all is well where there
//! is a proof to be had, and never call answers that crossed each other a contradiction.
use std::sync::{Mutex, PoisonError};

use super::connect::now;
use super::heads::{Contradiction, Heads, SeenHead, Standing, contradiction};
use crate::core::audit::{Entry, Head};
use crate::core::backend::{AccountBackend, AuditFilter};
use crate::core::identity::AgentIdentity;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::scope::Scope;
use crate::core::set_back::Compared;
use crate::core::token::SessionToken;

/// What was found, where nothing is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// The log goes on from what was seen, or is seen for the first time.
    GoesOn,
    /// The answer was overtaken by one that is remembered already.
    Overtaken(Box<SeenHead>),
    /// The master has accepted that the log was set back behind what was seen; it is remembered
    /// as it is now.
    Accepted(Box<SeenHead>),
}

/// Compares a head with what was seen; asks the backend where that alone does not tell, shows it
/// what contradicts its log, and remembers what was found. Without a master's session, which a
/// daemon does not have, the backend's word has to do.
///
/// # Errors
/// `DENIED`, as of [`crate::core::set_back`], for a log that does not have in it what was seen;
/// `INTERNAL` for one that is not signed or signed by another key, and what kept it from being
/// found out.
pub async fn look(
    heads: &Heads,
    backend: &dyn AccountBackend,
    session: Option<&SessionToken>,
    head: &Head,
    address: &str,
) -> Answer<Found> {
    let look = Look { heads, backend, session, address };
    let master = session.filter(|session| !session.is_child());
    match heads.standing(head, address)? {
        Standing::First => heads.remember(head, address, now()).await.map(|()| Found::GoesOn),
        Standing::Same => Ok(Found::GoesOn),
        Standing::Further(seen) => match master {
            Some(master) => look.by_event(master, head, &seen).await,
            None => look.by_word(head, seen).await,
        },
        Standing::Behind(seen) => match master {
            // What is asked for now, after that head was seen, cannot end before it unless the
            // log was changed.
            Some(master) => look.by_event(master, head, &seen).await,
            None => look.by_word_if_overtaken(head, seen).await,
        },
        Standing::Accepted(seen) => look.accepted(head, seen).await,
        Standing::Forked(seen) => Err(look.contradicts(head, &seen).await),
        Standing::Contradicted(seen) if master.is_some() => {
            look.report_again(&seen).await;
            Err(heads.contradicted(&seen))
        }
        Standing::Contradicted(seen) => look.by_word_despite(head, &seen).await,
    }
}

/// The same where no head came along, as with the refusal of a renewal: whether the backend still
/// has in its log what was seen.
///
/// # Errors
/// `DENIED`, as of [`crate::core::set_back`], if it has not; what kept it from being found out.
pub async fn ask(
    heads: &Heads,
    backend: &dyn AccountBackend,
    seen: &SeenHead,
    address: &str,
) -> Answer<()> {
    let look = Look { heads, backend, session: None, address };
    let compared = look.compare(seen).await?;
    if compared.agrees || compared.accepted {
        return Ok(());
    }
    Err(match &seen.contradicted {
        Some(_) => heads.contradicted(seen),
        None => look.found(None, seen, true).await,
    })
}

/// How the log ends now, and whether it has in it what was seen; changes nothing.
///
/// # Errors
/// Those of the backend; `INTERNAL` for another log, and where the event that was seen is damaged.
pub async fn end_of_log(
    backend: &dyn AccountBackend,
    session: &SessionToken,
    seen: &SeenHead,
) -> Answer<(Head, bool)> {
    let from = seen.head.seq;
    let filter = AuditFilter { from: Some(from), limit: Some(1), ..AuditFilter::default() };
    let page = backend.query_audit(session, filter).await?;
    let current = page.head;
    let same_log = current.backend_id == seen.head.backend_id
        && current.account == seen.head.account
        && current.master_key == seen.head.master_key
        && current.is_authentic();
    if !same_log {
        return Err(not_of_this_log());
    }
    let there = match page.events.first() {
        Some(Entry::Event(event)) if event.seq == from => {
            event.hash(seen.head.backend_id) == seen.head.hash
        }
        // What it was cannot be told, and nobody is accused of what a disk may have done.
        Some(Entry::Damaged { damaged }) if *damaged == from => return Err(unreadable(from)),
        _ => from == 0,
    };
    let has = there && current.place() >= seen.head.place();
    Ok((current, has))
}

struct Look<'a> {
    heads: &'a Heads,
    backend: &'a dyn AccountBackend,
    session: Option<&'a SessionToken>,
    address: &'a str,
}

impl Look<'_> {
    /// Shows the backend what was seen. That a session has ended is no reason not to: the head is
    /// the proof.
    async fn compare(&self, seen: &SeenHead) -> Answer<Compared> {
        match self.backend.compare_head(self.session, &seen.head).await {
            Err(problem)
                if self.session.is_some()
                    && matches!(problem.code, Code::Unauthorized | Code::Denied) =>
            {
                self.backend.compare_head(None, &seen.head).await
            }
            answer => answer,
        }
    }

    async fn remember(&self, head: &Head) -> Answer<()> {
        self.heads.remember(head, self.address, now()).await
    }

    /// Asks for the event that was seen.
    async fn by_event(
        &self,
        session: &SessionToken,
        head: &Head,
        seen: &SeenHead,
    ) -> Answer<Found> {
        let (current, has) = end_of_log(self.backend, session, seen).await?;
        if current.set_backs > seen.head.set_backs {
            return self.accepted(&current, Box::new(seen.clone())).await;
        }
        if !has {
            return Err(self.contradicts(&current, seen).await);
        }
        let furthest = if current.place() > head.place() { &current } else { head };
        self.remember(furthest).await?;
        Ok(Found::GoesOn)
    }

    /// Asks whether the log still has it.
    async fn by_word(&self, head: &Head, seen: Box<SeenHead>) -> Answer<Found> {
        let compared = self.compare(&seen).await?;
        if !compared.agrees {
            return Err(self.found(Some(head), &seen, true).await);
        }
        self.remember(head).await?;
        Ok(Found::GoesOn)
    }

    async fn by_word_if_overtaken(&self, head: &Head, seen: Box<SeenHead>) -> Answer<Found> {
        let compared = self.compare(&seen).await?;
        match compared.agrees {
            true => Ok(Found::Overtaken(seen)),
            false if compared.accepted => Err(self.heads.older(head, &seen)),
            false => Err(self.found(Some(head), &seen, true).await),
        }
    }

    /// Asks whether the log has it again. What was found stays remembered: to forget it takes more
    /// than the backend's word.
    async fn by_word_despite(&self, head: &Head, seen: &SeenHead) -> Answer<Found> {
        let compared = self.compare(seen).await?;
        if compared.agrees && head.place() >= seen.head.place() {
            return Ok(Found::GoesOn);
        }
        Err(self.heads.contradicted(seen))
    }

    /// The head says that a set-back was accepted: whether of what was seen, the log says.
    async fn accepted(&self, head: &Head, seen: Box<SeenHead>) -> Answer<Found> {
        let compared = self.compare(&seen).await?;
        if !compared.agrees && !compared.accepted {
            return Err(self.found(Some(head), &seen, true).await);
        }
        self.remember(head).await?;
        Ok(if compared.agrees { Found::GoesOn } else { Found::Accepted(seen) })
    }

    /// Shows the backend what its log does not have in it, and remembers that.
    async fn contradicts(&self, shown: &Head, seen: &SeenHead) -> Problem {
        let reported = match self.compare(seen).await {
            // It was accepted just now: the next answer says so by its head.
            Ok(compared) if compared.accepted => return contradiction(Some(shown), seen),
            answer => answer.is_ok(),
        };
        self.found(Some(shown), seen, reported).await
    }

    async fn found(&self, shown: Option<&Head>, seen: &SeenHead, reported: bool) -> Problem {
        let address = self.address.to_owned();
        let found = Contradiction { shown: shown.cloned(), at: now(), address, reported };
        match self.heads.mark(&seen.head, found).await {
            Ok(()) => contradiction(shown, seen),
            Err(problem) => problem,
        }
    }

    /// Tells the backend what it could not be told when it was found.
    async fn report_again(&self, seen: &SeenHead) {
        let Some(found) = seen.contradicted.as_ref().filter(|found| !found.reported) else {
            return;
        };
        if self.compare(seen).await.is_ok() {
            let found = Contradiction { reported: true, ..found.clone() };
            // What is not written down is told once more by the next command.
            let _ = self.heads.mark(&seen.head, found).await;
        }
    }
}

fn not_of_this_log() -> Problem {
    let mut problem = Problem::new(
        Code::Internal,
        "the backend shows the audit log of another account than before",
        "the head that came with the log's events is not of the log that was asked for",
        "do not trust this backend until you know why; agentkeys doctor",
    );
    problem.title = "the audit log cannot be trusted".to_owned();
    problem
}

fn unreadable(seq: u64) -> Problem {
    let mut problem = Problem::new(
        Code::Internal,
        format!("event {seq} of the audit log is damaged"),
        "it is the one that this client saw last, so nobody can say whether the log goes on from it",
        "agentkeys audit verify",
    );
    problem.docs = "docs/errors.md#audit".to_owned();
    problem
}

/// The watch of one connection: what was looked at is not looked at again.
pub struct HeadWatch<B> {
    heads: Heads,
    address: String,
    /// The backend, by a way of its own: what it answers here is no answer of the command's.
    backend: B,
    session: Mutex<Option<SessionToken>>,
    settled: tokio::sync::Mutex<Option<Head>>,
}

impl<B: AccountBackend> HeadWatch<B> {
    /// A watch that has looked at nothing.
    pub fn new(heads: Heads, address: String, backend: B) -> Self {
        Self {
            heads,
            address,
            backend,
            session: Mutex::default(),
            settled: tokio::sync::Mutex::default(),
        }
    }

    /// What was seen.
    pub fn heads(&self) -> &Heads {
        &self.heads
    }

    /// Asks by this session from now on.
    pub fn hold(&self, session: SessionToken) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
    }

    fn held(&self) -> Option<SessionToken> {
        let held = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        held.as_ref()
            .map(|held| SessionToken::parse(held.expose()).expect("a token reads back as itself"))
    }

    /// Whether a scope is no wider than what the agent has, as far as the backend says.
    pub async fn narrows(&self, agent: &AgentIdentity, scope: &Scope) -> bool {
        let Some(session) = self.held() else { return false };
        let found = self.backend.resolve_identity(&session, agent).await;
        found.is_ok_and(|agent| scope.within(&agent.scope))
    }

    /// As [`look`], once for each head.
    ///
    /// # Errors
    /// Those of [`look`], each time.
    pub async fn look(&self, head: &Head) -> Answer<Found> {
        let mut settled = self.settled.lock().await;
        if settled.as_ref() == Some(head) {
            return Ok(Found::GoesOn);
        }
        let session = self.held();
        let found = look(&self.heads, &self.backend, session.as_ref(), head, &self.address).await?;
        *settled = Some(head.clone());
        Ok(found)
    }
}
