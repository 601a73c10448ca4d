//! How bytes look in JSON: standard base64 with padding (RFC 4648 section 4). In CBOR they
//! stay bytes.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::problem::Problem;

/// Standard base64 of `bytes`.
pub fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Reads standard base64; `field` is named in the error.
pub fn from_base64(field: &str, text: &str) -> Result<Vec<u8>, Problem> {
    STANDARD.decode(text).map_err(|_| {
        Problem::invalid(field, format!("{field} wants standard base64, with padding"))
    })
}

/// For `#[serde(with = ..)]` on a `Vec<u8>`.
pub mod base64_bytes {
    use std::fmt;

    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    /// Base64 text where people read it, bytes elsewhere.
    pub fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() {
            s.serialize_str(&super::to_base64(bytes))
        } else {
            s.serialize_bytes(bytes)
        }
    }

    struct Bytes;

    impl Visitor<'_> for Bytes {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("standard base64, with padding")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Vec<u8>, E> {
            super::from_base64("field", text).map_err(|e| E::custom(&e.cause))
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }
    }

    /// The reverse of [`serialize`].
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        if d.is_human_readable() { d.deserialize_str(Bytes) } else { d.deserialize_bytes(Bytes) }
    }
}

/// The same for an `Option<Vec<u8>>`.
pub mod base64_option {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Wrapped(#[serde(with = "super::base64_bytes")] Vec<u8>);

    /// `null` or what [`super::base64_bytes`] writes.
    pub fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, s: S) -> Result<S::Ok, S::Error> {
        bytes.as_ref().map(|bytes| Wrapped(bytes.clone())).serialize(s)
    }

    /// The reverse of [`serialize`].
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<u8>>, D::Error> {
        Ok(Option::<Wrapped>::deserialize(d)?.map(|wrapped| wrapped.0))
    }
}
