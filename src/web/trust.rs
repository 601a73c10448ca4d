//! Whom a client believes: the roots of this machine, or one pinned certificate.
//!
//! TLS 1.2 and 1.3, ring's algorithms and nothing else, no early data, and no session that is
//! taken up again: every connection checks the certificate that it was shown.
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::Resumption;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::CertificatePin;
use super::pin::PinnedVerifier;

/// Why nobody can be believed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TrustError {
    /// The machine has no root certificates.
    #[error("this machine has no root certificates to check others by{0}")]
    NoRoots(String),
    /// The library refused the configuration.
    #[error("TLS cannot be configured: {0}")]
    Configuration(String),
}

/// The one provider of cryptography; the process's default is never asked.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Whom a client believes.
#[derive(Clone)]
pub struct Trust {
    verifier: Arc<dyn ServerCertVerifier>,
    provider: Arc<CryptoProvider>,
    pin: Option<CertificatePin>,
}

impl Trust {
    /// Whoever this machine trusts; `SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured. A file that
    /// cannot be read takes its own roots away, and no others.
    ///
    /// # Errors
    /// When there is no root at all, and when the library refuses them.
    pub fn machine() -> Result<Self, TrustError> {
        let found = rustls_native_certs::load_native_certs();
        let why = found.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
        Self::among(found.certs, why)
    }

    /// Whoever one of these roots signed for.
    ///
    /// # Errors
    /// When none of them is a root, and when the library refuses them.
    pub fn roots(roots: Vec<CertificateDer<'static>>) -> Result<Self, TrustError> {
        Self::among(roots, String::new())
    }

    fn among(roots: Vec<CertificateDer<'static>>, why: String) -> Result<Self, TrustError> {
        let mut store = RootCertStore::empty();
        let (taken, _) = store.add_parsable_certificates(roots);
        if taken == 0 {
            return Err(TrustError::NoRoots(why));
        }
        let provider = provider();
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone())
                .build()
                .map_err(|error| TrustError::Configuration(error.to_string()))?;
        Ok(Self { verifier, provider, pin: None })
    }

    /// Whoever holds the key of this one certificate, whatever its names and dates say.
    pub fn pinned(pin: CertificatePin) -> Self {
        let provider = provider();
        let verifier = Arc::new(PinnedVerifier { pin, provider: provider.clone() });
        Self { verifier, provider, pin: Some(pin) }
    }

    /// The pin, if it is one.
    pub fn pin(&self) -> Option<CertificatePin> {
        self.pin
    }

    /// The configuration of one connection, which offers the protocols `alpn`; and what will
    /// know the certificate that was shown, believed or not.
    pub(super) fn for_one(&self, alpn: &[&[u8]]) -> Result<(Arc<ClientConfig>, Shown), Error> {
        let shown = Shown::default();
        let verifier = Noting { shown: shown.clone(), inner: self.verifier.clone() };
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config.resumption = Resumption::disabled();
        Ok((Arc::new(config), shown))
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.pin {
            Some(pin) => write!(f, "Trust({pin})"),
            None => f.write_str("Trust(roots)"),
        }
    }
}

/// The certificate that one handshake was shown.
#[derive(Clone, Default, Debug)]
pub(super) struct Shown(Arc<Mutex<Option<CertificateDer<'static>>>>);

impl Shown {
    pub fn take(&self) -> Option<CertificateDer<'static>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Notes the certificate, and leaves every decision to the verifier inside: the library keeps
/// nothing of a certificate that was refused, and a person has to be told which one it was.
#[derive(Debug)]
struct Noting {
    shown: Shown,
    inner: Arc<dyn ServerCertVerifier>,
}

impl ServerCertVerifier for Noting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mut shown = self.shown.0.lock().unwrap_or_else(PoisonError::into_inner);
        *shown = Some(end_entity.clone().into_owned());
        drop(shown);
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
