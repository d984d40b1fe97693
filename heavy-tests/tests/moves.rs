//! Connections and streams that move about: between realms, addresses, peers and classes.

use std::net::IpAddr;

use leasehold::{
    AllowList, BindError, ConnectionGuard, Direction, Governor, LeaseError, Limits, Observe,
    PeerKey, PrefixLimits, Scope, SubnetLimits,
};
use leasehold_heavy_tests::common::{KIB, MIB, governor, make_idle, scope};

fn ip(last: u8) -> IpAddr {
    [192, 0, 2, last].into()
}

fn allow_all() -> AllowList {
    AllowList::new().network("192.0.2.0/24".parse().expect("a network"))
}

/// At most so many connections from each address.
fn each_address(connections: u64) -> SubnetLimits {
    SubnetLimits::unlimited().ipv4(32, PrefixLimits::unlimited().connections(connections))
}

/// How many connections an address is let have.
fn room(governor: &Governor, address: IpAddr) -> usize {
    let guards: Vec<_> =
        std::iter::from_fn(|| governor.inbound().remote(address).try_admit().ok()).collect();
    guards.len()
}

/// A class that is full of what a connection keeps idle.
fn idle_class() -> (Governor, ConnectionGuard) {
    let governor = governor(Limits::unlimited().class("public", scope().memory(64 * KIB)));
    let idle = governor.inbound().class("public").try_admit().expect("room");
    make_idle(&idle, 16384, 4);
    (governor, idle)
}

/// An allow-listed system of which a connection keeps three quarters idle: 48 KiB.
fn idle_allowlisted_system() -> (Governor, ConnectionGuard) {
    let limits = Limits::unlimited()
        .system(scope().memory(100))
        .allowlisted_system(scope().memory(64 * KIB))
        .allow(allow_all());
    let governor = governor(limits);
    let idle = governor.inbound().remote(ip(1)).weight(101).try_admit();
    let idle = idle.expect("the allow list helps");
    make_idle(&idle, 16384, 3);
    (governor, idle)
}

/// An allow-listed connection that was let in while the ordinary system was full, which is empty now.
fn came_while_it_was_full(weight: u64) -> (Governor, ConnectionGuard) {
    let limits = Limits::unlimited().system(scope().memory(64 * KIB)).allow(allow_all());
    let governor = governor(limits);
    let filler = governor.inbound().weight(64 * KIB).try_admit().expect("room");
    let guard = governor.inbound().remote(ip(1)).weight(weight).try_admit();
    let guard = guard.expect("the allow list helps");
    drop(filler);
    (governor, guard)
}

/// A connection that its address counts, promoted because the ordinary system is full.
fn promoted(governor: &Governor) -> ConnectionGuard {
    let guard = governor.inbound().remote(ip(1)).try_admit().expect("room");
    std::mem::forget(guard.handle().try_reserve(100).expect("the allow list helps"));
    assert_eq!(governor.snapshot().scope(Scope::AllowlistedSystem).usage.memory, 100);
    guard
}

fn full_system() -> Limits {
    Limits::unlimited().system(scope().memory(50)).allow(allow_all()).subnets(each_address(2))
}

#[test]
fn a_promoted_connection_that_moves_within_the_allow_list_is_counted_once() {
    let governor = governor(full_system());
    let guard = promoted(&governor);
    guard.handle().rebind_source(ip(2)).expect("allow-listed too");
    drop(guard);
    governor.set_limits(Limits::unlimited().subnets(each_address(2))).expect("valid limits");
    assert_eq!((room(&governor, ip(1)), room(&governor, ip(2))), (2, 2));
}

#[test]
fn a_promoted_connection_that_leaves_the_allow_list_is_counted_once() {
    let governor = governor(full_system());
    let guard = governor.inbound().remote(ip(1)).try_admit().expect("room");
    let reserved = guard.handle().try_reserve(100).expect("the allow list helps");
    drop(reserved);
    guard.handle().rebind_source(IpAddr::from([198, 51, 100, 1])).expect("there is room");
    drop(guard);
    governor.set_limits(Limits::unlimited().subnets(each_address(2))).expect("valid limits");
    assert_eq!(room(&governor, ip(1)), 2);
}

