//! The promises, and a sentence for each one that is broken.

use std::fmt::Display;

use crate::figures::Figures;
use crate::plan::Refusal;

/// Nothing, if all is well.
pub fn broken_promises(control: &Figures, governed: &Figures) -> Vec<String> {
    let mut checks = Checks::default();
    checks.clients_are_served("control", control);
    checks.clients_are_served("governed", governed);
    checks.refusals_equal_the_plan(governed);
    checks.all_that_was_leased_is_back(governed);
    checks.nothing_is_charged(governed);
    checks.the_hoard_is_harmless(governed);
    checks.broken
}

#[derive(Default)]
struct Checks {
    broken: Vec<String>,
}

impl Checks {
    fn clients_are_served(&mut self, run: &str, figures: &Figures) {
        let expected = &figures.expected;
        for failure in &figures.failures {
            self.broken.push(format!("{run}: {failure}"));
        }
        self.equal(
            format_args!("{run}: well-behaved connections served in full"),
            figures.served,
            expected.well_behaved,
        );
        // A client that fails opens fewer connections than planned.
        if figures.failures.is_empty() {
            self.connections_follow_the_plan(run, figures);
        }
    }

    fn connections_follow_the_plan(&mut self, run: &str, figures: &Figures) {
        let expected = &figures.expected;
        self.equal(
            format_args!("{run}: connections accepted"),
            figures.connections,
            expected.connections,
        );
        if figures.revoked < expected.lingering {
            self.broken.push(format!(
                "{run}: draining ended {} connections, and {} waited for it",
                figures.revoked, expected.lingering
            ));
        }
    }

    fn refusals_equal_the_plan(&mut self, figures: &Figures) {
        for kind in Refusal::ALL {
            let planned = figures.expected.refusals.of(kind);
            let (refused, seen) = (figures.audit.refusals.of(kind), figures.refusals_seen.of(kind));
            self.equal(format_args!("refusals by the governor ({kind})"), refused, planned);
            self.equal(format_args!("refusals that clients saw ({kind})"), seen, planned);
        }
        for unplanned in &figures.audit.unplanned_refusals {
            self.broken.push(format!("not in the plan: {unplanned}"));
        }
    }

    fn all_that_was_leased_is_back(&mut self, figures: &Figures) {
        let totals = &figures.totals;
        if totals.leased_bytes < figures.bytes_echoed {
            self.broken.push(format!(
                "{} bytes were echoed, and only {} were leased for it",
                figures.bytes_echoed, totals.leased_bytes
            ));
        }
        self.equal("bytes returned", totals.returned_bytes, totals.leased_bytes);
        self.equal("bytes outstanding", totals.outstanding_bytes, 0);
        for orphans in figures.audit.orphans.iter().flatten() {
            self.broken.push(format!("orphans: {orphans}"));
        }
    }

    fn nothing_is_charged(&mut self, figures: &Figures) {
        for leftover in &figures.audit.leftovers {
            self.broken.push(format!("still in use at the end: {leftover}"));
        }
    }

    fn the_hoard_is_harmless(&mut self, figures: &Figures) {
        let hoard = &figures.hoard;
        if figures.failures.is_empty() {
            let planned = &figures.expected;
            let admitted = planned.connections - planned.refusals.of(Refusal::RetiredClass);
            self.equal("objects in the hoard", hoard.objects, admitted);
        }
        self.equal("hoarded handles that don't answer Closed", hoard.open_handles, 0);
        self.equal("hoarded buffers that aren't revoked", hoard.readable_buffers, 0);
    }

    fn equal(&mut self, what: impl Display, actual: u64, due: u64) {
        if actual != due {
            self.broken.push(format!("{what}: {actual} instead of {due}"));
        }
    }
}
