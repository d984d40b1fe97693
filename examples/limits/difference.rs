//! What differs from another type of node.

use std::collections::BTreeMap;

use leasehold::{Limit, Rate, Resource};

use crate::effective::{Effective, key};

/// One limit that two nodes have differently; `None` where one has nothing of that name.
pub struct Difference {
    /// Its path in a file, such as `system.memory`.
    pub path: String,
    pub here: Option<Value>,
    pub there: Option<Value>,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Value {
    Limit(Resource, Limit),
    Rate(Option<Rate>),
}

/// The limits that differ, in the order in which the first node has them.
pub fn between(here: &Effective, there: &Effective) -> Vec<Difference> {
    let mut others: BTreeMap<String, Value> = values(there).into_iter().collect();
    let mut differences = Vec::new();
    for (path, value) in values(here) {
        let other = others.remove(&path);
        if other != Some(value) {
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

fn values(node: &Effective) -> Vec<(String, Value)> {
    let mut values = Vec::new();
    for row in node.scopes() {
        for cell in row.cells {
            let path = format!("{}.{}", row.path, key(cell.resource));
            values.push((path, Value::Limit(cell.resource, cell.limit)));
        }
    }
    for row in node.subnets() {
        let connections = Value::Limit(Resource::ConnectionsInbound, row.connections);
        values.push((format!("{}.connections", row.path), connections));
        values.push((format!("{}.rate", row.path), Value::Rate(row.rate)));
    }
    values
}
