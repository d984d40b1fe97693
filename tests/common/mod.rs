//! What several tests share.
#![allow(dead_code, reason = "each test binary uses a part of this")]
#![allow(clippy::disallowed_types, reason = "tests are never modelled")]

pub mod counting;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use leasehold::{
    Clock, ConnectionGuard, ConnectionUsage, Governor, Limits, PeerKey, Reason, RefusalRow,
    Resource, Scope, ScopeLimits, ScopeRow, Snapshot, Usage,
};

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;

/// No limit on anything, to start from.
pub fn scope() -> ScopeLimits {
    ScopeLimits::unlimited()
}

pub fn governor(limits: Limits) -> Governor {
    Governor::new(limits).expect("valid limits")
}

/// Leaves the connection, which has none, with so many idle blocks of `bytes` each.
#[track_caller]
pub fn make_idle(guard: &ConnectionGuard, bytes: usize, blocks: usize) {
    let leases: Vec<_> = (0..blocks).map(|_| guard.try_lease(bytes).expect("room")).collect();
    drop(leases);
    assert_eq!(usage(guard).cached_bytes, (bytes * blocks) as u64);
}

/// What an open connection uses.
#[track_caller]
pub fn usage(guard: &ConnectionGuard) -> ConnectionUsage {
    guard.handle().usage().expect("an open connection")
}

/// A clock that stands still until it is turned.
#[derive(Clone, Default)]
pub struct HandClock(Arc<AtomicU64>);

