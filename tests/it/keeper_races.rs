//! What happens to daemons at the same moment, or too late: recoveries that race, an approval
//! that is repeated or comes after its time, reads that race a revoke or a change of keys.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agentkeys::core::audit::{Action, Outcome};
use agentkeys::core::backend::{Grant, RevokeTarget};
use agentkeys::core::holder::{Refusal, SessionHolder};
use agentkeys::core::problem::Code;
use agentkeys::core::wire::Route;

use crate::env::{MINUTE, Master, TestEnv, code, id, loopback, service};
use crate::keeper_support::{
    Daemon, Liar, ada, approve, approve_as, env_now, fetch, report, until,
};

const KEY: &[u8] = b"sk-or-v1-test";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_daemons_that_race_for_one_recovery_one_is_left_and_the_other_says_so() {
    let env = env_now().await;
    let ada = ada(&env).await;
    for round in 0..5 {
        let one = Daemon::start(env.address(), &["--recover", "bot"]).await;
        let two = Daemon::start(env.address(), &["--recover", "bot"]).await;
        let (ask_one, ask_two) = (one.asks().await, two.asks().await);
        let (seen_one, seen_two) =
            (fetch(&ada, &ask_one).await.unwrap(), fetch(&ada, &ask_two).await.unwrap());
        let approve = async |id| {
            ada.backend.approve_auth_request(&ada.session, id, None, Grant::default()).await
        };
        let (a, b) = tokio::join!(approve(seen_one.id), approve(seen_two.id));
        a.unwrap();
        b.unwrap();
        one.paired().await;
        two.paired().await;
        let (read_one, read_two) = (one.read("openrouter").await, two.read("openrouter").await);
        let (loser, refusal) = match (read_one, read_two) {
            (Ok(key), Err(refusal)) if key == KEY => (&two, refusal),
            (Err(refusal), Ok(key)) if key == KEY => (&one, refusal),
            other => panic!("round {round}: {other:?}"),
        };
        let Refusal::Problem(problem) = refusal else { panic!("{refusal:?}") };
        assert_eq!(problem.code, Code::Denied);
        assert!(problem.detail.contains("session of agent \"bot\" was ended"), "{problem}");
        assert!(problem.cause.contains("approved a Recover"), "{}", problem.cause);
        // It is not lost: it may ask again, and says why it has to.
        let again = loser.asks().await;
        assert!(again.because.unwrap().detail.contains("was ended"));
        let agents = ada.backend.list_agents(&ada.session).await.unwrap();
        assert_eq!(agents.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_that_is_repeated_is_refused_and_leaves_one_session() {
    let env = env_now().await;
    let ada = ada(&env).await;
    let daemon = Daemon::start(env.address(), &[]).await;
    let waiting = daemon.asks().await;
    let request = fetch(&ada, &waiting).await.unwrap().id;
    let approve = async || {
        let grant = Grant { agent_id: Some(id("bot")), ..Grant::default() };
        ada.backend.approve_auth_request(&ada.session, request, None, grant).await
    };
    let (one, two) = tokio::join!(approve(), approve());
    assert_ne!(one.is_ok(), two.is_ok());
    assert_eq!(code(if one.is_ok() { two } else { one }), Code::AlreadyConsumed);
    daemon.paired().await;
    assert_eq!(code(approve().await), Code::AlreadyConsumed);
    assert_eq!(daemon.read("openrouter").await, Ok(KEY.to_vec()));
    assert_eq!(code(approve().await), Code::AlreadyConsumed, "after the first use as well");
    assert_eq!(daemon.read("openrouter").await, Ok(KEY.to_vec()));
    let approvals = |events: Vec<agentkeys::core::audit::Event>| {
        let of = |e: &&_| {
            matches!(
                e,
                agentkeys::core::audit::Event {
                    action: Action::Approve,
                    outcome: Outcome::Allowed,
                    ..
                }
            )
        };
        events.iter().filter(of).count()
    };
    assert_eq!(approvals(ada.events().await), 1);
}

/// The answer was given, and the daemon hears of it only when it is void: it takes nothing, says
/// so, and asks anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decision_or_a_payload_that_comes_after_its_time_is_not_taken() {
    let env = env_now().await;
    let ada = ada(&env).await;
    let liar = Liar::before(env.address()).await;
    for late in [Route::AuthRequestAwait, Route::RendezvousPoll] {
        let daemon = Daemon::start(liar.address, &[]).await;
        liar.lies(move |passing| passing.cut = passing.answers(late));
        let waiting = daemon.asks().await;
        approve_as(&ada, &waiting, Some("bot")).await.unwrap();
        let answered = liar.answered(late);
        until("it was kept from it", async || liar.answered(late) > answered).await;
        env.clock.advance(11 * MINUTE);
        liar.is_honest();
        daemon.answered().await;
        assert_eq!(daemon.mirror(), None);
        let problem = daemon.refuses().await;
        assert_eq!(problem.code, Code::AlreadyConsumed, "{problem}");
        daemon.pair(&ada, Some("bot")).await;
        assert_eq!(daemon.read("openrouter").await, Ok(KEY.to_vec()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_that_has_run_out_is_replaced_without_a_word() {
    let env = env_now().await;
    let ada = ada(&env).await;
    let daemon = Daemon::start(env.address(), &[]).await;
    let waiting = daemon.asks().await;
    env.clock.advance(5 * MINUTE);
    let expired = crate::env::refused(approve_as(&ada, &waiting, Some("bot")).await);
    assert_eq!(expired.code, Code::Expired);
    // The parked poll looks at the clock when it ends; a restart of the daemon asks anew too.
    let daemon = daemon.restart().await;
    let next = daemon.asks().await;
    assert_ne!(next.pair_code, waiting.pair_code);
    approve_as(&ada, &next, Some("bot")).await.unwrap();
    daemon.paired().await;
    assert_eq!(daemon.read("openrouter").await, Ok(KEY.to_vec()));
}

/// The old session ends when the master says yes, and the next one is on its way: no read in
/// between is refused, and none of them makes the daemon give up what is on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_is_refused_while_the_keys_are_changed() {
    let env = env_now().await;
    let ada = ada(&env).await;
    let liar = Liar::before(env.address()).await;
    let daemon = Daemon::start(liar.address, &[]).await;
    daemon.pair(&ada, Some("bot")).await;
    // Long enough for every reader to run into it.
    liar.lies(|passing| {
        if passing.answers(Route::RendezvousPoll) {
            passing.hold = Duration::from_millis(400);
        }
    });
    let stop = Arc::new(AtomicBool::new(false));
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (holder, stop) = (daemon.holder.clone(), stop.clone());
        readers.spawn(async move {
            let mut reads = 0;
            while !stop.load(Ordering::SeqCst) {
                match holder.read(&service("openrouter")).await {
                    Ok(key) => assert_eq!(key.expose(), KEY),
                    Err(refusal) => panic!("after {reads} reads: {refusal:?}"),
                }
                reads += 1;
            }
            reads
        });
    }
    let mut known = vec![daemon.mirror().unwrap()];
    for _ in 0..4 {
        let waiting = daemon.holder.rotate().await.unwrap();
        approve(&ada, &waiting).await.unwrap();
        until("it has new keys", async || daemon.mirror().unwrap() != *known.last().unwrap()).await;
        known.push(daemon.mirror().unwrap());
    }
    stop.store(true, Ordering::SeqCst);
    let reads: usize = readers.join_all().await.into_iter().sum();
    assert!(reads > 50, "{reads} reads are no load");
}

const READERS: usize = 16;
const ROUNDS: usize = 320;
/// Reads that lie wholly in the revoked time of one round, at least.
const IN_EACH: usize = 2 * READERS;

/// Ends a daemon's right and gives it back, 320 times, while sixteen readers read through it flat
/// out. From the answer to `revoke` until the master approves the agent anew, which is past
/// `reinstate`, no read is answered: at least 10,000 began and ended in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_that_began_after_a_revoke_is_answered_through_the_daemon() {
    let env = env_now().await;
    let ada = Arc::new(Master::sign_in(env.vault(loopback()), "ada").await);
    ada.agent("bot").await;
    ada.store("bot", "openrouter", KEY).await;
    let daemon = Daemon::start(env.address(), &[]).await;
    daemon.pair(&ada, Some("bot")).await;
    // Odd: from the answer to `revoke` to the call of `approve`.
    let state = Arc::new(AtomicU64::new(0));
    let (stop, in_revoked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (answered, slowest) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..READERS {
        let (holder, state, stop) = (daemon.holder.clone(), state.clone(), stop.clone());
        let (in_revoked, answered) = (in_revoked.clone(), answered.clone());
        let slowest = slowest.clone();
        readers.spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let (before, begun) = (state.load(Ordering::SeqCst), Instant::now());
                let read = holder.read(&service("openrouter")).await;
                let revoked = before % 2 == 1 && state.load(Ordering::SeqCst) == before;
                if revoked {
                    let took = begun.elapsed().as_millis().try_into().unwrap();
                    slowest.fetch_max(took, Ordering::SeqCst);
                }
                match read {
                    Ok(key) => {
                        assert!(!revoked, "a read was answered after revoke returned");
                        assert_eq!(key.expose(), KEY);
                        answered.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(Refusal::Problem(problem)) => {
                        assert_eq!(problem.code, Code::Denied, "{problem}");
                    }
                    Err(Refusal::Waiting(_)) => {}
                }
                in_revoked.fetch_add(usize::from(revoked), Ordering::SeqCst);
            }
        });
    }
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        let read = answered.load(Ordering::SeqCst);
        until("it reads", async || answered.load(Ordering::SeqCst) > read).await;
        let target = RevokeTarget::Agent(id("bot"));
        ada.backend.revoke_session(&ada.session, target).await.unwrap();
        state.fetch_add(1, Ordering::SeqCst);
        let half = in_revoked.load(Ordering::SeqCst) + IN_EACH / 2;
        until("it is refused", async || in_revoked.load(Ordering::SeqCst) >= half).await;
        ada.backend.reinstate_agent(&ada.session, &id("bot")).await.unwrap();
        let whole = half + IN_EACH / 2;
        until("it stays refused", async || in_revoked.load(Ordering::SeqCst) >= whole).await;
        // Whoever comes first is told why it ended; the next one opens the request.
        let mut asked = None;
        until("it asks anew", async || {
            if let Err(Refusal::Waiting(waiting)) = daemon.read("openrouter").await {
                asked = Some(waiting);
            }
            asked.is_some()
        })
        .await;
        let waiting = asked.expect("it asks");
        state.fetch_add(1, Ordering::SeqCst);
        approve(&ada, &waiting).await.unwrap();
        daemon.paired().await;
    }
    stop.store(true, Ordering::SeqCst);
    readers.join_all().await;
    let (tries, slowest) = (in_revoked.load(Ordering::SeqCst), slowest.load(Ordering::SeqCst));
    report(&format!(
        "{ROUNDS} revokes, {tries} reads wholly in revoked time (slowest refused in {slowest} ms), \
         {} answered, in {:.1} s",
        answered.load(Ordering::SeqCst),
        begun.elapsed().as_secs_f64()
    ));
    assert!(tries >= 10_000, "{tries} tries");
    assert!(slowest < 1000, "a refusal took {slowest} ms");
    no_release_while_revoked(&env, &ada).await;
}

/// In the order of the log, which is that of the commits.
async fn no_release_while_revoked(_: &TestEnv, ada: &Master) {
    let mut revoked = false;
    for event in ada.events().await {
        match (event.action, event.outcome) {
            (Action::Revoke, _) => revoked = true,
            (Action::Approve, Outcome::Allowed) => revoked = false,
            (Action::Read, Outcome::Allowed) => assert!(!revoked, "event {}", event.seq),
            _ => {}
        }
    }
    ada.verify(None).await.unwrap();
}
