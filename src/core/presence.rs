//! Presence: proof that the master is there in person, and not just a program of theirs.
//!
//! Acts that raise what someone may do are named here, each with everything that it does, so that
//! a proof is for that act and no other. The proof is a signature over the backend's fresh
//! challenge and the act's hash, by a key that is stretched from the passphrase: the backend
//! keeps the public half and shows it to nobody, so guessing needs the backend, which counts.
use std::fmt;

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use super::audit::Head;
use super::backend::Grant;
use super::cbor;
use super::frame::Frame;
use super::identity::{AgentIdentity, ServiceName};
use super::passphrase::{self, Cost, StretchError};
use super::payment::{Amount, Layer};
use super::provision::NewProvider;
use super::scope::Scope;
use super::secret::{Key32, SecretBytes};
use super::terms::{Exposure, TermsChange};
use super::types::{
    Challenge, Hash32, Malformed, PublicKey, RequestId, Salt, Signature, Timestamp,
};

/// How a passphrase is stretched: RFC 9106's second recommended option, fixed, so that no backend
/// can ask for a cheaper one.
const COST: Cost = Cost { memory_kib: 64 * 1024, passes: 3, lanes: 4 };

/// How the master proves to be there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// By a session alone.
    #[default]
    None,
    /// By a passphrase besides.
    Passphrase,
}

impl Level {
    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Passphrase => "passphrase",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A level, with what proofs are checked against from then on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewLevel {
    /// The level.
    pub level: Level,
    /// The passphrase's public key; with level `passphrase`, and no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<PublicKey>,
    /// What it was stretched with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salt: Option<Salt>,
}

impl NewLevel {
    /// No proof.
    pub const fn none() -> Self {
        Self { level: Level::None, public_key: None, salt: None }
    }
}

/// A wish to be rid of a passphrase that was lost.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reset {
    /// When it was said.
    pub asked_at: Timestamp,
    /// By whom, in words.
    pub by: String,
    /// From when on the level may be lowered without the passphrase.
    pub from: Timestamp,
    /// Until when; then the wish is void.
    pub until: Timestamp,
}

/// How it stands with an account's presence.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Presence {
    /// The level in force.
    pub level: Level,
    /// Since when; absent if it was never set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// A reset that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<Reset>,
    /// Wrong passphrases since the last right one.
    pub wrong: u64,
    /// Until when none is looked at, because of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slowed_until: Option<Timestamp>,
    /// Until when reads and runs of the asking terminal need no other proof.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_until: Option<Timestamp>,
}

/// An act that raises what someone may do, with everything that its caller says of it.
#[derive(Clone, Copy)]
pub enum Act<'a> {
    /// Saying yes to an auth request.
    Approve {
        /// Which.
        request: RequestId,
        /// The hash of what was shown.
        seen: Option<Hash32>,
        /// What is given.
        grant: &'a Grant,
    },
    /// Reading one credential.
    Read {
        /// Whose.
        agent: &'a AgentIdentity,
        /// For which service.
        service: &'a ServiceName,
    },
    /// Reading all of an agent's.
    ReadAll {
        /// Whose.
        agent: &'a AgentIdentity,
    },
    /// Making a child session.
    Child {
        /// Whose; absent for a new agent.
        agent: Option<&'a AgentIdentity>,
        /// What it may do.
        scope: &'a Scope,
    },
    /// Setting a wider scope.
    SetScope {
        /// Whose.
        agent: &'a AgentIdentity,
        /// What it may do.
        scope: &'a Scope,
    },
    /// Wider terms of a credential.
    SetTerms {
        /// Whose.
        agent: &'a AgentIdentity,
        /// For which service.
        service: &'a ServiceName,
        /// What is changed.
        change: &'a TermsChange,
    },
    /// How far keys are shown of which nobody said otherwise.
    SetDefault {
        /// How far.
        tier: Exposure,
    },
    /// Giving a revoked agent its right back.
    Reinstate {
        /// Which.
        agent: &'a AgentIdentity,
    },
    /// Linking a name, by which an agent is recovered.
    Link {
        /// Whose.
        agent: &'a AgentIdentity,
        /// The name.
        identity: &'a AgentIdentity,
    },
    /// Setting up how keys of a service are got: agents can then have some made.
    SetProvider {
        /// For which service.
        service: &'a ServiceName,
        /// What.
        provider: &'a NewProvider,
    },
    /// Giving an agent an amount.
    Fund {
        /// Which.
        agent: &'a AgentIdentity,
        /// On which layer.
        layer: Layer,
        /// How much.
        amount: Amount,
    },
    /// Changing the passphrase, or lowering the level.
    SetPresence {
        /// To what.
        new: &'a NewLevel,
    },
    /// Going on with an audit log that ends before what was seen of it, or differs from it.
    AcceptHead {
        /// The head that is given up.
        head: &'a Head,
    },
}

