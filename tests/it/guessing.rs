//! Nobody guesses pair codes, and nobody who guesses is in anybody else's way.
use std::sync::Arc;

use agentkeys::core::backend::AccountBackend;
use agentkeys::core::otp::PairCode;
use agentkeys::core::problem::{Answer, Code, Problem};
use agentkeys::core::scope::Scope;
use agentkeys::core::token::OpenToken;

use crate::auth_request::child::{Child, Keys, fetch, pair, paired, release};
use crate::env::{MINUTE, Master, START, TestEnv, address, code, copy_of, refused, unix};

const SECOND: u64 = 1000;

/// The `at`th code that nobody has (but by one chance in ten million).
fn wrong(at: u32) -> PairCode {
    format!("0000{at:04}").parse().unwrap()
}

async fn guess(master: &Master, at: u32) -> Problem {
    refused(master.backend.fetch_auth_request(&master.session, wrong(at)).await)
}

async fn opened(env: &TestEnv) -> Child {
    Child::open(&env.vault(address(200)), pair("", Scope::everything())).await
}

#[tokio::test]
async fn five_wrong_codes_a_minute_are_answered_and_the_sixth_is_slowed() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let child = opened(&env).await;
    for at in 0..5 {
        assert_eq!(guess(&ada, at).await.code, Code::NoMatch);
        env.clock.advance(2 * SECOND);
    }
    let slowed = guess(&ada, 5).await;
    assert_eq!((slowed.code, slowed.status), (Code::RateLimited, 429));
    assert_eq!(slowed.retry_after, Some(50), "the first one is 10 s old");
    // The right code too, while it lasts; by another session of the account as well.
    assert_eq!(code(fetch(&ada, &child).await), Code::RateLimited);
    let again = env.master("ada").await;
    assert_eq!(code(fetch(&again, &child).await), Code::RateLimited);
    let payload = vec![1; 100];
    let deliver =
        ada.backend.deliver_rendezvous(&ada.session, child.opened.pair_code, payload).await;
    assert_eq!(code(deliver), Code::RateLimited);
    env.clock.advance(50 * SECOND - 1);
    assert_eq!(code(fetch(&ada, &child).await), Code::RateLimited);
    env.clock.advance(1);
    fetch(&ada, &child).await.unwrap();
    // One more try is free, not five.
    assert_eq!(guess(&ada, 6).await.code, Code::RateLimited);
}

#[tokio::test]
async fn right_codes_are_not_counted() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    for _ in 0..20 {
        fetch(&ada, &opened(&env).await).await.unwrap();
    }
}

