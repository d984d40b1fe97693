//! Connections that the allow list covers, as they move from the ordinary scopes to their own: in
//! one step, with all they have, and only once the ordinary ones are full.
//!
//! Two threads, eight preemptions.

use std::net::IpAddr;

use leasehold::{
    AllowList, BindError, ConnectionGuard, Direction, Governor, LeaseError, Limits, PeerKey, Scope,
    ScopeLimits, Snapshot,
};
use loom_tests::{
    BLOCK, Bounds, admit, all_back, at_rest, bytes, cache, governor, granted, model, race, room,
};

const FRIEND: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

/// One address is covered. The ordinary scopes have room for so many blocks, the others for two.
fn limits(ordinary: u64) -> Limits {
    let allow = AllowList::new().network("192.0.2.1/32".parse().unwrap());
    Limits::unlimited().system(room(ordinary)).allowlisted_system(room(2)).allow(allow)
}

fn friend(governor: &Governor) -> ConnectionGuard {
    governor.inbound().remote(FRIEND).try_admit().unwrap()
}

/// The blocks and the connections of the ordinary system, and of the allow-listed one.
#[track_caller]
fn systems(snapshot: &Snapshot) -> [(u64, u64); 2] {
    let systems = [
        (Scope::System, Scope::Transient),
        (Scope::AllowlistedSystem, Scope::AllowlistedTransient),
    ];
    systems.map(|(system, transient)| {
        let usage = snapshot.scope(system).usage;
        assert_eq!(usage, snapshot.scope(transient).usage, "no connection has a peer");
        (usage.memory / bytes(1), usage.connections())
    })
}

#[test]
fn promotion_against_a_close() {
    model("promotion_against_a_close", Bounds::TWO_THREADS, || {
        let governor = governor(limits(1));
        let guard = friend(&governor);
        let held = guard.handle().try_reserve(bytes(1)).unwrap();
        let handle = guard.handle().clone();
        let (owned, closed) =
            race(|| guard.handle().try_lease_owned(BLOCK), move || handle.close());
        assert!(closed.is_ok());
        assert!(matches!(owned, Ok(_) | Err(LeaseError::Closed)));
        // It has moved, unless the close came first; nothing is charged in either place.
        let [ordinary, allowed] = systems(&at_rest(&governor));
        assert!(owned.is_err() || allowed == (0, 1));
        assert_eq!((ordinary.0, allowed.0, ordinary.1 + allowed.1), (0, 0, 1));
        drop((guard, held, owned));
        all_back(&governor);
    });
}

#[test]
fn promotion_against_the_guard() {
    model("promotion_against_the_guard", Bounds::TWO_THREADS, || {
        let governor = governor(limits(1));
        let guard = friend(&governor);
        let held = guard.handle().try_reserve(bytes(1)).unwrap();
        let handle = guard.handle().clone();
        let ((), owned) =
            race(|| drop(guard), move || handle.try_lease_owned(BLOCK).ok()?.into_pinned().ok());
        let left = u64::from(owned.is_some());
        let snapshot = at_rest(&governor);
        assert_eq!(snapshot.scope(Scope::System).usage.memory, 0);
        assert_eq!(snapshot.scope(Scope::AllowlistedSystem).usage.memory, bytes(left));
        drop((held, owned));
        all_back(&governor);
    });
}

/// The last ordinary block goes to the first request. The connection that the allow list covers gets a
/// block either way, and takes what it had along.
#[test]
fn promotion_against_the_last_ordinary_block() {
    model("promotion_against_the_last_ordinary_block", Bounds::TWO_THREADS, || {
        let governor = governor(limits(1));
        let (friend, other) = (friend(&governor), admit(&governor));
        let (owned, (others, other)) = race(
            || friend.handle().try_lease_owned(BLOCK),
            move || (other.handle().try_lease_owned(BLOCK), other),
        );
        assert!(owned.is_ok(), "there is room for what the list covers");
        let expected =
            if granted(&others, Scope::System) { [(1, 1), (1, 1)] } else { [(1, 2), (0, 0)] };
        assert_eq!(systems(&at_rest(&governor)), expected);
        drop((owned, friend, others, other));
        all_back(&governor);
    });
}

/// A promotion leaves its ordinary room to a sibling, which is never refused by less, nor granted
/// more.
#[test]
fn promotion_makes_room_for_a_sibling() {
    model("promotion_makes_room_for_a_sibling", Bounds::TWO_THREADS, || {
        let governor = governor(limits(1));
        let (friend, other) = (friend(&governor), admit(&governor));
        let held = friend.handle().try_reserve(bytes(1)).unwrap();
        let (owned, (others, other)) = race(
            || friend.handle().try_lease_owned(BLOCK),
            move || (other.handle().try_lease_owned(BLOCK), other),
        );
        assert!(owned.is_ok(), "there is room for what the list covers");
        let fits = u64::from(granted(&others, Scope::System));
        assert_eq!(systems(&at_rest(&governor)), [(fits, 1), (2, 1)]);
        drop((held, owned, friend, others, other));
        all_back(&governor);
    });
}

