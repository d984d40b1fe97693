//! Warnings of limits that are never reached: every rule, with a case on either side of it.

mod common;

use common::scope;
use leasehold::{Limit, LimitWarning, Limits, PeerKey, PrefixLimits, Resource, Scope, ScopeLimits};

/// The one warning, as a person reads it; nothing if there is none.
#[track_caller]
fn warning(limits: &Limits) -> String {
    let warnings = limits.check();
    assert!(warnings.len() <= 1, "{warnings:?}");
    warnings.first().map(ToString::to_string).unwrap_or_default()
}

/// Sets one resource.
type Set = fn(ScopeLimits, Limit) -> ScopeLimits;

const RESOURCES: [(Resource, Set); 8] = [
    (Resource::Memory, |scope, limit| scope.memory(limit)),
    (Resource::Connections, |scope, limit| scope.connections(limit)),
    (Resource::ConnectionsInbound, |scope, limit| scope.connections_inbound(limit)),
    (Resource::ConnectionsOutbound, |scope, limit| scope.connections_outbound(limit)),
    (Resource::Streams, |scope, limit| scope.streams(limit)),
    (Resource::StreamsInbound, |scope, limit| scope.streams_inbound(limit)),
    (Resource::StreamsOutbound, |scope, limit| scope.streams_outbound(limit)),
    (Resource::Fds, |scope, limit| scope.fds(limit)),
];

/// Puts one scope's limits in their place.
type Put = fn(Limits, ScopeLimits) -> Limits;

fn alice() -> PeerKey {
    PeerKey::new("alice").unwrap()
}

fn scope_of(scope: Scope) -> Put {
    match scope {
        Scope::System => Limits::system,
        Scope::Transient => Limits::transient,
        Scope::AllowlistedSystem => Limits::allowlisted_system,
        Scope::AllowlistedTransient => Limits::allowlisted_transient,
        Scope::Peer => Limits::peer,
        Scope::Class => Limits::class_default,
        Scope::ClassPeer => Limits::class_peer_default,
        Scope::Connection => Limits::connection,
        Scope::Stream => Limits::stream,
        other => panic!("{other} has no limits of this kind"),
    }
}

fn named(scope: Scope) -> Put {
    match scope {
        Scope::Peer => |limits, scope| limits.peer_override(alice(), scope),
        Scope::Class => |limits, scope| limits.class("public", scope),
        Scope::ClassPeer => |limits, scope| limits.class_peer("public", scope),
        other => panic!("{other} has no name"),
    }
}

/// Each rule: a scope, whether it has a name, the one above, and whether that has one.
const RULES: [(Scope, bool, Scope, bool); 16] = [
    (Scope::Transient, false, Scope::System, false),
    (Scope::AllowlistedTransient, false, Scope::AllowlistedSystem, false),
    (Scope::Peer, false, Scope::System, false),
    (Scope::Peer, true, Scope::System, false),
    (Scope::Class, false, Scope::System, false),
    (Scope::Class, true, Scope::System, false),
    (Scope::ClassPeer, false, Scope::Class, false),
    (Scope::ClassPeer, false, Scope::Peer, false),
    (Scope::ClassPeer, true, Scope::Class, false),
    (Scope::ClassPeer, true, Scope::Class, true),
    (Scope::ClassPeer, true, Scope::Peer, false),
    (Scope::Connection, false, Scope::Peer, false),
    (Scope::Connection, false, Scope::Transient, false),
    (Scope::Stream, false, Scope::Connection, false),
    // Where the scopes between have no limit.
    (Scope::ClassPeer, false, Scope::System, false),
    (Scope::Stream, false, Scope::System, false),
];

fn put((scope, has_name): (Scope, bool)) -> Put {
    if has_name { named(scope) } else { scope_of(scope) }
}

fn name_of((scope, has_name): (Scope, bool)) -> Option<&'static str> {
    match scope {
        _ if !has_name => None,
        Scope::Peer => Some("alice"),
        _ => Some("public"),
    }
}

