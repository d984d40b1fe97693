//! What one stream holds.
//!
//! **States.** *Open* while its `StreamGuard` lives, then *closed*; *drained* once all that was
//! taken is returned. A connection keeps the accounts of its streams in a table until they are
//! closed and drained, so that a lease can point to its account without a reference count. The
//! *closed* mark and the bytes returned share one word: a return that finds the mark goes to the
//! table, [while its own block is still out](super::Connection::give_back) and the connection's
//! record therefore stays, to see whether it was the last.

use crate::error::{Refused, Resource, Scope};
use crate::limit::Limit;
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering};

const CLOSED: u64 = 1 << 63;

/// The bytes that the leases and reservations of one stream hold.
///
/// Taken bytes are counted under the lock, which is held while the block itself is obtained, so
/// that no other request ever sees a charge that does not last. Returned bytes are one addition.
pub(crate) struct StreamAccount {
    /// Under which the connection keeps it.
    key: u32,
    entrance: Mutex<()>,
    /// Written under `entrance`.
    taken: AtomicU64,
    /// And the *closed* mark. Sums of what was leased and reserved on one stream stay below it.
    returned: AtomicU64,
}

impl StreamAccount {
    pub(super) fn new(key: u32) -> Self {
        Self {
            key,
            entrance: Mutex::new(()),
            taken: AtomicU64::new(0),
            returned: AtomicU64::new(0),
        }
    }

    pub(super) fn key(&self) -> u32 {
        self.key
    }

    pub(crate) fn in_use(&self) -> u64 {
        let _entrance = self.entrance.lock();
        self.in_use_at_entrance()
    }

    /// Takes a place for `bytes` more, if `limit` allows; `u64::MAX` is unlimited.
    #[inline]
    pub(super) fn try_enter(&self, bytes: u64, limit: u64) -> Option<Entry<'_>> {
        let entrance = self.entrance.lock();
        let total = self.in_use_at_entrance().checked_add(bytes)?;
        (total <= limit).then_some(Entry { account: self, bytes, _entrance: entrance })
    }

    /// As [`try_enter`](Self::try_enter), with the numbers if not.
    pub(super) fn enter(&self, bytes: u64, limit: Limit) -> Result<Entry<'_>, Refused> {
        let entrance = self.entrance.lock();
        let in_use = self.in_use_at_entrance();
        if limit.admits(in_use, bytes) {
            return Ok(Entry { account: self, bytes, _entrance: entrance });
        }
        Err(Refused::new(Scope::Stream, Resource::Memory, limit, in_use, bytes))
    }

    /// Counts bytes as returned. `true`: the account is closed, and this may have drained it; the
    /// caller does not touch it again.
    #[inline]
    pub(super) fn put(&self, bytes: u64) -> bool {
        self.returned.fetch_add(bytes, Ordering::AcqRel) & CLOSED != 0
    }

    /// Nothing is leased on the stream any more.
    pub(super) fn close(&self) {
        self.returned.fetch_or(CLOSED, Ordering::AcqRel);
    }

    pub(super) fn is_drained(&self) -> bool {
        let returned = self.returned.load(Ordering::Acquire);
        // What was taken was so before it was returned, so this reads all of it.
        returned == CLOSED | self.taken.load(Ordering::Acquire)
    }

    #[inline]
    fn in_use_at_entrance(&self) -> u64 {
        let returned = self.returned.load(Ordering::Relaxed) & !CLOSED;
        self.taken.load(Ordering::Relaxed).wrapping_sub(returned)
    }
}

/// A place on a stream's account, held while the request is decided.
pub(super) struct Entry<'a> {
    account: &'a StreamAccount,
    bytes: u64,
    _entrance: MutexGuard<'a, ()>,
}

impl Entry<'_> {
    /// Counts the bytes as taken.
    #[inline]
    pub(super) fn commit(self) {
        // No read-modify-write: only who holds the entrance writes.
        let taken = self.account.taken.load(Ordering::Relaxed);
        self.account.taken.store(taken.wrapping_add(self.bytes), Ordering::Release);
    }
}
