//! The one deterministic encoding: what a decoder refuses, and that a second CBOR library
//! writes the same bytes.
use agentkeys::core::auth_request::{Details, Kind};
use agentkeys::core::cbor::{self, CborError, MAX_CANONICAL};
use agentkeys::core::frame::Frame;
use agentkeys::core::scope::{MAX_SERVICES, Scope};
use agentkeys::core::types::to_hex;
use quickcheck::{QuickCheck, TestResult, quickcheck};
use serde::Serialize;

use super::{VECTORS, details_of};
use crate::arbitrary::{AnyDetails, KINDS};
use crate::vectors::{list, load, text, unhex};

/// `{"scope": {"read_only": false}}`, the smallest details of a Pair.
const SMALLEST: &str = "a1 65 73636f7065 a1 69 726561645f6f6e6c79 f4";

fn pair(bytes: &str) -> Result<Details, CborError> {
    Details::from_canonical(Kind::Pair, &unhex(bytes))
}

/// Refuses every one of `wrong` and accepts [`SMALLEST`], so that it is not just anything
/// that is refused.
fn only_the_smallest(wrong: &[&str]) {
    assert!(pair(SMALLEST).is_ok());
    for bytes in wrong {
        assert!(pair(bytes).is_err(), "{bytes}");
    }
}

#[test]
fn duplicate_keys_are_refused() {
    only_the_smallest(&[
        "a2 65 73636f7065 a1 69 726561645f6f6e6c79 f4 65 73636f7065 a1 69 726561645f6f6e6c79 f4",
        "a2 65 73636f7065 a1 69 726561645f6f6e6c79 f5 65 73636f7065 a1 69 726561645f6f6e6c79 f4",
        "a1 65 73636f7065 a2 69 726561645f6f6e6c79 f4 69 726561645f6f6e6c79 f4",
    ]);
}

#[test]
fn unsorted_keys_are_refused() {
    assert!(pair("a2 64 686f7374 61 78 65 73636f7065 a1 69 726561645f6f6e6c79 f4").is_ok());
    only_the_smallest(&[
        "a2 65 73636f7065 a1 69 726561645f6f6e6c79 f4 64 686f7374 61 78",
        // `user` before `host`, both of four letters.
        "a3 64 75736572 61 78 64 686f7374 61 78 65 73636f7065 a1 69 726561645f6f6e6c79 f4",
    ]);
}

#[test]
fn longer_lengths_than_needed_are_refused() {
    only_the_smallest(&[
        "b8 01 65 73636f7065 a1 69 726561645f6f6e6c79 f4",
        "b9 0001 65 73636f7065 a1 69 726561645f6f6e6c79 f4",
        "ba 00000001 65 73636f7065 a1 69 726561645f6f6e6c79 f4",
        "bb 0000000000000001 65 73636f7065 a1 69 726561645f6f6e6c79 f4",
        "a1 78 05 73636f7065 a1 69 726561645f6f6e6c79 f4",
        "a1 65 73636f7065 a1 79 0009 726561645f6f6e6c79 f4",
        // `services` as an array whose length takes two bytes.
        "a1 65 73636f7065 a2 68 7365727669636573 98 01 61 61 69 726561645f6f6e6c79 f4",
    ]);
}

#[test]
fn indefinite_lengths_are_refused() {
    only_the_smallest(&[
        "bf 65 73636f7065 a1 69 726561645f6f6e6c79 f4 ff",
        "a1 7f 65 73636f7065 ff a1 69 726561645f6f6e6c79 f4",
        "a1 65 73636f7065 bf 69 726561645f6f6e6c79 f4 ff",
        "a1 65 73636f7065 a2 68 7365727669636573 9f 61 61 ff 69 726561645f6f6e6c79 f4",
    ]);
}

#[test]
fn trailing_and_missing_bytes_are_refused() {
    let whole = unhex(SMALLEST);
    for end in 0..whole.len() {
        assert!(Details::from_canonical(Kind::Pair, &whole[..end]).is_err(), "cut at {end}");
    }
    for extra in 0..=255 {
        let longer = [&whole[..], &[extra]].concat();
        assert!(Details::from_canonical(Kind::Pair, &longer).is_err(), "{extra:02x} behind");
    }
    assert!(Details::from_canonical(Kind::Pair, &[&whole[..], &whole[..]].concat()).is_err());
}