impl Act<'_> {
    /// Its word; part of what is signed.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Approve { .. } => "approve",
            Self::Read { .. } => "read",
            Self::ReadAll { .. } => "read-all",
            Self::Child { .. } => "session-child",
            Self::SetScope { .. } => "set-scope",
            Self::SetTerms { .. } => "set-terms",
            Self::SetDefault { .. } => "set-default",
            Self::Reinstate { .. } => "reinstate",
            Self::Link { .. } => "link",
            Self::SetProvider { .. } => "set-provider",
            Self::Fund { .. } => "fund",
            Self::SetPresence { .. } => "set-presence",
            Self::AcceptHead { .. } => "accept-head",
        }
    }

    /// What it does, for the question to the person.
    pub fn in_words(&self) -> String {
        match self {
            Self::Approve { .. } => "approve this request".to_owned(),
            Self::Read { agent, service } => format!("read {service} of {agent}"),
            Self::ReadAll { agent } => format!("hand out the keys of {agent}"),
            Self::Child { .. } => "make a session for an agent".to_owned(),
            Self::SetScope { agent, .. } => format!("let {agent} do more"),
            Self::SetTerms { agent, service, .. } => {
                format!("let {agent} do more with {service}")
            }
            Self::SetDefault { tier } => format!("have keys shown as far as {tier}"),
            Self::Reinstate { agent } => format!("reinstate {agent}"),
            Self::Link { agent, identity } => format!("link {identity} to {agent}"),
            Self::SetProvider { service, .. } => format!("set up how keys of {service} are got"),
            Self::Fund { agent, .. } => format!("fund {agent}"),
            Self::SetPresence { .. } => "change the presence level".to_owned(),
            Self::AcceptHead { .. } => "go on with another audit log".to_owned(),
        }
    }

    /// SHA-256 over all that it does.
    pub fn hash(&self) -> Hash32 {
        let plain = "it holds nothing that CBOR forbids";
        let text = |identity: &AgentIdentity| identity.canonical().into_bytes();
        let scope_bytes = |scope: &Scope| cbor::to_canonical(scope).expect(plain);
        let frame = Frame::new("AgentKeys-v1-Act").field(self.as_str().as_bytes());
        let frame = match self {
            Self::Approve { request, seen, grant } => frame
                .field(&request.0)
                .optional(seen.as_ref().map(|seen| &seen.0[..]))
                .field(&cbor::to_canonical(grant).expect(plain)),
            Self::Read { agent, service } => {
                frame.field(&text(agent)).field(service.as_str().as_bytes())
            }
            Self::ReadAll { agent } | Self::Reinstate { agent } => frame.field(&text(agent)),
            Self::Child { agent, scope } => {
                frame.optional(agent.map(text).as_deref()).field(&scope_bytes(scope))
            }
            Self::SetScope { agent, scope } => frame.field(&text(agent)).field(&scope_bytes(scope)),
            Self::SetTerms { agent, service, change } => frame
                .field(&text(agent))
                .field(service.as_str().as_bytes())
                .field(&cbor::to_canonical(change).expect(plain)),
            Self::SetDefault { tier } => frame.field(tier.as_str().as_bytes()),
            Self::Link { agent, identity } => frame.field(&text(agent)).field(&text(identity)),
            Self::SetProvider { service, provider } => frame
                .field(service.as_str().as_bytes())
                .field(provider.way.as_str().as_bytes())
                .field(&cbor::to_canonical(&provider.settings).expect(plain))
                .optional(provider.sealed.as_deref()),
            Self::Fund { agent, layer, amount } => frame
                .field(&text(agent))
                .field(layer.as_str().as_bytes())
                .field(&cbor::to_canonical(amount).expect(plain)),
            Self::SetPresence { new } => frame.field(&cbor::to_canonical(new).expect(plain)),
            Self::AcceptHead { head } => frame.field(&cbor::to_canonical(head).expect(plain)),
        };
        Hash32::of(frame.bytes())
    }
}

/// Why a backend wants a proof, beside that there was none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// None came.
    Missing,
    /// Its challenge is over, was used, or is for another act; the passphrase may be right.
    Stale,
    /// The passphrase was another.
    Wrong,
}

/// What a backend wants signed before it does an act.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Demand {
    /// Why.
    pub why: Why,
    /// Good once, for this act of this session, for five minutes.
    pub challenge: Challenge,
    /// What the passphrase is stretched with.
    pub salt: Salt,
}

/// A proof of presence, for one act.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Proof {
    /// The challenge that it answers.
    pub challenge: Challenge,
    /// Ed25519 by the passphrase's key.
    pub signature: Signature,
    /// The terminal session in which the passphrase was typed, as the client names it: what its
    /// next reads may be allowed by, if the backend sees the same one.
    pub terminal: Option<Hash32>,
}

