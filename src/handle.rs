//! A reference to a connection, and all that can be done with one.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use crate::connection::{Closer, Connection};
use crate::error::{BindError, Closed, LeaseError, NameTooLong};
use crate::future::Revocation;
use crate::lease::OwnedLease;
use crate::name::{ConnectionId, PeerKey, Source};
use crate::registry::Registered;
use crate::report::{ConnectionUsage, Reclaimed};
use crate::request::Request;
use crate::reservation::Reservation;
use crate::sync::Arc;

/// Refers to a connection without keeping it open: for other tasks, request extensions and queues.
///
/// [`ConnectionGuard::handle`](crate::ConnectionGuard::handle) and
/// [`StreamGuard::handle`](crate::StreamGuard::handle) lend it, and a clone costs one reference
/// count. After the connection is closed everything that is requested returns [`Closed`], and all
/// that a handle keeps is the connection's empty record, at most 512 bytes.
///
/// ```
/// use leasehold::{Closed, Governor};
///
/// let governor = Governor::unlimited();
/// let guard = governor.inbound().try_admit()?;
/// let handle = guard.handle().clone();
/// handle.bind_peer("alice")?;
/// let _lease = handle.try_lease_owned(4096)?;
/// assert_eq!(handle.usage()?.leased_bytes, 4096);
/// drop(guard);
/// assert_eq!(handle.usage(), Err(Closed));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct ConnectionHandle {
    connection: Arc<Connection>,
}

impl ConnectionHandle {
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        Self { connection }
    }

    #[inline(always)]
    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// The connection's id.
    pub fn id(&self) -> ConnectionId {
        self.connection.id()
    }

    /// Leases a buffer of at least `len` bytes that any task may keep, and that a close revokes.
    ///
    /// One atomic step where the connection has an idle block of the size, and no lock. The line
    /// that calls is noted, for reports of what is still out.
    ///
    /// # Errors
    ///
    /// If a limit is in the way, or the connection is closed.
    #[inline(always)]
    #[track_caller]
    pub fn try_lease_owned(&self, len: usize) -> Result<OwnedLease, LeaseError> {
        self.request().try_lease_owned(len)
    }

    /// Charges bytes that other code allocates. The line that calls is noted.
    ///
    /// # Errors
    ///
    /// If a limit is in the way, or the connection is closed.
    #[track_caller]
    pub fn try_reserve(&self, bytes: u64) -> Result<Reservation, LeaseError> {
        self.request().try_reserve(bytes)
    }

    /// A lease, a reservation or a stream at a priority, or in the name of another line.
    #[inline(always)]
    pub fn request(&self) -> Request<'_, Self> {
        Request::new(self)
    }

    /// Binds the connection to its peer, once a handshake has shown which it is: moves the
    /// connection and all it holds from the transient scope to the peer's, in one step.
    ///
    /// The key is text, bytes, an address or a [`PeerKey`].
    ///
    /// # Errors
    ///
    /// If the peer's limits are in the way, the connection has a peer already, or it is closed.
    /// Nothing has changed then.
    pub fn bind_peer(
        &self,
        peer: impl TryInto<PeerKey, Error: Into<NameTooLong>>,
    ) -> Result<(), BindError> {
        let peer = peer.try_into().map_err(Into::into)?;
        self.connection.bind(peer.as_bytes())
    }

    /// Sets where the connection really comes from, once a PROXY header or a load balancer has
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

    /// Resolves when the connection is closed, from outside or by its guard.
    pub fn revoked(&self) -> Revocation {
        Revocation::new(self.connection.clone())
    }

    /// Runs `work` until it is done, or the connection is closed.
    ///
    /// Work that is done returns its own result even if the connection was closed meanwhile: what
    /// it met then (a [`LeaseError::Closed`], say) is in there.
    ///
    /// # Errors
    ///
    /// If the connection was closed first. `work` is dropped then.
    pub async fn until_revoked<F: Future>(&self, work: F) -> Result<F::Output, Closed> {
        let mut work = pin!(work);
        let mut revoked = self.revoked();
        poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Ok(done));
            }
            Pin::new(&mut revoked).poll(context).map(|()| Err(Closed))
        })
        .await
    }

    /// What the connection uses.
    ///
    /// # Errors
    ///
    /// If the connection is closed.
    pub fn usage(&self) -> Result<ConnectionUsage, Closed> {
        self.connection.usage()
    }

    /// Gives the connection's idle blocks back, and returns how many bytes that was: for before a
    /// long wait.
    pub fn trim(&self) -> u64 {
        self.connection.trim()
    }

    /// Whether the connection is closed.
    pub fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// Closes the connection from outside: its memory comes back, everything new is refused, and
    /// [`revoked`](Self::revoked) resolves. What it counts for (connection, descriptor, streams)
    /// stays until its guard drops, since only the guard's owner can close the transport.
    ///
    /// # Errors
    ///
    /// If the connection is closed already.
    pub fn close(&self) -> Result<Reclaimed, Closed> {
        self.connection.close(Closer::Outside).ok_or(Closed)
    }
}

impl Request<'_, ConnectionHandle> {
    /// As [`ConnectionHandle::try_lease_owned`].
    ///
    /// # Errors
    ///
    /// If a limit, or the priority's share of one, is in the way, or the connection is closed.
    #[inline(always)]
    #[track_caller]
    pub fn try_lease_owned(self, len: usize) -> Result<OwnedLease, LeaseError> {
        let (handle, priority, site) = self.parts();
        OwnedLease::new(&handle.connection, None, len, priority, site)
    }

    /// As [`ConnectionHandle::try_reserve`].
    ///
    /// # Errors
    ///
    /// If a limit, or the priority's share of one, is in the way, or the connection is closed.
    #[track_caller]
    pub fn try_reserve(self, bytes: u64) -> Result<Reservation, LeaseError> {
        let (handle, priority, site) = self.parts();
        Reservation::new(handle.connection.clone(), None, bytes, priority, site)
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
