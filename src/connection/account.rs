//! What one stream holds.
//!
//! **States.** *Open* while its `StreamGuard` lives, then *closed*; *drained* once nothing is in use
//! any more. A connection keeps the accounts of its streams in a table until they are closed and
//! drained, so that a lease can point to its account without a reference count. The *closed* mark
//! and the bytes in use share one word: a return that finds the mark goes to the table,
//! [while its own block is still out](super::Connection::give_back) and the connection's record
//! therefore stays, to see whether it was the last.
//!
//! **A class.** Once a stream is bound to a class of its own, the *classed* mark in the same word
//! sends every lease and return the slow way, where the class is charged and credited too. The step
//! that sets the mark also tells how much was in use: what returns before it is not in that figure,
//! and what returns after it finds the mark.
//!
//! **A charge** adds under the lock, looks at the limit, and takes the bytes off again if they are
//! too many. Nobody sees that: who charges or reads holds the same lock, all the while the block
//! itself is obtained. Looking after adding means that a limit which was lowered before the charge
//! is never overlooked.

use crate::sync::unmodelled;
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering};

const CLOSED: u64 = 1 << 63;
const CLASSED: u64 = 1 << 62;
const MARKS: u64 = CLOSED | CLASSED;

/// The bytes that the leases and reservations of one stream hold.
///
/// Every field is an atomic or a lock: a return may be the last use of an account that another
/// thread frees before the call is over.
pub(crate) struct StreamAccount {
    /// Under which the connection keeps it. Never changes.
    key: unmodelled::AtomicU32,
    entrance: Mutex<()>,
    /// Always below the marks: what would reach them is refused even where memory is unlimited.
    in_use: AtomicU64,
}

impl StreamAccount {
    pub(super) fn new(key: u32) -> Self {
        Self {
            key: unmodelled::AtomicU32::new(key),
            entrance: Mutex::new(()),
            in_use: AtomicU64::new(0),
        }
    }

    pub(super) fn key(&self) -> u32 {
        self.key.load(unmodelled::Relaxed)
    }

    pub(crate) fn in_use(&self) -> u64 {
        let _entrance = self.entrance.lock();
        self.in_use.load(Ordering::Relaxed) & !MARKS
    }

    /// Takes `bytes` more, if the `limit` in force allows, `u64::MAX` being unlimited, and the
    /// stream has no class of its own.
    #[inline]
    pub(super) fn try_enter(&self, bytes: u64, limit: impl FnOnce() -> u64) -> Option<Entry<'_>> {
        let entry = self.enter(bytes)?;
        // An entry that is dropped takes its bytes off again.
        (!entry.is_classed() && entry.fits(limit())).then_some(entry)
    }

    /// Takes `bytes` more, for one who holds them against the limit, if they can be counted.
    #[inline]
    pub(super) fn enter(&self, bytes: u64) -> Option<Entry<'_>> {
        let entrance = self.entrance.lock();
        // It can only fall meanwhile.
        let in_use = self.in_use.load(Ordering::Relaxed) & !MARKS;
        if in_use.checked_add(bytes)? >= CLASSED {
            return None;
        }
        let before = self.in_use.fetch_add(bytes, Ordering::AcqRel);
        Some(Entry { account: self, bytes, before, _entrance: entrance })
    }

    /// Keeps everyone from taking more meanwhile.
    pub(super) fn hold_entrance(&self) -> Entrance<'_> {
        Entrance { account: self, _entrance: self.entrance.lock() }
    }

    /// Counts bytes as returned. `true`: there is more to do, for the stream has a class, or the
    /// account is closed and this may have drained it. The caller does not touch it again.
    #[inline]
    pub(super) fn put(&self, bytes: u64) -> bool {
        self.in_use.fetch_sub(bytes, Ordering::AcqRel) & MARKS != 0
    }

    /// Nothing is leased on the stream any more.
    pub(super) fn close(&self) {
        self.in_use.fetch_or(CLOSED, Ordering::AcqRel);
    }

    pub(super) fn is_drained(&self) -> bool {
        self.in_use.load(Ordering::Acquire) & !CLASSED == CLOSED
    }

    /// Whether any lease or reservation may hold something, without the entrance: for one who holds
    /// the connection's mutex, which comes after it.
    pub(super) fn holds_any(&self) -> bool {
        self.in_use.load(Ordering::Acquire) & !MARKS > 0
    }
}

/// A stream's account from which nobody can take more.
pub(super) struct Entrance<'a> {
    account: &'a StreamAccount,
    _entrance: MutexGuard<'a, ()>,
}

impl Entrance<'_> {
    /// How much is in use. It can only fall.
    pub(super) fn in_use(&self) -> u64 {
        self.account.in_use.load(Ordering::Acquire) & !MARKS
    }

    /// Marks the stream as one with a class of its own, and answers how much is in use: what is
    /// returned from now on finds the mark.
    pub(super) fn set_classed(&self) -> u64 {
        self.account.in_use.fetch_or(CLASSED, Ordering::AcqRel) & !MARKS
    }
}

/// Bytes that are taken from a stream's account while the request is decided.
pub(super) struct Entry<'a> {
    account: &'a StreamAccount,
    bytes: u64,
    /// What was in use before, with its marks. It can only have fallen since.
    before: u64,
    _entrance: MutexGuard<'a, ()>,
}

impl<'a> Entry<'a> {
    pub(super) fn account(&self) -> &'a StreamAccount {
        self.account
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What else is in use. It can only fall, so whoever holds it against a limit reads it after the
    /// limit.
    pub(super) fn others(&self) -> u64 {
        (self.account.in_use.load(Ordering::Acquire) & !MARKS) - self.bytes
    }

    /// Whether a limit, `u64::MAX` being unlimited, has no objection to what was in use before.
    #[inline]
    pub(super) fn fits(&self, limit: u64) -> bool {
        (self.before & !MARKS) + self.bytes <= limit
    }

    #[inline]
    fn is_classed(&self) -> bool {
        self.before & CLASSED != 0
    }

    /// Leaves the bytes taken.
    #[inline]
    pub(super) fn commit(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Entry<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.account.in_use.fetch_sub(self.bytes, Ordering::AcqRel);
        }
    }
}
