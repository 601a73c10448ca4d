//! Requests that are signed: AWS's, by Signature Version 4. The program signs with a stand-in; what
//! it signed is signed anew here, for the host that it goes to.
//!
//! Must never sign for another host, service or region than the request is for, or hand on anything
//! of the program's own signature.
use std::sync::Arc;

use hyper::Method;
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zeroize::{ZeroizeOnDrop, Zeroizing};

use crate::backend::upstream::sigv4::{Canonical, SCHEME, Signer, compact, sha256};
use crate::core::identity::ServiceName;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::secret::SecretBytes;
use crate::core::types::Timestamp;

/// Most bytes of a body that is read whole in order to be signed.
pub const MAX_SIGNED_BODY: usize = 16 * 1024 * 1024;
/// Room for such bodies, in pieces of 64 KiB: 256 MiB.
const ROOM: usize = 4096;
const PIECE: usize = 64 * 1024;

const CONTENT_HASH: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");
/// What stands for the hash of a body that is not signed; TLS is what protects it then.
const UNSIGNED: [&str; 2] = ["UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"];
/// Parameters of a request that is signed by its address.
const PRESIGNED: [&str; 7] = [
    "x-amz-algorithm",
    "x-amz-credential",
    "x-amz-signature",
    "x-amz-signedheaders",
    "x-amz-security-token",
    "awsaccesskeyid",
    "signature",
];

fn bad(what: &str, why: impl Into<String>, fix: &str) -> Problem {
    Problem::new(Code::Invalid, format!("the request cannot be signed: {what}"), why.into(), fix)
}

/// How one request is to be signed.
pub struct Signing {
    region: String,
    service: String,
    host: String,
    /// The hash of its body, or what stands for it; absent where that is to be computed.
    payload: Option<String>,
}

/// A key's parts.
#[derive(Deserialize, ZeroizeOnDrop)]
#[serde(rename_all = "PascalCase")]
struct Parts {
    access_key_id: String,
    secret_access_key: String,
    #[serde(default)]
    session_token: Option<String>,
}

/// Room for bodies that are read whole.
#[derive(Clone)]
pub struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ROOM)))
    }
}

impl Room {
    /// Takes as much as the body of such a request may need, for as long as it is kept.
    ///
    /// # Errors
    /// `TOO_LARGE` for a body that says so, `RATE_LIMITED` where there is none left.
    pub fn enter(&self, headers: &HeaderMap) -> Answer<OwnedSemaphorePermit> {
        let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        let length = length.map_or(Ok(MAX_SIGNED_BODY), str::parse).unwrap_or(usize::MAX);
        if length > MAX_SIGNED_BODY {
            return Err(too_large());
        }
        let pieces = u32::try_from(length.div_ceil(PIECE).max(1)).unwrap_or(u32::MAX);
        Arc::clone(&self.0).try_acquire_many_owned(pieces).map_err(|_| {
            let detail = "too many large requests at once";
            let cause = "their bodies are kept until they are signed, and there is no room left";
            let fix = "wait until some have ended";
            Problem::new(Code::RateLimited, detail, cause, fix).retry_after(1)
        })
    }
}

/// A body that is more than can be signed.
pub fn too_large() -> Problem {
    Problem::new(
        Code::TooLarge,
        "the request is too large to be signed",
        format!(
            "its hash is not stated, and a body that is read for it has {MAX_SIGNED_BODY} bytes at most"
        ),
        "send it in parts, or state its hash (x-amz-content-sha256), as AWS's tools do for S3",
    )
}

