//! The issuer's public keys. What a key may be used for is fixed when it is read, by its type,
//! its curve and its own `alg`: never by a token.
use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

/// Most keys of one set.
pub const MAX_KEYS: usize = 64;
/// Smallest and largest RSA modulus, in bits; ring holds the same.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// Longest name of a key.
const MAX_ID: usize = 255;

/// One key of the issuer, for signatures only.
pub struct IssuerKey {
    /// Its name; some sets with one key have none.
    pub id: Option<String>,
    /// What it may be used with.
    pub algorithms: Vec<Algorithm>,
    /// The key.
    pub key: DecodingKey,
}

/// A key set as it is published. Members beside `keys` are nobody's business.
#[derive(Deserialize)]
pub struct KeySet {
    keys: Vec<serde_json::Value>,
}

/// Why a key set cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeySetError {
    /// More keys than are looked at.
    #[error("it has more than {MAX_KEYS} keys")]
    TooMany,
    /// None that signs with an algorithm that is accepted.
    #[error(
        "it has no key to verify signatures with, of RSA from 2048 bits, P-256, P-384, Ed25519"
    )]
    NoneOfUse,
}

impl KeySet {
    /// The keys that can be used. A key of a kind that is not known here is left out, and spoils
    /// none of the others.
    pub fn usable(self) -> Result<Vec<IssuerKey>, KeySetError> {
        if self.keys.len() > MAX_KEYS {
            return Err(KeySetError::TooMany);
        }
        let read = |value| serde_json::from_value(value).ok().as_ref().and_then(usable);
        let keys: Vec<_> = self.keys.into_iter().filter_map(read).collect();
        if keys.is_empty() { Err(KeySetError::NoneOfUse) } else { Ok(keys) }
    }
}

fn usable(jwk: &Jwk) -> Option<IssuerKey> {
    let for_signing =
        jwk.common.public_key_use.as_ref().is_none_or(|u| *u == PublicKeyUse::Signature);
    let operations = jwk.common.key_operations.as_ref();
    let may_verify = operations.is_none_or(|all| all.contains(&KeyOperations::Verify));
    let id = jwk.common.key_id.clone();
    if !for_signing || !may_verify || id.as_ref().is_some_and(|id| id.len() > MAX_ID) {
        return None;
    }
    let key = DecodingKey::from_jwk(jwk).ok()?;
    let length = || key.try_get_as_bytes().map_or(0, <[u8]>::len);
    let fitting: &[Algorithm] = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => {
            if !RSA_BITS.contains(&modulus_bits(&key)) {
                return None;
            }
            &[
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ]
        }
        // An uncompressed point: one byte, then both coordinates.
        AlgorithmParameters::EllipticCurve(point) => match point.curve {
            EllipticCurve::P256 if length() == 65 => &[Algorithm::ES256],
            EllipticCurve::P384 if length() == 97 => &[Algorithm::ES384],
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(point) => match point.curve {
            EllipticCurve::Ed25519 if length() == 32 => &[Algorithm::EdDSA],
            _ => return None,
        },
        // A shared secret in a public set is no secret; what is not known is not used.
        _ => return None,
    };
    let algorithms = match jwk.common.key_algorithm {
        None => fitting.to_vec(),
        Some(own) => {
            fitting.iter().copied().filter(|one| KeyAlgorithm::from(*one) == own).collect()
        }
    };
    (!algorithms.is_empty()).then_some(IssuerKey { id, algorithms, key })
}

fn modulus_bits(key: &DecodingKey) -> usize {
    match key.kind() {
        jsonwebtoken::DecodingKeyKind::RsaModulusExponent { n, .. } => {
            let n = &n[n.iter().take_while(|byte| **byte == 0).count()..];
            n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize)
        }
        jsonwebtoken::DecodingKeyKind::SecretOrDer(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::{Value, json};

    use super::*;

    fn usable_of(keys: Vec<Value>) -> Result<Vec<IssuerKey>, KeySetError> {
        serde_json::from_value::<KeySet>(json!({ "keys": keys })).unwrap().usable()
    }

    fn rsa(bytes: usize) -> Value {
        let mut n = vec![0xff; bytes];
        n[0] = 0x80;
        json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode(n), "e": "AQAB", "kid": "r"})
    }

    fn with(mut key: Value, name: &str, value: Value) -> Value {
        key[name] = value;
        key
    }

    fn point(curve: &str, bytes: usize) -> Value {
        let of = URL_SAFE_NO_PAD.encode(vec![1; bytes]);
        json!({"kty": "EC", "crv": curve, "x": of, "y": of})
    }

    #[test]
    fn type_curve_and_alg_of_a_key_fix_what_it_is_used_with() {
        let of = |key: Value| usable_of(vec![key]).map(|keys| keys[0].algorithms.clone());
        assert_eq!(of(rsa(256)).unwrap().len(), 6);
        assert_eq!(of(with(rsa(256), "alg", json!("PS384"))), Ok(vec![Algorithm::PS384]));
        assert_eq!(of(point("P-256", 32)), Ok(vec![Algorithm::ES256]));
        assert_eq!(of(point("P-384", 48)), Ok(vec![Algorithm::ES384]));
        let ed = json!({"kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode([1; 32])});
        assert_eq!(of(ed.clone()), Ok(vec![Algorithm::EdDSA]));
        for bad in [
            rsa(255),
            rsa(128),
            rsa(1025),
            with(rsa(256), "use", json!("enc")),
            with(rsa(256), "key_ops", json!(["sign", "encrypt"])),
            with(rsa(256), "alg", json!("ES256")),
            with(rsa(256), "alg", json!("HS256")),
            with(rsa(256), "alg", json!("RSA-OAEP")),
            with(rsa(256), "kid", json!("k".repeat(256))),
            with(ed, "x", json!("AAAA")),
            point("P-256", 31),
            point("P-256", 48),
            point("P-521", 66),
            json!({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}),
            json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"}),
            json!(7),
        ] {
            assert_eq!(of(bad.clone()), Err(KeySetError::NoneOfUse), "{bad}");
        }
    }

    #[test]
    fn a_key_of_an_unknown_kind_spoils_none_of_the_others_and_too_many_are_refused() {
        let odd = json!({"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"});
        assert_eq!(usable_of(vec![odd, rsa(256)]).unwrap().len(), 1);
        assert_eq!(usable_of(vec![rsa(256); MAX_KEYS]).unwrap().len(), MAX_KEYS);
        assert!(usable_of(vec![rsa(256); MAX_KEYS + 1]).err() == Some(KeySetError::TooMany));
        assert!(usable_of(vec![]).err() == Some(KeySetError::NoneOfUse));
    }
}
