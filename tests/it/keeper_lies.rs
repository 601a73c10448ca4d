//! A lying backend: whatever it changes, the daemon takes nothing from it, says which check
//! failed, and goes on once it is told the truth.
use std::sync::{Arc, Mutex};

use agentkeys::core::auth_request::{Details, Pair};
use agentkeys::core::backend::RevokeTarget;
use agentkeys::core::decision::{Decision, Verdict};
use agentkeys::core::encoding::{from_base64, to_base64};
use agentkeys::core::holder::{SessionHolder, SessionState};
use agentkeys::core::pin::Fingerprint;
use agentkeys::core::problem::Code;
use agentkeys::core::scope::Scope;
use agentkeys::core::seal::{self, Purpose};
use agentkeys::core::secret::Key32;
use agentkeys::core::token::SessionToken;
use agentkeys::core::types::{AccountId, Hash32, RequestId, Timestamp};
use agentkeys::core::wire::Route;
use ring::signature::Ed25519KeyPair;
use serde_json::{Value, json};

use crate::auth_request::child;
use crate::env::{Master, TestEnv, id, scope};
use crate::keeper_support::{
    Case, Daemon, Liar, Passing, ada, approve, approve_as, case, deny, env_now, now, until,
};

const OPEN: Route = Route::AuthRequestOpen;
const REGISTER: Route = Route::RendezvousRegister;
const AWAIT: Route = Route::AuthRequestAwait;
const POLL: Route = Route::RendezvousPoll;

/// The lying backend's own key.
fn own_key() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[0x66; 32]).expect("32 bytes")
}

fn fingerprint(of: &Master) -> String {
    Fingerprint::of(of.account, &of.master_key).to_string()
}

/// Changes the decision, and signs it with the liar's own key.
fn resigned(edit: impl Fn(&mut Decision) + Send + 'static) -> impl FnMut(&mut Passing) + Send {
    move |passing| {
        if passing.answers(AWAIT) {
            passing.decision(|decision| {
                edit(decision);
                decision.sign(&own_key());
            });
        }
    }
}

/// Changes the decision, whose signature then is another's.
fn changed(edit: impl Fn(&mut Decision) + Send + 'static) -> impl FnMut(&mut Passing) + Send {
    move |passing| {
        if passing.answers(AWAIT) {
            passing.decision(&edit);
        }
    }
}

/// Changes a field of the answer to open.
fn opened(field: &'static str, value: Value) -> impl FnMut(&mut Passing) + Send {
    move |passing| {
        if passing.answers(OPEN) {
            passing.edit(|json| json[field] = value.clone());
        }
    }
}

/// Changes the sealed bytes of the payload.
fn payload(edit: impl Fn(Vec<u8>) -> Vec<u8> + Send + 'static) -> impl FnMut(&mut Passing) + Send {
    move |passing| {
        if passing.answers(POLL) {
            passing.edit(|json| {
                let sealed = from_base64("payload", json["payload"].as_str().unwrap()).unwrap();
                json["payload"] = to_base64(&edit(sealed)).into();
            });
        }
    }
}

/// A payload that the liar made, sealed to the daemon's own key for this very request.
fn forged_payload() -> impl FnMut(&mut Passing) + Send {
    let meant: Mutex<Option<(RequestId, child::Keys)>> = Mutex::default();
    let keys = Mutex::new(None);
    move |passing| {
        if passing.asks(OPEN) {
            let asked = passing.json()["child_pubkey"].as_str().unwrap().to_owned();
            *keys.lock().unwrap() = Some(asked);
        }
        if passing.answers(OPEN) {
            let request = serde_json::from_value(passing.json()["id"].clone()).unwrap();
            *meant.lock().unwrap() = Some((request, child::Keys::new()));
        }
        if passing.answers(POLL) {
            let request = meant.lock().unwrap().as_ref().unwrap().0;
            let asked = keys.lock().unwrap().clone().unwrap();
            let keys: agentkeys::core::types::ChildKeys =
                serde_json::from_value(asked.into()).unwrap();
            let random = Key32::new([5; 32]);
            let purpose = Purpose::payload(request);
            let sealed = seal::seal(&keys.x25519(), &purpose, b"mine", &random).unwrap();
            passing.edit(|json| json["payload"] = to_base64(&sealed).into());
        }
    }
}

