//! Leases beyond what a magazine holds, against the close: their states are in a table under the
//! connection's mutex.
//!
//! Eight borrowed leases fill the magazine and are forgotten; the ninth is the one that matters.
//! Two threads, eight preemptions.

use std::mem::forget;

use leasehold::{ConnectionGuard, Governor, Lease, Limits, OwnedLease};
use loom_tests::{BLOCK, Bounds, Mark, Remains, admit, ended, governor, lease, model, race};

const SLOTS: usize = 8;

fn ninth(guard: &ConnectionGuard) -> Lease<'_> {
    let mut lease = lease(guard);
    lease.mark(1);
    lease
}

/// A guard whose magazine has no place left.
fn full(governor: &Governor) -> ConnectionGuard {
    let guard = admit(governor);
    (0..SLOTS).for_each(|_| forget(lease(&guard)));
    guard
}

/// A close by a handle while `work` is done with a ninth lease; then the guard goes.
fn from_outside<T: Remains>(name: &str, work: impl Fn(Lease<'_>) -> T + Send + Sync + 'static) {
    model(name, Bounds::TWO_THREADS, move || {
        let governor = governor(Limits::unlimited());
        let guard = full(&governor);
        let handle = guard.handle();
        let ninth = ninth(&guard);
        let (remains, closed) = race(|| work(ninth), move || handle.close());
        assert!(closed.is_ok());
        drop(guard);
        ended(&governor, remains);
    });
}

/// The end of the guard while `work` is done with a ninth lease.
fn with_the_guard<T: Remains + Send + 'static>(
    name: &str,
    work: impl Fn(OwnedLease) -> T + Copy + Send + Sync + 'static,
) {
    model(name, Bounds::TWO_THREADS, move || {
        let governor = governor(Limits::unlimited());
        let guard = full(&governor);
        let ninth = ninth(&guard).into_owned();
        let ((), remains) = race(|| drop(guard), move || work(ninth));
        ended(&governor, remains);
    });
}

#[test]
fn outside_against_borrowed_return() {
    from_outside("loose: outside_against_borrowed_return", |ninth| drop(ninth));
}

#[test]
fn outside_against_forgotten() {
    from_outside("loose: outside_against_forgotten", |ninth| forget(ninth));
}

#[test]
fn outside_against_own() {
    from_outside("loose: outside_against_own", |ninth| {
        let mut owned = ninth.into_owned();
        let _ = owned.pin().map(|mut pin| pin.mark(2));
        owned
    });
}

#[test]
fn outside_against_freeze() {
    from_outside("loose: outside_against_freeze", |ninth| ninth.freeze());
}

#[test]
fn guard_against_pin() {
    with_the_guard("loose: guard_against_pin", |mut owned| {
        let _ = owned.pin().map(|mut pin| pin.mark(2));
        owned
    });
}

#[test]
fn guard_against_into_pinned() {
    with_the_guard("loose: guard_against_into_pinned", |owned| {
        let mut pinned = owned.into_pinned().ok()?;
        pinned.mark(2);
        Some(pinned)
    });
}

#[test]
fn guard_against_freeze() {
    with_the_guard("loose: guard_against_freeze", |owned| owned.freeze().ok());
}

#[test]
fn guard_against_drop() {
    with_the_guard("loose: guard_against_drop", drop);
}

/// The ninth is leased as *owned* at once, while the guard goes.
#[test]
fn guard_against_lease_owned() {
    model("loose: guard_against_lease_owned", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited());
        let guard = full(&governor);
        drop(ninth(&guard));
        let handle = guard.handle();
        let ((), owned) = race(
            || drop(guard),
            move || {
                let mut owned = handle.try_lease_owned(BLOCK).ok()?;
                let _ = owned.pin().map(|mut pin| pin.mark(2));
                Some(owned)
            },
        );
        ended(&governor, owned);
    });
}
