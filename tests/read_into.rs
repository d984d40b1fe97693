//! Reads into leases tell a full lease from the end of the stream, pin the lease only while the
//! reader is polled, and show no stale byte.
#![cfg(feature = "tokio")]

mod common;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, BufMut};
use common::{assert_adds_up, assert_nothing_left};
use leasehold::io::{ReadOutcome, poll_read_into, read_into};
use leasehold::{ConnectionGuard, Governor, OwnedLease, Revoked};
use tokio::io::{AsyncRead, ReadBuf, duplex};

fn guard(governor: &Governor) -> ConnectionGuard {
    governor.inbound().peer("alice").try_admit().unwrap()
}

/// One poll, by a task that nothing wakes.
fn poll<R: AsyncRead + Unpin>(
    lease: &mut OwnedLease,
    reader: &mut R,
) -> Poll<io::Result<ReadOutcome>> {
    poll_read_into(lease, Pin::new(reader), &mut Context::from_waker(Waker::noop()))
}

/// One poll of a reader that is ready.
#[track_caller]
fn read<R: AsyncRead + Unpin>(lease: &mut OwnedLease, reader: &mut R) -> io::Result<ReadOutcome> {
    match poll(lease, reader) {
        Poll::Ready(read) => read,
        Poll::Pending => panic!("the reader is not ready"),
    }
}

/// A reader that does as it is told, once for each poll.
struct Told<F>(F);

impl<F> AsyncRead for Told<F>
where
    F: FnMut(&mut ReadBuf<'_>) -> Poll<io::Result<()>> + Unpin,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        (self.0)(into)
    }
}

#[test]
fn a_full_lease_is_not_the_end() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let mut lease = guard.handle().try_lease_owned(512).unwrap();
    let mut reader = &[7; 2600][..];
    assert_eq!(read(&mut lease, &mut reader).unwrap(), ReadOutcome::Read(512));
    for _ in 0..2 {
        assert_eq!(read(&mut lease, &mut reader).unwrap(), ReadOutcome::Full);
    }
    // Three ways out: compact what is partly consumed, drain it, grow.
    lease.pin().unwrap().advance(500);
    assert_eq!(read(&mut lease, &mut reader).unwrap(), ReadOutcome::Full);
    lease.pin().unwrap().compact();
    assert_eq!(read(&mut lease, &mut reader).unwrap(), ReadOutcome::Read(500));
    lease.pin().unwrap().advance(512);
    assert_eq!(read(&mut lease, &mut reader).unwrap(), ReadOutcome::Read(512));
    lease.grow().unwrap();
    assert_eq!(read(&mut lease, &mut reader).unwrap(), ReadOutcome::Read(1076));
    for _ in 0..2 {
        assert_eq!(read(&mut lease, &mut reader).unwrap(), ReadOutcome::End);
    }
    assert_eq!(*lease.pin().unwrap(), [7; 1588]);
}

#[test]
fn a_full_lease_asks_nothing_of_the_reader() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let mut lease = guard.handle().try_lease_owned(512).unwrap();
    lease.pin().unwrap().put_bytes(7, 512);
    let mut unasked = Told(|_: &mut ReadBuf<'_>| panic!("asked"));
    assert_eq!(read(&mut lease, &mut unasked).unwrap(), ReadOutcome::Full);
}

#[test]
fn a_read_that_waits_pins_nothing() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let mut lease = guard.handle().try_lease_owned(512).unwrap();
    let (_client, mut transport) = duplex(64);
    assert!(poll(&mut lease, &mut transport).is_pending());
    drop(guard);
    assert_nothing_left(&governor);
    let error = read(&mut lease, &mut transport).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    assert_eq!(error.get_ref().unwrap().downcast_ref(), Some(&Revoked));
}

/// The close leaves the block to the reader that is writing to it.
#[test]
fn a_close_during_the_read_takes_the_block_after_it() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let mut lease = guard.handle().try_lease_owned(512).unwrap();
    let mut guard = Some(guard);
    let mut closing = Told(|into: &mut ReadBuf<'_>| {
        drop(guard.take());
        assert_eq!(assert_adds_up(&governor).orphans.len(), 1);
        into.put_slice(b"late");
        Poll::Ready(Ok(()))
    });
    assert_eq!(read(&mut lease, &mut closing).unwrap(), ReadOutcome::Read(4));
    assert_nothing_left(&governor);
    assert!(read(&mut lease, &mut closing).is_err());
}

#[test]
fn an_error_of_the_reader_leaves_what_was_readable() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let mut lease = guard.handle().try_lease_owned(512).unwrap();
    lease.pin().unwrap().put_slice(b"before");
    let mut broken = Told(|into: &mut ReadBuf<'_>| {
        into.put_slice(b"half");
        Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
    });
    let error = read(&mut lease, &mut broken).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(&*lease.pin().unwrap(), b"before");
}

/// The memory is handed to the reader as it is, so no safe reader may see it.
#[test]
fn a_reader_sees_no_stale_byte_and_none_is_zeroed_for_it() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    guard.try_lease(512).unwrap().put_bytes(0xa5, 512);
    let mut lease = guard.handle().try_lease_owned(512).unwrap();
    let mut curious = Told(|into: &mut ReadBuf<'_>| {
        assert_eq!((into.filled().len(), into.initialized().len()), (0, 0));
        assert_eq!(into.remaining(), 512);
        assert_eq!(into.initialize_unfilled(), [0; 512]);
        into.put_slice(b"new");
        Poll::Ready(Ok(()))
    });
    assert_eq!(read(&mut lease, &mut curious).unwrap(), ReadOutcome::Read(3));
    assert_eq!(&*lease.pin().unwrap(), b"new");
}

#[tokio::test]
async fn the_async_form_waits_for_bytes() {
    use tokio::io::AsyncWriteExt;
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let mut lease = guard.handle().try_lease_owned(512).unwrap();
    let (mut client, mut transport) = duplex(64);
    let (read, written) =
        tokio::join!(read_into(&mut lease, &mut transport), client.write_all(b"hello"));
    written.unwrap();
    assert_eq!(read.unwrap(), ReadOutcome::Read(5));
    drop(client);
    assert_eq!(read_into(&mut lease, &mut transport).await.unwrap(), ReadOutcome::End);
    assert_eq!(&*lease.pin().unwrap(), b"hello");
}

#[tokio::test]
async fn a_read_that_waits_ends_with_its_connection() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let mut lease = guard.handle().try_lease_owned(512).unwrap();
    let (_client, mut transport) = duplex(64);
    let read = guard.handle().until_revoked(read_into(&mut lease, &mut transport));
    let close = async { guard.handle().close().unwrap() };
    let (read, reclaimed) = tokio::join!(read, close);
    // The close woke the task, and the read found its lease revoked.
    let error = read.unwrap().unwrap_err();
    assert_eq!(error.get_ref().unwrap().downcast_ref(), Some(&Revoked));
    assert_eq!((reclaimed.leased_bytes, reclaimed.pinned_bytes), (512, 0));
}

#[test]
fn what_is_public_crosses_threads() {
    fn crosses_threads<T: Send + Sync>(_: &T) {}
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let mut lease = guard.handle().try_lease_owned(512).unwrap();
    crosses_threads(&read_into(&mut lease, &mut &[7; 512][..]));
    crosses_threads(&ReadOutcome::End);
}
