//! Publishing metrics: every figure is read anew and handed to the recorder that is installed.

use metrics::{Key, KeyName, Label, Level, Metadata, Recorder, Unit};

use super::Governor;
use crate::connection::Shared;
use crate::counters::{LARGE, PEAK_BYTES_BUCKETS, SECONDS_BUCKETS};
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
                describe(recorder);
                Publication { recorder, governor: &self.shared.name }.publish(&self.shared);
            }
        });
    }
}

/// Tells the recorder what the table in the docs says of each metric.
fn describe(recorder: &dyn Recorder) {
    for row in include_str!("../metrics.md").lines().skip(2) {
        let mut cells = row.split('|').map(str::trim).skip(1);
        let name = cells.next().unwrap_or_default().trim_matches('`');
        let (kind, help) = (cells.next(), cells.nth(1).unwrap_or_default().into());
        let unit = match name.trim_end_matches("_total").rsplit('_').next() {
            Some("bytes") => Unit::Bytes,
            Some("seconds") => Unit::Seconds,
            _ => Unit::Count,
        };
        let name = KeyName::from_const_str(name);
        match kind {
            Some("counter") => recorder.describe_counter(name, Some(unit), help),
            Some("histogram") => recorder.describe_histogram(name, Some(unit), help),
            _ => recorder.describe_gauge(name, Some(unit), help),
        }
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
        let arena = shared.arena.report();
        let tree = shared.tree.counters();
        let mut sizes = vec![(LARGE, "large".to_owned())];
        for (nth, class) in arena.size_classes.iter().enumerate() {
            let size = class.block_bytes.to_string();
            self.gauge("leasehold_slabs", &[("size", &size)], class.slabs as f64);
            sizes.push((nth, size));
        }
        for (nth, size) in sizes {
            let size = &[("size", size.as_str())];
            self.counter("leasehold_leased_bytes_total", size, counters.leased_bytes[nth]);
            self.counter("leasehold_returned_bytes_total", size, counters.returned_bytes[nth]);
            let outstanding = holdings.outstanding_bytes[nth] as f64;
            self.gauge("leasehold_outstanding_bytes", size, outstanding);
            self.gauge("leasehold_idle_bytes", size, holdings.idle_bytes[nth] as f64);
        }
        for (name, count) in [
            ("leasehold_reserved_bytes", holdings.reserved_bytes),
            ("leasehold_detached_bytes", holdings.detached_bytes),
            ("leasehold_orphaned_bytes", holdings.orphaned_bytes),
            ("leasehold_orphans", holdings.orphans),
            ("leasehold_pinned_leases", holdings.pinned_leases),
            ("leasehold_arena_mapped_bytes", arena.mapped_bytes),
            ("leasehold_arena_resident_bytes", arena.resident_bytes),
        ] {
            self.gauge(name, &[], count as f64);
        }
        self.counter("leasehold_revoked_leases_total", &[], counters.revoked_leases);
        self.counter("leasehold_leaked_bytes_total", &[], counters.leaked_bytes);
        self.counter("leasehold_admissions_total", &[], tree.admitted);
        self.refusals("leasehold_refusals_total", &tree.refusals);
        self.refusals("leasehold_observed_refusals_total", &tree.observed);
        shared.tree.fixed_rows().iter().for_each(|row| self.scope(row));
        let ended = shared.tree.take_ended();
        self.samples("leasehold_connection_seconds", &SECONDS_BUCKETS, &ended.by_seconds);
        self.samples("leasehold_connection_peak_bytes", &PEAK_BYTES_BUCKETS, &ended.by_peak);
    }

    fn scope(&self, row: &ScopeRow) {
        let scope = ("scope", row.scope.label());
        let usage = &row.usage;
        for (direction, connections, streams) in [
            ("inbound", usage.connections_inbound, usage.streams_inbound),
            ("outbound", usage.connections_outbound, usage.streams_outbound),
        ] {
            let labels = &[scope, ("direction", direction)];
            self.gauge("leasehold_connections", labels, connections.into());
            self.gauge("leasehold_streams", labels, streams.into());
        }
        self.gauge("leasehold_fds", &[scope], usage.fds.into());
        for resource in Resource::ALL {
            let labels = &[scope, ("resource", resource.label())];
            let limit = match row.limits.of(resource) {
                Limit::Unlimited => f64::INFINITY,
                limit => limit.max() as f64,
            };
            self.gauge("leasehold_usage", labels, usage.of(resource) as f64);
            self.gauge("leasehold_limit", labels, limit);
        }
    }

    fn refusals(&self, name: &'static str, refusals: &Refusals) {
        for (scope, resource, reason, count) in refusals.iter() {
            let [scope, resource] = [("scope", scope.label()), ("resource", resource.label())];
            self.counter(name, &[scope, resource, ("reason", reason.label())], count);
        }
    }

    fn counter(&self, name: &'static str, labels: Labels<'_>, value: u64) {
        self.recorder.register_counter(&self.key(name, labels), &METADATA).absolute(value);
    }

    fn gauge(&self, name: &'static str, labels: Labels<'_>, value: f64) {
        self.recorder.register_gauge(&self.key(name, labels), &METADATA).set(value);
    }

    /// Each at the upper bound of its bucket. Exporters keep single samples until they are scraped, so
    /// only those that are new are handed out.
    fn samples(&self, name: &'static str, bounds: &[f64], counts: &[u64]) {
        let histogram = self.recorder.register_histogram(&self.key(name, &[]), &METADATA);
        let beyond = bounds.last().map(|last| last * 2.0);
        for (bound, count) in bounds.iter().copied().chain(beyond).zip(counts) {
            histogram.record_many(bound, *count as usize);
        }
    }

    fn key(&self, name: &'static str, labels: Labels<'_>) -> Key {
        let all = [("governor", self.governor)].into_iter().chain(labels.iter().copied());
        Key::from_parts(
            name,
            all.map(|(key, value)| Label::new(key, value.to_owned())).collect::<Vec<_>>(),
        )
    }
}

static METADATA: Metadata<'static> =
    Metadata::new(module_path!(), Level::INFO, Some(module_path!()));
