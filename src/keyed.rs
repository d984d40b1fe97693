//! Tables whose keys a remote peer can choose.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

/// Hashes what a remote peer can choose, so that nobody can aim for one bucket of a table: by
/// SipHash-1-3, the hash of std's own maps, under a key drawn at random for each governor.
#[derive(Clone, Copy)]
pub(crate) struct KeyedHasher(SipHasher13);

impl KeyedHasher {
    pub(crate) fn random() -> Self {
        // Std draws the key of a `RandomState` from the system. Its hashes of two different values
        // are as good as two random words.
        let random = RandomState::new();
        Self(SipHasher13::new_with_keys(random.hash_one(0_u64), random.hash_one(1_u64)))
    }

    #[inline]
    pub(crate) fn hash(&self, key: &[u8]) -> u64 {
        self.0.hash(key)
    }
}

/// Gives room back once three quarters of a table are empty.
pub(crate) fn shrink<T>(table: &mut HashTable<T>, hasher: impl Fn(&T) -> u64) {
    if table.is_empty() {
        *table = HashTable::new();
    } else if table.len() < table.capacity() / 4 {
        table.shrink_to(table.len() * 2, hasher);
    }
}

#[cfg(test)]
mod tests {
    use super::KeyedHasher;

    #[test]
    fn no_two_governors_hash_alike() {
        let [one, other] = [KeyedHasher::random(), KeyedHasher::random()];
        assert_eq!(one.hash(b"alice"), one.hash(b"alice"));
        assert_ne!(one.hash(b"alice"), other.hash(b"alice"));
    }
}
