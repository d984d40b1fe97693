//! Putting a report together, and asking whether anything is still held.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::panic::Location;
use std::time::{Duration, Instant};

use super::Governor;
use crate::connection::{Holder, Shared};
use crate::error::{Resource, Scope};
use crate::registry::Registered;
use crate::report::{ConnectionRow, ScopeRow, Snapshot};
use crate::summary::{
    Group, MemoryUse, Names, NotQuiescent, Report, ReportOptions, ReportedConnection, ScopeUse,
    Site,
};

impl Governor {
    /// Who holds what, since when, from which line, and what is short.
    ///
    /// Costs what a [`snapshot`](Self::snapshot) does, and a short lock for each block that is out. It
    /// never stops the world, so what happens meanwhile may be in one row and not in another.
    ///
    /// ```
    /// use leasehold::{Governor, Names, ReportOptions};
    ///
    /// let governor = Governor::unlimited();
    /// let guard = governor.inbound().peer("alice").try_admit()?;
    /// let _lease = guard.try_lease(4096)?;
    /// let report = governor.report(&ReportOptions::default().names(Names::Hashed));
    /// assert!(report.sites.iter().any(|site| site.kind == "borrowed" && site.bytes == 4096));
    /// assert!(!report.to_string().contains("alice"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn report(&self, options: &ReportOptions) -> Report {
        let snapshot = self.snapshot();
        Reporter { shared: &self.shared, options, snapshot: &snapshot }.report()
    }

    /// Checks that nothing is held any more: no connection is open, and no block is out. For the end of
    /// tests; [`wait_quiescent`](Self::wait_quiescent) gives time to what drops soon.
    ///
    /// # Panics
    ///
    /// If something is held. The message names each line that holds something.
    #[track_caller]
    pub fn assert_quiescent(&self) {
        if let Err(error) = self.wait_quiescent(Duration::ZERO) {
            panic!("{error}");
        }
    }

    /// Waits until nothing is held any more, on this thread.
    ///
    /// # Errors
    ///
    /// If something still is after `grace`.
    ///
    /// ```
    /// use leasehold::Governor;
    /// use std::time::Duration;
    ///
    /// let governor = Governor::unlimited();
    /// let guard = governor.inbound().try_admit()?;
    /// let error = governor.wait_quiescent(Duration::ZERO).unwrap_err();
    /// assert!(error.to_string().contains(file!()));
    /// drop(guard);
    /// governor.assert_quiescent();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_quiescent(&self, grace: Duration) -> Result<(), NotQuiescent> {
        const STEP: Duration = Duration::from_millis(2);
        let start = Instant::now();
        loop {
            let is_free = |row: &ScopeRow| row.usage == Default::default();
            if self.shared.tree.fixed_rows().iter().all(is_free) {
                return Ok(());
            }
            if start.elapsed() >= grace {
                break;
            }
            std::thread::sleep(STEP);
        }
        self.shared.read_clock();
        let (sites, _) = read_sites(&self.shared, 0);
        Err(NotQuiescent { sites })
    }
}

