//! Leases that live as long as you like.

use std::fmt;
use std::panic::Location;

use bytes::Bytes;

use super::view::{BufferView, buffer};
use super::{Loan, next_larger};
use crate::connection::{Ask, Connection, StreamAccount};
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
pub struct OwnedLease(pub(super) Loan);

impl OwnedLease {
    #[inline(always)]
    pub(crate) fn new(
        connection: &Connection,
        account: Option<&StreamAccount>,
        len: usize,
        priority: Priority,
        site: &'static Location<'static>,
    ) -> Result<Self, LeaseError> {
        let ask = Ask { len, hold: Hold::Owned, account, priority, site };
        Loan::new(connection, ask).map(Self)
    }

    /// Holds on to the memory while the bytes are touched: a close that comes meanwhile leaves it
    /// until the returned value drops. One atomic step, and another when it drops.
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

    /// Holds on to the memory for callers that need access without a borrow: `poll_fill_buf`,
    /// `spawn_blocking`, io_uring. One atomic step.
    ///
    /// The memory is kept until the returned lease drops or becomes [owned
    /// again](PinnedLease::into_owned), even if the connection ends before.
    ///
    /// # Errors
    ///
    /// If the connection is closed.
    pub fn into_pinned(mut self) -> Result<PinnedLease, Revoked> {
        self.pin().map(Pinned::keep)?;
        Ok(PinnedLease(self.0))
    }

    /// As [`Lease::grow`](crate::Lease::grow), pinned meanwhile and charged to the stream that it was
    /// leased on, if any.
    ///
    /// # Errors
    ///
    /// If a limit is in the way, or the connection is closed.
    #[track_caller]
    pub fn grow(&mut self) -> Result<(), LeaseError> {
        let mut pinned = self.pin().map_err(|Revoked| LeaseError::Closed)?;
        pinned.grow()
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
    /// As [`OwnedLease::grow`].
    ///
    /// # Errors
    ///
    /// If a limit is in the way, or the connection was closed meanwhile.
    #[track_caller]
    pub fn grow(&mut self) -> Result<(), LeaseError> {
        self.0.grow(Location::caller())
    }

    /// Leaves the lease pinned.
    fn keep(self) {
        std::mem::forget(self);
    }

    #[inline]
    fn view(&self) -> &BufferView {
        self.0.view()
    }

    #[inline]
    fn view_mut(&mut self) -> &mut BufferView {
        self.0.view_mut()
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

/// A lease that is pinned until it drops or becomes [owned again](Self::into_owned). Made by
/// [`OwnedLease::into_pinned`].
///
/// If the connection ends meanwhile, the block stays charged to the peer and the system (if the
/// connection was never bound to a peer, to the system alone), and shows in reports as an
/// [orphan](crate::Orphan) with the place that leased it.
#[must_use = "a lease that is dropped goes back at once"]
pub struct PinnedLease(Loan);

impl PinnedLease {
    /// Lets go of the pin: from now on a close takes the block. If the connection is closed already,
    /// the block goes back at once, and the returned lease is revoked. One atomic step.
    ///
    /// ```
    /// use bytes::BufMut;
    /// use leasehold::{Governor, Revoked};
    ///
    /// let governor = Governor::unlimited();
    /// let guard = governor.inbound().try_admit()?;
    /// let mut pinned = guard.handle().try_lease_owned(4096)?.into_pinned()?;
    /// pinned.put_slice(b"hello");
    /// let mut owned = pinned.into_owned();
    /// assert_eq!(&*owned.pin()?, b"hello");
    ///
    /// let pinned = owned.into_pinned()?;
    /// drop(guard);
    /// assert_eq!(&*pinned, b"hello");
    /// assert_eq!(pinned.into_owned().pin().unwrap_err(), Revoked);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_owned(mut self) -> OwnedLease {
        self.0.unpin();
        OwnedLease(self.0)
    }

    /// As [`OwnedLease::grow`].
    ///
    /// # Errors
    ///
    /// If a limit is in the way, or the connection is closed.
    #[track_caller]
    pub fn grow(&mut self) -> Result<(), LeaseError> {
        self.0.grow(Location::caller())
    }

    /// As [`Lease::freeze`](crate::Lease::freeze).
    pub fn freeze(self) -> Bytes {
        self.0.detach()
    }

    #[inline]
    fn view(&self) -> &BufferView {
        self.0.view()
    }

    #[inline]
    fn view_mut(&mut self) -> &mut BufferView {
        self.0.view_mut()
    }
}

buffer!(PinnedLease);

impl fmt::Debug for PinnedLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PinnedLease").field(&self.0).finish()
    }
}

impl Loan {
    /// Moves the readable bytes of a pinned block into one of the next larger size, which is pinned
    /// too.
    fn grow(&mut self, site: &'static Location<'static>) -> Result<(), LeaseError> {
        debug_assert!(self.hold == Hold::Pinned);
        let (hold, priority) = (Hold::Pinned, Priority::Critical);
        let (connection, account) = (self.connection(), self.account());
        let len = next_larger(connection, self.capacity());
        let ask = Ask { len, hold, account, priority, site };
        let mut larger = Loan::new(connection, ask)?;
        larger.find();
        larger.view_mut().append(self.view().readable());
        *self = larger;
        Ok(())
    }
}
