//! What the kernel remembers of the data file and the disk does not hold.
//!
//! Owns those bytes from a failed barrier until they are on the disk. Must never let sled be opened
//! on a byte that is not on the disk, and must never drop the only copy of one.
//!
//! After a failed write Linux keeps the bytes, calls them written, and shows them to every reader; a
//! later barrier says nothing of them. Building on them loses all that comes after them in a power
//! cut. Just forgetting them is wrong too: a disk may have called bytes written that it did not keep
//! (a loop device does so when the disk below it is full), and some of them may be acknowledged.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::harden::{self, durability};

/// How much is compared at a time, in bytes.
const CHUNK: usize = 1024 * 1024;
/// What is written again for one byte that differs; reading past the kernel's memory asks for
/// offsets and buffers of this alignment.
const BLOCK: usize = 4096;

/// The blocks that are to be written again, by their offset. They are what was written since the
/// disk last kept its word, so they are few.
#[derive(Default)]
pub struct Salvage {
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl Salvage {
    /// Makes the disk hold what the kernel remembers of `file`, which is at `path` and which nobody
    /// else writes to meanwhile.
    ///
    /// # Errors
    /// The system's, when the disk still fails; what is to be written is kept for the next call.
    pub fn settle(&mut self, file: &File, path: &Path) -> io::Result<()> {
        // What nobody has tried to write yet comes first. A failure does not end the search: now
        // the kernel calls those bytes written, and keeps them only for as long as it likes.
        let written = file.sync_all();
        let compared = self.collect(file, path)?;
        written?;
        if compared && self.blocks.is_empty() {
            return Ok(());
        }
        // First, since ext4 would write the bytes into their old place and leave that place marked
        // as never written.
        durability::forget_cached(file)?;
        for (offset, bytes) in &self.blocks {
            file.write_all_at(bytes, *offset)?;
        }
        file.sync_all()?;
        durability::forget_cached(file)?;
        for (offset, bytes) in &self.blocks {
            let mut held = vec![0; bytes.len()];
            file.read_exact_at(&mut held, *offset)?;
            if held != *bytes {
                return Err(io::Error::other("the disk does not keep what it is given"));
            }
        }
        if !self.blocks.is_empty() {
            let blocks = self.blocks.len();
            tracing::warn!(blocks, "the disk did not hold what it had been given: written again");
        }
        self.blocks.clear();
        Ok(())
    }

    /// Takes down all blocks in which the kernel's memory differs from the disk. Gives `false` when
    /// this file system lets nobody read past that memory.
    fn collect(&mut self, file: &File, path: &Path) -> io::Result<bool> {
        let unsupported = |error: &io::Error| error.kind() == io::ErrorKind::InvalidInput;
        let disk = match harden::open_past_the_cache(path) {
            Err(error) if unsupported(&error) => return Ok(false),
            opened => opened?,
        };
        let mut remembered = vec![0; CHUNK];
        let mut aligned = vec![0; CHUNK + BLOCK];
        let start = aligned.as_ptr().align_offset(BLOCK);
        let held = aligned.get_mut(start..start + CHUNK).ok_or(io::ErrorKind::OutOfMemory)?;
        let end = file.metadata()?.len();
        for offset in (0..end).step_by(CHUNK) {
            let wanted = (end - offset).min(CHUNK as u64) as usize;
            read(file, &mut remembered, wanted, offset)?;
            match read(&disk, held, wanted, offset) {
                Err(error) if unsupported(&error) => return Ok(false),
                read => read?,
            }
            let blocks = remembered[..wanted].chunks(BLOCK).zip(held.chunks(BLOCK));
            for (at, (remembered, held)) in (offset..).step_by(BLOCK).zip(blocks) {
                if remembered != &held[..remembered.len()] {
                    // One that is here already was not written well: the kernel may have lost it.
                    self.blocks.entry(at).or_insert_with(|| remembered.to_vec());
                }
            }
        }
        Ok(true)
    }
}

/// Reads `wanted` bytes into a buffer that may be longer.
fn read(file: &File, buffer: &mut [u8], wanted: usize, offset: u64) -> io::Result<()> {
    let mut len = 0;
    while len < wanted {
        match file.read_at(&mut buffer[len..], offset + len as u64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    fn file_of(bytes: &[u8]) -> (tempfile::NamedTempFile, File) {
        let named = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(named.path(), bytes).expect("it can be written");
        let file = OpenOptions::new().read(true).write(true).open(named.path());
        (named, file.expect("it can be opened"))
    }

    #[test]
    fn a_file_that_is_on_the_disk_is_left_as_it_is() {
        for len in [0, 1, BLOCK, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5] {
            let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            let (named, file) = file_of(&bytes);
            let mut salvage = Salvage::default();
            salvage.settle(&file, named.path()).expect("nothing is wrong with the disk");
            assert!(salvage.blocks.is_empty());
            assert_eq!(std::fs::read(named.path()).expect("it can be read"), bytes);
        }
    }

    #[test]
    fn what_was_kept_from_a_failed_attempt_is_written_by_the_next() {
        let (named, file) = file_of(&[1; 3 * BLOCK]);
        let mut salvage = Salvage::default();
        salvage.blocks.insert(BLOCK as u64, vec![2; BLOCK]);
        // A file that cannot be written stands for the disk that still fails.
        let sealed = File::open(named.path()).expect("it can be opened");
        assert!(salvage.settle(&sealed, named.path()).is_err());
        salvage.settle(&file, named.path()).expect("nothing is wrong with the disk");
        assert!(salvage.blocks.is_empty());
        let bytes = std::fs::read(named.path()).expect("it can be read");
        assert_eq!(bytes, [[1; BLOCK], [2; BLOCK], [1; BLOCK]].concat());
    }
}
