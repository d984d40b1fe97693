//! What one run came to, and its JSON.

use std::time::Duration;

use serde_json::{Value, json};

use crate::backing::{Audit, Backing, Orphans, Totals};
use crate::cli::Args;
use crate::monitor::Resident;
use crate::plan::{Expected, Refusal, Refusals};
use crate::run::Progress;
use crate::server::{HoardReport, Stopped, Tally};

/// Everything that was measured in one run.
#[derive(Debug, Default)]
pub struct Figures {
    /// What the plan says, as far as it was carried out.
    pub expected: Expected,
    /// Connections that the server took from its listeners.
    pub connections: u64,
    /// Connections that were ended by draining the server.
    pub revoked: u64,
    /// Connections of well-behaved peers that were served to the end.
    pub served: u64,
    /// Bytes that came back to clients, each of them the right one.
    pub bytes_echoed: u64,
    /// Bytes that went through the server's audit log.
    pub audited_bytes: u64,
    /// Refusals that clients saw.
    pub refusals_seen: Refusals,
    /// Bytes of buffers.
    pub totals: Totals,
    /// What was left.
    pub audit: Audit,
    /// What the hoard held.
    pub hoard: HoardReport,
    /// Memory of the process.
    pub resident: Resident,
    /// From the first client to the last.
    pub elapsed: Duration,
    /// What went wrong, a sentence each.
    pub failures: Vec<String>,
}

impl Figures {
    /// Puts together what was counted, when a run is over.
    pub fn new<B: Backing>(
        progress: Progress,
        tally: Tally,
        elapsed: Duration,
        resident: Resident,
        stopped: &Stopped<B>,
    ) -> Self {
        let Progress { expected, seen, mut failures, .. } = progress;
        failures.extend_from_slice(&stopped.listener_errors);
        Self {
            expected,
            connections: tally.accepted,
            revoked: tally.revoked,
            served: seen.served,
            bytes_echoed: seen.verified_bytes,
            audited_bytes: stopped.audited_bytes,
            refusals_seen: seen.refusals,
            totals: stopped.backing().totals(),
            audit: stopped.backing().audit(),
            hoard: stopped.inspect_hoard(),
            resident,
            elapsed,
            failures,
        }
    }

    /// How many connections there were in a second.
    pub fn connections_per_second(&self) -> u64 {
        (self.connections as f64 / self.elapsed.as_secs_f64()) as u64
    }

    /// How large all orphans are together.
    pub fn orphaned_bytes(&self) -> u64 {
        self.audit.orphans.iter().flatten().map(|orphans| orphans.bytes).sum()
    }
}

/// The part of a run's figures that goes through the pipe between control and parent.
impl Figures {
    /// The figures that [`Figures::from_json`] reads.
    pub fn to_json(&self) -> Value {
        json!({
            "planned_connections": self.expected.connections,
            "planned_well_behaved": self.expected.well_behaved,
            "planned_lingering": self.expected.lingering,
            "connections": self.connections,
            "revoked": self.revoked,
            "well_behaved_served": self.served,
            "bytes_echoed": self.bytes_echoed,
            "audited_bytes": self.audited_bytes,
            "leased_bytes": self.totals.leased_bytes,
            "returned_bytes": self.totals.returned_bytes,
            "outstanding_bytes": self.totals.outstanding_bytes,
            "hoarded_objects": self.hoard.objects,
            "open_handles": self.hoard.open_handles,
            "hoarded_buffers": self.hoard.buffers,
            "readable_buffers": self.hoard.readable_buffers,
            "rss_start_bytes": self.resident.start_bytes,
            "rss_peak_bytes": self.resident.peak_bytes,
            "rss_end_bytes": self.resident.end_bytes,
            "elapsed_us": self.elapsed.as_micros() as u64,
            "connections_per_second": self.connections_per_second(),
            "failures": self.failures,
        })
    }

    /// The figures of a control, as its process reported them.
    pub fn from_json(json: &Value) -> Option<Self> {
        let number = |key| json.get(key)?.as_u64();
        let failures = json.get("failures")?.as_array()?.iter();
        Some(Self {
            expected: Expected {
                connections: number("planned_connections")?,
                well_behaved: number("planned_well_behaved")?,
                lingering: number("planned_lingering")?,
                refusals: Refusals::default(),
            },
            connections: number("connections")?,
            revoked: number("revoked")?,
            served: number("well_behaved_served")?,
            bytes_echoed: number("bytes_echoed")?,
            audited_bytes: number("audited_bytes")?,
            totals: Totals {
                leased_bytes: number("leased_bytes")?,
                returned_bytes: number("returned_bytes")?,
                outstanding_bytes: number("outstanding_bytes")?,
            },
            hoard: HoardReport {
                objects: number("hoarded_objects")?,
                open_handles: number("open_handles")?,
                buffers: number("hoarded_buffers")?,
                readable_buffers: number("readable_buffers")?,
            },
            resident: Resident {
                start_bytes: number("rss_start_bytes")?,
                peak_bytes: number("rss_peak_bytes")?,
                end_bytes: number("rss_end_bytes")?,
            },
            elapsed: Duration::from_micros(number("elapsed_us")?),
            failures: failures.filter_map(Value::as_str).map(str::to_owned).collect(),
            ..Self::default()
        })
    }
}

/// What `--json` prints: the governed run's figures, and beside them what to hold them against.
pub fn summary(args: &Args, control: &Figures, governed: &Figures, broken: &[String]) -> Value {
    let mut summary = governed.to_json();
    summary["seed"] = args.seed.into();
    summary["concurrency"] = args.concurrency().into();
    summary["orphaned_bytes"] = governed.orphaned_bytes().into();
    summary["orphans"] = governed.audit.orphans.iter().flatten().map(orphans_json).collect();
    summary["refused"] = governed.audit.refusals.total().into();
    summary["refusals"] = Refusal::ALL.iter().map(|&kind| refusal_json(governed, kind)).collect();
    summary["control_rss_end_bytes"] = control.resident.end_bytes.into();
    summary["control"] = control.to_json();
    summary["broken_promises"] = broken.into();
    summary
}

fn orphans_json(orphans: &Orphans) -> Value {
    json!({ "site": orphans.site, "count": orphans.count, "bytes": orphans.bytes })
}

fn refusal_json(governed: &Figures, kind: Refusal) -> Value {
    json!({
        "refusal": kind.to_string(),
        "planned": governed.expected.refusals.of(kind),
        "refused": governed.audit.refusals.of(kind),
        "seen_by_clients": governed.refusals_seen.of(kind),
    })
}
