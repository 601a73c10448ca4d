//! Credentials: stored, released, denied, rolled back, deleted.
use agentkeys::core::audit::{Action, Outcome};
use agentkeys::core::backend::{MAX_CREDENTIAL, RevokeTarget};
use agentkeys::core::problem::Code;
use agentkeys::core::scope::{MAX_SERVICES, Scope};
use agentkeys::core::types::WalletAddress;

use crate::env::{MINUTE, Master, START, TestEnv, code, id, refused, scope, service};

const READ: (Action, Outcome) = (Action::Read, Outcome::Allowed);
const READ_DENIED: (Action, Outcome) = (Action::Read, Outcome::Denied);
const STORE: (Action, Outcome) = (Action::Store, Outcome::Allowed);
const STORE_DENIED: (Action, Outcome) = (Action::Store, Outcome::Denied);

/// A master with `my-agent`, which has `openrouter`.
async fn provisioned(env: &TestEnv) -> Master {
    let alice = env.master("alice").await;
    alice.agent("my-agent").await;
    alice.store("my-agent", "openrouter", b"sk-or-v1-test").await;
    alice
}

async fn revoke(alice: &Master, agent: &str) {
    let target = RevokeTarget::Agent(id(agent));
    alice.backend.revoke_session(&alice.session, target).await.expect("it is revoked");
}

#[tokio::test]
async fn store_valid() {
    let env = TestEnv::new().await;
    let alice = provisioned(&env).await;
    let list =
        alice.backend.list_credentials(&alice.session, &id("my-agent")).await.expect("a list");
    assert_eq!(list.len(), 1);
    assert_eq!((list[0].service.as_str(), list[0].version, list[0].kept), ("openrouter", 1, 0));
    assert_eq!(list[0].stored_at, START);
    assert_eq!(alice.acts_after(2).await, [STORE]);
}

#[tokio::test]
async fn store_duplicate() {
    let env = TestEnv::new().await;
    let alice = provisioned(&env).await;
    env.clock.advance(MINUTE);
    alice.store("my-agent", "OpenRouter", b"sk-2").await;
    assert_eq!(alice.read("my-agent", "openrouter").await, b"sk-2");
    let list =
        alice.backend.list_credentials(&alice.session, &id("my-agent")).await.expect("a list");
    assert_eq!(list.len(), 1, "it replaces");
    assert_eq!((list[0].version, list[0].kept), (2, 1));
    assert_eq!(list[0].stored_at, START.plus_ms(MINUTE));
}

#[tokio::test]
async fn read_valid() {
    let env = TestEnv::new().await;
    let alice = provisioned(&env).await;
    assert_eq!(alice.read("my-agent", "openrouter").await, b"sk-or-v1-test");
    let child = alice.child("my-agent", scope(&["openrouter"])).await;
    assert_eq!(child.read("my-agent", "openrouter").await, b"sk-or-v1-test");
    let every_byte: Vec<u8> = (0..=255).collect();
    alice.store("my-agent", "binary", &every_byte).await;
    assert_eq!(alice.read("my-agent", "binary").await, every_byte);
    let events = alice.events().await;
    let reads: Vec<_> = events.iter().filter(|e| e.action == Action::Read).collect();
    assert_eq!(reads.len(), 3);
    assert_eq!(reads[1].by.session, Some(child.session_id));
    assert_eq!(reads[1].agent, Some(child.wallet));
    assert_eq!(reads[1].service, Some(service("openrouter")));
}

