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
        false => Err(Refused::by_subnet(length, limit, count)),
    }
}

/// Few enough prefixes to meet often, in every form that an address comes in. `hosts` is how many
/// addresses there may be in a /24 or a /56.
fn some_address(random: &mut fastrand::Rng, hosts: u8) -> IpAddr {
    let v4 = Ipv4Addr::new(10, random.u8(..2), random.u8(..3), random.u8(..hosts));
    let v6 = Ipv6Addr::new(
        0x2001,
        random.u16(..2),
        random.u16(..2),
        random.u16(..2) << 7,
        0,
        0,
        0,
        random.u16(..u16::from(hosts / 2)),
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

/// Connections that come, go and move to another address. Each result must be that of the oracle.
struct Crowd {
    door: Door,
    oracle: Oracle,
    live: Vec<IpAddr>,
    hosts: u8,
    admitted: u32,
    refused: u32,
    rebound: u32,
}

impl Crowd {
    fn new(limits: SubnetLimits, hosts: u8) -> Self {
        let door = Door::new(&limits);
        let oracle = Oracle { limits, ..Oracle::default() };
        Self { door, oracle, live: Vec::new(), hosts, admitted: 0, refused: 0, rebound: 0 }
    }

    fn step(&mut self, random: &mut fastrand::Rng) {
        match random.u8(..100) {
            0..45 if !self.live.is_empty() => {
                let gone = self.live.swap_remove(random.usize(..self.live.len()));
                self.door.leave(gone);
                self.oracle.leave(gone);
            }
            45..55 => self.rebind(random),
            _ => self.come(random),
        }
    }

    fn come(&mut self, random: &mut fastrand::Rng) {
        let address = some_address(random, self.hosts);
        let result = self.door.knock(address, seconds(0));
        let expected = self.oracle.check(address);
        assert_eq!(result, expected, "{address} under {:?}", self.oracle.limits);
        match result {
            Ok(()) => {
                self.oracle.enter(address);
                self.live.push(address);
                self.admitted += 1;
            }
            Err(_) => self.refused += 1,
        }
    }

    fn rebind(&mut self, random: &mut fastrand::Rng) {
        let to = some_address(random, self.hosts);
        let from =
            (!self.live.is_empty() && random.bool()).then(|| random.usize(..self.live.len()));
        let left = from.map(|from| self.live[from]);
        if let Some(left) = left {
            self.oracle.leave(left);
        }
        let expected = self.oracle.check(to);
        let enforced = random.bool();
        let result = self.door.rebind(left, to, seconds(0), enforced);
        match (expected, enforced) {
            (Err(expected), true) => {
                assert_eq!(result, Err(expected));
                if let Some(left) = left {
                    self.oracle.enter(left);
                }
            }
            (expected, _) => {
                assert_eq!(result, Ok(expected.err()));
                from.map(|from| self.live.swap_remove(from));
                self.oracle.enter(to);
                self.live.push(to);
                self.rebound += 1;
            }
        }
    }

    /// Other limits; in half of the cases those of networks are kept, so that counts are kept too and
    /// only those that are missing are made.
    fn other_limits(&self, random: &mut fastrand::Rng) -> SubnetLimits {
        let mut limits = some_limits(random);
        if random.bool() {
            limits.networks = self.oracle.limits.networks.clone();
        }
        limits
    }

    fn assert_nothing_left(mut self) {
        self.door.set_limits(&SubnetLimits::unlimited());
        for address in self.live {
            self.door.leave(address);
        }
        assert!(self.door.memory_bytes() < IDLE_BYTES);
    }
}

#[test]
fn counts_are_those_of_a_plain_list() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut crowd = Crowd::new(SubnetLimits::unlimited(), 4);
    let mut changed = 0;
    for _ in 0..60_000 {
        if random.u8(..100) == 0 {
            let limits = crowd.other_limits(&mut random);
            crowd.door.set_limits(&limits);
            crowd.oracle.limits = limits;
            changed += 1;
        }
        crowd.step(&mut random);
    }
    let Crowd { admitted, refused, rebound, .. } = crowd;
    println!("{admitted} admitted, {refused} refused, {rebound} rebound, {changed} changes");
    assert!(admitted > 5_000 && refused > 1_000 && rebound > 1_000 && changed > 100);
    crowd.assert_nothing_left();
}

/// While a change is made in pieces, connections come and go: the old limits hold to the end, and
/// what the new ones count then is what a plain list has.
#[test]
fn a_change_in_pieces_counts_what_a_plain_list_does() {
    let mut random = fastrand::Rng::with_seed(8);
    let (mut pieces, mut refused) = (0, 0);
    for _ in 0..20 {
        let mut crowd = Crowd::new(SubnetLimits::unlimited(), 100);
        (0..1000).for_each(|_| crowd.come(&mut random));
        for _ in 0..8 {
            let limits = crowd.other_limits(&mut random);
            crowd.door.begin(&limits);
            while crowd.door.subnets.go_on() == Progress::Going {
                (0..random.usize(..20)).for_each(|_| crowd.step(&mut random));
                pieces += 1;
            }
            (0..random.usize(..20)).for_each(|_| crowd.step(&mut random));
            drop(crowd.door.subnets.switch());
            crowd.oracle.limits = limits;
            (0..50).for_each(|_| crowd.step(&mut random));
        }
        refused += crowd.refused;
        crowd.assert_nothing_left();
    }
    println!("{pieces} pieces, {refused} refused");
    assert!(pieces > 1_000 && refused > 1_000);
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
