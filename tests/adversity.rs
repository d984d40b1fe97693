//! Found by attacking the crate with code, and kept: what hostile or unlucky callers must not get
//! away with.
#![allow(clippy::disallowed_types, reason = "tests are never modelled")]

mod common;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::task::{Context, Wake};

use common::{MIB, assert_adds_up, assert_nothing_left, scope};
use leasehold::{Direction, Governor, Limit, Limits, Scope};

/// P5: the marks of a stream share a word with the bytes in use. No sum may reach them.
#[test]
fn no_amount_of_reserving_closes_a_streams_account() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
    for bytes in [1 << 61, 1 << 62, 1 << 63] {
        let refused = stream.try_reserve(bytes).unwrap_err();
        assert_eq!(refused.refused().unwrap().scope(), Scope::Stream);
    }
    for _ in 0..8 {
        drop(stream.try_reserve(1 << 60).unwrap());
    }
    assert_eq!(stream.usage().memory, 0);
    drop(stream.try_lease_owned(512).unwrap());
    let lease = stream.try_lease_owned(512).unwrap();
    assert_eq!(stream.usage().memory, 512);
    drop(stream);
    drop(lease);
    drop(guard);
    assert_nothing_left(&governor);
}

/// P1: what many reservations took and gave back one after another is not summed up.
#[test]
fn a_stream_that_reserved_more_than_a_word_holds_in_all_uses_nothing() {
    let governor = Governor::new(Limits::unlimited().stream(scope().memory(1 << 41))).unwrap();
    let guard = governor.inbound().try_admit().unwrap();
    let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
    for _ in 0..1 << 12 {
        drop(stream.try_reserve(1 << 41).unwrap());
    }
    assert_eq!(stream.usage().memory, 0);
    let _all_of_it = stream.try_reserve(1 << 41).unwrap();
}

struct Bomb;

impl Wake for Bomb {
    fn wake(self: Arc<Self>) {
        panic!("a waker of the test panics on purpose");
    }
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// P3: a waker may run any code, even code that panics. The close is complete before, and the
/// others are woken.
#[test]
fn a_waker_that_panics_costs_no_memory_and_no_wake_up() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().peer("alice").class("public").try_admit().unwrap();
    let (mut first, mut second) = (guard.handle().revoked(), guard.handle().revoked());
    let flag = Arc::new(Flag::default());
    let (bomb, waker) = (Arc::new(Bomb).into(), flag.clone().into());
    assert!(Pin::new(&mut first).poll(&mut Context::from_waker(&bomb)).is_pending());
    assert!(Pin::new(&mut second).poll(&mut Context::from_waker(&waker)).is_pending());
    let large = guard.handle().try_lease_owned(1 << 20).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| drop(guard))).is_err());
    assert!(flag.0.load(Ordering::SeqCst), "the second waiter was not woken");
    assert_nothing_left(&governor);
    drop((large, first, second));
    assert_nothing_left(&governor);
}

/// What a waker sees when it asks: the connection is gone already.
struct Looker {
    governor: Governor,
    in_use: AtomicUsize,
}

impl Wake for Looker {
    fn wake(self: Arc<Self>) {
        let snapshot = self.governor.snapshot();
        let left = snapshot.arena.in_use_bytes as usize + snapshot.rows(Scope::Peer).count();
        self.in_use.store(left, Ordering::SeqCst);
    }
}

#[test]
fn a_waker_sees_the_close_completed() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().peer("alice").try_admit().unwrap();
    let _large = guard.handle().try_lease_owned(1 << 20).unwrap();
    let in_use = AtomicUsize::new(usize::MAX);
    let looker = Arc::new(Looker { governor: governor.clone(), in_use });
    let mut revoked = guard.handle().revoked();
    let waker = looker.clone().into();
    assert!(Pin::new(&mut revoked).poll(&mut Context::from_waker(&waker)).is_pending());
    drop(guard);
    assert_eq!(looker.in_use.load(Ordering::SeqCst), 0);
}

/// Two closers of one connection: one of them did it.
#[test]
fn of_two_closers_one_hears_that_it_is_closed_already() {
    for _ in 0..500 {
        let governor = Governor::unlimited();
        let guard = governor.inbound().try_admit().unwrap();
        let handles = [guard.handle(), guard.handle()];
        let gate = Barrier::new(2);
        let closed: usize = std::thread::scope(|threads| {
            let close = |handle: leasehold::ConnectionHandle| {
                gate.wait();
                usize::from(handle.close().is_ok())
            };
            let closers = handles.map(|handle| threads.spawn(move || close(handle.clone())));
            closers.into_iter().map(|closer| closer.join().unwrap()).sum()
        });
        assert_eq!(closed, 1);
    }
}

/// P7: limits that two threads set at once are those of one of them, in every part.
#[test]
fn limits_set_at_once_agree_with_the_arenas_bounds() {
    let limits = |memory| Limits::unlimited().system(scope().memory(memory));
    for _ in 0..200 {
        let governor = Governor::builder()
            .limits(limits(MIB))
            .size_classes(&[64 << 10])
            .fragmentation(0)
            .build()
            .unwrap();
        let gate = Barrier::new(2);
        std::thread::scope(|threads| {
            for memory in [MIB, 16 * MIB] {
                let (governor, gate) = (&governor, &gate);
                threads.spawn(move || {
                    gate.wait();
                    (0..20).for_each(|_| governor.set_limits(limits(memory)).unwrap());
                });
            }
        });
        let Limit::Max(memory) = governor.snapshot().scope(Scope::System).limits.memory else {
            panic!("one of the two limits is in force");
        };
        let guard = governor.inbound().try_admit().unwrap();
        let leases: Vec<_> =
            (0..memory >> 16).map(|_| guard.try_lease(64 << 10).unwrap()).collect();
        assert!(guard.try_lease(64 << 10).is_err());
        drop(leases);
    }
}

/// P7: the arena refuses nobody because another thread is giving idle pages back just now.
#[test]
fn nobody_is_refused_while_pages_are_given_back() {
    let governor = Governor::builder()
        .limits(Limits::unlimited().system(scope().memory(8 * MIB)))
        .size_classes(&[4 << 10, 64 << 10])
        .fragmentation(MIB)
        .build()
        .unwrap();
    std::thread::scope(|threads| {
        for len in [4 << 10, 64 << 10] {
            let governor = &governor;
            threads.spawn(move || {
                let guard = governor.inbound().try_admit().unwrap();
                for _ in 0..200 {
                    // Under half of the limit each, so there is always room for both.
                    let leases: Vec<_> = (0..(3 * MIB) as usize / len)
                        .map(|_| guard.handle().try_lease_owned(len).unwrap())
                        .collect();
                    // One block of each slab stays while the rest goes.
                    let kept: Vec<_> =
                        leases.into_iter().step_by((MIB as usize / len).max(2)).collect();
                    drop(kept);
                }
            });
        }
    });
    assert_adds_up(&governor);
}
