//! Auth requests. The bytes that everybody hashes are held here and in [`canonical`]; the way of
//! a request from child to master and back, here and in the modules below.
mod at_rest;
mod canonical;
pub mod child;
mod consent;
pub mod flood;
mod lifetimes;
mod standing;
mod turns;

use std::collections::HashMap;
use std::time::Instant;

use agentkeys::core::auth_request::{Details, Kind};
use agentkeys::core::backend::Fetched;
use agentkeys::core::cbor;
use agentkeys::core::decision::{Mistrust, Verdict};
use agentkeys::core::otp::{Covered, PairCode};
use agentkeys::core::problem::Code;
use agentkeys::core::scope::Scope;
use agentkeys::core::seal::Purpose;
use agentkeys::core::types::{Hash32, Nonce, Timestamp, to_hex};
use serde_json::Value;

use self::child::{Child, LONG, NOW, approve, approve_id, fetch, pair, paired, recover};
use crate::arbitrary::KINDS;
use crate::env::{MINUTE, Master, START, TestEnv, code, loopback, refused, scope};
use crate::vectors::{hex, json, list, load, parse, text};

const VECTORS: &str = "auth_request_vectors.json";

fn details_of(case: &Value) -> Details {
    Details::from_json(json(&case["kind"]), case["details"].clone())
        .unwrap_or_else(|e| panic!("{}: {}", case["name"], e.cause))
}

/// The same nonce and request give byte-identical CBOR, whatever order the members were
/// written in, in this run and (the vectors being fixed) in every other.
#[test]
fn cbor_determinism() {
    fn backwards(value: &Value) -> Value {
        match value {
            Value::Object(members) => {
                members.iter().rev().map(|(k, v)| (k.clone(), backwards(v))).collect()
            }
            Value::Array(items) => items.iter().rev().map(backwards).collect(),
            other => other.clone(),
        }
    }
    for case in list(&load(VECTORS)["cases"]) {
        let kind = json(&case["kind"]);
        let first = details_of(case).canonical().unwrap();
        assert_eq!(details_of(case).canonical().unwrap(), first, "{}", case["name"]);
        let turned = Details::from_json(kind, backwards(&case["details"])).unwrap();
        assert_eq!(turned.canonical().unwrap(), first, "{}", case["name"]);
        assert_eq!(to_hex(&first), text(&case["cbor"]), "{}", case["name"]);
    }
}

/// Each kind in the vectors file gives the expected bytes, and reads back from them; so do OTP,
/// pair code, nonce hash and the hash of what the person saw.
#[test]
fn cbor_vectors() {
    let file = load(VECTORS);
    let cases = list(&file["cases"]);
    for kind in KINDS {
        assert!(
            cases.iter().filter(|c| text(&c["kind"]) == kind.as_str()).count() >= 2,
            "{kind:?}"
        );
    }
    for case in cases {
        let name = text(&case["name"]);
        let details = details_of(case);
        let bytes = hex(&case["cbor"]);
        assert_eq!(to_hex(&details.canonical().unwrap()), to_hex(&bytes), "{name}");
        assert_eq!(Details::from_canonical(details.kind(), &bytes).unwrap(), details, "{name}");
        assert_eq!(details.to_json(), case["details"], "{name}");
        for other in KINDS.into_iter().filter(|kind| *kind != details.kind()) {
            assert!(Details::from_canonical(other, &bytes).is_err(), "{name} as {other:?}");
        }

        let nonce: Nonce = parse(&case["nonce"]);
        assert_eq!(Hash32::of(&nonce.0), parse(&case["nonce_hash"]), "{name}");
        let covered = Covered {
            request: parse(&case["request_id"]),
            kind: details.kind(),
            details: &bytes,
            keys: &parse(&case["child_pubkey"]),
        };
        assert_eq!(covered.otp(&nonce).to_string(), text(&case["otp"]), "{name}");
        let code: PairCode = covered.pair_code(&nonce);
        assert_eq!(code.to_string(), text(&case["pair_code"]), "{name}");

        let fetched = Fetched {
            id: covered.request,
            kind: details.kind(),
            details: bytes.clone(),
            child_pubkey: *covered.keys,
            otp: covered.otp(&nonce),
            created_at: parse(&case["decision"]["created_at"]),
            expires_at: Timestamp(0),
            saw: json(&case["saw"]),
            agent: json(&case["agent"]),
            held: None,
        };
        assert_eq!(fetched.seen_hash(), parse(&case["seen_hash"]), "{name}");
        // What changes while a person reads is not in it.
        let mut later = fetched.clone();
        later.expires_at = Timestamp(1);
        if let Some(daemon) = later.agent.as_mut().and_then(|agent| agent.daemon.as_mut()) {
            daemon.last_used = Some(Timestamp(1));
        }
        assert_eq!(later.seen_hash(), fetched.seen_hash(), "{name}");
    }
}

