//! What stands before every act that raises what someone may do: the person's passphrase, where
//! the backend demands a proof that they are there.
//!
//! Must never keep a passphrase: what is kept, for as long as one command runs, is the key that
//! it was stretched to. Must never sign an act but the one that this program is about to send.
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::http::Guard;
use crate::core::audit::Head;
use crate::core::passphrase;
use crate::core::presence::{Act, PassphraseKey, Proof, Why};
use crate::core::problem::{Answer, Problem};
use crate::core::secret::SecretBytes;
use crate::core::types::Salt;

/// Passphrases that are asked for before a command gives up.
const MOST_ASKED: u32 = 3;

/// Whoever asks the person.
#[async_trait]
pub trait Asker: Send + Sync {
    /// The passphrase that is asked for by `prompt`; `None` where nobody can be asked.
    ///
    /// # Errors
    /// The question was asked, and not answered.
    async fn passphrase(&self, prompt: &str) -> Answer<Option<SecretBytes>>;
}

/// Guards one command's acts at one backend.
pub struct MasterGuard {
    asker: Arc<dyn Asker>,
    address: String,
    asked: Mutex<Asked>,
}

/// What was asked so far.
#[derive(Default)]
struct Asked {
    times: u32,
    key: Option<(Salt, PassphraseKey)>,
}

impl MasterGuard {
    /// Asks by `asker`, and names the backend by its address.
    pub fn new(asker: Arc<dyn Asker>, address: String) -> Self {
        Self { asker, address, asked: Mutex::default() }
    }
}

#[async_trait]
impl Guard for MasterGuard {
    async fn before(&self, _act: &Act<'_>, _head: Option<Head>) -> Answer<()> {
        Ok(())
    }

    async fn prove(&self, act: &Act<'_>, problem: Problem) -> Answer<Proof> {
        let Some(demand) = &problem.presence else { return Err(problem) };
        let mut asked = self.asked.lock().await;
        // One that was right before, and that the backend has not called wrong, serves all the
        // acts of this command; each has a signature of its own.
        let known = asked.key.take_if(|(salt, _)| *salt != demand.salt || demand.why == Why::Wrong);
        drop(known);
        if asked.key.is_none() {
            if asked.times >= MOST_ASKED {
                return Err(problem);
            }
            let again = if demand.why == Why::Wrong && asked.times > 0 { "Wrong. " } else { "" };
            let prompt = format!("{again}Passphrase at {}, to {}: ", self.address, act.in_words());
            let Some(given) = self.asker.passphrase(&prompt).await? else { return Err(problem) };
            asked.times += 1;
            passphrase::check(&given, false)
                .map_err(|unfit| Problem::invalid("the passphrase", format!("it {unfit}")))?;
            let key = PassphraseKey::stretch(&given, &demand.salt)
                .map_err(|error| Problem::invalid("the passphrase", error.to_string()))?;
            asked.key = Some((demand.salt, key));
        }
        match &asked.key {
            Some((_, key)) => Ok(key.prove(demand.challenge, &act.hash())),
            None => Err(problem),
        }
    }
}
