//! Limits files: what they mean, and what is said about those that are wrong.

#![cfg(feature = "serde")]

use leasehold::{
    AllowList, FileError, Host, Limit, Limits, LimitsFile, NodeType, Observe, PeerKey,
    PrefixLimits, ProblemKind, Rate, Scope, ScopeLimits, SubnetLimits,
};
use std::fmt::Write as _;
use std::time::Duration;

const FULL_TOML: &str = include_str!("limits_files/full.toml");
const FULL_JSON: &str = include_str!("limits_files/full.json");
const MALFORMED: &str = include_str!("limits_files/malformed.txt");

fn host() -> Host {
    Host::new(64 << 30, 4096)
}

/// The cases of `malformed.txt`: name, format, file and the message about it.
fn malformed() -> impl Iterator<Item = (&'static str, &'static str, &'static str, &'static str)> {
    let (_, cases) = MALFORMED.split_once("\n==== ").expect("there are cases");
    cases.split("\n==== ").map(|case| {
        let (head, rest) = case.split_once('\n').expect("a heading stands on its own line");
        let (format, name) = head.split_once(' ').expect("a heading is a format and a name");
        let (file, message) = rest.split_once("\n----\n").expect("a case has a message");
        (name, format, file, message.trim_end())
    })
}

fn read(format: &str, file: &str) -> Result<LimitsFile, FileError> {
    match format {
        "toml" => LimitsFile::from_toml(file),
        "json" => LimitsFile::from_json(file),
        _ => panic!("{format} is no format"),
    }
}

/// With `BLESS=1` in the environment, writes what is said now into `malformed.txt`, to be reviewed.
#[test]
fn every_malformed_file_is_told_all_that_is_wrong_with_it() {
    let (head, _) = MALFORMED.split_once("\n==== ").unwrap();
    let mut blessed = head.to_owned();
    let (mut count, mut wrong) = (0, String::new());
    for (name, format, file, expected) in malformed() {
        let message = match read(format, file) {
            Ok(_) => "NOTHING".into(),
            Err(error) => error.to_string(),
        };
        write!(blessed, "\n==== {format} {name}\n{file}\n----\n{message}\n").unwrap();
        count += 1;
        if message != expected {
            write!(wrong, "\n{name}:\n{message}\ninstead of\n{expected}\n").unwrap();
        }
    }
    if std::env::var_os("BLESS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/limits_files/malformed.txt");
        std::fs::write(path, blessed).unwrap();
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(count >= 70, "only {count} cases");
}

/// What `full.toml` says: the limits of its node type on its host, and each change on its own.
fn full() -> Limits {
    let mut limits = NodeType::Relay.limits(&host().with_budget(4 << 30).with_fds(65_536));
    limits.observe = Observe::none().scope(Scope::System).scope(Scope::Subnet);
    limits.system.memory = Limit::Max(1 << 30);
    limits.system.connections = Limit::Max(20_000);
    limits.peer.streams = Limit::Max(256);
    limits.peer.connections_inbound = Limit::Blocked;
    limits.class_default.streams = Limit::Max(10);

    // What a name leaves out is as it would be without the name.
    let alice = limits.peer.memory(64 << 20);
    limits.peers.insert(PeerKey::new("alice").unwrap(), alice);
    limits.peers.insert(PeerKey::new([0, 255]).unwrap(), limits.peer.fds(0));
    let gossip = limits.class_default.memory(3 << 29);
    limits.classes.insert("gossip/1.0".into(), gossip);
    let gossip = limits.class_peer_default.streams_inbound(u64::MAX);
    limits.class_peers.insert("gossip/1.0".into(), gossip);

    let subnets = &mut limits.subnets;
    let ipv4_32 = subnets.ipv4.get_mut(&32).unwrap();
    ipv4_32.connections = Limit::Max(4);
    ipv4_32.rate = Some(Rate::new(Duration::from_secs(5), 16.try_into().unwrap()));
    subnets.ipv6.get_mut(&56).unwrap().rate = None;
    let mut network = |network: &str, limits| {
        subnets.networks.insert(network.parse().unwrap(), limits);
    };
    network("10.0.0.0/8", PrefixLimits::unlimited());
    network("2001:db8::/32", PrefixLimits::unlimited().connections(1000));

    limits.allow = AllowList::new()
        .network("192.0.2.0/24".parse().unwrap())
        .peer(PeerKey::new("alice").unwrap())
        .peer_in(PeerKey::new("hex:").unwrap(), "::1/128".parse().unwrap());
    limits
}

