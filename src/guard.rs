//! The one value that stands for a live connection, and the handle that refers to it.

use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::Location;
use std::pin::pin;
use std::task::Poll;

use crate::connection::{Closer, Connection};
use crate::error::{BindError, Closed, LeaseError, Revoked};
use crate::future;
use crate::lease::{Lease, OwnedLease};
use crate::name::{ConnectionId, Direction, Source};
use crate::priority::Priority;
use crate::registry::Identified;
use crate::report::{ConnectionUsage, Reclaimed};
use crate::reservation::Reservation;
use crate::stream::StreamGuard;
use crate::sync::Arc;

/// A connection that was admitted. Drop it when the connection ends: everything is then back.
///
/// There is one guard for a connection, and it cannot be cloned. Keep it in the task that serves
/// the connection, next to the transport, and never in an `Arc` or a list "for later": whoever
/// holds the guard holds the connection's memory, which is how [grpc-go's xDS server][leak] kept
/// the buffers of every connection it ever accepted. For everyone else there is
/// [`handle`](Self::handle), and to find or close connections there are
/// [`Governor::connections`](crate::Governor::connections) and
/// [`Governor::drain`](crate::Governor::drain).
///
/// When `drop` or [`close`](Self::close) returns, these are off every scope and back in the arena:
/// the connection's count, its descriptor and streams, its reservations, its idle blocks, its owned
/// leases that nobody has pinned at the moment, and borrowed leases that were leaked with
/// `mem::forget`. A pinned block comes back at the unpin, one that became
/// [`Bytes`](bytes::Bytes) when the last clone drops.
///
/// [leak]: https://github.com/grpc/grpc-go/issues/7657
#[must_use = "a guard that is dropped closes its connection at once"]
pub struct ConnectionGuard {
    connection: Arc<Connection>,
}

impl ConnectionGuard {
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        Self { connection }
    }

    /// The connection's id.
    pub fn id(&self) -> ConnectionId {
        ConnectionId(self.connection.id())
    }

    /// A handle for other tasks, request extensions and queues. It keeps nothing open.
    pub fn handle(&self) -> ConnectionHandle {
        ConnectionHandle { connection: self.connection.clone() }
    }

    /// Tells who the peer is, once a handshake has shown it: moves the connection and all it holds
    /// from the transient scope to the peer's, in one step.
    ///
    /// # Errors
    ///
    /// If the peer's limits are in the way, the connection has a peer already, or it is closed.
    /// Nothing has changed then.
    pub fn bind_peer(&self, peer: impl AsRef<[u8]>) -> Result<(), BindError> {
        self.connection.bind(peer.as_ref())
    }

    /// Tells where the connection really comes from, once a PROXY header or a load balancer has
    /// said so: from now on that address counts it, by subnet and by rate, and no longer the one
    /// it was admitted with. Admit what comes from a balancer without an address, or give the
    /// balancer's network no limits, so that the balancer itself is not counted.
    ///
    /// # Errors
    ///
    /// If there are too many connections from there, or too soon, and the allow list does not help;
    /// or the connection is closed. Nothing has changed then.
    pub fn rebind_source(&self, source: impl Into<Source>) -> Result<(), BindError> {
        self.connection.rebind_source(source.into())
    }

    /// Leases a buffer of at least `len` bytes that cannot outlive this guard.
    ///
    /// One atomic step where the connection has an idle block of the size, and no lock. The place
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
        Lease::new(&self.connection, len, Priority::Critical, Location::caller())
    }

    /// As [`try_lease`](Self::try_lease), at a priority. Below the highest it always takes the
    /// locks.
    ///
    /// # Errors
    ///
    /// If a limit, or the priority's share of one, is in the way, or the connection was closed from
    /// outside.
    #[track_caller]
    pub fn try_lease_at(&self, len: usize, priority: Priority) -> Result<Lease<'_>, LeaseError> {
        Lease::new(&self.connection, len, priority, Location::caller())
    }

    /// As [`ConnectionHandle::try_lease_owned`].
    ///
    /// # Errors
    ///
    /// If a limit is in the way, or the connection was closed from outside.
    #[inline(always)]
    #[track_caller]
    pub fn try_lease_owned(&self, len: usize) -> Result<OwnedLease, LeaseError> {
        OwnedLease::new(&self.connection, None, len, Priority::Critical, Location::caller())
    }

    /// As [`try_lease_owned`](Self::try_lease_owned), at a priority. Below the highest it always
    /// takes the locks.
    ///
    /// # Errors
    ///
    /// If a limit, or the priority's share of one, is in the way, or the connection is closed.
    #[track_caller]
    pub fn try_lease_owned_at(
        &self,
        len: usize,
        priority: Priority,
    ) -> Result<OwnedLease, LeaseError> {
        OwnedLease::new(&self.connection, None, len, priority, Location::caller())
    }

    /// As [`ConnectionHandle::try_reserve`].
    ///
    /// # Errors
    ///
    /// If a limit is in the way, or the connection was closed from outside.
    pub fn try_reserve(&self, bytes: u64) -> Result<Reservation, LeaseError> {
        self.try_reserve_at(bytes, Priority::Critical)
    }

    /// As [`try_reserve`](Self::try_reserve), at a priority.
    ///
    /// # Errors
    ///
    /// If a limit, or the priority's share of one, is in the way, or the connection is closed.
    pub fn try_reserve_at(
        &self,
        bytes: u64,
        priority: Priority,
    ) -> Result<Reservation, LeaseError> {
        Reservation::new(self.connection.clone(), None, bytes, priority)
    }

    /// As [`ConnectionHandle::try_open_stream`].
    ///
    /// # Errors
    ///
    /// If a limit is in the way, or the connection was closed from outside.
    pub fn try_open_stream(&self, direction: Direction) -> Result<StreamGuard, LeaseError> {
        StreamGuard::open(self.connection.clone(), direction)
    }

    /// Resolves when the connection is closed, from outside or by this guard.
    pub fn revoked(&self) -> future::Revoked {
        future::Revoked::new(self.connection.clone())
    }

    /// Runs `work` until it is done, or the connection is closed from outside.
    ///
    /// Work that is done answers for itself even if the connection was closed meanwhile: what it
    /// met then (a [`LeaseError::Closed`], say) is its own result.
    ///
    /// # Errors
    ///
    /// If the connection was closed first. `work` is dropped then.
    pub async fn until_revoked<F: Future>(&self, work: F) -> Result<F::Output, Revoked> {
        let mut work = pin!(work);
        let mut revoked = self.revoked();
        poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Ok(done));
            }
            std::pin::Pin::new(&mut revoked).poll(context).map(|()| Err(Revoked))
        })
        .await
    }

    /// What the connection uses.
    pub fn usage(&self) -> ConnectionUsage {
        self.connection.usage_now()
    }

    /// Gives the connection's idle blocks back, and answers how many bytes that was: for before a
    /// long wait.
    pub fn trim(&self) -> u64 {
        self.connection.trim()
    }

    /// Closes the connection, as dropping the guard does, and tells what came back and what did
    /// not.
    pub fn close(self) -> Reclaimed {
        self.connection.close(Closer::Guard).unwrap_or_default()
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.connection.close(Closer::Guard);
    }
}

