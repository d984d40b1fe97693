//! Limits can change at any time: all of them in one step, or those of one peer.

mod common;
#[path = "limits_table/stage.rs"]
mod stage;

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use common::counting::{Counting, live_bytes};
use common::{HandClock, KIB, MIB, assert_nothing_left, counts, governor, now, of_class, scope};
use leasehold::{
    AllowList, ConfigError, ConnectionGuard, Direction, Governor, Limit, Limits, Observe, PeerKey,
    PrefixLimits, Rate, Reason, Resource, Scope, SubnetLimits,
};
use stage::{Stage, only, plan, rows_of_the_table};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn key(name: &str) -> PeerKey {
    PeerKey::new(name).unwrap()
}

fn admit_from(governor: &Governor, address: &str) -> Option<ConnectionGuard> {
    governor.inbound().remote(address.parse::<IpAddr>().unwrap()).try_admit().ok()
}

/// Limits with something everywhere.
fn everything(nth: u64) -> Limits {
    let rate = Rate::new(Duration::from_secs(nth), NonZeroU32::MIN);
    let prefix = PrefixLimits::unlimited().connections(nth).rate(rate);
    Limits::unlimited()
        .system(scope().memory(nth + 1))
        .transient(scope().connections(nth + 2))
        .allowlisted_system(scope().fds(nth + 3))
        .allowlisted_transient(scope().streams(nth + 4))
        .peer(scope().connections_inbound(nth + 5))
        .peer_override(key("alice"), scope().connections_outbound(nth + 6))
        .connection(scope().streams_inbound(nth + 7))
        .stream(scope().streams_outbound(nth + 8))
        .class_default(scope().memory(nth + 9))
        .class("public", scope().memory(nth + 10))
        .class_peer_default(scope().memory(nth + 11))
        .class_peer("public", scope().memory(nth + 12))
        .subnets(SubnetLimits::standard().ipv4(24, prefix))
        .allow(AllowList::new().peer(key(&format!("{nth}"))))
        .observe(Observe::none().scope(Scope::Class))
}

#[test]
fn the_limits_answered_are_those_in_force() {
    let governor = governor(everything(1));
    assert_eq!(governor.limits(), everything(1));
    governor.set_limits(everything(2)).unwrap();
    assert_eq!(governor.limits(), everything(2));
    let own = scope().memory(7);
    governor.set_peer_limits(&key("bob"), own);
    assert_eq!(governor.limits(), everything(2).peer_override(key("bob"), own));
    governor.remove_peer_limits(&key("bob"));
    assert_eq!(governor.limits(), everything(2));
    governor.set_limits(Limits::unlimited()).unwrap();
    assert_eq!(governor.limits(), Limits::unlimited());
    assert_eq!(Governor::unlimited().limits(), Limits::unlimited());
}

#[test]
fn every_row_shows_the_new_limits_at_once() {
    let governor = Governor::unlimited();
    let alice = governor.inbound().peer("alice").class("public").try_admit().unwrap();
    let bob = governor.inbound().peer("bob").class("else").try_admit().unwrap();
    let limits = everything(1000);
    governor.set_limits(limits.clone()).unwrap();
    let snapshot = governor.snapshot();
    assert_eq!(snapshot.scope(Scope::System).limits, limits.system);
    assert_eq!(snapshot.scope(Scope::Transient).limits, limits.transient);
    assert_eq!(snapshot.scope(Scope::AllowlistedSystem).limits, limits.allowlisted_system);
    assert_eq!(snapshot.scope(Scope::AllowlistedTransient).limits, limits.allowlisted_transient);
    let of_peers: Vec<_> = snapshot.rows(Scope::Peer).map(|peer| peer.limits).collect();
    assert_eq!(of_peers, [limits.peers[&key("alice")], limits.peer]);
    let of_classes: Vec<_> = snapshot.rows(Scope::Class).map(|class| class.limits).collect();
    assert_eq!(of_classes, [limits.class_default, limits.classes["public"]]);
    let of_parts: Vec<_> = snapshot.rows(Scope::ClassPeer).map(|part| part.limits).collect();
    assert_eq!(of_parts, [limits.class_peer_default, limits.class_peers["public"]]);
    drop((alice, bob));
    assert_nothing_left(&governor);
}

