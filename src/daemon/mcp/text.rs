//! The words that a model reads: what this server is for, and what a refusal means, with what to
//! do next and what to tell the user.
//!
//! Must never hold a secret; a pair code and its OTP are made to be read.
use rmcp::model::JsonObject;
use serde_json::json;

use super::args::Mistake;
use super::schema::{REFUSED, WAITING, object};
use crate::core::auth_request::Kind;
use crate::core::holder::{Listing, Refusal, Waiting};
use crate::core::identity::ServiceName;
use crate::core::pin::Fingerprint;
use crate::core::problem::{Code, Problem};
use crate::core::set_back::is_set_back;
use crate::core::types::Timestamp;

/// What a model is told once, when it connects.
pub const INSTRUCTIONS: &str = "AgentKeys keeps the user's API keys and gives this agent those \
that the user allowed. Every read is recorded, and the user can revoke access at any time.\n\
\n\
- Need a service? Prefer not to see its key: http_request {\"url\": \"https://api.openai.com/v1/models\"} \
sends a request with the key put in, and `agentkeys run <agent> -- <command>` starts a program with \
the keys in its environment. Otherwise get_credential {\"service\": \"openrouter\"} returns one, and \
says which environment variable programs expect it in. list_credentials shows the names.\n\
- Never print a key, put it in a file, a commit, a log, a URL or a command line, or send it \
anywhere but to its own service. Fetch it again when you need it again.\n\
- \"waiting_for_approval\" means that a person has to approve. Show your user the command, the pair \
code and the six digits. Never run `agentkeys approve` yourself, and never suggest --yes. When your \
user says that it is done, call the same tool again.\n\
- \"refused\" says why, and whether trying again can help. If a service is outside what the user \
allowed, request_access asks for it. If there is no key of a service yet, provision can get one \
where the user has set that up.";

/// Most services that a text names.
const MOST_NAMED: usize = 30;

/// What a refusal's text is written from, beside the refusal.
pub struct About<'a> {
    /// The tool that was called.
    pub tool: &'a str,
    /// The service that was asked for.
    pub service: Option<&'a ServiceName>,
    /// What the session can read, where that was looked up.
    pub others: Option<&'a Listing>,
    /// The time.
    pub now: Timestamp,
}

/// A refusal as text and as structured content.
pub fn refused(refusal: &Refusal, about: &About) -> (String, JsonObject) {
    match refusal {
        Refusal::Waiting(waiting) => (waiting_text(waiting, about), waiting_content(waiting)),
        Refusal::Problem(problem) => (problem_text(problem, about), problem_content(problem)),
    }
}

/// The same for a mistake in the arguments.
pub fn mistaken(Mistake(rule): &Mistake) -> (String, JsonObject) {
    let text = format!("The arguments are not valid: {rule}. Correct them and call again.");
    let fix = "correct them and call again";
    let problem = Problem::new(Code::Invalid, "the arguments are not valid", rule.clone(), fix);
    (text, problem_content(&problem))
}

/// What waits, for structured content.
pub fn waiting_content(waiting: &Waiting) -> JsonObject {
    object(json!({
        "status": WAITING,
        "request": waiting.kind,
        "pair_code": waiting.pair_code,
        "otp": waiting.otp,
        "expires_at": waiting.expires_at,
        "command": waiting.command,
    }))
}

fn problem_content(problem: &Problem) -> JsonObject {
    let mut content = object(json!({
        "status": REFUSED,
        "code": problem.code,
        "detail": problem.detail,
        "cause": problem.cause,
        "fix": problem.fix,
        "docs": problem.docs,
    }));
    if let Some(seconds) = problem.retry_after {
        content.insert("retry_after".to_owned(), seconds.into());
    }
    if let Some(step) = &problem.step {
        content.insert("step".to_owned(), step.as_str().into());
    }
    content
}

