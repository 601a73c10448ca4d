//! What calls that have returned left on the stack: wiped while the thread has nothing to do.
//!
//! Must never reach above the caller's own frame.
use std::hint::black_box;

/// How far below a caller the stack is wiped, in bytes. What works with secrets goes down about a
/// quarter of that from where a thread waits; frames that nothing has optimized are some times as
/// large.
const DEPTH: usize = if cfg!(debug_assertions) { 512 * 1024 } else { 128 * 1024 };

/// Zeroes the stack below the caller, where keys that a library worked with may still lie: it
/// wipes what it is given to keep, and not what its arithmetic had in passing. Called from where a
/// thread waits, which is above all that it ever calls.
#[inline(never)]
pub fn wipe_stack() {
    // The frame of this call is where the others' were. The compiler has to fill it, since it
    // cannot know that nobody reads it.
    black_box(&mut [0_u8; DEPTH]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: usize = 0x5a3c_96e1_7b2d_4f08;

    /// Leaves marks all over its frame, and says where.
    #[inline(never)]
    fn leave() -> usize {
        let mut marks = [MARK; 1024];
        black_box(&mut marks).as_ptr().addr()
    }

    /// How many marks still lie there.
    fn left(address: usize) -> usize {
        let place = std::ptr::with_exposed_provenance::<usize>(address);
        // SAFETY: the place is this thread's own stack, mapped and readable, and read past the
        // compiler; what it holds by now is anybody's.
        (0..1024).filter(|at| unsafe { place.add(*at).read_volatile() } == MARK).count()
    }

    #[test]
    fn what_a_call_left_on_the_stack_is_gone() {
        let place = leave();
        assert!(left(place) > 512, "nothing was left that could be wiped");
        let place = leave();
        wipe_stack();
        assert_eq!(left(place), 0);
    }
}
