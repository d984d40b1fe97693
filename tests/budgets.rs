//! P1, hard budgets: no charge ever raises a scope above its limit, and a refusal charges nothing.

mod common;

use common::{KIB, assert_nothing_left, governor, now, scope};
use leasehold::{
    ConnectionGuard, Direction, Governor, LeaseError, Limit, Limits, Reason, Refused, Resource,
    Scope, ScopeLimits,
};

const TREE: [Scope; 5] =
    [Scope::System, Scope::Transient, Scope::Peer, Scope::Class, Scope::Connection];

/// So much memory in one scope, and no other limit.
fn memory_of(in_scope: Scope, limit: impl Into<Limit>) -> Limits {
    let (all, limits) = (Limits::unlimited(), scope().memory(limit));
    match in_scope {
        Scope::System => all.system(limits),
        Scope::Transient => all.transient(limits),
        Scope::Peer => all.peer(limits),
        Scope::Class => all.class("public", limits),
        Scope::Connection => all.connection(limits),
        Scope::Stream => all.stream(limits),
        other => panic!("{other} takes no limits"),
    }
}

/// Admits a connection that is charged to `scope`, if it is one that not all are charged to.
fn admit(governor: &Governor, scope: Scope) -> ConnectionGuard {
    let admission = match scope {
        Scope::Peer => governor.inbound().peer("alice"),
        Scope::Class => governor.inbound().class("public"),
        _ => governor.inbound(),
    };
    admission.try_admit().unwrap()
}

#[track_caller]
fn assert_is(refused: Refused, scope: Scope, resource: Resource, numbers: (Limit, u64, u64)) {
    let what = (refused.scope(), refused.resource());
    assert_eq!(what, (scope, resource), "{refused}");
    assert_eq!((refused.limit(), refused.in_use(), refused.requested()), numbers, "{refused}");
    let reason = if numbers.0 == Limit::Blocked { Reason::Blocked } else { Reason::Limit };
    assert_eq!(refused.reason(), reason, "{refused}");
}

#[test]
fn scope_limits_blocked_refuses_a_connection() {
    let governor = governor(Limits::unlimited().system(ScopeLimits::blocked()));
    let error = governor.inbound().try_admit().unwrap_err();
    assert_eq!(error.refused().unwrap().reason(), Reason::Blocked);
    assert_nothing_left(&governor);
}

#[test]
fn a_lease_is_refused_exactly_at_the_limit_in_every_scope() {
    for scope in TREE {
        let governor = governor(memory_of(scope, 8 * KIB));
        let guard = admit(&governor, scope);
        let first = guard.try_lease(4096).unwrap();
        let second = guard.handle().try_lease_owned(4096).unwrap();
        let before = now(&governor);
        let error = guard.try_lease(1).unwrap_err();
        assert_is(
            *error.refused().unwrap(),
            scope,
            Resource::Memory,
            (Limit::Max(8 * KIB), 8 * KIB, 512),
        );
        assert!(matches!(error, LeaseError::Refused(_)));
        assert_eq!(now(&governor), before);
        drop((first, second));
    }
}

#[test]
fn a_stream_refuses_memory_exactly_at_its_limit() {
    let governor = governor(memory_of(Scope::Stream, 8 * KIB));
    let guard = governor.inbound().try_admit().unwrap();
    let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
    let lease = stream.try_lease_owned(4096).unwrap();
    let reserved = stream.try_reserve(4096).unwrap();
    assert_eq!(stream.usage().memory, 8 * KIB);
    let before = now(&governor);
    for error in [stream.try_lease_owned(512).unwrap_err(), stream.try_reserve(512).unwrap_err()] {
        let numbers = (Limit::Max(8 * KIB), 8 * KIB, 512);
        assert_is(*error.refused().unwrap(), Scope::Stream, Resource::Memory, numbers);
    }
    assert_eq!(stream.usage().memory, 8 * KIB);
    assert_eq!(now(&governor), before);
    // Another stream has a budget of its own.
    let other = guard.handle().try_open_stream(Direction::Outbound).unwrap();
    let _all_of_it = other.try_reserve(8 * KIB).unwrap();
    drop((lease, reserved));
    let _again = stream.try_reserve(8 * KIB).unwrap();
}

