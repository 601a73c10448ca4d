//! The services whose keys run out, and OpenAI's service accounts: what is sent to each of them,
//! signed as it should be; that a key is renewed before it runs out, and ended where that is
//! possible.
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use agentkeys::backend::clock::Clock;
use agentkeys::core::backend::CredentialSummary;
use agentkeys::core::problem::Code;
use agentkeys::core::provision::Provisioned;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::env::{HOUR, MINUTE, Master, START, TestEnv, id, refused};
use crate::provider::settings;
use crate::provider_keys::{list, may_have_made, provision, read, revoke, set, until};
use crate::upstream_support::{Kind, Local, Mood};

/// A backend where a service's keys can be made, and an agent that may have them made.
struct Scene {
    env: TestEnv,
    local: Local,
    ada: Master,
    bot: Master,
    name: &'static str,
}

impl Scene {
    async fn new(kind: Kind, pairs: &[(&str, &str)], secret: &str) -> Self {
        let name = match kind {
            Kind::OpenRouter => "openrouter",
            Kind::OpenAi => "openai",
            Kind::GitHub => "github",
            Kind::Aws => "aws",
        };
        let local = Local::start(kind, secret).await;
        local.at(START.0 / 1000);
        let env = TestEnv::asking(&[&local.url]).await;
        let ada = env.master("ada").await;
        ada.agent("bot").await;
        let pairs = [pairs, &[("url", local.url.as_str())]].concat();
        set(&ada, name, settings(&pairs), Some(secret)).await.expect("it is set up");
        let bot = may_have_made(&ada, "bot", &[name]).await;
        Self { env, local, ada, bot, name }
    }

    async fn make(&self) -> CredentialSummary {
        match provision(&self.bot, "bot", self.name).await {
            Ok(Provisioned::Made(summary)) => summary,
            Ok(_) => panic!("it was there"),
            Err(problem) => panic!("{problem:?}"),
        }
    }

    async fn read(&self) -> String {
        let key = read(&self.bot, "bot", self.name).await.expect("it is read");
        String::from_utf8(key.expose().to_vec()).unwrap()
    }

    /// Moves the time on, here and there.
    fn later(&self, millis: u64) {
        self.env.clock.advance(millis);
        self.local.at(self.env.clock.now().0 / 1000);
    }

    async fn ends(&self, left: usize) {
        let vault = self.env.whole_vault();
        let running = tokio::spawn(async move { vault.run_errands().await });
        until("keys are ended", || self.local.keys().len() == left).await;
        running.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_makes_a_service_account_for_each_agent_and_it_is_deleted() {
    let pairs = [("project", "proj_abc"), ("expires_in", "7200")];
    let scene = Scene::new(Kind::OpenAi, &pairs, "sk-admin-0123456789").await;
    let summary = scene.make().await;
    assert_eq!(summary.expires_at, Some(START.plus_ms(2 * HOUR)));
    assert_eq!(scene.read().await, scene.local.keys()[0].key);
    let asked = scene.local.seen().remove(0).json();
    assert_eq!(asked["expires_in_seconds"], 7200, "{asked}");
    // When a sixth of its life is left, a new one is made; the old one holds to its end.
    scene.later(105 * MINUTE);
    let renewed = scene.read().await;
    assert_eq!((scene.local.made(), scene.local.keys().len()), (2, 2));
    assert_eq!(renewed, scene.local.keys()[1].key);
    scene.ends(2).await;
    scene.later(20 * MINUTE);
    scene.ends(1).await;
    assert_eq!(scene.local.keys()[0].key, renewed);
    revoke(&scene.ada, "bot").await;
    scene.ends(0).await;
    scene.local.was_understood();
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_never_repeats_a_key_that_it_was_shown() {
    let pairs = [("project", "proj_abc")];
    let scene = Scene::new(Kind::OpenAi, &pairs, "sk-admin-0123456789").await;
    scene.local.wants("sk-admin-other");
    // The service repeats what it was sent.
    let problem = refused(provision(&scene.bot, "bot", "openai").await);
    assert!(problem.cause.contains("status 401"), "{}", problem.cause);
    assert!(!format!("{problem:?}").contains("0123456789"), "{problem:?}");
}

/// `openssl`, with a key or a text on its standard input.
fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is installed");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.success(), "openssl {arguments:?}: {said}");
    ended.stdout
}

/// An RSA private key as GitHub gives it (PKCS #1) or as others write it (PKCS #8).
pub fn private_key(traditional: bool) -> String {
    let key = openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], b"");
    let key = match traditional {
        true => openssl(&["rsa", "-traditional"], &key),
        false => key,
    };
    String::from_utf8(key).unwrap()
}

