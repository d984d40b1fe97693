//! Changing limits while they are asked: one step for the whole tree.
//!
//! Two threads, eight preemptions: one changes the limits, and goes on under what it set.

use leasehold::{Direction, Governor, Limits, Observe, PeerKey, Scope, ScopeLimits};
use loom_tests::{
    BLOCK, Bounds, admit, all_back, at_rest, bytes, cache, governor, granted, lease, model, race,
    room,
};

/// Whatever the order, one of the two gets the block that the limit in force allows: no charge is
/// above it, and none is refused below it.
fn one_fits(
    name: &str,
    before: impl Fn() -> Limits + Send + Sync + 'static,
    set_to_one: impl Fn(&Governor) + Send + Sync + 'static,
) {
    model(name, Bounds::TWO_THREADS, move || {
        let governor = governor(before());
        let admit = || governor.inbound().peer("peer").try_admit().unwrap();
        let (one, two) = (admit(), admit());
        let (one_lease, two) = race(
            || {
                set_to_one(&governor);
                one.handle().try_lease_owned(BLOCK)
            },
            move || (two.handle().try_lease_owned(BLOCK), two),
        );
        assert!(granted(&one_lease, Scope::Peer) != granted(&two.0, Scope::Peer));
        drop((one_lease, one, two));
        all_back(&governor);
    });
}

/// As [`one_fits`], for the limits of every peer.
fn one_fits_each(name: &str, before: u64) {
    let of = |blocks| Limits::unlimited().peer(room(blocks));
    one_fits(name, move || of(before), move |governor| governor.set_limits(of(1)).unwrap());
}

#[test]
fn lower_against_lease() {
    one_fits_each("lower_against_lease", 2);
}

#[test]
fn raise_against_lease() {
    one_fits_each("raise_against_lease", 0);
}

/// What is above a lowered limit stays, and only falls.
#[test]
fn lower_below_use() {
    model("lower_below_use", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited().system(room(2)));
        let (one, two) = (admit(&governor), admit(&governor));
        let held = one.handle().try_reserve(bytes(1)).unwrap();
        let (refused, two) = race(
            || {
                governor.set_limits(Limits::unlimited().system(room(0))).unwrap();
                one.try_lease(BLOCK).map(drop)
            },
            move || (two.handle().try_lease_owned(BLOCK), two),
        );
        assert!(!granted(&refused, Scope::System));
        let above = at_rest(&governor).scope(Scope::System).usage.memory;
        assert_eq!(above, bytes(1 + u64::from(two.0.is_ok())));
        drop((held, one, two));
        all_back(&governor);
    });
}

/// Of two changes one comes last, in every scope and in the arena.
#[test]
fn two_changes_at_once() {
    model("two_changes_at_once", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited());
        let guard = admit(&governor);
        // Idle blocks, so that a lease is asked for the fast way first.
        drop([lease(&guard), lease(&guard)]);
        let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
        let of = |blocks| Limits::unlimited().system(room(8 + blocks)).stream(room(blocks));
        let (narrow, wide) = (of(1), of(2));
        let same = governor.clone();
        race(|| governor.set_limits(narrow).unwrap(), move || same.set_limits(wide).unwrap());
        let wide = at_rest(&governor).scope(Scope::System).limits == room(8 + 2);
        let leases = [stream.try_lease_owned(BLOCK), stream.try_lease_owned(BLOCK)];
        let fit = leases.each_ref().map(|lease| granted(lease, Scope::Stream));
        assert_eq!(fit, [true, wide], "the limits are of two different changes");
        drop(leases);
        drop((stream, guard));
        all_back(&governor);
    });
}

/// A connection is admitted under the limit in force, and counts under the next one.
#[test]
fn admission_against_lower_limits() {
    model("admission_against_lower_limits", Bounds::TWO_THREADS, || {
        let of = |connections: u64| {
            Limits::unlimited().system(ScopeLimits::unlimited().connections(connections))
        };
        let governor = governor(of(2));
        let same = governor.clone();
        let (late, early) = race(
            || {
                governor.set_limits(of(1)).unwrap();
                governor.inbound().try_admit()
            },
            move || same.inbound().try_admit(),
        );
        assert!(late.is_ok() != early.is_ok(), "one fits, and one only");
        assert_eq!(at_rest(&governor).scope(Scope::System).usage.connections(), 1);
        drop((late, early));
        all_back(&governor);
    });
}

