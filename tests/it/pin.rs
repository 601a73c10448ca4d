//! Fingerprints of accounts: what a daemon is pinned to.
use agentkeys::core::pin::Fingerprint;

use crate::env::TestEnv;
use crate::vectors::{list, load, parse, text};

#[test]
fn fingerprints_are_what_another_program_computes() {
    for case in list(&load("fingerprint_vectors.json")) {
        let made = Fingerprint::of(parse(&case["account"]), &parse(&case["master_key"]));
        assert_eq!(made.to_string(), text(&case["fingerprint"]));
        assert_eq!(parse::<Fingerprint>(&case["fingerprint"]), made);
        let json = serde_json::to_value(made).unwrap();
        assert_eq!(json, case["fingerprint"]);
        assert_eq!(serde_json::from_value::<Fingerprint>(json).unwrap(), made);
    }
}

#[tokio::test]
async fn two_accounts_of_one_backend_have_two_fingerprints() {
    let env = TestEnv::new().await;
    let (ada, eve) = (env.master("ada").await, env.master("eve").await);
    let (ada, eve) = (
        Fingerprint::of(ada.account, &ada.master_key),
        Fingerprint::of(eve.account, &eve.master_key),
    );
    assert_ne!(ada, eve);
    let again = env.master("ada").await;
    assert_eq!(Fingerprint::of(again.account, &again.master_key), ada, "it is the account's");
}
