//! What several tests share.
#![allow(dead_code, reason = "each test binary uses a part of this")]
#![allow(clippy::disallowed_types, reason = "tests are never modelled")]

pub mod counting;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use leasehold::{Clock, Governor, Limits, ScopeLimits, Snapshot, Usage};

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;

/// No limit on anything, to start from.
pub fn scope() -> ScopeLimits {
    ScopeLimits::unlimited()
}

pub fn governor(limits: Limits) -> Governor {
    Governor::new(limits).expect("valid limits")
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
    pub classes: Vec<(String, Usage)>,
    pub peers: Vec<(Vec<u8>, Usage)>,
    /// Charged memory, streams.
    pub connections: Vec<(u64, u32)>,
    pub in_use_bytes: u64,
}

pub fn charges(snapshot: &Snapshot) -> Charges {
    Charges {
        system: snapshot.system.usage,
        transient: snapshot.transient.usage,
        classes: snapshot.classes.iter().map(|c| (c.name.to_string(), c.row.usage)).collect(),
        peers: snapshot.peers.iter().map(|p| (p.peer.as_bytes().to_vec(), p.row.usage)).collect(),
        connections: snapshot
            .connections
            .iter()
            .map(|c| (c.usage.memory, c.usage.streams_inbound + c.usage.streams_outbound))
            .collect(),
        in_use_bytes: snapshot.arena.in_use_bytes,
    }
}

/// Checks that a governor at rest accounts for every byte: the arena's own bitmaps, the ledger of
/// each connection, the scopes above and the counters all tell the same.
#[track_caller]
pub fn assert_adds_up(governor: &Governor) -> Snapshot {
    let snapshot = governor.snapshot();
    let (totals, arena) = (&snapshot.totals, &snapshot.arena);

    let in_blocks: usize = arena.classes.iter().map(|c| c.blocks_in_use * c.block_bytes).sum();
    assert_eq!(in_blocks as u64 + arena.large_bytes, arena.in_use_bytes, "blocks, by bitmap");
    assert_eq!(
        arena.in_use_bytes,
        totals.cached_bytes + totals.outstanding_bytes,
        "every block is cached or out: {snapshot:#?}",
    );
    assert_eq!(
        snapshot.system.usage.memory,
        arena.in_use_bytes + totals.reserved_bytes,
        "every block and reservation is charged: {snapshot:#?}",
    );
    assert_eq!(
        totals.leased_bytes - totals.returned_bytes,
        totals.outstanding_bytes,
        "what was leased and not returned is out: {snapshot:#?}",
    );

    let mut connections = 0;
    for row in &snapshot.connections {
        let usage = &row.usage;
        let parts =
            usage.cached_bytes + usage.leased_bytes + usage.detached_bytes + usage.reserved_bytes;
        assert_eq!(usage.memory, parts, "a connection's charge is what it has: {row:#?}");
        connections += usage.memory;
    }
    assert_eq!(connections, snapshot.system.usage.memory, "connections add up: {snapshot:#?}");

    let orphans: u64 = snapshot.orphans.iter().map(|orphan| orphan.bytes).sum();
    assert_eq!(orphans, totals.orphaned_bytes, "orphans add up: {snapshot:#?}");
    let peers: u64 = snapshot.peers.iter().map(|peer| peer.row.usage.memory).sum();
    let unbound: u64 = snapshot
        .connections
        .iter()
        .filter(|row| row.usage.peer.is_none())
        .map(|row| row.usage.memory)
        .sum();
    assert_eq!(peers + unbound, snapshot.system.usage.memory, "peers add up: {snapshot:#?}");
    assert!(snapshot.transient.usage.memory <= unbound);
    snapshot
}

/// Checks that a governor uses nothing of anything and remembers nobody.
#[track_caller]
pub fn assert_nothing_left(governor: &Governor) {
    let snapshot = assert_adds_up(governor);
    assert_eq!(snapshot.system.usage, Usage::default());
    assert_eq!(snapshot.transient.usage, Usage::default());
    assert_eq!(snapshot.peers, [], "peers");
    assert_eq!(snapshot.classes, [], "classes");
    assert_eq!(snapshot.connections, [], "connections");
    assert_eq!(snapshot.orphans, [], "orphans");
    assert_eq!(snapshot.arena.in_use_bytes, 0);
    assert_eq!(snapshot.totals.connections, 0);
}
