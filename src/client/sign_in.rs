//! Sign-in by OpenID Connect, the client's side: gets an ID token from the issuer that a backend
//! names, as a public client with PKCE, in a browser here or by a code on any device.
//!
//! Only the ID token goes on, to the backend, which alone judges it; the issuer's other tokens
//! are never read. Must never follow a redirect, send what is the issuer's to another server, or
//! show a terminal what an issuer wrote before it was cleaned.
pub mod browser;
mod callback;
mod code;
mod device;
pub mod issuer;

use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use self::issuer::Issuer;
use crate::core::problem::{Answer, Problem};
use crate::core::secret::SecretBytes;
use crate::core::sign_in::{Flow, SignInStart, Tell};
use crate::web::Fetcher;

/// Gets an ID token from the issuer, with the person's help.
///
/// # Errors
/// `UNAVAILABLE` when the issuer does not answer, `DENIED` when the person or the issuer says
/// no, `EXPIRED` when nobody answers in time, `INTERNAL` for an issuer that does not keep to the
/// standard.
pub async fn id_token(start: &SignInStart, flow: Flow, tell: Tell<'_>) -> Answer<SecretBytes> {
    let issuer = Issuer::discover(Fetcher::new(), &start.issuer).await?;
    match flow {
        Flow::Code => code::id_token(&issuer, start, tell).await,
        Flow::Device => device::id_token(&issuer, start, tell).await,
    }
}

/// Fresh random bits as text, for what is compared or proven later.
fn random_text() -> Answer<Zeroizing<String>> {
    use base64::Engine;
    let mut bytes = Zeroizing::new([0; 32]);
    SystemRandom::new().fill(&mut *bytes).map_err(|_| Problem::internal())?;
    Ok(Zeroizing::new(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(*bytes)))
}
