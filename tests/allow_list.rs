//! Who is on the allow list has scopes of its own to fall back on, and only to fall back on.

mod common;

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use common::{
    HandClock, KIB, MIB, assert_adds_up, assert_nothing_left, counts, governor, make_idle, now,
    of_class, of_peer, scope,
};
use leasehold::{
    Admission, AllowList, BindError, ConnectionGuard, Direction, Governor, LeaseError, Limit,
    Limits, PeerKey, PrefixLimits, Rate, Reason, Resource, Scope, Source, SubnetLimits,
};

const LISTED: &str = "192.0.2.1";
const OTHER: &str = "198.51.100.1";

fn key(name: &str) -> PeerKey {
    PeerKey::new(name).unwrap()
}

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

/// Everyone in 192.0.2.0/24.
fn network() -> AllowList {
    AllowList::new().network("192.0.2.0/24".parse().unwrap())
}

/// Alice, as long as she is in 192.0.2.0/24.
fn alice_in_network() -> AllowList {
    AllowList::new().peer_in(key("alice"), "192.0.2.0/24".parse().unwrap())
}

/// No room for anyone but those on the list.
fn full(allow: AllowList) -> Limits {
    Limits::unlimited().system(scope().connections(0)).allow(allow)
}

fn from<'a>(governor: &'a Governor, address: &str) -> Admission<'a> {
    governor.inbound().remote(ip(address))
}

/// How many connections the ordinary and the allow-listed system have.
#[track_caller]
fn connections(governor: &Governor) -> (u64, u64) {
    let snapshot = assert_adds_up(governor);
    (
        snapshot.scope(Scope::System).usage.connections(),
        snapshot.scope(Scope::AllowlistedSystem).usage.connections(),
    )
}

#[track_caller]
fn assert_system_is_full(admission: Admission<'_>, governor: &Governor) {
    let before = now(governor);
    let error = admission.try_admit().unwrap_err();
    assert_eq!(error.refused().unwrap().scope(), Scope::System);
    assert_eq!(now(governor), before);
}

#[test]
fn the_ordinary_scopes_come_first_while_they_have_room() {
    let limits = Limits::unlimited().system(scope().connections(2)).allow(network());
    let governor = governor(limits);
    let first = from(&governor, LISTED).try_admit().unwrap();
    let _second = from(&governor, LISTED).try_admit().unwrap();
    assert_eq!(connections(&governor), (2, 0));
    let third = from(&governor, LISTED).try_admit().unwrap();
    assert_eq!(connections(&governor), (2, 1));
    assert_system_is_full(from(&governor, OTHER), &governor);
    // Once there is room again it is used again, and who fell back stays where it is.
    drop(first);
    let _fourth = from(&governor, LISTED).try_admit().unwrap();
    assert_eq!(connections(&governor), (2, 1));
    drop(third);
    assert_eq!(connections(&governor), (2, 0));
    assert_eq!(counts(&governor.snapshot().refusals).len(), 1, "what fell back was not refused");
}

#[test]
fn a_network_lets_in_exactly_whoever_is_in_it() {
    let allow = network().network("2001:db8::/32".parse().unwrap());
    let governor = governor(full(allow));
    let inside = ["192.0.2.0", "192.0.2.255", "2001:db8::", "2001:db8:ffff:ffff::1"];
    let guards = inside.map(|address| from(&governor, address).try_admit().unwrap());
    assert_eq!(connections(&governor), (0, guards.len() as u64));
    for address in ["192.0.1.255", "192.0.3.0", "2001:db7:ffff::", "2001:db9::", "::192.0.2.1"] {
        assert_system_is_full(from(&governor, address), &governor);
    }
    assert_system_is_full(governor.inbound(), &governor);
    let opaque = Source::opaque(LISTED).unwrap();
    assert_system_is_full(governor.inbound().remote(opaque), &governor);
}

