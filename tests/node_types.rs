//! The numbers that each type of node has on machines of several sizes.

mod common;

use std::fmt::Write;
use std::fs;
use std::path::Path;

use common::{MIB, governor};
use leasehold::{Host, Limit, Limits, NodeType, Resource, Scope, ScopeLimits, SubnetLimits};

/// Enough for half of them to be 32,768.
const FDS: u64 = 65_536;

/// A host with this budget.
fn host(budget_mib: u64) -> Host {
    Host::new(budget_mib * MIB * 8, FDS)
}

/// A scope's limits from a row: connections in, out and total, the same of streams, MiB,
/// descriptors; `-` is unlimited.
fn row(row: &str) -> ScopeLimits {
    let limits: Vec<Limit> = row
        .split_whitespace()
        .map(|word| match word {
            "-" => Limit::Unlimited,
            number => Limit::Max(number.parse().expect("a number")),
        })
        .collect();
    let &[conns_in, conns_out, conns, streams_in, streams_out, streams, mib, fds] = &limits[..]
    else {
        panic!("eight columns: {row}");
    };
    let memory = match mib {
        Limit::Max(mib) => Limit::Max(mib * MIB),
        other => other,
    };
    ScopeLimits::unlimited()
        .connections_inbound(conns_in)
        .connections_outbound(conns_out)
        .connections(conns)
        .streams_inbound(streams_in)
        .streams_outbound(streams_out)
        .streams(streams)
        .memory(memory)
        .fds(fds)
}

/// The limits of a full node, from seven rows.
fn full(rows: [&str; 7]) -> Limits {
    let [system, transient, class, class_peer, peer, connection, stream] = rows.map(row);
    Limits::unlimited()
        .system(system)
        .transient(transient)
        .allowlisted_system(system)
        .allowlisted_transient(transient)
        .class_default(class)
        .class_peer_default(class_peer)
        .peer(peer)
        .connection(connection)
        .stream(stream)
        .subnets(SubnetLimits::standard())
}

/// By hand from the published table of go-libp2p's resource manager (rcmgr) v0.48: base + increase
/// per GiB × budget, and base alone at 128 MiB. The class row has the larger of what it gives a
/// service and a protocol, but no more than the system; each peer's part of a class grows by 4 MiB
/// per GiB and not by 4 bytes.
#[test]
fn a_full_node_has_the_defaults_of_rcmgr() {
    let connection = "1 1 1  - - -  32 1";
    let stream = "- - -  1 1 1  16 -";
    let cases = [
        (
            128,
            full([
                "64 128 128  1024 2048 2048  128 32768",
                "32 64 64  128 256 256  32 8192",
                "- - -  1024 2048 2048  64 -",
                "- - -  64 128 256  16 -",
                "8 8 8  256 512 512  64 512",
                connection,
                stream,
            ]),
        ),
        (
            1024,
            full([
                "128 256 256  2048 4096 4096  1152 32768",
                "48 96 96  256 512 512  160 8192",
                "- - -  1536 4096 4096  228 -",
                "- - -  68 136 272  20 -",
                "8 8 8  384 768 768  192 512",
                connection,
                stream,
            ]),
        ),
        (
            4096,
            full([
                "320 640 640  5120 10240 10240  4224 32768",
                "96 192 192  640 1280 1280  544 8192",
                "- - -  3072 10240 10240  720 -",
                "- - -  80 160 320  32 -",
                "8 8 8  768 1536 1536  576 512",
                connection,
                stream,
            ]),
        ),
        (
            65536,
            full([
                "4160 8320 8320  66560 133120 133120  65664 32768",
                "1056 2112 2112  8320 16640 16640  8224 8192",
                "- - -  33792 133120 133120  10560 -",
                "- - -  320 640 1280  272 -",
                "8 8 8  8448 16896 16896  8256 512",
                connection,
                stream,
            ]),
        ),
    ];
    for (budget, expected) in cases {
        assert_eq!(NodeType::Full.limits(&host(budget)), expected, "budget of {budget} MiB");
    }
}

