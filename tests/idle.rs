//! P10, idle costs nothing: an idle connection has no block and little book-keeping, whatever it
//! leased before.

mod common;

use std::net::IpAddr;

use common::assert_adds_up;
use common::counting::{Counting, live_bytes};
use leasehold::{
    ConnectionGuard, Direction, Governor, Limits, PrefixLimits, ScopeLimits, SubnetLimits,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What one idle connection may cost.
const BOUND_BYTES: f64 = 384.0;
/// What its peer costs where it is the only connection of it, on top.
const PEER_BOUND_BYTES: f64 = 192.0;

/// Counts at which hash tables are full, just grown, and in between.
fn counts() -> Vec<usize> {
    let mut counts = vec![100, 1_000, 3_000, 10_000, 20_000];
    for bits in [10, 11, 13, 14] {
        // Sixteen shards of 2^n buckets, seven eighths of which may be taken.
        let full = (16 << bits) / 8 * 7 / 16;
        counts.extend([full - full / 50, full + full / 50]);
    }
    counts
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Peers {
    One,
    OneEach,
}

/// The average of what is allocated for each of `count` connections that have worked and are idle.
fn each(count: usize, peers: Peers) -> f64 {
    let governor = Governor::unlimited();
    // A block of each class stays in use, so that the arena is the same before and after.
    let keeper = governor.inbound().peer(0_u64.to_le_bytes()).try_admit().unwrap();
    let _blocks = [512, 2048, 4096].map(|len| keeper.try_lease(len).unwrap());
    let mut guards = Vec::with_capacity(count);
    let before = live_bytes();
    for nth in 0..count as u64 {
        let peer = if peers == Peers::One { 0 } else { nth + 1 };
        let guard = governor.inbound().try_admit().unwrap();
        guard.handle().bind_peer(peer.to_le_bytes()).unwrap();
        for len in [512, 2048, 4096] {
            let leases: Vec<_> = (0..12).map(|_| guard.try_lease(len).unwrap()).collect();
            drop(leases);
        }
        drop(guard.handle().try_lease_owned(512).unwrap().into_pinned().unwrap());
        drop(
            guard
                .handle()
                .try_open_stream(Direction::Inbound)
                .unwrap()
                .try_lease_owned(4096)
                .unwrap(),
        );
        drop(guard.try_lease(100_000).unwrap());
        drop(guard.handle().try_reserve(1000).unwrap());
        guard.handle().trim();
        guards.push(guard);
    }
    let each = (live_bytes() - before) as f64 / count as f64;
    let snapshot = assert_adds_up(&governor);
    assert_eq!(snapshot.totals.cached_bytes, 0);
    assert!(guards.iter().all(|guard| guard.handle().usage().unwrap().memory == 0));
    each
}

fn worst(peers: Peers) -> f64 {
    let mut worst = 0.0_f64;
    for count in counts() {
        let each = each(count, peers);
        println!("{count:>7} idle connections, {peers:?} peer: {each:.1} bytes each");
        worst = worst.max(each);
    }
    worst
}

#[test]
fn an_idle_connection_costs_at_most_384_bytes() {
    let worst = worst(Peers::One);
    assert!(worst <= BOUND_BYTES, "{worst} bytes");
}

#[test]
fn a_peer_of_its_own_costs_little_more() {
    let worst = worst(Peers::OneEach);
    assert!(worst <= BOUND_BYTES + PEER_BOUND_BYTES, "{worst} bytes");
}

#[test]
fn a_connection_that_never_worked_costs_no_more() {
    let governor = Governor::unlimited();
    drop(governor.inbound().try_admit().unwrap());
    let mut guards = Vec::with_capacity(1_000);
    let before = live_bytes();
    guards.extend((0..1_000).map(|_| governor.inbound().try_admit().unwrap()));
    let each = (live_bytes() - before) as f64 / 1_000.0;
    println!("1,000 connections that never worked: {each:.1} bytes each");
    assert!(each <= BOUND_BYTES, "{each} bytes");
}

/// The average of what is allocated for each of a thousand connections that `work` made.
fn each_of_a_thousand(work: impl Fn(&Governor) -> ConnectionGuard) -> f64 {
    let governor = Governor::unlimited();
    drop(work(&governor));
    let mut guards = Vec::with_capacity(1_000);
    let before = live_bytes();
    guards.extend((0..1_000).map(|_| work(&governor)));
    (live_bytes() - before) as f64 / 1_000.0
}

#[test]
fn a_connection_that_comes_from_elsewhere_costs_no_more() {
    let each = each_of_a_thousand(|governor| {
        let guard = governor.inbound().remote(IpAddr::from([10, 0, 0, 1])).try_admit().unwrap();
        guard.handle().rebind_source(IpAddr::from([192, 0, 2, 1])).unwrap();
        guard
    });
    println!("1,000 connections behind a balancer: {each:.1} bytes each");
    assert!(each <= BOUND_BYTES, "{each} bytes");
}

#[test]
fn a_connection_whose_streams_had_classes_costs_no_more() {
    let each = each_of_a_thousand(|governor| {
        let guard = governor.inbound().class("public").try_admit().unwrap();
        for name in ["mail", "news"] {
            let stream = guard.handle().try_open_stream(Direction::Inbound).unwrap();
            stream.bind_class(name).unwrap();
            drop(stream.try_reserve(1000).unwrap());
        }
        guard
    });
    println!("1,000 connections whose streams had classes: {each:.1} bytes each");
    assert!(each <= BOUND_BYTES, "{each} bytes");
}

#[test]
fn a_connection_that_was_refused_costs_no_more() {
    let limits = Limits::unlimited()
        .system(ScopeLimits::unlimited().memory(64 << 20).streams(0))
        .subnets(SubnetLimits::unlimited().ipv6(64, PrefixLimits::unlimited().connections(0)));
    let governor = Governor::new(limits).unwrap();
    let refused = |governor: &Governor| {
        let guard = governor.inbound().try_admit().unwrap();
        assert!(guard.handle().try_open_stream(Direction::Inbound).is_err());
        assert!(guard.try_lease(100 << 20).is_err());
        let scoped: std::net::SocketAddr = "[fe80::1%7]:80".parse().unwrap();
        assert!(guard.handle().rebind_source(scoped).is_err());
        guard
    };
    drop(refused(&governor));
    let mut guards = Vec::with_capacity(1_000);
    let before = live_bytes();
    guards.extend((0..1_000).map(|_| refused(&governor)));
    let each = (live_bytes() - before) as f64 / 1_000.0;
    println!("1,000 connections that were refused: {each:.1} bytes each");
    assert!(each <= BOUND_BYTES, "{each} bytes");
}

#[test]
fn trimming_gives_every_block_back() {
    let governor = Governor::unlimited();
    let guard = governor.inbound().try_admit().unwrap();
    for len in [512, 2048, 4096, 16384, 65536] {
        let leases: Vec<_> = (0..20).map(|_| guard.try_lease(len).unwrap()).collect();
        drop(leases);
    }
    assert!(guard.handle().trim() > 0);
    assert_eq!(assert_adds_up(&governor).arena.in_use_bytes, 0);
    assert_eq!(guard.handle().usage().unwrap().memory, 0);
    // It works as before.
    drop(guard.try_lease(512).unwrap());
    assert_eq!(guard.handle().usage().unwrap().cached_bytes, 512);
}
