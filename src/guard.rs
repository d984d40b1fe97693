//! The one value that stands for a live connection.

use std::fmt;

use crate::connection::Closer;
use crate::error::LeaseError;
use crate::handle::ConnectionHandle;
use crate::lease::Lease;
use crate::report::Reclaimed;
use crate::request::Request;

/// A connection that was admitted. Drop it when the connection ends: everything is then back.
///
/// There is one guard for a connection, and it cannot be cloned. Keep it in the task that serves
/// the connection, next to the transport (in a [`Governed`](crate::Governed), which drops the
/// transport first), and never in an `Arc` or a list "for later": a guard that is kept keeps the
/// connection's memory, which is how [grpc-go's xDS server][leak] kept the buffers of every
/// connection it ever accepted. Other tasks get a clone of the [`handle`](Self::handle), and to find
/// or close connections there are [`Governor::connections`](crate::Governor::connections) and
/// [`Governor::drain`](crate::Governor::drain).
///
/// When `drop` or [`close`](Self::close) returns, these are off every scope and back in the arena:
/// the connection's count, its descriptor and streams, its reservations, its idle blocks, its owned
/// leases that are not pinned at the moment, and borrowed leases that were leaked with
/// `mem::forget`. A pinned block comes back at the unpin, one that became
/// [`Bytes`](bytes::Bytes) when the last clone drops.
///
/// [leak]: https://github.com/grpc/grpc-go/issues/7657
#[must_use = "a guard that is dropped closes its connection at once"]
pub struct ConnectionGuard {
    handle: ConnectionHandle,
}

impl ConnectionGuard {
    pub(crate) fn new(handle: ConnectionHandle) -> Self {
        Self { handle }
    }

    /// The connection: everything that can be done with it but for the lease that borrows from this
    /// guard. A clone of it keeps nothing open.
    #[inline(always)]
    pub fn handle(&self) -> &ConnectionHandle {
        &self.handle
    }

    /// Leases a buffer of at least `len` bytes that cannot outlive this guard.
    ///
    /// One atomic step where the connection has an idle block of the size, and no lock. The line
    /// that calls is noted, for reports of what is still out.
    ///
    /// ```compile_fail,E0505
    /// let governor = leasehold::Governor::unlimited();
    /// let guard = governor.inbound().try_admit().unwrap();
    /// let lease = guard.try_lease(4096).unwrap();
    /// drop(guard);
    /// drop(lease);
    /// ```
    ///
    /// # Errors
    ///
    /// If a limit is in the way, or the connection was closed from outside.
    #[inline(always)]
    #[track_caller]
    pub fn try_lease(&self, len: usize) -> Result<Lease<'_>, LeaseError> {
        self.request().try_lease(len)
    }

    /// A lease at a priority, or in the name of another line.
    #[inline(always)]
    pub fn request(&self) -> Request<'_, Self> {
        Request::new(self)
    }

    /// Closes the connection, as dropping the guard does, and returns what came back and what did
    /// not.
    pub fn close(self) -> Reclaimed {
        self.handle.connection().close(Closer::Guard).unwrap_or_default()
    }
}

impl<'g> Request<'g, ConnectionGuard> {
    /// As [`ConnectionGuard::try_lease`].
    ///
    /// # Errors
    ///
    /// If a limit, or the priority's share of one, is in the way, or the connection was closed from
    /// outside.
    #[inline(always)]
    #[track_caller]
    pub fn try_lease(self, len: usize) -> Result<Lease<'g>, LeaseError> {
        let (guard, priority, site) = self.parts();
        Lease::new(guard.handle.connection(), len, priority, site)
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.handle.connection().close(Closer::Guard);
    }
}

impl fmt::Debug for ConnectionGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionGuard").field("id", &self.handle.id()).finish_non_exhaustive()
    }
}
