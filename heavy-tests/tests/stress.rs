//! Threads that collide on the same connections, peers and limits, and leave exactly nothing.
#![allow(clippy::disallowed_types, reason = "tests are never modelled")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes};
use leasehold::{
    AllowList, ConnectionGuard, ConnectionHandle, Direction, Governor, Limit, Limits, Observe,
    OwnedLease, PeerKey, PinnedLease, PrefixLimits, Priority, Rate, Reservation, Scope,
    ScopeLimits, ScopeRow, Snapshot, StreamGuard, SubnetLimits,
};
use leasehold_heavy_tests::Dice;
use leasehold_heavy_tests::common::{
    KIB, MIB, assert_adds_up, assert_nothing_left, governor, scope,
};
use parking_lot::Mutex;

const WORKERS: u64 = 4;
const LASTS: Duration = Duration::from_secs(2);

/// Where workers leave things for each other.
#[allow(dead_code, reason = "kept for their drop")]
enum Left {
    Owned(OwnedLease, u8),
    Pinned(PinnedLease),
    Bytes(Bytes),
    Reservation(Reservation),
    Stream(StreamGuard),
    Handle(ConnectionHandle),
    Guard(ConnectionGuard),
}

#[derive(Default)]
struct Shelf(Mutex<Vec<Left>>);

impl Shelf {
    fn put(&self, left: Left) {
        let evicted = {
            let mut shelf = self.0.lock();
            shelf.push(left);
            (shelf.len() > 200).then(|| shelf.swap_remove(0))
        };
        drop(evicted);
    }

    fn take(&self, dice: &mut Dice) -> Option<Left> {
        let mut shelf = self.0.lock();
        let len = shelf.len() as u64;
        (len > 0).then(|| shelf.swap_remove(dice.roll(len) as usize))
    }
}

fn limits(tight: bool) -> Limits {
    let memory = |bytes: u64| scope().memory(if tight { bytes / 4 } else { bytes });
    Limits::unlimited()
        .system(memory(4 * MIB).connections(60))
        .transient(memory(MIB))
        .peer(memory(MIB).connections(20))
        .class("public", memory(2 * MIB))
        .connection(memory(512 * KIB).streams(10))
        .stream(memory(128 * KIB))
}

fn size(dice: &mut Dice) -> usize {
    [100, 512, 2000, 4096, 16384, 60_000, 100_000][dice.roll(7) as usize]
}

/// Admits a connection, works on it, and leaves things behind.
fn visit(governor: &Governor, shelf: &Shelf, dice: &mut Dice) -> Option<()> {
    let admission = governor.inbound();
    let admission = if dice.roll(2) == 0 { admission.class("public") } else { admission };
    let admission = if dice.roll(3) == 0 { admission.peer("alice") } else { admission };
    let guard = admission.weight(dice.roll(2000)).try_admit().ok()?;
    let handle = guard.handle();
    for step in 0..dice.roll(60) {
        let len = size(dice);
        match dice.roll(16) {
            0..=4 => {
                if let Ok(mut lease) = guard.try_lease(len) {
                    let pattern = dice.roll(256) as u8;
                    lease.put_bytes(pattern, len);
                    assert!(lease.iter().all(|byte| *byte == pattern), "someone wrote to it");
                    match dice.roll(6) {
                        0 => shelf.put(Left::Bytes(lease.freeze())),
                        1 => shelf.put(Left::Owned(lease.into_owned(), pattern)),
                        2 => std::mem::forget(lease),
                        _ => drop(lease),
                    }
                }
            }
            5..=7 => {
                if let Ok(mut lease) = handle.try_lease_owned(len) {
                    let pattern = dice.roll(256) as u8;
                    if let Ok(mut pin) = lease.pin() {
                        pin.put_bytes(pattern, len);
                    }
                    shelf.put(Left::Owned(lease, pattern));
                }
            }
            8 => {
                if let Ok(reservation) = handle.try_reserve(dice.roll(100_000)) {
                    shelf.put(Left::Reservation(reservation));
                }
            }
            9 => {
                if let Ok(stream) = guard.handle().try_open_stream(Direction::Inbound) {
                    if let Ok(lease) = stream.try_lease_owned(len) {
                        shelf.put(Left::Owned(lease, 0));
                    }
                    shelf.put(Left::Stream(stream));
                }
            }
            10 => {
                let _ = guard.handle().bind_peer(if step % 2 == 0 { "alice" } else { "bob" });
            }
            11 => drop(guard.handle().trim()),
            12 => shelf.put(Left::Handle(handle.clone())),
            _ => use_up(shelf.take(dice), shelf, dice),
        }
    }
    if dice.roll(3) == 0 {
        shelf.put(Left::Guard(guard));
    }
    Some(())
}

