//! Names of agents: linked, resolved, moved, folded.
use agentkeys::core::audit::{Action, Outcome};
use agentkeys::core::identity::{AgentIdentity, Alias};
use agentkeys::core::problem::Code;
use agentkeys::core::scope::Scope;

use crate::env::{TestEnv, code, id, refused};

#[tokio::test]
async fn link_and_resolve() {
    let env = TestEnv::new().await;
    let alice = env.master("alice").await;
    let agent = alice.agent("my-agent").await;
    let names = ["helper", "helper@example.com", "helper.eth"];
    for name in names {
        let linked = alice
            .backend
            .link_identity(&alice.session, &id("my-agent"), &id(name))
            .await
            .expect("it is linked");
        assert_eq!(linked.wallet, agent.wallet);
    }
    let wallet = agent.wallet.to_string();
    for name in names.into_iter().chain(["my-agent", wallet.as_str()]) {
        let found = alice.backend.resolve_identity(&alice.session, &id(name)).await;
        let found = found.expect("it resolves");
        assert_eq!(found.wallet, agent.wallet, "{name}");
        assert_eq!(found.name.as_deref(), Some("my-agent"));
        assert_eq!(found.identities.len(), 4);
    }
    alice.store("my-agent", "openrouter", b"sk-1").await;
    assert_eq!(alice.read("helper@example.com", "openrouter").await, b"sk-1");

    let left = alice
        .backend
        .unlink_identity(&alice.session, &id("helper@example.com"))
        .await
        .expect("it is unlinked");
    assert_eq!(left.identities.len(), 3);
    let gone = alice.backend.resolve_identity(&alice.session, &id("helper@example.com")).await;
    assert_eq!(code(gone), Code::AgentNotFound);
    let links = alice.acts_after(2).await;
    assert_eq!(links[..3], [(Action::Link, Outcome::Allowed); 3]);
    assert_eq!(links.last(), Some(&(Action::Unlink, Outcome::Allowed)));
}

#[tokio::test]
async fn names_that_differ_by_case_are_one_and_the_first_form_is_shown() {
    let env = TestEnv::new().await;
    let alice = env.master("alice").await;
    let agent = alice.agent("Agent-A").await;
    assert_eq!(agent.name.as_deref(), Some("Agent-A"));
    let again: Alias = "agent-a".parse().expect("a good alias");
    let taken = refused(alice.backend.create_agent(&alice.session, &again).await);
    assert_eq!(taken.code, Code::Invalid);
    assert!(taken.detail.contains("agent-a"), "{}", taken.detail);
    alice.store("AGENT-A", "OpenRouter", b"sk-1").await;
    assert_eq!(alice.read("agent-a", "openrouter").await, b"sk-1");
    let found = alice.backend.resolve_identity(&alice.session, &id("aGENT-a")).await;
    assert_eq!(found.expect("it resolves").name.as_deref(), Some("Agent-A"));

    alice.agent("other").await;
    for taken in ["AGENT-a", "agent-A"] {
        let answer = alice.backend.link_identity(&alice.session, &id("other"), &id(taken)).await;
        assert_eq!(code(answer), Code::Invalid);
    }
    let link =
        async |name| alice.backend.link_identity(&alice.session, &id("other"), &id(name)).await;
    assert_eq!(link("Ada@Example.com").await.expect("it is linked").identities.len(), 2);
    assert_eq!(link("ada@example.COM").await.expect("it is there").identities.len(), 2);
}

#[tokio::test]
async fn moving_a_name_wants_an_unlink_first() {
    let env = TestEnv::new().await;
    let alice = env.master("alice").await;
    alice.agent("one").await;
    let two = alice.agent("two").await;
    let link = async |agent, name| {
        alice.backend.link_identity(&alice.session, &id(agent), &id(name)).await
    };
    link("one", "shared.eth").await.expect("it is linked");
    let problem = refused(link("two", "shared.eth").await);
    assert_eq!(problem.code, Code::Invalid);
    assert!(problem.fix.contains("unlink shared.eth"), "{}", problem.fix);
    alice.backend.unlink_identity(&alice.session, &id("shared.eth")).await.expect("unlinked");
    link("two", "shared.eth").await.expect("it is free now");
    let found = alice.backend.resolve_identity(&alice.session, &id("shared.eth")).await;
    assert_eq!(found.expect("it resolves").wallet, two.wallet);
}

#[tokio::test]
async fn names_are_unique_within_an_account_only() {
    let env = TestEnv::new().await;
    let (alice, bob) = (env.master("alice").await, env.master("bob").await);
    let (hers, his) = (alice.agent("my-agent").await, bob.agent("my-agent").await);
    assert_ne!(hers.wallet, his.wallet);
    let found = bob.backend.resolve_identity(&bob.session, &id("my-agent")).await;
    assert_eq!(found.expect("it resolves").wallet, his.wallet);
}

#[tokio::test]
async fn an_agent_without_a_name_keeps_its_wallet_address() {
    let env = TestEnv::new().await;
    let alice = env.master("alice").await;
    let agent = alice.agent("my-agent").await;
    let left = alice.backend.unlink_identity(&alice.session, &id("my-agent")).await;
    assert_eq!(left.expect("it is unlinked").name, None);
    let wallet = agent.wallet.to_string();
    alice.store(&wallet, "openrouter", b"sk-1").await;
    assert_eq!(alice.read(&wallet, "openrouter").await, b"sk-1");
    alice.agent("my-agent").await;
    assert_eq!(code(alice.try_read("my-agent", "openrouter").await), Code::Denied);
}

#[tokio::test]
async fn what_is_no_name_is_not_linked() {
    let env = TestEnv::new().await;
    let alice = env.master("alice").await;
    let agent = alice.agent("my-agent").await;
    let wallet = AgentIdentity::Wallet(agent.wallet);
    let answer = alice.backend.link_identity(&alice.session, &id("my-agent"), &wallet).await;
    assert_eq!(code(answer), Code::Invalid);
    let answer = alice.backend.unlink_identity(&alice.session, &wallet).await;
    assert_eq!(code(answer), Code::AgentNotFound);
    for bad in [
        "",
        "-a",
        "a b",
        "ä",
        "a@b",
        "x..eth",
        "a\n",
        ".eth",
        "0x0000000000000000000000000000000000000g0g",
    ] {
        assert!(bad.parse::<AgentIdentity>().is_err(), "{bad:?}");
    }
    assert!("0xDEADbeefdeadbeefdeadbeefdeadbeefdeadbeef".parse::<Alias>().is_err());
}

#[tokio::test]
async fn an_agent_has_at_most_32_names_and_a_child_gives_none() {
    let env = TestEnv::new().await;
    let alice = env.master("alice").await;
    alice.agent("my-agent").await;
    let child = alice.child("my-agent", Scope::everything()).await;
    let by_child = child.backend.link_identity(&child.session, &id("my-agent"), &id("mine")).await;
    assert_eq!(code(by_child), Code::Denied);
    let link = async |n: usize| {
        let name = id(&format!("name-{n}"));
        alice.backend.link_identity(&alice.session, &id("my-agent"), &name).await
    };
    for n in 1..32 {
        link(n).await.expect("there is room");
    }
    assert_eq!(code(link(32).await), Code::Invalid);
    link(31).await.expect("one that it has already is no new one");
}