/// Of two connections that the list covers one gets the last allow-listed block.
#[test]
fn last_allowlisted_block() {
    model("last_allowlisted_block", Bounds::TWO_THREADS, || {
        let governor = governor(limits(0).allowlisted_system(room(1)));
        let (one, two) = (friend(&governor), friend(&governor));
        let (first, (second, two)) = race(
            || one.handle().try_lease_owned(BLOCK),
            move || (two.handle().try_lease_owned(BLOCK), two),
        );
        assert!(granted_either(&first) != granted_either(&second), "one fits, and one only");
        // The other stays where it was.
        assert_eq!(systems(&at_rest(&governor)), [(0, 1), (1, 1)]);
        drop((first, second, one, two));
        all_back(&governor);
    });
}

/// Room for one connection that the list covers, with what it has and asks for. The other then finds
/// ordinary room.
#[test]
fn two_promotions() {
    model("two_promotions", Bounds::TWO_THREADS, || {
        let governor = governor(limits(2));
        let (one, two) = (friend(&governor), friend(&governor));
        let held = [
            one.handle().try_reserve(bytes(1)).unwrap(),
            two.handle().try_reserve(bytes(1)).unwrap(),
        ];
        let (first, (second, two)) = race(
            || one.handle().try_reserve(bytes(1)),
            move || (two.handle().try_reserve(bytes(1)), two),
        );
        assert!(first.is_ok() && second.is_ok(), "there is room for both");
        assert_eq!(systems(&at_rest(&governor)), [(2, 1); 2]);
        drop((first, second, held, one, two));
        all_back(&governor);
    });
}

/// Whether a lease was granted, or else refused by one system or the other.
fn granted_either<T>(answer: &Result<T, LeaseError>) -> bool {
    let scope = answer.as_ref().err().map(|error| error.refused().unwrap().scope());
    assert!(matches!(scope, None | Some(Scope::System | Scope::AllowlistedSystem)));
    scope.is_none()
}

/// A promotion takes the idle block along, with its place on the lists: one in the new scopes is not
/// refused because of it.
#[test]
fn idle_block_of_a_promoted_connection() {
    model("idle_block_of_a_promoted_connection", Bounds::TWO_THREADS, || {
        let governor = governor(limits(2));
        let (one, two) = (friend(&governor), friend(&governor));
        cache(&one);
        // From now on the ordinary scopes grant no stream.
        governor.set_limits(limits(2).system(room(2).streams(0))).unwrap();
        let open = |guard: &ConnectionGuard| guard.handle().try_open_stream(Direction::Inbound);
        let promoted = open(&two).unwrap();
        let held = two.handle().try_reserve(bytes(1)).unwrap();
        let (stream, (owned, two)) =
            race(|| open(&one), move || (two.handle().try_lease_owned(BLOCK), two));
        assert!(granted(&owned, Scope::AllowlistedSystem), "refused by an idle block");
        drop((stream, promoted, held, owned, one, two));
        all_back(&governor);
    });
}

/// The last ordinary place of a connection, and one beside it.
#[test]
fn admission_of_a_friend_against_admission() {
    model("admission_of_a_friend_against_admission", Bounds::TWO_THREADS, || {
        let one = ScopeLimits::unlimited().connections(1);
        let governor = governor(limits(0).system(one).allowlisted_system(one));
        let same = governor.clone();
        let (known, other) = race(
            || governor.inbound().remote(FRIEND).try_admit(),
            move || same.inbound().try_admit(),
        );
        assert!(known.is_ok(), "there is room for what the list covers");
        let expected = if other.is_ok() { [(0, 1), (0, 1)] } else { [(0, 1), (0, 0)] };
        assert_eq!(systems(&at_rest(&governor)), expected);
        drop((known, other));
        all_back(&governor);
    });
}

/// A connection that was let in on trust, and is bound to another peer, goes back, if there is room by then.
#[test]
fn end_of_trust_against_the_last_ordinary_place() {
    model("end_of_trust_against_the_last_ordinary_place", Bounds::TWO_THREADS, || {
        let one = ScopeLimits::unlimited().connections(1);
        let friend = PeerKey::new("friend").unwrap();
        let allow = AllowList::new().peer_in(friend, "192.0.2.1/32".parse().unwrap());
        let governor = governor(Limits::unlimited().system(one).allow(allow));
        let first = admit(&governor);
        let trusted = self::friend(&governor);
        drop(first);
        let same = governor.clone();
        let (bound, other) =
            race(|| trusted.handle().bind_peer("stranger"), move || same.inbound().try_admit());
        assert!(bound.is_ok() != other.is_ok(), "one fits, and one only");
        assert!(matches!(bound, Ok(()) | Err(BindError::Refused(_))));
        let snapshot = at_rest(&governor);
        assert_eq!(snapshot.scope(Scope::System).usage.connections(), 1);
        assert_eq!(
            snapshot.scope(Scope::AllowlistedSystem).usage.connections(),
            u64::from(bound.is_err())
        );
        drop((trusted, other));
        all_back(&governor);
    });
}
