//! Sign-in by OpenID Connect, the backend's side: the issuer's keys, ID tokens, and the operator's
//! list. The backend alone judges a token; what a client says of it is never asked.
//!
//! Must never follow a key or URL that a token names, take an e-mail address for an identity, or
//! write anything of a token into a log or an error.
mod issuer;
mod keys;
mod policy;
mod signature;
mod token;

use async_trait::async_trait;
use tokio::time::Instant;

use self::issuer::Issuer;
pub use self::policy::Allowed;
use self::token::{Expected, Refusal};
use super::judge::{Admission, IssuerOffer, Proven, TokenJudge};
use crate::core::problem::{Answer, Code, Problem};
use crate::core::secret::SecretBytes;
use crate::core::sign_in::SignInTicket;
use crate::core::types::{Malformed, Timestamp};
use crate::web::{Fetcher, Url};

/// Longest client id and client secret.
const MAX_CLIENT: usize = 255;

/// What the operator says of the issuer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenIdSettings {
    offer: IssuerOffer,
    allow: Vec<Allowed>,
}

impl OpenIdSettings {
    /// Checks what was given.
    ///
    /// # Errors
    /// Which option is not what it may be.
    pub fn new(offer: IssuerOffer, allow: Vec<Allowed>) -> Result<Self, Malformed> {
        let issuer = offer.issuer.parse::<Url>().is_ok() && !offer.issuer.contains('?');
        if !issuer || !offer.issuer.is_ascii() {
            let why = "wants the issuer's https:// URL, without query; http:// is for this \
                       machine only";
            return Err(Malformed::new("--oidc-issuer", why));
        }
        let plain = |text: &str| {
            (1..=MAX_CLIENT).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_graphic())
        };
        if !plain(&offer.client_id) {
            let why = "wants 1 to 255 printable characters without blanks";
            return Err(Malformed::new("--oidc-client-id", why));
        }
        if offer.client_secret.as_ref().is_some_and(|secret| !plain(secret)) {
            let why = "wants a file with 1 to 255 printable characters without blanks";
            return Err(Malformed::new("--oidc-client-secret-file", why));
        }
        Ok(Self { offer, allow })
    }

    /// The issuer's name.
    pub fn issuer(&self) -> &str {
        &self.offer.issuer
    }

    /// Whether the operator names who may sign in.
    pub fn has_list(&self) -> bool {
        !self.allow.is_empty()
    }
}

/// The judge of one issuer's tokens.
pub struct OpenId {
    settings: OpenIdSettings,
    issuer: Issuer,
}

impl OpenId {
    /// Judges by these settings. The issuer is first asked when somebody signs in.
    pub fn new(settings: OpenIdSettings, fetcher: Fetcher) -> Self {
        let issuer = Issuer::new(settings.offer.issuer.clone(), fetcher);
        Self { settings, issuer }
    }

    fn admission(&self, said: &token::Said) -> Answer<Admission> {
        if !self.settings.has_list() {
            return Ok(Admission::OwnerOnly);
        }
        let cause = match &said.email {
            None => {
                "the issuer names no e-mail address for you that it has verified, and this \
                     backend lets in by a list of them"
            }
            Some(email) if self.settings.allow.iter().any(|entry| entry.names(email)) => {
                return Ok(Admission::Listed);
            }
            Some(_) => "its operator's list does not name your e-mail address",
        };
        Err(Problem::new(
            Code::Denied,
            "access denied: this backend is not open to you",
            cause,
            "ask its operator: serve --oidc-allow lets more people in",
        ))
    }
}

fn refused(why: Refusal) -> Problem {
    let fix = match why {
        Refusal::NotYet | Refusal::Expired | Refusal::TooOld | Refusal::BeforeTicket => {
            "begin again: agentkeys init; if it stays, compare the clocks: agentkeys doctor"
        }
        _ => "begin again: agentkeys init",
    };
    Problem::new(Code::Unauthorized, "the sign-in was not accepted", why.to_string(), fix)
}

#[async_trait]
impl TokenJudge for OpenId {
    fn offer(&self) -> &IssuerOffer {
        &self.settings.offer
    }

    async fn judge(
        &self,
        token: &SecretBytes,
        ticket: &SignInTicket,
        now: Timestamp,
    ) -> Answer<Proven> {
        if !signature::by_ring_alone() {
            return Err(Problem::internal());
        }
        let since = Instant::now();
        let nonce = ticket.nonce();
        let expected = Expected {
            issuer: &self.settings.offer.issuer,
            client_id: &self.settings.offer.client_id,
            nonce: &nonce,
            flow: ticket.says().flow,
            begun: ticket.says().made_at(),
            now,
        };
        // Before the issuer is asked for anything: what is no token is refused without it.
        let token = token::read(token.expose()).map_err(refused)?;
        let kept = self.issuer.keys().await?;
        let mut judged = token.judge(&kept.keys, &expected);
        if judged == Err(Refusal::UnknownKey)
            && let Some(newer) = self.issuer.newer_keys(&kept, since).await?
        {
            judged = token.judge(&newer.keys, &expected);
        }
        let said = judged.map_err(refused)?;
        let admission = self.admission(&said)?;
        Ok(Proven {
            identity: format!("oidc:{}#{}", self.issuer.name(), said.subject),
            email: said.email,
            admission,
            used: said.used,
            good_until: said.good_until,
        })
    }
}
