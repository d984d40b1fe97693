//! One connection's cached blocks: lease, return, refill, trim, flush, and the sweep by a sibling
//! that needs the room.
//!
//! Two threads (eight preemptions) or three (three preemptions) share one guard, or work on
//! connections that have room for one block together. A magazine starts empty or with one idle
//! block, so that all leases fight for the same slot.

use leasehold::{Limits, Scope};
use loom_tests::{
    Arc, BLOCK, Bounds, Mark, admit, all_back, at_rest, bytes, cache, governor, governor_with_room,
    granted, lease, model, race, race3,
};

#[test]
fn leases_of_one_connection() {
    model("leases_of_one_connection", Bounds::TWO_ON_ONE_WORD, || {
        let governor = governor(Limits::unlimited());
        let guard = Arc::new(admit(&governor));
        let same = guard.clone();
        race(|| lease(&guard).mark(1), move || lease(&same).mark(2));
        at_rest(&governor);
        drop(guard);
        all_back(&governor);
    });
}

/// What one user wrote happened before whatever the next one writes to the same block.
#[test]
fn returned_block_is_leased_again() {
    model("returned_block_is_leased_again", Bounds::TWO_ON_ONE_WORD, || {
        let governor = governor_with_room(2);
        let guard = Arc::new(admit(&governor));
        cache(&guard);
        let same = guard.clone();
        race(
            || (0..2).for_each(|_| lease(&guard).mark(1)),
            move || (0..2).for_each(|_| lease(&same).mark(2)),
        );
        at_rest(&governor);
        drop(guard);
        all_back(&governor);
    });
}

#[test]
fn three_threads_on_one_connection() {
    model("three_threads_on_one_connection", Bounds::THREE_THREADS, || {
        let governor = governor_with_room(3);
        let guard = Arc::new(admit(&governor));
        cache(&guard);
        let (second, third) = (guard.clone(), guard.clone());
        race3(
            || lease(&guard).mark(1),
            move || lease(&second).mark(2),
            move || lease(&third).mark(3),
        );
        at_rest(&governor);
        drop(guard);
        all_back(&governor);
    });
}

#[test]
fn lease_against_trim() {
    model("lease_against_trim", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited());
        let guard = Arc::new(admit(&governor));
        cache(&guard);
        let same = guard.clone();
        race(|| (0..2).for_each(|_| lease(&guard).mark(1)), move || same.handle().trim());
        guard.handle().trim();
        assert_eq!(at_rest(&governor).arena.in_use_bytes, 0, "idle blocks after a trim");
        drop(guard);
        all_back(&governor);
    });
}

/// A lease may change its kind and its thread on the way.
#[test]
fn owned_in_one_thread_dropped_in_another() {
    model("owned_in_one_thread_dropped_in_another", Bounds::TWO_ON_ONE_WORD, || {
        let governor = governor(Limits::unlimited());
        let guard = Arc::new(admit(&governor));
        let mut first = lease(&guard);
        first.mark(1);
        let mut first = first.into_owned();
        let same = guard.clone();
        race(
            || {
                let mut second = lease(&guard).into_owned();
                second.pin().unwrap().mark(2);
            },
            move || {
                first.pin().unwrap().mark(3);
                drop(first);
                lease(&same).mark(4);
            },
        );
        at_rest(&governor);
        drop(guard);
        all_back(&governor);
    });
}

/// Frozen blocks come back to the cache that they were leased from.
#[test]
fn frozen_in_one_thread_dropped_in_another() {
    model("frozen_in_one_thread_dropped_in_another", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited());
        let guard = admit(&governor);
        let mut first = lease(&guard);
        first.mark(1);
        let frozen = first.freeze();
        race(|| (0..2).for_each(|_| lease(&guard).mark(2)), move || assert_eq!(frozen[..], [1]));
        at_rest(&governor);
        drop(guard);
        all_back(&governor);
    });
}

/// A request is refused for memory that others use, never for memory that lies idle in a cache.
#[test]
fn idle_block_makes_room() {
    model("idle_block_makes_room", Bounds::THREE_THREADS, || {
        let governor = governor_with_room(1);
        let [idle, one, two] = std::array::from_fn(|_| admit(&governor));
        cache(&idle);
        let (one, two, idle) = race3(
            || (one.handle().try_lease_owned(BLOCK), one),
            move || (two.handle().try_lease_owned(BLOCK), two),
            move || {
                idle.handle().trim();
                idle
            },
        );
        let fit = [&one.0, &two.0].map(|lease| granted(lease, Scope::System));
        assert!(fit[0] != fit[1], "one fits, and one only");
        drop((idle, one, two));
        all_back(&governor);
    });
}

