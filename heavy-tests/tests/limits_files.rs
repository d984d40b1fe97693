//! Whatever limits are written to a file, the same are read from it; and whatever is in a file,
//! reading it ends in limits or in problems.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use ipnet::IpNet;
use leasehold::{
    AllowList, FileError, Host, Limit, Limits, LimitsFile, NodeType, Observe, PeerKey,
    PrefixLimits, Rate, Scope, ScopeLimits, SubnetLimits,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn number() -> impl Strategy<Value = u64> {
    let edge = prop_oneof![Just(0), Just(i64::MAX as u64), Just(1 << 63), Just(u64::MAX)];
    let shifted = (any::<u64>(), 0..64_u32).prop_map(|(number, shift)| number >> shift);
    let round = (0..1000_u64, 0..60_u32).prop_map(|(number, shift)| number.wrapping_shl(shift));
    prop_oneof![edge, shifted, round]
}

fn limit() -> impl Strategy<Value = Limit> {
    let max = number().prop_map(Limit::Max);
    prop_oneof![2 => Just(Limit::Unlimited), 1 => Just(Limit::Blocked), 4 => max]
}

fn scope() -> impl Strategy<Value = ScopeLimits> {
    let each = proptest::array::uniform8(limit());
    let some = each.prop_map(|[memory, all, inbound, outbound, streams, to_us, by_us, fds]| {
        ScopeLimits::unlimited()
            .memory(memory)
            .connections(all)
            .connections_inbound(inbound)
            .connections_outbound(outbound)
            .streams(streams)
            .streams_inbound(to_us)
            .streams_outbound(by_us)
            .fds(fds)
    });
    prop_oneof![4 => some, 1 => Just(ScopeLimits::unlimited()), 1 => Just(ScopeLimits::blocked())]
}

fn peer() -> impl Strategy<Value = PeerKey> {
    let bytes = prop_oneof![
        vec(any::<u8>(), 0..=64),
        "[a-zA-Z0-9]{0,52}".prop_map(String::into_bytes),
        "hex:[0-9a-f]{0,60}".prop_map(String::into_bytes),
        "\\PC{0,16}".prop_map(String::into_bytes),
    ];
    bytes.prop_map(|bytes| PeerKey::new(bytes).unwrap())
}

fn name() -> impl Strategy<Value = String> {
    let any = vec(any::<char>(), 0..=16).prop_map(String::from_iter);
    prop_oneof![any, "[a-z/0-9.]{1,64}", Just("'''\"\"\"\\\n".into()), Just(String::new())]
}

fn interval() -> impl Strategy<Value = Duration> {
    let nanos = any::<u64>().prop_map(Duration::from_nanos);
    let seconds = (0..2_000_000_000_u64).prop_map(Duration::from_secs);
    let small = (0..5_000_000_000_u64).prop_map(Duration::from_nanos);
    prop_oneof![nanos, seconds, small]
}

fn prefix() -> impl Strategy<Value = PrefixLimits> {
    let burst = prop_oneof![1..=3_u32, Just(u32::MAX), 1..u32::MAX];
    let rate = (interval(), burst)
        .prop_map(|(interval, burst)| Rate::new(interval, NonZeroU32::new(burst).unwrap()));
    (limit(), proptest::option::of(rate)).prop_map(|(connections, rate)| {
        let limits = PrefixLimits::unlimited().connections(connections);
        rate.map_or(limits, |rate| limits.rate(rate))
    })
}

fn network() -> impl Strategy<Value = IpNet> {
    let v4 = (any::<[u8; 4]>(), 0..=32_u8).prop_map(|(ip, len)| (IpAddr::from(ip), len));
    let v6 = (any::<[u8; 16]>(), 0..=128_u8).prop_map(|(ip, len)| (IpAddr::from(ip), len));
    let mapped = (any::<[u8; 4]>(), 90..=128_u8).prop_map(|([a, b, c, d], len)| {
        (IpAddr::from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, a, b, c, d]), len)
    });
    prop_oneof![v4, v6, mapped].prop_map(|(ip, len)| IpNet::new(ip, len).unwrap())
}

