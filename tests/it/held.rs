//! Requests that wait for their master's approval: what one approval lets through, and what it does
//! not.
use std::time::Duration;

use agentkeys::backend::vault::{HeldAct, InUse, Purpose, Taken, Waiting};
use agentkeys::core::audit::{Action, Outcome};
use agentkeys::core::backend::{Fetched, Grant, Lasts, RevokeTarget};
use agentkeys::core::problem::{Answer, Code};
use agentkeys::core::rule::Path;
use agentkeys::core::scope::Scope;
use agentkeys::core::terms::TermsChange;
use agentkeys::core::types::Hash32;

use crate::env::{Master, TestEnv, code, id, refused, service, unix};

async fn set_up(env: &TestEnv) -> (Master, Master) {
    let master = env.master("ada").await;
    master.agent("bot").await;
    master.store("bot", "stripe", b"sk-1").await;
    let rules = Some(["ask POST /v1/charges*".parse().unwrap()].into());
    let change = TermsChange { rules, ..TermsChange::default() };
    let (bot, stripe) = (id("bot"), service("stripe"));
    master
        .backend
        .set_terms(&master.session, &bot, &stripe, change)
        .await
        .expect("the rule is set");
    let child = master.child("bot", Scope::everything()).await;
    (master, child)
}

fn purpose(path: &str) -> Purpose {
    Purpose {
        agent: id("bot"),
        service: service("stripe"),
        method: "POST".to_owned(),
        path: Path::plain(path).unwrap(),
        what: format!("POST api.stripe.com{path}"),
        act: None,
    }
}

fn act(path: &str, body: &str) -> HeldAct {
    HeldAct {
        host: "api.stripe.com".parse().unwrap(),
        path: path.parse().unwrap(),
        body: Hash32::of(body.as_bytes()),
        sum: None,
    }
}

async fn send(
    env: &TestEnv,
    who: &Master,
    path: &str,
    body: &str,
) -> Answer<Result<Box<InUse>, Waiting>> {
    env.whole_vault().hold(unix(1000), &who.session, purpose(path), act(path, body)).await
}

/// Sends one that waits.
async fn held(env: &TestEnv, who: &Master, body: &str) -> Waiting {
    match send(env, who, "/v1/charges", body).await.expect("it is asked about") {
        Ok(_) => panic!("it was sent"),
        Err(waiting) => waiting,
    }
}

async fn is_sent(env: &TestEnv, who: &Master, path: &str, body: &str) -> bool {
    send(env, who, path, body).await.expect("it is not refused").is_ok()
}

async fn look(master: &Master, waiting: &Waiting) -> Fetched {
    let code = waiting.held().pair_code;
    master.backend.fetch_auth_request(&master.session, code).await.expect("it is there")
}

async fn approve(master: &Master, seen: &Fetched, lasts: Option<Lasts>) -> Answer<()> {
    let grant = Grant { lasts, ..Grant::default() };
    let (token, hash) = (&master.session, Some(seen.seen_hash()));
    master.backend.approve_auth_request(token, seen.id, hash, grant).await.map(drop)
}

#[tokio::test]
async fn nothing_is_sent_before_it_is_asked_about_and_a_rule_asks_for_no_more_than_it_names() {
    let env = TestEnv::new().await;
    let (_, child) = set_up(&env).await;
    let vault = env.whole_vault();
    let taken = vault.use_credential(unix(1000), &child.session, &purpose("/v1/charges")).await;
    assert!(matches!(taken, Ok(Taken::Asks)));
    let taken = vault.use_credential(unix(1000), &child.session, &purpose("/v1/refunds")).await;
    assert!(matches!(taken, Ok(Taken::InUse(_))));
}

