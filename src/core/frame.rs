//! Framing of fields that are hashed or authenticated together: each is preceded by its length,
//! so no two lists of fields give the same bytes.

/// Fields after one another, each behind its length in bytes (32 bits, big-endian).
pub struct Frame(Vec<u8>);

impl Frame {
    /// Begins with the domain string, which keeps one use apart from every other.
    pub fn new(domain: &str) -> Self {
        Self(Vec::with_capacity(256)).field(domain.as_bytes())
    }

    /// Appends one field.
    pub fn field(mut self, bytes: &[u8]) -> Self {
        let length = u32::try_from(bytes.len()).expect("fields are bounded far below 4 GiB");
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    /// Appends a field that may be absent: an absent one differs from an empty one.
    pub fn optional(self, bytes: Option<&[u8]>) -> Self {
        match bytes {
            None => self.field(&[0]),
            Some(bytes) => self.field(&[1]).field(bytes),
        }
    }

    /// The framed bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}
