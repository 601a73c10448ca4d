//! The words of the contract as types: what is inside the program is right by its type.
use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not the value that it should be. Says what is allowed, and never repeats
/// the input, which may be a secret in the wrong place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct Malformed {
    /// What the text was meant to be, such as `service`.
    pub what: &'static str,
    /// What is allowed.
    pub why: &'static str,
}

/// An error text of serde without what it repeats of the input, which may be a secret in the
/// wrong place: `invalid type: string "sk-..", expected u64` becomes `invalid type, expected u64`.
pub fn without_input(error: &str) -> String {
    // What was expected is written by us and stands last, so input cannot pose as it.
    for (kind, mark) in [
        ("invalid type", ", expected "),
        ("invalid value", ", expected "),
        ("invalid length", ", expected "),
        ("unknown variant", "`, expected "),
        ("unknown field", "`, expected "),
    ] {
        if error.starts_with(kind) {
            let expected = error.rfind(mark).map_or("", |at| &error[at + mark.len()..]);
            return if expected.is_empty() {
                kind.to_owned()
            } else {
                format!("{kind}, expected {expected}")
            };
        }
    }
    error.to_owned()
}

impl Malformed {
    /// A malformed `what`; `why` says what is allowed.
    pub const fn new(what: &'static str, why: &'static str) -> Self {
        Self { what, why }
    }
}

/// Lower-case hexadecimal of `bytes`.
pub fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)] as char);
        out.push(DIGITS[usize::from(byte & 15)] as char);
    }
    out
}

/// Reads exactly `N` bytes of hexadecimal, in either case.
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.as_bytes();
    if text.len() != N * 2 {
        return None;
    }
    let nibble = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        b'A'..=b'F' => Some(c - b'A' + 10),
        _ => None,
    };
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(out)
}

/// Reads `N` bytes of the named kind; as text they stand behind their prefix, as `FromStr` has it.
struct FixedBytes<const N: usize>(&'static str, &'static str);

impl<const N: usize> Visitor<'_> for FixedBytes<N> {
    type Value = [u8; N];

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.0, N)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        text.strip_prefix(self.1).and_then(from_hex).ok_or_else(|| {
            E::custom(format_args!("{} wants {}{} hex digits", self.0, self.1, N * 2))
        })
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        bytes.try_into().map_err(|_| E::custom(format_args!("{} wants {} bytes", self.0, N)))
    }
}

/// Declares a value of a fixed number of public bytes: hexadecimal where people read it
/// (JSON, `Display`), raw bytes where programs do (CBOR). `Debug` is left to `shown_in_debug!`.
macro_rules! fixed_bytes {
    ($(#[$doc:meta])* $name:ident, $len:literal, $word:literal, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), to_hex(&self.0))
            }
        }

        impl FromStr for $name {
            type Err = Malformed;

            fn from_str(text: &str) -> Result<Self, Malformed> {
                text.strip_prefix($prefix)
                    .and_then(from_hex)
                    .map(Self)
                    .ok_or(Malformed::new(
                        $word,
                        concat!("wants ", $prefix, " and hex digits for ", $len, " bytes"),
                    ))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                if s.is_human_readable() {
                    s.collect_str(self)
                } else {
                    s.serialize_bytes(&self.0)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                if d.is_human_readable() {
                    d.deserialize_str(FixedBytes::<$len>($word, $prefix)).map(Self)
                } else {
                    d.deserialize_bytes(FixedBytes::<$len>($word, $prefix)).map(Self)
                }
            }
        }
    };
}

fixed_bytes!(
    /// The lasting name of an agent or an account: `0x` and 40 hex digits.
    WalletAddress, 20, "wallet address", "0x"
);
fixed_bytes!(
    /// An account, as the backend numbers it.
    AccountId, 16, "account id", ""
);
fixed_bytes!(
    /// One backend's store; made with it, and the same for its whole life.
    BackendId, 16, "backend id", ""
);
fixed_bytes!(
    /// A session's public name: the first half of its token's SHA-256.
    SessionId, 16, "session id", ""
);
fixed_bytes!(
    /// One auth request.
    RequestId, 16, "request id", ""
);
fixed_bytes!(
    /// The first eight bytes of the SHA-256 of an X25519 public key.
    KeyId, 8, "key id", ""
);
fixed_bytes!(
    /// A SHA-256 value: a fingerprint, a nonce's hash, a link of the audit chain.
    Hash32, 32, "hash", ""
);
fixed_bytes!(
    /// A public key of 32 bytes, Ed25519 or X25519.
    PublicKey, 32, "public key", ""
);
fixed_bytes!(
    /// A child's Ed25519 public key followed by its X25519 public key.
    ChildKeys, 64, "child public keys", ""
);
fixed_bytes!(
    /// An Ed25519 signature.
    Signature, 64, "signature", ""
);
fixed_bytes!(
    /// The 256-bit nonce of an auth request, as its decision shows it to the child.
    Nonce, 32, "nonce", ""
);