/// What `open` gives is what the contract says, and nobody but who has the code sees it.
#[tokio::test]
async fn open_pair() {
    let env = TestEnv::new().await;
    let child = Child::open(&env.backend(), pair("bot", scope(&["openrouter"]))).await;
    let opened = &child.opened;
    assert_eq!(opened.ttl_seconds, 300);
    assert_eq!(opened.created_at, START);
    assert_eq!(opened.otp.to_string().len(), 6);
    assert_eq!(opened.pair_code.to_string().len(), 9);
    assert!(opened.open_token.expose().starts_with("agko_"));

    // A session is not needed, and one that is sent does not make the request its own.
    let ada = env.master("ada").await;
    let other = Child::open_as(&ada, pair("", Scope::everything())).await;
    assert_ne!(other.opened.id, opened.id);
    assert_ne!(other.opened.nonce_hash, opened.nonce_hash);
    assert!(ada.backend.list_pending(&ada.session).await.unwrap().is_empty());
    assert!(child.decision().await.unwrap().is_none());
}

/// The whole way: shown, approved, decided, delivered, used; each step is on record.
#[tokio::test]
async fn approve_valid() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let wished = scope(&["openrouter"]);
    let child = Child::open(&env.http(), pair("bot", wished.clone())).await;

    let shown = fetch(&ada, &child).await.unwrap();
    assert_eq!(shown.kind, Kind::Pair);
    assert_eq!(shown.otp, child.opened.otp);
    assert_eq!(shown.details, child.details.canonical().unwrap());
    assert_eq!(shown.child_pubkey, child.keys.public);
    assert_eq!(shown.saw.address, "127.0.0.1");
    assert!(shown.agent.is_none());

    let approved = approve(&ada, &child).await;
    assert_eq!(approved.agent.name.as_deref(), Some("bot"));
    assert_eq!(approved.agent.scope, wished);

    let decision = child.decided().await;
    let granted = decision.granted.as_ref().unwrap();
    assert_eq!(decision.verdict, Verdict::Approved);
    assert_eq!((decision.account, decision.master_key), (ada.account, ada.master_key));
    assert_eq!((granted.agent, &granted.scope), (approved.agent.wallet, &wished));

    let bot = child.signed_in().await;
    assert_eq!(bot.wallet, approved.agent.wallet);
    ada.store("bot", "openrouter", b"sk-or-v1-test").await;
    assert_eq!(bot.read("bot", "openrouter").await, b"sk-or-v1-test");
    let events = ada.events().await;
    let approval = events.iter().find(|event| event.request == Some(child.opened.id)).unwrap();
    assert_eq!(approval.agent, Some(approved.agent.wallet));
    ada.verify(None).await.unwrap();
}

/// One approval consumes a request, whoever tries again and however soon.
#[tokio::test]
async fn approve_already_consumed() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let child = Child::open(&env.http(), pair("bot", Scope::everything())).await;
    approve(&ada, &child).await;
    assert_eq!(code(approve_id(&ada, &child).await), Code::AlreadyConsumed);
    assert_eq!(code(fetch(&ada, &child).await), Code::AlreadyConsumed);
    let denied = ada.backend.deny_auth_request(&ada.session, child.opened.id).await;
    assert_eq!(code(denied), Code::AlreadyConsumed);
    // The child has its decision none the less, and after its use the answer stays the same.
    child.signed_in().await;
    assert_eq!(code(approve_id(&ada, &child).await), Code::AlreadyConsumed);
    assert_eq!(ada.backend.list_agents(&ada.session).await.unwrap().len(), 1);
}

