//! The suite that every store passes.
//!
//! Owns the meaning of [`Store`], as checks that anybody's implementation can run. Must never rely on
//! anything but the trait. Everything in it panics at the first thing that is not as it must be.

use std::sync::Arc;
use std::time::Duration;

use super::{
    Check, CommitError, KeyRange, MAX_COMMIT_BYTES, MAX_COMMIT_ITEMS, MAX_KEY, MAX_SCAN, MAX_VALUE,
    Store, StoreError, Value, Write,
};

/// A place where the suite can keep one store: empty when it is made.
#[async_trait::async_trait]
pub trait Home: Send + Sync {
    /// Opens the store; a second time, after [`Self::close`], with all that it held.
    async fn open(&self) -> Arc<dyn Store>;
    /// Closes what [`Self::open`] gave.
    async fn close(&self, store: Arc<dyn Store>);
}

/// Runs every check, each on a store in a home of its own. Needs a tokio runtime of several threads.
///
/// # Panics
/// When the store breaks a rule, with a message that says which.
pub async fn run<H: Home>(home: impl Fn() -> H) {
    puts_gets_and_deletes(&*home().open().await).await;
    checks_decide(&*home().open().await).await;
    all_or_nothing(&*home().open().await).await;
    writes_to_one_key_keep_their_order(&*home().open().await).await;
    scans_are_ordered(&*home().open().await).await;
    scans_handle_the_last_byte(&*home().open().await).await;
    no_update_is_lost(home().open().await).await;
    conflicts_stay_alone(home().open().await).await;
    reads_see_whole_commits(home().open().await).await;
    wakes_are_not_lost(home().open().await).await;
    limits_are_held(&*home().open().await).await;
    reopening_keeps_everything(&home()).await;
}

fn value(text: &str) -> Value {
    Value::copy_from_slice(text.as_bytes())
}

fn put(key: impl AsRef<[u8]>, text: &str) -> Write {
    Write::Put(key.as_ref().to_vec(), value(text))
}

fn equals(key: &str, text: &str) -> Check {
    Check::Equals(key.into(), value(text))
}

fn absent(key: &str) -> Check {
    Check::Absent(key.into())
}

fn delete(key: &str) -> Write {
    Write::Delete(key.into())
}

async fn read(store: &dyn Store, key: &str) -> Option<String> {
    let value = store.get(key.as_bytes()).await.expect("a get works");
    value.map(|value| String::from_utf8(value.to_vec()).expect("the text that was stored"))
}

async fn write(store: &dyn Store, writes: Vec<Write>) {
    store.commit(vec![], writes).await.expect("an unconditional commit works");
}

fn conflict(key: &str) -> Result<(), CommitError> {
    Err(CommitError::Conflict { key: key.into() })
}

async fn puts_gets_and_deletes(store: &dyn Store) {
    assert_eq!(read(store, "a").await, None, "a new store is empty");
    write(store, vec![put("a", "1"), put("", "empty key"), put("empty value", "")]).await;
    assert_eq!(read(store, "a").await.as_deref(), Some("1"));
    assert_eq!(read(store, "").await.as_deref(), Some("empty key"));
    assert_eq!(read(store, "empty value").await.as_deref(), Some(""));
    write(store, vec![put("a", "2"), delete(""), delete("never there")]).await;
    assert_eq!(read(store, "a").await.as_deref(), Some("2"), "a put replaces");
    assert_eq!(read(store, "").await, None, "a delete removes");
    write(store, vec![]).await;
    for len in [1, 4096, 20_000, MAX_VALUE, 3, MAX_VALUE, 0] {
        let long = Value::from((0..len).map(|n| (n * 7 % 251) as u8).collect::<Vec<_>>());
        write(store, vec![Write::Put(b"long".to_vec(), long.clone())]).await;
        assert_eq!(store.get(b"long").await, Ok(Some(long.clone())), "{len} bytes come back");
        let is = Check::Equals(b"long".to_vec(), long);
        assert_eq!(store.commit(vec![is], vec![]).await, Ok(()), "{len} bytes compare equal");
    }
    assert_eq!(store.scan(KeyRange::all(), 9).await.map(|rows| rows.len()), Ok(3));
}

