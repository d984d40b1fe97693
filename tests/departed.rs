//! P11, nothing about the departed: memory is a function of who is there, not of who ever was.

mod common;

use common::counting::{Counting, live_bytes};
use common::{KIB, assert_adds_up, assert_nothing_left};
use leasehold::{Closed, ConnectionGuard, Governor, Scope};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What may stay after a crowd has left.
const BOUND_BYTES: isize = 64 * KIB as isize;
const CROWD: usize = 1_000_000;

/// What is allocated beside the records of mapped slabs, of which one empty one a class may stay:
/// 128 KiB for the smallest blocks.
fn beside_the_arena(governor: &Governor) -> isize {
    let records = governor.snapshot().arena.bookkeeping_bytes;
    live_bytes() - records as isize
}

fn admit(governor: &Governor, nth: usize) -> ConnectionGuard {
    governor.inbound().peer((nth as u64).to_le_bytes()).try_admit().unwrap()
}

/// Admits a crowd of distinct peers that are all there at once and do `work`; all but the last
/// leave. Answers what was allocated at the peak, and what more is allocated with the last one
/// left than before the crowd came.
fn crowd(count: usize, work: impl Fn(&ConnectionGuard)) -> (isize, isize) {
    let governor = Governor::unlimited();
    let first = admit(&governor, usize::MAX);
    work(&first);
    drop(first);
    let mut guards = Vec::with_capacity(count);
    let mut ids = Vec::with_capacity(count);
    let before = beside_the_arena(&governor);
    for nth in 0..count {
        let guard = admit(&governor, nth);
        work(&guard);
        ids.push(guard.handle().id());
        guards.push(guard);
    }
    let peak = beside_the_arena(&governor) - before;
    {
        let snapshot = governor.snapshot();
        assert_eq!(
            (snapshot.rows(Scope::Peer).count(), snapshot.connections.len()),
            (count, count)
        );
    }
    let last = guards.pop().unwrap();
    let last_id = ids.pop().unwrap();
    // Leaves the vector's own memory alone.
    for guard in guards.drain(..) {
        drop(guard);
    }
    let left = beside_the_arena(&governor) - before;
    for id in &ids {
        assert_eq!(governor.connection(*id).unwrap_err(), Closed);
    }
    assert_eq!(governor.connection(last_id).unwrap().id(), last_id);
    let snapshot = assert_adds_up(&governor);
    assert_eq!((snapshot.rows(Scope::Peer).count(), snapshot.connections.len()), (1, 1));
    drop(last);
    assert_nothing_left(&governor);
    (peak, left)
}

#[test]
fn a_million_peers_leave_nothing() {
    let (peak, left) = crowd(CROWD, |_| ());
    let each = peak / CROWD as isize;
    println!("{CROWD} peers at once: {peak} bytes, {each} each; with the last one left: {left}");
    assert!(left <= BOUND_BYTES, "{left} bytes stay");
}

#[test]
fn peers_that_keep_idle_blocks_leave_nothing() {
    const COUNT: usize = 200_000;
    let (peak, left) = crowd(COUNT, |guard| drop(guard.try_lease(512).unwrap()));
    println!("{COUNT} peers with an idle block: {peak} bytes; with the last one left: {left}");
    assert!(left <= BOUND_BYTES, "{left} bytes stay");
}

#[test]
fn a_crowd_that_goes_idle_leaves_nothing_behind_the_one_that_does_not() {
    const COUNT: usize = 100_000;
    let governor = Governor::unlimited();
    let guards: Vec<_> = (0..COUNT).map(|nth| admit(&governor, nth)).collect();
    let busy = admit(&governor, COUNT);
    let _kept = busy.try_lease(4096).unwrap();
    let before = beside_the_arena(&governor);
    for guard in &guards {
        drop(guard.try_lease(512).unwrap());
    }
    drop(busy.try_lease(512).unwrap());
    let last = admit(&governor, COUNT + 1);
    let _also_kept = last.try_lease(512).unwrap();
    for guard in &guards {
        guard.handle().trim();
    }
    let left = beside_the_arena(&governor) - before;
    println!("{COUNT} connections that were active and are idle: {left} bytes stay");
    assert!(left <= BOUND_BYTES, "{left} bytes stay");
}

