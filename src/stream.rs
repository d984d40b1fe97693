//! One stream of a connection: its count, and a budget within the connection's.

use std::fmt;
use std::panic::Location;

use crate::connection::{Connection, StreamAccount};
use crate::error::{BindError, LeaseError};
use crate::lease::OwnedLease;
use crate::name::Direction;
use crate::priority::Priority;
use crate::report::StreamUsage;
use crate::reservation::Reservation;
use crate::sync::Arc;

/// A stream, counted until this drops.
///
/// Its leases and reservations are charged to the stream's memory limit first, then to the
/// connection's and those above. They may outlive the stream; they cannot outlive the connection.
/// When the connection closes the stream is off every scope and answers [`LeaseError::Closed`].
///
/// ```
/// use leasehold::{Direction, Governor, Limits, Scope, ScopeLimits};
///
/// let limits = Limits::unlimited().stream(ScopeLimits::unlimited().memory(8 << 10));
/// let governor = Governor::new(limits)?;
/// let guard = governor.inbound().try_admit()?;
/// let stream = guard.try_open_stream(Direction::Inbound)?;
/// let _first = stream.try_lease_owned(4096)?;
/// let _second = stream.try_lease_owned(4096)?;
/// let refused = stream.try_lease_owned(4096).unwrap_err();
/// assert_eq!(refused.refused().unwrap().scope(), Scope::Stream);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a stream guard that is dropped ends the stream's count at once"]
pub struct StreamGuard {
    connection: Arc<Connection>,
    account: Arc<StreamAccount>,
    direction: Direction,
}

impl StreamGuard {
    pub(crate) fn open(
        connection: Arc<Connection>,
        direction: Direction,
    ) -> Result<Self, LeaseError> {
        let account = connection.open_stream(direction)?;
        Ok(Self { connection, account, direction })
    }

    /// Leases a buffer of at least `len` bytes on the stream's budget.
    ///
    /// # Errors
    ///
    /// If a limit is in the way, or the connection is closed.
    #[inline(always)]
    #[track_caller]
    pub fn try_lease_owned(&self, len: usize) -> Result<OwnedLease, LeaseError> {
        OwnedLease::new(
            &self.connection,
            Some(&self.account),
            len,
            Priority::Critical,
            Location::caller(),
        )
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
        let site = Location::caller();
        OwnedLease::new(&self.connection, Some(&self.account), len, priority, site)
    }

    /// Reserves bytes that someone else allocates on the stream's budget.
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
        let account = Some(self.account.clone());
        Reservation::new(self.connection.clone(), account, bytes, priority)
    }

    /// Tells which class the stream belongs to, once negotiation has shown it: the stream, and all
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
        self.connection.bind_stream(&self.account, name)
    }

    /// Which side opened the stream.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// What the stream uses.
    pub fn usage(&self) -> StreamUsage {
        StreamUsage { memory: self.account.in_use() }
    }

    /// Ends the stream's count, as dropping it does.
    pub fn close(self) {}
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.connection.close_stream(&self.account, self.direction);
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
