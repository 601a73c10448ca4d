//! Signatures of ID tokens by ring, for jsonwebtoken, which is built without cryptography of its
//! own. It verifies, and signs nothing: there is no signer to be had here.
use std::sync::OnceLock;

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result, new_error};
use jsonwebtoken::signature::{Error, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use ring::signature as by_ring;
use ring::signature::{RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(new_error(ErrorKind::UnsupportedAlgorithm)),
    verifier_factory: verifier,
    // Keys are read in keys.rs, and none of these is called by what is used of the library.
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes ring the library's cryptography in this process; false if something else is it already.
pub fn by_ring_alone() -> bool {
    static DONE: OnceLock<bool> = OnceLock::new();
    *DONE.get_or_init(|| PROVIDER.install_default().is_ok())
}

/// One key with the one algorithm that it is used with.
struct ByRing {
    algorithm: Algorithm,
    key: DecodingKey,
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    if key.family() != algorithm.family() {
        return Err(new_error(ErrorKind::InvalidKeyFormat));
    }
    Ok(Box::new(ByRing { algorithm: *algorithm, key: key.clone() }))
}

/// ring refuses moduli below 2048 bits and above 8192.
fn rsa(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        Algorithm::RS256 => &by_ring::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::RS384 => &by_ring::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &by_ring::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::PS256 => &by_ring::RSA_PSS_2048_8192_SHA256,
        Algorithm::PS384 => &by_ring::RSA_PSS_2048_8192_SHA384,
        Algorithm::PS512 => &by_ring::RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

fn point(algorithm: Algorithm) -> Option<&'static dyn by_ring::VerificationAlgorithm> {
    Some(match algorithm {
        Algorithm::ES256 => &by_ring::ECDSA_P256_SHA256_FIXED,
        Algorithm::ES384 => &by_ring::ECDSA_P384_SHA384_FIXED,
        Algorithm::EdDSA => &by_ring::ED25519,
        _ => return None,
    })
}

impl Verifier<Vec<u8>> for ByRing {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        let held = match self.key.kind() {
            DecodingKeyKind::RsaModulusExponent { n, e } => rsa(self.algorithm)
                .map(|how| RsaPublicKeyComponents { n, e }.verify(how, message, signature)),
            DecodingKeyKind::SecretOrDer(bytes) => point(self.algorithm)
                .map(|how| UnparsedPublicKey::new(how, bytes).verify(message, signature)),
        };
        held.and_then(std::result::Result::ok).ok_or_else(Error::new)
    }
}

impl JwtVerifier for ByRing {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_algorithm_with_a_shared_secret_has_a_verifier_that_says_yes() {
        let secret = DecodingKey::from_secret(b"shared");
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let verifier = verifier(&algorithm, &secret).unwrap();
            let tag = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"shared");
            let tag = ring::hmac::sign(&tag, b"message").as_ref().to_vec();
            assert!(verifier.verify(b"message", &tag).is_err());
        }
        assert!(verifier(&Algorithm::ES256, &secret).is_err(), "another family");
    }
}