fn subnets() -> impl Strategy<Value = SubnetLimits> {
    let ipv4 = vec((0..=32_u8, prefix()), 0..5);
    let ipv6 = vec((0..=128_u8, prefix()), 0..5);
    let networks = vec((network(), prefix()), 0..5);
    (ipv4, ipv6, networks).prop_map(|(ipv4, ipv6, networks)| {
        let subnets = SubnetLimits::unlimited();
        let subnets = ipv4.into_iter().fold(subnets, |all, (len, each)| all.ipv4(len, each));
        let subnets = ipv6.into_iter().fold(subnets, |all, (len, each)| all.ipv6(len, each));
        networks.into_iter().fold(subnets, |all, (network, each)| all.network(network, each))
    })
}

fn allow() -> impl Strategy<Value = AllowList> {
    let rule = (proptest::option::of(network()), proptest::option::of(peer()));
    vec(rule, 0..5).prop_map(|rules| {
        rules.into_iter().fold(AllowList::new(), |list, rule| match rule {
            (Some(network), Some(peer)) => list.peer_in(peer, network),
            (Some(network), None) => list.network(network),
            (None, Some(peer)) => list.peer(peer),
            (None, None) => list,
        })
    })
}

fn observe() -> impl Strategy<Value = Observe> {
    const SCOPES: [Scope; 10] = [
        Scope::System,
        Scope::Transient,
        Scope::AllowlistedSystem,
        Scope::AllowlistedTransient,
        Scope::Subnet,
        Scope::Peer,
        Scope::Class,
        Scope::ClassPeer,
        Scope::Connection,
        Scope::Stream,
    ];
    let some = proptest::sample::subsequence(SCOPES.to_vec(), 0..=10);
    let some = some.prop_map(|scopes| scopes.into_iter().fold(Observe::none(), Observe::scope));
    prop_oneof![4 => some, 1 => Just(Observe::everything())]
}

fn limits() -> impl Strategy<Value = Limits> {
    let scopes = vec(scope(), 9);
    let peers = vec((peer(), scope()), 0..5);
    let classes = vec((name(), scope()), 0..5);
    let class_peers = vec((name(), scope()), 0..5);
    (scopes, peers, classes, class_peers, subnets(), allow(), observe()).prop_map(
        |(scopes, peers, classes, class_peers, subnets, allow, observe)| {
            let limits = Limits::unlimited()
                .system(scopes[0])
                .transient(scopes[1])
                .allowlisted_system(scopes[2])
                .allowlisted_transient(scopes[3])
                .peer(scopes[4])
                .connection(scopes[5])
                .stream(scopes[6])
                .class_default(scopes[7])
                .class_peer_default(scopes[8])
                .subnets(subnets)
                .allow(allow)
                .observe(observe);
            let limits =
                peers.into_iter().fold(limits, |all, (p, each)| all.peer_override(p, each));
            let limits = classes.into_iter().fold(limits, |all, (n, each)| all.class(&n, each));
            class_peers.into_iter().fold(limits, |all, (n, each)| all.class_peer(&n, each))
        },
    )
}

/// A host on which nothing is as in any limits, should it play a part.
fn host() -> Host {
    Host::new(12_345 << 20, 54_321)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(limits in limits()) {
        let (toml, json) = (limits.to_toml(), limits.to_json());
        let read = LimitsFile::from_toml(&toml).unwrap_or_else(|error| panic!("{error}\n{toml}"));
        prop_assert_eq!(&read.limits(&host()), &limits, "{}", toml);
        let read = LimitsFile::from_json(&json).unwrap_or_else(|error| panic!("{error}\n{json}"));
        prop_assert_eq!(&read.limits(&host()), &limits, "{}", json);
        // The same text for the same limits.
        prop_assert_eq!((limits.clone().to_toml(), limits.clone().to_json()), (toml, json));
    }

    /// Reading what was made of a file on one host changes nothing on another.
    #[test]
    fn what_a_file_means_can_be_written(peer in scope(), prefix in prefix(), len in 0..=32_u8) {
        let file = Limits::unlimited().peer(peer).subnets(SubnetLimits::unlimited().ipv4(len, prefix));
        for node_type in NodeType::ALL {
            let text = format!("node_type = \"{node_type}\"\n{}", file.to_toml());
            let limits = LimitsFile::from_toml(&text).unwrap().limits(&host());
            let again = LimitsFile::from_toml(&limits.to_toml()).unwrap();
            prop_assert_eq!(again.limits(&Host::new(1 << 30, 16)), limits);
        }
    }
}

