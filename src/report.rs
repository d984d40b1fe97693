//! What can be seen from outside, as plain data.

use std::panic::Location;
use std::time::Duration;

use crate::arena::ArenaReport;
use crate::error::{Reason, Resource, Scope};
use crate::limits::ScopeLimits;
use crate::name::{ConnectionId, PeerKey};
use crate::usage::Usage;

/// What closing a connection took back, and what is still out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reclaimed {
    /// Idle cached blocks, in bytes.
    pub cached_bytes: u64,
    /// Blocks of owned leases that were revoked and of borrowed leases that were forgotten.
    pub leased_bytes: u64,
    /// How many owned leases were revoked.
    pub revoked_leases: u64,
    /// Of `leased_bytes`, the borrowed leases that were forgotten.
    pub forgotten_bytes: u64,
    /// Reservations.
    pub reserved_bytes: u64,
    /// Streams.
    pub streams: u64,
    /// Still out: blocks that are pinned or borrowed at this moment. They come back at the unpin, or as
    /// the borrowed lease drops.
    pub pinned_bytes: u64,
    /// Still out: blocks that live on as `Bytes`. They come back when the last clone drops.
    pub detached_bytes: u64,
}

impl Reclaimed {
    pub(crate) fn add(&mut self, other: &Reclaimed) {
        self.cached_bytes = self.cached_bytes.saturating_add(other.cached_bytes);
        self.leased_bytes = self.leased_bytes.saturating_add(other.leased_bytes);
        self.revoked_leases = self.revoked_leases.saturating_add(other.revoked_leases);
        self.forgotten_bytes = self.forgotten_bytes.saturating_add(other.forgotten_bytes);
        self.reserved_bytes = self.reserved_bytes.saturating_add(other.reserved_bytes);
        self.streams = self.streams.saturating_add(other.streams);
        self.pinned_bytes = self.pinned_bytes.saturating_add(other.pinned_bytes);
        self.detached_bytes = self.detached_bytes.saturating_add(other.detached_bytes);
    }
}

/// What [`Governor::drain`](crate::Governor::drain) closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// How many connections.
    pub connections: u64,
    /// What they gave back, together.
    pub reclaimed: Reclaimed,
}

/// What one connection uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionUsage {
    /// The peer it is bound to.
    pub peer: Option<PeerKey>,
    /// Everything charged for it, in bytes: the four figures below together.
    pub memory: u64,
    /// Idle blocks it keeps for its next leases.
    pub cached_bytes: u64,
    /// Blocks in leases of every kind.
    pub leased_bytes: u64,
    /// Blocks that live on as `Bytes`.
    pub detached_bytes: u64,
    /// Reservations.
    pub reserved_bytes: u64,
    /// Streams that the remote side opened.
    pub streams_inbound: u32,
    /// Streams that this side opened.
    pub streams_outbound: u32,
}

/// What one stream uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamUsage {
    /// Bytes in its leases and reservations.
    pub memory: u64,
}

/// A scope's use beside its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScopeRow {
    /// Which level of the tree it is on.
    pub scope: Scope,
    /// The class's name, where the scope is a class or a peer's part of one.
    pub class: Option<Box<str>>,
    /// The peer, where the scope is a peer or its part of a class.
    pub peer: Option<PeerKey>,
    /// What is in use.
    pub usage: Usage,
    /// What may be in use.
    pub limits: ScopeLimits,
    /// Whether it only [observes](crate::Observe), and refuses nothing.
    pub observes: bool,
}

/// One connection that is open, or that is closed while its guard is alive or memory is still out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionRow {
    /// Its id.
    pub id: ConnectionId,
    /// Where the program admitted it.
    pub site: &'static Location<'static>,
    /// How long ago that was.
    pub age: Duration,
    /// Where it comes from, if that was said.
    pub source: Option<crate::name::Source>,
    /// Whether its guard or the governor closed it.
    pub closed: bool,
    /// What it uses.
    pub usage: ConnectionUsage,
}

