//! What a program gets in place of a key: something that looks like one of its service, is good for
//! one run, and proves to the relay that it is that run's program.
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use ring::rand::{SecureRandom, SystemRandom};
use subtle::ConstantTimeEq;

use crate::core::catalog::{self, Sent};
use crate::core::identity::ServiceName;
use crate::core::problem::{Answer, Problem};
use crate::core::types::to_hex;

/// Random bytes of one.
const RANDOM: usize = 24;
/// Headers that programs put a key into, whatever the service wants.
const USUAL: [&str; 3] = ["x-api-key", "api-key", "x-goog-api-key"];

/// How what a program signs for AWS begins.
const SIGNED: &str = "AWS4-HMAC-SHA256 ";
/// What stands there for the key's id, once it was taken out.
const TAKEN: &str = "-";
/// Random bytes of a placeholder that is the id of such a key, and its letters.
const RANDOM_OF_ID: usize = 16;
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/// What programs sign with: everybody may know it.
const SIGNING_STAND_IN: &str = "agentkeys/stand-in/for/the/gateway/00000";

/// A placeholder.
#[derive(Clone)]
pub struct Placeholder(String);

impl Placeholder {
    /// A new one.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn new(service: &ServiceName) -> Answer<Self> {
        let mut random = [0; RANDOM];
        SystemRandom::new().fill(&mut random).map_err(|_| Problem::internal())?;
        if is_signed(service) {
            let letters = random[..RANDOM_OF_ID].iter().map(|byte| BASE32[usize::from(byte & 31)]);
            return Ok(Self(format!("AKIA{}", letters.map(char::from).collect::<String>())));
        }
        let shape = catalog::find(service).and_then(|entry| entry.key.as_ref());
        let prefix = shape.and_then(|shape| shape.prefixes.first()).map_or("", String::as_str);
        let mut text = format!("{prefix}{}", to_hex(&random));
        // As long as a key is said to be, if it is longer than that.
        if let Some(min) = shape.and_then(|shape| shape.min) {
            let missing = min.saturating_sub(text.len());
            text.push_str(&"0".repeat(missing));
        }
        Ok(Self(text))
    }

    /// As it goes into the program's environment.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// For each variable of a key that has several parts, what stands there; `None` where there is to
    /// be nothing. Empty for other keys.
    pub fn parts(&self, service: &ServiceName) -> Vec<(String, Option<&str>)> {
        let entry = catalog::find(service).filter(|entry| matches!(entry.sent, Sent::Signed(_)));
        let members = entry.map(|entry| entry.members.iter()).into_iter().flatten();
        members
            .map(|(member, variable)| {
                let value = match member.as_str() {
                    "AccessKeyId" => Some(self.text()),
                    "SecretAccessKey" => Some(SIGNING_STAND_IN),
                    _ => None,
                };
                (variable.clone(), value)
            })
            .collect()
    }

    /// Takes it out of a signature, of which region and service are left.
    fn take_signed(&self, headers: &mut HeaderMap) -> bool {
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (given.next(), given.next()) else { return false };
        let signed = value.to_str().ok().and_then(|value| value.strip_prefix(SIGNED));
        let credential = signed.and_then(|signed| {
            signed.split(',').find_map(|part| part.trim().strip_prefix("Credential="))
        });
        let Some((id, scope)) = credential.and_then(|text| text.split_once('/')) else {
            return false;
        };
        let left = HeaderValue::try_from(format!("{SIGNED}Credential={TAKEN}/{scope}"));
        match left {
            Ok(left) if self.is(id.as_bytes()) => {
                headers.insert(AUTHORIZATION, left);
                true
            }
            _ => false,
        }
    }

    fn is(&self, given: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(given).into()
    }

    /// Whether a text has it somewhere.
    pub fn is_in(&self, text: &[u8]) -> bool {
        memchr::memmem::find(text, self.0.as_bytes()).is_some()
    }

    /// Takes it out of where the service's key would be, and says whether it was there: from the
    /// headers, the query, or the beginning of the path.
    pub fn take(&self, sent: &Sent, headers: &mut HeaderMap, target: &mut String) -> bool {
        let mut found = false;
        if let Sent::Signed(_) = sent {
            return self.take_signed(headers);
        }
        let own = match sent {
            Sent::Header { name, .. } => name.parse::<HeaderName>().ok(),
            _ => None,
        };
        let names = USUAL.into_iter().filter_map(|name| name.parse().ok()).chain(own);
        for name in names.chain([AUTHORIZATION]) {
            let value = headers.get(&name).map(|value| value.as_bytes().to_vec());
            if value.is_some_and(|value| self.is(given(&value, sent).as_bytes())) {
                headers.remove(name);
                found = true;
            }
        }
        match sent {
            Sent::Query { name } => {
                let (path, query) = target.split_once('?').unwrap_or((target, ""));
                let is_it = |part: &&str| {
                    let value = part.strip_prefix(name.as_str()).and_then(|v| v.strip_prefix('='));
                    value.is_some_and(|value| self.is(value.as_bytes()))
                };
                if query.split('&').any(|part| is_it(&part)) {
                    found = true;
                    let rest: Vec<&str> = query.split('&').filter(|part| !is_it(part)).collect();
                    let mark = if rest.is_empty() { "" } else { "?" };
                    *target = format!("{path}{mark}{}", rest.join("&"));
                }
            }
            Sent::Path { begin } => {
                let filled = begin.replace("{}", &self.0);
                if let Some(rest) = target.strip_prefix(&filled) {
                    found = true;
                    *target =
                        if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
                }
            }
            Sent::Header { .. } | Sent::Basic { .. } | Sent::Signed(_) => {}
        }
        found
    }
}

