//! The progress bar, and resident memory over time.

use std::cell::Cell;
use std::convert::Infallible;
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use tokio::time::{MissedTickBehavior, interval};

use crate::backing::Backing;
use crate::plan::Plan;
use crate::server::Server;

/// How often memory is looked at. Each look costs the kernel a walk over the process's mappings.
const PERIOD: Duration = Duration::from_millis(50);

/// Watches one run.
pub struct Monitor {
    bar: ProgressBar,
    start_bytes: u64,
    peak_bytes: Cell<u64>,
}

/// Resident memory of the process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Resident {
    /// Before the server started.
    pub start_bytes: u64,
    /// The most that was seen.
    pub peak_bytes: u64,
    /// When all clients had gone, and the hoard was still there.
    pub end_bytes: u64,
}

impl Monitor {
    /// Starts a bar, which hides itself unless standard error is a terminal.
    pub fn new(run: &'static str, plan: &Plan) -> Self {
        let style = "{prefix:>8} {bar:40} {pos}/{len} connections\n         {wide_msg}";
        let style = ProgressStyle::with_template(style).expect("a constant template");
        let bar = ProgressBar::new(plan.connections.into()).with_style(style).with_prefix(run);
        let start_bytes = resident_bytes();
        Self { bar, start_bytes, peak_bytes: Cell::new(start_bytes) }
    }

    /// Observes the server again and again.
    pub async fn watch<B: Backing>(&self, server: &Server<B>) -> Infallible {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            self.observe(server);
        }
    }

    /// Takes note of memory, and draws the bar.
    pub fn observe<B: Backing>(&self, server: &Server<B>) {
        let resident = self.resident_bytes();
        if self.bar.is_hidden() {
            return;
        }
        let totals = server.backing().totals();
        self.bar.set_position(server.tally().accepted);
        self.bar.set_message(format!(
            "leased {}, returned {}, outstanding {}, resident {}",
            HumanBytes(totals.leased_bytes),
            HumanBytes(totals.returned_bytes),
            HumanBytes(totals.outstanding_bytes),
            HumanBytes(resident),
        ));
    }

    /// Takes the last look, and removes the bar.
    pub fn finish(self) -> Resident {
        self.bar.finish_and_clear();
        let end_bytes = self.resident_bytes();
        Resident { start_bytes: self.start_bytes, peak_bytes: self.peak_bytes.get(), end_bytes }
    }

    fn resident_bytes(&self) -> u64 {
        let resident = resident_bytes();
        self.peak_bytes.set(self.peak_bytes.get().max(resident));
        resident
    }
}

/// Zero where the system doesn't tell.
fn resident_bytes() -> u64 {
    memory_stats::memory_stats().map_or(0, |stats| stats.physical_mem as u64)
}
