//! What differs from another type of node.

use std::collections::BTreeMap;

use leasehold::{AllowList, Limit, Limits, Observe, Rate, Resource};

use crate::effective::{Effective, RESOURCES, scopes_of};

/// One limit that two nodes have differently; `None` where one has no limit by that prefix or
/// network.
pub struct Difference {
    /// Its path in a file, such as `system.memory`.
    pub path: String,
    pub here: Option<Value>,
    pub there: Option<Value>,
}

#[derive(Clone, PartialEq)]
pub enum Value {
    Limit(Resource, Limit),
    Rate(Option<Rate>),
    Observe(Observe),
    Allow(AllowList),
}

/// The limits that differ, in the order in which the first node has them.
pub fn between(here: &Effective, there: &Effective) -> Vec<Difference> {
    let mut others: BTreeMap<String, Value> = values(there, here).into_iter().collect();
    let mut differences = Vec::new();
    for (path, value) in values(here, there) {
        let other = others.remove(&path);
        if other.as_ref() != Some(&value) {
            differences.push(Difference { path, here: Some(value), there: other });
        }
    }
    let missing = others.into_iter();
    differences.extend(missing.map(|(path, value)| Difference {
        path,
        here: None,
        there: Some(value),
    }));
    differences
}

/// What a node has, and what it would have for the names that only the other one has.
fn values(node: &Effective, other: &Effective) -> Vec<(String, Value)> {
    let mut limits: Limits = node.limits.clone();
    for peer in other.limits.peers.keys() {
        limits.peers.entry(peer.clone()).or_insert(node.limits.peer);
    }
    for name in other.limits.classes.keys() {
        limits.classes.entry(name.clone()).or_insert(node.limits.class_default);
    }
    for name in other.limits.class_peers.keys() {
        limits.class_peers.entry(name.clone()).or_insert(node.limits.class_peer_default);
    }
    let mut values = Vec::new();
    for (path, limits, _) in scopes_of(&limits) {
        for (resource, key) in RESOURCES {
            values.push((format!("{path}.{key}"), Value::Limit(resource, limits.of(resource))));
        }
    }
    for row in node.subnets() {
        let connections = Value::Limit(Resource::ConnectionsInbound, row.connections.0);
        values.push((format!("{}.connections", row.path), connections));
        values.push((format!("{}.rate", row.path), Value::Rate(row.rate.0)));
    }
    values.push(("observe".to_owned(), Value::Observe(node.limits.observe)));
    values.push(("allow".to_owned(), Value::Allow(node.limits.allow.clone())));
    values
}
