//! Texts that strangers supply: claims, and every name of an agent or a service. Each edge here
//! is a way to be taken for somebody else.
use agentkeys::core::claim::{Claim, PlainPath, PlainWord, Reason};
use agentkeys::core::identity::{AgentIdentity, Alias, Email, Ens, ServiceName};
use unicode_normalization::is_nfc;

use crate::vectors::{list, load};

fn is<T: std::str::FromStr>(text: &str) -> bool {
    text.parse::<T>().is_ok()
}

fn kind(text: &str) -> Option<&'static str> {
    text.parse::<AgentIdentity>().ok().map(|identity| identity.kind())
}

/// Every character there is, against a table derived from Unicode's data by another program.
#[test]
fn no_character_that_hides_or_reorders_is_in_a_claim() {
    let file = load("unshowable.json");
    let ranges: Vec<(u32, u32)> = list(&file["ranges"])
        .iter()
        .map(|range| serde_json::from_value(range.clone()).unwrap())
        .collect();
    let mut refused = 0;
    for c in (0..=0x10FFFF).filter_map(char::from_u32) {
        let banned = ranges.iter().any(|(low, high)| (*low..=*high).contains(&u32::from(c)));
        let text = c.to_string();
        let expected = !banned && is_nfc(&text);
        assert_eq!(is::<Claim>(&text), expected, "U+{:04X} as a claim", u32::from(c));
        // Between other characters, where composition cannot hide it.
        if banned {
            refused += 1;
            assert!(!is::<Claim>(&format!("a{c}b")), "U+{:04X} inside a claim", u32::from(c));
            assert!(!is::<Reason>(&format!("a{c}b")), "U+{:04X} in a reason", u32::from(c));
        }
    }
    // Private use alone has 137,468 of them: the table was really read.
    assert!(refused > 137_000, "{refused}");
}

#[test]
fn claims_are_normalized_by_whoever_sends_them() {
    assert!(is::<Claim>("B\u{fc}ro"));
    assert!(!is::<Claim>("Bu\u{308}ro"));
    assert!(!is::<Claim>("\u{212b}"), "the angstrom sign becomes a letter in NFC");
    assert!(!is::<Claim>("\u{f900}"), "a compatibility ideograph becomes another in NFC");
}

#[test]
fn claims_are_bounded_in_characters() {
    for c in ["x", "\u{e9}", "\u{65e5}", "\u{1F600}"] {
        assert!(is::<Claim>(&c.repeat(64)) && !is::<Claim>(&c.repeat(65)), "{c}");
        assert!(is::<Reason>(&c.repeat(200)) && !is::<Reason>(&c.repeat(201)), "{c}");
    }
    assert!(!is::<Claim>(&"x".repeat(1 << 20)));
}

#[test]
fn what_decides_where_money_goes_is_plain_ascii() {
    for good in ["openrouter.ai", "POST", "USD", "a:8443", "[::1]"] {
        assert!(is::<PlainWord>(good), "{good}");
    }
    for wrong in
        ["", " ", "a b", "a\n", "\u{430}pi.example", "caf\u{e9}", "a\u{200b}", "a\x7f", "\x1b[m"]
    {
        assert!(!is::<PlainWord>(wrong) && !is::<PlainPath>(wrong), "{wrong:?}");
    }
    assert!(is::<PlainWord>(&"x".repeat(64)) && !is::<PlainWord>(&"x".repeat(65)));
    assert!(is::<PlainPath>(&"/".repeat(200)) && !is::<PlainPath>(&"/".repeat(201)));
}

