//! The machine that a command really runs on: its connection by [`crate::client`].
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use async_trait::async_trait;

use super::clock::now;
use super::examine;
use super::passphrase::Person;
use super::progress::Progress;
use super::session::{Daemon, Defaults, Fact, Link, Machine, SessionPlace, Wanted, WantedDaemon};
use super::wiring_facts;
use crate::client::beside::{self, Asked};
use crate::client::config::Names;
use crate::client::connect::{self, Connection, Options, StopOutcome};
use crate::client::doctor;
use crate::client::heads::SeenHead;
use crate::client::http::HttpBackend;
use crate::client::wait::{Onlooker, watched};
use crate::core::audit::Head;
use crate::core::backend::{AccountBackend, IdentityProof};
use crate::core::presence::Reset;
use crate::core::problem::{Answer, Code};
use crate::core::set_back::{self, SetBack};
use crate::core::sign_in::{Flow, SignInNews, Tell};
use crate::core::token::SessionToken;
use crate::core::types::AccountId;
use crate::harden;

/// This machine.
pub struct ThisMachine;

struct Reached {
    connection: Connection,
    /// What the backend had on record when the command began.
    set_back: OnceLock<SetBack>,
    presence_reset: Mutex<Option<Reset>>,
}

fn options(wanted: &Wanted) -> Options {
    Options { backend: wanted.backend.clone(), verbose: wanted.verbose }
}

fn defaults(names: &Names) -> Defaults {
    let variables = names.variables.iter();
    Defaults {
        agent: names.agent.clone(),
        services: names.services.clone(),
        variables: variables.map(|(name, service)| (name.clone(), service.clone())).collect(),
    }
}

fn onlooker(progress: &Option<Progress>) -> Option<&dyn Onlooker> {
    progress.as_ref().map(|progress| progress as _)
}

#[async_trait(?Send)]
impl Machine for ThisMachine {
    async fn connect(&self, wanted: &Wanted) -> Answer<Box<dyn Link>> {
        let starting = Progress::on_terminal("waiting for the private backend");
        let options = options(wanted);
        let connecting = watched(onlooker(&starting), connect::connect(&options));
        let connection = connecting.await?.asking(Arc::new(Person));
        let asking = Progress::on_terminal(format!("waiting for {}", connection.address()));
        let connection = connection.watched(asking.map(|asking| Arc::new(asking) as _));
        let (set_back, presence_reset) = (OnceLock::new(), Mutex::default());
        Ok(Box::new(Reached { connection, set_back, presence_reset }))
    }

    async fn daemon(&self, wanted: &WantedDaemon) -> Answer<Option<Daemon>> {
        let WantedDaemon { socket, backend, agent } = wanted.clone();
        let found = beside::find(&Asked::here(socket, backend, agent)).await?;
        Ok(found.map(|found| Daemon {
            place: found.client.socket().display().to_string(),
            holder: Box::new(found.client),
            name: found.name,
            chosen_by: found.chosen_by,
            defaults: defaults(&found.names),
        }))
    }

    async fn stop_private(&self) -> Answer<String> {
        let ending = Progress::on_terminal("waiting for the private backend to end");
        Ok(match watched(onlooker(&ending), connect::stop_private()).await? {
            StopOutcome::Stopped { pid } => {
                format!("the private backend, process {pid}, has ended")
            }
            StopOutcome::NotRunning => "no private backend was running".to_owned(),
        })
    }

    async fn facts(&self, wanted: &Wanted) -> Answer<Vec<Fact>> {
        let looking = Progress::on_terminal("looking at how things are");
        let found = watched(onlooker(&looking), doctor::facts(&options(wanted))).await?;
        let mut facts = examine::facts(&found, &harden::report(), now());
        facts.extend(wiring_facts::facts());
        Ok(facts)
    }
}

#[async_trait(?Send)]
impl Link for Reached {
    fn backend(&self) -> &dyn AccountBackend {
        self.connection.backend()
    }

    fn gateway(&self) -> Arc<HttpBackend> {
        Arc::new(HttpBackend::new(self.connection.http().address().clone()))
    }

    fn address(&self) -> String {
        self.connection.address()
    }

    fn chosen_by(&self) -> &'static str {
        self.connection.chosen_by()
    }

    async fn session(&self) -> Answer<SessionToken> {
        if let Err(problem) = self.connection.session().await {
            // Whoever is not signed in at a backend that is not there wants to know the latter.
            if problem.code == Code::Unauthorized {
                self.connection.http().version().await?;
            }
            return Err(problem);
        }
        // That a stored session has ended shows when it is used; a private backend's is then
        // made anew, once, here, and holds for the rest of the command.
        let me = self
            .connection
            .with_session(async |backend, session| backend.who_am_i(session).await)
            .await?;
        *self.presence_reset.lock().unwrap_or_else(PoisonError::into_inner) = me.presence_reset;
        if let Some(found) = me.set_back {
            // A command asks once; what stands there already says the same.
            let _ = self.set_back.set(found);
        }
        self.connection.session().await
    }

    async fn sign_in(&self, proof: IdentityProof) -> Answer<()> {
        self.connection.sign_in(proof).await.map(drop)
    }

    async fn sign_in_by_issuer(&self, flow: Flow, tell: Tell<'_>) -> Answer<SignInNews> {
        let signed_in = self.connection.sign_in_by_issuer(flow, tell).await?;
        Ok(signed_in.news.unwrap_or_default())
    }

    async fn remember_head(&self) -> Answer<Option<String>> {
        let said = self.connection.remember_head().await?;
        match self.set_back.get() {
            Some(found) => Err(set_back::on_record(found)),
            None => Ok(said),
        }
    }

    fn seen_head(&self, account: AccountId) -> Option<SeenHead> {
        self.connection.seen_head(account)
    }

    async fn take_accepted(&self) -> Answer<()> {
        self.connection.remember_head().await.map(drop)
    }

    async fn verified(&self, seen: &Head, head: &Head) -> Answer<()> {
        self.connection.verified(seen, head).await
    }

    fn presence_reset(&self) -> Option<Reset> {
        self.presence_reset.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn session_place(&self) -> SessionPlace {
        match self.connection.session_place() {
            connect::SessionPlace::Keyring => SessionPlace::Keyring,
            connect::SessionPlace::File(path) => SessionPlace::File(path),
        }
    }

    fn defaults(&self) -> Defaults {
        defaults(&self.connection.config().names)
    }

    fn notes(&self) -> Vec<String> {
        self.connection.notes().to_vec()
    }
}
