//! Promises that an earlier build broke, each with the shortest program that showed it.
#![allow(clippy::disallowed_types, reason = "tests are never modelled")]

mod common;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::task::{Context, Wake, Waker};

use common::counting::{Counting, live_bytes};
use common::{
    KIB, MIB, assert_adds_up, assert_nothing_left, governor, make_idle, only_row, scope, usage,
};
use leasehold::{
    ConnectionGuard, Direction, Governor, Limit, Limits, Observe, OwnedLease, PeerKey, Priority,
    Revoked, Scope, ScopeLimits,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Large leases, 48 MiB together, which go with their connection. They are written to, so that it
/// takes long to unmap them.
fn large_leases(guard: &ConnectionGuard) -> Vec<OwnedLease> {
    let mut leases: Vec<_> =
        (0..48).map(|_| guard.handle().try_lease_owned(MIB as usize).unwrap()).collect();
    for lease in &mut leases {
        lease.pin().unwrap().initialize(MIB as usize).fill(1);
    }
    leases
}

/// P7: what an ending connection no longer charges is no longer mapped either, so the arena has room
/// for what the scopes have room for.
#[test]
fn where_the_scopes_have_room_the_arena_does_not_refuse() {
    let governor = governor(Limits::unlimited().system(scope().memory(64 * MIB)));
    for _ in 0..50 {
        let ending = governor.inbound().try_admit().unwrap();
        let leases = large_leases(&ending);
        let other = governor.inbound().try_admit().unwrap();
        let gate = Barrier::new(2);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                gate.wait();
                drop(ending);
            });
            gate.wait();
            loop {
                match other.try_lease(40 * MIB as usize) {
                    Ok(_) => break,
                    Err(error) => assert_eq!(error.refused().unwrap().scope(), Scope::System),
                }
            }
        });
        drop((leases, other));
        assert_nothing_left(&governor);
    }
}

/// P3: while two threads close a connection, what is mapped still is charged still, also when the
/// guard's drop has returned.
#[test]
fn what_another_closer_has_yet_to_unmap_stays_charged() {
    let governor = Governor::unlimited();
    for _ in 0..200 {
        let guard = governor.inbound().try_admit().unwrap();
        let leases = large_leases(&guard);
        let handle = guard.handle().clone();
        let gate = Barrier::new(2);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                gate.wait();
                let _ = handle.close();
            });
            gate.wait();
            drop(guard);
            let snapshot = governor.snapshot();
            let charged = snapshot.scope(Scope::System).usage.memory;
            let mapped = snapshot.arena.large_bytes;
            assert!(mapped <= charged, "{mapped} bytes mapped, {charged} charged");
        });
        drop(leases);
        assert_nothing_left(&governor);
    }
}

/// A governor that has had much to do, all of it gone again: what is left is what `keep` keeps.
fn kept_of_all<T>(keep: impl Fn(&ConnectionGuard) -> T) -> (isize, T) {
    let before = live_bytes();
    let kept = {
        let governor = Governor::unlimited();
        let admit =
            |nth: u64| governor.inbound().peer(nth.to_le_bytes()).class("public").try_admit();
        let crowd: Vec<_> = (0..1_000).map(|nth| admit(nth).unwrap()).collect();
        let of_crowd: Vec<_> =
            crowd.iter().map(|guard| guard.try_lease(64 << 10).unwrap()).collect();
        let guard = admit(1_000).unwrap();
        let own: Vec<_> =
            (0..1_000).map(|_| guard.handle().try_lease_owned(4096).unwrap()).collect();
        let large = guard.handle().try_lease_owned(MIB as usize).unwrap();
        let kept = keep(&guard);
        drop((own, large, of_crowd));
        kept
    };
    (live_bytes() - before, kept)
}

/// P13: also when governor and connections are gone.
#[test]
fn a_closed_handle_keeps_at_most_512_bytes_of_all_there_was() {
    let (bytes, handle) = kept_of_all(|guard| guard.handle().clone());
    assert!(handle.is_closed());
    println!("a closed handle keeps {bytes} bytes");
    assert!(bytes <= 512, "{bytes} bytes");
}