/// After its time a request is not approved any more, and the text says its age and its limit.
#[tokio::test]
async fn approve_expired() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let child = Child::open(&env.http(), pair("bot", Scope::everything())).await;
    env.clock.advance(5 * MINUTE);
    let problem = refused(approve_id(&ada, &child).await);
    assert_eq!((problem.code, problem.status), (Code::Expired, 410));
    assert!(problem.cause.contains("300 s old, and holds for 300 s"), "{}", problem.cause);
    assert_eq!(code(fetch(&ada, &child).await), Code::Expired);
    assert_eq!(code(child.decision().await), Code::Expired);
    assert!(ada.backend.list_agents(&ada.session).await.unwrap().is_empty());
}

/// What one account has fetched, no other account answers.
#[tokio::test]
async fn approve_wrong_session() {
    let env = TestEnv::new().await;
    let (ada, eve) = (env.master("ada").await, env.master("eve").await);
    let child = Child::open(&env.http(), pair("bot", Scope::everything())).await;
    fetch(&ada, &child).await.unwrap();
    let problem = refused(approve_id(&eve, &child).await);
    assert_eq!((problem.code, problem.status), (Code::Unauthorized, 401));
    assert_eq!(code(fetch(&eve, &child).await), Code::Unauthorized);
    let denied = eve.backend.deny_auth_request(&eve.session, child.opened.id).await;
    assert_eq!(code(denied), Code::Unauthorized);

    // Nor does an agent, whoever's it is.
    ada.agent("helper").await;
    let helper = ada.child("helper", Scope::everything()).await;
    assert_eq!(code(approve_id(&helper, &child).await), Code::Denied);
    assert_eq!(code(fetch(&helper, &child).await), Code::Denied);
    approve_id(&ada, &child).await.unwrap();
    assert_eq!(child.decided().await.account, ada.account);
}

/// A parked child is woken by the approval, and a lost answer is had again.
#[tokio::test]
async fn await_decision() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let child = Child::open(&env.http(), pair("bot", Scope::everything())).await;
    let open = &child.opened.open_token;
    let parked = child.backend.await_auth_decision(open, child.opened.id, LONG);
    let answer = async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        approve(&ada, &child).await;
        Instant::now()
    };
    let (decision, approved_at) = tokio::join!(parked, answer);
    let woken = approved_at.elapsed();
    assert!(woken < std::time::Duration::from_millis(500), "woken after {woken:?}");
    let decision = decision.unwrap().expect("it was approved");
    decision.verify(&child.expected()).unwrap();
    assert_eq!(child.decided().await, decision);

    // Without its token nobody learns anything, not even that there is such a request.
    let stranger = Child::open(&env.http(), pair("", Scope::everything())).await;
    let peek = |id| stranger.backend.await_auth_decision(&stranger.opened.open_token, id, NOW);
    let theirs = refused(peek(child.opened.id).await);
    let nobodys = refused(peek(agentkeys::core::types::RequestId([7; 16])).await);
    assert_eq!(theirs, nobodys);
    assert_eq!(theirs.code, Code::Unauthorized);
}

/// What a child computes from the nonce is what both sides showed, each time.
#[tokio::test]
async fn otp_determinism() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let child = Child::open(&env.http(), pair("bot", Scope::everything())).await;
    let shown = [fetch(&ada, &child).await.unwrap(), fetch(&ada, &child).await.unwrap()];
    approve(&ada, &child).await;
    let nonce = child.decided().await.nonce;
    assert_eq!(Hash32::of(&nonce.0), child.opened.nonce_hash);
    let details = child.details.canonical().unwrap();
    let covered = Covered {
        request: child.opened.id,
        kind: Kind::Pair,
        details: &details,
        keys: &child.keys.public,
    };
    for _ in 0..3 {
        assert_eq!(covered.otp(&nonce), child.opened.otp);
        assert_eq!(covered.pair_code(&nonce), child.opened.pair_code);
    }
    assert!(shown.iter().all(|shown| shown.otp == child.opened.otp));
}

