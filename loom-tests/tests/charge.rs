//! Charges at a limit: all scopes or none, never above a limit, and refused only if a limit would
//! be exceeded by what others really have.
//!
//! Two connections (eight preemptions) or three (three preemptions) ask for more than there is room
//! for, at every level of the tree. Leases are kept until all have answered, so the number that
//! were granted is exact.

use leasehold::{
    ConnectionGuard, Direction, Governor, LeaseError, Limits, OwnedLease, Priority, Scope,
    ScopeLimits,
};
use loom_tests::{
    Arc, BLOCK, Bounds, admit, all_back, at_rest, bytes, cache, governor, governor_with_room,
    granted, model, race, race3, room,
};

type Answer = (Result<OwnedLease, LeaseError>, ConnectionGuard);

/// A connection that belongs to one peer and one class.
fn related(governor: &Governor) -> ConnectionGuard {
    governor.inbound().peer("peer").class("class").try_admit().unwrap()
}

fn ask(guard: ConnectionGuard) -> Answer {
    (guard.handle().try_lease_owned(BLOCK), guard)
}

/// Two connections ask for the last block of a scope that both are in.
fn last_block(
    name: &str,
    scope: Scope,
    limits: Limits,
    admit: impl Fn(&Governor) -> ConnectionGuard + Send + Sync + 'static,
) {
    model(name, Bounds::TWO_THREADS, move || {
        let governor = governor(limits.clone());
        let (one, two) = (admit(&governor), admit(&governor));
        let (one, two) = race(|| ask(one), move || ask(two));
        assert!(granted(&one.0, scope) != granted(&two.0, scope), "one fits, and one only");
        assert_eq!(at_rest(&governor).scope(Scope::System).usage.memory, bytes(1));
        drop((one, two));
        all_back(&governor);
    });
}

#[test]
fn last_block_of_the_system() {
    let limits = Limits::unlimited().system(room(1));
    last_block("last_block_of_the_system", Scope::System, limits, related);
}

#[test]
fn last_block_of_the_transient_scope() {
    let limits = Limits::unlimited().transient(room(1));
    last_block("last_block_of_the_transient_scope", Scope::Transient, limits, admit);
}

#[test]
fn last_block_of_a_peer() {
    let limits = Limits::unlimited().peer(room(1));
    last_block("last_block_of_a_peer", Scope::Peer, limits, related);
}

#[test]
fn last_block_of_a_class() {
    let limits = Limits::unlimited().class("class", room(1));
    last_block("last_block_of_a_class", Scope::Class, limits, related);
}

#[test]
fn last_block_of_a_connection() {
    model("last_block_of_a_connection", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited().connection(room(1)));
        let guard = admit(&governor);
        let handle = guard.handle().clone();
        let (one, two) =
            race(|| guard.handle().try_lease_owned(BLOCK), move || handle.try_lease_owned(BLOCK));
        assert!(granted(&one, Scope::Connection) != granted(&two, Scope::Connection));
        drop((one, two, guard));
        all_back(&governor);
    });
}

/// A stream's budget is asked before the connection's, and comes back with its leases.
#[test]
fn last_block_of_a_stream() {
    model("last_block_of_a_stream", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited().stream(room(1)));
        let guard = admit(&governor);
        let stream = Arc::new(guard.handle().try_open_stream(Direction::Inbound).unwrap());
        let same = stream.clone();
        let (one, two) = race(
            || stream.try_lease_owned(BLOCK).map(drop),
            move || same.try_reserve(bytes(1)).map(drop),
        );
        // The request that is refused came while the other held the block.
        assert!(granted(&one, Scope::Stream) || granted(&two, Scope::Stream));
        assert_eq!(stream.usage().memory, 0);
        drop((stream, guard));
        all_back(&governor);
    });
}

/// Of two requests that keep what they get one is refused, though the connection may have a block for it.
fn one_of_two_on_a_stream(name: &str, cached: bool) {
    model(name, Bounds::TWO_THREADS, move || {
        let governor = governor(Limits::unlimited().stream(room(1)));
        let guard = admit(&governor);
        if cached {
            cache(&guard);
        }
        let stream = Arc::new(guard.handle().try_open_stream(Direction::Inbound).unwrap());
        let same = stream.clone();
        let (one, two) = race(|| stream.try_lease_owned(BLOCK), move || same.try_reserve(bytes(1)));
        assert!(granted(&one, Scope::Stream) != granted(&two, Scope::Stream));
        assert_eq!(stream.usage().memory, bytes(1));
        drop((one, two, stream, guard));
        all_back(&governor);
    });
}

#[test]
fn lease_against_reservation_on_a_stream() {
    one_of_two_on_a_stream("lease_against_reservation_on_a_stream", false);
}

#[test]
fn lease_of_an_idle_block_against_reservation_on_a_stream() {
    let name = "lease_of_an_idle_block_against_reservation_on_a_stream";
    one_of_two_on_a_stream(name, true);
}

#[test]
fn reservation_against_lease() {
    model("reservation_against_lease", Bounds::TWO_THREADS, || {
        let governor = governor_with_room(1);
        let (one, two) = (admit(&governor), admit(&governor));
        let (reserved, leased) = race(|| one.handle().try_reserve(bytes(1)), move || ask(two));
        assert!(granted(&reserved, Scope::System) != granted(&leased.0, Scope::System));
        at_rest(&governor);
        drop((reserved, one, leased));
        all_back(&governor);
    });
}