#[tokio::test]
async fn read_wrong_agent() {
    let env = TestEnv::new().await;
    let alice = provisioned(&env).await;
    alice.agent("other").await;
    alice.store("other", "anthropic", b"sk-ant").await;
    let child = alice.child("my-agent", Scope::everything()).await;
    let before = alice.events().await.len();
    // Another agent by name, and a service that only another agent was given.
    let by_name = refused(child.try_read("other", "anthropic").await);
    let not_given = refused(child.try_read("my-agent", "anthropic").await);
    // The master who asks for the wrong agent is denied too.
    let by_master = refused(alice.try_read("my-agent", "anthropic").await);
    for problem in [by_name, not_given, by_master] {
        assert_eq!((problem.code, problem.status), (Code::Denied, 403));
    }
    assert_eq!(alice.acts_after(before).await, [READ_DENIED; 3]);
    let events = alice.events().await;
    assert_eq!(events[before].by.session, Some(child.session_id));
    assert_eq!(events[before].agent, Some(child.wallet));
    assert_eq!(events[before].service, Some(service("anthropic")));
    assert_eq!(alice.read("other", "anthropic").await, b"sk-ant");
}

#[tokio::test]
async fn read_not_provisioned() {
    let env = TestEnv::new().await;
    let alice = provisioned(&env).await;
    let child = alice.child("my-agent", Scope::everything()).await;
    let narrow = alice.child("my-agent", scope(&["openrouter"])).await;
    let before = alice.events().await.len();
    for who in [&alice, &child, &narrow] {
        let problem = refused(who.try_read("my-agent", "nobody-has-it").await);
        assert_eq!((problem.code, problem.status), (Code::NotFound, 404));
        assert!(problem.fix.contains("agentkeys store my-agent nobody-has-it"));
    }
    assert_eq!(alice.acts_after(before).await, [], "nothing was denied");
}

#[tokio::test]
async fn teardown() {
    let env = TestEnv::new().await;
    let alice = provisioned(&env).await;
    alice.agent("other").await;
    alice.store("other", "openrouter", b"sk-2").await;
    for n in 0..7 {
        alice.store("my-agent", "openrouter", format!("sk-{n}").as_bytes()).await;
    }
    alice
        .backend
        .link_identity(&alice.session, &id("my-agent"), &id("a@b.example"))
        .await
        .expect("it is linked");
    let child = alice.child("my-agent", Scope::everything()).await;
    let minted = alice.mint("my-agent", Scope::everything()).await;
    alice.backend.teardown_agent(&alice.session, &id("my-agent")).await.expect("it is deleted");

    let wallet = child.wallet.to_string();
    for named in ["my-agent", "a@b.example", &wallet] {
        let problem = refused(alice.try_read(named, "openrouter").await);
        assert_eq!((problem.code, problem.status), (Code::AgentNotFound, 404));
    }
    let problem = refused(child.try_read("my-agent", "openrouter").await);
    assert_eq!((problem.code, problem.status), (Code::Unauthorized, 401));
    let renewal = minted.renewal.expect("a child has one");
    assert_eq!(code(child.backend.renew_session(&renewal).await), Code::Unauthorized);
    // C: credentials, V: versions, G: agents, S: holders, N: names.
    let left: Vec<u8> = env.rows().await.keys().map(|key| key[0]).collect();
    for (tag, most) in [(b'C', 1), (b'V', 0), (b'G', 1), (b'S', 1), (b'N', 1)] {
        let count = left.iter().filter(|one| **one == tag).count();
        assert_eq!(count, most, "rows of {}", char::from(tag));
    }
    assert_eq!(alice.read("other", "openrouter").await, b"sk-2");
    // The name is free, and what comes after has nothing of the one before.
    alice.agent("my-agent").await;
    assert_eq!(code(alice.try_read("my-agent", "openrouter").await), Code::Denied);
}

