//! Slabs are mapped and unmapped while blocks are handed out and given back.
//!
//! A slab has two blocks under loom. Two threads (eight preemptions), or three (three or four preemptions).

use leasehold::{ConnectionGuard, Limits, OwnedLease, Scope, ScopeLimits};
use loom_tests::{
    BLOCK, Bounds, Mark, SLAB_BLOCKS, admit, all_back, at_rest, bytes, cache, governor,
    governor_with_room, granted, lease, model, race, race3, room,
};

/// Fills this many slabs.
fn fill(guard: &ConnectionGuard, slabs: usize) -> Vec<OwnedLease> {
    (0..slabs * SLAB_BLOCKS).map(|_| lease(guard).into_owned()).collect()
}

/// Two slabs become empty, so one is unmapped, while another connection leases this many blocks.
fn release_against<const LEASES: usize>(name: &str) {
    model(name, Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited());
        let (old, new) = (admit(&governor), admit(&governor));
        let revoked = fill(&old, 2);
        let (new, ()) = race(
            || {
                let mut leases: [_; LEASES] = std::array::from_fn(|_| lease(&new));
                leases.iter_mut().for_each(|lease| lease.mark(1));
                drop(leases);
                new
            },
            move || drop(old),
        );
        drop((new, revoked));
        all_back(&governor);
        assert_eq!(at_rest(&governor).arena.size_classes[0].slabs, 1, "one empty slab is kept");
    });
}

/// The blocks are at hand, or a new slab is needed, or turns out not to have been.
#[test]
fn release_against_one_slab() {
    release_against::<SLAB_BLOCKS>("release_against_one_slab");
}

/// The blocks are partly those of the slab that is about to be unmapped.
#[test]
fn release_against_two_slabs() {
    release_against::<{ SLAB_BLOCKS + 1 }>("release_against_two_slabs");
}

/// Two slabs become empty by two threads at once.
#[test]
fn release_against_release() {
    model("release_against_release", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited());
        let (one, two) = (admit(&governor), admit(&governor));
        let revoked = [fill(&one, 1), fill(&two, 1)];
        race(|| drop(one), move || drop(two));
        drop(revoked);
        all_back(&governor);
        let arena = at_rest(&governor).arena;
        assert_eq!(arena.size_classes[0].slabs, 1, "one empty slab is kept");
        assert_eq!(arena.mapped_bytes, bytes(SLAB_BLOCKS as u64));
    });
}

/// The arena is never what refuses while there is room: not because two others have just mapped a
/// slab of which they need one block.
#[test]
fn three_grow_at_once() {
    model("three_grow_at_once", Bounds::THREE_THREADS, || {
        let governor = governor_with_room(3);
        let [one, two, three] = std::array::from_fn(|_| admit(&governor));
        let ask = |guard: ConnectionGuard| (guard.handle().try_lease_owned(BLOCK), guard);
        let (one, two, three) = race3(|| ask(one), move || ask(two), move || ask(three));
        for answer in [&one.0, &two.0, &three.0] {
            assert!(granted(answer, Scope::System), "refused although there is room");
        }
        drop((one, two, three));
        all_back(&governor);
    });
}

/// Nor because others hold the last free blocks while they find out that they are refused.
#[test]
fn grow_against_refused_requests() {
    model("grow_against_refused_requests", Bounds::THREE_OF_FEW_STEPS, || {
        let limits = Limits::unlimited().system(room(1)).class("full", room(0));
        let governor = governor(limits);
        let full = || governor.inbound().class("full").try_admit().unwrap();
        let (one, two, fits) = (full(), full(), admit(&governor));
        // One slab is mapped, and all of it is free: as much as this limit allows.
        drop(lease(&fits));
        fits.handle().trim();
        let (one_is_refused, two, fits) = race3(
            || one.handle().try_lease_owned(BLOCK).is_err(),
            move || (two.handle().try_lease_owned(BLOCK).is_err(), two),
            move || (fits.handle().try_lease_owned(BLOCK), fits),
        );
        assert!(granted(&fits.0, Scope::System), "refused although there is room");
        assert!(one_is_refused && two.0);
        drop((one, two, fits));
        all_back(&governor);
    });
}

/// Nor because requests have taken idle blocks of other connections, and are refused all the same.
#[test]
fn leases_against_blocks_taken_in_vain() {
    model("leases_against_blocks_taken_in_vain", Bounds::THREE_THREADS, || {
        let governor = governor(Limits::unlimited().system(room(3)).peer(room(3)));
        let of = |peer: &str| governor.inbound().peer(peer).try_admit().unwrap();
        let (one_idle, one, two_idle, two) = (of("one"), of("one"), of("two"), of("two"));
        let fits = admit(&governor);
        // Two slabs are mapped, as many as this limit allows, and one block is free.
        cache(&one_idle);
        cache(&two_idle);
        let held = lease(&fits).into_owned();
        let (one_asked, two, fits) = race3(
            || one.handle().try_reserve(bytes(3)),
            move || (two.handle().try_reserve(bytes(3)), two),
            move || {
                let leases = [(), ()].map(|()| fits.handle().try_lease_owned(BLOCK));
                (leases, fits)
            },
        );
        let fit = fits.0.each_ref().map(|lease| granted(lease, Scope::System));
        assert_eq!(fit, [true; 2], "refused although there is room");
        assert!(!granted(&one_asked, Scope::System) && !granted(&two.0, Scope::System));
        drop((held, one_asked, one, two, fits, one_idle, two_idle));
        all_back(&governor);
    });
}