/// A request that waits for a person: what to tell the user, and what not to do.
pub fn waiting_text(waiting: &Waiting, about: &About) -> String {
    let what = match waiting.kind {
        Kind::Pair => "This agent is not paired yet. Your user has to approve it once.",
        Kind::Recover => "This agent asks to go on as one that exists. Your user has to approve.",
        Kind::ScopeChange => "Your user has to approve the wider access that was asked for.",
        Kind::KeyRotate => "Your user has to approve this agent's new keys.",
        Kind::HighValueRelease => "Your user has to approve this request first.",
    };
    let Waiting { otp, command, expires_at, because, .. } = waiting;
    let because = because
        .as_ref()
        .map(|problem| format!("{} {}\n", sentence(&problem.detail), sentence(&problem.cause)));
    // The time of the call may be a moment before that of the request that it opened.
    let left = expires_at.since_ms(about.now).saturating_sub(5_000);
    let holds = match left.div_ceil(60_000) {
        0 => "has run out by now; calling again gives a new one".to_owned(),
        1 => format!("holds for a minute, until {}", expires_at.for_people()),
        left => format!("holds for {left} minutes, until {}", expires_at.for_people()),
    };
    let again = match waiting.kind {
        Kind::ScopeChange if about.tool == "request_access" => "get_credential",
        _ => about.tool,
    };
    format!(
        "{because}{what}\n\
         \n\
         Tell your user, word for word:\n\
         \n\
         \x20   On the machine where you are signed in to AgentKeys, run\n\
         \x20       {command}\n\
         \x20   {existing}and approve only if it shows the digits {otp}.\n\
         \x20   The code {holds}.\n\
         \n\
         Do not run that command yourself, here or anywhere, and never add --yes: a person has to \
         compare the digits. Until your user says that it is approved, calling again gives the \
         same answer (or a new code, once this one has run out). Then call {again} again{same}.",
        because = because.unwrap_or_default(),
        same = match waiting.kind {
            Kind::HighValueRelease => ", within three minutes and with the very same arguments",
            _ => "",
        },
        existing = match waiting.kind {
            Kind::Pair =>
                "(with --as NAME, if this is to be an agent that you have keys for)\n    ",
            _ => "",
        },
    )
}

/// That a scope allows what nobody has stored.
pub fn nothing_stored(service: &ServiceName) -> String {
    format!(
        "This agent may use {service}, and there is no key of it for this agent yet. Asking again \
         will not help. Tell your user: on the machine where they are signed in to AgentKeys, \
         agentkeys store <agent> {service}"
    )
}

/// Whom a first approval has bound this agent to.
pub fn introduction(account: Fingerprint) -> String {
    format!(
        "Tell your user once: this agent now belongs to the account and master key with the \
         fingerprint {account}. On their own machine, agentkeys init shows the same one. If it \
         does not, somebody else approved: they end this agent's access and pair it again."
    )
}

fn problem_text(problem: &Problem, about: &About) -> String {
    let mut text = sentence(&problem.detail);
    if !problem.cause.is_empty() {
        text.push_str("\nWhy: ");
        text.push_str(&sentence(&problem.cause));
    }
    if let Some(step) = &problem.step {
        text.push_str(&format!("\nStep: {step}."));
    }
    text.push_str("\n\nNext: ");
    text.push_str(&next(problem, about));
    // Asking anew, as just said, is the way out of a session that is over.
    if !problem.fix.is_empty() && !problem.pair_again {
        text.push_str("\n\nTell your user what they can do (for them, not for you to run):");
        for line in problem.fix.lines() {
            text.push_str("\n    ");
            text.push_str(line.trim());
        }
    }
    text
}

