//! What can be done, and under which limits.

use std::num::NonZeroU32;
use std::time::Duration;

use leasehold::{
    AllowList, Direction, Limit, Limits, Observe, PeerKey, PrefixLimits, Priority, Rate, Scope,
    ScopeLimits, SubnetLimits,
};
use proptest::prelude::*;

/// Sizes asked for, in bytes: within every class, at its edges, and beyond all of them.
pub const SIZES: [usize; 9] = [0, 512, 513, 4096, 4097, 16384, 20_000, 65536, 70_000];
pub const PEERS: [&str; 3] = ["alice", "bob", "carol"];
pub const CLASSES: [&str; 3] = ["public", "inner", "other"];
/// Two in one network, one in another, one on its own.
pub const ADDRESSES: [&str; 4] = ["192.0.2.1", "192.0.2.2", "198.51.100.1", "2001:db8::1"];
pub const PRIORITIES: [Priority; 4] =
    [Priority::Low, Priority::Medium, Priority::High, Priority::Critical];
/// Of the one rate there is.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// The network it applies to.
pub const PACED: &str = "198.51.100.0/24";

pub fn peer_key(peer: usize) -> PeerKey {
    PeerKey::new(PEERS[peer]).expect("short names")
}

/// What a connection is when it comes.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub direction: Direction,
    pub fd: bool,
    pub peer: Option<usize>,
    pub class: Option<usize>,
    pub address: Option<usize>,
    pub weight: u64,
}

/// Numbers pick from whatever there is.
#[derive(Clone, Debug)]
pub enum Op {
    Admit(Arrival),
    Bind { conn: usize, peer: usize },
    Rebind { conn: usize, address: Option<usize> },
    Lease { conn: usize, size: usize, priority: usize },
    LeaseOwned { conn: usize, size: usize, priority: usize },
    LeaseAndReturn { conn: usize, size: usize, times: usize },
    Reserve { conn: usize, bytes: u64, priority: usize },
    OpenStream { conn: usize, direction: Direction },
    BindClass { stream: usize, class: usize },
    StreamLease { stream: usize, size: usize, priority: usize },
    StreamReserve { stream: usize, bytes: u64, priority: usize },
    CloseStream { stream: usize },
    Write { item: usize, len: usize },
    Own { item: usize },
    Pin { item: usize },
    Unpin { item: usize },
    KeepPinned { item: usize },
    Freeze { item: usize },
    Clone { item: usize },
    Grow { item: usize },
    Resize { item: usize, bytes: u64 },
    Forget { item: usize },
    Drop { item: usize },
    Trim { conn: usize },
    Close { conn: usize },
    DropGuard { conn: usize },
    SetLimits { limits: usize },
    SetPeerLimits { peer: usize, memory: u64, connections: u64 },
    RemovePeerLimits { peer: usize },
    Wait { seconds: u64 },
    Validate { address: usize },
}

pub fn op() -> impl Strategy<Value = Op> {
    let nth = 0..64_usize;
    let size = 0..SIZES.len();
    let bytes = prop_oneof![0..3_000_u64, 30_000..90_000_u64];
    let peer = 0..PEERS.len();
    let class = 0..CLASSES.len();
    let address = 0..ADDRESSES.len();
    // Most often none is given, which is the highest.
    let priority = prop_oneof![3 => Just(3), 1 => 0..3_usize];
    let direction = prop_oneof![2 => Just(Direction::Inbound), 1 => Just(Direction::Outbound)];
    let maybe = |strategy: std::ops::Range<usize>| proptest::option::of(strategy);
    let arrival = (
        (direction.clone(), any::<bool>(), maybe(peer.clone()), maybe(0..2)),
        (maybe(address.clone()), prop_oneof![3 => Just(0), 1 => 0..20_000_u64]),
    )
        .prop_map(|((direction, fd, peer, class), (address, weight))| {
            Op::Admit(Arrival { direction, fd, peer, class, address, weight })
        });
    let coming = prop_oneof![
        9 => arrival,
        4 => (nth.clone(), peer.clone()).prop_map(|(conn, peer)| Op::Bind { conn, peer }),
        2 => (nth.clone(), maybe(address.clone()))
            .prop_map(|(conn, address)| Op::Rebind { conn, address }),
        1 => nth.clone().prop_map(|conn| Op::Trim { conn }),
        1 => nth.clone().prop_map(|conn| Op::Close { conn }),
        2 => nth.clone().prop_map(|conn| Op::DropGuard { conn }),
    ];
    let limits = prop_oneof![
        3 => (0..LIMITS).prop_map(|limits| Op::SetLimits { limits }),
        2 => (peer.clone(), 0..100_000_u64, 0..4_u64).prop_map(|(peer, memory, connections)| {
            Op::SetPeerLimits { peer, memory, connections }
        }),
        1 => peer.prop_map(|peer| Op::RemovePeerLimits { peer }),
        1 => (0..25_u64).prop_map(|seconds| Op::Wait { seconds }),
        1 => address.prop_map(|address| Op::Validate { address }),
    ];
    let taking = prop_oneof![
        6 => (nth.clone(), size.clone(), priority.clone())
            .prop_map(|(conn, size, priority)| Op::Lease { conn, size, priority }),
        6 => (nth.clone(), size.clone(), priority.clone())
            .prop_map(|(conn, size, priority)| Op::LeaseOwned { conn, size, priority }),
        3 => (nth.clone(), size.clone(), 1..12_usize)
            .prop_map(|(conn, size, times)| Op::LeaseAndReturn { conn, size, times }),
        3 => (nth.clone(), bytes.clone(), priority.clone())
            .prop_map(|(conn, bytes, priority)| Op::Reserve { conn, bytes, priority }),
    ];
    let streams = prop_oneof![
        4 => (nth.clone(), direction)
            .prop_map(|(conn, direction)| Op::OpenStream { conn, direction }),
        4 => (nth.clone(), class).prop_map(|(stream, class)| Op::BindClass { stream, class }),
        5 => (nth.clone(), size, priority.clone())
            .prop_map(|(stream, size, priority)| Op::StreamLease { stream, size, priority }),
        2 => (nth.clone(), bytes.clone(), priority)
            .prop_map(|(stream, bytes, priority)| Op::StreamReserve { stream, bytes, priority }),
        2 => nth.clone().prop_map(|stream| Op::CloseStream { stream }),
    ];
    let holding = prop_oneof![
        4 => (nth.clone(), 0..70_000_usize).prop_map(|(item, len)| Op::Write { item, len }),
        2 => nth.clone().prop_map(|item| Op::Own { item }),
        3 => nth.clone().prop_map(|item| Op::Pin { item }),
        2 => nth.clone().prop_map(|item| Op::Unpin { item }),
        2 => nth.clone().prop_map(|item| Op::KeepPinned { item }),
        3 => nth.clone().prop_map(|item| Op::Freeze { item }),
        1 => nth.clone().prop_map(|item| Op::Clone { item }),
        2 => nth.clone().prop_map(|item| Op::Grow { item }),
        2 => (nth.clone(), bytes).prop_map(|(item, bytes)| Op::Resize { item, bytes }),
        1 => nth.clone().prop_map(|item| Op::Forget { item }),
        8 => nth.prop_map(|item| Op::Drop { item }),
    ];
    prop_oneof![10 => coming, 2 => limits, 7 => taking, 7 => streams, 9 => holding]
}

