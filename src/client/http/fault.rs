//! What goes wrong between client and server, as problems that say so.
use std::time::Duration;

use super::Address;
use crate::core::problem::{Code, Problem};
use crate::core::wire::{Route, WIRE_VERSION};

const UNREACHABLE: &str = "docs/errors.md#unreachable";
const WRONG_VERSION: &str = "docs/errors.md#wrong_version";

/// Nobody answered, and nothing was sent.
#[derive(Clone, Debug)]
pub struct Unreachable {
    /// The backend's address.
    pub address: String,
    /// How often connecting was tried.
    pub tries: u32,
    /// Over how long.
    pub over: Duration,
    /// What the system said last.
    pub reason: String,
    /// What named the address.
    pub named_by: Option<&'static str>,
}

impl From<Unreachable> for Problem {
    fn from(of: Unreachable) -> Self {
        let named = of.named_by.map(|by| format!(" (set by {by})")).unwrap_or_default();
        let over = of.over.as_secs_f64();
        let times = match of.tries {
            // Whoever tries once only tells by itself how often it came back.
            1 => "cannot connect".to_owned(),
            tries => format!("{tries} tries over {over:.1} s to connect"),
        };
        let cause = format!("{times} to {}{named}: {}", of.address, of.reason);
        let mut problem = Self::new(
            Code::Unavailable,
            format!("the backend at {} cannot be reached", of.address),
            cause,
            "start it with agentkeys serve, or name another with AGENTKEYS_BACKEND or --backend",
        );
        problem.docs = UNREACHABLE.to_owned();
        problem.title = "backend unreachable".to_owned();
        problem
    }
}

/// Whether nobody answered and nothing was sent, so that trying again is safe.
pub fn is_unreachable(problem: &Problem) -> bool {
    problem.docs == UNREACHABLE
}

/// The socket is not this user's: nothing was sent.
pub fn foreign_server(address: &Address, uid: u32) -> Problem {
    Problem::new(
        Code::Denied,
        format!("the backend at {address} belongs to another user"),
        format!("user id {uid} listens on that socket; nothing was sent to it"),
        "name your own backend with AGENTKEYS_BACKEND or --backend",
    )
}

fn broken(detail: String, cause: String) -> Problem {
    let fix = "see what listens at that address: agentkeys doctor";
    Problem::new(Code::Internal, detail, cause, fix)
}

/// The answer is not one of this wire. `why` never holds any of it.
pub fn not_wire(address: &Address, route: Route, why: &str) -> Problem {
    broken(
        "the backend answered something that is not its wire format".to_owned(),
        format!("the answer of {address} to {} was not used: {why}", route.path()),
    )
}

/// The server speaks another wire.
pub fn wrong_version(address: &Address, theirs: &str) -> Problem {
    let shown = theirs.len() <= 8 && theirs.bytes().all(|c| c.is_ascii_digit());
    let theirs = if shown { theirs } else { "another" };
    let mut problem = Problem::new(
        Code::Internal,
        "wrong backend version",
        format!("{address} speaks wire {theirs}, and this program wire {WIRE_VERSION}"),
        "install the same version of agentkeys on both sides, and restart the backend \
         (agentkeys serve --stop)",
    );
    problem.docs = WRONG_VERSION.to_owned();
    problem
}

/// The time is up.
pub fn no_answer(address: &Address, route: Route, after: Duration) -> Problem {
    Problem::new(
        Code::Unavailable,
        format!("the backend at {address} did not answer in time"),
        format!("no answer to {} within {} s{}", route.path(), after.as_secs(), unsure(route)),
        "try again; agentkeys doctor shows what is wrong",
    )
}

/// The connection ended before there was an answer.
pub fn hung_up(address: &Address, route: Route, sent: bool) -> Problem {
    let doubt = if sent { unsure(route) } else { "; nothing was sent" };
    Problem::new(
        Code::Unavailable,
        format!("the backend at {address} hung up"),
        format!("the connection ended before the answer to {} was there{doubt}", route.path()),
        "try again; agentkeys doctor shows what is wrong",
    )
}

/// What nobody knows after a lost answer.
fn unsure(route: Route) -> &'static str {
    if route.has_body() { "; it may have been done all the same" } else { "" }
}
