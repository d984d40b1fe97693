//! How a connection comes in.

use std::fmt;
use std::panic::Location;

use crate::connection::{Connection, Shared, Terms};
use crate::error::{AdmitError, NameTooLong};
use crate::guard::ConnectionGuard;
use crate::name::{Direction, MAX_NAME_BYTES, Source};
use crate::sync::Arc;

/// A connection that asks to be admitted. Made by [`Governor::inbound`](crate::Governor::inbound)
/// and [`Governor::outbound`](crate::Governor::outbound).
///
/// Ask before the transport allocates anything for the connection, and hand the transport over:
///
/// ```
/// use leasehold::{Governor, Limits, ScopeLimits};
///
/// # struct Socket;
/// # fn accept() -> Socket { Socket }
/// let governor = Governor::new(Limits::unlimited().system(
///     ScopeLimits::unlimited().connections(1),
/// ))?;
/// for _ in 0..3 {
///     let socket = accept();
///     // A refusal closes the socket, and does not end the loop.
///     let Ok((socket, guard)) = governor.inbound().try_admit_with(socket, |_, _| ()) else {
///         continue;
///     };
///     // serve the socket under its guard
/// }
/// # Ok::<(), leasehold::ConfigError>(())
/// ```
#[must_use = "an admission does nothing until it is tried"]
pub struct Admission<'a> {
    shared: &'a Arc<Shared>,
    direction: Direction,
    fd: bool,
    weight_bytes: u64,
    source: Option<Source>,
    peer: Result<Option<Box<[u8]>>, NameTooLong>,
    class: Option<&'a str>,
}

impl<'a> Admission<'a> {
    pub(crate) fn new(shared: &'a Arc<Shared>, direction: Direction) -> Self {
        Self {
            shared,
            direction,
            fd: true,
            weight_bytes: 0,
            source: None,
            peer: Ok(None),
            class: None,
        }
    }

    /// Where the connection comes from or goes to.
    pub fn remote(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Who the peer is, where that is known beforehand. The connection is then never transient.
    pub fn peer(mut self, peer: impl AsRef<[u8]>) -> Self {
        let peer = peer.as_ref();
        if peer.len() > MAX_NAME_BYTES {
            self.peer = Err(NameTooLong { len: peer.len() });
        } else if let Ok(known) = &mut self.peer {
            *known = Some(peer.into());
        }
        self
    }

    /// Which class the connection belongs to: a listener, a protocol, a service. The name is the
    /// program's own, never a remote peer's.
    pub fn class(mut self, name: &'a str) -> Self {
        self.class = Some(name);
        self
    }

    /// The connection takes no file descriptor: it is multiplexed over a shared socket.
    pub fn without_fd(mut self) -> Self {
        self.fd = false;
        self
    }

    /// Bytes that the transport itself allocates for the connection. They are reserved together
    /// with the admission, for as long as the connection is open.
    pub fn weight(mut self, bytes: u64) -> Self {
        self.weight_bytes = bytes;
        self
    }

    /// Admits the connection, or refuses it.
    ///
    /// Prefer [`try_admit_with`](Self::try_admit_with), which does not let a refused transport
    /// stay open.
    ///
    /// # Errors
    ///
    /// If a limit is in the way, or a name is too long. Nothing is charged then.
    #[track_caller]
    pub fn try_admit(self) -> Result<ConnectionGuard, AdmitError> {
        self.admit(Location::caller())
    }

    /// Admits the connection and gives its transport back with the guard, or refuses it and closes
    /// the transport: it goes to `on_refuse`, by value, and is dropped there if it is not moved on.
    ///
    /// # Errors
    ///
    /// As [`try_admit`](Self::try_admit).
    #[track_caller]
    pub fn try_admit_with<T>(
        self,
        transport: T,
        on_refuse: impl FnOnce(T, &AdmitError),
    ) -> Result<(T, ConnectionGuard), AdmitError> {
        match self.admit(Location::caller()) {
            Ok(guard) => Ok((transport, guard)),
            Err(error) => {
                on_refuse(transport, &error);
                Err(error)
            }
        }
    }

    fn admit(self, site: &'static Location<'static>) -> Result<ConnectionGuard, AdmitError> {
        let peer = self.peer?;
        let terms = Terms {
            direction: self.direction,
            fd: self.fd,
            weight_bytes: self.weight_bytes,
            source: self.source,
            peer: peer.as_deref(),
            class: self.class,
            site,
        };
        Connection::admit(self.shared, terms).map(ConnectionGuard::new)
    }
}

impl fmt::Debug for Admission<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission")
            .field("direction", &self.direction)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}
