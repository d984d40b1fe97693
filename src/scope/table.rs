//! Scopes by hash, in a table that is split, so that no part takes long to grow or to shrink: all
//! of it happens under the tree's one lock.
//!
//! **Promise.** Memory is a function of what is in the table now. Room is reserved before anything
//! changes, and a failure is an error.

use hashbrown::HashTable;

use crate::keyed::shrink;
use crate::try_box::OutOfMemory;

/// How many parts a table has.
#[cfg(not(leasehold_loom))]
pub(super) const PARTS: usize = 256;
#[cfg(leasehold_loom)]
pub(super) const PARTS: usize = 1;

/// An entry knows its hash, in which no part of the table finds a pattern.
pub(super) trait Hashed {
    fn hash(&self) -> u64;
}

pub(super) struct Table<T> {
    parts: Box<[HashTable<T>]>,
}

impl<T: Hashed> Table<T> {
    pub(super) fn new() -> Self {
        Self { parts: (0..PARTS).map(|_| HashTable::new()).collect() }
    }

    #[inline]
    pub(super) fn find(&self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<&T> {
        self.parts[part_of(hash)].find(hash, is_it)
    }

    #[inline]
    pub(super) fn find_mut(&mut self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<&mut T> {
        self.parts[part_of(hash)].find_mut(hash, is_it)
    }

    /// Adds an entry that is not there yet.
    pub(super) fn insert(&mut self, entry: T) -> Result<&mut T, OutOfMemory> {
        let hash = entry.hash();
        let part = &mut self.parts[part_of(hash)];
        part.try_reserve(1, T::hash).map_err(|_| OutOfMemory)?;
        Ok(part.insert_unique(hash, entry, T::hash).into_mut())
    }

    /// Takes an entry out if `leave` says so of it.
    pub(super) fn remove_if(
        &mut self,
        hash: u64,
        is_it: impl FnMut(&T) -> bool,
        leave: impl FnOnce(&mut T) -> bool,
    ) -> Option<T> {
        let part = &mut self.parts[part_of(hash)];
        let mut found = part.find_entry(hash, is_it).ok()?;
        if !leave(found.get_mut()) {
            return None;
        }
        let (removed, _) = found.remove();
        shrink(part, T::hash);
        Some(removed)
    }

    pub(super) fn part(&self, part: usize) -> &HashTable<T> {
        &self.parts[part]
    }
}

/// The part for a hash: bits that the table of a part does not use, which takes the lowest and the
/// top seven.
fn part_of(hash: u64) -> usize {
    (hash >> 40) as usize % PARTS
}
