//! The root key under a passphrase: Argon2id (RFC 9106) makes a key of it, and
//! AES-256-GCM wraps the root key under that key.
//!
//! Must never work with weaker parameters than those below, nor with ones that
//! would take the machine's memory: the file that names them can be written by
//! whoever can write the data folder.
use super::error::CustodyError;
use super::hex;
use crate::core::passphrase::{self, KEY, SALT};
use crate::core::secret::SecretBytes;
use crate::harden::Hidden;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, Tag, UnboundKey};
use ring::rand::SecureRandom;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// RFC 9106, section 4, second recommended option: 64 MiB, 3 passes, 4 lanes.
const COST: Cost = Cost { memory_kib: 64 * 1024, passes: 3, lanes: 4 };
/// What a later version may have raised it to.
const MAX_COST: Cost = Cost { memory_kib: 1024 * 1024, passes: 16, lanes: 16 };

const TAG: usize = 16;

/// Argon2id's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Cost {
    fn is_allowed(self) -> bool {
        (COST.memory_kib..=MAX_COST.memory_kib).contains(&self.memory_kib)
            && (COST.passes..=MAX_COST.passes).contains(&self.passes)
            && (1..=MAX_COST.lanes).contains(&self.lanes)
    }
}

/// A wrapped root key, as `root.json` holds it. All fields are hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wrapped {
    argon2id: Cost,
    salt: String,
    nonce: String,
    key: String,
}