/// The liar asks with keys of his own in the place of the daemon's, and answers as if he had not
/// where `hidden`.
fn swapped_keys(hidden: bool) -> impl FnMut(&mut Passing) + Send {
    let (own, theirs) = (child::Keys::new().public, Arc::new(Mutex::new(Value::Null)));
    move |passing| {
        if passing.asks(OPEN) {
            passing.edit(|json| {
                *theirs.lock().unwrap() = json["child_pubkey"].clone();
                json["child_pubkey"] = json!(own);
            });
        }
        if passing.asks(REGISTER) {
            passing.edit(|json| json["daemon_pubkey"] = json!(own));
        }
        if hidden && passing.answers(AWAIT) {
            passing.edit(|json| json["child_pubkey"] = theirs.lock().unwrap().clone());
        }
    }
}

/// Answers with a decision that another daemon got, whole or but for what tells them apart.
fn replayed(whole: Arc<Mutex<Vec<u8>>>, but_its_id: bool) -> impl FnMut(&mut Passing) + Send {
    move |passing| {
        if passing.answers(AWAIT) {
            let mut other: Decision = serde_json::from_slice(&whole.lock().unwrap()).unwrap();
            if but_its_id {
                let own: Decision = serde_json::from_slice(&passing.body).unwrap();
                other.request_id = own.request_id;
            }
            passing.put(other);
        }
    }
}

fn lies_at_pairing(replay: &Arc<Mutex<Vec<u8>>>, sealed: &Arc<Mutex<Value>>) -> Vec<Case> {
    let details = "the request's details were changed";
    let keys = "the request's keys are not this child's";
    let wider = "the grant is wider than what was asked for";
    let otp = "the OTP that was shown does not come from the nonce";
    let nonce = "the nonce does not match the hash";
    let opening = "the request's session or time was changed";
    let verdict = "the verdict and the grant contradict each other";
    let signature = "the signature does not verify";
    let not_signed = "the payload is not the one that was signed";
    let other_request = "the decision is for another request";
    let sealed = sealed.clone();
    let other_details = Details::Pair(Pair {
        host: None,
        name: None,
        scope: scope(&["github", "openrouter"]),
        user: None,
    });
    let other_details = other_details.canonical().expect("canonical");
    vec![
        case(
            "other details in the decision",
            details,
            changed(move |decision| {
                decision.details = other_details.clone();
            }),
        ),
        case(
            "another kind",
            details,
            changed(|decision| {
                decision.kind = agentkeys::core::auth_request::Kind::Recover;
            }),
        ),
        case("a wider scope asked for in its name", details, |passing| {
            if passing.asks(OPEN) {
                let wide = Pair { host: None, name: None, scope: Scope::everything(), user: None };
                let wide = to_base64(&Details::Pair(wide).canonical().unwrap());
                passing.edit(|json| json["request_details"] = wide.into());
            }
        }),
        case("other keys asked with", keys, swapped_keys(false)),
        case("other keys asked with, and the decision mended", otp, swapped_keys(true)),
        case(
            "other keys in the decision, signed anew",
            keys,
            resigned(|decision| {
                decision.child_pubkey = child::Keys::new().public;
            }),
        ),
        case(
            "a wider grant, signed anew",
            wider,
            resigned(|decision| {
                decision.granted.as_mut().unwrap().scope = Scope::everything();
            }),
        ),
        case(
            "a wider grant",
            wider,
            changed(|decision| {
                decision.granted.as_mut().unwrap().scope = scope(&["github", "openrouter"]);
            }),
        ),
        case(
            "a grant with one service more",
            wider,
            changed(|decision| {
                let granted = decision.granted.as_mut().unwrap();
                granted.scope.services.as_mut().unwrap().insert("stripe".parse().unwrap());
            }),
        ),
        case("another request's decision", other_request, replayed(replay.clone(), false)),
        case("another request's, renamed", nonce, replayed(replay.clone(), true)),
        case(
            "a bit of the payload flipped",
            not_signed,
            payload(|mut sealed| {
                let middle = sealed.len() / 2;
                sealed[middle] ^= 1;
                sealed
            }),
        ),
        case(
            "the payload cut short",
            not_signed,
            payload(|mut sealed| {
                sealed.pop();
                sealed
            }),
        ),
        case("another session's payload", not_signed, move |passing| {
            if passing.answers(POLL) {
                let other = sealed.lock().unwrap().clone();
                passing.edit(|json| json["payload"] = other);
            }
        }),
        case("a payload of the liar's own", not_signed, forged_payload()),
        case("another OTP shown", otp, |passing| {
            if passing.answers(OPEN) {
                passing.edit(|json| {
                    let otp = if json["otp"] == "000001" { "000002" } else { "000001" };
                    json["otp"] = otp.into();
                });
            }
        }),
        case("another nonce", nonce, changed(|decision| decision.nonce.0[0] ^= 1)),
        case("another hash of the nonce", nonce, opened("nonce_hash", json!(Hash32([9; 32])))),
        case(
            "another time of opening",
            opening,
            changed(|decision| {
                decision.created_at = decision.created_at.plus_ms(1);
            }),
        ),
        case(
            "a session that it never had",
            opening,
            changed(|decision| {
                decision.parent_session = Some(SessionToken::child(&[1; 32]).id());
            }),
        ),
        case("yes without a grant", verdict, changed(|decision| decision.granted = None)),
        case("no with a grant", verdict, changed(|decision| decision.verdict = Verdict::Denied)),
        case(
            "another account, not signed by it",
            signature,
            changed(|decision| {
                decision.account = AccountId([7; 16]);
            }),
        ),
        case(
            "another end of the session",
            signature,
            changed(|decision| {
                decision.granted.as_mut().unwrap().expires_at = Timestamp(u64::MAX);
            }),
        ),
        case("another backend", signature, changed(|decision| decision.backend_id.0[0] ^= 1)),
        case("a signature of another key", signature, |passing| {
            if passing.answers(AWAIT) {
                passing.decision(|decision| {
                    let master = decision.master_key;
                    decision.sign(&own_key());
                    decision.master_key = master;
                });
            }
        }),
        case(
            "no hash of a session",
            not_signed,
            resigned(|decision| {
                decision.granted.as_mut().unwrap().session_hash = None;
            }),
        ),
    ]
}

