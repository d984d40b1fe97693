//! For people.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};
use leasehold::{Host, Limit, NodeType, Rate, Resource};

use crate::difference::{Difference, Value};
use crate::effective::{Effective, RESOURCES};

/// All limits, and warnings of those that are never reached.
pub fn of(effective: &Effective) -> String {
    let mut text = heading(effective);
    writeln!(text, "\n{}\n{}", scopes(effective), subnets(effective)).expect("a string");
    let warnings = effective.limits.check();
    for warning in &warnings {
        writeln!(text, "warning: {warning}").expect("a string");
    }
    if warnings.is_empty() {
        text.push_str("Every limit can be reached: none is above that of its parent.");
    }
    text.trim_end().to_owned()
}

/// The limits that differ from another type of node's.
pub fn of_differences(
    effective: &Effective,
    other: NodeType,
    differences: &[Difference],
) -> String {
    if differences.is_empty() {
        return format!("{}\nNothing differs from {other}.", heading(effective));
    }
    let mut table = new(["limit".to_owned(), name(effective), other.to_string()]);
    for Difference { path, here, there } in differences {
        let word = |value: &Option<Value>| value.map_or_else(|| "–".to_owned(), value_word);
        table.add_row([path.clone(), word(here), word(there)]);
    }
    format!("{}\n{}", heading(effective), numbers_to_the_right(table))
}

fn heading(effective: &Effective) -> String {
    let host: &Host = &effective.host;
    format!(
        "{} node, host with {} of memory, {} of it for connections, {} file descriptors",
        name(effective),
        mib(host.memory()),
        mib(host.budget()),
        host.fds()
    )
}

fn name(effective: &Effective) -> String {
    effective.node_type.map_or_else(|| "unnamed".to_owned(), |node_type| node_type.to_string())
}

fn scopes(effective: &Effective) -> Table {
    let columns = [
        "memory",
        "connections\nin",
        "connections\nout",
        "connections",
        "streams\nin",
        "streams\nout",
        "streams",
        "file\ndescriptors",
    ];
    const { assert!(RESOURCES.len() == 8) };
    let mut table = new(["scope"].into_iter().chain(columns));
    for row in effective.scopes() {
        let cells = row.cells.iter();
        let cells =
            cells.map(|cell| format!("{}\n{}", limit(cell.resource, cell.limit), cell.origin));
        table.add_row([row.path.clone()].into_iter().chain(cells));
    }
    numbers_to_the_right(table)
}

fn subnets(effective: &Effective) -> Table {
    let mut table = new(["by address", "connections in", "new connections", ""]);
    for row in effective.subnets() {
        let connections = limit(Resource::ConnectionsInbound, row.connections);
        table.add_row([row.path, connections, rate(row.rate), row.origin.to_string()]);
    }
    numbers_to_the_right(table)
}

fn new(header: impl IntoIterator<Item = impl Into<comfy_table::Cell>>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header(header.into_iter().map(Into::into).collect::<Vec<comfy_table::Cell>>());
    table
}

fn numbers_to_the_right(mut table: Table) -> Table {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn value_word(value: Value) -> String {
    match value {
        Value::Limit(resource, max) => limit(resource, max),
        Value::Rate(max) => rate(max),
    }
}

fn limit(resource: Resource, limit: Limit) -> String {
    match (resource, limit) {
        (Resource::Memory, Limit::Max(bytes)) => mib(bytes),
        _ => limit.to_string(),
    }
}

/// With one more digit where a size is not a whole number of MiB.
fn mib(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    if bytes.is_multiple_of(MIB) {
        format!("{} MiB", bytes / MIB)
    } else {
        format!("{:.1} MiB", bytes as f64 / MIB as f64)
    }
}

fn rate(rate: Option<Rate>) -> String {
    rate.map_or_else(
        || "unlimited".to_owned(),
        |rate| format!("one in {:?}, {} at once", rate.interval(), rate.burst()),
    )
}
