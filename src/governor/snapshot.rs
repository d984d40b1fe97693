//! Reading everything, row by row.

use super::Governor;
use crate::connection::{Audit, Connection};
use crate::counters::{BySize, Counters, Holdings};
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
        // Before the connections.
        let folded = *shared.folded.lock();
        let mut connections = Vec::new();
        shared.registry.for_each(|connection| connections.push(connection.clone()));
        connections.sort_unstable_by_key(|connection| connection.serial());
        connections.dedup_by_key(|connection| connection.serial());

        let mut holdings = Holdings::default();
        let mut rows = Vec::with_capacity(connections.len());
        let mut orphans = Vec::new();
        for connection in &connections {
            let audit = connection.audit(&mut holdings);
            orphans.extend(self.orphans(connection, &audit));
            rows.push(self.row(connection, audit));
        }
        orphans.sort_unstable_by_key(|orphan| std::cmp::Reverse(orphan.age));

        let mut scopes = shared.tree.rows();
        scopes.sort_unstable_by(|a, b| {
            (a.scope, &a.class, &a.peer).cmp(&(b.scope, &b.class, &b.peer))
        });
        let tree = shared.tree.counters();
        let refusals = refusal_rows(&tree.refusals);
        let refused = refusals.iter().map(|row| row.count).sum();
        let totals = totals(&shared.total(folded, &holdings), &holdings, tree.admitted, refused);
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

fn totals(counters: &Counters, holdings: &Holdings, admitted: u64, refused: u64) -> Totals {
    Totals {
        leased_bytes: sum(&counters.leased_bytes),
        returned_bytes: sum(&counters.returned_bytes),
        outstanding_bytes: sum(&holdings.outstanding_bytes),
        cached_bytes: sum(&holdings.idle_bytes),
        reserved_bytes: holdings.reserved_bytes,
        orphaned_bytes: holdings.orphaned_bytes,
        admitted,
        refused,
        revoked_leases: counters.revoked_leases,
        leaked_bytes: counters.leaked_bytes,
        connections: holdings.connections,
    }
}

fn sum(by_size: &BySize) -> u64 {
    by_size.iter().sum()
}
