//! Counts are exact, whatever happens to the limits.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::*;
use crate::error::{Reason, Resource, Scope};
use crate::limit::Limit;

/// What the documentation says, computed the slow way from a list of all that is live.
#[derive(Default)]
struct Oracle {
    limits: SubnetLimits,
    live: HashMap<IpAddr, u64>,
}

impl Oracle {
    /// The network that governs an address.
    fn network(&self, address: IpAddr) -> Option<IpNet> {
        let all = self.limits.networks.keys().filter(|network| network.contains(&address));
        all.max_by_key(|network| network.prefix_len()).copied()
    }

    /// Why one more from there is refused.
    fn check(&self, address: IpAddr) -> Result<(), Refused> {
        let address = address.to_canonical();
        let sum = |governed: &dyn Fn(IpAddr) -> bool| {
            self.live.iter().filter(|(live, _)| governed(**live)).map(|(_, count)| count).sum()
        };
        if let Some(network) = self.network(address) {
            let count = sum(&|live| self.network(live) == Some(network));
            let limit = self.limits.networks[&network].connections;
            return admit(network.prefix_len(), limit, count);
        }
        let rules = if address.is_ipv4() { &self.limits.ipv4 } else { &self.limits.ipv6 };
        for (&length, limits) in rules.iter().rev() {
            let prefix = IpNet::new(address, length).expect("a length").trunc();
            let count = sum(&|live| prefix.contains(&live) && self.network(live).is_none());
            admit(length, limits.connections, count)?;
        }
        Ok(())
    }

    fn enter(&mut self, address: IpAddr) {
        *self.live.entry(address.to_canonical()).or_default() += 1;
    }

    fn leave(&mut self, address: IpAddr) {
        let address = address.to_canonical();
        let count = self.live.get_mut(&address).expect("it entered");
        *count -= 1;
        if *count == 0 {
            self.live.remove(&address);
        }
    }
}

fn admit(length: u8, limit: Limit, count: u64) -> Result<(), Refused> {
    match limit.admits(count, 1) {
        true => Ok(()),
        // What a rule that never admits counts is of no use to anyone.
        false => Err(Refused::by_subnet(length, limit, count)),
    }
}

/// Few enough prefixes to meet often, in every form that an address comes in.
fn some_address(random: &mut fastrand::Rng) -> IpAddr {
    let v4 = Ipv4Addr::new(10, random.u8(..2), random.u8(..3), random.u8(..4));
    let v6 = Ipv6Addr::new(
        0x2001,
        random.u16(..2),
        random.u16(..2),
        random.u16(..2) << 7,
        0,
        0,
        0,
        random.u16(..2),
    );
    match random.u8(..5) {
        0 | 1 => v4.into(),
        2 => v4.to_ipv6_mapped().into(),
        _ => v6.into(),
    }
}

fn some_limits(random: &mut fastrand::Rng) -> SubnetLimits {
    let mut limits = SubnetLimits::unlimited();
    let some = |random: &mut fastrand::Rng| match random.u8(..8) {
        0 => PrefixLimits::unlimited(),
        1 => PrefixLimits::unlimited().connections(Limit::Blocked),
        _ => at_once(random.u64(1..20)),
    };
    for length in [32, 24, 16, 0] {
        if random.bool() {
            limits = limits.ipv4(length, some(random));
        }
    }
    for length in [128, 64, 57, 56, 48, 1, 0] {
        if random.u8(..3) == 0 {
            limits = limits.ipv6(length, some(random));
        }
    }
    let networks =
        ["10.1.0.0/16", "10.1.1.0/24", "10.0.2.3/32", "2001:1::/32", "2001:0:1::/48", "::/0"];
    for network in networks {
        if random.u8(..4) == 0 {
            limits = limits.network(network.parse().expect("a network"), some(random));
        }
    }
    limits
}