#[test]
fn tags_null_undefined_and_simple_values_are_refused() {
    only_the_smallest(&[
        &format!("d9d9f7 {SMALLEST}"),
        &format!("c0 {SMALLEST}"),
        "a1 c0 65 73636f7065 a1 69 726561645f6f6e6c79 f4",
        "a1 65 73636f7065 a1 69 726561645f6f6e6c79 c1 f4",
        "a2 64 686f7374 f6 65 73636f7065 a1 69 726561645f6f6e6c79 f4",
        "a2 64 686f7374 f7 65 73636f7065 a1 69 726561645f6f6e6c79 f4",
        "a1 65 73636f7065 a2 68 7365727669636573 f6 69 726561645f6f6e6c79 f4",
        "a1 65 73636f7065 a1 69 726561645f6f6e6c79 e0",
        "a1 65 73636f7065 a1 69 726561645f6f6e6c79 f8 20",
        "f6",
        "ff",
        "",
    ]);
}

/// Integers of an amount: the shortest form is taken, all else that stands for it is not.
#[test]
fn an_amount_has_one_form() {
    let file = load(VECTORS);
    let case = list(&file["cases"]).iter().find(|c| c["name"] == "release, amount 23").unwrap();
    let whole = text(&case["cbor"]);
    let named = to_hex(b"\x66amount");
    let read = |amount: &str| {
        let changed = whole.replace(&format!("{named}17"), &format!("{named}{amount}"));
        Details::from_canonical(Kind::HighValueRelease, &unhex(&changed))
    };
    assert!(read("17").is_ok());
    assert!(read("00").is_ok());
    assert!(read("1818").is_ok());
    assert!(read("1bffffffffffffffff").is_ok());
    let longer = ["1817", "190017", "1a00000017", "1b0000000000000017", "1900ff", "1a0000ffff"];
    let floats = ["f94dc0", "fa41b80000", "fb4037000000000000", "f97e00", "f97c00", "f90000"];
    let others = ["20", "37", "c24117", "c34117", "4117", "6117", "f4", "f6", "8117"];
    for wrong in longer.iter().chain(&floats).chain(&others) {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}

/// serde reads a struct from an array too; the canonical form has no arrays for maps.
#[test]
fn an_array_does_not_pass_for_a_map() {
    assert!(cbor::from_canonical::<Scope>(&unhex("a1 69 726561645f6f6e6c79 f4")).is_ok());
    for wrong in ["80", "82 80 f4", "82 81 61 61 f4", "81 80", "82 f6 f4"] {
        assert!(cbor::from_canonical::<Scope>(&unhex(wrong)).is_err(), "{wrong}");
    }
    only_the_smallest(&["81 a1 69 726561645f6f6e6c79 f4", "80", "a1 65 73636f7065 80"]);
    for wrong in [serde_json::json!([]), serde_json::json!(null), serde_json::json!([null, null])] {
        assert!(Details::from_json(Kind::Pair, wrong.clone()).is_err(), "{wrong}");
        let scope = serde_json::json!({ "scope": wrong });
        assert!(Details::from_json(Kind::Pair, scope).is_err(), "scope: {wrong}");
    }
}

#[test]
fn members_of_the_wrong_type_or_name_are_refused() {
    only_the_smallest(&[
        "80",
        "a0",
        "60",
        // Keys that are no texts: bytes, an integer, an array.
        "a1 45 73636f7065 a1 69 726561645f6f6e6c79 f4",
        "a1 01 a1 69 726561645f6f6e6c79 f4",
        "a1 80 a1 69 726561645f6f6e6c79 f4",
        // A member more.
        "a2 61 78 01 65 73636f7065 a1 69 726561645f6f6e6c79 f4",
        // `host` as bytes, `read_only` as 0.
        "a2 64 686f7374 41 78 65 73636f7065 a1 69 726561645f6f6e6c79 f4",
        "a1 65 73636f7065 a1 69 726561645f6f6e6c79 00",
        // `host` in invalid UTF-8, and as the surrogate D800.
        "a2 64 686f7374 61 ff 65 73636f7065 a1 69 726561645f6f6e6c79 f4",
        "a2 64 686f7374 63 eda080 65 73636f7065 a1 69 726561645f6f6e6c79 f4",
        // `host` in NFD.
        "a2 64 686f7374 63 65cc81 65 73636f7065 a1 69 726561645f6f6e6c79 f4",
    ]);
}

/// The services of a scope: sorted, folded, none twice.
#[test]
fn a_scope_has_one_form() {
    let scope = |services: &str| {
        pair(&format!(
            "a1 65 73636f7065 a2 68 7365727669636573 {services} 69 726561645f6f6e6c79 f4"
        ))
    };
    assert!(scope("80").is_ok());
    assert!(scope("82 61 61 61 62").is_ok());
    for wrong in ["82 61 62 61 61", "82 61 61 61 61", "81 61 41", "81 60", "81 01", "a0", "61 61"] {
        assert!(scope(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_scope_of_too_many_services_is_refused_in_every_form() {
    let json = |count: usize| {
        let names: Vec<_> = (0..count).map(|n| format!("s{n:03}")).collect();
        serde_json::json!({ "scope": { "services": names, "read_only": false } })
    };
    let most = Details::from_json(Kind::Pair, json(MAX_SERVICES)).unwrap();
    let bytes = most.canonical().unwrap();
    assert_eq!(Details::from_canonical(Kind::Pair, &bytes).unwrap(), most);
    assert!(Details::from_json(Kind::Pair, json(MAX_SERVICES + 1)).is_err());

    // The same by bytes: 257 names that fit well into the limit of length.
    let names: Vec<u8> = (0..=MAX_SERVICES)
        .flat_map(|n| [&[0x64][..], format!("s{n:03}").as_bytes()].concat())
        .collect();
    let head = unhex("a1 65 73636f7065 a2 68 7365727669636573 99 0101");
    let bytes = [&head[..], &names, &unhex("69 726561645f6f6e6c79 f4")].concat();
    assert!(bytes.len() < MAX_CANONICAL);
    assert!(matches!(Details::from_canonical(Kind::Pair, &bytes), Err(CborError::Shape(_))));
}

/// Deep nesting ends in an error and not in a stack overflow, on an eighth of the stack that
/// threads have.
#[test]
fn deep_nesting_is_refused_without_a_deep_stack() {
    let openers: [&[u8]; 7] =
        [b"\x81", b"\x9f", b"\xa1\x61a", b"\xbf\x61a", b"\xc0", b"\xd9\xd9\xf7", b"\xa1"];
    let attack = move || {
        for opener in openers {
            for depth in [8, 127, 128, 129, 1_000, MAX_CANONICAL / opener.len() - 1, 100_000] {
                let mut bytes = opener.repeat(depth);
                bytes.push(0x00);
                for kind in KINDS {
                    assert!(Details::from_canonical(kind, &bytes).is_err(), "{opener:?} x {depth}");
                }
            }
        }
    };
    std::thread::Builder::new().stack_size(256 * 1024).spawn(attack).unwrap().join().unwrap();
}

/// Rows authenticate before they are read; should one be hostile all the same, it is refused on
/// a thread's usual stack.
#[test]
fn deep_nesting_in_a_row_is_refused() {
    for opener in [&b"\x81"[..], b"\x9f", b"\xa1\x61a", b"\xc0"] {
        for depth in [127, 128, 100_000] {
            let bytes = opener.repeat(depth);
            assert!(cbor::from_row::<Scope>(&bytes).is_err(), "{opener:?} x {depth}");
        }
    }
}

/// A length that is only claimed allocates nothing: these ask for up to 2^64 - 1 bytes or
/// elements, which would abort the process.
#[test]
fn huge_claimed_lengths_allocate_nothing() {
    for major in [0x40u8, 0x60, 0x80, 0xa0] {
        for length in [u64::MAX, 1 << 62, 1 << 47, 1 << 32, u64::from(u32::MAX)] {
            let head = [&[major | 27][..], &length.to_be_bytes()].concat();
            let inner = [&unhex("a1 65 73636f7065")[..], &head].concat();
            let list = [&unhex("a1 65 73636f7065 a2 68 7365727669636573")[..], &head].concat();
            for bytes in [head.clone(), [&head[..], b"abc"].concat(), inner, list] {
                for kind in KINDS {
                    assert!(Details::from_canonical(kind, &bytes).is_err());
                }
                assert!(cbor::from_row::<Scope>(&bytes).is_err());
                assert!(cbor::from_row::<Vec<u64>>(&bytes).is_err());
            }
        }
    }
}

#[test]
fn more_than_the_limit_is_refused_before_it_is_read() {
    let long = vec![0; MAX_CANONICAL + 1];
    for kind in KINDS {
        assert_eq!(Details::from_canonical(kind, &long), Err(CborError::TooLong));
    }
}

#[test]
fn errors_do_not_repeat_what_was_sent() {
    let secret = "sk-or-v1-0123456789abcdef";
    let json = [
        serde_json::json!(secret),
        serde_json::json!({ "scope": secret }),
        serde_json::json!({ "scope": { "services": [secret.to_uppercase() + " "] } }),
        serde_json::json!({ "scope": {}, "host": { secret: 1 } }),
        serde_json::json!({ "scope": {}, secret: 1 }),
        serde_json::json!({ "scope": { "read_only": secret } }),
        serde_json::json!({ "scope": {}, "name": format!("{secret} , expected {secret}") }),
        serde_json::json!({ "scope": format!("{secret}, expected {secret}`, expected x") }),
    ];
    for value in json {
        let problem = Details::from_json(Kind::Pair, value.clone()).unwrap_err();
        let all = serde_json::to_string(&problem).unwrap();
        assert!(!all.to_lowercase().contains("0123456789abcdef"), "{all}");
        let bytes = cbor::to_canonical(&value).unwrap();
        let error = Details::from_canonical(Kind::Pair, &bytes).unwrap_err();
        let all = format!("{error} {error:?}");
        assert!(!all.to_lowercase().contains("0123456789abcdef"), "{all}");
    }
}

/// The deterministic bytes of `value` by ciborium alone.
fn by_ciborium<T: Serialize>(value: &T) -> Vec<u8> {
    fn sorted(value: ciborium::Value) -> ciborium::Value {
        use ciborium::Value::{Array, Map};
        match value {
            Array(items) => Array(items.into_iter().map(sorted).collect()),
            Map(entries) => {
                let mut entries: Vec<_> =
                    entries.into_iter().map(|(k, v)| (written(&k), (k, sorted(v)))).collect();
                entries.sort_by(|a, b| a.0.cmp(&b.0));
                Map(entries.into_iter().map(|(_, entry)| entry).collect())
            }
            other => other,
        }
    }
    fn written(value: &ciborium::Value) -> Vec<u8> {
        let mut out = Vec::new();
        ciborium::into_writer(value, &mut out).unwrap();
        out
    }
    written(&sorted(ciborium::Value::serialized(value).unwrap()))
}

/// The deterministic bytes of the details by ciborium alone.
pub fn details_by_ciborium(details: &Details) -> Vec<u8> {
    match details {
        Details::Pair(d) => by_ciborium(d),
        Details::Recover(d) => by_ciborium(d),
        Details::ScopeChange(d) => by_ciborium(d),
        Details::HighValueRelease(d) => by_ciborium(d),
        Details::KeyRotate(d) => by_ciborium(d),
    }
}

/// The details as ciborium alone reads them.
pub fn read_by_ciborium(kind: Kind, bytes: &[u8]) -> Details {
    let wrong = "ciborium reads what serde_cbor wrote";
    match kind {
        Kind::Pair => Details::Pair(ciborium::from_reader(bytes).expect(wrong)),
        Kind::Recover => Details::Recover(ciborium::from_reader(bytes).expect(wrong)),
        Kind::ScopeChange => Details::ScopeChange(ciborium::from_reader(bytes).expect(wrong)),
        Kind::HighValueRelease => {
            Details::HighValueRelease(ciborium::from_reader(bytes).expect(wrong))
        }
        Kind::KeyRotate => Details::KeyRotate(ciborium::from_reader(bytes).expect(wrong)),
    }
}

#[test]
fn a_second_library_writes_the_same_bytes_for_every_vector() {
    for case in list(&load(VECTORS)["cases"]) {
        assert_eq!(to_hex(&details_by_ciborium(&details_of(case))), text(&case["cbor"]));
    }
}

quickcheck! {
    fn canonical_bytes_read_back(details: AnyDetails) -> bool {
        let bytes = details.0.canonical().unwrap();
        Details::from_canonical(details.0.kind(), &bytes) == Ok(details.0)
    }

    fn a_second_library_writes_the_same_bytes(details: AnyDetails) -> bool {
        details_by_ciborium(&details.0) == details.0.canonical().unwrap()
    }

    fn json_reads_back(details: AnyDetails) -> bool {
        let text = details.0.to_json().to_string();
        let read = Details::from_json(details.0.kind(), serde_json::from_str(&text).unwrap()).unwrap();
        read.canonical() == details.0.canonical()
    }

    fn random_bytes_are_refused_or_canonical(bytes: Vec<u8>) -> bool {
        KINDS.into_iter().all(|kind| match Details::from_canonical(kind, &bytes) {
            Ok(details) => details.canonical().unwrap() == bytes,
            Err(_) => true,
        })
    }

    fn two_lists_of_fields_frame_apart(a: Vec<Vec<u8>>, b: Vec<Vec<u8>>) -> bool {
        (a == b) == (framed(&a) == framed(&b))
    }

    /// The same bytes cut into fields at different places: the likeliest confusion.
    fn two_cuts_of_one_text_frame_apart(text: Vec<u8>, a: Vec<usize>, b: Vec<usize>) -> bool {
        let (a, b) = (cut(&text, a), cut(&text, b));
        (a == b) == (framed(&a) == framed(&b))
    }

    fn an_absent_field_is_not_an_empty_one(before: Vec<u8>, field: Vec<u8>) -> bool {
        let with = |value: Option<&[u8]>| Frame::new("x").field(&before).optional(value).bytes().to_vec();
        with(None) != with(Some(&field)) && with(None) != with(Some(&[]))
    }
}

fn framed(fields: &[Vec<u8>]) -> Vec<u8> {
    fields.iter().fold(Frame::new("x"), |frame, field| frame.field(field)).bytes().to_vec()
}

fn cut(text: &[u8], at: Vec<usize>) -> Vec<Vec<u8>> {
    let mut at: Vec<_> = at.into_iter().map(|n| n % (text.len() + 1)).collect();
    at.sort_unstable();
    let mut fields = Vec::new();
    let mut from = 0;
    for to in at.into_iter().chain([text.len()]) {
        fields.push(text[from..to].to_vec());
        from = to;
    }
    fields
}

/// Any one byte changed: refused, or other details (other in what is shown; aliases that differ
/// in case are equal).
#[test]
fn a_changed_byte_never_reads_as_the_same_details() {
    fn property(details: AnyDetails, at: usize, by: u8) -> TestResult {
        let mut bytes = details.0.canonical().unwrap();
        if by == 0 {
            return TestResult::discard();
        }
        let at = at % bytes.len();
        bytes[at] ^= by;
        match Details::from_canonical(details.0.kind(), &bytes) {
            Err(_) => TestResult::passed(),
            Ok(read) => TestResult::from_bool(
                read.to_json() != details.0.to_json() && read.canonical().unwrap() == bytes,
            ),
        }
    }
    QuickCheck::new().tests(2_000).quickcheck(property as fn(AnyDetails, usize, u8) -> TestResult);
}

/// The same over every byte and every bit of the vectors.
#[test]
fn no_flipped_bit_of_a_vector_reads_as_the_same_details() {
    for case in list(&load(VECTORS)["cases"]) {
        let details = details_of(case);
        let whole = details.canonical().unwrap();
        // The largest scope has 134,000 bits; the random ones above stand in for it.
        if whole.len() > 1_000 {
            continue;
        }
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(read) = Details::from_canonical(details.kind(), &bytes) {
                assert_ne!(read.to_json(), details.to_json(), "{} bit {bit}", case["name"]);
            }
        }
    }
}
