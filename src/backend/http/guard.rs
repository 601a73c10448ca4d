//! Which requests are looked at at all: `Host`, `Origin`, number of header fields, kind of
//! body. A web page that the user visits can reach loopback; its browser says in `Host` and
//! `Origin` where it comes from, and cannot be told to lie.
use std::sync::Arc;

use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderValue, ORIGIN};
use hyper::http::request::Parts;

use super::limits::MAX_HEADERS;
use crate::backend::tls::ServerCertificate;
use crate::core::presence::Proof;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::wire::PRESENCE_HEADER;
use crate::web::url;

/// The names that one listener answers to.
#[derive(Clone, Debug)]
pub struct Hosts(Kind);

#[derive(Clone, Debug)]
enum Kind {
    /// These, and pages of these origins.
    Listed { names: Vec<String>, origins: Vec<String> },
    /// Those of the certificate, with any port.
    Certified(Arc<ServerCertificate>),
}

impl Hosts {
    /// Those of loopback TCP: its names, alone or with the listener's own port.
    pub fn tcp(port: u16) -> Self {
        let (mut names, mut origins) = (Vec::new(), Vec::new());
        for name in ["localhost", "127.0.0.1", "[::1]"] {
            let full = format!("{name}:{port}");
            origins.push(match port {
                80 => format!("http://{name}"),
                _ => format!("http://{full}"),
            });
            names.extend([full, name.to_owned()]);
        }
        Self(Kind::Listed { names, origins })
    }

    /// Those of a TLS listener, as its certificate has them at the time.
    pub fn tls(certificate: Arc<ServerCertificate>) -> Self {
        Self(Kind::Certified(certificate))
    }

    /// Those of a Unix socket, which no browser reaches.
    pub fn unix() -> Self {
        let names = vec!["localhost".into(), "agentkeys".into()];
        Self(Kind::Listed { names, origins: Vec::new() })
    }

    /// Whether they are those of a TLS listener.
    pub fn are_over_tls(&self) -> bool {
        matches!(self.0, Kind::Certified(_))
    }

    fn scheme(&self) -> &'static str {
        if self.are_over_tls() { "https" } else { "http" }
    }

    fn has(&self, host: &[u8]) -> bool {
        match &self.0 {
            Kind::Listed { names, .. } => {
                names.iter().any(|name| name.as_bytes().eq_ignore_ascii_case(host))
            }
            Kind::Certified(certificate) => {
                let host = std::str::from_utf8(host).ok().and_then(url::split);
                host.is_some_and(|(host, _)| certificate.answers_to(&host))
            }
        }
    }

    /// Whether a page of that origin is this server's own, for a request that names `host`.
    fn has_page(&self, origin: &HeaderValue, host: Option<&[u8]>) -> bool {
        match &self.0 {
            Kind::Listed { origins, .. } => {
                origins.iter().any(|own| own.as_bytes() == origin.as_bytes())
            }
            Kind::Certified(certificate) => {
                let page = origin.as_bytes().strip_prefix(b"https://");
                let own =
                    page.zip(host).is_some_and(|(page, host)| page.eq_ignore_ascii_case(host));
                own && certificate.has_pages()
            }
        }
    }

    fn foreign(&self, what: &str, cause: &str) -> Problem {
        let fix = match &self.0 {
            Kind::Listed { .. } => {
                "use localhost or 127.0.0.1 with this server's own port, and no browser page"
            }
            Kind::Certified(_) => {
                "use https:// and a name that this server's certificate is for, and no browser page"
            }
        };
        Problem::new(Code::Denied, format!("{what} is refused"), cause, fix)
    }
}

