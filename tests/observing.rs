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
        let stream = guard.try_open_stream(Direction::Inbound).unwrap();
        stream.bind_class("idle").unwrap();
        let _full = really_full.then(|| guard.try_reserve(4 * KIB).unwrap());
        make_idle(&sibling, 4096, 1);
        let _lease = stream.try_lease_owned(4096).unwrap();
        assert_eq!(observed(&governor), u64::from(really_full));
        assert_eq!(sibling.usage().cached_bytes, 0, "was not swept");
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
    let stream = guard.try_open_stream(Direction::Inbound).unwrap();
    stream.bind_class("idle").unwrap();
    let _reserved = stream.try_reserve(4 * KIB).unwrap();
    make_idle(&sibling, 4096, 1);
    guard.bind_peer("peer").unwrap();
    assert_eq!(observed(&governor), 1);
    assert_eq!(sibling.usage().cached_bytes, 0, "was not swept");
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
    let _before = guard.try_reserve(8 * KIB).unwrap();
    let _more = guard.try_reserve(KIB).unwrap();
    assert_eq!(governor.snapshot().allowlisted_system.usage.memory, 9 * KIB);
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
            drop(guard.try_lease_at(4096, Priority::Low).unwrap());
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(observed(&governor), REQUESTS);
}