#[test]
fn nothing_grows_before_128_mib_are_exceeded() {
    for &node_type in NodeType::ALL {
        let limits = |budget| node_type.limits(&host(128).with_budget(budget));
        assert_eq!(limits(0), limits(128 * MIB));
        assert_ne!(limits(128 * MIB), limits(128 * MIB + 1));
        // From there on, MiB count, and what is less does not.
        assert_eq!(limits(128 * MIB + 1), limits(129 * MIB - 1));
        assert_ne!(limits(128 * MIB + 1), limits(129 * MIB));
    }
    let limits = NodeType::Full.limits(&host(128).with_budget(128 * MIB + 1));
    assert_eq!(limits.system.memory, Limit::Max(256 * MIB));
    assert_eq!(limits.system.connections, Limit::Max(128 + 16));
}

#[test]
fn descriptors_are_a_share_of_half_but_at_least_the_base_and_never_more_than_there_are() {
    let of = |fds| NodeType::Full.limits(&Host::new(0, fds));
    for (fds, system, transient, peer) in [
        (0, 0, 0, 0),
        (3, 3, 3, 3),
        (200, 200, 64, 4),
        (256, 256, 64, 4),
        (512, 256, 64, 4),
        (514, 257, 64, 4),
        (1024, 512, 128, 8),
        (65_536, 32_768, 8_192, 512),
    ] {
        let limits = of(fds);
        let found = [limits.system.fds, limits.transient.fds, limits.peer.fds];
        assert_eq!(found, [system, transient, peer].map(Limit::Max), "{fds} descriptors");
    }
}

#[test]
fn the_budget_is_an_eighth_unless_it_is_set() {
    let host = Host::new(800, 7);
    assert_eq!((host.memory(), host.fds(), host.budget()), (800, 7, 100));
    assert_eq!(host.with_memory(1600).budget(), 200);
    assert_eq!(host.with_budget(5).with_memory(1600).budget(), 5);
    assert_eq!(host.with_fds(9), Host::new(800, 9));
}

/// Everything of every type at four budgets, to see what a change of the tables changes.
///
/// After a change on purpose: `BLESS=1 cargo test --test node_types`, and read the difference.
#[test]
fn every_number_is_the_one_on_file() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/node_types.txt");
    let found = every_number();
    if std::env::var_os("BLESS").is_some() {
        fs::write(&file, &found).expect("the file can be written");
    }
    let expected = fs::read_to_string(&file).expect("the file can be read");
    let mut differences = String::new();
    let (mut old, mut new) = (expected.lines(), found.lines());
    loop {
        match (old.next(), new.next()) {
            (None, None) => break,
            (old, new) if old == new => {}
            (old, new) => {
                let lines = [("-", old), ("+", new)];
                for (sign, line) in lines.into_iter().filter_map(|(s, line)| Some((s, line?))) {
                    writeln!(differences, "{sign} {line}").unwrap();
                }
            }
        }
    }
    assert!(differences.is_empty(), "{}:\n{differences}", file.display());
}

fn every_number() -> String {
    let mut text = format!("with {FDS} descriptors; memory in MiB; - is unlimited\n");
    for node_type in NodeType::ALL {
        for budget in [128, 1024, 4096, 65536] {
            let limits = node_type.limits(&host(budget));
            writeln!(text, "\n{node_type}, budget of {budget} MiB").unwrap();
            writeln!(
                text,
                "{:23}{:>24}{:>27}{:>9}{:>9}",
                "", "connections in out both", "streams in out both", "memory", "fds"
            )
            .unwrap();
            for (name, scope) in scopes(&limits) {
                writeln!(text, "{name:23}{}", columns(scope)).unwrap();
            }
        }
        let subnets = node_type.limits(&host(128)).subnets;
        writeln!(text, "\n{node_type}, by address").unwrap();
        let lengths = subnets.ipv4.iter().chain(&subnets.ipv6);
        for (length, limits) in lengths {
            let rate = limits.rate.expect("presets have a rate");
            writeln!(
                text,
                "/{length}: {} connections, one in {:?}, {} at once",
                limits.connections,
                rate.interval(),
                rate.burst_size()
            )
            .unwrap();
        }
    }
    text
}

