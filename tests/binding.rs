//! Where a connection is charged: binding moves everything in one step or nothing at all, and a
//! class is charged beside the peer.

mod common;

use common::{
    KIB, assert_adds_up, assert_nothing_left, charges, class_of, governor, of_class, only_row,
    scope,
};
use leasehold::{
    BindError, ConnectionGuard, Direction, Governor, LeaseError, Limits, PeerKey, Resource, Scope,
    Usage,
};

/// A connection that uses something of everything.
#[allow(dead_code, reason = "kept for their drop")]
struct Busy<'g> {
    lease: leasehold::Lease<'g>,
    owned: leasehold::OwnedLease,
    reservation: leasehold::Reservation,
    streams: [leasehold::StreamGuard; 2],
}

fn work(guard: &ConnectionGuard) -> Busy<'_> {
    drop(guard.try_lease(4096).unwrap());
    Busy {
        lease: guard.try_lease(2048).unwrap(),
        owned: guard.handle().try_lease_owned(100_000).unwrap(),
        reservation: guard.handle().try_reserve(1000).unwrap(),
        streams: [
            guard.handle().try_open_stream(Direction::Inbound).unwrap(),
            guard.handle().try_open_stream(Direction::Outbound).unwrap(),
        ],
    }
}

#[test]
fn binding_moves_everything_from_transient_to_the_peer() {
    let governor = Governor::unlimited();
    let guard = governor.outbound().class("public").weight(50).try_admit().unwrap();
    let busy = work(&guard);
    let before = assert_adds_up(&governor);
    assert_eq!(before.scope(Scope::Transient).usage, before.scope(Scope::System).usage);
    assert_eq!(guard.handle().usage().unwrap().peer, None);

    guard.handle().bind_peer("alice").unwrap();
    let after = assert_adds_up(&governor);
    assert_eq!(after.scope(Scope::System).usage, before.scope(Scope::System).usage);
    assert_eq!(after.scope(Scope::Transient).usage, Usage::default());
    assert_eq!(after.rows(Scope::Peer).count(), 1);
    assert_eq!(only_row(&after, Scope::Peer).peer, PeerKey::new("alice").ok());
    assert_eq!(only_row(&after, Scope::Peer).usage, before.scope(Scope::System).usage);
    assert_eq!(only_row(&after, Scope::Class).usage, before.scope(Scope::System).usage);
    assert_eq!(guard.handle().usage().unwrap().peer, Some(PeerKey::new("alice").unwrap()));
    drop(busy);
    drop(guard);
    assert_nothing_left(&governor);
}

#[test]
fn binding_twice_is_an_error_that_changes_nothing() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let busy = work(&guard);
    guard.handle().bind_peer("alice").unwrap();
    let before = charges(&assert_adds_up(&governor));
    assert_eq!(guard.handle().bind_peer("bob").unwrap_err(), BindError::AlreadyBound);
    assert_eq!(guard.handle().bind_peer("alice").unwrap_err(), BindError::AlreadyBound);
    assert_eq!(charges(&assert_adds_up(&governor)), before);
    let early = governor.inbound().peer("carol").try_admit().unwrap();
    assert_eq!(early.handle().bind_peer("carol").unwrap_err(), BindError::AlreadyBound);
    drop(busy);
}

#[test]
fn binding_after_a_close_is_an_error_that_changes_nothing() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    guard.handle().close().unwrap();
    let before = charges(&assert_adds_up(&governor));
    assert_eq!(guard.handle().bind_peer("alice").unwrap_err(), BindError::Closed);
    assert_eq!(charges(&assert_adds_up(&governor)), before);
    assert!(before.peers.is_empty());
}

#[test]
fn a_peer_key_that_is_too_long_is_an_error_that_changes_nothing() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let error = guard.handle().bind_peer([7; 65]).unwrap_err();
    assert!(matches!(error, BindError::NameTooLong(name) if name.len() == 65));
    assert_eq!(governor.snapshot().rows(Scope::Peer).count(), 0);
    guard.handle().bind_peer([7; 64]).unwrap();
    let other = governor.inbound().try_admit().unwrap();
    other.handle().bind_peer("").unwrap();
    assert_eq!(governor.snapshot().rows(Scope::Peer).count(), 2);
}

#[test]
fn a_refused_bind_changes_nothing_and_may_be_tried_again() {
    let refusing = [
        (scope().memory(100 * KIB), Resource::Memory),
        (scope().connections(1), Resource::Connections),
        (scope().connections_inbound(1), Resource::ConnectionsInbound),
        (scope().streams(3), Resource::Streams),
        (scope().streams_inbound(1), Resource::StreamsInbound),
        (scope().streams_outbound(1), Resource::StreamsOutbound),
        (scope().fds(1), Resource::Fds),
    ];
    for (limits, resource) in refusing {
        let governor = governor(Limits::unlimited().peer(limits));
        let first = governor.inbound().peer("alice").try_admit().unwrap();
        let _streams = [
            first.handle().try_open_stream(Direction::Inbound).unwrap(),
            first.handle().try_open_stream(Direction::Outbound).unwrap(),
        ];
        let guard = governor.inbound().try_admit().unwrap();
        let busy = work(&guard);
        // What is idle may go: it is no part of what has to stay as it was.
        guard.handle().trim();
        let before = charges(&assert_adds_up(&governor));
        let error = guard.handle().bind_peer("alice").unwrap_err();
        let refused = error.refused().unwrap_or_else(|| panic!("{resource}: {error}"));
        assert_eq!((refused.scope(), refused.resource()), (Scope::Peer, resource));
        assert_eq!(charges(&assert_adds_up(&governor)), before, "{resource}");
        assert_eq!(guard.handle().usage().unwrap().peer, None);
        governor.set_limits(Limits::unlimited()).unwrap();
        guard.handle().bind_peer("alice").unwrap();
        assert_eq!(governor.snapshot().scope(Scope::Transient).usage, Usage::default());
        drop(busy);
    }
}

