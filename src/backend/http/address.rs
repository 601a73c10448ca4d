//! Where the server listens.
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// Why a text is no address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListenAddressError {
    /// None of the forms.
    #[error("the address wants HOST:PORT on loopback (such as 127.0.0.1:0), or unix:/path")]
    Form,
    /// Would be open to other machines.
    #[error(
        "only loopback (127.0.0.1, [::1], localhost) or unix:/path: other machines need TLS, \
         which comes in a later version"
    )]
    NotLoopback,
    /// A relative path.
    #[error("unix: wants an absolute path")]
    Relative,
}

/// An address to listen on; `Display` is what a client takes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ListenAddress {
    /// Loopback TCP. Port 0 takes a free one.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, ListenAddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            let absolute = path.is_absolute() && path.file_name().is_some();
            return absolute.then_some(Self::Unix(path)).ok_or(ListenAddressError::Relative);
        }
        let text = text.strip_prefix("http://").unwrap_or(text);
        let addr = match text.strip_prefix("localhost:") {
            Some(port) if port.bytes().all(|c| c.is_ascii_digit()) => {
                let port = port.parse().map_err(|_| ListenAddressError::Form)?;
                SocketAddr::from((Ipv4Addr::LOCALHOST, port))
            }
            _ => match text.parse::<SocketAddr>() {
                Ok(addr) => addr,
                Err(_)
                    if text.rsplit_once(':').is_some_and(|(host, port)| {
                        let name = |c: u8| c.is_ascii_alphanumeric() || b".-*".contains(&c);
                        port.parse::<u16>().is_ok() && host.bytes().all(name)
                    }) =>
                {
                    return Err(ListenAddressError::NotLoopback);
                }
                Err(_) => return Err(ListenAddressError::Form),
            },
        };
        if addr.ip().is_loopback() {
            Ok(Self::Tcp(addr))
        } else {
            Err(ListenAddressError::NotLoopback)
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Tcp(addr) => write!(f, "http://{addr}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_absolute_paths_are_taken_and_nothing_else() {
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
            ("example.org:80", ListenAddressError::NotLoopback),
            (":80", ListenAddressError::NotLoopback),
            ("127.0.0.1", ListenAddressError::Form),
            ("", ListenAddressError::Form),
            ("127.0.0.1:70000", ListenAddressError::Form),
            ("unix:a.sock", ListenAddressError::Relative),
            ("unix:", ListenAddressError::Relative),
        ] {
            assert_eq!(text.parse::<ListenAddress>(), Err(why), "{text}");
        }
    }
}
