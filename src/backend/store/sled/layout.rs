//! How keys and values lie in the one sled tree.
//!
//! Owns the raw key space and the splitting of long values. Must never let sled see a page of more
//! than a quarter of a segment: it moves such a page to a file of its own under `blobs/`, which it
//! neither syncs nor names durably.
//!
//! A leaf of sled's tree holds up to 16 entries and a few more while pages merge, an index page up to
//! 256 keys and a quarter more. With 1 MiB segments, 512 byte keys and 10 KiB values both stay under
//! the 256 KiB where that would begin.

use ::sled::IVec;

use crate::backend::store::{MAX_KEY, StoreError, Value};

/// sled's unit of allocation, in bytes; fixed in every store that exists.
pub const SEGMENT: usize = 1024 * 1024;
/// The most bytes of a value in one entry of the tree.
const PIECE: usize = 10 * 1024;

/// The store's own entry: who it is and how far it has come.
pub const HEAD: &[u8] = b"\0head";
const USER: u8 = 1;
const PIECES: u8 = 2;

const WHOLE: u8 = 0;
const SPLIT: u8 = 1;

/// The raw key of a user's key, built without allocating.
pub struct UserKey {
    bytes: [u8; MAX_KEY + 1],
    len: usize,
}

impl UserKey {
    /// Makes the raw key.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] past [`MAX_KEY`].
    pub fn new(key: &[u8]) -> Result<Self, StoreError> {
        crate::backend::store::within("a key", key.len(), MAX_KEY)?;
        let mut bytes = [0; MAX_KEY + 1];
        bytes[0] = USER;
        bytes[1..=key.len()].copy_from_slice(key);
        Ok(Self { bytes, len: key.len() + 1 })
    }
}

impl AsRef<[u8]> for UserKey {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Gives the raw bounds of a range of user keys: from the first, up to, without, the second.
pub fn bounds(start: &[u8], end: Option<&[u8]>) -> (Vec<u8>, Vec<u8>) {
    let raw = |key: &[u8]| [&[USER], key].concat();
    (raw(start), end.map_or_else(|| vec![PIECES], raw))
}

/// Gives the user's key of a raw one.
pub fn user_key(raw: &[u8]) -> Vec<u8> {
    raw[1..].to_vec()
}

/// The store's own entry: its random name, and the number of its last group of commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub id: [u8; 16],
    pub sequence: u64,
}

impl Head {
    pub fn encode(self) -> IVec {
        IVec::from([&self.id[..], &self.sequence.to_be_bytes()].concat())
    }

    pub fn decode(raw: &[u8]) -> Result<Self, StoreError> {
        let damaged = StoreError::Damaged("its head entry is malformed");
        let (id, sequence) = raw.split_at_checked(16).ok_or(damaged.clone())?;
        Ok(Self {
            id: id.try_into().map_err(|_| damaged.clone())?,
            sequence: u64::from_be_bytes(sequence.try_into().map_err(|_| damaged)?),
        })
    }
}

/// The name of a split value's pieces: unique, as no sequence number is used for two groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PieceId {
    pub sequence: u64,
    pub number: u32,
}

impl PieceId {
    fn key(self, index: usize) -> Vec<u8> {
        let mut key = Vec::with_capacity(17);
        key.push(PIECES);
        key.extend_from_slice(&self.sequence.to_be_bytes());
        key.extend_from_slice(&self.number.to_be_bytes());
        key.extend_from_slice(&(index as u32).to_be_bytes());
        key
    }
}

/// What the entry under a user's key says.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// The value itself.
    Whole(&'a [u8]),
    /// The value is `len` bytes long and lies in pieces.
    Split { id: PieceId, len: usize },
}

impl<'a> Entry<'a> {
    /// Reads the entry.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when it is not one.
    pub fn decode(raw: &'a [u8]) -> Result<Self, StoreError> {
        match raw {
            [WHOLE, value @ ..] => Ok(Self::Whole(value)),
            [SPLIT, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] => Ok(Self::Split {
                id: PieceId {
                    sequence: u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]),
                    number: u32::from_be_bytes([*i, *j, *k, *l]),
                },
                len: u32::from_be_bytes([*m, *n, *o, *p]) as usize,
            }),
            _ => Err(StoreError::Damaged("an entry is malformed")),
        }
    }

    /// Gives the keys of the value's pieces, in order; none for a whole one.
    pub fn pieces(&self) -> impl Iterator<Item = Vec<u8>> + use<> {
        let (id, count) = match *self {
            Self::Whole(_) => (PieceId { sequence: 0, number: 0 }, 0),
            Self::Split { id, len } => (id, len.div_ceil(PIECE)),
        };
        (0..count).map(move |index| id.key(index))
    }
}

