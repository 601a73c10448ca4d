//! Sessions: made, narrowed, expired, revoked.
use agentkeys::core::audit::{Action, Outcome};
use agentkeys::core::backend::{ClientInfo, IdentityProof, RevokeTarget};
use agentkeys::core::problem::Code;
use agentkeys::core::scope::Scope;
use agentkeys::core::token::SessionToken;
use agentkeys::core::types::{SessionId, WalletAddress};

use crate::env::{
    DAY, HOUR, MINUTE, Master, START, TestEnv, code, copy_of, id, loopback, proof, refused, scope,
    service, unix, unknown_token,
};

#[tokio::test]
async fn create_valid() {
    let env = TestEnv::new().await;
    let alice = env.master("alice").await;
    let who = alice.backend.who_am_i(&alice.session).await.expect("the session is good");
    assert_eq!(who.session_id, alice.session_id);
    assert_eq!(who.session_id, alice.session.id());
    assert_eq!(who.wallet, alice.wallet);
    assert_eq!(who.identity, "dev:alice");
    assert_eq!(who.presence, "none");
    assert!(!who.child);
    assert!(alice.session.expose().starts_with("agkm_"));
    assert_eq!(alice.acts_after(0).await, [(Action::SessionCreate, Outcome::Allowed)]);
}

#[tokio::test]
async fn create_invalid_token() {
    let env = TestEnv::new().await;
    let long = "x".repeat(257);
    for bad in ["", " ", "a\nb", "\u{0}", "\u{7f}", "\u{9b}", &long] {
        let answer = env.backend().create_session(proof(bad), ClientInfo::default()).await;
        let problem = refused(answer);
        assert_eq!((problem.code, problem.status), (Code::Unauthorized, 401), "{bad:?}");
    }
    let longest = "x".repeat(256);
    env.master(&longest).await;
    let by_uid = env.backend().create_session(IdentityProof::Peer, ClientInfo::default()).await;
    assert_eq!(code(by_uid), Code::Unauthorized, "over TCP nobody has a uid");
}

#[tokio::test]
async fn create_existing() {
    let env = TestEnv::new().await;
    let first = env.master("alice").await;
    let again = env.master("alice").await;
    assert_eq!(first.wallet, again.wallet);
    assert_eq!(first.account, again.account);
    assert_eq!(first.master_key, again.master_key);
    assert_ne!(first.session_id, again.session_id);
    let other = env.master("bob").await;
    assert_ne!(first.wallet, other.wallet);
    assert_ne!(first.account, other.account);
}

#[tokio::test]
async fn one_identity_that_signs_in_many_times_at_once_has_one_account() {
    let env = TestEnv::new().await;
    let backend = env.backend();
    let tries = (0..32).map(|_| {
        let backend = backend.clone();
        tokio::spawn(async move { Master::sign_in(backend, "alice").await.account })
    });
    let mut accounts = Vec::new();
    for one in tries.collect::<Vec<_>>() {
        accounts.push(one.await.expect("no panic"));
    }
    accounts.dedup();
    assert_eq!(accounts.len(), 1);
    assert_eq!(env.master("alice").await.account, accounts[0]);
}

#[tokio::test]
async fn without_dev_a_test_identity_is_nobody_and_a_peers_uid_is_somebody() {
    let env = TestEnv::with_dev(false).await;
    let over_tcp = env.backend().create_session(proof("alice"), ClientInfo::default()).await;
    assert_eq!(code(over_tcp), Code::Unauthorized);
    let of = |uid| env.vault(unix(uid));
    let sign_in = async |uid| {
        let minted = of(uid).create_session(IdentityProof::Peer, ClientInfo::default()).await;
        minted.expect("the uid is a proof")
    };
    let (one, two, same) = (sign_in(1000).await, sign_in(1001).await, sign_in(1000).await);
    assert_ne!(one.wallet, two.wallet);
    assert_eq!(one.wallet, same.wallet);
    let who = of(1000).who_am_i(&one.session).await.expect("the session is good");
    assert_eq!(who.identity, "unix:1000");
}

#[tokio::test]
async fn child_valid() {
    let env = TestEnv::new().await;
    let alice = env.master("alice").await;
    let agent = alice.agent("my-agent").await;
    alice.store("my-agent", "openrouter", b"sk-1").await;
    let child = alice.child("my-agent", scope(&["openrouter"])).await;
    assert_eq!(child.wallet, agent.wallet);
    assert_eq!(child.account, alice.account);
    assert!(child.session.expose().starts_with("agkc_"));
    assert_eq!(child.read("my-agent", "openrouter").await, b"sk-1");
    let who = child.backend.who_am_i(&child.session).await.expect("the session is good");
    assert!(who.child);
    assert_eq!(who.wallet, agent.wallet);
    assert_eq!(who.expires_at, START.plus_ms(4 * HOUR));

    let new = alice
        .backend
        .create_child_session(&alice.session, None, Scope::everything())
        .await
        .expect("a new agent is made");
    assert_ne!(new.wallet, agent.wallet);
    let names = alice.backend.list_agents(&alice.session).await.expect("the list");
    assert_eq!(names.len(), 2);
}

