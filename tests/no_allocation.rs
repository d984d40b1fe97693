//! P9 and P12: once a connection is warm, leasing and returning calls no allocator.

mod common;

use bytes::{Buf, BufMut};
use common::counting::{Counting, calls};
use leasehold::{ConnectionGuard, Direction, Governor, Limits};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `work` once to warm up, and checks that it allocates nothing from then on. Long enough for
/// the counters of leases to be folded.
#[track_caller]
fn assert_allocates_nothing(mut work: impl FnMut()) {
    work();
    let before = calls();
    for _ in 0..40_000 {
        work();
    }
    let calls = calls() - before;
    assert_eq!(calls, 0, "the allocator was called {calls} times");
}

fn guard(governor: &Governor) -> ConnectionGuard {
    governor.inbound().peer("alice").class("public").try_admit().unwrap()
}

#[test]
fn the_counter_counts() {
    let before = calls();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(calls() - before, 2);
}

#[test]
fn a_borrowed_lease_and_its_return() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    assert_allocates_nothing(|| {
        let mut lease = guard.try_lease(16384).unwrap();
        lease.put_slice(b"hello");
        assert_eq!(lease.get_u8(), b'h');
    });
}

#[test]
fn an_owned_lease_pinned_and_unpinned_and_returned() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let handle = guard.handle();
    assert_allocates_nothing(|| {
        let mut lease = handle.try_lease_owned(16384).unwrap();
        lease.pin().unwrap().put_slice(b"hello");
        assert_eq!(&*lease.pin().unwrap(), b"hello");
    });
}

#[test]
fn a_lease_on_a_stream() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
    assert_allocates_nothing(|| {
        let mut lease = stream.try_lease_owned(16384).unwrap();
        lease.pin().unwrap().put_slice(b"hello");
    });
}

#[test]
fn a_borrowed_lease_that_becomes_owned_and_pinned() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    assert_allocates_nothing(|| {
        let pinned = guard.try_lease(512).unwrap().into_owned().into_pinned().unwrap();
        assert!(pinned.is_empty());
    });
}

#[test]
fn a_lease_that_grows() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    assert_allocates_nothing(|| {
        let mut lease = guard.try_lease(512).unwrap();
        lease.put_slice(b"hello");
        lease.grow().unwrap();
    });
}

#[test]
fn all_the_blocks_of_a_magazine() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    assert_allocates_nothing(|| {
        let leases: [_; 8] = std::array::from_fn(|_| guard.try_lease(512).unwrap());
        drop(leases);
    });
}

#[test]
fn leases_and_refusals_at_a_limit() {
    let limits = Limits::unlimited().peer(common::scope().memory(9 * 4096));
    let governor = common::governor(limits);
    let guard = guard(&governor);
    let sibling = governor.inbound().peer("alice").try_admit().unwrap();
    let _held = sibling.handle().try_reserve(8 * 4096).unwrap();
    assert_allocates_nothing(|| {
        let lease = guard.try_lease(4096).unwrap();
        assert!(guard.try_lease(4096).is_err());
        drop(lease);
    });
}

#[test]
fn reservations_and_refusals() {
    let limits = Limits::unlimited().connection(common::scope().memory(8192));
    let governor = common::governor(limits);
    let guard = guard(&governor);
    assert_allocates_nothing(|| {
        let mut reserved = guard.handle().try_reserve(8192).unwrap();
        let error = guard.handle().try_reserve(1).unwrap_err();
        assert!(error.refused().is_some());
        assert!(guard.try_lease(1).is_err());
        reserved.resize(100).unwrap();
    });
}

#[test]
fn freezing_allocates_once_for_the_bytes() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let work = || {
        let mut lease = guard.try_lease(512).unwrap();
        lease.put_bytes(7, 512);
        let bytes = lease.freeze();
        assert_eq!(bytes.clone().len(), 512);
    };
    work();
    let before = calls();
    work();
    assert_eq!(calls() - before, 2, "one to make the owner, one to free it");
}
