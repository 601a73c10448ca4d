//! The digest over a set of rows, kept up to date by each change. Must never depend on the order
//! in which rows were added.
use crate::core::types::Hash32;

/// A sum of 256-bit numbers modulo 2^256: the multiset hash MSet-Add-Hash of Clarke et al.,
/// "Incremental Multiset Hash Functions and Their Application to Memory Integrity Checking"
/// (2003), over keyed row hashes.
#[derive(Clone, Copy, Default)]
pub struct Sum([u64; 4]);

impl Sum {
    /// The sum that a digest was made of.
    pub fn of(digest: &Hash32) -> Self {
        let mut limbs = [0; 4];
        for (limb, bytes) in limbs.iter_mut().zip(digest.0.chunks_exact(8)) {
            *limb = u64::from_le_bytes(bytes.try_into().expect("chunks of eight"));
        }
        Self(limbs)
    }

    /// The sum as bytes.
    pub fn digest(&self) -> Hash32 {
        let mut out = [0; 32];
        for (bytes, limb) in out.chunks_exact_mut(8).zip(self.0) {
            bytes.copy_from_slice(&limb.to_le_bytes());
        }
        Hash32(out)
    }

    /// Adds a row by its hash.
    pub fn add(&mut self, hash: &[u8; 32]) {
        let other = Self::of(&Hash32(*hash));
        let mut carry = false;
        for (limb, more) in self.0.iter_mut().zip(other.0) {
            let (sum, first) = limb.overflowing_add(more);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            (*limb, carry) = (sum, first || second);
        }
    }

    /// Takes a row away by its hash.
    pub fn subtract(&mut self, hash: &[u8; 32]) {
        let other = Self::of(&Hash32(*hash));
        let mut borrow = false;
        for (limb, less) in self.0.iter_mut().zip(other.0) {
            let (left, first) = limb.overflowing_sub(less);
            let (left, second) = left.overflowing_sub(u64::from(borrow));
            (*limb, borrow) = (left, first || second);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Sum;
    use crate::core::types::Hash32;

    #[test]
    fn what_is_added_and_taken_away_leaves_nothing() {
        let hashes: Vec<[u8; 32]> = (0..50u8).map(|i| Hash32::of(&[i]).0).collect();
        let mut sum = Sum::default();
        hashes.iter().for_each(|hash| sum.add(hash));
        let whole = sum.digest();
        hashes.iter().rev().for_each(|hash| sum.subtract(hash));
        assert_eq!(sum.digest(), Hash32([0; 32]));
        hashes.iter().rev().for_each(|hash| sum.add(hash));
        assert_eq!(sum.digest(), whole);
        sum.subtract(&hashes[3]);
        assert_ne!(sum.digest(), whole);
    }

    #[test]
    fn carries_run_through_all_limbs() {
        let mut sum = Sum([u64::MAX; 4]);
        let mut one = [0; 32];
        one[0] = 1;
        sum.add(&one);
        assert_eq!(sum.0, [0; 4]);
        sum.subtract(&one);
        assert_eq!(sum.0, [u64::MAX; 4]);
    }
}
