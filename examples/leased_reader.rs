//! A buffered reader that holds a lease only while bytes are there:
//! `cargo run --features tokio --example leased_reader`

use std::io;
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use leasehold::io::{ReadOutcome, poll_read_into};
use leasehold::{ConnectionHandle, Governor, OwnedLease, PinnedLease};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncWriteExt, ReadBuf};

/// Reads from a transport through leases of its connection.
pub struct LeasedReader<T> {
    transport: T,
    handle: ConnectionHandle,
    /// The line that wrapped the transport, in whose name it leases.
    site: &'static Location<'static>,
    /// Bytes that nothing refers to: a close takes them.
    unread: Option<OwnedLease>,
    /// Bytes that `poll_fill_buf` has lent out. They stay until the next call.
    shown: Option<PinnedLease>,
}

impl<T> LeasedReader<T> {
    /// A reader that holds no lease yet.
    #[track_caller]
    pub fn new(transport: T, handle: ConnectionHandle) -> Self {
        Self { transport, handle, site: Location::caller(), unread: None, shown: None }
    }

    /// Takes the bytes, if there are any: each call unpins first what the last one has lent out.
    fn take_unread(&mut self) -> Option<OwnedLease> {
        self.shown.take().map(PinnedLease::into_owned).or_else(|| self.unread.take())
    }
}

impl<T: AsyncRead + Unpin> AsyncBufRead for LeasedReader<T> {
    fn poll_fill_buf(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        let lease = match this.take_unread() {
            Some(lease) => lease,
            None => {
                let request = this.handle.request().site(this.site);
                let mut lease = request.try_lease_owned(16 * 1024)?;
                let reader = Pin::new(&mut this.transport);
                // While the transport has nothing to read, the lease goes back here.
                match ready!(poll_read_into(&mut lease, reader, context))? {
                    ReadOutcome::End => return Poll::Ready(Ok(&[])),
                    ReadOutcome::Read(_) | ReadOutcome::Full => lease,
                }
            }
        };
        Poll::Ready(Ok(this.shown.insert(lease.into_pinned()?)))
    }

    fn consume(self: Pin<&mut Self>, count: usize) {
        let this = self.get_mut();
        let Some(mut lease) = this.take_unread() else { return };
        // If a close has taken the bytes, the next call returns an error.
        let rest = lease.pin().map_or(0, |mut bytes| {
            bytes.advance(count);
            bytes.len()
        });
        this.unread = (rest > 0).then_some(lease);
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for LeasedReader<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let bytes = ready!(self.as_mut().poll_fill_buf(context))?;
        let count = bytes.len().min(into.remaining());
        into.put_slice(&bytes[..count]);
        self.consume(count);
        Poll::Ready(Ok(()))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit()?;
    let (mut client, server) = tokio::io::duplex(64);
    client.write_all(b"one\ntwo\n").await?;
    let mut reader = LeasedReader::new(server, guard.handle().clone());
    for expected in ["one\n", "two\n"] {
        let mut line = String::new();
        reader.read_line(&mut line).await?;
        assert_eq!(line, expected);
        println!("{line:?} with {} bytes leased", guard.handle().usage()?.leased_bytes);
    }
    assert_eq!(guard.handle().usage()?.leased_bytes, 0);
    Ok(())
}
