//! Renewal secrets: good once, forgiving of a lost answer, unforgiving of a copy.
use agentkeys::core::audit::{Action, Outcome};
use agentkeys::core::backend::{Minted, RevokeTarget};
use agentkeys::core::problem::{Answer, Code};
use agentkeys::core::scope::Scope;
use agentkeys::core::token::RenewalSecret;

use crate::env::{DAY, HOUR, Master, START, TestEnv, code, id, refused, scope, service};

const RENEWED: (Action, Outcome) = (Action::SessionRenew, Outcome::Allowed);
const RENEWAL_DENIED: (Action, Outcome) = (Action::SessionRenew, Outcome::Denied);

async fn provisioned(env: &TestEnv) -> Master {
    let alice = env.master("alice").await;
    alice.agent("my-agent").await;
    alice.store("my-agent", "openrouter", b"sk-1").await;
    alice
}

fn secret(minted: &Minted) -> &RenewalSecret {
    minted.renewal.as_ref().expect("a child has one")
}

async fn reads(alice: &Master, minted: &Minted) -> Answer<()> {
    let (agent, name) = (id("my-agent"), service("openrouter"));
    alice.backend.read_credential(&minted.session, &agent, &name).await.map(|_| ())
}

#[tokio::test]
async fn a_renewal_gives_the_next_session_and_the_next_secret() {
    let env = TestEnv::new().await;
    let alice = provisioned(&env).await;
    let mut minted = alice.mint("my-agent", Scope::everything()).await;
    for n in 1..=4 {
        reads(&alice, &minted).await.expect("the session is good");
        env.clock.advance(3 * HOUR);
        let next = alice.backend.renew_session(secret(&minted)).await.expect("it is renewed");
        assert_ne!(next.session_id, minted.session_id);
        assert_ne!(secret(&next).expose(), secret(&minted).expose());
        assert_eq!(next.wallet, minted.wallet);
        assert_eq!(next.expires_at, START.plus_ms(n * 3 * HOUR + 4 * HOUR));
        minted = next;
    }
    reads(&alice, &minted).await.expect("the last one is good");
    let renewals = alice.acts_after(4).await;
    assert_eq!(renewals.iter().filter(|act| **act == RENEWED).count(), 4);
}

#[tokio::test]
async fn a_secret_outlives_its_session() {
    let env = TestEnv::new().await;
    let alice = provisioned(&env).await;
    let minted = alice.mint("my-agent", scope(&["openrouter"])).await;
    reads(&alice, &minted).await.expect("the session is good");
    env.clock.advance(20 * DAY);
    while env.whole_vault().sweep().await.expect("a sweep") > 0 {}
    assert_eq!(code(reads(&alice, &minted).await), Code::Unauthorized);
    let next = alice.backend.renew_session(secret(&minted)).await.expect("it is renewed");
    reads(&alice, &next).await.expect("the new session is good");
    // The narrower scope goes along.
    let other = alice_again(&env).await;
    other.store("my-agent", "anthropic", b"sk-2").await;
    let read =
        alice.backend.read_credential(&next.session, &id("my-agent"), &service("anthropic")).await;
    assert_eq!(code(read), Code::Denied);
}

async fn alice_again(env: &TestEnv) -> Master {
    env.master("alice").await
}

#[tokio::test]
async fn a_spent_secret_that_comes_back_ends_all_sessions_of_the_agent() {
    let env = TestEnv::new().await;
    let alice = provisioned(&env).await;
    let first = alice.mint("my-agent", Scope::everything()).await;
    let bystander = alice.mint("my-agent", Scope::everything()).await;
    alice.agent("other").await;
    let unrelated = alice.child("other", Scope::everything()).await;
    let second = alice.backend.renew_session(secret(&first)).await.expect("it is renewed");
    reads(&alice, &second).await.expect("its first use");
    let before = alice.events().await.len();
    let problem = refused(alice.backend.renew_session(secret(&first)).await);
    assert_eq!(problem.code, Code::Denied);
    for ended in [&first, &second, &bystander] {
        let problem = refused(reads(&alice, ended).await);
        assert_eq!(problem.code, Code::Denied);
        assert!(problem.cause.contains("renewal secret"), "{}", problem.cause);
    }
    for ended in [&first, &second, &bystander] {
        let answer = alice.backend.renew_session(secret(ended)).await;
        assert_eq!(code(answer), Code::Denied, "no secret of the agent is good any more");
    }
    let events = alice.events().await;
    assert_eq!((events[before].action, events[before].outcome), RENEWAL_DENIED);
    let detail = events[before].detail.as_deref();
    assert_eq!(detail, Some("a spent renewal secret came back: all sessions ended"));
    unrelated.backend.who_am_i(&unrelated.session).await.expect("another agent goes on");
    // The agent keeps its right: its master reads, and makes it a new session.
    assert_eq!(alice.read("my-agent", "openrouter").await, b"sk-1");
    alice.child("my-agent", Scope::everything()).await;
}

