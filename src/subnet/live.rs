//! How many connections each address, or each prefix of one length, has open.
//!
//! **Promise.** The counts are exact, and a prefix without connections has no entry: memory is a
//! function of what is open now. A table is split in parts, so that a part which grows or shrinks
//! leaves the entries of the others where they are.
//!
//! **Rounds.** The counts of prefixes follow from those of single addresses. To make them for new
//! limits, a *round* passes every entry once, in pieces, while connections come and go in between.
//! One bit of each entry tells whether the round has passed it. An entry that is made while the
//! round goes on counts as passed. So for each change of a count it is known whether the round still
//! comes to see it, or has to be told.

use hashbrown::{HashTable, TryReserveError};

use super::bits::Bits;
use super::{OutOfMemory, Progress};
use crate::keyed::KeyedHasher;
use crate::keyed::shrink;

#[cfg(not(leasehold_loom))]
const PARTS: usize = 32;
#[cfg(leasehold_loom)]
const PARTS: usize = 1;

/// Entries that a round passes in one piece. Each may make an entry in every table that is counted,
/// and tables have parts that grow at about the same time.
const ENTRIES_AT_ONCE: usize = 64;
/// Buckets, most of them empty or passed already, that one piece looks at.
const BUCKETS_AT_ONCE: usize = 4096;

pub(super) struct Counts<B: Bits> {
    length: u8,
    key: KeyedHasher,
    parts: Box<[HashTable<Entry<B>>]>,
    /// The mark of the entries that the last round has passed: all of them, once it is over.
    mark: Mark,
    /// Entries that the round has not passed.
    ahead: usize,
    /// Where the round goes on: a part, and a bucket in it.
    next: (usize, usize),
}

struct Entry<B: Bits> {
    prefix: B::Packed,
    count: Count,
}

/// A number of connections, in the lower 31 bits, and a mark in the highest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Count(u32);

const MARK: u32 = 1 << 31;

/// Tells what one round has passed from what it has not, and is turned over for the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark(u32);

/// Whether the round has passed an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Round {
    Passed,
    Ahead,
}

impl Mark {
    const FIRST: Self = Self(0);

    fn other(self) -> Self {
        Self(self.0 ^ MARK)
    }
}

impl Count {
    fn new(number: u32, mark: Mark) -> Self {
        Self(number | mark.0)
    }

    fn number(self) -> u32 {
        self.0 & !MARK
    }

    /// Whether the round that leaves this mark has passed the entry.
    fn round(self, mark: Mark) -> Round {
        if self.0 & MARK == mark.0 { Round::Passed } else { Round::Ahead }
    }

    fn add(&mut self, more: u32) {
        self.0 += more;
    }

    fn remove_one(&mut self) {
        self.0 -= 1;
    }
}

impl<B: Bits> Counts<B> {
    pub(super) fn new(length: u8, key: KeyedHasher) -> Self {
        let parts = (0..PARTS).map(|_| HashTable::new()).collect();
        Self { length, key, parts, mark: Mark::FIRST, ahead: 0, next: (0, 0) }
    }

    /// How many there are, of a prefix of this table's length.
    #[inline]
    pub(super) fn get(&self, prefix: B, hash: u64) -> u32 {
        let packed = prefix.pack();
        let entry = self.parts[part(hash)].find(hash, |entry| entry.prefix == packed);
        entry.map_or(0, |entry| entry.count.number())
    }

    /// Whether there is room for one more prefix with this hash.
    #[inline]
    pub(super) fn has_room(&self, hash: u64) -> bool {
        let part = &self.parts[part(hash)];
        part.len() < part.capacity()
    }

    /// Makes room for one more prefix, so that the next [`add`](Self::add) with this hash allocates
    /// nothing.
    pub(super) fn reserve(&mut self, hash: u64) -> Result<(), OutOfMemory> {
        let Self { length, key, parts, .. } = self;
        let part = &mut parts[part(hash)];
        let room = part.try_reserve(1, |entry| B::unpack(entry.prefix).hash(*length, key));
        room.map_err(|error| match error {
            TryReserveError::AllocError { layout } => OutOfMemory { bytes: layout.size() },
            TryReserveError::CapacityOverflow => OutOfMemory { bytes: usize::MAX },
        })
    }

    /// `more` connections.
    #[inline]
    pub(super) fn add(&mut self, prefix: B, hash: u64, more: u32) {
        let Self { length, key, parts, mark, .. } = self;
        let packed = prefix.pack();
        parts[part(hash)]
            .entry(
                hash,
                |entry| entry.prefix == packed,
                |entry| B::unpack(entry.prefix).hash(*length, key),
            )
            .and_modify(|entry| entry.count.add(more))
            .or_insert_with(|| Entry { prefix: packed, count: Count::new(more, *mark) });
    }