const SEEDS: [&str; 2] = [
    include_str!("../../tests/limits_files/full.toml"),
    include_str!("../../tests/limits_files/full.json"),
];

/// What mutations insert: what means something in TOML, in JSON or in limits.
const TOKENS: [&str; 40] = [
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'",
    "'''",
    "\"\"\"",
    "=",
    ":",
    ",",
    ".",
    "\n",
    "#",
    "\\",
    "\\u0000",
    "-1",
    "1e999",
    "0x",
    "0",
    "18446744073709551616",
    "nan",
    "inf",
    "true",
    "null",
    "1979-05-27",
    "hex:",
    "é",
    "\u{202e}",
    "\0",
    "[[",
    "]]",
    "/",
    "GiB",
    "\"unlimited\"",
    "\"blocked\"",
    "\"12/m\"",
    "a.a.a.a.a.a.a",
    "system",
    "\u{feff}",
];

#[derive(Clone, Debug)]
enum Mutation {
    Insert(usize, &'static str),
    Delete(usize, usize),
    Repeat(usize, usize),
    Replace(usize, char),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let (at, len) = (any::<usize>(), 1..40_usize);
    prop_oneof![
        (at, proptest::sample::select(TOKENS.to_vec()))
            .prop_map(|(at, token)| { Mutation::Insert(at, token) }),
        (at, len.clone()).prop_map(|(at, len)| Mutation::Delete(at, len)),
        (at, len).prop_map(|(at, len)| Mutation::Repeat(at, len)),
        (at, any::<char>()).prop_map(|(at, c)| Mutation::Replace(at, c)),
    ]
}

fn mutate(text: &mut Vec<char>, mutation: &Mutation) {
    let place = |at: usize, len: usize| {
        let start = at % (text.len() + 1);
        start..(start + len).min(text.len())
    };
    match *mutation {
        Mutation::Insert(at, token) => drop(text.splice(place(at, 0), token.chars())),
        Mutation::Delete(at, len) => drop(text.drain(place(at, len))),
        Mutation::Repeat(at, len) => {
            let place = place(at, len);
            let part = text[place.clone()].to_vec();
            drop(text.splice(place.start..place.start, part));
        }
        Mutation::Replace(at, c) => drop(text.splice(place(at, 1), [c])),
    }
}

/// Limits that can be written and read again, or problems that can be shown.
fn check(read: Result<LimitsFile, FileError>, text: &str) {
    match read {
        Ok(file) => {
            let limits = file.limits(&host());
            let again = LimitsFile::from_toml(&limits.to_toml()).unwrap();
            assert_eq!(again.limits(&host()), limits, "{text}");
        }
        Err(error) => {
            let shown = error.problems().len();
            assert!((1..=FileError::MAX_PROBLEMS).contains(&shown));
            assert!(error.omitted() == 0 || shown == FileError::MAX_PROBLEMS);
            let message = error.to_string();
            assert!(!message.contains(|c: char| c.is_control() && c != '\n'), "{message}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_text_is_too_strange_to_read(
        seed in proptest::sample::select(SEEDS.to_vec()),
        mutations in vec(mutation(), 1..12),
    ) {
        let mut text: Vec<char> = seed.chars().collect();
        mutations.iter().for_each(|mutation| mutate(&mut text, mutation));
        let text = String::from_iter(text);
        check(LimitsFile::from_toml(&text), &text);
        check(LimitsFile::from_json(&text), &text);
    }
}