/// No request is refused because of a charge that does not last: what a class refuses was never seen in
/// the scopes that were asked before it.
#[test]
fn refused_charge_is_never_seen() {
    model("refused_charge_is_never_seen", Bounds::TWO_THREADS, || {
        let limits = Limits::unlimited().transient(room(1)).class("class", room(0));
        let governor = governor(limits);
        let fits = admit(&governor);
        let never = governor.inbound().class("class").try_admit().unwrap();
        let (fits, never) = race(|| ask(fits), move || ask(never));
        assert!(granted(&fits.0, Scope::Transient), "refused by a charge that did not last");
        assert!(never.0.is_err());
        drop((fits, never));
        all_back(&governor);
    });
}

#[test]
fn last_connection() {
    model("last_connection", Bounds::TWO_THREADS, || {
        let governor =
            governor(Limits::unlimited().system(ScopeLimits::unlimited().connections(1)));
        let same = governor.clone();
        let (one, two) = race(
            || governor.inbound().peer("one").try_admit(),
            move || same.outbound().peer("two").try_admit(),
        );
        assert!(one.is_ok() != two.is_ok(), "one fits, and one only");
        assert_eq!(at_rest(&governor).rows(Scope::Peer).count(), 1);
        drop((one, two));
        all_back(&governor);
    });
}

#[test]
fn last_stream() {
    model("last_stream", Bounds::TWO_THREADS, || {
        let limits = Limits::unlimited().system(ScopeLimits::unlimited().streams(1));
        let governor = governor(limits);
        let (one, two) = (admit(&governor), admit(&governor));
        let (one_stream, two_stream) = race(
            || one.handle().try_open_stream(Direction::Inbound),
            move || (two.handle().try_open_stream(Direction::Outbound), two),
        );
        assert!(granted(&one_stream, Scope::System) != granted(&two_stream.0, Scope::System));
        drop((one_stream, one, two_stream));
        all_back(&governor);
    });
}

#[test]
fn two_of_three() {
    model("two_of_three", Bounds::THREE_THREADS, || {
        let governor = governor_with_room(2);
        let [one, two, three] = std::array::from_fn(|_| admit(&governor));
        let (one, two, three) = race3(|| ask(one), move || ask(two), move || ask(three));
        let fit = [&one.0, &two.0, &three.0].map(|lease| granted(lease, Scope::System));
        assert_eq!(fit.into_iter().filter(|fit| *fit).count(), 2);
        at_rest(&governor);
        drop((one, two, three));
        all_back(&governor);
    });
}

/// At low priority two of five blocks can be had. The request at the highest priority gets its
/// block in any order; of those at the lowest one fits, and one only.
#[test]
fn low_against_critical() {
    model("low_against_critical", Bounds::THREE_THREADS, || {
        let governor = governor_with_room(5);
        let [one, two, three] = std::array::from_fn(|_| admit(&governor));
        let held = one.handle().try_reserve(bytes(1)).unwrap();
        let low = |guard: ConnectionGuard| {
            (guard.handle().request().priority(Priority::Low).try_lease_owned(BLOCK), guard)
        };
        let (one, two, three) = race3(|| low(one), move || low(two), move || ask(three));
        assert!(granted(&three.0, Scope::System), "refused although there is room");
        let low = [&one.0, &two.0].map(|lease| granted(lease, Scope::System));
        assert!(low != [true, true], "above the share of its priority");
        let fit = low.into_iter().filter(|fit| *fit).count() as u64;
        assert_eq!(at_rest(&governor).scope(Scope::System).usage.memory, bytes(2 + fit));
        drop((held, one, two, three));
        all_back(&governor);
    });
}

/// An idle block is charged already, but a lease of it fills the share of its priority too; and
/// another may lease it the fast way meanwhile.
fn low_against_critical_for_an_idle_block(
    name: &str,
    in_use: u64,
    low_fits: impl Fn(bool) -> bool + Send + Sync + 'static,
) {
    model(name, Bounds::TWO_THREADS, move || {
        let governor = governor_with_room(5);
        let guard = admit(&governor);
        let held = guard.handle().try_reserve(bytes(in_use)).unwrap();
        cache(&guard);
        let handle = guard.handle().clone();
        let (low, critical) = race(
            || guard.handle().request().priority(Priority::Low).try_lease_owned(BLOCK),
            move || handle.try_lease_owned(BLOCK),
        );
        assert!(granted(&critical, Scope::System), "refused although there is room");
        let fits = granted(&low, Scope::System);
        assert!(low_fits(fits), "the share of its priority");
        let usage = at_rest(&governor).scope(Scope::System).usage.memory;
        assert_eq!(usage, bytes(in_use + 1 + u64::from(fits)));
        drop((held, low, critical, guard));
        all_back(&governor);
    });
}

#[test]
fn low_for_an_idle_block_within_its_share() {
    let name = "low_for_an_idle_block_within_its_share";
    low_against_critical_for_an_idle_block(name, 1, |_| true);
}

#[test]
fn low_for_an_idle_block_beyond_its_share() {
    let name = "low_for_an_idle_block_beyond_its_share";
    low_against_critical_for_an_idle_block(name, 2, |fits| !fits);
}