/// A lease from a cache that a sibling sweeps, for it needs what lies idle with two connections. Wherever
/// the sweep finds the leased block, what comes back is not idle again behind the sweep's back: once
/// nothing is out, there is room.
#[test]
fn lease_against_a_sweep() {
    model("lease_against_a_sweep", Bounds::TWO_THREADS, || {
        let governor = governor_with_room(2);
        let [cached, idle, other] = std::array::from_fn(|_| admit(&governor));
        cache(&cached);
        cache(&idle);
        let reserve = || other.handle().try_reserve(bytes(2)).map(drop);
        let (_, cached) = race(
            || granted(&reserve(), Scope::System),
            move || {
                let lease = cached.try_lease(BLOCK).map(|mut lease| lease.mark(2));
                granted(&lease, Scope::System);
                cached
            },
        );
        assert!(granted(&reserve(), Scope::System), "refused by an idle block");
        for guard in [&other, &cached, &idle] {
            lease(guard).mark(3);
        }
        drop((cached, idle, other));
        all_back(&governor);
    });
}

/// As above of one block, with the lease held when the request comes, and a third connection that needs
/// what it gives back.
#[test]
fn return_against_two_sweeps() {
    model("return_against_two_sweeps", Bounds::THREE_THREADS, || {
        let governor = governor_with_room(1);
        let [holder, one, two] = std::array::from_fn(|_| admit(&governor));
        let owned = lease(&holder).into_owned();
        let (one, two, ()) = race3(
            || (one.handle().try_lease_owned(BLOCK), one),
            move || (two.handle().try_lease_owned(BLOCK), two),
            move || drop(owned),
        );
        let fit = [&one.0, &two.0].map(|lease| granted(lease, Scope::System));
        assert!(!(fit[0] && fit[1]), "both had the only block");
        drop((one.0, two.0));
        for guard in [&two.1, &holder, &one.1] {
            lease(guard).mark(3);
        }
        drop((holder, one.1, two.1));
        all_back(&governor);
    });
}

/// A borrowed lease comes back while its connection is tight.
#[test]
fn borrowed_return_against_a_sweep() {
    model("borrowed_return_against_a_sweep", Bounds::preemptions(4), || {
        let governor = governor_with_room(1);
        let (holder, other) = (Arc::new(admit(&governor)), admit(&governor));
        let same = holder.clone();
        race(
            || granted(&other.try_lease(BLOCK).map(|mut lease| lease.mark(1)), Scope::System),
            move || (0..2).for_each(|_| drop(same.try_lease(BLOCK))),
        );
        assert_eq!(at_rest(&governor).totals.outstanding_bytes, 0);
        assert_eq!(holder.handle().usage().unwrap().leased_bytes, bytes(0));
        for guard in [&other, &*holder] {
            lease(guard).mark(2);
        }
        drop((holder, other));
        all_back(&governor);
    });
}

/// An idle block is no reason for a refusal while its connection ends, either.
#[test]
fn idle_block_of_a_closing_connection() {
    model("idle_block_of_a_closing_connection", Bounds::TWO_THREADS, || {
        let governor = governor_with_room(1);
        let (idle, other) = (admit(&governor), admit(&governor));
        cache(&idle);
        let (answer, ()) = race(|| other.handle().try_lease_owned(BLOCK), move || drop(idle));
        assert!(granted(&answer, Scope::System), "refused by an idle block");
        drop((answer, other));
        all_back(&governor);
    });
}

/// What one request has reclaimed another may take first: then the one goes on to reclaim.
#[test]
fn two_requests_for_two_idle_blocks() {
    model("two_requests_for_two_idle_blocks", Bounds::TWO_THREADS, || {
        let governor = governor_with_room(2);
        let [first_idle, second_idle, one, two] = std::array::from_fn(|_| admit(&governor));
        cache(&first_idle);
        cache(&second_idle);
        let (first, (second, two)) = race(
            || one.handle().try_lease_owned(BLOCK),
            move || (two.handle().try_lease_owned(BLOCK), two),
        );
        assert!(granted(&first, Scope::System), "refused by an idle block");
        assert!(granted(&second, Scope::System), "refused by an idle block");
        drop((first, second, first_idle, second_idle, one, two));
        all_back(&governor);
    });
}

/// A request that reclaiming cannot help takes no idle block from another connection.
#[test]
fn hopeless_request_beside_an_idle_block() {
    model("hopeless_request_beside_an_idle_block", Bounds::TWO_THREADS, || {
        let governor = governor_with_room(2);
        let (asks, idle) = (admit(&governor), admit(&governor));
        let held = lease(&asks);
        cache(&idle);
        let (refused, idle) = race(
            || asks.handle().try_reserve(bytes(2)),
            move || {
                lease(&idle).mark(1);
                idle
            },
        );
        assert!(!granted(&refused, Scope::System));
        assert_eq!(idle.handle().usage().unwrap().cached_bytes, bytes(1), "taken in vain");
        drop(held);
        drop((asks, idle));
        all_back(&governor);
    });
}