#[test]
fn a_stream_limit_holds_when_the_block_is_cached() {
    let governor = governor(memory_of(Scope::Stream, 8 * KIB));
    let guard = governor.inbound().try_admit().unwrap();
    let blocks: Vec<_> = (0..8).map(|_| guard.try_lease(4096).unwrap()).collect();
    drop(blocks);
    assert_eq!(guard.handle().usage().unwrap().cached_bytes, 32 * KIB);
    let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
    let _leases = [stream.try_lease_owned(4096).unwrap(), stream.try_lease_owned(4096).unwrap()];
    let error = stream.try_lease_owned(4096).unwrap_err();
    assert_eq!(error.refused().unwrap().scope(), Scope::Stream);
}

#[test]
fn a_stream_whose_memory_is_blocked_says_so() {
    let governor = governor(memory_of(Scope::Stream, Limit::Blocked));
    let guard = governor.inbound().try_admit().unwrap();
    let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
    let error = stream.try_reserve(1).unwrap_err();
    let numbers = (Limit::Blocked, 0, 1);
    assert_is(*error.refused().unwrap(), Scope::Stream, Resource::Memory, numbers);
}

#[test]
fn a_refusal_by_an_outer_scope_charges_no_inner_one() {
    let limits = Limits::unlimited().system(scope().memory(10 * KIB).streams(1));
    let governor = governor(limits);
    let guard = governor.inbound().peer("alice").class("public").try_admit().unwrap();
    let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
    let _reserved = stream.try_reserve(9 * KIB).unwrap();
    let before = now(&governor);
    assert!(stream.try_lease_owned(2048).is_err());
    assert!(stream.try_reserve(2048).is_err());
    assert!(guard.try_lease(2048).is_err());
    assert!(guard.try_lease(100_000).is_err());
    assert!(guard.handle().try_open_stream(Direction::Outbound).is_err());
    assert!(governor.inbound().peer("bob").class("other").weight(2048).try_admit().is_err());
    assert_eq!(stream.usage().memory, 9 * KIB);
    assert_eq!(now(&governor), before);
}

#[test]
fn a_refused_admission_leaves_nobody_behind() {
    let governor = governor(Limits::unlimited().system(scope().connections(0)));
    let admission = governor.inbound().peer("alice").class("public").weight(100);
    assert!(admission.try_admit().is_err());
    assert_nothing_left(&governor);
    assert_eq!(governor.snapshot().totals.admitted, 0);
    assert_eq!(governor.snapshot().totals.refused, 1);
}

#[test]
fn an_admission_weight_is_charged_with_the_connection_or_not_at_all() {
    let governor = governor(Limits::unlimited().peer(scope().memory(1000)));
    let guard = governor.inbound().peer("alice").weight(600).try_admit().unwrap();
    assert_eq!(guard.handle().usage().unwrap().reserved_bytes, 600);
    let before = now(&governor);
    let error = governor.inbound().peer("alice").weight(401).try_admit().unwrap_err();
    let numbers = (Limit::Max(1000), 600, 401);
    assert_is(*error.refused().unwrap(), Scope::Peer, Resource::Memory, numbers);
    assert_eq!(now(&governor), before);
    let _fits = governor.inbound().peer("alice").weight(400).try_admit().unwrap();
}

#[test]
fn a_connection_without_descriptor_counts_none() {
    let governor = governor(Limits::unlimited().system(scope().fds(0)));
    assert!(governor.inbound().try_admit().is_err());
    let _guard = governor.inbound().without_fd().try_admit().unwrap();
    assert_eq!(governor.snapshot().scope(Scope::System).usage.fds, 0);
    assert_eq!(governor.snapshot().scope(Scope::System).usage.connections(), 1);
}

#[test]
fn zero_bytes_are_granted_even_where_nothing_is() {
    let governor = governor(Limits::unlimited().system(scope().memory(Limit::Blocked)));
    let guard = governor.inbound().weight(0).try_admit().unwrap();
    let mut nothing = guard.handle().try_reserve(0).unwrap();
    nothing.resize(0).unwrap();
    assert!(nothing.resize(1).is_err());
    assert_eq!(nothing.bytes(), 0);
    // A lease has at least one block.
    assert!(guard.try_lease(0).is_err());
}

