//! A backend on an older copy of its data, or a second one on a copy: whoever has seen more shows
//! it, and from then on nobody's rights are raised until the master accepts the loss. Nobody else
//! can bring that about.
use agentkeys::core::audit::{Action, Head, Outcome};
use agentkeys::core::backend::{Grant, RevokeTarget};
use agentkeys::core::identity::AgentIdentity;
use agentkeys::core::payment::Layer;
use agentkeys::core::presence::{Level, NewLevel};
use agentkeys::core::problem::{Answer, Code, Problem};
use agentkeys::core::scope::Scope;
use agentkeys::core::set_back::{Compared, is_set_back};
use agentkeys::core::types::{AccountId, BackendId, Hash32, PublicKey, Salt};
use ring::signature::{Ed25519KeyPair, KeyPair};

use crate::auth_request::child::{Child, fetch, pair, try_approve};
use crate::env::{MINUTE, Master, Rows, TestEnv, address, code, id, refused, scope};

const AGREES: Compared = Compared { agrees: true, accepted: false };
const CONTRADICTS: Compared = Compared { agrees: false, accepted: false };
const ACCEPTED: Compared = Compared { agrees: false, accepted: true };

fn public(key: &Ed25519KeyPair) -> PublicKey {
    PublicKey(key.public_key().as_ref().try_into().unwrap())
}

async fn head(master: &Master) -> Head {
    master.log().await.1
}

/// The backend on an older copy of its data.
pub async fn set_back(env: &mut TestEnv, to: &Rows) {
    let mut changes: Vec<_> = env
        .rows()
        .await
        .into_keys()
        .filter(|key| !to.contains_key(key))
        .map(|key| (key, None))
        .collect();
    changes.extend(to.iter().map(|(key, value)| (key.clone(), Some(value.clone()))));
    env.reopen_with(changes).await.expect("an older copy is whole");
}

/// The backend, whose `bot` was revoked in the part that it has forgotten; `bot`'s own session,
/// alive again; and the head that was seen before.
struct Restored {
    env: TestEnv,
    ada: Master,
    bot: Master,
    seen: Head,
}

impl Restored {
    async fn new() -> Self {
        let mut env = TestEnv::new().await;
        let mut ada = env.master("ada").await;
        for agent in ["bot", "other", "revoked"] {
            ada.agent(agent).await;
            ada.store(agent, "openrouter", b"sk-1").await;
        }
        ada.backend.revoke_session(&ada.session, RevokeTarget::Agent(id("revoked"))).await.unwrap();
        let mut bot = ada.child("bot", Scope::everything()).await;
        let copy = env.rows().await;
        ada.backend.revoke_session(&ada.session, RevokeTarget::Agent(id("bot"))).await.unwrap();
        for _ in 0..8 {
            ada.read("other", "openrouter").await;
        }
        let seen = head(&ada).await;
        assert_eq!(code(bot.try_read("bot", "openrouter").await), Code::Denied);
        set_back(&mut env, &copy).await;
        (ada.backend, bot.backend) = (env.backend(), env.backend());
        Self { env, ada, bot, seen }
    }

    /// Shows the head without a session.
    async fn show(&self, head: &Head) -> Answer<Compared> {
        self.env.http().compare_head(None, head).await
    }
}

fn stopped<T>(answer: Answer<T>) -> Problem {
    let problem = refused(answer);
    assert_eq!(problem.code, Code::Denied, "{problem}");
    assert!(is_set_back(&problem), "{problem}: {}", problem.cause);
    problem
}