/// What another daemon's pairing looks like on the wire.
async fn overheard(env: &TestEnv, ada: &Master) -> (Arc<Mutex<Vec<u8>>>, Arc<Mutex<Value>>) {
    let liar = Liar::before(env.address()).await;
    let (decision, sealed) = (Arc::<Mutex<Vec<u8>>>::default(), Arc::<Mutex<Value>>::default());
    let (to_decision, to_sealed) = (decision.clone(), sealed.clone());
    liar.lies(move |passing| {
        if passing.answers(AWAIT) {
            *to_decision.lock().unwrap() = passing.body.clone();
        }
        if passing.answers(POLL) {
            *to_sealed.lock().unwrap() = passing.json()["payload"].clone();
        }
    });
    let other = Daemon::start(liar.address, &["--services", "openrouter"]).await;
    other.pair(ada, None).await;
    (decision, sealed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_changed_at_pairing_the_daemon_takes_nothing_and_says_which_check_failed() {
    let env = env_now().await;
    let ada = ada(&env).await;
    let (replay, sealed) = overheard(&env, &ada).await;
    let liar = Liar::before(env.address()).await;
    let daemon = Daemon::start(liar.address, &["--services", "openrouter"]).await;
    let mut known = Vec::new();
    for Case { name, lie, says } in lies_at_pairing(&replay, &sealed) {
        liar.lies(lie);
        let waiting = daemon.asks().await;
        assert!(!known.contains(&waiting.pair_code), "{name}: the code is asked anew");
        known.push(waiting.pair_code.clone());
        approve_as(&ada, &waiting, Some("bot")).await.unwrap();
        daemon.answered().await;
        let standing = daemon.holder.standing().await.unwrap();
        assert_eq!(standing.session, SessionState::Unpaired, "{name}");
        assert_eq!((standing.agent, standing.account), (None, None), "{name}");
        assert_eq!(daemon.mirror(), None, "{name}");
        liar.is_honest();
        let problem = daemon.refuses().await;
        assert_eq!(problem.code, Code::Denied, "{name}: {problem}");
        assert_eq!(problem.detail, "the backend's answer was refused", "{name}");
        assert!(problem.cause.contains(says), "{name}: {}", problem.cause);
    }
    daemon.pair(&ada, Some("bot")).await;
    assert_eq!(daemon.read("openrouter").await, Ok(b"sk-or-v1-test".to_vec()));
}

/// He shows another code than the one that the nonce gives, and translates it on the way back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pair_code_that_does_not_come_from_the_nonce_is_refused() {
    let env = env_now().await;
    let ada = ada(&env).await;
    let liar = Liar::before(env.address()).await;
    let daemon = Daemon::start(liar.address, &[]).await;
    let real = Arc::new(Mutex::new(Value::Null));
    let known = real.clone();
    liar.lies(move |passing| {
        if passing.answers(OPEN) {
            passing.edit(|json| {
                *known.lock().unwrap() = json["pair_code"].clone();
                json["pair_code"] = "0000-0000".into();
            });
        }
        if passing.asks(REGISTER) {
            let code = known.lock().unwrap().clone();
            passing.edit(|json| json["pair_code"] = code);
        }
    });
    let mut waiting = daemon.asks().await;
    assert_eq!(waiting.pair_code, "0000-0000");
    waiting.pair_code = real.lock().unwrap().as_str().unwrap().to_owned();
    approve_as(&ada, &waiting, Some("bot")).await.unwrap();
    daemon.answered().await;
    liar.is_honest();
    let problem = daemon.refuses().await;
    assert!(problem.cause.contains("the pair code that was shown does not come"), "{problem}");
    assert_eq!(daemon.mirror(), None);
    daemon.pair(&ada, Some("bot")).await;
    assert_eq!(daemon.read("openrouter").await, Ok(b"sk-or-v1-test".to_vec()));
}

/// A no that was made a yes by the liar's own key: an unpinned daemon has no key to hold it
/// against, but there is no payload that it could be about; a pinned one sees the key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_that_is_dressed_as_an_approval_is_refused() {
    let env = env_now().await;
    let ada = ada(&env).await;
    let dressed = || {
        let granted = json!({
            "agent": format!("0x{}", "12".repeat(20)),
            "scope": {"services": ["openrouter"], "read_only": true},
            "expires_at": now(),
            "session_hash": Hash32([3; 32]),
        });
        move |passing: &mut Passing| {
            if passing.answers(AWAIT) {
                passing.edit(|json| {
                    json["verdict"] = "approved".into();
                    json["granted"] = granted.clone();
                });
                passing.decision(|decision| decision.sign(&own_key()));
            }
        }
    };
    let liar = Liar::before(env.address()).await;
    let account = fingerprint(&ada);
    let pinned = ["--services", "openrouter", "--account", account.as_str()];
    for (arguments, says) in [
        (&pinned[..2], "the master said no"),
        (&pinned[..], "the account or its master key is not the pinned one"),
    ] {
        let daemon = Daemon::start(liar.address, arguments).await;
        liar.lies(dressed());
        let waiting = daemon.asks().await;
        deny(&ada, &waiting).await.unwrap();
        daemon.answered().await;
        liar.is_honest();
        assert_eq!(daemon.mirror(), None);
        assert_eq!(daemon.holder.standing().await.unwrap().agent, None);
        let told = match daemon.read("openrouter").await {
            Err(agentkeys::core::holder::Refusal::Problem(problem)) => problem,
            Err(agentkeys::core::holder::Refusal::Waiting(next)) => next.because.unwrap(),
            Ok(_) => panic!("it was taken"),
        };
        let text = format!("{} {}", told.detail, told.cause);
        assert!(text.contains(says), "{text}");
        daemon.pair(&ada, Some("bot")).await;
        assert_eq!(daemon.read("openrouter").await, Ok(b"sk-or-v1-test".to_vec()));
    }
}

