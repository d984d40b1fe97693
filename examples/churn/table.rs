//! Both runs side by side.

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{HumanBytes, HumanCount};

use crate::figures::Figures;
use crate::plan::Refusal;

/// The table at the end.
pub fn side_by_side(control: &Figures, governed: &Figures) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header(["", "control", "governed"]);

    let mut row = |name: &str, value: &dyn Fn(&Figures) -> String| {
        table.add_row([name.to_owned(), value(control), value(governed)]);
    };
    row("connections", &|run| count(run.connections));
    row("well-behaved, served in full", &|run| share(run.served, run.expected.well_behaved));
    row("bytes echoed and verified", &|run| bytes(run.bytes_echoed));
    row("bytes audited", &|run| bytes(run.audited_bytes));
    row("leased", &|run| bytes(run.totals.leased_bytes));
    row("returned", &|run| bytes(run.totals.returned_bytes));
    row("outstanding", &|run| bytes(run.totals.outstanding_bytes));
    row("orphans by call site", &orphans);
    row("objects in the hoard", &|run| count(run.hoard.objects));
    row("  buffers in them", &|run| count(run.hoard.buffers));
    row("  of these still readable", &|run| count(run.hoard.readable_buffers));
    for kind in Refusal::ALL {
        // The plan is the same; only the governor enforces it.
        let planned = governed.expected.refusals.of(kind);
        let refused = |run: &Figures| share(run.audit.refusals.of(kind), planned);
        row(&format!("refused by {kind}"), &refused);
    }
    row("ended by draining", &|run| count(run.revoked));
    row("resident memory, start", &|run| bytes(run.resident.start_bytes));
    row("resident memory, peak", &|run| bytes(run.resident.peak_bytes));
    row("resident memory, end", &|run| bytes(run.resident.end_bytes));
    row("connections per second", &|run| count(run.connections_per_second()));

    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn orphans(run: &Figures) -> String {
    match run.audit.orphans.as_deref() {
        None => "not known".to_owned(),
        Some([]) => "none".to_owned(),
        Some(sites) => sites.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
    }
}

fn count(count: u64) -> String {
    HumanCount(count).to_string()
}

fn bytes(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}

fn share(done: u64, planned: u64) -> String {
    format!("{} of {}", HumanCount(done), HumanCount(planned))
}