#[test]
fn the_host_bits_of_a_network_mean_nothing() {
    let governor = governor(full(AllowList::new().network("192.0.2.77/24".parse().unwrap())));
    let _guard = from(&governor, LISTED).try_admit().unwrap();
}

#[test]
fn a_network_is_one_to_go_to_as_well() {
    let governor = governor(full(network()));
    let _guard = governor.outbound().remote(ip(LISTED)).try_admit().unwrap();
    assert_system_is_full(governor.outbound().remote(ip(OTHER)), &governor);
    assert_eq!(connections(&governor), (0, 1));
}

#[test]
fn a_port_makes_no_difference() {
    let governor = governor(full(network()));
    let address: std::net::SocketAddr = "192.0.2.1:4001".parse().unwrap();
    let _guard = governor.inbound().remote(address).try_admit().unwrap();
    assert_eq!(connections(&governor), (0, 1));
}

#[test]
fn an_ipv4_address_in_ipv6_form_is_the_ipv4_address() {
    let governor = governor(full(network()));
    let guard = from(&governor, "::ffff:192.0.2.1").try_admit().unwrap();
    assert_eq!(connections(&governor), (0, 1));
    assert_system_is_full(from(&governor, "::ffff:198.51.100.1"), &governor);
    // Later too, when the connection is asked again where it comes from.
    guard.handle().bind_peer("alice").unwrap();
    assert_eq!(connections(&governor), (0, 1));
}

#[test]
fn a_network_in_ipv6_form_lets_in_the_ipv4_addresses_that_it_means() {
    let governor =
        governor(full(AllowList::new().network("::ffff:192.0.2.0/120".parse().unwrap())));
    let _plain = from(&governor, LISTED).try_admit().unwrap();
    let _mapped = from(&governor, "::ffff:192.0.2.1").try_admit().unwrap();
    assert_eq!(connections(&governor), (0, 2));
}

#[test]
fn a_peer_is_let_in_from_anywhere() {
    let governor = governor(full(AllowList::new().peer(key("alice"))));
    let _nowhere = governor.inbound().peer("alice").try_admit().unwrap();
    let _somewhere = from(&governor, OTHER).peer("alice").try_admit().unwrap();
    let _out = governor.outbound().peer("alice").try_admit().unwrap();
    assert_eq!(connections(&governor), (0, 3));
    assert_system_is_full(from(&governor, LISTED).peer("bob"), &governor);
}

#[test]
fn a_rule_with_a_peer_alone_lets_no_unknown_peer_in() {
    let governor = governor(full(AllowList::new().peer(key("alice"))));
    assert_system_is_full(governor.inbound(), &governor);
    assert_system_is_full(from(&governor, LISTED), &governor);
    assert_nothing_left(&governor);
}

#[test]
fn a_rule_with_both_lets_the_peer_in_from_the_network_only() {
    let governor = governor(full(alice_in_network()));
    let _both = from(&governor, LISTED).peer("alice").try_admit().unwrap();
    assert_eq!(connections(&governor), (0, 1));
    assert_system_is_full(from(&governor, OTHER).peer("alice"), &governor);
    assert_system_is_full(governor.inbound().peer("alice"), &governor);
    assert_system_is_full(from(&governor, LISTED).peer("bob"), &governor);
}

#[test]
fn who_is_let_in_for_now_is_transient_and_stays_once_it_is_the_peer() {
    let governor = governor(full(alice_in_network()));
    let guard = from(&governor, LISTED).try_admit().unwrap();
    let _reserved = guard.handle().try_reserve(1000).unwrap();
    let snapshot = assert_adds_up(&governor);
    assert_eq!(snapshot.scope(Scope::AllowlistedTransient).usage.connections(), 1);
    assert_eq!(snapshot.scope(Scope::AllowlistedTransient).usage.memory, 1000);
    guard.handle().bind_peer("alice").unwrap();
    let snapshot = assert_adds_up(&governor);
    assert_eq!(snapshot.scope(Scope::AllowlistedTransient).usage, Default::default());
    assert_eq!(snapshot.scope(Scope::AllowlistedSystem).usage.memory, 1000);
    assert_eq!(snapshot.scope(Scope::System).usage, Default::default());
    assert_eq!(of_peer(&snapshot, "alice").memory, 1000);
}

