//! The signed answer to an auth request, and every check that a child makes before it takes
//! anything from it.
use ring::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use super::auth_request::{Details, Kind};
use super::frame::Frame;
use super::otp::{Covered, Otp, PairCode};
use super::scope::Scope;
use super::types::{
    AccountId, BackendId, ChildKeys, Hash32, Nonce, PublicKey, RequestId, SessionId, Signature,
    Timestamp, WalletAddress,
};

/// What is signed begins with this.
const DOMAIN: &str = "AgentKeys-v1-AuthRequest";

/// Yes or no.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The master said yes.
    Approved,
    /// The master said no.
    Denied,
}

/// What an approval gave.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Granted {
    /// The agent that the child now is, or already was.
    pub agent: WalletAddress,
    /// What it may do.
    pub scope: Scope,
    /// When the minted session, or the release, ends.
    pub expires_at: Timestamp,
    /// SHA-256 of the payload's plaintext, which holds the minted session; absent when none
    /// was minted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_hash: Option<Hash32>,
}

/// The signed fields, the key and the signature.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// The request that is answered.
    pub request_id: RequestId,
    /// Its kind.
    pub kind: Kind,
    /// Its canonical details, base64 on the wire.
    #[serde(with = "super::encoding::base64_bytes")]
    pub details: Vec<u8>,
    /// The child's public keys.
    pub child_pubkey: ChildKeys,
    /// The session that the child had when it asked; absent for a child without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_session: Option<SessionId>,
    /// When the request was opened.
    pub created_at: Timestamp,
    /// The nonce, now shown.
    pub nonce: Nonce,
    /// Yes or no.
    pub verdict: Verdict,
    /// The backend that answers.
    pub backend_id: BackendId,
    /// The account that answered.
    pub account: AccountId,
    /// What was given; absent for a denial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted: Option<Granted>,
    /// The account's master public key (Ed25519).
    pub master_key: PublicKey,
    /// Ed25519 over SHA-256 of the framed fields above, `master_key` apart.
    pub signature: Signature,
}

/// Which check of a decision failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Mistrust {
    /// It answers another request.
    #[error("the decision is for another request")]
    OtherRequest,
    /// The nonce is not the one whose hash was given at open.
    #[error("the nonce does not match the hash that was given when the request was opened")]
    Nonce,
    /// The session or the time of opening is not what the child knows.
    #[error("the request's session or time was changed")]
    Opening,
    /// The OTP computed from the nonce is another.
    #[error("the OTP that was shown does not come from the nonce")]
    Otp,
    /// The pair code computed from the nonce is another.
    #[error("the pair code that was shown does not come from the nonce")]
    PairCode,
    /// Kind or details were changed.
    #[error("the request's details were changed")]
    Details,
    /// The keys are not the child's own.
    #[error("the request's keys are not this child's")]
    Keys,
    /// It says yes and gives nothing, or no and gives something.
    #[error("the verdict and the grant contradict each other")]
    Verdict,
    /// The grant is for an agent that the request did not name.
    #[error("the grant is for another agent than the one that asked")]
    OtherAgent,
    /// More was granted than was asked for.
    #[error("the grant is wider than what was asked for")]
    Wider,
    /// The signature is not the master key's.
    #[error("the signature does not verify")]
    Signature,
    /// The master key or account is not the pinned one.
    #[error("the account or its master key is not the pinned one")]
    Pin,
    /// The payload is not the one that was signed.
    #[error("the payload is not the one that was signed")]
    Payload,
}

/// What a child has held since it opened its request, and judges a decision by.
pub struct Expected<'a> {
    /// The request's id.
    pub request_id: RequestId,
    /// What it asked for.
    pub details: &'a Details,
    /// Its public keys.
    pub keys: ChildKeys,
    /// The session that it had when it asked, if it had one.
    pub parent_session: Option<SessionId>,
    /// When the request was opened, from the answer to open.
    pub created_at: Timestamp,
    /// SHA-256 of the nonce, from the answer to open.
    pub nonce_hash: Hash32,
    /// The OTP that it showed.
    pub otp: Otp,
    /// The pair code that it showed.
    pub pair_code: PairCode,
    /// The scope it asked for; the grant may be no wider. Absent where it asked for none, and
    /// is given what its agent has.
    pub asked: Option<Scope>,
    /// Account and master key, when they are known beforehand.
    pub pinned: Option<(AccountId, PublicKey)>,
}