/// That the app's token is signed by the key, and says what it should.
fn is_the_app_s(header: &str, key: &str, now: u64) {
    let token = header.strip_prefix("Bearer ").expect("a bearer token");
    let (signed, signature) = token.rsplit_once('.').expect("three parts");
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("key"), openssl(&["rsa", "-pubout"], key.as_bytes())).unwrap();
    std::fs::write(at("signature"), URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
    let verify = ["dgst", "-sha256", "-verify", &at("key"), "-signature", &at("signature")];
    openssl(&verify, signed.as_bytes());
    let part = |at: usize| -> Value {
        let part = URL_SAFE_NO_PAD.decode(signed.split('.').nth(at).unwrap()).unwrap();
        serde_json::from_slice(&part).unwrap()
    };
    assert_eq!(part(0), json!({"alg": "RS256", "typ": "JWT"}));
    // GitHub takes ten minutes at most, and nothing from the future.
    assert_eq!(part(1), json!({"iss": "Iv1.app", "iat": now - 60, "exp": now + 540}));
}

#[tokio::test(flavor = "multi_thread")]
async fn github_gives_tokens_of_an_installation_which_are_renewed_and_ended() {
    let key = private_key(true);
    let pairs = [
        ("app", "Iv1.app"),
        ("installation", "42"),
        ("repositories", "site, tools.rs"),
        ("permissions", "contents:read,issues:write"),
    ];
    let scene = Arc::new(Scene::new(Kind::GitHub, &pairs, &key).await);
    let summary = scene.make().await;
    assert_eq!(summary.expires_at, Some(START.plus_ms(HOUR)));
    let asked = scene.local.seen().remove(0);
    is_the_app_s(asked.header("authorization"), &key, START.0 / 1000);
    let wanted = json!({"repositories": ["site", "tools.rs"],
                        "permissions": {"contents": "read", "issues": "write"}});
    assert_eq!(asked.json(), wanted);
    let first = scene.read().await;
    assert_eq!(first, scene.local.keys()[0].key);
    // Nobody reads it, so nothing is renewed; it is asked for once for all who read at once.
    scene.later(52 * MINUTE);
    assert_eq!(scene.local.made(), 1);
    scene.local.is(Mood::Slow(Duration::from_millis(200)));
    let mut reading = JoinSet::new();
    for _ in 0..8 {
        let scene = scene.clone();
        reading.spawn(async move { scene.read().await });
    }
    let mut read = reading.join_all().await;
    read.dedup();
    assert_eq!((read.len(), scene.local.made()), (1, 2));
    assert_ne!(read[0], first);
    let renewed = list(&scene.ada, "bot").await.remove(0);
    assert_eq!((renewed.version, renewed.kept), (2, 0));
    assert_eq!(renewed.expires_at, Some(scene.env.clock.now().plus_ms(HOUR)));
    scene.local.is(Mood::Works);
    // Ended by the token itself: it works though the app's key is gone.
    let name = "github".parse().unwrap();
    scene.ada.backend.remove_provider(&scene.ada.session, &name, true).await.unwrap();
    revoke(&scene.ada, "bot").await;
    scene.ends(1).await;
    assert_eq!(scene.local.keys()[0].key, first, "the first runs out by itself");
    scene.local.was_understood();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_service_is_away_the_old_key_is_handed_out_until_it_is_over() {
    let pairs = [("app", "Iv1.app"), ("installation", "42")];
    let scene = Scene::new(Kind::GitHub, &pairs, &private_key(false)).await;
    scene.make().await;
    let first = scene.read().await;
    scene.later(55 * MINUTE);
    scene.local.is(Mood::HangsUp);
    let before = scene.local.seen().len();
    for _ in 0..3 {
        assert_eq!(scene.read().await, first);
    }
    // One try in half a minute, and not one for each that reads.
    assert_eq!(scene.local.seen().len(), before + 1);
    scene.later(31_000);
    assert_eq!(scene.read().await, first);
    assert_eq!(scene.local.seen().len(), before + 2);
    scene.later(5 * MINUTE);
    let problem = refused(read(&scene.bot, "bot", "github").await);
    assert_eq!(problem.code, Code::Unavailable);
    assert_eq!(problem.step.as_deref(), Some("ask GitHub for an installation token"));
    let all = scene.bot.backend.read_all(&scene.bot.session, &id("bot")).await;
    assert_eq!(refused(all).code, Code::Unavailable);
    scene.local.is(Mood::Works);
    scene.later(1000);
    assert_ne!(scene.read().await, first);
    let all = scene.bot.backend.read_all(&scene.bot.session, &id("bot")).await.unwrap();
    assert_eq!(all[0].credential.expose(), scene.read().await.as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_clock_is_behind_is_not_asked_at_every_read() {
    let pairs = [("app", "Iv1.app"), ("installation", "42")];
    let scene = Scene::new(Kind::GitHub, &pairs, &private_key(true)).await;
    // By our clock, what it gives has run out already.
    scene.local.at(START.0 / 1000 - 2 * 3600);
    scene.make().await;
    for _ in 0..3 {
        scene.read().await;
    }
    assert_eq!(scene.local.made(), 1);
    scene.env.clock.advance(31_000);
    for _ in 0..3 {
        scene.read().await;
    }
    assert_eq!(scene.local.made(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_private_key_is_told_and_not_repeated() {
    let pairs = [("app", "Iv1.app"), ("installation", "42")];
    for secret in
        ["ghp_not_a_key", "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----"]
    {
        let scene = Scene::new(Kind::GitHub, &pairs, secret).await;
        let problem = refused(provision(&scene.bot, "bot", "github").await);
        assert_eq!(problem.code, Code::ProvisionFailed);
        assert!(problem.cause.contains("no RSA private key in PEM form"), "{}", problem.cause);
        assert!(!format!("{problem:?}").contains("ghp_not_a_key"));
        assert!(scene.local.seen().is_empty());
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A Python with AWS's own SDK. Without it the check is skipped loudly, and fails in CI.
fn python() -> Option<PathBuf> {
    let python = root().join("target/test-tools/mcp-python");
    if python.join(".installed").exists() {
        return Some(python.join("bin/python"));
    }
    eprintln!("SKIPPED: no botocore; scripts/install-test-tools.sh installs it");
    assert!(std::env::var_os("CI").is_none(), "CI has no botocore");
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_gives_sessions_of_a_role_to_what_is_signed_as_its_own_sdk_signs() {
    let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    let policy = r#"{"Statement":[{"Effect":"Allow","Action":"s3:Get*","Resource":"*"}]}"#;
    let pairs = [
        ("access_key_id", "AKIAIOSFODNN7EXAMPLE"),
        ("role", "arn:aws:iam::123456789012:role/agents"),
        ("region", "eu-central-1"),
        ("duration", "900"),
        ("policy", policy),
        ("external_id", "ours & theirs"),
    ];
    let scene = Scene::new(Kind::Aws, &pairs, secret).await;
    let summary = scene.make().await;
    assert_eq!(summary.expires_at, Some(START.plus_ms(15 * MINUTE)));
    let first = scene.read().await;
    let key: Value = serde_json::from_str(&first).unwrap();
    assert_eq!(key["Version"], 1);
    assert_eq!(key["SecretAccessKey"], "secret/&id_0001");
    assert_eq!(key["Expiration"].as_str().unwrap().parse(), Ok(START.plus_ms(15 * MINUTE)));
    let asked = scene.local.seen().remove(0);
    let body = String::from_utf8(asked.body.clone()).unwrap();
    for part in [
        "Action=AssumeRole",
        "Version=2011-06-15",
        "RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fagents",
        "DurationSeconds=900",
        "ExternalId=ours%20%26%20theirs",
        &format!("RoleSessionName=agentkeys-{}-", scene.bot.wallet),
    ] {
        assert!(body.split('&').any(|one| one.starts_with(part)), "{part}: {body}");
    }
    assert!(!body.contains(secret));
    scene.ada.backend.check_provider(&scene.ada.session, &"aws".parse().unwrap()).await.unwrap();
    if let Some(python) = python() {
        for asked in scene.local.seen() {
            is_signed_as_by_aws(&python, &asked, &scene.local.url, secret);
        }
    }
    // Renewed when five minutes are left, which is more than a sixth.
    scene.later(9 * MINUTE);
    assert_eq!(scene.read().await, first);
    scene.later(MINUTE + 1000);
    let next: Value = serde_json::from_str(&scene.read().await).unwrap();
    assert_ne!(next["AccessKeyId"], key["AccessKeyId"]);
    // It cannot be ended: it is taken from the vault, and runs out.
    revoke(&scene.ada, "bot").await;
    assert_eq!(list(&scene.ada, "bot").await, []);
    let provider = scene.ada.backend.list_providers(&scene.ada.session).await.unwrap().remove(0);
    assert_eq!((provider.keys, provider.ending), (0, 0));
    scene.local.was_understood();
}

fn is_signed_as_by_aws(
    python: &Path,
    asked: &crate::upstream_support::Seen,
    url: &str,
    secret: &str,
) {
    let asked_for = json!({
        "url": format!("{url}/"),
        "body": String::from_utf8(asked.body.clone()).unwrap(),
        "date": asked.header("x-amz-date"),
        "access_key_id": "AKIAIOSFODNN7EXAMPLE",
        "secret": secret,
        "region": "eu-central-1",
        "service": "sts",
    });
    let mut child = Command::new(python)
        .arg(root().join("tests/e2e/lib/aws-signature.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python starts");
    child.stdin.take().unwrap().write_all(asked_for.to_string().as_bytes()).unwrap();
    let told = child.wait_with_output().unwrap();
    assert!(told.status.success());
    let told = String::from_utf8(told.stdout).unwrap();
    let sent = asked.header("authorization");
    assert!(sent.ends_with(&format!("Signature={}", told.trim())), "{sent}\n{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_aws_refuses_is_told_in_its_own_words() {
    let pairs = [
        ("access_key_id", "AKIAIOSFODNN7EXAMPLE"),
        ("role", "arn:aws:iam::123456789012:role/agents"),
        ("region", "eu-central-1"),
    ];
    let scene = Scene::new(Kind::Aws, &pairs, "secret").await;
    let body = "<ErrorResponse><Error><Code>AccessDenied</Code><Message>User is not authorized \
                to perform: sts:AssumeRole</Message></Error></ErrorResponse>";
    scene.local.is(Mood::Says(403, "content-type", "text/xml", body.to_owned()));
    let problem = refused(provision(&scene.bot, "bot", "aws").await);
    assert!(problem.cause.contains("User is not authorized to perform"), "{}", problem.cause);
    assert_eq!(problem.step.as_deref(), Some("ask AWS for a session of the role"));
    for body in ["<a", "<AssumeRoleResponse/>", "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>"] {
        scene.later(1000);
        scene.local.is(Mood::Says(200, "content-type", "text/xml", body.to_owned()));
        let problem = refused(provision(&scene.bot, "bot", "aws").await);
        assert_eq!(problem.cause, "its answer has no credentials", "{body}");
    }
}