#[test]
fn every_rule_warns_above_and_not_at_the_limit() {
    for (child, child_named, parent, parent_named) in RULES {
        let (child, parent) = ((child, child_named), (parent, parent_named));
        for (resource, set) in RESOURCES {
            let limits = |of_child, of_parent: u64| {
                let limits = put(parent)(Limits::unlimited(), set(scope(), of_parent.into()));
                put(child)(limits, set(scope(), of_child))
            };
            let found = limits(Limit::Max(101), 100).check();
            let [warning] = &found[..] else {
                panic!("{child:?} above {parent:?}, {resource}: {found:?}");
            };
            assert_eq!((warning.scope(), warning.name()), (child.0, name_of(child)));
            assert_eq!(
                (warning.parent_scope(), warning.parent_name()),
                (parent.0, name_of(parent))
            );
            assert_eq!((warning.resource(), warning.parent_resource()), (resource, resource));
            assert_eq!(
                (warning.limit(), warning.parent_limit()),
                (Limit::Max(101), Limit::Max(100))
            );

            for quiet in [Limit::Max(100), Limit::Max(0), Limit::Blocked, Limit::Unlimited] {
                assert_eq!(
                    limits(quiet, 100).check(),
                    [],
                    "{child:?} below {parent:?}, {resource}"
                );
            }
        }
    }
}

#[test]
fn inbound_or_outbound_above_both_together_is_warned_of_in_every_scope() {
    let parts = [
        (Resource::ConnectionsInbound, RESOURCES[2].1, Resource::Connections, RESOURCES[1].1),
        (Resource::ConnectionsOutbound, RESOURCES[3].1, Resource::Connections, RESOURCES[1].1),
        (Resource::StreamsInbound, RESOURCES[5].1, Resource::Streams, RESOURCES[4].1),
        (Resource::StreamsOutbound, RESOURCES[6].1, Resource::Streams, RESOURCES[4].1),
    ];
    let places = [
        (Scope::System, false),
        (Scope::Transient, false),
        (Scope::AllowlistedSystem, false),
        (Scope::AllowlistedTransient, false),
        (Scope::Peer, false),
        (Scope::Peer, true),
        (Scope::Class, false),
        (Scope::Class, true),
        (Scope::ClassPeer, false),
        (Scope::ClassPeer, true),
        (Scope::Connection, false),
        (Scope::Stream, false),
    ];
    for place in places {
        for (part, set_part, total, set_total) in parts {
            let limits = |of_part: u64| {
                let scope = set_part(set_total(scope(), Limit::Max(8)), of_part.into());
                put(place)(Limits::unlimited(), scope)
            };
            let found = limits(9).check();
            let [warning] = &found[..] else { panic!("{place:?}, {part}: {found:?}") };
            assert_eq!((warning.scope(), warning.parent_scope()), (place.0, place.0));
            assert_eq!((warning.name(), warning.parent_name()), (name_of(place), name_of(place)));
            assert_eq!((warning.resource(), warning.parent_resource()), (part, total));
            assert_eq!(limits(8).check(), [], "{place:?}, {part}");
        }
    }
}

#[test]
fn where_inbound_has_no_limit_above_both_together_count() {
    let limits = |inbound: u64| {
        Limits::unlimited()
            .system(scope().connections(100))
            .peer(scope().connections_inbound(inbound))
    };
    assert_eq!(
        warning(&limits(101)),
        "the peer limit of 101 inbound connections is never reached: \
         the system limit is 100 connections"
    );
    assert_eq!(warning(&limits(100)), "");
    // The other way round, nothing is known: both together may well be more than one of them.
    let limits =
        Limits::unlimited().system(scope().connections_inbound(100)).peer(scope().connections(200));
    assert_eq!(warning(&limits), "");
}

/// A mistake is told once: at the scope that makes it, not at every one below.
#[test]
fn the_nearest_limit_above_counts() {
    let limits = Limits::unlimited()
        .system(scope().memory(100))
        .transient(scope().memory(100))
        .peer(scope().memory(200))
        .connection(scope().memory(100))
        .stream(scope().memory(100));
    assert_eq!(
        warning(&limits),
        "the peer limit of 200 bytes of memory is never reached: \
         the system limit is 100 bytes of memory"
    );
}