#[tokio::test]
async fn what_was_revoked_reads_again_until_somebody_who_saw_more_shows_it_and_not_after() {
    let Restored { env, ada, bot, seen } = &Restored::new().await;
    assert_eq!(bot.read("bot", "openrouter").await, b"sk-1");
    let before = ada.events().await.len();
    assert_eq!(env.http().compare_head(None, seen).await, Ok(CONTRADICTS));
    let problem = stopped(bot.try_read("bot", "openrouter").await);
    assert!(problem.cause.contains(&format!("event {}", seen.seq)), "{}", problem.cause);
    assert!(problem.cause.contains(&format!("ended at event {before}")), "{}", problem.cause);
    stopped(bot.backend.read_all(&bot.session, &id("bot")).await);
    // It is in the log, once, however often it is shown.
    for _ in 0..3 {
        assert_eq!(env.http().compare_head(None, seen).await, Ok(CONTRADICTS));
    }
    let (events, found) = (ada.events().await, &ada.events().await[before]);
    assert_eq!((found.action, found.outcome), (Action::HeadContradicted, Outcome::Denied));
    let detail = found.detail.as_deref().unwrap();
    let (shown, ended) = (format!("event {} (", seen.seq), format!("ended at event {before} ("));
    assert!(detail.contains(&shown) && detail.contains(&ended), "{detail}");
    let later: Vec<_> = events[before + 1..].iter().map(|e| (e.action, e.outcome)).collect();
    assert_eq!(later, [(Action::Read, Outcome::Denied); 2], "the attempts are on record");
    let me = ada.backend.who_am_i(&ada.session).await.unwrap();
    assert_eq!(me.set_back.unwrap().head, *seen);
    assert_eq!(bot.backend.who_am_i(&bot.session).await.unwrap().set_back, None);
}

#[tokio::test]
async fn while_it_is_set_back_nothing_raises_rights_and_everything_that_lowers_them_goes_on() {
    let restored = Restored::new().await;
    let Restored { env, ada, bot, seen } = &restored;
    let to = &*ada.backend;
    let narrow = scope(&["openrouter"]);
    to.set_scope(&ada.session, &id("other"), narrow).await.unwrap();
    let renewal = ada.mint("other", Scope::everything()).await.renewal.unwrap();
    let approved = Child::open(&env.vault(address(7)), pair("new", Scope::everything())).await;
    let denied = Child::open(&env.vault(address(8)), pair("no", Scope::everything())).await;
    // Shown by the master's own session: that counts no more than without.
    assert_eq!(to.compare_head(Some(&ada.session), seen).await, Ok(CONTRADICTS));

    fetch(ada, &approved).await.unwrap();
    fetch(ada, &denied).await.unwrap();
    stopped(try_approve(ada, &approved, Grant::default()).await);
    stopped(ada.try_read("other", "openrouter").await);
    stopped(to.read_all(&ada.session, &id("other")).await);
    stopped(bot.try_read("bot", "openrouter").await);
    stopped(to.set_scope(&ada.session, &id("other"), Scope::everything()).await);
    stopped(to.create_child_session(&ada.session, Some(&id("other")), Scope::everything()).await);
    stopped(to.create_child_session(&ada.session, None, Scope::everything()).await);
    stopped(to.reinstate_agent(&ada.session, &id("revoked")).await);
    stopped(to.link_identity(&ada.session, &id("other"), &id("another-name")).await);
    stopped(to.fund_child(&ada.session, &id("other"), Layer::SystemGas, 5).await);

    to.deny_auth_request(&ada.session, denied.opened.id).await.unwrap();
    to.set_scope(&ada.session, &id("other"), scope(&[])).await.unwrap();
    to.revoke_session(&ada.session, RevokeTarget::Agent(id("bot"))).await.unwrap();
    ada.store("other", "github", b"ghp").await;
    to.unlink_identity(&ada.session, &id("revoked")).await.unwrap();
    let revoked = to.list_agents(&ada.session).await.unwrap();
    let revoked = revoked.iter().find(|agent| agent.name.is_none()).unwrap().wallet;
    to.teardown_agent(&ada.session, &AgentIdentity::Wallet(revoked)).await.unwrap();
    to.list_credentials(&ada.session, &id("other")).await.unwrap();
    to.renew_session(&renewal).await.unwrap();
    Child::open(&env.vault(address(9)), pair("later", Scope::everything())).await;
    assert!(ada.verify(None).await.is_ok());
}

