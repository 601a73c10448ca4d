//! Tells somebody that something is waited for, while it is.
use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

/// How often the one who looks on is told.
const EVERY: Duration = Duration::from_millis(100);

/// Whoever shows a person that something takes its time.
pub trait Onlooker: Send + Sync {
    /// It is not over after `waited`.
    fn waiting(&self, waited: Duration);

    /// It is over, one way or the other; told once, and only after [`Onlooker::waiting`].
    fn over(&self);
}

/// Waits for `what`, and tells `onlooker` of it.
pub async fn watched<T>(onlooker: Option<&dyn Onlooker>, what: impl Future<Output = T>) -> T {
    let Some(onlooker) = onlooker else { return what.await };
    let mut what = pin!(what);
    let begun = Instant::now();
    let mut told = Told { onlooker, any: false };
    loop {
        tokio::select! {
            biased;
            done = &mut what => return done,
            () = tokio::time::sleep(EVERY) => {
                told.any = true;
                onlooker.waiting(begun.elapsed());
            }
        }
    }
}

/// Says that it is over also when whoever waits is given up.
struct Told<'a> {
    onlooker: &'a dyn Onlooker,
    any: bool,
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if self.any {
            self.onlooker.over();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[derive(Default)]
    struct Counted {
        waiting: AtomicU32,
        over: AtomicU32,
    }

    impl Onlooker for Counted {
        fn waiting(&self, _: Duration) {
            self.waiting.fetch_add(1, Ordering::SeqCst);
        }

        fn over(&self) {
            self.over.fetch_add(1, Ordering::SeqCst);
        }
    }

    impl Counted {
        fn counts(&self) -> (u32, u32) {
            (self.waiting.load(Ordering::SeqCst), self.over.load(Ordering::SeqCst))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_its_time_is_told_and_what_does_not_is_not() {
        let counted = Counted::default();
        assert_eq!(watched(Some(&counted), async { 7 }).await, 7);
        assert_eq!(counted.counts(), (0, 0));
        let slow = tokio::time::sleep(Duration::from_millis(350));
        watched(Some(&counted), slow).await;
        assert_eq!(counted.counts(), (3, 1));
        // Given up while it is waited for.
        let never = watched(Some(&counted), std::future::pending::<()>());
        assert!(tokio::time::timeout(Duration::from_millis(250), never).await.is_err());
        assert_eq!(counted.counts(), (5, 2));
    }
}
