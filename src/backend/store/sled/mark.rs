//! The high-water mark: which group of commits was the last one, in a file beside sled's.
//!
//! sled takes the first message of its log that does not check for the torn end of a crash, and
//! goes on from before it: one changed byte would silently undo everything after it. The mark is
//! written after each group's barrier and without one of its own, so after a power cut it may be
//! behind the log; it is never ahead of it. Must never hold up a commit, and must never let a store
//! open that ends before its mark.
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use ring::digest::{SHA256, digest};

use super::layout::Head;
use crate::backend::store::StoreError;

/// The mark's name in the store's folder.
pub const MARK: &str = "mark";

const BODY: usize = 16 + 8;
const SLOT: usize = BODY + 16;

/// The open file. Its two slots lie in one sector of the disk, which is written whole or not at
/// all, and take turns, so that one of them is always good.
pub struct Mark {
    file: File,
    complained: bool,
}

impl Mark {
    /// Opens the mark in `dir`, or makes an empty one, and gives what it says.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the system refuses.
    pub fn open(dir: &Path) -> Result<(Self, Option<Head>), StoreError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(dir.join(MARK)).map_err(|error| failed(&error))?;
        let mut slots = [0; 2 * SLOT];
        let mut read = 0;
        while read < slots.len() {
            match file.read_at(&mut slots[read..], read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(&error)),
            }
        }
        let newest = slots.chunks_exact(SLOT).filter_map(decode).max_by_key(|head| head.sequence);
        Ok((Self { file, complained: false }, newest))
    }

    /// Compares what the log holds with what the mark said when it was opened.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when the log is another one, or ends before the mark.
    pub fn compare(said: Option<Head>, found: Option<Head>) -> Result<(), StoreError> {
        match (said, found) {
            (None, None) => Ok(()),
            // The first start was cut off before its first group.
            (Some(said), None) if said.sequence == 0 => Ok(()),
            (Some(_), None) => Err(StoreError::Damaged("its file was changed: nothing is left")),
            (None, Some(_)) => Err(StoreError::Damaged("its high-water mark is missing")),
            (Some(said), Some(found)) if said.id != found.id => {
                Err(StoreError::Damaged("its high-water mark is another store's"))
            }
            (Some(said), Some(found)) if found.sequence < said.sequence => Err(
                StoreError::Damaged("it ends before its last commit: its file was changed or cut"),
            ),
            _ => Ok(()),
        }
    }

    /// Writes the mark with a barrier, when the store is opened.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::DiskFull`].
    pub fn begin(&mut self, dir: &Path, head: Head) -> Result<(), StoreError> {
        self.write(head)
            .and_then(|()| self.file.sync_all())
            .and_then(|()| File::open(dir)?.sync_all())
            .map_err(|error| failed(&error))
    }

    /// Moves the mark to a group that is behind its own barrier. A mark that stays behind still
    /// holds for all before it, so a failure is logged and no more.
    pub fn advance(&mut self, head: Head) {
        if let Err(error) = self.write(head)
            && !self.complained
        {
            tracing::warn!(%error, "the store's high-water mark cannot be written");
            self.complained = true;
        }
    }

    fn write(&self, head: Head) -> io::Result<()> {
        let slot = head.sequence % 2 * SLOT as u64;
        self.file.write_all_at(&encode(head), slot)
    }
}

fn failed(error: &io::Error) -> StoreError {
    StoreError::io("the store's high-water mark cannot be used", error)
}

fn encode(head: Head) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    slot[..16].copy_from_slice(&head.id);
    slot[16..BODY].copy_from_slice(&head.sequence.to_be_bytes());
    let check = digest(&SHA256, &slot[..BODY]);
    slot[BODY..].copy_from_slice(&check.as_ref()[..16]);
    slot
}

fn decode(slot: &[u8]) -> Option<Head> {
    let head = Head {
        id: slot[..16].try_into().ok()?,
        sequence: u64::from_be_bytes(slot[16..BODY].try_into().ok()?),
    };
    (encode(head) == *slot).then_some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(sequence: u64) -> Head {
        Head { id: [7; 16], sequence }
    }

    #[test]
    fn the_newest_good_slot_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (mut mark, said) = Mark::open(dir.path()).unwrap();
        assert!(said.is_none());
        mark.begin(dir.path(), head(0)).unwrap();
        mark.advance(head(1));
        mark.advance(head(2));
        let said = || Mark::open(dir.path()).unwrap().1.map(|head| head.sequence);
        assert_eq!(said(), Some(2));
        // The slot of 2 is torn: the one of 1 is still good.
        mark.file.write_all_at(&[0xff; 4], 3).unwrap();
        assert_eq!(said(), Some(1));
        mark.file.set_len(0).unwrap();
        assert_eq!(said(), None);
    }

    #[test]
    fn a_log_may_be_ahead_of_its_mark_and_never_behind() {
        let other = Head { id: [8; 16], sequence: 5 };
        let good = |said, found| Mark::compare(said, found).is_ok();
        assert!(good(None, None) && good(Some(head(0)), None));
        assert!(good(Some(head(5)), Some(head(5))) && good(Some(head(5)), Some(head(9))));
        assert!(!good(Some(head(5)), Some(head(4))));
        assert!(!good(Some(head(5)), None));
        assert!(!good(None, Some(head(5))));
        assert!(!good(Some(head(5)), Some(other)));
    }
}