#[test]
fn a_limit_lowered_below_use_revokes_nothing_and_refuses_newcomers_until_it_is_raised() {
    for (spot, way) in rows_of_the_table() {
        let row = plan(spot, way);
        let resource = way.resource();
        // A row of one, where a scope never has more of it.
        let (first, low) = match row.portions {
            0 => (row.excess, row.limit),
            _ => (row.limit, row.portion),
        };
        let stage = Stage::new(spot, way, spot.limits(only(resource, first)));
        let (portions, portion) = match row.portions {
            0 => (1, row.excess),
            portions => (portions, row.portion),
        };
        let mut granted: Vec<_> = (0..portions).map(|nth| stage.take(nth, portion)).collect();
        let ready = stage.prepare(portions, row.excess);
        let before = stage.rows();
        stage.governor.set_limits(spot.limits(only(resource, low))).unwrap();
        assert_eq!(stage.rows(), before, "{stage}: nothing is revoked");
        let Err(no) = stage.ask(&ready, portions, row.excess) else {
            panic!("{stage}: a newcomer was granted");
        };
        assert_eq!(stage.rows(), before, "{stage}");
        if no.refused.scope() == spot.scope() {
            let in_use = if row.portions == 0 { 0 } else { portions * portion };
            let numbers = (no.refused.limit(), no.refused.in_use());
            assert_eq!(numbers, (Limit::Max(low), in_use), "{stage}");
        }
        // Use only falls, and newcomers have to wait for that.
        if row.portions > 0 {
            granted.truncate(2);
            stage.trim();
            assert!(stage.ask(&ready, portions, row.excess).is_err(), "{stage}: still beyond");
            granted.truncate(1);
            stage.trim();
            assert!(stage.ask(&ready, portions, row.excess).is_err(), "{stage}: just at it");
        }
        stage.governor.set_limits(spot.limits(only(resource, first))).unwrap();
        let again = stage.ask(&ready, portions, row.excess);
        let again = again.unwrap_or_else(|no| panic!("{stage}: raised: {}", no.message));
        let Stage { governor, stream, guard, .. } = stage;
        drop((granted, ready, again, stream, guard));
        assert_nothing_left(&governor);
    }
}

#[test]
fn limits_that_no_governor_can_have_are_refused_and_the_old_stay_in_force() {
    let old = Limits::unlimited().system(scope().connections(1));
    let governor = governor(old.clone());
    let prefix = PrefixLimits::unlimited().connections(1);
    let subnets = SubnetLimits::unlimited;
    let long = "x".repeat(65);
    let bad = [
        (Limits::unlimited().class(&long, scope()), "a name of 65 bytes"),
        (Limits::unlimited().class_peer(&long, scope()), "a name of 65 bytes"),
        (Limits::unlimited().subnets(subnets().ipv4(33, prefix)), "a prefix length of 33"),
        (Limits::unlimited().subnets(subnets().ipv4(255, prefix)), "a prefix length of 255"),
        (Limits::unlimited().subnets(subnets().ipv6(129, prefix)), "a prefix length of 129"),
    ];
    for (limits, start) in bad {
        let error = governor.set_limits(limits.clone()).unwrap_err();
        assert!(error.to_string().starts_with(start), "{error}");
        assert_eq!(Governor::new(limits).unwrap_err(), error, "none can be built with them either");
        assert_eq!(governor.limits(), old);
        let first = governor.inbound().try_admit().unwrap();
        assert!(governor.inbound().try_admit().is_err(), "the old limit is in force");
        drop(first);
    }
    let error = governor.set_limits(bad_prefix()).unwrap_err();
    assert_eq!(error, ConfigError::PrefixLength { length: 33, most: 32 });
}

fn bad_prefix() -> Limits {
    Limits::unlimited().subnets(SubnetLimits::unlimited().ipv4(33, PrefixLimits::unlimited()))
}