/// What the model should do now.
fn next(problem: &Problem, about: &About) -> String {
    let named = about.others.map(|listing| names(listing, about.service));
    let outside = match (about.service, about.others) {
        (Some(service), Some(listing)) => {
            listing.credentials.iter().all(|known| known.service != *service)
        }
        _ => false,
    };
    if problem.pair_again {
        return format!(
            "tell your user, with the reason above. If they want this agent to go on, call {} \
             again: they are then asked to approve it anew.",
            about.tool
        );
    }
    if is_set_back(problem) {
        return "stop: the backend has to be looked at first, by your user; until then it hands out \
                no key to anybody. Say so to your user, with the reason above."
            .to_owned();
    }
    match problem.code {
        Code::Denied if problem.docs.ends_with("#approval") => {
            "do not send the same again by yourself. Tell your user, with the reason above, and \
             ask them what to do instead."
                .to_owned()
        }
        Code::Denied if problem.docs.ends_with("#exposure") => {
            "your user has chosen that this key is not shown to you; calling again will not help. \
             http_request uses it all the same, without showing it. Where that is no way, tell \
             your user what you need it for."
                .to_owned()
        }
        // The session is alive, since it could list: then it is the scope.
        Code::Denied if outside => format!(
            "calling again will not help. If you need this service, call request_access with it \
             and a reason: your user is asked to allow it.{}",
            named.unwrap_or_default(),
        ),
        Code::Denied => "stop: calling again will not help, and there is no way around it. Say so \
                         to your user, with the reason above."
            .to_owned(),
        Code::NotFound => match named {
            Some(named) if outside => {
                format!("check the name; your user has stored no such key.{named}")
            }
            _ => "check the name with list_credentials.".to_owned(),
        },
        Code::Unavailable | Code::RateLimited => {
            let when = match problem.retry_after {
                Some(seconds) => format!("in {seconds} s"),
                None => "in half a minute".to_owned(),
            };
            format!(
                "this is no refusal, and nothing is wrong with the call. Try again {when}, at most \
                 three times; then tell your user."
            )
        }
        Code::Internal => "try once more; if it stays, tell your user.".to_owned(),
        Code::ProvisionFailed => {
            "tell your user, with the step and the reason above; call it again \
                                  once they have seen to it."
                .to_owned()
        }
        Code::Invalid | Code::TooLarge => "correct the arguments and call again.".to_owned(),
        Code::Expired | Code::NoMatch | Code::AlreadyConsumed | Code::AlreadyDelivered => {
            format!("call {} once more: it starts afresh.", about.tool)
        }
        Code::Unauthorized | Code::AgentNotFound => {
            "calling again will not help until your user has done something.".to_owned()
        }
    }
}

/// The services that there are, those first that begin most like the one that was asked for.
fn names(listing: &Listing, asked: Option<&ServiceName>) -> String {
    let asked = asked.map_or("", ServiceName::as_str);
    let mut names: Vec<&str> =
        listing.credentials.iter().map(|known| known.service.as_str()).collect();
    if names.is_empty() {
        return " There is no key for this agent at all yet.".to_owned();
    }
    let alike = |name: &str| name.bytes().zip(asked.bytes()).take_while(|(a, b)| a == b).count();
    names.sort_by(|a, b| alike(b).cmp(&alike(a)).then(a.cmp(b)));
    let more = match names.len().saturating_sub(MOST_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    names.truncate(MOST_NAMED);
    format!(" Services that this agent can read: {}{more}.", names.join(", "))
}

/// With a capital letter and a full stop.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let mut sentence: String = letters.next().map(|c| c.to_ascii_uppercase()).into_iter().collect();
    sentence.push_str(letters.as_str());
    if !sentence.ends_with(['.', '!', '?']) {
        sentence.push('.');
    }
    sentence
}

#[cfg(test)]
mod tests {
    use crate::core::backend::CredentialSummary;

    use super::*;

    const NOW: Timestamp = Timestamp(1_775_745_127_000);

    fn about<'a>(service: Option<&'a ServiceName>, others: Option<&'a Listing>) -> About<'a> {
        About { tool: "get_credential", service, others, now: NOW }
    }

    fn listing(names: &[&str]) -> Listing {
        Listing {
            agent: format!("0x{}", "1".repeat(40)).parse().unwrap(),
            credentials: names
                .iter()
                .map(|name| CredentialSummary {
                    service: name.parse().unwrap(),
                    version: 1,
                    kept: 0,
                    stored_at: NOW,
                    expires_at: None,
                    made: false,
                    terms: Default::default(),
                    spent: None,
                })
                .collect(),
        }
    }