#[tokio::test]
async fn a_revoked_agents_reads_are_denied_for_everyone_with_when_and_by_whom() {
    let env = TestEnv::new().await;
    let alice = provisioned(&env).await;
    let child = alice.child("my-agent", Scope::everything()).await;
    env.clock.advance(90 * 1000);
    revoke(&alice, "my-agent").await;
    env.clock.advance(MINUTE);
    let before = alice.events().await.len();
    let when = START.plus_ms(90 * 1000).for_people();
    let cause = format!("revoked {when} by the master session on host \"laptop\"");
    for who in [&alice, &child] {
        let one = refused(who.try_read("my-agent", "openrouter").await);
        let all = refused(who.backend.read_all(&who.session, &id("my-agent")).await);
        for problem in [one, all] {
            assert_eq!((problem.code, problem.status), (Code::Denied, 403));
            assert_eq!(problem.detail, "access denied: agent \"my-agent\" was revoked");
            assert_eq!(problem.cause, cause);
            assert!(problem.fix.contains("agentkeys reinstate my-agent"));
        }
        let store = refused(who.try_store("my-agent", "openrouter", b"x").await);
        assert_eq!(store.code, Code::Denied);
    }
    let denied = alice.acts_after(before).await;
    let each = [READ_DENIED, READ_DENIED, STORE_DENIED];
    assert_eq!(denied, [each, each].concat());
    // Revoking again neither moves the time nor writes an event.
    env.clock.advance(MINUTE);
    revoke(&alice, "my-agent").await;
    assert_eq!(refused(alice.try_read("my-agent", "openrouter").await).cause, cause);
}

#[tokio::test]
async fn reinstate_gives_back_the_right_and_no_session() {
    let env = TestEnv::new().await;
    let alice = provisioned(&env).await;
    let child = alice.child("my-agent", Scope::everything()).await;
    let unused = alice.mint("my-agent", Scope::everything()).await;
    revoke(&alice, "my-agent").await;
    let made = alice
        .backend
        .create_child_session(&alice.session, Some(&id("my-agent")), Scope::everything())
        .await;
    assert_eq!(code(made), Code::Denied, "a revoked agent gets no session");
    let by_child = child.backend.reinstate_agent(&child.session, &id("my-agent")).await;
    assert_eq!(code(by_child), Code::Denied);
    alice.backend.reinstate_agent(&alice.session, &id("my-agent")).await.expect("it is back");
    assert_eq!(alice.read("my-agent", "openrouter").await, b"sk-or-v1-test");
    for session in [&child.session, &unused.session] {
        let read =
            child.backend.read_credential(session, &id("my-agent"), &service("openrouter")).await;
        assert_eq!(code(read), Code::Denied);
    }
    let renewal = unused.renewal.expect("a child has one");
    assert_eq!(code(child.backend.renew_session(&renewal).await), Code::Denied);
    let fresh = alice.child("my-agent", Scope::everything()).await;
    assert_eq!(fresh.read("my-agent", "openrouter").await, b"sk-or-v1-test");
}

#[tokio::test]
async fn a_scope_is_what_a_child_reads_and_stores() {
    let env = TestEnv::new().await;
    let alice = provisioned(&env).await;
    alice.store("my-agent", "anthropic", b"sk-ant").await;
    let none = alice.child("my-agent", scope(&[])).await;
    let one = alice.child("my-agent", scope(&["anthropic"])).await;
    let all = alice.child("my-agent", Scope::everything()).await;
    let reader = alice
        .child("my-agent", Scope { services: None, read_only: true, ..Scope::default() })
        .await;
    alice.store("my-agent", "later", b"sk-later").await;

    let before = alice.events().await.len();
    for name in ["openrouter", "anthropic", "later"] {
        let problem = refused(none.try_read("my-agent", name).await);
        assert_eq!(problem.code, Code::Denied);
        assert_eq!(problem.cause, "its scope is: no service");
    }
    assert_eq!(code(none.try_store("my-agent", "anthropic", b"x").await), Code::Denied);
    assert_eq!(one.read("my-agent", "anthropic").await, b"sk-ant");
    assert_eq!(code(one.try_read("my-agent", "openrouter").await), Code::Denied);
    assert_eq!(code(one.try_store("my-agent", "openrouter", b"x").await), Code::Denied);
    assert_eq!(all.read("my-agent", "later").await, b"sk-later");
    assert_eq!(reader.read("my-agent", "later").await, b"sk-later");
    let problem = refused(reader.try_store("my-agent", "later", b"x").await);
    assert_eq!(problem.code, Code::Denied);
    let expected = [
        [READ_DENIED, READ_DENIED, READ_DENIED, STORE_DENIED].as_slice(),
        &[READ, READ_DENIED, STORE_DENIED, READ, READ, STORE_DENIED],
    ];
    assert_eq!(alice.acts_after(before).await, expected.concat());

    let names = async |who: &Master| {
        let all = who.backend.read_all(&who.session, &id("my-agent")).await.expect("allowed");
        let list =
            who.backend.list_credentials(&who.session, &id("my-agent")).await.expect("allowed");
        let listed: Vec<_> = list.iter().map(|one| one.service.to_string()).collect();
        let read: Vec<_> = all.iter().map(|one| one.service.to_string()).collect();
        assert_eq!(read, listed);
        read
    };
    assert_eq!(names(&none).await, [""; 0]);
    assert_eq!(names(&one).await, ["anthropic"]);
    assert_eq!(names(&all).await, ["anthropic", "later", "openrouter"]);
    one.store("my-agent", "anthropic", b"sk-new").await;
    assert_eq!(all.read("my-agent", "anthropic").await, b"sk-new");
}