#[test]
fn a_lease_of_nothing_has_the_smallest_block() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    assert_eq!(guard.try_lease(0).unwrap().capacity(), 512);
    assert_eq!(guard.try_lease(1).unwrap().capacity(), 512);
    assert_eq!(guard.try_lease(512).unwrap().capacity(), 512);
    assert_eq!(guard.try_lease(513).unwrap().capacity(), 2048);
    assert_eq!(guard.try_lease(65536).unwrap().capacity(), 65536);
    assert_eq!(guard.try_lease(65537).unwrap().capacity() % 4096, 0);
}

#[test]
fn a_reservation_is_exact_to_the_byte() {
    for scope in TREE {
        let governor = governor(memory_of(scope, 1001_u64));
        let guard = admit(&governor, scope);
        let mut reserved = guard.handle().try_reserve(1000).unwrap();
        reserved.resize(1001).unwrap();
        let error = reserved.resize(1002).unwrap_err();
        let numbers = (Limit::Max(1001), 1001, 1);
        assert_is(*error.refused().unwrap(), scope, Resource::Memory, numbers);
        assert_eq!(reserved.bytes(), 1001);
        reserved.resize(1).unwrap();
        assert_eq!(governor.snapshot().scope(Scope::System).usage.memory, 1);
        reserved.resize(1001).unwrap();
    }
}

#[test]
fn requests_near_the_largest_number_are_refused_and_never_wrap() {
    let tables = [Limits::unlimited()]
        .into_iter()
        .chain(TREE.map(|scope| memory_of(scope, u64::MAX - 1)))
        .chain(TREE.map(|scope| memory_of(scope, 100_000_u64)))
        .chain([memory_of(Scope::Stream, 100_000_u64)]);
    for limits in tables {
        let governor = governor(limits.clone());
        let guard = governor.inbound().peer("alice").class("public").try_admit().unwrap();
        let unbound = governor.inbound().try_admit().unwrap();
        let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
        let _some = [
            guard.handle().try_reserve(1).unwrap(),
            unbound.handle().try_reserve(1).unwrap(),
            stream.try_reserve(1).unwrap(),
        ];
        let before = now(&governor);
        for bytes in [u64::MAX, u64::MAX - 1] {
            assert!(guard.handle().try_reserve(bytes).is_err(), "{bytes} under {limits:?}");
            assert!(unbound.handle().try_reserve(bytes).is_err(), "{bytes} under {limits:?}");
            assert!(stream.try_reserve(bytes).is_err(), "{bytes} under {limits:?}");
            let heavy = governor.inbound().peer("alice").class("public").weight(bytes);
            assert!(heavy.try_admit().is_err(), "{bytes} under {limits:?}");
            let mut small = guard.handle().try_reserve(0).unwrap();
            assert!(small.resize(bytes).is_err());
            assert_eq!(small.bytes(), 0);
        }
        for bytes in [usize::MAX, usize::MAX - 1, usize::MAX - 4095, usize::MAX - 4096, 1 << 62] {
            assert!(guard.try_lease(bytes).is_err(), "{bytes} under {limits:?}");
            assert!(guard.handle().try_lease_owned(bytes).is_err(), "{bytes} under {limits:?}");
            assert!(unbound.try_lease(bytes).is_err(), "{bytes} under {limits:?}");
            assert!(stream.try_lease_owned(bytes).is_err(), "{bytes} under {limits:?}");
        }
        assert_eq!(stream.usage().memory, 1);
        assert_eq!(now(&governor), before, "under {limits:?}");
    }
}

#[test]
fn the_largest_reservation_of_all_is_granted_where_nothing_limits_it() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let all = guard.handle().try_reserve(u64::MAX).unwrap();
    assert!(guard.handle().try_reserve(1).is_err(), "the sum is no number");
    assert!(guard.try_lease(1).is_err(), "the sum is no number");
    assert!(governor.inbound().weight(1).try_admit().is_err(), "the sum is no number");
    drop(all);
    drop(guard);
    assert_nothing_left(&governor);
}

#[test]
fn what_exceeds_a_limit_by_itself_is_told_apart() {
    let governor = governor(Limits::unlimited().peer(scope().memory(64 * KIB)));
    let guard = governor.inbound().peer("alice").try_admit().unwrap();
    let _half = guard.handle().try_reserve(40 * KIB).unwrap();
    let never = guard.handle().try_reserve(64 * KIB + 1).unwrap_err();
    assert!(matches!(never, LeaseError::NeverFits(_)), "{never}");
    let later = guard.handle().try_reserve(64 * KIB).unwrap_err();
    assert!(matches!(later, LeaseError::Refused(_)), "{later}");
}

