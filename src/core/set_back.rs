//! That an audit log was set back: a client has seen a signed head that the log does not have in
//! it, so the backend runs on an older copy of its data, or a second one runs on a copy.
//!
//! The head is its own proof, since nobody but the account's master key can have signed it. Must
//! never take a client's word for anything but such a head.
use serde::{Deserialize, Serialize};

use super::audit::Head;
use super::problem::{Code, Problem};
use super::types::Timestamp;

/// What a backend has on record of a head that contradicts its log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetBack {
    /// The furthest head that was shown.
    pub head: Head,
    /// Where the log ended when the first one was shown.
    pub ended: u64,
    /// When that was.
    pub at: Timestamp,
    /// Who showed it, in words: `the master session on host "laptop"`.
    pub by: String,
}

/// How a head stands to a backend's log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compared {
    /// Whether the log has it in it. If not, that is on record from now on.
    pub agrees: bool,
    /// Whether the master has accepted that it is not in the log.
    pub accepted: bool,
}

/// The anchor of every problem of a log that was set back.
pub const DOCS: &str = "docs/errors.md#set_back";

/// What is refused because of it, and what to do; `cause` says what was seen.
pub fn stopped(detail: &str, cause: impl Into<String>) -> Problem {
    let mut problem = Problem::new(
        Code::Denied,
        detail,
        cause,
        "if nobody meant it: stop this backend, and find out where its newer data is\n\
         if an older copy was put back on purpose: revoke again what was revoked since then, and \
         let the master run: agentkeys audit accept",
    );
    problem.docs = DOCS.to_owned();
    problem
}

/// Whether a problem is that of a log that was set back.
pub fn is_set_back(problem: &Problem) -> bool {
    problem.docs == DOCS
}

/// The refusal of what would raise somebody's rights, by a backend that has it on record.
pub fn on_record(found: &SetBack) -> Problem {
    stopped(
        "access denied: the audit log of this account was set back",
        format!(
            "on {} {} showed event {} of it, signed by the account's key, and this backend's log \
             ended at event {} without it: its data is an older copy, or a second backend runs on \
             a copy, so what was revoked since then may be forgotten",
            found.at.for_people(),
            found.by,
            found.head.seq,
            found.ended,
        ),
    )
}
