//! One request to a service, and what its failures mean.
//!
//! Must never repeat what a service answered but its own short message, without anything that
//! could be a secret.
use serde::Deserialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::backend::mint::{Account, Failed};
use crate::core::problem::{Answer, Code, Problem};
use crate::core::provision::Settings;
use crate::core::words::cleaned;
use crate::web::{Asked, FetchError, Fetched, Fetcher, Form, Method};

/// Longest wait that a service's `Retry-After` is believed, in seconds.
const MAX_WAIT: u64 = 60 * 60;

/// A request to a service, about one step for people.
pub struct Talk<'a> {
    pub fetch: &'a Fetcher,
    pub account: &'a Account<'a>,
    /// What is being done, for people.
    pub step: &'static str,
}

/// A request, but for its step.
pub struct Ask<'a> {
    pub method: Method,
    pub url: &'a str,
    pub headers: &'a [(&'static str, &'a str)],
    pub form: Form,
    pub body: Body,
}

/// What is sent.
pub enum Body {
    Nothing,
    Json(Zeroizing<Vec<u8>>),
    Form(Zeroizing<Vec<u8>>),
}

impl Body {
    /// A value as JSON.
    pub fn json(value: &impl serde::Serialize) -> Answer<Self> {
        let bytes = serde_json::to_vec(value).map_err(|_| Problem::internal())?;
        Ok(Self::Json(Zeroizing::new(bytes)))
    }
}

/// The message of an error, as most services have it.
#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    error: Option<Inner>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Inner {
    Text(String),
    Members {
        #[serde(default)]
        message: Option<String>,
    },
}

impl Talk<'_> {
    /// The account's secret as text.
    pub fn secret(&self) -> Answer<&str> {
        let secret = std::str::from_utf8(self.account.secret.expose()).map(str::trim);
        secret.map_err(|_| self.failed("the account's own secret is no text"))
    }

    /// The value of an `Authorization` header, with the account's secret as the token.
    pub fn bearer(&self) -> Answer<Zeroizing<String>> {
        self.secret().map(bearer)
    }

    /// Sends a request without a body, or with JSON, by the account's secret as the token.
    pub async fn by_secret(
        &self,
        method: Method,
        url: &str,
        body: Body,
    ) -> Result<Fetched, Failed> {
        let bearer = self.bearer()?;
        let headers = &[("authorization", bearer.as_str())];
        self.send(Ask { method, url, headers, form: Form::Json, body }).await
    }

    /// Sends a request; what is not a success is a failure.
    pub async fn send(&self, ask: Ask<'_>) -> Result<Fetched, Failed> {
        let fetched = self.any(ask).await?;
        if fetched.is_success() { Ok(fetched) } else { Err(self.refused(&fetched)) }
    }

    /// Sends a request that ends something; what is not there any more is ended.
    pub async fn end(&self, ask: Ask<'_>, gone: &[u16]) -> Answer<()> {
        let fetched = self.any(ask).await?;
        if fetched.is_success() || gone.contains(&fetched.status) {
            return Ok(());
        }
        Err(self.refused(&fetched).problem)
    }

    /// The same by the account's secret as the token.
    pub async fn end_by_secret(&self, url: &str) -> Answer<()> {
        let bearer = self.bearer()?;
        let headers = &[("authorization", bearer.as_str())];
        let (method, form, body) = (Method::DELETE, Form::Json, Body::Nothing);
        self.end(Ask { method, url, headers, form, body }, &[404]).await
    }

    async fn any(&self, ask: Ask<'_>) -> Result<Fetched, Failed> {
        let Ask { method, url, headers, form, body } = ask;
        let (kind, body) = match body {
            Body::Nothing => (None, Zeroizing::default()),
            Body::Json(bytes) => (Some("application/json"), bytes),
            Body::Form(bytes) => (Some("application/x-www-form-urlencoded"), bytes),
        };
        let asked = Asked { method, url, headers, form, kind, body };
        self.fetch.send(asked).await.map_err(|error| self.unfetched(&error))
    }

    /// The body of a success.
    pub fn read<T: DeserializeOwned>(&self, fetched: &Fetched) -> Result<T, Failed> {
        fetched.json().map_err(|error| self.unfetched(&error))
    }

    /// A failure that names the step.
    pub fn failed(&self, cause: impl Into<String>) -> Problem {
        let service = self.account.service;
        Problem::new(
            Code::ProvisionFailed,
            format!("no key of {service} could be got"),
            cause,
            format!("agentkeys provisioner check {service}"),
        )
        .at_step(self.step)
    }

    /// The same for an answer that came and is not what it should be.
    pub fn unread(&self, cause: impl Into<String>) -> Failed {
        Failed { problem: self.failed(cause), maybe_made: true }
    }

    fn unfetched(&self, error: &FetchError) -> Failed {
        let mut problem = self.failed(error.to_string());
        if error.may_pass() {
            problem = Problem::new(
                Code::Unavailable,
                problem.detail.clone(),
                problem.cause.clone(),
                "try again when the service answers",
            )
            .at_step(self.step);
        }
        let redirected = matches!(error, FetchError::Redirect { .. });
        Failed { problem, maybe_made: !error.nothing_sent() && !redirected }
    }

    fn refused(&self, fetched: &Fetched) -> Failed {
        let service = self.account.service;
        let status = fetched.status;
        let said = self.own_message(fetched).map_or_else(String::new, |said| format!(": {said}"));
        let cause = match status {
            401 => format!("{service} refuses the account's own secret (status 401){said}"),
            403 => format!("the account's own secret may not do this (status 403){said}"),
            402 => format!("{service} wants money first (status 402){said}"),
            404 => format!("{service} does not know what the settings name (status 404){said}"),
            429 => format!("{service} has had too many requests (status 429){said}"),
            _ => format!("{service} answered with status {status}{said}"),
        };
        let mut problem = self.failed(cause);
        problem.retry_after = fetched.retry_after.map(|seconds| seconds.min(MAX_WAIT));
        Failed { problem, maybe_made: status >= 500 }
    }

    /// What the service says itself, if that is safe to repeat.
    fn own_message(&self, fetched: &Fetched) -> Option<String> {
        let said = match fetched.json::<Message>() {
            Ok(Message { message: Some(message), .. }) => message,
            Ok(Message { error: Some(Inner::Text(message)), .. }) => message,
            Ok(Message { error: Some(Inner::Members { message }), .. }) => message?,
            _ => xml_message(fetched.text()?)?,
        };
        let said = cleaned(&said, &[self.account.secret.expose()]);
        (!said.is_empty()).then(|| format!("\"{said}\""))
    }
}