#[test]
fn counts_are_those_of_a_plain_list() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut oracle = Oracle::default();
    let mut door = Door::new(&oracle.limits);
    let mut live: Vec<IpAddr> = Vec::new();
    let (mut admitted, mut refused, mut rebound, mut changed) = (0, 0, 0, 0);
    for _ in 0..60_000 {
        let address = some_address(&mut random);
        match random.u16(..1000) {
            0..10 => {
                let mut limits = some_limits(&mut random);
                if random.bool() {
                    // Then counts are kept, and only those that are missing are made.
                    limits.networks = oracle.limits.networks.clone();
                }
                door.set_limits(&limits);
                oracle.limits = limits;
                changed += 1;
            }
            10..450 if !live.is_empty() => {
                let gone = live.swap_remove(random.usize(..live.len()));
                door.leave(gone);
                oracle.leave(gone);
            }
            450..550 => {
                let from = (!live.is_empty() && random.bool()).then(|| random.usize(..live.len()));
                if let Some(from) = from {
                    oracle.leave(live[from]);
                }
                let expected = oracle.check(address);
                let enforced = random.bool();
                let answer =
                    door.rebind(from.map(|from| live[from]), address, seconds(0), enforced);
                match (expected, enforced) {
                    (Err(expected), true) => {
                        assert_eq!(answer, Err(expected));
                        if let Some(from) = from {
                            oracle.enter(live[from]);
                        }
                    }
                    (expected, _) => {
                        assert_eq!(answer, Ok(expected.err()));
                        from.map(|from| live.swap_remove(from));
                        oracle.enter(address);
                        live.push(address);
                        rebound += 1;
                    }
                }
            }
            _ => {
                let answer = door.knock(address, seconds(0));
                assert_eq!(answer, oracle.check(address), "{address} under {:?}", oracle.limits);
                match answer {
                    Ok(()) => {
                        oracle.enter(address);
                        live.push(address);
                        admitted += 1;
                    }
                    Err(_) => refused += 1,
                }
            }
        }
    }
    println!("{admitted} admitted, {refused} refused, {rebound} rebound, {changed} changes");
    assert!(admitted > 5_000 && refused > 1_000 && rebound > 1_000 && changed > 100);
    door.set_limits(&SubnetLimits::unlimited());
    for address in live {
        door.leave(address);
    }
    assert!(door.memory_bytes() < IDLE_BYTES);
}

#[test]
fn a_visit_changes_nothing() {
    let limits = SubnetLimits::unlimited().ipv4(32, every(seconds(5), 1).connections(1));
    let mut door = Door::new(&limits);
    for _ in 0..3 {
        assert_eq!(door.visit(ip("192.0.2.1"), seconds(0)).refused(), None);
    }
    assert_eq!(door.knock(ip("192.0.2.1"), seconds(0)), Ok(()));
}

#[test]
fn a_refusal_names_the_longest_prefix_and_counts_come_before_rates() {
    let limits = SubnetLimits::unlimited()
        .ipv6(48, every(seconds(1), 1).connections(2))
        .ipv6(56, every(seconds(1), 1).connections(1));
    let mut door = Door::new(&limits);
    assert_eq!(door.knock(ip("2001:db8::1"), seconds(0)), Ok(()));
    let refused = door.knock(ip("2001:db8::2"), seconds(0)).expect_err("the /56 is full");
    assert_eq!((refused.prefix_len(), refused.reason()), (Some(56), Reason::Limit));
    assert_eq!((refused.limit(), refused.in_use()), (Limit::Max(1), 1));
    assert_eq!(
        (refused.scope(), refused.resource()),
        (Scope::Subnet, Resource::ConnectionsInbound)
    );
    let refused = door.knock(ip("2001:db8:0:100::1"), seconds(0)).expect_err("the /48 is");
    assert_eq!((refused.prefix_len(), refused.reason()), (Some(48), Reason::Rate));
    assert_eq!(refused.retry_after(), Some(seconds(1)));
    door.leave(ip("2001:db8::1"));
    let refused = door.knock(ip("2001:db8::2"), seconds(0)).expect_err("too soon");
    assert_eq!((refused.prefix_len(), refused.reason()), (Some(56), Reason::Rate));
}

