//! OTP and pair code: where they come from, and how they are read.
use std::collections::HashSet;

use agentkeys::core::auth_request::Kind;
use agentkeys::core::otp::{Covered, Otp, PairCode};
use agentkeys::core::types::{ChildKeys, Nonce, RequestId};
use quickcheck::quickcheck;

const REQUEST: RequestId = RequestId([1; 16]);
const KEYS: ChildKeys = ChildKeys([2; 64]);
const NONCE: Nonce = Nonce([3; 32]);

fn covered(details: &[u8]) -> Covered<'_> {
    Covered { request: REQUEST, kind: Kind::Pair, details, keys: &KEYS }
}

/// The same nonce and bytes give the same OTP, and so the same pair code.
#[test]
fn determinism() {
    let first = covered(b"details");
    for _ in 0..100 {
        let details = b"details".to_vec();
        assert_eq!(covered(&details).otp(&Nonce([3; 32])), first.otp(&NONCE));
        assert_eq!(covered(&details).pair_code(&Nonce([3; 32])), first.pair_code(&NONCE));
    }
    assert_ne!(first.otp(&Nonce([4; 32])), first.otp(&NONCE));
    assert_ne!(first.pair_code(&Nonce([4; 32])), first.pair_code(&NONCE));
}

/// Other details give another OTP, even under one nonce. Six digits meet by chance, so this
/// holds that they do no more often than chance has it: of 1,000 about 0.5 meet.
#[test]
fn different_requests_different_otps() {
    let details: Vec<_> = (0..1_000u32).map(u32::to_be_bytes).collect();
    let otps: HashSet<_> = details.iter().map(|d| covered(d).otp(&NONCE).to_string()).collect();
    assert!(otps.len() >= 994, "{} of 1,000 are different", otps.len());
    let codes: HashSet<_> = details.iter().map(|d| covered(d).pair_code(&NONCE)).collect();
    assert_eq!(codes.len(), 1_000);

    // Each other part of what is covered changes both as well.
    let base = covered(b"details");
    let others = [
        Covered { request: RequestId([9; 16]), ..base },
        Covered { kind: Kind::Recover, ..base },
        Covered { details: b"detailt", ..base },
        Covered { keys: &ChildKeys([9; 64]), ..base },
    ];
    for other in others {
        assert_ne!(other.otp(&NONCE), base.otp(&NONCE));
        assert_ne!(other.pair_code(&NONCE), base.pair_code(&NONCE));
    }
}

#[test]
fn an_otp_is_six_digits() {
    for good in ["000000", "012345", "999999"] {
        assert_eq!(good.parse::<Otp>().unwrap().to_string(), good);
    }
    for wrong in ["", "12345", "1234567", "12345a", "+12345", " 12345", "١٢٣٤٥٦", "12345٦"] {
        assert!(wrong.parse::<Otp>().is_err(), "{wrong}");
    }
}

#[test]
fn a_pair_code_is_read_in_any_case_with_or_without_its_dash() {
    let code: PairCode = "ABCD-EFGH".parse().unwrap();
    for same in ["abcd-efgh", "AbCd-eFgH", "ABCDEFGH", "abcdefgh"] {
        assert!(same.parse::<PairCode>().unwrap() == code, "{same}");
    }
    for wrong in [
        "",
        "-",
        "ABCD-EFG",
        "ABCD-EFGHJ",
        "ABC-DEFGH",
        "ABCDE-FGH",
        "ABCD--EFG",
        "ABCD-EFG-",
        "-ABCDEFGH",
        "ABCD EFGH",
        "ABCD\u{2010}EFGH",
        "ABCD-EFGI",
        "ABCD-EFGL",
        "ABCD-EFGO",
        "ABCD-EFGU",
        "ABCD-EFG\u{ff28}",
        "ABCDEFGHJ",
        " ABCDEFGH",
        "ABCD-EFGH\n",
        "\u{e9}BCDEFG",
    ] {
        assert!(wrong.parse::<PairCode>().is_err(), "{wrong:?}");
    }
}

/// A log line with a request in it must not let its reader approve or bind the request.
#[test]
fn a_live_code_and_a_nonce_are_not_in_debug() {
    let code = covered(b"x").pair_code(&NONCE);
    assert_eq!(format!("{code:?}"), "PairCode(..)");
    assert_eq!(format!("{NONCE:?}"), "Nonce(..)");
}

quickcheck! {
    fn pair_codes_read_back(details: Vec<u8>) -> bool {
        let code = covered(&details).pair_code(&NONCE);
        let shown = code.to_string();
        shown.len() == 9 && !shown.contains(['I', 'L', 'O', 'U']) && shown.parse() == Ok(code)
    }

    fn otps_read_back(details: Vec<u8>) -> bool {
        let otp = covered(&details).otp(&NONCE);
        otp.to_string().parse() == Ok(otp)
    }
}
