//! Providers: what an account sets up to get keys of a service, who may ask for one, and that the
//! account's own secret reaches nobody else.
use agentkeys::backend::clock::Entropy;
use agentkeys::core::audit::{Action, Outcome};
use agentkeys::core::problem::{Answer, Code};
use agentkeys::core::provision::{NewProvider, Provider, Provisioned, Recipe, Settings, Way};
use agentkeys::core::scope::Scope;
use agentkeys::core::seal::{self, Purpose};
use agentkeys::core::secret::Key32;

use crate::env::{Master, TestEnv, code, id, refused, scope, service};

const PASSWORD: &[u8] = b"the mailbox's own password";

pub fn settings(pairs: &[(&str, &str)]) -> Settings {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Settings::new(pairs.iter().map(owned).collect()).expect("good settings")
}

pub async fn sealed(master: &Master, name: &str, secret: &[u8]) -> Vec<u8> {
    let key = master.backend.shielding_key().await.expect("a key").public_key;
    let random: [u8; 32] = Entropy::system().bytes().expect("randomness");
    let purpose = Purpose::provider(master.account, &service(name));
    seal::seal(&key, &purpose, secret, &Key32::new(random)).expect("the key is usable")
}

async fn set(
    master: &Master,
    name: &str,
    settings: Settings,
    sealed: Option<Vec<u8>>,
) -> Answer<Provider> {
    let new = NewProvider { way: Way::Browser, settings, sealed };
    master.backend.set_provider(&master.session, &service(name), &new).await
}

async fn set_up(master: &Master) -> Provider {
    let sealed = sealed(master, "openrouter", PASSWORD).await;
    let settings = settings(&[("email", "ada@example.org"), ("imap", "imaps://imap.example.org")]);
    set(master, "openrouter", settings, Some(sealed)).await.expect("it is set up")
}

async fn provision(who: &Master, agent: &str, name: &str) -> Answer<Provisioned> {
    who.backend.provision(&who.session, &id(agent), &service(name)).await
}

fn recipe(came: Answer<Provisioned>) -> Recipe {
    match came {
        Ok(Provisioned::Recipe(recipe)) => recipe,
        Ok(_) => panic!("it says that there is one"),
        Err(problem) => panic!("{problem:?}"),
    }
}

fn making(services: &[&str]) -> Scope {
    Scope { provision: services.iter().map(|name| service(name)).collect(), ..scope(services) }
}

#[tokio::test]
async fn what_is_set_up_is_listed_without_its_secret_and_can_be_forgotten() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    let provider = set_up(&ada).await;
    assert_eq!(
        (provider.way, provider.settings.get("email")),
        (Way::Browser, Some("ada@example.org"))
    );
    let list = ada.backend.list_providers(&ada.session).await.unwrap();
    assert_eq!(list, [provider]);
    ada.backend.check_provider(&ada.session, &service("openrouter")).await.unwrap();
    ada.backend.remove_provider(&ada.session, &service("openrouter"), false).await.unwrap();
    assert_eq!(ada.backend.list_providers(&ada.session).await.unwrap(), []);
    for answer in [
        ada.backend.remove_provider(&ada.session, &service("openrouter"), false).await,
        ada.backend.check_provider(&ada.session, &service("openrouter")).await,
    ] {
        assert_eq!(code(answer), Code::NotFound);
    }
    let acts: Vec<Action> = ada.events().await.iter().map(|event| event.action).collect();
    assert!(acts.ends_with(&[Action::ProviderSet, Action::ProviderRemove]), "{acts:?}");
}

#[tokio::test]
async fn a_secret_goes_nowhere_but_where_it_was_given_for() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    set_up(&ada).await;
    let moved = settings(&[("email", "ada@example.org"), ("imap", "imaps://thief.example")]);
    let problem = refused(set(&ada, "openrouter", moved, None).await);
    assert!(problem.cause.contains("give it again"), "{problem:?}");
    // Another address of the same mailbox is no other place.
    let kept = settings(&[("email", "me@example.org"), ("imap", "imaps://imap.example.org")]);
    set(&ada, "openrouter", kept, None).await.unwrap();
    let bot = ada.agent("bot").await;
    ada.backend.set_scope(&ada.session, &id("bot"), making(&["openrouter"])).await.unwrap();
    let child = ada.child("bot", making(&["openrouter"])).await;
    let recipe = recipe(provision(&child, &bot.wallet.to_string(), "openrouter").await);
    assert_eq!(recipe.settings.get("email"), Some("me@example.org"));
    assert_eq!(recipe.secret.unwrap().expose(), PASSWORD);
}

#[tokio::test]
async fn sealed_bytes_for_something_else_are_refused() {
    let env = TestEnv::new().await;
    let (ada, bob) = (env.master("ada").await, env.master("bob").await);
    let agent = ada.agent("bot").await;
    for wrong in [
        sealed(&ada, "openai", PASSWORD).await,
        sealed(&bob, "openrouter", PASSWORD).await,
        ada.seal(agent.wallet, "openrouter", PASSWORD).await,
        sealed(&ada, "openrouter", b"").await,
        sealed(&ada, "openrouter", &[b'x'; 16 * 1024 + 1]).await,
        b"plain".to_vec(),
    ] {
        let problem = refused(set(&ada, "openrouter", Settings::default(), Some(wrong)).await);
        assert_eq!(problem.code, Code::Invalid, "{problem:?}");
    }
    // And a provider's secret is no credential.
    let secret = sealed(&ada, "openrouter", PASSWORD).await;
    let (bot, name) = (id("bot"), service("openrouter"));
    let stored = ada.backend.store_credential(&ada.session, &bot, &name, secret).await;
    assert_eq!(code(stored), Code::Invalid);
}

