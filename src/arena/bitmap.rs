//! A set of small numbers, lowest first.

/// Bits `0..len`.
#[derive(Debug)]
pub(super) struct Bitmap {
    words: Box<[u64]>,
    ones: usize,
}

impl Bitmap {
    pub(super) fn empty(len: usize) -> Self {
        Self { words: vec![0; len.div_ceil(64)].into(), ones: 0 }
    }

    pub(super) fn full(len: usize) -> Self {
        let mut bitmap = Self::empty(len);
        (0..len).for_each(|bit| bitmap.insert(bit));
        bitmap
    }

    pub(super) fn len(&self) -> usize {
        self.ones
    }

    pub(super) fn first(&self) -> Option<usize> {
        let word = self.words.iter().position(|word| *word != 0)?;
        Some(word * 64 + self.words[word].trailing_zeros() as usize)
    }

    /// All numbers of the set, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> {
        self.words.iter().enumerate().flat_map(|(nth, &word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                let bit = rest.trailing_zeros() as usize;
                (rest != 0).then(|| {
                    rest &= rest - 1;
                    nth * 64 + bit
                })
            })
        })
    }

    pub(super) fn contains(&self, bit: usize) -> bool {
        self.words[bit / 64] >> (bit % 64) & 1 == 1
    }

    /// Whether all `count` bits from `first` on are in the set.
    pub(super) fn contains_all(&self, first: usize, count: usize) -> bool {
        (first..first + count).all(|bit| self.contains(bit))
    }

    /// Adds a bit that is not in the set.
    pub(super) fn insert(&mut self, bit: usize) {
        debug_assert!(!self.contains(bit));
        self.words[bit / 64] |= 1 << (bit % 64);
        self.ones += 1;
    }

    /// Takes out a bit that is in the set.
    pub(super) fn remove(&mut self, bit: usize) {
        debug_assert!(self.contains(bit));
        self.words[bit / 64] &= !(1 << (bit % 64));
        self.ones -= 1;
    }

    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.words)
    }
}

#[cfg(all(test, not(leasehold_loom)))]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn it_is_a_set_of_numbers() {
        let mut random = fastrand::Rng::with_seed(3);
        for len in [1, 16, 63, 64, 65, 2048] {
            let mut bitmap = Bitmap::full(len);
            let mut model: BTreeSet<usize> = (0..len).collect();
            for _ in 0..2000 {
                let bit = random.usize(..len);
                if model.remove(&bit) {
                    bitmap.remove(bit);
                } else {
                    model.insert(bit);
                    bitmap.insert(bit);
                }
                assert_eq!(bitmap.len(), model.len());
                assert_eq!(bitmap.first(), model.first().copied());
                assert!(bitmap.iter().eq(model.iter().copied()));
                let first = random.usize(..len);
                let count = random.usize(..=len - first);
                let all = (first..first + count).all(|bit| model.contains(&bit));
                assert_eq!(bitmap.contains_all(first, count), all);
            }
        }
    }
}
