//! P2, conservation: every block is in exactly one place, whichever way it went there.

mod common;

use bytes::BufMut;
use common::{KIB, assert_adds_up, assert_nothing_left, only_row};
use leasehold::{Direction, Governor, Scope};

#[test]
fn every_kind_of_holding_adds_up() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().peer("alice").class("public").weight(100).try_admit().unwrap();
    assert_adds_up(&governor);
    let borrowed = guard.try_lease(512).unwrap();
    assert_adds_up(&governor);
    let mut owned = guard.handle().try_lease_owned(2048).unwrap();
    assert_adds_up(&governor);
    let pinned = guard.handle().try_lease_owned(4096).unwrap().into_pinned().unwrap();
    assert_adds_up(&governor);
    let mut written = guard.try_lease(16384).unwrap();
    written.put_bytes(7, 16384);
    let detached = written.freeze();
    assert_adds_up(&governor);
    drop(guard.try_lease(65536).unwrap());
    let large = guard.try_lease(1 << 20).unwrap();
    let loose: Vec<_> = (0..20).map(|_| guard.handle().try_lease_owned(512).unwrap()).collect();
    let reserved = guard.handle().try_reserve(1000).unwrap();
    let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
    let on_stream = stream.try_lease_owned(512).unwrap();
    let pin = owned.pin().unwrap();

    let snapshot = assert_adds_up(&governor);
    let usage = guard.handle().usage().unwrap();
    assert_eq!(usage.cached_bytes, 64 * KIB);
    assert_eq!(usage.detached_bytes, 16 * KIB);
    assert_eq!(usage.reserved_bytes, 1100);
    let leased = 512 + 2048 + 4096 + (1 << 20) + 20 * 512 + 512;
    assert_eq!(usage.leased_bytes, leased);
    assert_eq!(snapshot.totals.outstanding_bytes, leased + 16 * KIB);
    assert_eq!(only_row(&snapshot, Scope::Peer).usage, snapshot.scope(Scope::System).usage);
    assert_eq!(only_row(&snapshot, Scope::Class).usage, snapshot.scope(Scope::System).usage);

    drop((pin, borrowed, pinned, detached, large, loose, reserved, stream, on_stream));
    let snapshot = assert_adds_up(&governor);
    assert_eq!(snapshot.totals.outstanding_bytes, 2048);
    drop(owned);
    drop(guard);
    assert_nothing_left(&governor);
}

#[test]
fn counters_agree_over_many_more_leases_than_a_word_counts() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let kept = guard.handle().try_lease_owned(512).unwrap();
    for _ in 0..40_000 {
        drop(guard.try_lease(512).unwrap());
    }
    for _ in 0..40_000 {
        let mut owned = guard.handle().try_lease_owned(512).unwrap();
        drop(owned.pin().unwrap());
    }
    let totals = assert_adds_up(&governor).totals;
    assert_eq!(totals.leased_bytes, 80_001 * 512);
    assert_eq!(totals.returned_bytes, 80_000 * 512);
    drop(kept);
    drop(guard);
    let totals = governor.snapshot().totals;
    assert_eq!((totals.leased_bytes, totals.returned_bytes), (80_001 * 512, 80_001 * 512));
}

#[test]
fn counters_agree_when_leases_overflow_the_magazine() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    for _ in 0..100 {
        let many: Vec<_> = (0..30).map(|_| guard.try_lease(2048).unwrap()).collect();
        assert_eq!(assert_adds_up(&governor).totals.outstanding_bytes, 30 * 2048);
        drop(many);
        assert_eq!(assert_adds_up(&governor).totals.outstanding_bytes, 0);
    }
    assert_eq!(governor.snapshot().totals.leased_bytes, 100 * 30 * 2048);
}

#[test]
fn a_refused_lease_is_counted_nowhere() {
    let limits = leasehold::Limits::unlimited().connection(common::scope().memory(512));
    let governor = common::governor(limits);
    let guard = governor.inbound().try_admit().unwrap();
    let _only = guard.try_lease(512).unwrap();
    for _ in 0..10 {
        assert!(guard.try_lease(512).is_err());
        assert!(guard.try_lease(1 << 20).is_err());
    }
    let totals = assert_adds_up(&governor).totals;
    assert_eq!((totals.leased_bytes, totals.returned_bytes), (512, 0));
    assert_eq!(totals.refused, 20);
}

#[test]
fn trim_moves_idle_blocks_to_the_arena() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let kept = guard.try_lease(4096).unwrap();
    drop((guard.try_lease(4096).unwrap(), guard.try_lease(512).unwrap()));
    assert_eq!(guard.handle().trim(), 4096 + 512);
    assert_eq!(guard.handle().trim(), 0);
    let snapshot = assert_adds_up(&governor);
    assert_eq!(snapshot.arena.in_use_bytes, 4096);
    drop(kept);
}

#[test]
fn several_governors_know_nothing_of_each_other() {
    let (one, other) = (Governor::unlimited(), Governor::unlimited());
    let here = one.inbound().peer("alice").try_admit().unwrap();
    let there = other.inbound().peer("alice").try_admit().unwrap();
    let _lease = here.try_lease(4096).unwrap();
    assert_eq!(assert_adds_up(&one).totals.outstanding_bytes, 4096);
    assert_eq!(assert_adds_up(&other).totals.outstanding_bytes, 0);
    assert_eq!(there.handle().usage().unwrap().memory, 0);
}

#[test]
fn clones_are_the_same_governor() {
    let governor = Governor::unlimited();
    let clone = governor.clone();
    let guard = clone.inbound().try_admit().unwrap();
    assert_eq!(governor.snapshot().totals.connections, 1);
    assert!(governor.connection(guard.handle().id()).is_ok());
    drop(clone);
    drop(governor);
    // The guard keeps what it needs.
    assert_eq!(guard.try_lease(512).unwrap().capacity(), 512);
}
