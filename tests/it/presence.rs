//! Presence: what a passphrase keeps a session from doing, and what it does not; the backend over
//! a real socket, with a clock that is set by hand.
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use agentkeys::client::guard::{Asker, MasterGuard};
use agentkeys::client::http::{Address, HttpBackend};
use agentkeys::core::audit::{Action, Outcome};
use agentkeys::core::backend::{AccountBackend, Grant, RevokeTarget};
use agentkeys::core::payment::Layer;
use agentkeys::core::presence::{
    Act, Demand, Level, NewLevel, PassphraseKey, Presence, Proof, Why,
};
use agentkeys::core::problem::{Answer, Code, Problem};
use agentkeys::core::provision::{NewProvider, Settings, Way};
use agentkeys::core::scope::Scope;
use agentkeys::core::secret::SecretBytes;
use agentkeys::core::terms::{Exposure, TermsChange};
use agentkeys::core::token::SessionToken;
use agentkeys::core::types::{Hash32, Salt};
use async_trait::async_trait;

use crate::auth_request::child::{Child, pair, paired};
use crate::env::{
    DAY, HOUR, MINUTE, Master, TestEnv, code, copy_of, id, loopback, refused, scope, service, unix,
};

const RIGHT: &str = "correct horse battery";
const SALT: Salt = Salt([5; 16]);

fn secret(text: &str) -> SecretBytes {
    SecretBytes::new(text.as_bytes().to_vec())
}

fn key(passphrase: &str) -> PassphraseKey {
    PassphraseKey::stretch(&secret(passphrase), &SALT).unwrap()
}

fn passphrase_level(passphrase: &str) -> NewLevel {
    let (public_key, salt) = (Some(key(passphrase).public()), Some(SALT));
    NewLevel { level: Level::Passphrase, public_key, salt }
}

/// A person who types what was planned, and counts the questions.
pub struct Typist {
    answers: Mutex<VecDeque<&'static str>>,
    pub asked: AtomicUsize,
}

