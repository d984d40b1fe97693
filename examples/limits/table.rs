//! For people.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};
use leasehold::{AllowList, Host, Limit, NodeType, Observe, Rate, Resource};

use crate::difference::{Difference, Value};
use crate::effective::{Effective, Origin, RESOURCES};

/// All limits, and warnings of those that are never reached.
pub fn of(effective: &Effective) -> String {
    let mut text = heading(effective);
    writeln!(text, "\n{}", scopes(effective)).expect("a string");
    if let Some(subnets) = subnets(effective) {
        writeln!(text, "{subnets}").expect("a string");
    }
    let lists =
        [("observe", observe(effective.limits.observe)), ("allow", allow(&effective.limits.allow))];
    for (path, words) in lists {
        let origin = effective.origin_of_list(path);
        if origin != Origin::Unset {
            writeln!(text, "{path}: {words} ({origin})").expect("a string");
        }
    }
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
    let here = effective.file.as_ref().map_or_else(|| name(effective), |file| file.name.clone());
    let mut table = new(["limit".to_owned(), here, other.to_string()]);
    let word = |value: &Option<Value>| value.as_ref().map_or_else(|| "–".to_owned(), value_word);
    for Difference { path, here, there } in differences {
        table.add_row([path.clone(), word(here), word(there)]);
    }
    format!("{}\n{}", heading(effective), numbers_to_the_right(table))
}

fn heading(effective: &Effective) -> String {
    let host: &Host = &effective.host;
    let by = effective.file.as_ref().map(|file| format!(" by {}", file.name));
    format!(
        "{} node{}, host with {} of memory, {} of it for connections, {} file descriptors",
        name(effective),
        by.unwrap_or_default(),
        mib(host.memory()),
        mib(host.budget()),
        host.fds()
    )
}

fn name(effective: &Effective) -> String {
    effective.node_type.map_or_else(|| "untyped".to_owned(), |node_type| node_type.to_string())
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

fn subnets(effective: &Effective) -> Option<Table> {
    let rows = effective.subnets();
    if rows.is_empty() {
        return None;
    }
    let mut table = new(["by address", "connections\nin", "new connections\nin"]);
    for row in rows {
        let ((max, from), (per, rate_from)) = (row.connections, row.rate);
        let connections = format!("{}\n{from}", limit(Resource::ConnectionsInbound, max));
        table.add_row([row.path, connections, format!("{}\n{rate_from}", rate(per))]);
    }
    Some(numbers_to_the_right(table))
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

fn value_word(value: &Value) -> String {
    match value {
        Value::Limit(resource, max) => limit(*resource, *max),
        Value::Rate(max) => rate(*max),
        Value::Observe(scopes) => observe(*scopes),
        Value::Allow(list) => allow(list),
    }
}

fn observe(observe: Observe) -> String {
    list(observe.scopes().map(|scope| scope.to_string()))
}

fn allow(rules: &AllowList) -> String {
    list(rules.rules().iter().map(|rule| {
        let network = rule.network().map(|network| network.to_string());
        let peer = rule.peer().map(|peer| format!("peer {peer}"));
        [peer, network].into_iter().flatten().collect::<Vec<_>>().join(" in ")
    }))
}

fn list(words: impl Iterator<Item = String>) -> String {
    let words: Vec<_> = words.collect();
    if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
}

fn limit(resource: Resource, limit: Limit) -> String {
    match limit {
        Limit::Max(bytes) if resource.is_bytes() => mib(bytes),
        limit => limit.to_string(),
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
        |rate| format!("one in {:?}, {} at once", rate.interval(), rate.burst_size()),
    )
}
