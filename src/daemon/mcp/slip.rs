//! Slips: credentials, sealed while they travel through the protocol library.
//!
//! The library prints results in its debug log and encodes them into buffers that it keeps. So a
//! tool hands it a slip: the credential under a key that only this connection has. The wire opens
//! it into a buffer of its own, which is wiped once it is written.
//!
//! Must never let a key out, or use one for two connections.
use std::sync::atomic::{AtomicU64, Ordering};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::{Zeroize, Zeroizing};

use crate::core::encoding::{from_base64, to_base64};

/// Makes and opens slips of one connection.
pub struct Slips {
    key: LessSafeKey,
    made: AtomicU64,
}

impl Slips {
    /// With a fresh key; `None` when the system gives no random bytes.
    pub fn new() -> Option<Self> {
        let mut bytes = Zeroizing::new([0; 32]);
        SystemRandom::new().fill(&mut *bytes).ok()?;
        let key = UnboundKey::new(&AES_256_GCM, &*bytes).ok()?;
        Some(Self { key: LessSafeKey::new(key), made: AtomicU64::new(0) })
    }

    /// Seals `text`; `None` on a fault of ours.
    pub fn seal(&self, text: &str) -> Option<String> {
        // The key lives as long as this counter, so no nonce comes twice.
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let mut sealed = Vec::with_capacity(8 + text.len() + 16);
        sealed.extend_from_slice(&number.to_be_bytes());
        sealed.extend_from_slice(text.as_bytes());
        let tag =
            self.key.seal_in_place_separate_tag(nonce(number), Aad::empty(), &mut sealed[8..]);
        let Ok(tag) = tag else {
            sealed.zeroize();
            return None;
        };
        sealed.extend_from_slice(tag.as_ref());
        Some(to_base64(&sealed))
    }

    /// Opens a slip; `None` when it is none of this connection's.
    pub fn open(&self, slip: &str) -> Option<Zeroizing<String>> {
        let mut sealed = Zeroizing::new(from_base64("slip", slip).ok()?);
        let (number, text) = sealed.split_first_chunk_mut::<8>()?;
        let number = u64::from_be_bytes(*number);
        let opened = self.key.open_in_place(nonce(number), Aad::empty(), text).ok()?;
        let mut text = Zeroizing::new(String::with_capacity(opened.len()));
        text.push_str(str::from_utf8(opened).ok()?);
        Some(text)
    }
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_opens_at_its_own_connection_alone() {
        let (here, there) = (Slips::new().unwrap(), Slips::new().unwrap());
        let slip = here.seal("sk-or-v1-test").unwrap();
        assert_eq!(here.open(&slip).unwrap().as_str(), "sk-or-v1-test");
        assert!(there.open(&slip).is_none());
        for wrong in ["", "AAAA", "not base64", &slip[4..]] {
            assert!(here.open(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn two_slips_of_one_text_differ_and_show_nothing_of_it() {
        let slips = Slips::new().unwrap();
        let (one, two) = (slips.seal("secret").unwrap(), slips.seal("secret").unwrap());
        assert_ne!(one, two);
        assert!(!one.contains(&to_base64(b"secret")));
    }
}
