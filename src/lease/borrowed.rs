//! The lease that cannot outlive its guard.

use std::fmt;
use std::mem::ManuallyDrop;
use std::panic::Location;
use std::ptr::NonNull;

use super::owned::OwnedLease;
use super::place::Place;
use super::view::{BufferView, buffer};
use super::{Loan, is_block, lease_counted, lease_idle, magazine, next_larger, put_slowly};
use crate::connection::{Ask, Connection};
use crate::error::LeaseError;
use crate::magazine::{Hold, SlotRef};
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
    slot: SlotRef,
    view: BufferView,
}

// SAFETY: `Connection` is `Sync`, the view is `Send + Sync`, and the slot leads to a magazine, which is
// atomics through and through and stays while the block is out.
unsafe impl Send for Lease<'_> {}
// SAFETY: as above; `&Lease` only reads.
unsafe impl Sync for Lease<'_> {}

impl<'g> Lease<'g> {
    #[inline(always)]
    pub(crate) fn new(
        connection: &'g Connection,
        len: usize,
        priority: Priority,
        site: &'static Location<'static>,
    ) -> Result<Self, LeaseError> {
        let ask = Ask { len, hold: Hold::Borrowed, account: None, priority, site };
        let hot = connection.hot();
        // SAFETY, of both: no close takes a borrowed block while the guard lives, which this lease
        // borrows. It returns the block as its view goes.
        let (slot, view) = match lease_idle(connection, hot, &ask) {
            // SAFETY: as said above.
            Some((slot, sought)) => (slot, unsafe { sought.find(hot.lookup) }),
            None => {
                let (slot, place) = lease_counted(connection, ask)?;
                // SAFETY: as said above.
                (slot, unsafe { place.find(hot.lookup) })
            }
        };
        Ok(Self { connection, slot, view })
    }

    /// Moves the readable bytes into a block of the next larger size: beyond the largest size class,
    /// one twice as large. On an error nothing changes.
    ///
    /// Costs a lease and the copy. Until the bytes are copied both blocks are charged. The line that
    /// calls this is noted as the place that leased the new block.
    ///
    /// ```
    /// use bytes::{Buf, BufMut};
    ///
    /// let governor = leasehold::Governor::unlimited();
    /// let guard = governor.inbound().try_admit()?;
    /// let mut buf = guard.try_lease(512)?;
    /// buf.put_bytes(7, 512);
    /// buf.advance(500);
    /// buf.grow()?;
    /// assert_eq!((buf.len(), buf.capacity()), (12, 2048));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`ConnectionGuard::try_lease`](crate::ConnectionGuard::try_lease).
    #[track_caller]
    pub fn grow(&mut self) -> Result<(), LeaseError> {
        let len = next_larger(self.connection, self.capacity());
        let mut larger = Lease::new(self.connection, len, Priority::Critical, Location::caller())?;
        larger.view.append(self.view.readable());
        *self = larger;
        Ok(())
    }

    /// Makes the lease independent of the guard's borrow, without a copy. It is revoked when the
    /// connection closes; if that has happened already (from outside), it starts out revoked.
    pub fn into_owned(self) -> OwnedLease {
        let slot = self.slot.slot();
        let owned = self.magazine().try_rehold(slot, Hold::Borrowed, Hold::Owned);
        let loan = self.into_loan(Hold::Owned);
        if !owned {
            loan.take_back();
        }
        OwnedLease(loan)
    }

    /// Turns what is readable into [`Bytes`](bytes::Bytes) that share the block, or, if that would
    /// pin more than four times as much as is readable, a smaller one.
    ///
    /// The block is back when the last clone drops, even if the connection ends before.
    pub fn freeze(self) -> bytes::Bytes {
        self.magazine().rehold(self.slot.slot(), Hold::Borrowed, Hold::Pinned);
        self.into_loan(Hold::Pinned).detach()
    }

    /// The same lease, in a hold that was already entered in the magazine.
    fn into_loan(self, hold: Hold) -> Loan {
        let this = ManuallyDrop::new(self);
        Loan {
            connection: NonNull::from(this.connection),
            slot: this.slot,
            hold,
            // SAFETY: `this` is never used again nor dropped, so the view has one owner.
            place: Place::Found(unsafe { std::ptr::read(&this.view) }),
            account: None,
        }
    }

    #[inline(always)]
    fn magazine(&self) -> &crate::magazine::Magazine {
        // SAFETY: the guard, and so the record, is alive, and the block is out.
        unsafe { magazine(self.slot) }
    }

    #[inline]
    fn view(&self) -> &BufferView {
        &self.view
    }

    #[inline]
    fn view_mut(&mut self) -> &mut BufferView {
        &mut self.view
    }
}

buffer!(Lease<'_>);

impl Drop for Lease<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.connection.hot().zero_on_return && is_block(self.connection, self.capacity()) {
            self.view.wipe();
        }
        if !self.magazine().try_put(self.slot.slot(), Hold::Borrowed) {
            // SAFETY: nothing has changed, so the block is still out, and the guard keeps the record.
            unsafe { put_slowly(self.connection.into(), self.slot, Hold::Borrowed) };
        }
    }
}

impl fmt::Debug for Lease<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field(&self.view).finish()
    }
}
