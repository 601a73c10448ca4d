//! What an agent with a session asks for itself: another scope, other keys.
use std::collections::BTreeMap;

use agentkeys::core::auth_request::Kind;
use agentkeys::core::backend::{Grant, RevokeTarget};
use agentkeys::core::holder::{Access, Refusal, SessionHolder, SessionState, Waiting};
use agentkeys::core::problem::{Code, Problem};
use agentkeys::core::token::RenewalSecret;
use agentkeys::core::types::ChildKeys;
use agentkeys::core::wire::Route;
use agentkeys::core::{cbor, encoding};
use serde_json::{Value, json};

use crate::env::{HOUR, Master, TestEnv, code, id, scope, service};
use crate::keeper_support::{
    Daemon, Liar, ada, approve, approve_as, approve_with, deny, env_now, fetch, until,
};

const KEY: &[u8] = b"sk-or-v1-test";

async fn paired(env: &TestEnv) -> (Master, Liar, Daemon) {
    let ada = ada(env).await;
    ada.store("bot", "github", b"ghp_test").await;
    ada.store("bot", "stripe", b"sk_test").await;
    let liar = Liar::before(env.address()).await;
    let daemon = Daemon::start(liar.address, &["--services", "openrouter"]).await;
    daemon.pair(&ada, Some("bot")).await;
    assert_eq!(daemon.read("openrouter").await, Ok(KEY.to_vec()));
    (ada, liar, daemon)
}

