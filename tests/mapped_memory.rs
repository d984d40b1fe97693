//! P1 for memory itself: what the arena maps, and what of it is resident, stays within the bounds
//! that [`leasehold::GovernorBuilder::fragmentation`] states.
#![allow(clippy::disallowed_types, reason = "tests are never modelled")]

mod common;

use std::sync::{Mutex, MutexGuard, PoisonError};

use common::{MIB, assert_adds_up, scope};
use leasehold::{ConnectionGuard, Governor, LeaseError, Limits, OwnedLease, Scope};

const CLASSES: [usize; 5] = [512, 2 << 10, 4 << 10, 16 << 10, 64 << 10];
const SLAB: u64 = MIB;
const LIMIT: u64 = 32 * MIB;
/// The limit, and a slab for each class.
const MAPPED: u64 = LIMIT + CLASSES.len() as u64 * SLAB;
/// That, and the quarter of it that may lie idle between used blocks.
const RESIDENT: u64 = MAPPED + MAPPED / 4;

/// The tests here measure the process, so they run one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn limited() -> Governor {
    Governor::new(Limits::unlimited().system(scope().memory(LIMIT))).unwrap()
}

/// Resident memory of the process, in bytes. Pages of the program's own file come and go with what
/// the machine needs elsewhere, so they do not count where the system tells them apart.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    match anonymous.and_then(|kib| kib.trim().strip_suffix(" kB")?.parse::<u64>().ok()) {
        Some(kib) => kib << 10,
        None => memory_stats::memory_stats().expect("the system tells").physical_mem as u64,
    }
}

/// Leases from one class until the limit, and touches every page.
fn fill(guard: &ConnectionGuard, len: usize) -> Vec<OwnedLease> {
    let mut leases = Vec::new();
    loop {
        match guard.handle().try_lease_owned(len) {
            Ok(mut lease) => {
                lease.pin().unwrap().initialize(len);
                leases.push(lease);
            }
            Err(error) => {
                let refused = error.refused().expect("the connection is open");
                assert_eq!(refused.scope(), Scope::System, "{refused}");
                return leases;
            }
        }
    }
}

/// Keeps the first lease of every slab's worth.
fn keep_one_per_slab(leases: Vec<OwnedLease>, len: usize) -> Vec<OwnedLease> {
    leases.into_iter().step_by(SLAB as usize / len).collect()
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB as f64
}

#[track_caller]
fn assert_mapped_within(governor: &Governor, bound: u64) {
    let mapped = governor.snapshot().arena.mapped_bytes;
    assert!(mapped <= bound, "{:.1} MiB mapped, bound {:.1}", mib(mapped), mib(bound));
}

#[test]
fn cycling_through_the_classes_at_the_limit_maps_one_slab_for_each_at_most() {
    let _alone = alone();
    let governor = limited();
    let guard = governor.inbound().try_admit().unwrap();
    let mut highest = 0;
    for round in 0..3 {
        for len in CLASSES {
            let mut leases = Vec::new();
            while let Ok(lease) = guard.handle().try_lease_owned(len) {
                leases.push(lease);
                if leases.len() % 64 == 0 {
                    assert_mapped_within(&governor, MAPPED);
                }
            }
            let full = assert_adds_up(&governor);
            assert_eq!(full.totals.outstanding_bytes, LIMIT, "round {round}, {len}");
            highest = highest.max(full.arena.mapped_bytes);
            assert_mapped_within(&governor, MAPPED);
            drop(leases);
            assert_mapped_within(&governor, MAPPED);
            assert_adds_up(&governor);
        }
    }
    println!("five classes at {} MiB: at most {} MiB mapped", mib(LIMIT), mib(highest));
}

