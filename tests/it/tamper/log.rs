//! Events that were changed, removed, cut off or swapped: the walk names the first bad one,
//! after a restart and while running.
use agentkeys::backend::store::Value;
use agentkeys::core::audit::Fault;

use super::changed;
use super::scene::{EVENT, Scene};
use crate::env::Rows;

/// The key and value of each of alice's events, in order, the first at 0.
fn events(scene: &Scene, rows: &Rows) -> Vec<(Vec<u8>, Value)> {
    let prefix = [&[EVENT], &scene.alice.account.0[..]].concat();
    rows.iter()
        .filter(|(key, _)| key.starts_with(&prefix))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

async fn put_back(scene: &Scene, good: &[(Vec<u8>, Value)]) {
    let all = good.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
    scene.env.overwrite(all).await;
}

#[tokio::test]
async fn any_byte_of_an_event_that_changed_is_named() {
    let scene = Scene::play().await;
    let good = events(&scene, &scene.env.rows().await);
    let count = good.len() as u64;
    assert_eq!(scene.alice.verify(None).await, Ok(count));
    for (at, (key, value)) in good.iter().enumerate() {
        let seq = at as u64 + 1;
        // Every byte of two events, some bytes of all.
        let step = if at == 3 || at == good.len() - 1 { 1 } else { 37 };
        for byte in (0..value.len()).step_by(step) {
            let wrong = changed(value, byte, 1 << (byte % 8));
            scene.env.overwrite(vec![(key.clone(), Some(wrong))]).await;
            assert_eq!(scene.alice.verify(None).await, Err(Fault::Damaged(seq)), "byte {byte}");
        }
        scene.env.overwrite(vec![(key.clone(), Some(value.clone()))]).await;
    }
    assert_eq!(scene.alice.verify(None).await, Ok(count));
}

#[tokio::test]
async fn a_removed_event_and_a_cut_off_tail_are_named() {
    let scene = Scene::play().await;
    let seen = scene.alice.backend.last_head().expect("a master's answer carries one");
    let good = events(&scene, &scene.env.rows().await);
    for at in 0..good.len() {
        let seq = at as u64 + 1;
        scene.env.overwrite(vec![(good[at].0.clone(), None)]).await;
        assert_eq!(scene.alice.verify(Some(&seen)).await, Err(Fault::Missing(seq)));
        let tail = good[at..].iter().map(|(key, _)| (key.clone(), None)).collect();
        scene.env.overwrite(tail).await;
        assert_eq!(scene.alice.verify(Some(&seen)).await, Err(Fault::Missing(seq)));
        assert_eq!(scene.alice.verify(None).await, Err(Fault::Missing(seq)));
        put_back(&scene, &good).await;
    }
    assert_eq!(scene.alice.verify(Some(&seen)).await, Ok(good.len() as u64));
}

#[tokio::test]
async fn swapped_and_copied_events_are_named() {
    let scene = Scene::play().await;
    let good = events(&scene, &scene.env.rows().await);
    for one in 0..good.len() {
        for two in one + 1..good.len() {
            let swapped = vec![
                (good[one].0.clone(), Some(good[two].1.clone())),
                (good[two].0.clone(), Some(good[one].1.clone())),
            ];
            scene.env.overwrite(swapped).await;
            let named = Fault::Damaged(one as u64 + 1);
            assert_eq!(scene.alice.verify(None).await, Err(named));
            scene
                .env
                .overwrite(vec![good[one].clone()].into_iter().map(|(k, v)| (k, Some(v))).collect())
                .await;
            let named = Fault::Damaged(two as u64 + 1);
            assert_eq!(scene.alice.verify(None).await, Err(named), "a copy");
            put_back(&scene, &good).await;
        }
    }
    // An event beyond the end is nobody's: the head says where the log ends.
    let mut beyond = good[0].0.clone();
    *beyond.last_mut().expect("a key has bytes") = 0xEE;
    scene.env.overwrite(vec![(beyond, Some(good[0].1.clone()))]).await;
    assert_eq!(scene.alice.verify(None).await, Ok(good.len() as u64));
}

#[tokio::test]
async fn damage_to_events_is_named_after_a_restart_too() {
    let mut scene = Scene::play().await;
    let seen = scene.alice.backend.last_head().expect("a master's answer carries one");
    let good = events(&scene, &scene.env.rows().await);
    let last = good.len() - 1;
    let cases = [
        (vec![(good[4].0.clone(), Some(changed(&good[4].1, 50, 1)))], Fault::Damaged(5)),
        (vec![(good[4].0.clone(), None)], Fault::Missing(5)),
        (
            vec![(good[last - 1].0.clone(), None), (good[last].0.clone(), None)],
            Fault::Missing(last as u64),
        ),
        (
            vec![
                (good[2].0.clone(), Some(good[7].1.clone())),
                (good[7].0.clone(), Some(good[2].1.clone())),
            ],
            Fault::Damaged(3),
        ),
    ];
    for (changes, fault) in cases {
        scene.env.reopen_with(changes).await.expect("the log is the reader's to verify");
        scene.alice.backend = scene.env.backend();
        assert_eq!(scene.alice.verify(Some(&seen)).await, Err(fault));
        put_back(&scene, &good).await;
    }
    assert_eq!(scene.alice.verify(Some(&seen)).await, Ok(good.len() as u64));
}

#[tokio::test]
async fn a_chains_end_that_was_put_back_writes_over_nothing() {
    let scene = Scene::play().await;
    let key = [b"H".as_slice(), &scene.alice.account.0].concat();
    let older = scene.env.raw().get_now(&key).expect("the store reads");
    assert_eq!(scene.alice.read("my-agent", "openrouter").await, b"sk-2");
    let newer = scene.env.raw().get_now(&key).expect("the store reads");
    let good = events(&scene, &scene.env.rows().await);
    for wrong in [older, None] {
        scene.env.overwrite(vec![(key.clone(), wrong)]).await;
        let read = scene.alice.try_read("my-agent", "openrouter").await;
        assert!(read.is_err(), "nothing is released without its event");
        assert_eq!(scene.bob.read("bobs", "openrouter").await, b"sk-5");
    }
    assert_eq!(events(&scene, &scene.env.rows().await), good);
    scene.env.overwrite(vec![(key, newer)]).await;
    assert_eq!(scene.alice.read("my-agent", "openrouter").await, b"sk-2");
    assert_eq!(scene.alice.verify(None).await, Ok(good.len() as u64 + 1));
}
