//! How many connections each prefix of one length has open.
//!
//! **Promise.** The counts are exact, and a prefix without connections has no entry: memory is a
//! function of what is open now. A table is cut in segments, so that one that grows or shrinks has
//! the others' entries left alone: nobody waits for a million entries to move.

use hashbrown::HashTable;

use super::bits::Bits;
use crate::keyed::KeyedHasher;
use crate::keyed::shrink;

const SEGMENTS: usize = 32;

pub(super) struct Counts<B: Bits> {
    length: u8,
    key: KeyedHasher,
    segments: Box<[HashTable<Entry<B>>]>,
}

struct Entry<B: Bits> {
    prefix: B::Packed,
    count: u32,
}

impl<B: Bits> Counts<B> {
    pub(super) fn new(length: u8, key: KeyedHasher) -> Self {
        Self { length, key, segments: (0..SEGMENTS).map(|_| HashTable::new()).collect() }
    }

    /// How many there are, of a prefix of this table's length.
    #[inline]
    pub(super) fn get(&self, prefix: B, hash: u64) -> u32 {
        let packed = prefix.pack();
        let entry = self.segments[segment(hash)].find(hash, |entry| entry.prefix == packed);
        entry.map_or(0, |entry| entry.count)
    }

    /// `more` connections.
    #[inline]
    pub(super) fn add(&mut self, prefix: B, hash: u64, more: u32) {
        let Self { length, key, segments } = self;
        let packed = prefix.pack();
        segments[segment(hash)]
            .entry(
                hash,
                |entry| entry.prefix == packed,
                |entry| B::unpack(entry.prefix).hash(*length, key),
            )
            .and_modify(|entry| entry.count += more)
            .or_insert(Entry { prefix: packed, count: more });
    }

    /// One connection less.
    #[inline]
    pub(super) fn remove(&mut self, prefix: B, hash: u64) {
        let Self { length, key, segments } = self;
        let packed = prefix.pack();
        let segment = &mut segments[segment(hash)];
        let Ok(mut entry) = segment.find_entry(hash, |entry| entry.prefix == packed) else {
            debug_assert!(false, "a connection left that never entered");
            return;
        };
        entry.get_mut().count -= 1;
        if entry.get().count == 0 {
            entry.remove();
            shrink(segment, |entry| B::unpack(entry.prefix).hash(*length, key));
        }
    }

    /// Every prefix with its count.
    pub(super) fn iter(&self) -> impl Iterator<Item = (B, u32)> {
        self.segments.iter().flatten().map(|entry| (B::unpack(entry.prefix), entry.count))
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.segments)
            + self.segments.iter().map(HashTable::allocation_size).sum::<usize>()
    }
}

/// By bits that the table inside does not use: it takes the lowest and the top seven.
fn segment(hash: u64) -> usize {
    (hash >> 40) as usize % SEGMENTS
}