#[tokio::test]
async fn twenty_equal_ones_are_one_question_and_its_answer_sends_just_those_that_were_shown() {
    let env = TestEnv::new().await;
    let (ada, child) = set_up(&env).await;
    let all = (0..20).map(|_| held(&env, &child, "a"));
    let mut waiting = futures(all).await;
    let codes: Vec<_> = waiting.iter().map(|one| one.held().pair_code).collect();
    assert!(codes.iter().all(|code| *code == codes[0]));
    let pending = ada.backend.list_pending(&ada.session).await.expect("a list");
    assert_eq!(pending.len(), 1);
    let seen = look(&ada, &waiting[0]).await;
    assert_eq!(seen.held, Some(20));
    // One more came after somebody looked.
    waiting.push(held(&env, &child, "a").await);
    assert_eq!(code(approve(&ada, &seen, None).await), Code::Invalid);
    let seen = look(&ada, &waiting[0]).await;
    assert_eq!(seen.held, Some(21));
    approve(&ada, &seen, None).await.expect("approved");
    assert_eq!(code(approve(&ada, &seen, None).await), Code::AlreadyConsumed);
    let before = ada.events().await.len();
    for one in waiting {
        assert!(one.answer().await.is_ok());
    }
    assert_eq!(ada.acts_after(before).await, vec![(Action::Use, Outcome::Allowed); 21]);
    assert!(!is_sent(&env, &child, "/v1/charges", "a").await);
}

/// All of them at once.
async fn futures<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut all: Vec<_> = all.map(Box::pin).collect();
    let mut done: Vec<Option<T>> = all.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (one, place) in all.iter_mut().zip(&mut done) {
            if place.is_none()
                && let std::task::Poll::Ready(value) = one.as_mut().poll(cx)
            {
                *place = Some(value);
            }
        }
        if done.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test]
async fn nobody_answers_and_it_is_refused_and_on_record() {
    let env = TestEnv::new().await;
    let (ada, child) = set_up(&env).await;
    let waiting = held(&env, &child, "a").await;
    assert_eq!(waiting.held().seconds, 180);
    let before = ada.events().await.len();
    env.clock.advance(179_000);
    assert_eq!(held(&env, &child, "a").await.held().seconds, 1);
    env.clock.advance(1_000);
    let problem = refused(waiting.answer().await);
    assert_eq!((problem.code, problem.docs.as_str()), (Code::Denied, "docs/errors.md#approval"));
    assert!(problem.cause.contains("nobody answered"), "{}", problem.cause);
    assert_eq!(ada.acts_after(before).await, [(Action::Use, Outcome::Denied)]);
    assert!(ada.backend.list_pending(&ada.session).await.expect("a list").is_empty());
}

#[tokio::test]
async fn an_approval_of_one_body_path_or_session_sends_no_other() {
    let env = TestEnv::new().await;
    let (ada, child) = set_up(&env).await;
    let other = ada.child("bot", Scope::everything()).await;
    let waiting = held(&env, &child, "a").await;
    approve(&ada, &look(&ada, &waiting).await, None).await.expect("approved");
    drop(waiting);
    assert!(!is_sent(&env, &child, "/v1/charges", "b").await);
    assert!(!is_sent(&env, &child, "/v1/charges?a=b", "a").await);
    assert!(!is_sent(&env, &child, "/v1/charges/x", "a").await);
    assert!(!is_sent(&env, &other, "/v1/charges", "a").await);
    // It is good for one that was sent again, once, and for three minutes.
    assert!(is_sent(&env, &child, "/v1/charges", "a").await);
    assert!(!is_sent(&env, &child, "/v1/charges", "a").await);
    let waiting = held(&env, &child, "c").await;
    approve(&ada, &look(&ada, &waiting).await, None).await.expect("approved");
    drop(waiting);
    env.clock.advance(3 * 60_000);
    assert!(!is_sent(&env, &child, "/v1/charges", "c").await);
}

