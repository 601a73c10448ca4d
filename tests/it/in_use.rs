//! Credentials that the backend uses in an agent's name: renewed before they run out, and replaced by
//! what their service gives, unless another one was stored meanwhile.
use agentkeys::backend::clock::Clock;
use agentkeys::backend::vault::{InUse, Purpose, Taken};
use agentkeys::core::audit::Action;
use agentkeys::core::rule::Path;
use agentkeys::core::scope::Scope;
use agentkeys::core::secret::SecretBytes;

use crate::env::{MINUTE, Master, TestEnv, id, service, unix};
use crate::provider::settings;
use crate::provider_keys::{may_have_made, provision, set};
use crate::provider_services::private_key;
use crate::upstream_support::{Kind, Local};

async fn used(env: &TestEnv, who: &Master, name: &str) -> Box<InUse> {
    let purpose = Purpose {
        agent: id("bot"),
        service: service(name),
        method: "GET".to_owned(),
        path: Path::plain("/a").unwrap(),
        what: "GET api.example/a".to_owned(),
        act: None,
    };
    match env.whole_vault().use_credential(unix(1000), &who.session, &purpose).await {
        Ok(Taken::InUse(using)) => using,
        Ok(Taken::Asks | Taken::Later(_)) => panic!("it waits"),
        Err(problem) => panic!("{problem:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_use_renews_a_token_of_a_github_app_that_runs_out() {
    let key = private_key(false);
    let local = Local::start(Kind::GitHub, &key).await;
    let env = TestEnv::asking(&[&local.url]).await;
    local.at(env.clock.now().0 / 1000);
    let ada = env.master("ada").await;
    ada.agent("bot").await;
    let pairs = [("app", "Iv1.app"), ("installation", "42"), ("url", local.url.as_str())];
    set(&ada, "github", settings(&pairs), Some(&key)).await.expect("it is set up");
    let bot = may_have_made(&ada, "bot", &["github"]).await;
    provision(&bot, "bot", "github").await.expect("one is made");
    let later = |ms| {
        env.clock.advance(ms);
        local.at(env.clock.now().0 / 1000);
    };
    let first = used(&env, &bot, "github").await;
    assert_eq!(first.secret.expose(), local.keys()[0].key.as_bytes());
    // More than a sixth of its hour is left, and then less.
    later(49 * MINUTE);
    assert_eq!(used(&env, &bot, "github").await.secret.expose(), first.secret.expose());
    assert_eq!(local.made(), 1);
    later(2 * MINUTE);
    let next = used(&env, &bot, "github").await;
    assert_eq!(local.made(), 2);
    assert_eq!(next.secret.expose(), local.keys()[1].key.as_bytes());
    local.was_understood();
}

#[tokio::test]
async fn what_its_service_gives_takes_its_place_unless_another_one_was_stored_meanwhile() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    ada.agent("bot").await;
    ada.store("bot", "mine", b"one").await;
    let bot = ada.child("bot", Scope::everything()).await;
    let vault = env.whole_vault();
    let new = |text: &str| SecretBytes::new(text.into());
    let using = used(&env, &bot, "mine").await;
    assert!(vault.replace_stored(&using.stored, &new("two")).await.unwrap());
    assert_eq!(used(&env, &bot, "mine").await.secret.expose(), b"two");
    // By what was there before, nothing is replaced any more.
    assert!(!vault.replace_stored(&using.stored, &new("three")).await.unwrap());
    let (now, stored) = vault.stored_now(&using.stored).await.unwrap().unwrap();
    assert_eq!(now.expose(), b"two");
    ada.store("bot", "mine", b"by hand").await;
    assert!(!vault.replace_stored(&stored, &new("three")).await.unwrap());
    assert_eq!(used(&env, &bot, "mine").await.secret.expose(), b"by hand");
    let said = "a new refresh token, by its service";
    let events = ada.events().await.into_iter();
    let events = events.filter(|event| event.detail.as_deref() == Some(said));
    assert_eq!(events.filter(|event| event.action == Action::Store).count(), 1);
    // What is deleted stays so.
    let using = used(&env, &bot, "mine").await;
    ada.backend.teardown_agent(&ada.session, &id("bot")).await.unwrap();
    assert!(!vault.replace_stored(&using.stored, &new("four")).await.unwrap());
    assert!(vault.stored_now(&using.stored).await.unwrap().is_none());
}
