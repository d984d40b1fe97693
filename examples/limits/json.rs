//! For programs.

use leasehold::{AllowList, Limit, LimitWarning, NodeType, Observe, Rate};
use serde_json::{Map, Value, json};

use crate::difference::{self, Difference};
use crate::effective::{Effective, key};

/// All limits, and warnings of those that are never reached. Sizes are in bytes.
pub fn of(effective: &Effective) -> Value {
    let scopes: Map<String, Value> = effective
        .scopes()
        .into_iter()
        .map(|row| {
            let cells = row.cells.iter();
            let cells = cells.map(|cell| {
                let value = json!({ "limit": limit(cell.limit), "from": cell.origin.to_string() });
                (key(cell.resource).to_owned(), value)
            });
            (row.path, Value::Object(cells.collect()))
        })
        .collect();
    let subnets: Map<String, Value> = effective
        .subnets()
        .into_iter()
        .map(|row| {
            let (connections, rates) = (row.connections, row.rate);
            let value = json!({
                "connections":
                    { "limit": limit(connections.0), "from": connections.1.to_string() },
                "rate": { "limit": rate(rates.0), "from": rates.1.to_string() },
            });
            (row.path, value)
        })
        .collect();
    let warnings: Vec<Value> = effective.limits.check().iter().map(warning).collect();
    json!({
        "node_type": name(effective),
        "file": effective.file.as_ref().map(|file| &file.name),
        "host": host(effective),
        "limits": scopes,
        "subnets": subnets,
        "observe": observe(effective.limits.observe),
        "allow": allow(&effective.limits.allow),
        "warnings": warnings,
    })
}

/// The limits that differ from another type of node's; `null` where one has no limit by that prefix
/// or network.
pub fn of_differences(effective: &Effective, other: NodeType, differences: &[Difference]) -> Value {
    let value = |side: &Option<difference::Value>| match side {
        None => Value::Null,
        Some(difference::Value::Limit(_, max)) => limit(*max),
        Some(difference::Value::Rate(max)) => rate(*max),
        Some(difference::Value::Observe(scopes)) => observe(*scopes),
        Some(difference::Value::Allow(list)) => allow(list),
    };
    let differences: Vec<Value> = differences
        .iter()
        .map(|Difference { path, here, there }| {
            json!({ "path": path, "limit": value(here), "other": value(there) })
        })
        .collect();
    json!({
        "node_type": name(effective),
        "file": effective.file.as_ref().map(|file| &file.name),
        "other": other.to_string(),
        "host": host(effective),
        "differences": differences,
    })
}

fn name(effective: &Effective) -> Option<String> {
    effective.node_type.map(|node_type| node_type.to_string())
}

fn host(effective: &Effective) -> Value {
    let host = &effective.host;
    json!({ "memory": host.memory(), "budget": host.budget(), "fds": host.fds() })
}

fn limit(limit: Limit) -> Value {
    match limit {
        Limit::Max(max) => max.into(),
        word => word.to_string().into(),
    }
}

fn rate(rate: Option<Rate>) -> Value {
    rate.map_or_else(
        || "unlimited".into(),
        |rate| json!({ "interval_seconds": rate.interval().as_secs_f64(), "burst": rate.burst_size() }),
    )
}

fn observe(observe: Observe) -> Value {
    observe.scopes().map(|scope| scope.to_string()).collect()
}

fn allow(list: &AllowList) -> Value {
    let rules = list.rules().iter();
    let rules = rules.map(|rule| {
        let network = rule.network().map(|network| network.to_string());
        json!({ "network": network, "peer": rule.peer().map(|peer| peer.to_string()) })
    });
    rules.collect()
}

fn warning(warning: &LimitWarning) -> Value {
    json!({
        "scope": warning.scope().to_string(),
        "name": warning.name(),
        "resource": key(warning.resource()),
        "limit": limit(warning.limit()),
        "parent_scope": warning.parent_scope().to_string(),
        "parent_name": warning.parent_name(),
        "parent_resource": key(warning.parent_resource()),
        "parent_limit": limit(warning.parent_limit()),
        "sentence": warning.to_string(),
    })
}
