//! The authorization code flow with PKCE (RFC 7636), answered on a loopback port as RFC 8252 has
//! it for programs on the person's own machine.
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};

use super::browser::Desktop;
use super::callback::Callback;
use super::issuer::{CLAIMS, Issuer, not_standard, unreachable};
use super::random_text;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::secret::SecretBytes;
use crate::core::sign_in::{SignInStart, Tell};
use crate::web::Url;

/// Longest that a person may take at the issuer.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

pub async fn id_token(issuer: &Issuer, start: &SignInStart, tell: Tell<'_>) -> Answer<SecretBytes> {
    let endpoint = issuer.authorization.as_ref().ok_or_else(|| {
        not_standard(&issuer.name, "it has no authorization endpoint; try --device")
    })?;
    let (state, verifier) = (random_text()?, random_text()?);
    let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes()));
    let expected_issuer = issuer.names_itself.then_some(issuer.name.as_str());
    let mut callback = Callback::listen(&state, &issuer.name, expected_issuer).await?;
    let redirect = callback.address();
    let mut fields = vec![
        ("response_type", "code"),
        ("client_id", &start.client_id),
        ("redirect_uri", &redirect),
        ("scope", &start.scope),
        ("state", &state),
        ("nonce", &start.nonce),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
    ];
    fields.extend(issuer.takes_claims.then_some(("claims", CLAIMS)));
    let page = page(endpoint, &fields);
    let opened = Desktop::from_environment().open(&page);
    tell(if opened {
        "your browser opens; if it does not, open this address in one on this machine:"
    } else {
        "open this address in a browser on this machine:"
    });
    tell(&format!("  {page}"));
    if !opened {
        tell("no browser here? agentkeys init --device signs in from any other device");
    }
    let answer = tokio::time::timeout(PATIENCE, callback.answer()).await;
    let answer = answer.map_err(|_| nobody_answered())?;
    let code = answer.map_err(|refused| issuer.told(Some(&refused), 0))?;
    let fields = [
        ("grant_type", "authorization_code"),
        ("code", code.as_str()),
        ("redirect_uri", &redirect),
        ("code_verifier", &verifier),
    ];
    let answer = issuer.ask_for_token(start, &fields).await;
    // Meanwhile the browser has its page.
    callback.finish().await;
    let answer = answer.map_err(|error| unreachable(&issuer.name, &error))?;
    if !answer.is_success() {
        return Err(issuer.told(issuer.refusal(&answer).as_ref(), answer.status));
    }
    issuer.id_token(&answer)
}

fn nobody_answered() -> Problem {
    Problem::new(
        Code::Expired,
        "nobody signed in",
        format!("no answer came from the browser within {} minutes", PATIENCE.as_secs() / 60),
        "try again: agentkeys init\nor, where the browser is on another machine: agentkeys init --device",
    )
}

/// The endpoint with these fields in its query, beside what stands there already.
fn page(endpoint: &Url, fields: &[(&str, &str)]) -> String {
    let mut page = format!("{}{}", endpoint.origin(), endpoint.target);
    for (name, value) in fields {
        page.push(if page.contains('?') { '&' } else { '?' });
        page.push_str(name);
        page.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                page.push(char::from(byte));
            } else {
                page.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_the_endpoint_s_query_stays_and_no_value_ends_early() {
        let url = |text: &str| text.parse::<Url>().unwrap();
        let fields = [("scope", "openid email"), ("a", "b&c=d#e")];
        assert_eq!(
            page(&url("https://a.org/auth"), &fields),
            "https://a.org/auth?scope=openid%20email&a=b%26c%3Dd%23e"
        );
        assert_eq!(
            page(&url("https://a.org/auth?tenant=x"), &fields[..1]),
            "https://a.org/auth?tenant=x&scope=openid%20email"
        );
    }
}