#[tokio::test]
async fn a_restart_forgives_nothing() {
    let mut env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let child = opened(&env).await;
    for at in 0..6 {
        guess(&ada, at).await;
    }
    let session = copy_of(&ada.session);
    drop(ada);
    env.restart().await;
    let http = env.http();
    let fetched = http.fetch_auth_request(&session, child.opened.pair_code).await;
    assert_eq!(code(fetched), Code::RateLimited);
    env.clock.advance(MINUTE);
    env.whole_vault().sweep().await.unwrap();
    http.fetch_auth_request(&session, child.opened.pair_code).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guesses_at_the_same_moment_are_all_counted() {
    let env = TestEnv::new().await;
    let ada = Arc::new(env.master("ada").await);
    let mut tasks = tokio::task::JoinSet::new();
    for at in 0..200 {
        let ada = Arc::clone(&ada);
        tasks.spawn(async move { guess(&ada, at).await.code });
    }
    let codes = tasks.join_all().await;
    let answered = codes.iter().filter(|code| **code == Code::NoMatch).count();
    let slowed = codes.iter().filter(|code| **code == Code::RateLimited).count();
    assert_eq!((answered, slowed), (5, 195));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_account_beside_the_guesser_notices_nothing() {
    let env = TestEnv::new().await;
    let (eve, ada) = (Arc::new(env.master("eve").await), env.master("ada").await);
    let mut guessing = tokio::task::JoinSet::new();
    for task in 0..4 {
        let eve = Arc::clone(&eve);
        guessing.spawn(async move {
            for at in 0..200 {
                guess(&eve, task * 200 + at).await;
            }
        });
    }
    // Over the same socket, from the same address, and with mistakes of their own.
    let mut mistakes = 0;
    while !guessing.is_empty() || mistakes == 0 {
        let child = opened(&env).await;
        if mistakes < 5 {
            assert_eq!(guess(&ada, 9000 + mistakes).await.code, Code::NoMatch);
            mistakes += 1;
        }
        fetch(&ada, &child).await.unwrap();
        while guessing.try_join_next().is_some() {}
    }
    assert_eq!(guess(&eve, 1).await.code, Code::RateLimited);
}

struct Stranger {
    backend: Arc<dyn AccountBackend>,
    open: OpenToken,
    keys: Keys,
}

impl Stranger {
    fn at(env: &TestEnv, last: u8) -> Self {
        let open = OpenToken::new(&[last; 32]);
        Self { backend: env.vault(address(last)), open, keys: Keys::new() }
    }

    async fn tries(&self, code: PairCode) -> Answer<()> {
        self.backend.register_rendezvous(&self.open, code, self.keys.public).await.map(|_| ())
    }
}

#[tokio::test]
async fn a_stranger_s_tries_are_counted_by_address() {
    let env = TestEnv::new().await;
    let child = opened(&env).await;
    let eve = Stranger::at(&env, 1);
    // A code that is right, with a token that is not, is a guess like any other.
    assert_eq!(code(eve.tries(child.opened.pair_code).await), Code::Unauthorized);
    for at in 0..4 {
        assert_eq!(code(eve.tries(wrong(at)).await), Code::NoMatch);
    }
    assert_eq!(code(eve.tries(wrong(4)).await), Code::RateLimited);
    assert_eq!(code(eve.tries(child.opened.pair_code).await), Code::RateLimited);
    // Another token does not help; another address has tries of its own.
    let other_token = Stranger { open: OpenToken::new(&[99; 32]), ..Stranger::at(&env, 1) };
    assert_eq!(code(other_token.tries(wrong(5)).await), Code::RateLimited);
    assert_eq!(code(Stranger::at(&env, 2).tries(wrong(6)).await), Code::NoMatch);
    env.clock.advance(MINUTE);
    assert_eq!(code(eve.tries(wrong(7)).await), Code::NoMatch);
}

#[tokio::test]
async fn a_stranger_does_not_shut_out_the_children_at_its_address() {
    let env = TestEnv::new().await;
    let eve = Stranger::at(&env, 1);
    for at in 0..10 {
        assert!(eve.tries(wrong(at)).await.is_err());
    }
    let child = Child::open(&env.vault(address(1)), pair("", Scope::everything())).await;
    child.register().await.expect("it proves itself with its open token");
}

#[tokio::test]
async fn a_child_that_guesses_is_slowed_with_the_right_code_too() {
    let env = TestEnv::new().await;
    let child = Child::open(&env.vault(address(1)), pair("", Scope::everything())).await;
    let other = opened(&env).await;
    let tries =
        |code| child.backend.register_rendezvous(&child.opened.open_token, code, child.keys.public);
    for at in 0..4 {
        assert_eq!(code(tries(wrong(at)).await), Code::NoMatch);
    }
    assert_eq!(code(tries(other.opened.pair_code).await), Code::Unauthorized);
    assert_eq!(code(tries(wrong(4)).await), Code::RateLimited);
    assert_eq!(code(child.register().await), Code::RateLimited);
    // From another address it is the same child.
    let elsewhere = Child { backend: env.vault(address(2)), ..child };
    assert_eq!(code(elsewhere.register().await), Code::RateLimited);
    env.clock.advance(MINUTE);
    elsewhere.register().await.unwrap();
}

#[tokio::test]
async fn live_requests_of_one_address_are_capped_unless_dev() {
    let mut env = TestEnv::with_dev(false).await;
    let here = env.vault(address(1));
    let mut last = None;
    for _ in 0..32 {
        last = Some(Child::open(&here, pair("", Scope::everything())).await);
    }
    let too_many = |backend| async move {
        let open = Child::try_open(&backend, pair("", Scope::everything()), None).await;
        refused(open.map(|_| ()))
    };
    let problem = too_many(here.clone()).await;
    assert_eq!((problem.code, problem.retry_after), (Code::RateLimited, Some(300)));
    Child::open(&env.vault(address(2)), pair("", Scope::everything())).await;
    Child::open(&env.vault(unix(1000)), pair("", Scope::everything())).await;
    env.clock.advance(5 * MINUTE);
    Child::open(&here, pair("", Scope::everything())).await;
    drop((here, last));
    env.close().await;

    let dev = TestEnv::new().await;
    for _ in 0..100 {
        Child::open(&dev.vault(address(1)), pair("", Scope::everything())).await;
    }
}

#[tokio::test]
async fn an_answered_request_makes_room_for_the_next() {
    let env = TestEnv::with_dev(false).await;
    let here = env.vault(unix(1000));
    let proof = agentkeys::core::backend::IdentityProof::Peer;
    let minted = here.create_session(proof, Default::default()).await.unwrap();
    let ada = Master::of(here.clone(), minted).await;
    let (bot, _) = paired(&ada, "bot", Scope::everything()).await;
    // More than may be open at once, one after the other, within one lifetime.
    for _ in 0..40 {
        let child = Child::open_as(&bot, release(bot.wallet, "stripe")).await;
        ada.backend.deny_auth_request(&ada.session, child.opened.id).await.unwrap();
        assert_eq!(child.opened.created_at, START);
    }
}
