//! How many requests a minute the gateway sends with an agent's key: a bucket of tokens for each agent
//! and service, where their master has set a rate. Kept in this process alone: after a restart it is
//! full.
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::core::identity::ServiceName;
use crate::core::types::{Timestamp, WalletAddress};

/// Seconds of its rate that a bucket holds: what may come at once.
const BURST_SECONDS: u64 = 10;
/// Buckets that are kept; full ones go first.
const MOST: usize = 4096;
/// One token, in the unit that is counted in.
const TOKEN: u64 = 60_000;

/// The buckets.
#[derive(Default)]
pub struct Rates(Mutex<HashMap<(WalletAddress, ServiceName), Bucket>>);

struct Bucket {
    /// In sixty-thousandths of a token: a rate of one a minute is one of these a millisecond.
    level: u64,
    at: Timestamp,
    rate: u32,
}

/// What a bucket holds at most.
fn most(rate: u32) -> u64 {
    TOKEN.max(u64::from(rate) * BURST_SECONDS * 1000)
}

impl Rates {
    /// Takes a token, or says how long it takes until there is one.
    pub fn take(
        &self,
        wallet: WalletAddress,
        service: &ServiceName,
        rate: u32,
        now: Timestamp,
    ) -> Result<(), Duration> {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MOST {
            buckets.retain(|_, bucket| bucket.filled(now) < most(bucket.rate));
        }
        let new = Bucket { level: most(rate), at: now, rate };
        let bucket = buckets.entry((wallet, service.clone())).or_insert(new);
        bucket.level = bucket.filled(now).min(most(rate));
        (bucket.at, bucket.rate) = (now, rate);
        match bucket.level.checked_sub(TOKEN) {
            Some(left) => {
                bucket.level = left;
                Ok(())
            }
            None => {
                let missing = TOKEN - bucket.level;
                Err(Duration::from_millis(missing.div_ceil(u64::from(rate.max(1)))))
            }
        }
    }
}

impl Bucket {
    fn filled(&self, now: Timestamp) -> u64 {
        let came = now.since_ms(self.at).saturating_mul(u64::from(self.rate));
        self.level.saturating_add(came)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let rates = Rates::default();
        let service = "openai".parse().unwrap();
        let wallet = WalletAddress([1; 20]);
        let mut now = Timestamp(1_000_000);
        // Sixty a minute: ten at once, and then one each second.
        for _ in 0..10 {
            assert_eq!(rates.take(wallet, &service, 60, now), Ok(()));
        }
        assert_eq!(rates.take(wallet, &service, 60, now), Err(Duration::from_secs(1)));
        now = now.plus_ms(400);
        assert_eq!(rates.take(wallet, &service, 60, now), Err(Duration::from_millis(600)));
        now = now.plus_ms(600);
        assert_eq!(rates.take(wallet, &service, 60, now), Ok(()));
        assert!(rates.take(wallet, &service, 60, now).is_err());
        // Nobody else's is touched, and one a minute is one at once.
        assert_eq!(rates.take(WalletAddress([2; 20]), &service, 1, now), Ok(()));
        assert_eq!(
            rates.take(WalletAddress([2; 20]), &service, 1, now),
            Err(Duration::from_secs(60))
        );
        // A long while gives no more than the burst.
        now = now.plus_ms(3_600_000);
        let taken = (0..100).filter(|_| rates.take(wallet, &service, 60, now).is_ok()).count();
        assert_eq!(taken, 10);
    }
}