#[test]
fn who_is_let_in_for_now_moves_with_all_it_has_once_it_is_another() {
    let limits = |connections: u64| {
        let system = scope().connections(connections);
        Limits::unlimited().system(system).allow(alice_in_network())
    };
    let governor = governor(limits(0));
    let guard = from(&governor, LISTED).class("public").try_admit().unwrap();
    let lease = guard.try_lease(4096).unwrap();
    drop(guard.try_lease(512).unwrap());
    let stream = guard.handle().try_open_stream(Direction::Outbound).unwrap();
    stream.bind_class("mail").unwrap();
    let reserved = stream.try_reserve(1000).unwrap();
    let before = assert_adds_up(&governor).scope(Scope::AllowlistedSystem).usage;
    assert_eq!(assert_adds_up(&governor).scope(Scope::System).usage, Default::default());

    governor.set_limits(limits(1)).unwrap();
    guard.handle().bind_peer("bob").unwrap();
    let after = assert_adds_up(&governor);
    assert_eq!(after.scope(Scope::System).usage, before);
    assert_eq!(of_peer(&after, "bob"), before);
    assert_eq!(of_class(&after, "public"), before);
    assert_eq!(of_class(&after, "mail").memory, 1000);
    assert_eq!(after.scope(Scope::AllowlistedSystem).usage, Default::default());
    assert_eq!(after.scope(Scope::AllowlistedTransient).usage, Default::default());
    drop((lease, reserved, stream));
    drop(guard);
    assert_nothing_left(&governor);
}

#[test]
fn who_is_let_in_for_now_is_refused_as_another_where_there_is_no_room_and_nothing_changes() {
    let governor = governor(full(alice_in_network()));
    let guard = from(&governor, LISTED).class("public").try_admit().unwrap();
    let _lease = guard.try_lease(4096).unwrap();
    let before = now(&governor);
    let error = guard.handle().bind_peer("bob").unwrap_err();
    let refused = error.refused().unwrap();
    assert_eq!((refused.scope(), refused.resource()), (Scope::System, Resource::Connections));
    assert_eq!(now(&governor), before);
    assert_eq!(guard.handle().usage().unwrap().peer, None);
    // It is nobody yet, and can still turn out to be the one it was let in for.
    guard.handle().bind_peer("alice").unwrap();
    assert_eq!(connections(&governor), (0, 1));
}

#[test]
fn who_moves_to_the_ordinary_scopes_is_counted_by_its_address_again() {
    let limits = |connections: u64| {
        Limits::unlimited()
            .system(scope().connections(connections))
            .subnets(SubnetLimits::unlimited().ipv4(32, PrefixLimits::unlimited().connections(1)))
            .allow(alice_in_network())
    };
    let governor = governor(limits(0));
    let guard = from(&governor, LISTED).try_admit().unwrap();
    let second = from(&governor, LISTED).try_admit().unwrap();
    governor.set_limits(limits(10)).unwrap();
    guard.handle().bind_peer("bob").unwrap();
    assert_eq!(connections(&governor), (1, 1));
    let before = now(&governor);
    let error = second.handle().bind_peer("bob").unwrap_err();
    let refused = error.refused().unwrap();
    assert_eq!((refused.scope(), refused.in_use()), (Scope::Subnet, 1));
    assert_eq!(now(&governor), before);
    drop(guard);
    second.handle().bind_peer("bob").unwrap();
    drop(second);
    // Nobody is counted any more: one, and no second, is admitted as bob.
    let _again = from(&governor, LISTED).peer("bob").try_admit().unwrap();
    assert!(from(&governor, LISTED).peer("bob").try_admit().is_err());
}

