//! The audit log as its readers see it: what is in it, filters, pages, waits, heads.
use std::time::Duration;

use agentkeys::core::audit::{Action, Entry, Event, Fault, Head, Outcome};
use agentkeys::core::backend::{AuditFilter, AuditPage, RevokeTarget};
use agentkeys::core::problem::{Answer, Code};
use agentkeys::core::scope::Scope;
use agentkeys::core::types::Timestamp;

use crate::env::{BACKEND, Master, START, TestEnv, code, id, scope, service};

use Action::{
    AgentCreate, Link, Read, Reinstate, Revoke, RollBack, SessionChild, SessionCreate,
    SessionRenew, SessionRevoke, Store, Teardown, Unlink,
};
use Outcome::{Allowed, Denied};

fn events_of(page: &AuditPage) -> Vec<&Event> {
    page.events
        .iter()
        .map(|entry| match entry {
            Entry::Event(event) => &**event,
            Entry::Damaged { damaged } => panic!("event {damaged} is damaged"),
        })
        .collect()
}

async fn query(who: &Master, filter: AuditFilter) -> Answer<AuditPage> {
    who.backend.query_audit(&who.session, filter).await
}

async fn found(who: &Master, filter: AuditFilter) -> Vec<u64> {
    let page = query(who, filter).await.expect("the log is readable");
    assert_eq!(page.next, None);
    events_of(&page).iter().map(|event| event.seq).collect()
}

/// Two agents, reads of both, denials, a second apart each: ten events.
async fn busy(env: &TestEnv) -> Master {
    let alice = env.master("alice").await; // 1
    for agent in ["one", "two"] {
        env.clock.advance(1000);
        alice.agent(agent).await; // 2, 3
    }
    for (agent, name) in [("one", "openrouter"), ("two", "anthropic")] {
        env.clock.advance(1000);
        alice.store(agent, name, b"sk").await; // 4, 5
    }
    for (agent, name) in [
        ("one", "openrouter"),
        ("two", "anthropic"),
        ("one", "anthropic"),
        ("two", "openrouter"),
        ("one", "openrouter"),
    ] {
        env.clock.advance(1000);
        let _ = alice.try_read(agent, name).await; // 6 to 10
    }
    alice
}

#[tokio::test]
async fn everything_that_is_done_or_denied_is_in_the_log_and_nothing_else() {
    let env = TestEnv::new().await;
    let alice = env.master("alice").await;
    let (session, backend, agent) = (&alice.session, &alice.backend, &id("my-agent"));
    alice.agent("my-agent").await;
    alice.store("my-agent", "openrouter", b"sk-1").await;
    alice.store("my-agent", "openrouter", b"sk-2").await;
    backend.roll_back_credential(session, agent, &service("openrouter")).await.expect("done");
    alice.read("my-agent", "openrouter").await;
    let minted = alice.mint("my-agent", scope(&["openrouter"])).await;
    let renewed = backend
        .renew_session(minted.renewal.as_ref().expect("a child has one"))
        .await
        .expect("done");
    let child = Master::of(alice.backend.clone(), renewed).await;
    child.read("my-agent", "openrouter").await;
    backend.link_identity(session, agent, &id("a@b.example")).await.expect("done");
    backend.unlink_identity(session, &id("a@b.example")).await.expect("done");
    // What only looks, what is unknown, malformed or not found, changes nothing.
    backend.list_agents(session).await.expect("done");
    backend.list_credentials(session, agent).await.expect("done");
    backend.resolve_identity(session, agent).await.expect("done");
    backend.list_pending(session).await.expect("done");
    backend.shielding_key().await.expect("done");
    child.backend.who_am_i(&child.session).await.expect("done");
    assert_eq!(code(alice.try_read("my-agent", "none").await), Code::NotFound);
    assert_eq!(code(alice.try_read("nobody", "none").await), Code::AgentNotFound);
    assert_eq!(code(alice.try_store("my-agent", "openrouter", b"").await), Code::Invalid);
    let target = RevokeTarget::Session(child.session_id);
    backend.revoke_session(session, target).await.expect("done");
    assert_eq!(code(child.try_read("my-agent", "openrouter").await), Code::Denied);
    assert_eq!(code(child.try_store("my-agent", "openrouter", b"x").await), Code::Denied);
    backend.revoke_session(session, RevokeTarget::Agent(agent.clone())).await.expect("done");
    assert_eq!(code(alice.try_read("my-agent", "openrouter").await), Code::Denied);
    backend.reinstate_agent(session, agent).await.expect("done");
    backend.teardown_agent(session, agent).await.expect("done");

    let expected = [
        (SessionCreate, Allowed),
        (AgentCreate, Allowed),
        (Store, Allowed),
        (Store, Allowed),
        (RollBack, Allowed),
        (Read, Allowed),
        (SessionChild, Allowed),
        (SessionRenew, Allowed),
        (Read, Allowed),
        (Link, Allowed),
        (Unlink, Allowed),
        (SessionRevoke, Allowed),
        (Read, Denied),
        (Store, Denied),
        (Revoke, Allowed),
        (Read, Denied),
        (Reinstate, Allowed),
        (Teardown, Allowed),
    ];
    assert_eq!(alice.acts_after(0).await, expected);
    let events = alice.events().await;
    for (at, event) in events.iter().enumerate() {
        assert_eq!(event.seq, at as u64 + 1);
        assert_eq!(event.presence, "none");
        assert_eq!(event.by.host.as_deref(), Some("laptop"));
        assert_eq!(event.by.user.as_deref(), Some("ada"));
        let of_agent = event.agent == Some(child.wallet);
        assert_eq!(of_agent, !matches!(event.action, SessionCreate | AgentCreate), "{event:?}");
        let text = serde_json::to_string(event).expect("an event");
        assert!(!text.contains("sk-1") && !text.contains("agkm_") && !text.contains("agkc_"));
    }
    assert_eq!(alice.verify(None).await, Ok(expected.len() as u64));
}

