//! Reads into leases, for tokio. Needs the feature `tokio`.
//!
//! Both functions pin the lease only while the transport is polled. While they wait, a close takes
//! the memory back, and the next poll returns an error that wraps [`Revoked`](crate::Revoked). A
//! read of `&mut lease.pin()?`, for comparison, keeps the memory for as long as it waits.
//!
//! # A buffered reader that holds a lease only while bytes are there
//!
//! An [`AsyncBufRead`](tokio::io::AsyncBufRead) lends out a slice that may be used until the next
//! call, so the lease stays pinned for that long, and no longer. When its connection is closed:
//!
//! | the reader is | it holds | a close |
//! |---|---|---|
//! | waiting for bytes, or drained | no lease | has nothing to take |
//! | between `consume` and the next call, with bytes left | an [`OwnedLease`] | takes the bytes |
//! | between `poll_fill_buf` and the next call | a [`PinnedLease`](crate::PinnedLease) | leaves them as an [orphan](crate::Orphan) until the next call, or the drop |
//!
//! The block of a returned lease stays with the connection as an idle one, for the next read;
//! [`trim`](crate::ConnectionHandle::trim) gives it back before a long wait.
//!
//! ```
#![doc = include_str!("../examples/leased_reader.rs")]
//! ```

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::lease::OwnedLease;

/// What a read into a lease came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a read that came to nothing is no error"]
pub enum ReadOutcome {
    /// So many bytes were added to what is readable; at least one.
    Read(usize),
    /// The lease has no room, so nothing was asked of the reader. Consume something, or
    /// [compact](crate::Pinned::compact) or [grow](OwnedLease::grow) the lease.
    Full,
    /// The reader has come to its end. All that it returned before is in the lease.
    End,
}

/// Reads what `reader` has into the lease, behind what is readable there, without zeroing.
///
/// Costs a pin and its end, two atomic steps, besides the reader's own work. What [`poll_read_into`]
/// does once, this does until the reader is ready. It may be dropped at any time: then nothing was
/// read.
///
/// A close from outside is noticed at the next poll, but wakes no task: run this inside
/// [`until_revoked`](crate::ConnectionHandle::until_revoked).
///
/// ```
/// use leasehold::io::{ReadOutcome, read_into};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let governor = leasehold::Governor::unlimited();
/// let guard = governor.inbound().try_admit()?;
/// let mut lease = guard.handle().try_lease_owned(512)?;
/// let mut transport = &[7; 600][..];
/// assert_eq!(read_into(&mut lease, &mut transport).await?, ReadOutcome::Read(512));
/// assert_eq!(read_into(&mut lease, &mut transport).await?, ReadOutcome::Full);
/// lease.grow()?;
/// assert_eq!(read_into(&mut lease, &mut transport).await?, ReadOutcome::Read(88));
/// assert_eq!(read_into(&mut lease, &mut transport).await?, ReadOutcome::End);
/// assert_eq!(&*lease.pin()?, &[7; 600]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// If the connection is closed, or the reader returns an error. What was readable before still is.
pub async fn read_into<R>(lease: &mut OwnedLease, reader: &mut R) -> io::Result<ReadOutcome>
where
    R: AsyncRead + Unpin + ?Sized,
{
    poll_fn(|context| poll_read_into(lease, Pin::new(reader), context)).await
}

/// Reads what `reader` has into the lease, as [`read_into`], or has the task woken when it has
/// something. Pins the lease only until this returns.
///
/// # Errors
///
/// If the connection is closed, or the reader returns an error. What was readable before still is.
pub fn poll_read_into<R>(
    lease: &mut OwnedLease,
    mut reader: Pin<&mut R>,
    context: &mut Context<'_>,
) -> Poll<io::Result<ReadOutcome>>
where
    R: AsyncRead + ?Sized,
{
    let mut pinned = lease.pin()?;
    if pinned.is_full() {
        return Poll::Ready(Ok(ReadOutcome::Full));
    }
    let read = pin!(reader.read_buf(&mut pinned));
    Poll::Ready(Ok(match ready!(read.poll(context))? {
        0 => ReadOutcome::End,
        count => ReadOutcome::Read(count),
    }))
}
