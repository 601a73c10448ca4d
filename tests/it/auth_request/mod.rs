//! Auth requests. The bytes that everybody hashes are held here and in [`canonical`].
mod canonical;

use agentkeys::core::auth_request::Details;
use agentkeys::core::backend::{AgentSummary, Fetched, Seen};
use agentkeys::core::otp::{Covered, PairCode};
use agentkeys::core::scope::Scope;
use agentkeys::core::types::{Hash32, Nonce, Timestamp, to_hex};
use serde_json::Value;

use crate::arbitrary::KINDS;
use crate::vectors::{hex, json, list, load, parse, text};

const VECTORS: &str = "auth_request_vectors.json";

fn details_of(case: &Value) -> Details {
    Details::from_json(json(&case["kind"]), case["details"].clone())
        .unwrap_or_else(|e| panic!("{}: {}", case["name"], e.cause))
}

/// The same nonce and request give byte-identical CBOR, whatever order the members were
/// written in, in this run and (the vectors being fixed) in every other.
#[test]
fn cbor_determinism() {
    fn backwards(value: &Value) -> Value {
        match value {
            Value::Object(members) => {
                members.iter().rev().map(|(k, v)| (k.clone(), backwards(v))).collect()
            }
            Value::Array(items) => items.iter().rev().map(backwards).collect(),
            other => other.clone(),
        }
    }
    for case in list(&load(VECTORS)["cases"]) {
        let kind = json(&case["kind"]);
        let first = details_of(case).canonical().unwrap();
        assert_eq!(details_of(case).canonical().unwrap(), first, "{}", case["name"]);
        let turned = Details::from_json(kind, backwards(&case["details"])).unwrap();
        assert_eq!(turned.canonical().unwrap(), first, "{}", case["name"]);
        assert_eq!(to_hex(&first), text(&case["cbor"]), "{}", case["name"]);
    }
}

/// Each kind in the vectors file gives the expected bytes, and reads back from them; so do OTP,
/// pair code, nonce hash and the hash of what the person saw.
#[test]
fn cbor_vectors() {
    let file = load(VECTORS);
    let cases = list(&file["cases"]);
    for kind in KINDS {
        assert!(
            cases.iter().filter(|c| text(&c["kind"]) == kind.as_str()).count() >= 2,
            "{kind:?}"
        );
    }
    for case in cases {
        let name = text(&case["name"]);
        let details = details_of(case);
        let bytes = hex(&case["cbor"]);
        assert_eq!(to_hex(&details.canonical().unwrap()), to_hex(&bytes), "{name}");
        assert_eq!(Details::from_canonical(details.kind(), &bytes).unwrap(), details, "{name}");
        assert_eq!(details.to_json(), case["details"], "{name}");
        for other in KINDS.into_iter().filter(|kind| *kind != details.kind()) {
            assert!(Details::from_canonical(other, &bytes).is_err(), "{name} as {other:?}");
        }

        let nonce: Nonce = parse(&case["nonce"]);
        assert_eq!(Hash32::of(&nonce.0), parse(&case["nonce_hash"]), "{name}");
        let covered = Covered {
            request: parse(&case["request_id"]),
            kind: details.kind(),
            details: &bytes,
            keys: &parse(&case["child_pubkey"]),
        };
        assert_eq!(covered.otp(&nonce).to_string(), text(&case["otp"]), "{name}");
        let code: PairCode = covered.pair_code(&nonce);
        assert_eq!(code.to_string(), text(&case["pair_code"]), "{name}");

        let summary = |wallet| AgentSummary {
            wallet,
            name: None,
            identities: Vec::new(),
            scope: Scope::everything(),
            revoked: None,
            created_at: Timestamp(0),
        };
        // Recover may name a wallet address, but what is shown is what the backend looked up.
        let by_wallet = !matches!(details, Details::Recover(_));
        let fetched = Fetched {
            id: covered.request,
            kind: details.kind(),
            details: bytes.clone(),
            child_pubkey: *covered.keys,
            otp: covered.otp(&nonce),
            created_at: parse(&case["decision"]["created_at"]),
            expires_at: Timestamp(0),
            saw: Seen::default(),
            agent: details.wallet().filter(|_| by_wallet).map(summary),
        };
        assert_eq!(fetched.seen_hash(), parse(&case["seen_hash"]), "{name}");
    }
}
