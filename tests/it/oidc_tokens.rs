//! Which ID tokens a backend takes. Each bad one is a good one, signed with the provider's real
//! key, of which one thing was changed; and each begins with the good one being accepted.
use agentkeys::core::backend::{ClientInfo, IdentityProof};
use agentkeys::core::problem::{Code, Problem};
use agentkeys::core::sign_in::{Flow, SignInTicket, Ticket};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;

use crate::env::{MINUTE, TestEnv, refused, unix};
use crate::oidc_support::{Draft, Key, Provider, Scene, has_provider};

/// Fails the test unless the refusal says that `cause` is why, and holds nothing of the token.
#[track_caller]
fn says(problem: &Problem, cause: &str, what: &str) {
    assert_eq!(problem.code, Code::Unauthorized, "{what}: {} {}", problem.detail, problem.cause);
    assert!(problem.cause.contains(cause), "{what}: {}", problem.cause);
    let text = serde_json::to_string(problem).unwrap();
    assert!(!text.contains("alice") && !text.contains("mallory"), "{what}: {text}");
}

impl Scene {
    /// Sends a good token, then a fresh one that was changed: the first is taken, the second not.
    async fn refuses(&self, flow: Flow, what: &str, cause: &str, change: impl FnOnce(&mut Draft)) {
        let control = self.send(&self.good(flow).await).await;
        control.unwrap_or_else(|problem| panic!("the control of {what}: {}", problem.cause));
        let mut draft = self.good(flow).await;
        change(&mut draft);
        says(&refused(self.send(&draft).await), cause, what);
    }