/// Nor because other threads have taken out memory that would make room, and not unmapped it yet.
#[test]
fn large_lease_against_two_releases() {
    model("large_lease_against_two_releases", Bounds::THREE_THREADS, || {
        // Three slabs' worth, all of it leased. With a large lease of as much one slab may stay
        // mapped, and not the two that the threads which close take out.
        let governor = governor_with_room(3 * SLAB_BLOCKS as u64);
        let [two, one, new] = std::array::from_fn(|_| admit(&governor));
        let revoked = [fill(&two, 2), fill(&one, 1)];
        let (asked, (), ()) = race3(
            || new.handle().try_lease_owned(3 * SLAB_BLOCKS * BLOCK),
            move || drop(two),
            move || drop(one),
        );
        // The system's limit refuses before both closes. After them there is room.
        granted(&asked, Scope::System);
        drop((asked, new, revoked));
        all_back(&governor);
    });
}

/// Nor for want of memory that the scopes have room for already: a large lease is unmapped first.
#[test]
fn large_lease_against_large_return() {
    model("large_lease_against_large_return", Bounds::TWO_THREADS, || {
        let large = 4 * BLOCK as u64;
        let governor = governor(Limits::unlimited().system(ScopeLimits::unlimited().memory(large)));
        let (old, new) = (admit(&governor), admit(&governor));
        let held = old.handle().try_lease_owned(large as usize).unwrap();
        let (asked, ()) = race(|| new.handle().try_lease_owned(large as usize), move || drop(held));
        granted(&asked, Scope::System);
        drop((asked, old, new));
        all_back(&governor);
    });
}

/// Of two large leases of one connection the one that is returned is unmapped, and the other stays.
#[test]
fn large_return_beside_a_large_lease() {
    model("large_return_beside_a_large_lease", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited());
        let guard = admit(&governor);
        let large = || guard.handle().try_lease_owned(4 * BLOCK).unwrap();
        let (one, mut two) = (large(), large());
        let ((), two) = race(
            || drop(one),
            move || {
                two.pin().unwrap().mark(2);
                two
            },
        );
        assert_eq!(at_rest(&governor).totals.outstanding_bytes, bytes(4));
        drop((two, guard));
        all_back(&governor);
    });
}

/// Two large leases of one connection are returned at once, and each is unmapped and counted once.
#[test]
fn two_large_returns() {
    model("two_large_returns", Bounds::preemptions(4), || {
        let governor = governor(Limits::unlimited());
        let guard = admit(&governor);
        let large = || guard.handle().try_lease_owned(4 * BLOCK).unwrap();
        let (one, two) = (large(), large());
        race(|| drop(one), move || drop(two));
        at_rest(&governor);
        drop(guard);
        all_back(&governor);
    });
}

/// A connection is closed, and then its guard goes, while a large lease of it is being unmapped. Until
/// that is done it counts as what no connection keeps idle.
#[test]
fn closes_against_large_return() {
    model("closes_against_large_return", Bounds::preemptions(4), || {
        let governor = governor(Limits::unlimited());
        let guard = admit(&governor);
        let held = guard.handle().try_lease_owned(4 * BLOCK).unwrap();
        race(
            || drop(held),
            move || {
                assert!(guard.handle().close().is_ok());
                drop(guard);
            },
        );
        all_back(&governor);
    });
}

/// A close takes an owned block from a lease that is still being made, and the block's slab with it.
#[test]
fn slab_goes_while_a_lease_is_made() {
    model("slab_goes_while_a_lease_is_made", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited());
        let (filler, guard) = (admit(&governor), admit(&governor));
        let full = fill(&filler, 1);
        // In a slab of its own.
        cache(&guard);
        drop((filler, full));
        let handle = guard.handle().clone();
        let ((), owned) = race(|| drop(guard), move || handle.try_lease_owned(BLOCK));
        drop(owned);
        all_back(&governor);
    });
}

/// As above, by the end of the last connection of a governor that is gone.
#[test]
fn arena_goes_while_a_lease_is_made() {
    model("arena_goes_while_a_lease_is_made", Bounds::TWO_THREADS, || {
        let governor = governor(Limits::unlimited());
        let guard = admit(&governor);
        cache(&guard);
        let handle = guard.handle().clone();
        drop(governor);
        let ((), owned) = race(|| drop(guard), move || handle.try_lease_owned(BLOCK));
        drop(owned);
    });
}