#[test]
fn a_file_means_what_it_says_in_both_formats() {
    let file = LimitsFile::from_toml(FULL_TOML).unwrap();
    assert_eq!(file.limits(&host()), full());
    assert_eq!(file.node_type(), Some(NodeType::Relay));
    assert_eq!(file.host(&host()), host().with_budget(4 << 30).with_fds(65_536));
    assert_eq!(LimitsFile::from_json(FULL_JSON).unwrap(), file);
}

#[test]
fn a_file_tells_what_it_sets() {
    let file = LimitsFile::from_toml(FULL_TOML).unwrap();
    for path in [
        "node_type",
        "budget",
        "observe",
        "allow",
        "system.memory",
        "peers.alice",
        "peers.alice.memory",
        "peers.\"hex:00ff\".fds",
        "classes.\"gossip/1.0\".memory",
        "subnets.ipv4.32.rate",
        "subnets.networks.\"2001:db8::/32\".connections",
    ] {
        assert!(file.sets(path), "{path}");
    }
    for path in ["transient", "system.fds", "peers.alice.fds", "peers.bob", "subnets.ipv6.48"] {
        assert!(!file.sets(path), "{path}");
    }
    assert!(file.paths().all(|path| file.sets(path)));
}

#[test]
fn an_empty_file_limits_nothing() {
    for file in [LimitsFile::from_toml(""), LimitsFile::from_json("{}")] {
        let file = file.unwrap();
        assert_eq!(file.limits(&host()), Limits::unlimited());
        assert_eq!((file.node_type(), file.paths().count()), (None, 0));
        assert_eq!(file.host(&host()), host());
    }
}

#[test]
fn a_node_type_alone_has_its_own_limits() {
    for node_type in NodeType::ALL {
        let file = LimitsFile::from_toml(&format!("node_type = \"{node_type}\"")).unwrap();
        assert_eq!(file.limits(&host()), node_type.limits(&host()));
    }
}

#[test]
fn limits_are_written_as_a_person_would() {
    let limits = Limits::unlimited()
        .system(ScopeLimits::unlimited().memory(3 << 29).connections(500))
        .peer(ScopeLimits::blocked())
        .peer_override(PeerKey::new("alice").unwrap(), ScopeLimits::blocked().fds(1))
        .subnets(SubnetLimits::standard());
    let text = limits.to_toml();
    assert!(
        text.starts_with("observe = []\n\n[system]\nmemory = \"1536 MiB\"\nconnections = 500\n")
    );
    assert!(text.contains("\n[peers.alice]\nfds = 1\n\n[subnets.ipv4.32]\n"), "{text}");
    assert!(text.ends_with(
        "[subnets.networks.\"::1/128\"]\nconnections = \"unlimited\"\nrate = \"unlimited\"\n"
    ));
    assert_eq!(LimitsFile::from_toml(&text).unwrap().limits(&host()), limits);
    assert_eq!(LimitsFile::from_json(&limits.to_json()).unwrap().limits(&host()), limits);
}

/// What is written is complete, so it says the same on top of a node type.
#[test]
fn what_is_written_leaves_no_scope_to_the_node_type() {
    let limits = Limits::unlimited().stream(ScopeLimits::unlimited().memory(0));
    let text = format!("node_type = \"relay\"\n{}", limits.to_toml());
    let read = LimitsFile::from_toml(&text).unwrap().limits(&host());
    assert_eq!(read.subnets(SubnetLimits::unlimited()), limits);
}

#[test]
fn limits_are_a_part_of_a_programs_own_configuration() {
    let text = r#"{"limits": {"peer": {"memory": "1 MiB"}}, "file": {"node_type": "full"}}"#;
    let mut config: serde_json::Value = serde_json::from_str(text).unwrap();
    let limits: Limits = serde_json::from_value(config["limits"].take()).unwrap();
    assert_eq!(limits, Limits::unlimited().peer(ScopeLimits::unlimited().memory(1 << 20)));
    let written = serde_json::to_value(&limits).unwrap();
    assert_eq!(serde_json::from_value::<Limits>(written).unwrap(), limits);

    let file: LimitsFile = serde_json::from_value(config["file"].clone()).unwrap();
    assert_eq!(file.node_type(), Some(NodeType::Full));
    assert_eq!(
        serde_json::from_value::<Limits>(config["file"].take()).unwrap_err().to_string(),
        "1 problem in the limits file:\n  node_type: is not possible where the host is not known"
    );
}

