//! The issuer as a client sees it: what its discovery document offers, its token endpoint, and its
//! refusals in words. Everything that it says is bounded, and cleaned before it is shown.
use serde::Deserialize;

use crate::core::problem::{Answer, Code, Problem};
use crate::core::secret::SecretBytes;
use crate::core::sign_in::{SignInStart, discovery_url};
use crate::core::wire::{AuthToken, Shown};
use crate::web::{FetchError, Fetched, Fetcher, Url};

/// Most characters of an issuer's text that are shown.
const MAX_SHOWN: usize = 200;

/// The claims that are asked for by name.
pub const CLAIMS: &str = r#"{"id_token":{"email":null,"email_verified":null}}"#;

/// What the discovery document says that matters here.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    authorization_endpoint: Option<String>,
    token_endpoint: Option<String>,
    device_authorization_endpoint: Option<String>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
    #[serde(default)]
    claims_parameter_supported: bool,
}

/// What the token endpoint answers. Its other tokens are not even read.
#[derive(Deserialize)]
struct Tokens {
    id_token: Shown<AuthToken>,
}

/// An OAuth error as RFC 6749 has it.
#[derive(Deserialize)]
pub struct Refused {
    /// What went wrong, by its name.
    pub error: String,
    #[serde(default)]
    error_description: String,
}

/// An issuer whose discovery document was read.
pub struct Issuer {
    /// Its name.
    pub name: String,
    /// Where a browser begins.
    pub authorization: Option<Url>,
    /// Where a device begins.
    pub device_authorization: Option<Url>,
    /// Whether it can be asked for single claims. Without being asked, some keep the e-mail
    /// address out of the ID token.
    pub takes_claims: bool,
    /// Whether it names itself in its answers to a browser (RFC 9207).
    pub names_itself: bool,
    token: Url,
    fetcher: Fetcher,
}

/// What an issuer wrote, on one line of plain ASCII.
pub fn cleaned(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(MAX_SHOWN).collect()
}

/// The issuer does not keep to the standard; `why` is ours.
pub fn not_standard(issuer: &str, why: &str) -> Problem {
    Problem::new(
        Code::Internal,
        format!("the issuer {} cannot be signed in by", cleaned(issuer)),
        why,
        "the backend's operator looks at serve --oidc-issuer; docs/sign-in.md shows how",
    )
}

/// The issuer does not answer.
pub fn unreachable(issuer: &str, error: &FetchError) -> Problem {
    Problem::new(
        Code::Unavailable,
        format!("the issuer {} cannot be reached", cleaned(issuer)),
        error.to_string(),
        "try again; if it stays, look at this machine's way to the issuer; a certificate of an \
         authority of your own is trusted by SSL_CERT_FILE",
    )
}

impl Issuer {
    /// Reads the discovery document.
    ///
    /// # Errors
    /// `UNAVAILABLE` when it is not to be had, `INTERNAL` when it is another issuer's, or names
    /// endpoints that are not as safe as itself.
    pub async fn discover(fetcher: Fetcher, name: &str) -> Answer<Self> {
        let answer = fetcher.get_json(&discovery_url(name)).await;
        let answer = answer.map_err(|error| unreachable(name, &error))?;
        if !answer.is_success() {
            let why = format!("its discovery document is answered with status {}", answer.status);
            return Err(not_standard(name, &why));
        }
        let found: Discovery =
            answer.json().map_err(|error| not_standard(name, &error.to_string()))?;
        if found.issuer != name {
            let why = format!(
                "its discovery document is that of another issuer, \"{}\"",
                cleaned(&found.issuer)
            );
            return Err(not_standard(name, &why));
        }
        let endpoint = |text: Option<String>| -> Answer<Option<Url>> {
            let Some(text) = text else { return Ok(None) };
            let url: Url = text.parse().map_err(|error: crate::web::UrlError| {
                not_standard(name, &format!("one of its endpoints is not opened: {error}"))
            })?;
            if name.starts_with("https:") && !url.tls {
                return Err(not_standard(name, "one of its endpoints is not at an https:// URL"));
            }
            Ok(Some(url))
        };
        Ok(Self {
            authorization: endpoint(found.authorization_endpoint)?,
            device_authorization: endpoint(found.device_authorization_endpoint)?,
            token: endpoint(found.token_endpoint)?
                .ok_or_else(|| not_standard(name, "it has no token endpoint"))?,
            takes_claims: found.claims_parameter_supported,
            names_itself: found.authorization_response_iss_parameter_supported,
            name: found.issuer,
            fetcher,
        })
    }

    /// Sends a form as this backend's client.
    pub async fn post(
        &self,
        url: &Url,
        start: &SignInStart,
        fields: &[(&str, &str)],
    ) -> Result<Fetched, FetchError> {
        let mut all = vec![("client_id", start.client_id.as_str())];
        all.extend(start.client_secret.as_ref().map(|secret| ("client_secret", secret.as_str())));
        all.extend(fields);
        self.fetcher.post_form(&format!("{}{}", url.origin(), url.target), &all).await
    }

    /// Asks the token endpoint.
    pub async fn ask_for_token(
        &self,
        start: &SignInStart,
        fields: &[(&str, &str)],
    ) -> Result<Fetched, FetchError> {
        self.post(&self.token, start, fields).await
    }

    /// The ID token of a good answer.
    ///
    /// # Errors
    /// `INTERNAL` when there is none.
    pub fn id_token(&self, answer: &Fetched) -> Answer<SecretBytes> {
        let none = |_| not_standard(&self.name, "its answer holds no ID token");
        let tokens: Tokens = answer.json().map_err(none)?;
        Ok(tokens.id_token.0.0)
    }

    /// The refusal of a bad one.
    pub fn refusal(&self, answer: &Fetched) -> Option<Refused> {
        answer.json().ok()
    }

    /// A refusal in words.
    pub fn told(&self, refused: Option<&Refused>, status: u16) -> Problem {
        let (code, said) = match refused {
            Some(Refused { error, error_description }) => {
                let code = match error.as_str() {
                    "access_denied" => Code::Denied,
                    "expired_token" => Code::Expired,
                    "temporarily_unavailable" | "server_error" => Code::Unavailable,
                    _ => Code::Internal,
                };
                let mut said = format!("it answered \"{}\"", cleaned(error));
                if !error_description.is_empty() {
                    said.push_str(&format!(": \"{}\"", cleaned(error_description)));
                }
                (code, said)
            }
            None => (Code::Internal, format!("it answered with status {status}")),
        };
        Problem::new(
            code,
            format!("the issuer {} did not sign you in", cleaned(&self.name)),
            said,
            "try again: agentkeys init; if it stays, docs/sign-in.md says how an issuer is set up",
        )
    }
}

impl Refused {
    /// A refusal that came by another way than an answer's body.
    pub fn new(error: String, error_description: String) -> Self {
        Self { error, error_description }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_issuer_writes_is_one_short_line_that_steers_no_terminal() {
        assert_eq!(cleaned("no\u{1b}[2J\r\nway\u{202e}!"), "no[2Jway!");
        assert_eq!(cleaned(&"a".repeat(1000)).len(), MAX_SHOWN);
    }
}
