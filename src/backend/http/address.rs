//! Where the server listens.
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// Why a text is no address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListenAddressError {
    /// None of the forms.
    #[error(
        "the address wants ADDRESS:PORT with an IP address (such as 127.0.0.1:0, or 0.0.0.0:443 \
         for every address of this machine), or unix:/path"
    )]
    Form,
    /// Would be open to other machines without encryption.
    #[error(
        "without TLS only loopback (127.0.0.1, [::1], localhost) or unix:/path: for other \
         machines give --tls-cert FILE and --tls-key FILE, or --tls-self-signed"
    )]
    NotLoopback,
    /// TLS is asked for, and there is no certificate.
    #[error(
        "https:// needs a certificate: give --tls-cert FILE and --tls-key FILE, or \
         --tls-self-signed"
    )]
    NoCertificate,
    /// A relative path.
    #[error("unix: wants an absolute path")]
    Relative,
}

/// An address to listen on; `Display` is what a client takes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ListenAddress {
    /// Loopback TCP, without encryption. Port 0 takes a free one.
    Tcp(SocketAddr),
    /// TLS over TCP, on any address.
    Tls(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl ListenAddress {
    /// Reads an address; one that names no scheme is TLS if there is a certificate.
    ///
    /// # Errors
    /// [`ListenAddressError`]: plain HTTP is for loopback, and TLS needs a certificate.
    pub fn read(text: &str, has_certificate: bool) -> Result<Self, ListenAddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            let absolute = path.is_absolute() && path.file_name().is_some();
            return absolute.then_some(Self::Unix(path)).ok_or(ListenAddressError::Relative);
        }
        let (tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => (has_certificate, text),
        };
        let addr = match rest.strip_prefix("localhost:") {
            Some(port) if port.bytes().all(|c| c.is_ascii_digit()) => {
                let port = port.parse().map_err(|_| ListenAddressError::Form)?;
                SocketAddr::from((Ipv4Addr::LOCALHOST, port))
            }
            _ => rest.parse::<SocketAddr>().map_err(|_| ListenAddressError::Form)?,
        };
        match (tls, has_certificate) {
            (true, false) => Err(ListenAddressError::NoCertificate),
            (tls, _) => Self::of_tcp(addr, tls),
        }
    }

    /// The address of a TCP socket that speaks TLS, or does not.
    ///
    /// # Errors
    /// [`ListenAddressError::NotLoopback`].
    pub fn of_tcp(addr: SocketAddr, tls: bool) -> Result<Self, ListenAddressError> {
        match tls {
            true => Ok(Self::Tls(addr)),
            false if addr.ip().is_loopback() => Ok(Self::Tcp(addr)),
            false => Err(ListenAddressError::NotLoopback),
        }
    }

    /// Whether other machines can connect to it.
    pub fn is_beyond_loopback(&self) -> bool {
        match self {
            Self::Tcp(addr) | Self::Tls(addr) => !addr.ip().is_loopback(),
            Self::Unix(_) => false,
        }
    }
}

/// Without a certificate.
impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, ListenAddressError> {
        Self::read(text, false)
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Tcp(addr) => write!(f, "http://{addr}"),
            Self::Tls(addr) => write!(f, "https://{addr}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_certificate_loopback_and_absolute_paths_are_taken_and_nothing_else() {
        for (text, shown) in [
            ("127.0.0.1:0", "http://127.0.0.1:0"),
            ("[::1]:8080", "http://[::1]:8080"),
            ("localhost:7", "http://127.0.0.1:7"),
            ("http://127.0.0.1:7", "http://127.0.0.1:7"),
            ("unix:/run/a/b.sock", "unix:/run/a/b.sock"),
        ] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), shown);
        }
        for (text, why) in [
            ("0.0.0.0:80", ListenAddressError::NotLoopback),
            ("[::]:80", ListenAddressError::NotLoopback),
            ("192.168.0.1:80", ListenAddressError::NotLoopback),
            ("http://192.168.0.1:80", ListenAddressError::NotLoopback),
            ("[::ffff:127.0.0.1]:80", ListenAddressError::NotLoopback),
            ("https://127.0.0.1:80", ListenAddressError::NoCertificate),
            ("https://0.0.0.0:80", ListenAddressError::NoCertificate),
            ("example.org:80", ListenAddressError::Form),
            (":80", ListenAddressError::Form),
            ("127.0.0.1", ListenAddressError::Form),
            ("", ListenAddressError::Form),
            ("127.0.0.1:70000", ListenAddressError::Form),
            ("unix:a.sock", ListenAddressError::Relative),
            ("unix:", ListenAddressError::Relative),
        ] {
            assert_eq!(text.parse::<ListenAddress>(), Err(why), "{text}");
        }
    }

    #[test]
    fn with_a_certificate_every_address_speaks_tls_unless_it_says_plain_and_is_loopback() {
        for (text, shown) in [
            ("127.0.0.1:0", "https://127.0.0.1:0"),
            ("0.0.0.0:443", "https://0.0.0.0:443"),
            ("https://[::]:443", "https://[::]:443"),
            ("localhost:7", "https://127.0.0.1:7"),
            ("http://localhost:7", "http://127.0.0.1:7"),
            ("unix:/run/a/b.sock", "unix:/run/a/b.sock"),
        ] {
            assert_eq!(ListenAddress::read(text, true).unwrap().to_string(), shown);
        }
        for (text, why) in [
            ("http://0.0.0.0:80", ListenAddressError::NotLoopback),
            ("http://10.0.0.1:80", ListenAddressError::NotLoopback),
            ("https://example.org:443", ListenAddressError::Form),
            ("https://http://127.0.0.1:1", ListenAddressError::Form),
        ] {
            assert_eq!(ListenAddress::read(text, true), Err(why), "{text}");
        }
    }

    #[test]
    fn what_other_machines_reach_is_known() {
        let beyond = |text| ListenAddress::read(text, true).unwrap().is_beyond_loopback();
        assert!(beyond("0.0.0.0:1") && beyond("[::]:1") && beyond("10.0.0.1:1"));
        assert!(!beyond("127.9.9.9:1") && !beyond("[::1]:1") && !beyond("unix:/a"));
    }
}
