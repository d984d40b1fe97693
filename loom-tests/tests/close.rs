//! Both phases of a close against whatever a lease, a reservation or a stream can do meanwhile.
//!
//! [`from_outside`]: a handle closes while the guard's owner works; then the guard goes. Two
//! threads, eight preemptions. [`with_the_guard`]: the guard goes while someone works through a
//! handle, or with what was leased before. Two threads, eight preemptions. [`both`]: a handle
//! closes, the guard goes, and someone works. Three threads, three preemptions.
//!
//! When all calls have returned, exactly those blocks are out whose lease is pinned, or that live
//! on as `Bytes`; when these are dropped too, nothing is.

use std::mem::forget;

use bytes::Bytes;
use leasehold::{
    BindError, Closed, ConnectionGuard, ConnectionHandle, Direction, Governor, LeaseError, Limits,
    OwnedLease, PinnedLease,
};
use loom_tests::{
    Arc, BLOCK, Bounds, Mark, Remains, SLAB_BLOCKS, admit, all_back, at_rest, bytes, cache, ended,
    governor, lease, model, of_class, race, race3, room,
};

/// A close by a handle, while `work` is done on a guard that has an idle block; then the guard goes.
fn from_outside<T: Remains>(
    name: &str,
    work: impl Fn(&ConnectionGuard) -> T + Send + Sync + 'static,
) {
    model(name, Bounds::TWO_THREADS, move || {
        let governor = governor(Limits::unlimited());
        let guard = admit(&governor);
        cache(&guard);
        let handle = guard.handle().clone();
        let (remains, closed) = race(|| work(&guard), move || handle.close());
        assert!(closed.is_ok());
        drop(guard);
        ended(&governor, remains);
    });
}

/// The end of a guard, while `work` is done with what was prepared on it.
fn with_the_guard<P: Send + 'static, T: Remains + Send + 'static>(
    name: &str,
    prepare: impl Fn(&ConnectionGuard) -> P + Send + Sync + 'static,
    work: impl Fn(P) -> T + Copy + Send + Sync + 'static,
) {
    model(name, Bounds::TWO_THREADS, move || {
        let governor = governor(Limits::unlimited());
        let guard = admit(&governor);
        let prepared = prepare(&guard);
        let ((), remains) = race(|| drop(guard), move || work(prepared));
        ended(&governor, remains);
    });
}

/// Both closes at once, while `work` is done with what was prepared.
fn both<P: Send + 'static, T: Remains + Send + 'static>(
    name: &str,
    prepare: impl Fn(&ConnectionGuard) -> P + Send + Sync + 'static,
    work: impl Fn(P) -> T + Copy + Send + Sync + 'static,
) {
    model(name, Bounds::THREE_THREADS, move || {
        let governor = governor(Limits::unlimited());
        let guard = admit(&governor);
        let handle = guard.handle().clone();
        let prepared = prepare(&guard);
        let ((), _, remains) =
            race3(|| drop(guard), move || handle.close(), move || work(prepared));
        ended(&governor, remains);
    });
}

fn open(guard: &ConnectionGuard) -> Option<leasehold::Lease<'_>> {
    match guard.try_lease(BLOCK) {
        Ok(mut lease) => {
            lease.mark(1);
            Some(lease)
        }
        Err(LeaseError::Closed) => None,
        Err(other) => panic!("neither leased nor closed: {other}"),
    }
}

/// A handle on a connection with an idle block.
fn handle(guard: &ConnectionGuard) -> ConnectionHandle {
    cache(guard);
    guard.handle().clone()
}

fn owned(guard: &ConnectionGuard) -> OwnedLease {
    let mut lease = lease(guard);
    lease.mark(1);
    lease.into_owned()
}

/// A lease that comes back to a magazine which keeps what comes back.
fn owned_of_a_cache(guard: &ConnectionGuard) -> OwnedLease {
    cache(guard);
    owned(guard)
}

