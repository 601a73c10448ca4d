//! What whoever reads the store's files learns: no secret, no token, and no name.
use std::path::Path;

use agentkeys::core::backend::RevokeTarget;
use agentkeys::core::encoding::to_base64;
use agentkeys::core::scope::Scope;
use agentkeys::core::types::to_hex;

use crate::env::{DAY, TestEnv, id};

fn files_below(dir: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(dir).expect("the folder is readable") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files_below(&path, found);
        } else {
            let bytes = std::fs::read(&path).expect("the file is readable");
            found.push((path.display().to_string(), bytes));
        }
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// A text in every form in which somebody might have written it.
fn forms(text: &[u8]) -> Vec<Vec<u8>> {
    let hex = to_hex(text);
    let mut forms = vec![text.to_vec(), hex.to_uppercase().into_bytes(), hex.into_bytes()];
    // In base64 the text looks different at each of three offsets; what its neighbours are mixed
    // into is left off at both ends.
    for lead in 0..3 {
        let encoded = to_base64(&[&vec![0; lead], text].concat());
        let whole = encoded.trim_end_matches('=');
        forms.push(whole.as_bytes()[if lead == 0 { 0 } else { 4 }..whole.len() - 2].to_vec());
    }
    forms
}

#[test]
fn the_search_finds_what_is_there() {
    let secret = b"sk-or-v1-find-me-0123456789";
    for before in ["", "x", "xy", "xyz"] {
        let written = format!("{before}{}zz", String::from_utf8_lossy(secret));
        let encoded = to_base64(written.as_bytes()).into_bytes();
        assert!(forms(secret).iter().any(|form| contains(&encoded, form)), "{before:?}");
        assert!(forms(secret).iter().any(|form| contains(to_hex(secret).as_bytes(), form)));
    }
}

#[tokio::test]
async fn no_file_holds_a_secret_a_token_or_a_name() {
    let mut env = TestEnv::new().await;
    let alice = env.master("alice-whom-nobody-knows").await;
    let secrets: [&[u8]; 3] =
        [b"sk-or-v1-find-me-0123456789", b"sk-replaced-find-me-987", b"\x01\x02find-me-binary\xfe"];
    let names = ["find-me-agent", "find-me-alias", "find-me@example.com", "find-me-name.eth"];
    let services = ["find-me-service", "find-me-other"];
    alice.agent(names[0]).await;
    for name in &names[1..] {
        let linked = alice.backend.link_identity(&alice.session, &id(names[0]), &id(name)).await;
        linked.expect("it is linked");
    }
    alice.store(names[0], services[0], secrets[1]).await;
    alice.store(names[0], services[0], secrets[0]).await;
    alice.store(names[0], services[1], secrets[2]).await;
    let minted = alice.mint(names[0], Scope::everything()).await;
    let renewal = minted.renewal.as_ref().expect("a child has one");
    let renewed = alice.backend.renew_session(renewal).await.expect("it is renewed");
    let mut tokens = [&alice.session, &minted.session, &renewed.session]
        .map(|token| token.expose().as_bytes().to_vec())
        .to_vec();
    for secret in [minted.renewal, renewed.renewal].into_iter().flatten() {
        tokens.push(secret.expose().as_bytes().to_vec());
    }
    assert_eq!(alice.read(names[0], services[0]).await, secrets[0]);
    alice.backend.read_all(&alice.session, &id(names[0])).await.expect("released");
    let target = RevokeTarget::Agent(id(names[0]));
    alice.backend.revoke_session(&alice.session, target).await.expect("it is revoked");
    assert!(alice.try_read(names[0], services[0]).await.is_err());
    env.clock.advance(2 * DAY);
    env.whole_vault().sweep().await.expect("a sweep");

    let mut wanted: Vec<Vec<u8>> = Vec::new();
    wanted.extend(secrets.iter().map(|secret| secret.to_vec()));
    wanted.extend(names.iter().chain(&services).map(|name| name.as_bytes().to_vec()));
    wanted.push(b"alice-whom-nobody-knows".to_vec());
    for token in tokens {
        // Whole, and the random part alone.
        wanted.push(token[5..].to_vec());
        wanted.push(token);
    }
    // What every secret and name above has in common, should one be cut in two.
    wanted.push(b"find-me".to_vec());
    // Running, closed, and opened again.
    for state in ["running", "closed", "opened again"] {
        match state {
            "closed" => env.close().await,
            "opened again" => env.try_open().await.expect("it opens"),
            _ => {}
        }
        let mut files = Vec::new();
        files_below(env.folder(), &mut files);
        assert!(files.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() > 10_000);
        for text in &wanted {
            for form in forms(text) {
                for (path, bytes) in &files {
                    let shown = String::from_utf8_lossy(&form);
                    assert!(!contains(bytes, &form), "{state}: {path} holds {shown}");
                }
            }
        }
    }
}
