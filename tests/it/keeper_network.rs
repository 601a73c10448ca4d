//! The network drops, and the backend or the daemon is killed, between every two steps: from
//! each state a retry succeeds, without a second approval where the daemon still lives, and no
//! agent is left with two live keys.
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agentkeys::core::auth_request::Kind;
use agentkeys::core::holder::{Refusal, SessionHolder};
use agentkeys::core::problem::{Answer, Code};
use agentkeys::core::token::SessionToken;
use agentkeys::core::types::{ChildKeys, Hash32};
use agentkeys::core::wire::Route;
use serde_json::Value;

use crate::env::{Master, id};
use crate::keeper_support::{Backend, Daemon, Liar, approve, approve_as, until};

const OPEN: Route = Route::AuthRequestOpen;
const REGISTER: Route = Route::RendezvousRegister;
const AWAIT: Route = Route::AuthRequestAwait;
const POLL: Route = Route::RendezvousPoll;
const FIRST_USE: Route = Route::SessionShow;
const RENEW: Route = Route::SessionRenew;
const READ: Route = Route::CredentialRead;

/// A real backend's process, a man in the middle, a daemon, and its master.
struct Scene {
    _folder: tempfile::TempDir,
    backend: Arc<Mutex<Backend>>,
    liar: Arc<Liar>,
}

impl Scene {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let backend = Backend::start(&folder.path().join("data"));
        let liar = Arc::new(Liar::before(backend.address).await);
        let scene = Self { _folder: folder, backend: Arc::new(Mutex::new(backend)), liar };
        let ada = scene.ada().await;
        ada.agent("bot").await;
        ada.store("bot", "openrouter", b"sk-or-v1-test").await;
        scene
    }

    /// The master, at the backend as it is now, and never over the man in the middle.
    async fn ada(&self) -> Master {
        let client = self.backend.lock().unwrap().client();
        Master::sign_in(client, "ada").await
    }

    /// Kills the backend and starts it again.
    fn restart(&self) {
        self.backend.lock().unwrap().restart(&self.liar);
    }

    /// At the next answer of `route` that gives something: the backend, which has done its work,
    /// is killed and started again. The answer arrives all the same, or is `lost`.
    fn kill_at(&self, route: Route, lost: bool) {
        let (backend, liar) = (self.backend.clone(), self.liar.clone());
        let mut done = false;
        self.liar.lies(move |passing| {
            if passing.answers(route) && !done {
                done = true;
                passing.cut = lost;
                backend.lock().unwrap().restart(&liar);
            }
        });
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // What he says may hold him, and the backend.
        self.liar.is_honest();
    }
}

/// The fingerprint of the keys that a daemon has mirrored.
fn mirrored(daemon: &Daemon) -> Hash32 {
    let mirror: Value = serde_json::from_slice(&daemon.mirror().expect("a mirror")).unwrap();
    let keys: ChildKeys = serde_json::from_value(mirror["open"]["keys"].clone()).unwrap();
    keys.fingerprint()
}

/// That the agent is this daemon's, with the keys that it has on disk, and no other's.
async fn holds_alone(scene: &Scene, daemon: &Daemon) {
    let ada = scene.ada().await;
    let agents = ada.backend.list_agents(&ada.session).await.unwrap();
    assert_eq!(agents.len(), 1, "no agent was left behind");
    let known = agents[0].daemon.as_ref().expect("a daemon").fingerprint;
    assert_eq!(known, mirrored(daemon));
}

