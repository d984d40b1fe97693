//! Closing: who waits for it is woken once, the governor finds and drains connections, and nobody
//! has to keep a list.
#![allow(clippy::disallowed_types, reason = "tests are never modelled")]

mod common;

use std::future::{Future, pending, ready};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use common::{assert_adds_up, assert_nothing_left};
use leasehold::{Closed, ConnectionGuard, Governor, Scope, future};

/// Counts how often it was woken.
#[derive(Default)]
struct Bell(AtomicU32);

impl Bell {
    fn rings(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn bell() -> (Arc<Bell>, Waker) {
    let bell = Arc::new(Bell::default());
    (bell.clone(), bell.into())
}

fn poll<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

fn guard(governor: &Governor) -> ConnectionGuard {
    governor.inbound().peer("alice").try_admit().unwrap()
}

#[test]
fn a_close_from_outside_wakes_whoever_waits_for_it() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let (bell, waker) = bell();
    let mut revoked = guard.handle().revoked();
    assert!(poll(&mut revoked, &waker).is_pending());
    assert!(poll(&mut revoked, &waker).is_pending());
    assert_eq!(bell.rings(), 0);
    guard.handle().close().unwrap();
    assert_eq!(bell.rings(), 1);
    assert!(poll(&mut revoked, &waker).is_ready());
    drop(revoked);
    drop(guard);
    assert_eq!(bell.rings(), 1);
}

#[test]
fn the_end_of_the_guard_wakes_too() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let (bell, waker) = bell();
    let mut revoked = guard.handle().revoked();
    assert!(poll(&mut revoked, &waker).is_pending());
    drop(guard);
    assert_eq!(bell.rings(), 1);
    assert!(poll(&mut revoked, &waker).is_ready());
}

#[test]
fn a_close_that_has_happened_is_seen_at_once() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    guard.handle().close().unwrap();
    let (bell, waker) = bell();
    assert!(poll(&mut guard.handle().revoked(), &waker).is_ready());
    assert_eq!(bell.rings(), 0);
}

#[test]
fn who_gave_up_is_not_woken() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let ((gave_up, first), (waits, second)) = (bell(), bell());
    let mut one = guard.handle().revoked();
    let mut other = guard.handle().revoked();
    assert!(poll(&mut one, &first).is_pending());
    assert!(poll(&mut other, &second).is_pending());
    drop(one);
    guard.handle().close().unwrap();
    assert_eq!((gave_up.rings(), waits.rings()), (0, 1));
    assert_eq!(Arc::strong_count(&gave_up), 2, "the connection still has its waker");
}

#[test]
fn the_last_waker_counts() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let ((old, first), (new, second)) = (bell(), bell());
    let mut revoked = guard.handle().revoked();
    assert!(poll(&mut revoked, &first).is_pending());
    assert!(poll(&mut revoked, &second).is_pending());
    guard.handle().close().unwrap();
    assert_eq!((old.rings(), new.rings()), (0, 1));
}

#[test]
fn everyone_who_waits_is_woken() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let (bell, waker) = bell();
    let mut all: Vec<_> = (0..100).map(|_| guard.handle().revoked()).collect();
    assert!(all.iter_mut().all(|revoked| poll(revoked, &waker).is_pending()));
    guard.handle().close().unwrap();
    assert_eq!(bell.rings(), 100);
}

#[test]
fn a_waker_may_close_and_drop_other_connections() {
    struct Domino(Mutex<Option<ConnectionGuard>>);
    impl Wake for Domino {
        fn wake(self: Arc<Self>) {
            drop(self.0.lock().unwrap().take());
        }
    }
    let governor = Governor::unlimited();
    let (first, second) = (guard(&governor), guard(&governor));
    let mut revoked = first.handle().revoked();
    let waker = Arc::new(Domino(Some(second).into())).into();
    assert!(poll(&mut revoked, &waker).is_pending());
    drop(first);
    assert_nothing_left(&governor);
}