impl Signing {
    /// Reads how a request to `host` is to be signed, and refuses one that cannot be.
    ///
    /// # Errors
    /// `INVALID`.
    pub fn read(host: &str, headers: &HeaderMap, target: &str, has_body: bool) -> Answer<Self> {
        let query = target.split_once('?').map_or("", |(_, query)| query);
        let is_presigned = query.split('&').any(|part| {
            let name = part.split('=').next().unwrap_or_default();
            let name = decoded(name, true).to_ascii_lowercase();
            PRESIGNED.iter().any(|one| name == one.as_bytes())
        });
        if is_presigned {
            return Err(bad(
                "its address holds a signature",
                "an address that was signed beforehand is not signed anew",
                "ask by the key, and not by a signed address; or for an address that others signed, \
                 without the gateway",
            ));
        }
        let given = headers.get(AUTHORIZATION).and_then(|given| given.to_str().ok());
        let given = given.filter(|given| given.starts_with("AWS"));
        let scope = match given {
            None => None,
            Some(given) => Some(scope_of(given).ok_or_else(|| {
                bad(
                    "it was signed in another way",
                    format!("the gateway signs by {SCHEME}, and the program by something else"),
                    "set the program to Signature Version 4, for one region",
                )
            })?),
        };
        let (region, service) = scope.unwrap_or_else(|| by_host(host));
        let stated = headers.get(&CONTENT_HASH).map(|hash| hash.to_str().unwrap_or_default());
        let payload = match stated {
            Some(hash) if UNSIGNED.contains(&hash) || is_hash(hash) => Some(hash.to_owned()),
            Some(hash) if hash.starts_with("STREAMING-") => {
                return Err(bad(
                    "its body is signed piece by piece",
                    "each piece has a signature of the program's own, and the gateway does not sign \
                     those anew",
                    "have the program send it in one piece: with boto3, over https:// and without \
                     payload_signing_enabled",
                ));
            }
            _ if !has_body => Some(sha256(b"")),
            _ => None,
        };
        Ok(Self { region, service, host: host.to_owned(), payload })
    }

    /// Whether its body has to be there in order to be signed.
    pub fn wants_body(&self) -> bool {
        self.payload.is_none()
    }

    /// Its body, which has come.
    pub fn take_body(&mut self, body: &[u8]) {
        self.payload.get_or_insert_with(|| sha256(body));
    }

    /// Signs it; says what no answer may show.
    ///
    /// # Errors
    /// The key is none of the service's, or a header is no text.
    pub fn sign(
        &self,
        of: &ServiceName,
        key: &SecretBytes,
        now: Timestamp,
        method: &Method,
        target: &str,
        headers: &mut HeaderMap,
    ) -> Answer<Vec<SecretBytes>> {
        let parts: Parts = serde_json::from_slice(key.expose()).map_err(|_| unfit(of))?;
        let id_fits = |c: u8| c.is_ascii_alphanumeric() || b"-_".contains(&c);
        let id = &parts.access_key_id;
        if id.is_empty() || !id.bytes().all(id_fits) || parts.secret_access_key.is_empty() {
            return Err(unfit(of));
        }
        let payload = self.payload.as_deref().ok_or_else(Problem::internal)?;
        for name in [AUTHORIZATION, DATE, TOKEN, CONTENT_HASH] {
            headers.remove(name);
        }
        let plain = |text: &str| HeaderValue::try_from(text).map_err(|_| unfit(of));
        headers.insert(DATE, plain(&compact(now))?);
        headers.insert(CONTENT_HASH, plain(payload)?);
        let token = parts.session_token.as_deref().filter(|token| !token.is_empty());
        if let Some(token) = token {
            let mut value = plain(token)?;
            value.set_sensitive(true);
            headers.insert(TOKEN, value);
        }
        let mut signed = vec![("host".to_owned(), Zeroizing::new(self.host.clone()))];
        for name in headers.keys() {
            let name = name.as_str();
            if name.starts_with("x-amz-") || matches!(name, "content-type" | "content-md5") {
                signed.push((name.to_owned(), joined(headers, name)?));
            }
        }
        signed.sort_by(|one, other| one.0.cmp(&other.0));
        let lines: Vec<(&str, &str)> =
            signed.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let signer = Signer {
            access_key_id: id,
            secret: &parts.secret_access_key,
            region: &self.region,
            service: &self.service,
            time: now,
        };
        let authorization = signer.sign(&Canonical {
            method: method.as_str(),
            path: &canonical_path(path, self.service.starts_with("s3")),
            query: &canonical_query(query),
            headers: &lines,
            payload,
        });
        let mut authorization = plain(&authorization)?;
        authorization.set_sensitive(true);
        headers.insert(AUTHORIZATION, authorization);
        let kept = [Some(parts.secret_access_key.as_str()), token];
        Ok(kept.into_iter().flatten().map(|text| SecretBytes::new(text.into())).collect())
    }
}

