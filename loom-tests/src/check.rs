//! What has to be true whenever nothing is under way.

use leasehold::{Governor, Scope, Snapshot, Usage};

use crate::fixture::{Remains, bytes};

/// Checks conservation at rest, while some memory may be out: what the arena says has left it is
/// what connections have, and what the two systems are charged for.
#[track_caller]
pub fn at_rest(governor: &Governor) -> Snapshot {
    let snapshot = governor.snapshot();
    let totals = snapshot.totals;
    assert_eq!(
        snapshot.arena.in_use_bytes,
        totals.cached_bytes + totals.outstanding_bytes,
        "blocks that left the arena are cached or leased",
    );
    assert_eq!(
        snapshot.scope(Scope::System).usage.memory
            + snapshot.scope(Scope::AllowlistedSystem).usage.memory,
        snapshot.arena.in_use_bytes + totals.reserved_bytes,
        "the systems are charged for what left the arena and what is reserved",
    );
    assert_eq!(
        totals.leased_bytes - totals.returned_bytes,
        totals.outstanding_bytes,
        "what was leased and not returned is out",
    );
    for row in &snapshot.connections {
        let usage = &row.usage;
        let has = usage.cached_bytes + usage.leased_bytes + usage.detached_bytes;
        assert_eq!(usage.memory, has + usage.reserved_bytes, "charged for what it has");
    }
    snapshot
}

/// Checks that nothing is left of anything: every connection has ended, and every lease.
#[track_caller]
pub fn all_back(governor: &Governor) {
    let snapshot = at_rest(governor);
    assert_eq!(snapshot.arena.in_use_bytes, 0, "a block did not come back to the arena");
    for row in &snapshot.scopes {
        assert_eq!(row.usage, Usage::default(), "a scope is still charged");
    }
    assert_eq!(snapshot.rows(Scope::Peer).count(), 0, "a peer's scope outlives its connections");
    assert_eq!(
        snapshot.rows(Scope::Class).count(),
        0,
        "a class's scope outlives its connections and streams"
    );
    assert_eq!(
        snapshot.rows(Scope::ClassPeer).count(),
        0,
        "a peer's part of a class outlives its connections"
    );
    assert_eq!(snapshot.connections, [], "an ended connection is still known");
}

/// Checks that the one guard there was is gone, that of its connection exactly `remains` is left,
/// and nothing when that goes too.
#[track_caller]
pub fn ended(governor: &Governor, remains: impl Remains) {
    let snapshot = at_rest(governor);
    assert_eq!(snapshot.scope(Scope::System).usage.connections(), 0, "the connection still counts");
    assert_eq!(snapshot.scope(Scope::System).usage.streams(), 0, "a stream still counts");
    assert_eq!(snapshot.totals.reserved_bytes, 0, "a reservation still counts");
    assert_eq!(snapshot.arena.in_use_bytes, bytes(remains.blocks()));
    assert_eq!(snapshot.totals.orphaned_bytes, snapshot.totals.outstanding_bytes);
    assert_eq!(snapshot.orphans.len() as u64, remains.blocks());
    drop(remains);
    all_back(governor);
}

/// What a class has, and the peers' parts of it together: streams and bytes. Nothing if nothing
/// holds the class.
pub fn of_class(governor: &Governor, name: &str) -> [(u64, u64); 2] {
    let snapshot = governor.snapshot();
    let sum = |usage: &[Usage]| {
        usage.iter().fold((0, 0), |(s, m), usage| (s + usage.streams(), m + usage.memory))
    };
    [Scope::Class, Scope::ClassPeer].map(|scope| {
        let rows = snapshot.rows(scope).filter(|row| row.class.as_deref() == Some(name));
        sum(&rows.map(|row| row.usage).collect::<Vec<_>>())
    })
}
