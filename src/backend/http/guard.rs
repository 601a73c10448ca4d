//! Which requests are looked at at all: `Host`, `Origin`, number of header fields, kind of
//! body. A web page that the user visits can reach loopback; its browser says in `Host` and
//! `Origin` where it comes from, and cannot be told to lie.
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HOST, ORIGIN};
use hyper::http::request::Parts;

use super::limits::MAX_HEADERS;
use crate::core::presence::Proof;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::wire::PRESENCE_HEADER;

/// The names that one listener answers to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hosts {
    names: Vec<String>,
    origins: Vec<String>,
}

impl Hosts {
    /// Those of loopback TCP: its names, alone or with the listener's own port.
    pub fn tcp(port: u16) -> Self {
        let mut hosts = Self { names: Vec::new(), origins: Vec::new() };
        for name in ["localhost", "127.0.0.1", "[::1]"] {
            let full = format!("{name}:{port}");
            hosts.origins.push(match port {
                80 => format!("http://{name}"),
                _ => format!("http://{full}"),
            });
            hosts.names.extend([full, name.to_owned()]);
        }
        hosts
    }

    /// Those of a Unix socket, which no browser reaches.
    pub fn unix() -> Self {
        Self { names: vec!["localhost".into(), "agentkeys".into()], origins: Vec::new() }
    }

    fn has(&self, host: &[u8]) -> bool {
        self.names.iter().any(|name| name.as_bytes().eq_ignore_ascii_case(host))
    }
}

fn foreign(what: &str, cause: &str) -> Problem {
    let fix = "use localhost or 127.0.0.1 with this server's own port, and no browser page";
    Problem::new(Code::Denied, format!("{what} is refused"), cause, fix)
}

/// Refuses what does not name this server, or comes from a page of another.
pub fn check_origin(parts: &Parts, hosts: &Hosts) -> Answer<()> {
    let refused = |cause| Err(foreign("the request's host", cause));
    let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    if parts.uri.scheme().is_some_and(|scheme| scheme.as_str() != "http") {
        return refused("its target has another scheme than http");
    }
    if authority.is_some_and(|authority| !hosts.has(authority)) {
        return refused("its target names another server");
    }
    let mut named = parts.headers.get_all(HOST).iter();
    match (named.next(), named.next()) {
        (Some(_), Some(_)) => return refused("it has two Host headers"),
        (Some(host), None) if !hosts.has(host.as_bytes()) => {
            return refused("its Host header names another server");
        }
        // HTTP/2 says it in the target.
        (None, _) if authority.is_none() || parts.version < hyper::Version::HTTP_2 => {
            return refused("it has no Host header");
        }
        _ => {}
    }
    let own = |origin: &hyper::header::HeaderValue| {
        hosts.origins.iter().any(|own| own.as_bytes() == origin.as_bytes())
    };
    if !parts.headers.get_all(ORIGIN).iter().all(own) {
        return Err(foreign("the request's origin", "its Origin header is not this server's"));
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
}