#[test]
fn a_revoked_lease_keeps_at_most_512_bytes_of_all_there_was() {
    let (bytes, mut lease) = kept_of_all(|guard| guard.handle().try_lease_owned(512).unwrap());
    assert_eq!(lease.pin().unwrap_err(), Revoked);
    println!("a revoked lease keeps {bytes} bytes");
    assert!(bytes <= 512, "{bytes} bytes");
}

#[test]
fn each_further_revoked_lease_keeps_at_most_64_bytes() {
    const MANY: usize = 100;
    let (bytes, leases) = kept_of_all(|guard| {
        // An array, since a vector's own memory would count.
        let mut kept = [const { None }; MANY];
        kept.fill_with(|| Some(guard.handle().try_lease_owned(512).unwrap()));
        kept
    });
    println!("{MANY} revoked leases keep {bytes} bytes");
    assert!(bytes <= 512 + 64 * (MANY as isize - 8), "{bytes} bytes");
    drop(leases);
}

/// A waker that panics, and counts how often it was woken.
#[derive(Default)]
struct Bomb(AtomicUsize);

impl Wake for Bomb {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
        panic!("a waker of the test panics on purpose");
    }
}

/// P3: a second panic does not end the process while the first unwinds.
#[test]
fn two_wakers_that_panic_end_no_more_than_the_call() {
    for from_outside in [false, true] {
        let governor = Governor::unlimited();
        let guard = governor.inbound().try_admit().unwrap();
        let bomb = Arc::new(Bomb::default());
        let waker = Waker::from(bomb.clone());
        let mut waiting = [(); 3].map(|()| guard.handle().revoked());
        for revoked in &mut waiting {
            let poll = Pin::new(revoked).poll(&mut Context::from_waker(&waker));
            assert!(poll.is_pending());
        }
        let closed = catch_unwind(AssertUnwindSafe(|| {
            if from_outside {
                let _ = guard.handle().close();
            } else {
                drop(guard);
            }
        }));
        assert!(closed.is_err(), "the panic reaches the caller");
        assert_eq!(bomb.0.load(Ordering::SeqCst), 3, "every future is woken");
        assert_eq!(assert_adds_up(&governor).arena.in_use_bytes, 0);
    }
}

/// P3: nor does a waker that panics while the guard drops because its task panics.
#[test]
fn a_waker_that_panics_as_a_panic_drops_the_guard_ends_no_process() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let bomb = Arc::new(Bomb::default());
    let mut revoked = guard.handle().revoked();
    let waker = Waker::from(bomb.clone());
    assert!(Pin::new(&mut revoked).poll(&mut Context::from_waker(&waker)).is_pending());
    let task = catch_unwind(AssertUnwindSafe(|| {
        let _guard = guard;
        panic!("a task of the test panics on purpose");
    }));
    let payload = task.unwrap_err();
    assert_eq!(*payload.downcast_ref::<&str>().unwrap(), "a task of the test panics on purpose");
    assert_eq!(bomb.0.load(Ordering::SeqCst), 1);
    assert_nothing_left(&governor);
}

fn blocked() -> ScopeLimits {
    scope().memory(Limit::Blocked)
}

/// Nothing limited but one scope's memory, which is blocked.
fn blocking(in_scope: Scope) -> Limits {
    let all = Limits::unlimited();
    match in_scope {
        Scope::System => all.system(blocked()),
        Scope::Transient => all.transient(blocked()),
        Scope::Peer => all.peer(blocked()),
        Scope::Class => all.class("public", blocked()),
        Scope::ClassPeer => all.class_peer("public", blocked()),
        Scope::Connection => all.connection(blocked()),
        Scope::Stream => all.stream(blocked()),
        other => panic!("{other} is not tested"),
    }
}

