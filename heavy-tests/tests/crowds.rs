//! Crowds: what remote peers leave behind in memory after a flood, and how the work that one of them
//! causes grows. And numbers and names at the ends of their ranges.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use leasehold::{
    AdmitError, AllowList, BindError, ConfigError, ConnectionGuard, Direction, Governor, Limit,
    Limits, MAX_NAME_BYTES, Observe, PeerKey, PrefixLimits, Priority, Resource, Scope, ScopeLimits,
    Source, StreamGuard, SubnetLimits,
};
use leasehold_heavy_tests::common::counting::{Counting, live_bytes};
use leasehold_heavy_tests::common::{assert_nothing_left, governor, scope};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn admit(governor: &Governor) -> ConnectionGuard {
    governor.inbound().try_admit().expect("room")
}

fn stream(guard: &ConnectionGuard, class: &str) -> StreamGuard {
    let stream = guard.handle().try_open_stream(Direction::Inbound).expect("room");
    stream.bind_class(class).expect("room");
    stream
}

/// How many bytes a flood leaves allocated, once it has gone.
fn left_by(governor: &Governor, flood: impl Fn(usize)) -> isize {
    // Whatever is made once, is made.
    flood(1);
    governor.maintain();
    let before = live_bytes();
    flood(20_000);
    governor.maintain();
    assert_nothing_left(governor);
    live_bytes() - before
}

#[test]
fn peers_their_parts_of_classes_and_addresses_leave_nothing() {
    let each = PrefixLimits::unlimited().connections(3);
    let subnets = SubnetLimits::unlimited().ipv4(24, each).ipv4(32, each).ipv6(56, each);
    let governor = governor(Limits::unlimited().subnets(subnets));
    let left = left_by(&governor, |count| {
        let _guards: Vec<_> = (0..count as u32)
            .map(|nth| {
                let address = match nth % 2 {
                    0 => IpAddr::from(nth.rotate_left(8).to_be_bytes()),
                    _ => IpAddr::from(Ipv6Addr::from_bits(u128::from(nth) << 80)),
                };
                let admission = governor.inbound().remote(address).class("public");
                let guard = admission.try_admit().expect("room");
                guard.handle().bind_peer(nth.to_be_bytes()).expect("room");
                let stream = stream(&guard, "inner");
                (guard, stream)
            })
            .collect();
        let snapshot = governor.snapshot();
        assert_eq!(
            (snapshot.rows(Scope::Peer).count(), snapshot.rows(Scope::ClassPeer).count()),
            (count, 2 * count)
        );
    });
    // The registry keeps up to six slots of 16 bytes in each of its sixteen shards.
    assert!(left.abs() < 2048, "{left} bytes left");
}

#[test]
fn names_that_peers_invent_leave_nothing() {
    let governor = governor(Limits::unlimited());
    let left = left_by(&governor, |count| {
        let guard = admit(&governor);
        let streams: Vec<_> =
            (0..count).map(|nth| stream(&guard, &format!("/made/up/{nth}"))).collect();
        assert_eq!(governor.snapshot().rows(Scope::Class).count(), count);
        guard.handle().bind_peer("alice").expect("room");
        drop(streams);
    });
    assert!(left.abs() < 16 << 10, "{left} bytes left");
}

#[test]
fn classes_that_limits_name_leave_nothing() {
    let names: Vec<_> = (0..Limits::MAX_CLASS_NAMES).map(|nth| format!("class {nth}")).collect();
    let limits = names.iter().fold(Limits::unlimited(), |limits, name| limits.class(name, scope()));
    let governor = governor(limits);
    let left = left_by(&governor, |count| {
        let admission = |name| governor.inbound().class(name);
        let names = names.iter().take(count);
        let guards: Vec<_> = names.map(|name| admission(name).try_admit().expect("room")).collect();
        drop(guards);
    });
    assert!(left.abs() < 16 << 10, "{left} bytes left");
}

#[test]
fn a_handle_of_a_connection_that_moved_keeps_its_promised_512_bytes() {
    let governor = Governor::unlimited();
    drop(admit(&governor));
    let before = live_bytes();
    let guard = admit(&governor);
    guard
        .handle()
        .rebind_source(Source::opaque([7; MAX_NAME_BYTES]).expect("short"))
        .expect("room");
    let handle = guard.handle().clone();
    drop(guard);
    let kept = live_bytes() - before;
    assert!(kept <= 512, "{kept} bytes");
    drop(handle);
}

#[test]
fn an_idle_connection_that_moved_keeps_its_promised_384_bytes() {
    let governor = Governor::unlimited();
    drop(admit(&governor));
    let source = Source::from(IpAddr::from([192, 0, 2, 1]));
    let measure = |moves: bool| {
        let before = live_bytes();
        let guards: Vec<_> = (0..1000)
            .map(|_| {
                let guard = admit(&governor);
                if moves {
                    guard.handle().rebind_source(source.clone()).expect("room");
                }
                guard
            })
            .collect();
        let of_list = guards.capacity() * size_of::<ConnectionGuard>();
        (live_bytes() - before - of_list as isize) / 1000
    };
    let (stays, moved) = (measure(false), measure(true));
    println!("{stays} bytes, {moved} after a move");
    assert!(moved <= 384 + 64, "{moved} bytes instead of {stays}");
}

