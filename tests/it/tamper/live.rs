//! Rows that are altered below a running backend.
use agentkeys::backend::vault::{OpenError, VaultError};
use agentkeys::core::backend::RevokeTarget;
use agentkeys::core::problem::Code;

use super::scene::{EVENT, Scene};
use super::{changed, name};
use crate::env::{code, id};

/// What is right to release: never a revoked agent's, never another's.
fn is_right(released: &[Vec<u8>]) -> bool {
    released.iter().all(|one| {
        [b"sk-2", b"sk-3", b"sk-5"].contains(&one.as_slice().try_into().unwrap_or(b"none"))
    })
}

#[tokio::test]
async fn a_changed_or_moved_row_never_releases_anything_else() {
    let scene = Scene::play().await;
    assert_eq!(scene.released().await.len(), 8);
    let good = scene.env.rows().await;
    let mut held_back = std::collections::BTreeSet::new();
    for (key, value) in good.iter().filter(|(key, _)| key[0] != EVENT) {
        let same_kind = good.iter().filter(|(other, _)| other[0] == key[0] && *other != key);
        let moved = same_kind.map(|(_, other)| other.clone());
        let flipped = [0, 16, 28, value.len() / 2, value.len() - 1];
        let flipped = flipped.map(|at| changed(value, at, 0x80));
        for wrong in flipped.into_iter().chain(moved) {
            let now = scene.env.raw().get_now(key).expect("the store reads");
            scene.env.overwrite(vec![(key.clone(), Some(wrong.clone()))]).await;
            let released = scene.released().await;
            assert!(is_right(&released), "{} released something else", name(key));
            if released.len() < 8 {
                held_back.insert(key[0]);
            }
            // What nobody touched since is put right; what the backend wrote stays.
            let current = scene.env.raw().get_now(key).expect("the store reads");
            if current == Some(wrong) {
                scene.env.overwrite(vec![(key.clone(), now)]).await;
            }
        }
    }
    for kind in b"AHGNCsh" {
        assert!(held_back.contains(kind), "{} had no effect", name(&[*kind]));
    }
    assert_eq!(scene.released().await.len(), 8, "put right, all is released again");
}

#[tokio::test]
async fn what_depends_on_a_damaged_row_fails_as_internal_and_the_rest_goes_on() {
    let scene = Scene::play().await;
    let rows = scene.env.rows().await;
    let agent = [b"G".as_slice(), &scene.alice.account.0, &scene.child.wallet.0].concat();
    let session = [b"s".as_slice(), &scene.child.session_id.0].concat();
    for (key, alice_reads) in [(agent, false), (session, true)] {
        let value = rows.get(&key).expect("the row is there");
        scene.env.overwrite(vec![(key.clone(), Some(changed(value, 40, 1)))]).await;
        let by_child = scene.child.try_read("my-agent", "openrouter").await;
        assert_eq!(code(by_child), Code::Internal);
        let by_alice = scene.alice.try_read("my-agent", "openrouter").await;
        assert_eq!(by_alice.is_ok(), alice_reads);
        assert_eq!(scene.bob.read("bobs", "openrouter").await, b"sk-5");
        scene.env.overwrite(vec![(key, Some(value.clone()))]).await;
    }
}

#[tokio::test]
async fn an_agent_that_was_put_back_to_before_its_revocation_stays_revoked() {
    let mut scene = Scene::play().await;
    let agents = |rows: &crate::env::Rows| -> Vec<_> {
        rows.iter().filter(|(key, _)| key[0] == b'G').map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    let before = agents(&scene.env.rows().await);
    assert_eq!(scene.alice.read("my-agent", "openrouter").await, b"sk-2");
    let target = RevokeTarget::Agent(id("my-agent"));
    scene.alice.backend.revoke_session(&scene.alice.session, target).await.expect("revoked");
    let back = before.into_iter().map(|(key, value)| (key, Some(value))).collect();
    scene.env.overwrite(back).await;
    for who in [&scene.alice, &scene.child] {
        assert_eq!(code(who.try_read("my-agent", "openrouter").await), Code::Internal);
    }
    // Whatever is written over it, the next start finds it.
    scene.bob.store("bobs", "later", b"sk-6").await;
    scene.env.close().await;
    let opened = scene.env.try_open().await;
    assert!(matches!(opened, Err(VaultError::Open(OpenError::Altered))));
}

#[tokio::test]
async fn a_revoked_session_that_was_put_back_stays_revoked() {
    let scene = Scene::play().await;
    let key = [b"s".as_slice(), &scene.child.session_id.0].concat();
    let before = scene.env.raw().get_now(&key).expect("the store reads");
    let target = RevokeTarget::Session(scene.child.session_id);
    scene.alice.backend.revoke_session(&scene.alice.session, target).await.expect("revoked");
    scene.env.overwrite(vec![(key, before)]).await;
    assert_eq!(code(scene.child.try_read("my-agent", "openrouter").await), Code::Internal);
}
