//! How a connection comes in.

use std::fmt;
use std::panic::Location;

use crate::connection::{Connection, Shared, Terms};
use crate::error::{AdmitError, NameTooLong};
use crate::governed::Governed;
use crate::guard::ConnectionGuard;
use crate::handle::ConnectionHandle;
use crate::name::{Direction, PeerKey, Source};
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
///     let Ok(socket) = governor.inbound().try_govern(socket) else { continue };
///     // serve the socket, whose guard is in the same value
/// }
/// # Ok::<(), leasehold::ConfigError>(())
/// ```
#[must_use = "an admission does nothing until it is tried"]
pub struct Admission<'a> {
    shared: &'a Arc<Shared>,
    terms: Terms<'a>,
    peer: Result<Option<PeerKey>, NameTooLong>,
}

impl<'a> Admission<'a> {
    pub(crate) fn new(shared: &'a Arc<Shared>, direction: Direction) -> Self {
        let terms = Terms { direction, fd: true, weight_bytes: 0, source: None, class: None };
        Self { shared, terms, peer: Ok(None) }
    }

    /// Where the connection comes from or goes to.
    pub fn remote(mut self, source: impl Into<Source>) -> Self {
        self.terms.source = Some(source.into());
        self
    }

    /// The peer, where it is known beforehand. The connection is then never transient.
    ///
    /// The key is text, bytes, an address or a [`PeerKey`]. One that is too long is an error of the
    /// call that tries the admission.
    pub fn peer(mut self, peer: impl TryInto<PeerKey, Error: Into<NameTooLong>>) -> Self {
        if self.peer.is_ok() {
            self.peer = peer.try_into().map(Some).map_err(Into::into);
        }
        self
    }

    /// Which class the connection belongs to: a listener, a protocol, a service. The name is the
    /// program's own, never a remote peer's.
    pub fn class(mut self, name: &'a str) -> Self {
        self.terms.class = Some(name);
        self
    }

    /// The connection takes no file descriptor: it is multiplexed over a shared socket.
    pub fn without_fd(mut self) -> Self {
        self.terms.fd = false;
        self
    }

    /// Bytes that the transport itself allocates for the connection. They are reserved together
    /// with the admission, for as long as the connection is open.
    pub fn weight(mut self, bytes: u64) -> Self {
        self.terms.weight_bytes = bytes;
        self
    }

    /// Admits a connection that has no transport yet, or refuses it.
    ///
    /// Prefer [`try_govern`](Self::try_govern), which closes a refused transport, and drops the
    /// transport before the guard.
    ///
    /// # Errors
    ///
    /// If a limit is in the way, or a name is too long. Nothing is charged then.
    #[track_caller]
    pub fn try_admit(self) -> Result<ConnectionGuard, AdmitError> {
        self.admit(Location::caller())
    }

    /// Admits the connection and puts its transport beside the guard, or refuses it and closes the
    /// transport, by dropping it.
    ///
    /// # Errors
    ///
    /// As [`try_admit`](Self::try_admit).
    #[track_caller]
    pub fn try_govern<T>(self, transport: T) -> Result<Governed<T>, AdmitError> {
        self.try_govern_or_else(transport, |transport, _| drop(transport))
    }

    /// As [`try_govern`](Self::try_govern), for a transport that dropping does not close (quinn's,
    /// say), or that a refusal is first written to: it goes to `on_refuse`, by value, and is dropped
    /// there if it is not moved on.
    ///
    /// # Errors
    ///
    /// As [`try_admit`](Self::try_admit).
    #[track_caller]
    pub fn try_govern_or_else<T>(
        self,
        transport: T,
        on_refuse: impl FnOnce(T, &AdmitError),
    ) -> Result<Governed<T>, AdmitError> {
        match self.admit(Location::caller()) {
            Ok(guard) => Ok(Governed::new(transport, guard)),
            Err(error) => {
                on_refuse(transport, &error);
                Err(error)
            }
        }
    }

    fn admit(self, site: &'static Location<'static>) -> Result<ConnectionGuard, AdmitError> {
        let peer = self.peer?;
        let peer = peer.as_ref().map(PeerKey::as_bytes);
        let connection = Connection::admit(self.shared, self.terms, peer, site)?;
        Ok(ConnectionGuard::new(ConnectionHandle::new(connection)))
    }
}

impl fmt::Debug for Admission<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission")
            .field("direction", &self.terms.direction)
            .field("source", &self.terms.source)
            .finish_non_exhaustive()
    }
}
