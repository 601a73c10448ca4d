//! Looks into the store's rows with nothing but the root key, by the specification and not by
//! the vault's own code.
use agentkeys::core::encoding::to_base64;
use agentkeys::core::types::to_hex;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf;

use crate::env::{ROOT, TestEnv};

struct Bytes32;

impl hkdf::KeyType for Bytes32 {
    fn len(&self) -> usize {
        32
    }
}

/// A row's plaintext: `salt (16) || nonce (12) || ciphertext`, with the row's key as
/// associated data, under a key that HKDF-SHA256 gives for the salt.
fn open(key: &[u8], row: &[u8]) -> Vec<u8> {
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"AgentKeys-v1-Root").extract(&ROOT);
    let mut derived = [0; 32];
    prk.expand(&[b"rows", &row[..16]], Bytes32)
        .and_then(|okm| okm.fill(&mut derived))
        .expect("32 bytes are within what HKDF gives");
    let opener = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &derived).expect("32 bytes"));
    let nonce = Nonce::try_assume_unique_for_key(&row[16..28]).expect("12 bytes");
    let mut plain = row[28..].to_vec();
    let length = opener.open_in_place(nonce, Aad::from(key), &mut plain).expect("opens").len();
    plain.truncate(length);
    plain
}

/// The keys of all rows that hold `secret`, as bytes, as hex or as base64.
pub async fn rows_with(env: &TestEnv, secret: &[u8]) -> Vec<Vec<u8>> {
    let forms = [secret.to_vec(), to_hex(secret).into_bytes(), to_base64(secret).into_bytes()];
    let rows = env.rows().await;
    let holds = |plain: &[u8]| {
        forms.iter().any(|form| plain.windows(form.len()).any(|part| part == form.as_slice()))
    };
    let found = rows.iter().filter(|(key, row)| holds(&open(key, row)));
    found.map(|(key, _)| key.clone()).collect()
}

/// How many rows of one kind there are, by the tag that their keys begin with.
pub async fn count_of(env: &TestEnv, tag: u8) -> usize {
    env.rows().await.keys().filter(|key| key[0] == tag).count()
}