/// Refuses what does not name this server, or comes from a page of another.
pub fn check_origin(parts: &Parts, hosts: &Hosts) -> Answer<()> {
    let refused = |cause: &str| Err(hosts.foreign("the request's host", cause));
    let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    let scheme = hosts.scheme();
    if parts.uri.scheme().is_some_and(|given| given.as_str() != scheme) {
        return refused(&format!("its target has another scheme than {scheme}"));
    }
    if authority.is_some_and(|authority| !hosts.has(authority)) {
        return refused("its target names another server");
    }
    let mut named = parts.headers.get_all(HOST).iter();
    let host = match (named.next(), named.next()) {
        (Some(_), Some(_)) => return refused("it has two Host headers"),
        (Some(host), None) if !hosts.has(host.as_bytes()) => {
            return refused("its Host header names another server");
        }
        // HTTP/2 says it in the target.
        (None, _) if authority.is_none() || parts.version < hyper::Version::HTTP_2 => {
            return refused("it has no Host header");
        }
        (host, _) => authority.or(host.map(HeaderValue::as_bytes)),
    };
    if !parts.headers.get_all(ORIGIN).iter().all(|origin| hosts.has_page(origin, host)) {
        let cause = "its Origin header is not this server's";
        return Err(hosts.foreign("the request's origin", cause));
    }
    Ok(())
}

/// Refuses more header fields than anybody needs.
pub fn check_headers(parts: &Parts) -> Answer<()> {
    if parts.headers.len() <= MAX_HEADERS {
        return Ok(());
    }
    let mut problem = Problem::new(
        Code::TooLarge,
        "too many header fields",
        format!("a request may have {MAX_HEADERS}"),
        "send fewer",
    );
    problem.status = 431;
    Err(problem)
}

/// The proof of presence that came along, if one did. It is judged where the act is.
pub fn proof(parts: &Parts) -> Answer<Option<Proof>> {
    let mut all = parts.headers.get_all(PRESENCE_HEADER).iter();
    match (all.next(), all.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(Problem::invalid(PRESENCE_HEADER, "it is there twice")),
        (Some(value), None) => Ok(Some(value.to_str().unwrap_or_default().parse()?)),
    }
}

