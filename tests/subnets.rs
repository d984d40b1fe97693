//! Limits by where inbound connections come from.

mod common;

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use common::{HandClock, assert_nothing_left, counts};
use leasehold::{
    AdmitError, ConnectionGuard, Governor, Limit, Limits, Observe, PrefixLimits, Priority, Rate,
    Reason, Resource, Scope, SubnetLimits,
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

#[test]
fn every_prefix_refuses_connections_exactly_at_its_limit_plus_one() {
    for prefix in &PREFIXES {
        let limits = PrefixLimits::unlimited().connections(3);
        let governor = prefix.governor(limits, Observe::none());
        let mut guards: Vec<_> =
            prefix.inside[..3].iter().map(|a| admit_from(&governor, a).unwrap()).collect();
        let before = common::now(&governor);
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
        assert_eq!(common::now(&governor), before);
        let snapshot = governor.snapshot();
        let row = (Scope::Subnet, Resource::ConnectionsInbound, Reason::Limit, 1);
        assert_eq!((counts(&snapshot.refusals), counts(&snapshot.observed)), (vec![row], vec![]));

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
        let row = (Scope::Subnet, Resource::ConnectionsInbound, Reason::Rate, 1);
        assert_eq!(counts(&governor.snapshot().refusals), [row]);
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
                let row = (Scope::Subnet, Resource::ConnectionsInbound, reason, 1);
                assert_eq!(counts(&snapshot.observed), [row]);
                assert_eq!(counts(&snapshot.refusals), []);
            }
        }
    }
}