#[test]
fn the_longest_names_and_prefixes_are_taken() {
    let prefix = PrefixLimits::unlimited().connections(1);
    let subnets = SubnetLimits::unlimited().ipv4(0, prefix).ipv4(32, prefix);
    let subnets = subnets.ipv6(0, prefix).ipv6(128, prefix);
    let limits = Limits::unlimited().class(&"x".repeat(64), scope()).subnets(subnets);
    let governor = governor(limits.clone());
    governor.set_limits(limits).unwrap();
    let _first = admit_from(&governor, "192.0.2.1").unwrap();
    assert!(admit_from(&governor, "203.0.113.1").is_none(), "/0 is everyone");
}

#[test]
fn limits_are_replaced_in_one_step() {
    // Under either nobody gets in. Under a mixture somebody would.
    let everyone = |connections: u64| {
        let prefix = PrefixLimits::unlimited().connections(connections);
        SubnetLimits::unlimited().ipv4(0, prefix)
    };
    let pairs = [
        (
            Limits::unlimited().system(scope().connections(0)),
            Limits::unlimited().peer(scope().connections(0)),
        ),
        (
            Limits::unlimited().class_default(scope().connections(0)),
            Limits::unlimited().peer_override(key("alice"), scope().connections(0)),
        ),
        (
            Limits::unlimited().subnets(everyone(0)),
            Limits::unlimited().class_peer("public", scope().connections(0)),
        ),
    ];
    for (one, other) in pairs {
        let governor = governor(one.clone());
        std::thread::scope(|threads| {
            threads.spawn(|| {
                for _ in 0..2000 {
                    governor.set_limits(other.clone()).unwrap();
                    governor.set_limits(one.clone()).unwrap();
                }
            });
            for _ in 0..20_000 {
                let admission = governor.inbound().remote(IpAddr::from([192, 0, 2, 1]));
                let admission = admission.peer("alice").class("public");
                assert!(admission.try_admit().is_err(), "under a mixture of {one:?} and {other:?}");
            }
        });
    }
}

#[test]
fn the_limits_of_streams_are_replaced_in_the_same_step() {
    let memory = scope().memory(0);
    let streams = scope().streams(0);
    for nothing in [memory, streams] {
        let one = Limits::unlimited().stream(nothing);
        let other = Limits::unlimited().connection(nothing);
        let governor = Governor::unlimited();
        let guard = governor.inbound().try_admit().unwrap();
        let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
        governor.set_limits(one.clone()).unwrap();
        std::thread::scope(|threads| {
            threads.spawn(|| {
                for _ in 0..50_000 {
                    governor.set_limits(other.clone()).unwrap();
                    governor.set_limits(one.clone()).unwrap();
                }
            });
            let granted = |_: &u32| match nothing == memory {
                true => stream.try_reserve(1).is_ok(),
                false => guard.handle().try_open_stream(Direction::Inbound).is_ok(),
            };
            let granted = (0..500_000).filter(granted).count();
            assert_eq!(granted, 0, "under a mixture of {one:?} and {other:?}");
        });
    }
}

#[test]
fn a_peers_own_limits_hold_for_it_alone_and_at_once() {
    let governor = governor(Limits::unlimited().peer(scope().memory(1000)));
    let alice = governor.inbound().peer("alice").try_admit().unwrap();
    let bob = governor.inbound().peer("bob").try_admit().unwrap();
    let held = alice.handle().try_reserve(1000).unwrap();
    assert!(alice.handle().try_reserve(1).is_err());
    assert_eq!(governor.set_peer_limits(&key("alice"), scope().memory(1500)), None);
    let more = alice.handle().try_reserve(500).unwrap();
    assert!(alice.handle().try_reserve(1).is_err());
    assert!(bob.handle().try_reserve(1001).is_err());
    // Lowered below use: nothing is revoked.
    let own = scope().memory(200);
    assert_eq!(governor.set_peer_limits(&key("alice"), own), Some(scope().memory(1500)));
    assert_eq!(now(&governor).system.memory, 1500);
    assert!(alice.handle().try_reserve(1).is_err());
    drop((held, more));
    let error = alice.handle().try_reserve(201).unwrap_err();
    let refused = error.refused().unwrap();
    assert_eq!((refused.scope(), refused.limit()), (Scope::Peer, Limit::Max(200)));
    assert_eq!(governor.remove_peer_limits(&key("alice")), Some(own));
    assert_eq!(governor.remove_peer_limits(&key("alice")), None);
    let _all = alice.handle().try_reserve(1000).unwrap();
    assert!(alice.handle().try_reserve(1).is_err());
}

