//! What an action answers, as bytes. Bodies with secrets are wiped once they were written.
use bytes::Bytes;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::core::problem::{Answer, Problem};

/// The body of an answer that went well.
pub enum Reply {
    /// 204: a long poll ended and nothing had happened.
    Nothing,
    /// 200 with JSON.
    Json(Bytes),
}

/// Bytes that are wiped when the last reader is done.
struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Reply {
    /// JSON without secrets.
    pub fn json<T: Serialize>(value: &T) -> Answer<Self> {
        let bytes = serde_json::to_vec(value).map_err(|_| Problem::internal())?;
        Ok(Self::Json(bytes.into()))
    }

    /// JSON with secrets, of about `size` bytes: room for all of it is taken first, so that
    /// growing leaves no copy behind.
    pub fn secret<T: Serialize>(value: &T, size: usize) -> Answer<Self> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(size + 512));
        serde_json::to_writer(&mut *bytes, value).map_err(|_| Problem::internal())?;
        Ok(Self::Json(Bytes::from_owner(Wiped(bytes))))
    }

    /// `{}`: it was done, and there is nothing to tell.
    pub fn done() -> Self {
        Self::Json(Bytes::from_static(b"{}"))
    }

    /// JSON that never changes.
    pub fn fixed(text: &'static str) -> Self {
        Self::Json(Bytes::from_static(text.as_bytes()))
    }
}