impl Decision {
    /// SHA-256 of the domain string and the framed fields: what the master key signs.
    pub fn digest(&self) -> Hash32 {
        let verdict: &[u8] = match self.verdict {
            Verdict::Approved => b"approved",
            Verdict::Denied => b"denied",
        };
        let granted = self.granted.as_ref().map(|granted| {
            super::cbor::to_canonical(granted).expect("a grant holds nothing that CBOR forbids")
        });
        let framed = Frame::new(DOMAIN)
            .field(&self.request_id.0)
            .field(self.kind.as_str().as_bytes())
            .field(&self.details)
            .field(&self.child_pubkey.0)
            .optional(self.parent_session.as_ref().map(|id| &id.0[..]))
            .field(&self.created_at.0.to_be_bytes())
            .field(&self.nonce.0)
            .field(verdict)
            .field(&self.backend_id.0)
            .field(&self.account.0)
            .optional(granted.as_deref());
        Hash32::of(framed.bytes())
    }

    /// Signs the fields with the account's master key.
    pub fn sign(&mut self, master: &Ed25519KeyPair) {
        use ring::signature::KeyPair;
        self.master_key.0.copy_from_slice(master.public_key().as_ref());
        let signature = master.sign(&self.digest().0);
        self.signature.0.copy_from_slice(signature.as_ref());
    }

    /// Every check that a child makes, in order; the first that fails is named.
    pub fn verify(&self, expected: &Expected<'_>) -> Result<(), Mistrust> {
        let must = |holds: bool, otherwise: Mistrust| if holds { Ok(()) } else { Err(otherwise) };
        must(self.request_id == expected.request_id, Mistrust::OtherRequest)?;
        must(Hash32::of(&self.nonce.0) == expected.nonce_hash, Mistrust::Nonce)?;
        let details = expected.details.canonical().map_err(|_| Mistrust::Details)?;
        must(self.kind == expected.details.kind(), Mistrust::Details)?;
        must(self.details == details, Mistrust::Details)?;
        must(self.child_pubkey == expected.keys, Mistrust::Keys)?;
        must(self.parent_session == expected.parent_session, Mistrust::Opening)?;
        must(self.created_at == expected.created_at, Mistrust::Opening)?;
        let covered = Covered {
            request: expected.request_id,
            kind: self.kind,
            details: &details,
            keys: &expected.keys,
        };
        must(covered.otp(&self.nonce) == expected.otp, Mistrust::Otp)?;
        must(covered.pair_code(&self.nonce) == expected.pair_code, Mistrust::PairCode)?;
        must((self.verdict == Verdict::Approved) == self.granted.is_some(), Mistrust::Verdict)?;
        if let Some(granted) = &self.granted {
            let named = expected.details.wallet();
            must(named.is_none_or(|wallet| wallet == granted.agent), Mistrust::OtherAgent)?;
            let asked = expected.asked.as_ref();
            must(asked.is_none_or(|asked| granted.scope.within(asked)), Mistrust::Wider)?;
        }
        UnparsedPublicKey::new(&ED25519, self.master_key.0)
            .verify(&self.digest().0, &self.signature.0)
            .map_err(|_| Mistrust::Signature)?;
        if let Some((account, key)) = &expected.pinned {
            must(*account == self.account && *key == self.master_key, Mistrust::Pin)?;
        }
        Ok(())
    }

    /// Checks an opened payload against what was signed.
    pub fn verify_payload(&self, plaintext: &[u8]) -> Result<(), Mistrust> {
        let signed = self.granted.as_ref().and_then(|granted| granted.session_hash);
        if signed == Some(Hash32::of(plaintext)) { Ok(()) } else { Err(Mistrust::Payload) }
    }
}

/// What a payload holds once the daemon has opened it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Payload {
    /// The agent that the daemon now is.
    pub agent: WalletAddress,
    /// When the session ends unless it is renewed.
    pub expires_at: Timestamp,
    /// What the next session is got with.
    pub renewal: String,
    /// The child session's token.
    pub session: String,
}

impl Drop for Payload {
    fn drop(&mut self) {
        use zeroize::Zeroize;
        self.session.zeroize();
        self.renewal.zeroize();
    }
}
