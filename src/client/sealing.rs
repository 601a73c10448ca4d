//! Seals to the backend's shielding key, so that a secret is in the clear nowhere on its way there.
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::core::backend::ShieldingKey;
use crate::core::identity::ServiceName;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::seal::{self, Purpose};
use crate::core::secret::{Key32, SecretBytes};
use crate::core::types::{AccountId, KeyId, WalletAddress};

/// Seals an agent's key for a service.
///
/// # Errors
/// Those of [`seal`].
pub fn seal_credential(
    shielding: ShieldingKey,
    account: AccountId,
    agent: WalletAddress,
    service: &ServiceName,
    key: &SecretBytes,
) -> Answer<Vec<u8>> {
    seal(shielding, &Purpose::credential(account, agent, service), key)
}

/// Seals `secret` for one purpose. The plaintext goes into the sealing and nowhere else.
///
/// # Errors
/// `UNAVAILABLE`: the shielding key is none that this version can seal to, or the system gave no
/// randomness.
pub fn seal(shielding: ShieldingKey, purpose: &Purpose, secret: &SecretBytes) -> Answer<Vec<u8>> {
    let key = usable(shielding)?.public_key;
    seal::seal(&key, purpose, secret.expose(), &random_key()?).map_err(|_| unusable())
}

/// The shielding key, if this version can seal to it.
///
/// # Errors
/// It cannot.
pub fn usable(shielding: ShieldingKey) -> Answer<ShieldingKey> {
    let fits =
        shielding.suite == seal::SUITE && shielding.key_id == KeyId::of(&shielding.public_key);
    if fits { Ok(shielding) } else { Err(unusable()) }
}

fn unusable() -> Problem {
    let mut problem = Problem::new(
        Code::Unavailable,
        "the backend's shielding key cannot be used",
        "it is of another suite than this version knows, or does not fit its id",
        "use the same version on both sides; compare agentkeys --version",
    );
    problem.docs = "docs/errors.md#wrong_version".to_owned();
    problem
}

/// 32 bytes of the system's randomness.
fn random_key() -> Answer<Key32> {
    let mut random = Zeroizing::new([0; 32]);
    SystemRandom::new().fill(&mut *random).map_err(|_| {
        let cause = "its generator did not answer";
        Problem::new(Code::Unavailable, "the system gave no randomness", cause, "try again")
    })?;
    Ok(Key32::new(*random))
}
