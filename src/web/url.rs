//! Where a page is: `https://` anywhere, `http://` on this machine alone.
use std::fmt;
use std::str::FromStr;

use super::Host;

/// Longest URL.
const LONGEST: usize = 4096;

/// Why a text is no URL that is opened here. Never holds the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UrlError {
    /// Not of the form.
    #[error("it wants https://HOST[:PORT]/PATH, with nothing before an @ and no #")]
    Form,
    /// Plain HTTP to another machine.
    #[error("http:// is for this machine only (localhost, 127.0.0.1, [::1]): it is not encrypted")]
    NotLoopback,
}

/// A URL without user and fragment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Url {
    /// Whether it is `https://`.
    pub tls: bool,
    /// The host.
    pub host: Host,
    /// The port, the scheme's own when none was written.
    pub port: u16,
    /// Path and query, at least `/`.
    pub target: String,
}

impl Url {
    fn default_port(tls: bool) -> u16 {
        if tls { 443 } else { 80 }
    }

    /// Host and port, as the `Host` header has them: without the scheme's own port.
    pub fn authority(&self) -> String {
        if self.port == Self::default_port(self.tls) {
            self.host.to_string()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Scheme, host and port: `https://example.org`.
    pub fn origin(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        // A URI's parser drops a fragment without a word, and forgives more than this.
        if text.len() > LONGEST || !text.bytes().all(|c| c.is_ascii_graphic() && c != b'#') {
            return Err(UrlError::Form);
        }
        let uri: hyper::Uri = text.parse().map_err(|_| UrlError::Form)?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(UrlError::Form),
        };
        let authority = uri.authority().ok_or(UrlError::Form)?.as_str();
        let (host, port) = split(authority).ok_or(UrlError::Form)?;
        let port = port.unwrap_or(Self::default_port(tls));
        if !tls && !host.is_loopback() {
            return Err(UrlError::NotLoopback);
        }
        let target = match uri.path_and_query().map_or("/", |target| target.as_str()) {
            query if query.starts_with('?') => format!("/{query}"),
            target if target.starts_with('/') => target.to_owned(),
            _ => return Err(UrlError::Form),
        };
        Ok(Self { tls, host, port, target })
    }
}

/// Host and port of an authority; a port is a number from 1 without sign or blank.
pub fn split(authority: &str) -> Option<(Host, Option<u16>)> {
    let end = if authority.starts_with('[') {
        authority.find(']')? + 1
    } else {
        authority.find(':').unwrap_or(authority.len())
    };
    let (host, rest) = authority.split_at(end);
    let port = match rest.strip_prefix(':') {
        None if rest.is_empty() => None,
        None => return None,
        Some(digits) if digits.bytes().all(|c| c.is_ascii_digit()) => {
            Some(digits.parse().ok().filter(|port| *port > 0)?)
        }
        Some(_) => return None,
    };
    Some((host.parse().ok()?, port))
}

/// Without the query, which may hold what is nobody else's.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let path = self.target.split('?').next().unwrap_or_default();
        write!(f, "{}{path}", self.origin())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        for (text, origin, target) in [
            ("https://Example.org", "https://example.org", "/"),
            ("https://example.org:443/a?b=c", "https://example.org", "/a?b=c"),
            ("https://example.org?b=c", "https://example.org", "/?b=c"),
            ("https://[2001:db8::1]:8443/", "https://[2001:db8::1]:8443", "/"),
            ("http://localhost:8080/a", "http://localhost:8080", "/a"),
            ("http://127.0.0.1/a", "http://127.0.0.1", "/a"),
        ] {
            let url: Url = text.parse().unwrap();
            assert_eq!((url.origin().as_str(), url.target.as_str()), (origin, target));
        }
        let url: Url = "https://example.org/token?code=hidden".parse().unwrap();
        assert_eq!(url.to_string(), "https://example.org/token");
    }

    #[test]
    fn whatever_could_be_read_in_two_ways_is_refused() {
        for bad in [
            "",
            "/path",
            "example.org",
            "ftp://example.org",
            "//example.org/",
            "https://",
            "https:///path",
            "https://user@example.org/",
            "https://a:b@example.org/",
            "https://example.org:/",
            "https://example.org:0/",
            "https://example.org:65536/",
            "https://example.org:+1/",
            "https://example.org/#a",
            "https://example.org/a b",
            "https://example.org\\@evil.org/",
            "https://example.org/\r\nHost: a",
            "https://127.1/",
            "https://\u{e9}.org/",
            "https:example.org",
            "https://*",
        ] {
            assert_eq!(bad.parse::<Url>(), Err(UrlError::Form), "{bad}");
        }
        assert!(format!("https://a/{}", "a".repeat(5000)).parse::<Url>().is_err());
    }

    #[test]
    fn plain_http_is_for_this_machine_only() {
        for bad in ["http://example.org/", "http://10.0.0.1/", "http://localhost.evil.org/"] {
            assert_eq!(bad.parse::<Url>(), Err(UrlError::NotLoopback), "{bad}");
        }
    }
}
