//! The internal ledger: two layers that never meet, and money that is never spent twice.
use std::sync::Arc;

use agentkeys::core::audit::{Action, Outcome};
use agentkeys::core::backend::RevokeTarget;
use agentkeys::core::payment::{Amount, Balance, Layer};
use agentkeys::core::problem::{Answer, Code};
use agentkeys::core::scope::Scope;

use crate::env::{Master, TestEnv, code, id, refused, service};

use Layer::{ServicePayment, SystemGas};

async fn fund(alice: &Master, layer: Layer, amount: Amount) -> Answer<Balance> {
    alice.backend.fund_child(&alice.session, &id("my-agent"), layer, amount).await
}

async fn debit(who: &Master, layer: Layer, amount: Amount, reference: &str) -> Answer<Balance> {
    let name = service("openrouter");
    who.backend.debit(&who.session, &id("my-agent"), layer, amount, Some(&name), reference).await
}

async fn balance(who: &Master, layer: Layer) -> (Amount, Amount) {
    let answer = who.backend.check_balance(&who.session, &id("my-agent"), layer).await;
    let balance = answer.expect("a balance");
    assert_eq!(balance.layer, layer);
    (balance.available, balance.spent)
}

async fn with_agent(env: &TestEnv) -> Master {
    let alice = env.master("alice").await;
    alice.agent("my-agent").await;
    alice
}

#[tokio::test]
async fn the_two_layers_are_never_mixed() {
    let env = TestEnv::new().await;
    let alice = with_agent(&env).await;
    assert_eq!(balance(&alice, SystemGas).await, (0, 0));
    fund(&alice, SystemGas, 100).await.expect("it is funded");
    assert_eq!(balance(&alice, ServicePayment).await, (0, 0));
    assert_eq!(code(debit(&alice, ServicePayment, 1, "a").await), Code::Denied);
    fund(&alice, ServicePayment, 7).await.expect("it is funded");
    let left = debit(&alice, ServicePayment, 5, "b").await.expect("there is enough");
    assert_eq!((left.layer, left.available, left.spent), (ServicePayment, 2, 5));
    assert_eq!(balance(&alice, SystemGas).await, (100, 0));
    let history =
        alice.backend.spending_history(&alice.session, &id("my-agent"), 10).await.expect("allowed");
    let moved: Vec<_> = history.iter().map(|one| (one.layer, one.funded, one.debited)).collect();
    assert_eq!(moved, [(ServicePayment, 0, 5), (ServicePayment, 7, 0), (SystemGas, 100, 0)]);
    assert_eq!(history[0].service, Some(service("openrouter")));
}

#[tokio::test]
async fn a_reference_counts_once_and_means_one_debit() {
    let env = TestEnv::new().await;
    let alice = with_agent(&env).await;
    fund(&alice, ServicePayment, 100).await.expect("it is funded");
    let before = alice.events().await.len();
    for _ in 0..3 {
        let left = debit(&alice, ServicePayment, 30, "invoice-1").await.expect("once");
        assert_eq!((left.available, left.spent), (70, 30));
    }
    assert_eq!(alice.acts_after(before).await, [(Action::Debit, Outcome::Allowed)]);
    for (layer, amount) in [(ServicePayment, 31), (SystemGas, 30)] {
        let other = debit(&alice, layer, amount, "invoice-1").await;
        assert_eq!(code(other), Code::Invalid, "a reference stands for one debit");
    }
    debit(&alice, ServicePayment, 30, "invoice-2").await.expect("another reference counts");
    assert_eq!(balance(&alice, ServicePayment).await, (40, 60));
}

#[tokio::test]
async fn an_overdraft_is_refused_whole() {
    let env = TestEnv::new().await;
    let alice = with_agent(&env).await;
    fund(&alice, ServicePayment, 10).await.expect("it is funded");
    let problem = refused(debit(&alice, ServicePayment, 11, "a").await);
    assert_eq!(problem.code, Code::Denied);
    assert_eq!(problem.cause, "10 is left, 11 is needed");
    assert_eq!(balance(&alice, ServicePayment).await, (10, 0));
    debit(&alice, ServicePayment, 10, "a").await.expect("the reference was not used up");
    assert_eq!(balance(&alice, ServicePayment).await, (0, 10));
}

