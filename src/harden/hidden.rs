//! A value in secret pages, wiped when it is dropped.
//!
//! Must never hand the value out by copy, print it, or leave it in ordinary
//! memory when there is no room.
use super::arena::{SecretMemoryError, Slot, UNIT};
use std::marker::PhantomData;
use std::ptr::NonNull;

/// A type whose whole content lies in its own bytes.
///
/// # Safety
/// The type holds no pointer to memory that it owns: wiping `size_of::<Self>()`
/// bytes wipes the secret. Its alignment is 64 bytes at most. It has nothing
/// to drop.
pub unsafe trait Hideable {}

// SAFETY: plain bytes.
unsafe impl Hideable for [u8; 32] {}
// SAFETY: ring keeps the expanded key and the hash key inline; its one pointer
// is to a static algorithm. The test below holds it to "nothing to drop".
unsafe impl Hideable for ring::aead::LessSafeKey {}
// SAFETY: two inline hash states and pointers to static algorithms; as above.
unsafe impl Hideable for ring::hmac::Key {}
// SAFETY: wraps `ring::hmac::Key`; as above.
unsafe impl Hideable for ring::hkdf::Prk {}
// SAFETY: scalar, prefix and public key inline; as above.
unsafe impl Hideable for ring::signature::Ed25519KeyPair {}

/// A secret in memory that is never swapped, dumped or inherited, and where the
/// kernel has memfd_secret, is not even the kernel's to read.
///
/// No `Debug`, `Clone` or `Deref`:
///
/// ```compile_fail
/// let key = agentkeys::harden::Hidden::new(|| [1u8; 32]).unwrap();
/// println!("{key:?}");
/// ```
///
/// ```compile_fail
/// let key = agentkeys::harden::Hidden::new(|| [1u8; 32]).unwrap();
/// let copy = key.clone();
/// ```
///
/// Nothing that owns memory elsewhere can be hidden:
///
/// ```compile_fail
/// let key = agentkeys::harden::Hidden::new(|| vec![1u8; 32]);
/// ```
pub struct Hidden<T: Hideable> {
    slot: Slot,
    value: PhantomData<T>,
}

impl<T: Hideable> Hidden<T> {
    const FITS: () = assert!(align_of::<T>() <= UNIT && !std::mem::needs_drop::<T>());

    /// Hides what `init` makes.
    ///
    /// The value crosses the stack once; the stack below this call is wiped
    /// afterwards. Prefer [`Hidden::fill`] where the bytes can be written in place.
    ///
    /// # Errors
    /// Any of [`SecretMemoryError`]; `init` has not run then.
    pub fn new(init: impl FnOnce() -> T) -> Result<Self, SecretMemoryError> {
        Self::try_new(|| Ok::<T, SecretMemoryError>(init()))
    }

    /// Hides what `init` makes, unless `init` fails.
    ///
    /// # Errors
    /// Any of [`SecretMemoryError`], and those of `init`.
    pub fn try_new<E>(init: impl FnOnce() -> Result<T, E>) -> Result<Self, E>
    where
        E: From<SecretMemoryError>,
    {
        let () = Self::FITS;
        let hidden = Self { slot: Slot::take(size_of::<T>())?, value: PhantomData };
        let made = write_into(hidden.value().cast::<T>(), init);
        wipe_stack();
        // On failure `hidden` goes here, and its slot with it.
        made.map(|()| hidden)
    }

    /// The secret, for as long as the borrow lasts. Callers say why they need it.
    pub fn expose(&self) -> &T {
        // SAFETY: the slot is large enough and aligned (FITS), `try_new` or
        // `fill` has written a T there, and it is ours until drop.
        unsafe { self.value().as_ref() }
    }

    /// Calls `use_it` with the secret. Callers say why they need it.
    pub fn with<R>(&self, use_it: impl FnOnce(&T) -> R) -> R {
        use_it(self.expose())
    }

    fn value(&self) -> NonNull<T> {
        self.slot.start().cast()
    }
}

impl Hidden<[u8; 32]> {
    /// Hides 32 bytes that `fill` writes in place, over zeros.
    ///
    /// # Errors
    /// Any of [`SecretMemoryError`], and those of `fill`; what it had written is
    /// wiped then.
    pub fn fill<E>(fill: impl FnOnce(&mut [u8; 32]) -> Result<(), E>) -> Result<Self, E>
    where
        E: From<SecretMemoryError>,
    {
        let hidden = Self { slot: Slot::take(32)?, value: PhantomData };
        // SAFETY: the slot's bytes are zeroed, so they are a [u8; 32]; nobody
        // else has this slot, and the borrow ends with the call.
        fill(unsafe { hidden.value().as_mut() })?;
        wipe_stack();
        Ok(hidden)
    }
}

