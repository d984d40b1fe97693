//! What one stream holds, in one word.
//!
//! ```text
//! 63      62       61    60 ─ 0
//! closed  classed  busy  bytes in use
//! ```
//!
//! **States.** *Open* while its `StreamGuard` lives, then *closed*; *drained* once nothing is in use
//! any more. A connection keeps the accounts of its streams in a table until they are closed and
//! drained, so that a lease can point to its account without a reference count. A return that finds
//! the *closed* mark goes to the table, [while its own block is still
//! out](super::Connection::give_back) and the connection's record therefore stays, to see whether it
//! was the last.
//!
//! **Fast.** A lease that the connection's magazine serves adds its bytes in one compare-exchange, if
//! no mark is set and the limit allows it.
//!
//! **Slow.** All else is decided under the connection's mutex, with *busy* set: no fast lease adds to
//! the account meanwhile, so what is in use can only fall, and bytes are added when nothing can fail
//! any more. No thread ever sees bytes of a request that is then refused.
//!
//! **A class.** Once a stream is bound to a class of its own, *classed* sends every lease and return
//! the slow way, where the class is charged and credited too. The step that sets the mark also tells
//! how much was in use: what returns before it is not in that figure, and what returns after it finds
//! the mark.

use crate::sync::{AtomicU64, Ordering, unmodelled};

const CLOSED: u64 = 1 << 63;
const CLASSED: u64 = 1 << 62;
const BUSY: u64 = 1 << 61;
const MARKS: u64 = CLOSED | CLASSED | BUSY;

/// The bytes that the leases and reservations of one stream hold.
///
/// Every field is an atomic: a return may be the last use of an account that another thread frees
/// before the call is over.
pub(crate) struct StreamAccount {
    /// Under which the connection keeps it. Never changes.
    key: unmodelled::AtomicU64,
    word: AtomicU64,
}

impl StreamAccount {
    pub(super) fn new(key: u64) -> Self {
        Self { key: unmodelled::AtomicU64::new(key), word: AtomicU64::new(0) }
    }

    pub(super) fn key(&self) -> u64 {
        self.key.load(unmodelled::Relaxed)
    }

    pub(crate) fn in_use(&self) -> u64 {
        self.word.load(Ordering::Acquire) & !MARKS
    }

    /// Takes `bytes` more, if the `limit` in force allows, `u64::MAX` being unlimited, and nothing
    /// sends this the slow way. Returns how much is in use then: a limit that was lowered meanwhile may
    /// not have been seen.
    #[inline]
    pub(super) fn try_enter(&self, bytes: u64, limit: impl Fn() -> u64) -> Option<u64> {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let next = word + bytes;
            if word & MARKS != 0 || next & MARKS != 0 || next > limit() {
                return None;
            }
            // Relaxed on failure: nothing is read before the next try.
            match self.word.compare_exchange(word, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Some(next),
                Err(now) => word = now,
            }
        }
    }

    /// Keeps fast leases from taking more until the returned value drops. Call with the connection's
    /// mutex held.
    pub(super) fn hold(&self) -> HeldAccount<'_> {
        self.word.fetch_or(BUSY, Ordering::AcqRel);
        HeldAccount(self)
    }

    /// Counts bytes as returned. `true`: there is more to do, for the stream has a class, or the
    /// account is closed and this may have drained it. The caller does not touch it again.
    #[inline]
    pub(super) fn put(&self, bytes: u64) -> bool {
        self.word.fetch_sub(bytes, Ordering::AcqRel) & (CLOSED | CLASSED) != 0
    }

    /// Nothing is leased on the stream any more. Returns how much is in use: a lease or a reservation
    /// that is not in that figure finds the mark.
    pub(super) fn close(&self) -> u64 {
        self.word.fetch_or(CLOSED, Ordering::AcqRel) & !MARKS
    }

    pub(super) fn is_drained(&self) -> bool {
        self.word.load(Ordering::Acquire) & !CLASSED == CLOSED
    }
}

/// A stream's account of which no fast lease takes more.
pub(super) struct HeldAccount<'a>(&'a StreamAccount);

impl HeldAccount<'_> {
    pub(super) fn key(&self) -> u64 {
        self.0.key()
    }

    /// How much is in use. It can only fall.
    pub(super) fn in_use(&self) -> u64 {
        self.0.in_use()
    }

    /// Whether this much more can be counted at all.
    pub(super) fn can_count(&self, bytes: u64) -> bool {
        self.in_use().checked_add(bytes).is_some_and(|sum| sum & MARKS == 0)
    }

    /// Takes bytes that were granted.
    pub(super) fn add(&self, bytes: u64) {
        self.0.word.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Marks the stream as one with a class of its own, and returns how much is in use: what is
    /// returned from now on finds the mark.
    pub(super) fn set_classed(&self) -> u64 {
        self.0.word.fetch_or(CLASSED, Ordering::AcqRel) & !MARKS
    }
}

impl Drop for HeldAccount<'_> {
    fn drop(&mut self) {
        self.0.word.fetch_and(!BUSY, Ordering::AcqRel);
    }
}
