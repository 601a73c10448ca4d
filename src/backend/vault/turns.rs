//! Whose turn it is to confirm a request that more than one account has the code of.
//!
//! A code can be read off a screen by a stranger. The one who holds the request has a minute; if
//! it lapses, whoever had to wait goes before whoever had a turn, so that fetching it again and
//! again does not keep anybody out. Must never know what is asked for.
use serde::{Deserialize, Serialize};

use crate::core::types::AccountId;

/// Most accounts that are remembered on either list. Turns take a minute each and a code lives
/// five, so more cannot have one.
const MOST: usize = 16;

/// Who had a turn, and who waits for one.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Turns {
    /// Accounts that let their minute lapse, the latest last.
    had: Vec<AccountId>,
    /// Accounts that came while it was another's.
    waiting: Vec<AccountId>,
}

impl Turns {
    /// An account came while the request was another's. Says whether that is news.
    pub fn came(&mut self, account: AccountId) -> bool {
        let news = self.waiting.len() < MOST && !self.waiting.contains(&account);
        if news {
            self.waiting.push(account);
        }
        news
    }

    /// An account let its minute lapse: it goes behind all others.
    pub fn lapsed(&mut self, account: AccountId) {
        self.had.retain(|had| *had != account);
        if self.had.len() >= MOST {
            self.had.remove(0);
        }
        self.had.push(account);
    }

    /// Whether somebody waits who goes before this account: one that had no turn yet, or whose
    /// last turn is longer ago.
    pub fn must_wait(&self, account: AccountId) -> bool {
        let rank = |who: AccountId| self.had.iter().position(|had| *had == who);
        self.waiting.iter().any(|other| *other != account && rank(*other) < rank(account))
    }

    /// An account has its turn now. With `over`, those who waited had their time to come back.
    pub fn begins(&mut self, account: AccountId, over: bool) {
        self.waiting.retain(|waiting| !over && *waiting != account);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADA: AccountId = AccountId([1; 16]);
    const EVE: AccountId = AccountId([2; 16]);
    const MAL: AccountId = AccountId([3; 16]);

    #[test]
    fn alone_nobody_waits() {
        let mut turns = Turns::default();
        for _ in 0..3 {
            assert!(!turns.must_wait(ADA));
            turns.begins(ADA, false);
            turns.lapsed(ADA);
        }
    }

    #[test]
    fn who_waited_goes_before_who_had_a_turn_and_the_longest_ago_first() {
        let mut turns = Turns::default();
        turns.begins(EVE, false);
        assert!(turns.came(ADA) && !turns.came(ADA));
        turns.lapsed(EVE);
        assert!(turns.must_wait(EVE) && !turns.must_wait(ADA));
        // A third that has not come yet may come now: there is no queue of those without a turn.
        assert!(!turns.must_wait(MAL));
        turns.begins(ADA, false);
        turns.came(EVE);
        turns.came(MAL);
        turns.lapsed(ADA);
        assert!(turns.must_wait(ADA) && turns.must_wait(EVE) && !turns.must_wait(MAL));
        turns.begins(MAL, false);
        turns.came(ADA);
        turns.lapsed(MAL);
        assert!(!turns.must_wait(EVE), "its turn is the longest ago");
        assert!(turns.must_wait(ADA) && turns.must_wait(MAL));
    }

    #[test]
    fn who_waited_and_did_not_come_back_is_forgotten() {
        let mut turns = Turns::default();
        turns.came(EVE);
        turns.lapsed(ADA);
        assert!(turns.must_wait(ADA));
        turns.begins(ADA, true);
        turns.lapsed(ADA);
        assert!(!turns.must_wait(ADA));
    }

    #[test]
    fn the_lists_are_bounded() {
        let mut turns = Turns::default();
        for at in 0..100 {
            turns.came(AccountId([at; 16]));
            turns.lapsed(AccountId([at; 16]));
        }
        assert_eq!((turns.waiting.len(), turns.had.len()), (MOST, MOST));
    }
}