impl HandClock {
    pub fn turn(&self, by: Duration) {
        self.0.fetch_add(by.as_millis() as u64, Ordering::Relaxed);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// Who uses how much, everywhere in the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charges {
    pub system: Usage,
    pub transient: Usage,
    pub allowlisted_system: Usage,
    pub allowlisted_transient: Usage,
    pub classes: Vec<(String, Usage)>,
    pub peers: Vec<(Vec<u8>, Usage)>,
    pub class_peers: Vec<(String, Vec<u8>, Usage)>,
    /// Charged memory, streams.
    pub connections: Vec<(u64, u32)>,
    pub in_use_bytes: u64,
}

pub fn charges(snapshot: &Snapshot) -> Charges {
    Charges {
        system: snapshot.scope(Scope::System).usage,
        transient: snapshot.scope(Scope::Transient).usage,
        allowlisted_system: snapshot.scope(Scope::AllowlistedSystem).usage,
        allowlisted_transient: snapshot.scope(Scope::AllowlistedTransient).usage,
        classes: snapshot.rows(Scope::Class).map(|row| (class_of(row).into(), row.usage)).collect(),
        peers: snapshot.rows(Scope::Peer).map(|row| (peer_of(row).into(), row.usage)).collect(),
        class_peers: snapshot
            .rows(Scope::ClassPeer)
            .map(|row| (class_of(row).into(), peer_of(row).into(), row.usage))
            .collect(),
        connections: snapshot
            .connections
            .iter()
            .map(|c| (c.usage.memory, c.usage.streams_inbound + c.usage.streams_outbound))
            .collect(),
        in_use_bytes: snapshot.arena.in_use_bytes,
    }
}

/// The name of a class's row.
pub fn class_of(row: &ScopeRow) -> &str {
    row.class.as_deref().expect("a row of a class")
}

/// The key of a peer's row.
pub fn peer_of(row: &ScopeRow) -> &[u8] {
    row.peer.as_ref().map(PeerKey::as_bytes).expect("a row of a peer")
}

/// The only scope on one level of the tree.
#[track_caller]
pub fn only_row(snapshot: &Snapshot, scope: Scope) -> &ScopeRow {
    let mut rows = snapshot.rows(scope);
    let only = rows.next().expect("there is one");
    assert_eq!(rows.next(), None, "there is only one");
    only
}

/// Who uses how much at this moment, in a governor at rest that accounts for every byte.
#[track_caller]
pub fn now(governor: &Governor) -> Charges {
    charges(&assert_adds_up(governor))
}

/// What one class uses; nothing, if it is not there.
pub fn of_class(snapshot: &Snapshot, name: &str) -> Usage {
    let found = snapshot.rows(Scope::Class).find(|row| class_of(row) == name);
    found.map(|row| row.usage).unwrap_or_default()
}

/// What one peer uses; nothing, if it is not there.
pub fn of_peer(snapshot: &Snapshot, key: &str) -> Usage {
    let found = snapshot.rows(Scope::Peer).find(|row| peer_of(row) == key.as_bytes());
    found.map(|row| row.usage).unwrap_or_default()
}

/// What one peer uses of one class; nothing, if it is not there.
pub fn of_class_peer(snapshot: &Snapshot, name: &str, key: &str) -> Usage {
    let mut parts = snapshot.rows(Scope::ClassPeer);
    let found = parts.find(|row| class_of(row) == name && peer_of(row) == key.as_bytes());
    found.map(|row| row.usage).unwrap_or_default()
}

/// Refusals, or what was only observed, as plain values.
pub fn counts(rows: &[RefusalRow]) -> Vec<(Scope, Resource, Reason, u64)> {
    rows.iter().map(|row| (row.scope, row.resource, row.reason, row.count)).collect()
}

/// Adds every figure of `more` to that of `sum`.
pub fn add(sum: &mut Usage, more: &Usage) {
    sum.memory += more.memory;
    sum.connections_inbound += more.connections_inbound;
    sum.connections_outbound += more.connections_outbound;
    sum.streams_inbound += more.streams_inbound;
    sum.streams_outbound += more.streams_outbound;
    sum.fds += more.fds;
}

fn sum(usages: impl IntoIterator<Item = Usage>) -> Usage {
    usages.into_iter().fold(Usage::default(), |mut sum, usage| {
        add(&mut sum, &usage);
        sum
    })
}

/// Whether no figure of `part` is above that of `whole`.
fn is_within(part: &Usage, whole: &Usage) -> bool {
    part.memory <= whole.memory
        && part.connections_inbound <= whole.connections_inbound
        && part.connections_outbound <= whole.connections_outbound
        && part.streams_inbound <= whole.streams_inbound
        && part.streams_outbound <= whole.streams_outbound
        && part.fds <= whole.fds
}

/// Checks that a governor at rest accounts for every byte: the arena's own bitmaps, the ledger of
/// each connection, the scopes above and the counters all tell the same.
#[track_caller]
pub fn assert_adds_up(governor: &Governor) -> Snapshot {
    let snapshot = governor.snapshot();
    let (totals, arena) = (&snapshot.totals, &snapshot.arena);
    let both =
        sum([snapshot.scope(Scope::System).usage, snapshot.scope(Scope::AllowlistedSystem).usage]);

    let in_blocks: usize = arena.size_classes.iter().map(|c| c.blocks_in_use * c.block_bytes).sum();
    assert_eq!(in_blocks as u64 + arena.large_bytes, arena.in_use_bytes, "blocks, by bitmap");
    assert_eq!(
        arena.in_use_bytes,
        totals.cached_bytes + totals.outstanding_bytes,
        "every block is cached or out: {snapshot:#?}",
    );
    assert_eq!(
        both.memory,
        arena.in_use_bytes + totals.reserved_bytes,
        "every block and reservation is charged: {snapshot:#?}",
    );
    assert_eq!(
        totals.leased_bytes - totals.returned_bytes,
        totals.outstanding_bytes,
        "what was leased and not returned is out: {snapshot:#?}",
    );

    let (mut connections, mut unbound) = (Usage::default(), 0);
    for row in &snapshot.connections {
        let usage = &row.usage;
        let parts =
            usage.cached_bytes + usage.leased_bytes + usage.detached_bytes + usage.reserved_bytes;
        assert_eq!(usage.memory, parts, "a connection's charge is what it has: {row:#?}");
        connections.memory += usage.memory;
        connections.streams_inbound += usage.streams_inbound;
        connections.streams_outbound += usage.streams_outbound;
        unbound += if usage.peer.is_none() { usage.memory } else { 0 };
    }
    assert_eq!(connections.memory, both.memory, "connections add up: {snapshot:#?}");
    assert_eq!(connections.streams_inbound, both.streams_inbound, "streams: {snapshot:#?}");
    assert_eq!(connections.streams_outbound, both.streams_outbound, "streams: {snapshot:#?}");
    assert_eq!(totals.connections, both.connections(), "guards: {snapshot:#?}");

    let orphans: u64 = snapshot.orphans.iter().map(|orphan| orphan.bytes).sum();
    assert_eq!(orphans, totals.orphaned_bytes, "orphans add up: {snapshot:#?}");
    let peers = sum(snapshot.rows(Scope::Peer).map(|peer| peer.usage));
    assert_eq!(peers.memory + unbound, both.memory, "peers add up: {snapshot:#?}");
    let transient = sum([
        snapshot.scope(Scope::Transient).usage,
        snapshot.scope(Scope::AllowlistedTransient).usage,
    ]);
    assert!(transient.memory <= unbound, "transient: {snapshot:#?}");
    let counted = sum([peers, transient]);
    // Usage cannot be written out here, so the one figure that differs is made the same.
    let mut whole = both;
    whole.memory = counted.memory;
    assert_eq!(counted, whole, "all that counts is a peer's or transient: {snapshot:#?}");

    for whole in snapshot.rows(Scope::Class) {
        let parts = snapshot.rows(Scope::ClassPeer).filter(|part| part.class == whole.class);
        let parts = sum(parts.map(|part| part.usage));
        assert!(is_within(&parts, &whole.usage), "{}: {snapshot:#?}", class_of(whole));
    }
    for part in snapshot.rows(Scope::ClassPeer) {
        assert!(snapshot.rows(Scope::Class).any(|class| class.class == part.class), "{part:#?}");
        assert!(snapshot.rows(Scope::Peer).any(|peer| peer.peer == part.peer), "{part:#?}");
    }
    let refused: u64 = snapshot.refusals.iter().map(|row| row.count).sum();
    assert_eq!(refused, totals.refused, "refusals add up: {snapshot:#?}");
    snapshot
}

/// Checks that a governor uses nothing of anything and remembers nobody.
#[track_caller]
pub fn assert_nothing_left(governor: &Governor) {
    let snapshot = assert_adds_up(governor);
    let scopes: Vec<_> = snapshot.scopes.iter().map(|row| row.scope).collect();
    let always =
        [Scope::System, Scope::Transient, Scope::AllowlistedSystem, Scope::AllowlistedTransient];
    assert_eq!(scopes, always, "no peer, no class and no part of one: {snapshot:#?}");
    for row in &snapshot.scopes {
        assert_eq!(row.usage, Usage::default(), "{}", row.scope);
    }
    assert_eq!(snapshot.connections, [], "connections");
    assert_eq!(snapshot.orphans, [], "orphans");
    assert_eq!(snapshot.arena.in_use_bytes, 0);
    assert_eq!(snapshot.totals.connections, 0);
}
