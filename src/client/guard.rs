//! What stands before every act that raises what someone may do: that the audit log is the one
//! that was seen before, and the person's passphrase, where the backend demands a proof that they
//! are there.
//!
//! Must never keep a passphrase: what is kept, for as long as one command runs, is the key that
//! it was stretched to. Must never sign an act but the one that this program is about to send.
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::head_watch::HeadWatch;
use super::http::{Guard, HttpBackend};
use crate::core::audit::Head;
use crate::core::passphrase;
use crate::core::presence::{Act, PassphraseKey, Proof, Why};
use crate::core::problem::{Answer, Code, Problem};
use crate::core::secret::SecretBytes;
use crate::core::set_back::is_set_back;
use crate::core::types::{Hash32, Salt};

/// Whoever asks the person.
#[async_trait]
pub trait Asker: Send + Sync {
    /// The passphrase that is asked for by `prompt`; `None` where nobody can be asked.
    ///
    /// # Errors
    /// The question was asked, and not answered.
    async fn passphrase(&self, prompt: &str) -> Answer<Option<SecretBytes>>;

    /// How often they are asked before a command gives up.
    fn most_asked(&self) -> u32;

    /// The terminal session in which they answer, if they do in one.
    fn terminal(&self) -> Option<Hash32>;
}

/// Guards one command's acts at one backend.
pub struct MasterGuard {
    asker: Arc<dyn Asker>,
    address: String,
    watch: Option<Arc<HeadWatch<HttpBackend>>>,
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
        Self { asker, address, watch: None, asked: Mutex::default() }
    }

    /// The same, and sends nothing while `watch` finds that the audit log was set back.
    pub fn watching(self, watch: Arc<HeadWatch<HttpBackend>>) -> Self {
        Self { watch: Some(watch), ..self }
    }
}

fn no_head(address: &str) -> Problem {
    Problem::new(
        Code::Denied,
        "access denied: the backend shows no head of the audit log",
        format!("{address} has shown none, so nobody can say whether its log was set back"),
        "do not trust this backend, or what is between it and here, until you know why",
    )
}

#[async_trait]
impl Guard for MasterGuard {
    async fn before(&self, act: &Act<'_>, head: Option<Head>) -> Answer<()> {
        let Some(watch) = &self.watch else { return Ok(()) };
        match (act, head) {
            // It is about just that.
            (Act::AcceptHead { .. }, _) => Ok(()),
            (act, Some(head)) => match (watch.look(&head).await, act) {
                // What narrows is never refused, and looks the same as what widens from here.
                (Err(problem), Act::SetScope { agent, scope })
                    if is_set_back(&problem) && watch.narrows(agent, scope).await =>
                {
                    Ok(())
                }
                (Err(problem), Act::SetTerms { change, .. })
                    if is_set_back(&problem) && change.only_narrows() =>
                {
                    Ok(())
                }
                (looked, _) => looked.map(drop),
            },
            // Every answer to a master has one, and who the master is was asked before.
            (_, None) => Err(no_head(&self.address)),
        }
    }

    async fn prove(&self, act: &Act<'_>, problem: Problem) -> Answer<Proof> {
        let Some(demand) = &problem.presence else { return Err(problem) };
        let mut asked = self.asked.lock().await;
        // One that was right before, and that the backend has not called wrong, serves all the
        // acts of this command; each has a signature of its own.
        let serves =
            |(salt, _): &(Salt, PassphraseKey)| *salt == demand.salt && demand.why != Why::Wrong;
        if !asked.key.as_ref().is_some_and(serves) {
            asked.key = None;
            if asked.times >= self.asker.most_asked() {
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
            Some((_, key)) => Ok(key.prove(demand.challenge, &act.hash(), self.asker.terminal())),
            None => Err(problem),
        }
    }
}
