//! Sessions: made, used, narrowed, expired, revoked.
use agentkeys::core::backend::{ClientInfo, IdentityProof, RevokeTarget};
use agentkeys::core::problem::Code;
use agentkeys::core::scope::Scope;

use crate::env::{TestEnv, code, id, proof, refused, unknown_token};

#[tokio::test]
async fn create_valid() {
    let env = TestEnv::new().await;
    let alice = env.master("alice").await;
    let who = alice.backend.who_am_i(&alice.session).await.expect("the session is good");
    assert_eq!(who.session_id, alice.session_id);
    assert_eq!(who.wallet, alice.wallet);
    assert_eq!(who.identity, "dev:alice");
    assert!(!who.child);
    assert!(alice.session.expose().starts_with("agkm_"));
}