    /// One connection less.
    #[inline]
    pub(super) fn remove(&mut self, prefix: B, hash: u64) {
        let Self { length, key, parts, mark, ahead, .. } = self;
        let packed = prefix.pack();
        let part = &mut parts[part(hash)];
        let Ok(mut entry) = part.find_entry(hash, |entry| entry.prefix == packed) else {
            debug_assert!(false, "a connection left that never entered");
            return;
        };
        let count = &mut entry.get_mut().count;
        count.remove_one();
        if count.number() == 0 {
            *ahead -= usize::from(count.round(*mark) == Round::Ahead);
            entry.remove();
            shrink(part, |entry| B::unpack(entry.prefix).hash(*length, key));
        }
    }

    /// Whether the round has passed a prefix, which is there.
    #[cold]
    pub(super) fn round(&self, prefix: B, hash: u64) -> Round {
        let packed = prefix.pack();
        let entry = self.parts[part(hash)].find(hash, |entry| entry.prefix == packed);
        entry.map_or(Round::Ahead, |entry| entry.count.round(self.mark))
    }

    /// Begins to pass every entry. The round before it must be over.
    pub(super) fn begin_round(&mut self) {
        debug_assert_eq!(self.ahead, 0, "a round began within another");
        self.mark = self.mark.other();
        self.ahead = self.parts.iter().map(HashTable::len).sum();
        self.next = (0, 0);
    }

    /// Passes some more entries, and hands each prefix with its count to `each`.
    pub(super) fn pass_some(&mut self, mut each: impl FnMut(B, u32)) -> Progress {
        let mut entries = 0;
        for _ in 0..BUCKETS_AT_ONCE {
            if self.ahead == 0 {
                return Progress::Done;
            }
            if entries == ENTRIES_AT_ONCE {
                break;
            }
            let (part, bucket) = self.next;
            let table = &mut self.parts[part];
            if bucket >= table.num_buckets() {
                // After the last part comes the first again: a part that grew or shrank since has
                // entries elsewhere.
                self.next = ((part + 1) % PARTS, 0);
                continue;
            }
            self.next = (part, bucket + 1);
            if let Some(entry) = table.get_bucket_mut(bucket)
                && entry.count.round(self.mark) == Round::Ahead
            {
                let number = entry.count.number();
                entry.count = Count::new(number, self.mark);
                each(B::unpack(entry.prefix), number);
                self.ahead -= 1;
                entries += 1;
            }
        }
        Progress::Going
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.parts) + self.parts.iter().map(HashTable::allocation_size).sum::<usize>()
    }
}

/// By bits that the table inside does not use: it takes the lowest and the top seven.
fn part(hash: u64) -> usize {
    (hash >> 40) as usize % PARTS
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_count_keeps_number_and_mark() {
        for mark in [Mark::FIRST, Mark::FIRST.other()] {
            for number in [0, 1, 77, (1 << 31) - 2] {
                let mut count = Count::new(number, mark);
                count.add(1);
                assert_eq!(count.number(), number + 1);
                assert_eq!(count.round(mark), Round::Passed);
                assert_eq!(count.round(mark.other()), Round::Ahead);
                count.remove_one();
                assert_eq!(count, Count::new(number, mark));
            }
        }
        assert_eq!(size_of::<Entry<u32>>(), 8);
        assert_eq!(size_of::<Entry<u128>>(), 20);
    }

    /// While a table grows and shrinks under it, a round sees each count once: on the way, or by
    /// being told.
    #[test]
    fn a_round_and_what_it_is_told_make_the_whole() {
        let key = KeyedHasher::random();
        let mut random = fastrand::Rng::with_seed(2);
        let mut counts = Counts::<u32>::new(32, key);
        let mut live: Vec<u32> = Vec::new();
        for round in 0..60 {
            let mut derived: HashMap<u32, u32> = HashMap::new();
            counts.begin_round();
            // By turns many come and many leave.
            let most_leave = round % 2 == 1;
            loop {
                for _ in 0..random.usize(..300) {
                    let leaves = random.u8(..10) < if most_leave { 8 } else { 2 };
                    if leaves && !live.is_empty() {
                        let gone = live.swap_remove(random.usize(..live.len()));
                        let hash = gone.hash(32, &key);
                        if counts.round(gone, hash) == Round::Passed {
                            *derived.get_mut(&gone).expect("the round was told") -= 1;
                        }
                        counts.remove(gone, hash);
                    } else {
                        let new = random.u32(..50_000);
                        live.push(new);
                        let hash = new.hash(32, &key);
                        counts.add(new, hash, 1);
                        if counts.round(new, hash) == Round::Passed {
                            *derived.entry(new).or_default() += 1;
                        }
                    }
                }
                let progress = counts.pass_some(|address, count| {
                    *derived.entry(address).or_default() += count;
                });
                if progress == Progress::Done {
                    break;
                }
            }
            derived.retain(|_, count| *count > 0);
            let mut expected: HashMap<u32, u32> = HashMap::new();
            live.iter().for_each(|address| *expected.entry(*address).or_default() += 1);
            assert_eq!(derived, expected, "round {round}");
        }
    }
}
