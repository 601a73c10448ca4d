//! How many exchanges may be under way, and how many of one session: each holds connections, and no
//! agent is to use up those of all. So no session gets more places than are free for the others:
//! one alone may have half of all, the second half of what that leaves, and there is always some
//! place for one that has none.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::core::problem::{Answer, Code, Problem};
use crate::core::types::SessionId;

/// Most exchanges at once. The server's limits on connections and descriptors leave room for them.
const ALL: usize = 2_048;

/// Who has how many.
#[derive(Clone, Default)]
pub struct Places(Arc<Mutex<Taken>>);

#[derive(Default)]
struct Taken {
    all: usize,
    by: HashMap<SessionId, usize>,
}

/// One of them, for as long as this is held.
pub struct Place {
    places: Places,
    of: SessionId,
}

impl Places {
    /// Takes one.
    ///
    /// # Errors
    /// `RATE_LIMITED` when the session has as many as are left.
    pub fn enter(&self, of: SessionId) -> Answer<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (has, free) = (taken.by.get(&of).copied().unwrap_or(0), ALL - taken.all);
        if has >= free {
            let cause = format!(
                "{has} of this session are under way, {} of all: the rest is kept for others",
                taken.all
            );
            return Err(Problem::new(
                Code::RateLimited,
                "too many requests at once",
                cause,
                "wait until some have ended",
            )
            .retry_after(1));
        }
        taken.all += 1;
        taken.by.insert(of, has + 1);
        Ok(Place { places: self.clone(), of })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        if let Some(count) = taken.by.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                taken.by.remove(&self.of);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that a session gets.
    fn all(places: &Places, of: SessionId) -> Vec<Place> {
        std::iter::from_fn(|| places.enter(of).ok()).collect()
    }

    #[test]
    fn a_session_has_its_share_and_takes_none_of_another_s() {
        let places = Places::default();
        let held: Vec<Vec<Place>> =
            (1..=8).map(|session| all(&places, SessionId([session; 16]))).collect();
        let counts: Vec<usize> = held.iter().map(Vec::len).collect();
        assert_eq!(counts, [1024, 512, 256, 128, 64, 32, 16, 8]);
        let refused = places.enter(SessionId([1; 16])).err().unwrap();
        assert_eq!(refused.code, Code::RateLimited);
        assert!(places.enter(SessionId([9; 16])).is_ok(), "there is none for a newcomer");
        drop(held);
        let taken = places.0.lock().unwrap();
        assert!(taken.by.is_empty() && taken.all == 0);
    }
}
