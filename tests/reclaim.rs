//! P3, reclaim: when a close returns, everything that nobody touches is back, and the rest shows
//! as orphans until it comes back too.

mod common;

use std::time::Duration;

use bytes::BufMut;
use common::{HandClock, KIB, assert_adds_up, assert_nothing_left, only_row};
use leasehold::{
    ConnectionGuard, Direction, Governor, LeaseError, Limits, Reclaimed, Revoked, Scope, Usage,
};

fn close(guard: ConnectionGuard) -> Reclaimed {
    guard.close()
}

fn bound(governor: &Governor) -> ConnectionGuard {
    governor.inbound().peer("alice").class("public").try_admit().unwrap()
}

#[test]
fn counts_are_off_every_scope() {
    let governor = Governor::unlimited();
    let guard = bound(&governor);
    assert_eq!(governor.snapshot().scope(Scope::System).usage.connections(), 1);
    assert_eq!(governor.snapshot().scope(Scope::System).usage.fds, 1);
    drop(guard);
    assert_nothing_left(&governor);
}

#[test]
fn streams_are_off_every_scope_and_their_guards_inert() {
    let governor = Governor::unlimited();
    let guard = bound(&governor);
    let streams = [
        guard.handle().try_open_stream(Direction::Inbound).unwrap(),
        guard.handle().try_open_stream(Direction::Outbound).unwrap(),
    ];
    assert_eq!(close(guard).streams, 2);
    assert_nothing_left(&governor);
    for stream in streams {
        assert_eq!(stream.try_lease_owned(1).unwrap_err(), LeaseError::Closed);
        assert_eq!(stream.try_reserve(1).unwrap_err(), LeaseError::Closed);
        drop(stream);
    }
    assert_nothing_left(&governor);
}

#[test]
fn a_full_stream_of_a_closed_connection_answers_closed() {
    let limits = Limits::unlimited().stream(common::scope().memory(512));
    let governor = common::governor(limits);
    let guard = bound(&governor);
    let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
    let _revoked = stream.try_lease_owned(512).unwrap();
    drop(guard);
    assert_eq!(stream.try_lease_owned(512).unwrap_err(), LeaseError::Closed);
    assert_eq!(stream.try_reserve(1).unwrap_err(), LeaseError::Closed);
}

#[test]
fn reservations_and_weight_are_off_every_scope_and_inert() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().peer("alice").weight(100).try_admit().unwrap();
    let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
    let mut reserved = [guard.handle().try_reserve(1000).unwrap(), stream.try_reserve(10).unwrap()];
    assert_eq!(close(guard).reserved_bytes, 1110);
    assert_nothing_left(&governor);
    for reservation in &mut reserved {
        assert_eq!(reservation.resize(0), Err(LeaseError::Closed));
        assert_eq!(reservation.resize(1 << 30), Err(LeaseError::Closed));
    }
    drop(reserved);
    assert_nothing_left(&governor);
}

#[test]
fn cached_blocks_come_back() {
    let governor = Governor::unlimited();
    let guard = bound(&governor);
    for len in [512, 2048, 4096, 16384, 65536] {
        drop(guard.try_lease(len).unwrap());
    }
    let cached = 512 + 2048 + 4096 + 16384 + 65536;
    assert_eq!(guard.handle().usage().unwrap().cached_bytes, cached);
    assert_eq!(close(guard).cached_bytes, cached);
    assert_nothing_left(&governor);
}

#[test]
fn owned_leases_are_revoked_wherever_they_are() {
    let governor = Governor::unlimited();
    let guard = bound(&governor);
    let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
    // Cached, in a magazine's slot; beyond it; large; on a stream; once pinned; once borrowed.
    let mut owned: Vec<_> = (0..20).map(|_| guard.handle().try_lease_owned(512).unwrap()).collect();
    owned.push(guard.handle().try_lease_owned(300_000).unwrap());
    owned.push(stream.try_lease_owned(4096).unwrap());
    owned.push(guard.try_lease(4096).unwrap().into_owned());
    owned.push(guard.try_lease(300_000).unwrap().into_owned());
    for lease in &mut owned {
        lease.pin().unwrap().put_slice(b"bytes");
    }
    let leased = guard.handle().usage().unwrap().leased_bytes;
    let reclaimed = close(guard);
    assert_eq!((reclaimed.leased_bytes, reclaimed.pinned_bytes), (leased, 0));
    assert_nothing_left(&governor);
    for mut lease in owned {
        assert_eq!(lease.pin().unwrap_err(), Revoked);
        assert_eq!(lease.freeze().unwrap_err(), Revoked);
    }
    assert_nothing_left(&governor);
}

