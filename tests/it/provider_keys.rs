//! Keys that the backend has made by a service's own interface: for whom, how many, what becomes of
//! them when the agent's right ends, and that the account's own secret reaches nobody else.
use std::time::{Duration, Instant};

use agentkeys::core::audit::{Action, Outcome};
use agentkeys::core::backend::{CredentialSummary, RevokeTarget};
use agentkeys::core::problem::{Answer, Code};
use agentkeys::core::provision::{NewProvider, Provider, Provisioned, Settings, Way};
use agentkeys::core::scope::Scope;
use agentkeys::core::secret::SecretBytes;

use crate::env::{MINUTE, Master, TestEnv, code, id, refused, scope, service};
use crate::provider::{sealed, settings};
use crate::upstream_support::{Key, Kind, Local, Mood};

const SECRET: &str = "sk-or-management-0123456789";

pub async fn set(
    master: &Master,
    name: &str,
    settings: Settings,
    secret: Option<&str>,
) -> Answer<Provider> {
    let sealed = match secret {
        Some(secret) => Some(sealed(master, name, secret.as_bytes()).await),
        None => None,
    };
    let new = NewProvider { way: Way::Api, settings, sealed };
    master.backend.set_provider(&master.session, &service(name), &new).await
}

pub async fn provision(who: &Master, agent: &str, name: &str) -> Answer<Provisioned> {
    who.backend.provision(&who.session, &id(agent), &service(name)).await
}

pub async fn read(who: &Master, agent: &str, name: &str) -> Answer<SecretBytes> {
    who.backend.read_credential(&who.session, &id(agent), &service(name)).await
}

pub async fn list(who: &Master, agent: &str) -> Vec<CredentialSummary> {
    who.backend.list_credentials(&who.session, &id(agent)).await.expect("it is listed")
}

pub async fn revoke(master: &Master, agent: &str) {
    let target = RevokeTarget::Agent(id(agent));
    master.backend.revoke_session(&master.session, target).await.expect("it is revoked");
}

/// An agent's own session, whose scope has keys of these services made.
pub async fn may_have_made(master: &Master, agent: &str, services: &[&str]) -> Master {
    let (scope, named) = (making(services), id(agent));
    let set = master.backend.set_scope(&master.session, &named, scope.clone());
    set.await.expect("the scope is set");
    master.child(agent, scope).await
}

fn making(services: &[&str]) -> Scope {
    Scope { provision: services.iter().map(|name| service(name)).collect(), ..scope(services) }
}

/// Waits until something is so.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(30), "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A backend, its master, and OpenRouter on this machine, where keys are made.
struct Scene {
    env: TestEnv,
    local: Local,
    ada: Master,
}

impl Scene {
    async fn new() -> Self {
        let local = Local::start(Kind::OpenRouter, SECRET).await;
        let env = TestEnv::asking(&[&local.url]).await;
        let ada = env.master("ada").await;
        ada.agent("bot").await;
        let scene = Self { env, local, ada };
        scene.set(&[("limit", "2.5"), ("limit_reset", "monthly")]).await;
        scene
    }

    async fn set(&self, pairs: &[(&str, &str)]) -> Provider {
        let pairs = [pairs, &[("url", self.local.url.as_str())]].concat();
        set(&self.ada, "openrouter", settings(&pairs), Some(SECRET)).await.expect("it is set up")
    }

    async fn child(&self, agent: &str) -> Master {
        may_have_made(&self.ada, agent, &["openrouter"]).await
    }

    async fn made(&self, agent: &str) -> Master {
        let child = self.child(agent).await;
        let came = provision(&child, agent, "openrouter").await;
        assert!(matches!(came, Ok(Provisioned::Made(_))), "{:?}", came.err());
        child
    }

    /// Runs errands until nothing is to be ended any more.
    async fn all_ended(&self) {
        let vault = self.env.whole_vault();
        let running = tokio::spawn(async move { vault.run_errands().await });
        until("all keys are ended", || self.local.keys().is_empty()).await;
        running.abort();
    }

