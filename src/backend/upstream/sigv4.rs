//! Signature Version 4 of one kind of request to AWS: a form that is posted
//! (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>).
//!
//! Written here because AWS's own crate for it brings 25 others, with a second HTTP and a second
//! SHA-2 among them, into the process that holds all keys; its signatures are compared with those
//! of AWS's Python SDK by a test.
use ring::{digest, hmac};
use zeroize::Zeroizing;

use crate::core::types::{Timestamp, to_hex};
use crate::web::Url;

const SIGNED: &str = "content-type;host;x-amz-date";

/// Who signs, for which service, and when.
pub struct Signer<'a> {
    pub access_key_id: &'a str,
    pub secret: &'a str,
    pub region: &'a str,
    pub service: &'a str,
    pub time: Timestamp,
}

fn sha256(bytes: &[u8]) -> String {
    to_hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// `20150830T123600Z`.
fn compact(time: Timestamp) -> String {
    let time = time.to_string();
    let digits = time.split('.').next().unwrap_or_default();
    format!("{}Z", digits.replace(['-', ':'], ""))
}

impl Signer<'_> {
    /// The headers `x-amz-date` and `authorization` for a form that is posted to `url`, which has
    /// no query.
    pub fn sign_form(&self, url: &Url, body: &[u8]) -> (String, String) {
        let Self { access_key_id, region, service, .. } = self;
        let date = compact(self.time);
        let canonical = format!(
            "POST\n{}\n\ncontent-type:application/x-www-form-urlencoded\nhost:{}\n\
             x-amz-date:{date}\n\n{SIGNED}\n{}",
            url.target,
            url.authority(),
            sha256(body)
        );
        let day = &date[..8];
        let scope = format!("{day}/{region}/{service}/aws4_request");
        let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", sha256(canonical.as_bytes()));
        let signature = to_hex(self.sign(day, text.as_bytes()).as_ref());
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={access_key_id}/{scope}, SignedHeaders={SIGNED}, \
             Signature={signature}"
        );
        (date, authorization)
    }

    /// Signs by the key of the day, the region and the service.
    fn sign(&self, day: &str, text: &[u8]) -> hmac::Tag {
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
