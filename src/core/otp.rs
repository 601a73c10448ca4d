//! OTP and pair code: both come from the request's nonce, so a child that learns the nonce
//! with the decision can compute them again.
//!
//! Each is HMAC-SHA256 (RFC 2104) keyed by the nonce over a domain string, request id, kind,
//! canonical details and child public keys.
use std::fmt;
use std::str::FromStr;

use ring::hmac;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::auth_request::Kind;
use super::frame::Frame;
use super::types::{ChildKeys, Malformed, Nonce, RequestId, serde_by_text};

/// What OTP and pair code are computed over.
#[derive(Clone, Copy)]
pub struct Covered<'a> {
    /// The request.
    pub request: RequestId,
    /// Its kind.
    pub kind: Kind,
    /// Its canonical details.
    pub details: &'a [u8],
    /// The child's public keys.
    pub keys: &'a ChildKeys,
}

impl Covered<'_> {
    fn mac(&self, domain: &str, nonce: &Nonce) -> u64 {
        let framed = Frame::new(domain)
            .field(&self.request.0)
            .field(self.kind.as_str().as_bytes())
            .field(self.details)
            .field(&self.keys.0);
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &nonce.0), framed.bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&tag.as_ref()[..8]);
        u64::from_be_bytes(first)
    }

    /// The six digits that both sides show.
    pub fn otp(&self, nonce: &Nonce) -> Otp {
        // 2^64 modulo 10^6 makes some codes likelier by one part in 10^13.
        let digits = self.mac("AgentKeys-v1-OTP", nonce) % 1_000_000;
        Otp(u32::try_from(digits).expect("below a million"))
    }

    /// The code that the person carries.
    pub fn pair_code(&self, nonce: &Nonce) -> PairCode {
        PairCode(self.mac("AgentKeys-v1-PairCode", nonce) >> 24)
    }
}

/// Six digits for a person to compare; neither a secret nor a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Otp(u32);

impl fmt::Display for Otp {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:06}", self.0)
    }
}

impl FromStr for Otp {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if text.len() == 6 && text.bytes().all(|c| c.is_ascii_digit()) {
            Ok(Self(text.parse().expect("six digits fit")))
        } else {
            Err(Malformed::new("otp", "wants six digits"))
        }
    }
}

serde_by_text!(Otp);

/// 32 symbols that people do not mix up: no I, L, O, U (Crockford's base 32).
pub(crate) const SYMBOLS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Eight symbols, shown as `ABCD-EFGH`; 40 bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PairCode(u64);

impl PairCode {
    /// The eight symbols without the dash.
    pub fn symbols(self) -> [u8; 8] {
        std::array::from_fn(|at| SYMBOLS[(self.0 >> (35 - 5 * at) & 31) as usize])
    }
}

impl fmt::Display for PairCode {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let symbols = self.symbols();
        let text = std::str::from_utf8(&symbols).expect("symbols are ASCII");
        write!(f, "{}-{}", &text[..4], &text[4..])
    }
}

impl fmt::Debug for PairCode {
    /// Not the code: whoever reads a log while it lives could bind the request.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("PairCode(..)")
    }
}

impl FromStr for PairCode {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let wrong = Malformed::new("pair code", "wants 8 letters and digits, such as ABCD-EFGH");
        let mut code = 0;
        let mut count = 0;
        for (at, c) in text.bytes().enumerate() {
            if c == b'-' && at == 4 && text.len() == 9 {
                continue;
            }
            let symbol = SYMBOLS.iter().position(|s| *s == c.to_ascii_uppercase());
            code = code << 5 | symbol.ok_or(wrong.clone())? as u64;
            count += 1;
            if count > 8 {
                return Err(wrong);
            }
        }
        if count == 8 { Ok(Self(code)) } else { Err(wrong) }
    }
}

serde_by_text!(PairCode);
