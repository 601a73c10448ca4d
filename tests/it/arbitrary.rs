//! Random values of the core's types for property tests. They cover absent and present
//! optional fields, empty and full scopes, and texts from all of Unicode.
use std::str::FromStr;

use agentkeys::core::auth_request::{
    Details, HighValueRelease, KeyRotate, Kind, Pair, Recover, ScopeChange,
};
use agentkeys::core::identity::{AgentIdentity, ServiceName};
use agentkeys::core::scope::Scope;
use agentkeys::core::terms::Exposure;
use agentkeys::core::types::{Hash32, WalletAddress};
use quickcheck::{Arbitrary, Gen};
use unicode_normalization::UnicodeNormalization;

/// Every kind.
pub const KINDS: [Kind; 5] =
    [Kind::Pair, Kind::Recover, Kind::ScopeChange, Kind::HighValueRelease, Kind::KeyRotate];

/// Random details of a random kind.
#[derive(Clone, Debug)]
pub struct AnyDetails(pub Details);

/// A random scope over few names, so that two of them often overlap.
#[derive(Clone, Debug)]
pub struct AnyScope(pub Scope);

fn bytes<const N: usize>(g: &mut Gen) -> [u8; N] {
    std::array::from_fn(|_| u8::arbitrary(g))
}

fn maybe<T>(g: &mut Gen, make: impl FnOnce(&mut Gen) -> T) -> Option<T> {
    bool::arbitrary(g).then(|| make(g))
}

/// A text over `symbols` of 1 to `most` characters that `T` takes.
fn over<T: FromStr>(g: &mut Gen, symbols: &[char], most: usize) -> T {
    loop {
        let length = 1 + usize::arbitrary(g) % most;
        let text: String = (0..length).map(|_| *g.choose(symbols).expect("not empty")).collect();
        if let Ok(value) = text.parse() {
            return value;
        }
    }
}

/// A text from all of Unicode that `T` takes; the empty one when luck runs out.
fn claimed<T: FromStr>(g: &mut Gen, most: usize) -> T {
    for _ in 0..8 {
        let text: String = String::arbitrary(g).nfc().take(most).collect();
        if let Ok(value) = text.parse() {
            return value;
        }
    }
    "".parse().ok().expect("an empty claim is a claim")
}

fn plain<T: FromStr>(g: &mut Gen, most: usize) -> T {
    let symbols: Vec<char> = ('!'..='~').collect();
    over(g, &symbols, most)
}

fn name<T: FromStr>(g: &mut Gen) -> T {
    let symbols: Vec<char> = "abcxyzABCXYZ0189._-".chars().collect();
    over(g, &symbols, 63)
}

fn identity(g: &mut Gen) -> AgentIdentity {
    let label = |g: &mut Gen| -> String {
        name::<ServiceName>(g)
            .as_str()
            .bytes()
            .filter(u8::is_ascii_alphanumeric)
            .map(char::from)
            .collect()
    };
    match u8::arbitrary(g) % 4 {
        0 => AgentIdentity::Wallet(WalletAddress(bytes(g))),
        1 => AgentIdentity::Alias(name(g)),
        2 => format!("{}@{}.example", label(g), label(g)).parse().expect("an e-mail address"),
        _ => format!("{}.eth", label(g)).parse().expect("an ENS name"),
    }
}

fn wide_scope(g: &mut Gen) -> Scope {
    let services = maybe(g, |g| {
        let count = if u8::arbitrary(g) % 16 == 0 { 256 } else { usize::arbitrary(g) % 6 };
        (0..count).map(|_| name::<ServiceName>(g)).collect()
    });
    let count = usize::arbitrary(g) % 4;
    let provision = (0..count).map(|_| name::<ServiceName>(g)).collect();
    Scope { services, provision, read_only: bool::arbitrary(g), expose: tier(g) }
}

impl Arbitrary for AnyScope {
    fn arbitrary(g: &mut Gen) -> Self {
        let few = |g: &mut Gen| {
            let kept = u8::arbitrary(g);
            let names = ["a", "b", "c", "d"].iter().enumerate();
            names
                .filter(|(at, _)| kept >> at & 1 == 1)
                .map(|(_, name)| name.parse().expect("a service"))
                .collect()
        };
        let (services, provision) = (maybe(g, few), few(g));
        Self(Scope { services, provision, read_only: bool::arbitrary(g), expose: tier(g) })
    }
}

impl Arbitrary for AnyDetails {
    fn arbitrary(g: &mut Gen) -> Self {
        let agent = WalletAddress(bytes(g));
        Self(match u8::arbitrary(g) % 5 {
            0 => Details::Pair(Pair {
                host: maybe(g, |g| claimed(g, 64)),
                name: maybe(g, name),
                scope: wide_scope(g),
                user: maybe(g, |g| claimed(g, 64)),
            }),
            1 => Details::Recover(Recover {
                agent: identity(g),
                host: maybe(g, |g| claimed(g, 64)),
                user: maybe(g, |g| claimed(g, 64)),
            }),
            2 => Details::ScopeChange(ScopeChange {
                agent,
                reason: maybe(g, |g| claimed(g, 200)),
                scope: wide_scope(g),
            }),
            3 => Details::HighValueRelease(HighValueRelease {
                agent,
                // Every length of the integer's encoding, not only the longest.
                amount: u64::arbitrary(g) >> (u8::arbitrary(g) % 64),
                body: Hash32(bytes(g)),
                currency: plain(g, 64),
                host: plain(g, 64),
                method: plain(g, 64),
                path: plain(g, 200),
                reason: maybe(g, |g| claimed(g, 200)),
                service: name(g),
            }),
            _ => Details::KeyRotate(KeyRotate { agent, old: Hash32(bytes(g)) }),
        })
    }
}

fn tier(g: &mut Gen) -> Option<Exposure> {
    let tiers = [Exposure::Broker, Exposure::Inject];
    bool::arbitrary(g).then(|| *g.choose(&tiers).unwrap())
}
