//! What may never go back while this process runs: an agent's epoch, and a session's end. A row
//! that was put back to an older state authenticates, and the digest over all rows finds it at
//! the next start only; a revocation must hold before that.
use std::collections::{HashMap, HashSet};
use std::sync::{PoisonError, RwLock};

use super::rows::{AgentRow, SessionRow};
use crate::core::types::{SessionId, WalletAddress};

/// Most agents, and most sessions, that are remembered; beyond it all are forgotten, and what
/// holds is what held at the start.
const MAX_FENCES: usize = 64 * 1024;

/// One thing that a commit ended.
#[derive(Clone, Copy)]
pub enum Fence {
    /// All sessions of the agent before this epoch, and with a revocation its reads.
    Agent(WalletAddress, u64),
    /// One session.
    Session(SessionId),
}

#[derive(Default)]
struct Known {
    agents: HashMap<WalletAddress, u64>,
    sessions: HashSet<SessionId>,
}

/// All that this process has ended. The journal writes it down before a commit is answered.
#[derive(Default)]
pub struct Fences(RwLock<Known>);

impl Fences {
    /// Remembers what was committed.
    pub fn put_up(&self, fences: &[Fence]) {
        if fences.is_empty() {
            return;
        }
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for fence in fences {
            match *fence {
                Fence::Agent(wallet, epoch) => {
                    if known.agents.len() >= MAX_FENCES {
                        known.agents.clear();
                    }
                    let highest = known.agents.entry(wallet).or_default();
                    *highest = epoch.max(*highest);
                }
                Fence::Session(id) => {
                    if known.sessions.len() >= MAX_FENCES {
                        known.sessions.clear();
                    }
                    known.sessions.insert(id);
                }
            }
        }
    }

    /// Whether the agent's row is from before something that this process ended.
    pub fn is_behind(&self, agent: &AgentRow) -> bool {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.agents.get(&agent.wallet).is_some_and(|epoch| agent.epoch < *epoch)
    }

    /// Whether the session's row is from before this process ended it.
    pub fn is_revived(&self, id: SessionId, session: &SessionRow) -> bool {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        session.revoked.is_none() && known.sessions.contains(&id)
    }
}
