//! Whoever can write the store's files changes, moves, inserts, deletes or puts back rows: what
//! depends on them fails closed, at the start and while running, and the log names the event.
mod live;
mod log;
mod scene;

use agentkeys::backend::store::Value;
use agentkeys::backend::vault::{OpenError, VaultError};

use self::scene::{EVENT, KINDS, Scene, open};
use crate::env::Rows;

/// The rows do not open, and the backend says that they were altered.
async fn is_refused(rows: Rows, what: impl Fn() -> String) {
    match open(rows).await {
        Err(VaultError::Open(OpenError::Altered | OpenError::Cell(_) | OpenError::Headless)) => {}
        Err(other) => panic!("{}: refused, but as {other}", what()),
        Ok(_) => panic!("{}: the backend starts", what()),
    }
}

/// `value` with the byte at `at` changed by `mask`.
fn changed(value: &Value, at: usize, mask: u8) -> Value {
    let mut bytes = value.to_vec();
    bytes[at] ^= mask;
    Value::from(bytes)
}

fn name(key: &[u8]) -> String {
    format!("a row of kind {}", char::from(key[0]))
}

/// All rows but events, whose damage is found by the walk along the chain.
fn held_by_the_digest(rows: &Rows) -> impl Iterator<Item = (&Vec<u8>, &Value)> {
    rows.iter().filter(|(key, _)| key[0] != EVENT)
}

#[tokio::test]
async fn rows_that_nobody_touched_open() {
    let scene = Scene::play().await;
    for rows in &scene.history {
        open(rows.clone()).await.expect("a state that was committed opens");
    }
}

#[tokio::test]
async fn any_byte_of_any_row_that_changed_is_refused_at_the_start() {
    let scene = Scene::play().await;
    for (key, value) in held_by_the_digest(scene.rows()) {
        for at in 0..value.len() {
            // Another bit each time, so that all eight are tried in every row.
            let mut rows = scene.rows().clone();
            rows.insert(key.clone(), changed(value, at, 1 << (at % 8)));
            is_refused(rows, || format!("{} at byte {at}", name(key))).await;
        }
        for other in [value.slice(1..), value.slice(..value.len() - 1), Value::new()] {
            let mut rows = scene.rows().clone();
            rows.insert(key.clone(), other);
            is_refused(rows, || format!("{} cut short", name(key))).await;
        }
    }
}

#[tokio::test]
async fn a_value_that_was_moved_or_copied_to_another_key_is_refused_at_the_start() {
    let scene = Scene::play().await;
    for (from, value) in scene.rows() {
        for (to, _) in held_by_the_digest(scene.rows()).filter(|(to, _)| *to != from) {
            let mut rows = scene.rows().clone();
            rows.insert(to.clone(), value.clone());
            is_refused(rows.clone(), || format!("{} copied to {}", name(from), name(to))).await;
            if from[0] != EVENT {
                rows.remove(from);
                is_refused(rows, || format!("{} moved to {}", name(from), name(to))).await;
            }
        }
        // To a place where nothing was.
        let mut free = from.clone();
        *free.last_mut().expect("a key has bytes") ^= 1;
        free[0] = if from[0] == EVENT { b'C' } else { from[0] };
        if !scene.rows().contains_key(&free) {
            let mut rows = scene.rows().clone();
            rows.insert(free, value.clone());
            is_refused(rows, || format!("{} copied to a free key", name(from))).await;
        }
    }
}

#[tokio::test]
async fn an_inserted_row_is_refused_at_the_start() {
    let scene = Scene::play().await;
    for kind in KINDS.iter().filter(|kind| **kind != EVENT) {
        for bytes in [vec![], vec![0; 60]] {
            let mut rows = scene.rows().clone();
            rows.insert([&[*kind], &[0xEE; 36][..]].concat(), Value::from(bytes));
            is_refused(rows, || name(&[*kind])).await;
        }
    }
}

#[tokio::test]
async fn a_deleted_row_is_refused_at_the_start() {
    let scene = Scene::play().await;
    for (key, _) in held_by_the_digest(scene.rows()) {
        let mut rows = scene.rows().clone();
        rows.remove(key);
        is_refused(rows, || name(key)).await;
    }
}

#[tokio::test]
async fn a_row_that_was_put_back_to_an_older_state_is_refused_at_the_start() {
    let scene = Scene::play().await;
    let now = scene.rows();
    let mut tried = std::collections::BTreeSet::new();
    for (at, older) in scene.history.iter().enumerate() {
        for (key, value) in held_by_the_digest(older) {
            if now.get(key) == Some(value) || older.get(b"m".as_slice()).is_none() {
                continue;
            }
            tried.insert(key[0]);
            let mut rows = now.clone();
            rows.insert(key.clone(), value.clone());
            is_refused(rows.clone(), || format!("{} as after step {at}", name(key))).await;
            // The older head with it does not help.
            rows.insert(b"h".to_vec(), older[b"h".as_slice()].clone());
            is_refused(rows, || format!("{} and the head of step {at}", name(key))).await;
        }
    }
    // Agents (one of them from before it was revoked), accounts, chains, sessions, families,
    // credentials, requests, and notes that were done since.
    for kind in b"hAHGsfCqB" {
        assert!(tried.contains(kind), "no older state of {}", name(&[*kind]));
    }
}

#[tokio::test]
async fn a_store_of_another_root_key_or_backend_is_refused() {
    let scene = Scene::play().await;
    let other = Scene::play().await;
    // The same root key, another store: rows of one do not stand in for the other's.
    for (key, value) in held_by_the_digest(other.rows()) {
        let mut rows = scene.rows().clone();
        rows.insert(key.clone(), value.clone());
        is_refused(rows, || format!("{} of another store", name(key))).await;
    }
    let mut rows = other.rows().clone();
    let agents = rows.iter_mut().filter(|(key, _)| key[0] == b'G');
    for (_, value) in agents {
        *value = changed(value, 20, 0xff);
    }
    is_refused(rows, || "changed agents".to_owned()).await;
}

#[tokio::test]
async fn the_files_themselves_with_a_row_of_each_kind_changed_do_not_start() {
    let mut scene = Scene::play().await;
    let good = scene.rows().clone();
    for kind in KINDS.iter().filter(|kind| **kind != EVENT) {
        let (key, value) =
            good.iter().find(|(key, _)| key[0] == *kind).expect("a row of each kind");
        for altered in [Some(changed(value, value.len() / 2, 1)), None] {
            let opened = scene.env.reopen_with(vec![(key.clone(), altered)]).await;
            assert!(matches!(opened, Err(VaultError::Open(_))), "{}", name(key));
        }
        let back = vec![(key.clone(), Some(value.clone()))];
        scene.env.reopen_with(back).await.expect("put right again, it starts");
    }
    for who in [&mut scene.alice, &mut scene.child, &mut scene.bob] {
        who.backend = scene.env.backend();
    }
    assert_eq!(scene.released().await.len(), 8, "and releases what it did before");
}
