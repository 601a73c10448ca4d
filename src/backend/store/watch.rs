//! Who waits for which key, and how they are woken.
//!
//! Owns the registry that every store uses for [`Store::watch`](super::Store::watch). Must never lose
//! a wake that comes after the registration, and must never keep a key that nobody waits for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

type Waiting = HashMap<Vec<u8>, watch::Sender<()>>;

/// The registry of watched keys. Clones share it.
#[derive(Clone, Default)]
pub struct Watchers {
    waiting: Arc<Mutex<Waiting>>,
}

impl Watchers {
    /// Watches `key` from now on.
    pub fn register(&self, key: &[u8]) -> Watch {
        let mut waiting = self.lock();
        let sender = match waiting.get(key) {
            Some(sender) => sender,
            None => waiting.entry(key.to_vec()).or_insert_with(|| watch::channel(()).0),
        };
        Watch { receiver: Some(sender.subscribe()), key: key.to_vec(), home: self.clone() }
    }

    /// Wakes whoever watches one of `keys`. Called after the write is durable and readable.
    pub fn wake<'a>(&self, keys: impl IntoIterator<Item = &'a [u8]>) {
        let waiting = self.lock();
        if waiting.is_empty() {
            return;
        }
        for key in keys {
            if let Some(sender) = waiting.get(key) {
                sender.send_replace(());
            }
        }
    }

    /// Wakes everybody, when it is not known what changed.
    pub fn wake_all(&self) {
        self.lock().values().for_each(|sender| {
            sender.send_replace(());
        });
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that runs under the lock can leave the map half changed.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One registration on one key.
pub struct Watch {
    receiver: Option<watch::Receiver<()>>,
    key: Vec<u8>,
    home: Watchers,
}

impl Watch {
    /// Resolves when the key was written since the registration, or since this last resolved; at once
    /// if that has happened already. May also resolve for nothing: check the state again.
    ///
    /// Cancel safe: a dropped wait takes no wake with it.
    pub async fn changed(&mut self) {
        if let Some(receiver) = &mut self.receiver {
            // An error would mean that the sender is gone, which the registry rules out while a
            // receiver lives; a spurious wake is the harmless answer.
            let _ = receiver.changed().await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut waiting = self.home.lock();
        // Under the lock nobody can subscribe between the count and the removal.
        self.receiver = None;
        if waiting.get(&self.key).is_some_and(|sender| sender.receiver_count() == 0) {
            waiting.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_write_between_registration_and_first_poll_wakes() {
        let watchers = Watchers::default();
        let mut watch = watchers.register(b"k");
        watchers.wake([&b"k"[..]]);
        watch.changed().await;
        let quiet = tokio::time::timeout(Duration::from_millis(20), watch.changed()).await;
        assert!(quiet.is_err(), "one write woke twice");
    }

    #[tokio::test]
    async fn another_key_does_not_wake() {
        let watchers = Watchers::default();
        let mut watch = watchers.register(b"k");
        watchers.wake([&b"kk"[..], &b""[..]]);
        assert!(tokio::time::timeout(Duration::from_millis(20), watch.changed()).await.is_err());
        watchers.wake_all();
        watch.changed().await;
    }

    #[test]
    fn nothing_is_kept_once_the_last_watch_is_dropped() {
        let watchers = Watchers::default();
        let (one, two) = (watchers.register(b"k"), watchers.register(b"k"));
        drop(one);
        assert_eq!(watchers.lock().len(), 1);
        drop(two);
        assert!(watchers.lock().is_empty());
    }
}