#[test]
fn forgotten_borrowed_leases_come_back() {
    let governor = Governor::unlimited();
    let guard = bound(&governor);
    for _ in 0..20 {
        std::mem::forget(guard.try_lease(512).unwrap());
    }
    std::mem::forget(guard.try_lease(300_000).unwrap());
    let leased = guard.handle().usage().unwrap().leased_bytes;
    assert_eq!(close(guard).leased_bytes, leased);
    assert_nothing_left(&governor);
}

#[test]
fn forgotten_owned_leases_come_back() {
    let governor = Governor::unlimited();
    let guard = bound(&governor);
    for _ in 0..20 {
        std::mem::forget(guard.handle().try_lease_owned(512).unwrap());
    }
    std::mem::forget(guard.handle().try_lease_owned(300_000).unwrap());
    drop(guard);
    assert_nothing_left(&governor);
}

#[test]
fn a_forgotten_pin_ends_with_the_lease() {
    let governor = Governor::unlimited();
    let guard = bound(&governor);
    let mut lease = guard.handle().try_lease_owned(512).unwrap();
    std::mem::forget(lease.pin().unwrap());
    lease.pin().unwrap().put_slice(b"again");
    std::mem::forget(lease.pin().unwrap());
    assert_eq!(close(guard).pinned_bytes, 512);
    assert_eq!(lease.pin().unwrap_err(), Revoked);
    assert_nothing_left(&governor);
}

#[test]
fn a_pinned_block_comes_back_at_the_unpin() {
    for len in [512, 300_000] {
        let governor = Governor::unlimited();
        let guard = bound(&governor);
        let mut lease = guard.handle().try_lease_owned(len).unwrap();
        let bytes = lease.capacity() as u64;
        let mut pin = lease.pin().unwrap();
        let reclaimed = close(guard);
        assert_eq!((reclaimed.leased_bytes, reclaimed.pinned_bytes), (0, bytes));
        assert_eq!(assert_adds_up(&governor).arena.in_use_bytes, bytes);
        pin.put_slice(b"still mine");
        assert_eq!(&*pin, b"still mine");
        drop(pin);
        assert_nothing_left(&governor);
        assert_eq!(lease.pin().unwrap_err(), Revoked);
        drop(lease);
        assert_nothing_left(&governor);
    }
}

#[test]
fn a_pinned_lease_comes_back_at_its_drop() {
    for len in [512, 300_000] {
        let governor = Governor::unlimited();
        let guard = bound(&governor);
        let mut pinned = guard.handle().try_lease_owned(len).unwrap().into_pinned().unwrap();
        let bytes = pinned.capacity() as u64;
        assert_eq!(close(guard).pinned_bytes, bytes);
        pinned.put_slice(b"still mine");
        assert_eq!(&*pinned, b"still mine");
        assert_eq!(assert_adds_up(&governor).totals.orphaned_bytes, bytes);
        drop(pinned);
        assert_nothing_left(&governor);
    }
}

#[test]
fn a_pinned_lease_that_outlived_its_guard_still_freezes() {
    let governor = Governor::unlimited();
    let guard = bound(&governor);
    let mut pinned = guard.handle().try_lease_owned(512).unwrap().into_pinned().unwrap();
    pinned.put_bytes(7, 500);
    drop(guard);
    let bytes = pinned.freeze();
    assert_eq!(bytes, vec![7; 500]);
    assert_eq!(assert_adds_up(&governor).connections[0].usage.detached_bytes, 512);
    drop(bytes);
    assert_nothing_left(&governor);
}

