//! What happens at the same moment: whatever the order, the rules hold afterwards, and held in
//! between.
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use agentkeys::core::audit::{Action, Outcome};
use agentkeys::core::backend::{ClientInfo, RevokeTarget};
use agentkeys::core::problem::Code;
use agentkeys::core::scope::Scope;

use crate::auth_request::child::{Child, approve_id, fetch, pair, paired, recover};
use crate::env::{Master, TestEnv, address, code, id, loopback, proof, service};

const REVOKES: usize = 10_000;
const READERS: usize = 16;

/// Revokes and reinstates one agent as often as it can while sixteen readers read flat out. A
/// read that began after `revoke` returned and ended before `reinstate` began is never answered;
/// every answered one has its event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_that_began_after_a_revoke_is_answered() {
    let env = TestEnv::new().await;
    let vault = env.vault(loopback());
    let ada = Arc::new(Master::sign_in(vault, "ada").await);
    ada.agent("bot").await;
    ada.store("bot", "openrouter", b"sk-or-v1-test").await;
    // Even: readable. Odd: revoked, from the answer to `revoke` to the call of `reinstate`.
    let state = Arc::new(AtomicU64::new(0));
    let (stop, tried) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..READERS {
        let (ada, state) = (Arc::clone(&ada), Arc::clone(&state));
        let (stop, tried) = (Arc::clone(&stop), Arc::clone(&tried));
        readers.spawn(async move {
            let (mut answered, mut in_revoked) = (0, 0);
            while !stop.load(Ordering::SeqCst) {
                let before = state.load(Ordering::SeqCst);
                let read = ada.try_read("bot", "openrouter").await;
                let revoked_throughout = before % 2 == 1 && state.load(Ordering::SeqCst) == before;
                tried.fetch_add(1, Ordering::Relaxed);
                in_revoked += usize::from(revoked_throughout);
                match read {
                    Ok(plain) => {
                        assert!(!revoked_throughout, "a read was answered after revoke returned");
                        assert_eq!(plain, b"sk-or-v1-test");
                        answered += 1;
                    }
                    Err(problem) => assert_eq!(problem.code, Code::Denied, "{problem}"),
                }
                // A read that began in a revoked time may end in a later, readable one.
            }
            (answered, in_revoked)
        });
    }
    for round in 0..REVOKES {
        let target = RevokeTarget::Agent(id("bot"));
        ada.backend.revoke_session(&ada.session, target).await.unwrap();
        state.fetch_add(1, Ordering::SeqCst);
        // Now and then until every reader has had a whole read within the revoked time.
        let enough = tried.load(Ordering::Relaxed) + 2 * READERS;
        while round % 10 == 0 && tried.load(Ordering::Relaxed) < enough {
            tokio::task::yield_now().await;
        }
        state.fetch_add(1, Ordering::SeqCst);
        ada.backend.reinstate_agent(&ada.session, &id("bot")).await.unwrap();
    }
    stop.store(true, Ordering::SeqCst);
    let counts = readers.join_all().await;
    let answered: usize = counts.iter().map(|(answered, _)| answered).sum();
    let in_revoked: usize = counts.iter().map(|(_, revoked)| revoked).sum();
    let events = ada.events().await;
    let count = |action, outcome| {
        events.iter().filter(|e| e.action == action && e.outcome == outcome).count()
    };
    assert_eq!(count(Action::Read, Outcome::Allowed), answered, "events of answered reads");
    assert_eq!(count(Action::Revoke, Outcome::Allowed), REVOKES);
    assert_eq!(count(Action::Reinstate, Outcome::Allowed), REVOKES);
    assert_eq!(
        count(Action::Read, Outcome::Allowed) + count(Action::Read, Outcome::Denied),
        tried.load(Ordering::Relaxed)
    );
    assert!(answered > 0, "nothing was read");
    // In the order of the log, which is that of the commits: nothing was released while revoked.
    let mut revoked = false;
    for event in &events {
        match (event.action, event.outcome) {
            (Action::Revoke, _) => revoked = true,
            (Action::Reinstate, _) => revoked = false,
            (Action::Read, Outcome::Allowed) => {
                assert!(!revoked, "event {} was released after the revoke", event.seq);
            }
            _ => {}
        }
    }
    assert!(in_revoked >= REVOKES / 10, "only {in_revoked} reads fell into revoked times");
    println!(
        "{answered} reads answered, {in_revoked} wholly within revoked times, {REVOKES} revokes"
    );
    ada.verify(None).await.unwrap();
}

