//! The rendezvous: ciphertext for a child that nobody can dial.
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentkeys::backend::clock::Entropy;
use agentkeys::core::audit::Action;
use agentkeys::core::backend::MAX_PAYLOAD;
use agentkeys::core::otp::PairCode;
use agentkeys::core::problem::{Answer, Code};
use agentkeys::core::scope::Scope;
use agentkeys::core::seal::{self, OVERHEAD, Purpose};
use agentkeys::core::secret::Key32;
use agentkeys::core::token::{OpenToken, RegistrationToken};

use crate::auth_request::child::{
    Child, Keys, LONG, NOW, approve, approve_id, fetch, pair, try_approve,
};
use crate::auth_request::flood;
use crate::env::{MINUTE, Master, TestEnv, address, code, refused};

async fn opened(env: &TestEnv) -> Child {
    Child::open(&env.http(), pair("", Scope::everything())).await
}

async fn deliver(master: &Master, code: PairCode, payload: &[u8]) -> Answer<()> {
    master.backend.deliver_rendezvous(&master.session, code, payload.to_vec()).await
}

/// Something sealed to the child, as a master would.
fn sealed(child: &Child, text: &[u8]) -> Vec<u8> {
    let random = Key32::new(Entropy::system().bytes().unwrap());
    let purpose = Purpose::payload(child.opened.id);
    seal::seal(&child.keys.public.x25519(), &purpose, text, &random).unwrap()
}

/// A parked poll is woken by the delivery, and a lost answer is had again.
#[tokio::test]
async fn register_poll_deliver() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let child = opened(&env).await;
    let registration = child.register().await.unwrap();
    assert!(registration.expose().starts_with("agkp_"));
    let payload = sealed(&child, b"hello");
    let (polled, delivered_at) =
        tokio::join!(child.backend.poll_rendezvous(&registration, LONG), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            deliver(&ada, child.opened.pair_code, &payload).await.unwrap();
            Instant::now()
        });
    let woken = delivered_at.elapsed();
    assert!(woken < Duration::from_millis(500), "woken after {woken:?}");
    assert_eq!(polled.unwrap().unwrap(), payload);
    let purpose = Purpose::payload(child.opened.id);
    assert_eq!(child.keys.unseal(&purpose, &payload).unwrap(), b"hello");
    let again = child.backend.poll_rendezvous(&registration, NOW).await.unwrap();
    assert_eq!(again.unwrap(), payload);
    let last = ada.events().await.pop().unwrap();
    assert_eq!((last.action, last.request), (Action::Deliver, Some(child.opened.id)));
}

/// Nothing after the wait is a clean answer, in good time, and the next poll goes on.
#[tokio::test]
async fn poll_timeout() {
    let env = TestEnv::new().await;
    let child = opened(&env).await;
    let registration = child.register().await.unwrap();
    for wait in [Duration::ZERO, Duration::from_secs(1)] {
        let began = Instant::now();
        let polled = child.backend.poll_rendezvous(&registration, wait).await;
        assert_eq!(polled.unwrap(), None);
        let took = began.elapsed();
        assert!(took >= wait && took < wait + Duration::from_secs(2), "{took:?} for {wait:?}");
    }
    let unknown = RegistrationToken::new(&[7; 32]);
    assert_eq!(code(child.backend.poll_rendezvous(&unknown, NOW).await), Code::Unauthorized);
}

#[tokio::test]
async fn deliver_unknown_code() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let nobodys = "0123-4567".parse().unwrap();
    let problem = refused(deliver(&ada, nobodys, &[0; OVERHEAD]).await);
    assert_eq!((problem.code, problem.status), (Code::NoMatch, 404));
    assert!(!problem.cause.is_empty() && !problem.fix.is_empty());
}

#[tokio::test]
async fn deliver_twice() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let child = opened(&env).await;
    let (first, second) = (sealed(&child, b"one"), sealed(&child, b"two"));
    deliver(&ada, child.opened.pair_code, &first).await.unwrap();
    for payload in [&first, &second] {
        let problem = refused(deliver(&ada, child.opened.pair_code, payload).await);
        assert_eq!((problem.code, problem.status), (Code::AlreadyDelivered, 409));
    }
    assert_eq!(child.polled().await.unwrap().unwrap(), first);
    // Nor after an approval, whose own payload is there.
    approve(&ada, &child).await;
    let problem = refused(deliver(&ada, child.opened.pair_code, &second).await);
    assert_eq!(problem.code, Code::AlreadyDelivered);
    child.signed_in().await;
}

