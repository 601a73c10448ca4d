//! Passphrases: how long they are, and the key that one is stretched to by Argon2id (RFC 9106).
//!
//! Must never leave the memory that Argon2 worked in unwiped: it leads back to the passphrase
//! faster than Argon2 itself does.
use argon2::{Algorithm, Argon2, Block, Params, Version};
use unicode_normalization::UnicodeNormalization;
use zeroize::{Zeroize, Zeroizing};

use super::secret::SecretBytes;

/// The longest passphrase, in bytes.
pub const MAX_BYTES: usize = 1024;
/// The shortest new one, in characters.
pub const MIN_CHARACTERS: usize = 8;
/// Bytes of a salt.
pub const SALT: usize = 16;
/// Bytes of the key.
pub const KEY: usize = 32;

/// What stretching takes: Argon2id's memory, passes and lanes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cost {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes of it.
    pub lanes: u32,
}

/// Why a passphrase cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unfit {
    /// There is nothing.
    #[error("is empty")]
    Empty,
    /// More than [`MAX_BYTES`].
    #[error("is longer than 1024 bytes")]
    TooLong,
    /// No text.
    #[error("is not UTF-8 text")]
    NoText,
    /// Fewer than [`MIN_CHARACTERS`], of a new one.
    #[error("is shorter than 8 characters")]
    TooShort,
    /// The second time was another.
    #[error("was not typed the same twice")]
    TypedTwice,
}

/// Why there is no key.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StretchError {
    /// The system has not that much memory.
    #[error("no {0} KiB of memory")]
    Memory(u32),
    /// Argon2 refuses its parameters.
    #[error("argon2: {0}")]
    Parameters(String),
}

/// Checks one that is to be given; `new` for one that is chosen now.
///
/// # Errors
/// [`Unfit`].
pub fn check(passphrase: &SecretBytes, new: bool) -> Result<(), Unfit> {
    // Exposed to be measured.
    let bytes = passphrase.expose();
    if bytes.is_empty() {
        return Err(Unfit::Empty);
    }
    if bytes.len() > MAX_BYTES {
        return Err(Unfit::TooLong);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Unfit::NoText)?;
    if new && text.chars().count() < MIN_CHARACTERS {
        return Err(Unfit::TooShort);
    }
    Ok(())
}

/// The same text in the one form (NFC) that every keyboard's way of typing it comes to.
pub fn normal(passphrase: &SecretBytes) -> SecretBytes {
    // Exposed to be normalised; the copy replaces it.
    let Ok(text) = std::str::from_utf8(passphrase.expose()) else {
        return SecretBytes::new(passphrase.expose().to_vec());
    };
    let mut out = Zeroizing::new(String::with_capacity(text.len() * 3));
    out.extend(text.nfc());
    SecretBytes::new(std::mem::take(&mut *out).into_bytes())
}

/// Stretches a passphrase into `out`.
///
/// # Errors
/// [`StretchError`].
pub fn stretch(
    passphrase: &SecretBytes,
    salt: &[u8; SALT],
    cost: Cost,
    out: &mut [u8; KEY],
) -> Result<(), StretchError> {
    let failed = |error: argon2::Error| StretchError::Parameters(error.to_string());
    let Cost { memory_kib, passes, lanes } = cost;
    let params = Params::new(memory_kib, passes, lanes, Some(KEY)).map_err(failed)?;
    let mut blocks = Vec::new();
    blocks.try_reserve_exact(params.block_count()).map_err(|_| StretchError::Memory(memory_kib))?;
    blocks.resize(params.block_count(), Block::new());
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    // Exposed to be hashed: this is what a passphrase is for.
    let done = argon2.hash_password_into_with_memory(passphrase.expose(), salt, out, &mut blocks);
    blocks.iter_mut().for_each(Zeroize::zeroize);
    done.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> SecretBytes {
        SecretBytes::new(text.as_bytes().to_vec())
    }

    #[test]
    fn what_is_too_short_is_refused_only_when_it_is_new() {
        assert_eq!(check(&text("1234567"), true), Err(Unfit::TooShort));
        assert_eq!(check(&text("1234567"), false), Ok(()));
        assert_eq!(check(&text("ééééééé"), true), Err(Unfit::TooShort));
        assert_eq!(check(&text(""), false), Err(Unfit::Empty));
        assert_eq!(check(&text(&"x".repeat(MAX_BYTES + 1)), false), Err(Unfit::TooLong));
        assert_eq!(check(&SecretBytes::new(vec![0xff; 9]), false), Err(Unfit::NoText));
    }

    #[test]
    fn one_text_typed_in_two_ways_is_one_passphrase() {
        let (one, other) = (normal(&text("Zo\u{eb}")), normal(&text("Zoe\u{308}")));
        assert_eq!(one.expose(), other.expose());
    }
}
