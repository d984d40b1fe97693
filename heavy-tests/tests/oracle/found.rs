//! What the comparison found, each as short as it gets.

use std::net::IpAddr;

use leasehold::{AllowList, Direction, Governor, LeaseError, Limits, Observe, Priority, Scope};
use leasehold_heavy_tests::common::{governor, scope};

const CLASS: &str = "inner";

fn allow() -> AllowList {
    AllowList::new().network("192.0.2.0/24".parse().expect("a network"))
}

/// On the allow list.
fn address() -> IpAddr {
    "192.0.2.1".parse().expect("an address")
}

fn observed(governor: &Governor) -> Vec<(Scope, u64)> {
    governor.snapshot().observed.iter().map(|row| (row.scope, row.count)).collect()
}

/// The transient scope refuses and the allow list helps, but the class has no room.
#[test]
fn who_is_refused_by_a_class_stays_among_the_ordinary() {
    let governor = governor(
        Limits::unlimited()
            .transient(scope().memory(10_000))
            .class(CLASS, scope().memory(20_000))
            .allow(allow()),
    );
    let guard = governor.inbound().remote(address()).class(CLASS).try_admit().expect("room");
    guard.handle().try_reserve(30_000).expect_err("more than the class may have");
    let snapshot = governor.snapshot();
    assert_eq!(snapshot.scope(Scope::System).usage.connections(), 1);
    assert_eq!(snapshot.scope(Scope::AllowlistedSystem).usage.connections(), 0);
}

#[test]
fn idle_memory_in_the_class_of_a_stream_keeps_nobody_from_the_allow_listed() {
    let governor = governor(
        Limits::unlimited()
            .transient(scope().memory(80_000))
            .class(CLASS, scope().memory(90_000))
            .allow(allow()),
    );
    let other = governor.inbound().peer("bob").class(CLASS).try_admit().expect("room");
    drop(other.try_lease(60_000).expect("room"));
    let guard = governor.inbound().remote(address()).try_admit().expect("room");
    let stream = guard.handle().try_open_stream(Direction::Inbound).expect("room");
    stream.bind_class(CLASS).expect("room");
    let reserved = stream.try_reserve(85_000).expect("only idle memory is in the way");
    drop(reserved);
}

/// One scope would really have refused. The next would not have.
#[test]
fn idle_memory_is_not_observed_beside_what_is_really_in_the_way() {
    let limits = Limits::unlimited()
        .connection(scope().memory(80_000))
        .system(scope().memory(150_000))
        .observe(Observe::everything());
    let governor = governor(limits);
    let other = governor.inbound().try_admit().expect("room");
    drop(other.try_lease(60_000).expect("room"));
    let guard = governor.inbound().try_admit().expect("room");
    let _reserved = guard.handle().try_reserve(100_000).expect("nothing is enforced");
    assert_eq!(observed(&governor), [(Scope::Connection, 1)]);
}

#[test]
fn idle_memory_is_not_observed_by_one_who_comes_in() {
    let limits = Limits::unlimited()
        .class(CLASS, scope().memory(60_000))
        .system(scope().memory(150_000))
        .observe(Observe::everything());
    let governor = governor(limits);
    let other = governor.inbound().try_admit().expect("room");
    drop(other.try_lease(60_000).expect("room"));
    let coming = governor.inbound().class(CLASS).weight(100_000);
    let _guard = coming.try_admit().expect("nothing is enforced");
    assert_eq!(observed(&governor), [(Scope::Class, 1)]);
}

#[test]
fn idle_memory_is_not_observed_by_one_who_is_bound() {
    let limits = Limits::unlimited()
        .peer(scope().memory(70_000))
        .class_peer(CLASS, scope().memory(150_000))
        .observe(Observe::everything());
    let governor = governor(limits);
    let other = governor.inbound().peer("bob").class(CLASS).try_admit().expect("room");
    drop(other.try_lease(60_000).expect("room"));
    let coming = governor.inbound().class(CLASS).weight(100_000);
    let guard = coming.try_admit().expect("nothing is enforced");
    guard.handle().bind_peer("bob").expect("nothing is enforced");
    assert_eq!(observed(&governor), [(Scope::Peer, 1)]);
}

#[test]
fn a_stream_that_is_over_answers_closed_whatever_its_limit() {
    let governor = governor(Limits::unlimited().stream(scope().memory(1_000)));
    let guard = governor.inbound().try_admit().expect("room");
    let stream = guard.handle().try_open_stream(Direction::Inbound).expect("room");
    let mut reservation = stream.try_reserve(0).expect("room");
    drop(stream);
    assert_eq!(reservation.resize(500), Err(LeaseError::Closed));
    assert_eq!(reservation.resize(2_000), Err(LeaseError::Closed));
    assert_eq!(governor.snapshot().refusals.len(), 0);
}

/// The block that is leased again is charged already, and moves along.
#[test]
fn a_low_priority_moves_with_its_idle_block() {
    let limits = Limits::unlimited()
        .system(scope().memory(40_000))
        .allowlisted_system(scope().memory(100_000))
        .allow(allow());
    let governor = governor(limits);
    let guard = governor.inbound().remote(address()).try_admit().expect("room");
    let _reserved = guard.handle().try_reserve(16_384).expect("room");
    drop(guard.try_lease(16_384).expect("room"));
    let _lease =
        guard.request().priority(Priority::Low).try_lease(16_384).expect("room for all it has");
    let snapshot = governor.snapshot();
    assert_eq!(snapshot.scope(Scope::System).usage.memory, 0);
    assert_eq!(snapshot.scope(Scope::AllowlistedSystem).usage.memory, 32_768);
}
