//! On what terms an agent has a credential: how far it is shown, and to whom.
use agentkeys::core::audit::{Action, Outcome};
use agentkeys::core::problem::Code;
use agentkeys::core::scope::Scope;
use agentkeys::core::terms::{Exposure, Terms, TermsChange};

use crate::env::{Master, TestEnv, code, id, refused, scope, service};

async fn expose(master: &Master, tier: Exposure) -> Terms {
    let change = TermsChange { expose: Some(tier), ..TermsChange::default() };
    let (agent, name) = (id("bot"), service("openrouter"));
    master.backend.set_terms(&master.session, &agent, &name, change).await.expect("set")
}

/// Whether plaintext, a program's environment, and a program's whole environment have the key.
async fn ways(who: &Master) -> [bool; 3] {
    let (agent, name) = (id("bot"), service("openrouter"));
    let injected = who.backend.inject_credential(&who.session, &agent, &name).await;
    let all = who.backend.read_all(&who.session, &agent).await.expect("a list");
    [
        who.try_read("bot", "openrouter").await.is_ok(),
        injected.is_ok(),
        all.iter().any(|one| one.service == name),
    ]
}

async fn bot(env: &TestEnv) -> Master {
    let master = env.master("ada").await;
    master.agent("bot").await;
    master.store("bot", "openrouter", b"sk-or-1").await;
    master
}

#[tokio::test]
async fn a_key_is_shown_as_far_as_its_tier_and_no_further_to_master_and_agent_alike() {
    let env = TestEnv::new().await;
    let ada = bot(&env).await;
    let child = ada.child("bot", Scope::everything()).await;
    for (tier, seen) in [
        (Exposure::Broker, [false, false, false]),
        (Exposure::Inject, [false, true, true]),
        (Exposure::Reveal, [true, true, true]),
    ] {
        assert_eq!(expose(&ada, tier).await.exposure(), tier);
        assert_eq!((ways(&ada).await, ways(&child).await), (seen, seen), "{tier}");
    }
}

#[tokio::test]
async fn a_refusal_names_the_way_that_is_open_and_is_on_record() {
    let env = TestEnv::new().await;
    let ada = bot(&env).await;
    expose(&ada, Exposure::Broker).await;
    let before = ada.events().await.len();
    let problem = refused(ada.try_read("bot", "openrouter").await);
    assert_eq!((problem.code, problem.docs.as_str()), (Code::Denied, "docs/errors.md#exposure"));
    assert!(problem.fix.contains("agentkeys run --broker bot -- ..."), "{}", problem.fix);
    assert!(problem.fix.contains("agentkeys expose bot openrouter reveal"), "{}", problem.fix);
    assert_eq!(ada.acts_after(before).await, [(Action::Read, Outcome::Denied)]);
    expose(&ada, Exposure::Inject).await;
    let problem = refused(ada.try_read("bot", "openrouter").await);
    assert!(problem.fix.contains("agentkeys run bot -- ..."), "{}", problem.fix);
}

#[tokio::test]
async fn a_scope_is_a_ceiling_for_the_agent_and_for_one_session() {
    let env = TestEnv::new().await;
    let ada = bot(&env).await;
    let broker = Scope { expose: Some(Exposure::Broker), ..scope(&["openrouter"]) };
    let narrow = ada.child("bot", broker).await;
    let wide = ada.child("bot", Scope::everything()).await;
    assert_eq!((ways(&narrow).await, ways(&wide).await), ([false; 3], [true; 3]));
    let problem = refused(narrow.try_read("bot", "openrouter").await);
    assert!(problem.cause.contains("this session"), "{}", problem.cause);
    // The agent's own holds for all of its sessions, and for its master.
    let inject = Scope { expose: Some(Exposure::Inject), ..Scope::everything() };
    ada.backend.set_scope(&ada.session, &id("bot"), inject).await.expect("narrower");
    let seen = [false, true, true];
    assert_eq!((ways(&wide).await, ways(&ada).await), (seen, seen));
    let problem = refused(wide.try_read("bot", "openrouter").await);
    assert!(problem.fix.contains("agentkeys scope bot --expose reveal"), "{}", problem.fix);
}

#[tokio::test]
async fn terms_are_the_masters_come_before_the_key_and_outlive_it() {
    let env = TestEnv::new().await;
    let ada = bot(&env).await;
    let child = ada.child("bot", Scope::everything()).await;
    let (agent, later) = (id("bot"), service("later"));
    let broker = TermsChange { expose: Some(Exposure::Broker), ..TermsChange::default() };
    let by_child = child.backend.set_terms(&child.session, &agent, &later, broker.clone()).await;
    assert_eq!(code(by_child), Code::Denied);
    ada.backend.set_terms(&ada.session, &agent, &later, broker.clone()).await.expect("set");
    ada.store("bot", "later", b"sk-later").await;
    assert_eq!(code(child.try_read("bot", "later").await), Code::Denied);
    // Another version, and an earlier one, are the same credential.
    ada.store("bot", "later", b"sk-later-2").await;
    let back = ada.backend.roll_back_credential(&ada.session, &agent, &later).await.unwrap();
    assert_eq!(back.terms.exposure(), Exposure::Broker);
    assert_eq!(code(child.try_read("bot", "later").await), Code::Denied);
    ada.backend.delete_credential(&ada.session, &agent, &later).await.expect("deleted");
    ada.store("bot", "later", b"sk-new").await;
    assert_eq!(code(child.try_read("bot", "later").await), Code::Denied);
    // Nothing changed is nothing recorded; too many rules are refused.
    let before = ada.events().await.len();
    ada.backend.set_terms(&ada.session, &agent, &later, TermsChange::default()).await.unwrap();
    assert!(ada.acts_after(before).await.is_empty());
    let many = (0..33).map(|n| format!("allow GET /{n}").parse().unwrap()).collect();
    let change = TermsChange { rules: Some(many), ..TermsChange::default() };
    let many = ada.backend.set_terms(&ada.session, &agent, &later, change).await;
    assert_eq!(code(many), Code::Invalid);
}

#[tokio::test]
async fn the_accounts_default_holds_where_nothing_else_is_said_and_a_word_of_its_own_goes_before_it()
 {
    let env = TestEnv::new().await;
    let ada = bot(&env).await;
    let child = ada.child("bot", Scope::everything()).await;
    let default = |tier| ada.backend.default_exposure(&ada.session, tier);
    assert_eq!(default(None).await.expect("shown"), Exposure::Reveal);
    assert_eq!(default(Some(Exposure::Broker)).await.expect("set"), Exposure::Broker);
    assert_eq!((ways(&ada).await, ways(&child).await), ([false; 3], [false; 3]));
    let problem = refused(child.try_read("bot", "openrouter").await);
    assert!(problem.cause.contains("account's default"), "{}", problem.cause);
    let (agent, name) = (id("bot"), service("openrouter"));
    let nothing = TermsChange::default();
    let shown = ada.backend.set_terms(&ada.session, &agent, &name, nothing).await.expect("shown");
    assert_eq!(shown.exposure(), Exposure::Broker);
    let listed = ada.backend.list_credentials(&ada.session, &agent).await.expect("a list");
    assert_eq!(listed[0].terms.exposure(), Exposure::Broker);
    expose(&ada, Exposure::Inject).await;
    assert_eq!(ways(&child).await, [false, true, true]);
    assert_eq!(code(child.backend.default_exposure(&child.session, None).await), Code::Denied);
    // Another account is not touched.
    let eve = env.master("eve").await;
    let other = eve.backend.default_exposure(&eve.session, None).await;
    assert_eq!(other.expect("shown"), Exposure::Reveal);
}
