//! P13, handles are harmless (and P3 at its worst): a list of owned leases and handles that nobody
//! ever empties keeps no memory of the connections they came from.

mod common;

use common::counting::{Counting, live_bytes};
use common::{assert_adds_up, assert_nothing_left};
use leasehold::{
    Closed, ConnectionGuard, ConnectionHandle, Direction, Governor, LeaseError, OwnedLease,
    Revoked, Source,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MANY: usize = 1_000;
/// What one closed connection may keep for the sake of its handles and leases.
const KEPT_BYTES: isize = 512;

/// Lets one-time allocations (thread locals, tables) happen before anything is measured.
fn warm_up(governor: &Governor) {
    let guard = governor.inbound().peer("alice").try_admit().unwrap();
    drop(guard.try_lease(512).unwrap());
    drop(guard);
}

#[track_caller]
fn assert_all_revoked(leases: &mut [OwnedLease]) {
    for lease in leases {
        assert_eq!(lease.pin().unwrap_err(), Revoked);
    }
}

#[track_caller]
fn assert_all_closed(handles: &[ConnectionHandle]) {
    for handle in handles {
        assert!(handle.is_closed());
        assert_eq!(handle.usage().unwrap_err(), Closed);
        assert_eq!(handle.close().unwrap_err(), Closed);
        assert_eq!(handle.try_lease_owned(1).unwrap_err(), LeaseError::Closed);
        assert_eq!(handle.try_reserve(1).unwrap_err(), LeaseError::Closed);
        assert_eq!(handle.try_open_stream(Direction::Inbound).unwrap_err(), LeaseError::Closed);
    }
}

#[test]
fn one_connection_ends_while_a_thousand_leases_and_handles_are_kept() {
    let governor = Governor::unlimited();
    warm_up(&governor);
    assert_nothing_left(&governor);
    let mut leases = Vec::with_capacity(MANY);
    let mut handles = Vec::with_capacity(MANY);
    let guard = governor.inbound().peer("alice").try_admit().unwrap();
    let id = guard.handle().id();
    let sizes = [512, 2048, 4096, 16384, 65536];
    for nth in 0..MANY {
        leases.push(guard.handle().try_lease_owned(sizes[nth % sizes.len()]).unwrap());
        handles.push(guard.handle().clone());
    }
    assert_eq!(
        assert_adds_up(&governor).connections[0].usage.leased_bytes,
        guard.handle().usage().unwrap().memory
    );
    drop(guard);

    let arena = governor.snapshot().arena;
    assert_eq!(arena.in_use_bytes, 0);
    assert!(arena.size_classes.iter().all(|class| class.blocks_in_use == 0));
    assert_nothing_left(&governor);
    assert_all_revoked(&mut leases);
    assert_all_closed(&handles);
    assert_eq!(governor.connection(id).unwrap_err(), Closed);
    assert_nothing_left(&governor);
    let totals = governor.snapshot().totals;
    let before = live_bytes();
    // Leaves the vectors' own memory alone.
    leases.clear();
    handles.clear();
    let kept = before - live_bytes();
    println!("{MANY} leases and {MANY} handles kept {kept} bytes of their one connection");
    let bound = KEPT_BYTES + 64 * (MANY as isize - 8);
    assert!((1..=bound).contains(&kept), "{kept} bytes");
    assert_nothing_left(&governor);
    assert_eq!(governor.snapshot().totals, totals, "dropping them changes nothing");
}

/// What stays for each of `MANY` ended connections, given what was kept of it.
fn kept_for_each(keep: impl Fn(&ConnectionGuard, &mut Kept)) -> isize {
    let governor = Governor::unlimited();
    // One block in use keeps the arena's tables as they are.
    let keeper = governor.inbound().try_admit().unwrap();
    let _slab = keeper.try_lease(512).unwrap();
    warm_up(&governor);
    let mut kept = Kept { leases: Vec::with_capacity(MANY), handles: Vec::with_capacity(MANY) };
    let before = live_bytes();
    for nth in 0..MANY {
        let guard = governor.inbound().peer(nth.to_le_bytes()).try_admit().unwrap();
        drop(guard.try_lease(512).unwrap());
        keep(&guard, &mut kept);
        drop(guard);
    }
    let stays = live_bytes() - before;
    assert_all_revoked(&mut kept.leases);
    assert_all_closed(&kept.handles);
    drop(kept);
    let left = live_bytes() - before;
    assert!(left <= 0, "{left} bytes stay after the last handle");
    stays / MANY as isize
}

#[track_caller]
fn assert_keeps_little(what: &str, keep: impl Fn(&ConnectionGuard, &mut Kept)) {
    let each = kept_for_each(keep);
    println!("{what}: {each} bytes of a closed connection are kept");
    assert!(each <= KEPT_BYTES, "{each} bytes");
}

struct Kept {
    leases: Vec<OwnedLease>,
    handles: Vec<ConnectionHandle>,
}

#[test]
fn a_closed_connection_keeps_at_most_512_bytes_for_its_handles() {
    assert_keeps_little("a handle", |guard, kept| kept.handles.push(guard.handle().clone()));
}

#[test]
fn a_closed_connection_keeps_at_most_512_bytes_for_its_leases() {
    assert_keeps_little("a lease and a handle", |guard, kept| {
        kept.leases.push(guard.handle().try_lease_owned(512).unwrap());
        kept.handles.push(guard.handle().clone());
    });
}

#[test]
fn a_closed_connection_that_came_from_elsewhere_keeps_no_more() {
    assert_keeps_little("a handle, with a source of 64 bytes", |guard, kept| {
        guard.handle().rebind_source(Source::opaque([7; 64]).unwrap()).unwrap();
        kept.handles.push(guard.handle().clone());
    });
}

#[test]
fn a_closed_connection_whose_streams_have_leases_out_keeps_no_more() {
    assert_keeps_little("a handle and a stream's lease", |guard, kept| {
        let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
        kept.leases.push(stream.try_lease_owned(512).unwrap());
        kept.handles.push(guard.handle().clone());
    });
}

#[test]
fn a_closed_connection_that_had_streams_wakers_and_loose_leases_keeps_no_more() {
    assert_keeps_little("a lease, of one that had everything", |guard, kept| {
        let loose: Vec<_> = (0..20).map(|_| guard.handle().try_lease_owned(512).unwrap()).collect();
        let large = guard.handle().try_lease_owned(100_000).unwrap();
        let _stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
        let mut revoked = guard.handle().revoked();
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let poll = std::future::Future::poll(std::pin::Pin::new(&mut revoked), &mut context);
        assert!(poll.is_pending());
        kept.leases.push(guard.handle().try_lease_owned(2048).unwrap());
        drop((loose, large));
    });
}

#[test]
fn ids_are_never_used_again() {
    let governor = Governor::unlimited();
    let first = governor.inbound().try_admit().unwrap().handle().id();
    assert_eq!(governor.connection(first).unwrap_err(), Closed);
    for _ in 0..1000 {
        let guard = governor.inbound().try_admit().unwrap();
        assert_ne!(guard.handle().id(), first);
        assert_eq!(governor.connection(first).unwrap_err(), Closed);
        assert_eq!(governor.connection(guard.handle().id()).unwrap().id(), guard.handle().id());
    }
    assert_eq!(governor.connection(first).unwrap_err(), Closed);
}

#[test]
fn a_handle_keeps_no_connection_open() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let handle = guard.handle().clone();
    let looked_up = governor.connection(guard.handle().id()).unwrap();
    drop(guard);
    assert_all_closed(&[handle, looked_up]);
    assert_nothing_left(&governor);
}

#[test]
fn a_handle_does_what_the_guard_does_while_it_is_open() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let handle = guard.handle();
    let lease = handle.try_lease_owned(512).unwrap();
    let reserved = handle.try_reserve(100).unwrap();
    let stream = handle.try_open_stream(Direction::Outbound).unwrap();
    assert_eq!(handle.usage().unwrap(), guard.handle().usage().unwrap());
    assert_eq!(guard.handle().usage().unwrap().memory, 612);
    assert_eq!(guard.handle().usage().unwrap().streams_outbound, 1);
    drop((lease, reserved, stream));
}