/// Signs everything with the liar's own key, as the account of his own.
fn as_own_account() -> impl FnMut(&mut Passing) + Send {
    resigned(|decision| decision.account = AccountId([0x66; 16]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_account_s_key_is_refused_against_a_pin_and_an_honest_approval_still_succeeds() {
    let env = env_now().await;
    let ada = ada(&env).await;
    let mallory = env.master("mallory").await;
    mallory.agent("bot").await;
    let liar = Liar::before(env.address()).await;
    let account = fingerprint(&ada);
    let recover = format!("bot#{account}");
    for arguments in [["--account", account.as_str()], ["--recover", recover.as_str()]] {
        let daemon = Daemon::start(liar.address, &arguments).await;
        for by in 0..2 {
            let waiting = daemon.asks().await;
            if by == 0 {
                liar.lies(as_own_account());
                let agent = (arguments[0] == "--account").then_some("bot");
                approve_as(&ada, &waiting, agent).await.unwrap();
            } else {
                approve(&mallory, &waiting).await.unwrap();
            }
            daemon.answered().await;
            liar.is_honest();
            assert_eq!(daemon.mirror(), None);
            // It is told with the next request, which is there at once.
            let because = daemon.asks().await.because.unwrap();
            assert_eq!(because.code, Code::Denied);
            assert!(because.cause.contains("is not the pinned one: account "), "{because}");
            if by == 1 {
                assert!(because.cause.contains(&fingerprint(&mallory)), "{because}");
            }
        }
        let agent = (arguments[0] == "--account").then_some("bot");
        daemon.pair(&ada, agent).await;
        assert_eq!(daemon.read("openrouter").await, Ok(b"sk-or-v1-test".to_vec()));
        let standing = daemon.holder.standing().await.unwrap();
        assert_eq!(standing.account.unwrap().to_string(), account);
        assert!(!standing.pinned_by_first_approval);
    }
}

/// Ends the daemon's line of sessions, so that it has to ask for its agent again.
async fn cut_off(ada: &Master, agent: &str) {
    let target = RevokeTarget::Agent(id(agent));
    ada.backend.revoke_session(&ada.session, target).await.unwrap();
    ada.backend.reinstate_agent(&ada.session, &id(agent)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_was_paired_takes_no_other_account_and_no_other_agent() {
    let env = env_now().await;
    let ada = ada(&env).await;
    let other = ada.agent("other").await.wallet;
    let liar = Liar::before(env.address()).await;
    let daemon = Daemon::start(liar.address, &[]).await;
    daemon.pair(&ada, Some("bot")).await;
    let before = daemon.mirror().unwrap();
    cut_off(&ada, "bot").await;
    let ended = daemon.refuses().await;
    assert!(ended.pair_again, "{ended}");
    let lies: Vec<Case> = vec![
        case("another account", "is not the pinned one: account ", as_own_account()),
        case("its account with another key", "is not the pinned one", resigned(|_| {})),
        case(
            "another agent",
            "another agent than the one that asked",
            resigned(move |decision| {
                decision.granted.as_mut().unwrap().agent = other;
            }),
        ),
    ];
    for Case { name, lie, says } in lies {
        let waiting = daemon.asks().await;
        liar.lies(lie);
        approve(&ada, &waiting).await.unwrap();
        daemon.answered().await;
        liar.is_honest();
        assert_eq!(daemon.mirror().unwrap(), before, "{name}");
        let told = match daemon.read("openrouter").await {
            Err(agentkeys::core::holder::Refusal::Problem(problem)) => problem,
            Err(agentkeys::core::holder::Refusal::Waiting(next)) => next.because.unwrap(),
            Ok(_) => panic!("{name}: it was taken"),
        };
        assert!(told.cause.contains(says), "{name}: {}", told.cause);
    }
    let approved = daemon.pair(&ada, None).await;
    assert_eq!(approved.agent.name.as_deref(), Some("bot"));
    assert_eq!(daemon.read("openrouter").await, Ok(b"sk-or-v1-test".to_vec()));
}

/// The first use shows whose the session is. A daemon that knew its master before must not come
/// out of that knowing nobody, or it would take the next one who answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_turns_out_to_be_another_s_is_let_go_and_a_pin_stays() {
    let env = env_now().await;
    let ada = ada(&env).await;
    let liar = Liar::before(env.address()).await;
    let daemon = Daemon::start(liar.address, &[]).await;
    let another_s = |passing: &mut Passing| {
        if passing.answers(Route::SessionShow) {
            passing.edit(|json| json["account"] = json!(AccountId([7; 16])));
        }
    };
    liar.lies(another_s);
    let waiting = daemon.asks().await;
    approve_as(&ada, &waiting, Some("bot")).await.unwrap();
    liar.shows(Route::SessionShow).await;
    let problem = until_told(&daemon).await;
    assert!(problem.cause.contains("is not the pinned one"), "{problem}");
    assert_eq!(daemon.mirror(), None);
    liar.is_honest();
    daemon.pair(&ada, Some("bot")).await;
    // Once it is known, the same lie costs the session and never the pin.
    cut_off(&ada, "bot").await;
    assert!(daemon.refuses().await.pair_again);
    liar.lies(another_s);
    let (waiting, shown) = (daemon.asks().await, liar.answered(Route::SessionShow));
    approve(&ada, &waiting).await.unwrap();
    until("it was used", async || liar.answered(Route::SessionShow) > shown).await;
    let standing = daemon.holder.standing().await.unwrap();
    assert_eq!(standing.account.unwrap().to_string(), fingerprint(&ada));
    liar.is_honest();
    until("it goes on", async || daemon.read("openrouter").await.is_ok()).await;
    let daemon = daemon.restart().await;
    assert_eq!(daemon.read("openrouter").await, Ok(b"sk-or-v1-test".to_vec()));
}

/// The problem that a read answers with, once it answers with one.
async fn until_told(daemon: &Daemon) -> agentkeys::core::problem::Problem {
    let mut told = None;
    until("a problem is told", async || {
        if let Err(agentkeys::core::holder::Refusal::Problem(problem)) =
            daemon.read("openrouter").await
        {
            told = Some(problem);
        }
        told.is_some()
    })
    .await;
    told.unwrap()
}

impl Liar {
    /// Waits until an endpoint has answered.
    async fn shows(&self, route: Route) {
        until("it has answered", async || self.answered(route) > 0).await;
    }
}