/// How long one call takes, at best of some.
fn time<T>(mut make: impl FnMut() -> T, mut work: impl FnMut(T)) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..6 {
        let made = make();
        let began = Instant::now();
        work(made);
        best = best.min(began.elapsed());
    }
    best
}

/// The streams of a connection belong to a few classes at most: what happens to all of them at
/// once should not hold the one lock of the tree for each of them, nor look for the class of each
/// in a list.
#[test]
fn a_connections_bind_takes_no_longer_the_more_classes_its_streams_have() {
    const STREAMS: usize = 20_000;
    let governor = Governor::unlimited();
    let bind = |classes: usize| {
        let names: Vec<_> = (0..classes).map(|nth| format!("class {nth}")).collect();
        let streams = || {
            let guard = admit(&governor);
            let streams: Vec<_> =
                (0..STREAMS).map(|nth| stream(&guard, &names[nth % classes])).collect();
            (guard, streams)
        };
        time(streams, |(guard, streams)| {
            guard.handle().bind_peer("alice").expect("room");
            // Dropping is not what is measured here.
            std::mem::forget((guard, streams));
        })
    };
    let (few, many) = (bind(2), bind(250));
    println!("{STREAMS} streams in 2 classes {few:?}, in 250 {many:?}");
    assert!(many < 8 * few, "{many:?} instead of {few:?}");
}

#[test]
fn limits_of_many_networks_are_set_in_time_that_grows_with_their_number() {
    let set = |count: u32| {
        let each = PrefixLimits::unlimited().connections(3);
        let subnets = (0..count).fold(SubnetLimits::unlimited(), |subnets, nth| {
            let address = IpAddr::from(nth.to_be_bytes());
            subnets.network(ipnet::IpNet::new(address, 32).expect("a network"), each)
        });
        let limits = Limits::unlimited().subnets(subnets);
        let governor = governor(limits.clone());
        time(|| limits.clone(), |limits| governor.set_limits(limits).expect("valid limits"))
    };
    // The longer of the two is what others on the machine disturb: one good run is enough.
    let is_in_proportion = (0..5).any(|_| {
        let (some, many) = (set(1000), set(8000));
        println!("1,000 networks {some:?}, 8,000 networks {many:?}");
        many < 24 * some
    });
    assert!(is_in_proportion, "more than thrice as long for each of 8 times as many");
}

#[test]
fn whoever_is_refused_costs_no_more_the_longer_the_allow_list() {
    let refused = |count: u32| {
        let peers = (0..count).map(|nth| PeerKey::new(nth.to_be_bytes()).expect("short"));
        let allow = peers.fold(AllowList::new(), AllowList::peer);
        let limits = Limits::unlimited().system(scope().connections_inbound(Limit::Blocked));
        let governor = governor(limits.allow(allow));
        let knock = |()| {
            for _ in 0..1000 {
                let admission = governor.inbound().remote(IpAddr::from([192, 0, 2, 1]));
                admission.peer("nobody").try_admit().expect_err("it is blocked");
            }
        };
        time(|| (), knock)
    };
    let (short, long) = (refused(10), refused(4000));
    println!("1,000 refusals: {short:?} with 10 rules, {long:?} with 4,000");
    assert!(long < 8 * short, "{long:?} instead of {short:?}");
}

#[test]
fn more_classes_than_numbers_for_them() {
    let names: Vec<_> = (0..66_000).map(|nth| nth.to_string()).collect();
    let mut limits = Limits::unlimited();
    limits.classes = names.iter().map(|name| (name.as_str().into(), scope())).collect();
    // They are either refused where limits are set, or serve.
    let Ok(governor) = Governor::new(limits) else { return };
    let guard = admit(&governor);
    let streams: Vec<_> = names
        .iter()
        .map(|name| {
            let stream = guard.handle().try_open_stream(Direction::Inbound).expect("room");
            stream.bind_class(name).expect("room");
            stream
        })
        .collect();
    drop((guard, streams));
    assert_nothing_left(&governor);
}