    /// Sends a good token, then one of it that is altered after it was signed.
    async fn refuses_text(&self, what: &str, cause: &str, alter: impl FnOnce(&Draft) -> String) {
        let good = self.good(Flow::Code).await;
        self.send(&good).await.unwrap();
        let draft = self.good(Flow::Code).await;
        let token = alter(&draft);
        let answer = self.send_token(&token, draft.ticket.as_deref()).await;
        says(&refused(answer), cause, what);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_with_one_claim_wrong_is_refused_and_the_refusal_says_which() {
    if !has_provider() {
        return;
    }
    let scene = Scene::new(&[]).await;
    let (now, code) = (scene.now(), Flow::Code);
    let client = scene.provider.client_id.clone();
    let issuer = scene.provider.issuer.clone();
    for (what, value, cause) in [
        ("iss", json!("https://accounts.example.org"), "another issuer's"),
        ("iss", json!(format!("{issuer}/")), "another issuer's"),
        ("iss", json!([issuer]), "a claim"),
        ("aud", json!("another-client"), "for another client"),
        ("aud", json!(["another-client", "third"]), "for another client"),
        ("aud", json!([]), "for another client"),
        ("aud", json!([client, "another-client"]), "given to another client"),
        ("azp", json!("another-client"), "given to another client"),
        ("nonce", json!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"), "another sign-in"),
        ("nonce", json!(""), "another sign-in"),
        ("nonce", json!(7), "a claim"),
        ("exp", json!(now - 61), "has expired"),
        ("exp", json!(format!("{}", now + 3600)), "a claim"),
        ("exp", json!(-1), "a claim"),
        ("exp", json!(1e300), "a claim"),
        ("nbf", json!(now + 62), "not valid yet"),
        ("iat", json!(now + 62), "not valid yet"),
        ("iat", json!(now - 62), "before this sign-in"),
        ("iat", json!(now - 11 * 60 - 1), "too long ago"),
        ("sub", json!(""), "subject"),
        ("sub", json!("a".repeat(256)), "subject"),
        ("sub", json!("mallory\u{1b}[2J"), "subject"),
        ("sub", json!("mallory\u{e9}"), "subject"),
        ("sub", json!(7), "a claim"),
        ("sub", json!(null), "a claim"),
        (
            "events",
            json!({"http://schemas.openid.net/event/backchannel-logout": {}}),
            "another kind",
        ),
    ] {
        let change = |draft: &mut Draft| draft.claim(what, value.clone());
        scene.refuses(code, &format!("{what} {value}"), cause, change).await;
    }
    for what in ["iss", "sub", "aud", "exp", "iat"] {
        scene.refuses(code, what, "a claim", |draft| draft.without(what)).await;
    }
    scene.refuses(code, "no nonce", "another sign-in", |draft| draft.without("nonce")).await;
    scene
        .refuses(Flow::Device, "a wrong nonce", "another sign-in", |draft| {
            draft.claim("nonce", json!("of another"));
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_standard_allows_is_taken() {
    if !has_provider() {
        return;
    }
    let scene = Scene::new(&[]).await;
    let (now, client) = (scene.now(), scene.provider.client_id.clone());
    for (name, value) in [
        ("aud", json!([client])),
        ("azp", json!(client)),
        ("exp", json!(now - 30)),
        ("exp", json!(now as f64 + 0.5)),
        ("nbf", json!(now + 30)),
        ("iat", json!(now + 30)),
        ("iat", json!(now - 30)),
        ("email", json!(7)),
        ("email_verified", json!("true")),
        ("anything", json!({"else": 1})),
    ] {
        let mut draft = scene.good(Flow::Code).await;
        draft.claim(name, value.clone());
        scene.send(&draft).await.unwrap_or_else(|p| panic!("{name} {value}: {}", p.cause));
    }
    let mut several = scene.good(Flow::Code).await;
    several.claim("aud", json!(["another", client]));
    several.claim("azp", json!(client));
    scene.send(&several).await.unwrap();
    // Google's device flow has no nonce.
    let mut device = scene.good(Flow::Device).await;
    device.without("nonce");
    scene.send(&device).await.unwrap();
    for (key, alg) in [(0, "PS256"), (1, "ES256")] {
        let mut draft = scene.good(Flow::Code).await;
        draft.key = scene.provider.keys[key].clone();
        draft.header = json!({"alg": alg, "kid": draft.key.kid});
        if alg == "PS256" {
            // The published key says RS256 of itself, which is the one thing it may be used with.
            says(&refused(scene.send(&draft).await), "not one of the key", alg);
            continue;
        }
        scene.send(&draft).await.unwrap();
        // Without a name, every key that fits is tried.
        let mut draft = scene.good(Flow::Code).await;
        draft.header = json!({"alg": "RS256"});
        scene.send(&draft).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_the_issuer_did_not_sign_is_refused() {
    if !has_provider() {
        return;
    }
    let scene = Scene::new(&[]).await;
    let stranger = Provider::start();
    let code = Flow::Code;
    let published = scene.provider.keys[0].clone();
    let forged = |draft: &mut Draft, stranger: &Key| {
        draft.key = stranger.clone();
        draft.claim("sub", json!("mallory"));
    };
    scene
        .refuses(code, "another key", "signature is not", |draft| {
            forged(draft, &stranger.keys[0]);
        })
        .await;
    // A key that nobody publishes: here the issuer was asked just now, so that it has to be asked
    // again later; a backend that asks it for this very token refuses for good.
    for name in [Some(&stranger.keys[0].kid), None] {
        let bad = |mut draft: Draft| {
            forged(&mut draft, &stranger.keys[0]);
            draft.header.as_object_mut().unwrap().remove("kid");
            if let Some(name) = name {
                draft.header["kid"] = json!(name);
            }
            draft
        };
        let problem = refused(scene.send(&bad(scene.good(code).await)).await);
        assert_eq!(problem.code, Code::Unavailable, "{}", problem.cause);
        let fresh = Scene::new(&[]).await;
        let problem = refused(fresh.send(&bad(fresh.good(code).await)).await);
        says(&problem, "does not publish", "a key that nobody publishes");
        fresh.send(&fresh.good(code).await).await.unwrap();
    }
    scene
        .refuses(code, "a key that it brings along", "signature is not", |draft| {
            forged(draft, &stranger.keys[0]);
            draft.header["jwk"] = stranger.keys[0].jwk.clone();
            draft.header["jku"] = json!(format!("{}/jwks", stranger.issuer));
            draft.header["x5u"] = json!(format!("{}/cert", stranger.issuer));
        })
        .await;
    assert_eq!(stranger.count("/jwks"), 0, "a key's address in a token was followed");
    scene
        .refuses(code, "an algorithm of another type", "not one of the key", |draft| {
            draft.header["alg"] = json!("ES256");
        })
        .await;
    scene
        .refuses(code, "a critical header", "header demands", |draft| {
            draft.header["crit"] = json!(["b64"]);
        })
        .await;
    for typ in ["at+jwt", "logout+jwt", "secevent+jwt"] {
        scene.refuses(code, typ, "another kind", |draft| draft.header["typ"] = json!(typ)).await;
    }
    for alg in ["none", "None", "nOnE", "", "HS256", "HS384", "HS512", "ES512", "RS1"] {
        scene
            .refuses_text(alg, "signed by none of", |draft| {
                let mut draft = draft.clone();
                draft.header["alg"] = json!(alg);
                let signed = draft.signed();
                let signature = if alg.starts_with("HS") { "AAAA" } else { "" };
                format!("{signed}.{signature}")
            })
            .await;
    }
    // The classic: the public key as a shared secret, in each form that a library might take.
    let n = published.jwk["n"].as_str().unwrap();
    let jwk = published.jwk.to_string();
    for secret in [n.as_bytes().to_vec(), URL_SAFE_NO_PAD.decode(n).unwrap(), jwk.into_bytes()] {
        scene
            .refuses_text("HMAC", "signed by none of", |draft| {
                let mut draft = draft.clone();
                draft.header["alg"] = json!("HS256");
                let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &secret);
                let tag = ring::hmac::sign(&key, draft.signed().as_bytes());
                format!("{}.{}", draft.signed(), URL_SAFE_NO_PAD.encode(tag))
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_token_is_refused() {
    if !has_provider() {
        return;
    }
    let scene = Scene::new(&[]).await;
    let whole = |draft: &Draft| draft.token();
    scene.refuses_text("empty", "three parts", |_| String::new()).await;
    scene.refuses_text("no dots", "three parts", |_| "x".repeat(100)).await;
    scene.refuses_text("four parts", "three parts", |draft| format!("{}.x", whole(draft))).await;
    scene.refuses_text("no signature", "three parts", |draft| format!("{}.", draft.signed())).await;
    scene.refuses_text("a blank", "three parts", |draft| format!(" {}", whole(draft))).await;
    scene
        .refuses_text("padded", "three parts", |draft| {
            let header = STANDARD.encode(draft.header.to_string() + " ");
            format!("{header}=.{}", whole(draft).split_once('.').unwrap().1)
        })
        .await;
    scene
        .refuses_text("one bit of the claims", "signature is not", |draft| {
            let token = whole(draft);
            let (head, rest) = token.split_once('.').unwrap();
            let (_, signature) = rest.split_once('.').unwrap();
            let mut claims = draft.claims.clone();
            claims["sub"] = json!("mallory");
            format!("{head}.{}.{signature}", URL_SAFE_NO_PAD.encode(claims.to_string()))
        })
        .await;
    scene
        .refuses(Flow::Code, "too large", "larger than", |draft| {
            draft.claim("filler", json!("x".repeat(16 * 1024)));
        })
        .await;
    // Two claims of one name: which one counts must not depend on who reads.
    scene
        .refuses_text("a claim twice", "a claim", |draft| {
            let claims = draft.claims.to_string();
            let twice = format!("{},\"sub\":\"mallory\"}}", claims.strip_suffix('}').unwrap());
            resigned(draft, &draft.header.to_string(), &twice)
        })
        .await;
    scene
        .refuses_text("a header twice", "three parts", |draft| {
            let header = draft.header.to_string();
            let twice = format!("{},\"alg\":\"RS256\"}}", header.strip_suffix('}').unwrap());
            resigned(draft, &twice, &draft.claims.to_string())
        })
        .await;
}

/// Signs texts that no JSON library would write.
fn resigned(draft: &Draft, header: &str, claims: &str) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let signed = format!("{}.{}", part(header), part(claims));
    let key = ring::signature::RsaKeyPair::from_pkcs8(&draft.key.pkcs8).unwrap();
    let mut signature = vec![0; key.public().modulus_len()];
    let (how, random) = (&ring::signature::RSA_PKCS1_SHA256, ring::rand::SystemRandom::new());
    key.sign(how, &random, signed.as_bytes(), &mut signature).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_worth_nothing_without_the_ticket_of_its_own_sign_in() {
    if !has_provider() {
        return;
    }
    let scene = Scene::new(&[]).await;
    let code = Flow::Code;
    scene.refuses(code, "no ticket", "with the ticket", |draft| draft.ticket = None).await;
    let other = scene.begin(code).await.ticket.expose().to_owned();
    scene
        .refuses(code, "another ticket", "another sign-in", |draft| {
            draft.ticket = Some(other);
        })
        .await;
    // A device's ticket asks for less: it does not go with a token that has another nonce.
    let device = scene.begin(Flow::Device).await.ticket.expose().to_owned();
    scene
        .refuses(code, "a device's ticket", "another sign-in", |draft| {
            draft.ticket = Some(device);
        })
        .await;
    // A ticket that says of itself that it lives on, with a good checksum and no good hash.
    scene
        .refuses(code, "a forged ticket", "not one of this backend", |draft| {
            let ticket = SignInTicket::parse(draft.ticket.as_ref().unwrap()).unwrap();
            let until = ticket.says().until.plus_ms(MINUTE);
            let says = Ticket { until, ..*ticket.says() };
            let forged = SignInTicket::new(says, |_| *ticket.mac());
            draft.claim("nonce", json!(forged.nonce()));
            draft.ticket = Some(forged.expose().to_owned());
        })
        .await;
    // One for the device flow, in which a token needs no nonce, made of one for the other.
    scene
        .refuses(code, "a ticket of another flow", "not one of this backend", |draft| {
            let ticket = SignInTicket::parse(draft.ticket.as_ref().unwrap()).unwrap();
            let says = Ticket { flow: Flow::Device, ..*ticket.says() };
            draft.without("nonce");
            draft.ticket = Some(SignInTicket::new(says, |_| *ticket.mac()).expose().to_owned());
        })
        .await;
    // The ticket runs out while the person is at the issuer; the token is as fresh as can be.
    let mut late = scene.good(code).await;
    scene.env.clock.advance(30 * MINUTE);
    late.claim("iat", json!(scene.now()));
    late.claim("exp", json!(scene.now() + 60));
    says(&refused(scene.send(&late).await), "30 minutes ago", "an expired ticket");
    scene.send(&scene.good(code).await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_once_also_after_a_restart_and_for_two_at_once() {
    if !has_provider() {
        return;
    }
    let mut scene = Scene::new(&[]).await;
    let used = scene.good(Flow::Code).await;
    let token = used.token();
    let ticket = used.ticket.clone();
    scene.send_token(&token, ticket.as_deref()).await.unwrap();
    let again = refused(scene.send_token(&token, ticket.as_deref()).await);
    says(&again, "used already", "a replay");
    // ECDSA has many good signatures of one token: it is what was signed that counts.
    let mut curve = scene.good(Flow::Code).await;
    curve.key = scene.provider.keys[1].clone();
    curve.header = json!({"alg": "ES256", "kid": curve.key.kid});
    let (one, two) = (curve.token(), curve.token());
    assert_ne!(one, two, "the signatures differ");
    scene.send_token(&one, curve.ticket.as_deref()).await.unwrap();
    let again = refused(scene.send_token(&two, curve.ticket.as_deref()).await);
    says(&again, "used already", "a replay signed anew");
    scene.env.restart().await;
    let again = refused(scene.send_token(&token, ticket.as_deref()).await);
    says(&again, "used already", "a replay after a restart");
    for _ in 0..10 {
        let draft = scene.good(Flow::Code).await;
        let token = draft.token();
        let both = [(); 8].map(|()| scene.send_token(&token, draft.ticket.as_deref()));
        let mut taken = 0;
        for answer in futures_of(both).await {
            match answer {
                Ok(_) => taken += 1,
                Err(problem) => says(&problem, "used already", "one of several at once"),
            }
        }
        assert_eq!(taken, 1);
    }
    // Once no used token could be taken any more, their record goes, and they stay refused.
    scene.env.clock.advance(11 * MINUTE + 1);
    let before = rows_with(&scene, b'u').await;
    scene.env.whole_vault().sweep().await.unwrap();
    assert!(before >= 12 && rows_with(&scene, b'u').await == 0, "{before}");
    let again = refused(scene.send_token(&token, ticket.as_deref()).await);
    says(&again, "too long ago", "a replay after its record is gone");
}

/// All answers, asked for at once.
async fn futures_of<F: std::future::Future, const N: usize>(all: [F; N]) -> Vec<F::Output> {
    let mut all: Vec<_> = all.into_iter().map(|one| (Box::pin(one), None)).collect();
    std::future::poll_fn(|context| {
        for (future, done) in &mut all {
            if done.is_none()
                && let std::task::Poll::Ready(output) = future.as_mut().poll(context)
            {
                *done = Some(output);
            }
        }
        let ready = all.iter().all(|(_, done)| done.is_some());
        if ready { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    all.into_iter().filter_map(|(_, done)| done).collect()
}

async fn rows_with(scene: &Scene, tag: u8) -> usize {
    scene.env.rows().await.keys().filter(|key| key[0] == tag).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_to_sign_in_owns_a_fresh_backend_and_nobody_else_gets_in() {
    if !has_provider() {
        return;
    }
    let scene = Scene::new(&[]).await;
    assert!(!scene.env.whole_vault().is_owned().await.unwrap());
    // Many at once, each somebody else: one of them owns it.
    let mut drafts = Vec::new();
    for name in 0..8 {
        let mut draft = scene.good(Flow::Code).await;
        draft.claim("sub", json!(format!("person-{name}")));
        drafts.push(draft);
    }
    let drafts: [Draft; 8] = drafts.try_into().ok().unwrap();
    let answers = futures_of(drafts.each_ref().map(|draft| scene.send(draft))).await;
    let owners: Vec<usize> = (0..8).filter(|at| answers[*at].is_ok()).collect();
    assert_eq!(owners.len(), 1);
    let owner = answers[owners[0]].as_ref().ok().unwrap();
    assert!(owner.news.as_ref().unwrap().owns_now);
    for problem in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert_eq!(problem.code, Code::Denied);
        let told = serde_json::to_string(problem).unwrap();
        assert!(told.contains("belongs to somebody") && !told.contains("person-"), "{told}");
    }
    assert!(scene.env.whole_vault().is_owned().await.unwrap());
    // The owner comes back, and hears no more of owning; another is still refused.
    let mut back = scene.good(Flow::Code).await;
    back.claim("sub", json!(format!("person-{}", owners[0])));
    let back = scene.send(&back).await.unwrap();
    assert_eq!((back.wallet, back.news.unwrap().owns_now), (owner.wallet, false));
    let mut late = scene.good(Flow::Code).await;
    late.claim("sub", json!("person-8"));
    assert_eq!(refused(scene.send(&late).await).code, Code::Denied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_with_accounts_of_the_unix_socket_is_not_fresh() {
    if !has_provider() {
        return;
    }
    let scene = Scene::new(&[]).await;
    let here = scene.env.vault(unix(1000));
    here.create_session(IdentityProof::Peer, ClientInfo::default()).await.unwrap();
    let problem = refused(scene.send(&scene.good(Flow::Code).await).await);
    assert_eq!(problem.code, Code::Denied);
    // The socket's own rule stays as it was: every user is let in by their uid.
    let other = scene.env.vault(unix(1001));
    other.create_session(IdentityProof::Peer, ClientInfo::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_lets_in_whom_the_issuer_has_verified_at_every_sign_in() {
    if !has_provider() {
        return;
    }
    let scene = Scene::new(&["alice@example.org", "@Team.example"]).await;
    let sign_in = async |sub: &str, email: serde_json::Value, verified: serde_json::Value| {
        let mut draft = scene.good(Flow::Code).await;
        draft.claim("sub", json!(sub));
        draft.claim("email", email);
        draft.claim("email_verified", verified);
        scene.send(&draft).await
    };
    let yes = json!(true);
    let alice = sign_in("alice", json!("Alice@Example.org"), yes.clone()).await.unwrap();
    assert_eq!(alice.news.unwrap().email.as_deref(), Some("alice@example.org"));
    let bob = sign_in("bob", json!("bob@team.EXAMPLE"), yes.clone()).await.unwrap();
    assert_ne!(alice.wallet, bob.wallet);
    for (sub, email, verified) in [
        ("mallory", json!("mallory@example.org"), yes.clone()),
        ("mallory", json!("alice@example.org.evil.example"), yes.clone()),
        ("mallory", json!("x@sub.team.example"), yes.clone()),
        ("mallory", json!("alice@example.org"), json!(false)),
        ("mallory", json!("alice@example.org"), json!("true")),
        ("mallory", json!("alice@example.org"), json!(null)),
        ("mallory", json!(["alice@example.org"]), yes.clone()),
        ("mallory", json!("alice@example.org\u{0}"), yes.clone()),
        ("mallory", json!(null), yes.clone()),
        // Somebody who has an account, and whom the list does not name any more.
        ("bob", json!("bob@elsewhere.example"), yes.clone()),
    ] {
        let problem = refused(sign_in(sub, email.clone(), verified).await);
        assert_eq!(problem.code, Code::Denied, "{email}: {}", problem.cause);
    }
    // The same address with another subject is another account; with another address, the same.
    let heir = sign_in("alice-2", json!("alice@example.org"), yes.clone()).await.unwrap();
    assert_ne!(heir.wallet, alice.wallet);
    let moved = sign_in("alice", json!("alice@team.example"), yes).await.unwrap();
    assert_eq!(moved.wallet, alice.wallet);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_knows_people_by_issuer_and_subject_with_the_address_as_a_label() {
    if !has_provider() {
        return;
    }
    let scene = Scene::new(&[]).await;
    let minted = scene.send(&scene.good(Flow::Code).await).await.unwrap();
    let master = crate::env::Master::of(scene.backend(), minted).await;
    let who = master.backend.who_am_i(&master.session).await.unwrap();
    assert_eq!(who.identity, format!("oidc:{}#alice", scene.provider.issuer));
    let page = master.backend.query_audit(&master.session, Default::default()).await.unwrap();
    let text = serde_json::to_string(&page.events).unwrap();
    assert!(text.contains(&format!("{} (alice@example.org)", who.identity)), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_without_an_issuer_says_so_and_takes_no_token() {
    let env = TestEnv::with_dev(false).await;
    let answer = env.http().begin_sign_in(Flow::Code).await;
    assert_eq!(answer.err().unwrap().code, Code::NotFound);
    let ticket = SignInTicket::new(
        Ticket { flow: Flow::Code, until: crate::env::START.plus_ms(MINUTE), random: [1; 16] },
        |_| [0; 16],
    );
    let proof = crate::oidc_support::proof("a.b.c", Some(ticket.expose()));
    let problem = refused(env.http().create_session(proof, ClientInfo::default()).await);
    assert_eq!(problem.code, Code::NotFound);
}
