//! Leaks to look at: each is a mistake that real servers have, made on purpose.
//!
//! The line that the report should name ends in a comment with the leak's name.

use std::any::Any;
use std::error::Error;
use std::future::pending;
use std::mem::forget;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{BufMut, Bytes};
use clap::ValueEnum;
use leasehold::{ConnectionGuard, Direction, Governor, PinnedLease};
use tokio::sync::{mpsc, oneshot};

/// What every leaking program has somewhere: a place from which nothing is ever removed.
static KEPT: Mutex<Vec<Box<dyn Any + Send>>> = Mutex::new(Vec::new());

const LEN: usize = 4096;

/// A mistake that keeps what should go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Leak {
    /// Owned leases in a static list, while their connection stays open.
    StaticLease,
    /// Frames as `Bytes` in a static list, after their connection has gone.
    DetachedBytes,
    /// Ten bytes of a frame in a cache, which keep the whole block.
    CachedSlice,
    /// A connection's guard, forgotten.
    ForgottenGuard,
    /// Borrowed leases, forgotten on a connection that stays open.
    ForgottenBorrow,
    /// Reservations, forgotten on a connection that stays open.
    ForgottenReservation,
    /// A reference cycle with a pinned lease in it.
    PinnedCycle,
    /// A lease pinned across an await that never ends, after its connection has gone.
    PinAcrossAwait,
    /// A task that awaits for ever with a borrowed lease, and so never drops its guard.
    StalledTask,
    /// A stream whose task awaits for ever, on a connection that stays open.
    StreamNeverClosed,
    /// Frames in a channel whose receiver awaits something else.
    StalledQueue,
    /// A connection whose handshake awaits for ever, so that it is never bound to a peer.
    TransientPeer,
}

/// Plants leaks under one governor.
pub struct Planter {
    governor: Governor,
    /// A connection that stays open, for leaks that end with theirs.
    open: Arc<ConnectionGuard>,
    queue: mpsc::Sender<Bytes>,
}

type Planted = Result<(), Box<dyn Error + Send + Sync>>;

impl Planter {
    /// A planter with an open connection.
    ///
    /// # Errors
    ///
    /// If a limit is in the way of the connection.
    pub fn new(governor: &Governor) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let open = governor.inbound().peer("gardener").try_admit()?; // forgotten-reservation
        let (queue, frames) = mpsc::channel(10_000);
        tokio::spawn(stalled(frames));
        Ok(Self { governor: governor.clone(), open: Arc::new(open), queue })
    }

    /// Plants one more. It is there when this returns.
    ///
    /// # Errors
    ///
    /// If a limit is in the way.
    pub async fn plant(&self, leak: Leak) -> Planted {
        match leak {
            Leak::StaticLease => self.static_lease(),
            Leak::DetachedBytes => self.detached_bytes(),
            Leak::CachedSlice => self.cached_slice(),
            Leak::ForgottenGuard => self.forgotten_guard(),
            Leak::ForgottenBorrow => self.forgotten_borrow(),
            Leak::ForgottenReservation => self.forgotten_reservation(),
            Leak::PinnedCycle => self.pinned_cycle(),
            Leak::PinAcrossAwait => self.pin_across_await().await,
            Leak::StalledTask => self.stalled_task().await,
            Leak::StreamNeverClosed => self.stream_never_closed().await,
            Leak::StalledQueue => self.stalled_queue().await,
            Leak::TransientPeer => self.transient_peer().await,
        }
    }

    fn static_lease(&self) -> Planted {
        let lease = self.open.handle().try_lease_owned(LEN)?; // static-lease
        kept().push(Box::new(lease));
        Ok(())
    }

    fn detached_bytes(&self) -> Planted {
        let guard = self.admit()?;
        let mut frame = guard.try_lease(LEN)?; // detached-bytes
        frame.put_bytes(b'x', LEN);
        kept().push(Box::new(frame.freeze()));
        Ok(())
    }

    fn cached_slice(&self) -> Planted {
        let guard = self.admit()?;
        let mut frame = guard.handle().try_lease_owned(16 * LEN)?.into_pinned()?; // cached-slice
        frame.put_bytes(b'x', 16 * LEN);
        let title = frame.freeze().slice(..10);
        kept().push(Box::new(title));
        Ok(())
    }

    fn forgotten_guard(&self) -> Planted {
        let guard = self.governor.inbound().peer(stranger()).try_admit()?; // forgotten-guard
        forget(guard);
        Ok(())
    }

    fn forgotten_borrow(&self) -> Planted {
        let lease = self.open.try_lease(LEN)?; // forgotten-borrow
        forget(lease);
        Ok(())
    }

    fn forgotten_reservation(&self) -> Planted {
        let window = self.open.handle().try_reserve(LEN as u64)?;
        forget(window);
        Ok(())
    }

    fn pinned_cycle(&self) -> Planted {
        struct Session {
            _frame: PinnedLease,
            itself: Mutex<Option<Arc<Session>>>,
        }
        let guard = self.admit()?;
        let frame = guard.handle().try_lease_owned(LEN)?.into_pinned()?; // pinned-cycle
        let session = Arc::new(Session { _frame: frame, itself: Mutex::default() });
        *session.itself.lock().unwrap_or_else(PoisonError::into_inner) = Some(session.clone());
        Ok(())
    }

    async fn pin_across_await(&self) -> Planted {
        let guard = self.admit()?;
        let mut lease = guard.handle().try_lease_owned(LEN)?; // pin-across-await
        let (is_planted, planted) = oneshot::channel();
        tokio::spawn(async move {
            let frame = lease.pin();
            let _heard = is_planted.send(());
            an_answer_that_never_comes().await;
            drop(frame);
        });
        Ok(planted.await?)
    }

    async fn stalled_task(&self) -> Planted {
        let guard = self.governor.inbound().peer(stranger()).try_admit()?;
        let (is_planted, planted) = oneshot::channel();
        tokio::spawn(async move {
            let frame = guard.try_lease(LEN); // stalled-task
            let _heard = is_planted.send(());
            an_answer_that_never_comes().await;
            drop(frame);
        });
        Ok(planted.await?)
    }

    async fn stream_never_closed(&self) -> Planted {
        let stream = self.open.handle().try_open_stream(Direction::Inbound)?; // stream-never-closed
        tokio::spawn(stalled(stream));
        Ok(())
    }

    async fn stalled_queue(&self) -> Planted {
        let guard = self.admit()?;
        let mut frame = guard.try_lease(LEN)?; // stalled-queue
        frame.put_bytes(b'x', LEN);
        Ok(self.queue.send(frame.freeze()).await?)
    }

    async fn transient_peer(&self) -> Planted {
        let guard = self.governor.inbound().try_admit()?; // transient-peer
        tokio::spawn(async move {
            an_answer_that_never_comes().await;
            guard.handle().bind_peer("late")
        });
        Ok(())
    }

    /// A connection that ends as it should.
    fn admit(&self) -> Result<ConnectionGuard, Box<dyn Error + Send + Sync>> {
        Ok(self.governor.inbound().peer("visitor").try_admit()?)
    }
}

/// A name that no peer had before, since a peer may have only a few connections.
fn stranger() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("stranger-{}", COUNT.fetch_add(1, Relaxed))
}

/// Holds `what` while it waits.
async fn stalled<T>(what: T) {
    an_answer_that_never_comes().await;
    drop(what);
}

/// A peer, a database or a lock without a timeout.
async fn an_answer_that_never_comes() {
    pending().await
}

fn kept() -> MutexGuard<'static, Vec<Box<dyn Any + Send>>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}