#[test]
fn limits_by_address_do_not_keep_the_listed_out_and_do_not_count_them() {
    let subnets = SubnetLimits::unlimited()
        .ipv4(32, PrefixLimits::unlimited().connections(1))
        .network("203.0.113.0/24".parse().unwrap(), PrefixLimits::unlimited().connections(1));
    let allow = network().network("203.0.113.0/24".parse().unwrap());
    let governor = governor(Limits::unlimited().subnets(subnets).allow(allow));
    for address in [LISTED, "203.0.113.9"] {
        let counted = from(&governor, address).try_admit().unwrap();
        let allowed: Vec<_> =
            (0..3).map(|_| from(&governor, address).try_admit().unwrap()).collect();
        assert_eq!(connections(&governor), (1, 3));
        // The one that counts goes, so the next one counts.
        drop(counted);
        let counted = from(&governor, address).try_admit().unwrap();
        assert_eq!(connections(&governor), (1, 3));
        drop((allowed, counted));
        assert_nothing_left(&governor);
    }
    let _other = from(&governor, OTHER).try_admit().unwrap();
    assert!(from(&governor, OTHER).try_admit().is_err(), "who is not listed is still counted");
    assert_eq!(counts(&governor.snapshot().refusals).len(), 1);
}

#[test]
fn rates_do_not_keep_the_listed_out_and_are_not_spent_by_them() {
    let clock = HandClock::default();
    let rate = Rate::new(Duration::from_secs(5), NonZeroU32::new(2).unwrap());
    let subnets = SubnetLimits::unlimited().ipv4(32, PrefixLimits::unlimited().rate(rate));
    let limits = Limits::unlimited().subnets(subnets).allow(network());
    let governor = Governor::builder().limits(limits).clock(clock.clone()).build().unwrap();
    let admit = || from(&governor, LISTED).try_admit().unwrap();
    let ordinary = [admit(), admit()];
    let allowed: Vec<_> = (0..10).map(|_| admit()).collect();
    assert_eq!(connections(&governor), (2, 10));
    clock.turn(Duration::from_secs(5));
    let next = [admit(), admit()];
    assert_eq!(connections(&governor), (3, 11), "the ten have spent nothing");
    drop((ordinary, allowed, next));
    assert_nothing_left(&governor);
}

/// One listed connection that fills the ordinary system but for its last bytes, and all it has.
fn at_the_limit(peer: Option<&str>) -> (Governor, ConnectionGuard) {
    let limits = Limits::unlimited().system(scope().memory(8 * KIB).streams(1)).allow(network());
    let governor = governor(limits);
    let admission = from(&governor, LISTED).class("public");
    let admission = match peer {
        Some(peer) => admission.peer(peer),
        None => admission,
    };
    let guard = admission.try_admit().unwrap();
    (governor, guard)
}

#[test]
fn memory_beyond_the_ordinary_system_moves_the_connection_over() {
    for peer in [None, Some("alice")] {
        for len in [4096, 100_000] {
            let (governor, guard) = at_the_limit(peer);
            let _first = guard.try_lease(4096).unwrap();
            let _second = guard.handle().try_reserve(4096).unwrap();
            let before = now(&governor);
            assert_eq!(before.system.memory, 8 * KIB);
            let _beyond = guard.try_lease(len).unwrap();
            let after = assert_adds_up(&governor);
            assert_eq!(after.scope(Scope::System).usage, Default::default(), "all of it moves");
            assert_eq!(after.scope(Scope::Transient).usage, Default::default());
            let moved = after.scope(Scope::AllowlistedSystem).usage;
            assert!(moved.memory >= 8 * KIB + len as u64);
            assert_eq!((moved.connections(), moved.fds), (1, 1));
            let transient = if peer.is_none() { moved } else { Default::default() };
            assert_eq!(after.scope(Scope::AllowlistedTransient).usage, transient);
            assert_eq!(of_class(&after, "public"), moved);
            assert_eq!(counts(&after.refusals), []);
        }
    }
}

