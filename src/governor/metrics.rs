//! Publishing metrics: every figure is read anew and handed to the recorder that is installed.

use metrics::{Key, KeyName, Label, Level, Metadata, Recorder, Unit};

use super::Governor;
use crate::arena::{ArenaReport, SizeClasses};
use crate::connection::Shared;
use crate::counters::{BySize, Ended, PEAK_BYTES_BUCKETS, SECONDS_BUCKETS};
use crate::error::Resource;
use crate::limit::Limit;
use crate::report::ScopeRow;
use crate::scope::Refusals;

impl Governor {
    /// Publishes all [metrics](crate::metrics) to the recorder that is installed for this thread or
    /// the process. Without one it does nothing, and nothing is lost for a recorder that comes later.
    ///
    /// It looks at every connection, one after another, and holds each lock for a moment: some 20 ms
    /// for 100,000 connections. [`maintain`](Self::maintain) calls it; call it where you serve a scrape
    /// too if that shall show the very moment.
    ///
    /// Counters are published as they are, so that each recorder in turn has all of them. Connections
    /// that ended are samples: each goes to the recorder of the next publication.
    pub fn publish_metrics(&self) {
        metrics::with_recorder(|recorder| {
            // The facade's recorder that does nothing. Any other has a place to put something.
            if size_of_val(recorder) > 0 {
                Publication { recorder, governor: &self.shared.name }.publish(&self.shared);
            }
        });
    }
}

/// One round of handing out all figures.
struct Publication<'a> {
    recorder: &'a dyn Recorder,
    governor: &'a str,
}

type Labels<'a> = &'a [(&'static str, &'a str)];

