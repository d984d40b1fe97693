//! The example `limits` tells the truth about where a number comes from.
//!
//! Its files are compiled into this test, all but `main`: so whatever tests run, they run the
//! example as it is now. Like the example, the test needs limits files: `cargo test --workspace` has
//! them, for `heavy-tests` asks for them.
#![cfg(all(feature = "host", feature = "serde"))]
#![allow(dead_code, reason = "parts of the example are not used here")]

mod common;

#[path = "../examples/limits/answer.rs"]
mod answer;
#[path = "../examples/limits/cli.rs"]
mod cli;
#[path = "../examples/limits/difference.rs"]
mod difference;
#[path = "../examples/limits/effective.rs"]
mod effective;
#[path = "../examples/limits/file.rs"]
mod file;
#[path = "../examples/limits/json.rs"]
mod json;
#[path = "../examples/limits/table.rs"]
mod table;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Parser;
use common::MIB;
use effective::{Effective, Origin, key};
use leasehold::{Host, Limit, NodeType};

/// What the example prints, or what it complains of.
fn run(args: &[&str]) -> Result<String, String> {
    let args = ["limits"].iter().chain(args);
    answer::to(&cli::Args::try_parse_from(args).map_err(|error| error.to_string())?)
}

/// The example's own file.
const NODE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/limits/node.toml");
/// A file with something of everything, in both formats.
const FULL: [&str; 2] = [
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/limits_files/full.toml"),
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/limits_files/full.json"),
];

/// The limits of a file on a host of 64 GiB.
fn of_file(path: &str) -> Effective {
    Effective::of_file(file::load(Path::new(path)).unwrap(), Host::new(64 << 30, 4096))
}

/// Writes a file that is not there otherwise.
fn written(name: &str, text: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).unwrap();
    path
}

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

/// By the names that a file uses, every limit in it is from the file, and no other is.
#[test]
fn what_a_file_sets_is_from_the_file() {
    for path in FULL.into_iter().chain([NODE]) {
        let effective = of_file(path);
        let mut from_file = BTreeSet::new();
        for row in effective.scopes() {
            for cell in row.cells.iter().filter(|cell| cell.origin == Origin::File) {
                from_file.insert(format!("{}.{}", row.path, key(cell.resource)));
            }
        }
        for row in effective.subnets() {
            for (value, origin) in [("connections", row.connections.1), ("rate", row.rate.1)] {
                if origin == Origin::File {
                    from_file.insert(format!("{}.{value}", row.path));
                }
            }
        }
        let file = &effective.file.as_ref().unwrap().limits;
        let is_limit = |path: &&str| {
            let value = path.rsplit('.').next().unwrap();
            path.contains('.')
                && (value == "rate" || effective::RESOURCES.iter().any(|(_, key)| *key == value))
        };
        let set: BTreeSet<String> = file.paths().filter(is_limit).map(str::to_owned).collect();
        assert!(set.len() >= 10 && set.is_subset(&from_file), "{set:?} in {from_file:?}");
        for path in from_file.difference(&set) {
            // What a name leaves out, the section sets that it is otherwise like.
            let (name, value) = path.rsplit_once('.').unwrap();
            let section = match name.split('.').next().unwrap() {
                "peers" => "peer",
                "classes" => "class_default",
                "class_peers" => "class_peer_default",
                other => panic!("{path} is not in the file, nor {other}"),
            };
            assert!(set.contains(&format!("{section}.{value}")), "{path}");
        }
    }
}

#[test]
fn what_a_file_leaves_out_is_from_its_type_of_node_or_unset() {
    let cell = |effective: &Effective, path: &str, value: &str| {
        let row = effective.scopes().into_iter().find(|row| row.path == path).unwrap();
        row.cells.into_iter().find(|cell| key(cell.resource) == value).unwrap().origin
    };
    let node = of_file(NODE);
    assert_eq!(node.host.budget(), 1 << 30, "the budget of the file");
    assert_eq!(cell(&node, "system", "connections"), Origin::File);
    assert_eq!(cell(&node, "system", "memory"), Origin::Scaled);
    assert_eq!(cell(&node, "connection", "memory"), Origin::Preset);
    assert_eq!(cell(&node, "peers.next-door", "memory"), Origin::File);
    assert_eq!(cell(&node, "peers.next-door", "connections"), Origin::Preset);
    assert_eq!(cell(&node, "peers.next-door", "fds"), cell(&node, "peer", "fds"));

    let untyped = of_file(written("untyped.toml", "[system]\nfds = 9").to_str().unwrap());
    assert_eq!(cell(&untyped, "system", "fds"), Origin::File);
    assert_eq!(cell(&untyped, "system", "memory"), Origin::Unset);
    assert!(untyped.subnets().is_empty());
}

