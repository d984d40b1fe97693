//! What a governor publishes through the facade [`metrics`](https://docs.rs/metrics), for Prometheus
//! and others.
//!
//! [`Governor::maintain`](crate::Governor::maintain) publishes, and
//! [`Governor::publish_metrics`](crate::Governor::publish_metrics) does at once. A lease costs nothing
//! for it: the figures come from what is counted and kept anyway.
//!
//! Each series has the label `governor`: its [name](crate::GovernorBuilder::name). No label has a value
//! that a remote peer chooses, so the number of series is bounded. Who a peer is tells the
//! report.
//!
//! | name | type | besides `governor` | what |
//! |---|---|---|---|
//! | `leasehold_leased_bytes_total` | counter | `size` | blocks handed out through leases |
//! | `leasehold_returned_bytes_total` | counter | `size` | blocks given back; at rest leased − returned = outstanding |
//! | `leasehold_outstanding_bytes` | gauge | `size` | blocks in leases, pins and `Bytes` |
//! | `leasehold_idle_bytes` | gauge | `size` | idle blocks that connections keep |
//! | `leasehold_reserved_bytes` | gauge | | reservations |
//! | `leasehold_detached_bytes` | gauge | | of the outstanding, what lives on as `Bytes` |
//! | `leasehold_orphaned_bytes`, `leasehold_orphans` | gauge | | of the outstanding, what outlives its connection's guard; how many blocks |
//! | `leasehold_pinned_leases` | gauge | | owned leases that are pinned |
//! | `leasehold_revoked_leases_total` | counter | | owned leases that a close took from their holders |
//! | `leasehold_leaked_bytes_total` | counter | | borrowed leases that were forgotten and taken back |
//! | `leasehold_arena_mapped_bytes`, `leasehold_arena_resident_bytes` | gauge | | what the arena has of the system |
//! | `leasehold_slabs` | gauge | `size` | slabs of 1 MiB |
//! | `leasehold_connections`, `leasehold_streams` | gauge | `scope`, `direction` | open ones |
//! | `leasehold_fds` | gauge | `scope` | file descriptors |
//! | `leasehold_usage`, `leasehold_limit` | gauge | `scope`, `resource` | use beside the limit in force, which is infinite where there is none |
//! | `leasehold_admissions_total` | counter | | connections admitted |
//! | `leasehold_refusals_total` | counter | `scope`, `resource`, `reason` | refused requests |
//! | `leasehold_observed_refusals_total` | counter | `scope`, `resource`, `reason` | what a scope would have refused if it did not only [observe](crate::Observe) |
//! | `leasehold_connection_seconds` | histogram | | ages of connections that ended |
//! | `leasehold_connection_peak_bytes` | histogram | | the most memory that each of them had at once |
//!
//! `size` is the size of a block in bytes, or `large` for leases with a mapping of their own. `scope` is
//! one that always exists: `system`, `transient`, which counts for the system too, and the same two of
//! what is allow-listed. Refusals name every kind of scope. A series of refusals appears with the first.
//!
//! Samples of the two histograms lie at the upper bounds of [`SECONDS_BUCKETS`] and
//! [`PEAK_BYTES_BUCKETS`], and beyond the last at its double. Give these bounds to the exporter.

pub use crate::counters::{PEAK_BYTES_BUCKETS, SECONDS_BUCKETS};
