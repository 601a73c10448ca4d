//! A host and a port that a service is asked at, and whether a request names it.
use std::fmt;

use hyper::header::{HOST, HeaderMap, ORIGIN};
use hyper::http::request::Parts;
use hyper::{Uri, Version};

use crate::core::catalog;
use crate::core::problem::{Answer, Code, Problem};
use crate::web::{Host, url};

/// The port of `https://`.
pub const HTTPS: u16 = 443;

/// A host and a port. Two ways to write the same one are equal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Site {
    /// The host.
    pub host: Host,
    /// The port.
    pub port: u16,
}

impl Site {
    /// Reads `HOST` or `HOST:PORT`.
    pub fn read(text: &str, default: u16) -> Option<Self> {
        let (host, port) = url::split(text)?;
        Some(Self { host, port: port.unwrap_or(default) })
    }

    /// Whether its name ends so, at the scheme's own port.
    pub fn ends_with(&self, ending: &str) -> bool {
        let is_below = |name: &str| catalog::is_below(name, &format!("*{ending}"));
        self.port == HTTPS && matches!(&self.host, Host::Name(name) if is_below(name))
    }

    /// Refuses a request that came by TLS to this site and is meant for another, or that could be
    /// read in two ways.
    ///
    /// # Errors
    /// `DENIED`.
    pub fn is_named_by(&self, parts: &Parts) -> Answer<()> {
        let mut hosts = parts.headers.get_all(HOST).iter();
        let host = hosts.next().map(|host| host.to_str().unwrap_or_default());
        let is_it = |text: &str| Self::read(text, HTTPS).as_ref() == Some(self);
        let by_line = named_by(&parts.uri, parts.version);
        let named = match (by_line, host) {
            (Line::Other, _) | (Line::None, None) => false,
            (Line::None, Some(host)) => is_it(host),
            (Line::Authority(line), host) => is_it(line) && host.is_none_or(is_it),
        };
        if named && hosts.next().is_none() {
            return Ok(());
        }
        Err(Problem::new(
            Code::Denied,
            "access denied: the request is for another host than its connection",
            format!("the connection was made to {self}, and Host or :authority say otherwise"),
            "ask each host over a connection of its own",
        ))
    }
}

/// Whether a page of another host, in a browser, sent the request: it asks with what the browser has, and
/// not with anything of its own.
pub fn is_of_a_page(headers: &HeaderMap, site: &Site) -> bool {
    let origin = headers.get_all(ORIGIN).iter().any(|origin| {
        let host = origin.to_str().ok().and_then(|origin| origin.strip_prefix("https://"));
        host.and_then(|host| Site::read(host, HTTPS)).as_ref() != Some(site)
    });
    let fetched = headers.get_all("sec-fetch-site").iter();
    origin || fetched.into_iter().any(|from| from != "none" && from != "same-origin")
}

/// What a request's first line says of its host.
enum Line<'a> {
    None,
    Authority(&'a str),
    Other,
}

/// Over HTTP/2 the host stands there, and over HTTP/1.1 a path and nothing else.
fn named_by(uri: &Uri, version: Version) -> Line<'_> {
    match (version == Version::HTTP_2, uri.authority(), uri.scheme_str()) {
        (false, None, None) if uri.path().starts_with('/') => Line::None,
        (true, Some(authority), Some("https")) => Line::Authority(authority.as_str()),
        (true, None, _) => Line::None,
        _ => Line::Other,
    }
}

/// As it stands in a URL: without the port if that is the scheme's own.
impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.port {
            HTTPS => self.host.fmt(f),
            port => write!(f, "{}:{port}", self.host),
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::Request;
    use hyper::header::HeaderValue;

    use super::*;

    fn is_named(version: Version, uri: &str, hosts: &[&str]) -> bool {
        let site = Site::read("api.example", HTTPS).unwrap();
        let mut request = Request::builder().version(version).uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        site.is_named_by(&parts).is_ok()
    }

    #[test]
    fn a_request_names_the_host_of_its_connection_once() {
        for host in ["api.example", "API.example", "api.example.", "api.example:443"] {
            assert!(is_named(Version::HTTP_11, "/", &[host]), "{host}");
        }
        for hosts in [
            &[][..],
            &[""],
            &["evil.example"],
            &["api.example:8443"],
            &["api.example", "api.example"],
            &["api.example", "evil.example"],
            &["api.example, evil.example"],
            &["user@api.example"],
            &["api.example/"],
            &["evil.api.example"],
        ] {
            assert!(!is_named(Version::HTTP_11, "/", hosts), "{hosts:?}");
        }
        assert!(!is_named(Version::HTTP_11, "https://api.example/", &["api.example"]));
        assert!(!is_named(Version::HTTP_11, "*", &["api.example"]));
    }

    #[test]
    fn a_page_of_another_host_is_known() {
        let site = Site::read("api.example", HTTPS).unwrap();
        let is_of_a_page = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            super::is_of_a_page(&headers, &site)
        };
        for origin in
            ["https://evil.example", "null", "http://api.example", "https://api.example:1"]
        {
            assert!(is_of_a_page("origin", origin), "{origin}");
        }
        assert!(is_of_a_page("sec-fetch-site", "cross-site"));
        assert!(!is_of_a_page("origin", "https://api.example"));
        assert!(!is_of_a_page("sec-fetch-site", "same-origin"));
        assert!(!is_of_a_page("sec-fetch-mode", "cors"));
    }

    #[test]
    fn over_http_2_both_names_are_looked_at() {
        let uri = "https://api.example/v1";
        assert!(is_named(Version::HTTP_2, uri, &[]));
        assert!(is_named(Version::HTTP_2, uri, &["api.example"]));
        assert!(is_named(Version::HTTP_2, "/v1", &["api.example"]));
        assert!(!is_named(Version::HTTP_2, uri, &["evil.example"]));
        assert!(!is_named(Version::HTTP_2, "https://evil.example/", &["api.example"]));
        assert!(!is_named(Version::HTTP_2, "https://evil.example/", &[]));
        assert!(!is_named(Version::HTTP_2, "http://api.example/", &[]));
        assert!(!is_named(Version::HTTP_2, "/v1", &[]));
    }
}
