//! Futures with names, so that they can be stored. All are `Send + Unpin`; dropping one cancels it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::connection::Connection;
use crate::sync::Arc;

/// Resolves when a connection closes, from outside or by its guard.
///
/// Made by [`ConnectionGuard::revoked`](crate::ConnectionGuard::revoked) and
/// [`ConnectionHandle::revoked`](crate::ConnectionHandle::revoked).
#[must_use = "futures do nothing unless polled"]
pub struct Revoked {
    connection: Arc<Connection>,
    /// Under which the waker is registered.
    waker: Option<u64>,
}

impl Revoked {
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        Self { connection, waker: None }
    }
}

impl Future for Revoked {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Self { connection, waker } = &mut *self;
        if connection.poll_closed(waker, context.waker()) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Revoked {
    fn drop(&mut self) {
        if let Some(key) = self.waker {
            self.connection.forget_waker(key);
        }
    }
}

impl fmt::Debug for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revoked").field("closed", &self.connection.is_closed()).finish()
    }
}