#[test]
fn a_reservation_beyond_the_ordinary_system_moves_the_connection_over() {
    for peer in [None, Some("alice")] {
        let (governor, guard) = at_the_limit(peer);
        let mut reserved = guard.handle().try_reserve(8 * KIB).unwrap();
        reserved.resize(8 * KIB + 1).unwrap();
        let after = now(&governor);
        assert_eq!((after.system.memory, after.allowlisted_system.memory), (0, 8 * KIB + 1));
        drop((reserved, guard));
        assert_nothing_left(&governor);
    }
}

#[test]
fn a_stream_beyond_the_ordinary_system_moves_the_connection_over() {
    for peer in [None, Some("alice")] {
        let (governor, guard) = at_the_limit(peer);
        let first = guard.handle().try_open_stream(Direction::Inbound).unwrap();
        let _held = first.try_reserve(1000).unwrap();
        assert_eq!(now(&governor).system.streams(), 1);
        let _second = guard.handle().try_open_stream(Direction::Outbound).unwrap();
        let after = now(&governor);
        assert_eq!(after.system, Default::default());
        assert_eq!(after.allowlisted_system.streams(), 2);
        assert_eq!(after.allowlisted_system.memory, 1000);
    }
}

#[test]
fn what_the_transient_scope_refuses_moves_the_connection_over_too() {
    let limits = Limits::unlimited().transient(scope().memory(1000)).allow(network());
    let governor = governor(limits);
    let guard = from(&governor, LISTED).try_admit().unwrap();
    let _within = guard.handle().try_reserve(1000).unwrap();
    assert_eq!(connections(&governor), (1, 0));
    let _beyond = guard.handle().try_reserve(1).unwrap();
    assert_eq!(connections(&governor), (0, 1));
    assert_eq!(now(&governor).allowlisted_transient.memory, 1001);
}

#[test]
fn who_is_not_listed_moves_nowhere() {
    let (governor, _guard) = at_the_limit(None);
    let guard = from(&governor, OTHER).try_admit().unwrap();
    let _all = guard.handle().try_reserve(8 * KIB).unwrap();
    let before = now(&governor);
    let error = guard.handle().try_reserve(1).unwrap_err();
    assert_eq!(error.refused().unwrap().scope(), Scope::System);
    assert!(guard.try_lease(1).is_err());
    assert_eq!(now(&governor), before);
}

#[test]
fn the_list_helps_against_no_other_scope() {
    let limits = Limits::unlimited()
        .peer(scope().memory(1000).connections(1))
        .class("public", scope().memory(2000))
        .class_peer("mail", scope().memory(500))
        .connection(scope().memory(3000))
        .stream(scope().memory(4000))
        .allow(network());
    let governor = governor(limits);
    let alice = from(&governor, LISTED).peer("alice").try_admit().unwrap();
    let public = from(&governor, LISTED).class("public").try_admit().unwrap();
    let mail = from(&governor, LISTED).peer("bob").class("mail").try_admit().unwrap();
    let plain = from(&governor, LISTED).try_admit().unwrap();
    for (guard, bytes, scope) in [
        (&alice, 1001, Scope::Peer),
        (&public, 2001, Scope::Class),
        (&mail, 501, Scope::ClassPeer),
        (&plain, 3001, Scope::Connection),
    ] {
        let error = guard.handle().try_reserve(bytes).unwrap_err();
        assert_eq!(error.refused().unwrap().scope(), scope);
    }
    let error = from(&governor, LISTED).peer("alice").try_admit().unwrap_err();
    assert_eq!(error.refused().unwrap().scope(), Scope::Peer);
    assert_eq!(connections(&governor), (4, 0));
}

