//! The words of the contract: they survive a round trip, and are read in one form.
use agentkeys::core::backend::{AuditFilter, ClientInfo, Grant, WhoAmI};
use agentkeys::core::cbor;
use agentkeys::core::encoding::{from_base64, to_base64};
use agentkeys::core::identity::AgentIdentity;
use agentkeys::core::problem::{Code, Problem};
use agentkeys::core::scope::Scope;
use agentkeys::core::token::SessionToken;
use agentkeys::core::types::{
    AccountId, ChildKeys, Hash32, KeyId, Nonce, PublicKey, RequestId, SessionId, Timestamp,
    WalletAddress, without_input,
};
use quickcheck::quickcheck;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

/// Through JSON text, canonical CBOR and a row.
fn survives<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T) {
    let text = serde_json::to_string(value).unwrap();
    assert_eq!(&serde_json::from_str::<T>(&text).unwrap(), value, "JSON");
    let bytes = cbor::to_canonical(value).unwrap();
    assert_eq!(&cbor::from_canonical::<T>(&bytes).unwrap(), value, "canonical CBOR");
    let row = cbor::to_row(value).unwrap();
    assert_eq!(&cbor::from_row::<T>(&row).unwrap(), value, "row");
}

/// Session, scope and wallet address survive a round trip.
#[test]
fn session_serialize_roundtrip() {
    for token in [SessionToken::master(&[7; 32]), SessionToken::child(&[8; 32])] {
        let read = SessionToken::parse(token.expose()).expect("our own token");
        assert_eq!(read.expose(), token.expose());
        assert_eq!(read.id(), token.id());
        survives(&token.id());
    }
    let session = WhoAmI {
        session_id: SessionId([1; 16]),
        account: AccountId([2; 16]),
        master_key: PublicKey([3; 32]),
        identity: "unix:1000".into(),
        presence: "none".into(),
        set_back: None,
        presence_reset: None,
        wallet: WalletAddress([0xab; 20]),
        child: true,
        expires_at: Timestamp(1_775_745_127_123),
    };
    survives(&session);
    survives(&session.wallet);
    survives(&session.expires_at);
    for services in [None, Some(vec![]), Some(vec!["a", "b"])] {
        for read_only in [false, true] {
            let services =
                services.as_ref().map(|names| names.iter().map(|n| n.parse().unwrap()).collect());
            survives(&Scope { services: services.clone(), read_only, ..Scope::default() });
            let provision = ["a".parse().unwrap()].into();
            survives(&Scope { services, provision, read_only, ..Scope::default() });
        }
    }
    let wallet = WalletAddress([0xab; 20]);
    assert_eq!(serde_json::to_value(wallet).unwrap(), json!(format!("0x{}", "ab".repeat(20))));
    assert_eq!(wallet.to_string().parse(), Ok(wallet));
}

/// Alias, e-mail, ENS and wallet address build and match.
#[test]
fn agent_identity_variants() {
    let address = "0x265422306a6415a0c9e82cc9f57eaa859d4a60a5";
    for (text, kind, canonical) in [
        ("My-Bot", "alias", "alias:my-bot"),
        ("Bot@Example.com", "email", "email:bot@example.com"),
        ("My-Bot.eth", "ens", "ens:my-bot.eth"),
        (address, "wallet", "wallet:0x265422306a6415a0c9e82cc9f57eaa859d4a60a5"),
    ] {
        let identity: AgentIdentity = text.parse().unwrap();
        assert_eq!(identity.kind(), kind);
        assert_eq!(identity.canonical(), canonical);
        let built = match &identity {
            AgentIdentity::Alias(alias) => AgentIdentity::Alias(alias.shown().parse().unwrap()),
            AgentIdentity::Email(email) => AgentIdentity::Email(email.to_string().parse().unwrap()),
            AgentIdentity::Ens(ens) => AgentIdentity::Ens(ens.to_string().parse().unwrap()),
            AgentIdentity::Wallet(wallet) => AgentIdentity::Wallet(*wallet),
        };
        assert_eq!(built, identity);
        let other_case = match kind {
            "wallet" => format!("0x{}", text[2..].to_uppercase()),
            _ => text.to_uppercase(),
        };
        assert_eq!(other_case.parse(), Ok(identity.clone()), "case is folded");
        assert_ne!("another".parse(), Ok(identity.clone()));
        survives(&identity);
    }
    let alias: AgentIdentity = "My-Bot".parse().unwrap();
    assert_eq!(alias.to_string(), "My-Bot", "the form first written is the one shown");
}

