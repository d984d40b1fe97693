//! One stream of a connection: its count, and a budget within the connection's.

use std::fmt;
use std::panic::Location;
use std::time::Duration;

use crate::connection::StreamAccount;
use crate::error::{BindError, LeaseError};
use crate::handle::ConnectionHandle;
use crate::lease::OwnedLease;
use crate::name::Direction;
use crate::report::StreamUsage;
use crate::request::Request;
use crate::reservation::Reservation;
use crate::sync::Arc;

/// A stream, counted until this drops.
///
/// Its leases and reservations are charged to the stream's memory limit first, then to the
/// connection's and those above. They may outlive the stream. When the connection closes they are
/// taken back like any others of it, and the stream returns [`LeaseError::Closed`]. The stream's count
/// goes with this value or with the connection's guard, whichever drops first: a close from outside
/// leaves it.
///
/// ```
/// use leasehold::{Direction, Governor, Limits, Scope, ScopeLimits};
///
/// let limits = Limits::unlimited().stream(ScopeLimits::unlimited().memory(8 << 10));
/// let governor = Governor::new(limits)?;
/// let guard = governor.inbound().try_admit()?;
/// let stream = guard.handle().try_open_stream(Direction::Inbound)?;
/// let _first = stream.try_lease_owned(4096)?;
/// let _second = stream.try_lease_owned(4096)?;
/// let refused = stream.try_lease_owned(4096).unwrap_err();
/// assert_eq!(refused.refused().unwrap().scope(), Scope::Stream);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a stream guard that is dropped ends the stream's count at once"]
pub struct StreamGuard {
    handle: ConnectionHandle,
    account: Arc<StreamAccount>,
    direction: Direction,
    site: &'static Location<'static>,
    tick: u32,
}

impl ConnectionHandle {
    /// Counts one more stream. The line that calls is noted.
    ///
    /// # Errors
    ///
    /// If a limit is in the way, or the connection is closed.
    #[track_caller]
    pub fn try_open_stream(&self, direction: Direction) -> Result<StreamGuard, LeaseError> {
        self.request().try_open_stream(direction)
    }
}

impl Request<'_, ConnectionHandle> {
    /// As [`ConnectionHandle::try_open_stream`]. A stream uses no memory yet, so that the priority
    /// makes no difference.
    ///
    /// # Errors
    ///
    /// If a limit is in the way, or the connection is closed.
    #[track_caller]
    pub fn try_open_stream(self, direction: Direction) -> Result<StreamGuard, LeaseError> {
        let (handle, _, site) = self.parts();
        let account = handle.connection().open_stream(direction, site)?;
        let tick = handle.connection().hot().tick();
        Ok(StreamGuard { handle: handle.clone(), account, direction, site, tick })
    }
}

impl StreamGuard {
    /// The connection that the stream is part of, which tells its end too.
    pub fn handle(&self) -> &ConnectionHandle {
        &self.handle
    }

    /// Leases a buffer of at least `len` bytes on the stream's budget.
    ///
    /// # Errors
    ///
    /// If a limit is in the way, or the connection is closed.
    #[inline(always)]
    #[track_caller]
    pub fn try_lease_owned(&self, len: usize) -> Result<OwnedLease, LeaseError> {
        self.request().try_lease_owned(len)
    }

    /// Charges bytes that other code allocates on the stream's budget.
    ///
    /// # Errors
    ///
    /// If a limit is in the way, or the connection is closed.
    #[track_caller]
    pub fn try_reserve(&self, bytes: u64) -> Result<Reservation, LeaseError> {
        self.request().try_reserve(bytes)
    }

    /// A lease or a reservation at a priority, or in the name of another line.
    #[inline(always)]
    pub fn request(&self) -> Request<'_, Self> {
        Request::new(self)
    }

    /// Binds the stream to its class, once negotiation has shown which that is: the stream, and all
    /// it holds now and later, is charged to that class and to the peer's part of it, besides all
    /// else. If it is the connection's own class, it is charged there already.
    ///
    /// From then on each lease on the stream takes the locks, for its class has to be charged.
    ///
    /// # Errors
    ///
    /// If the class's limits are in the way, the stream has a class already, or the connection is
    /// closed. Nothing has changed then.
    pub fn bind_class(&self, name: &str) -> Result<(), BindError> {
        self.handle.connection().bind_stream(&self.account, name)
    }

    /// Which side opened the stream.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// Where the program opened it.
    pub fn site(&self) -> &'static Location<'static> {
        self.site
    }

    /// How long ago that was, to within the coarse clock's step.
    pub fn age(&self) -> Duration {
        self.handle.connection().hot().age(self.tick)
    }

    /// What the stream uses.
    pub fn usage(&self) -> StreamUsage {
        StreamUsage { memory: self.account.in_use() }
    }

    /// Ends the stream's count, as dropping it does.
    pub fn close(self) {}
}

impl Request<'_, StreamGuard> {
    /// As [`StreamGuard::try_lease_owned`].
    ///
    /// # Errors
    ///
    /// If a limit, or the priority's share of one, is in the way, or the connection is closed.
    #[inline(always)]
    #[track_caller]
    pub fn try_lease_owned(self, len: usize) -> Result<OwnedLease, LeaseError> {
        let (stream, priority, site) = self.parts();
        OwnedLease::new(stream.handle.connection(), Some(&stream.account), len, priority, site)
    }

    /// As [`StreamGuard::try_reserve`].
    ///
    /// # Errors
    ///
    /// If a limit, or the priority's share of one, is in the way, or the connection is closed.
    #[track_caller]
    pub fn try_reserve(self, bytes: u64) -> Result<Reservation, LeaseError> {
        let (stream, priority, site) = self.parts();
        let connection = stream.handle.connection().clone();
        Reservation::new(connection, Some(stream.account.clone()), bytes, priority, site)
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.handle.connection().close_stream(&self.account, self.direction);
    }
}

impl fmt::Debug for StreamGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamGuard")
            .field("direction", &self.direction)
            .field("usage", &self.usage())
            .finish_non_exhaustive()
    }
}