fn is_signed(service: &ServiceName) -> bool {
    catalog::find(service).is_some_and(|entry| matches!(entry.sent, Sent::Signed(_)))
}

/// Whether it is signed with a key that is not this run's: who has one of their own means that one.
pub fn is_signed_by_another(sent: &Sent, headers: &HeaderMap) -> bool {
    let own = format!("{SIGNED}Credential={TAKEN}/");
    let mut given = headers.get_all(AUTHORIZATION).iter().map(HeaderValue::as_bytes);
    matches!(sent, Sent::Signed(_))
        && given.any(|given| given.starts_with(b"AWS") && !given.starts_with(own.as_bytes()))
}

/// What a header's value gives as the key: behind the scheme, or as the password of a pair.
fn given(value: &[u8], sent: &Sent) -> String {
    let text = String::from_utf8_lossy(value);
    let text = text.trim();
    let (scheme, rest) = text.split_once(' ').unwrap_or(("", text));
    if scheme.eq_ignore_ascii_case("basic") {
        let pair = STANDARD.decode(rest.trim()).unwrap_or_default();
        let pair = String::from_utf8_lossy(&pair).into_owned();
        let (user, password) = pair.split_once(':').unwrap_or(("", &pair));
        // Some programs give a token as the user of an empty password.
        return if password.is_empty() { user.to_owned() } else { password.to_owned() };
    }
    let known = ["bearer", "token", "key"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    if known {
        return rest.trim().to_owned();
    }
    if let Sent::Header { value: template, .. } = sent {
        let (before, after) = template.split_once("{}").unwrap_or((template, ""));
        let inner = text.strip_prefix(before).and_then(|text| text.strip_suffix(after));
        if let Some(inner) = inner {
            return inner.to_owned();
        }
    }
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str) -> ServiceName {
        name.parse().unwrap()
    }

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        map
    }

    #[test]
    fn one_looks_like_a_key_of_its_service_and_no_two_are_the_same() {
        let one = Placeholder::new(&service("openrouter")).unwrap();
        let other = Placeholder::new(&service("openrouter")).unwrap();
        assert!(one.text().starts_with("sk-or-"), "{}", one.text());
        assert_ne!(one.text(), other.text());
        for entry in catalog::all() {
            let text = Placeholder::new(&entry.name).unwrap();
            if let Some(shape) = &entry.key {
                assert!(shape.min.is_none_or(|min| text.text().len() >= min), "{}", entry.name);
            }
        }
    }

    #[test]
    fn it_is_found_where_a_program_puts_a_key_and_taken_out() {
        let one = Placeholder::new(&service("openai")).unwrap();
        let text = one.text();
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        let bearer = Sent::Header { name: "Authorization".into(), value: "Bearer {}".into() };
        let plain = Sent::Header { name: "x-key".into(), value: "{}".into() };
        let deepl =
            Sent::Header { name: "Authorization".into(), value: "DeepL-Auth-Key {}".into() };
        for (sent, name, value) in [
            (&bearer, "authorization", format!("Bearer {text}")),
            (&bearer, "authorization", format!("bearer  {text}")),
            (&bearer, "x-api-key", text.to_owned()),
            (&plain, "x-key", text.to_owned()),
            (&deepl, "authorization", format!("DeepL-Auth-Key {text}")),
            (&bearer, "authorization", basic(&format!("user:{text}"))),
            (&bearer, "authorization", basic(&format!("{text}:"))),
        ] {
            let mut map = headers(&[(name, &value), ("accept", "a")]);
            let mut target = "/v1?a=b".to_owned();
            assert!(one.take(sent, &mut map, &mut target), "{name}: {value}");
            assert_eq!((map.len(), target.as_str()), (1, "/v1?a=b"));
        }
        let query = Sent::Query { name: "key".into() };
        for (before, after) in
            [(format!("/a?key={text}"), "/a"), (format!("/a?b=c&key={text}&d=e"), "/a?b=c&d=e")]
        {
            let mut target = before;
            assert!(one.take(&query, &mut HeaderMap::new(), &mut target));
            assert_eq!(target, after);
        }
        let path = Sent::Path { begin: "/bot{}".into() };
        let mut target = format!("/bot{text}/getMe");
        assert!(one.take(&path, &mut HeaderMap::new(), &mut target));
        assert_eq!(target, "/getMe");
    }

    #[test]
    fn it_is_the_id_in_a_signature_of_which_region_and_service_are_left() {
        let of = service("aws");
        let one = Placeholder::new(&of).unwrap();
        assert_eq!((one.text().len(), &one.text()[..4]), (20, "AKIA"));
        let parts = one.parts(&of);
        assert_eq!(parts[0], ("AWS_ACCESS_KEY_ID".to_owned(), Some(one.text())));
        assert_eq!(parts[1].1.map(str::len), Some(40));
        assert_eq!(parts[2], ("AWS_SESSION_TOKEN".to_owned(), None));
        assert!(one.parts(&service("openai")).is_empty());
        let sent = &catalog::find(&of).unwrap().sent;
        let scope = "20260101/eu-north-1/s3/aws4_request";
        let signed = |id: &str| {
            format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders=host, Signature=00")
        };
        let mut map = headers(&[("authorization", &signed(one.text()))]);
        assert!(is_signed_by_another(sent, &map));
        assert!(one.take(sent, &mut map, &mut "/".to_owned()));
        assert_eq!(map["authorization"], format!("AWS4-HMAC-SHA256 Credential=-/{scope}"));
        assert!(!is_signed_by_another(sent, &map));
        for other in [signed("AKIAIOSFODNN7EXAMPLE"), format!("Bearer {}", one.text())] {
            let mut map = headers(&[("authorization", &other)]);
            assert!(!one.take(sent, &mut map, &mut "/".to_owned()), "{other}");
        }
        assert!(!is_signed_by_another(sent, &HeaderMap::new()));
    }

    #[test]
    fn a_wrong_one_a_part_of_one_and_none_are_not_it() {
        let one = Placeholder::new(&service("openai")).unwrap();
        let bearer = Sent::Header { name: "Authorization".into(), value: "Bearer {}".into() };
        let other = Placeholder::new(&service("openai")).unwrap();
        for value in [
            format!("Bearer {}", other.text()),
            format!("Bearer {}", &one.text()[1..]),
            format!("Bearer {}x", one.text()),
            "Bearer ".to_owned(),
            format!("Bearer x {}", one.text()),
        ] {
            let mut map = headers(&[("authorization", &value)]);
            assert!(!one.take(&bearer, &mut map, &mut "/".to_owned()), "{value}");
        }
        assert!(!one.take(&bearer, &mut HeaderMap::new(), &mut "/".to_owned()));
    }
}
