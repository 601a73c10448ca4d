//! What an approval gives, to whom, and that it gives nothing twice.
use std::sync::Arc;

use agentkeys::core::audit::{Action, Outcome};
use agentkeys::core::auth_request::Details;
use agentkeys::core::backend::{Grant, RevokeTarget};
use agentkeys::core::decision::{Mistrust, Verdict};
use agentkeys::core::problem::Code;
use agentkeys::core::scope::Scope;
use agentkeys::core::types::{Hash32, SessionId};

use super::child::{
    Child, Keys, approve, approve_id, fetch, pair, paired, recover, release, rotate, scope_change,
    try_approve,
};
use crate::env::{Master, TestEnv, code, copy_of, id, refused, scope};

fn as_agent(agent: &str) -> Grant {
    Grant { agent_id: Some(id(agent)), ..Grant::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_thousand_approvals_at_once_one_succeeds() {
    let env = TestEnv::new().await;
    let ada = Arc::new(env.master("ada").await);
    let (bot, _) = paired(&ada, "bot", Scope::everything()).await;
    // One that makes an agent and a session, and one that changes nothing but itself.
    for details in [pair("other", Scope::everything()), release(bot.wallet, "stripe")] {
        let child = Child::open_as(&bot, details).await;
        fetch(&ada, &child).await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..1000 {
            let (ada, request) = (Arc::clone(&ada), child.opened.id);
            tasks.spawn(async move {
                let grant = Grant::default();
                ada.backend.approve_auth_request(&ada.session, request, None, grant).await
            });
        }
        let answers = tasks.join_all().await;
        let (done, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        assert_eq!(done.len(), 1);
        let codes: Vec<_> = refused.into_iter().map(code).collect();
        assert!(codes.iter().all(|code| *code == Code::AlreadyConsumed), "{codes:?}");
        assert_eq!(codes.len(), 999);
        let events = ada.events().await;
        assert_eq!(events.iter().filter(|e| e.request == Some(child.opened.id)).count(), 1);
    }
    assert_eq!(ada.backend.list_agents(&ada.session).await.unwrap().len(), 2);
    let lines = super::at_rest::count_of(&env, b'f').await;
    assert_eq!(lines, 2, "one line of sessions an agent was minted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_an_approval_and_a_denial_at_once_one_holds() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    for _ in 0..50 {
        let child = Child::open(&env.http(), pair("", Scope::everything())).await;
        fetch(&ada, &child).await.unwrap();
        let (yes, no) = tokio::join!(
            approve_id(&ada, &child),
            ada.backend.deny_auth_request(&ada.session, child.opened.id)
        );
        assert_ne!(yes.is_ok(), no.is_ok());
        let verdict = if yes.is_ok() { Verdict::Approved } else { Verdict::Denied };
        assert_eq!(child.decided().await.verdict, verdict);
    }
}

#[tokio::test]
async fn a_denial_is_signed_final_and_gives_nothing() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let child = Child::open(&env.http(), pair("bot", Scope::everything())).await;
    let registration = child.register().await.unwrap();
    fetch(&ada, &child).await.unwrap();
    ada.backend.deny_auth_request(&ada.session, child.opened.id).await.unwrap();
    let decision = child.decided().await;
    assert_eq!((decision.verdict, decision.granted.is_none()), (Verdict::Denied, true));
    let polled = child.backend.poll_rendezvous(&registration, super::child::LONG).await;
    assert_eq!(code(polled), Code::Denied);
    assert_eq!(code(approve_id(&ada, &child).await), Code::AlreadyConsumed);
    assert!(ada.backend.list_agents(&ada.session).await.unwrap().is_empty());
    let last = ada.events().await.pop().unwrap();
    assert_eq!((last.action, last.request), (Action::Deny, Some(child.opened.id)));
}

#[tokio::test]
async fn a_grant_may_be_narrower_and_never_wider() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let asked = scope(&["github", "openrouter"]);
    let child = Child::open(&env.http(), pair("bot", asked)).await;
    for wider in [
        Scope::everything(),
        scope(&["github", "openrouter", "stripe"]),
        Scope { services: None, read_only: true, ..Scope::default() },
    ] {
        let grant = Grant { scope: Some(wider), ..Grant::default() };
        assert_eq!(code(try_approve(&ada, &child, grant).await), Code::Invalid);
    }
    assert!(child.decision().await.unwrap().is_none());
    let narrower = Scope { read_only: true, ..scope(&["github"]) };
    let grant = Grant { scope: Some(narrower.clone()), ..Grant::default() };
    assert_eq!(try_approve(&ada, &child, grant).await.unwrap().agent.scope, narrower);
    assert_eq!(child.decided().await.granted.unwrap().scope, narrower);

    // A request that may only read is not answered with the right to store.
    let reader = Scope { read_only: true, ..scope(&["github"]) };
    let child = Child::open(&env.http(), pair("", reader)).await;
    let grant = Grant { scope: Some(scope(&["github"])), ..Grant::default() };
    assert_eq!(code(try_approve(&ada, &child, grant).await), Code::Invalid);
}

#[tokio::test]
async fn what_was_not_seen_is_not_approved() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let (child, other) = (
        Child::open(&env.http(), pair("bot", scope(&[]))).await,
        Child::open(&env.http(), pair("bot", scope(&[]))).await,
    );
    let seen_other = fetch(&ada, &other).await.unwrap().seen_hash();
    fetch(&ada, &child).await.unwrap();
    for seen in [seen_other, Hash32([0; 32])] {
        let answer = ada
            .backend
            .approve_auth_request(&ada.session, child.opened.id, Some(seen), Grant::default())
            .await;
        assert_eq!(code(answer), Code::Invalid);
    }
    assert!(child.decision().await.unwrap().is_none());

    // Nor an agent that another one has taken the place of since.
    let (first, _) = paired(&ada, "prod", Scope::everything()).await;
    let child = Child::open(&env.http(), recover("prod")).await;
    let seen = fetch(&ada, &child).await.unwrap().seen_hash();
    ada.backend.teardown_agent(&ada.session, &id(&first.wallet.to_string())).await.unwrap();
    ada.agent("prod").await;
    let answer = ada
        .backend
        .approve_auth_request(&ada.session, child.opened.id, Some(seen), Grant::default())
        .await;
    assert_eq!(code(answer), Code::Invalid);
}

