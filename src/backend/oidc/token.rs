//! Judging one ID token (OpenID Connect Core, section 3.1.3.7), with keys and time given: no I/O.
//!
//! The algorithm is looked at before any key, and the key decides what it may be used with.
//! Headers that bring or name a key are never followed. Every refusal says which check failed,
//! and nothing of the token.
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation};
use serde::Deserialize;
use serde_json::Value;

use super::keys::IssuerKey;
use crate::core::identity::Email;
use crate::core::sign_in::Flow;
use crate::core::types::{Hash32, Timestamp};

/// Largest ID token, in bytes.
pub const MAX_TOKEN: usize = 16 * 1024;
/// By how much the issuer's clock and ours may differ.
pub const SKEW_MS: u64 = 60_000;
/// How old a token may be, however long it says that it holds: as long as used ones are kept.
pub const MAX_AGE_MS: u64 = 10 * 60_000;
/// Longest `sub`, as OpenID Connect has it.
const MAX_SUBJECT: usize = 255;
/// Keys that are tried for a token that names none.
const MAX_TRIED: usize = 8;

/// What a token has to fit.
pub struct Expected<'a> {
    /// The issuer's name, exactly.
    pub issuer: &'a str,
    /// Our name at the issuer.
    pub client_id: &'a str,
    /// The ticket's nonce.
    pub nonce: &'a str,
    /// For which flow the ticket was made.
    pub flow: Flow,
    /// When.
    pub begun: Timestamp,
    /// What time it is.
    pub now: Timestamp,
}

/// What a good token says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Said {
    /// Who it is, at this issuer.
    pub subject: String,
    /// The e-mail address, if the issuer says that it has verified it.
    pub email: Option<Email>,
    /// Hash of header and claims: what the issuer signed, however the signature is written.
    pub used: Hash32,
    /// Until when the same token would be good.
    pub good_until: Timestamp,
}

/// Which check failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    #[error("the ID token is larger than {MAX_TOKEN} bytes")]
    TooLarge,
    #[error("the ID token is not a signed token of three parts")]
    Shape,
    #[error(
        "the ID token is signed by none of RS, PS, ES256, ES384 and EdDSA; unsigned ones and \
             shared secrets are never accepted"
    )]
    Algorithm,
    #[error("the ID token's header demands something that is not known here")]
    Critical,
    #[error("what came is another kind of token, and no ID token")]
    OtherKind,
    #[error("the ID token is signed with a key that the issuer does not publish")]
    UnknownKey,
    #[error("the ID token's algorithm is not one of the key that it names")]
    KeyAlgorithm,
    #[error("the ID token's signature is not its issuer's")]
    Signature,
    #[error("a claim of the ID token is missing, double, or not of its form")]
    Claims,
    #[error("the ID token is another issuer's")]
    Issuer,
    #[error("the ID token is for another client")]
    Audience,
    #[error("the ID token was given to another client (azp)")]
    AuthorizedParty,
    #[error("the ID token has expired")]
    Expired,
    #[error("the ID token is not valid yet; see whether the clocks are right")]
    NotYet,
    #[error("the ID token was made too long ago")]
    TooOld,
    #[error("the ID token was made before this sign-in was begun")]
    BeforeTicket,
    #[error("the ID token is of another sign-in: its nonce is not this one's")]
    Nonce,
    #[error("the ID token does not name its subject in 1 to 255 printable characters")]
    Subject,
}

/// The part of the header that is looked at.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    exp: f64,
    iat: f64,
    nbf: Option<f64>,
    azp: Option<String>,
    nonce: Option<String>,
    email: Option<Value>,
    email_verified: Option<Value>,
    /// Of logout and security event tokens, which have the same issuer, key and audience.
    events: Option<Value>,
}

/// A token whose form and header are good, before any key is looked at.
pub struct Unverified<'a> {
    text: &'a str,
    /// Header and claims: what the issuer signed.
    signed: &'a str,
    key: Option<String>,
    algorithm: Algorithm,
}

/// Looks at size, form and header.
pub fn read(token: &[u8]) -> Result<Unverified<'_>, Refusal> {
    if token.len() > MAX_TOKEN {
        return Err(Refusal::TooLarge);
    }
    let text = std::str::from_utf8(token).map_err(|_| Refusal::Shape)?;
    let (signed, signature) = text.rsplit_once('.').ok_or(Refusal::Shape)?;
    let (head, payload) = signed.split_once('.').ok_or(Refusal::Shape)?;
    let header = read_header(head)?;
    let algorithm = accepted(&header.alg)?;
    if payload.contains('.') || payload.is_empty() || signature.is_empty() {
        return Err(Refusal::Shape);
    }
    Ok(Unverified { text, signed, key: header.kid, algorithm })
}