async fn checks_decide(store: &dyn Store) {
    assert_eq!(store.commit(vec![absent("a")], vec![put("a", "1")]).await, Ok(()));
    assert_eq!(store.commit(vec![absent("a")], vec![put("a", "2")]).await, conflict("a"));
    assert_eq!(store.commit(vec![equals("a", "2")], vec![put("a", "3")]).await, conflict("a"));
    assert_eq!(store.commit(vec![equals("b", "")], vec![put("b", "1")]).await, conflict("b"));
    assert_eq!(read(store, "a").await.as_deref(), Some("1"));
    let both = vec![equals("a", "1"), absent("b")];
    assert_eq!(store.commit(both.clone(), vec![put("b", "1")]).await, Ok(()));
    assert_eq!(
        store.commit(both, vec![delete("a")]).await,
        conflict("b"),
        "the failed one is named"
    );
    assert_eq!(store.commit(vec![equals("a", "1")], vec![]).await, Ok(()), "checks alone");
    assert_eq!(store.commit(vec![absent("a")], vec![]).await, conflict("a"));
}

async fn all_or_nothing(store: &dyn Store) {
    write(store, vec![put("held", "x")]).await;
    let mut writes: Vec<_> = (0..500).map(|n| put(format!("row {n}"), "1")).collect();
    writes.push(delete("held"));
    let refused = store.commit(vec![absent("held")], writes.clone()).await;
    assert_eq!(refused, conflict("held"));
    let left = store.scan(KeyRange::all(), 1000).await.expect("a scan works");
    assert_eq!(left, [(b"held".to_vec(), value("x"))], "a refused commit changed something");
    assert_eq!(store.commit(vec![equals("held", "x")], writes).await, Ok(()));
    assert_eq!(store.scan(KeyRange::all(), 1000).await.map(|rows| rows.len()), Ok(500));
    let large: Vec<_> = (0..60u32)
        .map(|n| Write::Put(n.to_be_bytes().to_vec(), Value::from(vec![n as u8; MAX_VALUE])))
        .collect();
    write(store, large).await;
    for n in 0..60u32 {
        let expected = Value::from(vec![n as u8; MAX_VALUE]);
        assert_eq!(store.get(&n.to_be_bytes()).await, Ok(Some(expected)), "of a large commit");
    }
}

async fn writes_to_one_key_keep_their_order(store: &dyn Store) {
    write(store, vec![put("a", "1"), delete("a"), put("b", "1"), put("b", "2")]).await;
    assert_eq!(read(store, "a").await, None);
    assert_eq!(read(store, "b").await.as_deref(), Some("2"));
    let both = store.commit(vec![absent("c")], vec![put("c", "1"), put("c", "2")]).await;
    assert_eq!(both, Ok(()), "checks see the state before the commit");
}

async fn keys(store: &dyn Store, range: KeyRange, limit: usize) -> Vec<Vec<u8>> {
    let rows = store.scan(range, limit).await.expect("a scan works");
    rows.into_iter().map(|(key, _)| key).collect()
}

async fn scans_are_ordered(store: &dyn Store) {
    // Written in another order than they are read, and enough to need several pages of any store.
    let name = |n: usize| format!("k{n:04}");
    for start in [1usize, 0] {
        let odd_then_even = (start..700).step_by(2).rev();
        write(store, odd_then_even.map(|n| put(name(n), &name(n))).collect()).await;
    }
    write(store, vec![put("j", ""), put("l", ""), put("k", "")]).await;
    let all = store.scan(KeyRange::prefix(b"k0"), MAX_SCAN).await.expect("a scan works");
    assert_eq!(all.len(), 700);
    for (n, (key, found)) in all.iter().enumerate() {
        assert_eq!((&key[..], &found[..]), (name(n).as_bytes(), name(n).as_bytes()));
    }
    let names = |range: std::ops::Range<usize>| -> Vec<Vec<u8>> {
        range.map(|n| name(n).into_bytes()).collect()
    };
    let part = KeyRange::new("k0100", Some(b"k0103".to_vec()));
    assert_eq!(keys(store, part.clone(), 100).await, names(100..103), "the end is not part of it");
    assert_eq!(keys(store, part.clone(), 2).await, names(100..102));
    assert_eq!(keys(store, part.clone(), 0).await, Vec::<Vec<u8>>::new());
    let reversed: Vec<_> = names(101..103).into_iter().rev().collect();
    assert_eq!(keys(store, part.descending(), 2).await, reversed, "from the end");
    let last = KeyRange::new("k0699", None);
    assert_eq!(keys(store, last, 9).await, [b"k0699".to_vec(), b"l".to_vec()], "an open end");
    for empty in [
        KeyRange::new("k0100", Some(b"k0100".to_vec())),
        KeyRange::new("k0200", Some(b"k0100".to_vec())),
        KeyRange::prefix(b"nothing"),
    ] {
        assert_eq!(keys(store, empty.clone(), 9).await, Vec::<Vec<u8>>::new());
        assert_eq!(keys(store, empty.descending(), 9).await, Vec::<Vec<u8>>::new());
    }
}