#[test]
fn names_at_their_limits() {
    let longest = "n".repeat(MAX_NAME_BYTES);
    let too_long = "n".repeat(MAX_NAME_BYTES + 1);
    let governor = governor(Limits::unlimited().class(&longest, scope().streams(1)));
    assert!(matches!(
        governor.set_limits(Limits::unlimited().class_peer(&too_long, scope())),
        Err(ConfigError::NameTooLong(_))
    ));
    for name in [longest.as_str(), "", "\0"] {
        let guard = governor.inbound().peer(name).class(name).try_admit().expect("room");
        let other = admit(&governor);
        other.handle().bind_peer(name).expect("room");
        let _stream = stream(&other, name);
        assert_eq!(governor.snapshot().rows(Scope::ClassPeer).count(), 1);
        drop(guard);
    }
    let guard = admit(&governor);
    let stream = guard.handle().try_open_stream(Direction::Inbound).expect("room");
    assert!(matches!(stream.bind_class(&too_long), Err(BindError::NameTooLong(_))));
    assert!(matches!(guard.handle().bind_peer(&too_long), Err(BindError::NameTooLong(_))));
    for admission in [governor.inbound().peer(&too_long), governor.inbound().class(&too_long)] {
        assert!(matches!(admission.try_admit(), Err(AdmitError::NameTooLong(_))));
    }
    drop((stream, guard));
    assert_nothing_left(&governor);
}

#[test]
fn absurd_limits_and_requests_are_refused_and_harm_nobody() {
    let all = [Limit::Unlimited, Limit::Blocked, Limit::Max(0), Limit::Max(u64::MAX)];
    let observes = [Observe::none(), Observe::everything()];
    for (limit, observe) in all.into_iter().flat_map(|limit| observes.map(|o| (limit, o))) {
        let mut each = ScopeLimits::unlimited().memory(limit).streams(limit).connections(limit);
        each.fds = limit;
        let prefix = PrefixLimits::unlimited().connections(limit);
        let network = "0.0.0.0/0".parse().expect("a network");
        let subnets = SubnetLimits::unlimited().ipv4(0, prefix).ipv4(32, prefix);
        let limits = Limits::unlimited()
            .system(each)
            .transient(each)
            .peer(each)
            .connection(each)
            .stream(each)
            .class_default(each)
            .class_peer_default(each)
            .subnets(subnets.network(network, prefix))
            .observe(observe);
        let governor = governor(limits.clone());
        let address = IpAddr::from([0, 0, 0, 0]);
        let mut guards = Vec::new();
        for bytes in [0, 1, u64::MAX - 1, u64::MAX] {
            let admission = governor.inbound().remote(address).class("c").weight(bytes);
            guards.extend(admission.try_admit());
            guards.extend(governor.inbound().remote(address).peer("p").weight(bytes).try_admit());
        }
        for guard in &guards {
            let _ = guard.handle().bind_peer("p");
            let stream = guard.handle().try_open_stream(Direction::Inbound);
            let mut kept = Vec::new();
            for priority in [Priority::Low, Priority::Critical] {
                for bytes in [0, 1, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
                    kept.extend(guard.handle().request().priority(priority).try_reserve(bytes));
                    drop(guard.request().priority(priority).try_lease(bytes as usize));
                    if let Ok(stream) = &stream {
                        kept.extend(stream.request().priority(priority).try_reserve(bytes));
                        drop(stream.request().priority(priority).try_lease_owned(bytes as usize));
                        let _ = stream.bind_class("d");
                    }
                }
            }
            for reservation in &mut kept {
                let _ = reservation.resize(u64::MAX);
                let _ = reservation.resize(1);
            }
            let _ = guard.handle().rebind_source(IpAddr::from([255, 255, 255, 255]));
            governor.snapshot();
        }
        drop(guards);
        assert_nothing_left(&governor);
        governor.set_limits(limits).expect("valid limits");
    }
}

#[test]
fn what_is_observed_still_cannot_be_counted_beyond_all_numbers() {
    let governor = governor(Limits::unlimited().observe(Observe::everything()));
    let first = governor.inbound().weight(u64::MAX).try_admit().expect("unlimited");
    let error = governor.inbound().weight(1).try_admit().expect_err("no number counts that");
    let refused = error.refused().expect("a limit");
    assert_eq!((refused.scope(), refused.resource()), (Scope::Transient, Resource::Memory));
    assert_eq!(governor.snapshot().observed, []);
    first.handle().bind_peer("alice").expect("unlimited");
    drop(first);
    assert_nothing_left(&governor);
}

/// Limits name so many classes at a time; streams still hold those of the limits before.
#[test]
fn more_classes_at_once_than_fit_in_sixteen_bits() {
    const ROUNDS: usize = 7;
    const NAMED: usize = Limits::MAX_CLASS_NAMES;
    let governor = governor(Limits::unlimited());
    let guard = admit(&governor);
    let mut streams = Vec::new();
    for round in 0..ROUNDS {
        let name = |n| format!("{round}/{n}");
        let limits = (0..NAMED).fold(Limits::unlimited(), |all, n| all.class(&name(n), scope()));
        governor.set_limits(limits).expect("no more names than allowed");
        streams.extend((0..NAMED).map(|n| stream(&guard, &name(n))));
    }
    assert_eq!(governor.snapshot().rows(Scope::Class).count(), ROUNDS * NAMED);
    drop((streams, guard));
    assert_nothing_left(&governor);
}