/// What is one row: the kind, whether it is orphaned, and the lines.
type Key = (&'static str, bool, &'static Location<'static>, Option<&'static Location<'static>>);

/// Every line that holds something, those with the most bytes first; and the `oldest` of what is held.
fn read_sites(shared: &Shared, oldest: usize) -> (Vec<Site>, Vec<Site>) {
    let mut by_site = BTreeMap::new();
    let mut old: Vec<(u64, Holder)> = Vec::new();
    shared.walk(|connection, walk| {
        connection.for_each_holder(walk, |holder| {
            let key = (holder.kind, holder.orphaned, holder.site, holder.perhaps);
            let (count, bytes, tick) = by_site.entry(key).or_insert((0, 0, holder.tick));
            (*count, *tick) = (*count + 1, (*tick).min(holder.tick));
            *bytes += holder.bytes;
            old.push((connection.id().serial(), holder));
            if old.len() > 2 * oldest {
                old.sort_by_key(|(_, holder)| holder.tick);
                old.truncate(oldest);
            }
        });
    });
    old.sort_by_key(|(_, holder)| holder.tick);
    old.truncate(oldest);
    let site = |(kind, orphaned, site, perhaps): Key, (count, bytes, tick)| Site {
        site: escaped(&site),
        perhaps: perhaps.map(|line| escaped(&line)),
        kind,
        orphaned,
        count,
        bytes,
        oldest_seconds: shared.hot.age(tick).as_secs_f64(),
        connection: None,
    };
    let mut sites: Vec<_> = by_site.into_iter().map(|(key, sums)| site(key, sums)).collect();
    sites.sort_by_key(|site| Reverse((site.bytes, site.count)));
    let old = old.into_iter().map(|(id, of)| Site {
        connection: Some(id),
        ..site((of.kind, of.orphaned, of.site, of.perhaps), (1, of.bytes, of.tick))
    });
    (sites, old.collect())
}

struct Reporter<'a> {
    shared: &'a Shared,
    options: &'a ReportOptions,
    snapshot: &'a Snapshot,
}

