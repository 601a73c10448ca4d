//! Where a backend is: `https://` anywhere, `http://` on loopback, or a Unix socket.
use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::web::{CertificatePin, Host, url};

/// The port of `https://`.
const HTTPS: u16 = 443;

/// Why a text is no address of a backend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// None of the forms.
    #[error(
        "the backend's address wants https://HOST[:PORT], with #sha256:... if its certificate is \
         pinned, http://HOST:PORT on loopback, or unix:/path"
    )]
    Form,
    /// What follows the `#` is no fingerprint.
    #[error(
        "after the # stands the fingerprint of the backend's certificate: sha256: and 64 \
         hexadecimal digits, as the backend prints it"
    )]
    Pin,
    /// Plain HTTP to another machine.
    #[error(
        "http:// is for loopback only (127.0.0.1, [::1], localhost): it is not encrypted; \
         another machine's backend has https://"
    )]
    NotLoopback,
    /// A relative path.
    #[error("unix: wants an absolute path")]
    Relative,
}

/// The address of a backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// Loopback TCP, without encryption.
    Tcp {
        /// As it was written: `127.0.0.1:8080`.
        authority: String,
        /// What is tried, in order.
        candidates: Vec<SocketAddr>,
    },
    /// TLS over TCP.
    Tls {
        /// The host; its names are resolved with each connection.
        host: Host,
        /// The port.
        port: u16,
        /// The one certificate that is believed; else those that this machine trusts are.
        pin: Option<CertificatePin>,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// The Unix socket, if it is one.
    pub fn socket(&self) -> Option<&Path> {
        match self {
            Self::Tcp { .. } | Self::Tls { .. } => None,
            Self::Unix(path) => Some(path),
        }
    }

    /// The TCP ports that are tried.
    pub fn ports(&self) -> Vec<u16> {
        match self {
            Self::Tcp { candidates, .. } => candidates.iter().map(SocketAddr::port).collect(),
            Self::Tls { port, .. } => vec![*port],
            Self::Unix(_) => Vec::new(),
        }
    }

    /// Whether a resolver is asked where it is.
    pub fn has_name(&self) -> bool {
        matches!(self, Self::Tls { host, .. } if host.known().is_none())
    }

    /// Whether this machine's roots are asked whom to believe.
    pub fn wants_roots(&self) -> bool {
        matches!(self, Self::Tls { pin: None, .. })
    }

    /// Without the pin: `https://example.org`.
    pub fn origin(&self) -> String {
        match self {
            Self::Tls { .. } => format!("https://{}", self.host()),
            other => other.to_string(),
        }
    }

    /// What goes into the `Host` header.
    pub(super) fn host(&self) -> Cow<'_, str> {
        match self {
            Self::Tcp { authority, .. } => authority.into(),
            Self::Tls { host, port: HTTPS, .. } => host.to_string().into(),
            Self::Tls { host, port, .. } => format!("{host}:{port}").into(),
            Self::Unix(_) => "localhost".into(),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(addr: SocketAddr) -> Self {
        Self::Tcp { authority: addr.to_string(), candidates: vec![addr] }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() {
                Ok(Self::Unix(path))
            } else {
                Err(AddressError::Relative)
            };
        }
        if let Some(rest) = text.strip_prefix("https://") {
            return over_tls(rest);
        }
        let rest = text.strip_prefix("http://").ok_or(AddressError::Form)?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match url::split(authority) {
            Some((host, Some(port))) => (host, port),
            Some((host, None)) if !host.is_loopback() => return Err(AddressError::NotLoopback),
            _ => return Err(AddressError::Form),
        };
        match host.known() {
            Some(known) if host.is_loopback() => {
                let candidates: Vec<_> =
                    known.into_iter().map(|ip: IpAddr| SocketAddr::new(ip, port)).collect();
                Ok(Self::Tcp { authority: format!("{host}:{port}"), candidates })
            }
            _ => Err(AddressError::NotLoopback),
        }
    }
}