/// A fixed value is read as it is written: with its prefix, in whole, in hexadecimal.
#[test]
fn fixed_values_have_one_shape() {
    let digits = "ab".repeat(20);
    let wallet = |text: &str| serde_json::from_value::<WalletAddress>(json!(text));
    assert!(wallet(&format!("0x{digits}")).is_ok());
    assert_eq!(wallet(&format!("0x{}", digits.to_uppercase())).unwrap(), WalletAddress([0xab; 20]));
    for wrong in [
        digits.clone(),
        format!("0X{digits}"),
        format!("0x0x{digits}"),
        format!("0x{digits}0"),
        format!("0x{}", &digits[1..]),
        format!(" 0x{digits}"),
        format!("0x{}g", &digits[1..]),
        format!("0x{}\u{e9}", &digits[2..]),
        String::new(),
    ] {
        assert!(wallet(&wrong).is_err() && wrong.parse::<WalletAddress>().is_err(), "{wrong}");
    }
    let hash = |text: &str| serde_json::from_value::<Hash32>(json!(text));
    assert!(hash(&"0f".repeat(32)).is_ok());
    assert!(hash(&format!("0x{}", "0f".repeat(32))).is_err());
    assert!(hash(&"0f".repeat(31)).is_err());
    assert!(serde_json::from_value::<Hash32>(json!(vec![0; 32])).is_err());
    assert!(serde_json::from_value::<Hash32>(json!(null)).is_err());
    assert!(serde_json::from_value::<RequestId>(json!(7)).is_err());
}

#[test]
fn keys_are_joined_in_the_signed_order() {
    let keys = ChildKeys::new(PublicKey([1; 32]), PublicKey([2; 32]));
    assert_eq!(keys.0[..32], [1; 32]);
    assert_eq!(keys.x25519(), PublicKey([2; 32]));
    assert_eq!(keys.fingerprint(), Hash32::of(&keys.0));
    let id = KeyId::of(&PublicKey([2; 32]));
    assert_eq!(id.0, Hash32::of(&[2; 32]).0[..8]);
}

#[test]
fn times_are_shown_and_read_in_rfc_3339() {
    let time = Timestamp(1_775_745_127_089);
    assert_eq!(time.to_string(), "2026-04-09T14:32:07.089Z");
    assert_eq!(time.for_people(), "2026-04-09 14:32:07 UTC");
    assert_eq!("2026-04-09T16:32:07.089+02:00".parse(), Ok(time));
    for wrong in [
        "",
        "2026-04-09",
        "2026-04-09T14:32:07",
        "1969-12-31T23:59:59Z",
        "2026-13-09T14:32:07Z",
        "1775745127089",
        "now",
        "2026-04-09T25:00:00Z",
    ] {
        assert!(wrong.parse::<Timestamp>().is_err(), "{wrong}");
    }
    assert!(serde_json::from_value::<Timestamp>(json!(0)).is_err());
    assert_eq!(Timestamp(5).plus_ms(u64::MAX), Timestamp(u64::MAX));
    assert_eq!(Timestamp(5).since_ms(Timestamp(9)), 0);
}

/// The end of time must not be shown as its beginning: a session would seem to have ended.
#[test]
fn times_beyond_the_calendar_are_shown_as_its_end() {
    let last = "9999-12-31T23:59:59.999Z";
    for far in [253_402_300_799_999, 253_402_300_800_000, u64::MAX / 2, u64::MAX] {
        assert_eq!(Timestamp(far).to_string(), last, "{far}");
        assert_eq!(Timestamp(far).for_people(), "9999-12-31 23:59:59 UTC", "{far}");
    }
    survives(&Timestamp(253_402_300_799_999));
}

