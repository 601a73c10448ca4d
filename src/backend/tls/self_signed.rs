//! Makes the certificate that `serve --tls-self-signed` shows. Clients know it by its
//! fingerprint, so it is made once, and lives as long as the data folder.
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use zeroize::{Zeroize, Zeroizing};

use super::CertificateError;
use crate::core::types::Timestamp;

/// How long it is valid, in days: pinned clients do not ask, others may want to trust it as well.
const DAYS: i64 = 10 * 365;

/// A new certificate for these names and addresses, and its key as PKCS#8; both DER.
///
/// # Errors
/// [`CertificateError::Make`].
pub fn make(
    names: &[String],
    now: Timestamp,
) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), CertificateError> {
    let failed = |error: rcgen::Error| CertificateError::Make(error.to_string());
    let mut params = CertificateParams::new(names).map_err(failed)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "AgentKeys backend, self-signed");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let seconds = i64::try_from(now.0 / 1000).unwrap_or(i64::MAX);
    let made = time::OffsetDateTime::from_unix_timestamp(seconds)
        .map_err(|error| CertificateError::Make(error.to_string()))?;
    // A day early, for clients whose clocks are behind.
    params.not_before = made - time::Duration::days(1);
    params.not_after = made + time::Duration::days(DAYS);
    let mut key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?.der().to_vec();
    let der = Zeroizing::new(key.serialize_der());
    key.zeroize();
    Ok((certificate, der))
}

/// This machine's name, if it is one that a certificate can be for.
pub fn hostname() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    match name.trim().parse() {
        Ok(crate::web::Host::Name(name)) => Some(name),
        _ => None,
    }
}
