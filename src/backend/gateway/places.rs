//! How many exchanges one session may have under way: each holds a connection, and no agent is to
//! use up those of all.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::core::problem::{Answer, Code, Problem};
use crate::core::types::SessionId;

/// Most exchanges of one session at once.
const MOST: usize = 256;

/// Who has how many.
#[derive(Clone, Default)]
pub struct Places(Arc<Mutex<HashMap<SessionId, usize>>>);

/// One of them, for as long as this is held.
pub struct Place {
    places: Places,
    of: SessionId,
}

impl Places {
    /// Takes one.
    ///
    /// # Errors
    /// `RATE_LIMITED` when the session has all that it may have.
    pub fn enter(&self, of: SessionId) -> Answer<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(of).or_default();
        if *count >= MOST {
            let cause = format!("{MOST} of this session are under way, and no more go at once");
            return Err(Problem::new(
                Code::RateLimited,
                "too many requests at once",
                cause,
                "wait until some have ended",
            )
            .retry_after(1));
        }
        *count += 1;
        Ok(Place { places: self.clone(), of })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.of);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_has_its_share_and_takes_none_of_another_s() {
        let places = Places::default();
        let one = SessionId([1; 16]);
        let held: Vec<Place> = (0..MOST).map(|_| places.enter(one).unwrap()).collect();
        assert_eq!(places.enter(one).err().unwrap().code, Code::RateLimited);
        assert!(places.enter(SessionId([2; 16])).is_ok());
        drop(held);
        assert!(places.enter(one).is_ok());
        assert!(places.0.lock().unwrap().is_empty());
    }
}
