//! Tables whose keys a remote peer can choose.

use std::fmt;
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

use crate::try_box::OutOfMemory;

/// Hashes what a remote peer can choose, so that no peer can aim for one bucket of a table: by
/// SipHash-1-3, the hash of std's own maps, under a key drawn at random for each governor.
#[derive(Clone, Copy)]
pub(crate) struct KeyedHasher([u64; 2]);

impl KeyedHasher {
    pub(crate) fn random() -> Self {
        // Std draws the key of a `RandomState` from the system. Its hashes of two different values
        // are as good as two random words.
        let random = RandomState::new();
        Self([random.hash_one(0_u64), random.hash_one(1_u64)])
    }

    #[inline]
    pub(crate) fn hash(&self, key: &[u8]) -> u64 {
        SipHasher13::new_with_keys(self.0[0], self.0[1]).hash(key)
    }
}

/// Gives room back once three quarters of a table are empty, if there is memory for the smaller
/// table. (`shrink_to` would abort where there is none.)
pub(crate) fn shrink<T>(table: &mut HashTable<T>, hasher: impl Fn(&T) -> u64) {
    if table.is_empty() {
        *table = HashTable::new();
    } else if table.len() < table.capacity() / 4 {
        let mut smaller = HashTable::new();
        if smaller.try_reserve(table.len() * 2, &hasher).is_ok() {
            for entry in table.drain() {
                smaller.insert_unique(hasher(&entry), entry, &hasher);
            }
            *table = smaller;
        }
    }
}

/// The key of an entry: a peer's name. Most names are short (a network address has 16 bytes, a peer
/// id of libp2p 38), and stand in the entry itself: comparing one reads no memory elsewhere.
pub(crate) struct KeyBytes(Store);

enum Store {
    Inline { len: u8, bytes: [u8; MAX_INLINE_BYTES] },
    Heap(Box<[u8]>),
}

const MAX_INLINE_BYTES: usize = 38;

const _: () = assert!(size_of::<KeyBytes>() == 40);

impl KeyBytes {
    /// Copies the key. Only a key of more than 38 bytes allocates, and can fail.
    pub(crate) fn try_new(key: &[u8]) -> Result<Self, OutOfMemory> {
        if key.len() <= MAX_INLINE_BYTES {
            let mut bytes = [0; MAX_INLINE_BYTES];
            bytes[..key.len()].copy_from_slice(key);
            return Ok(Self(Store::Inline { len: key.len() as u8, bytes }));
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(key.len()).map_err(|_| OutOfMemory)?;
        bytes.extend_from_slice(key);
        Ok(Self(Store::Heap(bytes.into_boxed_slice())))
    }

    #[inline]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Store::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Store::Heap(bytes) => bytes,
        }
    }
}

impl PartialEq for KeyBytes {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for KeyBytes {}

impl fmt::Debug for KeyBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyBytes({})", self.as_bytes().escape_ascii())
    }
}

/// Spreads numbers of our own, which need no key, over all bits (Fibonacci hashing).
#[inline]
pub(crate) fn spread(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
}

#[cfg(test)]
mod tests {
    use hashbrown::HashTable;

    use super::{KeyBytes, KeyedHasher, MAX_INLINE_BYTES, Store, shrink};
    use crate::ranges::MAX_NAME_BYTES;

    #[test]
    fn no_two_governors_hash_alike() {
        let [one, other] = [KeyedHasher::random(), KeyedHasher::random()];
        assert_eq!(one.hash(b"alice"), one.hash(b"alice"));
        assert_ne!(one.hash(b"alice"), other.hash(b"alice"));
    }

    #[test]
    fn a_table_that_emptied_keeps_its_entries_and_no_room() {
        let hash = |key: &u64| key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut table = HashTable::new();
        for key in 0..1_000 {
            table.insert_unique(hash(&key), key, hash);
        }
        let full = table.allocation_size();
        for key in 100..1_000 {
            table.find_entry(hash(&key), |found| *found == key).unwrap().remove();
            shrink(&mut table, hash);
        }
        assert!(table.allocation_size() <= full / 2);
        assert!((0..100).all(|key| table.find(hash(&key), |found| *found == key).is_some()));
        table.retain(|_| false);
        shrink(&mut table, hash);
        assert_eq!(table.allocation_size(), 0);
    }

    #[test]
    fn a_key_reads_as_it_was_written() {
        let name: Vec<u8> = (1..=MAX_NAME_BYTES as u8).collect();
        for len in 0..=MAX_NAME_BYTES {
            let key = KeyBytes::try_new(&name[..len]).unwrap();
            assert_eq!(key.as_bytes(), &name[..len]);
            assert_eq!(matches!(key.0, Store::Inline { .. }), len <= MAX_INLINE_BYTES);
        }
    }

    #[test]
    fn keys_are_equal_by_their_bytes() {
        let keys: [&[u8]; 7] =
            [b"", b"\0", b"a", b"ab", &[0; 38], &[0; 39], &[&[0; 38][..], &[1]].concat()];
        for (nth, one) in keys.iter().enumerate() {
            for (other_nth, other) in keys.iter().enumerate() {
                let [one, other] = [one, other].map(|key| KeyBytes::try_new(key).unwrap());
                assert_eq!(one == other, nth == other_nth, "{one:?} and {other:?}");
            }
        }
    }
}