#[test]
fn a_peers_own_limits_wait_for_it() {
    let governor = governor(Limits::unlimited().peer(scope().connections(0)));
    governor.set_peer_limits(&key("alice"), scope().connections(2));
    let first = governor.inbound().peer("alice").try_admit().unwrap();
    let second = governor.inbound().try_admit().unwrap();
    second.handle().bind_peer("alice").unwrap();
    let third = governor.inbound().try_admit().unwrap();
    assert!(third.handle().bind_peer("alice").is_err());
    assert!(third.handle().bind_peer("bob").is_err());
    drop((first, second));
    // Nobody is connected, and they are there still.
    let _again = governor.inbound().peer("alice").try_admit().unwrap();
    governor.remove_peer_limits(&key("alice"));
    assert!(governor.inbound().peer("alice").try_admit().is_err());
}

#[test]
fn new_limits_replace_those_of_single_peers_too() {
    let governor = governor(Limits::unlimited().peer_override(key("alice"), scope().memory(10)));
    let alice = governor.inbound().peer("alice").try_admit().unwrap();
    let bob = governor.inbound().peer("bob").try_admit().unwrap();
    governor.set_peer_limits(&key("bob"), scope().memory(20));
    let limits = Limits::unlimited()
        .peer(scope().memory(30))
        .peer_override(key("alice"), scope().memory(40));
    governor.set_limits(limits).unwrap();
    for (guard, most) in [(&alice, 40), (&bob, 30)] {
        assert!(guard.handle().try_reserve(most + 1).is_err());
        drop(guard.handle().try_reserve(most).unwrap());
    }
}

/// What a table that has been used may keep, of a hundred thousand entries.
const EMPTY_TABLES: isize = 4 * KIB as isize;
const OVERRIDES: u64 = 100_000;

#[test]
fn overrides_that_are_removed_leave_nothing() {
    let governor = Governor::unlimited();
    let connected = governor.inbound().peer(7_u64.to_le_bytes()).try_admit().unwrap();
    let before = live_bytes();
    let each = |nth: u64| PeerKey::new(nth.to_le_bytes()).unwrap();
    for nth in 0..OVERRIDES {
        governor.set_peer_limits(&each(nth), scope().memory(nth));
    }
    let peak = live_bytes() - before;
    assert!(peak > OVERRIDES as isize * 100, "{peak} bytes: they were never kept");
    assert_eq!(governor.limits().peers.len() as u64, OVERRIDES);
    assert!(connected.handle().try_reserve(8).is_err());
    for nth in 0..OVERRIDES {
        assert_eq!(governor.remove_peer_limits(&each(nth)), Some(scope().memory(nth)));
    }
    let left = live_bytes() - before;
    assert!(left <= EMPTY_TABLES, "{left} bytes stay");
    let _free = connected.handle().try_reserve(MIB).unwrap();
}

#[test]
fn overrides_that_are_replaced_leave_nothing() {
    let governor = Governor::unlimited();
    let guards: Vec<_> = (0..1000_u64)
        .map(|nth| governor.inbound().peer(nth.to_le_bytes()).try_admit().unwrap())
        .collect();
    let before = live_bytes();
    let mut limits = Limits::unlimited();
    for nth in 0..OVERRIDES {
        limits = limits.peer_override(PeerKey::new(nth.to_le_bytes()).unwrap(), scope());
    }
    governor.set_limits(limits).unwrap();
    assert!(live_bytes() - before > OVERRIDES as isize * 100, "they were never kept");
    governor.set_limits(Limits::unlimited()).unwrap();
    let left = live_bytes() - before;
    assert!(left <= EMPTY_TABLES, "{left} bytes stay");
    drop(guards);
}

