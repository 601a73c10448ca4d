//! A daemon's own keys and tokens, in secret memory for as long as they are held.
//!
//! What a call needs in ordinary memory, such as a token in a header, is made for that call and
//! wiped after it. Must never print or store any of it.
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};
use zeroize::Zeroizing;

use crate::core::problem::{Code, Problem};
use crate::core::seal::{self, Purpose, SealError};
use crate::core::secret::{Key32, SecretBytes};
use crate::core::token::{RenewalSecret, SessionToken};
use crate::core::types::{ChildKeys, Hash32, PublicKey, RequestId, SessionId, Timestamp};
use crate::harden::{Hidden, SecretMemoryError};

/// Why a secret could not be made or kept.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is no secret memory for it.
    #[error(transparent)]
    Memory(#[from] SecretMemoryError),
    /// The system gave no randomness.
    #[error("the system gave no randomness")]
    Random,
    /// Bytes that should be a key are none.
    #[error("the bytes are no key")]
    NoKey,
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        Self::new(
            Code::Internal,
            "the daemon has no safe place for its keys",
            error.to_string(),
            "agentkeys doctor says how this machine stands",
        )
    }
}

/// 32 fresh random bytes, written where they stay.
pub fn random() -> Result<Hidden<[u8; 32]>, KeyError> {
    Hidden::fill(|bytes| SystemRandom::new().fill(bytes).map_err(|_| KeyError::Random))
}

fn hide(bytes: &[u8; 32]) -> Result<Hidden<[u8; 32]>, KeyError> {
    Hidden::fill(|place| {
        place.copy_from_slice(bytes);
        Ok(())
    })
}

/// The key pairs of one daemon: Ed25519 to sign with, X25519 to open payloads with.
pub struct Keys {
    /// What everybody may know.
    pub public: ChildKeys,
    ed25519: Hidden<[u8; 32]>,
    x25519: Hidden<[u8; 32]>,
}

impl Keys {
    /// Fresh ones.
    ///
    /// # Errors
    /// Any of [`KeyError`] but `NoKey`.
    pub fn fresh() -> Result<Self, KeyError> {
        let seed = random()?;
        let drawn = random()?;
        let (secret, public) = seal::key_pair(&Key32::new(*drawn.expose()));
        let x25519 = hide(secret.expose())?;
        Ok(Self {
            public: ChildKeys::new(ed25519_public(seed.expose())?, public),
            ed25519: seed,
            x25519,
        })
    }

    /// Those that a mirror holds; they must belong to `public`.
    ///
    /// # Errors
    /// [`KeyError::NoKey`] for others, and [`KeyError::Memory`].
    pub fn restore(
        public: ChildKeys,
        ed25519: &[u8; 32],
        x25519: &[u8; 32],
    ) -> Result<Self, KeyError> {
        let opens = seal::public_key(&Key32::new(*x25519)).map_err(|_| KeyError::NoKey)?;
        if ChildKeys::new(ed25519_public(ed25519)?, opens) != public {
            return Err(KeyError::NoKey);
        }
        Ok(Self { public, ed25519: hide(ed25519)?, x25519: hide(x25519)? })
    }

    /// Opens a payload that answers `request`.
    ///
    /// # Errors
    /// Those of [`seal::open`].
    pub fn open(&self, request: RequestId, sealed: &[u8]) -> Result<SecretBytes, SealError> {
        seal::open(&Key32::new(*self.x25519.expose()), &Purpose::payload(request), sealed)
    }

    /// Vouches for bytes that this daemon writes down for itself, so that it knows them again.
    /// `purpose` keeps one use apart from another.
    pub fn vouch(&self, purpose: &str, bytes: &[u8]) -> Hash32 {
        let (ed25519, _) = self.expose();
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &*ed25519), purpose.as_bytes());
        let key = hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref());
        let mut tag = [0; 32];
        tag.copy_from_slice(hmac::sign(&key, bytes).as_ref());
        Hash32(tag)
    }

    /// Both secrets, Ed25519 first, for the mirror that is sealed with them inside.
    pub fn expose(&self) -> (Zeroizing<[u8; 32]>, Zeroizing<[u8; 32]>) {
        (Zeroizing::new(*self.ed25519.expose()), Zeroizing::new(*self.x25519.expose()))
    }
}