#[tokio::test]
async fn filters_find_what_they_name() {
    let env = TestEnv::new().await;
    let alice = busy(&env).await;
    let wallet = alice.backend.resolve_identity(&alice.session, &id("one")).await;
    let wallet = wallet.expect("it resolves").wallet.to_string();
    let none = AuditFilter::default;
    let at = |seconds: u64| Some(Timestamp(START.0 + seconds * 1000));
    let cases = [
        (none(), (1..=10).collect::<Vec<u64>>()),
        (AuditFilter { agent_id: Some(id("ONE")), ..none() }, vec![4, 6, 8, 10]),
        (AuditFilter { agent_id: Some(id(&wallet)), ..none() }, vec![4, 6, 8, 10]),
        (AuditFilter { service: Some(service("anthropic")), ..none() }, vec![5, 7, 8]),
        (AuditFilter { action: Some(Read), ..none() }, vec![6, 7, 8, 9, 10]),
        (AuditFilter { outcome: Some(Denied), ..none() }, vec![8, 9]),
        (AuditFilter { since: at(5), ..none() }, vec![6, 7, 8, 9, 10]),
        (AuditFilter { until: at(5), ..none() }, vec![1, 2, 3, 4, 5]),
        (AuditFilter { since: at(5), until: at(7), ..none() }, vec![6, 7]),
        (AuditFilter { from: Some(9), ..none() }, vec![9, 10]),
        (AuditFilter { from: Some(0), until: at(0), ..none() }, vec![]),
        (AuditFilter { from: Some(11), ..none() }, vec![]),
        (AuditFilter { from: Some(u64::MAX), ..none() }, vec![]),
        (
            AuditFilter {
                agent_id: Some(id("one")),
                service: Some(service("anthropic")),
                action: Some(Read),
                outcome: Some(Denied),
                ..none()
            },
            vec![8],
        ),
    ];
    for (filter, expected) in cases {
        assert_eq!(found(&alice, filter.clone()).await, expected, "{filter:?}");
    }
    let unknown = AuditFilter { agent_id: Some(id("nobody")), ..none() };
    assert_eq!(code(query(&alice, unknown).await), Code::AgentNotFound);
    for limit in [0, 1001] {
        let filter = AuditFilter { limit: Some(limit), ..none() };
        assert_eq!(code(query(&alice, filter).await), Code::Invalid);
    }
}

