//! Limits by address, at a limit of one: exact counts, whatever comes and goes at the same time.
//!
//! Two threads (eight preemptions), or three (three or four preemptions).

use std::net::{IpAddr, Ipv4Addr};

use leasehold::{
    AdmitError, AllowList, BindError, ConnectionGuard, Governor, Limits, PrefixLimits, Rate, Scope,
    ScopeLimits, SubnetLimits,
};
use loom_tests::{Bounds, all_back, at_rest, bytes, governor, model, race, race3, room};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

type Answer = Result<ConnectionGuard, AdmitError>;

/// These limits for each address.
fn of_each(limits: PrefixLimits) -> Limits {
    Limits::unlimited().subnets(SubnetLimits::unlimited().ipv4(32, limits))
}

/// So many connections from each address.
fn each(connections: u64) -> Limits {
    of_each(PrefixLimits::unlimited().connections(connections))
}

fn from(governor: &Governor, address: IpAddr) -> Answer {
    governor.inbound().remote(address).try_admit()
}

/// Whether a connection was admitted, or else refused by its subnet.
#[track_caller]
fn admitted(answer: &Answer) -> bool {
    let refused = answer.as_ref().err().map(|error| error.refused().unwrap().scope());
    assert!(matches!(refused, None | Some(Scope::Subnet)), "refused by another scope");
    refused.is_none()
}

/// Whether a connection may come from elsewhere, or else was refused there.
#[track_caller]
fn moved(answer: &Result<(), BindError>) -> bool {
    match answer {
        Ok(()) => true,
        Err(BindError::Refused(refused)) if refused.scope() == Scope::Subnet => false,
        Err(other) => panic!("neither moved nor refused: {other}"),
    }
}

/// An address has room for this many connections, of one.
#[track_caller]
fn has_room(governor: &Governor, address: IpAddr, expected: bool) {
    assert_eq!(admitted(&from(governor, address)), expected, "connections from {address}");
}

/// Nothing is left of anything, and at neither address a place is taken.
#[track_caller]
fn all_places_back(governor: &Governor) {
    has_room(governor, HERE, true);
    has_room(governor, THERE, true);
    all_back(governor);
}

/// Of two connections from one address at once, one is admitted; its place is free again if `is_free`.
fn one_of_two(name: &str, limits: impl Fn() -> Limits + Send + Sync + 'static, is_free: bool) {
    model(name, Bounds::TWO_THREADS, move || {
        let governor = governor(limits());
        let same = governor.clone();
        let (one, two) = race(|| from(&governor, HERE), move || from(&same, HERE));
        assert!(admitted(&one) != admitted(&two), "one fits, and one only");
        assert_eq!(at_rest(&governor).scope(Scope::System).usage.connections(), 1);
        drop((one, two));
        has_room(&governor, HERE, is_free);
        all_back(&governor);
    });
}

#[test]
fn two_admissions() {
    one_of_two("two_admissions", || each(1), true);
}

/// Once in a lifetime.
#[test]
fn two_admissions_at_a_rate() {
    let once = || {
        let rate = Rate::new(Rate::MAX_INTERVAL, std::num::NonZeroU32::MIN);
        of_each(PrefixLimits::unlimited().rate(rate))
    };
    one_of_two("two_admissions_at_a_rate", once, false);
}

/// A connection that comes after another ended has its place, and no two have it.
#[test]
fn admission_against_a_drop() {
    model("admission_against_a_drop", Bounds::TWO_THREADS, || {
        let governor = governor(each(1));
        let old = from(&governor, HERE).unwrap();
        let same = governor.clone();
        let ((), new) = race(|| drop(old), move || from(&same, HERE));
        has_room(&governor, HERE, !admitted(&new));
        drop(new);
        all_places_back(&governor);
    });
}

/// No two have the place of a connection that ended, nor that of one that was refused.
#[test]
fn two_admissions_against_a_drop() {
    model("two_admissions_against_a_drop", Bounds::THREE_OF_FEW_STEPS, || {
        let governor = governor(each(1));
        let old = from(&governor, HERE).unwrap();
        let (second, third) = (governor.clone(), governor.clone());
        let ((), one, two) =
            race3(|| drop(old), move || from(&second, HERE), move || from(&third, HERE));
        let fit = [admitted(&one), admitted(&two)];
        assert!(fit != [true, true], "two connections from an address that may have one");
        has_room(&governor, HERE, fit == [false, false]);
        drop((one, two));
        all_back(&governor);
    });
}

/// A connection that the tree refuses takes no place at the door, not even for a moment.
#[test]
fn refused_admission_takes_no_place() {
    model("refused_admission_takes_no_place", Bounds::TWO_THREADS, || {
        let governor = governor(each(1).class("full", ScopeLimits::blocked()));
        let same = governor.clone();
        let (fits, never) = race(
            || from(&governor, HERE),
            move || same.inbound().remote(HERE).class("full").try_admit().map(drop),
        );
        assert!(never.is_err());
        assert!(admitted(&fits), "refused because of one that was not admitted");
        drop(fits);
        all_back(&governor);
    });
}

/// A close from outside leaves the place taken: the transport is still open.
#[test]
fn place_is_taken_until_the_guard_goes() {
    model("place_is_taken_until_the_guard_goes", Bounds::TWO_THREADS, || {
        let governor = governor(each(1));
        let guard = from(&governor, HERE).unwrap();
        let handle = guard.handle();
        let same = governor.clone();
        let (closed, refused) = race(|| handle.close(), move || admitted(&from(&same, HERE)));
        assert!(closed.is_ok() && !refused);
        drop(guard);
        all_places_back(&governor);
    });
}

