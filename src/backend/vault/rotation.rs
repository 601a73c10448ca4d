//! A credential that its service replaces: a refresh token of OAuth 2, of which each answer may hold
//! a new one that takes the place of the one that was sent.
//!
//! Must never put it in place of a credential that was stored meanwhile.
use std::sync::Arc;

use super::journal::{Draft, Proposal};
use super::rows::{AgentRow, CredentialRow};
use super::{Loaded, MAX_TRIES, Vault, answer};
use crate::backend::store::Write;
use crate::core::problem::Answer;
use crate::core::secret::SecretBytes;

/// Where a credential in use is stored.
#[derive(Clone)]
pub struct Stored {
    pub(super) credential: Loaded<CredentialRow>,
    pub(super) agent: Arc<AgentRow>,
    /// What goes on record if it is replaced.
    pub(super) event: Draft,
}

impl Stored {
    /// What no other one has.
    pub fn place(&self) -> &[u8] {
        &self.credential.key
    }
}

impl Vault {
    /// The credential as it is stored now; `None` if it is gone.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn stored_now(&self, stored: &Stored) -> Answer<Option<(SecretBytes, Stored)>> {
        let key = stored.credential.key.clone();
        let Some(credential) = self.0.load::<CredentialRow>(key).await? else { return Ok(None) };
        let secret = self.0.reveal(&credential, &stored.agent)?;
        Ok(Some((secret, Stored { credential, ..stored.clone() })))
    }

    /// Puts what the service gave in its place; `false` if another one is there by now. It stays the
    /// same version: the one before is worth nothing any more.
    ///
    /// # Errors
    /// Those of the store; then nothing was replaced, as far as is known.
    pub async fn replace_stored(&self, stored: &Stored, secret: &SecretBytes) -> Answer<bool> {
        let Stored { credential, agent, event } = stored;
        let inner = &self.0;
        let sealed = inner
            .cells
            .seal_secret(agent.account, &credential.key, secret.expose(), &inner.entropy)
            .map_err(answer::cell)?;
        let row = CredentialRow { secret: sealed, ..(*credential.row).clone() };
        for _ in 0..MAX_TRIES {
            let mut proposal = Proposal::default();
            proposal.checks.push(credential.unchanged());
            let put = inner.put(credential.key.clone(), &row)?;
            let Write::Put(_, written) = &put else { return Ok(false) };
            let written = written.clone();
            proposal.writes.push(put);
            let mut event = event.clone();
            event.time = inner.clock.now();
            proposal.events.push(event.detail("a new refresh token, by its service"));
            if inner.propose(proposal).await? {
                return Ok(true);
            }
            let there = inner.load::<CredentialRow>(credential.key.clone()).await?;
            match there {
                Some(there) if there.raw == written => return Ok(true),
                Some(there) if there.raw == credential.raw => {}
                _ => return Ok(false),
            }
        }
        Err(answer::busy())
    }
}