#[tokio::test]
async fn a_wish_for_a_name_that_is_taken_gives_an_agent_without_it() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let taken = ada.agent("prod").await;
    let child = Child::open(&env.http(), pair("Prod", Scope::everything())).await;
    let approved = approve(&ada, &child).await;
    assert_ne!(approved.agent.wallet, taken.wallet);
    assert!(approved.agent.identities.is_empty());
    let named = ada.backend.resolve_identity(&ada.session, &id("prod")).await.unwrap();
    assert_eq!(named.wallet, taken.wallet);

    let child = Child::open(&env.http(), pair("prod", Scope::everything())).await;
    let chosen = |name: &str| Grant { name: Some(name.parse().unwrap()), ..Grant::default() };
    assert_eq!(code(try_approve(&ada, &child, chosen("PROD")).await), Code::Invalid);
    let approved = try_approve(&ada, &child, chosen("staging")).await.unwrap();
    assert_eq!(approved.agent.name.as_deref(), Some("staging"));
}

#[tokio::test]
async fn an_agent_that_exists_is_given_by_the_master_alone_and_ends_its_old_daemon() {
    let env = TestEnv::new().await;
    let (ada, eve) = (env.master("ada").await, env.master("eve").await);
    let (old, _) = paired(&ada, "prod", scope(&["github", "openrouter"])).await;
    ada.store("prod", "github", b"one").await;
    ada.store("prod", "openrouter", b"two").await;

    let child = Child::open(&env.http(), pair("", scope(&["github", "stripe"]))).await;
    assert_eq!(code(try_approve(&eve, &child, as_agent("prod")).await), Code::AgentNotFound);
    env.clock.advance(crate::env::MINUTE);
    let named = Grant { name: Some("x".parse().unwrap()), ..as_agent("prod") };
    assert_eq!(code(try_approve(&ada, &child, named).await), Code::Invalid);
    let approved = try_approve(&ada, &child, as_agent("prod")).await.unwrap();
    assert_eq!(approved.agent.wallet, old.wallet);
    // What both the agent has and the daemon asked for.
    let granted = child.decided().await.granted.unwrap();
    assert_eq!(granted.scope, scope(&["github"]));
    assert_eq!(code(old.try_read("prod", "github").await), Code::Denied);
    let new = child.signed_in().await;
    assert_eq!(new.read("prod", "github").await, b"one");
    assert_eq!(code(new.try_read("prod", "openrouter").await), Code::Denied);

    // New keys for the new daemon do not widen what it has.
    let child_keys = child.keys.public;
    let turn = Child::open_as(&new, rotate(new.wallet, child_keys)).await;
    approve(&ada, &turn).await;
    assert_eq!(turn.decided().await.granted.unwrap().scope, scope(&["github"]));
    let newest = turn.signed_in().await;
    assert_eq!(newest.read("prod", "github").await, b"one");
    assert_eq!(code(newest.try_read("prod", "openrouter").await), Code::Denied);
    assert_eq!(code(new.try_read("prod", "github").await), Code::Denied);
}

#[tokio::test]
async fn only_a_pair_takes_an_agent_or_a_name() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    ada.agent("other").await;
    let (bot, _) = paired(&ada, "bot", Scope::everything()).await;
    for details in
        [recover("bot"), scope_change(bot.wallet, scope(&[])), release(bot.wallet, "stripe")]
    {
        let child = Child::open_as(&bot, details).await;
        assert_eq!(code(try_approve(&ada, &child, as_agent("other")).await), Code::Invalid);
        assert!(child.decision().await.unwrap().is_none());
    }
}

