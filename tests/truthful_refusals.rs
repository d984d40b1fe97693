//! P7, refusals tell the truth: idle memory is never the cause of one, whoever keeps it.

mod common;

use common::{KIB, MIB, assert_adds_up, governor, only_row, scope};
use leasehold::{
    Admission, ConnectionGuard, Direction, Governor, LeaseError, Limits, Scope, ScopeLimits,
};

const SIBLINGS: u64 = 50;
/// What one sibling keeps: eight blocks of 4 KiB.
const KEPT: u64 = 32 * KIB;
const LIMIT: u64 = SIBLINGS * KEPT;

const SCOPES: [Scope; 4] = [Scope::System, Scope::Transient, Scope::Peer, Scope::Class];

fn limits_of(scope: Scope, limits: ScopeLimits) -> Limits {
    match scope {
        Scope::System => Limits::unlimited().system(limits),
        Scope::Transient => Limits::unlimited().transient(limits),
        Scope::Peer => Limits::unlimited().peer(limits),
        Scope::Class => Limits::unlimited().class("public", limits),
        other => panic!("{other} has no siblings"),
    }
}

fn admission(governor: &Governor, scope: Scope) -> Admission<'_> {
    match scope {
        Scope::Peer => governor.inbound().peer("alice"),
        Scope::Class => governor.inbound().peer("alice").class("public"),
        _ => governor.inbound(),
    }
}

/// A scope that idle memory fills to the last byte, and a sibling that has none.
struct Hoard {
    governor: Governor,
    siblings: Vec<ConnectionGuard>,
    newcomer: ConnectionGuard,
}

fn hoard(in_scope: Scope) -> Hoard {
    let governor = governor(limits_of(in_scope, scope().memory(LIMIT)));
    let admit = || admission(&governor, in_scope).try_admit().unwrap();
    let siblings: Vec<_> = (0..SIBLINGS).map(|_| admit()).collect();
    for sibling in &siblings {
        let leases: Vec<_> = (0..8).map(|_| sibling.try_lease(4096).unwrap()).collect();
        drop(leases);
    }
    let newcomer = admit();
    assert_eq!(assert_adds_up(&governor).totals.cached_bytes, LIMIT, "{in_scope} is not full");
    Hoard { governor, siblings, newcomer }
}

#[test]
fn idle_siblings_give_way_to_a_reservation_of_everything() {
    for scope in SCOPES {
        let Hoard { governor, siblings, newcomer } = hoard(scope);
        let all = newcomer.handle().try_reserve(LIMIT).unwrap_or_else(|e| panic!("{scope}: {e}"));
        let snapshot = assert_adds_up(&governor);
        assert_eq!((snapshot.totals.cached_bytes, snapshot.totals.refused), (0, 0));
        drop(all);
        drop(siblings);
    }
}

#[test]
fn idle_siblings_give_way_to_leases_until_the_limit() {
    for scope in SCOPES {
        let Hoard { governor, siblings, newcomer } = hoard(scope);
        let leases: Vec<_> = (0..LIMIT / (16 * KIB))
            .map(|nth| newcomer.try_lease(16384).unwrap_or_else(|e| panic!("{scope}, {nth}: {e}")))
            .collect();
        let error = newcomer.try_lease(1).unwrap_err();
        let refused = error.refused().unwrap();
        assert_eq!((refused.scope(), refused.in_use()), (scope, LIMIT));
        assert_eq!(assert_adds_up(&governor).totals.cached_bytes, 0);
        drop((leases, siblings));
    }
}

#[test]
fn idle_siblings_give_way_to_a_large_lease() {
    for scope in SCOPES {
        let Hoard { siblings, newcomer, .. } = hoard(scope);
        let large = newcomer.try_lease(LIMIT as usize).unwrap_or_else(|e| panic!("{scope}: {e}"));
        assert_eq!(large.capacity() as u64, LIMIT);
        drop((large, siblings));
    }
}

#[test]
fn idle_siblings_give_way_to_a_stream() {
    for scope in SCOPES {
        let Hoard { siblings, newcomer, .. } = hoard(scope);
        let stream = newcomer.handle().try_open_stream(Direction::Inbound).unwrap();
        let lease = stream.try_lease_owned(65536).unwrap_or_else(|e| panic!("{scope}: {e}"));
        let rest = stream.try_reserve(LIMIT - 64 * KIB).unwrap_or_else(|e| panic!("{scope}: {e}"));
        drop((lease, rest, siblings));
    }
}

#[test]
fn idle_siblings_give_way_to_an_admission_with_a_weight() {
    for scope in SCOPES {
        let Hoard { governor, siblings, newcomer } = hoard(scope);
        let heavy = admission(&governor, scope).weight(LIMIT).try_admit();
        assert_eq!(
            heavy.unwrap_or_else(|e| panic!("{scope}: {e}")).handle().usage().unwrap().memory,
            LIMIT
        );
        drop((siblings, newcomer));
    }
}

