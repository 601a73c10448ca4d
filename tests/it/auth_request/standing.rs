//! A request is worth no more than the right of whoever asked: when that ends, parked polls end
//! denied, and no approval brings it back.
use std::time::{Duration, Instant};

use agentkeys::core::backend::RevokeTarget;
use agentkeys::core::problem::Code;
use agentkeys::core::scope::Scope;

use super::child::{
    Child, LONG, approve, approve_id, pair, paired, recover, release, rotate, scope_change,
};
use crate::env::{MINUTE, Master, TestEnv, code, id, scope};

async fn revoke(ada: &Master, agent: &str) {
    ada.backend.revoke_session(&ada.session, RevokeTarget::Agent(id(agent))).await.unwrap();
}

#[tokio::test]
async fn parked_polls_end_denied_when_their_agent_is_revoked() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let (bot, _) = paired(&ada, "bot", Scope::everything()).await;
    let child = Child::open_as(&bot, release(bot.wallet, "stripe")).await;
    let registration = child.register().await.unwrap();
    let open = &child.opened.open_token;
    let began = Instant::now();
    let (decision, payload, ()) = tokio::join!(
        child.backend.await_auth_decision(open, child.opened.id, LONG),
        child.backend.poll_rendezvous(&registration, LONG),
        async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            revoke(&ada, "bot").await;
        },
    );
    assert!(began.elapsed() < LONG / 10, "they stayed parked: {:?}", began.elapsed());
    assert_eq!(code(decision), Code::Denied);
    assert_eq!(code(payload), Code::Denied);
    assert_eq!(code(approve_id(&ada, &child).await), Code::Denied);
}

#[tokio::test]
async fn parked_polls_end_when_their_session_or_agent_goes() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    for teardown in [false, true] {
        let (bot, _) = paired(&ada, "bot", Scope::everything()).await;
        let child = Child::open_as(&bot, scope_change(bot.wallet, scope(&[]))).await;
        let parked =
            child.backend.await_auth_decision(&child.opened.open_token, child.opened.id, LONG);
        let began = Instant::now();
        let (decision, ()) = tokio::join!(parked, async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if teardown {
                ada.backend.teardown_agent(&ada.session, &id("bot")).await.unwrap();
            } else {
                let target = RevokeTarget::Session(bot.session_id);
                ada.backend.revoke_session(&ada.session, target).await.unwrap();
            }
        });
        assert!(began.elapsed() < LONG / 10, "it stayed parked: {:?}", began.elapsed());
        let (ended, approved) = if teardown {
            (Code::Unauthorized, Code::AgentNotFound)
        } else {
            (Code::Denied, Code::Denied)
        };
        assert_eq!(code(decision), ended);
        let answer = code(approve_id(&ada, &child).await);
        assert!(answer == approved || answer == Code::Unauthorized, "{answer:?}");
        if !teardown {
            ada.backend.teardown_agent(&ada.session, &id("bot")).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_replaced_daemon_gets_the_agent_back_by_no_request_that_it_left_behind() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let (thief, keys) = paired(&ada, "bot", Scope::everything()).await;
    let left = [
        Child::open_as(&thief, rotate(thief.wallet, keys.public)).await,
        Child::open_as(&thief, scope_change(thief.wallet, Scope::everything())).await,
        Child::open_as(&thief, release(thief.wallet, "stripe")).await,
    ];
    let child = Child::open(&env.http(), recover("bot")).await;
    approve(&ada, &child).await;
    let bot = child.signed_in().await;
    for request in left {
        assert_eq!(code(approve_id(&ada, &request).await), Code::Denied);
        assert_eq!(code(request.decision().await), Code::Denied);
    }
    ada.store("bot", "github", b"k").await;
    assert_eq!(bot.read("bot", "github").await, b"k");
}

#[tokio::test]
async fn what_was_approved_is_not_handed_out_once_the_agent_is_revoked() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let child = Child::open(&env.http(), pair("bot", Scope::everything())).await;
    let registration = child.register().await.unwrap();
    approve(&ada, &child).await;
    let minted = child.minted().await;
    revoke(&ada, "bot").await;
    assert_eq!(code(child.decision().await), Code::Denied);
    assert_eq!(code(child.polled().await), Code::Denied);
    assert_eq!(code(child.backend.who_am_i(&minted.session).await), Code::Denied);
    let _ = registration;
}

#[tokio::test]
async fn a_scope_change_lasts_beyond_the_next_renewal() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    ada.agent("bot").await;
    ada.store("bot", "github", b"one").await;
    ada.store("bot", "openrouter", b"two").await;
    // The session is narrower than its agent.
    let minted = ada.mint("bot", scope(&["github"])).await;
    let renewal = minted.renewal.as_ref().unwrap().expose().to_owned();
    let bot = Master::of(env.http(), minted).await;
    assert_eq!(code(bot.try_read("bot", "openrouter").await), Code::Denied);
    let wished = scope(&["github", "openrouter"]);
    let child = Child::open_as(&bot, scope_change(bot.wallet, wished)).await;
    approve(&ada, &child).await;
    assert_eq!(bot.read("bot", "openrouter").await, b"two");
    let renewal = agentkeys::core::token::RenewalSecret::parse(&renewal).unwrap();
    let renewed = bot.backend.renew_session(&renewal).await.unwrap();
    let renewed = Master::of(env.http(), renewed).await;
    assert_eq!(renewed.read("bot", "openrouter").await, b"two");
}

/// An answered request without a payload, polled after its own time was over, was looked at a
/// thousand times a second: such a poll waits, and takes no processor.
#[tokio::test]
async fn a_poll_that_has_nothing_to_wait_for_does_not_spin() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let (bot, _) = paired(&ada, "bot", Scope::everything()).await;
    let child = Child::open_as(&bot, release(bot.wallet, "stripe")).await;
    let registration = child.register().await.unwrap();
    approve(&ada, &child).await;
    env.clock.advance(4 * MINUTE);
    let wait = Duration::from_secs(2);
    let began = Instant::now();
    let before = cpu_ticks();
    assert_eq!(child.backend.poll_rendezvous(&registration, wait).await.unwrap(), None);
    assert!(began.elapsed() >= wait, "it came back early");
    let used = cpu_ticks() - before;
    assert!(used < 8, "this thread worked for {used} ticks of 10 ms within two seconds");
}

/// What the calling thread, which also runs the server of a single-threaded test, has used.
fn cpu_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("Linux");
    let fields: Vec<_> = stat.rsplit(')').next().expect("a name").split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<u64>().expect("a number");
    ticks(11) + ticks(12)
}