/// A block that outlives its connection's guard: a pin or a `Bytes` of it is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Orphan {
    /// The connection it was leased on.
    pub connection: ConnectionId,
    /// Where the program leased it.
    pub site: &'static Location<'static>,
    /// The size of the block.
    pub bytes: u64,
    /// How long ago it was leased, to within the coarse clock's step.
    pub age: Duration,
}

/// How often a scope refused something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RefusalRow {
    /// The scope that refused.
    pub scope: Scope,
    /// What there was not enough of.
    pub resource: Resource,
    /// Why.
    pub reason: Reason,
    /// How often, since the governor was made.
    pub count: u64,
}

/// Totals of a governor, in bytes unless named otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Blocks handed out through leases, ever. Never falls.
    pub leased_bytes: u64,
    /// Blocks given back through leases, ever. Never falls.
    pub returned_bytes: u64,
    /// Blocks in leases, pins and `Bytes` right now.
    pub outstanding_bytes: u64,
    /// Idle blocks that connections keep.
    pub cached_bytes: u64,
    /// Reservations.
    pub reserved_bytes: u64,
    /// Of `outstanding_bytes`, what outlives its connection's guard.
    pub orphaned_bytes: u64,
    /// Connections admitted, ever.
    pub admitted: u64,
    /// Requests of every kind refused, ever.
    pub refused: u64,
    /// Owned leases that a close took from their holders, ever.
    pub revoked_leases: u64,
    /// Borrowed leases that were forgotten and that the guard's end took back, ever.
    pub leaked_bytes: u64,
    /// Connections whose guard is alive.
    pub connections: u64,
}

/// A governor, as [`Governor::snapshot`](crate::Governor::snapshot) reads it.
///
/// Each row is what was true at one instant; rows are read one after another, so that a snapshot never
/// stops the world. At rest all of it adds up: `arena.in_use_bytes` is `totals.cached_bytes +
/// totals.outstanding_bytes`, the memory of both systems is `arena.in_use_bytes +
/// totals.reserved_bytes`, and `totals.leased_bytes - totals.returned_bytes` is
/// `totals.outstanding_bytes`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// The scopes in use, and the four that always exist, in the order of [`Scope`], then by class
    /// and peer. In use are a peer with a connection, or with memory that outlived one; a class with a
    /// connection, or with a stream or memory of one; and a peer's part of such a class.
    pub scopes: Vec<ScopeRow>,
    /// Connections, by id.
    pub connections: Vec<ConnectionRow>,
    /// Blocks that outlive their connection's guard, oldest first.
    pub orphans: Vec<Orphan>,
    /// Refusals that happened, by scope, resource and reason.
    pub refusals: Vec<RefusalRow>,
    /// What was granted although a scope that only [observes](crate::Observe) would have refused
    /// it, by scope, resource and reason.
    pub observed: Vec<RefusalRow>,
    /// Book-keeping of the limits by subnet, in bytes. Bounded, however many addresses there are.
    pub subnet_bytes: usize,
    /// Where the memory is.
    pub arena: ArenaReport,
    /// Sums of the rows above, and the counters.
    pub totals: Totals,
}

impl Snapshot {
    /// A scope that always exists: [`Scope::System`], [`Scope::Transient`],
    /// [`Scope::AllowlistedSystem`] or [`Scope::AllowlistedTransient`].
    ///
    /// # Panics
    ///
    /// If it is another, of which there can be many or none: see [`rows`](Self::rows).
    #[track_caller]
    pub fn scope(&self, scope: Scope) -> &ScopeRow {
        let always = scope <= Scope::AllowlistedTransient;
        self.rows(scope).next().filter(|_| always).expect("a scope that always exists")
    }

    /// All scopes on one level of the tree, by class and peer.
    pub fn rows(&self, scope: Scope) -> impl Iterator<Item = &ScopeRow> {
        let first = self.scopes.partition_point(|row| row.scope < scope);
        self.scopes[first..].iter().take_while(move |row| row.scope == scope)
    }
}
