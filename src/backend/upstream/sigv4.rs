//! Signature Version 4 of requests to AWS
//! (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>).
//!
//! Written here because AWS's own crate for it brings 25 others, with a second HTTP and a second
//! SHA-2 among them, into the process that holds all keys; its signatures are compared with those
//! of AWS's Python SDK by tests.
use ring::{digest, hmac};
use zeroize::Zeroizing;

use crate::core::types::{Timestamp, to_hex};
use crate::web::Url;

/// How such an `Authorization` begins.
pub const SCHEME: &str = "AWS4-HMAC-SHA256";

/// Who signs, for which service, and when.
pub struct Signer<'a> {
    pub access_key_id: &'a str,
    pub secret: &'a str,
    pub region: &'a str,
    pub service: &'a str,
    pub time: Timestamp,
}

/// What is signed of a request, in its canonical form.
pub struct Canonical<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub query: &'a str,
    /// By name, in lower case and sorted; `x-amz-date` is one of them.
    pub headers: &'a [(&'a str, &'a str)],
    /// The hash of its body, or what stands for it.
    pub payload: &'a str,
}

/// SHA-256, in hex.
pub fn sha256(bytes: &[u8]) -> String {
    to_hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// `20150830T123600Z`.
pub fn compact(time: Timestamp) -> String {
    let time = time.to_string();
    let digits = time.split('.').next().unwrap_or_default();
    format!("{}Z", digits.replace(['-', ':'], ""))
}

impl Signer<'_> {
    /// The headers `x-amz-date` and `authorization` for a form that is posted to `url`, which has
    /// no query.
    pub fn sign_form(&self, url: &Url, body: &[u8]) -> (String, String) {
        let date = compact(self.time);
        let authorization = self.sign(&Canonical {
            method: "POST",
            path: &url.target,
            query: "",
            headers: &[
                ("content-type", "application/x-www-form-urlencoded"),
                ("host", &url.authority()),
                ("x-amz-date", &date),
            ],
            payload: &sha256(body),
        });
        (date, authorization)
    }

    /// The header `authorization`.
    pub fn sign(&self, request: &Canonical<'_>) -> String {
        let Self { access_key_id, region, service, .. } = self;
        let date = compact(self.time);
        let lines = request.headers.iter().map(|(name, value)| format!("{name}:{value}\n"));
        // A session's token is among them.
        let lines = Zeroizing::new(lines.collect::<String>());
        let names: Vec<&str> = request.headers.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let Canonical { method, path, query, payload, .. } = request;
        let canonical =
            Zeroizing::new(format!("{method}\n{path}\n{query}\n{}\n{names}\n{payload}", *lines));
        let day = &date[..8];
        let scope = format!("{day}/{region}/{service}/aws4_request");
        let text = format!("{SCHEME}\n{date}\n{scope}\n{}", sha256(canonical.as_bytes()));
        let signature = to_hex(self.tag(day, text.as_bytes()).as_ref());
        format!(
            "{SCHEME} Credential={access_key_id}/{scope}, SignedHeaders={names}, \
             Signature={signature}"
        )
    }

    /// Signs by the key of the day, the region and the service.
    fn tag(&self, day: &str, text: &[u8]) -> hmac::Tag {
        let mut first = Zeroizing::new(Vec::with_capacity(4 + self.secret.len()));
        first.extend_from_slice(b"AWS4");
        first.extend_from_slice(self.secret.as_bytes());
        let mut key = hmac::Key::new(hmac::HMAC_SHA256, &first);
        for part in [day, self.region, self.service, "aws4_request"] {
            key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref());
        }
        hmac::sign(&key, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `post-x-www-form-urlencoded` of AWS's published test suite for Signature Version 4.
    #[test]
    fn it_signs_as_the_published_test_suite_does() {
        let signer = Signer {
            access_key_id: "AKIDEXAMPLE",
            secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            region: "us-east-1",
            service: "service",
            time: "2015-08-30T12:36:00Z".parse().unwrap(),
        };
        let url = "https://example.amazonaws.com/".parse().unwrap();
        let (date, authorization) = signer.sign_form(&url, b"Param1=value1");
        assert_eq!(date, "20150830T123600Z");
        assert_eq!(
            authorization,
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date, \
             Signature=ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"
        );
    }
}