#[test]
fn a_file_is_at_most_a_mebibyte() {
    let longest = " ".repeat(LimitsFile::MAX_BYTES - 2) + "{}";
    assert!(LimitsFile::from_json(&longest).is_ok());
    let most = LimitsFile::MAX_BYTES;
    for text in [format!("\n{longest}"), "#".repeat(most + 1)] {
        for error in [LimitsFile::from_json(&text), LimitsFile::from_toml(&text)] {
            let error = error.unwrap_err();
            let kind = ProblemKind::FileTooLarge { bytes: most + 1, most };
            assert_eq!(error.problems()[0].kind(), &kind);
            assert_eq!(
                error.to_string(),
                "1 problem in the limits file:\n  \
                 a file of 1048577 bytes is longer than the 1048576 that are read"
            );
        }
    }
}

/// On the small stack of a test's thread.
#[test]
fn nesting_overflows_no_stack() {
    let deep = 100_000;
    let dotted = vec!["a"; deep].join(".");
    let inline = "a.a.a.a.a.a.a = { ".repeat(deep / 2);
    let toml = [
        format!("a = {}", "[".repeat(deep)),
        format!("a = {}{}", "[".repeat(deep), "]".repeat(deep)),
        format!("{dotted} = 1"),
        format!("[{dotted}]"),
        format!("[[{dotted}]]"),
        "a = ".to_owned() + &"{ a = ".repeat(deep),
        inline,
    ];
    for text in toml {
        let error = LimitsFile::from_toml(&text).unwrap_err();
        assert_eq!(error.problems()[0].kind(), &ProblemKind::TooDeep { most: 16 });
        assert!(error.problems()[0].position().is_some());
    }

    let nested = |open: &str, close: &str| open.repeat(deep) + "1" + &close.repeat(deep);
    for text in [nested("[", "]"), nested("{\"peer\":", "}"), nested("{\"a\":[", "]}")] {
        let error = LimitsFile::from_json(&text).unwrap_err();
        assert_eq!(error.problems()[0].kind(), &ProblemKind::TooDeep { most: 16 });
    }
    for open in ["[", "{\"a\":", "[{\"a\":"] {
        let error = LimitsFile::from_json(&open.repeat(deep)).unwrap_err();
        assert!(matches!(error.problems()[0].kind(), ProblemKind::Syntax { .. }));
    }
}

#[test]
fn an_error_lists_a_hundred_problems_and_counts_the_rest() {
    let text: String = (0..250).map(|n| format!("key{n} = 1\n")).collect();
    let error = LimitsFile::from_toml(&text).unwrap_err();
    assert_eq!((error.problems().len(), error.omitted()), (FileError::MAX_PROBLEMS, 150));
    let message = error.to_string();
    assert!(message.starts_with("250 problems in the limits file:\n  line 1, column 1: key0: "));
    assert!(message.ends_with("\n  and 150 more"));
    assert_eq!(message.lines().count(), 102);
}

#[test]
fn what_a_file_says_does_no_harm_in_a_log() {
    let text = format!("\"\\u001b[31m{}\" = 1\n[peer]\nmemory = \"\\u0007\"", "x".repeat(100_000));
    let message = LimitsFile::from_toml(&text).unwrap_err().to_string();
    assert!(!message.contains(|c: char| c.is_control() && c != '\n'), "{message}");
    assert!(message.len() < 1000, "{message}");
}

#[test]
fn an_error_is_an_io_error_of_invalid_data() {
    let error = LimitsFile::from_toml("x = 1").unwrap_err();
    let io: std::io::Error = error.clone().into();
    assert_eq!((io.kind(), io.to_string()), (std::io::ErrorKind::InvalidData, error.to_string()));
    assert_eq!(io.get_ref().unwrap().downcast_ref(), Some(&error));
    assert!(size_of::<FileError>() <= 64);
}