#[test]
fn a_promoted_connection_that_turns_out_to_have_no_address_is_counted_no_more() {
    let governor = governor(full_system());
    let guard = promoted(&governor);
    governor.set_limits(Limits::unlimited().subnets(each_address(2))).expect("valid limits");
    guard
        .handle()
        .rebind_source(leasehold::Source::opaque("a pipe").expect("short"))
        .expect("room");
    drop(guard);
    assert_eq!(room(&governor, ip(1)), 2);
}

#[test]
fn a_promoted_connection_may_move_within_its_full_prefix() {
    let subnets = SubnetLimits::unlimited().ipv4(24, PrefixLimits::unlimited().connections(1));
    let governor = governor(full_system().subnets(subnets.clone()));
    let guard = promoted(&governor);
    governor.set_limits(Limits::unlimited().subnets(subnets)).expect("valid limits");
    // It is the one connection that the prefix has.
    guard.handle().rebind_source(ip(2)).expect("nothing changes for the prefix");
}

#[test]
fn a_streams_class_is_not_full_of_what_its_connections_keep_idle() {
    let (governor, _idle) = idle_class();
    let guard = governor.inbound().try_admit().expect("room");
    let stream = guard.handle().try_open_stream(Direction::Inbound).expect("room");
    stream.bind_class("public").expect("room");
    let _lease = stream.try_lease_owned(16384).expect("all of the class's memory is idle");
}

#[test]
fn a_stream_is_bound_to_a_class_whose_connections_keep_memory_idle() {
    let (governor, _idle) = idle_class();
    let guard = governor.inbound().try_admit().expect("room");
    let stream = guard.handle().try_open_stream(Direction::Inbound).expect("room");
    let _lease = stream.try_lease_owned(16384).expect("room");
    stream.bind_class("public").expect("all of the class's memory is idle");
}

#[test]
fn a_stream_is_bound_to_a_class_that_its_connections_own_idle_memory_does_not_fill() {
    let peer = PeerKey::new("alice").expect("short");
    let limits = Limits::unlimited().class_peer("public", scope().memory(64 * KIB));
    let governor = governor(limits);
    let idle = governor.inbound().peer(&peer).class("public").try_admit().expect("room");
    make_idle(&idle, 16384, 4);
    let guard = governor.inbound().try_admit().expect("room");
    let stream = guard.handle().try_open_stream(Direction::Inbound).expect("room");
    stream.bind_class("public").expect("room");
    let _lease = stream.try_lease_owned(16384).expect("room");
    guard.handle().bind_peer(&peer).expect("all of the peer's part of the class is idle");
}

#[test]
fn the_allow_listed_system_is_not_full_of_idle_memory_for_admissions() {
    let (governor, _idle) = idle_allowlisted_system();
    let admitted = governor.inbound().remote(ip(2)).weight(30 * KIB).try_admit();
    let _admitted = admitted.expect("48 KiB are idle");
}

#[test]
fn the_allow_listed_system_is_not_full_of_idle_memory_for_promotions() {
    let (governor, _idle) = idle_allowlisted_system();
    let guard = governor.inbound().remote(ip(2)).try_admit().expect("room");
    let reserved = guard.handle().try_reserve(30 * KIB);
    let _reserved = reserved.expect("48 KiB are idle");
}

#[test]
fn the_ordinary_system_is_not_full_of_idle_memory_for_who_leaves_the_allow_list() {
    let (governor, guard) = came_while_it_was_full(20 * KIB);
    let idle = governor.inbound().try_admit().expect("room");
    make_idle(&idle, 16384, 4);
    guard
        .handle()
        .rebind_source(IpAddr::from([198, 51, 100, 1]))
        .expect("all of the system's is idle");
}

#[test]
fn the_idle_memory_of_who_leaves_the_allow_list_is_not_in_its_way() {
    let (_governor, guard) = came_while_it_was_full(KIB);
    make_idle(&guard, 16384, 4);
    guard.handle().rebind_source(IpAddr::from([198, 51, 100, 1])).expect("it holds 1 KiB");
}