/// Lays out a value: gives the entry under its key, and hands each piece to `piece`.
pub fn encode(value: &[u8], id: PieceId, mut piece: impl FnMut(Vec<u8>, IVec)) -> IVec {
    if value.len() <= PIECE {
        return IVec::from([&[WHOLE], value].concat());
    }
    for (index, bytes) in value.chunks(PIECE).enumerate() {
        piece(id.key(index), IVec::from(bytes));
    }
    let mut entry = Vec::with_capacity(17);
    entry.push(SPLIT);
    entry.extend_from_slice(&id.sequence.to_be_bytes());
    entry.extend_from_slice(&id.number.to_be_bytes());
    entry.extend_from_slice(&(value.len() as u32).to_be_bytes());
    IVec::from(entry)
}

/// Puts a value together again from its entry, finding each piece with `lookup`.
///
/// # Errors
/// [`StoreError::Damaged`] when something is malformed or missing, and whatever `lookup` gives.
pub fn decode(
    raw: &[u8],
    lookup: impl Fn(&[u8]) -> Result<Option<IVec>, StoreError>,
) -> Result<Value, StoreError> {
    let entry = Entry::decode(raw)?;
    let len = match entry {
        Entry::Whole(value) => return Ok(Value::copy_from_slice(value)),
        Entry::Split { len, .. } => len,
    };
    if len > crate::backend::store::MAX_VALUE {
        return Err(StoreError::Damaged("a value is longer than any can be"));
    }
    let mut value = Vec::with_capacity(len);
    for key in entry.pieces() {
        let piece = lookup(&key)?.ok_or(StoreError::Damaged("a piece of a value is missing"))?;
        value.extend_from_slice(&piece);
    }
    if value.len() == len {
        Ok(Value::from(value))
    } else {
        Err(StoreError::Damaged("a piece of a value has the wrong length"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn values_of_every_length_come_back() {
        for len in [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 128 * 1024] {
            let value: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let mut pieces = BTreeMap::new();
            let entry = encode(&value, PieceId { sequence: 7, number: 3 }, |key, piece| {
                assert!(piece.len() <= PIECE);
                assert!(pieces.insert(key, piece).is_none());
            });
            let keys: Vec<_> = Entry::decode(&entry).expect("an entry").pieces().collect();
            assert!(keys.iter().eq(pieces.keys()));
            assert_eq!(decode(&entry, |key| Ok(pieces.get(key).cloned())).expect("whole"), value);
        }
    }

    #[test]
    fn a_missing_or_cut_piece_and_a_malformed_entry_are_damage() {
        let entry = encode(&[1; 2 * PIECE], PieceId { sequence: 0, number: 0 }, |_, _| {});
        let cut = IVec::from(&[1; 5]);
        for found in [None, Some(cut)] {
            assert!(matches!(decode(&entry, |_| Ok(found.clone())), Err(StoreError::Damaged(_))));
        }
        for raw in [&b""[..], b"\x01", b"\x02abc", &[1; 18]] {
            assert!(matches!(Entry::decode(raw), Err(StoreError::Damaged(_))));
        }
        assert!(Head::decode(&[0; 23]).is_err());
        assert!(Head::decode(&[0; 25]).is_err());
    }

    #[test]
    fn user_keys_lie_apart_from_the_stores_own() {
        let (start, end) = bounds(b"", None);
        for key in [&b""[..], b"\0head", &[0xff; MAX_KEY]] {
            let raw = UserKey::new(key).expect("short enough");
            assert!(raw.as_ref() >= &start[..] && raw.as_ref() < &end[..]);
            assert_eq!(user_key(raw.as_ref()), key);
        }
        assert!(HEAD < &start[..]);
        assert!(PieceId { sequence: 0, number: 0 }.key(0) > end);
        assert!(UserKey::new(&[0; MAX_KEY + 1]).is_err());
    }
}
