//! Stage 4, pairing: the real daemon, a backend with a clock that can be moved, and masters at
//! its socket.
use std::time::{Duration, Instant};

use agentkeys::core::backend::Grant;
use agentkeys::core::pin::Fingerprint;
use agentkeys::core::problem::{Answer, Code};
use agentkeys::core::types::RequestId;
use serde_json::{Value, json};

use crate::daemon_process::Daemon;
use crate::env::{Master, TestEnv, refused};
use crate::home::Home;

/// A code is good this long without being fetched.
const CODE_MS: u64 = 5 * 60 * 1000;
/// Longest that a daemon takes to notice what happened at the backend, long poll and all.
const NOTICED: Duration = Duration::from_secs(40);

/// A daemon at that backend, in a home of its own.
pub fn daemon_at(env: &TestEnv, home: &Home, args: &[&str]) -> Daemon {
    let backend = format!("http://{}", env.address());
    let mut all = vec!["--backend", &backend];
    all.extend(args);
    let mut daemon = Daemon::start(home, &all);
    daemon.initialize();
    daemon
}

/// What a tool answered with while it waits for a person: code and OTP.
#[track_caller]
pub fn asked(answer: &Value) -> (String, String) {
    let content = &answer["structuredContent"];
    assert_eq!(content["status"], "waiting_for_approval", "{answer}");
    let word = |field: &str| content[field].as_str().unwrap().to_owned();
    (word("pair_code"), word("otp"))
}

/// Approves a code as a person does: looks, compares, says yes.
pub async fn approve(master: &Master, code: &str, otp: &str, grant: Grant) -> Answer<RequestId> {
    let code = code.parse().expect("a pair code");
    let fetched = master.backend.fetch_auth_request(&master.session, code).await?;
    assert_eq!(fetched.otp.to_string(), otp, "both sides show the same digits");
    let seen = Some(fetched.seen_hash());
    master.backend.approve_auth_request(&master.session, fetched.id, seen, grant).await?;
    Ok(fetched.id)
}