/// Six minutes on, everybody is told that the code has expired, and the sweeper takes what was
/// secret of it; ten minutes later the rest.
#[tokio::test]
async fn ttl_expiry() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let child = opened(&env).await;
    let registration = child.register().await.unwrap();
    let payload = sealed(&child, b"hello");
    deliver(&ada, child.opened.pair_code, &payload).await.unwrap();
    env.clock.advance(6 * MINUTE);
    let problem = refused(child.backend.poll_rendezvous(&registration, LONG).await);
    assert_eq!((problem.code, problem.status), (Code::Expired, 410));
    assert!(problem.cause.contains("360 s old, and holds for 300 s"), "{}", problem.cause);
    assert_eq!(code(deliver(&ada, child.opened.pair_code, &payload).await), Code::Expired);
    assert_eq!(code(child.register().await), Code::Expired);

    let request = [&b"q"[..], &child.opened.id.0].concat();
    let before = env.rows().await[&request].len();
    assert!(env.whole_vault().sweep().await.unwrap() > 0);
    let rows = env.rows().await;
    assert!(rows[&request].len() < before - payload.len(), "nonce and payload are still there");
    assert_eq!(code(child.backend.poll_rendezvous(&registration, NOW).await), Code::Expired);
    env.clock.advance(10 * MINUTE);
    env.whole_vault().sweep().await.unwrap();
    assert!(!env.rows().await.contains_key(&request), "the row is still there");
    let polled = child.backend.poll_rendezvous(&registration, NOW).await;
    assert_eq!(code(polled), Code::Unauthorized);
    assert_eq!(code(deliver(&ada, child.opened.pair_code, &payload).await), Code::NoMatch);
}

/// Every byte string of an allowed size comes out as it went in.
#[tokio::test]
async fn ciphertext_passthrough() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let random: [u8; MAX_PAYLOAD] = Entropy::system().bytes().unwrap();
    let payloads = [
        vec![0; OVERHEAD],
        vec![0xff; OVERHEAD + 1],
        (0..=255).collect(),
        b"\r\n\r\n{\"payload\":\"x\"}\0".repeat(40),
        random.to_vec(),
    ];
    for payload in payloads {
        let child = opened(&env).await;
        deliver(&ada, child.opened.pair_code, &payload).await.unwrap();
        assert_eq!(child.polled().await.unwrap().unwrap(), payload);
    }
    let child = opened(&env).await;
    for wrong in [0, OVERHEAD - 1, MAX_PAYLOAD + 1] {
        let refused = code(deliver(&ada, child.opened.pair_code, &vec![1; wrong]).await);
        assert!(matches!(refused, Code::Invalid | Code::TooLarge), "{wrong}: {refused:?}");
    }
    assert_eq!(child.polled().await.unwrap(), None);
}

/// 100,000 concurrent registrations: no code twice, and each leads to a request of its own.
#[test]
fn pair_code_collision_avoidance() {
    let run = flood::run();
    assert_eq!(run.codes, flood::COUNT);
    assert_eq!(run.live_codes, flood::COUNT);
    assert_eq!(run.registrations, flood::COUNT);
}

/// One byte changed at the backend, any byte: the daemon takes nothing.
#[tokio::test]
async fn ciphertext_tamper_detection() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let child = opened(&env).await;
    approve(&ada, &child).await;
    let decision = child.decided().await;
    let payload = child.polled().await.unwrap().unwrap();
    for at in 0..payload.len() {
        let mut changed = payload.clone();
        changed[at] ^= 1;
        assert!(child.take(&decision, &changed).is_err(), "byte {at}");
    }
    assert!(child.take(&decision, &payload[..payload.len() - 1]).is_err());
    child.take(&decision, &payload).expect("as it was, it is taken");

    // By a relay that hands on something else than it was given: over the wire.
    let child = opened(&env).await;
    let mut changed = sealed(&child, b"hello");
    *changed.last_mut().unwrap() ^= 0x80;
    deliver(&ada, child.opened.pair_code, &changed).await.unwrap();
    let polled = child.polled().await.unwrap().unwrap();
    assert!(child.keys.unseal(&Purpose::payload(child.opened.id), &polled).is_err());
    // What the relay sealed itself, to the right key, is not what the master signed.
    approve(&ada, &child).await;
    let decision = child.decided().await;
    let own = sealed(&child, b"\xa0");
    assert!(child.keys.unseal(&Purpose::payload(child.opened.id), &own).is_ok());
    assert!(child.take(&decision, &own).is_err());
}