#[test]
fn detached_bytes_come_back_with_the_last_clone() {
    for len in [512, 300_000] {
        let governor = Governor::unlimited();
        let guard = bound(&governor);
        let mut lease = guard.try_lease(len).unwrap();
        let bytes = lease.capacity() as u64;
        lease.put_bytes(7, len);
        let whole = lease.freeze();
        let part = whole.slice(10..20);
        let reclaimed = close(guard);
        assert_eq!((reclaimed.detached_bytes, reclaimed.leased_bytes), (bytes, 0));
        drop(whole);
        assert_eq!(assert_adds_up(&governor).totals.orphaned_bytes, bytes);
        assert_eq!(part, vec![7; 10]);
        drop(part);
        assert_nothing_left(&governor);
    }
}

#[test]
fn bytes_that_became_a_vec_give_their_block_back() {
    let governor = Governor::unlimited();
    let guard = bound(&governor);
    let mut lease = guard.try_lease(512).unwrap();
    lease.put_bytes(7, 500);
    let vec: Vec<u8> = lease.freeze().into();
    assert_eq!(vec, vec![7; 500]);
    drop(guard);
    assert_nothing_left(&governor);
}

#[test]
fn orphans_of_a_bound_connection_stay_charged_to_peer_and_system() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let pinned = guard.handle().try_lease_owned(4096).unwrap().into_pinned().unwrap();
    guard.handle().bind_peer("alice").unwrap();
    drop(guard);
    let snapshot = assert_adds_up(&governor);
    let orphan = Usage::default();
    let memory_only = |usage: Usage| (usage.memory, usage.connections(), usage.fds);
    assert_eq!(memory_only(snapshot.scope(Scope::System).usage), (4096, 0, 0));
    assert_eq!(memory_only(only_row(&snapshot, Scope::Peer).usage), (4096, 0, 0));
    assert_eq!(snapshot.scope(Scope::Transient).usage, orphan);
    drop(pinned);
    assert_nothing_left(&governor);
}

#[test]
fn orphans_of_an_unbound_connection_stay_charged_to_the_system_alone() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let mut lease = guard.try_lease(4096).unwrap();
    lease.put_bytes(7, 4096);
    let detached = lease.freeze();
    let pinned: Vec<_> = (0..9)
        .map(|_| guard.handle().try_lease_owned(512).unwrap().into_pinned().unwrap())
        .collect();
    let large = guard.handle().try_lease_owned(300_000).unwrap().into_pinned().unwrap();
    let bytes = 4096 + 9 * 512 + large.capacity() as u64;
    drop(guard);
    let snapshot = assert_adds_up(&governor);
    assert_eq!(snapshot.scope(Scope::System).usage.memory, bytes);
    assert_eq!(snapshot.scope(Scope::Transient).usage, Usage::default());
    drop((detached, pinned, large));
    assert_nothing_left(&governor);
}

#[test]
fn orphans_of_connections_that_never_bound_do_not_fill_the_transient_scope() {
    let governor = common::governor(Limits::unlimited().transient(common::scope().memory(4 * KIB)));
    let mut kept = Vec::new();
    for _ in 0..10 {
        let guard = governor.inbound().try_admit().unwrap();
        kept.push(guard.handle().try_lease_owned(4096).unwrap().into_pinned().unwrap());
    }
    assert_eq!(governor.snapshot().totals.orphaned_bytes, 40 * KIB);
}