#[test]
fn loopback_is_free_by_the_standard_limits() {
    let mut door = Door::new(&SubnetLimits::standard());
    for address in ["127.0.0.1", "127.200.0.1", "::1", "::ffff:127.0.0.1"] {
        for _ in 0..1000 {
            assert_eq!(door.knock(ip(address), seconds(0)), Ok(()));
            assert!(!door.should_validate(ip(address), seconds(0)));
        }
    }
}

#[test]
fn an_ipv4_address_in_ipv6_form_is_the_ipv4_address() {
    let limits = SubnetLimits::unlimited()
        .ipv4(32, at_once(2))
        .ipv6(0, at_once(0))
        .network("::ffff:10.0.0.0/104".parse().expect("a network"), at_once(1));
    let mut door = Door::new(&limits);
    assert_eq!(door.knock(ip("192.0.2.1"), seconds(0)), Ok(()));
    assert_eq!(door.knock(ip("::ffff:192.0.2.1"), seconds(0)), Ok(()));
    assert!(door.knock(ip("192.0.2.1"), seconds(0)).is_err());
    door.leave(ip("::ffff:192.0.2.1"));
    assert_eq!(door.knock(ip("192.0.2.1"), seconds(0)), Ok(()));
    assert_eq!(door.knock(ip("10.1.2.3"), seconds(0)), Ok(()));
    let refused = door.knock(ip("10.3.2.1"), seconds(0)).expect_err("the network is full");
    assert_eq!(refused.prefix_len(), Some(8));
}

#[test]
fn the_longest_of_many_networks_governs() {
    let mut limits = SubnetLimits::unlimited().ipv4(0, at_once(0));
    for third in 0..=255 {
        let network = IpNet::new_assert([10, 0, third, 0].into(), 24);
        limits = limits.network(network, at_once(u64::from(third)));
    }
    limits = limits.network("10.0.0.0/8".parse().expect("a network"), at_once(3));
    let mut door = Door::new(&limits);
    for third in 0..=255 {
        for fourth in 0..u64::from(third) {
            let address = Ipv4Addr::new(10, 0, third, fourth as u8);
            assert_eq!(door.knock(address.into(), seconds(0)), Ok(()));
        }
        let address = Ipv4Addr::new(10, 0, third, 255);
        let refused = door.knock(address.into(), seconds(0)).expect_err("full");
        assert_eq!((refused.prefix_len(), refused.in_use()), (Some(24), u64::from(third)));
    }
    for _ in 0..3 {
        assert_eq!(door.knock(ip("10.1.0.0"), seconds(0)), Ok(()));
    }
    let refused = door.knock(ip("10.1.0.0"), seconds(0)).expect_err("full");
    assert_eq!(refused.prefix_len(), Some(8));
    let refused = door.knock(ip("11.0.0.0"), seconds(0)).expect_err("outside of all");
    assert_eq!(refused.prefix_len(), Some(0));
}

#[test]
fn tables_shrink_to_what_is_live() {
    let limits = SubnetLimits::unlimited().ipv4(24, at_once(1000)).ipv6(56, at_once(1000));
    let mut door = Door::new(&limits);
    let idle = door.memory_bytes();
    assert!(idle < 8 << 10, "{idle} bytes");
    let addresses: Vec<IpAddr> = (0..20_000)
        .map(|n| match n % 2 {
            0 => Ipv4Addr::from_bits(n << 8).into(),
            _ => Ipv6Addr::from_bits(u128::from(n) << 72).into(),
        })
        .collect();
    for address in &addresses {
        assert_eq!(door.knock(*address, seconds(0)), Ok(()));
    }
    assert!(door.memory_bytes() > 20_000 * 8);
    for address in addresses {
        door.leave(address);
    }
    assert!(door.memory_bytes() < IDLE_BYTES);
}
