//! Budget for bytes that other code allocates: QUIC windows, yamux and HTTP/2 buffers.

use std::fmt;
use std::panic::Location;
use std::time::Duration;

use crate::connection::{Connection, StreamAccount};
use crate::error::LeaseError;
use crate::priority::Priority;
use crate::sync::Arc;

/// Bytes charged to a connection and every scope above it, until this drops.
///
/// When the connection closes its reservations are off every scope; this value then returns
/// [`LeaseError::Closed`] and its drop changes nothing. To make it, to resize it and to drop it each
/// takes the connection's mutex and, for a moment, the one lock of all scopes.
///
/// ```
/// use leasehold::{Governor, Limits, ScopeLimits};
///
/// let limits = Limits::unlimited().connection(ScopeLimits::unlimited().memory(1 << 20));
/// let governor = Governor::new(limits)?;
/// let guard = governor.inbound().try_admit()?;
/// let mut window = guard.handle().try_reserve(256 << 10)?;
/// window.resize(512 << 10)?;
/// let refused = window.resize(2 << 20).unwrap_err();
/// assert_eq!(refused.refused().unwrap().in_use(), 512 << 10);
/// assert_eq!(window.bytes(), 512 << 10);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a reservation that is dropped goes back at once"]
pub struct Reservation {
    connection: Arc<Connection>,
    account: Option<Arc<StreamAccount>>,
    bytes: u64,
    priority: Priority,
    site: &'static Location<'static>,
    tick: u32,
}

impl Reservation {
    pub(crate) fn new(
        connection: Arc<Connection>,
        account: Option<Arc<StreamAccount>>,
        bytes: u64,
        priority: Priority,
        site: &'static Location<'static>,
    ) -> Result<Self, LeaseError> {
        connection.reserve(account.as_deref(), bytes, priority)?;
        let tick = connection.hot().tick();
        Ok(Self { connection, account, bytes, priority, site, tick })
    }

    /// How much is reserved.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where the program made it.
    pub fn site(&self) -> &'static Location<'static> {
        self.site
    }

    /// How long ago that was, to within the coarse clock's step.
    pub fn age(&self) -> Duration {
        self.connection.hot().age(self.tick)
    }

    /// Reserves more or less, at the same priority. On an error nothing changes.
    ///
    /// # Errors
    ///
    /// If a limit is in the way of the difference, or the connection is closed.
    pub fn resize(&mut self, bytes: u64) -> Result<(), LeaseError> {
        let account = self.account.as_deref();
        if bytes > self.bytes {
            self.connection.reserve(account, bytes - self.bytes, self.priority)?;
        } else {
            self.connection.check_open()?;
            self.connection.unreserve(account, self.bytes - bytes);
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.connection.unreserve(self.account.as_deref(), self.bytes);
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("bytes", &self.bytes)
            .field("site", &self.site)
            .finish_non_exhaustive()
    }
}
