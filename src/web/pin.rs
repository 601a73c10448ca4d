//! The fingerprint of a certificate, and the trust in nothing but that one certificate.
//!
//! A pin names the certificate itself, so neither its names nor its dates are asked: whoever
//! holds its private key is the one that was meant. The handshake's signature is always checked,
//! since that is what proves the key.
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::core::types::{Malformed, serde_by_text, to_hex};

/// What stands before the digits.
const PREFIX: &str = "sha256:";

/// SHA-256 over a certificate's DER. Shown as `sha256:` and 64 lower-case digits; read in either
/// case and with colons between bytes, as `openssl x509 -fingerprint -sha256` prints them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CertificatePin([u8; 32]);

impl CertificatePin {
    /// The pin of the certificate with this DER.
    pub fn of(der: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, der).as_ref());
        Self(bytes)
    }
}

impl fmt::Display for CertificatePin {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{PREFIX}{}", to_hex(&self.0))
    }
}

impl fmt::Debug for CertificatePin {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "CertificatePin({self})")
    }
}

impl FromStr for CertificatePin {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let wrong = Malformed::new(
            "fingerprint of the certificate",
            "wants sha256: and 64 hexadecimal digits, as the backend prints them",
        );
        let prefix = text.get(..PREFIX.len()).filter(|is| is.eq_ignore_ascii_case(PREFIX));
        let digits = prefix.map(|_| &text.as_bytes()[PREFIX.len()..]).ok_or(wrong.clone())?;
        let pairs: Vec<&[u8]> = match digits.len() {
            64 => digits.chunks(2).collect(),
            95 => digits.split(|c| *c == b':').collect(),
            _ => return Err(wrong),
        };
        let mut bytes = [0; 32];
        if pairs.len() != bytes.len() {
            return Err(wrong);
        }
        for (pair, byte) in pairs.into_iter().zip(&mut bytes) {
            let [high, low] = pair else { return Err(wrong) };
            let digit = |c: &u8| char::from(*c).to_digit(16);
            let (Some(high), Some(low)) = (digit(high), digit(low)) else { return Err(wrong) };
            *byte = (high << 4 | low) as u8;
        }
        Ok(Self(bytes))
    }
}

serde_by_text!(CertificatePin);

/// Accepts the one certificate that is pinned.
#[derive(Debug)]
pub(super) struct PinnedVerifier {
    pub pin: CertificatePin,
    pub provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if CertificatePin::of(end_entity) == self.pin {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_openssl_prints_it_and_shown_in_one_way() {
        let pin = CertificatePin::of(b"a certificate");
        let shown = pin.to_string();
        assert_eq!(shown.len(), 7 + 64);
        let digits = &shown[7..];
        let pairs: Vec<_> = digits.as_bytes().chunks(2).map(String::from_utf8_lossy).collect();
        for typed in [
            shown.clone(),
            shown.to_uppercase(),
            format!("sha256:{}", pairs.join(":")),
            format!("SHA256:{}", pairs.join(":").to_uppercase()),
        ] {
            assert_eq!(typed.parse(), Ok(pin), "{typed}");
        }
        assert_eq!(format!("{pin:?}"), format!("CertificatePin({shown})"));
    }

    #[test]
    fn what_is_no_fingerprint_is_refused() {
        let shown = CertificatePin::of(b"a certificate").to_string();
        let digits = &shown[7..];
        let pairs: Vec<_> = digits.as_bytes().chunks(2).map(String::from_utf8_lossy).collect();
        for wrong in [
            "".to_owned(),
            "sha256:".to_owned(),
            digits.to_owned(),
            format!("sha1:{digits}"),
            format!("{shown}0"),
            shown[..70].to_owned(),
            format!("{}g", &shown[..70]),
            format!("sha256:+{}", &digits[1..]),
            format!("sha256: {digits}"),
            format!("sha256:{}:", pairs[..31].join(":") + "a:b"),
            format!("sha256:{}", ":".repeat(95)),
            format!("sha256:{}", pairs.join("-")),
            format!("sha256:{}\u{e9}", &digits[..62]),
        ] {
            assert!(wrong.parse::<CertificatePin>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn one_bit_of_the_certificate_is_another_pin() {
        assert_ne!(CertificatePin::of(b"a"), CertificatePin::of(b"c"));
    }
}