async fn wishes(daemon: &Daemon, name: &str) -> Waiting {
    let reason = "to read issues".parse().unwrap();
    match daemon.holder.request_access(&service(name), Some(&reason)).await {
        Ok(Access::Waiting(waiting)) => waiting,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn problem<T: std::fmt::Debug>(held: Result<T, Refusal>) -> Problem {
    match held {
        Err(Refusal::Problem(problem)) => problem,
        other => panic!("{other:?}"),
    }
}

/// Waits until the agent's own request is over.
async fn is_over(daemon: &Daemon) {
    until("its own request is over", async || {
        let standing = daemon.holder.standing().await.unwrap();
        matches!(standing.session, SessionState::Paired { asks: None, .. })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wider_scope_is_asked_for_and_obeyed_at_the_next_read() {
    let env = env_now().await;
    let (ada, _liar, daemon) = paired(&env).await;
    assert_eq!(problem(daemon.read("github").await).code, Code::Denied);
    let waiting = wishes(&daemon, "github").await;
    assert_eq!(wishes(&daemon, "github").await, waiting, "the same wish is the same request");
    approve(&ada, &waiting).await.unwrap();
    // Without a word from the daemon: it is the backend that decides.
    assert_eq!(daemon.read("github").await, Ok(b"ghp_test".to_vec()));
    is_over(&daemon).await;
    let again = daemon.holder.request_access(&service("github"), None).await;
    assert_eq!(again, Ok(Access::Allowed));
    assert_eq!(problem(daemon.read("stripe").await).code, Code::Denied);
    // It outlives the session, and the daemon.
    env.clock.advance(5 * HOUR);
    assert_eq!(daemon.read("github").await, Ok(b"ghp_test".to_vec()));
    let daemon = daemon.restart().await;
    assert_eq!(daemon.read("github").await, Ok(b"ghp_test".to_vec()));
    assert_eq!(daemon.read("openrouter").await, Ok(KEY.to_vec()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_wish_goes_with_the_first_and_a_narrower_grant_is_taken() {
    let env = env_now().await;
    let (ada, _liar, daemon) = paired(&env).await;
    let first = wishes(&daemon, "github").await;
    let both = wishes(&daemon, "stripe").await;
    assert_ne!(first.pair_code, both.pair_code);
    let shown = fetch(&ada, &both).await.unwrap();
    let text = String::from_utf8_lossy(&shown.details).into_owned();
    for name in ["github", "openrouter", "stripe"] {
        assert!(text.contains(name), "{text}");
    }
    let only = Grant { scope: Some(scope(&["openrouter", "stripe"])), ..Grant::default() };
    approve_with(&ada, &both, only).await.unwrap();
    is_over(&daemon).await;
    let standing = daemon.holder.standing().await.unwrap();
    assert!(matches!(standing.session, SessionState::Paired { refused: None, .. }), "{standing:?}");
    assert_eq!(daemon.read("stripe").await, Ok(b"sk_test".to_vec()));
    assert_eq!(daemon.read("openrouter").await, Ok(KEY.to_vec()));
    assert_eq!(problem(daemon.read("github").await).code, Code::Denied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wish_that_is_denied_is_told_once_and_the_session_goes_on() {
    let env = env_now().await;
    let (ada, _liar, daemon) = paired(&env).await;
    let waiting = wishes(&daemon, "github").await;
    deny(&ada, &waiting).await.unwrap();
    is_over(&daemon).await;
    assert_eq!(daemon.read("openrouter").await, Ok(KEY.to_vec()), "reads are not in its way");
    let told = problem(daemon.holder.request_access(&service("github"), None).await);
    assert_eq!(told.detail, "access denied: the master said no");
    let next = wishes(&daemon, "github").await;
    assert_ne!(next.pair_code, waiting.pair_code);
}

/// What the backend says the agent is stands in the request that its person is shown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lies_about_a_wish_are_refused() {
    let env = env_now().await;
    let (ada, liar, daemon) = paired(&env).await;
    liar.lies(|passing| {
        if passing.answers(Route::IdentityResolve) {
            passing.edit(|json| json["wallet"] = format!("0x{}", "12".repeat(20)).into());
        }
    });
    let told = problem(daemon.holder.request_access(&service("github"), None).await);
    assert!(told.cause.contains("another agent than the one that asked"), "{}", told.cause);
    liar.lies(|passing| {
        if passing.answers(Route::AuthRequestAwait) {
            passing.edit(|json| json["granted"]["scope"] = json!({"read_only": false}));
        }
    });
    let waiting = wishes(&daemon, "github").await;
    approve(&ada, &waiting).await.unwrap();
    is_over(&daemon).await;
    let told = problem(daemon.holder.request_access(&service("stripe"), None).await);
    assert!(told.cause.contains("wider than what was asked for"), "{}", told.cause);
    liar.is_honest();
    assert_eq!(daemon.read("openrouter").await, Ok(KEY.to_vec()));
}

/// What a mirror holds, where no keyring seals it.
fn opened(mirror: &[u8]) -> (ChildKeys, RenewalSecret) {
    let mirror: Value = serde_json::from_slice(mirror).unwrap();
    let keys = serde_json::from_value(mirror["open"]["keys"].clone()).unwrap();
    let secrets = encoding::from_base64("secrets", mirror["secrets"].as_str().unwrap()).unwrap();
    let secrets: BTreeMap<String, String> = cbor::from_canonical(&secrets).unwrap();
    (keys, RenewalSecret::parse(&secrets["renewal"]).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_keys_end_what_the_old_ones_had_and_a_restart_goes_on_with_them() {
    let env = env_now().await;
    let (ada, liar, daemon) = paired(&env).await;
    let (old, secret) = opened(&daemon.mirror().unwrap());
    let waiting = daemon.holder.rotate().await.unwrap();
    assert_eq!(daemon.holder.rotate().await, Ok(waiting.clone()));
    assert_eq!(daemon.read("openrouter").await, Ok(KEY.to_vec()), "until it is approved");
    approve(&ada, &waiting).await.unwrap();
    until("it has new keys", async || opened(&daemon.mirror().unwrap()).0 != old).await;
    assert_eq!(daemon.read("openrouter").await, Ok(KEY.to_vec()));
    assert_eq!(problem(daemon.read("github").await).code, Code::Denied, "the scope stays");
    let (new, _) = opened(&daemon.mirror().unwrap());
    let known = ada.backend.list_agents(&ada.session).await.unwrap()[0].daemon.clone().unwrap();
    assert_eq!(known.fingerprint, new.fingerprint());
    let answer = env.http().renew_session(&secret).await;
    assert_eq!(code(answer), Code::Denied);
    let daemon = daemon.restart().await;
    assert_eq!(daemon.read("openrouter").await, Ok(KEY.to_vec()));
    // Denied, nothing changes.
    let waiting = daemon.holder.rotate().await.unwrap();
    let before = daemon.mirror();
    deny(&ada, &waiting).await.unwrap();
    is_over(&daemon).await;
    assert_eq!(daemon.mirror(), before);
    assert_eq!(problem(daemon.holder.rotate().await).code, Code::Denied);
    // Lied to, neither: what it asked for is the liar's word against the master's signature.
    let waiting = daemon.holder.rotate().await.unwrap();
    liar.lies(|passing| {
        if passing.answers(Route::RendezvousPoll) {
            passing.edit(|json| json["payload"] = encoding::to_base64(&[1; 200]).into());
        }
    });
    approve(&ada, &waiting).await.unwrap();
    is_over(&daemon).await;
    assert_eq!(daemon.mirror(), before);
    liar.is_honest();
    // The old session ended all the same: it says so, and is recovered by its master.
    let told = daemon.refuses().await;
    assert!(told.pair_again, "{told}");
    daemon.pair(&ada, None).await;
    assert_eq!(daemon.read("openrouter").await, Ok(KEY.to_vec()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_revoked_while_it_waits_is_told_and_its_request_ends() {
    let env = env_now().await;
    let (ada, _liar, daemon) = paired(&env).await;
    // The wish first: who was recovered has all that the agent has.
    for rotates in [false, true] {
        let waiting = match rotates {
            true => daemon.holder.rotate().await.unwrap(),
            false => wishes(&daemon, "github").await,
        };
        let target = RevokeTarget::Agent(id("bot"));
        ada.backend.revoke_session(&ada.session, target).await.unwrap();
        let told = daemon.refuses().await;
        assert!(told.detail.contains("was revoked"), "{told}");
        is_over(&daemon).await;
        assert_eq!(code(approve(&ada, &waiting).await), Code::Denied);
        ada.backend.reinstate_agent(&ada.session, &id("bot")).await.unwrap();
        assert!(daemon.refuses().await.pair_again);
        daemon.pair(&ada, None).await;
        assert_eq!(daemon.read("openrouter").await, Ok(KEY.to_vec()));
    }
}

/// Whose agent was deleted asks for a new one: as the one that is no more, nobody could approve
/// it. Its master stays the one that it knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_whose_agent_was_deleted_asks_its_own_master_for_another() {
    let env = env_now().await;
    let (ada, _liar, daemon) = paired(&env).await;
    let mallory = env.master("mallory").await;
    let before = daemon.holder.standing().await.unwrap();
    ada.backend.teardown_agent(&ada.session, &id("bot")).await.unwrap();
    ada.agent("next").await;
    ada.store("next", "openrouter", b"sk-next").await;
    let waiting = daemon.asks().await;
    assert_eq!(waiting.kind, Kind::Pair);
    assert_eq!(waiting.because.as_ref().unwrap().code, Code::Unauthorized);
    // A stranger has the code: the daemon still knows whose it was.
    approve(&mallory, &waiting).await.unwrap();
    until("it was answered", async || daemon.log().contains("is not the pinned one")).await;
    let waiting = daemon.asks().await;
    assert!(waiting.because.as_ref().unwrap().cause.contains("is not the pinned one"));
    approve_as(&ada, &waiting, Some("next")).await.unwrap();
    daemon.paired().await;
    assert_eq!(daemon.read("openrouter").await, Ok(b"sk-next".to_vec()));
    let after = daemon.holder.standing().await.unwrap();
    assert_ne!(after.agent, before.agent);
    assert_eq!(after.account, before.account);
    let daemon = daemon.restart().await;
    assert_eq!(daemon.read("openrouter").await, Ok(b"sk-next".to_vec()));
}