fn admit_below(governor: &Governor, in_scope: Scope) -> ConnectionGuard {
    let admission = governor.inbound();
    match in_scope {
        Scope::Transient => admission,
        Scope::Class => admission.class("public"),
        _ => admission.class("public").peer("alice"),
    }
    .try_admit()
    .unwrap()
}

/// P1: what is blocked lends nothing, neither what lay idle nor what comes back later.
#[track_caller]
fn assert_lends_nothing(guard: &ConnectionGuard, refuses: Scope, out: &mut Vec<OwnedLease>) {
    for len in [4096, 512] {
        let error = guard.request().priority(Priority::Critical).try_lease(len).unwrap_err();
        assert_eq!(error.refused().unwrap().scope(), refuses);
        assert!(guard.handle().try_lease_owned(len).is_err(), "{refuses}");
        assert_eq!(usage(guard).cached_bytes, 0, "{refuses} keeps idle memory");
        out.pop();
    }
    out.clear();
    assert_eq!(usage(guard).memory, 0, "{refuses} keeps what came back");
    assert!(guard.try_lease(4096).is_err(), "{refuses}");
}

/// Leases of which some return, to lie idle.
fn lease_beyond_eight(guard: &ConnectionGuard) -> Vec<OwnedLease> {
    make_idle(guard, 4096, 12);
    let out = (0..4).map(|_| guard.handle().try_lease_owned(4096).unwrap()).collect();
    assert!(usage(guard).cached_bytes > 0);
    out
}

#[test]
fn a_scope_that_becomes_blocked_lends_no_idle_block() {
    let scopes = [
        Scope::System,
        Scope::Transient,
        Scope::Peer,
        Scope::Class,
        Scope::ClassPeer,
        Scope::Connection,
    ];
    for in_scope in scopes {
        let governor = Governor::unlimited();
        let guard = admit_below(&governor, in_scope);
        let mut out = lease_beyond_eight(&guard);
        governor.set_limits(blocking(in_scope)).unwrap();
        assert_lends_nothing(&guard, in_scope, &mut out);
        assert_eq!(assert_adds_up(&governor).totals.cached_bytes, 0);
        governor.set_limits(Limits::unlimited()).unwrap();
        make_idle(&guard, 4096, 8);
    }
}

#[test]
fn a_stream_that_becomes_blocked_is_lent_no_idle_block() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
    make_idle(&guard, 4096, 4);
    governor.set_limits(blocking(Scope::Stream)).unwrap();
    for len in [4096, 512] {
        let error = stream.request().priority(Priority::Critical).try_lease_owned(len).unwrap_err();
        assert_eq!(error.refused().unwrap().scope(), Scope::Stream);
    }
    // The connection itself may have it.
    drop(guard.try_lease(4096).unwrap());
}

#[test]
fn a_stream_of_a_class_that_becomes_blocked_is_lent_no_idle_block() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
    stream.bind_class("public").unwrap();
    governor.set_limits(blocking(Scope::Class)).unwrap();
    // The connection is not of that class, and may have idle blocks.
    make_idle(&guard, 4096, 4);
    let error = stream.try_lease_owned(4096).unwrap_err();
    assert_eq!(error.refused().unwrap().scope(), Scope::Class);
    drop(guard.try_lease(4096).unwrap());
}

