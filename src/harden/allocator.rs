//! The allocator of every role: the system's, that can wipe what is given back.
//!
//! A secret that a library copied into a buffer of its own (a parser, a TLS session, an HTTP body)
//! is out of our hands; but that buffer comes back here when it is freed, and is zeros from then on.
//! What is never freed, and what lies on a stack, is not covered.
//!
//! Wiping is off until [`wipe_freed_memory`] switches it on, for good. Must never read a block's
//! content, or allocate.
use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator;

static WIPING: AtomicBool = AtomicBool::new(false);

/// From now on, and for good, every block of memory is zeroed before it goes back to the system's
/// allocator, and a block that grows or shrinks is copied and its old place zeroed.
pub fn wipe_freed_memory() {
    WIPING.store(true, Ordering::Relaxed);
}

/// The system's allocator; it wipes once [`wipe_freed_memory`] was called.
pub struct WipingAllocator;

// SAFETY: each method hands its arguments to `System` as they came, so what `System` promises holds.
// `dealloc` writes within the block before it is given up, when the caller may no longer use it;
// `realloc` is made of the other three, as `GlobalAlloc` describes it.
unsafe impl GlobalAlloc for WipingAllocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are System's conditions.
        unsafe { System.alloc(layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if WIPING.load(Ordering::Relaxed) {
            // SAFETY: the block is `layout.size()` bytes long, and the caller gives it up.
            unsafe { wipe(block, layout.size()) };
        }
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !WIPING.load(Ordering::Relaxed) {
            // SAFETY: as above.
            return unsafe { System.realloc(block, layout, size) };
        }
        // The system's `realloc` frees the old block itself, with all that is in it, whenever it
        // moves one; whether it will cannot be known before.
        // SAFETY: the caller promises that `size` is above 0 and fits with this alignment.
        unsafe {
            let moved = System.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !moved.is_null() {
                // Two blocks that are both ours, of at least so many bytes.
                moved.copy_from_nonoverlapping(block, size.min(layout.size()));
                self.dealloc(block, layout);
            }
            moved
        }
    }
}

/// Zeroes `size` bytes at `block`, also where nobody will read them any more.
///
/// # Safety
/// They belong to the caller.
#[inline]
unsafe fn wipe(block: *mut u8, size: usize) {
    // SAFETY: the caller's promise. The empty `asm!` may read any memory for all that the compiler
    // knows, so the zeros have to be there before it.
    unsafe {
        block.write_bytes(0, size);
        std::arch::asm!("/* {0} */", in(reg) block, options(nostack, preserves_flags));
    }
}

/// Whether a block's content is gone once it is freed: frees one, and has the kernel copy what lies
/// there now into a pipe. (`/proc/self/mem` is closed to a process that is not dumpable.)
///
/// # Errors
/// The kernel could not be asked.
pub(super) fn probe() -> io::Result<bool> {
    // Below what a pipe takes at once, and not a size that others ask for.
    const SIZE: usize = 3000;
    const MARK: u8 = 0xa7;
    let (mut reader, writer) = io::pipe()?;
    let mut seen = |address: usize| -> io::Result<Vec<u8>> {
        let from = std::ptr::without_provenance::<libc::c_void>(address);
        // SAFETY: the kernel checks the address itself, and answers EFAULT for one that is not
        // mapped. This program does not read the block, so it does not matter whose it is by now.
        let copied = unsafe { libc::write(writer.as_raw_fd(), from, SIZE) };
        let copied = usize::try_from(copied).map_err(|_| io::Error::last_os_error())?;
        let mut bytes = vec![0; copied];
        reader.read_exact(&mut bytes)?;
        Ok(bytes)
    };
    let block = std::hint::black_box(vec![MARK; SIZE].into_boxed_slice());
    let address = block.as_ptr().expose_provenance();
    if seen(address)? != *block {
        return Err(io::Error::other("the pipe does not show this process's memory"));
    }
    drop(block);
    match seen(address) {
        // Another thread may have taken the block since; what it wrote is not the mark.
        Ok(now) => Ok(!now.windows(64).any(|some| some.iter().all(|byte| *byte == MARK))),
        Err(error) if error.raw_os_error() == Some(libc::EFAULT) => Ok(true),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(block: *mut u8, size: usize) -> Vec<u8> {
        // SAFETY: the tests pass blocks that they own, of at least `size` bytes.
        unsafe { std::slice::from_raw_parts(block, size) }.to_vec()
    }

    // The switch is the whole process's and has no way back, so one test sees both sides.
    #[test]
    fn a_block_keeps_its_content_when_it_grows_or_shrinks_and_loses_it_when_it_is_freed() {
        for align in [1, 16, 64, 4096] {
            for (from, to) in [(1, 2), (100, 10_000), (10_000, 100), (64, 64), (300_000, 600_000)] {
                let layout = Layout::from_size_align(from, align).unwrap();
                let later = Layout::from_size_align(to, align).unwrap();
                // SAFETY: each block is used within its layout and freed once.
                unsafe {
                    let block = ALLOCATOR.alloc(layout);
                    block.write_bytes(0x5a, from);
                    let block = ALLOCATOR.realloc(block, layout, to);
                    assert!(block.addr().is_multiple_of(align));
                    assert_eq!(bytes(block, from.min(to)), vec![0x5a; from.min(to)]);
                    ALLOCATOR.dealloc(block, later);
                    let zeros = ALLOCATOR.alloc_zeroed(later);
                    assert_eq!(bytes(zeros, to), vec![0; to]);
                    ALLOCATOR.dealloc(zeros, later);
                }
            }
            wipe_freed_memory();
        }
        assert!(probe().unwrap(), "wiped, and read back");
    }

    #[test]
    fn every_byte_of_a_block_is_wiped() {
        for size in [0, 1, 7, 64, 4097] {
            let mut block = vec![0x5a_u8; size];
            // SAFETY: the block has `size` bytes and is ours.
            unsafe { wipe(block.as_mut_ptr(), size) };
            assert_eq!(block, vec![0; size]);
        }
    }
}