#[test]
fn a_class_that_is_there_already_takes_over_limits_by_name() {
    let governor = governor(Limits::unlimited());
    let guard = governor.inbound().peer("alice").class("public").try_admit().unwrap();
    let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
    stream.bind_class("mail").unwrap();
    let _held = stream.try_reserve(100).unwrap();
    for (limits, at) in [
        (Limits::unlimited().class("mail", scope().memory(150)), Scope::Class),
        (Limits::unlimited().class_default(scope().memory(150)), Scope::Class),
        (Limits::unlimited().class_peer("mail", scope().memory(150)), Scope::ClassPeer),
        (Limits::unlimited().class_peer_default(scope().memory(150)), Scope::ClassPeer),
    ] {
        governor.set_limits(limits).unwrap();
        assert_eq!(of_class(&governor.snapshot(), "mail").memory, 100);
        let error = stream.try_reserve(51).unwrap_err();
        assert_eq!(error.refused().unwrap().scope(), at);
        drop(stream.try_reserve(50).unwrap());
    }
}

#[test]
fn new_limits_by_address_count_the_connections_that_were_there_before() {
    let governor = Governor::unlimited();
    let v4 = ["192.0.2.1", "192.0.2.1", "192.0.2.2"].map(|a| admit_from(&governor, a).unwrap());
    let v6 = ["2001:db8::1", "2001:db8:0:1::1"].map(|a| admit_from(&governor, a).unwrap());
    let at_most = |connections: u64| PrefixLimits::unlimited().connections(connections);
    let cases: [(SubnetLimits, &str, u64); 6] = [
        (SubnetLimits::unlimited().ipv4(32, at_most(3)), "192.0.2.1", 2),
        (SubnetLimits::unlimited().ipv4(24, at_most(4)), "192.0.2.99", 3),
        (SubnetLimits::unlimited().ipv4(0, at_most(4)), "203.0.113.1", 3),
        (SubnetLimits::unlimited().ipv6(56, at_most(3)), "2001:db8::2", 2),
        (
            SubnetLimits::unlimited().network("192.0.2.0/31".parse().unwrap(), at_most(3)),
            "192.0.2.0",
            2,
        ),
        (
            SubnetLimits::unlimited().network("2001:db8::/32".parse().unwrap(), at_most(3)),
            "2001:db8:ffff::",
            2,
        ),
    ];
    for (subnets, address, there) in cases {
        governor.set_limits(Limits::unlimited().subnets(subnets.clone())).unwrap();
        let one = admit_from(&governor, address).expect("room for one");
        let error = governor.inbound().remote(address.parse::<IpAddr>().unwrap()).try_admit();
        let error = error.unwrap_err();
        assert_eq!(error.refused().unwrap().in_use(), there + 1, "{subnets:?}");
        drop(one);
        drop(admit_from(&governor, address).expect("the place is free again"));
    }
    // What an address has is known however the limits were meanwhile.
    governor.set_limits(Limits::unlimited()).unwrap();
    drop(v4);
    drop(v6);
    let one = SubnetLimits::unlimited().ipv4(0, at_most(1)).ipv6(0, at_most(1));
    governor.set_limits(Limits::unlimited().subnets(one)).unwrap();
    let _both =
        (admit_from(&governor, "192.0.2.1").unwrap(), admit_from(&governor, "::2").unwrap());
}

#[test]
fn an_address_moves_between_networks_and_prefixes_as_these_change() {
    let at_most = |connections: u64| PrefixLimits::unlimited().connections(connections);
    let network = |text: &str| text.parse().unwrap();
    let subnets = SubnetLimits::unlimited().ipv4(24, at_most(2));
    let governor = governor(Limits::unlimited().subnets(subnets.clone()));
    let [first, second] = ["192.0.2.1", "192.0.2.2"].map(|a| admit_from(&governor, a).unwrap());
    assert!(admit_from(&governor, "192.0.2.3").is_none());
    // One of them counts for a network of its own now, and so no longer for the prefix.
    let carved = subnets.clone().network(network("192.0.2.2/32"), at_most(1));
    governor.set_limits(Limits::unlimited().subnets(carved)).unwrap();
    assert!(admit_from(&governor, "192.0.2.2").is_none());
    let third = admit_from(&governor, "192.0.2.3").unwrap();
    assert!(admit_from(&governor, "192.0.2.4").is_none());
    drop(second);
    let second = admit_from(&governor, "192.0.2.2").unwrap();
    // And back: three where two are allowed. Nothing is revoked, and use only falls.
    governor.set_limits(Limits::unlimited().subnets(subnets)).unwrap();
    drop(second);
    assert!(admit_from(&governor, "192.0.2.2").is_none());
    drop(first);
    let _second = admit_from(&governor, "192.0.2.2").unwrap();
    assert!(admit_from(&governor, "192.0.2.1").is_none());
    drop(third);
}

