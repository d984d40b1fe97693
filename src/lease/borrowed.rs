//! The lease that cannot outlive its guard.

use std::fmt;
use std::mem::ManuallyDrop;
use std::panic::Location;
use std::ptr::NonNull;

use super::owned::OwnedLease;
use super::place::Place;
use super::window::{Window, buffer};
use super::{Loan, lease};
use crate::connection::{Connection, Seat};
use crate::error::LeaseError;
use crate::magazine::Hold;
use crate::priority::Priority;

/// A buffer on loan from a connection's guard.
///
/// Made by [`ConnectionGuard::try_lease`](crate::ConnectionGuard::try_lease). It is a
/// [`Buf`](bytes::Buf) and a [`BufMut`](bytes::BufMut), and dereferences to what was written to it
/// and not consumed yet. Its capacity is its whole block, which may be more than was asked for.
///
/// The usual lease and its return are one atomic step each.
///
/// ```
/// use bytes::BufMut;
/// use leasehold::Governor;
///
/// let governor = Governor::unlimited();
/// let guard = governor.inbound().try_admit()?;
/// let mut buf = guard.try_lease(4096)?;
/// assert!(buf.is_empty());
/// buf.put_slice(b"hello");
/// assert_eq!(&*buf, b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a lease that is dropped goes back at once"]
pub struct Lease<'g> {
    connection: &'g Connection,
    seat: Seat,
    window: Window,
}

impl<'g> Lease<'g> {
    #[inline(always)]
    pub(crate) fn new(
        connection: &'g Connection,
        len: usize,
        priority: Priority,
        site: &'static Location<'static>,
    ) -> Result<Self, LeaseError> {
        let hold = Hold::Borrowed;
        let (seat, window) = lease(connection, None, len, hold, priority, site, |leased| {
            // SAFETY: no close takes a borrowed block while the guard lives, which this lease
            // borrows. It returns the block as its window goes.
            unsafe { leased.find() }
        })?;
        Ok(Self { connection, seat, window })
    }

    /// Moves what is readable into a block of the next larger size: beyond the largest class, twice
    /// as large. On an error nothing changes.
    ///
    /// Costs a lease and the copy.
    ///
    /// # Errors
    ///
    /// As [`ConnectionGuard::try_lease`](crate::ConnectionGuard::try_lease).
    #[track_caller]
    pub fn grow(&mut self) -> Result<(), LeaseError> {
        let site = Location::caller();
        let capacity = self.capacity();
        let next_class = self.connection.shared().arena.class_for(capacity + 1);
        let len = if next_class.is_some() { capacity + 1 } else { capacity.saturating_mul(2) };
        let mut larger = Lease::new(self.connection, len, Priority::Critical, site)?;
        larger.window.append(self.window.readable());
        *self = larger;
        Ok(())
    }

    /// Makes the lease independent of the guard's borrow, without a copy. It is revoked when the
    /// connection closes; if that has happened already (from outside), it starts out revoked.
    pub fn into_owned(self) -> OwnedLease {
        self.connection.own(self.seat);
        OwnedLease::from_loan(self.into_loan(Hold::Owned))
    }

    /// Turns what is readable into [`Bytes`](bytes::Bytes) that share the block, or, if that would
    /// pin more than four times as much as is readable, a smaller one.
    ///
    /// The block is back when the last clone drops, even if the connection ends before.
    pub fn freeze(self) -> bytes::Bytes {
        self.connection.rehold(self.seat, Hold::Borrowed, Hold::Pinned);
        self.into_loan(Hold::Pinned).detach()
    }

    /// The same lease, in a hold that was already entered in the magazine.
    fn into_loan(self, hold: Hold) -> Loan {
        let this = ManuallyDrop::new(self);
        Loan {
            connection: NonNull::from(this.connection),
            seat: this.seat,
            hold,
            // SAFETY: `this` is never used again nor dropped, so the window has one owner.
            place: Place::Found(unsafe { std::ptr::read(&this.window) }),
            account: None,
        }
    }

    #[inline]
    fn window(&self) -> &Window {
        &self.window
    }

    #[inline]
    fn window_mut(&mut self) -> &mut Window {
        &mut self.window
    }
}

buffer!(Lease<'_>);

impl Drop for Lease<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.connection.shared().arena.zero_on_return()
            && self.connection.is_block(self.capacity())
        {
            self.window.wipe();
        }
        self.connection.put_borrowed(self.seat);
    }
}

impl fmt::Debug for Lease<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field(&self.window).finish()
    }
}