#[tokio::test]
async fn child_invalid_parent() {
    let env = TestEnv::new().await;
    let alice = env.master("alice").await;
    alice.agent("my-agent").await;
    let of_nobody = alice
        .backend
        .create_child_session(&unknown_token(), Some(&id("my-agent")), Scope::everything())
        .await;
    let problem = refused(of_nobody);
    assert_eq!((problem.code, problem.status), (Code::Unauthorized, 401));
    let child = alice.child("my-agent", Scope::everything()).await;
    for agent in [Some(&id("my-agent")), None] {
        let of_child =
            alice.backend.create_child_session(&child.session, agent, Scope::everything()).await;
        assert_eq!(code(of_child), Code::Denied, "a child makes no children");
    }
    env.clock.advance(DAY);
    let of_expired =
        alice.backend.create_child_session(&alice.session, None, Scope::everything()).await;
    assert_eq!(code(of_expired), Code::Unauthorized);
}

#[tokio::test]
async fn revoke_valid() {
    let env = TestEnv::new().await;
    let alice = env.master("alice").await;
    alice.agent("my-agent").await;
    alice.store("my-agent", "openrouter", b"sk-1").await;
    let by_id = alice.child("my-agent", Scope::everything()).await;
    let by_token = alice.child("my-agent", Scope::everything()).await;
    let other = alice.child("my-agent", Scope::everything()).await;
    env.clock.advance(MINUTE);
    for target in
        [RevokeTarget::Session(by_id.session_id), RevokeTarget::Token(copy_of(&by_token.session))]
    {
        alice.backend.revoke_session(&alice.session, target).await.expect("it is revoked");
    }
    for child in [&by_id, &by_token] {
        let problem = refused(child.try_read("my-agent", "openrouter").await);
        assert_eq!((problem.code, problem.status), (Code::Denied, 403));
        let when = START.plus_ms(MINUTE).for_people();
        let by = "the master session on host \"laptop\"";
        assert_eq!(problem.cause, format!("revoked {when} by {by}"));
    }
    assert_eq!(other.read("my-agent", "openrouter").await, b"sk-1", "the others go on");
    assert_eq!(alice.read("my-agent", "openrouter").await, b"sk-1");
}

#[tokio::test]
async fn a_session_ends_itself_and_a_child_no_other() {
    let env = TestEnv::new().await;
    let alice = env.master("alice").await;
    alice.agent("my-agent").await;
    let one = alice.child("my-agent", Scope::everything()).await;
    let two = alice.child("my-agent", Scope::everything()).await;
    let of = |id| RevokeTarget::Session(id);
    for target in [two.session_id, alice.session_id] {
        let answer = one.backend.revoke_session(&one.session, of(target)).await;
        assert_eq!(code(answer), Code::Denied);
    }
    one.backend.revoke_session(&one.session, of(one.session_id)).await.expect("its own");
    assert_eq!(code(one.backend.who_am_i(&one.session).await), Code::Denied);
    two.backend.who_am_i(&two.session).await.expect("the other stands");

    alice.backend.revoke_session(&alice.session, of(alice.session_id)).await.expect("its own");
    let problem = refused(alice.backend.list_agents(&alice.session).await);
    assert_eq!(problem.code, Code::Denied);
    assert!(problem.fix.contains("agentkeys init"), "{}", problem.fix);
}

#[tokio::test]
async fn another_accounts_agents_and_sessions_are_not_found() {
    let env = TestEnv::new().await;
    let (alice, bob) = (env.master("alice").await, env.master("bob").await);
    let agent = alice.agent("my-agent").await;
    alice.store("my-agent", "openrouter", b"sk-1").await;
    let child = alice.child("my-agent", Scope::everything()).await;
    let nowhere = WalletAddress([7; 20]).to_string();
    for named in ["my-agent", &agent.wallet.to_string(), &nowhere] {
        let (session, named) = (&bob.session, &id(named));
        let backend = &bob.backend;
        let refusals = [
            code(backend.read_credential(session, named, &service("openrouter")).await),
            code(backend.list_credentials(session, named).await),
            code(backend.read_all(session, named).await),
            code(backend.resolve_identity(session, named).await),
            code(backend.teardown_agent(session, named).await),
            code(backend.reinstate_agent(session, named).await),
            code(backend.revoke_session(session, RevokeTarget::Agent(named.clone())).await),
            code(backend.create_child_session(session, Some(named), Scope::everything()).await),
            code(bob.try_store(&named.to_string(), "openrouter", b"x").await),
        ];
        assert_eq!(refusals, [Code::AgentNotFound; 9]);
    }
    let strangers = [child.session_id, alice.session_id, SessionId([3; 16])];
    for target in strangers.map(RevokeTarget::Session) {
        let answer = bob.backend.revoke_session(&bob.session, target).await;
        assert_eq!(code(answer), Code::NotFound);
    }
    let token = RevokeTarget::Token(copy_of(&child.session));
    assert_eq!(code(bob.backend.revoke_session(&bob.session, token).await), Code::NotFound);
    assert_eq!(child.read("my-agent", "openrouter").await, b"sk-1");
    assert!(bob.backend.list_agents(&bob.session).await.expect("the list").is_empty());
    assert_eq!(bob.acts_after(1).await, [], "what was not found is nobody's event");
}