/// Its own limits, and those of every peer when its own are removed.
#[test]
fn a_peer_that_becomes_blocked_is_lent_no_idle_block_and_others_keep_theirs() {
    let alice = PeerKey::new("alice").unwrap();
    let removed = |governor: &Governor| {
        governor.remove_peer_limits(&alice).unwrap();
    };
    let set = |governor: &Governor| {
        governor.set_peer_limits(&alice, blocked());
    };
    let blocked_but_alice = blocking(Scope::Peer)
        .peer_override(alice.clone(), scope())
        .peer_override(PeerKey::new("bob").unwrap(), scope());
    type Way<'a> = (Limits, &'a dyn Fn(&Governor));
    let ways: [Way<'_>; 2] = [(Limits::unlimited(), &set), (blocked_but_alice, &removed)];
    for (limits, block) in ways {
        let governor = governor(limits);
        let guard = governor.inbound().peer("alice").try_admit().unwrap();
        let other = governor.inbound().peer("bob").try_admit().unwrap();
        make_idle(&other, 4096, 8);
        let mut out = lease_beyond_eight(&guard);
        block(&governor);
        assert_lends_nothing(&guard, Scope::Peer, &mut out);
        assert_eq!(usage(&other).cached_bytes, 8 * 4096, "of another peer");
        // With other limits it works as before.
        governor.set_peer_limits(&alice, scope());
        make_idle(&guard, 4096, 8);
    }
}

/// So many connections that a request which swept them all would disturb many.
const CROWD: u64 = 1_000;

/// A system that is full to the last byte: a quarter of it lies idle, a quarter is leased by
/// connections that have idle blocks too, and half is reserved.
struct Full {
    governor: Governor,
    guards: Vec<ConnectionGuard>,
}

impl Full {
    const LIMIT: u64 = CROWD * 16 * KIB;

    fn new(observe: Observe) -> (Self, Vec<OwnedLease>) {
        let limits = Limits::unlimited().system(scope().memory(Self::LIMIT)).observe(observe);
        let governor = governor(limits);
        let guards: Vec<_> = (0..CROWD).map(|_| governor.inbound().try_admit().unwrap()).collect();
        let mut out = Vec::new();
        for guard in &guards {
            let leases = [4096, 4096, 512].map(|len| guard.handle().try_lease_owned(len).unwrap());
            let [kept, idle, _] = leases;
            out.push(kept);
            drop(idle);
        }
        (Self { governor, guards }, out)
    }

    /// Reserves what there is room for.
    fn fill(&self) -> leasehold::Reservation {
        let used = self.governor.snapshot().scope(Scope::System).usage.memory;
        self.guards[0].handle().try_reserve(Self::LIMIT - used).unwrap()
    }

    fn idle(&self) -> u64 {
        assert_adds_up(&self.governor).totals.cached_bytes
    }
}

/// P15: a request that is refused in the end takes no idle block of others.
#[test]
fn a_hopeless_request_takes_nothing() {
    let (full, out) = Full::new(Observe::none());
    let _reserved = full.fill();
    let newcomer = full.governor.inbound().try_admit().unwrap();
    let idle = full.idle();
    assert_eq!(idle, CROWD * (4096 + 512));
    // More than is idle, and less than would be if all blocks were.
    let hopeless = idle + 4096;
    for _ in 0..20 {
        assert!(newcomer.handle().try_reserve(hopeless).is_err());
        assert!(newcomer.try_lease(hopeless as usize).is_err());
        assert!(full.guards[7].handle().try_reserve(hopeless).is_err());
        // Two fifths are in use many times over.
        for priority in [Priority::Low, Priority::Medium] {
            assert!(newcomer.request().priority(priority).try_lease(1).is_err());
            assert!(newcomer.handle().request().priority(priority).try_reserve(1).is_err());
        }
    }
    // Those of the connection that asked may go: they are its own.
    assert!(full.idle() >= idle - 4096 - 512, "{} of {idle} bytes are idle", full.idle());
    let others = full.guards.iter().enumerate().filter(|(nth, _)| *nth != 7);
    assert!(others.into_iter().all(|(_, guard)| usage(guard).cached_bytes == 4096 + 512));
    // What idle blocks can cover is granted.
    drop(newcomer.handle().try_reserve(full.idle()).unwrap());
    drop(out);
}

