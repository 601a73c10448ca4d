//! How long codes, bindings and decisions hold, and what is said and kept afterwards.
use agentkeys::core::problem::Code;
use agentkeys::core::scope::Scope;

use super::at_rest::{count_of, rows_with};
use super::child::{
    Child, LONG, NOW, approve, approve_id, fetch, pair, paired, recover, release, scope_change,
};
use crate::env::{DAY, MINUTE, START, TestEnv, code, refused, scope};

const SECOND: u64 = 1000;

#[tokio::test]
async fn fetching_binds_for_a_minute_and_fetching_again_does_not_extend_it() {
    let env = TestEnv::new().await;
    let (ada, eve) = (env.master("ada").await, env.master("eve").await);
    let child = Child::open(&env.http(), pair("bot", Scope::everything())).await;
    let until = START.plus_ms(MINUTE);
    assert_eq!(fetch(&ada, &child).await.unwrap().expires_at, until);
    env.clock.advance(59 * SECOND);
    assert_eq!(fetch(&ada, &child).await.unwrap().expires_at, until);
    assert_eq!(code(fetch(&eve, &child).await), Code::Unauthorized);
    assert_eq!(ada.backend.list_pending(&ada.session).await.unwrap().len(), 1);

    env.clock.advance(SECOND);
    let problem = refused(approve_id(&ada, &child).await);
    assert_eq!(problem.code, Code::Expired);
    assert!(problem.cause.contains("60 s"), "{}", problem.cause);
    // Free again, for anybody.
    fetch(&eve, &child).await.unwrap();
    assert_eq!(code(fetch(&ada, &child).await), Code::Unauthorized);
    assert_eq!(code(approve_id(&ada, &child).await), Code::Unauthorized);
    assert!(ada.backend.list_pending(&ada.session).await.unwrap().is_empty());
    assert_eq!(eve.backend.list_pending(&eve.session).await.unwrap().len(), 1);
    approve_id(&eve, &child).await.unwrap();
    assert_eq!(child.decided().await.account, eve.account);
}

#[tokio::test]
async fn a_code_fetched_in_its_last_second_may_be_confirmed_within_the_minute() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let child = Child::open(&env.http(), pair("bot", Scope::everything())).await;
    env.clock.advance(5 * MINUTE - 1);
    fetch(&ada, &child).await.unwrap();
    env.clock.advance(59 * SECOND);
    assert!(child.decision().await.unwrap().is_none(), "the child still waits");
    approve(&ada, &child).await;
    child.signed_in().await;

    let child = Child::open(&env.http(), pair("", Scope::everything())).await;
    env.clock.advance(5 * MINUTE - 1);
    fetch(&ada, &child).await.unwrap();
    env.clock.advance(MINUTE);
    assert_eq!(code(approve_id(&ada, &child).await), Code::Expired);
    assert_eq!(code(fetch(&ada, &child).await), Code::Expired);
    assert_eq!(code(child.decision().await), Code::Expired);
}

#[tokio::test]
async fn what_an_agent_asks_for_lives_as_long_as_its_kind_says_and_is_not_bound_by_fetching() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let (bot, keys) = paired(&ada, "bot", Scope::everything()).await;
    let kinds = [
        (scope_change(bot.wallet, scope(&[])), 5 * MINUTE),
        (super::child::rotate(bot.wallet, keys.public), 5 * MINUTE),
        (release(bot.wallet, "stripe"), 3 * MINUTE),
    ];
    for (details, life) in kinds {
        let child = Child::open_as(&bot, details).await;
        assert_eq!(child.opened.ttl_seconds * SECOND, life);
        fetch(&ada, &child).await.unwrap();
        env.clock.advance(life - 1);
        fetch(&ada, &child).await.unwrap();
        env.clock.advance(1);
        let problem = refused(approve_id(&ada, &child).await);
        assert_eq!(problem.code, Code::Expired);
        let limit = format!("holds for {} s", life / SECOND);
        assert!(problem.cause.contains(&limit), "{}", problem.cause);
    }
}

#[tokio::test]
async fn an_ended_code_says_so_for_ten_minutes_and_is_then_as_if_it_never_was() {
    let env = TestEnv::new().await;
    let (ada, eve) = (env.master("ada").await, env.master("eve").await);
    let (bot, _) = paired(&ada, "bot", Scope::everything()).await;
    let (expired, answered, theirs) = (
        Child::open(&env.http(), pair("", Scope::everything())).await,
        Child::open(&env.http(), pair("", Scope::everything())).await,
        Child::open_as(&bot, scope_change(bot.wallet, scope(&[]))).await,
    );
    approve(&ada, &answered).await;
    for swept in [false, true] {
        if swept {
            env.whole_vault().sweep().await.unwrap();
        } else {
            env.clock.advance(5 * MINUTE);
        }
        for (child, who) in [(&expired, &ada), (&expired, &eve), (&theirs, &ada), (&theirs, &eve)] {
            let problem = refused(fetch(who, child).await);
            assert_eq!(problem.code, Code::Expired, "swept: {swept}");
            assert!(problem.cause.contains("300 s old"), "{}", problem.cause);
        }
        let problem = refused(fetch(&eve, &answered).await);
        assert_eq!(problem.code, Code::Expired);
        assert!(problem.cause.contains("was answered"), "{}", problem.cause);
    }
    env.clock.advance(10 * MINUTE - 1);
    assert_eq!(code(fetch(&eve, &expired).await), Code::Expired);
    env.clock.advance(1);
    let nobodys = "ZZZZ-ZZZZ".parse().unwrap();
    let never = refused(ada.backend.fetch_auth_request(&ada.session, nobodys).await);
    assert_eq!(never.code, Code::NoMatch);
    for child in [&expired, &answered, &theirs] {
        assert_eq!(refused(fetch(&ada, child).await), never);
        assert_eq!(code(approve_id(&ada, child).await), Code::NotFound);
    }
    env.clock.advance(1);
    env.whole_vault().sweep().await.unwrap();
    assert_eq!(refused(fetch(&eve, &expired).await), never);
    assert_eq!(code(expired.decision().await), Code::Unauthorized);
}

