//! The handshake of a client: a stream that was believed, or why it was not. Before it has
//! succeeded, nothing of a request is sent.
use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Certificate, Host, Trust};

/// A stream to a server that was believed.
pub struct Secured<S> {
    /// What is sent and received by.
    pub stream: TlsStream<S>,
    /// The server's certificate, where it can be read.
    pub certificate: Option<Certificate>,
    /// The protocol that the server chose of those that were offered.
    pub alpn: Option<Vec<u8>>,
}

/// Why a server was not believed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Why {
    /// Nobody whom this machine trusts signed its certificate.
    UnknownIssuer,
    /// Its certificate is for others.
    WrongName,
    /// Its certificate was valid once.
    Expired,
    /// Its certificate will be valid.
    NotYetValid,
    /// Another certificate is pinned.
    NotThePinned,
    /// A signature does not hold: that on the certificate, or the one that proves its key.
    BadSignature,
    /// Its certificate is wrong in another way.
    BadCertificate(String),
    /// It does not speak TLS.
    NotTls,
    /// It speaks none of the protocols that it was offered.
    NoProtocol,
    /// The handshake failed, no certificate being the reason.
    Failed(String),
    /// The connection ended in the handshake.
    Ended(String),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::UnknownIssuer => {
                f.write_str("its certificate was signed by nobody whom this machine trusts")
            }
            Self::WrongName => f.write_str("its certificate is for another name"),
            Self::Expired => f.write_str("its certificate has expired"),
            Self::NotYetValid => f.write_str("its certificate is not valid yet"),
            Self::NotThePinned => f.write_str("its certificate is not the pinned one"),
            Self::BadSignature => f.write_str(
                "its certificate is not signed by the issuer that it names, or it does not hold \
                 the certificate's key",
            ),
            Self::BadCertificate(why) => write!(f, "its certificate cannot be used: {why}"),
            Self::NotTls => f.write_str("it does not speak TLS on that port"),
            Self::NoProtocol => f.write_str("it speaks another version of HTTP"),
            Self::Failed(why) => write!(f, "the TLS handshake failed: {why}"),
            Self::Ended(why) => write!(f, "the connection ended in the TLS handshake: {why}"),
        }
    }
}

/// A handshake that did not succeed.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub why: Why,
    /// The certificate that was shown, if one was and it can be read.
    pub certificate: Option<Box<Certificate>>,
}

/// Does the handshake with the server of `host`, offering the protocols `alpn`. The caller
/// bounds the time.
///
/// # Errors
/// Why the server was not believed. Nothing but the handshake was sent.
pub async fn client<S>(
    trust: &Trust,
    host: &Host,
    alpn: &[&[u8]],
    stream: S,
) -> Result<Secured<S>, Refused>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let early = |why: String| Refused { why: Why::Failed(why), certificate: None };
    let name = host.server_name().ok_or_else(|| early("no certificate has such a name".into()))?;
    let (config, shown) = trust.for_one(alpn).map_err(|error| early(error.to_string()))?;
    let result = TlsConnector::from(config).connect(name, stream).await;
    let certificate = shown.take().and_then(|der| Certificate::read(&der));
    match result {
        Ok(stream) => {
            let alpn = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
            Ok(Secured { stream, certificate, alpn })
        }
        Err(error) => {
            let certificate = certificate.map(Box::new);
            Err(Refused { why: why(&error, trust.pin().is_some()), certificate })
        }
    }
}

fn why(error: &io::Error, pinned: bool) -> Why {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let Some(inner) = inner else { return Why::Ended(words(error)) };
    match inner {
        Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure) if pinned => {
            Why::NotThePinned
        }
        Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::UnknownIssuer => Why::UnknownIssuer,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Why::WrongName
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Why::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Why::NotYetValid
            }
            CertificateError::BadSignature => Why::BadSignature,
            other => Why::BadCertificate(plain(&other.to_string())),
        },
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => Why::NotTls,
        Error::AlertReceived(AlertDescription::NoApplicationProtocol)
        | Error::NoApplicationProtocol => Why::NoProtocol,
        other => Why::Failed(plain(&other.to_string())),
    }
}

/// An error of the system without its number.
pub fn words(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((text, _)) => text.to_lowercase(),
        None => plain(&text),
    }
}

/// A text that may hold some of a stranger's, in one short line.
fn plain(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