#[tokio::test]
async fn only_a_scope_that_names_the_service_gets_the_way_to_a_key() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    ada.agent("bot").await;
    set_up(&ada).await;
    let wide = ada.child("bot", Scope::everything()).await;
    let before = ada.events().await.len();
    let problem = refused(provision(&wide, "bot", "openrouter").await);
    assert_eq!(problem.code, Code::Denied);
    assert!(problem.fix.contains("agentkeys scope bot --provision openrouter"), "{problem:?}");
    assert_eq!(ada.acts_after(before).await, [(Action::Provision, Outcome::Denied)]);

    ada.backend
        .set_scope(&ada.session, &id("bot"), making(&["openrouter", "openai"]))
        .await
        .unwrap();
    let child = ada.child("bot", making(&["openrouter", "openai"])).await;
    let before = ada.events().await.len();
    recipe(provision(&child, "bot", "openrouter").await);
    assert_eq!(ada.acts_after(before).await, [(Action::Provision, Outcome::Allowed)]);
    assert_eq!(code(provision(&child, "bot", "openai").await), Code::NotFound);
    // The master is given no mailbox's password back.
    assert_eq!(code(provision(&ada, "bot", "openrouter").await), Code::Invalid);

    child.store("bot", "openrouter", b"sk-or-v1-made").await;
    for who in [&child, &ada] {
        match provision(who, "bot", "openrouter").await {
            Ok(Provisioned::Exists(summary)) => assert_eq!(summary.version, 1),
            _ => panic!("there is one"),
        }
    }
    let gone = agentkeys::core::backend::RevokeTarget::Agent(id("bot"));
    ada.backend.revoke_session(&ada.session, gone).await.unwrap();
    assert_eq!(code(provision(&child, "bot", "openrouter").await), Code::Denied);
}

#[tokio::test]
async fn an_agent_sees_and_changes_nothing_of_it() {
    let env = TestEnv::new().await;
    let (ada, bob) = (env.master("ada").await, env.master("bob").await);
    ada.agent("bot").await;
    set_up(&ada).await;
    ada.backend.set_scope(&ada.session, &id("bot"), making(&["openrouter"])).await.unwrap();
    let child = ada.child("bot", making(&["openrouter"])).await;
    let name = service("openrouter");
    assert_eq!(code(child.backend.list_providers(&child.session).await), Code::Denied);
    assert_eq!(code(child.backend.check_provider(&child.session, &name).await), Code::Denied);
    assert_eq!(
        code(child.backend.remove_provider(&child.session, &name, false).await),
        Code::Denied
    );
    assert_eq!(code(set(&child, "openrouter", Settings::default(), None).await), Code::Denied);
    // Nor does another account, or another agent.
    assert_eq!(bob.backend.list_providers(&bob.session).await.unwrap(), []);
    bob.agent("other").await;
    bob.backend.set_scope(&bob.session, &id("other"), making(&["openrouter"])).await.unwrap();
    let other = bob.child("other", making(&["openrouter"])).await;
    assert_eq!(code(provision(&other, "other", "openrouter").await), Code::NotFound);
    ada.agent("second").await;
    assert_eq!(code(provision(&child, "second", "openrouter").await), Code::Denied);
}

/// What reads only, and may have a key made, stores that one and nothing over what is there.
#[tokio::test]
async fn a_reading_agent_stores_the_key_that_was_made_for_it_and_no_other() {
    let env = TestEnv::new().await;
    let ada = env.master("ada").await;
    ada.agent("bot").await;
    let reading = Scope { read_only: true, ..making(&["openrouter"]) };
    ada.backend.set_scope(&ada.session, &id("bot"), reading.clone()).await.unwrap();
    let child = ada.child("bot", reading).await;
    assert_eq!(code(child.try_store("bot", "openai", b"x").await), Code::Denied);
    child.store("bot", "openrouter", b"sk-or-v1-made").await;
    assert_eq!(code(child.try_store("bot", "openrouter", b"sk-or-v1-other").await), Code::Denied);
    assert_eq!(child.read("bot", "openrouter").await, b"sk-or-v1-made");
}

#[tokio::test]
async fn neither_log_nor_rows_show_the_secret() {
    let mut env = TestEnv::new().await;
    let ada = env.master("ada").await;
    set_up(&ada).await;
    let told = format!("{:?}", ada.events().await);
    assert!(told.contains("email=ada@example.org") && !told.contains("own password"), "{told}");
    let holds = |bytes: &[u8], text: &[u8]| bytes.windows(text.len()).any(|part| part == text);
    for (key, value) in env.rows().await {
        for text in [PASSWORD, b"openrouter", b"ada@example.org"] {
            assert!(!holds(&key, text) && !holds(&value, text));
        }
    }
    env.restart().await;
    let ada = env.master("ada").await;
    assert_eq!(ada.backend.list_providers(&ada.session).await.unwrap().len(), 1);
}