#[test]
fn a_waker_may_own_the_guard_it_waits_for() {
    struct Task(#[allow(dead_code, reason = "kept for its drop")] ConnectionGuard);
    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let handle = guard.handle().clone();
    let mut revoked = handle.revoked();
    let task = Arc::new(Task(guard));
    assert!(poll(&mut revoked, &task.clone().into()).is_pending());
    drop(task);
    handle.close().unwrap();
    drop(revoked);
    assert_nothing_left(&governor);
}

#[test]
fn until_revoked_answers_what_the_work_does() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let (_, waker) = bell();
    let mut done = pin!(guard.handle().until_revoked(ready(7)));
    assert_eq!(poll(&mut done, &waker), Poll::Ready(Ok(7)));
}

#[test]
fn until_revoked_drops_the_work_when_the_connection_closes() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let (bell, waker) = bell();
    let mut work = Box::pin(guard.handle().until_revoked(async {
        let _lease = guard.try_lease(4096).unwrap();
        pending::<()>().await;
    }));
    assert!(poll(&mut work, &waker).is_pending());
    assert_eq!(assert_adds_up(&governor).totals.outstanding_bytes, 4096);
    guard.handle().close().unwrap();
    assert_eq!(bell.rings(), 1);
    assert_eq!(poll(&mut work, &waker), Poll::Ready(Err(Closed)));
    assert_eq!(assert_adds_up(&governor).totals.outstanding_bytes, 0);
}

#[test]
fn work_that_is_done_wins_over_a_close() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    guard.handle().close().unwrap();
    let (_, waker) = bell();
    let mut done = pin!(guard.handle().until_revoked(ready(7)));
    assert_eq!(poll(&mut done, &waker), Poll::Ready(Ok(7)));
}

#[test]
fn closing_twice_from_outside_answers_closed() {
    let governor = Governor::unlimited();
    let guard = guard(&governor);
    let handle = guard.handle();
    let _kept = guard.handle().try_lease_owned(512).unwrap();
    assert_eq!(handle.close().unwrap().leased_bytes, 512);
    assert_eq!(handle.close().unwrap_err(), Closed);
    assert_eq!(guard.handle().close().unwrap_err(), Closed);
    let rest = guard.close();
    assert_eq!((rest.leased_bytes, rest.pinned_bytes), (0, 0));
}

#[test]
fn the_governor_lists_open_connections() {
    let governor = Governor::unlimited();
    let guards: Vec<_> = (0..10).map(|_| guard(&governor)).collect();
    guards[3].handle().close().unwrap();
    let mut listed: Vec<_> = governor.connections().iter().map(|handle| handle.id()).collect();
    listed.sort_unstable();
    let open = guards.iter().enumerate().filter(|(nth, _)| *nth != 3);
    assert_eq!(listed, open.map(|(_, guard)| guard.handle().id()).collect::<Vec<_>>());
}

#[test]
fn drain_closes_what_the_filter_picks() {
    let governor = Governor::unlimited();
    let guards: Vec<_> = (0..10).map(|_| guard(&governor)).collect();
    let leases: Vec<_> = guards.iter().map(|g| g.handle().try_lease_owned(512).unwrap()).collect();
    let (bell, waker) = bell();
    let mut waiting: Vec<future::Revocation> =
        guards.iter().map(|g| g.handle().revoked()).collect();
    assert!(waiting.iter_mut().all(|revoked| poll(revoked, &waker).is_pending()));
    let chosen: Vec<_> = guards[..4].iter().map(|guard| guard.handle().id()).collect();
    let drained = governor.drain(|handle| chosen.contains(&handle.id()));
    assert_eq!((drained.connections, drained.reclaimed.leased_bytes), (4, 4 * 512));
    assert_eq!(bell.rings(), 4);
    let usage = assert_adds_up(&governor).scope(Scope::System).usage;
    assert_eq!((usage.connections(), usage.memory), (10, 6 * 512));
    // Those that are drained already are not drained again.
    assert_eq!(governor.drain(|_| true).connections, 6);
    assert_eq!(governor.drain(|_| true).connections, 0);
    assert!(governor.connections().is_empty());
    drop(guards);
    assert_nothing_left(&governor);
    drop(leases);
}

#[test]
fn an_empty_governor_drains_nothing() {
    assert_eq!(Governor::unlimited().drain(|_| true), leasehold::Drained::default());
}
