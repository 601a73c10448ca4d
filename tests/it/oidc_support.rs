//! What the tests of sign-in share: a real OpenID provider in a process of its own, whose private
//! keys the tests know, so that they can sign tokens which are good but for one thing; and a
//! backend that is signed in at by it. Must never decide what is right: tests assert.
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};

use agentkeys::backend::judge::IssuerOffer;
use agentkeys::backend::oidc::{OpenId, OpenIdSettings};
use agentkeys::core::backend::{AccountBackend, ClientInfo, IdentityProof, Minted};
use agentkeys::core::problem::Answer;
use agentkeys::core::secret::SecretBytes;
use agentkeys::core::sign_in::{Flow, SignInStart, SignInTicket};
use agentkeys::web::Fetcher;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair,
};
use serde_json::{Value, json};

use crate::env::TestEnv;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn tools() -> PathBuf {
    root().join("target/test-tools")
}

/// A node that runs the provider: this machine's, or the one that was installed beside it.
pub fn node() -> PathBuf {
    let own = tools().join("node/node_modules/node/bin/node");
    if own.exists() { own } else { "node".into() }
}

/// A script of tests/e2e/lib.
pub fn script(name: &str) -> PathBuf {
    root().join("tests/e2e/lib").join(name)
}

/// Whether the provider is installed. Without it the check is skipped loudly, and fails in CI.
pub fn has_provider() -> bool {
    let there = tools().join("oidc-provider/.installed").exists();
    if !there {
        eprintln!("SKIPPED: no oidc-provider; scripts/install-test-tools.sh installs it");
        assert!(std::env::var_os("CI").is_none(), "CI has no oidc-provider");
    }
    there
}

/// A key of the provider's, private half and all.
#[derive(Clone)]
pub struct Key {
    pub kid: String,
    pub alg: String,
    pub pkcs8: Vec<u8>,
    /// The public half as it is published.
    pub jwk: Value,
}

impl Key {
    fn of(told: &Value) -> Self {
        let text = |name: &str| told[name].as_str().unwrap().to_owned();
        let pkcs8 = STANDARD.decode(text("pkcs8")).unwrap();
        Self { kid: text("kid"), alg: text("alg"), pkcs8, jwk: told["jwk"].clone() }
    }

    /// Signs by an algorithm that the key has.
    fn sign(&self, alg: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        if self.alg == "ES256" {
            let how = &ECDSA_P256_SHA256_FIXED_SIGNING;
            let key = EcdsaKeyPair::from_pkcs8(how, &self.pkcs8, &random).unwrap();
            return key.sign(&random, message).unwrap().as_ref().to_vec();
        }
        let key = RsaKeyPair::from_pkcs8(&self.pkcs8).unwrap();
        let mut signature = vec![0; key.public().modulus_len()];
        if alg == "PS256" {
            key.sign(&RSA_PSS_SHA256, &random, message, &mut signature).unwrap();
        } else {
            key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
        }
        signature
    }
}

/// The provider's process. It ends with this.
pub struct Provider {
    child: Child,
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    pub issuer: String,
    pub client_id: String,
    pub keys: Vec<Key>,
}

