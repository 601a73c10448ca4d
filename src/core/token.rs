//! Bearer tokens: 256 random bits behind a prefix that secret scanners can match
//! (`agk[mcorp]_[0-9a-f]{72}`), and a checksum that tells a mistyped one from a wrong one.
use ring::digest::{SHA256, digest};
use zeroize::Zeroizing;

use super::types::{Hash32, Malformed, SessionId, from_hex, to_hex};

/// Length of every prefix.
const PREFIX: usize = 5;

fn render(prefix: &str, random: &[u8; 32]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(prefix.len() + 72));
    text.push_str(prefix);
    text.push_str(&Zeroizing::new(to_hex(random)));
    let checksum = digest(&SHA256, text.as_bytes());
    text.push_str(&to_hex(&checksum.as_ref()[..4]));
    text
}

fn check(prefix: &str, text: &str) -> bool {
    let Some(body) = text.strip_prefix(prefix) else { return false };
    let Some((random, _)) = body.split_at_checked(64) else { return false };
    let Some(random) = from_hex::<32>(random).map(Zeroizing::new) else { return false };
    *render(prefix, &random) == text
}

/// Declares one kind of bearer token.
macro_rules! token {
    ($(#[$doc:meta])* $name:ident, $word:literal, [$($prefix:literal),+]) => {
        $(#[$doc])*
        pub struct $name(Zeroizing<String>);

        impl $name {
            /// Reads a token that was shown once; refuses another kind's prefix or a wrong checksum.
            pub fn parse(text: &str) -> Result<Self, Malformed> {
                if [$($prefix),+].iter().any(|prefix| check(prefix, text)) {
                    Ok(Self(Zeroizing::new(text.to_owned())))
                } else {
                    Err(Malformed::new($word, "is not one of ours, or was cut short"))
                }
            }

            /// The one way out: into an `Authorization` header, an answer, or a sealed store.
            pub fn expose(&self) -> &str {
                &self.0
            }

            /// The random bits that it is made of, for keeping it where text has no place.
            pub fn random(&self) -> Zeroizing<[u8; 32]> {
                let body = self.0.get(PREFIX..PREFIX + 64);
                let random = body.and_then(from_hex::<32>);
                Zeroizing::new(random.expect("every token was made of, or read as, 32 bytes"))
            }

            /// What the backend keeps instead of the token.
            pub fn hash(&self) -> Hash32 {
                Hash32::of(self.0.as_bytes())
            }
        }
    };
}

token!(
    /// Proof of who calls: a master's (`agkm_`) or an agent's (`agkc_`).
    SessionToken, "session token", ["agkm_", "agkc_"]
);
token!(
    /// What the child that opened a request proves it with.
    OpenToken, "open token", ["agko_"]
);
token!(
    /// What a daemon polls the rendezvous with.
    RegistrationToken, "registration token", ["agkp_"]
);
token!(
    /// What a daemon gets its next session with; good once.
    RenewalSecret, "renewal secret", ["agkr_"]
);

impl SessionToken {
    /// A master session's token over 256 fresh random bits.
    pub fn master(random: &[u8; 32]) -> Self {
        Self(render("agkm_", random))
    }

    /// A child session's token over 256 fresh random bits.
    pub fn child(random: &[u8; 32]) -> Self {
        Self(render("agkc_", random))
    }

    /// Whether it is an agent's.
    pub fn is_child(&self) -> bool {
        self.0.starts_with("agkc_")
    }

    /// The public name of the session: it cannot be turned back into the token.
    pub fn id(&self) -> SessionId {
        Self::id_of(&self.hash())
    }

    /// The public name of the session whose token has this hash.
    pub fn id_of(hash: &Hash32) -> SessionId {
        let mut id = [0; 16];
        id.copy_from_slice(&hash.0[..16]);
        SessionId(id)
    }
}

impl OpenToken {
    /// Over 256 fresh random bits.
    pub fn new(random: &[u8; 32]) -> Self {
        Self(render("agko_", random))
    }
}

impl RegistrationToken {
    /// Over 256 fresh random bits.
    pub fn new(random: &[u8; 32]) -> Self {
        Self(render("agkp_", random))
    }
}

impl RenewalSecret {
    /// Over 256 fresh random bits.
    pub fn new(random: &[u8; 32]) -> Self {
        Self(render("agkr_", random))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_again_from_its_random_bits() {
        let token = SessionToken::child(&[7; 32]);
        assert_eq!(*token.random(), [7; 32]);
        assert_eq!(SessionToken::child(&token.random()).expose(), token.expose());
        assert!(token.is_child() && !SessionToken::master(&[7; 32]).is_child());
        assert_eq!(*RenewalSecret::new(&[9; 32]).random(), [9; 32]);
    }

    #[test]
    fn a_token_reads_back_and_a_changed_one_does_not() {
        let token = SessionToken::master(&[7; 32]);
        assert_eq!(token.expose().len(), 5 + 72);
        assert!(SessionToken::parse(token.expose()).is_ok());
        for at in 0..token.expose().len() {
            let mut bytes = token.expose().as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            assert!(SessionToken::parse(std::str::from_utf8(&bytes).unwrap()).is_err(), "at {at}");
        }
        assert!(OpenToken::parse(token.expose()).is_err());
        assert!(SessionToken::parse(&token.expose().to_uppercase()).is_err());
        assert!(SessionToken::parse("").is_err());
        assert!(SessionToken::parse("agkm_é").is_err());
    }
}
