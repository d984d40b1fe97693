//! A scope that only observes counts each request that it would have refused once, and none that
//! only idle memory stood in the way of.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::{KIB, counts, governor, make_idle, scope};
use leasehold::{AllowList, Direction, Governor, Limits, Observe, Priority, Scope};

/// How often any scope would have refused.
fn observed(governor: &Governor) -> u64 {
    counts(&governor.snapshot().observed).iter().map(|row| row.3).sum()
}

/// That one class is really full says nothing of another that only seems so.
#[test]
fn a_full_class_beside_one_that_is_full_of_idle_memory() {
    for really_full in [false, true] {
        let governor = governor(
            Limits::unlimited()
                .class("full", scope().memory(4 * KIB))
                .class("idle", scope().memory(4 * KIB))
                .observe(Observe::none().scope(Scope::Class)),
        );
        let sibling = governor.inbound().class("idle").try_admit().unwrap();
        let guard = governor.inbound().class("full").try_admit().unwrap();
        let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
        stream.bind_class("idle").unwrap();
        let _full = really_full.then(|| guard.handle().try_reserve(4 * KIB).unwrap());
        make_idle(&sibling, 4096, 1);
        let _lease = stream.try_lease_owned(4096).unwrap();
        assert_eq!(observed(&governor), u64::from(really_full));
        assert_eq!(sibling.handle().usage().unwrap().cached_bytes, 4096, "was taken in vain");
    }
}

#[test]
fn a_peers_full_part_of_a_class_beside_one_that_is_full_of_idle_memory() {
    let governor = governor(
        Limits::unlimited()
            .class_peer("full", scope().memory(0))
            .class_peer("idle", scope().memory(4 * KIB))
            .observe(Observe::none().scope(Scope::ClassPeer)),
    );
    let sibling = governor.inbound().class("idle").peer("peer").try_admit().unwrap();
    let guard = governor.inbound().class("full").try_admit().unwrap();
    let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
    stream.bind_class("idle").unwrap();
    let _reserved = stream.try_reserve(4 * KIB).unwrap();
    make_idle(&sibling, 4096, 1);
    guard.handle().bind_peer("peer").unwrap();
    assert_eq!(observed(&governor), 1);
    assert_eq!(sibling.handle().usage().unwrap().cached_bytes, 4096, "was taken in vain");
}

/// What a connection has and what it asks for come to the allow-listed system as one.
#[test]
fn a_move_and_the_request_that_causes_it() {
    let governor = governor(
        Limits::unlimited()
            .system(scope().memory(8 * KIB))
            .allowlisted_system(scope().memory(4 * KIB))
            .allow(AllowList::new().network("192.0.2.0/24".parse().unwrap()))
            .observe(Observe::none().scope(Scope::AllowlistedSystem)),
    );
    let address: std::net::IpAddr = "192.0.2.1".parse().unwrap();
    let guard = governor.inbound().remote(address).try_admit().unwrap();
    let _before = guard.handle().try_reserve(8 * KIB).unwrap();
    let _more = guard.handle().try_reserve(KIB).unwrap();
    assert_eq!(governor.snapshot().scope(Scope::AllowlistedSystem).usage.memory, 9 * KIB);
    assert_eq!(observed(&governor), 1);
}

/// The block that was found idle is gone now and then, by the way that takes no lock.
#[test]
fn a_request_whose_idle_block_another_takes() {
    const REQUESTS: u64 = 50_000;
    let governor = governor(
        Limits::unlimited()
            .system(scope().memory(8 * KIB))
            .observe(Observe::none().scope(Scope::System)),
    );
    let guard = governor.inbound().try_admit().unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                drop(guard.handle().try_lease_owned(4096));
            }
        });
        for _ in 0..REQUESTS {
            // A block is beyond the lowest priority's share of the limit.
            drop(guard.request().priority(Priority::Low).try_lease(4096).unwrap());
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(observed(&governor), REQUESTS);
}

/// A peer that enforced its limit would take the idle blocks of the connection that comes.
#[test]
fn idle_blocks_of_a_connection_that_is_bound_are_not_observed() {
    let limits = Limits::unlimited().peer(scope().memory(4 * KIB));
    let governor = governor(limits.observe(Observe::none().scope(Scope::Peer)));
    let guard = governor.inbound().try_admit().unwrap();
    make_idle(&guard, 4096, 3);
    let _kept = guard.try_lease(4096).unwrap();
    guard.handle().bind_peer("alice").unwrap();
    assert_eq!(observed(&governor), 0);
}

/// Idle blocks make room for what a connection brings, but not for the connection.
#[test]
fn a_full_count_is_observed_beside_idle_memory() {
    let limits = Limits::unlimited().system(scope().memory(4 * KIB).connections(1));
    let governor = governor(limits.observe(Observe::everything()));
    let guard = governor.inbound().try_admit().unwrap();
    make_idle(&guard, 4096, 1);
    let _other = governor.inbound().weight(1).try_admit().unwrap();
    let observed = counts(&governor.snapshot().observed);
    assert_eq!(observed.len(), 1, "{observed:?}");
    assert_eq!(observed[0].1, leasehold::Resource::Connections);
}

/// An idle block that is leased again, at a priority whose share it exceeds, makes no room for itself.
#[test]
fn an_idle_block_that_is_asked_for_is_not_in_its_own_way() {
    // 4 KiB and a byte more are beyond sixty hundredths of this, though not for a lone block.
    let limits = Limits::unlimited().peer(scope().memory(7 * KIB));
    let governor = governor(limits.observe(Observe::none().scope(Scope::Peer)));
    let guard = governor.inbound().peer("alice").weight(300).try_admit().unwrap();
    drop(guard.try_lease(4096).unwrap());
    drop(guard.request().priority(Priority::Medium).try_lease(4096).unwrap());
    assert_eq!(observed(&governor), 1);
}
