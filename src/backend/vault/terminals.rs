//! Terminals that proved presence a short time ago: the same one's next reads of the same agent's
//! keys need no other proof. In memory alone, so that a restart forgets them.
//!
//! Must never open anything to a terminal that the kernel does not name now.
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::access::Access;
use crate::backend::peer::Peer;
use crate::core::types::{AccountId, SessionId, Timestamp, WalletAddress};
use crate::harden::TerminalSession;

/// A proof for a read serves the same terminal's reads for this long.
const OPEN_MS: u64 = 5 * 60 * 1000;
/// Terminals that are open at once.
const MAX_KEPT: usize = 4096;

/// For whom the proof of one read serves the next.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Opened {
    account: AccountId,
    session: SessionId,
    pub terminal: TerminalSession,
    /// Whose keys: the program of a `run` sits in the terminal that was just opened, and is to
    /// have no other agent's.
    agent: WalletAddress,
}

/// Terminals that proved presence a short time ago; in memory alone.
#[derive(Default)]
pub struct OpenTerminals(Mutex<HashMap<Opened, Timestamp>>);

impl OpenTerminals {
    pub fn proven_at(&self, of: Opened, now: Timestamp) -> Option<Timestamp> {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(&of).copied().filter(|at| now.since_ms(*at) < OPEN_MS)
    }

    /// Until when anything is open to the caller's terminal.
    pub fn open_until(&self, access: &Access) -> Option<Timestamp> {
        let terminal = access.peer.as_ref().and_then(terminal)?;
        let whose = (access.account_id(), access.session_id, terminal);
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = open.iter().filter(|(of, at)| {
            (of.account, of.session, of.terminal) == whose && access.now.since_ms(**at) < OPEN_MS
        });
        ours.map(|(_, at)| at.plus_ms(OPEN_MS)).max()
    }

    pub fn open(&self, of: Opened, now: Timestamp) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, at| now.since_ms(*at) < OPEN_MS);
        if open.len() < MAX_KEPT {
            open.insert(of, now);
        }
    }

    pub fn close(&self, account: AccountId) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|of, _| of.account != account);
    }
}

/// The terminal session of a peer, if it has one that can be told; of now, since a connection can
/// be handed on.
fn terminal(peer: &Peer) -> Option<TerminalSession> {
    match peer {
        Peer::Unix(peer) => peer.process.as_ref()?.terminal_session(),
        Peer::Address(_) => None,
    }
}

impl Access {
    /// What a proof of this caller opens, if they are in a terminal that can be told.
    pub fn opened(&self, agent: WalletAddress) -> Option<Opened> {
        let terminal = self.peer.as_ref().and_then(terminal)?;
        Some(Opened { account: self.account_id(), session: self.session_id, terminal, agent })
    }
}