#[test]
fn orphans_show_where_they_were_leased_and_how_long_ago() {
    let clock = HandClock::default();
    let governor = Governor::builder().clock(clock.clone()).build().unwrap();
    clock.turn(Duration::from_secs(100));
    governor.maintain();
    let guard = bound(&governor);
    let id = guard.handle().id();

    let first = guard.handle().try_lease_owned(4096).unwrap().into_pinned().unwrap();
    let first_line = line!() - 1;
    clock.turn(Duration::from_secs(5));
    governor.maintain();
    let mut lease = guard.try_lease(512).unwrap();
    let second_line = line!() - 1;
    lease.put_bytes(7, 512);
    let second = lease.freeze();
    let loose: Vec<_> = (0..9).map(|_| guard.try_lease(2048).unwrap()).collect();
    let loose_line = line!() - 1;
    let ninth = loose.into_iter().last().unwrap().into_owned().into_pinned().unwrap();
    clock.turn(Duration::from_secs(5));
    governor.maintain();
    let large = guard.handle().try_lease_owned(300_000).unwrap().into_pinned().unwrap();
    let large_line = line!() - 1;
    assert!(governor.snapshot().orphans.is_empty(), "the guard is alive");
    drop(guard);
    clock.turn(Duration::from_secs(1));

    let orphans = assert_adds_up(&governor).orphans;
    assert!(orphans.iter().all(|o| o.connection == id && o.site.file() == file!()));
    let mut seen: Vec<_> =
        orphans.iter().map(|o| (o.age.as_secs(), o.bytes, o.site.line())).collect();
    assert!(seen.is_sorted_by_key(|row| std::cmp::Reverse(row.0)), "oldest first: {seen:?}");
    seen.sort_unstable();
    let large_bytes = large.capacity() as u64;
    assert_eq!(
        seen,
        [
            (1, large_bytes, large_line),
            (6, 512, second_line),
            (6, 2048, loose_line),
            (11, 4096, first_line),
        ]
    );
    drop((first, second, ninth, large));
    assert_nothing_left(&governor);
}

#[test]
fn a_smaller_copy_keeps_the_site_of_what_it_was_copied_from() {
    let governor = Governor::unlimited();
    let guard = bound(&governor);
    let mut lease = guard.try_lease(65536).unwrap();
    let leased_line = line!() - 1;
    lease.put_slice(b"small");
    let bytes = lease.freeze();
    drop(guard);
    let orphans = governor.snapshot().orphans;
    assert_eq!((orphans[0].bytes, orphans[0].site.line()), (512, leased_line));
    drop(bytes);
}

#[test]
fn a_connection_row_says_where_and_when_it_was_admitted() {
    let clock = HandClock::default();
    let governor = Governor::builder().clock(clock.clone()).build().unwrap();
    clock.turn(Duration::from_secs(7));
    governor.maintain();
    let address: std::net::SocketAddr = "192.0.2.1:443".parse().unwrap();
    let guard = governor.inbound().remote(address).try_admit().unwrap();
    let line = line!() - 1;
    clock.turn(Duration::from_secs(3));
    let snapshot = governor.snapshot();
    let row = &snapshot.connections[0];
    assert_eq!((row.id, row.closed), (guard.handle().id(), false));
    assert_eq!((row.site.file(), row.site.line()), (file!(), line));
    assert_eq!(row.age, Duration::from_secs(3));
    assert_eq!(row.source.as_ref().unwrap().to_string(), "192.0.2.1:443");
}

#[test]
fn a_close_from_outside_takes_memory_and_leaves_counts_to_the_guard() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().peer("alice").weight(50).try_admit().unwrap();
    let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
    let reserved = guard.handle().try_reserve(1000).unwrap();
    drop(guard.try_lease(512).unwrap());
    let mut owned = guard.handle().try_lease_owned(2048).unwrap();
    let mut borrowed = guard.try_lease(4096).unwrap();

    let reclaimed = guard.handle().close().unwrap();
    assert_eq!(reclaimed.cached_bytes, 512);
    assert_eq!(reclaimed.leased_bytes, 2048);
    assert_eq!(reclaimed.reserved_bytes, 1050);
    assert_eq!(reclaimed.pinned_bytes, 4096);
    let snapshot = assert_adds_up(&governor);
    assert_eq!(snapshot.arena.in_use_bytes, 4096);
    let usage = only_row(&snapshot, Scope::Peer).usage;
    assert_eq!((usage.connections(), usage.fds, usage.streams()), (1, 1, 1));
    assert!(snapshot.connections[0].closed);

    assert_eq!(owned.pin().unwrap_err(), Revoked);
    assert_eq!(guard.try_lease(512).unwrap_err(), LeaseError::Closed);
    assert_eq!(guard.try_lease(4096).unwrap_err(), LeaseError::Closed);
    assert_eq!(guard.try_lease(300_000).unwrap_err(), LeaseError::Closed);
    assert_eq!(guard.handle().try_lease_owned(512).unwrap_err(), LeaseError::Closed);
    assert_eq!(guard.handle().try_reserve(1).unwrap_err(), LeaseError::Closed);
    assert_eq!(guard.handle().try_open_stream(Direction::Inbound).unwrap_err(), LeaseError::Closed);
    // The borrow goes on.
    borrowed.put_slice(b"mine");
    assert_eq!(&*borrowed, b"mine");
    drop(borrowed);
    assert_eq!(assert_adds_up(&governor).arena.in_use_bytes, 0);
    // A stream that ends between the two phases is counted down once.
    drop(stream);
    assert_eq!(governor.snapshot().scope(Scope::System).usage.streams(), 0);
    drop((reserved, owned));
    assert_eq!(governor.snapshot().scope(Scope::System).usage.connections(), 1);
    drop(guard);
    assert_nothing_left(&governor);
}

