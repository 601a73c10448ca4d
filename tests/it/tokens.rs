//! Tokens: their form, their kinds, and that none of them, and no other secret, can be printed.
use std::fmt::{Debug, Display};

use agentkeys::core::decision::Payload;
use agentkeys::core::secret::{Key32, SecretBytes};
use agentkeys::core::token::{OpenToken, RegistrationToken, RenewalSecret, SessionToken};
use agentkeys::core::types::{Hash32, to_hex};
use quickcheck::quickcheck;
use serde::Serialize;
use serde_json::Value;

use crate::vectors::{hex, list, load, parse, text};

/// Fails to compile when the type implements the trait: the method is then found twice.
macro_rules! never {
    ($type:ty: $($trait:path),+) => {$(
        const _: fn() = || {
            trait Found<A> { fn it() {} }
            impl<T: ?Sized> Found<()> for T {}
            struct Implemented;
            impl<T: ?Sized + $trait> Found<Implemented> for T {}
            let _ = <$type as Found<_>>::it;
        };
    )+};
}

never!(SessionToken: Debug, Display, Clone, Serialize);
never!(OpenToken: Debug, Display, Clone, Serialize);
never!(RegistrationToken: Debug, Display, Clone, Serialize);
never!(RenewalSecret: Debug, Display, Clone, Serialize);
never!(SecretBytes: Debug, Display, Clone, Serialize);
never!(Key32: Debug, Display, Clone, Serialize);
never!(Payload: Debug, Display, Clone);

fn vector(prefix: &str) -> (Value, [u8; 32]) {
    let file = load("token_vectors.json");
    let row = list(&file).iter().find(|row| row["prefix"] == prefix).expect(prefix).clone();
    let random = hex(&row["random"]).try_into().unwrap();
    (row, random)
}

#[test]
fn every_kind_has_the_form_of_the_specification() {
    let check = |prefix: &str, made: &dyn Fn(&[u8; 32]) -> (String, Hash32)| {
        let (row, random) = vector(prefix);
        let (token, hash) = made(&random);
        assert_eq!(token, text(&row["token"]), "{prefix}");
        assert_eq!(hash, parse(&row["hash"]), "{prefix}");
        assert_eq!(token.len(), 77, "{prefix}");
    };
    check("agkm_", &|r| {
        (SessionToken::master(r).expose().to_owned(), SessionToken::master(r).hash())
    });
    check("agkc_", &|r| {
        (SessionToken::child(r).expose().to_owned(), SessionToken::child(r).hash())
    });
    check("agko_", &|r| (OpenToken::new(r).expose().to_owned(), OpenToken::new(r).hash()));
    check("agkp_", &|r| {
        (RegistrationToken::new(r).expose().to_owned(), RegistrationToken::new(r).hash())
    });
    check("agkr_", &|r| (RenewalSecret::new(r).expose().to_owned(), RenewalSecret::new(r).hash()));
}

#[test]
fn a_session_s_name_is_half_its_hash() {
    let (row, random) = vector("agkm_");
    let id = SessionToken::master(&random).id().to_string();
    assert_eq!(id, text(&row["hash"])[..32]);
}

#[test]
fn no_kind_passes_for_another() {
    let random = [7; 32];
    let texts = [
        ("session", SessionToken::master(&random).expose().to_owned()),
        ("session", SessionToken::child(&random).expose().to_owned()),
        ("open", OpenToken::new(&random).expose().to_owned()),
        ("registration", RegistrationToken::new(&random).expose().to_owned()),
        ("renewal", RenewalSecret::new(&random).expose().to_owned()),
    ];
    for (kind, token) in &texts {
        assert_eq!(SessionToken::parse(token).is_ok(), *kind == "session");
        assert_eq!(OpenToken::parse(token).is_ok(), *kind == "open");
        assert_eq!(RegistrationToken::parse(token).is_ok(), *kind == "registration");
        assert_eq!(RenewalSecret::parse(token).is_ok(), *kind == "renewal");
        // Another kind's prefix before the same digits: the checksum covers the prefix.
        for (_, other) in texts.iter().filter(|(_, other)| other != token) {
            let swapped = format!("{}{}", &other[..5], &token[5..]);
            assert!(SessionToken::parse(&swapped).is_err());
            assert!(OpenToken::parse(&swapped).is_err());
        }
    }
}

#[test]
fn one_form_only() {
    let token = SessionToken::master(&[0xab; 32]).expose().to_owned();
    assert!(SessionToken::parse(&token).is_ok());
    for wrong in [
        token.to_uppercase(),
        format!("AGKM_{}", &token[5..]),
        format!("agkm_{}", token[5..].to_uppercase()),
        format!(" {token}"),
        format!("{token} "),
        format!("{token}\n"),
        format!("{token}0"),
        format!("Bearer {token}"),
        token[..76].to_owned(),
        token[..69].to_owned(),
        token[5..].to_owned(),
        token.repeat(2),
        format!("agkm_{}", "\u{e9}".repeat(36)),
        format!("agkm_{}\u{e9}", "a".repeat(63)),
        "agkm_".to_owned(),
    ] {
        assert!(SessionToken::parse(&wrong).is_err(), "{wrong}");
    }
}

#[test]
fn errors_never_repeat_the_token() {
    let token = SessionToken::master(&[0xab; 32]).expose().to_owned();
    let error = match OpenToken::parse(&token) {
        Err(error) => format!("{error} {error:?}"),
        Ok(_) => panic!("a session token is no open token"),
    };
    assert!(!error.contains("abab") && !error.contains("agkm"), "{error}");
}

quickcheck! {
    fn tokens_read_back(seed: Vec<u8>) -> bool {
        let random = Hash32::of(&seed).0;
        let token = SessionToken::child(&random);
        let read = SessionToken::parse(token.expose()).expect("our own");
        read.id() == token.id() && token.expose().contains(&to_hex(&random))
    }

    fn other_texts_are_no_tokens(text: String) -> bool {
        SessionToken::parse(&text).is_err() && SessionToken::parse(&format!("agkm_{text}")).is_err()
    }
}