#[test]
fn where_both_systems_are_full_the_ordinary_one_is_named_and_nothing_changes() {
    let limits = Limits::unlimited()
        .system(scope().memory(1000).connections(1))
        .allowlisted_system(scope().memory(1500).connections(1))
        .allow(network());
    let governor = governor(limits);
    let ordinary = from(&governor, LISTED).try_admit().unwrap();
    let _held = ordinary.handle().try_reserve(1000).unwrap();
    let allowed = from(&governor, LISTED).try_admit().unwrap();
    let _allowed = allowed.handle().try_reserve(500).unwrap();
    assert_eq!(connections(&governor), (1, 1));
    let before = now(&governor);
    let error = from(&governor, LISTED).try_admit().unwrap_err();
    let refused = error.refused().unwrap();
    assert_eq!((refused.scope(), refused.resource()), (Scope::System, Resource::Connections));
    // The thousand it has and one more would be too much over there as well.
    let error = ordinary.handle().try_reserve(1).unwrap_err();
    assert_eq!(error.refused().unwrap().scope(), Scope::System);
    assert_eq!(now(&governor), before);
    let rows = [
        (Scope::System, Resource::Memory, Reason::Limit, 1),
        (Scope::System, Resource::Connections, Reason::Limit, 1),
    ];
    assert_eq!(counts(&governor.snapshot().refusals), rows);
}

#[test]
fn who_has_fallen_back_is_held_to_the_limits_over_there() {
    let limits = full(network()).allowlisted_system(scope().memory(1000).streams(1));
    let governor = governor(limits);
    let guard = from(&governor, LISTED).try_admit().unwrap();
    let _all = guard.handle().try_reserve(1000).unwrap();
    let error = guard.handle().try_reserve(1).unwrap_err();
    let refused = error.refused().unwrap();
    assert_eq!(
        (refused.scope(), refused.limit(), refused.in_use(), refused.requested()),
        (Scope::AllowlistedSystem, Limit::Max(1000), 1000, 1)
    );
    let _stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
    let error = guard.handle().try_open_stream(Direction::Inbound).unwrap_err();
    assert_eq!(error.refused().unwrap().scope(), Scope::AllowlistedSystem);
}

#[test]
fn the_transient_scope_of_the_listed_bounds_those_whose_peer_is_not_known() {
    let limits = full(network()).allowlisted_transient(scope().connections(1));
    let governor = governor(limits);
    let first = from(&governor, LISTED).try_admit().unwrap();
    assert_system_is_full(from(&governor, LISTED), &governor);
    let _known = from(&governor, LISTED).peer("alice").try_admit().unwrap();
    first.handle().bind_peer("bob").unwrap();
    let _second = from(&governor, LISTED).try_admit().unwrap();
    assert_eq!(connections(&governor), (0, 3));
}

#[test]
fn everything_is_given_back_as_the_guard_drops_but_what_is_pinned() {
    for peer in [None, Some("alice")] {
        let governor = governor(full(network()));
        let admission = from(&governor, LISTED).class("public").weight(100);
        let admission = match peer {
            Some(peer) => admission.peer(peer),
            None => admission,
        };
        let guard = admission.try_admit().unwrap();
        let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
        stream.bind_class("mail").unwrap();
        let reserved = stream.try_reserve(300).unwrap();
        let owned = stream.try_lease_owned(4096).unwrap();
        let pinned = guard.handle().try_lease_owned(512).unwrap().into_pinned().unwrap();
        drop(guard.try_lease(2048).unwrap());
        let large = guard.handle().try_lease_owned(100_000).unwrap();
        assert_adds_up(&governor);
        drop(guard);
        let snapshot = assert_adds_up(&governor);
        let left = snapshot.scope(Scope::AllowlistedSystem).usage;
        assert_eq!((left.memory, left.connections(), left.streams(), left.fds), (512, 0, 0, 0));
        assert_eq!(snapshot.scope(Scope::AllowlistedTransient).usage, Default::default());
        assert_eq!(snapshot.rows(Scope::Class).chain(snapshot.rows(Scope::ClassPeer)).count(), 0);
        assert_eq!(snapshot.scope(Scope::System).usage, Default::default());
        assert_eq!(snapshot.totals.orphaned_bytes, 512);
        drop(pinned);
        assert_nothing_left(&governor);
        drop((stream, reserved, owned, large));
        assert_nothing_left(&governor);
    }
}