/// One name: the same rule for both, `[a-z0-9][a-z0-9._-]{0,62}` once folded.
#[test]
fn services_and_aliases_keep_to_their_alphabet() {
    for good in ["a", "0", "a.b_c-d", "A", "a.", "a-", "9lives", &"a".repeat(63)] {
        assert!(is::<ServiceName>(good) && is::<Alias>(good), "{good}");
    }
    for wrong in [
        "",
        ".",
        "-a",
        "_a",
        ".a",
        " a",
        "a ",
        "a b",
        "a/b",
        "a:b",
        "a@b",
        "a\0",
        "a\n",
        "..",
        "a\\b",
        "\u{430}gent",
        "agent\u{2011}a",
        "\u{ff41}gent",
        "k\u{212a}",
        "\u{130}",
        "a\u{301}",
        "a\u{200d}b",
        &"a".repeat(64),
    ] {
        assert!(!is::<ServiceName>(wrong) && !is::<Alias>(wrong), "{wrong:?}");
    }
}

#[test]
fn case_is_folded_and_the_form_first_written_is_shown() {
    let (upper, lower): (Alias, Alias) = ("Agent-A".parse().unwrap(), "agent-a".parse().unwrap());
    assert_eq!(upper, lower);
    assert_eq!(upper.to_string(), "Agent-A");
    assert_eq!(upper.folded(), "agent-a");
    let hashed = |alias: &Alias| {
        use std::hash::{BuildHasher, RandomState};
        static STATE: std::sync::OnceLock<RandomState> = std::sync::OnceLock::new();
        STATE.get_or_init(RandomState::new).hash_one(alias)
    };
    assert_eq!(hashed(&upper), hashed(&lower), "equal aliases hash alike");
    assert_eq!("OpenRouter".parse::<ServiceName>().unwrap().as_str(), "openrouter");
    for (a, b) in [
        ("Agent-A", "agent-a"),
        ("Bot@Example.COM", "bot@example.com"),
        ("My-Bot.ETH", "my-bot.eth"),
        (
            "0xABCDEF0123456789ABCDEF0123456789ABCDEF01",
            "0xabcdef0123456789abcdef0123456789abcdef01",
        ),
    ] {
        let (a, b): (AgentIdentity, AgentIdentity) = (a.parse().unwrap(), b.parse().unwrap());
        assert_eq!(a, b);
        assert_eq!(a.canonical(), b.canonical());
    }
}

/// An alias may not look like a wallet address, whole, shortened, or with look-alike letters.
#[test]
fn no_alias_looks_like_a_wallet_address() {
    let digits = "265422306a6415a0c9e82cc9f57eaa859d4a60a5";
    for wrong in [
        format!("0x{digits}"),
        format!("0X{digits}"),
        format!("0x{}", digits.to_uppercase()),
        digits.to_owned(),
        digits.to_uppercase(),
        format!("0x{}", digits.replace('0', "o")),
        format!("Ox{digits}"),
        format!("0x{}", digits.replace('1', "l")),
        format!("0x{}", digits.replace('1', "I")),
        format!("0x{}", &digits[..39]),
        format!("0x{digits}a"),
        "0x2654".to_owned(),
        "0x2654..60a5".to_owned(),
        "0x".to_owned(),
    ] {
        assert!(!is::<Alias>(&wrong), "{wrong}");
    }
    for good in ["oxford-bot", "0xbot", "0x-agent", "deadbeef", "bot-0x2654", &digits[..39]] {
        assert!(is::<Alias>(good), "{good}");
    }
}

#[test]
fn no_alias_looks_like_an_ens_name() {
    for wrong in ["bot.eth", "bot.ETH", "bot.eth.", "bot.eth...", "a.b.eth"] {
        assert!(!is::<Alias>(wrong), "{wrong}");
    }
    for good in ["bot.ethereum", "both", "bot.et", "eth"] {
        assert!(is::<Alias>(good), "{good}");
    }
}

