//! Breaking one promise on purpose, to see the checks bite.
//!
//! Each kind is a mistake that a server around a governor can make. Apart from the mistake it
//! behaves like [`GovernedMemory`].

use std::any::Any;
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use clap::ValueEnum;
use leasehold::{ConnectionHandle, Lease, Limits, OwnedLease, Reservation, ScopeLimits};
use parking_lot::Mutex;
use tokio::net::TcpStream;

use crate::backing::{Audit, Backing, Connection, Door, Stop, Totals};
use crate::budget::{self, PEER_CONNECTIONS};
use crate::governed::{GovernedConnection, GovernedMemory};
use crate::server::Hoard;

/// What to get wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sabotage {
    /// Move every guard into a list, so that no connection ever ends
    KeepGuards,
    /// Forget every guard (`mem::forget`)
    ForgetGuards,
    /// Keep a clone of every frozen frame
    HoldBytes,
    /// Pin frames for ever instead of keeping them revocable
    KeepPins,
    /// Flip a bit in every echo
    CorruptEcho,
    /// Loosen the limits, so that refusals in the plan don't happen
    LoosenLimits,
    /// Tighten the limit of a peer, so that refusals happen that aren't in the plan
    TightenLimits,
    /// Leave a refused socket open (this one takes the clients' patience, 10 s)
    LeakRefused,
}

/// A governed server's memory, with a mistake.
pub struct Sabotaged {
    governed: GovernedMemory,
    kind: Sabotage,
    hidden: Hidden,
}

/// Whatever should have been dropped.
type Hidden = Arc<Mutex<Vec<Box<dyn Any + Send>>>>;

impl Sabotaged {
    /// Memory for a server that `concurrency` connections use at a time.
    pub fn new(kind: Sabotage, concurrency: u32) -> Self {
        let limits = match kind {
            Sabotage::LoosenLimits => loosened(concurrency),
            Sabotage::TightenLimits => tightened(concurrency),
            _ => budget::limits(concurrency),
        };
        Self { governed: GovernedMemory::new(limits), kind, hidden: Hidden::default() }
    }

    /// Repeats the accept path of go-libp2p v0.35.0: refused, and not closed.
    fn admit_and_leak(
        &self,
        door: Door,
        remote: SocketAddr,
        socket: TcpStream,
    ) -> Option<(GovernedConnection, TcpStream)> {
        let admission = self.governed.governor().inbound().remote(remote).class(door.class());
        let admitted = admission.try_govern_or_else(socket, |socket, _| hide(&self.hidden, socket));
        let (guard, socket) = admitted.ok()?.into_parts();
        Some((GovernedConnection::new(guard), socket))
    }
}

fn loosened(concurrency: u32) -> Limits {
    budget::limits(concurrency)
        .peer(ScopeLimits::unlimited())
        .connection(ScopeLimits::unlimited())
        .class(Door::Retired.class(), ScopeLimits::unlimited())
}

fn tightened(concurrency: u32) -> Limits {
    let peer = ScopeLimits::unlimited().connections_inbound(u64::from(PEER_CONNECTIONS) - 1);
    budget::limits(concurrency).peer(peer)
}

fn hide(hidden: &Hidden, evidence: impl Any + Send) {
    hidden.lock().push(Box::new(evidence));
}

impl Backing for Sabotaged {
    type Connection = SabotagedConnection;

    fn admit(
        &self,
        door: Door,
        remote: SocketAddr,
        socket: TcpStream,
    ) -> Option<(SabotagedConnection, TcpStream)> {
        let admitted = match self.kind {
            Sabotage::LeakRefused => self.admit_and_leak(door, remote, socket),
            _ => self.governed.admit(door, remote, socket),
        };
        let (governed, socket) = admitted?;
        let hidden = self.hidden.clone();
        Some((SabotagedConnection { governed: Some(governed), kind: self.kind, hidden }, socket))
    }

    fn drain(&self, _hoard: &Hoard<SabotagedConnection>) {
        self.governed.governor().drain(|_| true);
    }

    fn totals(&self) -> Totals {
        self.governed.totals()
    }

    fn audit(&self) -> Audit {
        self.governed.audit()
    }
}

/// One connection, with a mistake.
pub struct SabotagedConnection {
    /// `None` only while it is dropped.
    governed: Option<GovernedConnection>,
    kind: Sabotage,
    hidden: Hidden,
}

impl SabotagedConnection {
    fn governed(&self) -> &GovernedConnection {
        self.governed.as_ref().expect("only a drop takes it")
    }
}

impl Drop for SabotagedConnection {
    fn drop(&mut self) {
        let governed = self.governed.take();
        match self.kind {
            Sabotage::KeepGuards => hide(&self.hidden, governed),
            Sabotage::ForgetGuards => mem::forget(governed),
            _ => drop(governed),
        }
    }
}

impl Connection for SabotagedConnection {
    type Handle = ConnectionHandle;
    type Frame<'c> = Lease<'c>;
    type Kept = OwnedLease;
    type Window = Reservation;

    fn handle(&self) -> ConnectionHandle {
        self.governed().handle()
    }

    fn bind_peer(&self, name: &[u8]) -> Result<(), Stop> {
        self.governed().bind_peer(name)
    }

    #[track_caller]
    fn reserve(&self, bytes: u64) -> Result<Reservation, Stop> {
        self.governed().reserve(bytes)
    }

    #[track_caller]
    fn lease(&self, len: usize) -> Result<Lease<'_>, Stop> {
        self.governed().lease(len)
    }

    #[track_caller]
    fn lease_owned(&self, len: usize) -> Result<OwnedLease, Stop> {
        self.governed().lease_owned(len)
    }

    fn on_frame(&self, frame: &mut Lease<'_>) {
        if self.kind == Sabotage::CorruptEcho
            && let Some(byte) = frame.first_mut()
        {
            *byte ^= 1;
        }
    }

    fn keep<'c>(&'c self, frame: Lease<'c>) -> OwnedLease {
        if self.kind == Sabotage::KeepPins
            && let Ok(owned) = self.governed().lease_owned(frame.len())
            && let Ok(pinned) = owned.into_pinned()
        {
            hide(&self.hidden, pinned);
        }
        self.governed().keep(frame)
    }

    fn freeze<'c>(&'c self, frame: Lease<'c>) -> Bytes {
        let bytes = self.governed().freeze(frame);
        if self.kind == Sabotage::HoldBytes {
            hide(&self.hidden, bytes.clone());
        }
        bytes
    }

    async fn until_revoked<F>(&self, work: F) -> Option<F::Output>
    where
        F: Future + Send,
        F::Output: Send,
    {
        self.governed().until_revoked(work).await
    }
}
