//! What a governor publishes through the facade [`metrics`](https://docs.rs/metrics), for Prometheus
//! and others.
//!
//! [`Governor::maintain`](crate::Governor::maintain) publishes, and
//! [`Governor::publish_metrics`](crate::Governor::publish_metrics) does at once. A lease costs nothing
//! for it: the figures come from what is counted and kept anyway.
//!
#![doc = include_str!("metrics.md")]
//!
//! Each series has the label `governor`: its [name](crate::GovernorBuilder::name). No label has a value
//! that a remote peer chooses, so the number of series is bounded. Peers by name are in the
//! [report](crate::Governor::report).
//!
//! `size` is the size of a block in bytes, or `large` for leases with a mapping of their own. `scope` is
//! one that always exists: `system`, `transient`, which counts for the system too, and the same two of
//! what is allow-listed. Refusals name every kind of scope. A series of refusals appears with the first.
//!
//! Samples of the two histograms lie at the upper bounds of [`SECONDS_BUCKETS`] and
//! [`PEAK_BYTES_BUCKETS`], and beyond the last at its double. Give these bounds to the exporter.

pub use crate::counters::{PEAK_BYTES_BUCKETS, SECONDS_BUCKETS};