/// The details of every kind go over the wire and come back as the bytes that a second,
/// independent CBOR library writes, and reads.
#[tokio::test]
async fn cbor_round_trip() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let (bot, keys) = paired(&ada, "bot", scope(&["openrouter", "github"])).await;
    let kinds = [
        pair("other", scope(&["b", "a"])),
        recover("bot"),
        child::scope_change(bot.wallet, scope(&["x"])),
        child::release(bot.wallet, "openrouter"),
        child::rotate(bot.wallet, keys.public),
    ];
    for details in kinds {
        let child = Child::open_as(&bot, details.clone()).await;
        let shown = fetch(&ada, &child).await.unwrap();
        assert_eq!(shown.details, canonical::details_by_ciborium(&details), "{details:?}");
        assert_eq!(canonical::read_by_ciborium(shown.kind, &shown.details), details);
        let by_ciborium: ciborium::Value = ciborium::from_reader(&shown.details[..]).unwrap();
        assert_eq!(Details::from_canonical(shown.kind, &shown.details).unwrap(), details);
        assert_eq!(cbor::to_canonical(&by_ciborium).unwrap(), shown.details);
    }
}

/// The right code shows the request to the one who has it; a wrong one shows nothing.
#[tokio::test]
async fn fetch_valid_invalid() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let child = Child::open(&env.http(), pair("bot", Scope::everything())).await;
    let typed: PairCode =
        child.opened.pair_code.to_string().replace('-', "").to_lowercase().parse().unwrap();
    let shown = ada.backend.fetch_auth_request(&ada.session, typed).await.unwrap();
    assert_eq!(shown.id, child.opened.id);
    assert_eq!(shown.expires_at, START.plus_ms(MINUTE));

    let wrong: PairCode = "0000-0000".parse().unwrap();
    let problem = refused(ada.backend.fetch_auth_request(&ada.session, wrong).await);
    assert_eq!((problem.code, problem.status), (Code::NoMatch, 404));
    let stranger = crate::env::unknown_token();
    let unknown = ada.backend.fetch_auth_request(&stranger, child.opened.pair_code).await;
    assert_eq!(code(unknown), Code::Unauthorized);
}

/// Details that were changed between child and backend are refused by the child, whatever the
/// liar in between does to the answer; a row that was changed at the backend is not answered.
#[tokio::test]
async fn tamper_detection() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    // The liar on the way asks for more than the child did, and hands its answer on.
    let mut child = Child::open(&env.http(), pair("bot", Scope::everything())).await;
    child.details = pair("bot", scope(&["openrouter"]));
    approve(&ada, &child).await;
    let decision = child.decision().await.unwrap().unwrap();
    assert_eq!(decision.verify(&child.expected()), Err(Mistrust::Details));
    let mut hidden = decision.clone();
    hidden.details = child.details.canonical().unwrap();
    assert_eq!(hidden.verify(&child.expected()), Err(Mistrust::Otp));
    let mut hidden_well = child.expected();
    let covered = Covered {
        request: child.opened.id,
        kind: Kind::Pair,
        details: &hidden.details,
        keys: &child.keys.public,
    };
    // Even one that knew nonce, OTP and pair code beforehand has no signature for it.
    hidden_well.otp = covered.otp(&decision.nonce);
    hidden_well.pair_code = covered.pair_code(&decision.nonce);
    assert_eq!(hidden.verify(&hidden_well), Err(Mistrust::Wider));
    hidden.granted.as_mut().unwrap().scope = scope(&["openrouter"]);
    assert_eq!(hidden.verify(&hidden_well), Err(Mistrust::Signature));
    let sealed = child.polled().await.unwrap().unwrap();
    assert!(child.take(&decision, &sealed).is_err());

    // At the backend: a request's row in another request's place.
    let (a, b) = (
        Child::open(&env.http(), pair("a", Scope::everything())).await,
        Child::open(&env.http(), pair("b", scope(&[]))).await,
    );
    let place = |child: &Child| [&b"q"[..], &child.opened.id.0].concat();
    let row = env.rows().await[&place(&a)].clone();
    env.overwrite(vec![(place(&b), Some(row))]).await;
    assert_eq!(code(fetch(&ada, &b).await), Code::Internal);
    assert_eq!(code(approve_id(&ada, &b).await), Code::Internal);
    assert_eq!(code(b.decision().await), Code::Internal);
    approve(&ada, &a).await;
}