#[tokio::test]
async fn a_decision_is_had_again_for_ten_minutes_and_no_longer() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let child = Child::open(&env.http(), pair("bot", Scope::everything())).await;
    approve(&ada, &child).await;
    let registration = child.register().await.unwrap();
    let nonce = child.decided().await.nonce;
    env.clock.advance(10 * MINUTE - 1);
    child.decided().await;
    assert!(child.backend.poll_rendezvous(&registration, NOW).await.unwrap().is_some());
    env.clock.advance(1);
    assert_eq!(code(child.decision().await), Code::AlreadyConsumed);
    let polled = child.backend.poll_rendezvous(&registration, LONG).await;
    assert_eq!(code(polled), Code::AlreadyConsumed);
    env.whole_vault().sweep().await.unwrap();
    assert!(rows_with(&env, &nonce.0).await.is_empty(), "the nonce outlived its request");
    assert_eq!(code(child.decision().await), Code::AlreadyConsumed);
}

#[tokio::test]
async fn sweeping_leaves_nothing_of_requests_and_takes_nothing_that_lives() {
    let env = TestEnv::new().await;
    let (ada, eve) = (env.master("ada").await, env.master("eve").await);
    let (bot, _) = paired(&ada, "bot", Scope::everything()).await;
    let lapsed = Child::open(&env.http(), pair("", Scope::everything())).await;
    lapsed.register().await.unwrap();
    fetch(&eve, &lapsed).await.unwrap();
    env.clock.advance(MINUTE);
    fetch(&ada, &lapsed).await.unwrap();
    let requests = [
        Child::open_as(&bot, scope_change(bot.wallet, scope(&[]))).await,
        Child::open(&env.http(), recover("bot")).await,
        Child::open(&env.http(), pair("", Scope::everything())).await,
    ];
    requests[1].register().await.unwrap();
    requests[1].register().await.unwrap();
    fetch(&ada, &requests[2]).await.unwrap();
    ada.backend.deny_auth_request(&ada.session, requests[2].opened.id).await.unwrap();
    env.clock.advance(4 * MINUTE - 1);
    env.whole_vault().sweep().await.unwrap();
    fetch(&ada, &requests[1]).await.unwrap();
    env.clock.advance(DAY - 6 * MINUTE);
    env.whole_vault().sweep().await.unwrap();
    for (tag, what) in [
        (b'q', "requests"),
        (b'p', "codes"),
        (b'P', "pending"),
        (b'g', "registrations"),
        (b'l', "guesses"),
    ] {
        assert_eq!(count_of(&env, tag).await, 0, "{what}");
    }
    // The master's session is not over, nor is the agent.
    let agents = ada.backend.list_agents(&ada.session).await.unwrap();
    assert_eq!(agents.len(), 1);
    ada.verify(None).await.unwrap();
}

#[tokio::test]
async fn one_damaged_row_does_not_keep_the_others_from_being_swept() {
    let env = TestEnv::new().await;
    let (damaged, other) = (
        Child::open(&env.http(), pair("a", Scope::everything())).await,
        Child::open(&env.http(), pair("b", Scope::everything())).await,
    );
    let place = |child: &Child| [&b"q"[..], &child.opened.id.0].concat();
    let row = env.rows().await[&place(&other)].clone();
    env.overwrite(vec![(place(&damaged), Some(row)), (b"t".to_vec(), Some("x".into()))]).await;
    env.clock.advance(DAY);
    env.whole_vault().sweep().await.unwrap();
    let rows = env.rows().await;
    assert!(!rows.contains_key(&place(&other)));
    assert!(rows.contains_key(&place(&damaged)), "what does not open is not touched");
}

#[tokio::test]
async fn a_live_request_outlives_a_restart() {
    let mut env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let session = crate::env::copy_of(&ada.session);
    let child = Child::open(&env.http(), pair("bot", Scope::everything())).await;
    drop(ada);
    env.restart().await;
    let http = env.http();
    let shown = http.fetch_auth_request(&session, child.opened.pair_code).await.unwrap();
    let seen = Some(shown.seen_hash());
    http.approve_auth_request(&session, shown.id, seen, Default::default()).await.unwrap();
    let child = Child { backend: env.http(), ..child };
    env.restart().await;
    let child = Child { backend: env.http(), ..child };
    let bot = child.signed_in().await;
    let agents = env.http().list_agents(&session).await.unwrap();
    assert_eq!(agents.iter().map(|agent| agent.wallet).collect::<Vec<_>>(), [bot.wallet]);
}
