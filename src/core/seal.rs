//! Sealing: HPKE (RFC 9180), base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM.
//!
//! Sealed bytes are `version (1) || key id (8) || encapsulated key (32) || ciphertext`.
use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::{TryCryptoRng, TryRng};
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use zeroize::Zeroizing;

use super::frame::Frame;
use super::identity::ServiceName;
use super::secret::{Key32, SecretBytes};
use super::types::{AccountId, KeyId, PublicKey, RequestId, WalletAddress};

/// The suite, as `GET /shielding-key` names it.
pub const SUITE: &str = "DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM";

const VERSION: u8 = 1;
const HEADER: usize = 1 + 8 + 32;
/// What sealing adds to a plaintext, in bytes.
pub const OVERHEAD: usize = HEADER + 16;

type PrivateKey = <X25519HkdfSha256 as Kem>::PrivateKey;

/// Why sealed bytes were not opened. Deliberately says no more to whoever sent them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Too short, or of a version that this program does not know.
    #[error("not sealed bytes of a known version")]
    Format,
    /// Sealed to another key.
    #[error("sealed to another key")]
    OtherKey,
    /// Changed, or sealed for another purpose (account, agent, service or request).
    #[error("changed since it was sealed, or sealed for something else")]
    Unauthentic,
    /// The public key is not usable.
    #[error("the public key is not usable")]
    Key,
}

/// What sealed bytes are for; bound to them, so that they open for nothing else.
pub struct Purpose {
    info: &'static [u8],
    bound: Frame,
}

impl Purpose {
    /// A credential on its way to the backend.
    pub fn credential(account: AccountId, agent: WalletAddress, service: &ServiceName) -> Self {
        let bound = Frame::new("credential")
            .field(&account.0)
            .field(&agent.0)
            .field(service.as_str().as_bytes());
        Self { info: b"AgentKeys-v1-Credential", bound }
    }

    /// An account's own secret at a service, on its way to the backend.
    pub fn provider(account: AccountId, service: &ServiceName) -> Self {
        let bound = Frame::new("provider").field(&account.0).field(service.as_str().as_bytes());
        Self { info: b"AgentKeys-v1-Provider", bound }
    }

    /// A payload on its way to the daemon that opened `request`.
    pub fn payload(request: RequestId) -> Self {
        Self { info: b"AgentKeys-v1-Payload", bound: Frame::new("payload").field(&request.0) }
    }
}

/// Hands out bytes that the caller drew, so that this file has no randomness of its own.
struct Drawn<'a>(&'a [u8]);

impl TryRng for Drawn<'_> {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut out = [0; 4];
        self.try_fill_bytes(&mut out)?;
        Ok(u32::from_le_bytes(out))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut out = [0; 8];
        self.try_fill_bytes(&mut out)?;
        Ok(u64::from_le_bytes(out))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        let (now, rest) = self.0.split_at(out.len());
        out.copy_from_slice(now);
        self.0 = rest;
        Ok(())
    }
}

impl TryCryptoRng for Drawn<'_> {}

/// Seals `plaintext` to `recipient`. `random` is 32 fresh random bytes, used for nothing else.
pub fn seal(
    recipient: &PublicKey,
    purpose: &Purpose,
    plaintext: &[u8],
    random: &Key32,
) -> Result<Vec<u8>, SealError> {
    let key = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&recipient.0)
        .map_err(|_| SealError::Key)?;
    let (encapsulated, ciphertext) =
        hpke::single_shot_seal_with_rng::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &key,
            purpose.info,
            plaintext,
            purpose.bound.bytes(),
            &mut Drawn(random.expose()),
        )
        .map_err(|_| SealError::Key)?;
    let mut sealed = Vec::with_capacity(HEADER + ciphertext.len());
    sealed.push(VERSION);
    sealed.extend_from_slice(&KeyId::of(recipient).0);
    sealed.extend_from_slice(&encapsulated.to_bytes());
    sealed.extend_from_slice(&ciphertext);
    Ok(sealed)
}

/// Opens sealed bytes with the private key `secret`.
pub fn open(secret: &Key32, purpose: &Purpose, sealed: &[u8]) -> Result<SecretBytes, SealError> {
    if sealed.len() < OVERHEAD || sealed[0] != VERSION {
        return Err(SealError::Format);
    }
    if sealed[1..9] != KeyId::of(&public_key(secret)?).0 {
        return Err(SealError::OtherKey);
    }
    let key = PrivateKey::from_bytes(secret.expose()).map_err(|_| SealError::Key)?;
    let encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&sealed[9..HEADER])
        .map_err(|_| SealError::Format)?;
    hpke::single_shot_open::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &key,
        &encapsulated,
        purpose.info,
        &sealed[HEADER..],
        purpose.bound.bytes(),
    )
    .map(SecretBytes::new)
    .map_err(|_| SealError::Unauthentic)
}

/// Makes an X25519 key pair from 32 fresh random bytes (RFC 9180 `DeriveKeyPair`).
pub fn key_pair(random: &Key32) -> (Key32, PublicKey) {
    let (secret, public) = X25519HkdfSha256::derive_keypair(random.expose());
    let bytes = Zeroizing::new(<[u8; 32]>::from(secret.to_bytes()));
    (Key32::new(*bytes), PublicKey(public.to_bytes().into()))
}

/// The public half of an X25519 private key.
pub fn public_key(secret: &Key32) -> Result<PublicKey, SealError> {
    let key = PrivateKey::from_bytes(secret.expose()).map_err(|_| SealError::Key)?;
    Ok(PublicKey(X25519HkdfSha256::sk_to_pk(&key).to_bytes().into()))
}