#[test]
fn the_slabs_of_a_peak_leave_nothing() {
    const COUNT: usize = 200_000;
    let governor = Governor::unlimited();
    let (guard, other) = (admit(&governor, 0), admit(&governor, 1));
    drop((guard.try_lease(65536).unwrap(), other.try_lease(65536).unwrap()));
    let mut leases = Vec::with_capacity(COUNT);
    let before = live_bytes();
    // 12.2 GiB of addresses, of which no byte is touched.
    leases.extend((0..COUNT).map(|_| guard.handle().try_lease_owned(65536).unwrap()));
    let kept: Vec<_> = (0..20).map(|_| other.handle().try_lease_owned(65536).unwrap()).collect();
    let peak = live_bytes() - before;
    leases.clear();
    guard.handle().trim();
    other.handle().trim();
    let left = live_bytes() - before;
    println!("12,500 slabs: {peak} bytes of book-keeping; with the last one left: {left}");
    assert_eq!(kept.len(), 20);
    assert!(left <= BOUND_BYTES, "{left} bytes stay");
}

#[test]
fn the_leases_of_a_peak_leave_nothing_behind_the_one_that_is_kept() {
    const COUNT: usize = 200_000;
    let governor = Governor::unlimited();
    let guard = admit(&governor, 0);
    drop(guard.try_lease(512).unwrap());
    let mut leases = Vec::with_capacity(COUNT);
    let before = beside_the_arena(&governor);
    leases.extend((0..COUNT).map(|_| guard.handle().try_lease_owned(512).unwrap()));
    let kept = leases.pop();
    let peak = beside_the_arena(&governor) - before;
    leases.clear();
    guard.handle().trim();
    let left = beside_the_arena(&governor) - before;
    println!("{COUNT} leases of one connection: {peak} bytes; with the last one left: {left}");
    drop(kept);
    guard.handle().trim();
    let after = beside_the_arena(&governor) - before;
    println!("and with none left: {after}");
    assert!(after <= BOUND_BYTES, "{after} bytes stay for none");
    assert!(left <= BOUND_BYTES, "{left} bytes stay for one");
}

#[test]
fn those_who_wait_for_a_close_leave_nothing_when_they_give_up() {
    use std::future::Future;
    let governor = Governor::unlimited();
    let guard = admit(&governor, 0);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut last = guard.handle().revoked();
    let before = live_bytes();
    let mut waiting = Vec::with_capacity(100_000);
    let counted = live_bytes() - before;
    waiting.extend((0..100_000).map(|_| guard.handle().revoked()));
    for revoked in waiting.iter_mut().chain([&mut last]) {
        assert!(std::pin::Pin::new(revoked).poll(&mut context).is_pending());
    }
    waiting.clear();
    let left = live_bytes() - before - counted;
    drop(last);
    // Before anything is printed, which the harness keeps in memory.
    let none = live_bytes() - before - counted;
    println!("100,000 gave up waiting for a close: {left} bytes stay, and {none} for none");
    assert!(none <= 0, "{none} bytes stay for none");
    assert!(left <= BOUND_BYTES, "{left} bytes stay for one");
}

#[test]
fn peers_that_come_and_go_leave_nothing() {
    let governor = Governor::unlimited();
    drop(admit(&governor, 0));
    let before = live_bytes();
    for nth in 0..200_000 {
        let guard = governor.inbound().class("public").try_admit().unwrap();
        guard.handle().bind_peer((nth as u64).to_le_bytes()).unwrap();
        drop(guard);
    }
    let left = live_bytes() - before;
    println!("200,000 peers one after another: {left} bytes stay");
    assert!(left <= 4 * KIB as isize, "{left} bytes stay");
    assert_nothing_left(&governor);
}

#[test]
fn refused_peers_leave_nothing() {
    let limits = leasehold::Limits::unlimited().system(common::scope().connections(0));
    let governor = common::governor(limits);
    assert!(governor.inbound().peer("first").try_admit().is_err());
    let before = live_bytes();
    for nth in 0..100_000_u64 {
        assert!(governor.inbound().peer(nth.to_le_bytes()).try_admit().is_err());
    }
    let left = live_bytes() - before;
    assert!(left <= 4 * KIB as isize, "{left} bytes stay");
    assert_nothing_left(&governor);
}