#[tokio::test]
async fn one_that_lasts_covers_its_path_for_its_time_or_its_session_over_a_restart() {
    let mut env = TestEnv::new().await;
    let (ada, child) = set_up(&env).await;
    let waiting = held(&env, &child, "a").await;
    // Another question of the same path is answered along with it.
    let beside = held(&env, &child, "b").await;
    let seen = look(&ada, &waiting).await;
    for seconds in [0, 24 * 60 * 60 + 1] {
        let lasts = Some(Lasts::Seconds(seconds));
        assert_eq!(code(approve(&ada, &seen, lasts).await), Code::Invalid);
    }
    approve(&ada, &seen, Some(Lasts::Seconds(60))).await.expect("approved");
    assert!(waiting.answer().await.is_ok() && beside.answer().await.is_ok());
    assert!(ada.backend.list_pending(&ada.session).await.expect("a list").is_empty());
    let token = child.session.expose().to_owned();
    drop((ada, child));
    env.restart().await;
    let ada = env.master("ada").await;
    let again =
        Master { session: crate::env::copy_of(&token_of(&token)), ..env.master("ada").await };
    assert!(is_sent(&env, &again, "/v1/charges?x", "z").await);
    assert!(!is_sent(&env, &again, "/v1/charges/x", "z").await);
    env.clock.advance(60_000);
    assert!(!is_sent(&env, &again, "/v1/charges", "z").await);
    let waiting = held(&env, &again, "y").await;
    approve(&ada, &look(&ada, &waiting).await, Some(Lasts::Session)).await.expect("approved");
    env.clock.advance(60 * 60_000);
    assert!(is_sent(&env, &again, "/v1/charges", "z").await);
    // After a revocation it is worth nothing, also when the agent is back.
    let bot = RevokeTarget::Agent(id("bot"));
    ada.backend.revoke_session(&ada.session, bot).await.expect("revoked");
    ada.backend.reinstate_agent(&ada.session, &id("bot")).await.expect("back");
    let new = ada.child("bot", Scope::everything()).await;
    assert!(!is_sent(&env, &new, "/v1/charges", "z").await);
}

fn token_of(text: &str) -> agentkeys::core::token::SessionToken {
    agentkeys::core::token::SessionToken::parse(text).expect("it was one before")
}

#[tokio::test]
async fn who_asks_too_much_is_turned_away_and_takes_no_place_of_another() {
    let env = TestEnv::new().await;
    let (ada, child) = set_up(&env).await;
    let mut waiting = Vec::new();
    for at in 0..8 {
        waiting.push(held(&env, &child, &at.to_string()).await);
    }
    let turned_away = refused(send(&env, &child, "/v1/charges", "more").await);
    assert_eq!((turned_away.code, turned_away.retry_after), (Code::RateLimited, Some(10)));
    for _ in 8..32 {
        waiting.push(held(&env, &child, "0").await);
    }
    assert_eq!(code(send(&env, &child, "/v1/charges", "0").await), Code::RateLimited);
    // An answer makes room, and what was refused is not asked about again at once.
    let request = look(&ada, &waiting[1]).await.id;
    ada.backend.deny_auth_request(&ada.session, request).await.expect("denied");
    let problem = refused(waiting.swap_remove(1).answer().await);
    assert!(problem.cause.contains("said no"), "{}", problem.cause);
    assert_eq!(code(send(&env, &child, "/v1/charges", "1").await), Code::Denied);
    waiting.push(held(&env, &child, "more").await);
}

#[tokio::test]
async fn what_waits_is_refused_when_the_right_ends() {
    let env = TestEnv::new().await;
    let (ada, child) = set_up(&env).await;
    let waiting = held(&env, &child, "a").await;
    let seen = look(&ada, &waiting).await;
    let answer = tokio::spawn(waiting.answer());
    tokio::time::sleep(Duration::from_millis(50)).await;
    let bot = RevokeTarget::Agent(id("bot"));
    ada.backend.revoke_session(&ada.session, bot).await.expect("revoked");
    let answer = tokio::time::timeout(Duration::from_secs(1), answer).await;
    let problem = refused(answer.expect("within a second").expect("no panic"));
    assert!(problem.detail.contains("was revoked"), "{}", problem.detail);
    // The agent is another than was shown.
    assert_eq!(code(approve(&ada, &seen, None).await), Code::Invalid);
}

#[tokio::test]
async fn a_rule_that_refuses_it_since_refuses_it_also_when_it_was_approved() {
    let env = TestEnv::new().await;
    let (ada, child) = set_up(&env).await;
    let waiting = held(&env, &child, "a").await;
    let rules = Some(["deny POST /v1/charges".parse().unwrap()].into());
    let change = TermsChange { rules, ..TermsChange::default() };
    let seen = look(&ada, &waiting).await;
    ada.backend.set_terms(&ada.session, &id("bot"), &service("stripe"), change).await.expect("set");
    let problem = refused(waiting.answer().await);
    assert_eq!(problem.docs, "docs/errors.md#rule");
    let _ = approve(&ada, &seen, None).await;
    assert_eq!(code(send(&env, &child, "/v1/charges", "a").await), Code::Denied);
}
