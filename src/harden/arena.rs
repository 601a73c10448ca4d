//! Pages for secrets, one arena a process, cut into slots so that many small
//! keys share a few pages: locked memory is scarce (8 MiB by default, and
//! memfd_secret counts towards it).
//!
//! Pages come from memfd_secret(2), which takes them out of the kernel's own
//! address space too, so that not even root reads them through
//! `/proc/PID/mem`. Where the kernel lacks it, from anonymous memory, locked.
//! Either kind is never swapped, never in a core file, and not there in a child.
//!
//! Must never fall back to ordinary memory: without room there is no secret.
use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard};

/// Slots are whole cache lines, so that two keys never share one.
pub(super) const UNIT: usize = 64;
/// Bytes that one mapping holds: 512 units, 8 pages.
const CHUNK: usize = 32 * 1024;
const UNITS: usize = CHUNK / UNIT;
/// Half of the usual 8 MiB lock limit: room for some 7,000 AES-256 keys.
const MAX_CHUNKS: usize = 4 * 1024 * 1024 / CHUNK;

/// Where secret pages come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretMemoryKind {
    /// memfd_secret(2): out of the kernel's address space as well.
    MemfdSecret,
    /// Anonymous memory that is locked, not dumped and not inherited; root can
    /// still read it.
    LockedMemory,
}

impl fmt::Display for SecretMemoryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MemfdSecret => "memfd_secret",
            Self::LockedMemory => "locked memory",
        })
    }
}

