//! Reading everything, row by row.

use std::time::Duration;

use super::Governor;
use crate::connection::{Audit, Connection, TICK_MS};
use crate::error::{Reason, Resource, Scope};
use crate::name::{ConnectionId, PeerKey};
use crate::registry::Identified;
use crate::report::{
    ClassRow, ConnectionRow, Orphan, PeerRow, RefusalRow, ScopeRow, Snapshot, Totals,
};

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
        let limits = shared.tree.limits();
        // The counters that connections have handed in, before those they still have: what is
        // handed in meanwhile is missed and never counted twice, and the floor keeps that from
        // showing as a counter that falls.
        let tallies = *shared.tallies.lock();
        let mut connections = shared.registry.all();
        connections.sort_unstable_by_key(|connection| connection.id());

        let mut totals = Totals {
            leased_bytes: tallies.leased_bytes,
            returned_bytes: tallies.returned_bytes,
            admitted: tallies.admitted,
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

        let refusals = self.refusals();
        totals.refused = refusals.iter().map(|row| row.count).sum();
        let mut classes: Vec<_> = shared
            .tree
            .class_usages()
            .into_iter()
            .map(|(name, usage)| {
                let limits = *limits.of_class(std::str::from_utf8(&name).unwrap_or_default());
                let name = String::from_utf8_lossy(&name).into();
                ClassRow { name, row: ScopeRow { usage, limits } }
            })
            .collect();
        classes.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let mut peers: Vec<_> = shared
            .tree
            .peer_usages()
            .into_iter()
            .map(|(key, usage)| PeerRow {
                peer: PeerKey::of_bounded(&key),
                row: ScopeRow { usage, limits: limits.peer },
            })
            .collect();
        peers.sort_unstable_by(|a, b| a.peer.cmp(&b.peer));

        Snapshot {
            system: ScopeRow { usage: shared.tree.system_usage(), limits: limits.system },
            transient: ScopeRow { usage: shared.tree.transient_usage(), limits: limits.transient },
            classes,
            peers,
            connections: rows,
            orphans,
            refusals,
            observed: Vec::new(),
            arena: shared.arena.report(),
            totals,
        }
    }

    fn row(&self, connection: &Connection, audit: Audit) -> ConnectionRow {
        ConnectionRow {
            id: ConnectionId(connection.id()),
            site: connection.site(),
            age: self.age(connection.admitted_tick()),
            source: connection.source().cloned(),
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

    fn refusals(&self) -> Vec<RefusalRow> {
        let counts = self.shared.tree.refusals();
        let mut rows = Vec::new();
        for scope in Scope::ALL {
            for resource in Resource::ALL {
                for reason in Reason::ALL {
                    let count = counts[scope as usize][resource as usize][reason as usize];
                    if count > 0 {
                        rows.push(RefusalRow { scope, resource, reason, count });
                    }
                }
            }
        }
        rows
    }
}

fn add_to_totals(totals: &mut Totals, audit: &Audit) {
    let outstanding = audit.usage.leased_bytes + audit.usage.detached_bytes;
    totals.leased_bytes += audit.leased_bytes;
    totals.returned_bytes += audit.returned_bytes;
    totals.outstanding_bytes += outstanding;
    totals.cached_bytes += audit.usage.cached_bytes;
    totals.reserved_bytes += audit.usage.reserved_bytes;
    if audit.gone {
        totals.orphaned_bytes += outstanding;
    } else {
        totals.connections += 1;
    }
}