impl Publication<'_> {
    fn publish(&self, shared: &Shared) {
        let (counters, holdings) = shared.add_up();
        let sizes = Sizes::new(shared.arena.sizes());
        self.counters_by_size(
            "leasehold_leased_bytes_total",
            "Blocks handed out through leases.",
            &sizes,
            &counters.leased_bytes,
        );
        self.counters_by_size(
            "leasehold_returned_bytes_total",
            "Blocks given back through leases.",
            &sizes,
            &counters.returned_bytes,
        );
        self.gauges_by_size(
            "leasehold_outstanding_bytes",
            "Blocks in leases, pins and Bytes.",
            &sizes,
            &holdings.outstanding_bytes,
        );
        self.gauges_by_size(
            "leasehold_idle_bytes",
            "Idle blocks that connections keep for their next leases.",
            &sizes,
            &holdings.idle_bytes,
        );
        for (name, help, bytes) in [
            (
                "leasehold_reserved_bytes",
                "Bytes that other code allocates.",
                holdings.reserved_bytes,
            ),
            (
                "leasehold_detached_bytes",
                "Of the outstanding bytes, those that live on as Bytes.",
                holdings.detached_bytes,
            ),
            (
                "leasehold_orphaned_bytes",
                "Of the outstanding bytes, those that outlive their connection's guard.",
                holdings.orphaned_bytes,
            ),
        ] {
            self.gauge(name, Unit::Bytes, help, &[], bytes as f64);
        }
        self.gauge(
            "leasehold_orphans",
            Unit::Count,
            "Blocks that outlive their connection's guard.",
            &[],
            holdings.orphans as f64,
        );
        self.gauge(
            "leasehold_pinned_leases",
            Unit::Count,
            "Owned leases that a pin keeps from being revoked.",
            &[],
            holdings.pinned_leases as f64,
        );
        self.counter(
            "leasehold_revoked_leases_total",
            Unit::Count,
            "Owned leases that a close took from their holders.",
            &[],
            counters.revoked_leases,
        );
        self.counter(
            "leasehold_leaked_bytes_total",
            Unit::Bytes,
            "Borrowed leases that were forgotten and that the guard's end took back.",
            &[],
            counters.leaked_bytes,
        );
        self.arena(&shared.arena.report());
        for row in shared.tree.fixed_rows() {
            self.scope(&row);
        }
        let tree = shared.tree.counters();
        self.counter(
            "leasehold_admissions_total",
            Unit::Count,
            "Connections admitted.",
            &[],
            tree.admitted,
        );
        self.refusals(
            "leasehold_refusals_total",
            "Requests refused, by what refused them.",
            &tree.refusals,
        );
        self.refusals(
            "leasehold_observed_refusals_total",
            "Requests granted that a scope would have refused if it did not only observe.",
            &tree.observed,
        );
        self.ended(&shared.take_ended(&tree.ended));
    }

    fn arena(&self, arena: &ArenaReport) {
        let bytes = |name, help, bytes: u64| self.gauge(name, Unit::Bytes, help, &[], bytes as f64);
        bytes("leasehold_arena_mapped_bytes", "Address space that is mapped.", arena.mapped_bytes);
        bytes(
            "leasehold_arena_resident_bytes",
            "Of what is mapped, what is resident: an estimate from above.",
            arena.resident_bytes,
        );
        for class in &arena.size_classes {
            let size = class.block_bytes.to_string();
            self.gauge(
                "leasehold_slabs",
                Unit::Count,
                "Slabs of 1 MiB that are mapped.",
                &[("size", &size)],
                class.slabs as f64,
            );
        }
    }

    fn scope(&self, row: &ScopeRow) {
        let scope = ("scope", row.scope.label());
        let usage = &row.usage;
        for (direction, connections, streams) in [
            ("inbound", usage.connections_inbound, usage.streams_inbound),
            ("outbound", usage.connections_outbound, usage.streams_outbound),
        ] {
            let labels = &[scope, ("direction", direction)];
            let count = |name, help, count: u32| {
                self.gauge(name, Unit::Count, help, labels, count.into());
            };
            count("leasehold_connections", "Connections, by scope and direction.", connections);
            count("leasehold_streams", "Streams, by scope and direction.", streams);
        }
        let fds = usage.fds.into();
        self.gauge("leasehold_fds", Unit::Count, "File descriptors, by scope.", &[scope], fds);
        for resource in Resource::ALL {
            let labels = &[scope, ("resource", resource.label())];
            let unit = if resource == Resource::Memory { Unit::Bytes } else { Unit::Count };
            let limit = match row.limits.of(resource) {
                Limit::Unlimited => f64::INFINITY,
                limit => limit.max() as f64,
            };
            let usage = usage.of(resource) as f64;
            self.gauge("leasehold_usage", unit, "What a scope uses of a resource.", labels, usage);
            self.gauge("leasehold_limit", unit, "What a scope may use of it.", labels, limit);
        }
    }

    fn refusals(&self, name: &'static str, help: &'static str, refusals: &Refusals) {
        for (scope, resource, reason, count) in refusals.iter() {
            let labels = &[
                ("scope", scope.label()),
                ("resource", resource.label()),
                ("reason", reason.label()),
            ];
            self.counter(name, Unit::Count, help, labels, count);
        }
    }

    fn ended(&self, ended: &Ended) {
        self.histogram(
            "leasehold_connection_seconds",
            Unit::Seconds,
            "How long connections lived that ended.",
            &SECONDS_BUCKETS,
            &ended.by_seconds,
        );
        self.histogram(
            "leasehold_connection_peak_bytes",
            Unit::Bytes,
            "The most memory that connections had at once that ended.",
            &PEAK_BYTES_BUCKETS,
            &ended.by_peak,
        );
    }

    fn counters_by_size(
        &self,
        name: &'static str,
        help: &'static str,
        sizes: &Sizes,
        bytes: &BySize,
    ) {
        for (size, bytes) in sizes.of(bytes) {
            self.counter(name, Unit::Bytes, help, &[("size", size)], bytes);
        }
    }

    fn gauges_by_size(
        &self,
        name: &'static str,
        help: &'static str,
        sizes: &Sizes,
        bytes: &BySize,
    ) {
        for (size, bytes) in sizes.of(bytes) {
            self.gauge(name, Unit::Bytes, help, &[("size", size)], bytes as f64);
        }
    }

    fn counter(
        &self,
        name: &'static str,
        unit: Unit,
        help: &'static str,
        labels: Labels<'_>,
        value: u64,
    ) {
        self.recorder.describe_counter(KeyName::from_const_str(name), Some(unit), help.into());
        self.recorder.register_counter(&self.key(name, labels), &METADATA).absolute(value);
    }

    fn gauge(
        &self,
        name: &'static str,
        unit: Unit,
        help: &'static str,
        labels: Labels<'_>,
        value: f64,
    ) {
        self.recorder.describe_gauge(KeyName::from_const_str(name), Some(unit), help.into());
        self.recorder.register_gauge(&self.key(name, labels), &METADATA).set(value);
    }

    /// Each sample at the upper bound of its bucket. Exporters keep single samples until they are
    /// scraped, so only those that are new are handed out.
    fn histogram(
        &self,
        name: &'static str,
        unit: Unit,
        help: &'static str,
        bounds: &[f64],
        counts: &[u64],
    ) {
        self.recorder.describe_histogram(KeyName::from_const_str(name), Some(unit), help.into());
        let histogram = self.recorder.register_histogram(&self.key(name, &[]), &METADATA);
        let beyond = bounds.last().map(|last| last * 2.0);
        for (bound, count) in bounds.iter().copied().chain(beyond).zip(counts) {
            histogram.record_many(bound, *count as usize);
        }
    }

    fn key(&self, name: &'static str, labels: Labels<'_>) -> Key {
        let all = [("governor", self.governor)].into_iter().chain(labels.iter().copied());
        let labels: Vec<_> = all.map(|(key, value)| Label::new(key, value.to_owned())).collect();
        Key::from_parts(name, labels)
    }
}

static METADATA: Metadata<'static> =
    Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// The names of the sizes of blocks.
struct Sizes(Vec<(usize, String)>);

impl Sizes {
    fn new(sizes: SizeClasses) -> Self {
        let named = |class| (class, sizes.block_bytes(class).to_string());
        let large = (crate::counters::LARGE, "large".to_owned());
        Self((0..sizes.count()).map(named).chain([large]).collect())
    }

    fn of<'a>(&'a self, bytes: &'a BySize) -> impl Iterator<Item = (&'a str, u64)> {
        self.0.iter().map(|(size, name)| (name.as_str(), bytes[*size]))
    }
}