/// Of two recoveries of one agent that are approved at once, the later ends the earlier: one
/// daemon is left with a live session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_recoveries_at_once_leave_one_live_line_of_sessions() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let (first, _) = paired(&ada, "bot", Scope::everything()).await;
    ada.store("bot", "github", b"k").await;
    let mut before = first;
    for _ in 0..25 {
        let (a, b) = (
            Child::open(&env.http(), recover("bot")).await,
            Child::open(&env.http(), recover("bot")).await,
        );
        fetch(&ada, &a).await.unwrap();
        fetch(&ada, &b).await.unwrap();
        let (one, two) = tokio::join!(approve_id(&ada, &a), approve_id(&ada, &b));
        one.unwrap();
        two.unwrap();
        let (a, b) = (a.minted().await, b.minted().await);
        assert_eq!((a.wallet, b.wallet), (before.wallet, before.wallet));
        assert_eq!(code(before.try_read("bot", "github").await), Code::Denied);
        let (mut live, mut ended) = (Vec::new(), 0);
        for minted in [a, b] {
            let renewal = minted.renewal.as_ref().unwrap();
            match before.backend.who_am_i(&minted.session).await {
                Ok(_) => live.push(minted),
                Err(problem) => {
                    assert_eq!(problem.code, Code::Denied);
                    assert_eq!(code(before.backend.renew_session(renewal).await), Code::Denied);
                    ended += 1;
                }
            }
        }
        assert_eq!((live.len(), ended), (1, 1));
        before = Master::of(env.http(), live.remove(0)).await;
        assert_eq!(before.read("bot", "github").await, b"k");
    }
}

/// One recovery that is approved many times at once happens once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_recovery_approved_twice_at_once_happens_once() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    paired(&ada, "bot", Scope::everything()).await;
    for _ in 0..25 {
        let child = Child::open(&env.http(), recover("bot")).await;
        fetch(&ada, &child).await.unwrap();
        let (one, two) = tokio::join!(approve_id(&ada, &child), approve_id(&ada, &child));
        assert_ne!(one.is_ok(), two.is_ok());
        let lost = if one.is_ok() { two } else { one };
        assert_eq!(code(lost), Code::AlreadyConsumed);
        child.signed_in().await;
    }
}

/// A credential that is stored while its agent is deleted is deleted with it, or not stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_races_a_teardown_leaves_no_orphan() {
    let env = TestEnv::new().await;
    let ada = Arc::new(Master::sign_in(env.vault(loopback()), "ada").await);
    let mut stored = 0;
    for round in 0..60 {
        let name = format!("bot-{round}");
        let agent = ada.agent(&name).await;
        ada.store(&name, "github", b"before").await;
        let mut tasks = tokio::task::JoinSet::new();
        for at in 0..4 {
            let (ada, name) = (Arc::clone(&ada), name.clone());
            let which = if at % 2 == 0 { "github".to_owned() } else { format!("service-{at}") };
            let sealed = ada.seal(agent.wallet, &which, b"late").await;
            tasks.spawn(async move {
                let (agent, which) = (id(&name), service(&which));
                ada.backend.store_credential(&ada.session, &agent, &which, sealed).await
            });
        }
        if round % 3 == 0 {
            tokio::task::yield_now().await;
        }
        ada.backend.teardown_agent(&ada.session, &id(&name)).await.unwrap();
        for answer in tasks.join_all().await {
            match answer {
                Ok(()) => stored += 1,
                Err(problem) => assert_eq!(problem.code, Code::AgentNotFound),
            }
        }
        for (row, _) in env.rows().await {
            let names_agent = row.windows(20).any(|part| part == agent.wallet.0);
            assert!(!names_agent, "a row of kind {:?} is left", row[0] as char);
        }
    }
    println!("{stored} of 240 stores came first");
    ada.verify(None).await.unwrap();
}

