//! Who judges ID tokens, as the vault knows them: it makes accounts and sessions of what was
//! proven, and never sees HTTP, a key set or a claim.
use async_trait::async_trait;

use crate::core::identity::Email;
use crate::core::problem::Answer;
use crate::core::secret::SecretBytes;
use crate::core::sign_in::SignInTicket;
use crate::core::types::{Hash32, Timestamp};

/// What a client needs to know of the issuer; all of it is public.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IssuerOffer {
    /// The issuer, as its discovery document names itself.
    pub issuer: String,
    /// By what name it knows this backend's clients.
    pub client_id: String,
    /// What some issuers want from installed programs beside.
    pub client_secret: Option<String>,
}

/// By what right somebody who is proven may come in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// The operator's list names them.
    Listed,
    /// There is no list: who has an account, and the first of all.
    OwnerOnly,
}

/// What an ID token proved.
#[derive(Clone, Debug)]
pub struct Proven {
    /// Issuer and subject: the identity, which an e-mail address never is.
    pub identity: String,
    /// The e-mail address, if the issuer has verified it: a label.
    pub email: Option<Email>,
    /// By what right they come in.
    pub admission: Admission,
    /// Hash of what the issuer signed, by which a second use is noticed.
    pub used: Hash32,
    /// Until when the same token would be accepted but for its first use.
    pub good_until: Timestamp,
}

/// Judges the ID tokens of one issuer.
#[async_trait]
pub trait TokenJudge: Send + Sync {
    /// What a client begins with.
    fn offer(&self) -> &IssuerOffer;

    /// What the token proves, for a sign-in that was begun with this ticket, which the caller has
    /// recognised as its own.
    ///
    /// # Errors
    /// `UNAUTHORIZED` with the check that failed, `DENIED` for somebody whom the operator's list
    /// does not name, `UNAVAILABLE` while the issuer's keys are not to be had.
    async fn judge(
        &self,
        token: &SecretBytes,
        ticket: &SignInTicket,
        now: Timestamp,
    ) -> Answer<Proven>;
}