/// Once nothing is reclaimed any more, connections keep idle blocks again.
#[test]
fn blocks_lie_idle_after_a_sweep() {
    model("blocks_lie_idle_after_a_sweep", Bounds::TWO_THREADS, || {
        let governor = governor_with_room(1);
        let (idle, other) = (admit(&governor), admit(&governor));
        cache(&idle);
        let handle = idle.handle().clone();
        let (owned, _) = race(|| other.handle().try_lease_owned(BLOCK), move || handle.trim());
        assert!(granted(&owned, Scope::System), "refused by an idle block");
        drop(owned);
        other.handle().trim();
        cache(&other);
        drop((idle, other));
        all_back(&governor);
    });
}

/// While a request reclaims, what comes back does not lie idle again: the request may have looked for
/// idle blocks a moment before. At most one block of two is out at any time.
#[test]
fn idle_blocks_that_come_and_go() {
    model("idle_blocks_that_come_and_go", Bounds::preemptions(4), || {
        let governor = governor_with_room(2);
        let [one, two, asks] = std::array::from_fn(|_| admit(&governor));
        cache(&one);
        cache(&two);
        let (asked, both) = race(
            || asks.handle().try_lease_owned(BLOCK),
            move || {
                one.handle().trim();
                two.handle().trim();
                // Below the limit of two, unless the other has its block.
                for guard in [&one, &two] {
                    granted(&guard.try_lease(BLOCK).map(drop), Scope::System);
                }
                (one, two)
            },
        );
        assert!(granted(&asked, Scope::System), "refused by an idle block");
        drop((asked, asks, both));
        all_back(&governor);
    });
}

/// As above, for a request that needs what lies idle with two of three connections. At most one block
/// is out at any time, though a look at one connection after the other may see each of them out.
#[test]
fn idle_blocks_of_several_that_come_and_go() {
    model("idle_blocks_of_several_that_come_and_go", Bounds::preemptions(4), || {
        let governor = governor_with_room(3);
        let [one, two, three, asks] = std::array::from_fn(|_| admit(&governor));
        [&one, &two, &three].into_iter().for_each(cache);
        // In the order in which they are looked at.
        let first = three.handle().try_lease_owned(BLOCK).unwrap();
        let (asked, all) = race(
            || asks.handle().try_reserve(bytes(2)),
            move || {
                drop(first);
                for guard in [&two, &one] {
                    // Loom sees by the mutex that this meets the look: of loads it remembers the last alone.
                    guard.handle().usage().unwrap();
                    granted(&guard.try_lease(BLOCK).map(drop), Scope::System);
                }
                (one, two, three)
            },
        );
        assert!(granted(&asked, Scope::System), "refused by an idle block");
        drop((asked, asks, all));
        all_back(&governor);
    });
}

/// What lies idle with one connection goes to the request of another while the one leases it, closes
/// or gives it up.
#[test]
fn idle_block_is_wanted_by_two() {
    model("idle_block_is_wanted_by_two", Bounds::THREE_THREADS, || {
        let governor = governor_with_room(1);
        let [idle, one, two] = std::array::from_fn(|_| admit(&governor));
        cache(&idle);
        let (one, two, idle) = race3(
            || (one.handle().try_lease_owned(BLOCK), one),
            move || (two.handle().try_lease_owned(BLOCK), two),
            move || (idle.handle().try_lease_owned(BLOCK), idle),
        );
        let fit = [&one.0, &two.0, &idle.0].map(|lease| granted(lease, Scope::System));
        assert_eq!(fit.iter().filter(|fit| **fit).count(), 1, "one fits, and one only");
        at_rest(&governor);
        drop((idle, one, two));
        all_back(&governor);
    });
}

/// As above, for requests that need what lies idle with two connections each.
#[test]
fn two_requests_for_four_idle_blocks() {
    model("two_requests_for_four_idle_blocks", Bounds::preemptions(2), || {
        let governor = governor_with_room(4);
        let idle: [_; 4] = std::array::from_fn(|_| admit(&governor));
        idle.iter().for_each(cache);
        let [one, two] = std::array::from_fn(|_| admit(&governor));
        let (first, (second, two)) = race(
            || one.handle().try_reserve(bytes(2)),
            move || (two.handle().try_reserve(bytes(2)), two),
        );
        assert!(granted(&first, Scope::System), "refused by an idle block");
        assert!(granted(&second, Scope::System), "refused by an idle block");
        drop((first, second, idle, one, two));
        all_back(&governor);
    });
}
