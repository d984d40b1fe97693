//! Ages in reports are never longer than the governor has been there.

#![allow(clippy::disallowed_types, reason = "tests are never modelled")]

mod common;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::HandClock;
use leasehold::{Clock, Governor};

/// A clock whose next reader can be held up between reading and returning.
#[derive(Clone, Default)]
struct Stalling {
    clock: HandClock,
    next: Arc<Mutex<Option<Stall>>>,
}

/// Tells that the clock was read, and waits.
type Stall = (Sender<()>, Receiver<()>);

impl Clock for Stalling {
    fn now(&self) -> Duration {
        let now = self.clock.now();
        let stall = self.next.lock().unwrap().take();
        if let Some((has_read, go_on)) = stall {
            has_read.send(()).unwrap();
            go_on.recv().unwrap();
        }
        now
    }
}

/// The report is held up as it reads the clock. What is leased meanwhile comes after the time that
/// the report goes by.
#[test]
fn what_came_after_the_reports_time_has_no_age() {
    let stalling = Stalling::default();
    let (has_read_sender, has_read) = channel();
    let (go_on, go_on_receiver) = channel();
    let governor = Governor::builder().clock(stalling.clone()).build().unwrap();
    *stalling.next.lock().unwrap() = Some((has_read_sender, go_on_receiver));
    let snapshot = thread::scope(|threads| {
        let report = threads.spawn(|| governor.snapshot());
        has_read.recv().unwrap();
        stalling.clock.turn(Duration::from_secs(10));
        governor.maintain();
        let guard = governor.inbound().try_admit().unwrap();
        let kept = guard.handle().try_lease_owned(512).unwrap().into_pinned().unwrap();
        drop(guard);
        go_on.send(()).unwrap();
        let snapshot = report.join().unwrap();
        drop(kept);
        snapshot
    });
    assert_eq!((snapshot.connections.len(), snapshot.orphans.len()), (1, 1));
    assert_eq!(snapshot.connections[0].age, Duration::ZERO);
    assert_eq!(snapshot.orphans[0].age, Duration::ZERO);
}

/// A thread that read the clock earlier may write the coarse time later than another. The time of the
/// last maintenance is then ahead of it.
#[test]
fn a_lease_after_a_stale_tick_is_a_lease_like_any_other() {
    let stalling = Stalling::default();
    let (has_read_sender, has_read) = channel();
    let (go_on, go_on_receiver) = channel();
    let governor = Governor::builder().clock(stalling.clone()).build().unwrap();
    let guard = governor.inbound().try_admit().unwrap();
    let lease = |_| guard.try_lease(512).unwrap();
    let leases: Vec<_> = (0..18).map(lease).collect();
    *stalling.next.lock().unwrap() = Some((has_read_sender, go_on_receiver));
    thread::scope(|threads| {
        let report = threads.spawn(|| governor.snapshot());
        has_read.recv().unwrap();
        stalling.clock.turn(Duration::from_secs(10));
        governor.maintain();
        go_on.send(()).unwrap();
        report.join().unwrap();
    });
    drop(leases);
    assert_eq!(guard.handle().usage().unwrap().cached_bytes, 18 * 512);
}