#[tokio::test]
async fn pages_come_one_after_the_other_and_end() {
    let env = TestEnv::new().await;
    let alice = busy(&env).await;
    for limit in 1..=11 {
        let mut seen = Vec::new();
        let mut from = None;
        loop {
            let filter = AuditFilter { limit: Some(limit), from, ..AuditFilter::default() };
            let page = query(&alice, filter).await.expect("a page");
            assert!(page.events.len() <= limit);
            assert_eq!(page.head.seq, 10);
            seen.extend(events_of(&page).iter().map(|event| event.seq));
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        assert_eq!(seen, (1..=10).collect::<Vec<_>>(), "limit {limit}");
    }
}

#[tokio::test]
async fn a_child_sees_its_own_agents_events_only() {
    let env = TestEnv::new().await;
    let alice = busy(&env).await;
    let child = alice.child("one", Scope::everything()).await;
    assert_eq!(found(&child, AuditFilter::default()).await, [4, 6, 8, 10, 11]);
    let other = AuditFilter { agent_id: Some(id("two")), ..AuditFilter::default() };
    assert_eq!(code(query(&child, other).await), Code::Denied);
    let bob = env.master("bob").await;
    assert_eq!(found(&bob, AuditFilter::default()).await, [1]);
}

#[tokio::test]
async fn a_torn_down_agents_events_are_found_by_its_wallet() {
    let env = TestEnv::new().await;
    let alice = busy(&env).await;
    let agent = alice.backend.resolve_identity(&alice.session, &id("two")).await;
    let wallet = agent.expect("it resolves").wallet.to_string();
    alice.backend.teardown_agent(&alice.session, &id("two")).await.expect("deleted");
    let filter = AuditFilter { agent_id: Some(id(&wallet)), ..AuditFilter::default() };
    assert_eq!(found(&alice, filter).await, [5, 7, 9, 11]);
}

#[tokio::test]
async fn a_wait_ends_with_the_next_event_or_with_nothing() {
    let env = TestEnv::new().await;
    let alice = busy(&env).await;
    let filter = |wait| AuditFilter { from: Some(11), wait, ..AuditFilter::default() };
    let begun = std::time::Instant::now();
    let nothing = query(&alice, filter(Some(1))).await.expect("a page");
    assert!(nothing.events.is_empty() && nothing.next.is_none());
    assert!(begun.elapsed() >= Duration::from_secs(1), "it waited");

    let waiting = {
        let (backend, text) = (alice.backend.clone(), alice.session.expose().to_owned());
        let filter = AuditFilter { action: Some(Read), ..filter(Some(30)) };
        tokio::spawn(async move {
            let session = agentkeys::core::token::SessionToken::parse(&text).expect("it is one");
            backend.query_audit(&session, filter).await
        })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    alice.store("one", "openrouter", b"sk-2").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished(), "another kind of event does not end it");
    alice.read("one", "openrouter").await;
    let begun = std::time::Instant::now();
    let page = waiting.await.expect("no panic").expect("a page");
    assert!(begun.elapsed() < Duration::from_secs(5), "it was woken");
    assert_eq!(events_of(&page)[0].seq, 12);
}

#[tokio::test]
async fn a_wait_ends_denied_with_its_session() {
    let env = TestEnv::new().await;
    let alice = busy(&env).await;
    let child = alice.child("one", Scope::everything()).await;
    let waiting = tokio::spawn(async move {
        let filter = AuditFilter { from: Some(12), wait: Some(30), ..AuditFilter::default() };
        query(&child, filter).await
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let target = RevokeTarget::Agent(id("one"));
    alice.backend.revoke_session(&alice.session, target).await.expect("it is revoked");
    let begun = std::time::Instant::now();
    assert_eq!(code(waiting.await.expect("no panic")), Code::Denied);
    assert!(begun.elapsed() < Duration::from_secs(5), "it was woken");
}

#[tokio::test]
async fn answers_carry_heads_that_verify_and_only_advance() {
    let env = TestEnv::new().await;
    let alice = env.master("alice").await;
    let head = |who: &Master| who.backend.last_head().expect("a master's answer carries one");
    let mut last: Head = head(&alice);
    assert_eq!(last.seq, 1);
    for n in 0..5 {
        alice.agent(&format!("agent-{n}")).await;
        let next = head(&alice);
        assert!(next.is_authentic());
        assert_eq!((next.backend_id, next.account), (BACKEND, alice.account));
        assert_eq!(next.master_key, alice.master_key);
        assert_eq!(next.seq, last.seq + 1);
        assert_eq!(alice.verify(Some(&last)).await, Ok(next.seq));
        last = next;
    }
    // One look without an event gives the same head again.
    alice.backend.list_agents(&alice.session).await.expect("a list");
    assert_eq!(head(&alice), last);
    // Nobody else's answers carry this account's head.
    let bob = env.master("bob").await;
    assert_eq!(head(&bob).account, bob.account);
    let mut forged = last.clone();
    forged.seq += 1;
    assert!(!forged.is_authentic());
}

#[tokio::test]
async fn a_renewal_carries_the_head_and_a_childs_read_does_not() {
    let env = TestEnv::new().await;
    let alice = busy(&env).await;
    let minted = alice.mint("one", Scope::everything()).await;
    let daemon = env.http();
    let read = daemon.read_credential(&minted.session, &id("one"), &service("openrouter")).await;
    read.expect("it is released");
    assert_eq!(daemon.last_head(), None);
    let renewal = minted.renewal.expect("a child has one");
    daemon.renew_session(&renewal).await.expect("it is renewed");
    let head = daemon.last_head().expect("a renewal carries one");
    assert!(head.is_authentic());
    assert_eq!((head.account, head.seq), (alice.account, 13));
}

#[tokio::test]
async fn two_backends_that_are_one_folder_at_two_times_are_told_apart() {
    let mut env = TestEnv::new().await;
    let mut alice = busy(&env).await;
    env.close().await;
    env.try_open().await.expect("it opens again");
    alice.backend = env.backend();
    let older = env.rows().await;
    alice.read("one", "openrouter").await;
    alice.read("one", "openrouter").await;
    let seen = alice.backend.last_head().expect("a master's answer carries one");
    assert_eq!(seen.seq, 12);
    // The whole folder is put back to an older state, which is whole in itself.
    let newer = env.rows().await;
    let mut changes: Vec<_> = newer.keys().map(|key| (key.clone(), None)).collect();
    changes.extend(older.into_iter().map(|(key, value)| (key, Some(value))));
    env.reopen_with(changes).await.expect("an older whole folder opens");
    alice.backend = env.backend();
    assert_eq!(alice.verify(Some(&seen)).await, Err(Fault::CutOff(11)));
    // It goes on from there, and is a fork.
    env.clock.advance(1);
    for _ in 0..3 {
        alice.read("one", "openrouter").await;
    }
    assert_eq!(alice.verify(Some(&seen)).await, Err(Fault::Forked(12)));
    assert_eq!(alice.verify(None).await, Ok(13), "by itself it is a good log");
}
