//! Leases that live as long as you like.

use std::fmt;
use std::panic::Location;

use bytes::Bytes;

use super::place::Place;
use super::window::{Window, buffer};
use super::{Loan, lease};
use crate::connection::{Connection, StreamAccount};
use crate::error::{LeaseError, Revoked};
use crate::magazine::Hold;
use crate::priority::Priority;

/// A buffer on loan that no borrow ties to its guard: for other tasks, queues and maps.
///
/// When the connection closes, the memory is taken back wherever the lease is, unless it is pinned
/// at that moment. [`pin`](Self::pin) it to touch the bytes. Keeping one for ever keeps this small
/// value and its connection's empty record, at most 512 bytes.
///
/// ```
/// use bytes::BufMut;
/// use leasehold::{Governor, Revoked};
///
/// let governor = Governor::unlimited();
/// let guard = governor.inbound().try_admit()?;
/// let mut kept = guard.handle().try_lease_owned(4096)?;
/// kept.pin()?.put_slice(b"hello");
/// assert_eq!(&*kept.pin()?, b"hello");
/// drop(guard);
/// assert_eq!(kept.pin().unwrap_err(), Revoked);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a lease that is dropped goes back at once"]
pub struct OwnedLease(Loan);

impl OwnedLease {
    #[inline(always)]
    pub(crate) fn new(
        connection: &Connection,
        account: Option<&StreamAccount>,
        len: usize,
        priority: Priority,
        site: &'static Location<'static>,
    ) -> Result<Self, LeaseError> {
        let hold = Hold::Owned;
        let leased = lease(connection, account, len, hold, priority, site, Place::unpinned)?;
        Ok(Self(Loan::owned(connection, account, leased)))
    }

    pub(super) fn from_loan(loan: Loan) -> Self {
        Self(loan)
    }

    /// Holds on to the memory while the bytes are touched: a close that comes meanwhile leaves it
    /// until the answer drops. One atomic step, and another when it drops.
    ///
    /// # Errors
    ///
    /// If the connection is closed.
    #[inline(always)]
    pub fn pin(&mut self) -> Result<Pinned<'_>, Revoked> {
        if self.0.hold == Hold::Pinned {
            self.0.unpin_forgotten();
        }
        if self.0.try_pin() { Ok(Pinned(&mut self.0)) } else { Err(Revoked) }
    }

    /// Holds on to the memory for good, for callers that need access without a guard value:
    /// `poll_fill_buf`, `spawn_blocking`, io_uring.
    ///
    /// The memory is kept until the answer drops, even if the connection ends before.
    ///
    /// # Errors
    ///
    /// If the connection is closed.
    pub fn into_pinned(mut self) -> Result<PinnedLease, Revoked> {
        self.pin().map(Pinned::keep)?;
        Ok(PinnedLease(self.0))
    }

    /// As [`Lease::freeze`](crate::Lease::freeze).
    ///
    /// # Errors
    ///
    /// If the connection is closed.
    pub fn freeze(self) -> Result<Bytes, Revoked> {
        self.into_pinned().map(PinnedLease::freeze)
    }

    /// The size of the block, in bytes.
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

impl fmt::Debug for OwnedLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OwnedLease").field(&self.0).finish()
    }
}

/// An [`OwnedLease`] whose bytes may be touched, until this drops.
///
/// A [`Buf`](bytes::Buf) and a [`BufMut`](bytes::BufMut), as [`Lease`](crate::Lease) is.
pub struct Pinned<'a>(&'a mut Loan);

impl Pinned<'_> {
    /// Leaves the lease pinned.
    fn keep(self) {
        std::mem::forget(self);
    }

    #[inline]
    fn window(&self) -> &Window {
        self.0.window()
    }

    #[inline]
    fn window_mut(&mut self) -> &mut Window {
        self.0.window_mut()
    }
}

buffer!(Pinned<'_>);

impl Drop for Pinned<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.unpin();
    }
}

impl fmt::Debug for Pinned<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pinned").field(&self.0).finish()
    }
}

/// A lease that is pinned until it drops. Made by [`OwnedLease::into_pinned`].
///
/// If the connection ends before, the block stays charged to the peer and the system (if the
/// connection was never bound to a peer, to the system alone), and shows in reports as an
/// [orphan](crate::Orphan) with the place that leased it.
#[must_use = "a lease that is dropped goes back at once"]
pub struct PinnedLease(Loan);

impl PinnedLease {
    /// As [`Lease::freeze`](crate::Lease::freeze).
    pub fn freeze(self) -> Bytes {
        self.0.detach()
    }

    #[inline]
    fn window(&self) -> &Window {
        self.0.window()
    }

    #[inline]
    fn window_mut(&mut self) -> &mut Window {
        self.0.window_mut()
    }
}

buffer!(PinnedLease);

impl fmt::Debug for PinnedLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PinnedLease").field(&self.0).finish()
    }
}