/// P15: of few connections either.
#[test]
fn a_hopeless_request_takes_nothing_from_a_few() {
    let governor = governor(Limits::unlimited().system(scope().memory(64 * KIB)));
    let guards = [(); 3].map(|()| governor.inbound().try_admit().unwrap());
    guards.iter().for_each(|guard| make_idle(guard, 4096, 4));
    // All of it could be idle, and a third is.
    let out = guards.each_ref().map(|guard| [(); 3].map(|()| guard.try_lease(4096).unwrap()));
    let newcomer = governor.inbound().try_admit().unwrap();
    for missing in [12 * KIB + 1, 48 * KIB] {
        assert!(newcomer.handle().try_reserve(16 * KIB + missing).is_err());
        assert!(guards.iter().all(|guard| usage(guard).cached_bytes == 4096), "taken in vain");
    }
    drop(out);
    assert_leases_stay_fast(&guards);
    drop(newcomer.handle().try_reserve(64 * KIB).unwrap());
}

/// P15: where no block ever came to lie idle, a request that a full scope refuses looks at nothing.
#[test]
fn a_refusal_where_nothing_lies_idle_is_short() {
    let governor = governor(Limits::unlimited().system(scope().memory(64 * KIB)));
    let guards: Vec<_> = (0..16).map(|_| governor.inbound().try_admit().unwrap()).collect();
    let _out: Vec<_> = guards.iter().map(|g| g.handle().try_lease_owned(4096).unwrap()).collect();
    let newcomer = governor.inbound().try_admit().unwrap();
    let locks = locks_of(|| assert!(newcomer.handle().try_lease_owned(4096).is_err()));
    // Its own, the tree's and the registry's; its own to clean up; its own and the tree's to count it.
    assert!(locks <= 6, "{locks} locks");
}

/// P15: a request takes as many idle blocks as it is short of, and no more.
#[test]
fn the_arena_takes_no_more_idle_blocks_than_it_needs() {
    const SYSTEM: u64 = 16 * MIB;
    let governor = Governor::builder()
        .limits(Limits::unlimited().system(scope().memory(SYSTEM)))
        .fragmentation(0)
        .build()
        .unwrap();
    // A block in each page of every slab that the system may have, eight with each connection.
    let hoarder = governor.inbound().try_admit().unwrap();
    let guards: Vec<_> =
        (0..SYSTEM / 4096 / 8).map(|_| governor.inbound().try_admit().unwrap()).collect();
    let mut between = Vec::new();
    for guard in &guards {
        let kept = [(); 8].map(|()| {
            between.extend((0..7).map(|_| hoarder.try_lease(512).unwrap()));
            guard.try_lease(512).unwrap()
        });
        drop(kept);
    }
    drop(between);
    hoarder.handle().trim();
    let idle = governor.snapshot().totals.cached_bytes;
    assert_eq!(idle, SYSTEM / 8);
    let newcomer = governor.inbound().try_admit().unwrap();
    let mut leases = Vec::new();
    while governor.snapshot().totals.cached_bytes == idle {
        leases.push(newcomer.try_lease(65536).unwrap());
    }
    let left = governor.snapshot().totals.cached_bytes;
    assert!(left >= idle / 2, "{left} of {idle} bytes are idle");
}

/// How many locks the calling thread takes, where the build counts them.
fn locks_of(work: impl FnOnce()) -> u64 {
    let before = locks();
    work();
    locks() - before
}

#[cfg(feature = "__holds")]
fn locks() -> u64 {
    leasehold::__holds::locks()
}

#[cfg(not(feature = "__holds"))]
fn locks() -> u64 {
    0
}

/// Connections that have idle blocks lease them and return them, and nothing else changes. To count
/// locks as well: `cargo test --features __holds --test defects`.
#[track_caller]
fn assert_leases_stay_fast(guards: &[ConnectionGuard]) {
    for guard in guards {
        let cached = usage(guard).cached_bytes;
        let locks = locks_of(|| {
            for _ in 0..10 {
                drop(guard.try_lease(4096).unwrap());
                drop(guard.handle().try_lease_owned(4096).unwrap());
            }
        });
        assert_eq!(locks, 0, "locks were taken");
        assert_eq!(usage(guard).cached_bytes, cached, "an idle block went");
    }
}