/// Signing in for the first time, twice at once, makes one account.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_first_sign_ins_of_one_identity_make_one_account() {
    let env = TestEnv::new().await;
    for round in 0..20 {
        let identity = format!("user-{round}");
        let mut tasks = tokio::task::JoinSet::new();
        for at in 0..16 {
            let (backend, identity) = (env.vault(address(at)), identity.clone());
            tasks.spawn(async move {
                let minted = backend
                    .create_session(proof(&identity), ClientInfo::default())
                    .await
                    .expect("signs in");
                Master::of(backend, minted).await
            });
        }
        let signed_in = tasks.join_all().await;
        let accounts: HashSet<_> = signed_in.iter().map(|one| (one.account, one.wallet)).collect();
        assert_eq!(accounts.len(), 1);
        let sessions: HashSet<_> = signed_in.iter().map(|one| one.session_id).collect();
        assert_eq!(sessions.len(), 16);
        assert_eq!(signed_in[0].events().await.len(), 16);
        signed_in[0].verify(None).await.unwrap();
    }
    let accounts = env.rows().await.keys().filter(|key| key[0] == b'A').count();
    assert_eq!(accounts, 20);
}

/// A name that is linked to two agents at once names one of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_links_of_one_name_at_once_one_holds() {
    let env = TestEnv::new().await;
    let ada = Arc::new(env.master("ada").await);
    ada.agent("one").await;
    ada.agent("two").await;
    for round in 0..25 {
        let (lower, upper) = (id(&format!("prod-{round}")), id(&format!("PROD-{round}")));
        let (one, two) = (id("one"), id("two"));
        let (first, second) = tokio::join!(
            ada.backend.link_identity(&ada.session, &one, &lower),
            ada.backend.link_identity(&ada.session, &two, &upper),
        );
        assert_ne!(first.is_ok(), second.is_ok());
        let (won, lost) = if first.is_ok() { (first, second) } else { (second, first) };
        assert_eq!(code(lost), Code::Invalid);
        let named = ada.backend.resolve_identity(&ada.session, &lower).await.unwrap();
        assert_eq!(named.wallet, won.unwrap().wallet);
    }
    let agents = ada.backend.list_agents(&ada.session).await.unwrap();
    let names: usize = agents.iter().map(|agent| agent.identities.len()).sum();
    assert_eq!(names, 2 + 25);
}

/// Two requests that wish for one name, approved at once, make two agents; one has the name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_wishes_for_one_name_at_once_one_comes_true() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    for round in 0..10 {
        let wish = pair(&format!("bot-{round}"), Scope::everything());
        let (a, b) =
            (Child::open(&env.http(), wish.clone()).await, Child::open(&env.http(), wish).await);
        fetch(&ada, &a).await.unwrap();
        fetch(&ada, &b).await.unwrap();
        let (one, two) = tokio::join!(approve_id(&ada, &a), approve_id(&ada, &b));
        let (one, two) = (one.unwrap().agent, two.unwrap().agent);
        assert_ne!(one.wallet, two.wallet);
        assert_ne!(one.name.is_some(), two.name.is_some());
    }
}

/// A session that is ended while it reads is denied from then on, and told nothing else: not
/// that the store was altered, not that the backend is busy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_ends_while_it_reads_is_denied_and_nothing_else() {
    let env = TestEnv::new().await;
    let ada = Arc::new(Master::sign_in(env.vault(loopback()), "ada").await);
    ada.agent("bot").await;
    ada.store("bot", "github", b"k").await;
    for round in 0..150 {
        let bot = Arc::new(ada.child("bot", Scope::everything()).await);
        let mut readers = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let bot = Arc::clone(&bot);
            readers.spawn(async move {
                loop {
                    if let Err(problem) = bot.try_read("bot", "github").await {
                        return problem.code;
                    }
                }
            });
        }
        tokio::task::yield_now().await;
        if round % 2 == 0 {
            let target = RevokeTarget::Session(bot.session_id);
            ada.backend.revoke_session(&ada.session, target).await.unwrap();
        } else {
            let child = Child::open(&ada.backend, recover("bot")).await;
            approve_id(&ada, &child).await.unwrap();
        }
        assert_eq!(readers.join_all().await, [Code::Denied; 8]);
    }
}