#[test]
fn a_file_is_printed_for_people_and_for_programs() {
    let text = run(&["--config", NODE]).unwrap();
    assert!(text.starts_with("relay node by "), "{text}");
    assert!(text.contains(" 1024 MiB of it for connections"), "{text}");
    for words in ["peers.next-door", "one in 10s, 8 at once", "allow: 192.0.2.0/28 (file)"] {
        assert!(text.contains(words), "{words} in {text}");
    }
    assert!(text.ends_with("Every limit can be reached: none is above that of its parent."));

    for path in FULL {
        let json = run(&["--config", path, "--host-memory", "64GiB", "--json"]).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["node_type"], "relay");
        assert_eq!(json["host"]["fds"], 65_536, "of the file");
        let of = |scope: &str, value: &str| json["limits"][scope][value].clone();
        assert_eq!(of("system", "memory")["limit"], 1_u64 << 30);
        assert_eq!(of("system", "memory")["from"], "file");
        assert_eq!(of("peers.\"hex:00ff\"", "fds")["limit"], 0);
        assert_eq!(of("peers.\"hex:00ff\"", "streams")["from"], "file");
        let subnets = &json["subnets"];
        assert_eq!(subnets["subnets.ipv4.32"]["rate"]["limit"]["burst"], 16);
        assert_eq!(subnets["subnets.ipv6.56"]["connections"]["from"], "preset");
        assert_eq!(subnets["subnets.networks.\"10.0.0.0/8\""]["rate"]["from"], "unset");
        assert_eq!(json["observe"], serde_json::json!(["system", "subnet"]));
        assert_eq!(json["allow"][0]["peer"], "alice");
        assert!(json["warnings"].as_array().unwrap().len() > 1);
    }
}

#[test]
fn a_file_differs_in_what_it_changes() {
    let effective = of_file(NODE);
    let other = Effective::of_preset(NodeType::Relay, effective.host);
    let paths: Vec<_> =
        difference::between(&effective, &other).into_iter().map(|found| found.path).collect();
    let streams = ["streams_inbound", "streams_outbound", "streams"];
    let of = |scope: &str| streams.map(|value| format!("{scope}.{value}"));
    let mut expected = vec!["system.connections_inbound".into(), "system.connections".into()];
    expected.extend(of("peer"));
    expected.extend(of("class_peer_default"));
    expected.push("peers.next-door.memory".into());
    expected.extend(of("peers.next-door"));
    expected.extend(["connections", "rate"].map(|value| format!("subnets.ipv4.32.{value}")));
    expected.push("allow".into());
    assert_eq!(paths, expected);
    let text = run(&["--config", NODE, "--diff", "relay"]).unwrap();
    assert!(paths.iter().all(|path| text.contains(path.as_str())), "{text}");
}

#[test]
fn a_bad_file_is_complained_of_with_all_that_is_wrong() {
    let bad = written("bad.toml", "[system]\nmemry = 1\nconnections = -1\n[peers.\"hex:0\"]\n");
    let complaint = run(&["--config", bad.to_str().unwrap()]).unwrap_err();
    assert!(complaint.contains("bad.toml: 3 problems in the limits file:\n"), "{complaint}");
    for words in ["line 2, column 1: system.memry: ", "line 3, ", "line 4, "] {
        assert!(complaint.contains(words), "{words} in {complaint}");
    }
    let complaint = run(&["--config", "README.md"]).unwrap_err();
    assert_eq!(complaint, "README.md: a limits file ends in .toml or .json");
    let complaint = run(&["--config", "nowhere.json"]).unwrap_err();
    assert!(complaint.starts_with("nowhere.json: "), "{complaint}");
    let complaint = run(&["--config", NODE, "--budget", "1GiB"]).unwrap_err();
    assert!(complaint.ends_with("node.toml sets budget itself"), "{complaint}");
    let complaint = run(&["--config", NODE, "--node-type", "full"]).unwrap_err();
    assert!(complaint.contains("cannot be used with"), "{complaint}");
}
