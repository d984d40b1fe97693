//! Ten million addresses at the door.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::*;
use crate::limits::SubnetLimits;

const ADDRESSES: u64 = 10_000_000;
const CLIENTS: u64 = 3000;
/// How often each client comes in the minute that the flood takes.
const RETURNS: u64 = 6;
const MOST_BYTES: usize = 64 << 20;

/// One of ten million, no two of them the same nor in one /56. Half of each family.
fn stranger(n: u64) -> IpAddr {
    let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    match n % 2 {
        0 => Ipv4Addr::from_bits(mixed as u32 >> 1).into(),
        _ => Ipv6Addr::from_bits(u128::from(mixed >> 4 | 2 << 60) << 64).into(),
    }
}

/// Elsewhere than all strangers.
fn client(n: u64) -> IpAddr {
    match n % 2 {
        0 => Ipv4Addr::from_bits(0xf000_0000 + n as u32 * 7919).into(),
        _ => Ipv6Addr::from_bits(u128::from(3 << 60 | n << 20) << 64 | 1).into(),
    }
}

/// Comes and goes at once.
fn visit(subnets: &Subnets, address: IpAddr, now: Duration) -> bool {
    let passed = knock(subnets, address, now).is_ok();
    if passed {
        subnets.leave(address);
    }
    passed
}

#[derive(Default)]
struct Figures {
    strangers_passed: u64,
    clients_passed: u64,
    clients_came: u64,
    abuser_passed: u64,
    most_bytes: usize,
}

/// Strangers, clients in between, and one who knocks all the time. `clock` says when the nth comes.
fn flood(subnets: &Subnets, clock: impl Fn(u64) -> Duration, clients_knocks: u64) -> Figures {
    let mut figures = Figures::default();
    let abuser = ip("240.255.255.255");
    for n in 0..ADDRESSES {
        let now = clock(n);
        figures.strangers_passed += u64::from(visit(subnets, stranger(n), now));
        if n * clients_knocks / ADDRESSES < (n + 1) * clients_knocks / ADDRESSES {
            let client = client(figures.clients_came % CLIENTS);
            figures.clients_passed += u64::from(visit(subnets, client, now));
            figures.clients_came += 1;
        }
        if n % 1000 == 0 {
            figures.abuser_passed += u64::from(visit(subnets, abuser, now));
            figures.most_bytes = figures.most_bytes.max(subnets.memory_bytes());
        }
    }
    figures
}

fn report(name: &str, figures: &Figures) {
    println!(
        "{name}: {} of {ADDRESSES} strangers and {} of {} clients passed, the abuser {} times; \
         at most {} KiB",
        figures.strangers_passed,
        figures.clients_passed,
        figures.clients_came,
        figures.abuser_passed,
        figures.most_bytes >> 10,
    );
}

/// Everything is given back once it is paid off, but for the smallest tables.
fn subsides(subnets: &Subnets, now: Duration) {
    subnets.maintain(now);
    let left = subnets.memory_bytes();
    assert!(left < IDLE_BYTES, "{left} bytes left");
}

#[test]
fn ten_million_addresses_in_a_minute() {
    let subnets = Subnets::new(&SubnetLimits::standard());
    let clock = |n| Duration::from_micros(n * 6);
    let figures = flood(&subnets, clock, CLIENTS * RETURNS);
    report("in a minute", &figures);
    assert!(figures.most_bytes <= MOST_BYTES);
    assert_eq!(figures.clients_came, CLIENTS * RETURNS);
    assert!(figures.clients_passed * 100 >= figures.clients_came * 99);
    assert!(figures.abuser_passed <= 16 + 60 / 5);
    subsides(&subnets, seconds(60 + 16 * 5));
}

#[test]
fn ten_million_addresses_at_one_instant() {
    let subnets = Subnets::new(&SubnetLimits::standard());
    let mut figures = flood(&subnets, |_| seconds(1), CLIENTS);
    // The clients come back all the same.
    for turn in 1..=RETURNS {
        for n in 0..CLIENTS {
            figures.clients_passed += u64::from(visit(&subnets, client(n), seconds(1 + turn * 10)));
            figures.clients_came += 1;
        }
    }
    report("at one instant", &figures);
    assert!(figures.most_bytes <= MOST_BYTES);
    assert_eq!(figures.clients_came, CLIENTS * (1 + RETURNS));
    assert!(figures.clients_passed * 100 >= figures.clients_came * 99);
    assert!(figures.abuser_passed <= 16);
    subsides(&subnets, seconds(61 + 16 * 5));
}