#[tokio::test]
async fn a_batch_read_has_an_event_for_each_credential() {
    let env = TestEnv::new().await;
    let alice = provisioned(&env).await;
    alice.store("my-agent", "anthropic", b"sk-ant").await;
    let before = alice.events().await.len();
    let all = alice.backend.read_all(&alice.session, &id("my-agent")).await.expect("allowed");
    let all: Vec<_> =
        all.iter().map(|one| (one.service.to_string(), one.credential.expose().to_vec())).collect();
    let expected = [("anthropic", b"sk-ant".to_vec()), ("openrouter", b"sk-or-v1-test".to_vec())];
    assert_eq!(all, expected.map(|(name, secret)| (name.to_owned(), secret)));
    let events = alice.events().await;
    let services: Vec<_> = events[before..].iter().map(|e| e.service.clone()).collect();
    assert_eq!(services, [Some(service("anthropic")), Some(service("openrouter"))]);
    assert_eq!(alice.acts_after(before).await, [READ, READ]);
}

#[tokio::test]
async fn a_child_that_names_another_agent_learns_nothing_of_it() {
    let env = TestEnv::new().await;
    let alice = provisioned(&env).await;
    let bob = env.master("bob").await;
    let foreign = bob.agent("bobs").await.wallet.to_string();
    let other = alice.agent("other").await.wallet.to_string();
    alice.store("other", "anthropic", b"sk-ant").await;
    let nowhere = WalletAddress([7; 20]).to_string();
    let child = alice.child("my-agent", Scope::everything()).await;
    let before = alice.events().await.len();
    let mut answers = Vec::new();
    let named = ["other", "no-such", &other, &nowhere, &foreign];
    for name in named {
        let (session, agent) = (&child.session, &id(name));
        let sealed = alice.seal(child.wallet, "anthropic", b"x").await;
        let backend = &child.backend;
        let texts = [
            refused(backend.read_credential(session, agent, &service("anthropic")).await),
            refused(backend.store_credential(session, agent, &service("anthropic"), sealed).await),
            refused(backend.read_all(session, agent).await),
            refused(backend.list_credentials(session, agent).await),
            refused(backend.resolve_identity(session, agent).await),
            refused(backend.teardown_agent(session, agent).await),
        ];
        let said = texts.map(|problem| {
            assert_eq!(problem.code, Code::Denied);
            serde_json::to_string(&problem).expect("a problem").replace(name, "NAME")
        });
        answers.push(said);
    }
    for answer in &answers[1..] {
        assert_eq!(*answer, answers[0]);
    }
    let each = [READ_DENIED, STORE_DENIED, READ_DENIED];
    assert_eq!(alice.acts_after(before).await, each.repeat(named.len()));
    assert!(bob.acts_after(2).await.is_empty(), "nor is it in the other account's log");
}

