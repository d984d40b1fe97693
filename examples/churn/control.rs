//! Memory without a governor: no client is refused, and a buffer lives as long as a value refers to
//! it.
//!
//! This is how such a server is usually written. The counters are here only so that the table can
//! show both runs in the same terms.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::backing::{Audit, Backing, Connection, Door, Handle, Kept, Stop, Totals};
use crate::server::Hoard;

/// Memory straight from the allocator.
#[derive(Default)]
pub struct Control {
    books: Arc<Books>,
}

impl Backing for Control {
    type Connection = PlainConnection;

    fn admit(
        &self,
        _door: Door,
        _remote: SocketAddr,
        socket: TcpStream,
    ) -> Option<(PlainConnection, TcpStream)> {
        let connection = PlainConnection { switch: Arc::default(), books: self.books.clone() };
        Some((connection, socket))
    }

    /// What grpc-go kept its list for.
    fn drain(&self, hoard: &Hoard<PlainConnection>) {
        for session in hoard.lock().iter() {
            session.handle.end.notify_one();
        }
    }

    fn totals(&self) -> Totals {
        let outstanding_bytes = self.books.hoarded_bytes.load(Ordering::Relaxed);
        let leased_bytes = self.books.allocated_bytes.load(Ordering::Relaxed);
        // A buffer outside the hoard is freed before its frame is over.
        Totals { leased_bytes, returned_bytes: leased_bytes - outstanding_bytes, outstanding_bytes }
    }

    fn audit(&self) -> Audit {
        Audit::default()
    }
}

/// One connection, whose buffers are its own business.
pub struct PlainConnection {
    switch: Arc<Switch>,
    books: Arc<Books>,
}

impl Connection for PlainConnection {
    type Handle = Arc<Switch>;
    type Frame<'c> = BytesMut;
    type Kept = PlainKept;
    type Window = ();

    fn handle(&self) -> Arc<Switch> {
        self.switch.clone()
    }

    fn bind_peer(&self, _name: &[u8]) -> Result<(), Stop> {
        Ok(())
    }

    fn reserve(&self, _bytes: u64) -> Result<(), Stop> {
        Ok(())
    }

    fn lease(&self, len: usize) -> Result<BytesMut, Stop> {
        self.books.allocated_bytes.fetch_add(len as u64, Ordering::Relaxed);
        Ok(BytesMut::with_capacity(len))
    }

    fn lease_owned(&self, len: usize) -> Result<PlainKept, Stop> {
        Ok(self.keep(self.lease(len)?))
    }

    fn keep(&self, frame: BytesMut) -> PlainKept {
        PlainKept::new(frame, self.books.clone())
    }

    fn freeze(&self, frame: BytesMut) -> Bytes {
        frame.freeze()
    }

    async fn until_revoked<F>(&self, work: F) -> Option<F::Output>
    where
        F: Future + Send,
        F::Output: Send,
    {
        tokio::select! {
            output = work => Some(output),
            () = self.switch.end.notified() => None,
        }
    }
}

impl Drop for PlainConnection {
    fn drop(&mut self) {
        self.switch.closed.store(true, Ordering::Release);
    }
}

/// Ends a connection from outside.
#[derive(Default)]
pub struct Switch {
    end: Notify,
    closed: AtomicBool,
}

impl Handle for Arc<Switch> {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

/// A buffer that goes into the hoard.
pub struct PlainKept {
    bytes: BytesMut,
    /// `BytesMut` forgets the part of its capacity that has been consumed.
    allocated_bytes: u64,
    books: Arc<Books>,
}

impl PlainKept {
    fn new(bytes: BytesMut, books: Arc<Books>) -> Self {
        let allocated_bytes = bytes.capacity() as u64;
        books.hoarded_bytes.fetch_add(allocated_bytes, Ordering::Relaxed);
        Self { bytes, allocated_bytes, books }
    }
}

impl Kept for PlainKept {
    type Pinned<'k> = &'k mut BytesMut;

    fn pin(&mut self) -> Result<&mut BytesMut, Stop> {
        Ok(&mut self.bytes)
    }
}

impl Drop for PlainKept {
    fn drop(&mut self) {
        self.books.hoarded_bytes.fetch_sub(self.allocated_bytes, Ordering::Relaxed);
    }
}

/// Bytes allocated so far, and bytes that the hoard pins.
#[derive(Default)]
struct Books {
    allocated_bytes: AtomicU64,
    hoarded_bytes: AtomicU64,
}