impl Reporter<'_> {
    fn report(&self) -> Report {
        let snapshot = self.snapshot;
        let rows = self.options.rows;
        let (mut sites, oldest) = read_sites(self.shared, rows);
        sites.truncate(rows);
        let unbound = |row: &&ConnectionRow| row.usage.peer.is_none() && !row.closed;
        let uses = |row| Resource::ALL.map(|resource| self.scope_use(row, resource));
        let mut refusals = [snapshot.refusals.clone(), snapshot.observed.clone()];
        refusals.iter_mut().for_each(|rows| rows.sort_by_key(|row| Reverse(row.count)));
        let [refusals, observed] = refusals;
        Report {
            governor: escaped(&self.shared.name),
            bottleneck: self.bottleneck(),
            memory: self.memory(),
            scopes: snapshot.scopes[..4].iter().flat_map(uses).collect(),
            peers: self.groups(Scope::Peer),
            classes: self.groups(Scope::Class),
            connections: self.connections(|_| true, |row| Reverse(row.usage.memory)),
            transient: self.connections(unbound, |row| Reverse(row.age)),
            sites,
            oldest,
            refusals,
            observed,
        }
    }

    fn memory(&self) -> MemoryUse {
        let Snapshot { connections, totals, arena, .. } = self.snapshot;
        MemoryUse {
            leased_bytes_total: totals.leased_bytes,
            returned_bytes_total: totals.returned_bytes,
            outstanding_bytes: totals.outstanding_bytes,
            idle_bytes: totals.cached_bytes,
            reserved_bytes: totals.reserved_bytes,
            detached_bytes: connections.iter().map(|row| row.usage.detached_bytes).sum(),
            orphaned_bytes: totals.orphaned_bytes,
            mapped_bytes: arena.mapped_bytes,
            resident_bytes: arena.resident_bytes,
        }
    }

    fn bottleneck(&self) -> Option<ScopeUse> {
        let (row, resource) = ScopeUse::fullest(&self.snapshot.scopes)?;
        let advice = Some(self.advice(row, resource));
        Some(ScopeUse { advice, ..self.scope_use(row, resource) })
    }

    /// What holds most of it, and what would have to give.
    fn advice(&self, row: &ScopeRow, resource: Resource) -> String {
        let Snapshot { connections, totals, .. } = self.snapshot;
        let of_peer = connections.iter().filter(|of| of.usage.peer == row.peer);
        let describe = |most: &ConnectionRow| {
            let ConnectionRow { id, site, age, usage, .. } = most;
            let (site, age) = (escaped(site), age.as_secs_f64());
            format!("Look at connection {id}: {} bytes, {age:.1} s, {site}. ", usage.memory)
        };
        let (holder, gives) = match row.scope {
            Scope::Transient | Scope::AllowlistedTransient => {
                let oldest = of_peer.max_by_key(|row| row.age).map(describe);
                (oldest, "connections that are bound to a peer or closed")
            }
            Scope::Peer | Scope::ClassPeer => {
                let largest = of_peer.max_by_key(|row| row.usage.memory).map(describe);
                (largest, "connections of this peer that give back or are closed")
            }
            scope => {
                let below = if scope == Scope::Class { Scope::ClassPeer } else { Scope::Peer };
                let parts = self.snapshot.rows(below).filter(|part| part.class == row.class);
                let most = parts.max_by_key(|part| part.usage.of(resource)).map(|part| {
                    let name = self.name_of(part).unwrap_or_else(|| "One peer".into());
                    format!("{name} has the most, {}. ", part.usage.of(resource))
                });
                (most, "peers that give back or are closed")
            }
        };
        let orphans = match totals.orphaned_bytes {
            bytes if bytes > 0 && resource == Resource::Memory => {
                format!(" {bytes} bytes are orphans: see the lines that hold them.")
            }
            _ => String::new(),
        };
        let holder = holder.unwrap_or_default();
        format!("{holder}Room comes from {gives}, or from a higher limit.{orphans}")
    }

    fn scope_use(&self, row: &ScopeRow, resource: Resource) -> ScopeUse {
        ScopeUse::of(row, resource, self.name_of(row))
    }

    fn groups(&self, scope: Scope) -> Vec<Group> {
        let mut rows: Vec<_> = self.snapshot.rows(scope).collect();
        rows.sort_by_key(|row| Reverse((row.usage.memory, row.usage.connections())));
        rows.truncate(self.options.rows);
        let group = |row: &ScopeRow| Group {
            name: self.name_of(row),
            bytes: row.usage.memory,
            connections: row.usage.connections(),
            streams: row.usage.streams(),
        };
        rows.into_iter().map(group).collect()
    }

    fn connections<K: Ord>(
        &self,
        pick: impl Fn(&&ConnectionRow) -> bool,
        order: impl Fn(&ConnectionRow) -> K,
    ) -> Vec<ReportedConnection> {
        let mut rows: Vec<_> = self.snapshot.connections.iter().filter(pick).collect();
        rows.sort_by_key(|row| order(row));
        rows.truncate(self.options.rows);
        let reported = |row: &ConnectionRow| ReportedConnection {
            id: row.id.serial(),
            peer: row.usage.peer.as_ref().and_then(|peer| self.name(peer)),
            remote: row.source.as_ref().and_then(|source| self.name(source)),
            site: escaped(row.site),
            age_seconds: row.age.as_secs_f64(),
            closed: row.closed,
            bytes: row.usage.memory,
            streams: u64::from(row.usage.streams_inbound) + u64::from(row.usage.streams_outbound),
        };
        rows.into_iter().map(reported).collect()
    }

    fn name_of(&self, row: &ScopeRow) -> Option<String> {
        let class = row.class.as_ref().map(escaped);
        let peer = row.peer.as_ref().and_then(|peer| self.name(peer));
        match (class, peer) {
            (Some(class), Some(peer)) => Some(format!("{class}/{peer}")),
            (class, peer) => class.or(peer),
        }
    }

    /// A name that a remote peer has, as the options want it.
    fn name(&self, name: &impl Display) -> Option<String> {
        match self.options.names {
            Names::Shown => Some(escaped(name)),
            Names::Hashed => {
                let hash = self.shared.hot.hasher.hash(name.to_string().as_bytes());
                Some(format!("{hash:016x}"))
            }
            Names::LeftOut => None,
        }
    }
}

/// ASCII on one line. What is escaped already stays as it is.
fn escaped(text: &impl Display) -> String {
    let text = text.to_string();
    let is_plain = |c: char| c.is_ascii_graphic() || c == ' ';
    if text.chars().all(is_plain) { text } else { text.escape_default().to_string() }
}
