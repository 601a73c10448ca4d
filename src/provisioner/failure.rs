//! Every way in which getting a key by a recipe fails, as people read it: each with the step, a
//! cause and what to do.
//!
//! Must never repeat a recipe's words uncleaned: they may hold what stood on a page.
use std::io;
use std::path::{Path, PathBuf};

use super::found::OLDEST_NODE;
use super::protocol::{Garbage, Need, Reason};
use super::supervise::Ended;
use crate::core::identity::ServiceName;
use crate::core::problem::{Code, Problem};

/// The step before the recipe has named one.
pub const START: &str = "start the recipe";

fn failed(step: &str, detail: String, cause: impl Into<String>, fix: impl Into<String>) -> Problem {
    Problem::new(Code::ProvisionFailed, detail, cause, fix).at_step(step)
}

fn at_start(cause: impl Into<String>, fix: impl Into<String>) -> Problem {
    failed(START, "the recipe was not started".to_owned(), cause, fix)
}

pub fn no_recipes(places: &[PathBuf]) -> Problem {
    let places: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
    at_start(
        format!("there is no folder of recipes at {}", places.join(" or ")),
        "set AGENTKEYS_RECIPES to the folder scripts/provisioner of AgentKeys, where npm ci and \
         npm run build have been run",
    )
}

pub fn not_built(folder: &Path) -> Problem {
    let folder = folder.display();
    at_start(
        format!("the recipes in {folder} are not built"),
        format!("npm ci --prefix {folder} && npm run build --prefix {folder}"),
    )
}

pub fn no_recipe(service: &ServiceName, folder: &Path) -> Problem {
    let folder = folder.display();
    at_start(
        format!("there is no recipe for {service} in {folder}"),
        "see which there are: agentkeys provisioner list; docs/provisioning.md says how one is \
         written",
    )
}

pub fn no_node(named: Option<&Path>) -> Problem {
    let cause = match named {
        Some(named) => format!("AGENTKEYS_NODE names {}, which is no program", named.display()),
        None => "there is no node on the PATH".to_owned(),
    };
    let fix = format!(
        "install Node.js {OLDEST_NODE} or later, or set AGENTKEYS_NODE to where it is, in the \
         daemon's environment"
    );
    at_start(cause, fix)
}

pub fn old_node(node: &Path, found: Option<u32>) -> Problem {
    let node = node.display();
    let cause = match found {
        Some(version) => format!("{node} is version {version} of Node.js"),
        None => format!("{node} does not say which version of Node.js it is"),
    };
    let fix = format!("install Node.js {OLDEST_NODE} or later, or set AGENTKEYS_NODE to one");
    at_start(cause, fix)
}

pub fn no_folder(error: &io::Error) -> Problem {
    at_start(
        format!("no folder to work in can be made: {error}"),
        "see that TMPDIR (else /tmp) exists, has room, and can be written to",
    )
}

pub fn not_started(error: &io::Error) -> Problem {
    at_start(
        format!("the system refused: {error}"),
        "see whether the system is out of processes, descriptors or memory",
    )
}

/// `provisioner run` was called by hand.
pub fn not_for_people() -> Problem {
    Problem::new(
        Code::Invalid,
        "provisioner run is not for people",
        "it is started by a daemon, which talks to it over sockets",
        "agentkeys provisioner check SERVICE",
    )
}

/// The supervisor is gone without a word.
pub fn gone(step: &str) -> Problem {
    failed(
        step,
        "the recipe ended unexpectedly".to_owned(),
        "the process that watched over it is gone: it was killed, or the system is out of memory",
        "try again",
    )
}

/// The recipe ended without a result.
pub fn died(step: &str, ended: Ended, said: &str) -> Problem {
    let how = match ended {
        Ended::Code(code) => format!("it ended with exit code {code}, without a result"),
        Ended::Signal(signal) => format!("it was killed by signal {signal}"),
    };
    let cause = if said.is_empty() { how } else { format!("{how}; it said: {said}") };
    failed(
        step,
        "the recipe died".to_owned(),
        cause,
        "try again; if it stays, the recipe has a fault: agentkeys provisioner check",
    )
}