    #[test]
    fn while_unpaired_the_user_learns_command_digits_and_time() {
        let waiting = Waiting {
            kind: Kind::Pair,
            pair_code: "ABCD-EFGH".to_owned(),
            otp: "042137".to_owned(),
            expires_at: NOW.plus_ms(301_000),
            because: None,
            command: "agentkeys approve ABCD-EFGH".to_owned(),
        };
        let (text, content) = refused(&Refusal::Waiting(waiting), &about(None, None));
        for part in [
            "not paired yet",
            "    agentkeys approve ABCD-EFGH\n",
            "only if it shows the digits 042137",
            "for 5 minutes, until 2026-04-09 14:37:08 UTC",
            "Do not run that command yourself",
            "never add --yes",
            "Then call get_credential again",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert_eq!(content["status"], "waiting_for_approval");
        assert_eq!(content["request"], "Pair");
        assert_eq!(content["pair_code"], "ABCD-EFGH");
        assert_eq!(content["otp"], "042137");
        assert_eq!(content["expires_at"], "2026-04-09T14:37:08.000Z");
    }

    #[test]
    fn a_revoked_agent_reads_when_by_whom_and_what_its_user_can_do() {
        let problem = Problem::new(
            Code::Denied,
            "access denied: agent \"my-agent\" was revoked",
            "revoked 2026-04-09 14:32:07 UTC by the master session on host \"laptop\"",
            "agentkeys reinstate my-agent\nor pair it again: start its daemon",
        );
        let service = "openrouter".parse().unwrap();
        let (text, content) = refused(&problem.into(), &about(Some(&service), None));
        assert_eq!(
            text,
            "Access denied: agent \"my-agent\" was revoked.\n\
             Why: Revoked 2026-04-09 14:32:07 UTC by the master session on host \"laptop\".\n\
             \n\
             Next: stop: calling again will not help, and there is no way around it. Say so to \
             your user, with the reason above.\n\
             \n\
             Tell your user what they can do (for them, not for you to run):\n\
             \x20   agentkeys reinstate my-agent\n\
             \x20   or pair it again: start its daemon"
        );
        assert_eq!(content["status"], "refused");
        assert_eq!(content["code"], "DENIED");
    }

    #[test]
    fn out_of_scope_points_to_request_access() {
        let problem = Problem::new(Code::Denied, "access denied: outside the scope", "x", "ask");
        let service = "github".parse().unwrap();
        let others = listing(&["openrouter"]);
        let (text, _) = refused(&problem.into(), &about(Some(&service), Some(&others)));
        assert!(text.contains("call request_access"), "{text}");
        assert!(text.contains("can read: openrouter."), "{text}");
    }

    #[test]
    fn a_log_that_was_set_back_is_told_to_the_user_and_asks_for_nothing() {
        let problem = crate::core::set_back::stopped("the audit log was forked", "it differs");
        let service = "github".parse().unwrap();
        // Whatever the agent may read: to ask for more would not help.
        let others = listing(&["openrouter"]);
        let (text, content) = refused(&problem.into(), &about(Some(&service), Some(&others)));
        assert!(text.contains("Next: stop: the backend has to be looked at first"), "{text}");
        assert!(text.contains("agentkeys audit accept") && !text.contains("request_access"));
        assert_eq!(content["code"], "DENIED");
    }

    #[test]
    fn a_missing_service_names_those_that_there_are_the_likeliest_first() {
        let problem = Problem::new(Code::NotFound, "no credential for \"opnerouter\"", "", "");
        let service = "opnerouter".parse().unwrap();
        let others = listing(&["brave", "github", "openrouter"]);
        let (text, _) = refused(&problem.clone().into(), &about(Some(&service), Some(&others)));
        assert!(text.contains("can read: openrouter, brave, github."), "{text}");
        let none = listing(&[]);
        let (text, _) = refused(&problem.into(), &about(Some(&service), Some(&none)));
        assert!(text.contains("no key for this agent at all"), "{text}");
    }

    #[test]
    fn a_long_list_is_cut_short() {
        let many: Vec<String> = (0..40).map(|n| format!("service-{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let text = names(&listing(&many), None);
        assert!(text.ends_with("and 10 more."), "{text}");
    }

    #[test]
    fn an_absent_backend_is_no_refusal_and_says_when_to_try_again() {
        let problem = Problem::new(
            Code::Unavailable,
            "cannot reach the backend at https://keys.example",
            "3 tries in 7 s failed",
            "agentkeys doctor",
        );
        let (text, _) = refused(&problem.clone().into(), &about(None, None));
        assert!(text.contains("no refusal") && text.contains("in half a minute"), "{text}");
        let (text, content) = refused(&problem.retry_after(9).into(), &about(None, None));
        assert!(text.contains("Try again in 9 s"), "{text}");
        assert_eq!(content["retry_after"], 9);
    }

    #[test]
    fn every_code_has_something_to_do_next() {
        for code in Code::ALL {
            let problem = Problem::new(code, "what", "why", "fix it");
            let (text, _) = refused(&problem.into(), &about(None, None));
            let next = text.split("Next: ").nth(1).unwrap();
            assert!(next.len() > 30 && text.contains("\n    fix it"), "{text}");
        }
    }

    #[test]
    fn the_instructions_stay_short_enough_to_be_read_whole() {
        // Some clients cut instructions at 2 KiB.
        assert!(INSTRUCTIONS.len() < 2048, "{}", INSTRUCTIONS.len());
    }
}
