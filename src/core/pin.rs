//! The fingerprint of an account and its master key: what a daemon is pinned to before it has
//! met anybody, and what people read out and compare.
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::frame::Frame;
use super::otp::SYMBOLS;
use super::types::{AccountId, Hash32, Malformed, PublicKey, serde_by_text};

/// How many bytes of the hash it has: 160 bits, which nobody can look for an account to match.
const BYTES: usize = 20;
/// How many symbols of five bits that is.
const TEXT: usize = BYTES * 8 / 5;

/// Names an account and its master key together. Not a secret.
///
/// Shown as eight groups of four lower-case letters and digits without i, l, o and u; read in
/// either case, with dashes or blanks anywhere or nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; BYTES]);

impl Fingerprint {
    /// The fingerprint of an account with this master key.
    pub fn of(account: AccountId, master_key: &PublicKey) -> Self {
        let framed = Frame::new("AgentKeys-v1-Account").field(&account.0).field(&master_key.0);
        let mut first = [0; BYTES];
        first.copy_from_slice(&Hash32::of(framed.bytes()).0[..BYTES]);
        Self(first)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (at, five) in self.0.chunks(5).enumerate() {
            let bits = five.iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
            for half in 0..2 {
                if at + half > 0 {
                    f.write_str("-")?;
                }
                for symbol in 0..4 {
                    let shift = 35 - 5 * (4 * half + symbol);
                    let symbol = SYMBOLS[(bits >> shift & 31) as usize];
                    write!(f, "{}", char::from(symbol.to_ascii_lowercase()))?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let wrong = Malformed::new(
            "fingerprint",
            "wants the 32 letters and digits that agentkeys init shows, such as \
             abcd-efgh-jkmn-pqrs-tvwx-yz01-2345-6789",
        );
        let mut bytes = [0u8; BYTES];
        let mut symbols = 0;
        for c in text.bytes().filter(|c| !matches!(c, b'-' | b' ')) {
            let value = SYMBOLS.iter().position(|symbol| *symbol == c.to_ascii_uppercase());
            let value = value.filter(|_| symbols < TEXT).ok_or_else(|| wrong.clone())?;
            for bit in 0..5 {
                let at = symbols * 5 + bit;
                bytes[at / 8] |= ((value >> (4 - bit) & 1) as u8) << (7 - at % 8);
            }
            symbols += 1;
        }
        if symbols == TEXT { Ok(Self(bytes)) } else { Err(wrong) }
    }
}

serde_by_text!(Fingerprint);

#[cfg(test)]
mod tests {
    use super::*;

    fn any() -> Fingerprint {
        Fingerprint::of(AccountId([1; 16]), &PublicKey([2; 32]))
    }

    #[test]
    fn it_is_read_as_people_type_it() {
        let shown = any().to_string();
        assert_eq!(shown.len(), 39);
        assert_eq!(shown.split('-').map(str::len).collect::<Vec<_>>(), [4; 8]);
        assert!(!shown.contains(['i', 'l', 'o', 'u']), "{shown}");
        for typed in [
            shown.clone(),
            shown.to_uppercase(),
            shown.replace('-', ""),
            shown.replace('-', " "),
            format!(" {}- ", shown.replacen('-', "", 3)),
        ] {
            assert_eq!(typed.parse(), Ok(any()), "{typed}");
        }
    }

    #[test]
    fn what_is_no_fingerprint_is_refused() {
        let shown = any().to_string();
        for wrong in [
            String::new(),
            "-".repeat(39),
            shown[..38].to_owned(),
            format!("{shown}0"),
            format!("{}u", &shown[..38]),
            format!("{}_", &shown[..38]),
            format!("{}\u{e9}", &shown[..38]),
            "0".repeat(64),
        ] {
            assert!(wrong.parse::<Fingerprint>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn account_and_key_are_both_in_it() {
        assert_ne!(any(), Fingerprint::of(AccountId([3; 16]), &PublicKey([2; 32])));
        assert_ne!(any(), Fingerprint::of(AccountId([1; 16]), &PublicKey([3; 32])));
    }

    #[test]
    fn every_bit_is_in_the_text() {
        for bit in 0..BYTES * 8 {
            let mut bytes = [0; BYTES];
            bytes[bit / 8] = 0x80 >> (bit % 8);
            let one = Fingerprint(bytes);
            assert_eq!(one.to_string().parse(), Ok(one), "bit {bit}");
            assert_eq!(one.to_string().matches('0').count(), TEXT - 1);
        }
    }
}
