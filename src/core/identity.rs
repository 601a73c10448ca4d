//! Names: services, aliases, and the other ways to say which agent is meant.
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::types::{Malformed, WalletAddress, serde_by_text};

const NAME_RULE: &str =
    "wants 1 to 63 of a-z, 0-9, dot, dash and underscore, beginning with a letter or digit";

/// `[a-z0-9][a-z0-9._-]{0,62}` once its case is folded.
fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes.iter().all(|c| c.is_ascii_alphanumeric() || b"._-".contains(c))
}

/// What a credential is for, such as `openrouter`. Lower case always.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ServiceName(String);

impl ServiceName {
    /// The folded name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServiceName {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if is_name(text) {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(Malformed::new("service", NAME_RULE))
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_by_text!(ServiceName);

/// Whether a person may take a folded name for a wallet address: whole, shortened, without its
/// prefix, or with letters in the place of the digits that they resemble.
fn looks_like_wallet(folded: &str) -> bool {
    let digits: String = folded
        .chars()
        .map(|c| match c {
            'o' => '0',
            'l' | 'i' => '1',
            other => other,
        })
        .collect();
    let whole = |hex: &str| format!("0x{hex}").parse::<WalletAddress>().is_ok();
    whole(&digits)
        || digits.strip_prefix("0x").is_some_and(whole)
        || folded
            .strip_prefix("0x")
            .is_some_and(|rest| rest.bytes().all(|c| c.is_ascii_hexdigit() || b"._-".contains(&c)))
}

/// A human name of an agent. Two that differ only in case are equal; the form first written
/// is the one shown.
#[derive(Clone, Debug)]
pub struct Alias {
    shown: String,
}

impl Alias {
    /// As it was first written.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// As it is compared.
    pub fn folded(&self) -> String {
        self.shown.to_ascii_lowercase()
    }
}

impl PartialEq for Alias {
    fn eq(&self, other: &Self) -> bool {
        self.shown.eq_ignore_ascii_case(&other.shown)
    }
}

impl Eq for Alias {}

impl Hash for Alias {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.folded().hash(state);
    }
}

impl FromStr for Alias {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if !is_name(text) {
            return Err(Malformed::new("alias", NAME_RULE));
        }
        let folded = text.to_ascii_lowercase();
        if looks_like_wallet(&folded) {
            return Err(Malformed::new(
                "alias",
                "may not look like a wallet address, which is 0x and 40 hex digits",
            ));
        }
        // A trailing dot is the root in DNS, so `name.eth.` would be read as the ENS name.
        if folded.trim_end_matches('.').ends_with(".eth") {
            return Err(Malformed::new(
                "alias",
                "may not look like an ENS name: link it with --ens",
            ));
        }
        Ok(Self { shown: text.to_owned() })
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

serde_by_text!(Alias);

/// An e-mail address as a label: nothing has verified it. Case is folded.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Email(String);

impl FromStr for Email {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let wrong = Malformed::new("e-mail", "wants name@domain in plain ASCII, at most 254");
        let Some((name, domain)) = text.split_once('@') else { return Err(wrong) };
        let good_name = name.len() <= 64 && name.split('.').all(is_atom);
        let good_domain = domain.contains('.') && domain.split('.').all(is_label);
        if text.len() <= 254 && good_name && good_domain {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(wrong)
        }
    }
}

/// An atom of RFC 5322 section 3.2.3: no quotes, brackets or blanks, which a reader could take
/// for something around the address.
fn is_atom(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&c))
}

/// A label of a host name: 1 to 63 letters, digits and dashes, with no dash at either end.
fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An ENS name as a label: nothing has resolved it. Case is folded.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Ens(String);

impl FromStr for Ens {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let wrong = Malformed::new("ENS name", "wants labels of a-z, 0-9 and dash ending in .eth");
        let folded = text.to_ascii_lowercase();
        let labels = folded.strip_suffix(".eth").ok_or(wrong.clone())?;
        if folded.len() <= 255 && labels.split('.').all(is_label) {
            Ok(Self(folded))
        } else {
            Err(wrong)
        }
    }
}

impl fmt::Display for Ens {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Every way to say which agent is meant. The text alone tells them apart: `@` makes an e-mail,
/// a final `.eth` an ENS name, `0x` and 40 more a wallet address, all else is an alias.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum AgentIdentity {
    /// The lasting name.
    Wallet(WalletAddress),
    /// A name that the master gave.
    Alias(Alias),
    /// A label.
    Email(Email),
    /// A label.
    Ens(Ens),
}

impl AgentIdentity {
    /// The form under which it is compared and indexed: kind and folded text.
    pub fn canonical(&self) -> String {
        match self {
            Self::Wallet(wallet) => format!("wallet:{wallet}"),
            Self::Alias(alias) => format!("alias:{}", alias.folded()),
            Self::Email(email) => format!("email:{email}"),
            Self::Ens(ens) => format!("ens:{ens}"),
        }
    }

    /// `alias`, `email`, `ens` or `wallet`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Wallet(_) => "wallet",
            Self::Alias(_) => "alias",
            Self::Email(_) => "email",
            Self::Ens(_) => "ens",
        }
    }
}

impl FromStr for AgentIdentity {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if text.contains('@') {
            text.parse().map(Self::Email)
        } else if text.to_ascii_lowercase().ends_with(".eth") {
            text.parse().map(Self::Ens)
        } else if text.len() == 42 && text.starts_with("0x") {
            text.parse().map(Self::Wallet)
        } else {
            text.parse::<Alias>().map(Self::Alias).map_err(|e| Malformed::new("agent", e.why))
        }
    }
}

impl fmt::Display for AgentIdentity {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Wallet(wallet) => wallet.fmt(f),
            Self::Alias(alias) => alias.fmt(f),
            Self::Email(email) => email.fmt(f),
            Self::Ens(ens) => ens.fmt(f),
        }
    }
}

serde_by_text!(AgentIdentity);
