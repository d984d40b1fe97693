//! Futures with names, so that they can be stored. All are `Send + Unpin`; dropping one cancels it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::connection::{Connection, WakerKey};
use crate::sync::Arc;

/// Resolves when a connection closes, from outside or by its guard.
///
/// Made by [`ConnectionHandle::revoked`](crate::ConnectionHandle::revoked).
#[must_use = "futures do nothing unless polled"]
pub struct Revocation {
    connection: Arc<Connection>,
    /// Under which the waker is registered.
    waker: Option<WakerKey>,
}

impl Revocation {
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        Self { connection, waker: None }
    }
}

impl Future for Revocation {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Self { connection, waker } = &mut *self;
        if connection.poll_closed(waker, context.waker()) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Revocation {
    fn drop(&mut self) {
        if let Some(key) = self.waker {
            self.connection.forget_waker(key);
        }
    }
}

impl fmt::Debug for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocation").field("closed", &self.connection.is_closed()).finish()
    }
}
