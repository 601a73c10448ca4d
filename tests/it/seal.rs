//! Sealing: agrees with another implementation of RFC 9180, and opens for nothing but what it
//! was sealed for.
use agentkeys::core::seal::{self, OVERHEAD, Purpose, SealError};
use agentkeys::core::secret::Key32;
use agentkeys::core::types::{AccountId, KeyId, PublicKey, RequestId, WalletAddress, to_hex};
use quickcheck::quickcheck;
use serde_json::Value;

use crate::vectors::{hex, key32, list, load, parse, text};

const ACCOUNT: AccountId = AccountId([1; 16]);
const AGENT: WalletAddress = WalletAddress([2; 20]);
const REQUEST: RequestId = RequestId([3; 16]);

fn credential() -> Purpose {
    Purpose::credential(ACCOUNT, AGENT, &"openrouter".parse().unwrap())
}

fn keys() -> (Key32, PublicKey) {
    seal::key_pair(&Key32::new([4; 32]))
}

fn sealed(purpose: &Purpose, plaintext: &[u8]) -> Vec<u8> {
    seal::seal(&keys().1, purpose, plaintext, &Key32::new([5; 32])).unwrap()
}

fn opened(purpose: &Purpose, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    seal::open(&keys().0, purpose, sealed).map(|plaintext| plaintext.expose().to_vec())
}

fn purpose_of(case: &Value) -> Purpose {
    if let Some(credential) = case.get("credential") {
        Purpose::credential(
            parse(&credential["account"]),
            parse(&credential["agent"]),
            &parse(&credential["service"]),
        )
    } else {
        Purpose::payload(parse(&case["payload"]["request"]))
    }
}

/// What pyhpke sealed opens here, and the same random bytes give the same sealed bytes.
#[test]
fn another_implementation_seals_the_same_bytes() {
    for case in list(&load("seal_vectors.json")) {
        let (secret, public) = seal::key_pair(&key32(&case["random"]));
        assert_eq!(to_hex(secret.expose()), text(&case["secret"]));
        assert_eq!(public, parse(&case["public_key"]));
        assert_eq!(seal::public_key(&secret).unwrap(), public);
        let (bytes, purpose) = (hex(&case["sealed"]), purpose_of(case));
        let plaintext = seal::open(&secret, &purpose, &bytes).unwrap();
        assert_eq!(plaintext.expose(), hex(&case["plaintext"]));
        let random = key32(&case["ephemeral_random"]);
        let ours = seal::seal(&public, &purpose, plaintext.expose(), &random).unwrap();
        assert_eq!(to_hex(&ours), to_hex(&bytes));
    }
}

#[test]
fn the_header_is_version_key_id_and_encapsulated_key() {
    let bytes = sealed(&credential(), b"secret");
    assert_eq!(bytes.len(), 6 + OVERHEAD);
    assert_eq!(bytes[0], 1);
    assert_eq!(bytes[1..9], KeyId::of(&keys().1).0);
    assert_eq!(bytes[9..41], seal::key_pair(&Key32::new([5; 32])).1.0);
}

#[test]
fn no_bit_can_be_flipped() {
    for (purpose, plaintext) in
        [(credential(), &b"sk-or-v1-test"[..]), (Purpose::payload(REQUEST), b"")]
    {
        let bytes = sealed(&purpose, plaintext);
        assert_eq!(opened(&purpose, &bytes).unwrap(), plaintext);
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(opened(&purpose, &changed).is_err(), "bit {bit}");
        }
    }
}

#[test]
fn nothing_can_be_cut_off_or_added() {
    let bytes = sealed(&credential(), b"secret");
    for end in 0..bytes.len() {
        assert!(opened(&credential(), &bytes[..end]).is_err(), "cut at {end}");
    }
    assert!(opened(&credential(), &[&bytes[..], &[0]].concat()).is_err());
    assert_eq!(opened(&credential(), &[]), Err(SealError::Format));
    assert_eq!(opened(&credential(), &[1; 56]), Err(SealError::Format));
    assert_eq!(opened(&credential(), &[2; 100]), Err(SealError::Format));
}

/// Sealed for one account, agent, service or request, it opens for no other.
#[test]
fn each_part_of_the_purpose_is_bound() {
    let service = |name: &str| name.parse().unwrap();
    let bytes = sealed(&credential(), b"secret");
    assert!(opened(&credential(), &bytes).is_ok());
    for other in [
        Purpose::credential(AccountId([9; 16]), AGENT, &service("openrouter")),
        Purpose::credential(ACCOUNT, WalletAddress([9; 20]), &service("openrouter")),
        Purpose::credential(ACCOUNT, AGENT, &service("openroute")),
        Purpose::credential(ACCOUNT, AGENT, &service("openrouterr")),
        Purpose::payload(REQUEST),
    ] {
        assert_eq!(opened(&other, &bytes), Err(SealError::Unauthentic));
    }
    let bytes = sealed(&Purpose::payload(REQUEST), b"secret");
    assert!(opened(&Purpose::payload(REQUEST), &bytes).is_ok());
    for other in [Purpose::payload(RequestId([9; 16])), credential()] {
        assert_eq!(opened(&other, &bytes), Err(SealError::Unauthentic));
    }
}

#[test]
fn another_key_opens_nothing() {
    let bytes = sealed(&credential(), b"secret");
    let (other, public) = seal::key_pair(&Key32::new([6; 32]));
    let by_other = |bytes: &[u8]| seal::open(&other, &credential(), bytes).map(|_| ());
    assert_eq!(by_other(&bytes), Err(SealError::OtherKey));
    // Also when the key id is made to fit.
    let mut renamed = bytes;
    renamed[1..9].copy_from_slice(&KeyId::of(&public).0);
    assert_eq!(by_other(&renamed), Err(SealError::Unauthentic));
}

/// Points of low order would make the shared secret known to everyone.
#[test]
fn public_keys_of_low_order_are_refused() {
    let mut one = [0; 32];
    one[0] = 1;
    let mut minus_one = [0xff; 32];
    (minus_one[0], minus_one[31]) = (0xec, 0x7f);
    for low in [[0; 32], one, minus_one] {
        let result = seal::seal(&PublicKey(low), &credential(), b"x", &Key32::new([5; 32]));
        assert_eq!(result, Err(SealError::Key));
        // The same as an encapsulated key.
        let mut bytes = sealed(&credential(), b"x");
        bytes[9..41].copy_from_slice(&low);
        assert!(opened(&credential(), &bytes).is_err());
    }
}

#[test]
fn other_random_bytes_give_other_sealed_bytes() {
    let by = |random: [u8; 32]| {
        seal::seal(&keys().1, &credential(), b"secret", &Key32::new(random)).unwrap()
    };
    assert_ne!(by([5; 32])[9..], by([6; 32])[9..]);
}

quickcheck! {
    fn what_was_sealed_opens(plaintext: Vec<u8>, random: Vec<u8>) -> bool {
        let random = Key32::new(agentkeys::core::types::Hash32::of(&random).0);
        let bytes = seal::seal(&keys().1, &credential(), &plaintext, &random).unwrap();
        bytes.len() == plaintext.len() + OVERHEAD && opened(&credential(), &bytes) == Ok(plaintext)
    }

    fn random_bytes_do_not_open(bytes: Vec<u8>) -> bool {
        let posing = [&[1][..], &KeyId::of(&keys().1).0, &bytes].concat();
        opened(&credential(), &bytes).is_err() && opened(&credential(), &posing).is_err()
    }
}
