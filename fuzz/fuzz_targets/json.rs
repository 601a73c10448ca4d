//! JSON from the other side of the wire: what is read is written to JSON that reads as the same.
#![no_main]
use std::fmt::Debug;

use agentkeys::core::audit::{Entry, Head};
use agentkeys::core::auth_request::{Details, Kind};
use agentkeys::core::backend::{AuditFilter, ClientInfo, Fetched, Grant};
use agentkeys::core::decision::Decision;
use agentkeys::core::problem::Problem;
use agentkeys::core::scope::Scope;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fn reads_back<T>(bytes: &[u8])
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + Debug,
{
    if let Ok(value) = serde_json::from_slice::<T>(bytes) {
        let written = serde_json::to_vec(&value).expect("it was read");
        assert_eq!(serde_json::from_slice::<T>(&written).expect("what is written is read"), value);
    }
}

fuzz_target!(|bytes: &[u8]| {
    reads_back::<Problem>(bytes);
    reads_back::<Decision>(bytes);
    reads_back::<Entry>(bytes);
    reads_back::<Head>(bytes);
    reads_back::<Scope>(bytes);
    reads_back::<Grant>(bytes);
    reads_back::<ClientInfo>(bytes);
    reads_back::<Fetched>(bytes);
    let _ = serde_json::from_slice::<AuditFilter>(bytes);
    if let Ok(decision) = serde_json::from_slice::<Decision>(bytes) {
        let _ = decision.digest();
    }
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return };
    for kind in
        [Kind::Pair, Kind::Recover, Kind::ScopeChange, Kind::HighValueRelease, Kind::KeyRotate]
    {
        if let Ok(details) = Details::from_json(kind, value.clone()) {
            let canonical = details.canonical().expect("what is read is bounded");
            let read =
                Details::from_canonical(kind, &canonical).expect("what is canonical is read");
            assert_eq!(read, details);
        }
    }
});