/// Reads until it is answered, and approves what is asked for on the way, but for what was; how
/// often that was.
async fn gets_there(
    scene: &Scene,
    daemon: &Daemon,
    what: &str,
    mut approved: Vec<String>,
) -> usize {
    let begun = Instant::now();
    loop {
        match daemon.read("openrouter").await {
            Ok(key) => {
                assert_eq!(key, b"sk-or-v1-test", "{what}");
                return approved.len();
            }
            Err(Refusal::Waiting(waiting)) if !approved.contains(&waiting.pair_code) => {
                let agent = (waiting.kind == Kind::Pair).then_some("bot");
                // The backend may be killed before it can say that it has done it: again, until
                // it says so.
                while let Err(problem) = approve_as(&scene.ada().await, &waiting, agent).await {
                    if problem.code == Code::AlreadyConsumed {
                        break;
                    }
                    assert_eq!(problem.code, Code::Unavailable, "{what}: {problem}");
                }
                approved.push(waiting.pair_code);
            }
            Err(Refusal::Problem(problem)) if problem.code != Code::Unavailable => {
                panic!("{what}: {problem} ({}): {}", problem.cause, daemon.log())
            }
            Err(_) => {}
        }
        assert!(begun.elapsed() < Duration::from_secs(40), "{what}: never: {}", daemon.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An approval at which the backend is killed: done, though it may not have come to say so. The
/// daemon has its decision all the same.
#[track_caller]
fn done_or_cut<T>(answer: Answer<T>) {
    if let Err(problem) = answer {
        assert_eq!(problem.code, Code::Unavailable, "{problem}");
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Way {
    Pair,
    Recover,
    Rotate,
}

/// One state: the backend is killed at one step of one way to a session.
async fn killed_at(way: Way, route: Route, lost: bool) {
    let what = format!("{way:?}, {} {}", route.path(), if lost { "lost" } else { "answered" });
    let scene = Scene::new().await;
    let arguments: &[&str] = if way == Way::Recover { &["--recover", "bot"] } else { &[] };
    let daemon = Daemon::start(scene.liar.address, arguments).await;
    let mut approved = Vec::new();
    let mut before = None;
    if way == Way::Rotate {
        daemon.pair(&scene.ada().await, Some("bot")).await;
        assert!(daemon.read("openrouter").await.is_ok());
        before = Some(mirrored(&daemon));
        scene.kill_at(route, lost);
        let begun = Instant::now();
        let waiting = loop {
            match daemon.holder.rotate().await {
                Ok(waiting) => break waiting,
                Err(refusal) => {
                    assert!(begun.elapsed() < Duration::from_secs(30), "{what}: {refusal:?}");
                }
            }
        };
        done_or_cut(approve(&scene.ada().await, &waiting).await);
        approved.push(waiting.pair_code);
    } else {
        scene.kill_at(route, lost);
    }
    assert_eq!(gets_there(&scene, &daemon, &what, approved).await, 1, "{what}: approvals");
    if let Some(before) = before {
        until("it has new keys", async || mirrored(&daemon) != before).await;
    }
    holds_alone(&scene, &daemon).await;
    // What is on disk is good as well.
    scene.liar.is_honest();
    let daemon = daemon.restart().await;
    assert_eq!(gets_there(&scene, &daemon, &what, Vec::new()).await, 0, "{what}: after a restart");
}

/// Every state of one way, some at once: most of their time is waiting.
async fn every_state(way: Way) {
    tokio::task::LocalSet::new().run_until(at_once(way)).await;
}

async fn at_once(way: Way) {
    let mut states = tokio::task::JoinSet::new();
    for route in [OPEN, REGISTER, AWAIT, POLL, FIRST_USE] {
        for lost in [true, false] {
            if states.len() >= 4 {
                states.join_next().await.unwrap().unwrap();
            }
            states.spawn_local(killed_at(way, route, lost));
        }
    }
    states.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backend_that_is_killed_at_any_step_of_a_pairing_costs_no_second_approval() {
    every_state(Way::Pair).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backend_that_is_killed_at_any_step_of_a_recovery_costs_no_second_approval() {
    every_state(Way::Recover).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backend_that_is_killed_at_any_step_of_a_key_change_costs_no_second_approval() {
    every_state(Way::Rotate).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_is_killed_while_a_person_looks_costs_nothing() {
    let scene = Scene::new().await;
    let daemon = Daemon::start(scene.liar.address, &[]).await;
    let waiting = daemon.asks().await;
    scene.restart();
    assert_eq!(daemon.asks().await.pair_code, waiting.pair_code);
    let ada = scene.ada().await;
    crate::keeper_support::fetch(&ada, &waiting).await.unwrap();
    scene.restart();
    approve_as(&scene.ada().await, &waiting, Some("bot")).await.unwrap();
    assert_eq!(gets_there(&scene, &daemon, "killed twice", vec![waiting.pair_code]).await, 1);
    holds_alone(&scene, &daemon).await;
}

/// The approval stands, and the backend is away for longer than a call is tried: the daemon's
/// keys are the only ones that open what waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_is_waited_for_through_an_outage() {
    let scene = Scene::new().await;
    let daemon = Daemon::start(scene.liar.address, &[]).await;
    let waiting = daemon.asks().await;
    let backend = scene.backend.clone();
    scene.liar.lies(move |passing| {
        if passing.answers(AWAIT) {
            backend.lock().unwrap().kill();
        }
    });
    done_or_cut(approve_as(&scene.ada().await, &waiting, Some("bot")).await);
    scene.liar.asked(POLL, 2).await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    scene.liar.is_honest();
    scene.restart();
    assert_eq!(gets_there(&scene, &daemon, "an outage", vec![waiting.pair_code]).await, 1);
    holds_alone(&scene, &daemon).await;
}

/// A proxy between them that answers for a backend that is away, in its own words.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_s_own_answer_does_not_end_a_request() {
    let scene = Scene::new().await;
    let daemon = Daemon::start(scene.liar.address, &[]).await;
    let waiting = daemon.asks().await;
    let mut left = 2;
    scene.liar.lies(move |passing| {
        let polls = passing.route == AWAIT || passing.route == POLL;
        if passing.answered && polls && left > 0 {
            left -= 1;
            passing.status = 502;
            passing.headers.clear();
            passing.body = b"<html>Bad Gateway</html>".to_vec();
        }
    });
    approve_as(&scene.ada().await, &waiting, Some("bot")).await.unwrap();
    let before = scene.liar.answered(AWAIT);
    until("the gateway answered", async || scene.liar.answered(AWAIT) > before).await;
    assert_eq!(daemon.asks().await.pair_code, waiting.pair_code, "the request goes on");
    scene.liar.is_honest();
    assert_eq!(gets_there(&scene, &daemon, "a gateway", vec![waiting.pair_code]).await, 1);
}

/// The sessions that renewals gave, in the order in which they were given.
fn overhear(
    scene: &Scene,
    mut more: impl FnMut(&mut crate::keeper_support::Passing) + Send + 'static,
) -> Arc<Mutex<Vec<String>>> {
    let given = Arc::<Mutex<Vec<String>>>::default();
    let heard = given.clone();
    scene.liar.lies(move |passing| {
        if passing.answers(RENEW) {
            let token = passing.json()["session"].as_str().unwrap().to_owned();
            heard.lock().unwrap().push(token);
        }
        more(passing);
    });
    given
}

/// That of the sessions that were given, only the last one is good.
async fn only_the_last_lives(scene: &Scene, given: &Mutex<Vec<String>>) {
    let backend = scene.ada().await.backend;
    let given = given.lock().unwrap().clone();
    let (last, lost) = given.split_last().expect("one was given");
    for token in lost {
        let token = SessionToken::parse(token).unwrap();
        let problem = crate::env::refused(backend.who_am_i(&token).await);
        assert_eq!(problem.code, Code::Denied);
    }
    backend.who_am_i(&SessionToken::parse(last).unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_is_killed_at_a_renewal_is_asked_again_and_one_session_lives() {
    for lost in [true, false] {
        let scene = Scene::new().await;
        let daemon = Daemon::start(scene.liar.address, &[]).await;
        daemon.pair(&scene.ada().await, Some("bot")).await;
        assert!(daemon.read("openrouter").await.is_ok());
        let (backend, liar) = (scene.backend.clone(), scene.liar.clone());
        let mut kills = 0;
        let given = overhear(&scene, move |passing| {
            if passing.answers(RENEW) && kills < 2 {
                kills += 1;
                passing.cut = lost;
                backend.lock().unwrap().restart(&liar);
            }
        });
        // What was started again has no session in memory.
        let daemon = daemon.restart().await;
        let what = "a renewal";
        assert_eq!(gets_there(&scene, &daemon, what, Vec::new()).await, 0);
        assert_eq!(given.lock().unwrap().len(), if lost { 3 } else { 1 });
        only_the_last_lives(&scene, &given).await;
        holds_alone(&scene, &daemon).await;
    }
}

/// Killed while the answer is on its way, then before the first use of what was mirrored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_is_killed_at_a_renewal_goes_on_from_what_it_has_on_disk() {
    let scene = Scene::new().await;
    let mut daemon = Daemon::start(scene.liar.address, &[]).await;
    daemon.pair(&scene.ada().await, Some("bot")).await;
    assert!(daemon.read("openrouter").await.is_ok());
    for (held, answered) in [(RENEW, true), (READ, false)] {
        daemon = daemon.restart().await;
        let before = daemon.mirror().unwrap();
        let given = overhear(&scene, move |passing| {
            if passing.route == held && passing.answered == answered {
                passing.hold = Duration::from_secs(60);
            }
        });
        let asked = scene.liar.asks(READ);
        let call = {
            let holder = daemon.holder.clone();
            tokio::spawn(async move { holder.read(&crate::env::service("openrouter")).await })
        };
        if held == RENEW {
            until("it was renewed", async || given.lock().unwrap().len() == 1).await;
            assert_eq!(daemon.mirror().unwrap(), before, "it is not mirrored yet");
        } else {
            scene.liar.asked(READ, asked).await;
            assert_ne!(daemon.mirror().unwrap(), before, "it is mirrored before it is used");
        }
        daemon.kill();
        assert!(call.await.unwrap().is_err());
        let again = overhear(&scene, |_| {});
        daemon = daemon.restart_after_death().await;
        assert_eq!(gets_there(&scene, &daemon, "killed", Vec::new()).await, 0);
        given.lock().unwrap().append(&mut again.lock().unwrap());
        if held == RENEW {
            only_the_last_lives(&scene, &given).await;
        }
        holds_alone(&scene, &daemon).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_is_killed_before_its_first_use_needs_no_second_approval() {
    let scene = Scene::new().await;
    let mut daemon = Daemon::start(scene.liar.address, &[]).await;
    let waiting = daemon.asks().await;
    scene.liar.lies(|passing| {
        if passing.asks(FIRST_USE) {
            passing.hold = Duration::from_secs(60);
        }
    });
    approve_as(&scene.ada().await, &waiting, Some("bot")).await.unwrap();
    scene.liar.asked(FIRST_USE, 0).await;
    assert!(daemon.mirror().is_some());
    daemon.kill();
    scene.liar.is_honest();
    let daemon = daemon.restart_after_death().await;
    assert_eq!(gets_there(&scene, &daemon, "killed", Vec::new()).await, 0);
    holds_alone(&scene, &daemon).await;
}

/// Killed after the approval and before anything is on disk, its keys are gone: it asks anew,
/// and the session that nobody can open ends with that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_is_killed_before_its_payload_came_asks_anew() {
    let scene = Scene::new().await;
    let mut daemon = Daemon::start(scene.liar.address, &["--recover", "bot"]).await;
    let waiting = daemon.asks().await;
    scene.liar.lies(|passing| {
        if passing.answers(POLL) {
            passing.hold = Duration::from_secs(60);
        }
    });
    approve(&scene.ada().await, &waiting).await.unwrap();
    until("it was delivered", async || scene.liar.answered(POLL) > 0).await;
    assert!(daemon.mirror().is_none());
    daemon.kill();
    scene.liar.is_honest();
    let daemon = daemon.restart_after_death().await;
    assert_eq!(gets_there(&scene, &daemon, "killed", Vec::new()).await, 1);
    holds_alone(&scene, &daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_backend_is_away_a_call_is_tried_three_times_in_seven_seconds_and_nothing_is_cached()
 {
    let scene = Scene::new().await;
    let daemon = Daemon::start(scene.liar.address, &[]).await;
    daemon.pair(&scene.ada().await, Some("bot")).await;
    assert_eq!(daemon.read("openrouter").await, Ok(b"sk-or-v1-test".to_vec()));
    scene.backend.lock().unwrap().kill();
    let asked = scene.liar.asks(READ);
    let begun = Instant::now();
    let (one, all, list) =
        tokio::join!(daemon.refuses(), daemon.holder.read_all(), daemon.holder.list(),);
    let took = begun.elapsed();
    assert!((7.0..9.0).contains(&took.as_secs_f64()), "it took {took:?}");
    assert_eq!(one.code, Code::Unavailable);
    assert!(one.cause.contains("tried 3 times in 7 seconds"), "{}", one.cause);
    assert_eq!(scene.liar.asks(READ) - asked, 3);
    for refusal in [all.map(|_| ()).unwrap_err(), list.map(|_| ()).unwrap_err()] {
        match refusal {
            Refusal::Problem(problem) => assert_eq!(problem.code, Code::Unavailable),
            Refusal::Waiting(_) => panic!("nobody is asked for what is only away"),
        }
    }
    scene.restart();
    assert_eq!(daemon.read("openrouter").await, Ok(b"sk-or-v1-test".to_vec()));
    // While it was away its master took the right back: what comes back says so at once.
    scene.backend.lock().unwrap().kill();
    scene.restart();
    let ada = scene.ada().await;
    let target = agentkeys::core::backend::RevokeTarget::Agent(id("bot"));
    ada.backend.revoke_session(&ada.session, target).await.unwrap();
    let problem = daemon.refuses().await;
    assert!(problem.detail.contains("was revoked"), "{problem}");
    let key = b"sk-or-v1-test";
    let has_it = |bytes: &Vec<u8>| bytes.windows(key.len()).any(|part| part == key);
    assert!(!daemon.files().iter().any(has_it), "a credential is on disk");
}

/// A long poll that is answered at once, with nothing, is not asked again at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_does_not_wait_does_not_make_the_daemon_spin() {
    let scene = Scene::new().await;
    let daemon = Daemon::start(scene.liar.address, &[]).await;
    // What he says to the question already: it is asked for no time at all.
    scene.liar.lies(|passing| {
        if passing.asks(AWAIT) {
            let at = passing.query.find("wait=").expect("a wait");
            passing.query.truncate(at);
            passing.query.push_str("wait=0");
        }
    });
    let waiting = daemon.asks().await;
    let before = scene.liar.asks(AWAIT);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let asked = scene.liar.asks(AWAIT) - before;
    assert!((2..=4).contains(&asked), "asked {asked} times in 3 seconds");
    approve_as(&scene.ada().await, &waiting, Some("bot")).await.unwrap();
    assert_eq!(gets_there(&scene, &daemon, "no wait", vec![waiting.pair_code]).await, 1);
}