#[tokio::test]
async fn the_last_five_versions_are_kept_and_come_back() {
    let env = TestEnv::new().await;
    let alice = env.master("alice").await;
    alice.agent("my-agent").await;
    let roll_back = async |name| {
        alice.backend.roll_back_credential(&alice.session, &id("my-agent"), &service(name)).await
    };
    assert_eq!(code(roll_back("openrouter").await), Code::NotFound);
    alice.store("my-agent", "openrouter", b"sk-1").await;
    assert_eq!(code(roll_back("openrouter").await), Code::NotFound, "there is none before");
    for n in 2..=9 {
        alice.store("my-agent", "openrouter", format!("sk-{n}").as_bytes()).await;
    }
    let summary = roll_back("openrouter").await.expect("one before is kept");
    assert_eq!((summary.version, summary.kept), (10, 5));
    assert_eq!(alice.read("my-agent", "openrouter").await, b"sk-8");
    let versions = env.rows().await.keys().filter(|key| key[0] == b'V').count();
    assert_eq!(versions, 5, "older ones are gone from the store");
    roll_back("openrouter").await.expect("a roll-back is undone by another");
    assert_eq!(alice.read("my-agent", "openrouter").await, b"sk-9");
    let child = alice.child("my-agent", Scope::everything()).await;
    let by_child = child
        .backend
        .roll_back_credential(&child.session, &id("my-agent"), &service("openrouter"))
        .await;
    assert_eq!(code(by_child), Code::Denied);
}

#[tokio::test]
async fn a_credential_that_is_deleted_leaves_nothing_behind_and_others_untouched() {
    let env = TestEnv::new().await;
    let alice = env.master("alice").await;
    alice.agent("my-agent").await;
    let bare = env.rows().await.into_iter().filter(|(key, _)| b"CVH".contains(&key[0])).count();
    alice.store("my-agent", "github", b"ghp").await;
    alice.store("my-agent", "openrouter", b"sk-1").await;
    alice.store("my-agent", "openrouter", b"sk-2").await;
    let child = alice.child("my-agent", Scope::everything()).await;
    let delete = async |home: &Master, name| {
        home.backend.delete_credential(&home.session, &id("my-agent"), &service(name)).await
    };
    assert_eq!(code(delete(&child, "openrouter").await), Code::Denied, "a master's act");
    assert_eq!(alice.read("my-agent", "openrouter").await, b"sk-2");
    delete(&alice, "openrouter").await.expect("it is there");
    assert_eq!(code(alice.try_read("my-agent", "openrouter").await), Code::NotFound);
    assert_eq!(code(delete(&alice, "openrouter").await), Code::NotFound);
    assert_eq!(alice.read("my-agent", "github").await, b"ghp");
    delete(&alice, "github").await.expect("it is there");
    let left = env.rows().await.into_iter().filter(|(key, _)| b"CVH".contains(&key[0])).count();
    assert_eq!(left, bare, "no version and no note of who has one");
    // What is stored afterwards begins anew: no version of before comes back.
    alice.store("my-agent", "openrouter", b"sk-3").await;
    let (agent, name) = (id("my-agent"), service("openrouter"));
    let back = alice.backend.roll_back_credential(&alice.session, &agent, &name);
    assert_eq!(code(back.await), Code::NotFound);
}

#[tokio::test]
async fn a_credential_has_1_to_65536_bytes() {
    let env = TestEnv::new().await;
    let alice = provisioned(&env).await;
    let largest = vec![0xA5; MAX_CREDENTIAL];
    alice.store("my-agent", "large", &largest).await;
    assert_eq!(alice.read("my-agent", "large").await, largest);
    let too_large = alice.try_store("my-agent", "large", &vec![1; MAX_CREDENTIAL + 1]).await;
    assert_eq!(code(too_large), Code::TooLarge);
    let huge = alice.try_store("my-agent", "large", &vec![1; 4 * MAX_CREDENTIAL]).await;
    assert_eq!(code(huge), Code::TooLarge);
    assert_eq!(code(alice.try_store("my-agent", "large", b"").await), Code::Invalid);
    assert_eq!(alice.read("my-agent", "large").await, largest, "what was there stays");
}

