//! The scope that a master sets: the next read obeys it, whoever reads and whatever was under way.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use agentkeys::core::audit::{Action, Outcome};
use agentkeys::core::backend::{AgentSummary, Grant, RevokeTarget};
use agentkeys::core::problem::{Answer, Code};
use agentkeys::core::scope::{MAX_SERVICES, Scope};

use crate::auth_request::child::{Child, approve, fetch, paired, recover, scope_change};
use crate::env::{Master, TestEnv, code, copy_of, id, refused, scope};

async fn try_set(who: &Master, agent: &str, to: Scope) -> Answer<AgentSummary> {
    who.backend.set_scope(&who.session, &id(agent), to).await
}

async fn set(who: &Master, agent: &str, to: Scope) -> AgentSummary {
    try_set(who, agent, to).await.expect("the scope is set")
}

fn only_reading(services: &[&str]) -> Scope {
    Scope { read_only: true, ..scope(services) }
}

#[tokio::test]
async fn the_next_read_and_the_next_store_obey_it() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let (bot, _) = paired(&ada, "bot", scope(&["github"])).await;
    ada.store("bot", "github", b"one").await;
    ada.store("bot", "openrouter", b"two").await;
    assert_eq!(bot.read("bot", "github").await, b"one");
    assert_eq!(code(bot.try_read("bot", "openrouter").await), Code::Denied);

    let now = set(&ada, "bot", scope(&["openrouter"])).await;
    assert_eq!(now.scope, scope(&["openrouter"]));
    assert_eq!(code(bot.try_read("bot", "github").await), Code::Denied);
    assert_eq!(bot.read("bot", "openrouter").await, b"two");
    bot.store("bot", "openrouter", b"three").await;

    set(&ada, "bot", only_reading(&["openrouter"])).await;
    assert_eq!(code(bot.try_store("bot", "openrouter", b"four").await), Code::Denied);
    assert_eq!(bot.read("bot", "openrouter").await, b"three");
    // It is the agent's scope: its master reads in its name, and obeys it as well.
    assert_eq!(code(ada.try_read("bot", "github").await), Code::Denied);

    set(&ada, "bot", Scope::everything()).await;
    assert_eq!(bot.read("bot", "github").await, b"one");
    set(&ada, "bot", scope(&[])).await;
    for service in ["github", "openrouter"] {
        assert_eq!(code(bot.try_read("bot", service).await), Code::Denied);
    }
    let all = bot.backend.read_all(&bot.session, &id("bot")).await.unwrap();
    assert!(all.is_empty());
}

#[tokio::test]
async fn a_service_may_be_in_it_before_anything_is_stored_for_it() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let (bot, _) = paired(&ada, "bot", scope(&[])).await;
    set(&ada, "bot", scope(&["brave"])).await;
    assert_eq!(code(bot.try_read("bot", "brave").await), Code::NotFound);
    ada.store("bot", "brave", b"key").await;
    assert_eq!(bot.read("bot", "brave").await, b"key");
}

#[tokio::test]
async fn a_child_s_session_is_never_wider_than_its_agent_nor_than_itself() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    ada.agent("bot").await;
    for service in ["github", "openrouter"] {
        ada.store("bot", service, service.as_bytes()).await;
    }
    let narrow = ada.mint("bot", scope(&["github"])).await;
    let renewal = narrow.renewal.as_ref().unwrap().expose().to_owned();
    let narrow = Master::of(env.http(), narrow).await;
    set(&ada, "bot", scope(&["openrouter"])).await;
    for service in ["github", "openrouter"] {
        assert_eq!(code(narrow.try_read("bot", service).await), Code::Denied);
    }
    set(&ada, "bot", Scope::everything()).await;
    assert_eq!(narrow.read("bot", "github").await, b"github");
    assert_eq!(code(narrow.try_read("bot", "openrouter").await), Code::Denied);
    // Nor is the session that it is renewed to.
    set(&ada, "bot", scope(&["openrouter"])).await;
    let renewal = agentkeys::core::token::RenewalSecret::parse(&renewal).unwrap();
    let renewed = Master::of(env.http(), env.http().renew_session(&renewal).await.unwrap()).await;
    for service in ["github", "openrouter"] {
        assert_eq!(code(renewed.try_read("bot", service).await), Code::Denied);
    }
}