/// Does something with what another worker left.
fn use_up(left: Option<Left>, shelf: &Shelf, dice: &mut Dice) {
    match left {
        Some(Left::Owned(mut lease, pattern)) => match dice.roll(4) {
            0 => {
                if let Ok(pin) = lease.pin() {
                    assert!(pin.iter().all(|byte| *byte == pattern), "someone wrote to it");
                    thread::yield_now();
                    assert!(pin.iter().all(|byte| *byte == pattern), "someone wrote to it");
                }
                shelf.put(Left::Owned(lease, pattern));
            }
            1 => {
                if let Ok(pinned) = lease.into_pinned() {
                    shelf.put(Left::Pinned(pinned));
                }
            }
            2 => {
                if let Ok(bytes) = lease.freeze() {
                    assert!(bytes.iter().all(|byte| *byte == pattern), "someone wrote to it");
                    shelf.put(Left::Bytes(bytes));
                }
            }
            _ => drop(lease),
        },
        Some(Left::Pinned(pinned)) if dice.roll(2) == 0 => {
            shelf.put(Left::Bytes(pinned.freeze()));
        }
        Some(Left::Pinned(pinned)) => drop(pinned),
        Some(Left::Bytes(bytes)) => {
            if let Some(first) = bytes.first() {
                assert!(bytes.iter().all(|byte| byte == first), "someone wrote to it");
            }
            if dice.roll(3) == 0 {
                shelf.put(Left::Bytes(bytes.clone()));
                shelf.put(Left::Bytes(bytes));
            }
        }
        Some(Left::Reservation(mut reservation)) => {
            let resized = reservation.resize(dice.roll(50_000));
            if resized.is_ok() {
                shelf.put(Left::Reservation(reservation));
            }
        }
        Some(Left::Stream(stream)) => {
            if let Ok(lease) = stream.try_lease_owned(size(dice)) {
                shelf.put(Left::Owned(lease, 0));
            }
        }
        Some(Left::Handle(handle)) => match dice.roll(4) {
            0 => drop(handle.close()),
            1 => drop(handle.try_lease_owned(size(dice)).map(|l| shelf.put(Left::Owned(l, 0)))),
            _ => drop(handle.usage()),
        },
        Some(Left::Guard(guard)) => {
            if dice.roll(2) == 0 {
                drop(guard.try_lease(size(dice)));
                shelf.put(Left::Guard(guard));
            } else {
                guard.close();
            }
        }
        None => {}
    }
}