/// Once the session was used nobody gets the decision again, and the nonce is nowhere any more.
#[tokio::test]
async fn await_after_consumption() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let child = Child::open(&env.http(), pair("bot", Scope::everything())).await;
    approve(&ada, &child).await;
    let registration = child.register().await.unwrap();
    let nonce = child.decided().await.nonce;
    assert_eq!(at_rest::rows_with(&env, &nonce.0).await.len(), 1, "the row that holds it");
    // As often as answers are lost.
    for _ in 0..3 {
        child.decided().await;
        assert!(child.backend.poll_rendezvous(&registration, NOW).await.unwrap().is_some());
    }
    let minted = child.minted().await;
    let payload_before = at_rest::rows_with(&env, minted.session.expose().as_bytes()).await;
    assert!(payload_before.is_empty(), "the backend keeps no token");

    Master::of(child.backend.clone(), minted).await;
    assert_eq!(code(child.decision().await), Code::AlreadyConsumed);
    // `minted` has registered once more, so the first registration is void.
    let polled = child.backend.poll_rendezvous(&registration, NOW).await;
    assert_eq!(code(polled), Code::Unauthorized);
    assert_eq!(code(child.register().await), Code::AlreadyConsumed);
    assert!(at_rest::rows_with(&env, &nonce.0).await.is_empty(), "the nonce is still at rest");
}

/// Two requests that happen to show the same OTP: the decision of one opens nothing of the
/// other.
#[tokio::test]
async fn otp_cross_request_replay() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let keys = child::Keys::new();
    let direct = env.vault(loopback());
    let mut by_otp: HashMap<String, Child> = HashMap::new();
    let (a, b) = loop {
        assert!(by_otp.len() < 20_000, "no two OTPs were equal");
        let details = pair(&format!("bot-{}", by_otp.len()), scope(&["openrouter"]));
        let open = Child::try_open_with(keys.clone(), &direct, details, None);
        let next = open.await.expect("the request is opened");
        match by_otp.remove(&next.opened.otp.to_string()) {
            Some(earlier) => break (earlier, next),
            None => by_otp.insert(next.opened.otp.to_string(), next),
        };
    };
    assert_eq!(a.opened.otp, b.opened.otp);
    approve(&ada, &a).await;
    let decision = a.decided().await;
    let sealed = a.polled().await.unwrap().unwrap();
    a.take(&decision, &sealed).unwrap();

    assert_eq!(decision.verify(&b.expected()), Err(Mistrust::OtherRequest));
    let mut renamed = decision.clone();
    renamed.request_id = b.opened.id;
    assert_eq!(renamed.verify(&b.expected()), Err(Mistrust::Nonce));
    assert!(b.take(&decision, &sealed).is_err());
    assert!(b.keys.unseal(&Purpose::payload(b.opened.id), &sealed).is_err());
    let peek = b.backend.await_auth_decision(&b.opened.open_token, a.opened.id, NOW).await;
    assert_eq!(code(peek), Code::Unauthorized);
    assert!(b.decision().await.unwrap().is_none(), "b is not answered by a's approval");
}

/// 100,000 concurrent opens: no nonce, id or open token twice.
#[test]
fn nonce_uniqueness() {
    let run = flood::run();
    assert_eq!(run.nonces, flood::COUNT);
    assert_eq!(run.ids, flood::COUNT);
    assert_eq!(run.open_tokens, flood::COUNT);
}

