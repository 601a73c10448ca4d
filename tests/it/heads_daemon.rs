//! The real daemon is the first who has seen more than its backend knows: it takes nothing, says
//! why, and shows the backend what it saw; once the master has accepted the loss, it goes on.
use std::time::Duration;

use agentkeys::client::heads::Heads;
use agentkeys::client::places::Places;
use agentkeys::core::audit::{Action, Head};
use agentkeys::core::backend::RevokeTarget;
use agentkeys::core::holder::{Refusal, SessionHolder as _, SessionState};
use agentkeys::core::problem::{Code, Problem};
use agentkeys::core::scope::Scope;
use agentkeys::core::set_back::is_set_back;
use agentkeys::core::wire::Route;
use agentkeys::harden;

use crate::env::{HOUR, Master, Rows, TestEnv, code, copy_of, id};
use crate::heads_vault::set_back;
use crate::keeper_support::{Daemon, Liar, ada, approve_as, env_now, until};

const VALUE: &[u8] = b"sk-or-v1-test";

struct Scene {
    env: TestEnv,
    ada: Master,
    liar: Liar,
    daemon: Daemon,
}

impl Scene {
    /// A daemon that has renewed once, so that it has seen a head.
    async fn new() -> Self {
        let env = env_now().await;
        let ada = ada(&env).await;
        ada.agent("other").await;
        ada.store("other", "openrouter", b"sk-2").await;
        let liar = Liar::before(env.address()).await;
        let daemon = Daemon::start(liar.address, &[]).await;
        daemon.pair(&ada, Some("bot")).await;
        let scene = Self { env, ada, liar, daemon };
        scene.renews().await;
        scene
    }

    /// The session ends, and the next read renews it.
    async fn renews(&self) {
        self.env.clock.advance(5 * HOUR);
        assert_eq!(self.daemon.read("openrouter").await, Ok(VALUE.to_vec()));
    }

    async fn set_back(&mut self, to: &Rows) {
        set_back(&mut self.env, to).await;
        self.liar.moves(self.env.address());
        self.ada.backend = self.env.backend();
        // Master sessions end without use.
        self.ada = self.env.master("ada").await;
        self.env.clock.advance(5 * HOUR);
    }

    /// The daemon refuses because of the log.
    async fn stopped(&self) -> Problem {
        let problem = self.daemon.refuses().await;
        assert!(is_set_back(&problem), "{problem}: {}", problem.cause);
        assert_eq!(problem.code, Code::Denied);
        assert!(problem.fix.contains("agentkeys audit accept"), "{}", problem.fix);
        problem
    }

    async fn end(&self) -> Head {
        self.ada.log().await.1
    }

    async fn accept(&self) {
        let me = self.ada.backend.who_am_i(&self.ada.session).await.unwrap();
        let found = me.set_back.expect("it is on record");
        self.ada.backend.accept_head(&self.ada.session, &found.head).await.unwrap();
    }

    async fn is_on_record(&self) {
        let acts = self.ada.acts_after(0).await;
        let found = acts.iter().filter(|(action, _)| *action == Action::HeadContradicted);
        assert_eq!(found.count(), 1, "{acts:?}");
    }