fn scopes(limits: &Limits) -> [(&'static str, &ScopeLimits); 9] {
    [
        ("system", &limits.system),
        ("transient", &limits.transient),
        ("allowlisted_system", &limits.allowlisted_system),
        ("allowlisted_transient", &limits.allowlisted_transient),
        ("peer", &limits.peer),
        ("class_default", &limits.class_default),
        ("class_peer_default", &limits.class_peer_default),
        ("connection", &limits.connection),
        ("stream", &limits.stream),
    ]
}

fn columns(scope: &ScopeLimits) -> String {
    let word = |resource| match scope.of(resource) {
        Limit::Unlimited => "-".to_owned(),
        Limit::Max(bytes) if resource.is_bytes() => {
            assert_eq!(bytes % MIB, 0, "whole MiB at these budgets");
            (bytes / MIB).to_string()
        }
        limit => limit.to_string(),
    };
    format!(
        "{:>8}{:>8}{:>8}{:>9}{:>9}{:>9}{:>9}{:>9}",
        word(Resource::ConnectionsInbound),
        word(Resource::ConnectionsOutbound),
        word(Resource::Connections),
        word(Resource::StreamsInbound),
        word(Resource::StreamsOutbound),
        word(Resource::Streams),
        word(Resource::Memory),
        word(Resource::Fds),
    )
}

#[test]
fn absurd_hosts_do_no_harm() {
    let numbers = [0, 1, MIB, 128 * MIB, 128 * MIB + 1, 1 << 32, 1 << 63, u64::MAX - 1, u64::MAX];
    for &node_type in NodeType::ALL {
        for memory in numbers {
            for fds in numbers {
                let host = Host::new(memory, fds);
                for host in [host, host.with_budget(0), host.with_budget(u64::MAX)] {
                    let limits = node_type.limits(&host);
                    assert_eq!(limits.check(), [], "{node_type} on {host:?}");
                    assert!(limits.system.fds != Limit::Unlimited);
                    governor(limits);
                }
            }
        }
    }
    let limits = NodeType::Full.limits(&Host::new(u64::MAX, u64::MAX));
    assert_eq!(limits.system.memory, Limit::Max((128 << 20) + ((1 << 41) - 1) * (1 << 20)));
    let limits = NodeType::Full.limits(&Host::new(0, 0).with_budget(u64::MAX));
    assert_eq!(limits.system.memory, Limit::Max(u64::MAX));
}

#[test]
fn a_type_is_read_as_it_is_written() {
    let names = ["light", "full", "relay", "bootstrap", "validator", "gateway"];
    assert_eq!(NodeType::ALL.len(), names.len());
    for (&node_type, name) in NodeType::ALL.iter().zip(names) {
        assert_eq!(node_type.to_string(), name);
        assert_eq!(name.parse(), Ok(node_type));
    }
    for unknown in ["", "Full", " full", "full\n", "archive"] {
        let error = unknown.parse::<NodeType>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "no such type of node; there are light, full, relay, bootstrap, validator and gateway"
        );
        assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::InvalidInput);
    }
}

#[test]
fn a_governor_enforces_them() {
    let governor = governor(NodeType::Relay.limits(&Host::new(8 << 30, 1024)));
    let guards: Vec<_> = (0..8)
        .map(|_| governor.outbound().peer("alice").try_admit().expect("eight for a peer"))
        .collect();
    let error = governor.outbound().peer("alice").try_admit().unwrap_err();
    assert_eq!(error.refused().unwrap().scope(), Scope::Peer);
    drop(guards);
}