fn unfit(of: &ServiceName) -> Problem {
    Problem::new(
        Code::Invalid,
        format!("the {of} key cannot be signed with"),
        "it is not a JSON object with AccessKeyId and SecretAccessKey, and SessionToken if it has one",
        format!("store it so: agentkeys store <agent> {of}"),
    )
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|c| c.is_ascii_digit() || matches!(c, b'a'..=b'f'))
}

/// Region and service out of `Credential=ID/DAY/REGION/SERVICE/aws4_request`.
fn scope_of(authorization: &str) -> Option<(String, String)> {
    let rest = authorization.strip_prefix(SCHEME)?.strip_prefix(' ')?;
    let credential = rest.split(',').find_map(|part| part.trim().strip_prefix("Credential="))?;
    let parts: Vec<&str> = credential.split('/').collect();
    let [_, _, region, service, "aws4_request"] = parts.as_slice() else { return None };
    let fits = |text: &str| {
        (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_".contains(&c))
    };
    (fits(region) && fits(service)).then(|| ((*region).to_owned(), (*service).to_owned()))
}

/// Region and service out of a host such as `SERVICE.REGION.amazonaws.com`.
fn by_host(host: &str) -> (String, String) {
    let host = host.split(':').next().unwrap_or_default();
    let labels: Vec<&str> = host.split('.').collect();
    let labels = &labels[..labels.len().saturating_sub(2)];
    let found = labels.iter().rposition(|label| is_region(label));
    let region = found.map_or("us-east-1", |at| labels[at]);
    let others = match found {
        // The service stands before its region, or behind it.
        Some(at) if at + 1 == labels.len() => &labels[..at],
        Some(at) => &labels[at + 1..],
        None => labels,
    };
    let service = others.iter().rev().find(|label| **label != "dualstack").copied().unwrap_or("");
    let service = service.strip_suffix("-fips").unwrap_or(service);
    // Names that differ in hosts and in signatures.
    let service = match service {
        "email" => "ses",
        name if name.starts_with("bedrock") => "bedrock",
        name if name == "s3" || name.starts_with("s3-accesspoint") || name == "s3-control" => "s3",
        name => name,
    };
    (region.to_owned(), service.to_owned())
}

/// `eu-central-1`.
fn is_region(label: &str) -> bool {
    let parts: Vec<&str> = label.split('-').collect();
    let [first, .., last] = parts.as_slice() else { return false };
    parts.len() >= 3
        && first.len() == 2
        && !last.is_empty()
        && last.bytes().all(|c| c.is_ascii_digit())
        && parts[..parts.len() - 1].iter().all(|p| p.bytes().all(|c| c.is_ascii_lowercase()))
}

/// A header's values as they are signed.
fn joined(headers: &HeaderMap, name: &str) -> Answer<Zeroizing<String>> {
    let mut out = Zeroizing::new(String::new());
    for (at, value) in headers.get_all(name).iter().enumerate() {
        let text = std::str::from_utf8(value.as_bytes()).map_err(|_| {
            bad("a header is no text", format!("{name} is no UTF-8"), "leave it out")
        })?;
        if at > 0 {
            out.push(',');
        }
        for (at, word) in text.split(' ').filter(|word| !word.is_empty()).enumerate() {
            if at > 0 {
                out.push(' ');
            }
            out.push_str(word);
        }
    }
    Ok(out)
}

/// What percent-encoding stands for; a `+` is a space in a query.
fn decoded(text: &str, in_query: bool) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                out.push(byte);
                at += 2;
            }
            _ if in_query && bytes[at] == b'+' => out.push(b' '),
            _ => out.push(bytes[at]),
        }
        at += 1;
    }
    out
}