#[test]
fn a_connection_is_held_against_both_that_it_can_be_in() {
    let limits = Limits::unlimited()
        .transient(scope().memory(50))
        .peer(scope().memory(60))
        .connection(scope().memory(70));
    let parents: Vec<_> = limits.check().iter().map(LimitWarning::parent_scope).collect();
    assert_eq!(parents, [Scope::Peer, Scope::Transient]);
}

#[test]
fn a_default_is_not_held_against_what_has_a_name() {
    let small = scope().memory(10).connections(1);
    let large = scope().memory(100).connections(10);
    let limits = Limits::unlimited()
        .peer_override(alice(), small)
        .class("public", small)
        .class_peer("public", small)
        .connection(large)
        .class_peer_default(large)
        .stream(large.connections(Limit::Unlimited));
    assert_eq!(limits.check(), []);
}

#[test]
fn below_what_is_blocked_only_names_are_warned_of() {
    let blocked = |limits: Limits| limits.system(scope().connections(Limit::Blocked));
    let eight = scope().connections(8);
    let defaults = blocked(Limits::unlimited())
        .transient(eight)
        .peer(eight)
        .class_default(eight)
        .class_peer_default(eight)
        .connection(eight);
    assert_eq!(defaults.check(), []);
    assert_eq!(
        warning(&blocked(Limits::unlimited()).peer_override(alice(), eight)),
        "the peer \"alice\" limit of 8 connections is never reached: \
         the system limit blocks all connections"
    );
    for put in [named(Scope::Class), named(Scope::ClassPeer)] {
        assert_ne!(warning(&put(blocked(Limits::unlimited()), eight)), "");
        assert_eq!(warning(&put(blocked(Limits::unlimited()), scope().connections(0))), "");
        let none = scope().connections(Limit::Blocked);
        assert_eq!(warning(&put(blocked(Limits::unlimited()), none)), "");
    }
}

#[test]
fn a_longer_prefix_above_a_shorter_is_warned_of() {
    let each = |limit: u64| PrefixLimits::unlimited().connections(limit);
    let limits = |shorter: u64, longer: u64| {
        let mut limits = Limits::unlimited();
        limits.subnets = limits
            .subnets
            .ipv6(48, each(shorter))
            // Without a limit, so that the next shorter one counts.
            .ipv6(52, PrefixLimits::unlimited())
            .ipv6(56, each(longer))
            // The other family is another matter.
            .ipv4(32, each(1));
        limits
    };
    assert_eq!(
        warning(&limits(64, 65)),
        "the IPv6 /56 limit of 65 inbound connections is never reached: \
         the IPv6 /48 limit is 64 inbound connections"
    );
    let found = limits(64, 65).check();
    assert_eq!((found[0].scope(), found[0].name()), (Scope::Subnet, Some("IPv6 /56")));
    assert_eq!(found[0].parent_name(), Some("IPv6 /48"));
    assert_eq!(warning(&limits(64, 64)), "");
    assert_eq!(warning(&limits(64, 8)), "");
}

#[test]
fn connections_are_not_held_against_descriptors() {
    let limits = Limits::unlimited().system(scope().connections(1000).fds(10));
    assert_eq!(warning(&limits), "");
}

#[test]
fn what_is_unlimited_is_not_warned_of() {
    assert_eq!(Limits::unlimited().check(), []);
    let limits = Limits::unlimited().system(ScopeLimits::blocked());
    assert_eq!(limits.check(), []);
}

#[test]
fn there_are_never_more_warnings_than_can_be_read() {
    let mut limits = Limits::unlimited().system(scope().memory(1)).transient(scope().memory(2));
    for peer in 0..10_000_u32 {
        limits = limits.peer_override(PeerKey::new(peer.to_be_bytes()).unwrap(), scope().memory(2));
    }
    let found = limits.check();
    assert_eq!(found.len(), Limits::MAX_WARNINGS);
    assert_eq!(found[0].scope(), Scope::Transient, "defaults come first");
}

#[test]
fn names_do_no_harm_in_a_log() {
    let peer = PeerKey::new(b"a\n\x1b\"").unwrap();
    let limits =
        Limits::unlimited().system(scope().streams(1)).peer_override(peer, scope().streams(2));
    assert_eq!(
        warning(&limits),
        "the peer \"a\\n\\x1b\\\"\" limit of 2 streams is never reached: \
         the system limit is 1 streams"
    );
}
