//! The session holder: what a daemon's own MCP server, later daemons of the same agent, and
//! programs beside it may ask of the one process that holds the agent's session.
//!
//! [`SessionHolder`] is the seam between who holds the session and who asks; the shapes of the
//! Unix socket's line protocol stand here too, so that both ends are written against one file:
//! one JSON object a line, an [`Ask`] in, a [`Reply`] with the same `id` out, in any order.
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::auth_request::Kind;
use super::backend::{CredentialSummary, Release};
use super::claim::Reason;
use super::gateway::Field;
use super::identity::ServiceName;
use super::pin::Fingerprint;
use super::problem::Problem;
use super::secret::SecretBytes;
use super::types::{Timestamp, WalletAddress};

/// Longest line that a holder reads, in bytes.
pub const MAX_ASK: usize = 256 * 1024;
/// Most bytes of the body of a request that is asked for in one piece.
pub const MAX_HTTP_BODY: usize = 128 * 1024;
/// Most bytes of an answer's body that are given to who asked so.
pub const MAX_HTTP_ANSWER: usize = 256 * 1024;
/// Longest line that a holder answers with, in bytes: every credential that a scope can name, at
/// its largest, in base64, would be more; the answer is then a problem.
pub const MAX_REPLY: usize = 8 * 1024 * 1024;

/// A request that a person has not answered yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waiting {
    /// What is asked for.
    pub kind: Kind,
    /// What to type on the master's machine, shown as `ABCD-EFGH`.
    pub pair_code: String,
    /// Six digits that `approve` shows too, to be compared.
    pub otp: String,
    /// Until when the code can be fetched.
    pub expires_at: Timestamp,
    /// The command for the master's machine.
    pub command: String,
    /// Why the session before it ended, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<Problem>,
}

/// Why a holder did not do it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// A person has to answer first.
    Waiting(Waiting),
    /// It cannot.
    Problem(Problem),
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// What every operation of a holder answers.
pub type Held<T> = Result<T, Refusal>;

/// How a holder's session stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum SessionState {
    /// There is none, and nothing was asked for yet.
    Unpaired,
    /// A request waits for its answer.
    Waiting(Waiting),
    /// There is one.
    Paired {
        /// When it ends unless it is renewed.
        expires_at: Timestamp,
        /// A request of the agent's own (scope, keys) that waits for its answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        asks: Option<Waiting>,
        /// What became of the last one, if it was not granted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refused: Option<Problem>,
    },
    /// It was ended, and why.
    Ended(Problem),
}

/// One protection of the holder's process, as the kernel reports it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Protection {
    /// Its name.
    pub name: String,
    /// Whether it is in force.
    pub in_force: bool,
    /// Whether the daemon does not start without it.
    pub required: bool,
    /// What was read back.
    pub detail: String,
}

/// A key that is being got.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnderWay {
    /// Of which service.
    pub service: ServiceName,
    /// What is being done, for people.
    pub step: String,
    /// How far it is, 0 to 100.
    pub percent: u8,
}

/// What a holder says of itself. Asking changes nothing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// Its process id.
    pub pid: u32,
    /// The backend that it talks to; absent when none is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// The agent that it is, once it was paired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<WalletAddress>,
    /// The account and master key that it is pinned to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<Fingerprint>,
    /// Whether it was this holder's first approval that pinned them, and nothing beforehand: then
    /// whoever reads its answers is told both once.
    pub pinned_by_first_approval: bool,
    /// Its session.
    pub session: SessionState,
    /// Keys that are being got.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub provisioning: Vec<UnderWay>,
    /// Counts up with each change of session, scope, pending request, or of a key that is got.
    pub generation: u64,
    /// Where the mirror is, and whether a keyring seals it.
    pub mirror: String,
    /// Its process's protections.
    pub protections: Vec<Protection>,
}

/// An agent's credentials as its own session sees them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listing {
    /// The agent.
    pub agent: WalletAddress,
    /// Its credentials inside the session's scope, never a value.
    pub credentials: Vec<CredentialSummary>,
}

/// What became of a wish for access.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// The scope allows it already.
    Allowed,
    /// A person has to answer.
    Waiting(Waiting),
}

