//! Strangers who have read a code off the screen, register first, guess, or open requests by the
//! thousand: what they can do is seen, and none of it keeps an honest pairing from succeeding.
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentkeys::backend::peer::Peer;
use agentkeys::core::backend::{ClientInfo, IdentityProof, OpenRequest};
use agentkeys::core::holder::{Refusal, SessionHolder};
use agentkeys::core::otp::PairCode;
use agentkeys::core::pin::Fingerprint;
use agentkeys::core::problem::Code;
use agentkeys::core::scope::Scope;
use agentkeys::core::token::{OpenToken, RegistrationToken};
use agentkeys::core::wire::Route;

use crate::auth_request::child::{Keys, NOW, pair};
use crate::env::{MINUTE, Master, START, TestEnv, code, refused, service, unix};
use crate::keeper_support::{
    Daemon, Liar, ada, approve, approve_as, deny, env_now, fetch, now, until,
};

const KEY: &[u8] = b"sk-or-v1-test";

fn fingerprint(of: &Master) -> String {
    Fingerprint::of(of.account, &of.master_key).to_string()
}

/// Who was told nothing beforehand believes the first one who approves, and says whom it believed:
/// name and fingerprint are there to be compared.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unpinned_daemon_says_whose_the_first_approval_was() {
    let env = env_now().await;
    let (ada, mallory) = (ada(&env).await, env.master("mallory").await);
    let daemon = Daemon::start(env.address(), &[]).await;
    let waiting = daemon.asks().await;
    approve(&mallory, &waiting).await.unwrap();
    daemon.paired().await;
    let standing = daemon.holder.standing().await.unwrap();
    assert!(standing.pinned_by_first_approval);
    assert_eq!(standing.account.unwrap().to_string(), fingerprint(&mallory));
    // The master learns that the code was used, by somebody else.
    let late = refused(approve(&ada, &waiting).await);
    assert_eq!(late.code, Code::Expired);
    assert!(late.cause.contains("was answered"), "{}", late.cause);
    // And nothing of the master's came anywhere near it.
    match daemon.read("openrouter").await {
        Err(Refusal::Problem(problem)) => assert_eq!(problem.code, Code::NotFound, "{problem}"),
        other => panic!("{other:?}"),
    }
    // The one who was first is pinned, also against the master: with a pin it says that.
    let account = fingerprint(&ada);
    let daemon = daemon.restart_with(&["--account", &account]).await;
    let problem = daemon.refuses().await;
    assert!(problem.detail.contains("paired with another account"), "{problem}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_s_no_is_not_the_master_s_and_a_new_code_is_there_at_the_next_call() {
    let env = env_now().await;
    let (ada, mallory) = (ada(&env).await, env.master("mallory").await);
    // Unpinned, it cannot know whose no it was; it is told once, and asked anew after it.
    let daemon = Daemon::start(env.address(), &[]).await;
    let waiting = daemon.asks().await;
    deny(&mallory, &waiting).await.unwrap();
    daemon.answered().await;
    let told = daemon.refuses().await;
    assert!(told.detail.contains("said no"), "{told}");
    daemon.pair(&ada, Some("bot")).await;
    assert_eq!(daemon.read("openrouter").await, Ok(KEY.to_vec()));
    // Pinned, it does know.
    let account = fingerprint(&ada);
    let daemon = Daemon::start(env.address(), &["--account", &account]).await;
    let mut known = Vec::new();
    for _ in 0..3 {
        let waiting = daemon.asks().await;
        deny(&mallory, &waiting).await.unwrap();
        daemon.answered().await;
        let next = daemon.asks().await;
        assert!(!known.contains(&next.pair_code) && next.pair_code != waiting.pair_code);
        let because = next.because.unwrap();
        assert_eq!(because.detail, "another account denied the request");
        assert!(because.cause.contains(&fingerprint(&mallory)), "{}", because.cause);
        assert!(!because.detail.contains("master said no"));
        known.push(waiting.pair_code);
    }
    let waiting = daemon.asks().await;
    deny(&ada, &waiting).await.unwrap();
    daemon.answered().await;
    let told = daemon.refuses().await;
    assert_eq!(told.detail, "access denied: the master said no");
    daemon.pair(&ada, Some("bot")).await;
    assert_eq!(daemon.read("openrouter").await, Ok(KEY.to_vec()));
}