fn pinned(guard: &ConnectionGuard) -> PinnedLease {
    owned(guard).into_pinned().unwrap()
}

fn frozen(guard: &ConnectionGuard) -> Bytes {
    pinned(guard).freeze()
}

fn pin_and_mark(owned: &mut OwnedLease) {
    if let Ok(mut pin) = owned.pin() {
        pin.mark(2);
    }
}

#[test]
fn outside_against_borrowed_return() {
    from_outside("outside_against_borrowed_return", |guard| drop(open(guard)));
}

#[test]
fn outside_against_two_borrowed_leases() {
    from_outside("outside_against_two_borrowed_leases", |guard| {
        let one = open(guard);
        drop(open(guard));
        drop(one);
    });
}

#[test]
fn outside_against_forgotten_borrowed_lease() {
    from_outside("outside_against_forgotten_borrowed_lease", |guard| forget(open(guard)));
}

#[test]
fn outside_against_own() {
    from_outside("outside_against_own", |guard| {
        let mut owned = open(guard)?.into_owned();
        pin_and_mark(&mut owned);
        Some(owned)
    });
}

#[test]
fn outside_against_own_and_drop() {
    from_outside("outside_against_own_and_drop", |guard| {
        drop(open(guard).map(leasehold::Lease::into_owned));
    });
}

#[test]
fn outside_against_into_pinned() {
    from_outside("outside_against_into_pinned", |guard| {
        let mut pinned = open(guard)?.into_owned().into_pinned().ok()?;
        pinned.mark(2);
        Some(pinned)
    });
}

#[test]
fn outside_against_borrowed_freeze() {
    from_outside("outside_against_borrowed_freeze", |guard| {
        let frozen = open(guard)?.freeze();
        assert_eq!(frozen[..], [1]);
        Some(frozen)
    });
}

#[test]
fn outside_against_reservation() {
    from_outside("outside_against_reservation", |guard| {
        if let Ok(mut reservation) = guard.handle().try_reserve(bytes(1)) {
            let _ = reservation.resize(bytes(2));
            let _ = reservation.resize(bytes(1));
        }
    });
}

#[test]
fn outside_against_stream() {
    from_outside("outside_against_stream", |guard| {
        let stream = guard.handle().try_open_stream(Direction::Inbound).ok()?;
        let mut owned = stream.try_lease_owned(BLOCK).ok()?;
        pin_and_mark(&mut owned);
        Some(owned)
    });
}

#[test]
fn outside_against_bind() {
    from_outside("outside_against_bind", |guard| {
        let bound = guard.handle().bind_peer("peer");
        assert!(matches!(bound, Ok(()) | Err(BindError::Closed)));
    });
}

#[test]
fn outside_against_trim() {
    from_outside("outside_against_trim", |guard| {
        guard.handle().trim();
    });
}

/// One of two closes did it; the other is told that it was done.
#[test]
fn outside_against_outside() {
    model("outside_against_outside", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited());
        let guard = admit(&governor);
        let _revoked = owned(&guard);
        let (one, two) = (guard.handle(), guard.handle().clone());
        let (one, two) = race(move || one.close(), move || two.close());
        assert!(
            matches!((one, two), (Ok(_), Err(Closed)) | (Err(Closed), Ok(_))),
            "one close reclaims, and one only",
        );
        drop(guard);
        all_back(&governor);
    });
}

#[test]
fn drain_against_the_guard() {
    model("drain_against_the_guard", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited());
        let guard = admit(&governor);
        let revoked = owned(&guard);
        let same = governor.clone();
        let (drained, guards) = race(move || same.drain(|_| true), move || guard.close());
        let leased_bytes = drained.reclaimed.leased_bytes + guards.leased_bytes;
        assert_eq!(leased_bytes, bytes(1), "reclaimed once, by either");
        ended(&governor, revoked);
    });
}