#[tokio::test]
async fn only_the_agent_s_master_sets_it() {
    let env = TestEnv::new().await;
    let (ada, eve) = (env.master("ada").await, env.master("eve").await);
    let (bot, _) = paired(&ada, "bot", scope(&["github"])).await;
    assert_eq!(code(try_set(&bot, "bot", Scope::everything()).await), Code::Denied);
    assert_eq!(code(try_set(&eve, "bot", Scope::everything()).await), Code::AgentNotFound);
    let by_wallet = try_set(&eve, &bot.wallet.to_string(), Scope::everything()).await;
    assert_eq!(code(by_wallet), Code::AgentNotFound);
    assert_eq!(code(try_set(&ada, "nobody", scope(&[])).await), Code::AgentNotFound);
    let agents = ada.backend.list_agents(&ada.session).await.unwrap();
    assert_eq!(agents[0].scope, scope(&["github"]));
    // The vault holds the limit itself, and not only whoever reads the wire.
    let many: Vec<String> = (0..=MAX_SERVICES).map(|n| format!("s{n}")).collect();
    let many = scope(&many.iter().map(String::as_str).collect::<Vec<_>>());
    let vault = Master { backend: env.vault(crate::env::loopback()), ..env.master("ada").await };
    let problem = refused(try_set(&vault, "bot", many).await);
    assert_eq!(problem.code, Code::Invalid);
    assert!(problem.cause.contains("256"), "{}", problem.cause);
}

#[tokio::test]
async fn it_is_on_record_with_what_it_was_before_and_once_only() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let (bot, _) = paired(&ada, "bot", scope(&["github"])).await;
    let before = ada.events().await.len();
    set(&ada, "bot", only_reading(&["openrouter"])).await;
    set(&ada, "bot", only_reading(&["openrouter"])).await;
    assert_eq!(ada.acts_after(before).await, [(Action::ScopeChange, Outcome::Allowed)]);
    let event = ada.events().await.pop().unwrap();
    assert_eq!(event.agent, Some(bot.wallet));
    let said = event.detail.unwrap();
    assert_eq!(said, "read openrouter; before: read and store github");
    ada.verify(None).await.unwrap();
}

#[tokio::test]
async fn a_revoked_agent_s_holds_once_it_is_reinstated() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    ada.agent("bot").await;
    ada.store("bot", "github", b"one").await;
    ada.store("bot", "openrouter", b"two").await;
    ada.backend.revoke_session(&ada.session, RevokeTarget::Agent(id("bot"))).await.unwrap();
    assert!(set(&ada, "bot", scope(&["github"])).await.revoked.is_some());
    assert_eq!(code(ada.try_read("bot", "github").await), Code::Denied);
    ada.backend.reinstate_agent(&ada.session, &id("bot")).await.unwrap();
    assert_eq!(ada.read("bot", "github").await, b"one");
    assert_eq!(code(ada.try_read("bot", "openrouter").await), Code::Denied);
}

/// An approval is for what was shown: not for a scope that has changed since, nor for a name.
#[tokio::test]
async fn what_is_approved_is_what_was_shown() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let (bot, _) = paired(&ada, "bot", scope(&["github"])).await;
    let approve_seen = async |child: &Child, seen| {
        let request = child.opened.id;
        ada.backend.approve_auth_request(&ada.session, request, Some(seen), Grant::default()).await
    };
    for recovers in [false, true] {
        let open = async || match recovers {
            false => Child::open_as(&bot, scope_change(bot.wallet, scope(&["x"]))).await,
            true => Child::open(&env.http(), recover("bot")).await,
        };
        let child = open().await;
        let seen = fetch(&ada, &child).await.unwrap().seen_hash();
        set(&ada, "bot", Scope::everything()).await;
        assert_eq!(code(approve_seen(&child, seen).await), Code::Invalid);
        let seen = fetch(&ada, &child).await.unwrap().seen_hash();
        ada.backend.link_identity(&ada.session, &id("bot"), &id("b@x.org")).await.unwrap();
        assert_eq!(code(approve_seen(&child, seen).await), Code::Invalid);
        // As it was shown, it is approved.
        set(&ada, "bot", scope(&["github"])).await;
        ada.backend.unlink_identity(&ada.session, &id("b@x.org")).await.unwrap();
        approve_seen(&child, seen_now(&ada, &child).await).await.unwrap();
        set(&ada, "bot", scope(&["github"])).await;
    }
}