/// `<Message>`, as AWS has it.
fn xml_message(text: &str) -> Option<String> {
    let document = roxmltree::Document::parse(text).ok()?;
    let mut nodes = document.descendants();
    let message = nodes.find(|node| node.tag_name().name() == "Message")?;
    message.text().map(str::to_owned)
}

/// The value of an `Authorization` header.
pub fn bearer(token: &str) -> Zeroizing<String> {
    let mut value = Zeroizing::new(String::with_capacity(7 + token.len()));
    value.push_str("Bearer ");
    value.push_str(token);
    value
}

/// The service's address: its own, or the setting `url`.
pub fn base<'a>(settings: &'a Settings, own: &'a str) -> &'a str {
    settings.get("url").unwrap_or(own).trim_end_matches('/')
}

/// One part of a path, as a URL has it; `None` for what is none.
pub fn part(text: &str) -> Option<&str> {
    let fits = |c: u8| c.is_ascii_alphanumeric() || b"-_".contains(&c);
    (!text.is_empty() && text.len() <= 128 && text.bytes().all(fits)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_found_in_the_xml_of_an_error() {
        let xml = "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error>\
                   <Code>AccessDenied</Code><Message>not yours</Message></Error></ErrorResponse>";
        assert_eq!(xml_message(xml).unwrap(), "not yours");
        assert_eq!(xml_message("<a"), None);
    }

    #[test]
    fn a_part_of_a_path_leads_nowhere_else() {
        assert_eq!(part("proj_a-1"), Some("proj_a-1"));
        for wrong in ["", "a/b", "..", "a?b", "a%2f", "a b", &"a".repeat(129)] {
            assert_eq!(part(wrong), None, "{wrong}");
        }
    }
}