#[test]
fn what_moved_over_is_given_back_over_there() {
    let (governor, guard) = at_the_limit(Some("alice"));
    let frozen = {
        let mut lease = guard.try_lease(4096).unwrap();
        bytes::BufMut::put_slice(&mut lease, &[7; 4096]);
        lease.freeze()
    };
    let lease = guard.handle().try_lease_owned(4096).unwrap();
    let beyond = guard.handle().try_lease_owned(4096).unwrap();
    assert_eq!(connections(&governor), (0, 1));
    drop(lease);
    drop(beyond);
    drop(guard);
    let snapshot = assert_adds_up(&governor);
    assert_eq!(snapshot.scope(Scope::AllowlistedSystem).usage.memory, 4 * KIB);
    assert_eq!(of_peer(&snapshot, "alice").memory, 4 * KIB);
    drop(frozen);
    assert_nothing_left(&governor);
}

const BLOCK: usize = 64 << 10;

/// A governor whose arena has no more blocks than the limits need, all of one size.
fn of_blocks(limits: Limits) -> Governor {
    let builder = Governor::builder().limits(limits).size_classes(&[BLOCK]).fragmentation(0);
    builder.build().unwrap()
}

#[test]
fn the_arena_has_room_for_both_systems() {
    let limits = |allow| {
        let system = scope().memory(4 * MIB);
        Limits::unlimited().system(system).allowlisted_system(system).allow(allow)
    };
    let governor = of_blocks(limits(network()));
    let fill = |address| {
        let guard = from(&governor, address).try_admit().unwrap();
        let leases: Vec<_> =
            (0..64).map(|_| guard.handle().try_lease_owned(BLOCK).unwrap()).collect();
        (guard, leases)
    };
    let ordinary = fill(OTHER);
    let allowed = fill(LISTED);
    let snapshot = assert_adds_up(&governor);
    assert_eq!(snapshot.scope(Scope::System).usage.memory, 4 * MIB);
    assert_eq!(snapshot.scope(Scope::AllowlistedSystem).usage.memory, 4 * MIB);
    for (guard, scope) in [(&ordinary.0, Scope::System), (&allowed.0, Scope::AllowlistedSystem)] {
        assert_eq!(guard.try_lease(1).unwrap_err().refused().unwrap().scope(), scope);
    }
}

#[test]
fn the_arena_has_room_for_who_is_there_after_the_list_is_taken_back() {
    let limits = |allow| {
        let system = scope().memory(MIB).connections(0);
        let listed = scope().memory(8 * MIB);
        Limits::unlimited().system(system).allowlisted_system(listed).allow(allow)
    };
    let governor = of_blocks(limits(network()));
    let guard = from(&governor, LISTED).try_admit().unwrap();
    governor.set_limits(limits(AllowList::new())).unwrap();
    let lease = |nth| {
        let leased = guard.handle().try_lease_owned(BLOCK);
        leased.unwrap_or_else(|error| panic!("{nth} of 128: {error}"))
    };
    let _leases: Vec<_> = (0..128).map(lease).collect();
    assert_eq!(now(&governor).allowlisted_system.memory, 8 * MIB);
}

#[test]
fn a_list_can_be_put_in_force_and_taken_back_at_run_time() {
    let governor = governor(full(AllowList::new()));
    assert_system_is_full(from(&governor, LISTED), &governor);
    governor.set_limits(full(network())).unwrap();
    let guard = from(&governor, LISTED).try_admit().unwrap();
    governor.set_limits(full(AllowList::new())).unwrap();
    assert_system_is_full(from(&governor, LISTED), &governor);
    // Who is there stays, and goes as it came.
    assert_eq!(connections(&governor), (0, 1));
    let lease = guard.handle().try_lease_owned(512).unwrap();
    drop((lease, guard));
    assert_nothing_left(&governor);
}