#[test]
fn what_was_spent_of_a_rate_stays_spent_when_other_limits_change() {
    let clock = HandClock::default();
    let rate = Rate::new(Duration::from_secs(5), NonZeroU32::new(2).unwrap());
    let subnets = SubnetLimits::unlimited()
        .ipv4(32, PrefixLimits::unlimited().rate(rate))
        .network("10.0.0.0/8".parse().unwrap(), PrefixLimits::unlimited().rate(rate));
    let limits = Limits::unlimited().subnets(subnets.clone());
    let governor = Governor::builder().limits(limits).clock(clock.clone()).build().unwrap();
    for address in ["192.0.2.1", "10.0.0.1"] {
        drop(admit_from(&governor, address).unwrap());
        drop(admit_from(&governor, address).unwrap());
    }
    let changed = subnets.ipv4(24, PrefixLimits::unlimited().connections(100));
    governor.set_limits(Limits::unlimited().subnets(changed)).unwrap();
    for address in ["192.0.2.1", "10.0.0.1"] {
        assert!(admit_from(&governor, address).is_none());
    }
    clock.turn(Duration::from_secs(5));
    for address in ["192.0.2.1", "10.0.0.1"] {
        drop(admit_from(&governor, address).unwrap());
        assert!(admit_from(&governor, address).is_none());
    }
}

#[test]
fn a_scope_can_be_observed_first_and_enforced_later() {
    let limits = Limits::unlimited().system(scope().connections(1));
    let observing = limits.clone().observe(Observe::none().scope(Scope::System));
    let governor = governor(observing.clone());
    let admit = || governor.inbound().try_admit();
    let mut guards = vec![admit().unwrap(), admit().unwrap(), admit().unwrap()];
    let row = |count| [(Scope::System, Resource::Connections, Reason::Limit, count)];
    assert_eq!(counts(&governor.snapshot().observed), row(2));
    governor.set_limits(limits).unwrap();
    assert!(admit().is_err());
    guards.truncate(1);
    assert!(admit().is_err());
    assert_eq!(counts(&governor.snapshot().refusals), row(2));
    governor.set_limits(observing).unwrap();
    guards.push(admit().unwrap());
    assert_eq!(counts(&governor.snapshot().observed), row(3));
    assert_eq!(counts(&governor.snapshot().refusals), row(2));
}

#[test]
fn the_arena_follows_the_systems_memory_limit() {
    const BLOCK: usize = 64 << 10;
    let limits = |bytes: u64| Limits::unlimited().system(scope().memory(bytes));
    let governor = Governor::builder()
        .limits(limits(MIB))
        .size_classes(&[BLOCK])
        .fragmentation(0)
        .build()
        .unwrap();
    let guard = governor.inbound().try_admit().unwrap();
    let lease = || guard.handle().try_lease_owned(BLOCK);
    let mut leases: Vec<_> = (0..16).map(|_| lease().unwrap()).collect();
    assert_eq!(lease().unwrap_err().refused().unwrap().scope(), Scope::System);
    governor.set_limits(limits(8 * MIB)).unwrap();
    leases.extend((16..128).map(|_| lease().unwrap()));
    assert_eq!(lease().unwrap_err().refused().unwrap().scope(), Scope::System);
    governor.set_limits(Limits::unlimited()).unwrap();
    leases.extend((0..256).map(|_| lease().unwrap()));
}
