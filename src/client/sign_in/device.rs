//! The device flow (RFC 8628): the person types a code at the issuer, on any device, while this
//! command asks now and then whether they have.
//!
//! What it cannot protect from is told to the person: whoever has you type their code is signed
//! in as you.
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use super::issuer::{CLAIMS, Issuer, cleaned, not_standard, unreachable};
use crate::core::problem::{Answer, Code, Problem};
use crate::core::secret::SecretBytes;
use crate::core::sign_in::{SignInStart, Tell};
use crate::core::wire::{AuthToken, Shown};
use crate::web::{FetchError, Fetched, Url};

const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// Seconds between two questions unless the issuer says otherwise, and at most.
const INTERVAL: u64 = 5;
const MAX_INTERVAL: u64 = 60;
/// Longest code that a person is asked to type.
const MAX_USER_CODE: usize = 40;

#[derive(Deserialize)]
struct Begun {
    device_code: Shown<AuthToken>,
    user_code: String,
    // Google's name for it is older than the standard.
    #[serde(alias = "verification_url")]
    verification_uri: String,
    verification_uri_complete: Option<String>,
    expires_in: u64,
    #[serde(default = "interval")]
    interval: u64,
}

fn interval() -> u64 {
    INTERVAL
}

pub async fn id_token(issuer: &Issuer, start: &SignInStart, tell: Tell<'_>) -> Answer<SecretBytes> {
    let begun = begin(issuer, start).await?;
    let seconds = begun.expires_in.clamp(1, start.expires_in.max(1));
    show(issuer, &begun, seconds, tell)?;
    let deadline = Instant::now() + Duration::from_secs(seconds);
    // It came as a text; it goes back to the issuer that gave it.
    let device_code = std::str::from_utf8(begun.device_code.0.0.expose()).unwrap_or_default();
    let fields = [("grant_type", GRANT), ("device_code", device_code)];
    let mut pause = begun.interval.clamp(1, MAX_INTERVAL);
    loop {
        let next = Instant::now() + Duration::from_secs(pause);
        if next >= deadline {
            return Err(too_late(&issuer.name));
        }
        tokio::time::sleep_until(next).await;
        match next_step(issuer, issuer.ask_for_token(start, &fields).await)? {
            Step::Done(token) => return Ok(token),
            Step::Wait => {}
            // Each slow_down adds five seconds for good, as the standard has it.
            Step::SlowDown => pause = (pause + 5).min(MAX_INTERVAL),
            Step::BackOff => pause = (pause * 2).min(MAX_INTERVAL),
        }
    }
}

enum Step {
    Done(SecretBytes),
    Wait,
    SlowDown,
    BackOff,
}

fn next_step(issuer: &Issuer, answer: Result<Fetched, FetchError>) -> Answer<Step> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) if error.may_pass() => return Ok(Step::BackOff),
        Err(error) => return Err(unreachable(&issuer.name, &error)),
    };
    if answer.is_success() {
        return issuer.id_token(&answer).map(Step::Done);
    }
    let refused = issuer.refusal(&answer);
    match refused.as_ref().map(|refused| refused.error.as_str()) {
        Some("authorization_pending") => Ok(Step::Wait),
        Some("slow_down") => Ok(Step::SlowDown),
        Some("expired_token") => Err(too_late(&issuer.name)),
        Some("temporarily_unavailable") => Ok(Step::BackOff),
        _ if answer.status >= 500 || answer.status == 429 => Ok(Step::BackOff),
        _ => Err(issuer.told(refused.as_ref(), answer.status)),
    }
}

async fn begin(issuer: &Issuer, start: &SignInStart) -> Answer<Begun> {
    let endpoint = issuer.device_authorization.as_ref().ok_or_else(|| {
        not_standard(
            &issuer.name,
            "it has no device flow; agentkeys init without --device opens a browser",
        )
    })?;
    let ask = async |fields: &[(&str, &str)]| {
        let answer = issuer.post(endpoint, start, fields).await;
        answer.map_err(|error| unreachable(&issuer.name, &error))
    };
    let scope = ("scope", start.scope.as_str());
    let mut more = vec![scope, ("nonce", start.nonce.as_str())];
    more.extend(issuer.takes_claims.then_some(("claims", CLAIMS)));
    // The standard has no nonce here, but issuers that put one into the token make it stronger.
    let mut answer = ask(&more).await?;
    if answer.status == 400 {
        answer = ask(&[scope]).await?;
    }
    if !answer.is_success() {
        return Err(issuer.told(issuer.refusal(&answer).as_ref(), answer.status));
    }
    let wrong = |_| not_standard(&issuer.name, "its answer begins no device flow");
    answer.json().map_err(wrong)
}

fn show(issuer: &Issuer, begun: &Begun, seconds: u64, tell: Tell<'_>) -> Answer<()> {
    let page = |text: &str| -> Answer<()> {
        let url = text.parse::<Url>().ok();
        let safe = url.is_some_and(|url| url.tls || !issuer.name.starts_with("https:"));
        let why = "the page that it wants opened is not at an https:// URL";
        if safe { Ok(()) } else { Err(not_standard(&issuer.name, why)) }
    };
    page(&begun.verification_uri)?;
    let code = &begun.user_code;
    let typed = code.bytes().all(|c| c.is_ascii_graphic() || c == b' ');
    if code.is_empty() || code.len() > MAX_USER_CODE || !typed {
        return Err(not_standard(&issuer.name, "its code is not one that a person can type"));
    }
    tell("open this page on any device, and type the code there:");
    tell(&format!("  page  {}", begun.verification_uri));
    tell(&format!("  code  {code}"));
    if let Some(complete) = &begun.verification_uri_complete {
        page(complete)?;
        tell(&format!("  or    {complete}"));
    }
    tell("never type a code that somebody else gave you: whoever has it is signed in as you");
    tell(&format!("waiting; the code holds for {} minutes", seconds.div_ceil(60)));
    Ok(())
}

fn too_late(issuer: &str) -> Problem {
    Problem::new(
        Code::Expired,
        "nobody signed in",
        format!("the code ran out before it was typed at {}", cleaned(issuer)),
        "try again: agentkeys init --device",
    )
}