#[test]
fn a_borrowed_lease_turned_owned_after_a_close_starts_out_revoked() {
    for len in [512, 300_000] {
        let governor = Governor::unlimited();
        let guard = bound(&governor);
        let borrowed = guard.try_lease(len).unwrap();
        guard.handle().close().unwrap();
        let mut owned = borrowed.into_owned();
        assert_eq!(assert_adds_up(&governor).arena.in_use_bytes, 0);
        assert_eq!(owned.pin().unwrap_err(), Revoked);
        drop(guard);
        drop(owned);
        assert_nothing_left(&governor);
    }
}

#[test]
fn a_borrowed_lease_freezes_even_after_a_close() {
    for (capacity, len) in [(512, 500), (65536, 5), (300_000, 300_000)] {
        let governor = Governor::unlimited();
        let guard = bound(&governor);
        let mut borrowed = guard.try_lease(capacity).unwrap();
        borrowed.put_bytes(7, len);
        guard.handle().close().unwrap();
        let bytes = borrowed.freeze();
        drop(guard);
        assert_eq!(bytes, vec![7; len]);
        assert_eq!(governor.snapshot().orphans.len(), 1);
        drop(bytes);
        assert_nothing_left(&governor);
    }
}

#[test]
fn a_lease_forgotten_after_a_close_from_outside_comes_back_with_the_guard() {
    let governor = Governor::unlimited();
    let guard = bound(&governor);
    let lease = guard.try_lease(4096).unwrap();
    guard.handle().close().unwrap();
    std::mem::forget(lease);
    assert_eq!(governor.snapshot().arena.in_use_bytes, 4096);
    assert_eq!(close(guard).leased_bytes, 4096);
    assert_nothing_left(&governor);
}

#[test]
fn leases_may_outlive_their_stream() {
    let governor = Governor::unlimited();
    let guard = bound(&governor);
    let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
    let mut lease = stream.try_lease_owned(4096).unwrap();
    let reserved = stream.try_reserve(100).unwrap();
    stream.close();
    assert_eq!(governor.snapshot().scope(Scope::System).usage.streams(), 0);
    lease.pin().unwrap().put_slice(b"mine");
    assert_eq!(assert_adds_up(&governor).scope(Scope::System).usage.memory, 4196);
    drop((lease, reserved));
    drop(guard);
    assert_nothing_left(&governor);
}

#[test]
fn leases_that_outlive_everyone_come_back_to_no_harm() {
    let governor = Governor::unlimited();
    let guard = bound(&governor);
    let owned = guard.handle().try_lease_owned(512).unwrap();
    let pinned = guard.handle().try_lease_owned(512).unwrap().into_pinned().unwrap();
    let mut lease = guard.try_lease(512).unwrap();
    lease.put_bytes(7, 512);
    let bytes = lease.freeze();
    let handle = guard.handle().clone();
    drop(governor);
    drop(guard);
    drop(owned);
    assert_eq!(bytes, vec![7; 512]);
    drop(pinned);
    drop(bytes);
    assert!(handle.is_closed());
}

#[test]
fn a_panicking_task_gives_everything_back() {
    let governor = Governor::unlimited();
    let guard = bound(&governor);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let guard = guard;
        let _lease = guard.try_lease(512).unwrap();
        let mut owned = guard.handle().try_lease_owned(512).unwrap();
        let _pin = owned.pin().unwrap();
        std::panic::resume_unwind(Box::new("the task failed"));
    }));
    assert!(caught.is_err());
    assert_nothing_left(&governor);
}