/// A peer that connects while it is given limits of its own has them, whichever came first.
#[test]
fn admission_against_limits_of_its_peer() {
    model("admission_against_limits_of_its_peer", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited());
        let same = governor.clone();
        let key = PeerKey::new("peer").unwrap();
        let (before, guard) = race(
            || governor.set_peer_limits(&key, room(0)),
            move || same.inbound().peer("peer").try_admit().unwrap(),
        );
        assert_eq!(before, None);
        assert!(
            !granted(&guard.handle().try_reserve(1).map(drop), Scope::Peer),
            "limits were missed"
        );
        drop(guard);
        all_back(&governor);
    });
}

/// As [`one_fits`], for the limits of one peer.
fn one_fits_a_peer(name: &str, before: u64) {
    let key = || PeerKey::new("peer").unwrap();
    one_fits(
        name,
        move || Limits::unlimited().peer_override(key(), room(before)),
        move |governor| {
            governor.set_peer_limits(&key(), room(1));
        },
    );
}

#[test]
fn lower_limits_of_a_peer_against_lease() {
    one_fits_a_peer("lower_limits_of_a_peer_against_lease", 2);
}

#[test]
fn raise_limits_of_a_peer_against_lease() {
    one_fits_a_peer("raise_limits_of_a_peer_against_lease", 0);
}

/// A governor whose one limit, room for one block, is only observed.
fn observing() -> Governor {
    let limits = Limits::unlimited().system(room(1));
    governor(limits.observe(Observe::none().scope(Scope::System)))
}

/// What would have been refused is counted as often as it would have been, and no oftener.
#[test]
fn observed_once() {
    model("observed_once", Bounds::TWO_THREADS, || {
        let governor = observing();
        let (one, two) = (admit(&governor), admit(&governor));
        let (first, (second, two)) = race(
            || one.handle().try_lease_owned(BLOCK),
            move || (two.handle().try_lease_owned(BLOCK), two),
        );
        assert!(first.is_ok() && second.is_ok(), "refused by a scope that only observes");
        let snapshot = at_rest(&governor);
        let observed: Vec<_> = snapshot.observed.iter().map(|row| (row.scope, row.count)).collect();
        assert_eq!(observed, [(Scope::System, 1)]);
        assert_eq!(snapshot.totals.refused, 0);
        drop((first, second, one, two));
        all_back(&governor);
    });
}

/// A stream's limit is held against what is in use when it is in force.
#[test]
fn lower_a_streams_limit_after_a_return() {
    model("lower_a_streams_limit_after_a_return", Bounds::preemptions(3), || {
        let governor = governor(Limits::unlimited().stream(room(3)));
        let guard = admit(&governor);
        let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
        let held = stream.try_reserve(bytes(2)).unwrap();
        let same = governor.clone();
        let (reserved, ()) = race(
            || stream.try_reserve(bytes(1)),
            move || {
                drop(held);
                same.set_limits(Limits::unlimited().stream(room(1))).unwrap();
            },
        );
        drop((reserved.expect("there was room at every moment"), stream, guard));
        all_back(&governor);
    });
}

/// A request that idle blocks would have covered is not counted where a limit is only observed.
#[test]
fn idle_block_is_not_observed() {
    model("idle_block_is_not_observed", Bounds::TWO_THREADS, || {
        let governor = observing();
        let (idle, other) = (admit(&governor), admit(&governor));
        cache(&idle);
        let handle = idle.handle().clone();
        let (owned, _) = race(|| other.handle().try_lease_owned(BLOCK), move || handle.trim());
        assert!(owned.is_ok(), "refused by a scope that only observes");
        assert_eq!(at_rest(&governor).observed, [], "an idle block would have been in the way");
        drop((owned, idle, other));
        all_back(&governor);
    });
}