/// The code alone is not the daemon: whoever has read it cannot register with it, cannot wait
/// for its decision, and cannot use up the daemon's tries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_read_the_code_cannot_receive_the_session_nor_keep_it_from_coming() {
    let env = env_now().await;
    let ada = ada(&env).await;
    let mallory = env.master("mallory").await;
    let liar = Liar::before(env.address()).await;
    let daemon = Daemon::start(liar.address, &[]).await;
    // He has the code as soon as the daemon has it, and the daemon is slow to register.
    let code_seen = Arc::new(Mutex::new(String::new()));
    let seen = code_seen.clone();
    liar.lies(move |passing| {
        if passing.answers(Route::AuthRequestOpen) {
            *seen.lock().unwrap() = passing.json()["pair_code"].as_str().unwrap().to_owned();
        }
        if passing.asks(Route::RendezvousRegister) {
            passing.hold = Duration::from_millis(500);
        }
    });
    let asking = {
        let holder = daemon.holder.clone();
        tokio::spawn(async move { holder.read(&service("openrouter")).await })
    };
    liar.asked(Route::RendezvousRegister, 0).await;
    let pair_code: PairCode = code_seen.lock().unwrap().parse().unwrap();
    let stranger = env.http();
    let mut codes = Vec::new();
    for at in 0..20 {
        let (token, keys) = (OpenToken::new(&[at; 32]), Keys::new().public);
        codes.push(code(stranger.register_rendezvous(&token, pair_code, keys).await));
    }
    assert_eq!(codes[0], Code::Unauthorized);
    assert!(codes[6..].iter().all(|code| *code == Code::RateLimited), "{codes:?}");
    let waiting = match asking.await.unwrap() {
        Err(Refusal::Waiting(waiting)) => waiting,
        other => panic!("{:?}", other.map(|_| ())),
    };
    assert_eq!(waiting.pair_code, pair_code.to_string());
    let token = RegistrationToken::new(&[1; 32]);
    assert_eq!(code(stranger.poll_rendezvous(&token, NOW).await), Code::Unauthorized);
    let request = fetch(&ada, &waiting).await.unwrap().id;
    let token = OpenToken::new(&[1; 32]);
    let peek = stranger.await_auth_decision(&token, request, NOW).await;
    assert_eq!(code(peek), Code::Unauthorized);
    // He guesses as a master too, and is slowed; the master is not.
    for at in 0..8 {
        let guess = format!("0000{at:04}").parse().unwrap();
        let guess = mallory.backend.fetch_auth_request(&mallory.session, guess).await;
        let expected = if at < 5 { Code::NoMatch } else { Code::RateLimited };
        assert_eq!(code(guess), expected);
    }
    approve_as(&ada, &waiting, Some("bot")).await.unwrap();
    daemon.paired().await;
    assert_eq!(daemon.read("openrouter").await, Ok(KEY.to_vec()));
    // A second one at the same address as all those guesses.
    let second = Daemon::start(env.address(), &[]).await;
    second.pair(&ada, None).await;
}

/// The master of a backend without `--dev`, by the Unix socket's peer.
async fn owner(env: &TestEnv) -> Master {
    let vault = env.vault(unix(1000));
    let minted = vault.create_session(IdentityProof::Peer, ClientInfo::default()).await.unwrap();
    let owner = Master::of(vault, minted).await;
    owner.agent("bot").await;
    owner.store("bot", "openrouter", KEY).await;
    owner
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_open_requests_do_not_keep_an_honest_pairing_from_succeeding() {
    let env = TestEnv::with_dev(false).await;
    env.clock.advance(now().since_ms(START));
    let owner = owner(&env).await;
    let early = Daemon::start(env.address(), &[]).await;
    let waiting = early.asks().await;
    let flood = |address: IpAddr, many: usize| {
        let vault = env.vault(Peer::Address(address));
        async move {
            let mut opened = 0;
            for _ in 0..many {
                let request = OpenRequest {
                    keys: Keys::new().public,
                    details: pair("", Scope::everything()),
                    session: None,
                };
                match vault.open_auth_request(request).await {
                    Ok(_) => opened += 1,
                    Err(problem) => assert_eq!(problem.code, Code::RateLimited, "{problem}"),
                }
            }
            opened
        }
    };
    // From the daemon's own address, and from 400 others, which together open 10,000.
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    assert_eq!(flood(here, 100).await, 31);
    let mut others = tokio::task::JoinSet::new();
    for at in 0..400u32 {
        let address = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + at));
        others.spawn(flood(address, 25));
    }
    let honest = async {
        // Amid all that, the one who asked before it is approved, and another address pairs.
        approve_as(&owner, &waiting, Some("bot")).await.unwrap();
        early.paired().await;
        assert_eq!(early.read("openrouter").await, Ok(KEY.to_vec()));
    };
    let (opened, ()) = tokio::join!(others.join_all(), honest);
    assert_eq!(opened.into_iter().sum::<usize>(), 10_000);
    // That answer made room for one at this address, and the next has to wait its turn.
    let late = Daemon::start(env.address(), &[]).await;
    late.pair(&owner, None).await;
    let one_more = flood(here, 5).await;
    assert_eq!(one_more, 1);
    let last = Daemon::start(env.address(), &[]).await;
    let problem = last.refuses().await;
    assert_eq!(problem.code, Code::RateLimited);
    assert!(problem.retry_after.is_some_and(|seconds| seconds <= 300), "{problem}");
    env.clock.advance(5 * MINUTE);
    until("there is room", async || {
        matches!(last.read("openrouter").await, Err(Refusal::Waiting(_)))
    })
    .await;
    last.pair(&owner, Some("bot")).await;
    assert_eq!(last.read("openrouter").await, Ok(KEY.to_vec()));
}