/// There are no pages to keep a secret in.
#[derive(Debug, thiserror::Error)]
pub enum SecretMemoryError {
    /// `memfd_secret` failed, though the kernel has it.
    #[error("cannot make secret memory: memfd_secret")]
    MemfdSecret(#[source] io::Error),
    /// `ftruncate` on the secret file failed.
    #[error("cannot size secret memory: ftruncate to {CHUNK} bytes")]
    Size(#[source] io::Error),
    /// `mmap` failed; `EAGAIN` says that the lock limit is reached.
    #[error(
        "cannot map {CHUNK} bytes of secret memory: mmap (see ulimit -l, systemd's LimitMEMLOCK)"
    )]
    Map(#[source] io::Error),
    /// `mlock` failed; `ENOMEM` says that the lock limit is reached.
    #[error("cannot lock {CHUNK} bytes of memory: mlock (see ulimit -l, systemd's LimitMEMLOCK)")]
    Lock(#[source] io::Error),
    /// `madvise` failed.
    #[error("cannot keep secret memory out of dumps and children: madvise")]
    Advise(#[source] io::Error),
    /// As many secrets as this process may hold are held already.
    #[error("secret memory is full: {MAX_CHUNKS} mappings of {CHUNK} bytes")]
    Full,
    /// The kernel does not list the mapping.
    #[error("cannot find secret memory in /proc/self/smaps")]
    ReadBack(#[source] io::Error),
}

/// One mapping. Mappings are never given back: keys come and go, and a page
/// that stays ours cannot become somebody's uncleaned buffer.
struct Chunk {
    base: NonNull<u8>,
    taken: [bool; UNITS],
}

// SAFETY: `base` is a mapping of this process that is never unmapped and belongs
// to this chunk alone; any thread may use it. The arena's lock guards `taken`.
unsafe impl Send for Chunk {}

impl Chunk {
    /// Takes `units` neighbouring free units, first fit.
    fn take(&mut self, units: usize) -> Option<Range<usize>> {
        let mut from = 0;
        for unit in 0..UNITS {
            if self.taken[unit] {
                from = unit + 1;
            } else if unit + 1 - from == units {
                self.taken[from..=unit].fill(true);
                return Some(from..unit + 1);
            }
        }
        None
    }

    fn at(&self, unit: usize) -> NonNull<u8> {
        debug_assert!(unit < UNITS);
        // SAFETY: the mapping is UNITS * UNIT bytes long and `unit` is below UNITS.
        unsafe { self.base.add(unit * UNIT) }
    }
}

struct Arena {
    kind: Option<SecretMemoryKind>,
    chunks: Vec<Chunk>,
}

static ARENA: Mutex<Arena> = Mutex::new(Arena { kind: None, chunks: Vec::new() });

/// A panic elsewhere leaves the tables whole: each is changed by one statement.
fn arena() -> MutexGuard<'static, Arena> {
    ARENA.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Arena {
    fn take(&mut self, units: usize) -> Result<Slot, SecretMemoryError> {
        for (chunk, c) in self.chunks.iter_mut().enumerate() {
            if let Some(range) = c.take(units) {
                return Ok(Slot { start: c.at(range.start), chunk, units: range });
            }
        }
        self.grow()?;
        let chunk = self.chunks.len() - 1;
        let range = self.chunks[chunk].take(units).ok_or(SecretMemoryError::Full)?;
        Ok(Slot { start: self.chunks[chunk].at(range.start), chunk, units: range })
    }

    fn grow(&mut self) -> Result<(), SecretMemoryError> {
        if self.chunks.len() >= MAX_CHUNKS {
            return Err(SecretMemoryError::Full);
        }
        // One kind a process: the first mapping decides.
        let (kind, base) = match self.kind {
            Some(SecretMemoryKind::LockedMemory) => locked_memory()?,
            Some(SecretMemoryKind::MemfdSecret) => {
                memfd_secret()?.ok_or(SecretMemoryError::Full)?
            }
            None => match memfd_secret()? {
                Some(made) => made,
                None => locked_memory()?,
            },
        };
        self.kind = Some(kind);
        self.chunks.push(Chunk { base, taken: [false; UNITS] });
        Ok(())
    }
}

/// Bytes in secret pages, zeroed and owned until dropped. Whoever wrote into
/// them wipes them first.
pub(super) struct Slot {
    start: NonNull<u8>,
    chunk: usize,
    units: Range<usize>,
}

// SAFETY: a slot owns its bytes alone, in a mapping that every thread shares.
unsafe impl Send for Slot {}
// SAFETY: through a shared slot only its address can be had.
unsafe impl Sync for Slot {}

impl Slot {
    /// Takes zeroed room for `bytes` bytes, aligned to [`UNIT`].
    ///
    /// # Errors
    /// Any of [`SecretMemoryError`]; there is no other memory to fall back to.
    pub(super) fn take(bytes: usize) -> Result<Self, SecretMemoryError> {
        let units = bytes.div_ceil(UNIT).max(1);
        if units > UNITS {
            return Err(SecretMemoryError::Full);
        }
        arena().take(units)
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Length in bytes.
    pub(super) fn len(&self) -> usize {
        self.units.len() * UNIT
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        arena().chunks[self.chunk].taken[self.units.clone()].fill(false);
    }
}

/// Which kind of memory secrets are in, setting it up if nothing has used it
/// yet.
///
/// # Errors
/// Any of [`SecretMemoryError`]: no secret can be kept.
pub fn secret_memory_kind() -> Result<SecretMemoryKind, SecretMemoryError> {
    let mut arena = arena();
    if arena.kind.is_none() {
        arena.grow()?;
    }
    arena.kind.ok_or(SecretMemoryError::Full)
}

/// The kind, and the flags that the kernel lists for the first mapping.
pub(super) fn read_back() -> Result<(SecretMemoryKind, String), SecretMemoryError> {
    let kind = secret_memory_kind()?;
    let base = arena().chunks[0].base.as_ptr() as usize;
    Ok((kind, flags_of(base).map_err(SecretMemoryError::ReadBack)?))
}

/// The `VmFlags` of the mapping that holds `address`.
fn flags_of(address: usize) -> io::Result<String> {
    let smaps = std::fs::read_to_string("/proc/self/smaps")?;
    let mut inside = false;
    for line in smaps.lines() {
        let first = line.split(' ').next().unwrap_or_default();
        if let Some((from, to)) = first.split_once('-') {
            let bounds = (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16));
            if let (Ok(from), Ok(to)) = bounds {
                inside = (from..to).contains(&address);
            }
        } else if inside && first == "VmFlags:" {
            return Ok(line["VmFlags:".len()..].trim().to_owned());
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Maps a chunk of memfd_secret; `None` where the kernel has no such call, or
/// has it switched off, or a container's filter refuses it.
fn memfd_secret() -> Result<Option<(SecretMemoryKind, NonNull<u8>)>, SecretMemoryError> {
    // SAFETY: memfd_secret takes one integer and touches no memory of ours.
    let raw = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    if raw < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ENOSYS | libc::EPERM) => Ok(None),
            _ => Err(SecretMemoryError::MemfdSecret(error)),
        };
    }
    let raw = i32::try_from(raw).expect("the kernel's descriptors fit an int");
    // SAFETY: the kernel made `raw` just now, so nobody else owns it.
    let file = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: `file` is open, and ftruncate touches no memory of ours.
    if unsafe { libc::ftruncate(file.as_raw_fd(), CHUNK as libc::off_t) } != 0 {
        return Err(SecretMemoryError::Size(io::Error::last_os_error()));
    }
    // The mapping keeps the pages; the descriptor goes with `file`, so that
    // nobody can map them again.
    let base = map(libc::MAP_SHARED, file.as_raw_fd())?;
    advise(base, libc::MADV_DONTFORK)?;
    touch(base);
    Ok(Some((SecretMemoryKind::MemfdSecret, base)))
}

/// Maps a chunk of anonymous memory and locks it.
fn locked_memory() -> Result<(SecretMemoryKind, NonNull<u8>), SecretMemoryError> {
    let base = map(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)?;
    advise(base, libc::MADV_DONTDUMP)?;
    advise(base, libc::MADV_DONTFORK)?;
    // SAFETY: `base` is a mapping of CHUNK bytes; locking does not change it.
    if unsafe { libc::mlock(base.as_ptr().cast(), CHUNK) } != 0 {
        let error = io::Error::last_os_error();
        unmap(base);
        return Err(SecretMemoryError::Lock(error));
    }
    touch(base);
    Ok((SecretMemoryKind::LockedMemory, base))
}

fn map(flags: libc::c_int, file: libc::c_int) -> Result<NonNull<u8>, SecretMemoryError> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the kernel picks the address, so no memory in use is mapped over.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), CHUNK, access, flags, file, 0) };
    if base == libc::MAP_FAILED {
        return Err(SecretMemoryError::Map(io::Error::last_os_error()));
    }
    Ok(NonNull::new(base.cast()).expect("mmap without MAP_FIXED never answers address 0"))
}

