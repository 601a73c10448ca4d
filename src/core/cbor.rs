//! Canonical bytes: deterministic CBOR as RFC 8949 section 4.2.1 has it (sorted map keys,
//! shortest integers, definite lengths). The only file that knows serde_cbor.
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_cbor::Value;

/// Longest canonical input that is read, in bytes. The largest details, a scope of 256 names
/// of 63 letters, take 16,640 and a few hundred.
pub const MAX_CANONICAL: usize = 20 * 1024;

/// Why bytes are not canonical CBOR of the type.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CborError {
    /// Over [`MAX_CANONICAL`].
    #[error("more than {MAX_CANONICAL} bytes")]
    TooLong,
    /// Not CBOR, or not of the type that was asked for.
    #[error("not CBOR of the expected shape: {0}")]
    Shape(String),
    /// CBOR, but not the one deterministic form: duplicate or unsorted keys, a longer integer
    /// than needed, an indefinite length, a tag, or trailing bytes.
    #[error("not in the deterministic form of RFC 8949 section 4.2.1")]
    NotCanonical,
    /// A floating-point number or a tag, which no value of ours holds.
    #[error("holds a value that the schema has no place for")]
    Forbidden,
}

/// The canonical bytes of `value`.
///
/// # Errors
/// [`CborError::Forbidden`] for floating-point numbers.
pub fn to_canonical<T: Serialize>(value: &T) -> Result<Vec<u8>, CborError> {
    let tree = serde_cbor::value::to_value(value).map_err(shape)?;
    encode(&tree)
}

/// Reads `bytes` if they are the canonical form of a `T`, and refuses anything else.
///
/// # Errors
/// Says which of the rules was broken.
pub fn from_canonical<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CborError> {
    if bytes.len() > MAX_CANONICAL {
        return Err(CborError::TooLong);
    }
    let tree: Value = serde_cbor::from_slice(bytes).map_err(shape)?;
    // There is one canonical form, so whatever encodes to other bytes was not in it.
    if encode(&tree)? != bytes {
        return Err(CborError::NotCanonical);
    }
    serde_cbor::value::from_value(tree).map_err(shape)
}

/// The bytes of a row. Rows are read by their writer alone, so fields stay in their order.
pub fn to_row<T: Serialize>(value: &T) -> Result<Vec<u8>, CborError> {
    serde_cbor::to_vec(value).map_err(shape)
}

/// Reads what [`to_row`] wrote.
pub fn from_row<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CborError> {
    serde_cbor::from_slice(bytes).map_err(shape)
}

fn shape(error: serde_cbor::Error) -> CborError {
    CborError::Shape(super::types::without_input(&error.to_string()))
}

fn encode(tree: &Value) -> Result<Vec<u8>, CborError> {
    refuse_forbidden(tree)?;
    // serde_cbor's map is ordered by length first, then bytewise (RFC 7049 section 3.9); for
    // text keys, the only ones that pass, that is the bytewise order of RFC 8949 as well.
    serde_cbor::to_vec(tree).map_err(shape)
}

fn refuse_forbidden(tree: &Value) -> Result<(), CborError> {
    match tree {
        Value::Null | Value::Bool(_) | Value::Integer(_) | Value::Bytes(_) | Value::Text(_) => {
            Ok(())
        }
        Value::Array(items) => items.iter().try_for_each(refuse_forbidden),
        Value::Map(entries) => entries.iter().try_for_each(|(key, value)| match key {
            Value::Text(_) => refuse_forbidden(value),
            _ => Err(CborError::Forbidden),
        }),
        _ => Err(CborError::Forbidden),
    }
}
