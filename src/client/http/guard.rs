//! The seam before acts that raise what someone may do: what must hold before one is sent, and
//! the proof of presence that a backend may demand.
use async_trait::async_trait;
use serde::de::DeserializeOwned;

use super::HttpBackend;
use super::ask::Ask;
use crate::core::audit::Head;
use crate::core::backend::AccountBackend;
use crate::core::presence::{Act, Proof};
use crate::core::problem::{Answer, Problem};

/// Proofs that one act is tried with: a few wrong passphrases, each perhaps with a challenge that
/// ran out while it was typed.
const MOST_PROOFS: usize = 8;

/// Stands before every act that raises what someone may do.
#[async_trait]
pub trait Guard: Send + Sync {
    /// Whether the act may be sent at all; `head` is the newest that an answer carried.
    ///
    /// # Errors
    /// What keeps it from being sent.
    async fn before(&self, act: &Act<'_>, head: Option<Head>) -> Answer<()>;

    /// The proof that the backend's `problem` demands for the act.
    ///
    /// # Errors
    /// `problem` itself where there is none to be had.
    async fn prove(&self, act: &Act<'_>, problem: Problem) -> Answer<Proof>;
}

impl HttpBackend {
    /// Sends what `ask` makes, with a proof if one is demanded. Without a guard the demand is the
    /// caller's to answer.
    pub(super) async fn raise<T: DeserializeOwned>(
        &self,
        act: Act<'_>,
        ask: impl Fn() -> Answer<Ask> + Send + Sync,
    ) -> Answer<T> {
        let Some(guard) = &self.guard else { return self.get(ask()?).await };
        guard.before(&act, self.last_head()).await?;
        let mut asking = ask()?;
        for _ in 0..MOST_PROOFS {
            match self.get(asking).await {
                Err(problem) if problem.presence.is_some() => {
                    let proof = guard.prove(&act, problem).await?;
                    asking = ask()?.proof(&proof);
                }
                answer => return answer,
            }
        }
        self.get(asking).await
    }
}