fn advise(base: NonNull<u8>, advice: libc::c_int) -> Result<(), SecretMemoryError> {
    // SAFETY: `base` is a mapping of CHUNK bytes that holds nothing yet; the
    // advice given here (DONTDUMP, DONTFORK) changes no bytes.
    if unsafe { libc::madvise(base.as_ptr().cast(), CHUNK, advice) } != 0 {
        let error = io::Error::last_os_error();
        unmap(base);
        return Err(SecretMemoryError::Advise(error));
    }
    Ok(())
}

/// Gives a mapping back that no chunk has taken over.
fn unmap(base: NonNull<u8>) {
    // SAFETY: only called on a mapping of CHUNK bytes made by `map` to which
    // nothing else points yet.
    unsafe { libc::munmap(base.as_ptr().cast(), CHUNK) };
}

/// Has every page there before the first secret is: a shortage shows at start,
/// not in the middle of a request.
fn touch(base: NonNull<u8>) {
    for page in (0..CHUNK).step_by(4096) {
        // SAFETY: `page` is below CHUNK, and the fresh mapping is writable.
        unsafe { base.add(page).write_volatile(0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk() -> Chunk {
        Chunk { base: NonNull::dangling(), taken: [false; UNITS] }
    }

    #[test]
    fn units_are_taken_first_fit_and_never_twice() {
        let mut chunk = chunk();
        assert_eq!(chunk.take(3), Some(0..3));
        assert_eq!(chunk.take(1), Some(3..4));
        chunk.taken[0..3].fill(false);
        assert_eq!(chunk.take(4), Some(4..8), "the gap of three is too small");
        assert_eq!(chunk.take(2), Some(0..2));
        assert_eq!(chunk.take(2), Some(8..10));
        assert_eq!(chunk.take(1), Some(2..3));
    }

    #[test]
    fn a_full_chunk_has_no_room() {
        let mut chunk = chunk();
        assert_eq!(chunk.take(UNITS), Some(0..UNITS));
        assert_eq!(chunk.take(1), None);
    }

    #[test]
    fn a_secret_larger_than_a_mapping_is_refused() {
        assert!(matches!(Slot::take(CHUNK + 1), Err(SecretMemoryError::Full)));
    }

    #[test]
    fn locked_memory_is_locked_not_dumped_and_not_inherited() {
        let (kind, base) = locked_memory().unwrap();
        assert_eq!(kind, SecretMemoryKind::LockedMemory);
        let flags = flags_of(base.as_ptr() as usize).unwrap();
        for flag in ["lo", "dd", "dc"] {
            assert!(flags.split(' ').any(|f| f == flag), "no {flag} in {flags}");
        }
        unmap(base);
    }

    #[test]
    fn a_process_that_spent_its_mappings_is_told_so() {
        let mut arena = Arena { kind: None, chunks: Vec::new() };
        arena.chunks.extend(
            (0..MAX_CHUNKS).map(|_| Chunk { base: NonNull::dangling(), taken: [true; UNITS] }),
        );
        assert!(matches!(arena.take(1), Err(SecretMemoryError::Full)));
    }
}
