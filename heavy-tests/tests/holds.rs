//! How long the scope tree's lock is held at most by work that grows with what there is: prints a
//! table, and asserts nothing, since it measures time.
//!
//! `cargo test --release -p leasehold-heavy-tests --features holds --test holds -- --nocapture`
#![allow(clippy::disallowed_types, reason = "tests are never modelled")]

#[path = "../../tests/common/recorder.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod recorder;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use leasehold::{
    __holds::take_longest, ConnectionGuard, Direction, Governor, Limits, PeerKey, PrefixLimits,
    ReportOptions, ScopeLimits, SubnetLimits,
};
use recorder::Kept;

/// Prints the longest hold while `work` runs, and how long all of it takes.
fn measure<T>(what: &str, count: usize, work: impl FnOnce() -> T) -> T {
    take_longest();
    let begun = Instant::now();
    let done = work();
    let all = begun.elapsed();
    let (cpu, wall) = take_longest();
    let [cpu, wall, all] = [cpu, wall, all].map(|time| time.as_secs_f64() * 1e3);
    println!("{what:<52} {count:>9} {cpu:>9.3} {wall:>9.3} {all:>10.1}");
    done
}

fn governor() -> Governor {
    Governor::unlimited()
}

fn crowd(governor: &Governor, count: usize) -> Vec<ConnectionGuard> {
    let admit = |nth: usize| governor.inbound().peer((nth as u64).to_le_bytes()).try_admit();
    (0..count).map(|nth| admit(nth).expect("room")).collect()
}

fn from_everywhere(governor: &Governor, count: usize) -> Vec<ConnectionGuard> {
    let address = |nth: usize| IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + nth as u32));
    let admit = |nth| governor.inbound().remote(address(nth)).try_admit();
    (0..count).map(|nth| admit(nth).expect("room")).collect()
}

fn close_streams(count: usize, classes: usize) {
    for by_guard in [true, false] {
        let governor = governor();
        let guard = governor.inbound().peer("alice").class("public").try_admit().expect("room");
        let names: Vec<_> = (0..classes).map(|nth| format!("class {nth}")).collect();
        let open = |nth: usize| {
            let stream = guard.handle().try_open_stream(Direction::Inbound).expect("room");
            stream.bind_class(&names[nth % classes]).expect("room");
            stream
        };
        let streams: Vec<_> = (0..count).map(open).collect();
        if by_guard {
            let what = format!("guard whose streams have {classes} classes");
            measure(&what, count, || drop(guard));
        } else {
            let _leases: Vec<_> =
                streams.iter().map(|stream| stream.try_lease_owned(512).expect("room")).collect();
            let what = format!("the same from outside, with leases, {classes} classes");
            measure(&what, count, || guard.handle().close().expect("open"));
        }
    }
}

fn prefixes(lengths: [u8; 3], most: u64) -> Limits {
    let mut subnets = SubnetLimits::unlimited();
    for length in lengths {
        subnets = subnets.ipv4(length, PrefixLimits::unlimited().connections(most));
    }
    Limits::unlimited().subnets(subnets)
}

fn change_prefixes(count: usize) {
    let governor = Governor::new(prefixes([8, 16, 24], 1_u64 << 40)).expect("limits");
    let guards = from_everywhere(&governor, count);
    let change = || governor.set_limits(prefixes([12, 20, 28], 1_u64 << 40)).expect("limits");
    measure("set_limits, new prefixes", count, change);
    measure("all of them leave", count, || drop(guards));
}

fn overridden(count: usize) -> Limits {
    let key = |nth: usize| PeerKey::new((nth as u64).to_le_bytes()).expect("short");
    let limits = ScopeLimits::unlimited().memory(1 << 20);
    (0..count).fold(Limits::unlimited(), |all, nth| all.peer_override(key(nth), limits))
}

fn change_overrides(count: usize) {
    let governor = governor();
    let (first, second) = (overridden(count), overridden(count));
    measure("set_limits, peers' own", count, || governor.set_limits(first).expect("limits"));
    measure("set_limits, peers' own, replaced", count, || {
        governor.set_limits(second).expect("limits")
    });
    let peer = PeerKey::new("one more").expect("short");
    let change = |to: u64| {
        governor.set_peer_limits(&peer, ScopeLimits::unlimited().memory(to));
    };
    measure("set_peer_limits", count, || (0..1_000).for_each(change));
    let done = AtomicBool::new(false);
    let copies = || {
        (0..3).for_each(|_| drop(governor.limits()));
        done.store(true, Ordering::Relaxed);
    };
    measure("set_peer_limits while limits() copies", count, || {
        std::thread::scope(|threads| {
            threads.spawn(copies);
            while !done.load(Ordering::Relaxed) {
                (0..10).for_each(change);
            }
        });
    });
}

#[test]
fn the_longest_holds() {
    println!(
        "{:<52} {:>9} {:>9} {:>9} {:>10}",
        "hold of the tree's lock, ms", "of", "cpu", "wall", "in all"
    );
    close_streams(100_000, 1);
    close_streams(100_000, 1_000);
    for count in [100_000, 500_000, 1_000_000] {
        let governor = governor();
        let guards = measure("peers come", count, || crowd(&governor, count));
        drop(measure("snapshot", count, || governor.snapshot()));
        measure("maintain", count, || governor.maintain());
        for guard in &guards[..count / 10] {
            drop(guard.try_lease(512).expect("room"));
        }
        measure("publish_metrics", count, || Kept::publish(&governor));
        measure("publish_metrics, again", count, || Kept::publish(&governor));
        drop(measure("report", count, || governor.report(&ReportOptions::default())));
        let all =
            Limits::unlimited().peer(ScopeLimits::unlimited().memory(leasehold::Limit::Blocked));
        measure("set_limits that block, a tenth has idle blocks", count, || {
            governor.set_limits(all).expect("limits")
        });
        measure("peers go", count, || drop(guards));
    }
    for count in [100_000, 1_000_000] {
        change_prefixes(count);
        change_overrides(count);
    }
}
