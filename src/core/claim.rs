//! Text that a child supplies about itself. It is shown to a person who decides by it, so it is
//! bounded and harmless, and always quoted as *claimed*.
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use unicode_normalization::is_nfc;

use super::types::{Malformed, serde_by_text};

/// Most characters of a claim such as a host name.
pub const MAX_CLAIM: usize = 64;
/// Most characters of a reason.
pub const MAX_REASON: usize = 200;

const RULE: &str = "wants NFC text without control, format or direction characters, \
                    at most 64 characters (a reason: 200)";
const PLAIN_RULE: &str = "wants ASCII without blanks, 1 to 64 characters (a path: 200)";

/// Whether a character can move, hide or reorder what stands beside it: the categories Cc, Cf,
/// Zl, Zp, Cs, Co and the non-characters, and the fillers that render as nothing.
fn is_unshowable(c: char) -> bool {
    c.is_control()
        // The last two code points of every plane are non-characters.
        || u32::from(c) & 0xFFFE == 0xFFFE
        || matches!(u32::from(c),
            0x00AD | 0x034F | 0x061C | 0x06DD | 0x070F | 0x08E2 | 0x115F | 0x1160
            | 0x0600..=0x0605 | 0x0890..=0x0891 | 0x17B4..=0x17B5 | 0x180B..=0x180F
            | 0x200B..=0x200F | 0x2028..=0x202E | 0x2060..=0x206F | 0x2800 | 0x3164
            | 0xD800..=0xF8FF | 0xFDD0..=0xFDEF | 0xFE00..=0xFE0F | 0xFEFF | 0xFFA0
            | 0xFFF0..=0xFFFB | 0x110BD | 0x110CD | 0x13430..=0x1345F
            | 0x1BCA0..=0x1BCA3 | 0x1D173..=0x1D17A | 0xE0000..=0xE0FFF | 0xF0000..=0x10FFFF)
}

fn is_showable(text: &str, most: usize) -> bool {
    text.len() <= most * 4
        && text.chars().count() <= most
        && is_nfc(text)
        && !text.chars().any(is_unshowable)
}

/// A short text that a child says of itself: its host, its user, the name it wishes for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Claim(String);

/// Why a child asks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reason(String);

/// A word that decides where something goes, such as a host or a currency: ASCII without blanks,
/// because a letter of another script that looks the same would make it another one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlainWord(String);

/// Path and query of a request: as [`PlainWord`], and longer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlainPath(String);

fn is_plain(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_graphic())
}

macro_rules! bounded_text {
    ($name:ident, $word:literal, $holds:expr, $rule:expr) => {
        impl $name {
            /// The text; show it quoted.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Malformed;

            fn from_str(text: &str) -> Result<Self, Malformed> {
                if $holds(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(Malformed::new($word, $rule))
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        serde_by_text!($name);
    };
}

bounded_text!(Claim, "claimed text", |text| is_showable(text, MAX_CLAIM), RULE);
bounded_text!(Reason, "reason", |text| is_showable(text, MAX_REASON), RULE);
bounded_text!(PlainWord, "word", |text| is_plain(text, MAX_CLAIM), PLAIN_RULE);
bounded_text!(PlainPath, "path", |text| is_plain(text, MAX_REASON), PLAIN_RULE);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_mislead_a_reader_is_refused() {
        for bad in [
            "a\nb",
            "a\u{202E}b",
            "a\u{200B}b",
            "\u{FEFF}a",
            "a\u{0007}",
            "e\u{0301}",
            "\u{2066}x\u{2069}",
            "\u{E0041}",
            "a\u{2028}b",
            "\u{3164}",
            "x\u{9b}31m",
        ] {
            assert!(bad.parse::<Claim>().is_err(), "{bad:?}");
        }
        for good in ["", "laptop", "Büro-PC", "日本語", "x y.z"] {
            assert!(good.parse::<Claim>().is_ok(), "{good:?}");
        }
    }

    #[test]
    fn lengths_are_counted_in_characters() {
        assert!("é".repeat(64).parse::<Claim>().is_ok());
        assert!("é".repeat(65).parse::<Claim>().is_err());
        assert!("x".repeat(200).parse::<Reason>().is_ok());
        assert!("x".repeat(201).parse::<Reason>().is_err());
    }
}