impl fmt::Debug for ConnectionGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionGuard").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// Refers to a connection without keeping it open.
///
/// After the connection is closed everything it is asked answers [`Closed`], and all it keeps is
/// the connection's empty record, at most 512 bytes.
#[derive(Clone)]
pub struct ConnectionHandle {
    connection: Arc<Connection>,
}

impl ConnectionHandle {
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        Self { connection }
    }

    /// The connection's id.
    pub fn id(&self) -> ConnectionId {
        ConnectionId(self.connection.id())
    }

    /// Leases a buffer of at least `len` bytes that any task may keep, and that a close revokes.
    ///
    /// # Errors
    ///
    /// If a limit is in the way, or the connection is closed.
    #[inline(always)]
    #[track_caller]
    pub fn try_lease_owned(&self, len: usize) -> Result<OwnedLease, LeaseError> {
        OwnedLease::new(&self.connection, None, len, Priority::Critical, Location::caller())
    }

    /// As [`try_lease_owned`](Self::try_lease_owned), at a priority. Below the highest it always
    /// takes the locks.
    ///
    /// # Errors
    ///
    /// If a limit, or the priority's share of one, is in the way, or the connection is closed.
    #[track_caller]
    pub fn try_lease_owned_at(
        &self,
        len: usize,
        priority: Priority,
    ) -> Result<OwnedLease, LeaseError> {
        OwnedLease::new(&self.connection, None, len, priority, Location::caller())
    }

    /// Charges bytes that someone else allocates.
    ///
    /// # Errors
    ///
    /// If a limit is in the way, or the connection is closed.
    pub fn try_reserve(&self, bytes: u64) -> Result<Reservation, LeaseError> {
        self.try_reserve_at(bytes, Priority::Critical)
    }

    /// As [`try_reserve`](Self::try_reserve), at a priority.
    ///
    /// # Errors
    ///
    /// If a limit, or the priority's share of one, is in the way, or the connection is closed.
    pub fn try_reserve_at(
        &self,
        bytes: u64,
        priority: Priority,
    ) -> Result<Reservation, LeaseError> {
        Reservation::new(self.connection.clone(), None, bytes, priority)
    }

    /// Counts one more stream.
    ///
    /// # Errors
    ///
    /// If a limit is in the way, or the connection is closed.
    pub fn try_open_stream(&self, direction: Direction) -> Result<StreamGuard, LeaseError> {
        StreamGuard::open(self.connection.clone(), direction)
    }

    /// Resolves when the connection is closed.
    pub fn revoked(&self) -> future::Revoked {
        future::Revoked::new(self.connection.clone())
    }

    /// What the connection uses.
    ///
    /// # Errors
    ///
    /// If the connection is closed.
    pub fn usage(&self) -> Result<ConnectionUsage, Closed> {
        self.connection.usage()
    }

    /// Whether the connection is closed.
    pub fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// Closes the connection from outside: its memory comes back, everything new is refused, and
    /// [`ConnectionGuard::revoked`] resolves. What it counts for (connection, descriptor, streams)
    /// stays until its guard drops, since only the guard's owner can close the transport.
    ///
    /// # Errors
    ///
    /// If the connection is closed already.
    pub fn close(&self) -> Result<Reclaimed, Closed> {
        self.connection.close(Closer::Outside).ok_or(Closed)
    }
}

impl fmt::Debug for ConnectionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionHandle")
            .field("id", &self.id())
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}