fn encoded(bytes: &[u8], keep: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) || keep.contains(byte) {
            out.push(char::from(*byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// A path as it is signed: of S3 encoded once, of all others what is sent, encoded once more.
fn canonical_path(path: &str, is_s3: bool) -> String {
    match is_s3 {
        true => {
            let segments = path.split('/').map(|part| encoded(&decoded(part, false), b""));
            segments.collect::<Vec<_>>().join("/")
        }
        false => encoded(path.as_bytes(), b"/"),
    }
}

fn canonical_query(query: &str) -> String {
    let part = |text| encoded(&decoded(text, true), b"");
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (part(name), part(value)))
        .collect();
    pairs.sort();
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())
        };
        fields.iter().map(field).collect()
    }

    #[test]
    fn the_programs_own_scope_says_service_and_region_and_else_the_host_does() {
        for (host, region, service) in [
            ("sts.amazonaws.com", "us-east-1", "sts"),
            ("iam.amazonaws.com", "us-east-1", "iam"),
            ("dynamodb.eu-central-1.amazonaws.com", "eu-central-1", "dynamodb"),
            ("s3.eu-west-1.amazonaws.com", "eu-west-1", "s3"),
            ("my.bucket.s3.us-gov-west-1.amazonaws.com", "us-gov-west-1", "s3"),
            ("bucket.s3.amazonaws.com", "us-east-1", "s3"),
            ("b.s3.dualstack.eu-west-1.amazonaws.com", "eu-west-1", "s3"),
            ("a1.execute-api.eu-west-1.amazonaws.com", "eu-west-1", "execute-api"),
            ("search-x.eu-west-1.es.amazonaws.com", "eu-west-1", "es"),
            ("bedrock-runtime.us-east-1.amazonaws.com", "us-east-1", "bedrock"),
            ("kms-fips.us-east-1.amazonaws.com", "us-east-1", "kms"),
        ] {
            assert_eq!(by_host(host), (region.to_owned(), service.to_owned()), "{host}");
        }
        let given = "AWS4-HMAC-SHA256 Credential=-/20260101/eu-north-1/sqs/aws4_request, SignedHeaders=host, Signature=0";
        let read =
            Signing::read("queue.amazonaws.com", &headers(&[("authorization", given)]), "/", false);
        let read = read.unwrap();
        assert_eq!((read.region.as_str(), read.service.as_str()), ("eu-north-1", "sqs"));
        for other in [
            "AWS4-ECDSA-P256-SHA256 Credential=-/20260101/s3/aws4_request, Signature=0",
            "AWS4-HMAC-SHA256 Credential=-/20260101/eu-north-1/sqs/aws4, Signature=0",
            "AWS4-HMAC-SHA256 Credential=-/20260101/EU/sqs\n/aws4_request, Signature=0",
            "AWS AKIA:signature",
        ] {
            let Ok(other) = other.parse::<HeaderValue>() else { continue };
            let map = HeaderMap::from_iter([(AUTHORIZATION, other)]);
            assert!(Signing::read("sqs.amazonaws.com", &map, "/", false).is_err());
        }
    }

    #[test]
    fn what_cannot_be_signed_anew_is_refused() {
        let none = HeaderMap::new();
        for target in [
            "/a?X-Amz-Signature=0",
            "/a?x=1&x%2Damz%2dcredential=AKIA",
            "/a?AWSAccessKeyId=A&Signature=b&Expires=1",
        ] {
            assert!(Signing::read("s3.amazonaws.com", &none, target, false).is_err(), "{target}");
        }
        let read = |hash: &str, has_body| {
            let map = headers(&[("x-amz-content-sha256", hash)]);
            Signing::read("s3.amazonaws.com", &map, "/", has_body).map(|read| read.payload)
        };
        for kept in [UNSIGNED[0], UNSIGNED[1], &sha256(b"a")] {
            assert_eq!(read(kept, true).unwrap().as_deref(), Some(kept));
        }
        assert!(read("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", true).is_err());
        assert!(read("STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", true).is_err());
        assert_eq!(read("x", true).unwrap(), None);
        assert_eq!(read("x", false).unwrap(), Some(sha256(b"")));
    }

    #[test]
    fn a_body_takes_its_room_and_gives_it_back() {
        let room = Room::default();
        let of = |length: &str| room.enter(&headers(&[("content-length", length)]));
        assert_eq!(of("16777217").err().unwrap().code, Code::TooLarge);
        let all: Vec<_> = (0..16).map(|_| room.enter(&HeaderMap::new()).unwrap()).collect();
        assert_eq!(of("1").err().unwrap().code, Code::RateLimited);
        drop(all);
        assert!(of("16777216").is_ok());
    }

    #[test]
    fn nothing_of_the_programs_own_signature_goes_on() {
        let key = SecretBytes::new(
            br#"{"AccessKeyId":"AKIDEXAMPLE","SecretAccessKey":"wJalrX/secret","SessionToken":"TOKEN=="}"#
                .to_vec(),
        );
        let mut map = headers(&[
            (
                "authorization",
                "AWS4-HMAC-SHA256 Credential=-/20260101/eu-north-1/s3/aws4_request, SignedHeaders=host, Signature=0",
            ),
            ("x-amz-date", "19990101T000000Z"),
            ("x-amz-security-token", "mine"),
            ("x-amz-meta-a", "  b   c "),
            ("x-amz-meta-a", "d"),
            ("user-agent", "x"),
        ]);
        let host = "b.s3.eu-north-1.amazonaws.com";
        let signing = Signing::read(host, &map, "/k", false).unwrap();
        let of: ServiceName = "aws".parse().unwrap();
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        let kept = signing.sign(&of, &key, now, &Method::GET, "/k", &mut map).unwrap();
        assert_eq!(kept.len(), 2);
        assert_eq!(map["x-amz-date"], "20260102T030405Z");
        assert_eq!(map["x-amz-security-token"], "TOKEN==");
        let signed = map["authorization"].to_str().unwrap();
        assert!(signed.starts_with(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260102/eu-north-1/s3/aws4_request, \
             SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-meta-a;x-amz-security-token, "
        ));
        assert_eq!(*joined(&map, "x-amz-meta-a").unwrap(), "b c,d");
        for wrong in ["AKIA", "{}", r#"{"AccessKeyId":"a/b","SecretAccessKey":"c"}"#] {
            let signing = Signing::read(host, &map, "/k", false).unwrap();
            let key = SecretBytes::new(wrong.into());
            let problem = signing.sign(&of, &key, now, &Method::GET, "/k", &mut map).err().unwrap();
            assert_eq!(problem.code, Code::Invalid);
        }
    }

    #[test]
    fn paths_and_queries_are_signed_as_they_are_read() {
        assert_eq!(canonical_path("/a%20b/c+d(e)", true), "/a%20b/c%2Bd%28e%29");
        assert_eq!(
            canonical_path("/functions/arn%3Aaws/x y", false),
            "/functions/arn%253Aaws/x%20y"
        );
        assert_eq!(
            canonical_query("b=2&a=%7E&a=1&list-type&c=x+y%2B"),
            "a=1&a=~&b=2&c=x%20y%2B&list-type="
        );
    }
}
