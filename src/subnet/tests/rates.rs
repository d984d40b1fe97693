//! No prefix gets more than its rate, and each gets what is left of it.

use super::*;
use crate::error::Reason;

/// How many of a hundred knocks at one instant pass, each leaving at once.
fn passing(door: &mut Door, address: IpAddr, now: Duration) -> usize {
    let pass = |_: &usize| {
        let passed = door.knock(address, now).is_ok();
        if passed {
            door.leave(address);
        }
        passed
    };
    (0..100).filter(pass).count()
}

#[test]
fn a_burst_and_then_one_in_an_interval() {
    let network = "10.0.0.0/8".parse().expect("a network");
    let limits = SubnetLimits::unlimited()
        .ipv4(32, every(seconds(5), 16))
        .ipv6(56, every(seconds(5), 16))
        .network(network, every(seconds(5), 16));
    let mut door = Door::new(&limits);
    for (hour, address) in [ip("192.0.2.1"), ip("2001:db8::1"), ip("10.0.0.1")].iter().enumerate() {
        let (address, seconds) = (*address, |after| seconds(hour as u64 * 3600 + after));
        assert_eq!(passing(&mut door, address, seconds(100)), 16);
        let refused = door.knock(address, seconds(103)).expect_err("too soon");
        assert_eq!((refused.reason(), refused.in_use()), (Reason::Rate, 16));
        assert_eq!(refused.retry_after(), Some(Duration::from_secs(2)));
        assert_eq!(passing(&mut door, address, seconds(105)), 1);
        assert_eq!(passing(&mut door, address, seconds(126)), 4);
        assert_eq!(passing(&mut door, address, seconds(1000)), 16);
    }
    // A neighbour in the network has none of its own; one outside has.
    assert_eq!(passing(&mut door, ip("10.9.9.9"), seconds(8200)), 0);
    assert_eq!(passing(&mut door, ip("192.0.2.2"), seconds(8200)), 16);
}

#[test]
fn times_out_of_order_win_nothing() {
    let limits = SubnetLimits::unlimited().ipv4(32, every(seconds(5), 1));
    let mut door = Door::new(&limits);
    assert_eq!(passing(&mut door, ip("192.0.2.1"), seconds(100)), 1);
    for _ in 0..1000 {
        let _ = door.knock(ip("192.0.2.2"), seconds(200));
    }
    // By now its debt is swept away. A clock that was read before that, by someone who had to wait
    // for the lock, is behind; what it is charged must not be.
    assert_eq!(passing(&mut door, ip("192.0.2.1"), seconds(101)), 1);
    assert_eq!(passing(&mut door, ip("192.0.2.1"), seconds(150)), 0);
    assert_eq!(passing(&mut door, ip("192.0.2.1"), seconds(204)), 0);
    assert_eq!(passing(&mut door, ip("192.0.2.1"), seconds(205)), 1);
}

#[test]
fn what_is_observed_is_counted_and_sets_no_rate_back() {
    let limits = SubnetLimits::unlimited().ipv4(32, every(seconds(5), 2).connections(1));
    let mut door = Door::new(&limits);
    let address = ip("192.0.2.1");
    for _ in 0..100 {
        let visit = door.visit(address, seconds(0));
        drop(door.subnets.admit(&visit));
    }
    let refused = door.knock(address, seconds(0)).expect_err("a hundred are there");
    assert_eq!(refused.in_use(), 100);
    for _ in 0..100 {
        door.leave(address);
    }
    // Two tokens were spent, not a hundred.
    assert_eq!(passing(&mut door, address, seconds(10)), 2);
}

#[test]
fn a_rebind_spends_at_the_new_address() {
    let limits = SubnetLimits::unlimited().ipv4(32, every(seconds(5), 1));
    let mut door = Door::new(&limits);
    let [proxy, client] = [ip("10.0.0.1"), ip("192.0.2.1")];
    assert_eq!(door.knock(proxy, seconds(0)), Ok(()));
    assert_eq!(door.rebind(Some(proxy), client, seconds(0), true), Ok(None));
    let refused = door.rebind(None, client, seconds(1), true).expect_err("too soon");
    assert_eq!(refused.retry_after(), Some(seconds(4)));
    let observed = door.rebind(None, client, seconds(1), false);
    assert_eq!(observed.expect("only observed"), Some(refused));
    assert_eq!(door.rebind(None, client, seconds(5), true), Ok(None));
    for _ in 0..3 {
        door.leave(client);
    }
}

#[test]
fn validation_begins_at_half_the_burst_and_spends_nothing_of_admission() {
    let limits = SubnetLimits::unlimited().ipv6(56, every(seconds(5), 16));
    let mut door = Door::new(&limits);
    let address = ip("2001:db8::1");
    let without = (0..100).filter(|_| !door.should_validate(address, seconds(0))).count();
    assert_eq!(without, 8);
    assert!(door.should_validate(address, seconds(4)));
    assert!(!door.should_validate(address, seconds(5)));
    assert_eq!(passing(&mut door, address, seconds(5)), 16);
    assert!(!door.should_validate(ip("192.0.2.1"), seconds(5)), "no rate applies");
}

#[test]
fn a_change_of_limits_forgets_no_debt_and_makes_none() {
    let slow = |burst| SubnetLimits::unlimited().ipv4(32, every(seconds(1_000_000), burst));
    let network = "192.0.2.0/24".parse().expect("a network");
    let address = ip("192.0.2.1");
    let mut door = Door::new(&slow(4));
    assert_eq!(passing(&mut door, address, seconds(10)), 4);
    // The same rate with other rules beside it.
    for length in 0..32 {
        door.set_limits(&slow(4).ipv4(length, every(seconds(1), 1000)));
        assert_eq!(passing(&mut door, address, seconds(10)), 0);
    }
    // A faster rate is at most a burst away, not a million seconds.
    door.set_limits(&SubnetLimits::unlimited().ipv4(32, every(seconds(1), 4)));
    assert_eq!(passing(&mut door, address, seconds(10)), 0);
    assert_eq!(passing(&mut door, address, seconds(12)), 2);
    assert_eq!(passing(&mut door, address, seconds(100)), 4);
    // A network is another thing than its addresses.
    door.set_limits(&slow(4).network(network, every(seconds(1_000_000), 2)));
    assert_eq!(passing(&mut door, address, seconds(100)), 2);
    door.set_limits(&slow(4).network(network, every(seconds(1), 2)));
    assert_eq!(passing(&mut door, address, seconds(101)), 1);
}

#[test]
fn every_length_at_once_with_rates_beyond_reason() {
    let mut limits = SubnetLimits::unlimited();
    for length in 0..=32 {
        limits = limits.ipv4(length, every(Duration::MAX, u32::MAX));
    }
    for length in 0..=128 {
        limits = limits.ipv6(length, every(Duration::ZERO, u32::MAX).connections(u64::MAX));
    }
    let mut door = Door::new(&limits);
    for address in [ip("192.0.2.1"), ip("2001:db8::1")] {
        for now in [Duration::ZERO, seconds(1), Duration::MAX] {
            assert_eq!(door.knock(address, now), Ok(()));
            assert!(!door.should_validate(address, now));
            door.leave(address);
        }
    }
    door.maintain(Duration::MAX);
}
