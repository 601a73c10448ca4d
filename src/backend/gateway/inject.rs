//! Puts a key into a request where its service wants it, in place of whatever the program had put
//! there.
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use crate::core::catalog::Sent;
use crate::core::identity::ServiceName;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::secret::SecretBytes;

/// Headers that say who asks, of whatever service: none of a program's own goes on.
const CREDENTIAL_HEADERS: [&str; 5] =
    ["authorization", "proxy-authorization", "x-api-key", "api-key", "x-goog-api-key"];

fn unfit(service: &ServiceName, why: &str) -> Problem {
    Problem::new(
        Code::Invalid,
        format!("the {service} key cannot be sent"),
        why,
        format!("look at what is stored, and store it again: agentkeys store <agent> {service}"),
    )
}

/// A header's value that shows in no debug print, and in no table of HTTP/2's that outlives the
/// request.
fn sensitive(service: &ServiceName, bytes: &[u8]) -> Answer<HeaderValue> {
    let mut value = HeaderValue::from_bytes(bytes)
        .map_err(|_| unfit(service, "it holds bytes that no header can have"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The key in a template with `{}` in it.
fn filled(template: &str, key: &[u8]) -> Zeroizing<Vec<u8>> {
    let (before, after) = template.split_once("{}").unwrap_or((template, ""));
    let mut out = Zeroizing::new(Vec::with_capacity(template.len() + key.len()));
    out.extend_from_slice(before.as_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(after.as_bytes());
    out
}

fn percent_encoded(key: &[u8]) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::with_capacity(key.len() * 3));
    for byte in key {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            out.push(char::from(*byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// A name in a query, as the service reads it: percent-encoded letters are the letters.
fn is_named(part: &str, name: &str) -> bool {
    let written = part.split('=').next().unwrap_or_default().as_bytes();
    let mut read = Vec::with_capacity(written.len());
    let mut at = 0;
    while at < written.len() {
        let hex = written.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if written[at] == b'%' => {
                read.push(byte);
                at += 3;
            }
            _ => {
                read.push(written[at]);
                at += 1;
            }
        }
    }
    read == name.as_bytes()
}

/// Puts the key in, and returns path and query as they are sent.
///
/// # Errors
/// The key cannot stand where the service wants it.
pub fn inject(
    service: &ServiceName,
    sent: &Sent,
    key: &SecretBytes,
    headers: &mut HeaderMap,
    target: &str,
) -> Answer<Zeroizing<String>> {
    for name in CREDENTIAL_HEADERS {
        headers.remove(name);
    }
    let key = key.expose();
    let mut target = Zeroizing::new(target.to_owned());
    match sent {
        Sent::Header { name, value } => {
            let name: HeaderName = name.parse().map_err(|_| Problem::internal())?;
            headers.insert(name, sensitive(service, &filled(value, key))?);
        }
        Sent::Basic { user } => {
            let pair = match user {
                Some(user) => filled(&format!("{user}:{{}}"), key),
                None if key.contains(&b':') => Zeroizing::new(key.to_vec()),
                None => return Err(unfit(service, "its user's name is missing: user:password")),
            };
            let text = Zeroizing::new(format!("Basic {}", STANDARD.encode(&*pair)));
            headers.insert(AUTHORIZATION, sensitive(service, text.as_bytes())?);
        }
        Sent::Query { name } => {
            let (path, query) = target.split_once('?').unwrap_or((&target, ""));
            let others = query.split('&').filter(|part| !part.is_empty() && !is_named(part, name));
            let mut out = Zeroizing::new(format!("{path}?"));
            for part in others {
                out.push_str(part);
                out.push('&');
            }
            out.push_str(name);
            out.push('=');
            out.push_str(&percent_encoded(key));
            target = out;
        }
        Sent::Path { begin } => {
            let (before, after) = begin.split_once("{}").unwrap_or((begin, ""));
            let encoded = percent_encoded(key);
            // Some services' keys have a colon, which a path may hold as it is.
            let encoded = Zeroizing::new(encoded.replace("%3A", ":"));
            // The target begins with the slash that the template ends with.
            let after = after.strip_suffix('/').unwrap_or(after);
            target = Zeroizing::new(format!("{before}{}{after}{}", *encoded, *target));
        }
        // By what is done when the request is whole: see `signing`.
        Sent::Signed(_) => {}
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(
        sent: &Sent,
        key: &str,
        headers: &[(&str, &str)],
        target: &str,
    ) -> Answer<(HeaderMap, String)> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let key = SecretBytes::new(key.as_bytes().to_vec());
        let target = inject(&"x".parse().unwrap(), sent, &key, &mut map, target)?;
        Ok((map, target.to_string()))
    }

    #[test]
    fn a_key_replaces_what_the_program_sent_in_every_place_for_one() {
        let sent = [
            ("authorization", "Bearer a"),
            ("authorization", "b"),
            ("x-api-key", "c"),
            ("accept", "d"),
        ];
        let (headers, target) = put(&Sent::bearer(), "KEY", &sent, "/v1?a=b").unwrap();
        assert_eq!(target, "/v1?a=b");
        assert_eq!(headers.get_all("authorization").iter().collect::<Vec<_>>(), ["Bearer KEY"]);
        assert!(!headers.contains_key("x-api-key") && headers.contains_key("accept"));
        assert!(headers["authorization"].is_sensitive());
        let own = Sent::Header { name: "x-api-key".into(), value: "{}".into() };
        let (headers, _) = put(&own, "KEY", &sent, "/").unwrap();
        assert_eq!(headers["x-api-key"], "KEY");
        assert!(!headers.contains_key("authorization"));
    }

    #[test]
    fn a_key_in_the_query_or_path_is_encoded_and_stands_there_once() {
        let query = Sent::Query { name: "key".into() };
        for (target, sent) in [
            ("/a", "/a?key=K%26e%2Fy"),
            ("/a?key=mine&b=c&k%65y=too&keys=1", "/a?b=c&keys=1&key=K%26e%2Fy"),
            ("/a?%6bEy=1&&", "/a?%6bEy=1&key=K%26e%2Fy"),
        ] {
            assert_eq!(put(&query, "K&e/y", &[], target).unwrap().1, sent);
        }
        for begin in ["/bot{}", "/bot{}/"] {
            let path = Sent::Path { begin: begin.into() };
            let (_, target) = put(&path, "12:a/b", &[], "/getMe?x=1").unwrap();
            assert_eq!(target, "/bot12:a%2Fb/getMe?x=1");
        }
    }

    #[test]
    fn a_key_as_a_password_goes_with_its_user() {
        let basic = |user: Option<&str>, key: &str| {
            put(&Sent::Basic { user: user.map(str::to_owned) }, key, &[], "/")
                .map(|(headers, _)| headers["authorization"].to_str().unwrap().to_owned())
        };
        assert_eq!(basic(Some("api"), "k").unwrap(), "Basic YXBpOms=");
        assert_eq!(basic(None, "u:p").unwrap(), "Basic dTpw");
        assert!(basic(None, "p").unwrap_err().cause.contains("user"));
    }

    #[test]
    fn a_key_that_could_end_its_header_is_refused_and_not_told() {
        let problem = put(&Sent::bearer(), "a\r\nx: SECRET", &[], "/").unwrap_err();
        assert_eq!(problem.code, Code::Invalid);
        assert!(!format!("{problem:?}").contains("SECRET"));
        let (headers, _) = put(&Sent::Signed("aws4".into()), "k", &[], "/").unwrap();
        assert!(headers.is_empty());
    }
}