fn signed(challenge: &Challenge, act: &Hash32, terminal: Option<&Hash32>) -> Frame {
    Frame::new("AgentKeys-v1-Presence")
        .field(&challenge.0)
        .field(&act.0)
        .optional(terminal.map(|terminal| &terminal.0[..]))
}

impl Proof {
    /// Whether the key signed this act under this proof's challenge.
    pub fn is_by(&self, key: &PublicKey, act: &Hash32) -> bool {
        let signed = signed(&self.challenge, act, self.terminal.as_ref());
        UnparsedPublicKey::new(&ED25519, key.0).verify(signed.bytes(), &self.signature.0).is_ok()
    }
}

/// As the header of the wire has it: challenge, signature and, where there is one, terminal, in
/// hexadecimal, a full stop between.
impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}.{}", self.challenge, self.signature)?;
        self.terminal.map_or(Ok(()), |terminal| write!(f, ".{terminal}"))
    }
}

impl std::str::FromStr for Proof {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let wrong = Malformed::new(
            "proof of presence",
            "wants CHALLENGE.SIGNATURE or CHALLENGE.SIGNATURE.TERMINAL in hex",
        );
        let parts: Vec<&str> = text.splitn(4, '.').collect();
        let (challenge, signature, terminal) = match parts[..] {
            [challenge, signature] => (challenge, signature, None),
            [challenge, signature, terminal] => (challenge, signature, Some(terminal)),
            _ => return Err(wrong),
        };
        let parsed = || -> Result<Self, Malformed> {
            let terminal = terminal.map(str::parse).transpose()?;
            let (challenge, signature) = (challenge.parse()?, signature.parse()?);
            Ok(Self { challenge, signature, terminal })
        };
        parsed().map_err(|_| wrong)
    }
}

/// The key that a passphrase is stretched to.
pub struct PassphraseKey(Ed25519KeyPair);

impl PassphraseKey {
    /// Stretches a passphrase; takes a good part of a second and 64 MiB.
    ///
    /// # Errors
    /// [`StretchError`].
    pub fn stretch(passphrase: &SecretBytes, salt: &Salt) -> Result<Self, StretchError> {
        let mut seed = zeroize::Zeroizing::new([0; passphrase::KEY]);
        passphrase::stretch(&passphrase::normal(passphrase), &salt.0, COST, &mut seed)?;
        Ok(Self::from_seed(&Key32::new(*seed)))
    }

    fn from_seed(seed: &Key32) -> Self {
        // Exposed to become the key.
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose());
        Self(pair.expect("a seed of 32 bytes is good"))
    }

    /// What the backend keeps.
    pub fn public(&self) -> PublicKey {
        let mut public = PublicKey([0; 32]);
        public.0.copy_from_slice(self.0.public_key().as_ref());
        public
    }

    /// The proof that is demanded for an act.
    pub fn prove(&self, challenge: Challenge, act: &Hash32, terminal: Option<Hash32>) -> Proof {
        let mut signature = Signature([0; 64]);
        let signed = signed(&challenge, act, terminal.as_ref());
        signature.0.copy_from_slice(self.0.sign(signed.bytes()).as_ref());
        Proof { challenge, signature, terminal }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> PassphraseKey {
        PassphraseKey::from_seed(&Key32::new([n; 32]))
    }

    #[test]
    fn a_proof_is_for_one_act_one_challenge_and_one_key() {
        let (bot, other): (AgentIdentity, AgentIdentity) =
            ("bot".parse().unwrap(), "other".parse().unwrap());
        let act = Act::Reinstate { agent: &bot }.hash();
        let proof = key(1).prove(Challenge([7; 40]), &act, None);
        assert!(proof.is_by(&key(1).public(), &act));
        assert!(!proof.is_by(&key(2).public(), &act));
        assert!(!proof.is_by(&key(1).public(), &Act::Reinstate { agent: &other }.hash()));
        assert!(!proof.is_by(&key(1).public(), &Act::ReadAll { agent: &bot }.hash()));
        let moved = Proof { challenge: Challenge([8; 40]), ..proof };
        assert!(!moved.is_by(&key(1).public(), &act));
        let elsewhere = Proof { terminal: Some(Hash32([1; 32])), ..proof };
        assert!(!elsewhere.is_by(&key(1).public(), &act));
        for proof in [proof, elsewhere] {
            assert_eq!(proof.to_string().parse::<Proof>().unwrap(), proof);
        }
        assert!(format!("{elsewhere}.00").parse::<Proof>().is_err());
        assert!("".parse::<Proof>().is_err() && "00.00".parse::<Proof>().is_err());
    }

    #[test]
    fn the_same_passphrase_with_another_salt_is_another_key() {
        let passphrase = SecretBytes::new(b"correct horse".to_vec());
        let of = |salt| PassphraseKey::stretch(&passphrase, &Salt([salt; 16])).unwrap().public();
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }
}
