//! How long each turn of the lock in a change of limits takes. Prints, and judges nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use super::*;

/// The longest of some steps: in time that the thread ran, and by the clock on the wall.
#[derive(Default)]
struct Longest {
    steps: u64,
    ran: Duration,
    passed: Duration,
    total: Duration,
}

impl Longest {
    fn time<T>(&mut self, step: impl FnOnce() -> T) -> T {
        let (start, began) = (ran(), Instant::now());
        let done = step();
        let (ran, passed) = (ran() - start, began.elapsed());
        self.steps += 1;
        self.total += passed;
        self.ran = self.ran.max(ran);
        self.passed = self.passed.max(passed);
        done
    }
}

/// How long this thread has run.
#[cfg(unix)]
fn ran() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(not(unix))]
fn ran() -> Duration {
    Duration::ZERO
}

/// The nth address. Half of each family, no two in one prefix of the standard limits.
fn address(n: u32) -> IpAddr {
    match n % 2 {
        0 => Ipv4Addr::from_bits(n.wrapping_mul(0x9e37_79b1)).into(),
        _ => Ipv6Addr::from_bits(u128::from(n | 1 << 29) << 75).into(),
    }
}

#[test]
fn longest_turn_of_the_lock_in_a_change() {
    let standard = SubnetLimits::standard();
    let longer = standard.clone().ipv4(24, at_once(64)).ipv4(16, every(seconds(1), 9));
    let longer = longer.ipv6(40, at_once(1000)).ipv6(64, at_once(3));
    let mut blocked = SubnetLimits::standard();
    for n in 0..100_000 {
        let network = ipnet::IpNet::new_assert(Ipv4Addr::from_bits(n << 8).into(), 24);
        blocked = blocked.network(network, every(seconds(1), 5).connections(5));
    }
    let other_rate =
        standard.clone().ipv4(32, every(seconds(6), 15)).ipv6(56, every(seconds(6), 9));
    for addresses in [100_000, 1_000_000] {
        let mut door = Door::new(&standard);
        let mut joins = Longest::default();
        for n in 0..addresses {
            let visit = door.visit(address(n), seconds(1));
            assert_eq!(visit.refused(), None);
            joins.time(|| door.admit(&visit));
        }
        println!(
            "{addresses} addresses: the longest join took {:?} of {:?}",
            joins.ran, joins.passed
        );
        let changes = [
            ("other prefixes", &longer),
            ("the standard", &standard),
            ("100,000 networks", &blocked),
            ("other limits of as many networks", &blocked),
            ("other rates", &other_rate),
            ("none", &SubnetLimits::unlimited()),
        ];
        for (name, limits) in changes {
            let change = Change::new(limits, door.key);
            let mut turns = Longest::default();
            turns.time(|| door.subnets.begin(change));
            while turns.time(|| door.subnets.go_on()) == Progress::Going {}
            let replaced = turns.time(|| door.subnets.switch());
            let mut after = Longest::default();
            after.time(|| drop(replaced));
            let Longest { steps, ran, passed, total } = turns;
            println!(
                "  {name}: {steps} turns in {total:.1?}, the longest {ran:?}, {passed:?} by the \
                 clock; after the lock {:?}",
                after.passed
            );
        }
        let mut leaves = Longest::default();
        for n in 0..addresses {
            leaves.time(|| door.leave(address(n)));
        }
        println!("  the longest leave took {:?} of {:?}", leaves.ran, leaves.passed);
    }
}