/// Why a wrapped key does not open.
#[derive(Debug)]
pub(super) enum Unwrap {
    /// The passphrase is wrong, or some byte was changed.
    Wrong,
    /// A field is not what this version writes.
    Malformed(&'static str),
    /// Anything else.
    Failed(CustodyError),
}

impl<E: Into<CustodyError>> From<E> for Unwrap {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Wraps `root` under `passphrase`, bound to `header`.
///
/// # Errors
/// [`CustodyError::Random`], [`CustodyError::Derivation`] and
/// [`CustodyError::SecretMemory`].
pub(super) fn wrap(
    root: &Hidden<[u8; 32]>,
    passphrase: &SecretBytes,
    header: &[u8],
    random: &dyn SecureRandom,
) -> Result<Wrapped, CustodyError> {
    let (mut salt, mut nonce) = ([0; SALT], [0; NONCE_LEN]);
    random.fill(&mut salt).map_err(|_| CustodyError::Random)?;
    random.fill(&mut nonce).map_err(|_| CustodyError::Random)?;
    let key = derive(passphrase, &salt, COST)?;
    // Exposed to be encrypted in place; the copy is wiped if that should fail.
    let mut sealed = Zeroizing::new([0; KEY + TAG]);
    let (text, tag) = sealed.split_at_mut(KEY);
    text.copy_from_slice(root.expose());
    let made = key
        .expose()
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(bound(header, COST, &salt)),
            text,
        )
        .map_err(|_| CustodyError::Derivation("AES-256-GCM refused 32 bytes".into()))?;
    tag.copy_from_slice(made.as_ref());
    Ok(Wrapped {
        argon2id: COST,
        salt: hex::encode(&salt),
        nonce: hex::encode(&nonce),
        key: hex::encode(sealed.as_slice()),
    })
}

/// Opens what [`wrap`] made, in secret memory.
///
/// # Errors
/// [`Unwrap`].
pub(super) fn unwrap(
    wrapped: &Wrapped,
    passphrase: &SecretBytes,
    header: &[u8],
) -> Result<Hidden<[u8; 32]>, Unwrap> {
    if !wrapped.argon2id.is_allowed() {
        return Err(Unwrap::Malformed("its argon2id parameters are out of bounds"));
    }
    let salt = hex::decode::<SALT>(&wrapped.salt);
    let salt = salt.ok_or(Unwrap::Malformed("its salt is not 16 bytes"))?;
    let nonce = hex::decode::<NONCE_LEN>(&wrapped.nonce);
    let nonce = nonce.ok_or(Unwrap::Malformed("its nonce is not 12 bytes"))?;
    let sealed = hex::decode::<{ KEY + TAG }>(&wrapped.key);
    let sealed = sealed.ok_or(Unwrap::Malformed("its wrapped key is not 48 bytes"))?;
    let (text, tag) = sealed.split_at(KEY);
    let tag = Tag::try_from(tag).map_err(|_| Unwrap::Malformed("its tag is not 16 bytes"))?;
    let key = derive(passphrase, &salt, wrapped.argon2id)?;
    Hidden::fill(|root| {
        root.copy_from_slice(text);
        let aad = Aad::from(bound(header, wrapped.argon2id, &salt));
        let nonce = Nonce::assume_unique_for_key(nonce);
        key.expose()
            .open_in_place_separate_tag(nonce, aad, tag, root, 0..)
            .map_err(|_| Unwrap::Wrong)?;
        Ok(())
    })
}

/// Associated data: what the wrapping stands in, and how its key was made.
fn bound(header: &[u8], cost: Cost, salt: &[u8; SALT]) -> Vec<u8> {
    let numbers = [cost.memory_kib, cost.passes, cost.lanes].map(u32::to_be_bytes);
    [header, numbers.as_flattened(), salt].concat()
}

fn derive(
    secret: &SecretBytes,
    salt: &[u8; SALT],
    cost: Cost,
) -> Result<Hidden<LessSafeKey>, CustodyError> {
    let Cost { memory_kib, passes, lanes } = cost;
    let cost = passphrase::Cost { memory_kib, passes, lanes };
    let derived = Hidden::<[u8; KEY]>::fill(|out| {
        passphrase::stretch(secret, salt, cost, out)
            .map_err(|error| CustodyError::Derivation(error.to_string()))
    })?;
    Hidden::try_new(|| {
        // Exposed to be expanded into the AES key, in secret memory as well.
        let key = UnboundKey::new(&AES_256_GCM, derived.expose());
        let key = key.map_err(|_| CustodyError::Derivation("AES-256 refused 32 bytes".into()))?;
        Ok(LessSafeKey::new(key))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::rand::SystemRandom;

    fn secret(text: &str) -> SecretBytes {
        SecretBytes::new(text.as_bytes().to_vec())
    }

    #[test]
    fn a_wrapped_key_opens_with_its_passphrase_and_header_alone() {
        let root = Hidden::new(|| [7; 32]).unwrap();
        let good = wrap(&root, &secret("correct horse"), b"header", &SystemRandom::new()).unwrap();
        let open = |wrapped: &Wrapped, pass: &str, header: &[u8]| {
            unwrap(wrapped, &secret(pass), header).map(|key| *key.expose())
        };
        assert_eq!(open(&good, "correct horse", b"header").unwrap(), [7; 32]);
        assert!(matches!(open(&good, "correct horsf", b"header"), Err(Unwrap::Wrong)));
        assert!(matches!(open(&good, "correct horse", b"headeR"), Err(Unwrap::Wrong)));
        let flip =
            |hex: &str| format!("{}{}", if hex.starts_with('0') { '1' } else { '0' }, &hex[1..]);
        for changed in [
            Wrapped { salt: flip(&good.salt), ..good.clone() },
            Wrapped { nonce: flip(&good.nonce), ..good.clone() },
            Wrapped { key: flip(&good.key), ..good.clone() },
            Wrapped { argon2id: Cost { passes: 4, ..COST }, ..good.clone() },
        ] {
            assert!(matches!(open(&changed, "correct horse", b"header"), Err(Unwrap::Wrong)));
        }
    }

    #[test]
    fn parameters_that_are_weaker_or_would_take_the_machine_are_refused_unread() {
        let root = Hidden::new(|| [7; 32]).unwrap();
        let good = wrap(&root, &secret("correct horse"), b"", &SystemRandom::new()).unwrap();
        for cost in [
            Cost { memory_kib: 8, ..COST },
            Cost { memory_kib: u32::MAX, ..COST },
            Cost { passes: 1, ..COST },
            Cost { passes: u32::MAX, ..COST },
            Cost { lanes: 0, ..COST },
            Cost { lanes: 17, ..COST },
        ] {
            let changed = Wrapped { argon2id: cost, ..good.clone() };
            let refused = unwrap(&changed, &secret("correct horse"), b"");
            assert!(matches!(refused, Err(Unwrap::Malformed(_))), "{cost:?}");
        }
    }

    #[test]
    fn fields_of_the_wrong_length_are_refused() {
        let root = Hidden::new(|| [7; 32]).unwrap();
        let good = wrap(&root, &secret("correct horse"), b"", &SystemRandom::new()).unwrap();
        for changed in [
            Wrapped { salt: String::new(), ..good.clone() },
            Wrapped { nonce: format!("{}00", good.nonce), ..good.clone() },
            Wrapped { key: "zz".repeat(48), ..good.clone() },
        ] {
            let refused = unwrap(&changed, &secret("correct horse"), b"");
            assert!(matches!(refused, Err(Unwrap::Malformed(_))));
        }
    }
}
