//! Leases beyond what a connection's first magazine of a size class holds, which a further one holds.
//!
//! Borrowed leases fill the first magazine and are forgotten, or kept; the lease after them is the one
//! that matters. Two threads, eight preemptions.

use std::mem::forget;

use leasehold::{ConnectionGuard, Governor, Lease, Limits, OwnedLease, Scope};
use loom_tests::{
    BLOCK, Bounds, Mark, Remains, admit, all_back, at_rest, bytes, ended, governor,
    governor_with_room, granted, lease, model, race,
};

/// What a magazine holds.
const SLOTS: usize = if cfg!(leasehold_loom) { 2 } else { 8 };

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
        let handle = guard.handle().clone();
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
        let handle = guard.handle().clone();
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

/// A lease of an idle block, which is then returned, against a request that needs the room. Wherever
/// that finds the block, it does not come to lie idle unlisted: once it is back there is room.
#[test]
fn lease_against_a_sweep() {
    model("loose: lease_against_a_sweep", Bounds::TWO_THREADS, || {
        let governor = governor_with_room(SLOTS as u64 + 1);
        let (guard, other) = (full(&governor), admit(&governor));
        drop(ninth(&guard));
        assert_eq!(guard.handle().usage().unwrap().cached_bytes, bytes(1));
        let handle = guard.handle().clone();
        race(
            || granted(&other.try_lease(BLOCK).map(|mut lease| lease.mark(1)), Scope::System),
            move || granted(&handle.try_lease_owned(BLOCK).map(drop), Scope::System),
        );
        for guard in [&other, &guard, &other] {
            lease(guard).mark(3);
        }
        drop((guard, other));
        all_back(&governor);
    });
}

/// As above, with the lease out when the request comes, of a block that never lay idle.
#[test]
fn return_against_a_sweep() {
    model("loose: return_against_a_sweep", Bounds::TWO_THREADS, || {
        let governor = governor_with_room(SLOTS as u64 + 1);
        let (guard, other) = (full(&governor), admit(&governor));
        let owned = ninth(&guard).into_owned();
        race(
            || granted(&other.try_lease(BLOCK).map(|mut lease| lease.mark(1)), Scope::System),
            move || drop(owned),
        );
        for guard in [&other, &guard, &other] {
            lease(guard).mark(3);
        }
        drop((guard, other));
        all_back(&governor);
    });
}

/// An idle block is no reason for a refusal while another thread has its connection's mutex, and waits
/// for the tree.
#[test]
fn idle_block_of_a_busy_connection() {
    model("loose: idle_block_of_a_busy_connection", Bounds::TWO_THREADS, || {
        let governor = governor_with_room(SLOTS as u64 + 1);
        let (guard, other) = (full(&governor), admit(&governor));
        drop(ninth(&guard));
        let handle = guard.handle().clone();
        let (owned, _) = race(|| other.handle().try_lease_owned(BLOCK), move || handle.trim());
        assert!(granted(&owned, Scope::System), "refused by an idle block");
        drop((owned, guard, other));
        all_back(&governor);
    });
}

/// A magazine stays for as long as one of its blocks is out.
#[test]
fn trim_against_return() {
    model("loose: trim_against_return", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited());
        let guard = full(&governor);
        let mut owned = ninth(&guard).into_owned();
        let handle = guard.handle().clone();
        race(
            || handle.trim(),
            move || {
                owned.pin().unwrap().mark(2);
                drop(owned);
            },
        );
        guard.handle().trim();
        assert_eq!(at_rest(&governor).totals.cached_bytes, 0, "idle blocks after a trim");
        drop(guard);
        all_back(&governor);
    });
}