impl<T: Hideable> Drop for Hidden<T> {
    fn drop(&mut self) {
        let start = self.slot.start();
        for offset in 0..self.slot.len() {
            // SAFETY: the slot is `len` bytes long and still ours; a Hideable
            // has nothing to drop, so no destructor reads the value afterwards.
            unsafe { start.add(offset).write_volatile(0) };
        }
        // The slot itself is given back after this, zeroed.
        std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
    }
}

/// Runs `init` in a frame of its own, which lies where [`wipe_stack`] wipes.
#[inline(never)]
fn write_into<T, E>(place: NonNull<T>, init: impl FnOnce() -> Result<T, E>) -> Result<(), E> {
    let value = init()?;
    // SAFETY: the caller's slot is fresh, large enough, aligned, and its alone.
    unsafe { place.write(value) };
    Ok(())
}

/// Overwrites the stack below the caller: what a function that has returned
/// left there. Best effort, since registers and signal frames are out of reach.
#[inline(never)]
fn wipe_stack() {
    let mut below = [std::mem::MaybeUninit::<u64>::uninit(); 1024];
    for word in &mut below {
        // SAFETY: a plain write to a local; volatile, so that it is not left out.
        unsafe { std::ptr::write_volatile(word, std::mem::MaybeUninit::new(0)) };
    }
    std::hint::black_box(&mut below);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(fill: u8) -> Hidden<[u8; 32]> {
        Hidden::new(|| [fill; 32]).unwrap()
    }

    #[test]
    fn a_hidden_value_is_what_was_put_in() {
        let (a, b) = (random(1), random(2));
        assert_eq!(a.expose(), &[1; 32]);
        b.with(|bytes| assert_eq!(bytes, &[2; 32]));
    }

    #[test]
    fn ring_keys_work_from_where_they_are_hidden() {
        use ring::{aead, digest, hkdf, hmac};
        let key = Hidden::new(|| {
            let key = aead::UnboundKey::new(&aead::AES_256_GCM, &[7; 32]).unwrap();
            aead::LessSafeKey::new(key)
        })
        .unwrap();
        let mut sealed = b"text".to_vec();
        let nonce = || aead::Nonce::assume_unique_for_key([0; 12]);
        key.expose().seal_in_place_append_tag(nonce(), aead::Aad::empty(), &mut sealed).unwrap();
        let opened = key.expose().open_in_place(nonce(), aead::Aad::empty(), &mut sealed).unwrap();
        assert_eq!(opened, b"text");

        let mac = Hidden::new(|| hmac::Key::new(hmac::HMAC_SHA256, &[7; 32])).unwrap();
        let plain = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
        assert_eq!(hmac::sign(mac.expose(), b"m").as_ref(), hmac::sign(&plain, b"m").as_ref());

        let salt = || hkdf::Salt::new(hkdf::HKDF_SHA256, b"salt");
        let prk = Hidden::new(|| salt().extract(&[7; 32])).unwrap();
        let okm = |prk: &hkdf::Prk| {
            let mut out = [0; 32];
            prk.expand(&[b"info"], hkdf::HKDF_SHA256).unwrap().fill(&mut out).unwrap();
            out
        };
        assert_eq!(okm(prk.expose()), okm(&salt().extract(&[7; 32])));
        assert_eq!(digest::SHA256_OUTPUT_LEN, 32);
    }

    #[test]
    fn bytes_are_zero_after_the_drop() {
        let hidden = random(0xa5);
        let start = hidden.slot.start();
        // Holding the arena's only other view of the bytes: the pages stay mapped
        // after the drop, and a slot taken meanwhile would start out zeroed or be
        // written by its owner, never with 0xa5.
        drop(hidden);
        // SAFETY: chunks are never unmapped; a racing write of another test's
        // byte would be another value.
        let byte = unsafe { start.read_volatile() };
        assert_ne!(byte, 0xa5);
    }

    #[test]
    fn a_failed_fill_gives_the_room_back_and_its_error() {
        #[derive(Debug)]
        enum E {
            Memory,
            Ours,
        }
        impl From<SecretMemoryError> for E {
            fn from(_: SecretMemoryError) -> Self {
                Self::Memory
            }
        }
        // More often than there is room for: each failure must give its slot back.
        for _ in 0..70_000 {
            let failed = Hidden::<[u8; 32]>::fill(|bytes| {
                bytes.fill(1);
                Err(E::Ours)
            });
            assert!(matches!(failed, Err(E::Ours)));
        }
    }

    #[test]
    fn many_keys_share_few_pages_and_threads_do_not_mix_them_up() {
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                scope.spawn(move || {
                    let keys: Vec<_> = (0..500).map(|_| random(thread)).collect();
                    assert!(keys.iter().all(|k| k.expose() == &[thread; 32]));
                });
            }
        });
    }
}