#[tokio::test]
async fn once_the_master_accepts_all_goes_on_and_both_are_in_the_log() {
    let restored = Restored::new().await;
    let Restored { ada, bot, seen, .. } = &restored;
    restored.show(seen).await.unwrap();
    let before = ada.events().await.len();
    assert_eq!(code(bot.backend.accept_head(&bot.session, seen).await), Code::Denied);
    ada.backend.accept_head(&ada.session, seen).await.unwrap();
    assert_eq!(bot.read("bot", "openrouter").await, b"sk-1");
    assert_eq!(ada.read("other", "openrouter").await, b"sk-1");
    assert_eq!(ada.backend.who_am_i(&ada.session).await.unwrap().set_back, None);
    let events = ada.events().await;
    assert_eq!(events[before - 1].action, Action::HeadContradicted);
    let accepted = &events[before];
    assert_eq!((accepted.action, accepted.outcome), (Action::HeadAccepted, Outcome::Allowed));
    let detail = accepted.detail.as_deref().unwrap();
    let (given_up, ended) =
        (format!("event {} ({})", seen.seq, seen.hash), format!("event {before}"));
    assert!(detail.contains(&given_up) && detail.ends_with(&ended), "{detail}");
    // The head says so by itself, and `audit verify` holds it to the log.
    let now = head(ada).await;
    assert_eq!(now.set_backs, 1);
    assert!(now.seq < seen.seq && now.place() > seen.place());
    assert_eq!(ada.verify(Some(&now)).await, Ok(now.seq));
    // What was given up is not shown a second time, nor is it accepted twice.
    assert_eq!(restored.show(seen).await, Ok(ACCEPTED));
    assert_eq!(ada.read("other", "openrouter").await, b"sk-1");
    assert_eq!(code(ada.backend.accept_head(&ada.session, seen).await), Code::NotFound);
    // It outlives a restart.
    let mut env = restored.env;
    let (session, seen, mut ada) = (restored.ada.session, restored.seen, env.master("ada").await);
    env.restart().await;
    ada.backend = env.backend();
    assert_eq!(head(&ada).await.set_backs, 1);
    assert_eq!(env.http().compare_head(Some(&session), &seen).await, Ok(ACCEPTED));
}

#[tokio::test]
async fn a_copy_that_has_grown_past_what_was_seen_is_noticed_and_so_is_a_second_fall() {
    let mut restored = Restored::new().await;
    while head(&restored.ada).await.seq < restored.seen.seq + 3 {
        restored.ada.read("other", "openrouter").await;
    }
    let grown = restored.env.rows().await;
    let end = head(&restored.ada).await;
    assert_eq!(restored.show(&end).await, Ok(AGREES));
    assert_eq!(restored.show(&restored.seen).await, Ok(CONTRADICTS));
    stopped(restored.ada.try_read("other", "openrouter").await);
    restored.ada.backend.accept_head(&restored.ada.session, &restored.seen).await.unwrap();
    // Set back once more, behind the acceptance: that too was seen by somebody.
    let accepted = head(&restored.ada).await;
    set_back(&mut restored.env, &grown).await;
    restored.ada.backend = restored.env.backend();
    assert_eq!(restored.ada.read("other", "openrouter").await, b"sk-1");
    assert_eq!(restored.show(&accepted).await, Ok(CONTRADICTS));
    stopped(restored.ada.try_read("other", "openrouter").await);
    // What is accepted then is further on than the acceptance that was lost.
    restored.ada.backend.accept_head(&restored.ada.session, &accepted).await.unwrap();
    assert!(head(&restored.ada).await.place() > accepted.place());
    assert_eq!(restored.show(&accepted).await, Ok(ACCEPTED));
    assert_eq!(restored.ada.verify(None).await.ok(), Some(head(&restored.ada).await.seq));
}

#[tokio::test]
async fn the_furthest_head_that_was_shown_is_the_one_to_accept_and_more_than_that_is_news() {
    let mut env = TestEnv::new().await;
    let mut ada = env.master("ada").await;
    ada.agent("bot").await;
    ada.store("bot", "openrouter", b"sk-1").await;
    let copy = env.rows().await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        ada.read("bot", "openrouter").await;
        seen.push(head(&ada).await);
    }
    set_back(&mut env, &copy).await;
    ada.backend = env.backend();
    for head in [&seen[0], &seen[1], &seen[0]] {
        assert_eq!(env.http().compare_head(None, head).await, Ok(CONTRADICTS));
    }
    let me = ada.backend.who_am_i(&ada.session).await.unwrap();
    assert_eq!(me.set_back.unwrap().head, seen[1]);
    let count = |acts: Vec<(Action, Outcome)>| {
        acts.iter().filter(|(action, _)| *action == Action::HeadContradicted).count()
    };
    assert_eq!(count(ada.acts_after(0).await), 1);
    assert_eq!(code(ada.backend.accept_head(&ada.session, &seen[0]).await), Code::Invalid);
    ada.backend.accept_head(&ada.session, &seen[1]).await.unwrap();
    // Whoever has seen less of what was given up finds nothing new; whoever has seen more does.
    assert_eq!(env.http().compare_head(None, &seen[0]).await, Ok(ACCEPTED));
    assert_eq!(ada.read("bot", "openrouter").await, b"sk-1");
    assert_eq!(env.http().compare_head(None, &seen[2]).await, Ok(CONTRADICTS));
    stopped(ada.try_read("bot", "openrouter").await);
    assert_eq!(count(ada.acts_after(0).await), 2);
}

