//! Tests of leasehold whose tools are too heavy for the crate itself: random sequences against an
//! oracle (proptest), programs that must not compile (trybuild), and threads that collide.
//!
//! They live in a package of their own so that building an example builds none of it. What they
//! share is here.

use leasehold::{Governor, ScopeRow, Snapshot, Usage};

/// Checks that a governor at rest accounts for every byte: the arena's own bitmaps, the ledger of
/// each connection, the scopes of both systems and the counters all tell the same.
///
/// # Panics
///
/// If they do not.
#[track_caller]
pub fn assert_adds_up(governor: &Governor) -> Snapshot {
    let snapshot = governor.snapshot();
    let (totals, arena) = (&snapshot.totals, &snapshot.arena);
    let both = |a: &ScopeRow, b: &ScopeRow| a.usage.memory + b.usage.memory;
    let systems = both(&snapshot.system, &snapshot.allowlisted_system);
    let transient = both(&snapshot.transient, &snapshot.allowlisted_transient);

    let in_blocks: usize = arena.classes.iter().map(|c| c.blocks_in_use * c.block_bytes).sum();
    assert_eq!(in_blocks as u64 + arena.large_bytes, arena.in_use_bytes, "blocks, by bitmap");
    let held = totals.cached_bytes + totals.outstanding_bytes;
    assert_eq!(arena.in_use_bytes, held, "every block is cached or out: {snapshot:#?}");
    let charged = arena.in_use_bytes + totals.reserved_bytes;
    assert_eq!(systems, charged, "every block and reservation is charged: {snapshot:#?}");
    let out = totals.leased_bytes - totals.returned_bytes;
    assert_eq!(out, totals.outstanding_bytes, "what was leased is out or back: {snapshot:#?}");

    for row in &snapshot.connections {
        let usage = &row.usage;
        let parts =
            usage.cached_bytes + usage.leased_bytes + usage.detached_bytes + usage.reserved_bytes;
        assert_eq!(usage.memory, parts, "a connection's charge is what it has: {row:#?}");
    }
    let connections: u64 = snapshot.connections.iter().map(|row| row.usage.memory).sum();
    assert_eq!(connections, systems, "connections add up: {snapshot:#?}");
    let orphans: u64 = snapshot.orphans.iter().map(|orphan| orphan.bytes).sum();
    assert_eq!(orphans, totals.orphaned_bytes, "orphans add up: {snapshot:#?}");
    let peers: u64 = snapshot.peers.iter().map(|peer| peer.row.usage.memory).sum();
    let unbound = snapshot.connections.iter().filter(|row| row.usage.peer.is_none());
    let unbound: u64 = unbound.map(|row| row.usage.memory).sum();
    assert_eq!(peers + unbound, systems, "peers add up: {snapshot:#?}");
    assert!(transient <= unbound, "{snapshot:#?}");
    let refused: u64 = snapshot.refusals.iter().map(|row| row.count).sum();
    assert_eq!(refused, totals.refused);
    snapshot
}

/// Checks that a governor uses nothing of anything and remembers nobody.
///
/// # Panics
///
/// If it does.
#[track_caller]
pub fn assert_nothing_left(governor: &Governor) {
    let snapshot = assert_adds_up(governor);
    for row in [
        snapshot.system,
        snapshot.transient,
        snapshot.allowlisted_system,
        snapshot.allowlisted_transient,
    ] {
        assert_eq!(row.usage, Usage::default());
    }
    assert_eq!(snapshot.peers, [], "peers");
    assert_eq!(snapshot.classes, [], "classes");
    assert_eq!(snapshot.class_peers, [], "parts of classes");
    assert_eq!(snapshot.connections, [], "connections");
    assert_eq!(snapshot.orphans, [], "orphans");
    assert_eq!(snapshot.arena.in_use_bytes, 0);
    assert_eq!(snapshot.totals.connections, 0);
}
