//! A transport and its guard, which end in the right order.

use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};

use crate::guard::ConnectionGuard;
use crate::handle::ConnectionHandle;

/// A transport with the guard of its connection. Dereferences to the transport.
///
/// The transport always drops before the guard, so that a connection counts for as long as its
/// socket is open. Two plain variables would not do: `let (socket, guard) = …` drops the guard
/// first, and the governor then counts nothing while the socket still is open.
///
/// Made by [`Admission::try_govern`](crate::Admission::try_govern) and
/// [`Admission::try_govern_or_else`](crate::Admission::try_govern_or_else).
///
/// ```
/// use leasehold::Governor;
///
/// # struct Socket;
/// # impl Socket { fn read(&mut self, _: &mut impl bytes::BufMut) {} }
/// # struct Tls(Socket);
/// # async fn handshake(socket: Socket) -> Result<Tls, leasehold::LeaseError> { Ok(Tls(socket)) }
/// # async fn serve(socket: Socket) -> Result<(), Box<dyn std::error::Error>> {
/// let governor = Governor::unlimited();
/// let mut socket = governor.inbound().try_govern(socket)?;
/// socket.handle().bind_peer("alice")?;
///
/// // Both at once: a lease borrows from the guard while the transport reads.
/// let (transport, guard) = socket.split_mut();
/// let mut lease = guard.try_lease(4096)?;
/// transport.read(&mut lease);
/// drop(lease);
///
/// // A handshake that fails, panics or is cancelled closes the socket, then the guard.
/// let tls = socket.try_map(handshake).await?;
/// # drop(tls);
/// # Ok(())
/// # }
/// ```
#[must_use = "a governed transport that is dropped closes its connection at once"]
pub struct Governed<T> {
    // Fields drop in this order. They are private, for a pattern or a closure that takes only one
    // of them would drop the guard first.
    transport: T,
    guard: ConnectionGuard,
}

impl<T> Governed<T> {
    pub(crate) fn new(transport: T, guard: ConnectionGuard) -> Self {
        Self { transport, guard }
    }

    /// The connection's guard.
    pub fn guard(&self) -> &ConnectionGuard {
        &self.guard
    }

    /// The connection, as [`ConnectionGuard::handle`] lends it.
    pub fn handle(&self) -> &ConnectionHandle {
        self.guard.handle()
    }

    /// The transport and the guard at the same time.
    pub fn split_mut(&mut self) -> (&mut T, &ConnectionGuard) {
        (&mut self.transport, &self.guard)
    }

    /// Replaces the transport by what `wrap` makes of it.
    pub fn map<U>(self, wrap: impl FnOnce(T) -> U) -> Governed<U> {
        // The guard is a local of this call, which `wrap` and the transport in it never outlive.
        let Self { transport, guard } = self;
        Governed { transport: wrap(transport), guard }
    }

    /// Replaces the transport by what a future makes of it: a handshake, say.
    ///
    /// # Errors
    ///
    /// As the future's. The future and the transport in it have then been dropped before the guard;
    /// the same holds if the future panics, or is dropped before it is done. Only a transport
    /// inside the error outlives the guard.
    pub async fn try_map<U, E, F>(self, wrap: impl FnOnce(T) -> F) -> Result<Governed<U>, E>
    where
        F: Future<Output = Result<U, E>>,
    {
        let Self { transport, guard } = self;
        // The future is a temporary of this statement, and the guard drops after it.
        let wrapped = wrap(transport).await;
        Ok(Governed { transport: wrapped?, guard })
    }

    /// Takes the two apart: the guard first, for local variables drop last to first.
    ///
    /// ```
    /// # let governor = leasehold::Governor::unlimited();
    /// # let governed = governor.inbound().try_govern(()).unwrap();
    /// let (guard, transport) = governed.into_parts();
    /// ```
    ///
    /// To keep them together, put them into a struct with the transport's field before the guard's:
    /// fields, those of the tuple too, drop first to last.
    pub fn into_parts(self) -> (ConnectionGuard, T) {
        let Self { transport, guard } = self;
        (guard, transport)
    }
}

impl<T> Deref for Governed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.transport
    }
}

impl<T> DerefMut for Governed<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.transport
    }
}

impl<T: fmt::Debug> fmt::Debug for Governed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Governed")
            .field("transport", &self.transport)
            .field("guard", &self.guard)
            .finish()
    }
}
