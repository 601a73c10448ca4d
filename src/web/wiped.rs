//! Bytes of requests that may hold secrets.
use bytes::Bytes;
use zeroize::Zeroizing;

struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The same bytes as the HTTP library takes them, wiped with their last reader.
pub fn wiped(bytes: Zeroizing<Vec<u8>>) -> Bytes {
    Bytes::from_owner(Wiped(bytes))
}
