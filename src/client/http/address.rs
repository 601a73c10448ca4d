//! Where a backend is: `http://` on loopback, or a Unix socket.
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Why a text is no address of a backend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// None of the forms.
    #[error("the backend's address wants http://HOST:PORT on loopback, or unix:/path")]
    Form,
    /// TLS is not built in.
    #[error("https:// comes in a later version; this one takes http:// on loopback, or unix:/path")]
    Https,
    /// Plain HTTP to another machine.
    #[error("http:// is for loopback only (127.0.0.1, [::1], localhost): it is not encrypted")]
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
    /// A Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// The Unix socket, if it is one.
    pub fn socket(&self) -> Option<&Path> {
        match self {
            Self::Tcp { .. } => None,
            Self::Unix(path) => Some(path),
        }
    }

    /// The TCP ports that are tried.
    pub fn ports(&self) -> Vec<u16> {
        match self {
            Self::Tcp { candidates, .. } => candidates.iter().map(SocketAddr::port).collect(),
            Self::Unix(_) => Vec::new(),
        }
    }

    /// What goes into the `Host` header.
    pub(super) fn host(&self) -> &str {
        match self {
            Self::Tcp { authority, .. } => authority,
            Self::Unix(_) => "localhost",
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
        if text.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://")) {
            return Err(AddressError::Https);
        }
        let rest = text.strip_prefix("http://").ok_or(AddressError::Form)?;
        let authority = rest.strip_suffix('/').unwrap_or(rest).to_ascii_lowercase();
        if let Some(port) = authority.strip_prefix("localhost:") {
            let digits = port.bytes().all(|c| c.is_ascii_digit());
            let port = port.parse().ok().filter(|_| digits).ok_or(AddressError::Form)?;
            let candidates = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
                .map(|ip| SocketAddr::new(ip, port))
                .to_vec();
            return Ok(Self::Tcp { authority, candidates });
        }
        match authority.parse::<SocketAddr>() {
            Ok(addr) if addr.ip().is_loopback() => {
                Ok(Self::Tcp { authority, candidates: vec![addr] })
            }
            Ok(_) => Err(AddressError::NotLoopback),
            Err(_) => match authority.rsplit_once(':') {
                // A name and a port: well formed, and some other machine's.
                Some((name, port))
                    if !name.is_empty()
                        && port.parse::<u16>().is_ok()
                        && name
                            .bytes()
                            .all(|c| c.is_ascii_alphanumeric() || b".-".contains(&c)) =>
                {
                    Err(AddressError::NotLoopback)
                }
                _ => Err(AddressError::Form),
            },
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Tcp { authority, .. } => write!(f, "http://{authority}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_and_absolute_paths_are_addresses() {
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
            ("http://10.0.0.1:80", AddressError::NotLoopback),
            ("http://localhost.evil.org:80", AddressError::NotLoopback),
            ("https://example.org", AddressError::Https),
            ("http://127.0.0.1", AddressError::Form),
            ("http://user@127.0.0.1:80", AddressError::Form),
            ("http://127.0.0.1:80/path", AddressError::Form),
            ("http://localhost:+80", AddressError::Form),
            ("127.0.0.1:80", AddressError::Form),
            ("unix:relative", AddressError::Relative),
            ("", AddressError::Form),
        ] {
            assert_eq!(bad.parse::<Address>(), Err(why), "{bad}");
        }
    }
}
