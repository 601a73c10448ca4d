//! Decisions: the bytes that are signed, and every check that a child makes. Each test of a check
//! first verifies the untouched decision, so that only the change can be what fails.
use agentkeys::core::auth_request::{Details, Kind};
use agentkeys::core::decision::{Decision, Expected, Granted, Mistrust, Verdict};
use agentkeys::core::otp::Covered;
use agentkeys::core::scope::Scope;
use agentkeys::core::types::{
    AccountId, BackendId, ChildKeys, Hash32, Nonce, PublicKey, RequestId, SessionId, Signature,
    Timestamp, WalletAddress,
};
use ring::signature::Ed25519KeyPair;
use serde_json::{Value, json};

use crate::vectors::{hex, json as read, list, load, master, parse, text};

const AGENT: WalletAddress = WalletAddress([9; 20]);
const PAYLOAD: &[u8] = b"the minted session";

fn key(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

/// A child that asks for a scope change, and the answer to it.
struct Case {
    details: Details,
    decision: Decision,
}

impl Case {
    fn new() -> Self {
        Self::answering(
            Kind::ScopeChange,
            json!({ "agent": AGENT, "scope": { "services": ["a", "b"], "read_only": true } }),
        )
    }

    fn answering(kind: Kind, details: Value) -> Self {
        let details = Details::from_json(kind, details).unwrap();
        let mut decision = Decision {
            request_id: RequestId([1; 16]),
            kind,
            details: details.canonical().unwrap(),
            child_pubkey: ChildKeys([2; 64]),
            parent_session: Some(SessionId([3; 16])),
            created_at: Timestamp(1_775_745_127_000),
            nonce: Nonce([4; 32]),
            verdict: Verdict::Approved,
            backend_id: BackendId([5; 16]),
            account: AccountId([6; 16]),
            granted: Some(Granted {
                agent: AGENT,
                scope: Scope {
                    services: Some(["a".parse().unwrap()].into()),
                    read_only: true,
                    ..Scope::default()
                },
                expires_at: Timestamp(1_775_745_200_000),
                session_hash: Some(Hash32::of(PAYLOAD)),
            }),
            master_key: PublicKey([0; 32]),
            signature: Signature([0; 64]),
        };
        decision.sign(&key(7));
        Self { details, decision }
    }

    /// What the child of the untouched decision holds.
    fn expected(&self) -> Expected<'_> {
        let d = &self.decision;
        let covered = Covered {
            request: d.request_id,
            kind: d.kind,
            details: &d.details,
            keys: &d.child_pubkey,
        };
        let asked = match &self.details {
            Details::Pair(pair) => Some(pair.scope.clone()),
            Details::ScopeChange(change) => Some(change.scope.clone()),
            _ => None,
        };
        Expected {
            request_id: d.request_id,
            details: &self.details,
            keys: d.child_pubkey,
            parent_session: d.parent_session,
            created_at: d.created_at,
            nonce_hash: Hash32::of(&d.nonce.0),
            otp: covered.otp(&d.nonce),
            pair_code: covered.pair_code(&d.nonce),
            asked,
            pinned: Some((d.account, d.master_key)),
        }
    }

    /// What the child says to the decision after `change`, signed again by the same master:
    /// only the check of the changed field can find it.
    fn signed_again(&self, change: impl FnOnce(&mut Decision)) -> Result<(), Mistrust> {
        let expected = self.expected();
        assert_eq!(self.decision.verify(&expected), Ok(()), "untouched");
        let mut changed = self.decision.clone();
        change(&mut changed);
        changed.sign(&key(7));
        changed.verify(&expected)
    }

    /// The same without a new signature: what somebody between backend and child could do.
    fn changed(&self, change: impl FnOnce(&mut Decision)) -> Result<(), Mistrust> {
        let expected = self.expected();
        assert_eq!(self.decision.verify(&expected), Ok(()), "untouched");
        let mut changed = self.decision.clone();
        change(&mut changed);
        changed.verify(&expected)
    }

    /// What a child that holds something else says to the untouched decision.
    fn held(&self, change: impl FnOnce(&mut Expected<'_>)) -> Result<(), Mistrust> {
        let mut expected = self.expected();
        assert_eq!(self.decision.verify(&expected), Ok(()), "untouched");
        change(&mut expected);
        self.decision.verify(&expected)
    }
}

fn granted(decision: &mut Decision) -> &mut Granted {
    decision.granted.as_mut().unwrap()
}

#[test]
fn another_request_s_decision_is_refused() {
    let case = Case::new();
    assert_eq!(case.signed_again(|d| d.request_id.0[0] ^= 1), Err(Mistrust::OtherRequest));
}

#[test]
fn another_nonce_is_refused() {
    let case = Case::new();
    assert_eq!(case.signed_again(|d| d.nonce.0[31] ^= 1), Err(Mistrust::Nonce));
    assert_eq!(case.held(|e| e.nonce_hash.0[0] ^= 1), Err(Mistrust::Nonce));
}

#[test]
fn changed_details_are_refused() {
    let case = Case::new();
    assert_eq!(case.signed_again(|d| d.kind = Kind::Pair), Err(Mistrust::Details));
    assert_eq!(case.signed_again(|d| d.details.push(0)), Err(Mistrust::Details));
    assert_eq!(case.signed_again(|d| d.details[20] ^= 1), Err(Mistrust::Details));
    assert_eq!(case.signed_again(|d| d.details.clear()), Err(Mistrust::Details));
}

#[test]
fn other_child_keys_are_refused() {
    let case = Case::new();
    // One bit in the Ed25519 key, one in the X25519 key: both are covered.
    assert_eq!(case.signed_again(|d| d.child_pubkey.0[0] ^= 1), Err(Mistrust::Keys));
    assert_eq!(case.signed_again(|d| d.child_pubkey.0[63] ^= 1), Err(Mistrust::Keys));
}

#[test]
fn another_session_or_time_of_opening_is_refused() {
    let case = Case::new();
    assert_eq!(case.signed_again(|d| d.created_at.0 += 1), Err(Mistrust::Opening));
    assert_eq!(case.signed_again(|d| d.parent_session = None), Err(Mistrust::Opening));
    let other = Some(SessionId([0; 16]));
    assert_eq!(case.signed_again(|d| d.parent_session = other), Err(Mistrust::Opening));
    assert_eq!(case.held(|e| e.parent_session = None), Err(Mistrust::Opening));
}

#[test]
fn another_otp_than_was_shown_is_refused() {
    let case = Case::new();
    let other = if case.expected().otp.to_string() == "000000" { "000001" } else { "000000" };
    assert_eq!(case.held(|e| e.otp = other.parse().unwrap()), Err(Mistrust::Otp));
}

#[test]
fn another_pair_code_than_was_shown_is_refused() {
    let case = Case::new();
    let other = "0000-0000".parse().unwrap();
    assert!(case.expected().pair_code != other);
    assert_eq!(case.held(|e| e.pair_code = other), Err(Mistrust::PairCode));
}

#[test]
fn a_verdict_that_contradicts_its_grant_is_refused() {
    let case = Case::new();
    assert_eq!(case.signed_again(|d| d.verdict = Verdict::Denied), Err(Mistrust::Verdict));
    assert_eq!(case.signed_again(|d| d.granted = None), Err(Mistrust::Verdict));
    let denied = |d: &mut Decision| {
        d.verdict = Verdict::Denied;
        d.granted = None;
    };
    assert_eq!(case.signed_again(denied), Ok(()), "a whole denial is one");
}

#[test]
fn a_grant_for_another_agent_is_refused() {
    let other = |d: &mut Decision| granted(d).agent = WalletAddress([8; 20]);
    assert_eq!(Case::new().signed_again(other), Err(Mistrust::OtherAgent));
    let case = Case::answering(Kind::Recover, json!({ "agent": AGENT }));
    assert_eq!(case.signed_again(other), Err(Mistrust::OtherAgent));
    // Who asks by a name learns the wallet address from the answer.
    let case = Case::answering(Kind::Recover, json!({ "agent": "my-bot" }));
    assert_eq!(case.signed_again(other), Ok(()));
    let case = Case::answering(Kind::Pair, json!({ "scope": {} }));
    assert_eq!(case.signed_again(other), Ok(()));
}

#[test]
fn a_wider_grant_is_refused() {
    let case = Case::new();
    let services = |names: &[&str]| Some(names.iter().map(|n| n.parse().unwrap()).collect());
    let give = |scope: Scope| case.signed_again(move |d| granted(d).scope = scope);
    assert_eq!(
        give(Scope { services: services(&["a", "b"]), read_only: true, ..Scope::default() }),
        Ok(())
    );
    assert_eq!(
        give(Scope { services: services(&[]), read_only: true, ..Scope::default() }),
        Ok(())
    );
    let wider = Err(Mistrust::Wider);
    assert_eq!(
        give(Scope { services: services(&["a", "c"]), read_only: true, ..Scope::default() }),
        wider
    );
    assert_eq!(give(Scope { services: None, read_only: true, ..Scope::default() }), wider);
    assert_eq!(
        give(Scope { services: services(&["a"]), read_only: false, ..Scope::default() }),
        wider
    );
    assert_eq!(give(Scope::everything()), wider);
}

/// Every field that no earlier check compares is covered by the signature.
#[test]
fn a_changed_field_breaks_the_signature() {
    let case = Case::new();
    let wrong = Err(Mistrust::Signature);
    assert_eq!(case.changed(|d| d.backend_id.0[0] ^= 1), wrong);
    assert_eq!(case.changed(|d| d.account.0[0] ^= 1), wrong);
    assert_eq!(case.changed(|d| granted(d).expires_at.0 += 1), wrong);
    assert_eq!(case.changed(|d| granted(d).session_hash = None), wrong);
    assert_eq!(case.changed(|d| granted(d).session_hash = Some(Hash32([0; 32]))), wrong);
    assert_eq!(case.changed(|d| granted(d).scope.services = Some([].into())), wrong);
    assert_eq!(case.changed(|d| d.master_key.0[0] ^= 1), wrong);
    let denied = |d: &mut Decision| {
        d.verdict = Verdict::Denied;
        d.granted = None;
    };
    assert_eq!(case.changed(denied), wrong, "nobody can turn a yes into a no");
    for bit in 0..64 * 8 {
        assert_eq!(case.changed(|d| d.signature.0[bit / 8] ^= 1 << (bit % 8)), wrong, "{bit}");
    }
}

/// Somebody else's signature is good by itself, and refused by whoever pinned a key.
#[test]
fn another_master_key_or_account_than_the_pinned_one_is_refused() {
    let case = Case::new();
    let expected = case.expected();
    let mut foreign = case.decision.clone();
    foreign.sign(&key(8));
    assert_eq!(foreign.verify(&expected), Err(Mistrust::Pin));
    assert_eq!(foreign.verify(&Expected { pinned: None, ..case.expected() }), Ok(()));
    assert_eq!(case.signed_again(|d| d.account.0[0] ^= 1), Err(Mistrust::Pin));
    let other = |e: &mut Expected<'_>| e.pinned = Some((AccountId([0; 16]), e.pinned.unwrap().1));
    assert_eq!(case.held(other), Err(Mistrust::Pin));
}

#[test]
fn another_payload_is_refused() {
    let case = Case::new();
    assert_eq!(case.decision.verify_payload(PAYLOAD), Ok(()));
    assert_eq!(case.decision.verify_payload(b"another"), Err(Mistrust::Payload));
    assert_eq!(case.decision.verify_payload(b""), Err(Mistrust::Payload));
    let mut without = case.decision.clone();
    granted(&mut without).session_hash = None;
    assert_eq!(without.verify_payload(PAYLOAD), Err(Mistrust::Payload));
    without.granted = None;
    assert_eq!(without.verify_payload(PAYLOAD), Err(Mistrust::Payload));
}

/// A's decision never opens B, even where both show the same OTP: B checks more than that.
#[test]
fn a_decision_is_for_its_own_request_only() {
    let (a, b) = (Case::new(), Case::answering(Kind::Pair, json!({ "scope": {} })));
    assert_eq!(a.decision.verify(&a.expected()), Ok(()));
    assert_eq!(b.decision.verify(&b.expected()), Ok(()));
    let posing = Expected { otp: a.expected().otp, ..b.expected() };
    assert!(a.decision.verify(&posing).is_err());
}

fn decision_of(case: &Value) -> Decision {
    let signed = &case["decision"];
    let mut whole = json!({
        "request_id": case["request_id"],
        "kind": case["kind"],
        "details": agentkeys::core::encoding::to_base64(&hex(&case["cbor"])),
        "child_pubkey": case["child_pubkey"],
        "nonce": case["nonce"],
    });
    let members = whole.as_object_mut().unwrap();
    for (name, value) in signed.as_object().unwrap() {
        if name != "digest" && !value.is_null() {
            members.insert(name.clone(), value.clone());
        }
    }
    read(&whole)
}

/// Digest and signature of the other implementation, and the JSON form that a child reads.
#[test]
fn every_vector_verifies_and_signs_alike() {
    let file = load("auth_request_vectors.json");
    let (mut yes, mut no) = (0, 0);
    for case in list(&file["cases"]) {
        let name = text(&case["name"]);
        let mut decision = decision_of(case);
        let signed = &case["decision"];
        assert_eq!(decision.digest(), parse(&signed["digest"]), "{name}");
        let details = Details::from_json(decision.kind, case["details"].clone()).unwrap();
        let whole = Case { details, decision: decision.clone() };
        let mut expected = whole.expected();
        expected.otp = parse(&case["otp"]);
        expected.pair_code = parse(&case["pair_code"]);
        expected.nonce_hash = parse(&case["nonce_hash"]);
        assert_eq!(decision.verify(&expected), Ok(()), "{name}");
        decision.sign(&master(&file));
        assert_eq!(decision.signature, parse(&signed["signature"]), "{name}");
        assert_eq!(decision.master_key, parse(&signed["master_key"]), "{name}");
        let again: Decision = read(&serde_json::to_value(&decision).unwrap());
        assert_eq!(again, decision, "{name}");
        match decision.verdict {
            Verdict::Approved => yes += 1,
            Verdict::Denied => no += 1,
        }
    }
    assert!(yes > 0 && no > 0);
}

#[test]
fn the_json_form_is_strict() {
    let whole = serde_json::to_value(&Case::new().decision).unwrap();
    let _: Decision = read(&whole);
    let with = |name: &str, value: Value| {
        let mut changed = whole.clone();
        changed.as_object_mut().unwrap().insert(name.to_owned(), value);
        serde_json::from_value::<Decision>(changed)
    };
    for (name, value) in [
        ("extra", json!(1)),
        ("verdict", json!("Approved")),
        ("verdict", json!(true)),
        ("kind", json!("pair")),
        ("details", json!("not base64!")),
        ("details", json!("YQ")),
        ("details", json!([1])),
        ("nonce", json!("00")),
        ("nonce", json!(format!("0x{}", "00".repeat(32)))),
        ("created_at", json!(0)),
        ("created_at", json!("yesterday")),
        ("signature", json!(null)),
    ] {
        assert!(with(name, value.clone()).is_err(), "{name}: {value}");
    }
    for name in ["nonce", "signature", "master_key", "verdict", "backend_id", "account"] {
        let mut without = whole.clone();
        without.as_object_mut().unwrap().remove(name);
        assert!(serde_json::from_value::<Decision>(without).is_err(), "without {name}");
    }
}

#[test]
fn debug_does_not_show_the_nonce() {
    let shown = format!("{:?}", Case::new().decision);
    assert!(shown.contains("Nonce(..)"));
    assert!(!shown.contains("04040404"), "{shown}");
}
