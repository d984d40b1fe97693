//! For programs.

use leasehold::{Limit, LimitWarning, NodeType, Rate};
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
            let value = json!({
                "connections": limit(row.connections),
                "rate": rate(row.rate),
                "from": row.origin.to_string(),
            });
            (row.path, value)
        })
        .collect();
    let warnings: Vec<Value> = effective.limits.check().iter().map(warning).collect();
    json!({
        "node_type": name(effective),
        "host": host(effective),
        "limits": scopes,
        "subnets": subnets,
        "warnings": warnings,
    })
}

/// The limits that differ from another type of node's; `null` where one has nothing of that name.
pub fn of_differences(effective: &Effective, other: NodeType, differences: &[Difference]) -> Value {
    let value = |side: &Option<difference::Value>| match *side {
        None => Value::Null,
        Some(difference::Value::Limit(_, max)) => limit(max),
        Some(difference::Value::Rate(max)) => rate(max),
    };
    let differences: Vec<Value> = differences
        .iter()
        .map(|Difference { path, here, there }| {
            json!({ "path": path, "limit": value(here), "other": value(there) })
        })
        .collect();
    json!({
        "node_type": name(effective),
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
        |rate| json!({ "interval_seconds": rate.interval().as_secs_f64(), "burst": rate.burst() }),
    )
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