#[test]
fn the_arena_has_room_for_who_is_still_allow_listed() {
    let limits = Limits::unlimited().system(scope().memory(4 * MIB));
    let governor = governor(limits.clone().allow(allow_all()));
    let filler = governor.inbound().weight(4 * MIB).try_admit().expect("room");
    let guard = governor.inbound().remote(ip(1)).try_admit().expect("room");
    let held: Vec<_> = (0..512).map(|_| guard.try_lease(65536).expect("room")).collect();
    drop(filler);
    governor.set_limits(limits).expect("valid limits");
    let ordinary = governor.inbound().try_admit().expect("room");
    let _lease = ordinary.try_lease(65536).expect("the ordinary system is empty");
    drop(held);
}

#[test]
fn a_stream_that_was_bound_to_its_connections_class_has_a_class() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().class("public").try_admit().expect("room");
    let stream = guard.handle().try_open_stream(Direction::Inbound).expect("room");
    stream.bind_class("public").expect("room");
    assert_eq!(stream.bind_class("other"), Err(BindError::StreamAlreadyBound));
}

#[test]
fn what_is_refused_moves_nobody() {
    let limits = Limits::unlimited()
        .system(scope().memory(50))
        .class("narrow", scope().memory(80))
        .allow(allow_all());
    let governor = governor(limits);
    let guard = governor.inbound().remote(ip(1)).try_admit().expect("room");
    let stream = guard.handle().try_open_stream(Direction::Inbound).expect("room");
    stream.bind_class("narrow").expect("room");
    let refused = stream.try_reserve(100).expect_err("no class has so much");
    // The class is asked before the system, so the allow list is not tried at all.
    assert_eq!(refused.refused().map(|refused| refused.scope()), Some(Scope::Class));
    assert_eq!(governor.snapshot().scope(Scope::AllowlistedSystem).usage.streams(), 0);
}

#[test]
fn a_reservation_that_outlives_its_stream_is_charged_to_the_streams_class() {
    let governor = governor(Limits::unlimited().class("narrow", scope().memory(80)));
    let guard = governor.inbound().try_admit().expect("room");
    let stream = guard.handle().try_open_stream(Direction::Inbound).expect("room");
    stream.bind_class("narrow").expect("room");
    let mut reservation = stream.try_reserve(0).expect("room");
    drop(stream);
    assert!(reservation.resize(100).is_err(), "the class has 80");
}

#[test]
fn totals_of_both_systems_do_not_overflow() {
    let governor = governor(Limits::unlimited().allow(allow_all()));
    let _ordinary = governor.inbound().weight(u64::MAX).try_admit().expect("unlimited");
    let _allowed = governor.inbound().remote(ip(1)).weight(u64::MAX).try_admit();
    let _allowed = _allowed.expect("the allow list helps");
    assert_eq!(governor.snapshot().totals.reserved_bytes, u64::MAX);
    governor.drain(|_| true);
}

#[test]
fn observing_counts_nothing_that_would_not_be_refused() {
    let limits = Limits::unlimited().system(scope().memory(64 * KIB));
    let reserve_beside_idle = |limits: Limits| {
        let governor = governor(limits);
        let idle = governor.inbound().try_admit().expect("room");
        make_idle(&idle, 16384, 4);
        let guard = governor.inbound().try_admit().expect("room");
        let reserved = guard.handle().try_reserve(16384).map(drop);
        (reserved, governor.snapshot().observed.len())
    };
    assert_eq!(reserve_beside_idle(limits.clone()), (Ok(()), 0));
    assert_eq!(reserve_beside_idle(limits.observe(Observe::everything())), (Ok(()), 0));
}

#[test]
fn who_can_be_promoted_is_not_told_that_it_never_fits() {
    let limits = Limits::unlimited()
        .system(scope().memory(50))
        .allowlisted_system(scope().memory(200))
        .allow(allow_all());
    let governor = governor(limits);
    let filler = governor.inbound().remote(ip(1)).weight(150).try_admit();
    let filler = filler.expect("the allow list helps");
    let guard = governor.inbound().remote(ip(2)).try_admit().expect("room");
    let refused = guard.handle().try_reserve(100).expect_err("nothing has 100 now");
    drop(filler);
    let _granted = guard.handle().try_reserve(100).expect("the allow list helps");
    assert!(matches!(refused, LeaseError::Refused(_)), "{refused}");
}
