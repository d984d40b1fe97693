//! A report for people: who holds what, since when, from which line, and what is short.

use std::fmt;

use crate::error::{Resource, Scope};
use crate::limit::Limit;
use crate::report::{RefusalRow, ScopeRow};

/// What a [`Report`] shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportOptions {
    pub(crate) rows: usize,
    pub(crate) names: Names,
}

/// How a [`Report`] shows the names that remote peers have: keys and addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Names {
    /// As they are, with everything escaped that is not printable ASCII.
    #[default]
    Shown,
    /// As 16 digits, the same for the same name while the governor lives. The hash has a random key,
    /// so nobody finds the name by trying.
    Hashed,
    /// Not at all.
    LeftOut,
}

impl Default for ReportOptions {
    fn default() -> Self {
        Self { rows: 20, names: Names::Shown }
    }
}

impl ReportOptions {
    /// At most so many rows of each kind. 20 unless set.
    #[must_use]
    pub fn rows(self, rows: usize) -> Self {
        Self { rows, ..self }
    }

    /// How peers and addresses are shown, for a report that leaves the machine. As they are, unless
    /// set.
    #[must_use]
    pub fn names(self, names: Names) -> Self {
        Self { names, ..self }
    }
}

/// A governor in the words of a bug report, made by [`Governor::report`](crate::Governor::report).
///
/// Its `Display` is text to paste. With the feature `serde` it serializes too, under the names of the
/// fields. All text is ASCII: what is not, or could end a line, is escaped.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Report {
    /// The governor's [name](crate::GovernorBuilder::name).
    pub governor: String,
    /// The scope and resource nearest to its limit, if there is any limit.
    pub bottleneck: Option<ScopeUse>,
    /// Where the memory is.
    pub memory: MemoryUse,
    /// The four scopes that always exist, each resource.
    pub scopes: Vec<ScopeUse>,
    /// Peers, those with the most bytes first.
    pub peers: Vec<Group>,
    /// Classes, those with the most bytes first.
    pub classes: Vec<Group>,
    /// Connections, those with the most bytes first.
    pub connections: Vec<ReportedConnection>,
    /// Connections that are bound to no peer, the oldest first: what fills the transient scope.
    pub transient: Vec<ReportedConnection>,
    /// The lines of the program that hold something, those with the most bytes first.
    pub sites: Vec<Site>,
    /// What has been held for the longest time, one by one.
    pub oldest: Vec<Site>,
    /// Refusals so far, the most frequent first.
    pub refusals: Vec<RefusalRow>,
    /// What scopes that only [observe](crate::Observe) would have refused.
    pub observed: Vec<RefusalRow>,
}

/// What one scope uses of one resource.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ScopeUse {
    /// Which kind of scope.
    pub scope: Scope,
    /// The peer, the class, or both as `class/peer`.
    pub name: Option<String>,
    /// Of what.
    pub resource: Resource,
    /// In use, in bytes for memory, else a count.
    pub usage: u64,
    /// The limit; `None` is no limit.
    pub limit: Option<u64>,
    /// Which part of the limit is in use: 1 is full.
    pub utilization: f64,
    /// What holds most of it, and what would have to give: of the bottleneck.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub advice: Option<String>,
}

/// Where the memory is, in bytes.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[allow(missing_docs, reason = "each is the metric of this name")]
#[non_exhaustive]
pub struct MemoryUse {
    pub leased_bytes_total: u64,
    pub returned_bytes_total: u64,
    pub outstanding_bytes: u64,
    pub idle_bytes: u64,
    pub reserved_bytes: u64,
    pub detached_bytes: u64,
    pub orphaned_bytes: u64,
    pub mapped_bytes: u64,
    pub resident_bytes: u64,
}

/// All connections of one peer or class.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Group {
    /// The peer or class.
    pub name: Option<String>,
    /// Memory, idle blocks and reservations included.
    pub bytes: u64,
    /// Connections.
    pub connections: u64,
    /// Streams.
    pub streams: u64,
}

/// One connection that is open, or closed with memory still out.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ReportedConnection {
    /// The serial number of its [id](crate::ConnectionId).
    pub id: u64,
    /// The peer it is bound to.
    pub peer: Option<String>,
    /// Where it comes from.
    pub remote: Option<String>,
    /// The line that admitted it.
    pub site: String,
    /// How long ago that was.
    pub age_seconds: f64,
    /// Whether it is closed.
    pub closed: bool,
    /// Memory, idle blocks and reservations included.
    pub bytes: u64,
    /// Streams.
    pub streams: u64,
}

/// A line of the program that holds something.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Site {
    /// File, line and column. For a connection the line that admitted it, for all else the line that made
    /// it, unless that is not [sure](Self::perhaps).
    pub site: String,
    /// The line that may have made it, where that is not sure: `site` is then the line that admitted the
    /// connection, and the age is the connection's.
    ///
    /// So it is with `owned` leases that are not pinned now, on a connection that has ever kept blocks
    /// idle. An owned lease that takes an idle block notes its line only when it is pinned for the first
    /// time, so this line may be that of an earlier lease of the same block.
    pub perhaps: Option<String>,
    /// What was made there: a `connection`, a `stream`, or a lease that is `borrowed`, `owned`, `pinned`
    /// or `detached`, as `Bytes`, now.
    pub kind: &'static str,
    /// Whether it outlives its connection's guard.
    pub orphaned: bool,
    /// How many.
    pub count: u64,
    /// Their blocks; for connections their reservations.
    pub bytes: u64,
    /// The age of the oldest.
    pub oldest_seconds: f64,
    /// The serial number of the connection's [id](crate::ConnectionId), where the row is about one.
    pub connection: Option<u64>,
}

