//! What holds for every type of node on every host from 512 MiB to 1 TiB.

use leasehold::{Governor, Host, Limit, Limits, NodeType, Resource, ScopeLimits};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

const RESOURCES: [Resource; 8] = [
    Resource::Memory,
    Resource::Connections,
    Resource::ConnectionsInbound,
    Resource::ConnectionsOutbound,
    Resource::Streams,
    Resource::StreamsInbound,
    Resource::StreamsOutbound,
    Resource::Fds,
];

fn node_type() -> impl Strategy<Value = NodeType> {
    proptest::sample::select(NodeType::ALL)
}

/// As many small hosts as large ones, and those around which the increase begins.
fn memory() -> impl Strategy<Value = u64> {
    let any_size = (29..40_u32, 0..u64::MAX).prop_map(|(power, rest)| {
        let size = 1_u64 << power;
        size + rest % size
    });
    prop_oneof![4 => any_size, 1 => 1023 * MIB..1034 * MIB, 1 => Just(512 * MIB), 1 => Just(TIB)]
}

fn fds() -> impl Strategy<Value = u64> {
    prop_oneof![0..70_000_u64, 0..1_u64 << 31]
}

fn max(limit: Limit) -> u64 {
    match limit {
        Limit::Unlimited => u64::MAX,
        Limit::Blocked => 0,
        Limit::Max(max) => max,
    }
}

fn scopes(limits: &Limits) -> [&ScopeLimits; 9] {
    [
        &limits.system,
        &limits.transient,
        &limits.allowlisted_system,
        &limits.allowlisted_transient,
        &limits.peer,
        &limits.class_default,
        &limits.class_peer_default,
        &limits.connection,
        &limits.stream,
    ]
}

fn half_of_the_memory_is_left(node_type: NodeType, host: &Host) {
    let limits = node_type.limits(host);
    let most = max(limits.system.memory) + max(limits.allowlisted_system.memory);
    assert!(most <= host.memory() / 2, "{node_type} takes {most} of {host:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn a_node_leaves_half_of_the_memory(node_type in node_type(), memory in memory()) {
        half_of_the_memory_is_left(node_type, &Host::new(memory, 1024));
    }

    #[test]
    fn no_child_is_above_its_parent(
        node_type in node_type(),
        memory in memory(),
        fds in fds(),
        budget in proptest::option::of(any::<u64>()),
    ) {
        let host = Host::new(memory, fds);
        let host = budget.map_or(host, |budget| host.with_budget(budget));
        prop_assert_eq!(node_type.limits(&host).check(), []);
    }

    #[test]
    fn limits_fit_the_descriptors(node_type in node_type(), memory in memory(), fds in fds()) {
        let limits = node_type.limits(&Host::new(memory, fds));
        for scope in [&limits.system, &limits.transient, &limits.peer, &limits.connection] {
            prop_assert!(max(scope.fds) <= fds);
        }
        // Half are left for other things, but for what is given even to small hosts.
        prop_assert!(max(limits.system.fds) <= (fds / 2).max(1024));
    }

    #[test]
    fn more_of_a_host_never_allows_less(
        node_type in node_type(),
        memory in memory(),
        fds in fds(),
        more_memory in 0..TIB,
        more_fds in fds(),
    ) {
        let less = node_type.limits(&Host::new(memory, fds));
        let more = node_type.limits(&Host::new(memory + more_memory, fds + more_fds));
        for (less, more) in scopes(&less).into_iter().zip(scopes(&more)) {
            for resource in RESOURCES {
                prop_assert!(max(less.of(resource)) <= max(more.of(resource)), "{resource}");
            }
        }
    }
}

proptest! {
    #[test]
    fn a_governor_takes_them(node_type in node_type(), memory in memory(), fds in 64..70_000_u64) {
        let governor = Governor::new(node_type.limits(&Host::new(memory, fds))).unwrap();
        let guard = governor.outbound().peer("alice").try_admit().unwrap();
        let _lease = guard.try_lease(1 << 16).unwrap();
        let _stream = guard.handle().try_open_stream(leasehold::Direction::Outbound).unwrap();
    }
}

/// The types whose smallest limits are smaller keep the promise on smaller hosts, too.
#[test]
fn a_light_node_leaves_half_of_128_mib() {
    for mib in 128..4096 {
        half_of_the_memory_is_left(NodeType::Light, &Host::new(mib * MIB, 1024));
    }
}

#[test]
fn every_whole_mib_to_4_gib() {
    for node_type in NodeType::ALL {
        for mib in 512..4096 {
            half_of_the_memory_is_left(*node_type, &Host::new(mib * MIB, 1024));
        }
    }
}