#[tokio::test]
async fn amounts_and_references_have_limits() {
    let env = TestEnv::new().await;
    let alice = with_agent(&env).await;
    assert_eq!(code(fund(&alice, SystemGas, 0).await), Code::Invalid);
    fund(&alice, SystemGas, Amount::MAX).await.expect("as much as fits");
    assert_eq!(code(fund(&alice, SystemGas, 1).await), Code::Invalid);
    assert_eq!(balance(&alice, SystemGas).await, (Amount::MAX, 0));
    assert_eq!(code(debit(&alice, SystemGas, 0, "a").await), Code::Invalid);
    for bad in ["", "a b", "a\n", "ä"] {
        assert_eq!(code(debit(&alice, SystemGas, 1, bad).await), Code::Invalid, "{bad:?}");
    }
    assert_eq!(code(debit(&alice, SystemGas, 1, &"r".repeat(65)).await), Code::Invalid);
    debit(&alice, SystemGas, 1, &"r".repeat(64)).await.expect("the longest");
    let history =
        async |limit| alice.backend.spending_history(&alice.session, &id("my-agent"), limit).await;
    assert_eq!(history(1).await.expect("the newest").len(), 1);
    for limit in [0, 1001] {
        assert_eq!(code(history(limit).await), Code::Invalid);
    }
}

#[tokio::test]
async fn a_child_spends_its_own_and_funds_nobody() {
    let env = TestEnv::new().await;
    let alice = with_agent(&env).await;
    alice.agent("other").await;
    fund(&alice, ServicePayment, 10).await.expect("it is funded");
    let child = alice.child("my-agent", Scope::everything()).await;
    let other = alice.child("other", Scope::everything()).await;
    debit(&child, ServicePayment, 4, "a").await.expect("its own");
    assert_eq!(balance(&child, ServicePayment).await, (6, 4));
    assert_eq!(code(fund(&child, ServicePayment, 1).await), Code::Denied);
    assert_eq!(code(debit(&other, ServicePayment, 1, "b").await), Code::Denied);
    let seen = other.backend.check_balance(&other.session, &id("my-agent"), ServicePayment).await;
    assert_eq!(code(seen), Code::Denied);
    let target = RevokeTarget::Agent(id("my-agent"));
    alice.backend.revoke_session(&alice.session, target).await.expect("it is revoked");
    for who in [&child, &alice] {
        assert_eq!(code(debit(who, ServicePayment, 1, "c").await), Code::Denied);
    }
    assert_eq!(balance(&alice, ServicePayment).await, (6, 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_debits_never_overdraw() {
    let env = TestEnv::new().await;
    let alice = Arc::new(with_agent(&env).await);
    fund(&alice, ServicePayment, 100).await.expect("it is funded");
    let tries: Vec<_> = (0..64)
        .map(|n| {
            let alice = alice.clone();
            // Every debit is sent twice: a repeated one counts once.
            tokio::spawn(
                async move { debit(&alice, ServicePayment, 7, &format!("r-{}", n / 2)).await },
            )
        })
        .collect();
    let mut done = 0;
    for one in tries {
        match one.await.expect("no panic") {
            Ok(_) => done += 1,
            Err(problem) => assert_eq!(problem.code, Code::Denied),
        }
    }
    assert_eq!(balance(&alice, ServicePayment).await, (2, 98));
    assert!((14..=28).contains(&done), "{done} answers for 14 debits");
    let debits = alice.events().await;
    assert_eq!(debits.iter().filter(|e| e.action == Action::Debit).count(), 14);
}

#[tokio::test]
async fn the_ledger_survives_a_restart_and_goes_with_its_agent() {
    let mut env = TestEnv::new().await;
    let mut alice = with_agent(&env).await;
    fund(&alice, ServicePayment, 10).await.expect("it is funded");
    debit(&alice, ServicePayment, 4, "a").await.expect("there is enough");
    env.restart().await;
    alice.backend = env.backend();
    assert_eq!(balance(&alice, ServicePayment).await, (6, 4));
    debit(&alice, ServicePayment, 4, "a").await.expect("it was done");
    assert_eq!(balance(&alice, ServicePayment).await, (6, 4));
    alice.backend.teardown_agent(&alice.session, &id("my-agent")).await.expect("deleted");
    // B: balances, L: movements, R: references.
    let left = env.rows().await.keys().filter(|key| b"BLR".contains(&key[0])).count();
    assert_eq!(left, 0);
}