#[test]
fn threads_that_share_everything_leave_nothing() {
    let governor = governor(limits(false));
    let shelf = Arc::new(Shelf::default());
    let done = Arc::new(AtomicBool::new(false));
    let visits = Arc::new(AtomicU64::new(0));
    let workers: Vec<_> = (1..=WORKERS)
        .map(|seed| {
            let (governor, shelf) = (governor.clone(), shelf.clone());
            let (done, visits) = (done.clone(), visits.clone());
            thread::spawn(move || {
                let mut dice = Dice(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
                while !done.load(Ordering::Relaxed) {
                    if visit(&governor, &shelf, &mut dice).is_none() {
                        // Or guards that no thread takes off the shelf might be all there can be.
                        use_up(shelf.take(&mut dice), &shelf, &mut dice);
                    }
                    visits.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();

    // Meanwhile limits change, someone looks, and now and then everyone is thrown out.
    let started = Instant::now();
    let (mut leased, mut round) = (0, 0_u32);
    while started.elapsed() < LASTS {
        let snapshot = governor.snapshot();
        assert!(snapshot.totals.leased_bytes >= leased, "a counter fell");
        leased = snapshot.totals.leased_bytes;
        assert!(
            snapshot.scope(Scope::System).usage.memory <= 4 * MIB,
            "above every limit there ever was"
        );
        assert!(snapshot.scope(Scope::System).usage.connections() <= 60);
        round += 1;
        if round % 50 == 0 {
            governor.set_limits(limits(round % 100 == 0)).unwrap();
        }
        if round % 400 == 0 {
            governor.drain(|_| true);
        }
        governor.maintain();
        thread::yield_now();
    }
    done.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.join().expect("no worker failed");
    }

    let snapshot = assert_adds_up(&governor);
    println!(
        "{} visits, {} MiB leased, {} refused, {} orphans at rest",
        visits.load(Ordering::Relaxed),
        snapshot.totals.leased_bytes / MIB,
        snapshot.totals.refused,
        snapshot.orphans.len(),
    );
    assert!(snapshot.totals.admitted > 100 && snapshot.totals.refused > 0, "no two collided");
    shelf.0.lock().clear();
    assert_nothing_left(&governor);
    let totals = governor.snapshot().totals;
    assert_eq!(totals.leased_bytes, totals.returned_bytes);
}

#[test]
fn siblings_that_sweep_each_other_are_never_refused_for_what_is_idle() {
    // Each thread needs half a MiB at most at a time, and there are 2 MiB for four of them.
    let governor = governor(Limits::unlimited().peer(scope().memory(WORKERS * 512 * KIB)));
    let refused = Arc::new(AtomicU64::new(0));
    let workers: Vec<_> = (1..=WORKERS)
        .map(|seed| {
            let (governor, refused) = (governor.clone(), refused.clone());
            thread::spawn(move || {
                let mut dice = Dice(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
                let guards: Vec<_> =
                    (0..4).map(|_| governor.inbound().peer("alice").try_admit().unwrap()).collect();
                for _ in 0..3_000 {
                    let guard = &guards[dice.roll(4) as usize];
                    let len = [512, 2048, 4096, 16384, 65536][dice.roll(5) as usize];
                    let count = dice.roll(8) + 1;
                    let leases: Result<Vec<_>, _> =
                        (0..count).map(|_| guard.try_lease(len)).collect();
                    if let Err(error) = leases {
                        println!("{error}");
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().expect("no worker failed");
    }
    assert_eq!(refused.load(Ordering::Relaxed), 0);
    assert_nothing_left(&governor);
}

const PEERS: [&str; 3] = ["alice", "bob", "carol"];
const CLASSES: [&str; 4] = ["public", "inner", "a class that the limits do not name", "fourth"];

/// What happens besides all the rest.
#[derive(Clone, Copy)]
struct Play {
    /// Limits have allow lists.
    allows: bool,
    /// Connections turn out to come from elsewhere.
    moves: bool,
}

/// One of many limits, most of them tight.
fn any_limits(dice: &mut Dice, play: Play) -> Limits {
    let mut tight = |bytes: u64, count: u64| match dice.roll(8) {
        0 => ScopeLimits::unlimited(),
        1 => scope().memory(Limit::Blocked).streams(1),
        2 => scope().memory(bytes / 4).connections(count / 2).streams(count),
        _ => scope().memory(bytes).connections(count).streams(2 * count),
    };
    let mut limits = Limits::unlimited()
        .system(tight(2 * MIB, 16))
        .transient(tight(MIB, 8))
        .allowlisted_system(tight(2 * MIB, 16))
        .allowlisted_transient(tight(MIB, 8))
        .peer(tight(MIB, 6))
        .peer_override(peer(0), tight(512 * KIB, 4))
        .connection(tight(512 * KIB, 8))
        .stream(tight(128 * KIB, 4))
        .class_default(tight(MIB, 8))
        .class("public", tight(MIB, 8))
        .class_peer_default(tight(512 * KIB, 6))
        .class_peer("public", tight(256 * KIB, 4));
    if play.allows && dice.roll(3) > 0 {
        let network = "192.0.2.0/30".parse().expect("a network");
        limits.allow = AllowList::new().network(network).peer(peer(0)).peer_in(peer(1), network);
    }
    if dice.roll(3) > 0 {
        let rate = Rate::new(Duration::from_micros(50), 4.try_into().expect("four"));
        let at_most = |count: u64| PrefixLimits::unlimited().connections(count);
        limits.subnets = SubnetLimits::unlimited()
            .ipv4(32, at_most(3).rate(rate))
            .ipv4(24, at_most(9))
            .ipv6(56, at_most(4))
            .network("198.51.100.0/24".parse().expect("a network"), at_most(4).rate(rate));
    }
    if dice.roll(4) == 0 {
        limits.observe =
            [Observe::everything(), Observe::none().scope(Scope::System)][dice.roll(2) as usize];
    }
    limits
}

/// No row is above its limits, which have not changed.
fn assert_within_limits(snapshot: &Snapshot) {
    for row in &snapshot.scopes {
        let ScopeRow { usage, limits, .. } = row;
        let within = |used: u64, limit: Limit| match limit {
            Limit::Unlimited => true,
            Limit::Blocked => used == 0,
            Limit::Max(max) => used <= max,
        };
        assert!(within(usage.memory, limits.memory), "{row:?}");
        assert!(within(usage.connections(), limits.connections), "{row:?}");
        assert!(within(usage.streams(), limits.streams), "{row:?}");
    }
}

/// Tight limits everywhere, which have all a little room.
fn steady_limits() -> Limits {
    let tight = |bytes: u64, count: u64| scope().memory(bytes).connections(count).streams(count);
    let network = "192.0.2.0/30".parse().expect("a network");
    Limits::unlimited()
        .system(tight(600 * KIB, 8))
        .transient(tight(300 * KIB, 4))
        .allowlisted_system(tight(600 * KIB, 8))
        .allowlisted_transient(tight(300 * KIB, 4))
        .peer(tight(300 * KIB, 3))
        .connection(tight(200 * KIB, 4))
        .stream(tight(100 * KIB, 1))
        .class_default(tight(300 * KIB, 4))
        .class_peer_default(tight(200 * KIB, 3))
        .allow(AllowList::new().network(network).peer(peer(0)).peer_in(peer(1), network))
}

#[test]
fn threads_never_show_a_scope_above_its_limit() {
    let governor = governor(steady_limits());
    let shelf = Shelf::default();
    let done = AtomicBool::new(false);
    let play = Play { allows: true, moves: false };
    thread::scope(|threads| {
        for seed in 1..=WORKERS {
            let (governor, shelf, done) = (&governor, &shelf, &done);
            threads.spawn(move || {
                let mut dice = Dice(u64::wrapping_mul(seed + 3, 0x9e37_79b9_7f4a_7c15));
                while !done.load(Ordering::Relaxed) {
                    roam(governor, shelf, &mut dice, play);
                    use_up(shelf.take(&mut dice), shelf, &mut dice);
                }
            });
        }
        let started = Instant::now();
        while started.elapsed() < LASTS {
            let snapshot = governor.snapshot();
            let seen = std::panic::catch_unwind(|| assert_within_limits(&snapshot));
            if let Err(panic) = seen {
                done.store(true, Ordering::Relaxed);
                std::panic::resume_unwind(panic);
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    shelf.0.lock().clear();
    assert_nothing_left(&governor);
}

fn peer(nth: usize) -> PeerKey {
    PeerKey::new(PEERS[nth]).expect("short names")
}

fn address(dice: &mut Dice) -> std::net::IpAddr {
    match dice.roll(3) {
        0 => [192, 0, 2, dice.roll(6) as u8].into(),
        1 => [198, 51, 100, dice.roll(3) as u8].into(),
        _ => std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, dice.roll(3) as u16).into(),
    }
}

fn priority(dice: &mut Dice) -> Priority {
    [Priority::Low, Priority::Medium, Priority::High, Priority::Critical][dice.roll(4) as usize]
}

fn name(dice: &mut Dice) -> &'static str {
    CLASSES[dice.roll(CLASSES.len() as u64) as usize]
}

/// Admits a connection with an address, moves it about, and opens streams with classes.
fn roam(governor: &Governor, shelf: &Shelf, dice: &mut Dice, play: Play) -> Option<()> {
    let mut admission = if dice.roll(4) == 0 { governor.outbound() } else { governor.inbound() };
    if dice.roll(3) > 0 {
        admission = admission.remote(address(dice));
    }
    if dice.roll(3) == 0 {
        admission = admission.peer(PEERS[dice.roll(3) as usize]);
    }
    if dice.roll(2) == 0 {
        admission = admission.class(name(dice));
    }
    let guard = admission.weight(dice.roll(2) * dice.roll(3000)).try_admit().ok()?;
    let mut streams = Vec::new();
    for _ in 0..dice.roll(60) {
        let len = size(dice);
        match dice.roll(16) {
            0 | 1 => {
                if let Ok(mut lease) = guard.request().priority(priority(dice)).try_lease(len) {
                    lease.put_bytes(7, len);
                    match dice.roll(3) {
                        0 => shelf.put(Left::Bytes(lease.freeze())),
                        _ => drop(lease),
                    }
                }
            }
            2 => {
                if let Ok(lease) =
                    guard.handle().request().priority(priority(dice)).try_lease_owned(len)
                {
                    shelf.put(Left::Owned(lease, 0));
                }
            }
            3 => {
                let bytes =
                    [dice.roll(100_000), u64::MAX, u64::MAX / 2][dice.roll(20) as usize / 18];
                if let Ok(reservation) =
                    guard.handle().request().priority(priority(dice)).try_reserve(bytes)
                {
                    shelf.put(Left::Reservation(reservation));
                }
            }
            4 | 5 => {
                let direction = [Direction::Inbound, Direction::Outbound][dice.roll(2) as usize];
                if let Ok(stream) = guard.handle().try_open_stream(direction) {
                    streams.push(stream);
                }
            }
            6..=10 if !streams.is_empty() => {
                let nth = dice.roll(streams.len() as u64) as usize;
                match dice.roll(6) {
                    0 => {
                        let _ = streams[nth].bind_class(name(dice));
                    }
                    1 | 2 => {
                        if let Ok(mut lease) =
                            streams[nth].request().priority(priority(dice)).try_lease_owned(len)
                        {
                            if let Ok(mut pin) = lease.pin() {
                                pin.put_bytes(9, len / 8);
                            }
                            if dice.roll(2) == 0 {
                                shelf.put(Left::Owned(lease, 9));
                            } else if let Ok(bytes) = lease.freeze() {
                                shelf.put(Left::Bytes(bytes));
                            }
                        }
                    }
                    3 => {
                        let reserved = streams[nth]
                            .request()
                            .priority(priority(dice))
                            .try_reserve(dice.roll(50_000));
                        if let Ok(reservation) = reserved {
                            shelf.put(Left::Reservation(reservation));
                        }
                    }
                    4 => drop(streams.swap_remove(nth)),
                    _ => shelf.put(Left::Stream(streams.swap_remove(nth))),
                }
            }
            11 => {
                let _ = guard.handle().bind_peer(PEERS[dice.roll(3) as usize]);
            }
            12 if play.moves => move_elsewhere(&guard, dice),
            _ => use_up(shelf.take(dice), shelf, dice),
        }
    }
    if dice.roll(3) == 0 {
        shelf.put(Left::Guard(guard));
    }
    Some(())
}

fn move_elsewhere(guard: &ConnectionGuard, dice: &mut Dice) {
    let moved = match dice.roll(4) {
        0 => {
            guard.handle().rebind_source(leasehold::Source::opaque("a pipe").expect("a short name"))
        }
        _ => guard.handle().rebind_source(address(dice)),
    };
    let _ = moved;
}

/// Turns every knob, and looks at everything.
fn meddle(governor: &Governor, dice: &mut Dice, play: Play) {
    match dice.roll(24) {
        0 => governor.set_limits(any_limits(dice, play)).expect("valid limits"),
        1 => {
            let limits = scope().memory(dice.roll(MIB)).connections(dice.roll(8));
            governor.set_peer_limits(&peer(dice.roll(3) as usize), limits);
        }
        2 => {
            governor.remove_peer_limits(&peer(dice.roll(3) as usize));
        }
        3 => {
            governor.drain(|_| dice.roll(4) == 0);
        }
        4..=6 => drop(governor.snapshot()),
        7 => governor.maintain(),
        8 => drop(governor.limits()),
        _ => {
            governor.should_validate(address(dice));
        }
    }
}

#[test]
fn threads_that_change_addresses_leave_nothing() {
    move_everything_about(Play { allows: false, moves: true });
}

#[test]
fn threads_that_are_promoted_leave_nothing() {
    move_everything_about(Play { allows: true, moves: false });
}

#[test]
fn threads_that_are_promoted_and_change_addresses_leave_nothing() {
    move_everything_about(Play { allows: true, moves: true });
}

fn move_everything_about(play: Play) {
    let governor = governor(any_limits(&mut Dice(3), play));
    let shelf = Shelf::default();
    let done = AtomicBool::new(false);
    thread::scope(|threads| {
        for seed in 1..=WORKERS {
            let (governor, shelf, done) = (&governor, &shelf, &done);
            threads.spawn(move || {
                let mut dice = Dice(u64::wrapping_mul(seed + 7, 0x9e37_79b9_7f4a_7c15));
                while !done.load(Ordering::Relaxed) {
                    roam(governor, shelf, &mut dice, play);
                    if dice.roll(4) == 0 {
                        use_up(shelf.take(&mut dice), shelf, &mut dice);
                    }
                }
            });
        }
        let mut dice = Dice(11);
        let started = Instant::now();
        while started.elapsed() < 2 * LASTS {
            meddle(&governor, &mut dice, play);
            thread::yield_now();
        }
        done.store(true, Ordering::Relaxed);
    });

    let snapshot = assert_adds_up(&governor);
    let totals = snapshot.totals;
    println!("{} admitted, {} refused, {:#?}", totals.admitted, totals.refused, snapshot.refusals);
    println!("observed: {:#?}", snapshot.observed);
    assert!(totals.admitted > 100 && totals.refused > 0, "no two collided");
    shelf.0.lock().clear();
    assert_nothing_left(&governor);
    let totals = governor.snapshot().totals;
    assert_eq!(totals.leased_bytes, totals.returned_bytes);
    // Nor does an address count anybody.
    let one = PrefixLimits::unlimited().connections(1);
    let subnets = SubnetLimits::unlimited().ipv4(0, one).ipv6(0, one);
    governor.set_limits(Limits::unlimited().subnets(subnets)).expect("valid limits");
    for address in ["192.0.2.1", "2001:db8::1"] {
        let address: std::net::IpAddr = address.parse().expect("an address");
        drop(governor.inbound().remote(address).try_admit().expect("nothing is counted"));
    }
}

/// What outlives the streams of one connection, while that stays.
#[test]
fn streams_that_come_and_go_on_one_connection_leave_no_class() {
    let tight = |bytes: u64| scope().memory(bytes);
    let limits = Limits::unlimited()
        .class_default(tight(300 * KIB).streams(20))
        .class_peer_default(tight(200 * KIB))
        .connection(tight(400 * KIB))
        .stream(tight(100 * KIB));
    let governor = governor(limits);
    let guard = governor.inbound().class("public").try_admit().expect("room");
    let (shelf, done) = (Shelf::default(), AtomicBool::new(false));
    thread::scope(|threads| {
        for seed in 1..=WORKERS {
            let (guard, shelf, done) = (&guard, &shelf, &done);
            threads.spawn(move || {
                let mut dice = Dice(u64::wrapping_mul(seed + 5, 0x9e37_79b9_7f4a_7c15));
                while !done.load(Ordering::Relaxed) {
                    let stream = guard.handle().try_open_stream(Direction::Inbound);
                    for _ in 0..dice.roll(8) {
                        let Ok(stream) = &stream else { break };
                        let at = priority(&mut dice);
                        match dice.roll(4) {
                            0 => {
                                let _ = stream.bind_class(name(&mut dice));
                            }
                            1 => {
                                let bytes = dice.roll(2) * dice.roll(60_000);
                                if let Ok(reservation) =
                                    stream.request().priority(at).try_reserve(bytes)
                                {
                                    shelf.put(Left::Reservation(reservation));
                                }
                            }
                            _ => {
                                if let Ok(lease) =
                                    stream.request().priority(at).try_lease_owned(size(&mut dice))
                                {
                                    shelf.put(Left::Owned(lease, 0));
                                }
                            }
                        }
                    }
                    for _ in 0..dice.roll(12) {
                        let left = shelf.take(&mut dice);
                        match left {
                            Some(Left::Reservation(mut reservation)) if dice.roll(2) == 0 => {
                                let _ = reservation.resize(dice.roll(2) * dice.roll(100_000));
                                shelf.put(Left::Reservation(reservation));
                            }
                            left => drop(left),
                        }
                    }
                }
            });
        }
        thread::sleep(LASTS / 2);
        let _ = guard.handle().bind_peer("alice");
        thread::sleep(LASTS);
        done.store(true, Ordering::Relaxed);
    });
    shelf.0.lock().clear();
    guard.handle().trim();
    let snapshot = assert_adds_up(&governor);
    let own = &snapshot.connections[0].usage;
    assert_eq!((own.memory, own.streams_inbound), (0, 0));
    let classes: Vec<_> = snapshot.rows(Scope::Class).collect();
    let [public] = classes[..] else { panic!("{classes:?}") };
    assert_eq!((public.class.as_deref(), public.usage.memory), (Some("public"), 0));
    assert_eq!(snapshot.rows(Scope::ClassPeer).count(), usize::from(own.peer.is_some()));
    drop(guard);
    assert_nothing_left(&governor);
}

/// Keeps many leases of one connection, and lets go of them in some order.
fn queue_up(governor: &Governor, handles: &[ConnectionHandle], shelf: &Shelf, dice: &mut Dice) {
    let handle = &handles[dice.roll(handles.len() as u64) as usize];
    let stream = match dice.roll(4) {
        0 => handle.try_open_stream(Direction::Inbound).ok(),
        _ => None,
    };
    if let Some(stream) = &stream
        && dice.roll(4) == 0
    {
        let _ = stream.bind_class(name(dice));
    }
    let len = size(dice);
    let count = [3, 9, 17, 40, 100][dice.roll(5) as usize];
    let lease = |dice: &mut Dice| {
        let priority = if dice.roll(4) == 0 { priority(dice) } else { Priority::Critical };
        match &stream {
            Some(stream) => stream.request().priority(priority).try_lease_owned(len),
            None => handle.request().priority(priority).try_lease_owned(len),
        }
    };
    let mut queue = std::collections::VecDeque::new();
    let order = dice.roll(3);
    for _ in 0..4 * count {
        if queue.len() < count as usize
            && let Ok(mut lease) = lease(dice)
        {
            let pattern = dice.roll(256) as u8;
            if dice.roll(2) == 0
                && let Ok(mut pin) = lease.pin()
            {
                pin.put_bytes(pattern, len);
            }
            queue.push_back((lease, pattern));
        }
        if queue.is_empty() || dice.roll(3) == 0 {
            continue;
        }
        let (mut lease, pattern) = match order {
            0 => queue.pop_front(),
            1 => queue.pop_back(),
            _ => {
                let nth = dice.roll(queue.len() as u64) as usize;
                queue.swap_remove_back(nth)
            }
        }
        .expect("it is not empty");
        match dice.roll(24) {
            0 => shelf.put(Left::Owned(lease, pattern)),
            1 => drop(lease.into_pinned().map(|pinned| shelf.put(Left::Pinned(pinned)))),
            2 => drop(lease.freeze().map(|bytes| shelf.put(Left::Bytes(bytes)))),
            3 => {
                if let Ok(pin) = lease.pin() {
                    std::mem::forget(pin);
                }
            }
            4 => drop(lease.grow()),
            5 => drop(lease.into_pinned().map(PinnedLease::into_owned)),
            _ => {
                if let Ok(pin) = lease.pin() {
                    assert!(pin.iter().all(|byte| *byte == pattern), "someone wrote to it");
                }
            }
        }
    }
    match dice.roll(40) {
        0 => drop(handle.close()),
        1..10 => drop(handle.trim()),
        10..14 => governor.maintain(),
        14 => drop(handle.bind_peer(PEERS[dice.roll(3) as usize])),
        15..20 => drop(handle.usage()),
        _ => {}
    }
}

/// Lends from a guard that others work on too, forgets some of it, and ends the connection.
fn lend(guard: ConnectionGuard, dice: &mut Dice, shelf: &Shelf) {
    for _ in 0..dice.roll(30) {
        let len = size(dice);
        let count = [3, 9, 17, 40, 100][dice.roll(5) as usize];
        let leases: Vec<_> = (0..count).filter_map(|_| guard.try_lease(len).ok()).collect();
        for mut lease in leases {
            lease.put_bytes(3, len);
            match dice.roll(30) {
                0 => std::mem::forget(lease),
                1 => shelf.put(Left::Owned(lease.into_owned(), 3)),
                2 => shelf.put(Left::Bytes(lease.freeze())),
                _ => assert!(lease.iter().all(|byte| *byte == 3), "someone wrote to it"),
            }
        }
    }
    if dice.roll(2) == 0 {
        guard.close();
    }
}

/// Long queues of leases on a few connections that threads share, under limits that change.
#[test]
fn queues_beyond_eight_leave_nothing() {
    use leasehold_heavy_tests::common::HandClock;
    let clock = HandClock::default();
    let loose = || {
        Limits::unlimited()
            .system(scope().memory(32 * MIB))
            .connection(scope().memory(8 * MIB))
            .stream(scope().memory(2 * MIB))
    };
    let governor = Governor::builder().clock(clock.clone()).limits(loose()).build().unwrap();
    let shelf = Shelf::default();
    let done = AtomicBool::new(false);
    let shared: Mutex<Vec<ConnectionHandle>> = Mutex::default();
    let queued = AtomicU64::new(0);
    thread::scope(|threads| {
        for seed in 1..=WORKERS {
            let (governor, shelf, done, shared) = (&governor, &shelf, &done, &shared);
            let queued = &queued;
            threads.spawn(move || {
                let mut dice = Dice(u64::wrapping_mul(seed + 7, 0x9e37_79b9_7f4a_7c15));
                while !done.load(Ordering::Relaxed) {
                    if seed % 2 == 0 {
                        let admission = governor.inbound().class(name(&mut dice));
                        if let Ok(guard) = admission.try_admit() {
                            shared.lock().push(guard.handle().clone());
                            lend(guard, &mut dice, shelf);
                        }
                        let mut handles = shared.lock();
                        let ended =
                            (handles.len() > 6).then(|| handles.drain(..3).collect::<Vec<_>>());
                        drop(handles);
                        drop(ended);
                    } else {
                        let handles = shared.lock().clone();
                        if !handles.is_empty() {
                            queue_up(governor, &handles, shelf, &mut dice);
                            queued.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    use_up(shelf.take(&mut dice), shelf, &mut dice);
                }
            });
        }
        let mut dice = Dice(0x1234_5678_9abc_def1);
        let started = Instant::now();
        while started.elapsed() < 3 * LASTS {
            clock.turn(Duration::from_millis(dice.roll(30_000)));
            match dice.roll(12) {
                0..4 => governor.maintain(),
                4 => governor
                    .set_limits(any_limits(&mut dice, Play { allows: true, moves: false }))
                    .unwrap(),
                5 | 6 => governor.set_limits(loose()).unwrap(),
                7 => {
                    let limits = [scope().memory(Limit::Blocked), scope()];
                    governor.set_peer_limits(
                        &peer(dice.roll(3) as usize),
                        limits[dice.roll(2) as usize],
                    );
                }
                8 => drop(governor.drain(|_| true)),
                _ => {
                    let snapshot = governor.snapshot();
                    assert!(snapshot.totals.returned_bytes < 1 << 60, "a count is below zero");
                }
            }
            thread::sleep(Duration::from_millis(dice.roll(5)));
        }
        done.store(true, Ordering::Relaxed);
    });
    println!("{} queues", queued.load(Ordering::Relaxed));
    shared.lock().clear();
    let snapshot = assert_adds_up(&governor);
    println!("{} MiB leased", snapshot.totals.leased_bytes / MIB);
    shelf.0.lock().clear();
    assert_nothing_left(&governor);
    let snapshot = governor.snapshot();
    assert_eq!(snapshot.totals.leased_bytes, snapshot.totals.returned_bytes);
    assert!(snapshot.arena.mapped_bytes <= 5 * MIB, "{} bytes", snapshot.arena.mapped_bytes);
}
