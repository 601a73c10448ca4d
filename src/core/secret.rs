//! Secrets in memory: wiped when dropped, and with no `Debug`, `Display`,
//! `Serialize` or `Clone`, so that a log line with one does not compile.
use zeroize::Zeroizing;

/// A secret of any length, such as a credential's plaintext.
///
/// ```compile_fail
/// let secret = agentkeys::core::secret::SecretBytes::new(vec![1]);
/// println!("{secret:?}");
/// ```
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes ownership of `bytes`; they are wiped when this is dropped.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The one way out. Callers say why they need the plaintext.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Length in bytes; not secret.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A 256-bit key.
pub struct Key32(Zeroizing<[u8; 32]>);

impl Key32 {
    /// Takes the bytes; the caller wipes its own copy.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The one way out. Callers say why they need the key's bytes.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}
