//! Reading everything, row by row.

use std::time::Duration;

use super::Governor;
use crate::connection::{Audit, Connection, TICK_MS};
use crate::name::{ConnectionId, PeerKey};
use crate::registry::Identified;
use crate::report::{
    ClassPeerRow, ClassRow, ConnectionRow, Orphan, PeerRow, RefusalRow, ScopeRow, Snapshot, Totals,
};
use crate::scope::{Refusals, Seen};

impl Governor {
    /// Reads everything: the tree with limits beside use, connections, orphans, refusals, the
    /// arena, and totals.
    ///
    /// Costs a short lock for each row, and memory for all of them. It never stops the world: at
    /// rest the rows add up, while connections work they are each true at some moment during the
    /// call.
    pub fn snapshot(&self) -> Snapshot {
        let shared = &self.shared;
        shared.read_clock();
        // The counters that connections have handed in, before those they still have: what is
        // handed in meanwhile is missed and never counted twice, and the floor keeps that from
        // showing as a counter that falls.
        let tallies = *shared.tallies.lock();
        let mut connections = shared.registry.all();
        connections.sort_unstable_by_key(|connection| connection.id());

        let mut totals = Totals {
            leased_bytes: tallies.leased_bytes,
            returned_bytes: tallies.returned_bytes,
            ..Totals::default()
        };
        let mut rows = Vec::with_capacity(connections.len());
        let mut orphans = Vec::new();
        for connection in &connections {
            let audit = connection.audit();
            add_to_totals(&mut totals, &audit);
            orphans.extend(self.orphans(connection, &audit));
            rows.push(self.row(connection, audit));
        }
        orphans.sort_unstable_by_key(|orphan| std::cmp::Reverse(orphan.age));
        shared.raise_floor(&mut totals);

        let tree = shared.tree.report();
        totals.admitted = tree.admitted;
        let refusals = refusal_rows(&tree.refusals);
        totals.refused = refusals.iter().map(|row| row.count).sum();
        let class_row = |(name, seen)| ClassRow { name, row: scope_row(seen) };
        let mut classes: Vec<_> = tree.classes.into_iter().map(class_row).collect();
        classes.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let peer_row = |(key, seen): (Box<[u8]>, _)| PeerRow {
            peer: PeerKey::of_bounded(&key),
            row: scope_row(seen),
        };
        let mut peers: Vec<_> = tree.peers.into_iter().map(peer_row).collect();
        peers.sort_unstable_by(|a, b| a.peer.cmp(&b.peer));
        let class_peer_row = |(class, key, seen): (_, Box<[u8]>, _)| ClassPeerRow {
            class,
            peer: PeerKey::of_bounded(&key),
            row: scope_row(seen),
        };
        let mut class_peers: Vec<_> = tree.class_peers.into_iter().map(class_peer_row).collect();
        class_peers.sort_unstable_by(|a, b| (&a.class, &a.peer).cmp(&(&b.class, &b.peer)));

        Snapshot {
            system: scope_row(tree.system),
            transient: scope_row(tree.transient),
            allowlisted_system: scope_row(tree.allowlisted_system),
            allowlisted_transient: scope_row(tree.allowlisted_transient),
            classes,
            peers,
            class_peers,
            connections: rows,
            orphans,
            refusals,
            observed: refusal_rows(&tree.observed),
            subnet_bytes: tree.subnet_bytes,
            arena: shared.arena.report(),
            totals,
        }
    }

    fn row(&self, connection: &Connection, audit: Audit) -> ConnectionRow {
        ConnectionRow {
            id: ConnectionId(connection.id()),
            site: connection.site(),
            age: self.age(connection.admitted_tick()),
            source: audit.source,
            closed: audit.closed,
            usage: audit.usage,
        }
    }

    fn orphans(&self, connection: &Connection, audit: &Audit) -> impl Iterator<Item = Orphan> {
        let connection = ConnectionId(connection.id());
        audit.orphans.iter().map(move |note| Orphan {
            connection,
            site: note.site,
            bytes: note.bytes,
            age: self.age(note.tick),
        })
    }

    fn age(&self, since_tick: u32) -> Duration {
        let ticks = self.shared.tick().wrapping_sub(since_tick);
        Duration::from_millis(u64::from(ticks) * TICK_MS)
    }
}

fn scope_row((usage, limits): Seen) -> ScopeRow {
    ScopeRow { usage, limits }
}

fn refusal_rows(refusals: &Refusals) -> Vec<RefusalRow> {
    let row = |(scope, resource, reason, count)| RefusalRow { scope, resource, reason, count };
    refusals.iter().map(row).collect()
}

fn add_to_totals(totals: &mut Totals, audit: &Audit) {
    // Two systems without limits can hold more together than can be counted.
    let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
    let outstanding = audit.usage.leased_bytes + audit.usage.detached_bytes;
    add(&mut totals.leased_bytes, audit.leased_bytes);
    add(&mut totals.returned_bytes, audit.returned_bytes);
    add(&mut totals.outstanding_bytes, outstanding);
    add(&mut totals.cached_bytes, audit.usage.cached_bytes);
    add(&mut totals.reserved_bytes, audit.usage.reserved_bytes);
    if audit.gone {
        add(&mut totals.orphaned_bytes, outstanding);
    } else {
        totals.connections += 1;
    }
}
