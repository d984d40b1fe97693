//! More than eight blocks of a size on one connection: every count stays right, and all that lies
//! idle is found.

mod common;

use common::{KIB, MIB, assert_adds_up, assert_nothing_left, governor, scope, usage};
use leasehold::Limit;
use leasehold::{ConnectionGuard, Governor, Lease, Limits, OwnedLease, PeerKey, Priority};

const LEN: usize = 16 << 10;

fn lease(guard: &ConnectionGuard, count: usize) -> Vec<Lease<'_>> {
    (0..count).map(|_| guard.try_lease(LEN).expect("room")).collect()
}

/// Every idle block comes back, however many magazines it takes to keep them.
#[test]
fn a_trim_finds_what_lies_idle_in_every_magazine() {
    let governor = Governor::unlimited();
    governor.maintain();
    let guard = governor.inbound().try_admit().unwrap();
    for count in [9, 16, 17, 24, 25, 40, 100] {
        drop(lease(&guard, count));
        assert_eq!(usage(&guard).cached_bytes, (count * LEN) as u64);
        assert_eq!(guard.handle().trim(), (count * LEN) as u64, "{count} blocks");
        assert_adds_up(&governor);
    }
}

#[test]
fn a_maintenance_gives_up_what_was_not_used_in_every_magazine() {
    let clock = common::HandClock::default();
    let governor = Governor::builder().clock(clock.clone()).build().unwrap();
    governor.maintain();
    let guard = governor.inbound().try_admit().unwrap();
    drop(lease(&guard, 40));
    for _ in 0..2 {
        clock.turn(std::time::Duration::from_secs(1));
        governor.maintain();
    }
    assert_eq!(usage(&guard).memory, 0);
    assert_adds_up(&governor);
}

#[test]
fn idle_blocks_of_every_magazine_make_room_for_another_connection() {
    let limits = Limits::unlimited().system(scope().memory(40 * LEN as u64));
    let governor = governor(limits);
    governor.maintain();
    let [guard, other] = [(); 2].map(|()| governor.inbound().try_admit().unwrap());
    drop(lease(&guard, 40));
    let leases: Vec<_> = (0..40).map(|_| other.try_lease(LEN)).collect();
    assert!(leases.iter().all(Result::is_ok));
}

/// The first magazine's eight blocks stay out, so that it counts nothing: others count on.
#[test]
fn no_magazine_counts_so_far_that_it_forgets() {
    for maintained in [false, true] {
        let governor = Governor::unlimited();
        if maintained {
            governor.maintain();
        }
        let guard = governor.inbound().try_admit().unwrap();
        let held = lease(&guard, 8);
        for _ in 0..70_000 {
            drop(guard.try_lease(LEN).expect("room"));
        }
        let totals = assert_adds_up(&governor).totals;
        assert_eq!(totals.leased_bytes, 70_008 * LEN as u64);
        drop(held);
        drop(guard);
        assert_nothing_left(&governor);
    }
}

/// The same where nothing may lie idle, with blocks out in the same magazine as the one that comes
/// and goes.
#[test]
fn no_magazine_that_keeps_nothing_counts_so_far_that_it_forgets() {
    let limit = 40 * LEN as u64;
    let limits = Limits::unlimited().system(scope().memory(limit));
    let governor = governor(limits);
    let guard = governor.inbound().try_admit().unwrap();
    // One magazine with room to keep, so that the other may keep nothing.
    let held = lease(&guard, 23);
    let mut leases = lease(&guard, 8);
    leases.truncate(1);
    for _ in 0..70_000 {
        let last = guard.try_lease(LEN).expect("room");
        drop(std::mem::replace(leases.last_mut().unwrap(), last));
    }
    assert_adds_up(&governor);
    drop((held, leases));
    drop(guard);
    assert_nothing_left(&governor);
}