#[tokio::test]
async fn only_the_agent_s_own_session_opens_what_concerns_it() {
    let env = TestEnv::new().await;
    let (ada, eve) = (env.master("ada").await, env.master("eve").await);
    let (bot, keys) = paired(&ada, "bot", Scope::everything()).await;
    let (other, other_keys) = paired(&ada, "other", Scope::everything()).await;
    let (theirs, _) = paired(&eve, "bot", Scope::everything()).await;
    let kinds = [
        scope_change(bot.wallet, Scope::everything()),
        release(bot.wallet, "stripe"),
        rotate(bot.wallet, keys.public),
    ];
    for details in kinds {
        for session in [None, Some(&ada), Some(&eve), Some(&other), Some(&theirs)] {
            let session: Option<&Master> = session;
            let token = session.map(|who| copy_of(&who.session));
            let open = Child::try_open(&env.http(), details.clone(), token.as_ref()).await;
            assert_eq!(code(open.map(|_| ())), Code::Unauthorized);
        }
        let child = Child::open_as(&bot, details).await;
        assert_eq!(code(fetch(&eve, &child).await), Code::Unauthorized);
        assert_eq!(code(approve_id(&eve, &child).await), Code::Unauthorized);
        let deny = eve.backend.deny_auth_request(&eve.session, child.opened.id).await;
        assert_eq!(code(deny), Code::Unauthorized);
    }
    for old in [other_keys.public, Keys::new().public] {
        let session = copy_of(&bot.session);
        let open = Child::try_open(&env.http(), rotate(bot.wallet, old), Some(&session)).await;
        assert_eq!(code(open.map(|_| ())), Code::Unauthorized);
    }
}

#[tokio::test]
async fn a_release_is_signed_and_mints_nothing() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let (bot, _) = paired(&ada, "bot", Scope::everything()).await;
    let child = Child::open_as(&bot, release(bot.wallet, "stripe")).await;
    assert_eq!(child.opened.ttl_seconds, 180);
    approve(&ada, &child).await;
    let granted = child.decided().await.granted.unwrap();
    assert_eq!((granted.agent, granted.session_hash), (bot.wallet, None));
    assert_eq!(child.polled().await.unwrap(), None);
    // The signature covers what was asked: it is good for no other price.
    let mut dearer = child.details.clone();
    if let Details::HighValueRelease(release) = &mut dearer {
        release.amount += 1;
    }
    let mut expected = child.expected();
    expected.details = &dearer;
    let decision = child.decision().await.unwrap().unwrap();
    assert_eq!(decision.verify(&expected), Err(Mistrust::Details));
    expected = child.expected();
    expected.parent_session = Some(SessionId([1; 16]));
    assert_eq!(decision.verify(&expected), Err(Mistrust::Opening));
}

#[tokio::test]
async fn a_revoked_agent_is_not_recovered() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let (bot, _) = paired(&ada, "bot", Scope::everything()).await;
    ada.backend.revoke_session(&ada.session, RevokeTarget::Agent(id("bot"))).await.unwrap();
    let child = Child::open(&env.http(), recover("bot")).await;
    let shown = fetch(&ada, &child).await.unwrap();
    assert!(shown.agent.unwrap().revoked.is_some(), "the master sees that it was revoked");
    let problem = refused(approve_id(&ada, &child).await);
    assert_eq!(problem.code, Code::Denied);
    assert!(problem.fix.contains("agentkeys reinstate bot"), "{}", problem.fix);
    let child_pair = Child::open(&env.http(), pair("", Scope::everything())).await;
    assert_eq!(code(try_approve(&ada, &child_pair, as_agent("bot")).await), Code::Denied);
    assert!(child.decision().await.unwrap().is_none());

    // Reinstating gives the right back and no session; only then is it recovered.
    ada.backend.reinstate_agent(&ada.session, &id("bot")).await.unwrap();
    assert_eq!(code(bot.try_read("bot", "github").await), Code::Denied);
    approve_id(&ada, &child).await.unwrap();
    assert_eq!(child.signed_in().await.wallet, bot.wallet);
    let acts = ada.acts_after(0).await;
    assert!(acts.contains(&(Action::Read, Outcome::Denied)));
}

#[tokio::test]
async fn a_pinned_account_or_key_is_held_to() {
    let env = TestEnv::new().await;
    let (ada, eve) = (env.master("ada").await, env.master("eve").await);
    let mut child = Child::open(&env.http(), pair("bot", Scope::everything())).await;
    child.pinned = Some((ada.account, ada.master_key));
    approve(&eve, &child).await;
    let decision = child.decision().await.unwrap().unwrap();
    assert_eq!(decision.verify(&child.expected()), Err(Mistrust::Pin));
    let mut child = Child::open(&env.http(), pair("bot", Scope::everything())).await;
    child.pinned = Some((ada.account, ada.master_key));
    approve(&ada, &child).await;
    child.signed_in().await;
}