#[tokio::test]
async fn what_only_this_client_knows_can_be_accepted_too() {
    let Restored { ada, seen, .. } = &Restored::new().await;
    ada.backend.accept_head(&ada.session, seen).await.unwrap();
    assert_eq!(ada.read("other", "openrouter").await, b"sk-1");
    assert_eq!(head(ada).await.set_backs, 1);
}

#[tokio::test]
async fn two_backends_on_two_copies_are_noticed_by_whoever_talks_to_both() {
    let mut env = TestEnv::new().await;
    let mut ada = env.master("ada").await;
    ada.agent("bot").await;
    ada.store("bot", "openrouter", b"sk-1").await;
    let rows = env.rows().await;
    let mut second = TestEnv::new().await;
    set_back(&mut second, &rows).await;
    let there =
        Master { backend: second.backend(), session: crate::env::copy_of(&ada.session), ..ada };
    ada.backend = env.backend();
    // The same number of other events in both.
    ada.read("bot", "openrouter").await;
    there.store("bot", "openrouter", b"sk-2").await;
    let (here_end, there_end) = (head(&ada).await, head(&there).await);
    assert_eq!(here_end.seq, there_end.seq);
    assert_eq!(env.http().compare_head(None, &there_end).await, Ok(CONTRADICTS));
    stopped(ada.try_read("bot", "openrouter").await);
    // The other one does not know of it until it is shown the other's.
    assert_eq!(there.read("bot", "openrouter").await, b"sk-2");
    assert_eq!(second.http().compare_head(None, &here_end).await, Ok(CONTRADICTS));
    stopped(there.try_read("bot", "openrouter").await);
    // One is given up, and the other says so from then on; the one that was given up does not
    // become right by going on.
    there.backend.accept_head(&there.session, &here_end).await.unwrap();
    assert_eq!(there.read("bot", "openrouter").await, b"sk-2");
    assert_eq!(env.http().compare_head(None, &head(&there).await).await, Ok(CONTRADICTS));
    ada.store("bot", "github", b"ghp").await;
    assert_eq!(second.http().compare_head(None, &head(&ada).await).await, Ok(CONTRADICTS));
    stopped(there.try_read("bot", "openrouter").await);
    env.close().await;
}

#[tokio::test]
async fn no_head_but_the_accounts_own_does_anything_and_all_others_get_one_answer() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let mallory = env.master("mallory").await;
    ada.agent("bot").await;
    ada.store("bot", "openrouter", b"sk-1").await;
    let old = head(&ada).await;
    ada.read("bot", "openrouter").await;
    let (own, others) = (head(&ada).await, head(&mallory).await);
    let key = Ed25519KeyPair::from_seed_unchecked(&[9; 32]).unwrap();
    let mut further = own.clone();
    further.seq += 100;
    let mut raised = own.clone();
    raised.set_backs = 1;
    let mut of_another_key = own.clone();
    of_another_key.master_key = public(&key);
    let foreign = BackendId([9; 16]);
    let strangers = [
        ("another number", further.clone()),
        ("an acceptance that was none", raised),
        ("another key in it", of_another_key),
        (
            "signed by another key",
            Head::sign(own.backend_id, own.account, 99, Hash32([1; 32]), &key),
        ),
        ("another backend's", Head::sign(foreign, own.account, 99, Hash32([1; 32]), &key)),
        (
            "an account that is none",
            Head::sign(own.backend_id, AccountId(foreign.0), 9, own.hash, &key),
        ),
    ];
    let mut answers = Vec::new();
    for (at, (what, head)) in strangers.iter().enumerate() {
        // Each from an address of its own: the limit is another test's.
        let from = env.vault(address(u8::try_from(at).unwrap()));
        let problem = refused(from.compare_head(None, head).await);
        assert_eq!(problem.code, Code::NotFound, "{what}");
        answers.push(problem);
        let by_session = refused(ada.backend.compare_head(Some(&ada.session), head).await);
        assert_eq!(by_session, answers[0], "{what}");
        assert_eq!(refused(ada.backend.accept_head(&ada.session, head).await).code, Code::NotFound);
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "told apart: {answers:?}");
    // Another account's, with one's own session; an honest one, old or new.
    assert_eq!(code(ada.backend.compare_head(Some(&ada.session), &others).await), Code::NotFound);
    for head in [&old, &own] {
        assert_eq!(env.http().compare_head(None, head).await, Ok(AGREES));
        assert_eq!(code(ada.backend.accept_head(&ada.session, head).await), Code::NotFound);
    }
    assert_eq!(ada.read("bot", "openrouter").await, b"sk-1");
    let acts = ada.acts_after(0).await;
    assert!(!acts.iter().any(|(action, _)| *action == Action::HeadContradicted));
}