#[test]
fn guard_against_lease_owned() {
    with_the_guard("guard_against_lease_owned", handle, |handle| {
        let mut owned = handle.try_lease_owned(BLOCK).ok()?;
        pin_and_mark(&mut owned);
        Some(owned)
    });
}

/// As above, and the slab goes with the block: the arena has another empty one already. A
/// thread that leased as *owned*, and was revoked at once, has no way to the block left.
#[test]
fn guard_against_lease_owned_of_a_slab_that_goes() {
    model("guard_against_lease_owned_of_a_slab_that_goes", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited());
        let (other, guard) = (admit(&governor), admit(&governor));
        let full: Vec<_> = (0..SLAB_BLOCKS).map(|_| lease(&other).into_owned()).collect();
        let handle = handle(&guard);
        drop(other);
        let ((), owned) = race(
            || drop(guard),
            move || {
                let mut owned = handle.try_lease_owned(BLOCK).ok()?;
                pin_and_mark(&mut owned);
                Some(owned)
            },
        );
        assert_eq!(at_rest(&governor).arena.size_classes[0].slabs, 1, "one empty slab is kept");
        drop(full);
        ended(&governor, owned);
    });
}

#[test]
fn guard_against_refill() {
    with_the_guard(
        "guard_against_refill",
        |guard| guard.handle().clone(),
        |handle| handle.try_lease_owned(BLOCK).ok()?.into_pinned().ok(),
    );
}

#[test]
fn guard_against_pin() {
    with_the_guard("guard_against_pin", owned, |mut owned| {
        pin_and_mark(&mut owned);
        pin_and_mark(&mut owned);
        owned
    });
}

#[test]
fn guard_against_forgotten_pin() {
    with_the_guard("guard_against_forgotten_pin", owned, |mut owned| {
        let _ = owned.pin().map(forget);
        pin_and_mark(&mut owned);
        drop(owned);
    });
}

#[test]
fn guard_against_into_pinned() {
    with_the_guard("guard_against_into_pinned", owned, |owned| {
        let mut pinned = owned.into_pinned().ok()?;
        pinned.mark(2);
        Some(pinned)
    });
}

#[test]
fn guard_against_freeze() {
    with_the_guard("guard_against_freeze", owned, |owned| {
        let frozen = owned.freeze().ok()?;
        assert_eq!(frozen[..], [1]);
        Some(frozen)
    });
}

#[test]
fn guard_against_owned_drop() {
    with_the_guard("guard_against_owned_drop", owned_of_a_cache, drop);
}

#[test]
fn guard_against_pinned_drop() {
    with_the_guard("guard_against_pinned_drop", pinned, |mut pinned| pinned.mark(2));
}

#[test]
fn guard_against_pinned_freeze() {
    with_the_guard("guard_against_pinned_freeze", pinned, |pinned| {
        let frozen = pinned.freeze();
        assert_eq!(frozen[..], [1]);
        frozen
    });
}

#[test]
fn guard_against_bytes_drop() {
    with_the_guard("guard_against_bytes_drop", frozen, drop);
}

#[test]
fn guard_against_reservation() {
    let reserve = |guard: &ConnectionGuard| guard.handle().try_reserve(bytes(2)).unwrap();
    with_the_guard("guard_against_reservation", reserve, |mut reservation| {
        let _ = reservation.resize(bytes(1));
    });
}

#[test]
fn guard_against_reserve() {
    with_the_guard(
        "guard_against_reserve",
        |guard| guard.handle().clone(),
        |handle| {
            drop(handle.try_reserve(bytes(1)));
        },
    );
}

#[test]
fn guard_against_stream() {
    let open = |guard: &ConnectionGuard| {
        cache(guard);
        guard.handle().try_open_stream(Direction::Outbound).unwrap()
    };
    with_the_guard("guard_against_stream", open, |stream| {
        let owned = stream.try_lease_owned(BLOCK).ok();
        stream.close();
        owned
    });
}

