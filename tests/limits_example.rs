//! The example `limits` tells the truth about where a number comes from.
#![cfg(feature = "host")]
#![allow(dead_code, reason = "parts of the example are not used here")]

mod common;

#[path = "../examples/limits/difference.rs"]
mod difference;
#[path = "../examples/limits/effective.rs"]
mod effective;
#[path = "../examples/limits/file.rs"]
mod file;

use common::MIB;
use effective::{Effective, Origin, key};
use leasehold::{Host, Limit, NodeType};

/// The paths of everything that is scaled.
fn scaled(node_type: NodeType, host: Host) -> Vec<String> {
    let rows = Effective::of_preset(node_type, host).scopes().into_iter();
    rows.flat_map(|row| {
        let cells = row.cells.into_iter().filter(|cell| cell.origin == Origin::Scaled);
        cells.map(move |cell| format!("{}.{}", row.path, key(cell.resource))).collect::<Vec<_>>()
    })
    .collect()
}

#[test]
fn on_the_smallest_host_everything_is_as_in_the_preset() {
    for &node_type in NodeType::ALL {
        assert_eq!(scaled(node_type, Host::new(1024 * MIB, 200)), [""; 0], "{node_type}");
    }
}

#[test]
fn what_grows_with_memory_or_descriptors_is_scaled() {
    let with_memory = scaled(NodeType::Bootstrap, Host::new(8192 * MIB, 200));
    assert_eq!(
        with_memory.len(),
        4 * 7 + 4,
        "four large scopes, and the class's memory and streams"
    );
    assert!(with_memory.iter().all(|path| !path.ends_with(".fds") && !path.starts_with("peer.")));

    let with_descriptors = scaled(NodeType::Full, Host::new(0, 600));
    let large = ["system.fds", "transient.fds", "allowlisted_system.fds"];
    assert_eq!(with_descriptors[..3], [large[0], large[1], large[2]]);
    assert_eq!(with_descriptors[3..], ["allowlisted_transient.fds"]);
    assert_eq!(scaled(NodeType::Full, Host::new(0, 640)).last().unwrap(), "peer.fds");
}

#[test]
fn what_differs_is_told_and_nothing_else() {
    let host = Host::new(1024 * MIB, 200);
    let of = |node_type| Effective::of_preset(node_type, host);
    assert!(difference::between(&of(NodeType::Full), &of(NodeType::Full)).is_empty());

    let mut changed = of(NodeType::Full);
    changed.limits.peer.streams = Limit::Blocked;
    changed.limits.subnets.ipv4.remove(&32);
    let differences = difference::between(&of(NodeType::Full), &changed);
    let found: Vec<_> = differences
        .iter()
        .map(|d| (d.path.as_str(), d.here.is_some(), d.there.is_some()))
        .collect();
    assert_eq!(
        found,
        [
            ("peer.streams", true, true),
            ("subnets.ipv4.32.connections", true, false),
            ("subnets.ipv4.32.rate", true, false),
        ]
    );
}
