//! Connections by id.
//!
//! An id is a serial number that is never used twice, so an old id can only ever answer "closed".
//! (A slab's key would come back with the next connection.) Tables are sharded and shrink.

use crossbeam_utils::CachePadded;
use hashbrown::HashTable;

use crate::keyed::shrink;
use crate::sync::{Arc, Mutex};

#[cfg(not(leasehold_loom))]
const SHARDS: usize = 16;
#[cfg(leasehold_loom)]
const SHARDS: usize = 1;

/// What a registry holds must know its own id.
pub(crate) trait Identified {
    fn id(&self) -> u64;
}

/// Every connection that is open or still has memory out.
pub(crate) struct Registry<C> {
    shards: Box<[CachePadded<Shard<C>>]>,
}

type Shard<C> = Mutex<HashTable<Arc<C>>>;

impl<C: Identified> Registry<C> {
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| CachePadded::new(Mutex::new(HashTable::new()))).collect(),
        }
    }

    pub(crate) fn insert(&self, connection: Arc<C>) {
        let hash = spread(connection.id());
        self.shard(hash).lock().insert_unique(hash, connection, |c| spread(c.id()));
    }

    pub(crate) fn get(&self, id: u64) -> Option<Arc<C>> {
        let hash = spread(id);
        self.shard(hash).lock().find(hash, |c| c.id() == id).cloned()
    }

    pub(crate) fn remove(&self, id: u64) -> Option<Arc<C>> {
        let hash = spread(id);
        let mut shard = self.shard(hash).lock();
        let removed = shard.find_entry(hash, |c| c.id() == id).ok()?.remove().0;
        shrink(&mut shard, |c| spread(c.id()));
        Some(removed)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.lock().is_empty())
    }

    /// Everything registered at some instant, shard by shard.
    pub(crate) fn all(&self) -> Vec<Arc<C>> {
        let mut all = Vec::new();
        for shard in &self.shards {
            all.extend(shard.lock().iter().cloned());
        }
        all
    }

    fn shard(&self, hash: u64) -> &Shard<C> {
        &self.shards[(hash >> 40) as usize % self.shards.len()]
    }
}

/// Spreads serial numbers over all 64 bits (Fibonacci hashing). They are ours, not a peer's, so
/// the hash needs no key.
fn spread(id: u64) -> u64 {
    id.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
}