#[test]
fn admission_against_lower_limits() {
    model("admission_against_lower_limits", Bounds::TWO_THREADS, || {
        let governor = governor(each(1));
        let same = governor.clone();
        let (late, early) = race(
            || {
                governor.set_limits(each(0)).unwrap();
                from(&governor, HERE)
            },
            move || from(&same, HERE),
        );
        assert!(!admitted(&late), "admitted above the limit in force");
        governor.set_limits(each(1)).unwrap();
        has_room(&governor, HERE, !admitted(&early));
        drop(early);
        all_back(&governor);
    });
}

/// What is admitted while nothing is counted counts once there is a limit.
#[test]
fn admission_against_a_new_limit() {
    model("admission_against_a_new_limit", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited());
        let same = governor.clone();
        let ((), first) = race(|| governor.set_limits(each(1)).unwrap(), move || from(&same, HERE));
        assert!(admitted(&first));
        has_room(&governor, HERE, false);
        drop(first);
        all_places_back(&governor);
    });
}

#[test]
fn rebind_against_admission() {
    model("rebind_against_admission", Bounds::TWO_THREADS, || {
        let governor = governor(each(1));
        let guard = from(&governor, HERE).unwrap();
        let same = governor.clone();
        let (rebound, new) =
            race(|| guard.handle().rebind_source(THERE), move || from(&same, THERE));
        assert!(moved(&rebound) != admitted(&new), "one fits, and one only");
        has_room(&governor, HERE, rebound.is_ok());
        has_room(&governor, THERE, false);
        drop((guard, new));
        all_places_back(&governor);
    });
}

/// Of two connections that would each have the other's address, neither gets it: neither lets go of its
/// own first.
#[test]
fn rebind_against_rebind() {
    model("rebind_against_rebind", Bounds::TWO_THREADS, || {
        let governor = governor(each(1));
        let (one, two) = (from(&governor, HERE).unwrap(), from(&governor, THERE).unwrap());
        let (first, (second, two)) = race(
            || one.handle().rebind_source(THERE),
            move || (two.handle().rebind_source(HERE), two),
        );
        assert!(!moved(&first) && !moved(&second));
        drop((one, two));
        all_places_back(&governor);
    });
}

#[test]
fn rebind_against_a_close() {
    model("rebind_against_a_close", Bounds::TWO_THREADS, || {
        let governor = governor(each(1));
        let guard = from(&governor, HERE).unwrap();
        let handle = guard.handle().clone();
        let (rebound, closed) =
            race(|| guard.handle().rebind_source(THERE), move || handle.close());
        assert!(closed.is_ok());
        assert!(matches!(rebound, Ok(()) | Err(BindError::Closed)));
        has_room(&governor, HERE, rebound.is_ok());
        has_room(&governor, THERE, rebound.is_err());
        drop(guard);
        all_places_back(&governor);
    });
}

/// A connection that was let in on trust, and turns out to be another peer's, counts at the door like
/// any.
#[test]
fn end_of_trust_against_admission() {
    model("end_of_trust_against_admission", Bounds::TWO_THREADS, || {
        let friend = leasehold::PeerKey::new("friend").unwrap();
        let allow = AllowList::new().peer_in(friend, "192.0.2.1/32".parse().unwrap());
        let governor = governor(each(1).allow(allow));
        let first = from(&governor, HERE).unwrap();
        let trusted = from(&governor, HERE).unwrap();
        drop(first);
        assert_eq!(governor.snapshot().scope(Scope::AllowlistedSystem).usage.connections(), 1);
        let same = governor.clone();
        let peer_admits = move || same.inbound().remote(HERE).peer("stranger").try_admit();
        let (answer, other) = race(|| trusted.handle().bind_peer("stranger"), peer_admits);
        assert!(moved(&answer) != admitted(&other), "one fits, and one only");
        drop((trusted, other));
        let allowed = governor.snapshot().scope(Scope::AllowlistedSystem).usage.connections();
        assert_eq!(allowed, 0);
        governor.set_limits(each(1)).unwrap();
        let last = from(&governor, HERE);
        assert!(admitted(&last), "a place was lost");
        has_room(&governor, HERE, false);
        drop(last);
        all_back(&governor);
    });
}

/// A connection counts at the door, is promoted for the memory it needs, and turns out to come from
/// elsewhere: it keeps no place that it no longer comes from, takes none away, and has one there if
/// it `counts` there.
fn promoted_comes_from_elsewhere(name: &str, allowed: &'static str, counts: bool) {
    model(name, Bounds::TWO_THREADS, move || {
        let allow = AllowList::new().network(allowed.parse().unwrap());
        let governor = governor(each(1).system(room(0)).allow(allow));
        let guard = from(&governor, HERE).unwrap();
        drop(guard.handle().try_reserve(bytes(1)).unwrap());
        assert_eq!(governor.snapshot().scope(Scope::AllowlistedSystem).usage.connections(), 1);
        guard.handle().rebind_source(THERE).unwrap();
        has_room(&governor, THERE, !counts);
        drop(guard);
        governor.set_limits(each(1)).unwrap();
        all_places_back(&governor);
    });
}

#[test]
fn promoted_comes_from_an_allowed_address() {
    promoted_comes_from_elsewhere("promoted_comes_from_an_allowed_address", "192.0.2.0/24", false);
}

#[test]
fn promoted_comes_from_an_ordinary_address() {
    promoted_comes_from_elsewhere("promoted_comes_from_an_ordinary_address", "192.0.2.1/32", true);
}
