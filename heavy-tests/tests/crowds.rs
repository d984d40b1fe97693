//! What a remote peer can make the governor do: how long it keeps others waiting, and what is left
//! in memory afterwards. And numbers and names at the ends of their ranges.

#[path = "../../tests/common/mod.rs"]
mod common;

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use common::counting::{Counting, live_bytes};
use common::{HandClock, KIB, governor, scope};
use leasehold::{
    AllowList, Direction, Governor, Limit, Limits, MAX_NAME_BYTES, Observe, PeerKey, PrefixLimits,
    Priority, Rate, ScopeLimits, SubnetLimits,
};
use leasehold_heavy_tests::assert_nothing_left;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The longest that someone else waits for a tiny request while `work` runs.
fn longest_wait(governor: &Governor, work: impl FnOnce()) -> Duration {
    use std::sync::atomic::{AtomicBool, Ordering};
    let (done, started) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|threads| {
        let other = threads.spawn(|| {
            let guard = governor.outbound().try_admit().expect("room");
            let mut longest = Duration::ZERO;
            started.store(true, Ordering::Release);
            while !done.load(Ordering::Acquire) {
                let before = Instant::now();
                drop(guard.try_reserve(1).expect("room"));
                longest = longest.max(before.elapsed());
            }
            longest
        });
        while !started.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        work();
        done.store(true, Ordering::Release);
        other.join().expect("no panic")
    })
}

const STREAMS: usize = 100_000;

fn with_streams(
    governor: &Governor,
    classes: usize,
) -> (leasehold::ConnectionGuard, Vec<leasehold::StreamGuard>) {
    let guard = governor.inbound().try_admit().expect("room");
    let streams: Vec<_> = (0..STREAMS)
        .map(|nth| {
            let stream = guard.try_open_stream(Direction::Inbound).expect("room");
            stream.bind_class(&format!("class {}", nth % classes)).expect("room");
            stream
        })
        .collect();
    (guard, streams)
}

#[test]
fn how_long_others_wait() {
    for classes in [1, 256] {
        let limits = Limits::unlimited()
            .peer_override(PeerKey::new("full").expect("short"), scope().connections(0));
        let governor = governor(limits);
        let (guard, streams) = with_streams(&governor, classes);
        let began = Instant::now();
        let refused = longest_wait(&governor, || {
            guard.bind_peer("full").expect_err("no connections");
        });
        println!("{classes} classes: refused bind {:?}, others {refused:?}", began.elapsed());
        let began = Instant::now();
        let bound = longest_wait(&governor, || guard.bind_peer("alice").expect("room"));
        println!("{classes} classes: bind {:?}, others {bound:?}", began.elapsed());
        let began = Instant::now();
        let closed = longest_wait(&governor, || drop(guard));
        println!("{classes} classes: close {:?}, others {closed:?}", began.elapsed());
        drop(streams);
        assert_nothing_left(&governor);
    }
    let limits = Limits::unlimited()
        .system(scope().connections(1))
        .allow((0..10_000_u32).fold(AllowList::new(), |_, _| AllowList::new()));
    let _ = limits;
    let mut allow = AllowList::new();
    for nth in 0..3_000_u32 {
        allow = allow.peer(PeerKey::new(nth.to_be_bytes()).expect("short"));
    }
    let limits =
        Limits::unlimited().transient(scope().connections(0).connections_outbound(0)).allow(allow);
    let governor = governor(limits);
    let began = Instant::now();
    for _ in 0..1000 {
        governor.inbound().remote(IpAddr::from([1, 2, 3, 4])).try_admit().expect_err("full");
    }
    println!("refused with 3,000 allow rules: {:?} each", began.elapsed() / 1000);
    let mut limits = Limits::unlimited();
    for nth in 0..20_000_u32 {
        limits = limits
            .class(&format!("c{nth}"), scope())
            .peer_override(PeerKey::new(nth.to_be_bytes()).expect("short"), scope());
        limits.subnets = std::mem::take(&mut limits.subnets).network(
            ipnet::IpNet::new(IpAddr::from(nth.to_be_bytes()), 32).expect("a network"),
            PrefixLimits::unlimited().connections(3),
        );
    }
    let governor = common::governor(limits.clone());
    let began = Instant::now();
    let wait = longest_wait(&governor, || governor.set_limits(limits.clone()).expect("valid"));
    println!("set_limits with 20,000 of each: {:?}, others {wait:?}", began.elapsed());
    let began = Instant::now();
    let wait = longest_wait(&governor, || drop(governor.limits()));
    println!("limits() with 20,000 of each: {:?}, others {wait:?}", began.elapsed());
    let began = Instant::now();
    let held: Vec<_> = (0..20_000)
        .map(|nth| {
            let name = format!("c{nth}");
            governor.inbound().class(&name).try_admit().expect("room")
        })
        .collect();
    println!("20,000 listed classes: {:?} each", began.elapsed() / 20_000);
    drop(held);
}