#[test]
fn email_addresses_are_plain() {
    for good in ["a@b.c", "bot+1@example.co.uk", "o'neil@x-y.example", "a.b@c.d", "0x1@b.c"] {
        assert!(is::<Email>(good), "{good}");
        assert_eq!(kind(good), Some("email"), "{good}");
    }
    let long = format!("{}@b.c", "a".repeat(64));
    assert!(is::<Email>(&long) && !is::<Email>(&format!("a{long}")));
    let domain = ["a".repeat(63), "b".repeat(63), "c".repeat(61)].join(".");
    assert!(is::<Email>(&format!("{}@{domain}", "x".repeat(64))), "254 in all");
    assert!(!is::<Email>(&format!("{}@{domain}c", "x".repeat(64))), "255 in all");
    for wrong in [
        "@",
        "a@",
        "@b.c",
        "a@b",
        "a@b.",
        "a@.b.c",
        "a@b..c",
        "a@@b.c",
        "a@b@c.d",
        "a b@c.d",
        "a@b c.d",
        ".a@b.c",
        "a.@b.c",
        "a..b@c.d",
        "\"a\"@b.c",
        "<a@b.c>",
        "a@b.c,d@e.f",
        "a@-b.c",
        "a@b-.c",
        "a@[127.0.0.1]",
        "\u{430}@b.c",
        "a@\u{431}.c",
        "a@b.c\n",
        "a@b.c ",
        "a@b_c.d",
        &format!("a@{}.c", "b".repeat(64)),
    ] {
        assert!(!is::<Email>(wrong), "{wrong:?}");
        assert_eq!(kind(wrong), None, "{wrong:?}");
    }
}

#[test]
fn ens_names_are_plain() {
    for good in ["a.eth", "my-bot.eth", "a.b.c.eth", &format!("{}.eth", "a".repeat(63))] {
        assert!(is::<Ens>(good), "{good}");
        assert_eq!(kind(good), Some("ens"), "{good}");
    }
    for wrong in [
        "",
        ".eth",
        "eth",
        "a..eth",
        ".a.eth",
        "-a.eth",
        "a-.eth",
        "a_b.eth",
        "a b.eth",
        "a.eth ",
        "vit\u{430}lik.eth",
        "a\u{200d}.eth",
        &format!("{}.eth", "a".repeat(64)),
        &format!("{}eth", "a.".repeat(127)),
    ] {
        assert!(!is::<Ens>(wrong), "{wrong:?}");
    }
    assert_eq!(kind("a.eth."), None, "neither an ENS name nor an alias");
}

/// The text alone tells the kinds apart, also where it has the length of a wallet address.
#[test]
fn every_identity_is_of_one_kind() {
    assert_eq!(kind("0x265422306a6415a0c9e82cc9f57eaa859d4a60a5"), Some("wallet"));
    assert_eq!(kind("0X265422306a6415a0c9e82cc9f57eaa859d4a60a5"), None);
    assert_eq!(kind("265422306a6415a0c9e82cc9f57eaa859d4a60a5"), None);
    assert_eq!(kind("0x265422306a6415a0c9e82cc9f57eaa859d4a60ag"), None, "mistyped");
    let email = format!("0x{}@example.com", "a".repeat(28));
    let ens = format!("0x{}.eth", "a".repeat(36));
    assert_eq!((email.len(), ens.len()), (42, 42));
    assert_eq!(kind(&email), Some("email"));
    assert_eq!(kind(&ens), Some("ens"));
    assert_eq!(kind("my-bot"), Some("alias"));
    assert_eq!(kind(""), None);
    // The index keeps kinds apart by their names, which no alias can forge.
    assert_eq!("Bot".parse::<AgentIdentity>().unwrap().canonical(), "alias:bot");
    assert_eq!(kind("email:a"), None);
}

/// An error may reach a log, and what was typed may be a secret in the wrong place.
#[test]
fn errors_never_repeat_the_text() {
    let secret = "sk-or-v1 secret";
    let errors = [
        secret.parse::<AgentIdentity>().unwrap_err().to_string(),
        secret.parse::<ServiceName>().unwrap_err().to_string(),
        format!("{secret}@").parse::<AgentIdentity>().unwrap_err().to_string(),
        format!("{secret}.eth").parse::<AgentIdentity>().unwrap_err().to_string(),
        format!("{secret}\n").parse::<Claim>().unwrap_err().to_string(),
        secret.parse::<PlainWord>().unwrap_err().to_string(),
    ];
    for error in errors {
        assert!(!error.contains("sk-or"), "{error}");
    }
}