/// A request at a low priority, which takes the connection's own idle blocks and is refused all the
/// same, loses no count of the magazine that they were in.
#[test]
fn a_refusal_loses_no_count() {
    // Two fifths of it are what the eight blocks take that stay out.
    let limits = Limits::unlimited().connection(scope().memory(20 * LEN as u64));
    let governor = governor(limits);
    let guard = governor.inbound().try_admit().unwrap();
    let held = lease(&guard, 8);
    let ninth = guard.try_lease(LEN).expect("room");
    // Counts what was leased so far.
    guard.handle().trim();
    drop(ninth);
    assert!(guard.request().priority(Priority::Low).try_lease(LEN).is_err());
    assert_adds_up(&governor);
    drop(held);
    drop(guard);
    assert_nothing_left(&governor);
}

#[test]
fn a_peer_that_is_blocked_is_lent_no_idle_block() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().peer("alice").try_admit().unwrap();
    let bob = governor.inbound().peer("bob").try_admit().unwrap();
    drop(lease(&guard, 12));
    drop(lease(&bob, 12));
    let key = PeerKey::new("alice").unwrap();
    governor.set_peer_limits(&key, scope().memory(Limit::Blocked));
    assert!(guard.try_lease(LEN).is_err());
    assert_eq!(usage(&guard).memory, 0);
    assert_eq!(usage(&bob).cached_bytes, 12 * LEN as u64);
    governor.remove_peer_limits(&key);
    drop(lease(&guard, 12));
    assert_eq!(usage(&guard).cached_bytes, 12 * LEN as u64);
}

/// P1: at most one wholly empty slab of a size class stays mapped.
#[test]
fn the_last_connection_leaves_one_empty_slab() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let kept: Vec<_> =
        (0..128).map(|_| guard.handle().try_lease_owned(64 << 10).expect("room")).collect();
    drop(guard);
    let arena = governor.snapshot().arena;
    assert_eq!(arena.in_use_bytes, 0);
    assert!(arena.mapped_bytes <= MIB, "{} KiB", arena.mapped_bytes / KIB);
    drop(kept);
}

#[test]
fn idle_blocks_that_make_room_for_their_own_connection_are_unmapped() {
    let limits = Limits::unlimited().connection(scope().memory(4 * MIB));
    let governor = governor(limits);
    governor.maintain();
    let guard = governor.inbound().try_admit().unwrap();
    let leases: Vec<OwnedLease> =
        (0..64).map(|_| guard.handle().try_lease_owned(64 << 10).expect("room")).collect();
    drop(leases);
    let _reserved = guard.handle().try_reserve(4 * MIB).expect("its own idle blocks make room");
    let arena = governor.snapshot().arena;
    assert_eq!(arena.in_use_bytes, 0);
    assert!(arena.mapped_bytes <= MIB, "{} KiB", arena.mapped_bytes / KIB);
}

/// Idle blocks of the connection's own give way even if more than the request is missing, since others
/// may fill more of the limit.
#[test]
fn a_low_priority_is_not_refused_for_idle_blocks_of_its_own() {
    // Medium priority may fill 60.
    let limits = Limits::unlimited().connection(scope().memory(100 * KIB));
    let governor = governor(limits);
    let guard = governor.inbound().try_admit().unwrap();
    let mut leases = lease(&guard, 5);
    leases.truncate(1);
    let medium = guard.request().priority(Priority::Medium).try_lease(512);
    assert!(medium.is_ok(), "{medium:?}");
}

/// What is told of a refusal is what is in use, whatever gave way before.
#[test]
fn a_refused_lease_leaves_its_idle_block_and_tells_the_truth() {
    let limits = Limits::unlimited().connection(scope().memory(4 * LEN as u64));
    let governor = governor(limits);
    let guard = governor.inbound().try_admit().unwrap();
    let mut leases = lease(&guard, 3);
    leases.truncate(2);
    let error = guard.request().priority(Priority::Low).try_lease(LEN).unwrap_err();
    assert_eq!(error.refused().unwrap().in_use(), 2 * LEN as u64);
    assert_eq!(usage(&guard).cached_bytes, LEN as u64);
}

#[test]
fn a_connection_moves_to_a_blocked_peer_without_its_idle_blocks() {
    let governor = governor(Limits::unlimited().peer(scope().memory(Limit::Blocked)));
    let guard = governor.inbound().try_admit().unwrap();
    drop(lease(&guard, 12));
    guard.handle().bind_peer("alice").expect("it needs no memory");
    assert_eq!(usage(&guard).memory, 0);
}