#[test]
fn idle_siblings_give_way_to_a_connection_that_binds() {
    let Hoard { governor, siblings, newcomer } = hoard(Scope::Peer);
    let unbound = governor.inbound().weight(LIMIT).try_admit().unwrap();
    unbound.handle().bind_peer("alice").unwrap();
    assert_eq!(only_row(&assert_adds_up(&governor), Scope::Peer).usage.memory, LIMIT);
    drop((siblings, newcomer));
}

#[test]
fn what_the_binding_connection_keeps_idle_does_not_stand_in_its_way() {
    let governor = governor(Limits::unlimited().peer(scope().memory(10 * KIB)));
    let guard = governor.inbound().weight(10 * KIB).try_admit().unwrap();
    drop((guard.try_lease(65536).unwrap(), guard.try_lease(512).unwrap()));
    assert!(guard.handle().usage().unwrap().cached_bytes > 0);
    guard.handle().bind_peer("alice").unwrap();
    assert_eq!(only_row(&assert_adds_up(&governor), Scope::Peer).usage.memory, 10 * KIB);
}

#[test]
fn a_sibling_with_leases_out_gives_up_only_what_is_idle() {
    for scope in SCOPES {
        let Hoard { governor, siblings, newcomer } = hoard(scope);
        // Each sibling has one block out, served from what it keeps.
        let out: Vec<_> = siblings.iter().map(|s| s.try_lease(4096).unwrap()).collect();
        let busy = SIBLINGS * 4 * KIB;
        let rest =
            newcomer.handle().try_reserve(LIMIT - busy).unwrap_or_else(|e| panic!("{scope}: {e}"));
        let error = newcomer.handle().try_reserve(1).unwrap_err();
        assert_eq!(error.refused().unwrap().in_use(), LIMIT);
        // What comes back lies idle again, and gives way again.
        drop(out);
        assert_eq!(assert_adds_up(&governor).totals.cached_bytes, busy);
        let more = newcomer.handle().try_reserve(busy).unwrap_or_else(|e| panic!("{scope}: {e}"));
        drop((rest, more));
    }
}

#[test]
fn a_scope_caches_again_once_there_is_room() {
    for scope in SCOPES {
        let Hoard { siblings, newcomer, .. } = hoard(scope);
        drop(newcomer.handle().try_reserve(LIMIT).unwrap());
        for guard in siblings.iter().chain([&newcomer]) {
            drop(guard.try_lease(4096).unwrap());
            assert_eq!(guard.handle().usage().unwrap().cached_bytes, 4096, "{scope}");
        }
        // And once more, so that what was relearnt is swept again.
        assert!(newcomer.handle().try_reserve(LIMIT).is_ok(), "{scope}");
    }
}

#[test]
fn idle_siblings_of_others_are_left_alone() {
    let governor = governor(Limits::unlimited().peer(scope().memory(8 * KIB)));
    let alice = governor.inbound().peer("alice").try_admit().unwrap();
    let bob = governor.inbound().peer("bob").try_admit().unwrap();
    drop((alice.try_lease(4096).unwrap(), bob.try_lease(4096).unwrap()));
    let _all = alice.handle().try_reserve(8 * KIB).unwrap();
    assert_eq!(
        (alice.handle().usage().unwrap().cached_bytes, bob.handle().usage().unwrap().cached_bytes),
        (0, 4096)
    );
}

#[test]
fn ones_own_idle_blocks_of_other_classes_give_way() {
    for in_scope in SCOPES.into_iter().chain([Scope::Connection]) {
        let governor = governor(match in_scope {
            Scope::Connection => Limits::unlimited().connection(scope().memory(MIB)),
            _ => limits_of(in_scope, scope().memory(MIB)),
        });
        let guard = admission(&governor, in_scope).try_admit().unwrap();
        for len in [512, 2048, 4096, 16384, 65536] {
            let leases: Vec<_> = (0..8).map(|_| guard.try_lease(len).unwrap()).collect();
            drop(leases);
        }
        assert!(guard.handle().usage().unwrap().cached_bytes > 512 * KIB);
        drop(guard.handle().try_reserve(MIB).unwrap_or_else(|e| panic!("{in_scope}: {e}")));
        for len in [512, 2048, 4096, 16384] {
            drop(guard.try_lease(len).unwrap());
        }
        let leases: Vec<_> = (0..16)
            .map(|nth| guard.try_lease(65536).unwrap_or_else(|e| panic!("{in_scope}, {nth}: {e}")))
            .collect();
        let error = guard.try_lease(1).unwrap_err();
        assert_eq!(error.refused().unwrap().in_use(), MIB);
        drop(leases);
    }
}

