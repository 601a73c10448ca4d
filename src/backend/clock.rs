//! Time and randomness as the backend gets them, so that tests can set a clock.
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ring::rand::SecureRandom;

use crate::core::secret::Key32;
use crate::core::types::Timestamp;

/// What time it is.
pub trait Clock: Send + Sync + 'static {
    /// The current moment.
    fn now(&self) -> Timestamp;
}

/// The system's clock, which never steps back within one process.
#[derive(Default)]
pub struct SystemClock {
    latest: std::sync::atomic::AtomicU64,
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        use std::sync::atomic::Ordering;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        Timestamp(self.latest.fetch_max(now, Ordering::Relaxed).max(now))
    }
}

/// The system's random generator; its failure is a refusal, never a weak value.
#[derive(Clone)]
pub struct Entropy(Arc<dyn SecureRandom + Send + Sync>);

/// The system's random generator gave nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system's random generator failed")]
pub struct NoEntropy;

impl Entropy {
    /// The operating system's generator.
    pub fn system() -> Self {
        Self(Arc::new(ring::rand::SystemRandom::new()))
    }

    /// `N` public random bytes, for ids and salts.
    pub fn bytes<const N: usize>(&self) -> Result<[u8; N], NoEntropy> {
        let mut out = [0; N];
        self.0.fill(&mut out).map_err(|_| NoEntropy)?;
        Ok(out)
    }

    /// 256 secret random bits.
    pub fn key(&self) -> Result<Key32, NoEntropy> {
        self.bytes().map(Key32::new)
    }
}