/// What became of a wish for a key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provisioning {
    /// There is one.
    Ready(Ready),
    /// A person has to allow it.
    Waiting(Waiting),
}

/// A key that is there, never its value.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// Whether it was made by this very call.
    pub made: bool,
    /// Until when it holds, for one that its service gave a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// What is to be known besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A request to a service, in one piece.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpAsk {
    /// Whose key is used.
    pub service: ServiceName,
    /// Which of its hosts; absent: its first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The header fields.
    pub headers: Vec<Field>,
    /// The body; empty for none.
    #[serde(with = "super::encoding::base64_bytes")]
    pub body: Vec<u8>,
}

/// What a service answered to it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpAnswer {
    /// The status.
    pub status: u16,
    /// The header fields.
    pub headers: Vec<Field>,
    /// The body, at most [`MAX_HTTP_ANSWER`] bytes of it.
    #[serde(with = "super::encoding::base64_bytes")]
    pub body: Vec<u8>,
    /// Whether there was more.
    pub cut: bool,
}

/// Who holds an agent's session.
#[async_trait]
pub trait SessionHolder: Send + Sync {
    /// How it stands; never opens a request and never asks the backend.
    async fn standing(&self) -> Held<Standing>;

    /// Returns once the generation is another than `seen`, with the new one. May return early
    /// with `seen` itself.
    async fn changed(&self, seen: u64) -> Held<u64>;

    /// One credential's plaintext. Opens a request where there is no session.
    async fn read(&self, service: &ServiceName) -> Held<SecretBytes>;

    /// One credential, for the environment of a program.
    async fn inject(&self, service: &ServiceName) -> Held<SecretBytes>;

    /// All the agent's credentials inside the scope, for the environment of a program.
    async fn read_all(&self) -> Held<Vec<Release>>;

    /// Which credentials there are.
    async fn list(&self) -> Held<Listing>;

    /// Asks the master for one more service. The same wish asked again while it waits is the
    /// same request.
    async fn request_access(&self, service: &ServiceName, reason: Option<&Reason>) -> Held<Access>;

    /// Sees to it that the agent has a key of a service: the one that is there, or a new one.
    /// Asks the master first where the scope does not allow it. Called again while it is under
    /// way, it is the same; it is given up when nobody waits for it any more.
    async fn provision(&self, service: &ServiceName, reason: Option<&Reason>)
    -> Held<Provisioning>;

    /// Sends a request to a service with the agent's key put in by the backend, once. One that its
    /// master is asked about is not sent, and waits in the refusal: after an approval the same one is.
    async fn http_request(&self, ask: &HttpAsk) -> Held<HttpAnswer>;

    /// Asks the master to take new keys in place of the present ones.
    async fn rotate(&self) -> Held<Waiting>;
}

/// One question of the line protocol.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// Chosen by who asks; the reply carries it.
    pub id: u64,
    /// What is asked.
    pub ask: Question,
}

/// What can be asked; one a method of [`SessionHolder`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Question {
    /// See [`SessionHolder::standing`].
    Standing {},
    /// See [`SessionHolder::changed`].
    Changed {
        /// The generation that is known.
        seen: u64,
    },
    /// See [`SessionHolder::read`].
    Read {
        /// Of which service.
        service: ServiceName,
    },
    /// See [`SessionHolder::inject`].
    Inject {
        /// Of which service.
        service: ServiceName,
    },
    /// See [`SessionHolder::read_all`].
    ReadAll {},
    /// See [`SessionHolder::list`].
    List {},
    /// See [`SessionHolder::request_access`].
    RequestAccess {
        /// To which service.
        service: ServiceName,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Reason>,
    },
    /// See [`SessionHolder::provision`].
    Provision {
        /// Of which service.
        service: ServiceName,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Reason>,
    },
    /// See [`SessionHolder::http_request`].
    HttpRequest {
        /// Which.
        request: Box<HttpAsk>,
    },
    /// See [`SessionHolder::rotate`].
    Rotate {},
}

/// One answer of the line protocol.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reply<T> {
    /// The question's.
    pub id: u64,
    /// What it gives; absent when it was refused.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub ok: Option<T>,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refusal>,
}

const fn none<T>() -> Option<T> {
    None
}