fixed_bytes!(
    /// What a backend wants signed before it does an act that raises what someone may do.
    Challenge, 40, "challenge", ""
);
fixed_bytes!(
    /// What a passphrase is stretched with. No secret.
    Salt, 16, "salt", ""
);

macro_rules! shown_in_debug {
    ($($name:ident),+) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )+};
}

shown_in_debug!(
    WalletAddress,
    AccountId,
    BackendId,
    SessionId,
    RequestId,
    KeyId,
    Hash32,
    PublicKey,
    ChildKeys,
    Signature,
    Challenge,
    Salt
);

impl fmt::Debug for Nonce {
    /// Not the nonce: until the decision shows it to the child it is what OTP and pair code
    /// are keyed with, and a logged request must not give it away.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Nonce(..)")
    }
}

impl Hash32 {
    /// SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut out = [0; 32];
        out.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
        Self(out)
    }
}

impl KeyId {
    /// The id of an X25519 public key.
    pub fn of(key: &PublicKey) -> Self {
        let mut out = [0; 8];
        out.copy_from_slice(&Hash32::of(&key.0).0[..8]);
        Self(out)
    }
}

impl ChildKeys {
    /// Joins the two keys in the order that every signed byte string uses.
    pub fn new(ed25519: PublicKey, x25519: PublicKey) -> Self {
        let mut out = [0; 64];
        out[..32].copy_from_slice(&ed25519.0);
        out[32..].copy_from_slice(&x25519.0);
        Self(out)
    }

    /// The Ed25519 half.
    pub fn ed25519(&self) -> PublicKey {
        let mut out = [0; 32];
        out.copy_from_slice(&self.0[..32]);
        PublicKey(out)
    }

    /// The key that payloads are sealed to.
    pub fn x25519(&self) -> PublicKey {
        let mut out = [0; 32];
        out.copy_from_slice(&self.0[32..]);
        PublicKey(out)
    }

    /// SHA-256 over both keys, for people to compare.
    pub fn fingerprint(&self) -> Hash32 {
        Hash32::of(&self.0)
    }
}

/// Milliseconds since 1970-01-01 UTC. RFC 3339 where people read it; what lies beyond the year
/// 9999, which RFC 3339 cannot write, is shown as the last moment of that year.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This moment and `millis` more, or the end of time.
    pub const fn plus_ms(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// Milliseconds from `earlier` to this moment; 0 when it is not earlier.
    pub const fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    fn date_time(self) -> time::OffsetDateTime {
        let nanos = i128::from(self.0) * 1_000_000;
        time::OffsetDateTime::from_unix_timestamp_nanos(nanos)
            .unwrap_or(time::macros::datetime!(9999-12-31 23:59:59.999 UTC))
    }

    /// Months since year 0, in UTC.
    pub fn months(self) -> u64 {
        let date = self.date_time();
        let year = u64::try_from(date.year()).unwrap_or(0);
        year * 12 + u64::from(u8::from(date.month())) - 1
    }

    /// `2026-04-09 14:32:07 UTC`, as error texts show it.
    pub fn for_people(self) -> String {
        let format =
            time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
        self.date_time().format(format).unwrap_or_default()
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let format = time::macros::format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
        );
        f.write_str(&self.date_time().format(format).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Timestamp {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let wrong = Malformed::new("time", "wants RFC 3339, such as 2026-04-09T14:32:07Z");
        let when =
            time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339)
                .map_err(|_| wrong.clone())?;
        u64::try_from(when.unix_timestamp_nanos() / 1_000_000).map(Self).map_err(|_| wrong)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(self) } else { s.serialize_u64(self.0) }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            String::deserialize(d)?.parse().map_err(de::Error::custom)
        } else {
            u64::deserialize(d).map(Self)
        }
    }
}

/// Serializes a type by its text, and reads it back through `FromStr`.
macro_rules! serde_by_text {
    ($name:ty) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}
pub(crate) use serde_by_text;
