//! Ten million addresses at the door.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::*;

const HALF: u64 = 5_000_000;
const CLIENTS: u64 = 2500;
/// How often each client comes in the minute that half of the flood takes.
const RETURNS: u64 = 6;
/// An address that connects all the time.
const ABUSER: IpAddr = IpAddr::V4(Ipv4Addr::new(240, 255, 255, 255));

/// One of ten million, no two of them the same nor in one /56. Half of each family.
fn stranger(n: u64) -> IpAddr {
    let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    match n % 2 {
        0 => Ipv4Addr::from_bits(mixed as u32 >> 1).into(),
        _ => Ipv6Addr::from_bits(u128::from(mixed >> 4 | 2 << 60) << 64).into(),
    }
}

/// The nth visit of a client. They come in turn, from elsewhere than all strangers.
fn client(visit: u64) -> IpAddr {
    let n = visit % CLIENTS;
    match n % 2 {
        0 => Ipv4Addr::from_bits(0xf000_0000 + n as u32 * 7919).into(),
        _ => Ipv6Addr::from_bits(u128::from(3 << 60 | n << 20) << 64 | 1).into(),
    }
}

/// Comes and goes at once.
fn visit(door: &mut Door, address: IpAddr, now: Duration) -> bool {
    let passed = door.knock(address, now).is_ok();
    if passed {
        door.leave(address);
    }
    passed
}

#[derive(Debug, Default)]
struct Figures {
    strangers_came: u64,
    strangers_passed: u64,
    clients_came: u64,
    clients_passed: u64,
    most_bytes: usize,
}

impl Figures {
    /// The next stranger comes, and every so often a client.
    fn step(&mut self, door: &mut Door, now: Duration, strangers_for_a_client: u64) {
        let n = self.strangers_came;
        self.strangers_came += 1;
        self.strangers_passed += u64::from(visit(door, stranger(n), now));
        if n.is_multiple_of(strangers_for_a_client) {
            self.clients_passed += u64::from(visit(door, client(self.clients_came), now));
            self.clients_came += 1;
        }
        if n.is_multiple_of(1000) {
            self.most_bytes = self.most_bytes.max(door.memory_bytes());
        }
    }
}

/// The worst case: half of them come at one instant, while the sketches are small, and the others in the minute
/// after.
#[test]
fn ten_million_addresses_keep_no_client_out() {
    let mut door = Door::new(&SubnetLimits::standard());
    let mut figures = Figures::default();
    let mut abuser_passed = 0;
    for n in 0..HALF {
        figures.step(&mut door, seconds(1), HALF / CLIENTS);
        abuser_passed += u64::from(n.is_multiple_of(1000) && visit(&mut door, ABUSER, seconds(1)));
    }
    println!("at one instant: {figures:?}");
    for n in 0..HALF {
        let now = seconds(1) + Duration::from_micros(n * 12);
        figures.step(&mut door, now, HALF / CLIENTS / RETURNS);
        abuser_passed += u64::from(n.is_multiple_of(1000) && visit(&mut door, ABUSER, now));
    }
    println!("and in a minute: {figures:?}, the abuser passed {abuser_passed} times");
    assert_eq!(figures.strangers_came, 10_000_000);
    assert!(figures.clients_came >= CLIENTS * (1 + RETURNS));
    assert!(figures.clients_passed * 100 >= figures.clients_came * 99);
    assert!(abuser_passed <= 16 + 60 / 5);
    assert!(figures.most_bytes <= 64 << 20);

    // Once all is paid off everything is given back, but for the smallest tables.
    door.maintain(seconds(61 + 16 * 5));
    let left = door.memory_bytes();
    assert!(left < IDLE_BYTES, "{left} bytes left");
}