impl Unverified<'_> {
    /// Judges it.
    pub fn judge(&self, keys: &[IssuerKey], expected: &Expected<'_>) -> Result<Said, Refusal> {
        let claims = self.verified(keys)?;
        fits(claims, Hash32::of(self.signed.as_bytes()), expected)
    }

    /// The claims, once a key of the issuer's has vouched for them.
    fn verified(&self, keys: &[IssuerKey]) -> Result<Claims, Refusal> {
        // The library's own checks of claims go by the system's clock and let some things pass (a
        // list of issuers, a missing audience): here it does form and signature, `fits` the rest.
        let mut signature_only = Validation::new(self.algorithm);
        signature_only.required_spec_claims.clear();
        signature_only.validate_exp = false;
        signature_only.validate_aud = false;
        let named = |key: &&IssuerKey| self.key.is_none() || key.id == self.key;
        let fitting = |key: &&IssuerKey| key.algorithms.contains(&self.algorithm);
        // A key that is known, and not for this, is no reason to ask the issuer again.
        let known = self.key.is_some() && keys.iter().any(|key| named(&key));
        let mut refusal = if known { Refusal::KeyAlgorithm } else { Refusal::UnknownKey };
        for key in keys.iter().filter(named).filter(fitting).take(MAX_TRIED) {
            match jsonwebtoken::decode::<Claims>(self.text, &key.key, &signature_only) {
                Ok(good) => return Ok(good.claims),
                // Signed by nobody's key of those tried: where it names none, a newer one may fit.
                Err(error) if *error.kind() == ErrorKind::InvalidSignature => {
                    if self.key.is_some() {
                        refusal = Refusal::Signature;
                    }
                }
                // The signature was good, and what it covers is not of its form.
                Err(error) if matches!(error.kind(), ErrorKind::Json(_)) => {
                    return Err(Refusal::Claims);
                }
                Err(_) => return Err(Refusal::Shape),
            }
        }
        Err(refusal)
    }
}

fn read_header(part: &str) -> Result<Header, Refusal> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::Shape)?;
    let header: Header = serde_json::from_slice(&json).map_err(|_| Refusal::Shape)?;
    if header.crit.is_some() {
        return Err(Refusal::Critical);
    }
    let jwt = |typ: &str| ["JWT", "application/jwt"].iter().any(|k| typ.eq_ignore_ascii_case(k));
    match &header.typ {
        Some(typ) if !jwt(typ) => Err(Refusal::OtherKind),
        _ => Ok(header),
    }
}

/// The algorithms that are accepted, by their exact names.
fn accepted(name: &str) -> Result<Algorithm, Refusal> {
    Ok(match name {
        "RS256" => Algorithm::RS256,
        "RS384" => Algorithm::RS384,
        "RS512" => Algorithm::RS512,
        "PS256" => Algorithm::PS256,
        "PS384" => Algorithm::PS384,
        "PS512" => Algorithm::PS512,
        "ES256" => Algorithm::ES256,
        "ES384" => Algorithm::ES384,
        "EdDSA" => Algorithm::EdDSA,
        _ => return Err(Refusal::Algorithm),
    })
}

/// Seconds since 1970, with or without a fraction, as milliseconds.
fn date(seconds: f64) -> Result<u64, Refusal> {
    // Beyond the year 5000 nobody means it.
    if (0.0..1e11).contains(&seconds) {
        Ok((seconds * 1000.0) as u64)
    } else {
        Err(Refusal::Claims)
    }
}

fn fits(claims: Claims, used: Hash32, expected: &Expected<'_>) -> Result<Said, Refusal> {
    if claims.events.is_some() {
        return Err(Refusal::OtherKind);
    }
    if claims.iss != expected.issuer {
        return Err(Refusal::Issuer);
    }
    let us = |audience: &String| audience == expected.client_id;
    let (for_us, several) = match &claims.aud {
        Audience::One(one) => (us(one), false),
        Audience::Several(all) => (all.iter().any(us), all.len() > 1),
    };
    if !for_us {
        return Err(Refusal::Audience);
    }
    if claims.azp.as_ref().map_or(several, |party| !us(party)) {
        return Err(Refusal::AuthorizedParty);
    }
    let now = expected.now.0;
    let (exp, iat) = (date(claims.exp)?, date(claims.iat)?);
    let nbf = claims.nbf.map(date).transpose()?.unwrap_or(0);
    if now >= exp.saturating_add(SKEW_MS) {
        return Err(Refusal::Expired);
    }
    if nbf.max(iat) > now.saturating_add(SKEW_MS) {
        return Err(Refusal::NotYet);
    }
    if now >= iat + MAX_AGE_MS + SKEW_MS {
        return Err(Refusal::TooOld);
    }
    if iat.saturating_add(SKEW_MS) < expected.begun.0 {
        return Err(Refusal::BeforeTicket);
    }
    // Some issuers put no nonce into the tokens of the device flow, Google among them.
    let nonce_fits = match &claims.nonce {
        Some(nonce) => nonce == expected.nonce,
        None => expected.flow == Flow::Device,
    };
    if !nonce_fits {
        return Err(Refusal::Nonce);
    }
    let printable = claims.sub.bytes().all(|c| (0x20..0x7f).contains(&c));
    if !(1..=MAX_SUBJECT).contains(&claims.sub.len()) || !printable {
        return Err(Refusal::Subject);
    }
    let email = match (&claims.email, &claims.email_verified) {
        (Some(Value::String(email)), Some(Value::Bool(true))) => email.parse().ok(),
        _ => None,
    };
    let good_until = Timestamp(iat + MAX_AGE_MS + SKEW_MS);
    Ok(Said { subject: claims.sub, email, used, good_until })
}
