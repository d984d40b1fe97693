//! Things found by a key that exist exactly as long as someone holds them.
//!
//! **Promise.** Memory is a function of what is held now: the last holder's release removes the
//! entry under the lock of its shard, so that whoever asks for the same key at that moment either
//! holds the entry before it goes, or makes a new one after. Tables shrink as they empty.
//!
//! Keys come from remote peers, so the hash is keyed (`RandomState`).

use std::hash::{BuildHasher, RandomState};

use crossbeam_utils::CachePadded;
use hashbrown::HashTable;

use crate::error::NameTooLong;
use crate::name::MAX_NAME_BYTES;
use crate::sync::{Arc, Mutex};

/// A sharded table of [`Named`] values.
pub(crate) struct Keyed<T> {
    hasher: RandomState,
    shards: Box<[CachePadded<Mutex<Shard<T>>>]>,
}

type Shard<T> = HashTable<Entry<T>>;

struct Entry<T> {
    named: Arc<Named<T>>,
    holders: u32,
}

/// A value and the key it is found by.
pub(crate) struct Named<T> {
    hash: u64,
    key: Box<[u8]>,
    value: T,
}

impl<T> Named<T> {
    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    pub(crate) fn value(&self) -> &T {
        &self.value
    }
}

impl<T> Keyed<T> {
    pub(crate) fn new(shards: usize) -> Self {
        Self {
            hasher: RandomState::new(),
            shards: (0..shards).map(|_| CachePadded::new(Mutex::new(Shard::new()))).collect(),
        }
    }

    /// Finds or makes the value called `key`, and holds it until [`release`](Self::release).
    pub(crate) fn hold(
        &self,
        key: &[u8],
        make: impl FnOnce() -> T,
    ) -> Result<Arc<Named<T>>, NameTooLong> {
        if key.len() > MAX_NAME_BYTES {
            return Err(NameTooLong { len: key.len() });
        }
        let hash = self.hasher.hash_one(key);
        let mut shard = self.shard(hash).lock();
        if let Some(entry) = shard.find_mut(hash, |entry| *entry.named.key == *key) {
            entry.holders += 1;
            return Ok(entry.named.clone());
        }
        let named = Arc::new(Named { hash, key: key.into(), value: make() });
        let entry = Entry { named: named.clone(), holders: 1 };
        shard.insert_unique(hash, entry, |entry| entry.named.hash);
        Ok(named)
    }

    /// Lets go of what [`hold`](Self::hold) answered. The last holder removes it.
    pub(crate) fn release(&self, named: Arc<Named<T>>) {
        let mut shard = self.shard(named.hash).lock();
        let entry = shard.find_entry(named.hash, |entry| *entry.named.key == *named.key);
        let Ok(mut entry) = entry else {
            debug_assert!(false, "a name was released more often than it was held");
            return;
        };
        entry.get_mut().holders -= 1;
        let removed = (entry.get().holders == 0).then(|| entry.remove().0);
        shrink(&mut shard, |entry| entry.named.hash);
        drop(shard);
        drop((removed, named));
    }

    /// Everything held at some instant, shard by shard.
    pub(crate) fn held(&self) -> Vec<Arc<Named<T>>> {
        let mut all = Vec::new();
        for shard in &self.shards {
            all.extend(shard.lock().iter().map(|entry| entry.named.clone()));
        }
        all
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard<T>> {
        // Bits that the table inside the shard does not use: it takes the lowest and the top seven.
        &self.shards[(hash >> 40) as usize % self.shards.len()]
    }
}

/// Gives room back once three quarters of a table are empty.
pub(crate) fn shrink<T>(table: &mut HashTable<T>, hasher: impl Fn(&T) -> u64) {
    if table.len() < table.capacity() / 4 {
        table.shrink_to(table.len() * 2, hasher);
    }
}
