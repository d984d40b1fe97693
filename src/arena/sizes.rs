//! The sizes of blocks, as plain data.

/// The block sizes of an arena: for each size class the binary logarithm of its block size, one byte
/// each, smallest class in the lowest byte. Unused bytes are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SizeClasses(u64);

/// A one in every byte.
const ONES: u64 = u64::MAX / 0xff;
/// The top bit of every byte.
const TOPS: u64 = ONES << 7;

impl SizeClasses {
    /// `sizes` are at most eight powers of two, ascending, none of them 1.
    pub(super) fn new(sizes: &[usize]) -> Self {
        let logarithms = sizes.iter().map(|size| u64::from(size.trailing_zeros()));
        Self(logarithms.rev().fold(0, |packed, logarithm| packed << 8 | logarithm))
    }

    /// The smallest size class with blocks of at least `len` bytes.
    #[inline]
    pub(crate) fn for_len(self, len: usize) -> Option<usize> {
        let bits = usize::BITS - len.saturating_sub(1).leading_zeros();
        // All bytes are compared at once: a top bit stays set where the byte is at least `bits`,
        // which is at most 64, so that no byte borrows from the next.
        let fits = ((self.0 | TOPS) - u64::from(bits) * ONES) & TOPS;
        (fits != 0).then_some(fits.trailing_zeros() as usize / 8)
    }

    /// The size of a block, in bytes.
    #[inline]
    pub(crate) fn block_bytes(self, class: usize) -> usize {
        debug_assert!(class < self.count());
        1 << (self.0 >> (class * 8) & 0xff)
    }

    /// How many size classes there are.
    #[inline]
    pub(crate) fn count(self) -> usize {
        (u64::BITS - self.0.leading_zeros()).div_ceil(8) as usize
    }
}

#[cfg(all(test, not(leasehold_loom)))]
mod tests {
    use super::*;
    use crate::arena::DEFAULT_SIZE_CLASSES;

    #[test]
    fn a_length_gets_the_smallest_class_that_fits() {
        for sizes in [DEFAULT_SIZE_CLASSES, &[256], &[256 << 10], &[256, 1 << 10, 256 << 10]] {
            let classes = SizeClasses::new(sizes);
            assert_eq!(classes.count(), sizes.len());
            for (class, &size) in sizes.iter().enumerate() {
                assert_eq!(classes.block_bytes(class), size);
            }
            let powers = (0..usize::BITS).map(|bit| 1_usize << bit);
            let around = powers.flat_map(|power| [power - 1, power, power + 1]);
            for len in around.chain([usize::MAX - 1, usize::MAX]) {
                let expected = sizes.iter().position(|&size| size >= len);
                assert_eq!(classes.for_len(len), expected, "{len} bytes of {sizes:?}");
            }
        }
    }
}
