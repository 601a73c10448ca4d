//! Canonical bytes: deterministic CBOR as RFC 8949 section 4.2.1 has it (sorted map keys,
//! shortest integers, definite lengths). The only file that knows serde_cbor.
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_cbor::Value;

/// Longest canonical input that is read, in bytes. The largest details, a scope of 256 names
/// of 63 letters, take 16,640 and a few hundred.
pub const MAX_CANONICAL: usize = 20 * 1024;

/// How deep arrays and maps may stand in one another; ours go three deep.
const MAX_DEPTH: usize = 8;

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
pub fn from_canonical<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, CborError> {
    if bytes.len() > MAX_CANONICAL {
        return Err(CborError::TooLong);
    }
    refuse_deep(bytes)?;
    let value: T = serde_cbor::from_slice(bytes).map_err(shape)?;
    // There is one canonical form, so what would be written as other bytes was not in it: other
    // orders and longer heads, and also what a type reads in several ways (a member at its
    // default or left out, a name in either case, an array for a map).
    if to_canonical(&value)? == bytes { Ok(value) } else { Err(CborError::NotCanonical) }
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

/// Walks the heads of all items without recursion, so that whatever is decoded afterwards is
/// whole, shallow, and claims no more than is there. serde_cbor recurses 128 deep, which is
/// most of a thread's stack in a build without optimization.
fn refuse_deep(bytes: &[u8]) -> Result<(), CborError> {
    let mut rest = bytes;
    // How many items each open array or map still waits for.
    let mut open: Vec<u64> = Vec::with_capacity(MAX_DEPTH);
    loop {
        let (major, count) = take_head(&mut rest)?;
        match major {
            0 | 1 | 7 => {}
            2 | 3 => {
                let length = usize::try_from(count).map_err(|_| CborError::NotCanonical)?;
                rest = rest.get(length..).ok_or(CborError::NotCanonical)?;
            }
            4 | 5 => {
                if open.len() == MAX_DEPTH {
                    return Err(CborError::Shape("nested too deep".to_owned()));
                }
                let items = if major == 5 { count.checked_mul(2) } else { Some(count) };
                // Every item takes a byte at least.
                match items.filter(|items| *items <= rest.len() as u64) {
                    None => return Err(CborError::NotCanonical),
                    Some(0) => {}
                    Some(items) => {
                        open.push(items);
                        continue;
                    }
                }
            }
            _ => return Err(CborError::Forbidden),
        }
        // An item has ended, and with it every array or map whose last one it was.
        while let Some(waiting) = open.last_mut() {
            *waiting -= 1;
            if *waiting > 0 {
                break;
            }
            open.pop();
        }
        if open.is_empty() {
            return if rest.is_empty() { Ok(()) } else { Err(CborError::NotCanonical) };
        }
    }
}

/// Takes an item's first byte and the number behind it (RFC 8949 section 3). Of major type 7
/// only false, true and null pass: the rest are floats, undefined and unassigned.
fn take_head(rest: &mut &[u8]) -> Result<(u8, u64), CborError> {
    let (first, behind) = rest.split_first().ok_or(CborError::NotCanonical)?;
    let (major, info) = (first >> 5, first & 31);
    if major == 7 && !(20..=22).contains(&info) {
        return Err(CborError::Forbidden);
    }
    let width = match info {
        0..=23 => 0,
        24..=27 => 1 << (info - 24),
        _ => return Err(CborError::NotCanonical),
    };
    let (number, behind) = behind.split_at_checked(width).ok_or(CborError::NotCanonical)?;
    *rest = behind;
    let number = number.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    Ok((major, if width == 0 { u64::from(info) } else { number }))
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