/// A lost daemon's agent goes on elsewhere: same wallet, scope and credentials; the old one's
/// sessions and renewals end with the approval.
#[tokio::test]
async fn recover_flow_e2e() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let old_child = Child::open(&env.http(), pair("bot", scope(&["openrouter"]))).await;
    approve(&ada, &old_child).await;
    let minted = old_child.minted().await;
    let renewal = minted.renewal.as_ref().unwrap().expose().to_owned();
    let old = Master::of(env.http(), minted).await;
    ada.store("bot", "openrouter", b"sk-or-v1-test").await;
    assert_eq!(old.read("bot", "openrouter").await, b"sk-or-v1-test");

    let child = Child::open(&env.http(), recover("BOT")).await;
    let shown = fetch(&ada, &child).await.unwrap();
    assert_eq!(shown.agent.as_ref().unwrap().wallet, old.wallet);
    let approved = approve(&ada, &child).await;
    assert_eq!(approved.agent.wallet, old.wallet);
    // In the same commit: before the new daemon has come for its session.
    let problem = refused(old.try_read("bot", "openrouter").await);
    assert_eq!(problem.code, Code::Denied);
    assert!(problem.cause.contains("Recover"), "{}", problem.cause);
    let secret = agentkeys::core::token::RenewalSecret::parse(&renewal).unwrap();
    assert_eq!(code(old.backend.renew_session(&secret).await), Code::Denied);

    let new = child.signed_in().await;
    assert_eq!(new.wallet, old.wallet);
    assert_eq!(new.read("bot", "openrouter").await, b"sk-or-v1-test");
    assert_eq!(child.opened.ttl_seconds, 300);
    let agent = new.backend.resolve_identity(&new.session, &crate::env::id("bot")).await.unwrap();
    assert_eq!(agent.scope, scope(&["openrouter"]));
    ada.verify(None).await.unwrap();
}

/// An agent is recovered by the account that owns it, and by no other.
#[tokio::test]
async fn recover_wrong_session() {
    let env = TestEnv::new().await;
    let (ada, eve) = (env.master("ada").await, env.master("eve").await);
    let (bot, _) = paired(&ada, "bot", Scope::everything()).await;
    for name in ["bot".to_owned(), bot.wallet.to_string()] {
        let child = Child::open(&env.http(), recover(&name)).await;
        // What is recovered is looked up in the fetcher's account, which has no such agent.
        assert_eq!(code(fetch(&eve, &child).await), Code::AgentNotFound);
        assert_eq!(code(approve_id(&eve, &child).await), Code::Unauthorized);
        fetch(&ada, &child).await.unwrap();
        assert_eq!(code(approve_id(&eve, &child).await), Code::Unauthorized);
        assert_eq!(code(fetch(&eve, &child).await), Code::Unauthorized);
        assert!(child.decision().await.unwrap().is_none());
    }
    ada.store("bot", "openrouter", b"k").await;
    assert_eq!(bot.read("bot", "openrouter").await, b"k", "nothing has ended");
    // An agent of the same name in the other account is another agent.
    let (theirs, _) = paired(&eve, "bot", Scope::everything()).await;
    let child = Child::open(&env.http(), recover("bot")).await;
    assert_eq!(approve(&eve, &child).await.agent.wallet, theirs.wallet);
    assert_eq!(bot.read("bot", "openrouter").await, b"k");
}

/// The next read obeys the new scope, wider or narrower.
#[tokio::test]
async fn scope_change() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let (bot, _) = paired(&ada, "bot", scope(&["openrouter"])).await;
    ada.store("bot", "openrouter", b"one").await;
    ada.store("bot", "github", b"two").await;
    assert_eq!(code(bot.try_read("bot", "github").await), Code::Denied);

    let wider = scope(&["github", "openrouter"]);
    let child = Child::open_as(&bot, child::scope_change(bot.wallet, wider.clone())).await;
    assert_eq!(
        code(bot.try_read("bot", "github").await),
        Code::Denied,
        "not before it is approved"
    );
    let listed = ada.backend.list_pending(&ada.session).await.unwrap();
    assert_eq!(listed.iter().map(|p| p.agent).collect::<Vec<_>>(), [Some(bot.wallet)]);
    approve(&ada, &child).await;
    assert_eq!(bot.read("bot", "github").await, b"two");
    let granted = child.decided().await.granted.unwrap();
    assert_eq!((granted.scope, granted.session_hash), (wider, None));
    assert!(ada.backend.list_pending(&ada.session).await.unwrap().is_empty());

    let child = Child::open_as(&bot, child::scope_change(bot.wallet, scope(&["github"]))).await;
    approve(&ada, &child).await;
    assert_eq!(code(bot.try_read("bot", "openrouter").await), Code::Denied);
    assert_eq!(bot.read("bot", "github").await, b"two");
}