fn over_tls(rest: &str) -> Result<Address, AddressError> {
    let (rest, pin) = match rest.split_once('#') {
        Some((rest, pin)) => (rest, Some(pin.parse().map_err(|_| AddressError::Pin)?)),
        None => (rest, None),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = url::split(authority).ok_or(AddressError::Form)?;
    Ok(Address::Tls { host, port: port.unwrap_or(HTTPS), pin })
}

/// With the pin: sessions are kept by it, and one goes only to the backend that gave it.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Tcp { authority, .. } => write!(f, "http://{authority}"),
            Self::Tls { pin, .. } => {
                write!(f, "https://{}", self.host())?;
                pin.map_or(Ok(()), |pin| write!(f, "#{pin}"))
            }
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_and_paths_are_absolute() {
        for good in [
            "http://127.0.0.1:8080",
            "http://[::1]:1",
            "http://localhost:65535",
            "unix:/run/user/1000/agentkeys/backend.sock",
        ] {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        }
        assert_eq!("http://127.0.0.1:80/".parse::<Address>().unwrap().host(), "127.0.0.1:80");
        for (bad, why) in [
            ("http://example.org:80", AddressError::NotLoopback),
            ("http://example.org", AddressError::NotLoopback),
            ("http://10.0.0.1:80", AddressError::NotLoopback),
            ("http://localhost.evil.org:80", AddressError::NotLoopback),
            ("http://127.0.0.1", AddressError::Form),
            ("http://user@127.0.0.1:80", AddressError::Form),
            ("http://127.0.0.1:80/path", AddressError::Form),
            ("http://127.0.0.1:80#sha256:00", AddressError::Form),
            ("http://localhost:+80", AddressError::Form),
            ("http://127.1:80", AddressError::Form),
            ("127.0.0.1:80", AddressError::Form),
            ("unix:relative", AddressError::Relative),
            ("", AddressError::Form),
        ] {
            assert_eq!(bad.parse::<Address>(), Err(why), "{bad}");
        }
    }

    #[test]
    fn an_address_with_tls_has_one_spelling_and_keeps_its_pin() {
        let pin = format!("sha256:{}", "0a".repeat(32));
        let colons = format!("SHA256:{}", ["0A"; 32].join(":"));
        for (text, shown, host) in [
            ("https://Example.org", "https://example.org", "example.org"),
            ("https://example.org.:443/", "https://example.org", "example.org"),
            ("https://10.0.0.1:8443", "https://10.0.0.1:8443", "10.0.0.1:8443"),
            ("https://[2001:DB8::1]", "https://[2001:db8::1]", "[2001:db8::1]"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.to_string().as_str(), &*address.host()), (shown, host));
            assert_eq!(address.origin(), shown);
            for typed in [&pin, &colons] {
                let pinned: Address = format!("{text}#{typed}").parse().unwrap();
                assert_eq!(pinned.to_string(), format!("{shown}#{pin}"));
                assert_eq!(pinned.origin(), shown);
                assert_ne!(pinned, address);
            }
        }
        for (bad, why) in [
            ("https://", AddressError::Form),
            ("https://example.org/path", AddressError::Form),
            ("https://user@example.org", AddressError::Form),
            ("https://example.org:0", AddressError::Form),
            ("https://example.org?a", AddressError::Form),
            ("https://127.1", AddressError::Form),
            ("HTTPS://example.org", AddressError::Form),
            ("https://example.org#", AddressError::Pin),
            ("https://example.org#sha256:00", AddressError::Pin),
            ("https://example.org#sha1:00", AddressError::Pin),
        ] {
            assert_eq!(bad.parse::<Address>(), Err(why), "{bad}");
        }
    }

    #[test]
    fn what_a_connection_needs_is_known_from_the_address() {
        let needs = |text: &str| {
            let address: Address = text.parse().unwrap();
            (address.has_name(), address.wants_roots(), address.ports())
        };
        let pin = format!("#sha256:{}", "0a".repeat(32));
        assert_eq!(needs("https://example.org"), (true, true, vec![443]));
        assert_eq!(needs("https://localhost:1"), (false, true, vec![1]));
        assert_eq!(needs(&format!("https://10.0.0.1{pin}")), (false, false, vec![443]));
        assert_eq!(needs("http://[::1]:7"), (false, false, vec![7]));
    }
}
