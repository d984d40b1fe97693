//! A set of small numbers, lowest first.

use crate::try_box::{OutOfMemory, try_slice};

/// A set of numbers below a bound. Finding the next one looks at few words: above the words with a
/// bit for each number stand some with a bit for each word that is not zero.
#[derive(Debug, Default)]
pub(super) struct Bitmap {
    words: Box<[u64]>,
    summary: Box<[u64]>,
    ones: usize,
}

impl Bitmap {
    /// No number, and room for those below `bound`, which is rounded up to a multiple of 64.
    pub(super) fn try_empty(bound: usize) -> Result<Self, OutOfMemory> {
        let words = try_slice(bound.div_ceil(64), || 0)?;
        let summary = try_slice(words.len().div_ceil(64), || 0)?;
        Ok(Self { words, summary, ones: 0 })
    }

    /// All numbers below `bound`.
    pub(super) fn try_full(bound: usize) -> Result<Self, OutOfMemory> {
        let mut bitmap = Self::try_empty(bound)?;
        (0..bound).for_each(|bit| bitmap.insert(bit));
        Ok(bitmap)
    }

    /// Those of the same numbers that are below `bound`, with room for all that are.
    pub(super) fn try_resized(&self, bound: usize) -> Result<Self, OutOfMemory> {
        let mut resized = Self::try_empty(bound)?;
        for (nth, (to, from)) in resized.words.iter_mut().zip(&self.words).enumerate() {
            *to = *from;
            resized.summary[nth / 64] |= u64::from(*from != 0) << (nth % 64);
            resized.ones += from.count_ones() as usize;
        }
        Ok(resized)
    }

    /// Below what the numbers are.
    pub(super) fn bound(&self) -> usize {
        self.words.len() * 64
    }

    pub(super) fn len(&self) -> usize {
        self.ones
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ones == 0
    }

    pub(super) fn first(&self) -> Option<usize> {
        self.next(0)
    }

    /// The lowest number of the set that is at least `from`.
    pub(super) fn next(&self, from: usize) -> Option<usize> {
        let mut word = from / 64;
        let mut rest = self.words.get(word)? & (u64::MAX << (from % 64));
        if rest == 0 {
            let after = word + 1;
            let mut nth = after / 64;
            let mut used = self.summary.get(nth)? & (u64::MAX << (after % 64));
            while used == 0 {
                nth += 1;
                used = *self.summary.get(nth)?;
            }
            word = nth * 64 + used.trailing_zeros() as usize;
            rest = self.words[word];
        }
        Some(word * 64 + rest.trailing_zeros() as usize)
    }

    pub(super) fn contains(&self, bit: usize) -> bool {
        self.words[bit / 64] >> (bit % 64) & 1 == 1
    }

    /// Whether all `count` numbers from `first` on are in the set.
    pub(super) fn contains_all(&self, first: usize, count: usize) -> bool {
        let (mut bit, end) = (first, first + count);
        while bit < end {
            let bits = (64 - bit % 64).min(end - bit);
            let mask = u64::MAX >> (64 - bits) << (bit % 64);
            if self.words[bit / 64] & mask != mask {
                return false;
            }
            bit += bits;
        }
        true
    }

    /// Puts a number into the set, or takes it out; it may be there, or not, already.
    pub(super) fn set(&mut self, bit: usize, is_in: bool) {
        if self.contains(bit) != is_in {
            if is_in { self.insert(bit) } else { self.remove(bit) }
        }
    }

    /// Adds a number that is not in the set.
    pub(super) fn insert(&mut self, bit: usize) {
        debug_assert!(!self.contains(bit));
        self.words[bit / 64] |= 1 << (bit % 64);
        self.summary[bit / 64 / 64] |= 1 << (bit / 64 % 64);
        self.ones += 1;
    }

    /// Takes out a number that is in the set.
    pub(super) fn remove(&mut self, bit: usize) {
        debug_assert!(self.contains(bit));
        self.words[bit / 64] &= !(1 << (bit % 64));
        if self.words[bit / 64] == 0 {
            self.summary[bit / 64 / 64] &= !(1 << (bit / 64 % 64));
        }
        self.ones -= 1;
    }

    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.words) + size_of_val(&*self.summary)
    }
}

#[cfg(all(test, not(leasehold_loom)))]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn it_is_a_set_of_numbers() {
        let mut random = fastrand::Rng::with_seed(3);
        for len in [1, 16, 63, 64, 65, 2048, 10_000] {
            let mut bitmap = Bitmap::try_full(len).unwrap();
            let mut model: BTreeSet<usize> = (0..len).collect();
            // Full, sparse, empty: each finds the next number in another way.
            for round in 0..4000 {
                let bit = match round % 4 {
                    0 => random.usize(..len),
                    _ => model.first().copied().unwrap_or(0),
                };
                bitmap.set(bit, model.contains(&bit));
                if model.remove(&bit) {
                    bitmap.remove(bit);
                } else {
                    model.insert(bit);
                    bitmap.insert(bit);
                }
                assert_eq!(bitmap.len(), model.len());
                assert_eq!(bitmap.first(), model.first().copied());
                let from = random.usize(..=len);
                assert_eq!(bitmap.next(from), model.range(from..).next().copied());
                let count = random.usize(..=len - from).min(100);
                let all = (from..from + count).all(|bit| model.contains(&bit));
                assert_eq!(bitmap.contains_all(from, count), all);
            }
            let grown = bitmap.try_resized(2 * len).unwrap();
            let mut next = 0;
            let numbers = std::iter::from_fn(|| {
                let bit = grown.next(next)?;
                next = bit + 1;
                Some(bit)
            });
            assert!(numbers.eq(model.iter().copied()));
            let half = grown.try_resized(len / 2).unwrap();
            assert_eq!(half.len(), model.range(..half.bound()).count());
        }
    }

    #[test]
    fn of_no_numbers_there_is_none() {
        let bitmap = Bitmap::default();
        assert_eq!((bitmap.bound(), bitmap.first(), bitmap.next(5)), (0, None, None));
    }
}
