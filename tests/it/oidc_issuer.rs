//! A backend and its issuer's moods: down, slow, with new keys, or answering what it should not.
//! The backend runs without it, asks it once for everybody who waits, and believes nothing that
//! is not what a discovery document and a key set are.
use std::time::{Duration, Instant};

use agentkeys::core::problem::{Code, Problem};
use agentkeys::core::sign_in::Flow;
use serde_json::{Value, json};

use crate::env::refused;
use crate::oidc_support::{Draft, Provider, Scene, has_provider};

const DISCOVERY: &str = "/.well-known/openid-configuration";
const JWKS: &str = "/jwks";

/// What a path answers, for a provider.
type Made = fn(&Provider) -> Value;

#[track_caller]
fn unavailable(problem: &Problem, scene: &Scene, cause: &str) {
    assert_eq!(problem.code, Code::Unavailable, "{}: {}", problem.detail, problem.cause);
    assert!(problem.detail.contains(&scene.provider.issuer), "{}", problem.detail);
    assert!(problem.cause.contains(cause), "{}", problem.cause);
    assert!(problem.retry_after.is_some());
}

impl Scene {
    fn draft_with(&self, mut draft: Draft) -> Draft {
        draft.key = self.provider.keys[0].clone();
        draft.header["kid"] = json!(draft.key.kid);
        draft
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_is_down_keeps_nobody_out_whose_key_is_known() {
    if !has_provider() {
        return;
    }
    let scene = Scene::new(&[]).await;
    scene.provider.has(json!({"do": "down"}));
    // A sign-in begins without it, and the rest of the backend goes on.
    let draft = scene.good(Flow::Code).await;
    unavailable(&refused(scene.send(&draft).await), &scene, "hung up");
    scene.provider.has(json!({"do": "restore"}));
    // For a moment the failure is remembered; the token is not used up by it.
    let begun = Instant::now();
    while let Err(problem) = scene.send(&draft).await {
        unavailable(&problem, &scene, "hung up");
        assert!(begun.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    scene.provider.has(json!({"do": "down"}));
    for _ in 0..3 {
        scene.send(&scene.good(Flow::Code).await).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_issuer_is_asked_once_for_everybody_who_waits() {
    if !has_provider() {
        return;
    }
    let scene = std::sync::Arc::new(Scene::new(&[]).await);
    scene.provider.has(json!({"do": "answer", "path": JWKS, "delay": 2000}));
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let scene = scene.clone();
        waiting.push(tokio::spawn(async move {
            scene.send(&scene.good(Flow::Code).await).await.map(drop)
        }));
    }
    // Nobody else waits: what needs no issuer is answered meanwhile.
    tokio::time::sleep(Duration::from_millis(200)).await;
    scene.backend().shielding_key().await.unwrap();
    assert!(waiting.iter().all(|one| !one.is_finished()), "it waited for the issuer");
    for one in waiting {
        one.await.unwrap().unwrap();
    }
    assert_eq!((scene.provider.count(DISCOVERY), scene.provider.count(JWKS)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_never_answers_is_given_up() {
    if !has_provider() {
        return;
    }
    let scene = Scene::new(&[]).await;
    scene.provider.has(json!({"do": "answer", "path": DISCOVERY, "delay": 60_000}));
    let begun = Instant::now();
    unavailable(&refused(scene.send(&scene.good(Flow::Code).await).await), &scene, "in time");
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(5) && took < Duration::from_secs(20), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn new_keys_are_taken_up_and_the_old_ones_are_good_for_nothing_more() {
    if !has_provider() {
        return;
    }
    let mut scene = Scene::new(&[]).await;
    scene.send(&scene.good(Flow::Code).await).await.unwrap();
    let old = scene.provider.keys[0].clone();
    scene.provider.rotate();
    // Strangers name keys that nobody has; the issuer is not asked for each of them.
    for at in 0..20 {
        let mut draft = scene.good(Flow::Code).await;
        draft.header["kid"] = json!(format!("nobody-{at}"));
        unavailable(&refused(scene.send(&draft).await), &scene, "not among the issuer's");
    }
    assert_eq!(scene.provider.count(JWKS), 1);
    // A sign-in that comes too early after the last look is told when to come again.
    let new = scene.draft_with(scene.good(Flow::Code).await);
    let problem = refused(scene.send(&new).await);
    unavailable(&problem, &scene, "not among the issuer's");
    let seconds = problem.retry_after.unwrap();
    assert!((1..=11).contains(&seconds), "{seconds}");
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    scene.send(&new).await.unwrap();
    assert_eq!(scene.provider.count(JWKS), 2);
    let mut retired = scene.good(Flow::Code).await;
    retired.key = old;
    retired.header["kid"] = json!(retired.key.kid);
    let problem = refused(scene.send(&retired).await);
    assert_ne!(problem.code, Code::Internal, "{}", problem.cause);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let problem = refused(scene.send(&retired).await);
    // Asked anew, the issuer still does not have it: it is refused for good.
    let known = ["does not publish", "not among the issuer's"];
    assert!(known.iter().any(|cause| problem.cause.contains(cause)), "{}", problem.cause);
    scene.send(&scene.draft_with(scene.good(Flow::Code).await)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_discovery_document_or_key_set_is_not_believed() {
    if !has_provider() {
        return;
    }
    let control = Scene::new(&[]).await;
    control.send(&control.good(Flow::Code).await).await.unwrap();
    let evil = Provider::start();
    let answers: [(&str, Made, &str); 11] = [
        (
            DISCOVERY,
            |_| json!({"issuer": "https://other.example", "jwks_uri": "https://a.example/"}),
            "another issuer",
        ),
        (
            DISCOVERY,
            |at| json!({"issuer": format!("{}/", at.issuer), "jwks_uri": "https://a/"}),
            "another issuer",
        ),
        (DISCOVERY, |at| json!({"issuer": at.issuer}), "not the JSON"),
        (DISCOVERY, |_| json!("<html>"), "not the JSON"),
        (
            DISCOVERY,
            |at| json!({"issuer": at.issuer, "jwks_uri": "http://keys.example/jwks"}),
            "this machine only",
        ),
        (
            DISCOVERY,
            |at| json!({"issuer": at.issuer, "jwks_uri": "file:///etc/passwd"}),
            "wants https",
        ),
        (JWKS, |_| json!({"keys": []}), "no key to verify"),
        (
            JWKS,
            |_| json!({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "x"}]}),
            "no key to verify",
        ),
        (JWKS, |at| json!({"keys": vec![at.keys[0].jwk.clone(); 65]}), "more than 64"),
        (JWKS, |_| json!({"keys": "all of them"}), "not the JSON"),
        (JWKS, |_| json!("x".repeat(300 * 1024)), "larger than"),
    ];
    for (path, body, cause) in answers {
        let scene = Scene::new(&[]).await;
        scene.provider.answers(path, body(&scene.provider));
        unavailable(&refused(scene.send(&scene.good(Flow::Code).await).await), &scene, cause);
    }
    // A redirect is not followed, and its target is not asked.
    for path in [DISCOVERY, JWKS] {
        let scene = Scene::new(&[]).await;
        let to = format!("{}{path}", evil.issuer);
        scene.provider.has(json!({"do": "answer", "path": path, "status": 302, "body": "",
            "headers": {"location": to}}));
        unavailable(&refused(scene.send(&scene.good(Flow::Code).await).await), &scene, "redirect");
        assert_eq!(evil.count(path), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_too_weak_or_not_for_signatures_is_not_used() {
    if !has_provider() {
        return;
    }
    for (name, value) in
        [("use", json!("enc")), ("key_ops", json!(["encrypt"])), ("alg", json!("PS256"))]
    {
        let scene = Scene::new(&[]).await;
        let mut of = scene.provider.keys[0].jwk.clone();
        let set = |key: &Value| json!({"keys": [key, scene.provider.keys[1].jwk]});
        // The control: the same set with the key as it is.
        let control = Scene::new(&[]).await;
        let keys =
            json!({"keys": control.provider.keys.iter().map(|k| &k.jwk).collect::<Vec<_>>()});
        control.provider.answers(JWKS, keys);
        control.send(&control.good(Flow::Code).await).await.unwrap();
        of[name] = value;
        scene.provider.answers(JWKS, set(&of));
        let problem = refused(scene.send(&scene.good(Flow::Code).await).await);
        assert_eq!(problem.code, Code::Unauthorized, "{name}");
        let cause = if name == "alg" { "not one of the key" } else { "does not publish" };
        assert!(problem.cause.contains(cause), "{name}: {}", problem.cause);
    }
}
