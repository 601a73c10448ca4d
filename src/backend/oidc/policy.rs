//! The operator's list of who may sign in: e-mail addresses, and domains of them. Judged at every
//! sign-in, by what the issuer has verified. Must never make an address an identity.
use std::str::FromStr;

use crate::core::identity::Email;
use crate::core::types::Malformed;

/// One entry of `--oidc-allow`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Allowed {
    /// One address.
    Address(Email),
    /// Every address of just this domain, without its subdomains.
    Domain(String),
}

impl FromStr for Allowed {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let wrong = Malformed::new("--oidc-allow", "wants an e-mail address, or @ and a domain");
        let Some(domain) = text.strip_prefix('@') else {
            return text.parse().map(Self::Address).map_err(|_| wrong);
        };
        // Whatever is a domain makes an address with a name before it.
        let made: Result<Email, _> = format!("a@{domain}").parse();
        made.map(|_| Self::Domain(domain.to_ascii_lowercase())).map_err(|_| wrong)
    }
}

impl Allowed {
    /// Whether it names this address.
    pub fn names(&self, email: &Email) -> bool {
        match self {
            Self::Address(address) => address == email,
            Self::Domain(domain) => {
                // Case was folded when the address was read.
                email.to_string().rsplit_once('@').is_some_and(|(_, of)| of == domain)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_just_that_domain_and_case_is_folded() {
        let names = |entry: &str, email: &str| {
            entry.parse::<Allowed>().unwrap().names(&email.parse().unwrap())
        };
        assert!(names("@Example.org", "Alice@example.ORG"));
        assert!(names("alice@Example.org", "ALICE@example.org"));
        assert!(!names("@example.org", "alice@sub.example.org"));
        assert!(!names("@example.org", "alice@notexample.org"));
        assert!(!names("@example.org", "alice@example.org.evil.com"));
        assert!(!names("alice@example.org", "bob@example.org"));
        assert!(!names("alice@example.org", "alice+x@example.org"));
        for bad in ["", "@", "alice", "example.org", "@a@b.org", "@*.org", "@org", "a b@c.org"] {
            assert!(bad.parse::<Allowed>().is_err(), "{bad}");
        }
    }
}
