//! Sealed bytes: nothing opens but what was sealed, unchanged.
#![no_main]
use std::sync::LazyLock;

use agentkeys::core::seal::{self, Purpose};
use agentkeys::core::secret::Key32;
use agentkeys::core::types::{KeyId, PublicKey, RequestId};
use libfuzzer_sys::fuzz_target;

static KEYS: LazyLock<(Key32, PublicKey)> = LazyLock::new(|| seal::key_pair(&Key32::new([1; 32])));
static HONEST: LazyLock<Vec<u8>> = LazyLock::new(|| {
    seal::seal(&KEYS.1, &purpose(), b"secret", &Key32::new([2; 32])).expect("a good key")
});

fn purpose() -> Purpose {
    Purpose::payload(RequestId([3; 16]))
}

fuzz_target!(|bytes: &[u8]| {
    let opens = |sealed: &[u8]| seal::open(&KEYS.0, &purpose(), sealed).is_ok();
    // libFuzzer learns the honest bytes from the comparisons below, and then sends them.
    assert_eq!(opens(bytes), bytes == *HONEST);
    // Past the header, so that the cryptography is reached.
    let posing = [&[1][..], &KeyId::of(&KEYS.1).0, bytes].concat();
    assert_eq!(opens(&posing), posing == *HONEST);
    // Honest bytes with the input laid over them.
    let mut changed = HONEST.clone();
    for (byte, by) in changed.iter_mut().zip(bytes) {
        *byte ^= by;
    }
    assert_eq!(opens(&changed), changed == *HONEST);
    if let Ok(key) = <[u8; 32]>::try_from(bytes) {
        let _ = seal::seal(&PublicKey(key), &purpose(), b"x", &Key32::new([4; 32]));
    }
});
