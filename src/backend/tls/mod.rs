//! What this server shows of itself over TLS, and proves with its key: a certificate of files,
//! or one that it made and signed itself.
//!
//! TLS 1.2 and 1.3 with ring's algorithms, no early data, and no session that is taken up again.
//! Must never put a key into a log, or show a certificate that its key does not belong to.
mod files;
mod self_signed;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};

pub use self::files::{CertificateFiles, follow};
pub(super) use self::files::{shown, warn_of_dates};
pub use self::self_signed::{hostname, make};
use crate::core::types::Timestamp;
use crate::web::{Certificate, CertificatePin, Host, trust};

/// How long before its end a certificate is warned of, in milliseconds.
const SOON: u64 = 14 * 24 * 60 * 60 * 1000;

/// Why there is no certificate to show.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is not one to rely on.
    #[error("{} is not used: {why}", path.display())]
    Unsafe {
        /// Which.
        path: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// A file does not hold what it should.
    #[error("{} holds no {what} in PEM", path.display())]
    Nothing {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// Certificate and key are of no use together.
    #[error("the certificate and its key cannot be used: {0}")]
    Unusable(String),
    /// No certificate could be made.
    #[error("cannot make a self-signed certificate: {0}")]
    Make(String),
}

/// A chain, the key of its first certificate, and what that one says.
#[derive(Debug)]
struct Shown {
    key: Arc<CertifiedKey>,
    says: Certificate,
}

impl Shown {
    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, CertificateError> {
        let unusable = |why: String| CertificateError::Unusable(why);
        let first = chain.first().ok_or_else(|| unusable("there is no certificate".into()))?;
        let says = Certificate::read(first)
            .ok_or_else(|| unusable("the first certificate cannot be read".into()))?;
        let signer = rustls::crypto::ring::sign::any_supported_type(&key)
            .map_err(|error| unusable(error.to_string()))?;
        let key = CertifiedKey::new(chain, signer);
        match key.keys_match() {
            Ok(()) => Ok(Self { key: Arc::new(key), says }),
            Err(rustls::Error::InconsistentKeys(_)) => {
                Err(unusable("the key is not the certificate's".into()))
            }
            Err(error) => Err(unusable(error.to_string())),
        }
    }
}

/// Who may be named as the host of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Names {
    /// Those of the certificate.
    Its,
    /// Any: the pin says who the server is, and its names say nothing.
    Any,
}

/// The certificate that a server shows. It may be replaced while the server runs.
#[derive(Debug)]
pub struct ServerCertificate {
    shown: RwLock<Arc<Shown>>,
    names: Names,
}

impl ServerCertificate {
    /// The certificate that these files hold.
    ///
    /// # Errors
    /// [`CertificateError`]: what is wrong with which file.
    pub fn of_files(files: &CertificateFiles) -> Result<Arc<Self>, CertificateError> {
        let (chain, key) = files.read()?;
        Self::new(chain, key, Names::Its)
    }

    /// A self-signed certificate and its key, both as DER, the key as PKCS#8.
    ///
    /// # Errors
    /// [`CertificateError::Unusable`].
    pub fn self_signed(certificate: &[u8], key: &[u8]) -> Result<Arc<Self>, CertificateError> {
        Self::of_der(certificate, key, Names::Any)
    }

    /// A certificate whose names mean something, and its key, both as DER.
    ///
    /// # Errors
    /// [`CertificateError::Unusable`].
    pub fn named(certificate: &[u8], key: &[u8]) -> Result<Arc<Self>, CertificateError> {
        Self::of_der(certificate, key, Names::Its)
    }

    fn of_der(certificate: &[u8], key: &[u8], names: Names) -> Result<Arc<Self>, CertificateError> {
        let key = PrivateKeyDer::try_from(key.to_vec())
            .map_err(|why| CertificateError::Unusable(why.to_owned()))?;
        Self::new(vec![CertificateDer::from(certificate.to_vec())], key, names)
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        names: Names,
    ) -> Result<Arc<Self>, CertificateError> {
        let shown = RwLock::new(Arc::new(Shown::new(chain, key)?));
        Ok(Arc::new(Self { shown, names }))
    }