/// The next line that is JSON: the provider also warns of being a test.
fn line(out: &mut BufReader<ChildStdout>) -> Value {
    loop {
        let mut text = String::new();
        assert_ne!(out.read_line(&mut text).unwrap(), 0, "the provider has ended");
        if text.starts_with('{') {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

impl Provider {
    pub fn start() -> Self {
        let mut child = Command::new(node())
            .arg(script("oidc_provider.mjs"))
            .arg(tools().join("oidc-provider"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("node starts");
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let told = line(&mut out);
        let pipes = Mutex::new((child.stdin.take().unwrap(), out));
        let text = |name: &str| told[name].as_str().unwrap().to_owned();
        let keys = told["keys"].as_array().unwrap().iter().map(Key::of).collect();
        Self { child, pipes, issuer: text("issuer"), client_id: text("client_id"), keys }
    }

    /// Has it do something; see the script.
    pub fn has(&self, command: Value) -> Value {
        let mut pipes = self.pipes.lock().unwrap();
        writeln!(pipes.0, "{command}").unwrap();
        line(&mut pipes.1)
    }

    /// Answers a path with this from now on.
    pub fn answers(&self, path: &str, body: Value) {
        self.has(json!({"do": "answer", "path": path, "body": body}));
    }

    /// New keys, and none of the old ones.
    pub fn rotate(&mut self) {
        let told = self.has(json!({"do": "rotate"}));
        self.keys = told["keys"].as_array().unwrap().iter().map(Key::of).collect();
    }

    /// How often a path was asked for.
    pub fn count(&self, path: &str) -> u64 {
        self.has(json!({"do": "count"}))[path].as_u64().unwrap_or(0)
    }

    /// A judge that knows this provider.
    pub fn judge(&self, allow: &[&str]) -> Arc<OpenId> {
        let offer = IssuerOffer {
            issuer: self.issuer.clone(),
            client_id: self.client_id.clone(),
            client_secret: None,
        };
        let allow = allow.iter().map(|entry| entry.parse().unwrap()).collect();
        Arc::new(OpenId::new(OpenIdSettings::new(offer, allow).unwrap(), Fetcher::new()))
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A backend that is signed in at by a provider.
pub struct Scene {
    pub env: TestEnv,
    pub provider: Provider,
}

/// A token and its ticket, before it is signed. What a test changes is what is wrong with it.
#[derive(Clone)]
pub struct Draft {
    pub header: Value,
    pub claims: Value,
    pub key: Key,
    /// The ticket that goes along, as text; `None` for none.
    pub ticket: Option<String>,
}

impl Draft {
    fn part(value: &Value) -> String {
        URL_SAFE_NO_PAD.encode(value.to_string())
    }

    /// Header and claims as they are signed.
    pub fn signed(&self) -> String {
        format!("{}.{}", Self::part(&self.header), Self::part(&self.claims))
    }

    /// The token.
    pub fn token(&self) -> String {
        let signed = self.signed();
        let alg = self.header["alg"].as_str().unwrap();
        let signature = self.key.sign(alg, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Sets a claim.
    pub fn claim(&mut self, name: &str, value: Value) {
        self.claims[name] = value;
    }

    /// Takes a claim out.
    pub fn without(&mut self, name: &str) {
        self.claims.as_object_mut().unwrap().remove(name);
    }
}

impl Scene {
    pub async fn new(allow: &[&str]) -> Self {
        let provider = Provider::start();
        let env = TestEnv::with_judge(provider.judge(allow)).await;
        Self { env, provider }
    }

    pub fn backend(&self) -> Arc<dyn AccountBackend> {
        self.env.http()
    }

    pub async fn begin(&self, flow: Flow) -> SignInStart {
        self.backend().begin_sign_in(flow).await.unwrap()
    }

    /// The backend's time, in seconds.
    pub fn now(&self) -> u64 {
        use agentkeys::backend::clock::Clock;
        self.env.clock.now().0 / 1000
    }

    /// A token as the provider would sign it for alice now, in a sign-in that has just begun.
    pub async fn good(&self, flow: Flow) -> Draft {
        let start = self.begin(flow).await;
        let key = self.provider.keys[0].clone();
        let now = self.now();
        Draft {
            header: json!({"alg": key.alg, "typ": "JWT", "kid": key.kid}),
            claims: json!({
                "iss": self.provider.issuer, "sub": "alice", "aud": self.provider.client_id,
                "exp": now + 3600, "iat": now, "nonce": start.nonce,
                "email": "alice@example.org", "email_verified": true,
            }),
            key,
            ticket: Some(start.ticket.expose().to_owned()),
        }
    }

    /// Signs in by a draft.
    pub async fn send(&self, draft: &Draft) -> Answer<Minted> {
        self.send_token(&draft.token(), draft.ticket.as_deref()).await
    }

    /// Signs in by a token.
    pub async fn send_token(&self, token: &str, ticket: Option<&str>) -> Answer<Minted> {
        self.backend().create_session(proof(token, ticket), ClientInfo::default()).await
    }
}

/// A token with its ticket, if there is one.
pub fn proof(token: &str, ticket: Option<&str>) -> IdentityProof {
    let token = SecretBytes::new(token.as_bytes().to_vec());
    match ticket {
        Some(ticket) => {
            IdentityProof::IdToken { token, ticket: SignInTicket::parse(ticket).unwrap() }
        }
        None => IdentityProof::Token(token),
    }
}