#[test]
fn guard_against_open_stream() {
    with_the_guard(
        "guard_against_open_stream",
        |guard| guard.handle().clone(),
        |handle| {
            drop(handle.try_open_stream(Direction::Inbound));
        },
    );
}

#[test]
fn guard_after_forgotten_borrowed_lease() {
    let forget_one = |guard: &ConnectionGuard| {
        forget(lease(guard));
        guard.handle().clone()
    };
    with_the_guard("guard_after_forgotten_borrowed_lease", forget_one, |handle| {
        let _ = handle.close();
    });
}

#[test]
fn guard_against_a_report() {
    model("guard_against_a_report", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited());
        let guard = admit(&governor);
        let pinned = pinned(&guard);
        let same = governor.clone();
        let ((), snapshot) = race(|| drop(guard), move || same.snapshot());
        assert_eq!(snapshot.totals.outstanding_bytes, bytes(1), "a lease was missed");
        ended(&governor, pinned);
    });
}

#[test]
fn both_against_pin() {
    both("both_against_pin", owned, |mut owned| {
        pin_and_mark(&mut owned);
        owned
    });
}

#[test]
fn both_against_owned_drop() {
    both("both_against_owned_drop", owned, drop);
}

#[test]
fn both_against_freeze() {
    both("both_against_freeze", owned, |owned| owned.freeze().ok());
}

#[test]
fn both_against_pinned_drop() {
    both("both_against_pinned_drop", pinned, drop);
}

#[test]
fn both_against_lease_owned() {
    both("both_against_lease_owned", handle, |handle| {
        handle.try_lease_owned(BLOCK).ok()?.into_pinned().ok()
    });
}

#[test]
fn both_against_forgotten_lease() {
    let forget_one = |guard: &ConnectionGuard| {
        forget(lease(guard));
        owned(guard)
    };
    both("both_against_forgotten_lease", forget_one, drop);
}

#[test]
fn both_against_stream() {
    let open =
        |guard: &ConnectionGuard| guard.handle().try_open_stream(Direction::Inbound).unwrap();
    both("both_against_stream", open, |stream| stream.try_lease_owned(BLOCK).ok());
}

/// The connection's record, and the memory below it, last as long as anything needs them: here a
/// lease alone, without guard, handle or governor.
#[test]
fn last_lease_keeps_the_record() {
    model("last_lease_keeps_the_record", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited());
        let guard = admit(&governor);
        let mut pinned = pinned(&guard);
        drop(governor);
        race(
            || drop(guard),
            move || {
                pinned.mark(2);
                drop(pinned);
            },
        );
    });
}

/// As above, for a lease that is revoked under its holder and dropped when all else is gone.
#[test]
fn revoked_lease_keeps_the_record() {
    model("revoked_lease_keeps_the_record", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited());
        let guard = admit(&governor);
        let (mut one, two) = (owned(&guard), owned(&guard));
        drop(governor);
        race(
            || drop(guard),
            move || {
                pin_and_mark(&mut one);
                drop((one, two));
            },
        );
    });
}

/// Two leases that outlive all else are dropped at once, and each empties a slab, which is unmapped
/// after the mutex is let go: the record goes with the one, not under the other's feet.
#[test]
fn last_leases_share_the_record() {
    model("last_leases_share_the_record", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited());
        let guard = admit(&governor);
        let mut all: Vec<_> = (0..=2 * SLAB_BLOCKS).map(|_| pinned(&guard)).collect();
        let (one, two) = (all.pop(), all.swap_remove(SLAB_BLOCKS));
        drop((all, governor, guard));
        race(|| drop(one), move || drop(two));
    });
}