#[tokio::test]
async fn what_is_not_sealed_for_this_very_place_is_not_stored() {
    let env = TestEnv::new().await;
    let alice = provisioned(&env).await;
    let bob = env.master("bob").await;
    let agent = alice.agent("target").await;
    let other = alice.agent("other").await;
    let sealed = alice.seal(agent.wallet, "openrouter", b"sk-1").await;
    let store = async |sealed: Vec<u8>| {
        alice
            .backend
            .store_credential(&alice.session, &id("target"), &service("openrouter"), sealed)
            .await
    };
    let mut wrong = vec![
        alice.seal(other.wallet, "openrouter", b"x").await,
        alice.seal(agent.wallet, "anthropic", b"x").await,
        bob.seal(agent.wallet, "openrouter", b"x").await,
        Vec::new(),
        b"sk-plain".to_vec(),
        sealed[..sealed.len() - 1].to_vec(),
        [&sealed[..], &[0]].concat(),
    ];
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        wrong.push(changed);
    }
    for (at, sealed) in wrong.into_iter().enumerate() {
        assert_eq!(code(store(sealed).await), Code::Invalid, "number {at}");
    }
    assert_eq!(code(alice.try_read("target", "openrouter").await), Code::Denied);
    store(sealed).await.expect("the right one is stored");
    assert_eq!(alice.read("target", "openrouter").await, b"sk-1");
}

#[tokio::test]
async fn an_agent_has_credentials_of_at_most_256_services() {
    let env = TestEnv::new().await;
    let alice = env.master("alice").await;
    alice.agent("my-agent").await;
    // Large ones, so that all of them together are more than one commit holds.
    let secret = vec![7; 20_000];
    for n in 0..MAX_SERVICES {
        alice.store("my-agent", &format!("service-{n:03}"), &secret).await;
    }
    let one_more = alice.try_store("my-agent", "one-more", b"x").await;
    assert_eq!(code(one_more), Code::Invalid);
    alice.store("my-agent", "service-000", b"replaced").await;
    let all = env.vault(crate::env::loopback());
    let all = all.read_all(&alice.session, &id("my-agent")).await.expect("all are released");
    assert_eq!(all.len(), MAX_SERVICES);
    let names: Vec<_> = (0..=MAX_SERVICES).map(|n| format!("s{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let wide = alice
        .backend
        .create_child_session(&alice.session, Some(&id("my-agent")), scope(&names))
        .await;
    assert_eq!(code(wide), Code::Invalid, "a scope names as many at most");
    alice.child("my-agent", scope(&names[1..])).await;
    alice.backend.teardown_agent(&alice.session, &id("my-agent")).await.expect("deleted");
    let left = env.rows().await.keys().filter(|key| b"CVSG".contains(&key[0])).count();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn nobody_stores_or_reads_without_a_session() {
    let env = TestEnv::new().await;
    let alice = provisioned(&env).await;
    let stranger = crate::env::unknown_token();
    let sealed = alice.seal(alice.wallet, "openrouter", b"x").await;
    let (agent, name) = (id("my-agent"), service("openrouter"));
    let before = alice.events().await.len();
    let backend = &alice.backend;
    let refusals = [
        code(backend.read_credential(&stranger, &agent, &name).await),
        code(backend.store_credential(&stranger, &agent, &name, sealed).await),
        code(backend.teardown_agent(&stranger, &agent).await),
        code(backend.list_credentials(&stranger, &agent).await),
        code(backend.who_am_i(&stranger).await),
    ];
    assert_eq!(refusals, [Code::Unauthorized; 5]);
    assert_eq!(alice.acts_after(before).await, []);
}
