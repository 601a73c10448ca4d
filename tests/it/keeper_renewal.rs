//! A lying backend at renewal: whatever it changes, the daemon keeps what it has, says which check
//! failed, and goes on once it is told the truth.
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agentkeys::core::encoding::{from_base64, to_base64};
use agentkeys::core::set_back::is_set_back;
use agentkeys::core::token::SessionToken;
use agentkeys::core::wire::{HEAD_HEADER, Route};
use serde_json::{Value, json};

use crate::env::{HOUR, Master};
use crate::keeper_support::{Case, Daemon, Liar, Passing, ada, case, env_now, now};

const RENEW: Route = Route::SessionRenew;

/// The head that an answer carries.
fn head_of(passing: &Passing) -> String {
    passing.headers[HEAD_HEADER].to_str().unwrap().to_owned()
}

/// Puts another head on the answer to a renewal.
fn renewed_with(head: String) -> impl FnMut(&mut Passing) + Send {
    move |passing| {
        if passing.answers(RENEW) {
            passing.headers.insert(HEAD_HEADER, head.parse().unwrap());
        }
    }
}

/// A head of this account's log as it is now.
async fn head(master: &Master) -> String {
    let (_, head) = master.log().await;
    to_base64(&serde_json::to_vec(&head).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_changed_at_renewal_the_daemon_keeps_what_it_has_and_says_which_check_failed() {
    let env = env_now().await;
    let ada = ada(&env).await;
    let mallory = env.master("mallory").await;
    let (old, foreign) = (head(&ada).await, head(&mallory).await);
    let liar = Liar::before(env.address()).await;
    let daemon = Daemon::start(liar.address, &[]).await;
    daemon.pair(&ada, Some("bot")).await;
    let seen = Arc::<Mutex<String>>::default();
    let last = seen.clone();
    liar.lies(move |passing| {
        if passing.answers(RENEW) {
            *last.lock().unwrap() = head_of(passing);
        }
    });
    // A first renewal, honest: there is a head to go back behind.
    env.clock.advance(5 * HOUR);
    assert_eq!(daemon.read("openrouter").await, Ok(b"sk-or-v1-test".to_vec()));
    let last = seen.lock().unwrap().clone();
    let lies: Vec<Case> = vec![
        case(
            "the head of the last renewal",
            "it shows no head of the audit log",
            renewed_with(last),
        ),
        case("another wallet", "another agent than the one that asked", |passing| {
            if passing.answers(RENEW) {
                passing.edit(|json| json["wallet"] = format!("0x{}", "12".repeat(20)).into());
            }
        }),
        case("a master's session", "the session is a master's", |passing| {
            if passing.answers(RENEW) {
                let token = SessionToken::master(&[9; 32]);
                passing.edit(|json| json["session"] = token.expose().into());
            }
        }),
        case("no next secret", "it renews once only", |passing| {
            if passing.answers(RENEW) {
                passing.edit(|json| {
                    json.as_object_mut().unwrap().remove("renewal");
                });
            }
        }),
        case("no head", "it shows no head of the audit log", |passing| {
            if passing.answers(RENEW) {
                passing.headers.remove(HEAD_HEADER);
            }
        }),
        case("an older head", "now ends it at event", renewed_with(old)),
        case("another account's head", "is not the pinned one", renewed_with(foreign)),
        case("a head that nobody signed", "signature of its head does not verify", |passing| {
            if passing.answers(RENEW) {
                let json = from_base64("head", &head_of(passing)).unwrap();
                let mut head: Value = serde_json::from_slice(&json).unwrap();
                head["seq"] = json!(1_000_000);
                let head = to_base64(&serde_json::to_vec(&head).unwrap());
                passing.headers.insert(HEAD_HEADER, head.parse().unwrap());
            }
        }),
    ];
    for Case { name, lie, says } in lies {
        env.clock.advance(5 * HOUR);
        let before = daemon.mirror().unwrap();
        liar.lies(lie);
        for _ in 0..2 {
            let problem = daemon.refuses().await;
            assert!(problem.cause.contains(says), "{name}: {problem} {}", problem.cause);
            assert!(!problem.pair_again, "{name}");
            assert_eq!(daemon.mirror().unwrap(), before, "{name}");
        }
        liar.is_honest();
        assert_eq!(daemon.read("openrouter").await, Ok(b"sk-or-v1-test".to_vec()), "{name}");
        assert_ne!(daemon.mirror().unwrap(), before, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_forked_is_refused_at_renewal() {
    let mut env = env_now().await;
    let mut ada = ada(&env).await;
    let liar = Liar::before(env.address()).await;
    let daemon = Daemon::start(liar.address, &[]).await;
    daemon.pair(&ada, Some("bot")).await;
    let before = env.rows().await;
    ada.agent("one").await;
    let one = head(&ada).await;
    let undo = env.rows().await.into_keys().map(|key| {
        let row = before.get(&key).cloned();
        (key, row)
    });
    let undo: Vec<_> = undo.collect();
    env.reopen_with(undo).await.unwrap();
    liar.moves(env.address());
    ada.backend = env.backend();
    ada.agent("another").await;
    let another = head(&ada).await;
    assert_ne!(one, another);
    env.clock.advance(5 * HOUR);
    liar.lies(renewed_with(one));
    assert_eq!(daemon.read("openrouter").await, Ok(b"sk-or-v1-test".to_vec()));
    env.clock.advance(5 * HOUR);
    liar.lies(renewed_with(another));
    let problem = daemon.refuses().await;
    assert!(problem.detail.contains("the audit log was forked"), "{problem}");
    // It was shown the other log's head, and has stopped by itself.
    liar.is_honest();
    assert!(ada.try_read("bot", "openrouter").await.is_err_and(|problem| is_set_back(&problem)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_renewed_in_time_though_nobody_calls() {
    let env = env_now().await;
    let ada = ada(&env).await;
    let liar = Liar::before(env.address()).await;
    let daemon = Daemon::start(liar.address, &[]).await;
    daemon.pair(&ada, Some("bot")).await;
    // The next session is one that ends soon, as far as the daemon knows.
    liar.lies(|passing| {
        if passing.answers(RENEW) {
            let soon = now().plus_ms(62_000).to_string();
            passing.edit(|json| json["expires_at"] = soon.into());
        }
    });
    env.clock.advance(5 * HOUR);
    assert_eq!(daemon.read("openrouter").await, Ok(b"sk-or-v1-test".to_vec()));
    let (renewed, begun) = (liar.answered(RENEW), Instant::now());
    let before = daemon.mirror().unwrap();
    liar.is_honest();
    while liar.answered(RENEW) == renewed || daemon.mirror().unwrap() == before {
        assert!(begun.elapsed() < Duration::from_secs(120), "{}", daemon.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(begun.elapsed() > Duration::from_secs(20), "it is not renewed at once");
    assert_eq!(daemon.read("openrouter").await, Ok(b"sk-or-v1-test".to_vec()));
    assert_eq!(liar.answered(RENEW), renewed + 1);
}