    /// What another program of the daemon's user has seen.
    async fn beside(&self, head: &Head) {
        let variable = |name: &str| (name == "HOME").then(|| self.daemon.home().into());
        let places = Places::find(variable, harden::effective_uid()).unwrap();
        let now = crate::keeper_support::now();
        Heads::new(&places).remember(head, "somewhere", now).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_renewed_after_the_revocation_notices_the_copy_that_forgot_it() {
    let mut scene = Scene::new().await;
    let other = scene.ada.mint("other", Scope::everything()).await;
    let copy = scene.env.rows().await;
    let revoke = RevokeTarget::Agent(id("other"));
    scene.ada.backend.revoke_session(&scene.ada.session, revoke).await.unwrap();
    scene.renews().await;
    scene.set_back(&copy).await;
    // The agent that was revoked renews, and reads again.
    let again = scene.ada.backend.renew_session(&other.renewal.unwrap()).await.unwrap();
    let other = Master { session: again.session, backend: scene.env.backend(), ..ada_of(&scene) };
    assert_eq!(other.read("other", "openrouter").await, b"sk-2");

    let mirror = scene.daemon.mirror().unwrap();
    let problem = scene.stopped().await;
    assert!(problem.cause.contains("does not have event"), "{}", problem.cause);
    assert_eq!(scene.daemon.mirror().unwrap(), mirror, "nothing was taken");
    scene.is_on_record().await;
    assert_eq!(code(other.try_read("other", "openrouter").await), Code::Denied);
    let log = scene.daemon.log();
    assert!(log.contains("the audit log does not have in it what was seen before"), "{log}");
    // It does not ask to be paired with such a backend, started again or not.
    scene.daemon = scene.daemon.restart().await;
    scene.stopped().await;
    let standing = scene.daemon.holder.standing().await.unwrap();
    assert!(!matches!(standing.session, SessionState::Waiting(_)), "{:?}", standing.session);
    assert_eq!(scene.liar.asks(Route::AuthRequestOpen), 1, "the one that it was paired by");

    // The copy does not know its renewal secret: once that is accepted, it is paired again.
    scene.accept().await;
    let waiting = waits(&scene.daemon).await;
    approve_as(&scene.ada, &waiting, Some("bot")).await.unwrap();
    scene.daemon.paired().await;
    assert_eq!(scene.daemon.read("openrouter").await, Ok(VALUE.to_vec()));
    scene.renews().await;
    assert!(scene.daemon.log().contains("the master has accepted that the audit log was set back"));
    scene.is_on_record().await;
}

/// Whose session is another's.
fn ada_of(scene: &Scene) -> Master {
    let ada = &scene.ada;
    Master { backend: ada.backend.clone(), session: copy_of(&ada.session), ..*ada }
}

/// The request that the daemon comes to once it goes on.
async fn waits(daemon: &Daemon) -> agentkeys::core::holder::Waiting {
    let found = std::sync::Mutex::new(None);
    until("the daemon asks to be paired", async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        match daemon.read("openrouter").await {
            Err(Refusal::Waiting(waiting)) => {
                *found.lock().unwrap() = Some(waiting);
                true
            }
            _ => false,
        }
    })
    .await;
    found.into_inner().unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_whose_head_does_not_fit_what_was_seen_is_not_taken_until_it_was_accepted() {
    for grown in [false, true] {
        let mut scene = Scene::new().await;
        let copy = scene.env.rows().await;
        for _ in 0..4 {
            scene.ada.read("other", "openrouter").await;
        }
        let seen = scene.end().await;
        scene.beside(&seen).await;
        scene.set_back(&copy).await;
        while grown && scene.end().await.seq < seen.seq + 5 {
            scene.ada.read("other", "openrouter").await;
        }
        let mirror = scene.daemon.mirror().unwrap();
        let problem = scene.stopped().await;
        let says =
            if grown { "is not the one that this client saw" } else { "now ends it at event" };
        assert!(problem.cause.contains(says), "{}", problem.cause);
        let renewed = scene.liar.answered(Route::SessionRenew);
        // Not for each call: every renewal is on record at the backend.
        for _ in 0..5 {
            scene.stopped().await;
        }
        assert_eq!(scene.liar.answered(Route::SessionRenew), renewed);
        assert_eq!(scene.daemon.mirror().unwrap(), mirror, "nothing was taken");
        scene.is_on_record().await;
        assert_eq!(code(scene.ada.try_read("other", "openrouter").await), Code::Denied);
        scene.accept().await;
        until("the daemon goes on", async || {
            tokio::time::sleep(Duration::from_millis(200)).await;
            scene.daemon.read("openrouter").await == Ok(VALUE.to_vec())
        })
        .await;
        assert_ne!(scene.daemon.mirror().unwrap(), mirror);
        scene.renews().await;
    }
}