#[tokio::test]
async fn a_child_session_lives_four_hours() {
    let env = TestEnv::new().await;
    let alice = env.master("alice").await;
    alice.agent("my-agent").await;
    alice.store("my-agent", "openrouter", b"sk-1").await;
    let child = alice.child("my-agent", Scope::everything()).await;
    env.clock.advance(4 * HOUR - 1);
    assert_eq!(child.read("my-agent", "openrouter").await, b"sk-1");
    env.clock.advance(1);
    let problem = refused(child.try_read("my-agent", "openrouter").await);
    assert_eq!((problem.code, problem.status), (Code::Unauthorized, 401), "use does not extend it");
}

#[tokio::test]
async fn a_master_session_ends_after_a_day_without_use() {
    let env = TestEnv::new().await;
    let used = env.master("alice").await;
    let unused = env.master("alice").await;
    env.clock.advance(23 * HOUR);
    used.agent("one").await;
    env.clock.advance(HOUR);
    assert_eq!(code(unused.backend.who_am_i(&unused.session).await), Code::Unauthorized);
    env.clock.advance(23 * HOUR - 1);
    let who = used.backend.who_am_i(&used.session).await.expect("used within a day");
    assert_eq!(who.expires_at, START.plus_ms(3 * DAY - HOUR - 1));
    env.clock.advance(DAY);
    assert_eq!(code(used.backend.who_am_i(&used.session).await), Code::Unauthorized);
}

#[tokio::test]
async fn a_master_session_ends_after_thirty_days_at_the_latest() {
    let env = TestEnv::new().await;
    let alice = env.master("alice").await;
    for _ in 0..59 {
        env.clock.advance(12 * HOUR);
        let who = alice.backend.who_am_i(&alice.session).await.expect("used every day");
        assert!(who.expires_at <= START.plus_ms(30 * DAY));
    }
    env.clock.advance(12 * HOUR - 1);
    alice.backend.who_am_i(&alice.session).await.expect("the last moment");
    env.clock.advance(1);
    assert_eq!(code(alice.backend.who_am_i(&alice.session).await), Code::Unauthorized);
}

#[tokio::test]
async fn a_revoked_session_says_so_until_it_is_swept_and_is_then_unknown() {
    let env = TestEnv::new().await;
    let alice = env.master("alice").await;
    alice.agent("my-agent").await;
    let child = alice.child("my-agent", Scope::everything()).await;
    let target = RevokeTarget::Session(child.session_id);
    alice.backend.revoke_session(&alice.session, target).await.expect("it is revoked");
    env.whole_vault().sweep().await.expect("a sweep");
    assert_eq!(code(child.backend.who_am_i(&child.session).await), Code::Denied);
    env.clock.advance(4 * HOUR + DAY + 1);
    while env.whole_vault().sweep().await.expect("a sweep") > 0 {}
    assert_eq!(code(child.backend.who_am_i(&child.session).await), Code::Unauthorized);
}

#[tokio::test]
async fn sessions_accounts_and_revocations_survive_a_restart() {
    let mut env = TestEnv::new().await;
    let mut alice = env.master("alice").await;
    alice.agent("kept").await;
    alice.agent("ended").await;
    alice.store("kept", "openrouter", b"sk-1").await;
    alice.store("ended", "openrouter", b"sk-2").await;
    let mut child = alice.child("kept", Scope::everything()).await;
    let target = RevokeTarget::Agent(id("ended"));
    alice.backend.revoke_session(&alice.session, target).await.expect("it is revoked");
    env.restart().await;
    alice.backend = env.backend();
    child.backend = env.backend();
    assert_eq!(alice.read("kept", "openrouter").await, b"sk-1");
    assert_eq!(child.read("kept", "openrouter").await, b"sk-1");
    assert_eq!(code(alice.try_read("ended", "openrouter").await), Code::Denied);
    assert_eq!(env.master("alice").await.account, alice.account);
    assert_eq!(alice.verify(None).await, Ok(alice.events().await.len() as u64));
}

#[tokio::test]
async fn a_token_that_differs_anywhere_is_unknown() {
    let env = TestEnv::new().await;
    let alice = env.master("alice").await;
    let vault = env.vault(loopback());
    vault.who_am_i(&alice.session).await.expect("the token is good");
    // A changed text has a wrong checksum; another token of the same kind is well formed.
    assert!(SessionToken::parse(&alice.session.expose().replace("agkm", "agkc")).is_err());
    for other in [SessionToken::master(&[0; 32]), SessionToken::child(&[0; 32])] {
        assert_eq!(code(vault.who_am_i(&other).await), Code::Unauthorized);
    }
}