#[test]
fn a_listed_connection_that_was_bound_does_not_forget_whom_it_was_let_in_for() {
    let governor = governor(full(alice_in_network()));
    let guard = from(&governor, LISTED).try_admit().unwrap();
    guard.handle().bind_peer("alice").unwrap();
    assert_eq!(guard.handle().bind_peer("bob").unwrap_err(), BindError::AlreadyBound);
    assert_eq!(connections(&governor), (0, 1));
}

#[test]
fn what_the_listed_keep_idle_keeps_no_other_listed_one_from_moving_over() {
    let limits = Limits::unlimited()
        .system(scope().memory(4 * KIB))
        .allowlisted_system(scope().memory(32 * KIB))
        .allow(network());
    let governor = governor(limits);
    let hoarder = from(&governor, LISTED).try_admit().unwrap();
    make_idle(&hoarder, 4096, 8);
    let snapshot = assert_adds_up(&governor);
    assert_eq!(snapshot.scope(Scope::AllowlistedSystem).usage.memory, 32 * KIB);
    assert_eq!(snapshot.totals.cached_bytes, 32 * KIB);
    let guard = from(&governor, LISTED).try_admit().unwrap();
    let _beyond = guard.handle().try_reserve(8 * KIB).unwrap();
    assert_eq!(now(&governor).allowlisted_system.memory, 32 * KIB);
    assert_eq!(governor.snapshot().totals.cached_bytes, 24 * KIB);
}

#[test]
fn what_the_listed_keep_idle_keeps_no_weight_from_being_admitted() {
    let limits = full(network()).allowlisted_system(scope().memory(32 * KIB));
    let governor = governor(limits);
    let hoarder = from(&governor, LISTED).try_admit().unwrap();
    make_idle(&hoarder, 4096, 8);
    let _guard = from(&governor, LISTED).weight(32 * KIB).try_admit().unwrap();
    assert_eq!(connections(&governor), (0, 2));
}

#[test]
fn what_would_fit_among_the_listed_is_not_said_to_fit_never() {
    let limits = Limits::unlimited()
        .system(scope().memory(1000))
        .allowlisted_system(scope().memory(5000))
        .allow(network());
    let governor = governor(limits);
    let filler = from(&governor, LISTED).try_admit().unwrap();
    let all = filler.handle().try_reserve(5000).unwrap();
    let guard = from(&governor, LISTED).try_admit().unwrap();
    let error = guard.handle().try_reserve(2000).unwrap_err();
    assert!(matches!(error, LeaseError::Refused(_)), "{error}");
    drop(all);
    let _now_it_fits = guard.handle().try_reserve(2000).unwrap();
}

/// No scope has refused what the arena cannot give.
#[test]
fn a_lease_that_the_arena_refuses_moves_nobody() {
    let limits = Limits::unlimited().system(scope().memory(MIB)).allow(network());
    let governor = governor(limits);
    let guard = from(&governor, LISTED).try_admit().unwrap();
    let error = guard.try_lease(1 << 47).unwrap_err();
    assert_eq!(error.refused().unwrap().scope(), Scope::Arena);
    assert_eq!(connections(&governor), (1, 0));
}

/// Nor does what the other system has no room for either.
#[test]
fn a_lease_that_both_systems_refuse_moves_nobody() {
    let system = || scope().memory(MIB);
    let limits = Limits::unlimited().system(system()).allowlisted_system(system());
    let governor = governor(limits.allow(network()));
    let guard = from(&governor, LISTED).try_admit().unwrap();
    guard.try_lease(2 << 20).unwrap_err();
    assert_eq!(connections(&governor), (1, 0));
}
