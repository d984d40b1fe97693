//! What several tests share.
#![allow(dead_code, reason = "each test binary uses a part of this")]
#![allow(clippy::disallowed_types, reason = "tests are never modelled")]

pub mod counting;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use leasehold::{
    Clock, ConnectionGuard, Governor, Limits, Reason, RefusalRow, Resource, Scope, ScopeLimits,
    Snapshot, Usage,
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
    assert_eq!(guard.usage().cached_bytes, (bytes * blocks) as u64);
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
        system: snapshot.system.usage,
        transient: snapshot.transient.usage,
        allowlisted_system: snapshot.allowlisted_system.usage,
        allowlisted_transient: snapshot.allowlisted_transient.usage,
        classes: snapshot.classes.iter().map(|c| (c.name.to_string(), c.row.usage)).collect(),
        peers: snapshot.peers.iter().map(|p| (p.peer.as_bytes().to_vec(), p.row.usage)).collect(),
        class_peers: snapshot
            .class_peers
            .iter()
            .map(|c| (c.class.to_string(), c.peer.as_bytes().to_vec(), c.row.usage))
            .collect(),
        connections: snapshot
            .connections
            .iter()
            .map(|c| (c.usage.memory, c.usage.streams_inbound + c.usage.streams_outbound))
            .collect(),
        in_use_bytes: snapshot.arena.in_use_bytes,
    }
}

/// Who uses how much at this moment, in a governor at rest that accounts for every byte.
#[track_caller]
pub fn now(governor: &Governor) -> Charges {
    charges(&assert_adds_up(governor))
}

/// What one class uses; nothing, if it is not there.
pub fn of_class(snapshot: &Snapshot, name: &str) -> Usage {
    let found = snapshot.classes.iter().find(|class| *class.name == *name);
    found.map(|class| class.row.usage).unwrap_or_default()
}

/// What one peer uses; nothing, if it is not there.
pub fn of_peer(snapshot: &Snapshot, peer: &str) -> Usage {
    let found = snapshot.peers.iter().find(|row| row.peer.as_bytes() == peer.as_bytes());
    found.map(|row| row.row.usage).unwrap_or_default()
}

/// What one peer uses of one class; nothing, if it is not there.
pub fn of_class_peer(snapshot: &Snapshot, class: &str, peer: &str) -> Usage {
    let mut parts = snapshot.class_peers.iter();
    let found = parts.find(|part| *part.class == *class && part.peer.as_bytes() == peer.as_bytes());
    found.map(|part| part.row.usage).unwrap_or_default()
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
    let both = sum([snapshot.system.usage, snapshot.allowlisted_system.usage]);

    let in_blocks: usize = arena.classes.iter().map(|c| c.blocks_in_use * c.block_bytes).sum();
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
    let peers = sum(snapshot.peers.iter().map(|peer| peer.row.usage));
    assert_eq!(peers.memory + unbound, both.memory, "peers add up: {snapshot:#?}");
    let transient = sum([snapshot.transient.usage, snapshot.allowlisted_transient.usage]);
    assert!(transient.memory <= unbound, "transient: {snapshot:#?}");
    let counted = sum([peers, transient]);
    // Usage cannot be written out here, so the one figure that differs is made the same.
    let mut whole = both;
    whole.memory = counted.memory;
    assert_eq!(counted, whole, "all that counts is a peer's or transient: {snapshot:#?}");

    for class in &snapshot.classes {
        let parts = snapshot.class_peers.iter().filter(|part| part.class == class.name);
        let parts = sum(parts.map(|part| part.row.usage));
        assert!(is_within(&parts, &class.row.usage), "{}: {snapshot:#?}", class.name);
    }
    for part in &snapshot.class_peers {
        assert!(snapshot.classes.iter().any(|class| class.name == part.class), "{part:#?}");
        assert!(snapshot.peers.iter().any(|peer| peer.peer == part.peer), "{part:#?}");
    }
    let refused: u64 = snapshot.refusals.iter().map(|row| row.count).sum();
    assert_eq!(refused, totals.refused, "refusals add up: {snapshot:#?}");
    snapshot
}

/// Checks that a governor uses nothing of anything and remembers nobody.
#[track_caller]
pub fn assert_nothing_left(governor: &Governor) {
    let snapshot = assert_adds_up(governor);
    assert_eq!(snapshot.system.usage, Usage::default());
    assert_eq!(snapshot.transient.usage, Usage::default());
    assert_eq!(snapshot.allowlisted_system.usage, Usage::default());
    assert_eq!(snapshot.allowlisted_transient.usage, Usage::default());
    assert_eq!(snapshot.peers, [], "peers");
    assert_eq!(snapshot.classes, [], "classes");
    assert_eq!(snapshot.class_peers, [], "parts of classes");
    assert_eq!(snapshot.connections, [], "connections");
    assert_eq!(snapshot.orphans, [], "orphans");
    assert_eq!(snapshot.arena.in_use_bytes, 0);
    assert_eq!(snapshot.totals.connections, 0);
}