async fn scans_handle_the_last_byte(store: &dyn Store) {
    let mut all: Vec<Vec<u8>> = vec![
        vec![],
        vec![0],
        vec![0, 0],
        b"a".to_vec(),
        b"a\xff".to_vec(),
        b"a\xff\xff".to_vec(),
        b"a\xff\xff\x01".to_vec(),
        b"b".to_vec(),
        vec![0xff],
        vec![0xff, 0],
        vec![0xff; 2],
        vec![0xff; MAX_KEY],
    ];
    write(store, all.iter().rev().map(|key| put(key, "x")).collect()).await;
    assert_eq!(keys(store, KeyRange::all(), 99).await, all);
    assert_eq!(keys(store, KeyRange::prefix(b"a"), 99).await, all[3..7]);
    assert_eq!(keys(store, KeyRange::prefix(b"a\xff"), 99).await, all[4..7]);
    assert_eq!(keys(store, KeyRange::prefix(&[0xff]), 99).await, all[8..]);
    assert_eq!(keys(store, KeyRange::prefix(&[0xff, 0xff]), 99).await, all[10..]);
    assert_eq!(keys(store, KeyRange::prefix(&[0]), 99).await, all[1..3]);
    all.reverse();
    assert_eq!(keys(store, KeyRange::all().descending(), 99).await, all);
    assert_eq!(keys(store, KeyRange::prefix(&[0xff]).descending(), 2).await, all[..2]);
}

async fn no_update_is_lost(store: Arc<dyn Store>) {
    const TASKS: usize = 64;
    const EACH: usize = 8;
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                for round in 0..EACH {
                    loop {
                        let before = read(&*store, "counter").await;
                        let (check, next) = match &before {
                            None => (absent("counter"), 1),
                            Some(n) => {
                                (equals("counter", n), n.parse::<usize>().expect("a number") + 1)
                            }
                        };
                        let own = format!("seen {task} {round}");
                        let writes = vec![put("counter", &next.to_string()), put(own, "x")];
                        match store.commit(vec![check], writes).await {
                            Ok(()) => break,
                            Err(CommitError::Conflict { key }) => assert_eq!(key, b"counter"),
                            Err(error) => panic!("an increment failed: {error}"),
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no task fails");
    }
    assert_eq!(read(&*store, "counter").await, Some((TASKS * EACH).to_string()), "lost updates");
    assert_eq!(keys(&*store, KeyRange::prefix(b"seen "), MAX_SCAN).await.len(), TASKS * EACH);
}

async fn conflicts_stay_alone(store: Arc<dyn Store>) {
    // Handed in at once, so that a store that groups commits has good and bad ones in one group.
    for round in 0..20 {
        let tasks: Vec<_> = (0..32)
            .map(|task| {
                let store = store.clone();
                tokio::spawn(async move {
                    let own = put(format!("own {round} {task}"), "x");
                    let prize = format!("prize {round}");
                    if task % 2 == 0 {
                        let writes = vec![own, put(&prize, &task.to_string())];
                        store.commit(vec![absent(&prize)], writes).await.is_ok()
                    } else {
                        store.commit(vec![], vec![own]).await.expect("nothing to conflict with");
                        false
                    }
                })
            })
            .collect();
        let mut winners = Vec::new();
        for (task, handle) in tasks.into_iter().enumerate() {
            if handle.await.expect("no task fails") {
                winners.push(task.to_string());
            }
        }
        assert_eq!(winners.len(), 1, "exactly one of 16 may win");
        assert_eq!(read(&*store, &format!("prize {round}")).await, winners.pop());
        let own = format!("own {round} ");
        let written = keys(&*store, KeyRange::prefix(own.as_bytes()), 99).await.len();
        assert_eq!(written, 17, "the others' conflicts touch nobody else");
    }
}

async fn reads_see_whole_commits(store: Arc<dyn Store>) {
    let name = |n: usize| format!("pair {n:02}");
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 0..200 {
                let text = round.to_string();
                write(&*store, (0..40).map(|n| put(name(n), &text)).collect()).await;
            }
        })
    };
    while !writer.is_finished() {
        for range in [KeyRange::prefix(b"pair "), KeyRange::prefix(b"pair ").descending()] {
            let rows = store.scan(range, 99).await.expect("a scan works");
            assert!(rows.is_empty() || rows.len() == 40, "a scan saw part of a commit");
            assert!(
                rows.windows(2).all(|two| two[0].1 == two[1].1),
                "a scan saw two commits mixed"
            );
        }
        tokio::task::yield_now().await;
    }
    writer.await.expect("the writer does not fail");
}

