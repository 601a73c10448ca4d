//! Problems: what went wrong, why, and what to do, in one value from the vault to the
//! terminal. On the wire it is RFC 9457 `application/problem+json` with `code`, `cause` and
//! `fix` added. It never carries a secret, a token, or a path of the server.
use std::fmt;
use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Serialize};

use super::presence::Demand;
use super::types::Malformed;

/// The stable code of a problem; each has one HTTP status.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    /// Nobody known is calling, or not the owner.
    Unauthorized,
    /// Known, and not allowed.
    Denied,
    /// There is no such thing.
    NotFound,
    /// There is no such agent in this account.
    AgentNotFound,
    /// No live pair code matches.
    NoMatch,
    /// The request was answered already.
    AlreadyConsumed,
    /// The rendezvous has its payload already.
    AlreadyDelivered,
    /// It was there, and its time has run out.
    Expired,
    /// Over a limit of size.
    TooLarge,
    /// Not what the field allows.
    Invalid,
    /// Too many tries.
    RateLimited,
    /// A fault of the backend's own.
    Internal,
    /// The backend cannot do it now.
    Unavailable,
    /// A key could not be got from its service; `step` says where it stopped.
    ProvisionFailed,
}

impl Code {
    /// Every code, in the order of the documentation.
    pub const ALL: [Self; 14] = [
        Self::Unauthorized,
        Self::Denied,
        Self::NotFound,
        Self::AgentNotFound,
        Self::NoMatch,
        Self::AlreadyConsumed,
        Self::AlreadyDelivered,
        Self::Expired,
        Self::TooLarge,
        Self::Invalid,
        Self::RateLimited,
        Self::Internal,
        Self::Unavailable,
        Self::ProvisionFailed,
    ];

    /// The HTTP status that goes with it.
    pub const fn status(self) -> u16 {
        match self {
            Self::Unauthorized => 401,
            Self::Denied => 403,
            Self::NotFound | Self::AgentNotFound | Self::NoMatch => 404,
            Self::AlreadyConsumed | Self::AlreadyDelivered => 409,
            Self::Expired => 410,
            Self::TooLarge => 413,
            Self::Invalid => 422,
            Self::RateLimited => 429,
            Self::Internal => 500,
            Self::ProvisionFailed => 502,
            Self::Unavailable => 503,
        }
    }

    /// The general sentence.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Unauthorized => "not signed in, or not the owner",
            Self::Denied => "access denied",
            Self::NotFound => "not found",
            Self::AgentNotFound => "agent not found",
            Self::NoMatch => "no pair code matches",
            Self::AlreadyConsumed => "already answered",
            Self::AlreadyDelivered => "already delivered",
            Self::Expired => "expired",
            Self::TooLarge => "too large",
            Self::Invalid => "not valid",
            Self::RateLimited => "too many tries",
            Self::Internal => "internal error",
            Self::Unavailable => "unavailable",
            Self::ProvisionFailed => "no key was got",
        }
    }

    /// The anchor of its section in `docs/errors.md`.
    pub const fn anchor(self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::Denied => "denied",
            Self::NotFound => "not_found",
            Self::AgentNotFound => "agent_not_found",
            Self::NoMatch => "no_match",
            Self::AlreadyConsumed => "already_consumed",
            Self::AlreadyDelivered => "already_delivered",
            Self::Expired => "expired",
            Self::TooLarge => "too_large",
            Self::Invalid => "invalid",
            Self::RateLimited => "rate_limited",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::ProvisionFailed => "provision_failed",
        }
    }
}

/// The members of a problem document.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fields {
    /// Where to read more; a URI reference, as RFC 9457 has it.
    #[serde(rename = "type")]
    pub docs: String,
    /// The general sentence of the code.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened here, in one sentence.
    pub detail: String,
    /// The stable code.
    pub code: Code,
    /// Why.
    pub cause: String,
    /// What to do; several ways stand on several lines.
    pub fix: String,
    /// Seconds after which it may work, for `RATE_LIMITED` and `UNAVAILABLE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// Whether the session or renewal secret is over for good, so that nothing but pairing the
    /// agent again helps. Absent when it is not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pair_again: bool,
    /// The step at which getting a key stopped, for `PROVISION_FAILED`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// What is to be signed before the act is done; absent where no presence is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presence: Option<Demand>,
}

/// A problem, boxed so that results stay small.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Problem(Box<Fields>);

impl Problem {
    /// A problem of `code`: what happened, why, and what to do.
    pub fn new(
        code: Code,
        detail: impl Into<String>,
        cause: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self(Box::new(Fields {
            docs: format!("docs/errors.md#{}", code.anchor()),
            title: code.title().to_owned(),
            status: code.status(),
            detail: detail.into(),
            code,
            cause: cause.into(),
            fix: fix.into(),
            retry_after: None,
            pair_again: false,
            step: None,
            presence: None,
        }))
    }

    /// The same, to be tried again after `seconds`.
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.0.retry_after = Some(seconds);
        self
    }

    /// The same, where nothing but pairing the agent again helps.
    pub fn pair_again(mut self) -> Self {
        self.0.pair_again = true;
        self
    }

    /// The same, with the step at which it stopped.
    pub fn at_step(mut self, step: impl Into<String>) -> Self {
        self.0.step = Some(step.into());
        self
    }

    /// The same, where a proof of presence is wanted.
    pub fn demanding(mut self, demand: Demand) -> Self {
        self.0.docs = "docs/errors.md#presence".to_owned();
        self.0.presence = Some(demand);
        self
    }

    /// A field that is not what it may be.
    pub fn invalid(field: &str, why: impl Into<String>) -> Self {
        Self::new(
            Code::Invalid,
            format!("{field} is not valid"),
            why,
            format!("correct {field} and try again"),
        )
    }

    /// A fault of ours; the log has the rest.
    pub fn internal() -> Self {
        Self::new(
            Code::Internal,
            "the backend failed",
            "a fault of its own, which is in its log",
            "try again; if it stays, report it with agentkeys feedback",
        )
    }
}

impl Deref for Problem {
    type Target = Fields;

    fn deref(&self) -> &Fields {
        &self.0
    }
}

impl DerefMut for Problem {
    fn deref_mut(&mut self) -> &mut Fields {
        &mut self.0
    }
}

impl From<Malformed> for Problem {
    fn from(wrong: Malformed) -> Self {
        Self::invalid(wrong.what, format!("{} {}", wrong.what, wrong.why))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Problem {}

/// What every operation of a backend answers.
pub type Answer<T> = Result<T, Problem>;