/// Refuses a body where none belongs, or one that is not plain JSON.
pub fn check_body_kind(parts: &Parts, takes_body: bool) -> Answer<()> {
    if !takes_body {
        return Err(Problem::invalid("the body", "this endpoint takes no body"));
    }
    if parts.headers.contains_key(CONTENT_ENCODING) {
        return Err(Problem::invalid("Content-Encoding", "bodies are taken as they are only"));
    }
    let mut kinds = parts.headers.get_all(CONTENT_TYPE).iter();
    let json = |kind: &hyper::header::HeaderValue| {
        let kind = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
        kind.trim().eq_ignore_ascii_case("application/json")
    };
    match (kinds.next(), kinds.next()) {
        (Some(kind), None) if json(kind) => Ok(()),
        _ => Err(Problem::invalid("Content-Type", "Content-Type wants to be application/json")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::{Request, Version};

    fn checked(hosts: &Hosts, target: &str, version: Version, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().uri(target).version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        match check_origin(&parts, hosts) {
            Ok(()) => true,
            Err(problem) => {
                assert_eq!(problem.code, Code::Denied);
                false
            }
        }
    }

    #[test]
    fn only_this_server_s_own_names_are_hosts() {
        let hosts = Hosts::tcp(8080);
        let h1 = Version::HTTP_11;
        for host in ["localhost", "LOCALHOST:8080", "127.0.0.1:8080", "[::1]:8080", "[::1]"] {
            assert!(checked(&hosts, "/health", h1, &[("host", host)]), "{host}");
        }
        for host in [
            "evil.org",
            "localhost:8081",
            "127.0.0.2",
            "localhost.",
            "agentkeys",
            "",
            "a@localhost",
        ] {
            assert!(!checked(&hosts, "/health", h1, &[("host", host)]), "{host}");
        }
        assert!(!checked(&hosts, "/health", h1, &[]));
        assert!(!checked(&hosts, "/health", Version::HTTP_10, &[]));
        assert!(!checked(&hosts, "/health", h1, &[("host", "localhost"), ("host", "localhost")]));
        let unix = Hosts::unix();
        assert!(checked(&unix, "/health", h1, &[("host", "agentkeys")]));
        assert!(!checked(&unix, "/health", h1, &[("host", "127.0.0.1")]));
    }

    #[test]
    fn an_absolute_target_and_http_2_must_name_this_server_too() {
        let hosts = Hosts::tcp(8080);
        let host = [("host", "localhost:8080")];
        assert!(checked(&hosts, "http://localhost:8080/health", Version::HTTP_11, &host));
        assert!(!checked(&hosts, "http://evil.org/health", Version::HTTP_11, &host));
        assert!(!checked(&hosts, "http://localhost:8080/health", Version::HTTP_11, &[]));
        assert!(checked(&hosts, "http://localhost:8080/health", Version::HTTP_2, &[]));
        assert!(!checked(&hosts, "http://evil.org/health", Version::HTTP_2, &[]));
        assert!(!checked(&hosts, "http://u@localhost:8080/", Version::HTTP_2, &[]));
        assert!(!checked(&hosts, "https://localhost:8080/health", Version::HTTP_2, &[]));
    }

    #[test]
    fn a_page_of_another_origin_is_refused() {
        let hosts = Hosts::tcp(8080);
        let from = |origin| {
            let headers = [("host", "localhost:8080"), ("origin", origin)];
            checked(&hosts, "/health", Version::HTTP_11, &headers)
        };
        assert!(from("http://localhost:8080"));
        assert!(!from("http://localhost:3000"));
        assert!(!from("null"));
        assert!(!from("https://localhost:8080"));
    }

    fn certified(self_signed: bool) -> Hosts {
        let now = crate::core::types::Timestamp(1_800_000_000_000);
        let names = ["keys.org".to_owned(), "*.agents.org".into(), "10.0.0.1".into()];
        let (certificate, key) = crate::backend::tls::make(&names, now).unwrap();
        Hosts::tls(if self_signed {
            ServerCertificate::self_signed(&certificate, &key).unwrap()
        } else {
            ServerCertificate::named(&certificate, &key).unwrap()
        })
    }

    #[test]
    fn over_tls_the_certificate_s_names_are_the_hosts() {
        let hosts = certified(false);
        let h1 = Version::HTTP_11;
        for host in ["keys.org", "KEYS.org:443", "keys.org:8443", "a.agents.org", "10.0.0.1:1"] {
            assert!(checked(&hosts, "/health", h1, &[("host", host)]), "{host}");
        }
        for host in [
            "evil.org",
            "localhost",
            "127.0.0.1",
            "keys.org.evil.org",
            "a.b.agents.org",
            "agents.org",
            "u@keys.org",
            "keys.org:",
            "keys.org:99999",
            "",
        ] {
            assert!(!checked(&hosts, "/health", h1, &[("host", host)]), "{host}");
        }
        let host = [("host", "keys.org")];
        assert!(checked(&hosts, "https://keys.org/health", Version::HTTP_2, &[]));
        assert!(checked(&hosts, "https://keys.org/health", h1, &host));
        assert!(!checked(&hosts, "http://keys.org/health", Version::HTTP_2, &[]));
        assert!(!checked(&hosts, "https://evil.org/health", Version::HTTP_2, &[]));
        assert!(!checked(&hosts, "https://evil.org/health", h1, &host));
    }

    #[test]
    fn over_tls_only_a_page_of_the_very_same_origin_is_its_own() {
        let hosts = certified(false);
        let from = |hosts: &Hosts, origin| {
            let headers = [("host", "keys.org:8443"), ("origin", origin)];
            checked(hosts, "/health", Version::HTTP_11, &headers)
        };
        assert!(from(&hosts, "https://keys.org:8443"));
        for other in ["http://keys.org:8443", "https://keys.org", "https://10.0.0.1", "null"] {
            assert!(!from(&hosts, other), "{other}");
        }
        assert!(!from(&certified(true), "https://keys.org:8443"));
    }

    #[test]
    fn behind_a_pin_any_well_formed_host_will_do() {
        let hosts = certified(true);
        let named = |host| checked(&hosts, "/health", Version::HTTP_11, &[("host", host)]);
        assert!(named("backend.lan") && named("192.0.2.1:7"));
        assert!(!named("") && !named("a b") && !named("u@backend.lan") && !named("127.1"));
    }
}
