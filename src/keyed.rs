//! Tables whose keys a remote peer can choose.

use std::hash::RandomState;

use hashbrown::HashTable;

/// Hashes what a remote peer can choose. Keyed at random, so that nobody can aim for one bucket.
pub(crate) type KeyedHasher = RandomState;

/// A hasher with a key of its own.
pub(crate) fn new_hasher() -> KeyedHasher {
    RandomState::new()
}

/// Gives room back once three quarters of a table are empty.
pub(crate) fn shrink<T>(table: &mut HashTable<T>, hasher: impl Fn(&T) -> u64) {
    if table.is_empty() {
        *table = HashTable::new();
    } else if table.len() < table.capacity() / 4 {
        table.shrink_to(table.len() * 2, hasher);
    }
}