async fn wakes_are_not_lost(store: Arc<dyn Store>) {
    const PATIENCE: Duration = Duration::from_secs(5);
    // The event comes between registration, check and wait; nothing may wait after it.
    let mut watch = store.watch(b"event");
    assert_eq!(read(&*store, "event").await, None);
    write(&*store, vec![put("event", "1")]).await;
    tokio::time::timeout(PATIENCE, watch.changed()).await.expect("the wake was lost");
    assert_eq!(read(&*store, "event").await.as_deref(), Some("1"), "woken before it can be seen");
    // A delete is an event too, and each of several watches gets it.
    let mut second = store.watch(b"event");
    write(&*store, vec![delete("event")]).await;
    tokio::time::timeout(PATIENCE, watch.changed()).await.expect("the delete was lost");
    tokio::time::timeout(PATIENCE, second.changed()).await.expect("only one watch was woken");
    // Racing: whoever follows register, check, wait sees every value in time.
    let follower = {
        let store = store.clone();
        tokio::spawn(async move {
            let mut watch = store.watch(b"race");
            while read(&*store, "race").await.as_deref() != Some("99") {
                tokio::time::timeout(PATIENCE, watch.changed()).await.expect("a wake was lost");
            }
        })
    };
    for n in 0..100 {
        write(&*store, vec![put("race", &n.to_string())]).await;
    }
    follower.await.expect("the follower arrives");
}

async fn limits_are_held(store: &dyn Store) {
    let large = |result: Result<(), CommitError>, limit: usize| match result {
        Err(CommitError::Store(StoreError::TooLarge { limit: held, .. })) => {
            assert_eq!(held, limit)
        }
        other => panic!("expected a limit of {limit}, got {other:?}"),
    };
    let key = |len| vec![b'k'; len];
    let put = |len| Write::Put(b"k".to_vec(), Value::from(vec![0; len]));
    large(store.commit(vec![], vec![Write::Delete(key(MAX_KEY + 1))]).await, MAX_KEY);
    large(store.commit(vec![Check::Absent(key(MAX_KEY + 1))], vec![]).await, MAX_KEY);
    large(store.commit(vec![], vec![put(1), put(MAX_VALUE + 1)]).await, MAX_VALUE);
    large(store.commit(vec![], vec![put(1); MAX_COMMIT_ITEMS + 1]).await, MAX_COMMIT_ITEMS);
    let many = MAX_COMMIT_BYTES / MAX_VALUE + 1;
    large(store.commit(vec![], vec![put(MAX_VALUE); many]).await, MAX_COMMIT_BYTES);
    assert!(matches!(store.get(&key(MAX_KEY + 1)).await, Err(StoreError::TooLarge { .. })));
    let scan = store.scan(KeyRange::all(), MAX_SCAN + 1).await;
    assert!(matches!(scan, Err(StoreError::TooLarge { .. })));
    assert_eq!(store.get(b"k").await, Ok(None), "a refused commit wrote something");
    write(store, vec![Write::Put(key(MAX_KEY), Value::from(vec![7; MAX_VALUE]))]).await;
    assert_eq!(keys(store, KeyRange::all(), MAX_SCAN).await, [key(MAX_KEY)]);
}

async fn reopening_keeps_everything(home: &dyn Home) {
    let long = Value::from(vec![9; MAX_VALUE]);
    for round in 0..4u32 {
        let store = home.open().await;
        let rows = store.scan(KeyRange::prefix(b"row "), MAX_SCAN).await.expect("a scan works");
        assert_eq!(rows.len(), 300 * round as usize, "rows after {round} reopenings");
        for before in 0..round {
            assert_eq!(store.get(&before.to_be_bytes()).await, Ok(Some(long.clone())));
        }
        let gone = format!("gone {round}");
        write(&*store, vec![put(&gone, "x")]).await;
        for part in 0..3 {
            let name = |n| format!("row {round} {:03}", part * 100 + n);
            write(&*store, (0..100).map(|n| put(name(n), "x")).collect()).await;
        }
        let long = Write::Put(round.to_be_bytes().to_vec(), long.clone());
        write(&*store, vec![long, delete(&gone)]).await;
        home.close(store).await;
    }
    let store = home.open().await;
    assert_eq!(keys(&*store, KeyRange::prefix(b"gone"), 9).await, Vec::<Vec<u8>>::new());
    home.close(store).await;
}