async fn seen_now(master: &Master, child: &Child) -> agentkeys::core::types::Hash32 {
    fetch(master, child).await.unwrap().seen_hash()
}

#[tokio::test]
async fn the_daemon_that_has_an_agent_is_shown_with_when_it_was_last_heard() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    assert!(ada.agent("empty").await.daemon.is_none());
    let (bot, keys) = paired(&ada, "bot", Scope::everything()).await;
    let paired_at = agentkeys::backend::clock::Clock::now(&*env.clock);
    let shown = ada.backend.resolve_identity(&ada.session, &id("bot")).await.unwrap();
    let daemon = shown.daemon.unwrap();
    assert_eq!(daemon.fingerprint, keys.public.fingerprint());
    assert_eq!((daemon.since, daemon.last_used), (paired_at, None));

    env.clock.advance(crate::env::HOUR);
    ada.store("bot", "github", b"one").await;
    bot.read("bot", "github").await;
    env.clock.advance(crate::env::MINUTE);
    let next = Child::open(&env.http(), recover("bot")).await;
    let daemon = fetch(&ada, &next).await.unwrap().agent.unwrap().daemon.unwrap();
    assert_eq!(daemon.since, paired_at);
    assert_eq!(daemon.last_used, Some(paired_at.plus_ms(crate::env::HOUR)));

    // The new daemon has not been heard of yet, and is another.
    approve(&ada, &next).await;
    let third = Child::open(&env.http(), recover("bot")).await;
    let daemon = fetch(&ada, &third).await.unwrap().agent.unwrap().daemon.unwrap();
    assert_eq!(daemon.fingerprint, next.keys.public.fingerprint());
    assert_eq!(daemon.last_used, None);
    next.signed_in().await;
    let daemon = fetch(&ada, &third).await.unwrap().agent.unwrap().daemon.unwrap();
    assert!(daemon.last_used.is_some());
}

/// Readers while the scope goes back and forth: not one read that began after it was narrowed,
/// and ended before it was widened again, is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_that_begins_after_it_was_narrowed_is_answered() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let (bot, _) = paired(&ada, "bot", scope(&["github"])).await;
    ada.store("bot", "github", b"one").await;
    // Odd while it is certain to be narrow; no two narrow times have one number.
    let (phase, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let (phase, over) = (phase.clone(), over.clone());
            let bot = Master { backend: env.http(), session: copy_of(&bot.session), ..bot };
            tokio::spawn(async move {
                let (mut released, mut refused) = (0, 0);
                while !over.load(Ordering::SeqCst) {
                    let began = phase.load(Ordering::SeqCst);
                    match bot.try_read("bot", "github").await {
                        Ok(_) => {
                            let narrow_throughout =
                                began % 2 == 1 && phase.load(Ordering::SeqCst) == began;
                            assert!(!narrow_throughout);
                            released += 1;
                        }
                        Err(problem) => {
                            assert_eq!(problem.code, Code::Denied);
                            refused += 1;
                        }
                    }
                }
                (released, refused)
            })
        })
        .collect();
    for _ in 0..40 {
        set(&ada, "bot", scope(&["github"])).await;
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        set(&ada, "bot", scope(&[])).await;
        phase.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        phase.fetch_add(1, Ordering::SeqCst);
    }
    over.store(true, Ordering::SeqCst);
    let (mut released, mut refused) = (0, 0);
    for reader in readers {
        let (some, none) = reader.await.expect("no reader saw a read that was not allowed");
        released += some;
        refused += none;
    }
    assert!(released > 0 && refused > 0, "{released} released, {refused} refused");
}