#[tokio::test]
async fn an_older_secret_than_the_last_ends_them_even_before_the_next_use() {
    let env = TestEnv::new().await;
    let alice = provisioned(&env).await;
    let first = alice.mint("my-agent", Scope::everything()).await;
    let second = alice.backend.renew_session(secret(&first)).await.expect("it is renewed");
    let third = alice.backend.renew_session(secret(&second)).await.expect("it is renewed");
    assert_eq!(code(alice.backend.renew_session(secret(&first)).await), Code::Denied);
    assert_eq!(code(reads(&alice, &third).await), Code::Denied);
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_and_what_was_lost_is_worth_nothing() {
    let env = TestEnv::new().await;
    let alice = provisioned(&env).await;
    let first = alice.mint("my-agent", Scope::everything()).await;
    reads(&alice, &first).await.expect("the session is good");
    let lost = alice.backend.renew_session(secret(&first)).await.expect("it is renewed");
    let again = alice.backend.renew_session(secret(&first)).await.expect("it was never used");
    let last = alice.backend.renew_session(secret(&first)).await.expect("and once more");
    for lost in [&lost, &again] {
        assert_eq!(code(reads(&alice, lost).await), Code::Denied);
    }
    reads(&alice, &last).await.expect("the one that arrived is good");
    // Whoever shows up with the secret of a lost answer has read it on its way.
    assert_eq!(code(alice.backend.renew_session(secret(&lost)).await), Code::Denied);
    assert_eq!(code(reads(&alice, &last).await), Code::Denied);
}

#[tokio::test]
async fn one_secret_shown_by_many_at_once_leaves_one_session_at_most() {
    let env = TestEnv::new().await;
    let alice = provisioned(&env).await;
    let first = alice.mint("my-agent", Scope::everything()).await;
    let text = secret(&first).expose().to_owned();
    let tries = (0..16).map(|_| {
        let (backend, text) = (alice.backend.clone(), text.clone());
        tokio::spawn(async move {
            let secret = RenewalSecret::parse(&text).expect("it is one");
            backend.renew_session(&secret).await
        })
    });
    let mut minted = Vec::new();
    for one in tries.collect::<Vec<_>>() {
        minted.push(one.await.expect("no panic").expect("none was used meanwhile"));
    }
    let mut good = 0;
    for one in &minted {
        good += usize::from(reads(&alice, one).await.is_ok());
    }
    assert_eq!(good, 1);
}

#[tokio::test]
async fn revoking_a_session_or_its_agent_ends_its_renewals() {
    let env = TestEnv::new().await;
    let alice = provisioned(&env).await;
    let one = alice.mint("my-agent", Scope::everything()).await;
    let two = alice.mint("my-agent", Scope::everything()).await;
    let target = RevokeTarget::Session(one.session_id);
    alice.backend.revoke_session(&alice.session, target).await.expect("it is revoked");
    assert_eq!(code(alice.backend.renew_session(secret(&one)).await), Code::Denied);
    let two = alice.backend.renew_session(secret(&two)).await.expect("the other goes on");
    let target = RevokeTarget::Agent(id("my-agent"));
    alice.backend.revoke_session(&alice.session, target).await.expect("it is revoked");
    let before = alice.events().await.len();
    let problem = refused(alice.backend.renew_session(secret(&two)).await);
    assert_eq!(problem.code, Code::Denied);
    assert!(problem.detail.contains("was revoked"), "{}", problem.detail);
    assert_eq!(alice.acts_after(before).await, [RENEWAL_DENIED]);
}

#[tokio::test]
async fn a_secret_that_was_never_given_is_unknown_and_on_no_record() {
    let env = TestEnv::new().await;
    let alice = provisioned(&env).await;
    let before = alice.events().await.len();
    let stranger = RenewalSecret::new(&[5; 32]);
    let problem = refused(alice.backend.renew_session(&stranger).await);
    assert_eq!((problem.code, problem.status), (Code::Unauthorized, 401));
    assert_eq!(alice.acts_after(before).await, []);
}

#[tokio::test]
async fn secrets_and_their_reuse_are_remembered_over_a_restart() {
    let mut env = TestEnv::new().await;
    let mut alice = provisioned(&env).await;
    let first = alice.mint("my-agent", Scope::everything()).await;
    let second = alice.backend.renew_session(secret(&first)).await.expect("it is renewed");
    reads(&alice, &second).await.expect("its first use");
    env.restart().await;
    alice.backend = env.backend();
    reads(&alice, &second).await.expect("the session is good");
    assert_eq!(code(alice.backend.renew_session(secret(&first)).await), Code::Denied);
    env.restart().await;
    alice.backend = env.backend();
    assert_eq!(code(reads(&alice, &second).await), Code::Denied);
}
