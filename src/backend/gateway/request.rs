//! What of a program's request goes on to a service, and what is refused before that: anything that
//! could mean another request to the service than to us.
use std::collections::BTreeSet;

use hyper::Method;
use hyper::header::{ACCEPT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::PathAndQuery;

use crate::core::gateway::{Field, MAX_FIELDS, field_bytes, is_hop_by_hop};
use crate::core::problem::{Answer, Problem};

/// Most characters of a path that go on record.
const MOST_RECORDED: usize = 160;

/// That a part of a request is none.
pub fn bad(what: &str, why: &str) -> Problem {
    Problem::invalid(what, why)
}

/// The program's headers, without those that belong to its connection. Without a body there is no
/// length either: the service would take what comes next on the connection, which may be another
/// agent's, for the body that it was told of.
pub fn headers_of(fields: &[Field], has_body: bool) -> Answer<HeaderMap> {
    if fields.len() > MAX_FIELDS {
        return Err(bad("headers", &format!("a request has at most {MAX_FIELDS}")));
    }
    let named: BTreeSet<String> = fields
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("connection"))
        .flat_map(|(_, value)| value.split(',').map(|name| name.trim().to_ascii_lowercase()))
        .collect();
    let mut headers = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields {
        let name: HeaderName = name.parse().map_err(|_| bad("headers", "a name is none"))?;
        let goes_no_further = is_hop_by_hop(name.as_str())
            || named.contains(name.as_str())
            || matches!(name.as_str(), "host" | "expect" | "accept-encoding")
            || name == CONTENT_LENGTH && !has_body;
        if goes_no_further {
            continue;
        }
        let value = field_bytes(value).and_then(|bytes| HeaderValue::from_bytes(&bytes).ok());
        headers.append(name, value.ok_or_else(|| bad("headers", "a value is none"))?);
    }
    // Of two lengths, or one that is no number, the two ends could read different requests.
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    let is_number =
        |value: &HeaderValue| value.as_bytes().iter().all(u8::is_ascii_digit) && !value.is_empty();
    if lengths.next().is_some() || length.is_some_and(|length| !is_number(length)) {
        return Err(bad("headers", "content-length is one number"));
    }
    // What comes back is looked through for the key, so it has to come as it is.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    Ok(headers)
}

/// Path and query in origin form: they begin with one slash, and name no host.
pub fn checked_target(target: &str) -> Answer<()> {
    let visible = target.bytes().all(|c| c.is_ascii_graphic() && c != b'#' && c != b'\\');
    let parsed = target.parse::<PathAndQuery>().is_ok_and(|read| read.as_str() == target);
    if target.starts_with('/') && !target.starts_with("//") && visible && parsed {
        return Ok(());
    }
    Err(bad("target", "it wants a path that begins with one slash, and a query"))
}

/// Headers that some services take for another method or path than the request has: what was held
/// against the rules would not be what is done.
const OTHER_MEANINGS: [&str; 6] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
    "x-forwarded-prefix",
];

/// Refuses those.
pub fn no_other_meaning(headers: &HeaderMap) -> Answer<()> {
    match OTHER_MEANINGS.iter().find(|name| headers.contains_key(**name)) {
        Some(name) => Err(bad("headers", &format!("{name} does not go through the gateway"))),
        None => Ok(()),
    }
}

/// What goes on record of a request: method, host and path, without the query, which may hold
/// anything.
pub fn in_short(method: &Method, authority: &str, target: &str) -> String {
    let path = target.split('?').next().unwrap_or_default();
    let cut: String = path.chars().take(MOST_RECORDED).collect();
    let more = if cut.len() < path.len() { "…" } else { "" };
    format!("{method} {authority}{cut}{more}")
}

/// The length that a request's headers say.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_could_mean_another_host_or_end_the_line_is_refused() {
        for good in ["/", "/v1/chat?a=b&c=%20"] {
            assert!(checked_target(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "v1",
            "//evil.example/v1",
            "https://evil.example/",
            "/a b",
            "/a\r\nx: y",
            "/a#b",
            "/a\\b",
            "*",
            "/\u{e9}",
        ] {
            assert!(checked_target(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_belongs_to_the_programs_connection_goes_no_further() {
        let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let sent = [
            field("connection", "close, X-Own"),
            field("x-own", "1"),
            field("host", "evil.example"),
            field("transfer-encoding", "chunked"),
            field("te", "trailers"),
            field("accept-encoding", "gzip"),
            field("accept", "a"),
            field("accept", "b"),
        ];
        let headers = headers_of(&sent, true).unwrap();
        let names: Vec<_> = headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["accept", "accept", "accept-encoding"]);
        assert_eq!(headers["accept-encoding"], "identity");
        for wrong in [
            vec![field("content-length", "1"), field("content-length", "1")],
            vec![field("content-length", "1, 2")],
            vec![field("content-length", "")],
            vec![field("a\r\nb", "1")],
            vec![field("a", "1\r\nb: 2")],
            vec![field("a", "\u{100}")],
            vec![field("a", "1"); MAX_FIELDS + 1],
        ] {
            assert!(headers_of(&wrong, true).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_length_without_a_body_would_swallow_the_next_agents_request() {
        let sent = [("content-length".to_owned(), "40".to_owned())];
        assert!(headers_of(&sent, true).unwrap().contains_key(CONTENT_LENGTH));
        assert!(!headers_of(&sent, false).unwrap().contains_key(CONTENT_LENGTH));
    }

    #[test]
    fn what_goes_on_record_has_no_query_and_an_end() {
        let target = format!("/{}?key=secret", "x".repeat(500));
        let text = in_short(&Method::GET, "api.example", &target);
        assert!(text.starts_with("GET api.example/xxx") && text.ends_with('…'));
        assert!(!text.contains("secret") && text.chars().count() < 200);
    }
}