/// P15: a refusal at a full scope slows no leases of others.
#[test]
fn at_a_full_scope_leases_of_idle_blocks_take_no_lock() {
    let (full, out) = Full::new(Observe::none());
    let _reserved = full.fill();
    let newcomer = full.governor.inbound().try_admit().unwrap();
    assert_leases_stay_fast(&full.guards);
    assert!(newcomer.handle().try_reserve(Full::LIMIT).is_err());
    assert!(newcomer.handle().try_reserve(full.idle() + 1).is_err());
    assert!(newcomer.request().priority(Priority::Low).try_lease(1).is_err());
    assert_leases_stay_fast(&full.guards);
    drop(out);
}

#[test]
fn with_an_exceeded_limit_that_is_observed_leases_of_idle_blocks_take_no_lock() {
    let (full, out) = Full::new(Observe::everything());
    let newcomer = full.governor.inbound().try_admit().unwrap();
    let _reserved = full.guards[0].handle().try_reserve(2 * Full::LIMIT).unwrap();
    drop(newcomer.try_lease(4096).unwrap());
    let snapshot = full.governor.snapshot();
    assert!(only_row(&snapshot, Scope::System).usage.memory > Full::LIMIT);
    assert!(snapshot.observed.iter().any(|row| row.scope == Scope::System));
    assert_leases_stay_fast(&full.guards);
    // Those that begin to keep idle blocks are as fast.
    assert_eq!(usage(&newcomer).cached_bytes, 4096);
    assert_leases_stay_fast(&[newcomer]);
    drop(out);
}

/// P15: after idle blocks of several connections were taken for another's request that was granted, the
/// next return makes leases as fast again as they were.
#[test]
fn a_connection_that_was_swept_is_fast_again_after_one_return() {
    let governor = governor(Limits::unlimited().system(scope().memory(64 * KIB)));
    let guards = [(); 2].map(|()| governor.inbound().try_admit().unwrap());
    guards.iter().for_each(|guard| make_idle(guard, 4096, 4));
    let other = governor.inbound().try_admit().unwrap();
    let _reserved = other.handle().try_reserve(56 * KIB).unwrap();
    for guard in &guards {
        assert_eq!(usage(guard).cached_bytes, 0, "it was not swept");
        drop(guard.try_lease(4096).unwrap());
    }
    assert!(other.handle().try_reserve(16 * KIB + 1).is_err());
    assert_leases_stay_fast(&guards);
}

/// P15: a connection of which one idle block was taken goes on as fast with those that it has left.
#[test]
fn a_connection_that_gave_up_an_idle_block_stays_fast() {
    let governor = governor(Limits::unlimited().system(scope().memory(64 * KIB)));
    let guard = governor.inbound().try_admit().unwrap();
    make_idle(&guard, 4096, 8);
    let other = governor.inbound().try_admit().unwrap();
    let _reserved = other.handle().try_reserve(32 * KIB + 1).unwrap();
    assert_eq!(usage(&guard).cached_bytes, 28 * KIB, "as much as was missing");
    let _reserved = other.handle().try_reserve(4095).unwrap();
    assert_leases_stay_fast(std::slice::from_ref(&guard));
}

/// P7: the names that one peer makes up fill no class that another peer is to use.
#[test]
fn classes_that_one_peer_makes_up_fill_no_class_of_another() {
    let governor = governor(Limits::unlimited().class_default(scope().streams(8)));
    let noisy = governor.inbound().peer("alice").try_admit().unwrap();
    let open = |guard: &ConnectionGuard, class: &str| {
        let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
        stream.bind_class(class).unwrap();
        stream
    };
    let streams: Vec<_> = (0..266).map(|nth| open(&noisy, &format!("/made/up/{nth}"))).collect();
    let quiet = governor.inbound().peer("bob").try_admit().unwrap();
    drop(open(&quiet, "mail"));
    drop((streams, noisy, quiet));
    assert_nothing_left(&governor);
}