#[test]
fn bodies_are_read_strictly() {
    fn refuses<T: DeserializeOwned>(values: &[serde_json::Value]) {
        for value in values {
            assert!(serde_json::from_value::<T>(value.clone()).is_err(), "{value}");
        }
    }
    refuses::<ClientInfo>(&[json!({ "hots": "x" }), json!({ "host": 1 }), json!({ "host": "\n" })]);
    refuses::<Grant>(&[
        json!({ "agent": "x" }),
        json!({ "scope": { "services": null } }),
        json!({ "name": "0x2654" }),
    ]);
    refuses::<AuditFilter>(&[
        json!({ "limit": -1 }),
        json!({ "limit": "5" }),
        json!({ "since": 5 }),
        json!({ "action": "READ" }),
        json!({ "service": "" }),
        json!({ "page": 1 }),
    ]);
}

#[test]
fn base64_has_one_form() {
    for bytes in [&b""[..], b"f", b"fo", b"foo", &[0xff; 50]] {
        assert_eq!(from_base64("x", &to_base64(bytes)).unwrap(), bytes);
    }
    for wrong in ["Zg", "Zg=", "Zh==", "Zg==\n", " Zg==", "Z-8=", "Z_8=", "====", "Zg==Zg=="] {
        let problem = from_base64("ciphertext", wrong).unwrap_err();
        assert_eq!(problem.code, Code::Invalid, "{wrong}");
        assert!(!problem.cause.contains("Z"), "{}", problem.cause);
    }
}

#[test]
fn each_code_has_its_status_and_name() {
    let expected = [
        ("UNAUTHORIZED", 401),
        ("DENIED", 403),
        ("NOT_FOUND", 404),
        ("AGENT_NOT_FOUND", 404),
        ("NO_MATCH", 404),
        ("ALREADY_CONSUMED", 409),
        ("ALREADY_DELIVERED", 409),
        ("EXPIRED", 410),
        ("TOO_LARGE", 413),
        ("INVALID", 422),
        ("RATE_LIMITED", 429),
        ("INTERNAL", 500),
        ("UNAVAILABLE", 503),
        ("PROVISION_FAILED", 502),
    ];
    assert_eq!(expected.len(), Code::ALL.len());
    for (code, (name, status)) in Code::ALL.into_iter().zip(expected) {
        let problem = serde_json::to_value(Problem::new(code, "d", "c", "f")).unwrap();
        assert_eq!(problem["code"], name);
        assert_eq!(problem["status"], status);
        for member in ["type", "title", "detail", "cause", "fix"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member}");
        }
        assert_eq!(serde_json::from_value::<Problem>(problem).unwrap().code, code);
    }
    let late = Problem::new(Code::RateLimited, "d", "c", "f").retry_after(7);
    assert_eq!(serde_json::to_value(&late).unwrap()["retry_after"], 7);
}

#[test]
fn error_texts_keep_what_is_ours_and_drop_what_was_sent() {
    for (error, kept) in [
        (r#"invalid type: string "sk-1", expected u64"#, "invalid type, expected u64"),
        (
            r#"invalid type: string "a, expected sk-1", expected a map"#,
            "invalid type, expected a map",
        ),
        ("unknown field `sk-1`, expected `a` or `b`", "unknown field, expected `a` or `b`"),
        ("unknown field `sk-1`, there are no fields", "unknown field"),
        (
            "unknown variant `sk-1`, expected one of `a`, `b`",
            "unknown variant, expected one of `a`, `b`",
        ),
        ("invalid length 3, expected sk-less", "invalid length, expected sk-less"),
        ("missing field `scope`", "missing field `scope`"),
    ] {
        assert_eq!(without_input(error), kept);
    }
}

quickcheck! {
    fn fixed_values_read_back(seed: Vec<u8>) -> bool {
        let nonce = Nonce(Hash32::of(&seed).0);
        survives(&nonce);
        nonce.to_string().parse() == Ok(nonce)
    }

    fn times_read_back(millis: u64) -> bool {
        let time = Timestamp(millis % 253_402_300_800_000);
        survives(&time);
        time.to_string().parse() == Ok(time)
    }

    fn order_of_times_is_order_of_their_texts(a: u64, b: u64) -> bool {
        let (a, b) = (Timestamp(a % 253_402_300_800_000), Timestamp(b % 253_402_300_800_000));
        a.cmp(&b) == a.to_string().cmp(&b.to_string())
    }
}
