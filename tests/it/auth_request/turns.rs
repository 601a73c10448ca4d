//! A code that a stranger has read off the screen: whoever fetches its request again and again
//! keeps nobody out, and whoever is alone with it never has to wait.
use agentkeys::core::problem::Code;
use agentkeys::core::scope::Scope;

use super::child::{Child, approve, approve_id, fetch, pair};
use crate::env::{MINUTE, TestEnv, code, refused};

const SECOND: u64 = 1000;

async fn opened(env: &TestEnv) -> Child {
    Child::open(&env.http(), pair("bot", Scope::everything())).await
}

#[tokio::test]
async fn fetching_again_at_every_lapse_does_not_keep_the_honest_master_out() {
    let env = TestEnv::new().await;
    let (ada, eve) = (env.master("ada").await, env.master("eve").await);
    let child = opened(&env).await;
    fetch(&eve, &child).await.unwrap();
    env.clock.advance(20 * SECOND);
    let problem = refused(fetch(&ada, &child).await);
    assert_eq!(problem.code, Code::Unauthorized);
    assert!(problem.cause.contains("40 s left"), "{}", problem.cause);
    assert!(problem.fix.contains("wait 40 s"), "{}", problem.fix);
    // The moment it lapses, and in the whole minute that follows, it is not the stranger's.
    env.clock.advance(40 * SECOND);
    for _ in 0..3 {
        let problem = refused(fetch(&eve, &child).await);
        assert_eq!(problem.code, Code::Unauthorized);
        assert!(problem.cause.contains("you had a turn"), "{}", problem.cause);
        env.clock.advance(15 * SECOND);
    }
    assert_eq!(code(approve_id(&eve, &child).await), Code::Expired);
    approve(&ada, &child).await;
    assert_eq!(child.decided().await.account, ada.account);
    child.signed_in().await;
}

#[tokio::test]
async fn two_strangers_that_take_turns_do_not_keep_a_third_out() {
    let env = TestEnv::new().await;
    let (ada, eve, mal) =
        (env.master("ada").await, env.master("eve").await, env.master("mal").await);
    let child = opened(&env).await;
    fetch(&eve, &child).await.unwrap();
    assert_eq!(code(fetch(&mal, &child).await), Code::Unauthorized);
    assert_eq!(code(fetch(&ada, &child).await), Code::Unauthorized);
    env.clock.advance(MINUTE);
    // One that had no turn is as good as another; one that had goes behind.
    assert_eq!(code(fetch(&eve, &child).await), Code::Unauthorized);
    fetch(&mal, &child).await.unwrap();
    env.clock.advance(MINUTE);
    assert_eq!(code(fetch(&mal, &child).await), Code::Unauthorized);
    assert_eq!(code(fetch(&eve, &child).await), Code::Unauthorized);
    approve(&ada, &child).await;
    assert_eq!(child.decided().await.account, ada.account);
}

#[tokio::test]
async fn whoever_is_alone_fetches_it_again_at_once() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let child = opened(&env).await;
    for _ in 0..4 {
        fetch(&ada, &child).await.unwrap();
        env.clock.advance(MINUTE);
        assert_eq!(code(approve_id(&ada, &child).await), Code::Expired);
    }
    approve(&ada, &child).await;
    child.signed_in().await;
}

/// A stranger that only comes, so as to be waited for, costs a minute and no more.
#[tokio::test]
async fn one_that_waited_and_does_not_come_back_is_waited_for_one_minute() {
    let env = TestEnv::new().await;
    let (ada, eve) = (env.master("ada").await, env.master("eve").await);
    let child = opened(&env).await;
    fetch(&ada, &child).await.unwrap();
    assert_eq!(code(fetch(&eve, &child).await), Code::Unauthorized);
    env.clock.advance(MINUTE);
    assert_eq!(code(fetch(&ada, &child).await), Code::Unauthorized);
    env.clock.advance(MINUTE - 1);
    assert_eq!(code(fetch(&ada, &child).await), Code::Unauthorized);
    env.clock.advance(1);
    fetch(&ada, &child).await.unwrap();
    env.clock.advance(MINUTE);
    // It did not come again meanwhile: nobody is waited for.
    approve(&ada, &child).await;
    child.signed_in().await;
}

#[tokio::test]
async fn turns_outlive_a_restart() {
    let mut env = TestEnv::new().await;
    let (ada, eve) = (env.master("ada").await, env.master("eve").await);
    let (ada_token, eve_token) =
        (crate::env::copy_of(&ada.session), crate::env::copy_of(&eve.session));
    let child = opened(&env).await;
    fetch(&eve, &child).await.unwrap();
    assert_eq!(code(fetch(&ada, &child).await), Code::Unauthorized);
    drop((ada, eve));
    env.restart().await;
    env.clock.advance(MINUTE);
    let fetch = async |token| env.http().fetch_auth_request(token, child.opened.pair_code).await;
    assert_eq!(code(fetch(&eve_token).await), Code::Unauthorized);
    fetch(&ada_token).await.unwrap();
}

/// A payload binds as fetching does: it is no way around one's turn.
#[tokio::test]
async fn leaving_a_payload_does_not_go_before_others() {
    let env = TestEnv::new().await;
    let (ada, eve) = (env.master("ada").await, env.master("eve").await);
    let child = opened(&env).await;
    let deliver = async |who: &crate::env::Master| {
        let code = child.opened.pair_code;
        who.backend.deliver_rendezvous(&who.session, code, vec![7; 200]).await
    };
    fetch(&eve, &child).await.unwrap();
    assert_eq!(code(deliver(&ada).await), Code::Unauthorized);
    env.clock.advance(MINUTE);
    assert_eq!(code(deliver(&eve).await), Code::Unauthorized);
    deliver(&ada).await.unwrap();
    approve(&ada, &child).await;
    child.signed_in().await;
}