fn ed25519_public(seed: &[u8; 32]) -> Result<PublicKey, KeyError> {
    let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError::NoKey)?;
    pair.public_key().as_ref().try_into().map(PublicKey).map_err(|_| KeyError::NoKey)
}

/// How long a child session lives, in milliseconds: 4 hours.
const LIFE_MS: u64 = 4 * 60 * 60 * 1000;
/// The shortest that is believed, in milliseconds.
const LEAST_MS: u64 = 60 * 1000;

/// A child session's token while it is not being used.
pub struct HeldSession {
    random: Hidden<[u8; 32]>,
    /// Its public name.
    pub id: SessionId,
    /// When it ends unless it is renewed.
    pub expires_at: Timestamp,
    /// From when on it is to be renewed.
    pub renew_at: Timestamp,
}

impl HeldSession {
    /// Takes a token into secret memory. It is to be renewed when three quarters of its time
    /// have passed. An end that makes no sense by this machine's clock, which may be wrong, is
    /// taken as [`LIFE_MS`] from now: that it has ended is the backend's to say, and a clock that
    /// is ahead must not have each session renewed at once.
    ///
    /// # Errors
    /// [`KeyError::NoKey`] for a token that is not a child's, and [`KeyError::Memory`].
    pub fn new(
        token: &SessionToken,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<Self, KeyError> {
        if !token.is_child() {
            return Err(KeyError::NoKey);
        }
        let life = match expires_at.since_ms(now) {
            life @ LEAST_MS..=LIFE_MS => life,
            _ => LIFE_MS,
        };
        let (expires_at, renew_at) = (now.plus_ms(life), now.plus_ms(life / 4 * 3));
        Ok(Self { random: hide(&token.random())?, id: token.id(), expires_at, renew_at })
    }

    /// The token, for one call.
    pub fn token(&self) -> SessionToken {
        SessionToken::child(self.random.expose())
    }
}

/// A renewal secret while it is not being used.
pub struct HeldRenewal(Hidden<[u8; 32]>);

impl HeldRenewal {
    /// Takes a secret into secret memory.
    ///
    /// # Errors
    /// [`KeyError::Memory`].
    pub fn new(secret: &RenewalSecret) -> Result<Self, KeyError> {
        Ok(Self(hide(&secret.random())?))
    }

    /// The secret, for one call or the mirror.
    pub fn secret(&self) -> RenewalSecret {
        RenewalSecret::new(self.0.expose())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_from_a_mirror_are_the_ones_that_went_into_it() {
        let keys = Keys::fresh().unwrap();
        let (ed25519, x25519) = keys.expose();
        let again = Keys::restore(keys.public, &ed25519, &x25519).unwrap();
        let request = RequestId([7; 16]);
        let random = Key32::new([9; 32]);
        let purpose = Purpose::payload(request);
        let sealed = seal::seal(&keys.public.x25519(), &purpose, b"text", &random).unwrap();
        assert_eq!(again.open(request, &sealed).unwrap().expose(), b"text");
        assert!(again.open(RequestId([8; 16]), &sealed).is_err());
        let other = Keys::fresh().unwrap();
        assert!(Keys::restore(other.public, &ed25519, &x25519).is_err());
        assert!(other.open(request, &sealed).is_err());
    }

    #[test]
    fn a_held_token_comes_out_as_it_went_in_and_a_masters_never_goes_in() {
        let token = SessionToken::child(&[3; 32]);
        let held = HeldSession::new(&token, Timestamp(1_000), Timestamp(401_000)).unwrap();
        assert_eq!(held.token().expose(), token.expose());
        assert_eq!((held.id, held.renew_at), (token.id(), Timestamp(301_000)));
        let skewed = HeldSession::new(&token, Timestamp(9_000), Timestamp(5_000)).unwrap();
        assert_eq!(skewed.renew_at, Timestamp(9_000 + LIFE_MS / 4 * 3));
        let master = SessionToken::master(&[3; 32]);
        assert!(HeldSession::new(&master, Timestamp(0), Timestamp(1)).is_err());
        let secret = RenewalSecret::new(&[4; 32]);
        let held = HeldRenewal::new(&secret).unwrap();
        assert_eq!(held.secret().expose(), secret.expose());
    }
}
