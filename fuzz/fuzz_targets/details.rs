//! Canonical details: whatever is read is written back to the very same bytes.
#![no_main]
use agentkeys::core::auth_request::{Details, Kind};
use agentkeys::core::cbor;
use agentkeys::core::decision::Granted;
use agentkeys::core::scope::{MAX_SERVICES, Scope};
use libfuzzer_sys::fuzz_target;

const KINDS: [Kind; 5] =
    [Kind::Pair, Kind::Recover, Kind::ScopeChange, Kind::HighValueRelease, Kind::KeyRotate];

fuzz_target!(|bytes: &[u8]| {
    for kind in KINDS {
        if let Ok(details) = Details::from_canonical(kind, bytes) {
            assert_eq!(details.canonical().expect("it was read"), bytes);
            let json = Details::from_json(kind, details.to_json()).expect("it was read");
            assert_eq!(json.canonical().expect("it was read"), bytes);
        }
    }
    if let Ok(scope) = cbor::from_canonical::<Scope>(bytes) {
        assert!(scope.services.is_none_or(|services| services.len() <= MAX_SERVICES));
    }
    let _ = cbor::from_canonical::<Granted>(bytes);
    let _ = cbor::from_row::<Scope>(bytes);
});