#[tokio::test]
async fn a_stranger_does_not_register_for_another_s_request() {
    let env = TestEnv::new().await;
    let child = opened(&env).await;
    let other = opened(&env).await;
    let register = |open, code, keys: &Keys| {
        let (backend, keys) = (Arc::clone(&child.backend), keys.public);
        async move { backend.register_rendezvous(open, code, keys).await }
    };
    let theirs = OpenToken::new(&[7; 32]);
    for open in [&theirs, &other.opened.open_token] {
        let answer = register(open, child.opened.pair_code, &child.keys).await;
        assert_eq!(code(answer), Code::Unauthorized);
    }
    // Nor with other keys than the request was opened with.
    let answer = register(&child.opened.open_token, child.opened.pair_code, &other.keys).await;
    assert_eq!(code(answer), Code::Invalid);
    let registration = child.register().await.unwrap();
    assert_eq!(child.backend.poll_rendezvous(&registration, NOW).await.unwrap(), None);
}

#[tokio::test]
async fn registering_again_ends_the_registration_before() {
    let env = TestEnv::new().await;
    let child = opened(&env).await;
    let first = child.register().await.unwrap();
    let (parked, second) = tokio::join!(child.backend.poll_rendezvous(&first, LONG), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        child.register().await.unwrap()
    });
    assert_eq!(code(parked), Code::Unauthorized);
    assert_eq!(child.backend.poll_rendezvous(&second, NOW).await.unwrap(), None);
}

#[tokio::test]
async fn what_an_account_left_and_did_not_confirm_is_void_for_the_next() {
    let env = TestEnv::new().await;
    let (ada, eve) = (env.master("ada").await, env.master("eve").await);
    let child = opened(&env).await;
    let (planted, good) = (sealed(&child, b"planted"), sealed(&child, b"good"));
    deliver(&eve, child.opened.pair_code, &planted).await.unwrap();
    // Delivering binds as fetching does.
    assert_eq!(code(deliver(&ada, child.opened.pair_code, &good).await), Code::Unauthorized);
    env.clock.advance(MINUTE);
    fetch(&ada, &child).await.unwrap();
    assert_eq!(child.polled().await.unwrap(), None);
    deliver(&ada, child.opened.pair_code, &good).await.unwrap();
    assert_eq!(child.polled().await.unwrap().unwrap(), good);

    let child = opened(&env).await;
    deliver(&eve, child.opened.pair_code, &planted).await.unwrap();
    env.clock.advance(MINUTE);
    deliver(&ada, child.opened.pair_code, &good).await.unwrap();
    assert_eq!(child.polled().await.unwrap().unwrap(), good);
}

#[tokio::test]
async fn an_agent_delivers_nothing() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    ada.agent("bot").await;
    let bot = ada.child("bot", Scope::everything()).await;
    let child = opened(&env).await;
    let payload = sealed(&child, b"hello");
    assert_eq!(code(deliver(&bot, child.opened.pair_code, &payload).await), Code::Denied);
}

/// Both long polls of many children are woken by their own approval, each within a moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_parked_child_gets_its_own() {
    let env = TestEnv::new().await;
    let ada = Arc::new(env.master("ada").await);
    let vault = env.vault(address(1));
    let mut waiting = tokio::task::JoinSet::new();
    let mut children = Vec::new();
    for _ in 0..100 {
        let child = Arc::new(Child::open(&vault, pair("", Scope::everything())).await);
        let registration = child.register().await.unwrap();
        children.push(Arc::clone(&child));
        waiting.spawn(async move {
            let opened = &child.opened;
            let (decision, payload) = tokio::join!(
                child.backend.await_auth_decision(&opened.open_token, opened.id, LONG),
                child.backend.poll_rendezvous(&registration, LONG),
            );
            let decision = decision.unwrap().expect("it was approved");
            let payload = payload.unwrap().expect("there is a payload");
            child.take(&decision, &payload).expect("it is its own").agent
        });
    }
    for child in &children {
        approve_id(&ada, child).await.unwrap();
    }
    let mut agents = waiting.join_all().await;
    agents.sort();
    agents.dedup();
    assert_eq!(agents.len(), 100);
    assert_eq!(
        code(try_approve(&ada, &children[0], Default::default()).await),
        Code::AlreadyConsumed
    );
}