#[test]
fn many_connections_that_cycle_through_the_classes_map_no_more() {
    let _alone = alone();
    let governor = limited();
    let guards: Vec<_> = (0..100).map(|_| governor.inbound().try_admit().unwrap()).collect();
    let mut highest = 0;
    for len in CLASSES.into_iter().rev().chain(CLASSES) {
        let mut leases = Vec::new();
        'fill: loop {
            for guard in &guards {
                match guard.handle().try_lease_owned(len) {
                    Ok(lease) => leases.push(lease),
                    Err(LeaseError::Refused(refused)) => {
                        assert_eq!(refused.scope(), Scope::System, "{refused}");
                        break 'fill;
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            let resident = governor.snapshot().arena.resident_bytes;
            highest = highest.max(resident);
        }
        // Connections keep blocks in slabs that are then only partly used.
        assert_eq!(assert_adds_up(&governor).totals.outstanding_bytes, LIMIT);
        drop(leases);
    }
    println!("a hundred connections at {} MiB: at most {} MiB resident", mib(LIMIT), mib(highest));
    assert!(highest <= RESIDENT, "{:.1} MiB", mib(highest));
}

#[test]
fn what_comes_back_is_unmapped_but_for_one_slab_of_each_class() {
    let _alone = alone();
    let governor = limited();
    let guard = governor.inbound().try_admit().unwrap();
    for (nth, len) in CLASSES.into_iter().enumerate() {
        drop(fill(&guard, len));
        guard.handle().trim();
        let arena = assert_adds_up(&governor).arena;
        assert_eq!(arena.in_use_bytes, 0);
        assert!(
            arena.size_classes.iter().all(|class| class.slabs <= 1),
            "{:?}",
            arena.size_classes
        );
        assert_mapped_within(&governor, (nth as u64 + 1) * SLAB);
    }
}

#[test]
fn large_leases_leave_nothing_mapped() {
    let _alone = alone();
    let governor = limited();
    let guard = governor.inbound().try_admit().unwrap();
    for _ in 0..3 {
        let leases: Vec<_> = (0..8).map(|_| guard.try_lease(4 << 20).unwrap()).collect();
        assert!(guard.try_lease(4 << 20).is_err());
        assert_mapped_within(&governor, LIMIT);
        drop(leases);
        assert_mapped_within(&governor, 0);
    }
}

#[test]
fn a_governor_that_is_dropped_unmaps_everything() {
    let _alone = alone();
    let before = resident();
    let governor = limited();
    let guard = governor.inbound().try_admit().unwrap();
    let leases = fill(&guard, 4096);
    let full = resident();
    assert!(full >= before + LIMIT / 2, "nothing was resident");
    drop((leases, guard, governor));
    let left = resident().saturating_sub(before);
    println!("after the governor: {:.1} MiB more resident than before", mib(left));
    assert!(left <= 4 * MIB, "{:.1} MiB stay", mib(left));
}

/// P13: not even the slab that each class keeps for next time, since there will be none.
#[test]
fn a_handle_that_outlives_its_governor_keeps_no_slab() {
    let _alone = alone();
    let before = resident();
    let governor = limited();
    let guard = governor.inbound().try_admit().unwrap();
    let handle = guard.handle().clone();
    for len in CLASSES {
        let leases: Vec<_> = (0..SLAB as usize / len)
            .map(|_| {
                let mut lease = guard.handle().try_lease_owned(len).unwrap();
                lease.pin().unwrap().initialize(len);
                lease
            })
            .collect();
        drop(leases);
    }
    guard.handle().trim();
    assert!(resident() >= before + 4 * MIB, "nothing was resident");
    drop((guard, governor));
    let left = resident().saturating_sub(before);
    assert!(handle.is_closed());
    println!("with a handle left: {:.1} MiB more resident than before", mib(left));
    assert!(left <= 4 * MIB, "{:.1} MiB stay", mib(left));
}

/// Fills each class to the limit, drops all but one block of every slab, and goes on to the next.
/// Answers the most that was resident beyond what was there before, measured and reported.
fn fragment(order: &[usize]) -> (u64, u64) {
    let before = resident();
    let governor = limited();
    let guard = governor.inbound().try_admit().unwrap();
    let mut kept = Vec::new();
    let (mut measured, mut reported) = (0, 0);
    for &len in order {
        let leases = fill(&guard, len);
        let now = resident().saturating_sub(before);
        measured = measured.max(now);
        reported = reported.max(governor.snapshot().arena.resident_bytes);
        kept.extend(keep_one_per_slab(leases, len));
        let snapshot = assert_adds_up(&governor);
        println!(
            "  {len:>5} B: {:>5.1} MiB resident when full, {:>5.1} after, {:>5.1} mapped, {:>4.1} in use",
            mib(now),
            mib(resident().saturating_sub(before)),
            mib(snapshot.arena.mapped_bytes),
            mib(snapshot.arena.in_use_bytes),
        );
    }
    (measured, reported)
}

#[test]
fn one_live_block_in_every_slab_keeps_resident_memory_within_the_bounds() {
    let _alone = alone();
    println!("one live block per slab, once through the classes; bound {} MiB:", mib(RESIDENT));
    let (measured, reported) = fragment(&CLASSES);
    println!("at most {:.1} MiB resident, {:.1} reported", mib(measured), mib(reported));
    // The records of the blocks, the leases in our own vector.
    let own = 8 * MIB;
    assert!(reported <= RESIDENT, "{:.1} MiB reported", mib(reported));
    assert!(measured <= RESIDENT + own, "{:.1} MiB measured", mib(measured));
}

#[test]
fn idle_pages_that_are_used_again_count_again() {
    let _alone = alone();
    // Three rounds, each of which refills the slabs that the one before left.
    let order: Vec<_> = (0..3).flat_map(|_| [65536, 16384, 4096]).collect();
    println!("one live block per slab, again and again; bound {} MiB:", mib(RESIDENT));
    let (measured, reported) = fragment(&order);
    println!("at most {:.1} MiB resident, {:.1} reported", mib(measured), mib(reported));
    assert!(reported <= RESIDENT, "{:.1} MiB reported", mib(reported));
    assert!(measured <= RESIDENT + 8 * MIB, "{:.1} MiB measured", mib(measured));
}

#[test]
fn large_leases_count_against_the_same_bound() {
    let _alone = alone();
    let governor = limited();
    let guard = governor.inbound().try_admit().unwrap();
    let before = resident();
    let kept = keep_one_per_slab(fill(&guard, 4096), 4096);
    let mut large = Vec::new();
    while let Ok(mut lease) = guard.handle().try_lease_owned(1 << 20) {
        lease.pin().unwrap().initialize(1 << 20);
        large.push(lease);
    }
    let arena = assert_adds_up(&governor).arena;
    let measured = resident().saturating_sub(before);
    println!(
        "large leases beside fragments: {:.1} MiB resident, {:.1} reported, {} large; bound {} MiB",
        mib(measured),
        mib(arena.resident_bytes),
        large.len(),
        mib(RESIDENT),
    );
    assert!(arena.resident_bytes <= RESIDENT, "{:.1} MiB reported", mib(arena.resident_bytes));
    assert!(measured <= RESIDENT + 8 * MIB, "{:.1} MiB measured", mib(measured));
    drop(kept);
}

#[test]
fn fragmentation_beyond_its_cap_is_refused_by_the_arena() {
    let _alone = alone();
    let governor = Governor::builder()
        .limits(Limits::unlimited().system(scope().memory(LIMIT)))
        .fragmentation(MIB)
        .build()
        .unwrap();
    let guard = governor.inbound().try_admit().unwrap();
    // One block in every page: no page can be given back.
    let leases = fill(&guard, 512);
    let kept: Vec<_> = leases.into_iter().step_by(4096 / 512).collect();
    guard.handle().trim();
    let mut more = Vec::new();
    let error = loop {
        match guard.handle().try_lease_owned(65536) {
            Ok(lease) => more.push(lease),
            Err(error) => break error,
        }
    };
    let refused = error.refused().unwrap();
    assert_eq!(refused.scope(), Scope::Arena, "{refused}");
    let arena = assert_adds_up(&governor).arena;
    assert!(arena.mapped_bytes <= MAPPED + MIB, "{arena:?}");
    // What is refused by fragmentation is granted when the fragments go.
    drop(kept);
    let fits = guard.handle().try_lease_owned(65536);
    assert!(fits.is_ok(), "{fits:?}");
}
