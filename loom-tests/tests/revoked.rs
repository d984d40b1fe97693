//! Waiting for the close: every task that waits is woken, by whichever close comes first.
//!
//! Two threads (eight preemptions), or three (three or four preemptions). A lost wake-up is a deadlock, which
//! loom reports.

use std::future::{Future, pending};
use std::pin::pin;
use std::task::{Context, Waker};

use leasehold::{Closed, Limits};
use loom_tests::{Bounds, admit, all_back, block_on, governor, model, race, race3};

#[test]
fn woken_by_a_handle() {
    model("woken_by_a_handle", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited());
        let guard = admit(&governor);
        let handle = guard.handle().clone();
        let ((), closed) = race(|| block_on(guard.handle().revoked()), move || handle.close());
        assert!(closed.is_ok());
        drop(guard);
        all_back(&governor);
    });
}

#[test]
fn woken_by_the_guard() {
    model("woken_by_the_guard", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited());
        let guard = admit(&governor);
        let revoked = guard.handle().revoked();
        race(|| block_on(revoked), move || drop(guard));
        all_back(&governor);
    });
}

#[test]
fn work_ends_with_the_connection() {
    model("work_ends_with_the_connection", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited());
        let guard = admit(&governor);
        let handle = guard.handle().clone();
        let (answer, _) = race(
            || block_on(guard.handle().until_revoked(pending::<()>())),
            move || handle.close(),
        );
        assert_eq!(answer, Err(Closed));
        drop(guard);
        all_back(&governor);
    });
}

/// The waker of the last poll counts, and a future that was dropped takes no place from another.
#[test]
fn cancelled_beside_one_who_waits() {
    model("cancelled_beside_one_who_waits", Bounds::THREE_OF_FEW_STEPS, || {
        let governor = governor(Limits::unlimited());
        let guard = admit(&governor);
        let (waits, cancels) = (guard.handle().revoked(), guard.handle().revoked());
        race3(
            || drop(guard),
            move || {
                let mut waits = pin!(waits);
                let _ = waits.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                block_on(waits);
            },
            move || {
                let mut cancels = cancels;
                let _ = pin!(&mut cancels).poll(&mut Context::from_waker(Waker::noop()));
                drop(cancels);
            },
        );
        all_back(&governor);
    });
}

/// Of two futures that wait both are woken, by one close.
#[test]
fn two_who_wait() {
    model("two_who_wait", Bounds::THREE_OF_FEW_STEPS, || {
        let governor = governor(Limits::unlimited());
        let guard = admit(&governor);
        let handle = guard.handle();
        let (one, two) = (guard.handle().revoked(), guard.handle().revoked());
        race3(move || handle.close(), move || block_on(one), move || block_on(two)).0.unwrap();
        drop(guard);
        all_back(&governor);
    });
}

/// Of two closes the one that ends the phase wakes. A future that is dropped meanwhile disturbs
/// neither.
#[test]
fn cancelled_against_a_close() {
    model("cancelled_against_a_close", Bounds::THREE_OF_FEW_STEPS, || {
        let governor = governor(Limits::unlimited());
        let guard = admit(&governor);
        let (handle, waits) = (guard.handle().clone(), guard.handle().revoked());
        let mut cancels = guard.handle().revoked();
        let _ = pin!(&mut cancels).poll(&mut Context::from_waker(Waker::noop()));
        race3(
            move || {
                let _ = handle.close();
                drop(guard);
            },
            move || block_on(waits),
            move || drop(cancels),
        );
        all_back(&governor);
    });
}