    /// Shows another from the next connection on; false if it is the one that is shown already.
    fn replace(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<bool, CertificateError> {
        let new = Shown::new(chain, key)?;
        let mut shown = self.shown.write().unwrap_or_else(PoisonError::into_inner);
        let changed = shown.key.cert != new.key.cert;
        *shown = Arc::new(new);
        Ok(changed)
    }

    fn shown(&self) -> Arc<Shown> {
        self.shown.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it says.
    pub fn says(&self) -> Certificate {
        self.shown().says.clone()
    }

    /// Its fingerprint.
    pub fn pin(&self) -> CertificatePin {
        self.shown().says.pin
    }

    /// Whether a request may name that host.
    pub fn answers_to(&self, host: &Host) -> bool {
        self.names == Names::Any || self.shown().says.is_for(host)
    }

    /// Whether a page of its own could be at the other end: behind a name that a browser's
    /// certificate check means something for.
    pub fn has_pages(&self) -> bool {
        self.names == Names::Its
    }

    /// How its dates stand; what is wrong with them, in words for the log.
    pub fn dates(&self, now: Timestamp) -> Option<String> {
        let says = self.says();
        let (from, until) = (says.not_before.for_people(), says.not_after.for_people());
        if now > says.not_after {
            Some(format!("the certificate expired at {until}: clients refuse it"))
        } else if now < says.not_before {
            Some(format!("the certificate is not valid before {from}: clients refuse it"))
        } else if says.not_after.since_ms(now) < SOON {
            Some(format!("the certificate expires at {until}: renew it"))
        } else {
            None
        }
    }

    /// The configuration of a server that shows it.
    ///
    /// # Errors
    /// [`CertificateError::Unusable`], when the library has neither version of TLS.
    pub fn config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, CertificateError> {
        let mut config = ServerConfig::builder_with_provider(trust::provider())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| CertificateError::Unusable(error.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.shown().key.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> (Vec<u8>, zeroize::Zeroizing<Vec<u8>>) {
        make(&["localhost".into(), "127.0.0.1".into()], Timestamp(1_800_000_000_000)).unwrap()
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let ((one, key), (two, _)) = (made(), made());
        assert!(ServerCertificate::self_signed(&one, &key).is_ok());
        let wrong = ServerCertificate::self_signed(&two, &key).unwrap_err();
        assert!(wrong.to_string().contains("the key is not the certificate's"), "{wrong}");
        assert!(ServerCertificate::self_signed(&one, b"no key").is_err());
        assert!(ServerCertificate::self_signed(b"none", &key).is_err());
    }

    #[test]
    fn dates_are_told_before_clients_refuse_them() {
        let (one, key) = made();
        let certificate = ServerCertificate::self_signed(&one, &key).unwrap();
        let says = certificate.says();
        let at = |ms: u64| certificate.dates(Timestamp(ms)).unwrap_or_default();
        assert_eq!(at(1_800_000_000_000), "");
        assert!(at(says.not_before.0 - 1000).contains("not valid before"));
        assert!(at(says.not_after.0 - SOON + 1000).contains("renew it"));
        assert!(at(says.not_after.0 + 1000).contains("expired"));
    }

    #[test]
    fn a_self_signed_one_answers_to_any_name() {
        let (one, key) = made();
        let certificate = ServerCertificate::self_signed(&one, &key).unwrap();
        assert!(certificate.answers_to(&"evil.org".parse().unwrap()));
        assert!(!certificate.has_pages());
        let files = ServerCertificate::named(&one, &key).unwrap();
        assert!(files.answers_to(&"localhost".parse().unwrap()));
        assert!(!files.answers_to(&"evil.org".parse().unwrap()));
        assert!(!format!("{files:?}").contains(&crate::core::types::to_hex(&key[40..60])));
    }
}
