//! Reads the vectors that `tests/vectors/generate.py` wrote from the specification. It must
//! never compute an expected value itself.
use std::fmt::Debug;
use std::str::FromStr;

use agentkeys::core::secret::Key32;
use ring::signature::Ed25519KeyPair;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// One file of `tests/vectors/`.
pub fn load(name: &str) -> Value {
    let path = format!("{}/tests/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The elements of a list that must not be empty.
pub fn list(value: &Value) -> &[Value] {
    let items = value.as_array().expect("a list");
    assert!(!items.is_empty(), "an empty list of vectors proves nothing");
    items
}

/// A text.
pub fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

/// Bytes in hexadecimal.
pub fn hex(value: &Value) -> Vec<u8> {
    unhex(text(value))
}

/// Bytes of a hexadecimal text.
pub fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().filter(|c| !c.is_whitespace()).collect();
    assert_eq!(digits.len() % 2, 0, "{text}");
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).expect("hexadecimal"))
        .collect()
}

/// A value by its text.
pub fn parse<T: FromStr<Err: Debug>>(value: &Value) -> T {
    text(value).parse().unwrap_or_else(|e| panic!("{value}: {e:?}"))
}

/// A value by its JSON form.
pub fn json<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("{value}: {e}"))
}

/// A 32-byte secret in hexadecimal.
pub fn key32(value: &Value) -> Key32 {
    Key32::new(hex(value).try_into().expect("32 bytes"))
}

/// The master key of a file of vectors.
pub fn master(file: &Value) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&hex(&file["master_seed"])).expect("a seed of 32 bytes")
}