/// Something is still held, from these lines. Made by
/// [`Governor::wait_quiescent`](crate::Governor::wait_quiescent).
#[derive(Clone, Debug)]
pub struct NotQuiescent {
    pub(crate) sites: Vec<Site>,
}

impl NotQuiescent {
    /// The lines that hold something, those with the most bytes first.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }
}

impl std::error::Error for NotQuiescent {}

impl fmt::Display for NotQuiescent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("something is still held:")?;
        self.sites.iter().try_for_each(|site| write!(f, "\n  {site}"))
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { site, perhaps, kind, count, bytes, oldest_seconds, .. } = self;
        let orphaned = if self.orphaned { "orphaned, " } else { "" };
        write!(f, "{bytes} bytes, {count} {orphaned}{kind}, {oldest_seconds:.1} s: {site}")?;
        perhaps.as_ref().map_or(Ok(()), |line| write!(f, ", perhaps {line}"))?;
        self.connection.map_or(Ok(()), |id| write!(f, " (connection #{id})"))
    }
}

impl ScopeUse {
    /// `name` is the scope's, as it is to be shown.
    pub(crate) fn of(row: &ScopeRow, resource: Resource, name: Option<String>) -> Self {
        let usage = row.usage.of(resource);
        let limit = row.limits.of(resource);
        let limit = (limit != Limit::Unlimited).then(|| limit.max());
        let utilization = limit.map_or(0.0, |max| usage as f64 / max.max(1) as f64);
        Self { scope: row.scope, name, resource, usage, limit, utilization, advice: None }
    }

    /// The fullest of all limits that refuse something.
    pub(crate) fn fullest(rows: &[ScopeRow]) -> Option<(&ScopeRow, Resource)> {
        let refusing = rows.iter().filter(|row| !row.observes);
        let all = refusing.flat_map(|row| Resource::ALL.map(|resource| (row, resource)));
        let uses = all.map(|(row, resource)| (row, Self::of(row, resource, None)));
        let limited = uses.filter(|(_, of)| of.limit.is_some());
        let fullest = limited.max_by(|(_, a), (_, b)| a.utilization.total_cmp(&b.utilization));
        fullest.map(|(row, of)| (row, of.resource))
    }
}

impl fmt::Display for ScopeUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scope, name, resource, usage, limit, utilization, .. } = self;
        write!(f, "{}", scope.label())?;
        name.as_ref().map_or(Ok(()), |name| write!(f, " {name}"))?;
        write!(f, " {}: {usage}", resource.label())?;
        match limit {
            Some(limit) => write!(f, " of {limit} ({:.1} %)", utilization * 100.0),
            None => f.write_str(", no limit"),
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, bytes, connections, streams } = self;
        let name = name.as_deref().unwrap_or("(left out)");
        write!(f, "{bytes} bytes, {connections} connections, {streams} streams: {name}")
    }
}

impl fmt::Display for ReportedConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, bytes, streams, age_seconds, site, .. } = self;
        write!(f, "{bytes} bytes, {streams} streams, {age_seconds:.1} s: #{id}")?;
        for (word, name) in [("of", &self.peer), ("from", &self.remote)] {
            name.as_ref().map_or(Ok(()), |name| write!(f, " {word} {name}"))?;
        }
        write!(f, ", {site}{}", if self.closed { ", closed" } else { "" })
    }
}

impl fmt::Display for RefusalRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scope, resource, reason, count } = self;
        write!(f, "{count}: {} {} {}", scope.label(), resource.label(), reason.label())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "governor {}", self.governor)?;
        match &self.bottleneck {
            Some(at) => {
                writeln!(f, "bottleneck: {at}. {}", at.advice.as_deref().unwrap_or_default())?
            }
            None => writeln!(f, "bottleneck: none, for nothing has a limit")?,
        }
        let MemoryUse { outstanding_bytes, idle_bytes, reserved_bytes, .. } = self.memory;
        writeln!(
            f,
            "memory: {outstanding_bytes} bytes outstanding (of these {} detached, {} orphaned), \
             {idle_bytes} idle, {reserved_bytes} reserved; {} mapped, {} resident; \
             {} leased and {} returned in all",
            self.memory.detached_bytes,
            self.memory.orphaned_bytes,
            self.memory.mapped_bytes,
            self.memory.resident_bytes,
            self.memory.leased_bytes_total,
            self.memory.returned_bytes_total,
        )?;
        let in_use: Vec<_> = self.scopes.iter().filter(|scope| scope.usage > 0).collect();
        section(f, "scopes in use", &in_use)?;
        section(f, "peers with the most bytes", &self.peers)?;
        section(f, "classes with the most bytes", &self.classes)?;
        section(f, "connections with the most bytes", &self.connections)?;
        section(f, "connections without a peer, the oldest first", &self.transient)?;
        section(f, "lines that hold something", &self.sites)?;
        section(f, "what is held for the longest time", &self.oldest)?;
        section(f, "refusals", &self.refusals)?;
        section(f, "refusals that were only observed", &self.observed)
    }
}

fn section(f: &mut fmt::Formatter<'_>, title: &str, rows: &[impl fmt::Display]) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(f, "{title}:")?;
    rows.iter().try_for_each(|row| writeln!(f, "  {row}"))
}
