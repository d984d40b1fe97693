//! Reading everything, row by row.

use super::Governor;
use crate::connection::{Audit, Connection};
use crate::registry::Registered;
use crate::report::{ConnectionRow, Orphan, RefusalRow, Snapshot, Totals};
use crate::scope::Refusals;

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
        let folded = *shared.folded.lock();
        let mut connections = Vec::new();
        shared.registry.for_each(|connection| connections.push(connection.clone()));
        connections.sort_unstable_by_key(|connection| connection.serial());
        connections.dedup_by_key(|connection| connection.serial());

        let mut totals = Totals {
            leased_bytes: folded.leased_bytes,
            returned_bytes: folded.returned_bytes,
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

        let mut scopes = shared.tree.rows();
        scopes.sort_unstable_by(|a, b| {
            (a.scope, &a.class, &a.peer).cmp(&(b.scope, &b.class, &b.peer))
        });
        let tree = shared.tree.counters();
        totals.admitted = tree.admitted;
        let refusals = refusal_rows(&tree.refusals);
        totals.refused = refusals.iter().map(|row| row.count).sum();
        Snapshot {
            scopes,
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
            id: connection.id(),
            site: connection.site(),
            age: self.shared.hot.age(connection.admitted_tick()),
            source: audit.source,
            closed: audit.closed,
            usage: audit.usage,
        }
    }

    fn orphans(&self, connection: &Connection, audit: &Audit) -> impl Iterator<Item = Orphan> {
        let connection = connection.id();
        audit.orphans.iter().map(move |note| Orphan {
            connection,
            site: note.site,
            bytes: note.bytes,
            age: self.shared.hot.age(note.tick),
        })
    }
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