pub const LIMITS: usize = 17;

/// Limits to choose from: each level the narrowest in one of them, and some with all.
pub fn limits(index: usize) -> Limits {
    let free = ScopeLimits::unlimited();
    let narrow = |memory: u64, count: u64| {
        free.memory(memory).connections(count).streams(count).streams_inbound(count - 1)
    };
    let none = Limits::unlimited();
    let allow = AllowList::new()
        .network("192.0.2.2/32".parse().expect("a network"))
        .peer(peer_key(0))
        .peer_in(peer_key(1), "198.51.100.0/24".parse().expect("a network"));
    let all = none
        .clone()
        .system(narrow(200_000, 4))
        .transient(narrow(100_000, 3))
        .peer(narrow(120_000, 3))
        .class(CLASSES[0], narrow(110_000, 3))
        .class_default(narrow(150_000, 3))
        .class_peer(CLASSES[0], narrow(90_000, 2))
        .connection(narrow(80_000, 2))
        .stream(free.memory(40_000))
        .subnets(subnets());
    let promoting = none
        .clone()
        .system(narrow(120_000, 4))
        .transient(narrow(50_000, 2))
        .class(CLASSES[0], narrow(70_000, 2))
        .class_default(narrow(60_000, 2))
        .stream(free.memory(30_000));
    match index {
        0 => none,
        1 => none.system(narrow(150_000, 3).fds(2)),
        2 => none.transient(narrow(90_000, 2)),
        3 => none
            .peer(narrow(90_000, 2).connections_outbound(1))
            .peer_override(peer_key(1), narrow(40_000, 1)),
        4 => none.class(CLASSES[0], narrow(90_000, 2)).class_default(narrow(60_000, 2)),
        5 => none.connection(narrow(40_000, 2)).stream(free.memory(20_000)),
        6 => none
            .class_peer(CLASSES[0], narrow(70_000, 2))
            .class_peer_default(narrow(50_000, 2).streams_outbound(Limit::Blocked)),
        7 => none.subnets(subnets()).stream(free.streams_outbound(Limit::Blocked)),
        8 => none
            .system(narrow(100_000, 2))
            .transient(narrow(50_000, 2))
            .allowlisted_system(narrow(150_000, 3))
            .allowlisted_transient(narrow(90_000, 2))
            .subnets(subnets())
            .allow(allow),
        9 => all.allow(allow).allowlisted_system(narrow(100_000, 3)),
        10 => all.observe(Observe::everything()).allow(allow),
        11 => all.observe(
            Observe::none()
                .scope(Scope::System)
                .scope(Scope::Class)
                .scope(Scope::Subnet)
                .scope(Scope::Stream),
        ),
        12 => all,
        13 => none.system(free.memory(Limit::Blocked)).allow(allow),
        // Where the allow list helps, a class may still have no room, or a stream.
        14 => promoting.allow(allow),
        15 => promoting
            .allow(allow)
            .allowlisted_system(narrow(100_000, 3))
            .subnets(subnets())
            .observe(Observe::none().scope(Scope::Class).scope(Scope::Subnet)),
        _ => none
            .class(CLASSES[0], free.memory(90_000))
            .class_peer(CLASSES[0], free.memory(60_000))
            .class_default(free.memory(50_000))
            .peer(free.memory(100_000))
            .connection(free.memory(80_000)),
    }
}

fn subnets() -> SubnetLimits {
    let at_most = |connections: u64| PrefixLimits::unlimited().connections(connections);
    let rate = Rate::new(INTERVAL, NonZeroU32::new(2).expect("two"));
    SubnetLimits::unlimited()
        .ipv4(32, at_most(2))
        .ipv4(24, at_most(3))
        .ipv6(56, at_most(1))
        .network(PACED.parse().expect("a network"), at_most(3).rate(rate))
}