#[test]
fn a_limit_lowered_below_use_revokes_nothing_and_lets_use_only_fall() {
    for scope in TREE {
        let governor = governor(memory_of(scope, 64 * KIB));
        let guard = admit(&governor, scope);
        let mut leases: Vec<_> =
            (0..4).map(|_| guard.handle().try_lease_owned(16384).unwrap()).collect();
        governor.set_limits(memory_of(scope, 20 * KIB)).unwrap();
        assert_eq!(governor.snapshot().scope(Scope::System).usage.memory, 64 * KIB);
        assert!(leases.iter_mut().all(|lease| lease.pin().is_ok()));
        for _ in 2..=4 {
            let error = guard.handle().try_reserve(1).unwrap_err();
            let numbers = (Limit::Max(20 * KIB), 64 * KIB, 1);
            assert_is(*error.refused().unwrap(), scope, Resource::Memory, numbers);
            leases.pop();
            let used = governor.snapshot().scope(Scope::System).usage.memory;
            assert!(used <= 64 * KIB, "use rose to {used}");
        }
        // 16 KiB are left in a lease: 4 KiB of room, once what is idle is back.
        let _fits = guard.handle().try_reserve(4 * KIB).unwrap();
        assert!(guard.handle().try_reserve(1).is_err());
    }
}

#[test]
fn counts_lowered_below_use_refuse_until_there_is_room() {
    let governor = governor(Limits::unlimited().system(scope().connections(3)));
    let mut guards: Vec<_> = (0..3).map(|_| governor.inbound().try_admit().unwrap()).collect();
    governor.set_limits(Limits::unlimited().system(scope().connections(1))).unwrap();
    for in_use in (1..=3).rev() {
        let error = governor.inbound().try_admit().unwrap_err();
        let numbers = (Limit::Max(1), in_use, 1);
        assert_is(*error.refused().unwrap(), Scope::System, Resource::Connections, numbers);
        guards.pop();
    }
    let _fits = governor.inbound().try_admit().unwrap();
}

#[test]
fn a_raised_limit_holds_at_once() {
    let governor = governor(Limits::unlimited().peer(scope().memory(4 * KIB)));
    let guard = governor.inbound().peer("alice").try_admit().unwrap();
    let _all = guard.try_lease(4096).unwrap();
    assert!(guard.try_lease(4096).is_err());
    governor.set_limits(Limits::unlimited().peer(scope().memory(8 * KIB))).unwrap();
    let _more = guard.try_lease(4096).unwrap();
    assert!(guard.try_lease(4096).is_err());
}

#[test]
fn lowered_stream_limits_hold_for_open_streams() {
    let governor = governor(memory_of(Scope::Stream, 8 * KIB));
    let guard = governor.inbound().try_admit().unwrap();
    let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
    let held = stream.try_reserve(8 * KIB).unwrap();
    governor.set_limits(memory_of(Scope::Stream, 4 * KIB)).unwrap();
    assert!(stream.try_reserve(1).is_err());
    drop(held);
    assert!(stream.try_reserve(4 * KIB + 1).is_err());
    let _fits = stream.try_reserve(4 * KIB).unwrap();
}

#[test]
fn grow_stays_within_the_budget_and_changes_nothing_when_refused() {
    use bytes::BufMut;
    let governor = governor(Limits::unlimited().connection(scope().memory(3 * KIB)));
    let guard = governor.inbound().try_admit().unwrap();
    let mut lease = guard.try_lease(512).unwrap();
    lease.put_slice(b"kept");
    lease.grow().unwrap();
    assert_eq!((lease.capacity(), &*lease), (2048, &b"kept"[..]));
    let before = now(&governor);
    let error = lease.grow().unwrap_err();
    assert_eq!(error.refused().unwrap().requested(), 4096);
    assert_eq!((lease.capacity(), &*lease), (2048, &b"kept"[..]));
    // What was idle may be gone, and nothing else.
    assert!(now(&governor).system.memory <= before.system.memory);
}