    async fn provider(&self) -> Provider {
        self.ada.backend.list_providers(&self.ada.session).await.unwrap().remove(0)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_gets_a_key_of_its_own_once_with_the_limit_and_it_is_ended_with_its_right() {
    let scene = Scene::new().await;
    let child = scene.child("bot").await;
    let Ok(Provisioned::Made(summary)) = provision(&child, "bot", "openrouter").await else {
        panic!("no key was made");
    };
    assert!(summary.made && summary.version == 1 && summary.expires_at.is_none());
    let key = scene.local.keys().remove(0);
    assert_eq!(read(&child, "bot", "openrouter").await.unwrap().expose(), key.key.as_bytes());
    // The limit was sent, and a name that tells whose it is.
    let asked = scene.local.seen().remove(0).json();
    assert_eq!((&asked["limit"], &asked["limit_reset"]), (&2.5.into(), &"monthly".into()));
    let begins = format!("agentkeys/{}/", child.wallet);
    assert!(key.name.starts_with(&begins) && asked["name"] == key.name.as_str(), "{asked}");
    // Again: the same one.
    let again = provision(&child, "bot", "openrouter").await;
    assert!(matches!(again, Ok(Provisioned::Exists(there)) if there.made));
    assert_eq!((scene.local.made(), scene.provider().await.keys), (1, 1));
    // One session's end is not the agent's.
    let target = RevokeTarget::Session(child.session_id);
    scene.ada.backend.revoke_session(&scene.ada.session, target).await.unwrap();
    assert_eq!((scene.provider().await.keys, scene.provider().await.ending), (1, 0));
    let before = scene.ada.events().await.len();
    revoke(&scene.ada, "bot").await;
    assert_eq!((scene.provider().await.keys, scene.provider().await.ending), (0, 1));
    scene.all_ended().await;
    let acts = scene.ada.acts_after(before).await;
    let ended = (Action::EndUpstream, Outcome::Allowed);
    until_on_record(&scene, ended).await;
    assert_eq!(acts[0], (Action::Revoke, Outcome::Allowed));
    assert_eq!(scene.provider().await.ending, 0);
    // Given back its right, it has no dead key; it may get a new one.
    scene.ada.backend.reinstate_agent(&scene.ada.session, &id("bot")).await.unwrap();
    assert_eq!(list(&scene.ada, "bot").await, []);
    scene.made("bot").await;
    // Teardown ends it as well.
    scene.ada.backend.teardown_agent(&scene.ada.session, &id("bot")).await.unwrap();
    scene.all_ended().await;
    assert_eq!(scene.local.made(), 2);
    scene.local.was_understood();
}

async fn until_on_record(scene: &Scene, act: (Action, Outcome)) {
    let begun = Instant::now();
    loop {
        let events = scene.ada.events().await;
        if events.iter().any(|event| (event.action, event.outcome) == act) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{act:?} is not on record");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_ask_at_once_get_one_key() {
    let scene = Scene::new().await;
    let child = std::sync::Arc::new(scene.child("bot").await);
    scene.local.is(Mood::Slow(Duration::from_millis(300)));
    let asking: Vec<_> = (0..16)
        .map(|_| {
            let child = child.clone();
            tokio::spawn(async move { provision(&child, "bot", "openrouter").await.map(drop) })
        })
        .collect();
    for one in asking {
        one.await.unwrap().unwrap();
    }
    assert_eq!(scene.local.made(), 1);
    // Another agent does not wait for it, and gets its own.
    scene.ada.agent("other").await;
    scene.made("other").await;
    assert_eq!((scene.local.made(), scene.provider().await.keys), (2, 2));
    let names: Vec<String> = scene.local.keys().iter().map(|key| key.name.clone()).collect();
    assert_ne!(names[0].split('/').nth(1), names[1].split('/').nth(1));
    scene.local.was_understood();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_ended_now_is_ended_later_and_after_a_restart() {
    let mut scene = Scene::new().await;
    scene.made("bot").await;
    scene.local.is(Mood::HangsUp);
    revoke(&scene.ada, "bot").await;
    let vault = scene.env.whole_vault();
    let running = tokio::spawn(async move { vault.run_errands().await });
    until_on_record(&scene, (Action::EndUpstream, Outcome::Denied)).await;
    let provider = scene.provider().await;
    assert_eq!((provider.keys, provider.ending), (0, 1));
    let trouble = provider.trouble.unwrap();
    assert!(trouble.contains("end the key at OpenRouter: "), "{trouble}");
    assert!(!trouble.contains(SECRET), "{trouble}");
    running.abort();
    let _ = running.await;
    scene.env.restart().await;
    scene.ada = scene.env.master("ada").await;
    scene.local.is(Mood::Works);
    scene.env.clock.advance(2000);
    scene.all_ended().await;
    until_on_record(&scene, (Action::EndUpstream, Outcome::Allowed)).await;
    // Told once, however often it did not work.
    let told = scene.ada.events().await;
    let denied = (Action::EndUpstream, Outcome::Denied);
    assert_eq!(told.iter().filter(|one| (one.action, one.outcome) == denied).count(), 1);
    scene.local.was_understood();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_made_and_not_kept_is_found_by_its_name_and_ended() {
    let scene = Scene::new().await;
    let child = scene.child("bot").await;
    // Many others stand in the list before it.
    scene.local.is(Mood::Works);
    for at in 0..130 {
        scene.local.have(&format!("somebody else's {at}"));
    }
    scene.local.is(Mood::DoesAndHangsUp);
    let problem = refused(provision(&child, "bot", "openrouter").await);
    assert_eq!(problem.code, Code::Unavailable, "{problem:?}");
    assert_eq!(problem.step.as_deref(), Some("ask OpenRouter for a key"));
    assert_eq!((scene.local.keys().len(), scene.local.made()), (131, 1));
    scene.local.is(Mood::Works);
    let vault = scene.env.whole_vault();
    let running = tokio::spawn(async move { vault.run_errands().await });
    scene.env.clock.advance(1000);
    // A second try makes a second key; the first is looked for when no answer can come any more.
    scene.made("bot").await;
    assert_eq!(scene.local.keys().len(), 132);
    assert_eq!(scene.provider().await.ending, 1);
    scene.env.clock.advance(2 * MINUTE);
    running.abort();
    let vault = scene.env.whole_vault();
    let running = tokio::spawn(async move { vault.run_errands().await });
    until("the lost key is ended", || scene.local.keys().len() == 131).await;
    running.abort();
    let ours = |key: &Key| key.id.starts_with("id_");
    let left: Vec<Key> = scene.local.keys().into_iter().filter(ours).collect();
    assert_eq!(
        read(&scene.ada, "bot", "openrouter").await.unwrap().expose(),
        left[0].key.as_bytes()
    );
    scene.local.was_understood();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_revoked_while_its_key_is_made_gets_none_and_the_key_is_ended() {
    let scene = Scene::new().await;
    let child = scene.child("bot").await;
    scene.local.is(Mood::Slow(Duration::from_millis(1500)));
    let asking = tokio::spawn(async move { provision(&child, "bot", "openrouter").await });
    until("it is asked", || !scene.local.seen().is_empty()).await;
    revoke(&scene.ada, "bot").await;
    let problem = refused(asking.await.unwrap());
    assert_eq!(problem.code, Code::Denied, "{problem:?}");
    assert_eq!(scene.local.made(), 1);
    scene.local.is(Mood::Works);
    scene.all_ended().await;
    assert_eq!(list(&scene.ada, "bot").await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_stored_over_a_made_one_stays_and_the_made_one_is_ended() {
    let scene = Scene::new().await;
    let child = scene.made("bot").await;
    scene.ada.store("bot", "openrouter", b"sk-or-by-hand").await;
    scene.all_ended().await;
    assert_eq!(read(&child, "bot", "openrouter").await.unwrap().expose(), b"sk-or-by-hand");
    // There is no going back to a key that was ended.
    let (bot, name) = (id("bot"), service("openrouter"));
    let back = scene.ada.backend.roll_back_credential(&scene.ada.session, &bot, &name);
    assert_eq!(code(back.await), Code::NotFound);
    let list = list(&scene.ada, "bot").await;
    assert!(!list[0].made && list[0].version == 2 && list[0].kept == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_made_key_that_is_deleted_is_ended_at_its_service() {
    let scene = Scene::new().await;
    scene.made("bot").await;
    let (bot, name) = (id("bot"), service("openrouter"));
    scene.ada.backend.delete_credential(&scene.ada.session, &bot, &name).await.unwrap();
    scene.all_ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_set_up_is_not_forgotten_while_keys_are_left_unless_they_are_abandoned() {
    let scene = Scene::new().await;
    scene.made("bot").await;
    let name = service("openrouter");
    let remove = |abandon| scene.ada.backend.remove_provider(&scene.ada.session, &name, abandon);
    let problem = refused(remove(false).await);
    assert_eq!(problem.code, Code::Invalid);
    assert!(problem.cause.contains("1 are in use") && problem.fix.contains("--abandon"));
    // Nor is another address or way set up for them.
    let elsewhere = settings(&[("limit", "5")]);
    assert_eq!(code(set(&scene.ada, "openrouter", elsewhere, Some(SECRET)).await), Code::Invalid);
    // Other settings may be: keys are ended by those that they were made with.
    scene.set(&[("limit", "none")]).await;
    remove(true).await.unwrap();
    revoke(&scene.ada, "bot").await;
    let vault = scene.env.whole_vault();
    let running = tokio::spawn(async move { vault.run_errands().await });
    until_on_record(&scene, (Action::EndUpstream, Outcome::Denied)).await;
    running.abort();
    let events = scene.ada.events().await;
    let told = events.iter().rev().find(|event| event.action == Action::EndUpstream).unwrap();
    let detail = told.detail.as_deref().unwrap();
    assert!(detail.contains("left at the service, of the id id_0001"), "{detail}");
    assert_eq!(scene.local.keys().len(), 1);
}

#[tokio::test]
async fn settings_that_do_not_fit_are_named() {
    let scene = Scene::new().await;
    let url = scene.local.url.as_str();
    for (name, pairs, says) in [
        ("openrouter", &[][..], "limit is missing"),
        ("openrouter", &[("limit", "much")], "limit is what a key may spend"),
        ("openrouter", &[("limit", "-1")], "limit is what a key may spend"),
        ("openrouter", &[("limit", "NaN")], "limit is what a key may spend"),
        ("openrouter", &[("limit", "5"), ("limit_reset", "yearly")], "daily, weekly or monthly"),
        ("openrouter", &[("limit", "5"), ("email", "a@b.org")], "\"email\" is none of them"),
        ("openai", &[("project", "../admin")], "project is the id"),
        ("openai", &[("project", "proj_1"), ("expires_in", "60")], "900 to 31536000"),
        ("github", &[("app", "7"), ("installation", "x")], "the installation's number"),
        ("github", &[("app", "7"), ("installation", "4"), ("permissions", "all")], "contents:read"),
        (
            "aws",
            &[
                ("access_key_id", "AKIAIOSFODNN7EXAMPLE"),
                ("region", "eu-central-1"),
                ("role", "admin"),
            ],
            "role is such as arn:",
        ),
        ("stripe", &[], "openrouter, openai, github, aws"),
        ("openrouter", &[("limit", "5"), ("url", "http://192.0.2.1/")], "this machine only"),
        ("openrouter", &[("limit", "5"), ("url", "file:///etc/passwd")], "url is not valid"),
    ] {
        let problem = refused(set(&scene.ada, name, settings(pairs), Some("s")).await);
        assert_eq!(problem.code, Code::Invalid, "{name} {pairs:?}");
        assert!(problem.cause.contains(says), "{pairs:?}: {}", problem.cause);
    }
    // Another address than the service's own only where the operator named it.
    for other in ["https://10.0.0.1/", &format!("{url}/elsewhere"), "http://127.0.0.1:1/"] {
        let asked = settings(&[("limit", "5"), ("url", other)]);
        let problem = refused(set(&scene.ada, "openrouter", asked, Some(SECRET)).await);
        assert_eq!(problem.code, Code::Denied, "{other}");
        assert!(problem.fix.contains("--provider-url"), "{}", problem.fix);
    }
    // Without a secret there is nothing to ask by.
    let none = set(&scene.ada, "openai", settings(&[("project", "proj_1")]), None).await;
    assert!(refused(none).cause.contains("give one"));
    assert!(scene.local.seen().is_empty(), "a secret was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_names_its_step_and_holds_no_secret() {
    let scene = Scene::new().await;
    let child = scene.child("bot").await;
    let json = "content-type";
    let kind = "application/json";
    let said = |status, body: &str| Mood::Says(status, json, kind, body.to_owned());
    let echo = format!("{{\"error\":{{\"message\":\"key {SECRET} is wrong\"}}}}");
    for (mood, expected, says) in [
        (Mood::HangsUp, Code::Unavailable, "hung up"),
        (said(401, &echo), Code::ProvisionFailed, "refuses the account's own secret (status 401)"),
        (
            said(402, "{\"error\":{\"message\":\"Insufficient credits\"}}"),
            Code::ProvisionFailed,
            "wants money first (status 402): \"Insufficient credits\"",
        ),
        (said(404, "{}"), Code::ProvisionFailed, "does not know what the settings name"),
        (
            Mood::Says(429, "retry-after", "7", String::new()),
            Code::ProvisionFailed,
            "too many requests",
        ),
        (said(500, "oops"), Code::ProvisionFailed, "answered with status 500"),
        (said(200, "{\"data\":{}}"), Code::ProvisionFailed, "is not the JSON that it should be"),
        (
            Mood::Says(200, json, "text/html", "<h1>sign in</h1>".to_owned()),
            Code::ProvisionFailed,
            "is not the JSON that it should be",
        ),
        (
            said(200, &format!("{{\"key\":\"{}\"}}", "x".repeat(300_000))),
            Code::ProvisionFailed,
            "larger than",
        ),
        (
            said(200, "{\"key\":\"\",\"data\":{\"hash\":\"h\"}}"),
            Code::ProvisionFailed,
            "it is empty",
        ),
        (
            Mood::Says(302, "location", "http://127.0.0.1:1/", String::new()),
            Code::ProvisionFailed,
            "redirect",
        ),
        (Mood::Silent, Code::Unavailable, "did not answer in time"),
    ] {
        scene.local.is(mood.clone());
        scene.env.clock.advance(1000);
        let problem = refused(provision(&child, "bot", "openrouter").await);
        assert_eq!(problem.code, expected, "{mood:?}: {problem:?}");
        assert!(problem.cause.contains(says), "{mood:?}: {}", problem.cause);
        assert!(problem.step.is_some(), "{mood:?}");
        let whole = format!("{problem:?}");
        assert!(!whole.contains(SECRET) && !whole.contains("0123456789"), "{whole}");
        if says == "too many requests" {
            assert_eq!(problem.retry_after, Some(7));
        }
    }
    assert_eq!(scene.local.made(), 0);
    assert_eq!(list(&scene.ada, "bot").await, []);
    // All of it is on record, and none of it is the secret.
    let events = scene.ada.events().await;
    let denied = events.iter().filter(|event| event.outcome == Outcome::Denied).count();
    assert_eq!(denied, 12);
    assert!(events.iter().all(|event| !format!("{event:?}").contains(SECRET)));
    // Nothing listens.
    scene.local.is(Mood::Works);
    scene.env.clock.advance(1000);
    scene.made("bot").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_the_master_sets_lists_or_checks_and_accounts_are_apart() {
    let scene = Scene::new().await;
    let child = scene.made("bot").await;
    let name = service("openrouter");
    assert_eq!(code(child.backend.list_providers(&child.session).await), Code::Denied);
    assert_eq!(code(child.backend.check_provider(&child.session, &name).await), Code::Denied);
    let mine = settings(&[("limit", "none")]);
    let new = NewProvider { way: Way::Api, settings: mine, sealed: None };
    assert_eq!(code(child.backend.set_provider(&child.session, &name, &new).await), Code::Denied);
    // Another account has no way set up, and no key of this one's.
    let eve = scene.env.master("eve").await;
    eve.agent("bot").await;
    let hers = may_have_made(&eve, "bot", &["openrouter"]).await;
    assert_eq!(code(provision(&hers, "bot", "openrouter").await), Code::NotFound);
    // A scope that does not say so has no key made.
    scene.ada.agent("plain").await;
    let plain = scene.ada.child("plain", scope(&["openrouter"])).await;
    assert_eq!(code(provision(&plain, "plain", "openrouter").await), Code::Denied);
    assert_eq!(scene.local.made(), 1);
    // The check asks, and makes nothing.
    scene.ada.backend.check_provider(&scene.ada.session, &name).await.unwrap();
    scene.local.wants("another secret");
    let problem = refused(scene.ada.backend.check_provider(&scene.ada.session, &name).await);
    assert_eq!(problem.code, Code::ProvisionFailed);
    assert!(problem.cause.contains("status 401"), "{}", problem.cause);
    assert_eq!(scene.local.made(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_secret_ends_at_once_what_the_old_one_could_not() {
    let scene = Scene::new().await;
    scene.made("bot").await;
    scene.local.wants("sk-or-management-the-next");
    scene.ada.backend.teardown_agent(&scene.ada.session, &id("bot")).await.unwrap();
    let vault = scene.env.whole_vault();
    let running = tokio::spawn(async move { vault.run_errands().await });
    until_on_record(&scene, (Action::EndUpstream, Outcome::Denied)).await;
    let settings = settings(&[("limit", "1"), ("url", scene.local.url.as_str())]);
    let secret = Some("sk-or-management-the-next");
    set(&scene.ada, "openrouter", settings, secret).await.unwrap();
    until("it is ended", || scene.local.keys().is_empty()).await;
    running.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_credential_keeps_no_right_from_ending() {
    let scene = Scene::new().await;
    let child = scene.made("bot").await;
    scene.ada.store("bot", "github", b"ghp_x").await;
    let rows = scene.env.rows().await;
    let damaged = rows.iter().filter(|(key, _)| key[0] == b'C').map(|(key, value)| {
        let mut bytes = value.to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        (key.clone(), Some(bytes.into()))
    });
    let damaged: Vec<_> = damaged.collect();
    assert_eq!(damaged.len(), 2);
    scene.env.overwrite(damaged).await;
    revoke(&scene.ada, "bot").await;
    assert_eq!(code(read(&child, "bot", "openrouter").await), Code::Denied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_too_long_to_be_looked_through_is_told_and_not_taken_for_an_empty_one() {
    let scene = Scene::new().await;
    let child = scene.child("bot").await;
    for at in 0..2000 {
        scene.local.have(&format!("somebody else's {at}"));
    }
    scene.local.is(Mood::DoesAndHangsUp);
    refused(provision(&child, "bot", "openrouter").await);
    scene.local.is(Mood::Works);
    scene.env.clock.advance(2 * MINUTE);
    let vault = scene.env.whole_vault();
    let running = tokio::spawn(async move { vault.run_errands().await });
    until_on_record(&scene, (Action::EndUpstream, Outcome::Denied)).await;
    running.abort();
    let provider = scene.provider().await;
    assert_eq!(provider.ending, 1);
    assert!(provider.trouble.unwrap().contains("there are more than 2000 keys"));
}