impl Typist {
    pub fn new(answers: &[&'static str]) -> Arc<Self> {
        let answers = Mutex::new(answers.iter().copied().collect());
        Arc::new(Self { answers, asked: AtomicUsize::new(0) })
    }

    fn times(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Asker for Typist {
    async fn passphrase(&self, _prompt: &str) -> Answer<Option<SecretBytes>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Ok(self.answers.lock().unwrap().pop_front().map(secret))
    }

    fn most_asked(&self) -> u32 {
        3
    }

    fn terminal(&self) -> Option<Hash32> {
        None
    }
}

/// A client whose person is the typist.
fn with_person(env: &TestEnv, typist: &Arc<Typist>) -> Arc<dyn AccountBackend> {
    let address = Address::from(env.address());
    let guard = MasterGuard::new(typist.clone(), address.to_string());
    Arc::new(HttpBackend::new(address).guarded(Arc::new(guard)))
}

async fn protect(ada: &Master, passphrase: &str) -> Presence {
    ada.backend.set_presence(&ada.session, &passphrase_level(passphrase)).await.expect("it is set")
}

fn demand_of(problem: &Problem) -> &Demand {
    assert_eq!((problem.code, problem.docs.as_str()), (Code::Denied, "docs/errors.md#presence"));
    problem.presence.as_ref().expect("a proof is demanded")
}

type Done<'a> = Pin<Box<dyn Future<Output = Answer<()>> + 'a>>;
/// One way to raise what somebody may do.
type Raise = for<'a> fn(&'a dyn AccountBackend, &'a SessionToken) -> Done<'a>;

/// Every act that wants a proof, but for approving and for the level itself.
const RAISES: &[(&str, Raise)] = &[
    ("read", |backend, session| {
        Box::pin(async {
            let (bot, github) = (id("bot"), service("github"));
            backend.read_credential(session, &bot, &github).await.map(drop)
        })
    }),
    ("read all, as run does", |backend, session| {
        Box::pin(async { backend.read_all(session, &id("bot")).await.map(drop) })
    }),
    ("a child session of an agent", |backend, session| {
        Box::pin(async {
            let bot = id("bot");
            backend.create_child_session(session, Some(&bot), Scope::everything()).await.map(drop)
        })
    }),
    ("a child session of a new agent", |backend, session| {
        Box::pin(async {
            backend.create_child_session(session, None, Scope::everything()).await.map(drop)
        })
    }),
    ("a wider scope", |backend, session| {
        Box::pin(async {
            backend.set_scope(session, &id("narrow"), scope(&["a", "b"])).await?;
            backend.set_scope(session, &id("narrow"), scope(&["a"])).await.map(drop)
        })
    }),
    ("another scope, narrower in one thing and wider in another", |backend, session| {
        Box::pin(async {
            backend.set_scope(session, &id("narrow"), scope(&["b"])).await?;
            backend.set_scope(session, &id("narrow"), scope(&["a"])).await.map(drop)
        })
    }),
    ("a scope that may also store", |backend, session| {
        Box::pin(async {
            backend.set_scope(session, &id("reader"), scope(&["a"])).await?;
            let narrow = Scope { read_only: true, ..scope(&["a"]) };
            backend.set_scope(session, &id("reader"), narrow).await.map(drop)
        })
    }),
    ("wider terms of a credential", |backend, session| {
        Box::pin(async {
            let to = |tier| TermsChange { expose: Some(tier), ..TermsChange::default() };
            let (agent, name) = (id("bot"), service("openrouter"));
            let narrow = to(Exposure::Broker);
            backend.set_terms(session, &agent, &name, narrow.clone()).await?;
            backend.set_terms(session, &agent, &name, to(Exposure::Inject)).await?;
            backend.set_terms(session, &agent, &name, narrow).await.map(drop)
        })
    }),
    ("a wider default of what is shown", |backend, session| {
        Box::pin(async {
            backend.default_exposure(session, Some(Exposure::Reveal)).await?;
            backend.default_exposure(session, Some(Exposure::Broker)).await.map(drop)
        })
    }),
    ("reinstate", |backend, session| {
        Box::pin(async {
            backend.reinstate_agent(session, &id("gone")).await?;
            let gone = RevokeTarget::Agent(id("gone"));
            backend.revoke_session(session, gone).await
        })
    }),
    ("link", |backend, session| {
        Box::pin(async {
            backend.link_identity(session, &id("bot"), &id("bot@example.org")).await?;
            backend.unlink_identity(session, &id("bot@example.org")).await.map(drop)
        })
    }),
    ("set up how keys are got", |backend, session| {
        Box::pin(async {
            let new =
                NewProvider { way: Way::Browser, settings: Settings::default(), sealed: None };
            backend.set_provider(session, &service("x"), &new).await.map(drop)
        })
    }),
    ("fund", |backend, session| {
        Box::pin(async {
            let bot = id("bot");
            backend.fund_child(session, &bot, Layer::ServicePayment, 1).await.map(drop)
        })
    }),
];

async fn furnished(env: &TestEnv) -> Master {
    let ada = env.master("ada").await;
    for agent in ["bot", "narrow", "reader", "gone"] {
        ada.agent(agent).await;
    }
    ada.store("bot", "github", b"ghp_x").await;
    // Whatever the account's default is.
    let reveal = TermsChange { expose: Some(Exposure::Reveal), ..TermsChange::default() };
    let (bot, github) = (id("bot"), service("github"));
    ada.backend.set_terms(&ada.session, &bot, &github, reveal).await.unwrap();
    ada.backend.set_scope(&ada.session, &id("narrow"), scope(&["a"])).await.unwrap();
    let reading = Scope { read_only: true, ..scope(&["a"]) };
    ada.backend.set_scope(&ada.session, &id("reader"), reading).await.unwrap();
    let gone = RevokeTarget::Agent(id("gone"));
    ada.backend.revoke_session(&ada.session, gone).await.unwrap();
    ada
}

#[tokio::test]
async fn every_act_that_raises_works_at_level_none_and_wants_a_proof_above_it() {
    let env = TestEnv::new().await;
    let ada = furnished(&env).await;
    for (name, raise) in RAISES {
        raise(&*ada.backend, &ada.session).await.unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    assert_eq!(protect(&ada, RIGHT).await.level, Level::Passphrase);
    let before = ada.events().await.len();
    for (name, raise) in RAISES {
        let problem = refused(raise(&*ada.backend, &ada.session).await);
        let demand = demand_of(&problem);
        assert_eq!((demand.why, demand.salt), (Why::Missing, SALT), "{name}");
    }
    assert_eq!(ada.events().await.len(), before, "what was not proven left something behind");
    // Each with a command of its own, where the passphrase is typed once.
    for (name, raise) in RAISES {
        let typist = Typist::new(&[RIGHT]);
        let backend = with_person(&env, &typist);
        raise(&*backend, &ada.session).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(typist.times(), 1, "{name}");
    }
}

#[tokio::test]
async fn what_lowers_or_looks_wants_none() {
    let env = TestEnv::new().await;
    let ada = furnished(&env).await;
    let child = Child::open(&env.http(), pair("new", Scope::everything())).await;
    protect(&ada, RIGHT).await;
    let (backend, session) = (&*ada.backend, &ada.session);
    ada.store("bot", "openrouter", b"sk-or").await;
    ada.agent("another").await;
    backend.set_scope(session, &id("bot"), scope(&["github"])).await.unwrap();
    backend.set_scope(session, &id("narrow"), scope(&[])).await.unwrap();
    backend.list_credentials(session, &id("bot")).await.unwrap();
    backend.list_agents(session).await.unwrap();
    backend.roll_back_credential(session, &id("bot"), &service("openrouter")).await.ok();
    let fetched = backend.fetch_auth_request(session, child.opened.pair_code).await.unwrap();
    backend.deny_auth_request(session, fetched.id).await.unwrap();
    backend.revoke_session(session, RevokeTarget::Agent(id("bot"))).await.unwrap();
    backend.teardown_agent(session, &id("bot")).await.unwrap();
    assert_eq!(backend.who_am_i(session).await.unwrap().presence, "passphrase");
    // What an agent does by its own session is bounded by its scope.
    let events = ada.events().await;
    assert_eq!(events.last().unwrap().presence, "passphrase");
    assert_eq!(events.first().unwrap().presence, "none");
}

#[tokio::test]
async fn an_agent_s_own_reads_are_as_before() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let (bot, _) = paired(&ada, "bot", Scope::everything()).await;
    ada.store("bot", "github", b"ghp_x").await;
    protect(&ada, RIGHT).await;
    assert_eq!(bot.read("bot", "github").await, b"ghp_x");
    assert_eq!(code(bot.backend.presence(&bot.session).await), Code::Denied);
    assert_eq!(code(bot.backend.set_presence(&bot.session, &NewLevel::none()).await), Code::Denied);
    assert_eq!(code(bot.backend.ask_presence_reset(&bot.session).await), Code::Denied);
}

#[tokio::test]
async fn an_approval_wants_a_proof_for_what_was_shown_each_time() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    protect(&ada, RIGHT).await;
    let one = Child::open(&env.http(), pair("one", Scope::everything())).await;
    let two = Child::open(&env.http(), pair("two", Scope::everything())).await;
    let fetch = async |child: &Child| {
        ada.backend.fetch_auth_request(&ada.session, child.opened.pair_code).await.unwrap()
    };
    let (shown, other) = (fetch(&one).await, fetch(&two).await);
    let seen = Some(shown.seen_hash());
    let approve = async |backend: &dyn AccountBackend, seen, grant| {
        backend.approve_auth_request(&ada.session, shown.id, seen, grant).await
    };
    demand_of(&refused(approve(&*ada.backend, seen, Grant::default()).await));
    // Blindly: not even with the passphrase.
    let typist = Typist::new(&[RIGHT, RIGHT, RIGHT, RIGHT]);
    let person = with_person(&env, &typist);
    assert_eq!(code(approve(&*person, None, Grant::default()).await), Code::Invalid);
    assert_eq!(typist.times(), 0);
    // A proof for one grant, or one request, is none for another.
    let demand = refused(approve(&*ada.backend, seen, Grant::default()).await);
    let challenge = demand_of(&demand).challenge;
    let (granted, id_two) = (Grant::default(), other.id);
    let act = Act::Approve { request: shown.id, seen, grant: &granted };
    let proof = key(RIGHT).prove(challenge, &act.hash(), None);
    let proving = env.vault_proving(loopback(), proof);
    let wider = Grant { name: Some("mine".parse().unwrap()), ..Grant::default() };
    assert_eq!(demand_of(&refused(approve(&*proving, seen, wider).await)).why, Why::Stale);
    let there = proving.approve_auth_request(&ada.session, id_two, seen, Grant::default()).await;
    assert_eq!(code(there), Code::Invalid);
    approve(&*proving, seen, Grant::default()).await.expect("it is for just this");
    // The next one is asked for again, in the same command's connection as well.
    approve_with(&*person, &ada, &two).await;
    assert_eq!(typist.times(), 1);
    let three = Child::open(&env.http(), pair("three", Scope::everything())).await;
    demand_of(&refused(
        ada.backend
            .approve_auth_request(
                &ada.session,
                fetch(&three).await.id,
                Some(fetch(&three).await.seen_hash()),
                Grant::default(),
            )
            .await,
    ));
}

async fn approve_with(backend: &dyn AccountBackend, who: &Master, child: &Child) {
    let shown = who.backend.fetch_auth_request(&who.session, child.opened.pair_code).await.unwrap();
    let seen = Some(shown.seen_hash());
    let done = backend.approve_auth_request(&who.session, shown.id, seen, Grant::default()).await;
    done.expect("it is approved");
}

/// Tries a read with a proof, over TCP.
async fn read_with(env: &TestEnv, session: &SessionToken, proof: Proof) -> Answer<()> {
    let proving = env.vault_proving(loopback(), proof);
    proving.read_credential(session, &id("bot"), &service("github")).await.map(drop)
}

async fn demanded(env: &TestEnv, ada: &Master) -> Demand {
    let _ = env;
    demand_of(&refused(ada.try_read("bot", "github").await)).clone()
}

fn read_hash() -> Hash32 {
    Act::Read { agent: &id("bot"), service: &service("github") }.hash()
}

#[tokio::test]
async fn a_proof_is_good_once_for_one_act_of_one_session_within_five_minutes() {
    let env = TestEnv::new().await;
    let ada = furnished(&env).await;
    let elsewhere = env.master("ada").await;
    protect(&ada, RIGHT).await;
    let right = key(RIGHT);
    let why = |answer: Answer<()>| demand_of(&refused(answer)).why;

    let proof = right.prove(demanded(&env, &ada).await.challenge, &read_hash(), None);
    // Of another session of the same account, and for another act: it is not spent by that.
    assert_eq!(why(read_with(&env, &elsewhere.session, proof).await), Why::Stale);
    let other = env.vault_proving(loopback(), proof);
    assert_eq!(why(other.read_all(&ada.session, &id("bot")).await.map(drop)), Why::Stale);
    assert_eq!(why(other.reinstate_agent(&ada.session, &id("gone")).await), Why::Stale);
    read_with(&env, &ada.session, proof).await.expect("it is good");
    assert_eq!(why(read_with(&env, &ada.session, proof).await), Why::Stale, "it is spent");

    let proof = right.prove(demanded(&env, &ada).await.challenge, &read_hash(), None);
    env.clock.advance(5 * MINUTE);
    assert_eq!(why(read_with(&env, &ada.session, proof).await), Why::Stale, "it is over");

    // A challenge of one's own making is none.
    let mut challenge = demanded(&env, &ada).await.challenge;
    challenge.0[..8].copy_from_slice(&u64::MAX.to_be_bytes());
    let proof = right.prove(challenge, &read_hash(), None);
    assert_eq!(why(read_with(&env, &ada.session, proof).await), Why::Stale, "it was changed");
    // None of it counts as a wrong passphrase: nobody learns anything by it.
    assert_eq!(ada.backend.presence(&ada.session).await.unwrap().wrong, 0);
}

#[tokio::test]
async fn a_spent_challenge_stays_spent_over_a_restart_and_is_swept_when_it_is_over() {
    let mut env = TestEnv::new().await;
    let ada = furnished(&env).await;
    protect(&ada, RIGHT).await;
    let proof = key(RIGHT).prove(demanded(&env, &ada).await.challenge, &read_hash(), None);
    read_with(&env, &ada.session, proof).await.expect("it is good");
    let session = copy_of(&ada.session);
    env.restart().await;
    assert_eq!(demand_of(&refused(read_with(&env, &session, proof).await)).why, Why::Stale);
    let spent = async || env.rows().await.keys().filter(|key| key[0] == b'x').count();
    assert_eq!(spent().await, 1);
    env.clock.advance(6 * MINUTE);
    env.whole_vault().sweep().await.unwrap();
    assert_eq!(spent().await, 0);
}

/// One try with a passphrase, each with a challenge of its own.
async fn try_once(env: &TestEnv, ada: &Master, passphrase: &PassphraseKey) -> Answer<()> {
    let proof = passphrase.prove(demanded(env, ada).await.challenge, &read_hash(), None);
    read_with(env, &ada.session, proof).await
}

#[tokio::test]
async fn wrong_passphrases_are_slowed_counted_on_disk_and_on_record() {
    let mut env = TestEnv::new().await;
    let mut ada = furnished(&env).await;
    protect(&ada, RIGHT).await;
    let (right, wrong) = (key(RIGHT), key("wrong horse"));
    for n in 1..5 {
        let problem = refused(try_once(&env, &ada, &wrong).await);
        assert_eq!(demand_of(&problem).why, Why::Wrong, "the {n}th");
    }
    let fifth = refused(try_once(&env, &ada, &wrong).await);
    assert_eq!((fifth.code, fifth.retry_after), (Code::RateLimited, Some(30)));
    // The right one has to wait too, also by a new session and after a restart.
    assert_eq!(code(try_once(&env, &ada, &right).await), Code::RateLimited);
    env.restart().await;
    ada = env.master("ada").await;
    assert_eq!(code(try_once(&env, &ada, &right).await), Code::RateLimited);
    let shown = ada.backend.presence(&ada.session).await.unwrap();
    assert_eq!(shown.wrong, 5);
    assert!(shown.slowed_until.is_some());
    // Each wrong one after a pause doubles it.
    env.clock.advance(30_000);
    assert_eq!(refused(try_once(&env, &ada, &wrong).await).retry_after, Some(60));
    env.clock.advance(60_000);
    try_once(&env, &ada, &right).await.expect("the right one, after the pause");
    assert_eq!(ada.backend.presence(&ada.session).await.unwrap().wrong, 0);
    let denied = ada.events().await;
    let denied = denied.iter().filter(|e| e.action == Action::Presence);
    let denied: Vec<_> = denied.filter(|e| e.outcome == Outcome::Denied).collect();
    assert_eq!(denied.len(), 6);
    assert_eq!(denied[0].detail.as_deref(), Some("wrong passphrase, to read github of bot"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_passphrases_at_the_same_moment_are_counted_one_by_one() {
    let env = TestEnv::new().await;
    let ada = furnished(&env).await;
    protect(&ada, RIGHT).await;
    let wrong = key("wrong horse");
    let mut proofs = Vec::new();
    for _ in 0..64 {
        proofs.push(wrong.prove(demanded(&env, &ada).await.challenge, &read_hash(), None));
    }
    let tries = proofs.into_iter().map(|proof| {
        let proving = env.vault_proving(loopback(), proof);
        let session = copy_of(&ada.session);
        tokio::spawn(async move {
            refused(proving.read_credential(&session, &id("bot"), &service("github")).await)
        })
    });
    let mut told_wrong = 0;
    for one in tries.collect::<Vec<_>>() {
        let problem = one.await.unwrap();
        let wrong = problem.presence.as_ref().is_some_and(|demand| demand.why == Why::Wrong);
        told_wrong += usize::from(wrong);
    }
    assert_eq!(told_wrong, 4, "more tries were judged than there are");
    assert_eq!(ada.backend.presence(&ada.session).await.unwrap().wrong, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_signatures_under_one_challenge_are_one_try() {
    let env = TestEnv::new().await;
    let ada = furnished(&env).await;
    protect(&ada, RIGHT).await;
    let challenge = demanded(&env, &ada).await.challenge;
    let mut tries = Vec::new();
    for n in 0..32 {
        let proof = key(&format!("wrong horse {n}")).prove(challenge, &read_hash(), None);
        let proving = env.vault_proving(loopback(), proof);
        let session = copy_of(&ada.session);
        tries.push(tokio::spawn(async move {
            refused(proving.read_credential(&session, &id("bot"), &service("github")).await)
        }));
    }
    let mut judged = 0;
    for one in tries {
        let problem = one.await.unwrap();
        // Nothing else may tell a wrong one from one that nobody looked at.
        assert_eq!(problem.code, Code::Denied, "{problem:?}");
        judged += usize::from(demand_of(&problem).why == Why::Wrong);
    }
    assert_eq!(judged, 1);
    assert_eq!(ada.backend.presence(&ada.session).await.unwrap().wrong, 1);
}

#[tokio::test]
async fn a_person_has_three_tries_a_command_and_nobody_means_the_demand_itself() {
    let env = TestEnv::new().await;
    let ada = furnished(&env).await;
    protect(&ada, RIGHT).await;
    let read = async |typist: &Arc<Typist>| {
        let person = with_person(&env, typist);
        person.read_credential(&ada.session, &id("bot"), &service("github")).await.map(drop)
    };
    let second = Typist::new(&["wrong horse", RIGHT]);
    read(&second).await.expect("the second was right");
    assert_eq!(second.times(), 2);
    let never = Typist::new(&["wrong one", "wrong two", "wrong three", RIGHT]);
    assert_eq!(demand_of(&refused(read(&never).await)).why, Why::Wrong);
    assert_eq!(never.times(), 3);
    let nobody = Typist::new(&[]);
    assert_eq!(demand_of(&refused(read(&nobody).await)).why, Why::Missing);
}

#[tokio::test]
async fn over_tcp_each_command_asks_whatever_was_typed_just_before() {
    let env = TestEnv::new().await;
    let ada = furnished(&env).await;
    protect(&ada, RIGHT).await;
    let typist = Typist::new(&[RIGHT, RIGHT]);
    for asked in 1..=2 {
        let person = with_person(&env, &typist);
        person.read_all(&ada.session, &id("bot")).await.unwrap();
        // Within one command, the second act has a signature and no question of its own.
        person.read_all(&ada.session, &id("bot")).await.unwrap();
        assert_eq!(typist.times(), asked);
    }
    // A Unix peer without a terminal that the kernel names is no better off.
    let vault = env.vault(unix(0));
    assert_eq!(code(vault.read_all(&ada.session, &id("bot")).await), Code::Denied);
}

#[tokio::test]
async fn another_passphrase_and_level_none_want_the_one_of_now() {
    let env = TestEnv::new().await;
    let ada = furnished(&env).await;
    protect(&ada, RIGHT).await;
    let second = "another horse battery";
    for new in [passphrase_level(second), NewLevel::none()] {
        demand_of(&refused(ada.backend.set_presence(&ada.session, &new).await));
    }
    let person = with_person(&env, &Typist::new(&[RIGHT]));
    person.set_presence(&ada.session, &passphrase_level(second)).await.expect("it is changed");
    let old = with_person(&env, &Typist::new(&[RIGHT]));
    demand_of(&refused(old.set_presence(&ada.session, &NewLevel::none()).await));
    let new = with_person(&env, &Typist::new(&[second]));
    let shown = new.set_presence(&ada.session, &NewLevel::none()).await.unwrap();
    assert_eq!(shown.level, Level::None);
    assert_eq!(ada.read("bot", "github").await, b"ghp_x");
    let said: Vec<_> =
        ada.events().await.into_iter().filter(|e| e.action == Action::Presence).collect();
    let said: Vec<_> = said.iter().filter(|e| e.outcome == Outcome::Allowed).collect();
    let words: Vec<_> = said.iter().map(|e| e.detail.as_deref().unwrap()).collect();
    assert_eq!(words, ["level passphrase", "another passphrase", "level none"]);
    assert_eq!(said[2].presence, "none");
}

#[tokio::test]
async fn a_level_without_its_key_is_refused() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let whole = passphrase_level(RIGHT);
    for new in [
        NewLevel { public_key: None, ..whole.clone() },
        NewLevel { salt: None, ..whole.clone() },
        NewLevel { level: Level::None, ..whole },
    ] {
        assert_eq!(code(ada.backend.set_presence(&ada.session, &new).await), Code::Invalid);
    }
    assert_eq!(ada.backend.presence(&ada.session).await.unwrap().level, Level::None);
}

#[tokio::test]
async fn a_lost_passphrase_is_got_rid_of_slowly_and_for_all_to_see() {
    let env = TestEnv::new().await;
    let ada = furnished(&env).await;
    assert_eq!(code(ada.backend.ask_presence_reset(&ada.session).await), Code::Invalid);
    protect(&ada, RIGHT).await;
    let none = NewLevel::none();
    let lower = async |who: &Master| who.backend.set_presence(&who.session, &none).await;
    let asked = ada.backend.ask_presence_reset(&ada.session).await.unwrap().reset.unwrap();
    // Asked again, it is the same one: nobody makes it longer or shorter. Sessions sleep too long
    // meanwhile; new ones do it as well.
    env.clock.advance(DAY);
    let ada = env.master("ada").await;
    let again = ada.backend.ask_presence_reset(&ada.session).await.unwrap().reset.unwrap();
    assert_eq!(asked, again);
    assert_eq!(ada.backend.who_am_i(&ada.session).await.unwrap().presence_reset, Some(asked));
    demand_of(&refused(lower(&ada).await));
    env.clock.advance(DAY + DAY - 1);
    let ada = env.master("ada").await;
    demand_of(&refused(lower(&ada).await));
    demand_of(&refused(ada.try_read("bot", "github").await));
    env.clock.advance(1);
    // Other acts are not opened by it, nor another passphrase.
    demand_of(&refused(ada.try_read("bot", "github").await));
    let other = passphrase_level("a thief's passphrase");
    demand_of(&refused(ada.backend.set_presence(&ada.session, &other).await));
    let shown = lower(&ada).await.unwrap();
    assert_eq!((shown.level, shown.reset), (Level::None, None));
    let words: Vec<_> = ada
        .events()
        .await
        .into_iter()
        .filter(|event| event.action == Action::Presence)
        .map(|event| event.detail.unwrap())
        .collect();
    assert!(words[1].starts_with("reset asked for"), "{words:?}");
    assert!(words[2].contains("by the reset that the master session on host"), "{words:?}");
}

#[tokio::test]
async fn a_reset_ends_by_a_word_by_the_passphrase_and_by_itself() {
    let env = TestEnv::new().await;
    let ada = furnished(&env).await;
    protect(&ada, RIGHT).await;
    let ask = async |who: &Master| who.backend.ask_presence_reset(&who.session).await.unwrap();
    let pending =
        async |who: &Master| who.backend.presence(&who.session).await.unwrap().reset.is_some();
    ask(&ada).await;
    ada.backend.cancel_presence_reset(&ada.session).await.unwrap();
    assert!(!pending(&ada).await);

    ask(&ada).await;
    let person = with_person(&env, &Typist::new(&[RIGHT]));
    person.read_all(&ada.session, &id("bot")).await.expect("it is given");
    assert!(!pending(&ada).await, "whoever has the passphrase has not lost it");

    ask(&ada).await;
    env.clock.advance(10 * DAY);
    let ada = env.master("ada").await;
    assert!(!pending(&ada).await);
    demand_of(&refused(ada.backend.set_presence(&ada.session, &NewLevel::none()).await));
    // And may be asked for anew.
    let again = ask(&ada).await.reset.unwrap();
    assert!(again.from.since_ms(again.asked_at) >= 72 * HOUR);
}