/// Calls a tool until it gives what is wanted.
#[track_caller]
pub fn until(
    daemon: &mut Daemon,
    tool: &str,
    args: Value,
    wanted: impl Fn(&Value) -> bool,
) -> Value {
    let begun = Instant::now();
    loop {
        let answer = daemon.call(tool, args.clone());
        if wanted(&answer) {
            return answer;
        }
        assert!(begun.elapsed() < NOTICED, "{answer}\n{}", daemon.stderr());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Its MCP client is gone: it ends by itself.
pub fn leave(mut daemon: Daemon) {
    daemon.hang_up();
    assert_eq!(daemon.wait_exit(), 0);
}

pub fn is_ok(answer: &Value) -> bool {
    answer["isError"] == json!(false)
}

pub fn text(answer: &Value) -> &str {
    answer["content"][0]["text"].as_str().unwrap()
}

/// What the first call of an unpaired daemon asks for.
#[track_caller]
pub fn first_call(daemon: &mut Daemon) -> (String, String) {
    asked(&daemon.call("get_credential", json!({ "service": "openrouter" })))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn full_loop() {
    let (env, home) = (TestEnv::new().await, Home::new());
    let master = env.master("alice").await;
    let mut daemon = daemon_at(&env, &home, &["--agent", "my-bot"]);
    let (code, otp) = first_call(&mut daemon);
    approve(&master, &code, &otp, Grant::default()).await.unwrap();
    master.store("my-bot", "openrouter", b"sk-or-v1-paired").await;
    let args = json!({ "service": "openrouter" });
    let answer = until(&mut daemon, "get_credential", args, is_ok);
    assert_eq!(answer["structuredContent"]["credential"], "sk-or-v1-paired");
    // On stderr stand both, for whoever reads that, in its own time.
    let begun = Instant::now();
    let stands = |part: &str| daemon.stderr().contains(part);
    while ![code.as_str(), otp.as_str(), "paired with account"].into_iter().all(stands) {
        assert!(begun.elapsed() < NOTICED, "{}", daemon.stderr());
        std::thread::sleep(Duration::from_millis(10));
    }
    // The first answer says whose it is now, and no later one does.
    let account = Fingerprint::of(master.account, &master.master_key).to_string();
    let said = |answer: &Value| answer["content"].to_string().contains(&account);
    assert!(said(&answer), "{answer}");
    assert!(!said(&daemon.call("list_credentials", json!({}))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn otp_matches() {
    let (env, home) = (TestEnv::new().await, Home::new());
    let url = format!("http://{}", env.address());
    let mut daemon = daemon_at(&env, &home, &[]);
    let (code, otp) = first_call(&mut daemon);
    // The same digits at the command line, which a wrong one does not get past.
    let person = Home::new();
    person.run(&["init", "--backend", &url, "--mock-token", "alice"]).exits(0);
    let wrong = if otp == "000000" { "000001" } else { "000000" };
    person.run(&["approve", &code, "--backend", &url, "--yes", "--otp", wrong]).exits(3).says(&otp);
    person
        .run(&["approve", &code, "--backend", &url, "--yes", "--otp", &otp])
        .exits(0)
        .says(&format!("OTP        {otp}"));
    until(&mut daemon, "list_credentials", json!({}), is_ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn timeout_retry() {
    let (env, home) = (TestEnv::new().await, Home::new());
    let master = env.master("alice").await;
    let mut daemon = daemon_at(&env, &home, &[]);
    let (code, _) = first_call(&mut daemon);
    // Asked again while it holds: the same.
    assert_eq!(first_call(&mut daemon).0, code);
    env.clock.advance(CODE_MS + 1000);
    let list = |answer: &Value| answer["structuredContent"]["pair_code"] != json!(code);
    let answer = until(&mut daemon, "list_credentials", json!({}), list);
    let (fresh, otp) = asked(&answer);
    approve(&master, &fresh, &otp, Grant::default()).await.unwrap();
    until(&mut daemon, "list_credentials", json!({}), is_ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn wrong_pair_code() {
    let (env, home) = (TestEnv::new().await, Home::new());
    let master = env.master("alice").await;
    let mut daemon = daemon_at(&env, &home, &[]);
    let (code, otp) = first_call(&mut daemon);
    let mut other: Vec<char> = code.chars().collect();
    other[0] = if other[0] == '0' { '1' } else { '0' };
    let other: String = other.into_iter().collect();
    let refusal = refused(approve(&master, &other, &otp, Grant::default()).await);
    assert_eq!(refusal.code, Code::NoMatch);
    // It cost the honest one nothing.
    approve(&master, &code, &otp, Grant::default()).await.unwrap();
    until(&mut daemon, "list_credentials", json!({}), is_ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn expired_code() {
    let (env, home) = (TestEnv::new().await, Home::new());
    let url = format!("http://{}", env.address());
    let person = Home::new();
    person.run(&["init", "--backend", &url, "--mock-token", "alice"]).exits(0);
    let mut daemon = daemon_at(&env, &home, &[]);
    let (code, otp) = first_call(&mut daemon);
    env.clock.advance(CODE_MS + 60_000);
    let ran = person.run(&["approve", &code, "--backend", &url, "--yes", "--otp", &otp]).exits(5);
    for part in ["360 s old", "holds for 300 s"] {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn replay_resistance() {
    let (env, home) = (TestEnv::new().await, Home::new());
    let master = env.master("alice").await;
    let mut daemon = daemon_at(&env, &home, &[]);
    let (code, otp) = first_call(&mut daemon);
    let id = approve(&master, &code, &otp, Grant::default()).await.unwrap();
    until(&mut daemon, "list_credentials", json!({}), is_ok);
    // The code, and the request's id, are worth nothing any more.
    let again = refused(approve(&master, &code, &otp, Grant::default()).await);
    assert_eq!(again.code, Code::AlreadyConsumed, "{again:?}");
    let by_id = master.backend.approve_auth_request(&master.session, id, None, Grant::default());
    assert_eq!(refused(by_id.await).code, Code::AlreadyConsumed);
    assert_eq!(master.backend.list_agents(&master.session).await.unwrap().len(), 1);
    // Nor does another daemon get anything by the same mirror's spent past: it goes on with it.
    leave(daemon);
    let mut next = daemon_at(&env, &home, &[]);
    until(&mut next, "list_credentials", json!({}), is_ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn wrong_user_approve() {
    let (env, home) = (TestEnv::new().await, Home::new());
    let (alice, bob) = (env.master("alice").await, env.master("bob").await);
    let mut daemon = daemon_at(&env, &home, &[]);
    let (code, otp) = first_call(&mut daemon);
    let pair_code = code.parse().unwrap();
    let fetched = alice.backend.fetch_auth_request(&alice.session, pair_code).await.unwrap();
    // Alice has looked: it is hers to answer for a minute.
    let grant = Grant::default();
    let stolen = bob.backend.approve_auth_request(&bob.session, fetched.id, None, grant);
    assert_eq!(refused(stolen.await).code, Code::Unauthorized);
    approve(&alice, &code, &otp, Grant::default()).await.unwrap();
    until(&mut daemon, "list_credentials", json!({}), is_ok);
    assert!(bob.backend.list_agents(&bob.session).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_daemon_whose_agent_was_deleted_asks_to_be_a_new_one() {
    let (env, home) = (TestEnv::new().await, Home::new());
    let master = env.master("alice").await;
    let mut daemon = daemon_at(&env, &home, &["--agent", "my-bot"]);
    let (code, otp) = first_call(&mut daemon);
    approve(&master, &code, &otp, Grant::default()).await.unwrap();
    let listed = until(&mut daemon, "list_credentials", json!({}), is_ok);
    let agent = crate::env::id("my-bot");
    master.backend.teardown_agent(&master.session, &agent).await.unwrap();
    let (code, otp) = first_call(&mut daemon);
    approve(&master, &code, &otp, Grant::default()).await.unwrap();
    let anew = until(&mut daemon, "list_credentials", json!({}), is_ok);
    let wallet = |answer: &Value| answer["structuredContent"]["agent"].clone();
    assert_ne!(wallet(&anew), wallet(&listed));
    assert_eq!(master.backend.list_agents(&master.session).await.unwrap().len(), 1);
}