#[test]
fn idle_memory_gives_way_at_every_level_at_once() {
    let limits = Limits::unlimited()
        .system(scope().memory(4 * KEPT))
        .peer(scope().memory(3 * KEPT))
        .class("public", scope().memory(3 * KEPT))
        .connection(scope().memory(2 * KEPT));
    let governor = governor(limits);
    let admit = |peer| governor.inbound().peer(peer).class("public").try_admit().unwrap();
    let guards = [admit("alice"), admit("alice"), admit("bob"), admit("bob")];
    for guard in &guards[..3] {
        let leases: Vec<_> = (0..8).map(|_| guard.try_lease(4096).unwrap()).collect();
        drop(leases);
    }
    assert_eq!(governor.snapshot().totals.cached_bytes, 3 * KEPT);
    let first = guards[0].handle().try_reserve(2 * KEPT).unwrap();
    let second = guards[3].handle().try_reserve(KEPT).unwrap();
    let error = guards[2].handle().try_reserve(1).unwrap_err();
    assert_eq!(error.refused().unwrap().scope(), Scope::Class);
    assert_eq!(error.refused().unwrap().in_use(), 3 * KEPT);
    drop((first, second));
}

#[test]
fn a_refusal_takes_no_idle_memory_in_vain() {
    for in_scope in SCOPES {
        let Hoard { governor, siblings, newcomer } = hoard(in_scope);
        let _half = newcomer.handle().try_reserve(LIMIT / 2).unwrap();
        let idle = assert_adds_up(&governor).totals.cached_bytes;
        let error = siblings[0].handle().try_reserve(LIMIT / 2 + 1).unwrap_err();
        let refused = error.refused().unwrap();
        assert!(matches!(error, LeaseError::Refused(_)));
        assert_eq!((refused.scope(), refused.in_use()), (in_scope, LIMIT), "{refused}");
        assert_eq!(refused.requested(), LIMIT / 2 + 1);
        assert_eq!(assert_adds_up(&governor).totals.cached_bytes, idle, "{in_scope}");
    }
}

#[test]
fn many_refusals_in_a_row_change_no_truth() {
    for in_scope in SCOPES {
        let Hoard { governor, siblings, newcomer } = hoard(in_scope);
        let mut held = newcomer.handle().try_reserve(LIMIT).unwrap();
        for _ in 0..100 {
            assert!(siblings[0].try_lease(512).is_err());
            assert!(newcomer.try_lease(512).is_err());
        }
        held.resize(LIMIT - 512).unwrap();
        let lease = siblings[0].try_lease(512).unwrap_or_else(|e| panic!("{in_scope}: {e}"));
        assert_adds_up(&governor);
        drop(lease);
    }
}

#[test]
fn a_stream_is_refused_by_what_it_has_itself_and_not_by_what_others_keep() {
    let governor = governor(Limits::unlimited().stream(scope().memory(8 * KIB)));
    let guard = governor.inbound().try_admit().unwrap();
    let leases: Vec<_> = (0..8).map(|_| guard.try_lease(4096).unwrap()).collect();
    drop(leases);
    let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
    for _ in 0..10 {
        let leases = [stream.try_lease_owned(4096).unwrap(), stream.try_lease_owned(4096).unwrap()];
        assert!(stream.try_lease_owned(512).is_err());
        drop(leases);
        assert_eq!(stream.usage().memory, 0);
    }
}

#[test]
fn a_freeze_that_falls_back_is_no_refusal() {
    use bytes::BufMut;
    let governor = governor(Limits::unlimited().connection(scope().memory(64 * KIB)));
    let guard = governor.inbound().try_admit().unwrap();
    let mut lease = guard.try_lease(65536).unwrap();
    lease.put_slice(b"small");
    // There is no room for a smaller copy beside the block, so the block itself is shared.
    let bytes = lease.freeze();
    assert_eq!(bytes, &b"small"[..]);
    assert_eq!(guard.handle().usage().unwrap().detached_bytes, 64 * KIB);
    assert_eq!(governor.snapshot().totals.refused, 0, "nobody was refused anything");
}

/// Idle blocks, one in each page of every slab that the system may have, keep all those pages.
#[test]
fn idle_blocks_that_fragment_the_arena_give_way_too() {
    const SYSTEM: u64 = 16 * MIB;
    const PER_PAGE: usize = 4096 / 512;
    let governor = Governor::builder()
        .limits(Limits::unlimited().system(scope().memory(SYSTEM)))
        .fragmentation(0)
        .build()
        .unwrap();
    let hoarder = governor.inbound().try_admit().unwrap();
    let mut siblings = Vec::new();
    let mut kept = Vec::new();
    let mut between = Vec::new();
    for page in 0..SYSTEM as usize / 4096 {
        if page % 8 == 0 {
            siblings.push(governor.inbound().try_admit().unwrap());
        }
        kept.push(siblings[page / 8].handle().try_lease_owned(512).unwrap());
        between.extend((1..PER_PAGE).map(|_| hoarder.try_lease(512).unwrap()));
    }
    drop(between);
    hoarder.handle().trim();
    drop(kept);
    let snapshot = assert_adds_up(&governor);
    assert_eq!(snapshot.totals.outstanding_bytes, 0);
    let idle = snapshot.totals.cached_bytes;

    let newcomer = governor.inbound().try_admit().unwrap();
    let wanted = (SYSTEM - idle) / (64 * KIB);
    let leases: Vec<_> = (0..wanted)
        .map(|nth| newcomer.try_lease(65536).unwrap_or_else(|e| panic!("{nth} of {wanted}: {e}")))
        .collect();
    drop((leases, siblings));
}
