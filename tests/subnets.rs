//! Limits by where inbound connections come from.

mod common;

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use common::{HandClock, KIB, assert_nothing_left, counts, make_idle, now, scope};
use leasehold::{
    AdmitError, AllowList, BindError, ConnectionGuard, Governor, Limit, Limits, Observe,
    PrefixLimits, Priority, Rate, Reason, Refused, Resource, Scope, Source, SubnetLimits,
};

/// Limits by address: where they are set, and addresses that they count as one.
struct Prefix {
    length: u8,
    set: fn(SubnetLimits, PrefixLimits) -> SubnetLimits,
    inside: [&'static str; 4],
    outside: &'static str,
}

const PREFIXES: [Prefix; 7] = [
    Prefix {
        length: 32,
        set: |subnets, limits| subnets.ipv4(32, limits),
        inside: ["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1", "192.0.2.1"],
        outside: "192.0.2.0",
    },
    Prefix {
        length: 24,
        set: |subnets, limits| subnets.ipv4(24, limits),
        inside: ["192.0.2.1", "192.0.2.0", "192.0.2.255", "::ffff:192.0.2.77"],
        outside: "192.0.3.0",
    },
    Prefix {
        length: 56,
        set: |subnets, limits| subnets.ipv6(56, limits),
        inside: ["2001:db8::", "2001:db8::1", "2001:db8:0:ff::", "2001:db8:0:0:ffff::"],
        outside: "2001:db8:0:100::",
    },
    Prefix {
        length: 48,
        set: |subnets, limits| subnets.ipv6(48, limits),
        inside: ["2001:db8::", "2001:db8:0:100::", "2001:db8:0:ffff::", "2001:db8:0:1::1"],
        outside: "2001:db8:1::",
    },
    Prefix {
        length: 8,
        set: |subnets, limits| subnets.network("10.0.0.0/8".parse().unwrap(), limits),
        inside: ["10.0.0.0", "10.1.2.3", "10.255.255.255", "::ffff:10.0.0.1"],
        outside: "11.0.0.0",
    },
    Prefix {
        length: 32,
        set: |subnets, limits| subnets.network("2001:db8::/32".parse().unwrap(), limits),
        inside: ["2001:db8::", "2001:db8:1::", "2001:db8:ffff::1", "2001:db8:2::"],
        outside: "2001:db9::",
    },
    Prefix {
        length: 24,
        set: |subnets, limits| subnets.network("::ffff:10.1.2.0/120".parse().unwrap(), limits),
        inside: ["10.1.2.0", "10.1.2.3", "10.1.2.255", "::ffff:10.1.2.77"],
        outside: "10.1.3.0",
    },
];

impl Prefix {
    fn governor(&self, limits: PrefixLimits, observe: Observe) -> Governor {
        let subnets = (self.set)(SubnetLimits::unlimited(), limits);
        let limits = Limits::unlimited().subnets(subnets).observe(observe);
        Governor::builder().limits(limits).clock(HandClock::default()).build().unwrap()
    }
}

fn admit_from(governor: &Governor, address: &str) -> Result<ConnectionGuard, AdmitError> {
    governor.inbound().remote(address.parse::<IpAddr>().unwrap()).try_admit()
}

#[track_caller]
fn assert_is_by_subnet(error: AdmitError, length: u8, limit: Limit, in_use: u64, reason: Reason) {
    let refused = error.refused().unwrap();
    let what = (refused.scope(), refused.resource(), refused.prefix_len());
    assert_eq!(what, (Scope::Subnet, Resource::ConnectionsInbound, Some(length)));
    let numbers = (refused.limit(), refused.in_use(), refused.requested());
    assert_eq!(numbers, (limit, in_use, 1));
    assert_eq!((refused.reason(), refused.priority()), (reason, Priority::Critical));
}

/// That a connection was refused, or would have been, once.
fn once(reason: Reason) -> (Scope, Resource, Reason, u64) {
    (Scope::Subnet, Resource::ConnectionsInbound, reason, 1)
}

#[test]
fn every_prefix_refuses_connections_exactly_at_its_limit_plus_one() {
    for prefix in &PREFIXES {
        let limits = PrefixLimits::unlimited().connections(3);
        let governor = prefix.governor(limits, Observe::none());
        let mut guards: Vec<_> =
            prefix.inside[..3].iter().map(|a| admit_from(&governor, a).unwrap()).collect();
        let before = now(&governor);
        let error = admit_from(&governor, prefix.inside[3]).unwrap_err();
        let length = prefix.length;
        assert_eq!(
            error.to_string(),
            format!(
                "/{length} subnet limit of 3 inbound connections reached: 3 in use, 1 requested"
            )
        );
        assert_eq!(error.refused().unwrap().retry_after(), None);
        assert_is_by_subnet(error, length, Limit::Max(3), 3, Reason::Limit);
        assert_eq!(now(&governor), before);
        let snapshot = governor.snapshot();
        assert_eq!(
            (counts(&snapshot.refusals), counts(&snapshot.observed)),
            (vec![once(Reason::Limit)], vec![])
        );

        let _next_door = admit_from(&governor, prefix.outside).unwrap();
        guards.pop();
        guards.push(admit_from(&governor, prefix.inside[3]).unwrap());
        assert!(admit_from(&governor, prefix.inside[0]).is_err());
    }
}

#[test]
fn every_prefix_refuses_new_connections_exactly_at_its_burst_plus_one() {
    for prefix in &PREFIXES {
        let rate = Rate::new(Duration::from_secs(5), NonZeroU32::new(3).unwrap());
        let governor = prefix.governor(PrefixLimits::unlimited().rate(rate), Observe::none());
        for address in &prefix.inside[..3] {
            drop(admit_from(&governor, address).unwrap());
        }
        let error = admit_from(&governor, prefix.inside[3]).unwrap_err();
        let length = prefix.length;
        assert_eq!(
            error.to_string(),
            format!(
                "/{length} subnet rate of new connections reached after a burst of 3: \
                 come back in 5.0s"
            )
        );
        assert_eq!(error.refused().unwrap().retry_after(), Some(Duration::from_secs(5)));
        assert_is_by_subnet(error, length, Limit::Max(3), 3, Reason::Rate);
        assert_eq!(counts(&governor.snapshot().refusals), [once(Reason::Rate)]);
        assert_nothing_left(&governor);
        let _next_door = admit_from(&governor, prefix.outside).unwrap();
    }
}

#[test]
fn a_blocked_prefix_admits_nobody() {
    for prefix in &PREFIXES {
        let limits = PrefixLimits::unlimited().connections(Limit::Blocked);
        let governor = prefix.governor(limits, Observe::none());
        let error = admit_from(&governor, prefix.inside[0]).unwrap_err();
        let length = prefix.length;
        let sentence =
            format!("/{length} subnet limit blocks all inbound connections: 1 requested");
        assert_eq!(error.to_string(), sentence);
        assert_is_by_subnet(error, length, Limit::Blocked, 0, Reason::Blocked);
    }
}

#[test]
fn prefixes_that_are_only_observed_admit_and_count_once() {
    let rate = Rate::new(Duration::from_secs(5), NonZeroU32::new(3).unwrap());
    let limits = [
        (PrefixLimits::unlimited().connections(3), Reason::Limit, 3),
        (PrefixLimits::unlimited().rate(rate), Reason::Rate, 3),
        (PrefixLimits::unlimited().connections(Limit::Blocked), Reason::Blocked, 0),
    ];
    for prefix in &PREFIXES {
        for (limits, reason, most) in limits {
            for observe in [Observe::none().scope(Scope::Subnet), Observe::everything()] {
                let governor = prefix.governor(limits, observe);
                let admit = |address: &&str| admit_from(&governor, address).unwrap();
                let _within: Vec<_> = prefix.inside[..most].iter().map(admit).collect();
                assert_eq!(counts(&governor.snapshot().observed), []);
                let _beyond = admit(&prefix.inside[3]);
                let snapshot = governor.snapshot();
                assert_eq!(counts(&snapshot.observed), [once(reason)]);
                assert_eq!(counts(&snapshot.refusals), []);
            }
        }
    }
}

const LISTED: &str = "192.0.2.1";
const OTHER: &str = "198.51.100.1";

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn at_most(connections: u64) -> PrefixLimits {
    PrefixLimits::unlimited().connections(connections)
}

fn every(interval: Duration, burst: u32) -> PrefixLimits {
    let burst = NonZeroU32::new(burst).unwrap();
    PrefixLimits::unlimited().rate(Rate::new(interval, burst))
}

/// A governor with a clock that is turned by hand.
fn turned(limits: Limits) -> (Governor, HandClock) {
    let clock = HandClock::default();
    let governor = Governor::builder().limits(limits).clock(clock.clone()).build().unwrap();
    (governor, clock)
}

/// One that has no limits but these.
fn by_address(subnets: SubnetLimits) -> (Governor, HandClock) {
    turned(Limits::unlimited().subnets(subnets))
}

fn standard() -> (Governor, HandClock) {
    by_address(SubnetLimits::standard())
}

/// Each address has one place.
fn one_each() -> Limits {
    let one = at_most(1);
    Limits::unlimited().subnets(SubnetLimits::unlimited().ipv4(32, one).ipv6(128, one))
}

#[track_caller]
fn refusal(governor: &Governor, address: &str) -> Refused {
    *admit_from(governor, address).expect_err("a refusal").refused().unwrap()
}

/// Whether nobody from there is counted, where each address has one place.
#[track_caller]
fn assert_is_free(governor: &Governor, address: &str) {
    let one = admit_from(governor, address);
    assert!(one.is_ok(), "{address} is still counted");
    assert!(admit_from(governor, address).is_err(), "{address} is not counted at all");
}

#[track_caller]
fn assert_is_taken(governor: &Governor, address: &str) {
    assert!(admit_from(governor, address).is_err(), "{address} is not counted");
}

#[test]
fn the_standard_limits_allow_an_ipv4_address_eight_at_once() {
    let (governor, _clock) = standard();
    let mut guards: Vec<_> = (0..8).map(|_| admit_from(&governor, LISTED).unwrap()).collect();
    let refused = refusal(&governor, LISTED);
    assert_eq!((refused.prefix_len(), refused.reason()), (Some(32), Reason::Limit));
    assert_eq!((refused.limit(), refused.in_use()), (Limit::Max(8), 8));
    let _next_door = admit_from(&governor, "192.0.2.2").unwrap();
    guards.pop();
    guards.push(admit_from(&governor, LISTED).unwrap());
    assert_eq!(refusal(&governor, LISTED).in_use(), 8);
}

#[test]
fn the_standard_limits_allow_an_ipv4_address_sixteen_and_then_one_in_five_seconds() {
    let (governor, clock) = standard();
    for _ in 0..16 {
        drop(admit_from(&governor, LISTED).unwrap());
    }
    for _ in 0..10 {
        let refused = refusal(&governor, LISTED);
        assert_eq!((refused.prefix_len(), refused.reason()), (Some(32), Reason::Rate));
        assert_eq!((refused.limit(), refused.retry_after()), (Limit::Max(16), Some(seconds(5))));
        clock.turn(Duration::from_millis(4999));
        assert_eq!(refusal(&governor, LISTED).retry_after(), Some(Duration::from_millis(1)));
        clock.turn(Duration::from_millis(1));
        drop(admit_from(&governor, LISTED).unwrap());
    }
    // A rest brings the whole burst back, and no more than that.
    clock.turn(seconds(1000));
    for _ in 0..16 {
        drop(admit_from(&governor, LISTED).unwrap());
    }
    assert_eq!(refusal(&governor, LISTED).reason(), Reason::Rate);
}

#[test]
fn the_standard_limits_allow_an_ipv6_customer_eight_and_a_site_sixty_four_at_once() {
    let (governor, _clock) = standard();
    let mut guards = Vec::new();
    for customer in 0..8 {
        for host in 0..8 {
            let address = format!("2001:db8:0:{:x}::{host}", customer << 8);
            guards.push(admit_from(&governor, &address).unwrap());
        }
        let refused = refusal(&governor, &format!("2001:db8:0:{:x}::ffff", customer << 8));
        let by_customer = (refused.prefix_len(), refused.limit());
        assert_eq!(by_customer, (Some(56), Limit::Max(8)));
    }
    let refused = refusal(&governor, "2001:db8:0:800::1");
    assert_eq!((refused.prefix_len(), refused.limit()), (Some(48), Limit::Max(64)));
    let _other_site = admit_from(&governor, "2001:db8:1::").unwrap();
    guards.pop();
    let _ninth_customer = admit_from(&governor, "2001:db8:0:800::1").unwrap();
}

#[test]
fn the_standard_limits_allow_an_ipv6_customer_sixteen_and_a_site_eighty_new_ones_in_a_burst() {
    let (governor, clock) = standard();
    for customer in 0..5 {
        for _ in 0..16 {
            drop(admit_from(&governor, &format!("2001:db8:0:{:x}::1", customer << 8)).unwrap());
        }
        let refused = refusal(&governor, &format!("2001:db8:0:{:x}::2", customer << 8));
        assert_eq!((refused.prefix_len(), refused.retry_after()), (Some(56), Some(seconds(5))));
    }
    let refused = refusal(&governor, "2001:db8:0:500::1");
    assert_eq!((refused.prefix_len(), refused.limit()), (Some(48), Limit::Max(80)));
    assert_eq!((refused.reason(), refused.retry_after()), (Reason::Rate, Some(seconds(2))));
    clock.turn(seconds(2));
    drop(admit_from(&governor, "2001:db8:0:500::1").unwrap());
    assert_eq!(refusal(&governor, "2001:db8:0:500::1").prefix_len(), Some(48));
}

#[test]
fn the_standard_limits_leave_loopback_free() {
    let (governor, _clock) = standard();
    let addresses = ["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1"];
    let guards: Vec<_> = (0..400).map(|nth| admit_from(&governor, addresses[nth % 4])).collect();
    assert!(guards.iter().all(Result::is_ok));
    for _ in 0..100 {
        assert!(addresses.iter().all(|address| !governor.should_validate(ip(address))));
    }
    let _one = admit_from(&governor, "::2").unwrap();
}

#[test]
fn who_is_dialled_or_has_no_address_is_not_counted() {
    let limits = PrefixLimits::unlimited().connections(Limit::Blocked);
    let subnets = SubnetLimits::unlimited().ipv4(0, limits).ipv6(0, limits);
    let (governor, _clock) = by_address(subnets);
    assert_is_taken(&governor, LISTED);
    let _out = governor.outbound().remote(ip(LISTED)).try_admit().unwrap();
    let _nowhere = governor.inbound().try_admit().unwrap();
    let pipe = Source::opaque("a pipe").unwrap();
    let _pipe = governor.inbound().remote(pipe).try_admit().unwrap();
}

#[test]
fn who_is_dialled_spends_nothing_of_a_rate() {
    let subnets = SubnetLimits::unlimited().ipv4(32, every(seconds(5), 1));
    let (governor, _clock) = by_address(subnets);
    for _ in 0..10 {
        drop(governor.outbound().remote(ip(LISTED)).try_admit().unwrap());
    }
    drop(admit_from(&governor, LISTED).unwrap());
    assert_eq!(refusal(&governor, LISTED).reason(), Reason::Rate);
}

#[test]
fn an_admission_that_another_scope_refuses_takes_no_place_and_spends_nothing() {
    let subnets = SubnetLimits::unlimited().ipv4(
        32,
        PrefixLimits::unlimited()
            .connections(3)
            .rate(Rate::new(seconds(5), NonZeroU32::new(3).unwrap())),
    );
    let open = Limits::unlimited().subnets(subnets);
    let none = scope().connections(0);
    let refusing = [
        open.clone().system(none),
        open.clone().transient(none),
        open.clone().class_default(none),
        open.clone().connection(none),
        open.clone().system(scope().memory(10)),
    ];
    for limits in refusing {
        let (governor, _clock) = turned(limits.clone());
        for _ in 0..100 {
            let admission = governor.inbound().remote(ip(LISTED)).class("public").weight(11);
            let error = admission.try_admit().unwrap_err();
            assert_ne!(error.refused().unwrap().scope(), Scope::Subnet, "under {limits:?}");
        }
        governor.set_limits(open.clone()).unwrap();
        let guards = [LISTED; 3].map(|address| admit_from(&governor, address).unwrap());
        assert_eq!(refusal(&governor, LISTED).reason(), Reason::Limit);
        drop(guards);
        assert_eq!(refusal(&governor, LISTED).reason(), Reason::Rate);
    }
}

#[test]
fn a_refusal_by_address_spends_nothing_of_any_rate() {
    let one = PrefixLimits::unlimited().connections(1);
    let subnets = SubnetLimits::unlimited().ipv4(32, one).ipv4(24, every(seconds(5), 2));
    let (governor, _clock) = by_address(subnets);
    let first = admit_from(&governor, LISTED).unwrap();
    for _ in 0..10 {
        assert_eq!(refusal(&governor, LISTED).prefix_len(), Some(32));
    }
    drop(first);
    drop(admit_from(&governor, LISTED).unwrap());
    assert_eq!(refusal(&governor, LISTED).prefix_len(), Some(24));
}

#[test]
fn a_refusal_by_rate_is_honest_about_when_to_come_back() {
    let millis = Duration::from_millis;
    for (interval, burst) in [(millis(7), 1), (millis(1000), 3), (seconds(3600), 5)] {
        let subnets = SubnetLimits::unlimited().ipv4(32, every(interval, burst));
        let (governor, clock) = by_address(subnets);
        // Any pauses will do, so long as the rate is met again and again.
        let mut refusals = 0;
        for nth in 0..200_u64 {
            match admit_from(&governor, LISTED) {
                Ok(guard) => drop(guard),
                Err(error) => {
                    refusals += 1;
                    let wait = error.refused().unwrap().retry_after().unwrap();
                    assert!(wait <= interval, "{wait:?} of {interval:?}");
                    clock.turn(wait - millis(1));
                    let error = admit_from(&governor, LISTED).expect_err("it is too soon");
                    assert_eq!(error.refused().unwrap().retry_after(), Some(millis(1)));
                    clock.turn(millis(1));
                    drop(admit_from(&governor, LISTED).expect("it is time"));
                }
            }
            clock.turn(millis(nth * nth % 11 * interval.as_millis() as u64 / 10));
        }
        assert!(refusals > 10, "{refusals} refusals by one in {interval:?}");
    }
}

#[test]
fn a_place_is_free_once_the_guard_drops() {
    let (governor, _clock) = turned(one_each());
    for address in [LISTED, "2001:db8::1", "::ffff:203.0.113.1"] {
        let guard = admit_from(&governor, address).unwrap();
        assert_is_taken(&governor, address);
        // A close from outside leaves it to the guard, as all that a connection counts for.
        guard.handle().close().unwrap();
        assert_is_taken(&governor, address);
        drop(guard);
        assert_is_free(&governor, address);
    }
}

#[test]
fn what_outlives_its_guard_takes_no_place() {
    let (governor, _clock) = turned(one_each());
    let guard = admit_from(&governor, LISTED).unwrap();
    let pinned = guard.handle().try_lease_owned(512).unwrap().into_pinned().unwrap();
    drop(guard);
    assert_is_free(&governor, LISTED);
    drop(pinned);
    assert_is_free(&governor, LISTED);
    assert_nothing_left(&governor);
}

#[test]
fn coming_and_going_through_many_addresses_wins_no_burst() {
    let (governor, clock) = standard();
    for _ in 0..16 {
        drop(admit_from(&governor, LISTED).unwrap());
    }
    let (turns, crowd): (u32, u32) = (4, 20_000);
    let mut mistaken = 0;
    for turn in 0..turns {
        for nth in 0..crowd {
            let address = IpAddr::from((0x0b00_0000 + turn * crowd + nth).to_be_bytes());
            mistaken += u32::from(governor.inbound().remote(address).try_admit().is_err());
        }
        clock.turn(seconds(1));
        governor.maintain();
        let wait = refusal(&governor, LISTED).retry_after();
        assert_eq!(wait, Some(seconds(4 - u64::from(turn))));
    }
    // What is known of rates takes bounded memory, so it errs now and then, on this side.
    assert!(mistaken < turns * crowd / 200, "{mistaken} of the crowd were taken for another");
    clock.turn(seconds(1));
    drop(admit_from(&governor, LISTED).unwrap());
    assert_eq!(refusal(&governor, LISTED).reason(), Reason::Rate);
}

#[test]
fn addresses_of_one_network_win_no_burst_from_one_another() {
    let rate = every(seconds(5), 4);
    let subnets = SubnetLimits::unlimited().network("203.0.113.0/24".parse().unwrap(), rate);
    let (governor, clock) = by_address(subnets);
    for host in 0..4 {
        drop(admit_from(&governor, &format!("203.0.113.{host}")).unwrap());
    }
    for host in 4..250 {
        assert_eq!(refusal(&governor, &format!("203.0.113.{host}")).prefix_len(), Some(24));
    }
    clock.turn(seconds(5));
    drop(admit_from(&governor, "203.0.113.250").unwrap());
    assert_is_taken(&governor, "203.0.113.251");
}

#[test]
fn the_longest_network_alone_counts_an_address() {
    let network = |text: &str| text.parse().unwrap();
    let subnets = SubnetLimits::unlimited()
        .ipv4(32, at_most(1))
        .network(network("10.0.0.0/8"), at_most(2))
        .network(network("10.1.0.0/16"), at_most(3))
        .network(network("10.1.2.3/32"), PrefixLimits::unlimited());
    let (governor, _clock) = by_address(subnets);
    let admit = |address| admit_from(&governor, address).unwrap();
    let _free: Vec<_> = (0..20).map(|_| admit("10.1.2.3")).collect();
    let _three = [admit("10.1.0.1"), admit("10.1.0.1"), admit("10.1.255.1")];
    assert_eq!(refusal(&governor, "10.1.9.9").prefix_len(), Some(16));
    let _two = [admit("10.2.0.1"), admit("10.2.0.1")];
    assert_eq!(refusal(&governor, "10.3.0.1").prefix_len(), Some(8));
    let _one = admit("11.0.0.1");
    assert_eq!(refusal(&governor, "11.0.0.1").prefix_len(), Some(32));
}

/// Where a report says that a connection comes from.
fn source_of(governor: &Governor, guard: &ConnectionGuard) -> Option<Source> {
    let snapshot = governor.snapshot();
    let row = snapshot.connections.into_iter().find(|row| row.id == guard.handle().id());
    row.expect("an open connection").source
}

#[test]
fn a_balancer_is_not_counted_and_its_clients_are() {
    let subnets =
        SubnetLimits::standard().network("10.0.0.0/8".parse().unwrap(), PrefixLimits::unlimited());
    let (governor, _clock) = by_address(subnets);
    let from_balancer = || admit_from(&governor, "10.0.0.1").unwrap();
    let mut guards: Vec<_> = (0..50).map(|_| from_balancer()).collect();
    for (nth, guard) in guards.iter().enumerate().take(40) {
        guard.handle().rebind_source(ip(&format!("192.0.2.{}", nth / 8))).unwrap();
    }
    let before = now(&governor);
    let error = guards[40].handle().rebind_source(ip("192.0.2.0")).unwrap_err();
    let refused = error.refused().unwrap();
    assert_eq!(
        (refused.scope(), refused.prefix_len(), refused.in_use()),
        (Scope::Subnet, Some(32), 8)
    );
    assert_eq!(now(&governor), before);
    assert_eq!(source_of(&governor, &guards[40]), Some(ip("10.0.0.1").into()));
    assert_eq!(source_of(&governor, &guards[0]), Some(ip("192.0.2.0").into()));
    // They count beside those that come straight from there, and leave as these do.
    assert_eq!(refusal(&governor, "192.0.2.0").in_use(), 8);
    drop(guards.swap_remove(3));
    guards[40].handle().rebind_source(ip("192.0.2.0")).unwrap();
    drop(guards);
    assert_nothing_left(&governor);
    drop(admit_from(&governor, "192.0.2.0").unwrap());
}

#[test]
fn a_balancer_may_come_without_an_address() {
    let (governor, _clock) = turned(one_each());
    let guards = [(); 2].map(|()| governor.inbound().try_admit().unwrap());
    guards[0].handle().rebind_source(ip(LISTED)).unwrap();
    assert!(guards[1].handle().rebind_source(ip(LISTED)).is_err());
    assert_eq!(source_of(&governor, &guards[1]), None);
    drop(guards);
    assert_is_free(&governor, LISTED);
}

#[test]
fn a_rebound_connection_leaves_one_place_and_takes_another() {
    let (governor, _clock) = turned(one_each());
    let guard = admit_from(&governor, LISTED).unwrap();
    for to in [OTHER, "2001:db8::1", "::ffff:203.0.113.1", LISTED] {
        let from = source_of(&governor, &guard).unwrap().ip().unwrap().to_string();
        guard.handle().rebind_source(ip(to)).unwrap();
        assert_is_free(&governor, &from);
        assert_is_taken(&governor, to);
    }
    drop(guard);
    assert_is_free(&governor, LISTED);
    assert_nothing_left(&governor);
}

#[test]
fn a_refused_rebinding_changes_nothing() {
    let (governor, _clock) = turned(one_each());
    let guard = admit_from(&governor, LISTED).unwrap();
    let other = admit_from(&governor, OTHER).unwrap();
    let before = now(&governor);
    let error = guard.handle().rebind_source(ip(OTHER)).unwrap_err();
    let refused = error.refused().unwrap();
    assert_eq!((refused.scope(), refused.limit()), (Scope::Subnet, Limit::Max(1)));
    assert_eq!(now(&governor), before);
    assert_eq!(source_of(&governor, &guard), Some(ip(LISTED).into()));
    assert_eq!(counts(&governor.snapshot().refusals), [once(Reason::Limit)]);
    assert_is_taken(&governor, LISTED);
    drop(other);
    assert_is_free(&governor, OTHER);
    drop(guard);
    assert_is_free(&governor, LISTED);
}

#[test]
fn a_connection_does_not_stand_in_its_own_way() {
    let subnets = SubnetLimits::unlimited().ipv4(24, at_most(1)).ipv4(32, at_most(1));
    let (governor, _clock) = by_address(subnets);
    let guard = admit_from(&governor, LISTED).unwrap();
    guard.handle().rebind_source(ip("192.0.2.77")).unwrap();
    guard.handle().rebind_source(ip("192.0.2.77")).unwrap();
    assert_is_taken(&governor, LISTED);
    drop(guard);
    assert_is_free(&governor, LISTED);
}

#[test]
fn a_rebinding_spends_of_the_rate_over_there() {
    let subnets = SubnetLimits::unlimited().ipv4(32, every(seconds(5), 2));
    let (governor, clock) = by_address(subnets);
    let guards = [(); 3].map(|()| governor.inbound().try_admit().unwrap());
    guards[0].handle().rebind_source(ip(LISTED)).unwrap();
    guards[1].handle().rebind_source(ip(LISTED)).unwrap();
    let error = guards[2].handle().rebind_source(ip(LISTED)).unwrap_err();
    assert_eq!(error.refused().unwrap().retry_after(), Some(seconds(5)));
    assert_eq!(refusal(&governor, LISTED).reason(), Reason::Rate);
    clock.turn(seconds(5));
    guards[2].handle().rebind_source(ip(LISTED)).unwrap();
    assert_eq!(refusal(&governor, LISTED).reason(), Reason::Rate);
}

#[test]
fn a_source_that_is_no_address_counts_nowhere() {
    let (governor, _clock) = turned(one_each());
    let guard = admit_from(&governor, LISTED).unwrap();
    let circuit = Source::opaque("a circuit").unwrap();
    guard.handle().rebind_source(circuit.clone()).unwrap();
    assert_eq!(source_of(&governor, &guard), Some(circuit));
    assert_is_free(&governor, LISTED);
    guard.handle().rebind_source(ip(OTHER)).unwrap();
    assert_is_taken(&governor, OTHER);
    drop(guard);
    assert_is_free(&governor, OTHER);
    assert_is_free(&governor, LISTED);
}

#[test]
fn a_connection_that_was_dialled_is_never_counted() {
    let (governor, _clock) = turned(one_each());
    let guard = governor.outbound().remote(ip(LISTED)).try_admit().unwrap();
    let other = admit_from(&governor, OTHER).unwrap();
    guard.handle().rebind_source(ip(OTHER)).unwrap();
    drop(other);
    assert_is_free(&governor, OTHER);
    drop(guard);
    assert_is_free(&governor, OTHER);
}

#[test]
fn a_closed_connection_comes_from_nowhere_else() {
    let (governor, _clock) = turned(one_each());
    let guard = admit_from(&governor, LISTED).unwrap();
    guard.handle().close().unwrap();
    assert_eq!(guard.handle().rebind_source(ip(OTHER)).unwrap_err(), BindError::Closed);
    assert_is_free(&governor, OTHER);
    drop(guard);
    assert_is_free(&governor, LISTED);
}

#[test]
fn a_rebinding_that_is_only_observed_is_granted_and_counted_once() {
    let observe = Observe::none().scope(Scope::Subnet);
    let (governor, _clock) = turned(one_each().observe(observe));
    let guards = [(); 2].map(|()| governor.inbound().try_admit().unwrap());
    guards[0].handle().rebind_source(ip(LISTED)).unwrap();
    guards[1].handle().rebind_source(ip(LISTED)).unwrap();
    assert_eq!(counts(&governor.snapshot().observed), [once(Reason::Limit)]);
    assert_eq!(counts(&governor.snapshot().refusals), []);
    governor.set_limits(one_each()).unwrap();
    let [first, second] = guards;
    drop(first);
    assert_is_taken(&governor, LISTED);
    drop(second);
    assert_is_free(&governor, LISTED);
}

fn allowed() -> AllowList {
    AllowList::new().network("192.0.2.0/24".parse().unwrap())
}

#[test]
fn the_allow_list_helps_a_connection_that_comes_from_elsewhere() {
    let (governor, _clock) = turned(one_each().allow(allowed()));
    let _first = admit_from(&governor, LISTED).unwrap();
    let guard = admit_from(&governor, OTHER).unwrap();
    guard.handle().rebind_source(ip(LISTED)).unwrap();
    let after = now(&governor);
    assert_eq!((after.system.connections(), after.allowlisted_system.connections()), (1, 1));
    assert_is_free(&governor, OTHER);
    // Back from the list it is counted again, and refused where there is no place.
    let other = admit_from(&governor, OTHER).unwrap();
    let before = now(&governor);
    assert_eq!(guard.handle().rebind_source(ip(OTHER)).unwrap_err().refused().unwrap().in_use(), 1);
    assert_eq!(now(&governor), before);
    drop(other);
    guard.handle().rebind_source(ip(OTHER)).unwrap();
    assert_eq!(now(&governor).allowlisted_system.connections(), 0);
    assert_is_taken(&governor, OTHER);
    drop(guard);
    assert_is_free(&governor, OTHER);
}

#[test]
fn who_comes_from_elsewhere_than_the_list_needs_room_in_the_ordinary_system() {
    let limits = |connections: u64| {
        Limits::unlimited().system(scope().connections(connections)).allow(allowed())
    };
    let (governor, _clock) = turned(limits(0));
    let guard = admit_from(&governor, LISTED).unwrap();
    guard.handle().rebind_source(ip("192.0.2.2")).unwrap();
    let _held = guard.handle().try_reserve(1000).unwrap();
    let before = now(&governor);
    let error = guard.handle().rebind_source(ip(OTHER)).unwrap_err();
    assert_eq!(error.refused().unwrap().scope(), Scope::System);
    assert_eq!(now(&governor), before);
    assert_eq!(source_of(&governor, &guard), Some(ip("192.0.2.2").into()));
    governor.set_limits(limits(1)).unwrap();
    guard.handle().rebind_source(ip(OTHER)).unwrap();
    assert_eq!(now(&governor).system.memory, 1000);
    drop((guard, _held));
    assert_nothing_left(&governor);
}

/// A listed connection that counted for its address, until its memory moved it over.
fn moved_over() -> (Governor, ConnectionGuard) {
    let limits = one_each().system(scope().memory(1000)).allow(allowed());
    let (governor, _clock) = turned(limits);
    let guard = admit_from(&governor, LISTED).unwrap();
    let beyond = guard.handle().try_reserve(2000).unwrap();
    assert_eq!(now(&governor).allowlisted_system.connections(), 1);
    drop(beyond);
    (governor, guard)
}

#[test]
fn who_moved_over_and_comes_from_elsewhere_on_the_list_leaves_no_count_behind() {
    let (governor, guard) = moved_over();
    guard.handle().rebind_source(ip("192.0.2.2")).unwrap();
    drop(guard);
    governor.set_limits(one_each()).unwrap();
    assert_is_free(&governor, LISTED);
    assert_is_free(&governor, "192.0.2.2");
}

#[test]
fn who_moved_over_and_comes_from_elsewhere_than_the_list_leaves_no_count_behind() {
    let (governor, guard) = moved_over();
    guard.handle().rebind_source(ip(OTHER)).unwrap();
    drop(guard);
    governor.set_limits(one_each()).unwrap();
    assert_is_free(&governor, OTHER);
    assert_is_free(&governor, LISTED);
}

#[test]
fn who_moved_over_and_comes_from_no_address_leaves_no_count_behind() {
    let (governor, guard) = moved_over();
    guard.handle().rebind_source(Source::opaque("a circuit").unwrap()).unwrap();
    drop(guard);
    governor.set_limits(one_each()).unwrap();
    assert_is_free(&governor, LISTED);
}

#[test]
fn who_moved_over_is_counted_by_its_address_no_longer() {
    let (governor, guard) = moved_over();
    let mut limits = governor.limits();
    limits.allow = AllowList::new();
    governor.set_limits(limits).unwrap();
    assert_is_free(&governor, LISTED);
    drop(guard);
    assert_is_free(&governor, LISTED);
}

#[test]
fn what_siblings_keep_idle_keeps_nobody_from_coming_from_elsewhere_than_the_list() {
    let limits = |connections: u64| {
        let system = scope().memory(32 * KIB).connections(connections);
        Limits::unlimited().system(system).allow(allowed())
    };
    let (governor, _clock) = turned(limits(1));
    let hoarder = admit_from(&governor, OTHER).unwrap();
    make_idle(&hoarder, 4096, 8);
    let guard = admit_from(&governor, LISTED).unwrap();
    let _held = guard.handle().try_reserve(4 * KIB).unwrap();
    assert_eq!(now(&governor).allowlisted_system.memory, 4 * KIB);
    governor.set_limits(limits(2)).unwrap();
    guard.handle().rebind_source(ip(OTHER)).unwrap();
}

#[test]
fn an_address_has_to_be_validated_beyond_half_the_burst() {
    let (governor, clock) = standard();
    for (address, other) in [(LISTED, "192.0.2.2"), ("2001:db8::1", "2001:db8:0:100::")] {
        for _ in 0..8 {
            assert!(!governor.should_validate(ip(address)), "{address}");
        }
        for _ in 0..3 {
            assert!(governor.should_validate(ip(address)), "{address}");
        }
        assert!(!governor.should_validate(ip(other)), "{other}");
        clock.turn(seconds(5));
        assert!(!governor.should_validate(ip(address)), "{address}");
        assert!(governor.should_validate(ip(address)), "{address}");
    }
    assert_nothing_left(&governor);
}

#[test]
fn validation_and_admission_have_budgets_of_their_own() {
    let (governor, _clock) = standard();
    for _ in 0..100 {
        governor.should_validate(ip(LISTED));
    }
    for _ in 0..16 {
        drop(admit_from(&governor, LISTED).unwrap());
    }
    assert_eq!(refusal(&governor, LISTED).reason(), Reason::Rate);

    for _ in 0..16 {
        drop(admit_from(&governor, OTHER).unwrap());
    }
    assert_eq!(refusal(&governor, OTHER).reason(), Reason::Rate);
    for _ in 0..8 {
        assert!(!governor.should_validate(ip(OTHER)));
    }
    assert!(governor.should_validate(ip(OTHER)));
}

#[test]
fn nobody_has_to_be_validated_where_no_rate_is_set() {
    let subnets = SubnetLimits::unlimited().ipv4(32, at_most(0));
    let (governor, _clock) = by_address(subnets);
    for _ in 0..1000 {
        assert!(!governor.should_validate(ip(LISTED)));
    }
}

#[test]
fn a_burst_of_one_leaves_one_without_validation() {
    let subnets = SubnetLimits::unlimited().ipv4(32, every(seconds(1), 1));
    let (governor, _clock) = by_address(subnets);
    assert!(!governor.should_validate(ip(LISTED)));
    assert!(governor.should_validate(ip(LISTED)));
    assert!(governor.should_validate(ip("::ffff:192.0.2.1")), "it is the same address");
}
