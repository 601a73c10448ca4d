//! Stage 4, recovery: the sandbox died, and the agent goes on in another one.
use agentkeys::core::backend::{AgentSummary, Grant};
use agentkeys::core::problem::Code;
use serde_json::json;

use crate::daemon_process::Daemon;
use crate::env::{Master, TestEnv, refused};
use crate::home::Home;
use crate::pair::{approve, asked, daemon_at, first_call, is_ok, leave, text, until};

/// A daemon of a new agent with that name and a credential, and what the master sees of it.
async fn paired(env: &TestEnv, home: &Home, master: &Master) -> (Daemon, AgentSummary) {
    let mut daemon = daemon_at(env, home, &["--agent", "my-bot"]);
    let (code, otp) = first_call(&mut daemon);
    approve(master, &code, &otp, Grant::default()).await.unwrap();
    master.store("my-bot", "openrouter", b"sk-or-v1-kept").await;
    until(&mut daemon, "get_credential", json!({ "service": "openrouter" }), is_ok);
    let agents = master.backend.list_agents(&master.session).await.unwrap();
    (daemon, agents.into_iter().next().expect("there is one"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn full_loop() {
    let (env, home, elsewhere) = (TestEnv::new().await, Home::new(), Home::new());
    let master = env.master("alice").await;
    let (daemon, before) = paired(&env, &home, &master).await;
    // Killed, without a last word.
    drop(daemon);
    let mut next = daemon_at(&env, &elsewhere, &["--recover", "my-bot"]);
    let (code, otp) = first_call(&mut next);
    approve(&master, &code, &otp, Grant::default()).await.unwrap();
    let args = json!({ "service": "openrouter" });
    let answer = until(&mut next, "get_credential", args, is_ok);
    assert_eq!(answer["structuredContent"]["credential"], "sk-or-v1-kept");
    let after = master.backend.list_agents(&master.session).await.unwrap();
    assert_eq!(after.len(), 1, "the same agent, and no other");
    assert_eq!((after[0].wallet, &after[0].scope), (before.wallet, &before.scope));
    assert_ne!(after[0].daemon, before.daemon, "with the new daemon's keys");
    // Started again with the same line, as an MCP client does, it asks nobody.
    leave(next);
    let mut again = daemon_at(&env, &elsewhere, &["--recover", "my-bot"]);
    until(&mut again, "get_credential", json!({ "service": "openrouter" }), is_ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn unknown_identity() {
    let (env, home) = (TestEnv::new().await, Home::new());
    let url = format!("http://{}", env.address());
    let person = Home::new();
    person.run(&["init", "--backend", &url, "--mock-token", "alice"]).exits(0);
    let mut daemon = daemon_at(&env, &home, &["--recover", "no-such-bot"]);
    let (code, otp) = first_call(&mut daemon);
    person
        .run(&["approve", &code, "--backend", &url, "--yes", "--otp", &otp])
        .exits(4)
        .says("no-such-bot")
        .says("agentkeys list");
    let master = env.master("alice").await;
    let fetched = master.backend.fetch_auth_request(&master.session, code.parse().unwrap()).await;
    assert_eq!(refused(fetched).code, Code::AgentNotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn old_pubkey_revoked() {
    let (env, home, elsewhere) = (TestEnv::new().await, Home::new(), Home::new());
    let master = env.master("alice").await;
    let (mut old, _) = paired(&env, &home, &master).await;
    let mut new = daemon_at(&env, &elsewhere, &["--recover", "my-bot"]);
    let (code, otp) = first_call(&mut new);
    approve(&master, &code, &otp, Grant::default()).await.unwrap();
    until(&mut new, "list_credentials", json!({}), is_ok);
    // The old one gets nothing, and says why.
    let answer = old.call("get_credential", json!({ "service": "openrouter" }));
    assert!(!is_ok(&answer), "{answer}");
    for part in ["was ended", "approved a Recover"] {
        assert!(text(&answer).contains(part), "{part}: {}", text(&answer));
    }
    // Nor does it when it is started again: all that it can do is ask, with the reason.
    leave(old);
    let mut old = daemon_at(&env, &home, &["--agent", "my-bot"]);
    let answer = old.call("get_credential", json!({ "service": "openrouter" }));
    asked(&answer);
    assert!(text(&answer).contains("was ended"), "{}", text(&answer));
    // And the new one is not disturbed.
    let args = json!({ "service": "openrouter" });
    assert!(is_ok(&new.call("get_credential", args)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn credentials_intact() {
    let (env, home, elsewhere) = (TestEnv::new().await, Home::new(), Home::new());
    let master = env.master("alice").await;
    let (daemon, _) = paired(&env, &home, &master).await;
    master.store("my-bot", "github", b"ghp_kept_too").await;
    let agent = crate::env::id("my-bot");
    let before = master.backend.list_credentials(&master.session, &agent).await.unwrap();
    // Killed, without a last word.
    drop(daemon);
    let mut next = daemon_at(&env, &elsewhere, &["--recover", "my-bot"]);
    let (code, otp) = first_call(&mut next);
    approve(&master, &code, &otp, Grant::default()).await.unwrap();
    for (service, secret) in [("openrouter", "sk-or-v1-kept"), ("github", "ghp_kept_too")] {
        let answer = until(&mut next, "get_credential", json!({ "service": service }), is_ok);
        assert_eq!(answer["structuredContent"]["credential"], secret);
    }
    let after = master.backend.list_credentials(&master.session, &agent).await.unwrap();
    assert_eq!(after, before);
}