/// As above, of two large leases, which are unmapped after the mutex is let go.
#[test]
fn last_large_leases_share_the_record() {
    model("last_large_leases_share_the_record", Bounds::preemptions(4), || {
        let governor = governor(Limits::unlimited());
        let guard = admit(&governor);
        let large = |guard: &ConnectionGuard| {
            guard.handle().try_lease_owned(64 << 10).unwrap().into_pinned().unwrap()
        };
        let (one, two) = (large(&guard), large(&guard));
        drop((governor, guard));
        race(|| drop(one), move || drop(two));
    });
}

/// What a guard shares with other threads through a borrow ends before it does.
#[test]
fn scoped_borrows_end_before_the_guard() {
    model("scoped_borrows_end_before_the_guard", Bounds::TWO_ON_ONE_WORD, || {
        let governor = governor(Limits::unlimited());
        let guard = Arc::new(admit(&governor));
        let same = guard.clone();
        // The last thread drops the guard.
        race(move || drop(open(&guard)), move || drop(open(&same)));
        all_back(&governor);
    });
}

/// The first lease of a connection makes the record keep itself. Here a close from outside comes
/// meanwhile, and the lease is what is dropped last of all.
#[test]
fn first_lease_against_a_close() {
    model("first_lease_against_a_close", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited());
        let guard = admit(&governor);
        let (one, two) = (guard.handle(), guard.handle().clone());
        let (owned, closed) = race(move || one.try_lease_owned(BLOCK), move || two.close());
        assert!(closed.is_ok());
        drop((guard, governor));
        if let Ok(mut owned) = owned {
            assert!(owned.pin().is_err(), "a lease outlives the close");
        }
    });
}

/// As above, while the guard goes.
#[test]
fn first_lease_keeps_the_record() {
    model("first_lease_keeps_the_record", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited());
        let guard = admit(&governor);
        let handle = guard.handle().clone();
        let ((), owned) = race(|| drop(guard), move || handle.try_lease_owned(BLOCK));
        all_back(&governor);
        drop(governor);
        if let Ok(mut owned) = owned {
            assert!(owned.pin().is_err(), "a lease outlives the close");
        }
    });
}

/// Magazines that hold nothing are left alone by a close. A lease of the second class, which had
/// none, comes meanwhile.
#[test]
fn first_lease_of_a_class_against_a_close() {
    model("first_lease_of_a_class_against_a_close", Bounds::TWO_THREADS, || {
        // A block is the smallest that there can be in a model, and outside the largest.
        let small = if cfg!(leasehold_loom) { BLOCK } else { BLOCK / 2 };
        let large = 2 * small;
        let builder = Governor::builder().size_classes(&[small, large]).fragmentation(0);
        let governor = builder.build().unwrap();
        let guard = admit(&governor);
        let handle = guard.handle().clone();
        let (owned, closed) = race(
            || {
                drop(guard.try_lease(large));
                guard.handle().try_lease_owned(large)
            },
            move || handle.close(),
        );
        assert!(closed.is_ok());
        assert_eq!(at_rest(&governor).arena.in_use_bytes, 0, "a block outlives the close");
        drop((owned, guard));
        all_back(&governor);
    });
}

/// What is left behind counts for no class, and comes off it in the same step as the connection.
#[test]
fn orphan_leaves_its_class() {
    model("orphan_leaves_its_class", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited().class("class", room(1)));
        let admit = || governor.inbound().peer("peer").class("class").try_admit().unwrap();
        let (old, new) = (admit(), admit());
        let pinned = pinned(&old);
        let ((), (leased, new)) =
            race(|| drop(old), move || (new.handle().try_lease_owned(BLOCK), new));
        let leased_bytes = bytes(u64::from(leased.is_ok()));
        assert_eq!(of_class(&governor, "class"), [(0, leased_bytes); 2]);
        drop(leased);
        let leased = new.handle().try_lease_owned(BLOCK);
        assert!(leased.is_ok(), "refused by what was left behind");
        drop(pinned);
        assert_eq!(of_class(&governor, "class"), [(0, bytes(1)); 2]);
        drop((leased, new));
        all_back(&governor);
    });
}