#[test]
fn the_transient_limit_is_free_again_after_binding() {
    let governor = governor(Limits::unlimited().transient(scope().connections(1)));
    let first = governor.inbound().try_admit().unwrap();
    let error = governor.inbound().try_admit().unwrap_err();
    assert_eq!(error.refused().unwrap().scope(), Scope::Transient);
    first.handle().bind_peer("alice").unwrap();
    let second = governor.inbound().try_admit().unwrap();
    assert!(governor.inbound().try_admit().is_err());
    // Who is known beforehand is never transient.
    let _third = governor.inbound().peer("bob").try_admit().unwrap();
    drop(second);
    let _fourth = governor.inbound().try_admit().unwrap();
}

#[test]
fn what_is_charged_after_binding_comes_off_the_peer() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let before_bind = guard.handle().try_lease_owned(4096).unwrap();
    guard.handle().bind_peer("alice").unwrap();
    let after_bind = guard.handle().try_lease_owned(100_000).unwrap();
    drop((before_bind, after_bind));
    guard.handle().trim();
    assert_eq!(only_row(&governor.snapshot(), Scope::Peer).usage.memory, 0);
    assert_eq!(governor.snapshot().scope(Scope::Transient).usage, Usage::default());
}

#[test]
fn a_peer_exists_as_long_as_anything_is_charged_to_it() {
    let governor = Governor::unlimited();
    let first = governor.inbound().peer("alice").try_admit().unwrap();
    let second = governor.inbound().try_admit().unwrap();
    second.handle().bind_peer("alice").unwrap();
    assert_eq!(governor.snapshot().rows(Scope::Peer).count(), 1);
    assert_eq!(only_row(&governor.snapshot(), Scope::Peer).usage.connections(), 2);
    let pinned = first.handle().try_lease_owned(512).unwrap().into_pinned().unwrap();
    drop((first, second));
    assert_eq!(only_row(&governor.snapshot(), Scope::Peer).usage.memory, 512);
    drop(pinned);
    assert_eq!(governor.snapshot().rows(Scope::Peer).count(), 0);
}

#[test]
fn a_class_is_a_second_parent_with_limits_of_its_own() {
    let limits = Limits::unlimited()
        .class("public", scope().connections(2).memory(10 * KIB))
        .class_default(scope().connections(1));
    let governor = governor(limits);
    let admit = |class| governor.inbound().peer("alice").class(class).try_admit();
    let first = admit("public").unwrap();
    let _second = admit("public").unwrap();
    let error = admit("public").unwrap_err();
    assert_eq!(error.refused().unwrap().scope(), Scope::Class);
    // Other classes have what the default says, each for itself.
    let _other = admit("other").unwrap();
    assert!(admit("other").is_err());
    let _third = admit("third").unwrap();
    let _plain = governor.inbound().peer("alice").try_admit().unwrap();

    let _most = first.handle().try_reserve(9 * KIB).unwrap();
    let error = first.try_lease(2048).unwrap_err();
    assert_eq!(error.refused().unwrap().scope(), Scope::Class);
    assert!(matches!(first.handle().try_reserve(11 * KIB), Err(LeaseError::NeverFits(_))));
    let snapshot = governor.snapshot();
    let names: Vec<_> = snapshot.rows(Scope::Class).map(class_of).collect();
    assert_eq!(names, ["other", "public", "third"]);
    assert_eq!(of_class(&snapshot, "public").memory, 9 * KIB);
}

#[test]
fn a_class_name_that_is_too_long_is_refused_where_it_is_given() {
    use leasehold::ConfigError;
    let long = "x".repeat(65);
    let error = Governor::new(Limits::unlimited().class(&long, scope())).unwrap_err();
    assert!(matches!(error, ConfigError::NameTooLong(name) if name.len() == 65));
}

#[test]
fn a_snapshot_shows_limits_beside_use() {
    let limits = Limits::unlimited()
        .system(scope().memory(64 * KIB))
        .transient(scope().connections(7))
        .peer(scope().connections(8))
        .class("public", scope().connections(9));
    let governor = governor(limits);
    let _known = governor.inbound().peer("alice").class("public").try_admit().unwrap();
    let snapshot = governor.snapshot();
    assert_eq!(snapshot.scope(Scope::System).limits, scope().memory(64 * KIB));
    assert_eq!(snapshot.scope(Scope::Transient).limits, scope().connections(7));
    assert_eq!(only_row(&snapshot, Scope::Peer).limits, scope().connections(8));
    assert_eq!(only_row(&snapshot, Scope::Class).limits, scope().connections(9));
}