/// The recipe did not come to an end in its time.
pub fn late(step: &str, seconds: u64) -> Problem {
    failed(
        step,
        "the recipe took too long".to_owned(),
        format!("it was given {seconds} seconds, and was ended"),
        "try again; if it stays, see whether the service's pages answer",
    )
}

/// The recipe wrote something else than messages.
pub fn garbage(step: &str, garbage: Garbage) -> Problem {
    failed(
        step,
        "the recipe does not keep to the protocol".to_owned(),
        garbage.to_string(),
        "use the recipes of this version: see docs/provisioning.md",
    )
}

/// A message came where it has no place.
pub fn out_of_place(step: &str, what: &str) -> Problem {
    failed(
        step,
        "the recipe does not keep to the protocol".to_owned(),
        what.to_owned(),
        "use the recipes of this version: see docs/provisioning.md",
    )
}

/// What it gave cannot be a key.
pub fn no_key(step: &str, service: &ServiceName, why: &str) -> Problem {
    failed(
        step,
        format!("the recipe gave no key of {service}"),
        why.to_owned(),
        "the service may have changed its pages; store a key by hand: agentkeys store",
    )
}

/// A person is needed.
pub fn needs_person(step: &str, service: &ServiceName, what: Need, message: &str) -> Problem {
    let yourself = "sign up yourself in a browser".to_owned();
    let (wants, fix) = match what {
        Need::Captcha => (
            "a CAPTCHA, which is there to be solved by a person; AgentKeys does not get round it",
            yourself,
        ),
        Need::Phone => ("a phone number, which AgentKeys does not give", yourself),
        Need::Terms => (
            "that its terms are agreed to, which only you can do",
            format!(
                "read them; if you agree, set it up again, with accept_terms=yes among the \
                 settings: agentkeys provisioner set {service}"
            ),
        ),
        Need::Other => ("something of a person", yourself),
    };
    let message = if message.is_empty() { String::new() } else { format!(" ({message})") };
    failed(
        step,
        format!("{service} wants a person"),
        format!("it asks for {wants}{message}"),
        format!("{fix}\nor store a key that you have: agentkeys store <agent> {service}"),
    )
}

/// It failed, in the recipe's own words.
pub fn reported(
    step: &str,
    service: &ServiceName,
    reason: Reason,
    message: &str,
    screenshot: Option<&str>,
) -> Problem {
    let (detail, fix) = match reason {
        Reason::PageChanged => (
            format!("{service} has changed its pages"),
            "use a newer recipe, or store a key by hand: agentkeys store",
        ),
        Reason::Network => (
            format!("{service} cannot be reached"),
            "see whether this machine reaches the service; try again",
        ),
        Reason::MailTimeout => (
            format!("no mail with a code came from {service}"),
            "see whether the mail is in the mailbox, and whether `from` and `email` are right: \
             agentkeys provisioner list",
        ),
        Reason::MailLogin => (
            "the mailbox refuses its password".to_owned(),
            "set it up again, with the right password (an app password, where the mailbox wants \
             one): agentkeys provisioner set",
        ),
        Reason::MailUnreachable => (
            "the mailbox's server cannot be reached".to_owned(),
            "see whether the setting `imap` is right: agentkeys provisioner list",
        ),
        Reason::CodeRefused => {
            (format!("{service} does not take the code that it mailed"), "try again")
        }
        Reason::BrowserMissing => (
            "there is no browser".to_owned(),
            "install Chromium (Debian: apt install chromium), or set AGENTKEYS_CHROMIUM to where \
             it is",
        ),
        Reason::BrowserFailed => (
            "the browser did not work".to_owned(),
            "see whether chromium --headless starts on this machine; try again",
        ),
        Reason::WrongSettings => (
            "a setting of the recipe is not what it may be".to_owned(),
            "see what is set: agentkeys provisioner list; set it up again with what is right: \
             agentkeys provisioner set",
        ),
        Reason::Refused => {
            (format!("{service} refused"), "see what it says; sign up yourself in a browser")
        }
        Reason::Internal => {
            ("the recipe has a fault".to_owned(), "try again; if it stays, tell who wrote it")
        }
    };
    let mut cause = if message.is_empty() { "it said no more".to_owned() } else { message.into() };
    if let Some(path) = screenshot {
        cause.push_str("; a picture of the page, secrets masked: ");
        cause.push_str(path);
    }
    failed(step, detail, cause, fix)
}
