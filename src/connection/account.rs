//! What one stream holds.

use crate::error::{Refused, Resource, Scope};
use crate::limit::Limit;
use crate::sync::unmodelled::{AtomicU64, Relaxed};
use crate::sync::{Mutex, MutexGuard};

/// The bytes that the leases and reservations of one stream hold.
///
/// Taken bytes are counted under the lock, which is held while the block itself is obtained, so
/// that no other request ever sees a charge that does not last. Returned bytes are one addition.
pub(crate) struct StreamAccount {
    taken: Mutex<u64>,
    returned: AtomicU64,
}

impl StreamAccount {
    pub(crate) fn new() -> Self {
        Self { taken: Mutex::new(0), returned: AtomicU64::new(0) }
    }

    /// Counts bytes as given back.
    pub(crate) fn give_back(&self, bytes: u64) {
        self.returned.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn in_use(&self) -> u64 {
        let taken = self.taken.lock();
        taken.wrapping_sub(self.returned.load(Relaxed))
    }

    /// Takes a place for `bytes` more, if `limit` allows.
    #[inline]
    pub(super) fn enter(&self, bytes: u64, limit: u64) -> Result<Entry<'_>, Refused> {
        let taken = self.taken.lock();
        let in_use = taken.wrapping_sub(self.returned.load(Relaxed));
        let limit = if limit == u64::MAX { Limit::Unlimited } else { Limit::Max(limit) };
        if limit.admits(in_use, bytes) {
            return Ok(Entry { taken, bytes });
        }
        Err(Refused::new(Scope::Stream, Resource::Memory, limit, in_use, bytes))
    }
}

/// A place on a stream's account, held while the request is decided.
pub(super) struct Entry<'a> {
    taken: MutexGuard<'a, u64>,
    bytes: u64,
}

impl Entry<'_> {
    /// Counts the bytes as taken.
    #[inline]
    pub(super) fn commit(mut self) {
        *self.taken = self.taken.wrapping_add(self.bytes);
    }
}