#[tokio::test]
async fn whoever_shows_wrong_heads_is_slowed_and_nobody_else() {
    let restored = Restored::new().await;
    let Restored { env, ada, bot, seen } = &restored;
    let mut forged = seen.clone();
    forged.seq += 1;
    let (here, elsewhere) = (env.vault(address(7)), env.vault(address(8)));
    // Right ones are not counted.
    let own = head(ada).await;
    for _ in 0..20 {
        assert_eq!(here.compare_head(None, &own).await, Ok(AGREES));
    }
    for _ in 0..5 {
        assert_eq!(code(here.compare_head(None, &forged).await), Code::NotFound);
    }
    let slowed = refused(here.compare_head(None, &forged).await);
    assert_eq!(
        (slowed.code, slowed.detail.as_str()),
        (Code::RateLimited, "too many heads of no audit log")
    );
    assert!(slowed.retry_after.is_some_and(|seconds| (1..=60).contains(&seconds)));
    // Also a right one, at that address and without a session; by a session, and from elsewhere,
    // it is looked at.
    assert_eq!(code(here.compare_head(None, &own).await), Code::RateLimited);
    assert_eq!(here.compare_head(Some(&bot.session), &own).await, Ok(AGREES));
    assert_eq!(elsewhere.compare_head(None, seen).await, Ok(CONTRADICTS));
    env.clock.advance(MINUTE);
    assert_eq!(here.compare_head(None, seen).await, Ok(CONTRADICTS));
    // Pair codes have a count of their own.
    let child = Child::open(&env.vault(address(7)), pair("", Scope::everything())).await;
    child.register().await.unwrap();
}

#[tokio::test]
async fn above_level_none_accepting_wants_a_proof_and_the_level_stays_while_it_is_set_back() {
    let mut env = TestEnv::new().await;
    let mut ada = env.master("ada").await;
    let level = |seed: u8| NewLevel {
        level: Level::Passphrase,
        public_key: Some(public(&Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap())),
        salt: Some(Salt([seed; 16])),
    };
    let copy = env.rows().await;
    ada.agent("bot").await;
    let seen = head(&ada).await;
    // Put back to a copy from before the passphrase, nobody sets another one.
    set_back(&mut env, &copy).await;
    ada.backend = env.backend();
    assert_eq!(env.http().compare_head(None, &seen).await, Ok(CONTRADICTS));
    stopped(ada.backend.set_presence(&ada.session, &level(1)).await);
    ada.backend.accept_head(&ada.session, &seen).await.unwrap();

    ada.backend.set_presence(&ada.session, &level(2)).await.unwrap();
    let copy = env.rows().await;
    ada.agent("bot").await;
    let seen = head(&ada).await;
    set_back(&mut env, &copy).await;
    ada.backend = env.backend();
    assert_eq!(env.http().compare_head(None, &seen).await, Ok(CONTRADICTS));
    stopped(ada.backend.set_presence(&ada.session, &NewLevel::none()).await);
    let unproven = refused(ada.backend.accept_head(&ada.session, &seen).await);
    assert!(unproven.code == Code::Denied && unproven.presence.is_some(), "{unproven}");
    assert!(ada.backend.who_am_i(&ada.session).await.unwrap().set_back.is_some());
}
