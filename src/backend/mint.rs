//! Who makes keys at the services that have an interface for it, as the vault knows them: it keeps
//! what they made, and never sees HTTP or a service's shapes.
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::core::identity::ServiceName;
use crate::core::problem::{Answer, Problem};
use crate::core::provision::Settings;
use crate::core::secret::SecretBytes;
use crate::core::types::Timestamp;

/// What an account has at a service.
pub struct Account<'a> {
    /// The service.
    pub service: &'a ServiceName,
    /// What was set.
    pub settings: &'a Settings,
    /// The account's own secret there.
    pub secret: &'a SecretBytes,
    /// Now.
    pub now: Timestamp,
}

/// A key that was made.
pub struct Minted {
    /// The key.
    pub key: SecretBytes,
    /// How it is ended at the service; absent where it can only run out.
    pub end_by: Option<EndBy>,
    /// Until when it holds.
    pub expires_at: Option<Timestamp>,
}

/// How a key is ended at its service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum EndBy {
    /// By the account, which names the key's id.
    Id(String),
    /// By showing the key itself.
    Key,
}

/// The key that is to be ended.
pub enum Ended<'a> {
    /// Its id.
    Id(&'a str),
    /// Itself.
    Key(&'a SecretBytes),
}

/// Why there is no key.
pub struct Failed {
    /// `PROVISION_FAILED` or `UNAVAILABLE`, with its step.
    pub problem: Problem,
    /// Whether the service may have made one all the same, of which we know nothing.
    pub maybe_made: bool,
}

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self { problem, maybe_made: false }
    }
}

impl From<Failed> for Problem {
    fn from(failed: Failed) -> Self {
        failed.problem
    }
}

/// Makes and ends keys. Every failure is `PROVISION_FAILED` or `UNAVAILABLE` with its step.
#[async_trait]
pub trait Mint: Send + Sync {
    /// Whether keys of a service can be made with these settings. `own`: the account's master
    /// runs this backend, and may have it ask any address.
    ///
    /// # Errors
    /// `INVALID`, naming the setting, or that no interface of the service is known.
    fn fits(&self, service: &ServiceName, settings: &Settings, own: bool) -> Answer<()>;

    /// Makes a key, which is called `name` at the service.
    async fn make(&self, account: &Account<'_>, name: &str) -> Result<Minted, Failed>;

    /// The ids of the keys that are called `name`: what a crash between two steps may have left.
    async fn called(&self, account: &Account<'_>, name: &str) -> Answer<Vec<String>>;

    /// Ends a key. One that is not there has been ended.
    async fn end(&self, account: &Account<'_>, ended: Ended<'_>) -> Answer<()>;

    /// Whether the account's secret and settings work; makes nothing.
    async fn check(&self, account: &Account<'_>) -> Answer<()>;
}
