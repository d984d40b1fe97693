//! The addresses that inbound connections come from: what [`SubnetLimits`] limit.
//!
//! Only inbound connections that have an address are counted here, and of these only the ones in the
//! ordinary scopes: what the allow list admits lies in scopes of its own, without limits by address.
//!
//! **Promises**, of the connections that are counted.
//! - *Exact counts.* No prefix is admitted a connection beyond its limit at that instant, and none
//!   is refused one within. That holds across changes of limits, since the connections of every
//!   single address are counted, and all else follows from these.
//! - *No more than its rate.* However many other addresses come by, and whatever is done to make
//!   this forget, no prefix gets more new connections than its rate.
//! - *Bounded.* What is kept about connections that are gone, their rates, never takes more than
//!   48 MiB (twice that while limits change), and nothing once they are paid off. What is kept about
//!   live ones goes with them.
//! - *No roll-back.* A checked [`Visit`] says whether one more connection may come, and has changed
//!   nothing; admitting it is a step of its own, which cannot fail once there is
//!   [room](Subnets::reserve).
//! - *Short.* No call takes long, however many connections and addresses there are: a change of
//!   limits is made in many calls.
//!
//! ```text
//!   Visit ──▶ check ──▶ reserve ──▶ (the scopes are charged) ──▶ admit ──▶ counted ──▶ leave
//!               └──────────┴── dropped: nothing has changed
//! ```
//!
//! All of this lies under the scope tree's lock, so that an admission, and a move from one address
//! to another, is one step with what happens to the scopes.
//!
//! **The bound.** Rates are kept in sketches, two for each length of prefix that has a rate: 32 MiB
//! are divided among those of connections, 16 MiB among those of validation. With the standard
//! limits these are three lengths, so 10.7 MiB and 5.3 MiB each. Of a sketch's share 6/7 are its
//! largest generation, 1.2 million cells here, and the smaller ones fit in the rest. As each new
//! connection of an IPv4 address occupies up to three cells for five seconds, that is enough for
//! 80,000 new addresses a second before any other looks busier than it is, and even then the burst
//! absorbs the difference.

mod bits;
mod change;
mod family;
mod gcra;
mod live;
mod networks;
mod rules;
mod sketch;
#[cfg(test)]
mod tests;

use std::alloc::{Layout, handle_alloc_error};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::error::Refused;
use crate::keyed::KeyedHasher;
use crate::limits::{PrefixLimits, SubnetLimits};
use bits::Bits;
use family::Family;
pub(crate) use family::Visit;
use gcra::nanoseconds;
use rules::{FamilyLimits, Room, RuleSet};
pub(crate) use sketch::Retired;

/// For all rates of connections together.
const ADMISSION_BYTES: usize = 32 << 20;
/// For all rates of validation together.
const VALIDATION_BYTES: usize = 16 << 20;
/// Lines of a sketch, 128 KiB, that maintenance looks through under one lock.
const LINES_AT_ONCE: usize = 2048;

/// The state behind the limits by address.
pub(crate) struct Subnets {
    v4: Family<u32>,
    v6: Family<u128>,
    /// The latest time that any call has named. Threads read the clock before they have the lock,
    /// so times may come out of order; here they never fall.
    now: u64,
}

/// An address in its canonical form, with the hash that it is found by. Made before the lock.
#[derive(Clone, Copy)]
pub(crate) enum Address {
    V4(u32, u64),
    V6(u128, u64),
}

/// Limits that are to be put in force, in steps: [`begin`](Subnets::begin), [`go_on`](Subnets::go_on)
/// until that is done, each time with the lock let go in between, and [`switch`](Subnets::switch).
#[must_use = "a change does nothing until it is begun"]
pub(crate) struct Change {
    v4: Box<change::Change<u32>>,
    v6: Box<change::Change<u128>>,
}

/// What a change of limits left over, to be dropped once no lock is held.
pub(crate) struct Replaced {
    _v4: Option<Box<change::Change<u32>>>,
    _v6: Option<Box<change::Change<u128>>>,
}

/// How far something is that is done in pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Going,
    Done,
}

/// There was no memory for so many bytes.
#[derive(Clone, Copy, Debug)]
struct OutOfMemory {
    bytes: usize,
}

impl OutOfMemory {
    /// For what has no caller that could be refused.
    fn abort(self) -> ! {
        let layout = Layout::from_size_align(self.bytes, 1);
        handle_alloc_error(layout.unwrap_or(Layout::new::<u8>()))
    }
}

impl Address {
    #[inline]
    pub(crate) fn new(address: IpAddr, key: &KeyedHasher) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let bits = address.to_bits();
                Self::V4(bits, bits.hash(u32::LENGTH, key))
            }
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                Self::V6(bits, bits.hash(u128::LENGTH, key))
            }
        }
    }
}

impl Change {
    /// Compiles limits. Needs no lock; so does dropping what [`Subnets::switch`] returns.
    pub(crate) fn new(limits: &SubnetLimits, key: KeyedHasher) -> Self {
        let (v4, v6) = by_family(limits);
        let room = room_for(limits);
        Self {
            v4: Box::new(change::Change::new(RuleSet::new(v4, room, key))),
            v6: Box::new(change::Change::new(RuleSet::new(v6, room, key))),
        }
    }
}

impl Subnets {
    pub(crate) fn new(limits: &SubnetLimits, key: KeyedHasher) -> Self {
        let Change { v4, v6 } = Change::new(limits, key);
        Self {
            v4: Family::new(v4.into_rules(), key),
            v6: Family::new(v6.into_rules(), key),
            now: 0,
        }
    }

    /// Checks one more connection against the limits. `now` is time since the governor's epoch.
    #[inline]
    pub(crate) fn check(&mut self, visit: &mut Visit, now: Duration) {
        let now = self.turn(now);
        match visit.address {
            Some(Address::V4(bits, hash)) => self.v4.check(bits, hash, visit, now),
            Some(Address::V6(bits, hash)) => self.v6.check(bits, hash, visit, now),
            None => {}
        }
    }

    /// Makes room for what [`admit`](Self::admit) writes: nothing is allocated there. If there is no
    /// memory, nothing that counts has changed.
    #[inline]
    pub(crate) fn reserve(&mut self, visit: &Visit) -> Result<(), Refused> {
        let room = match visit.address {
            Some(Address::V4(bits, hash)) => self.v4.reserve(bits, hash, visit),
            Some(Address::V6(bits, hash)) => self.v6.reserve(bits, hash, visit),
            None => Ok(()),
        };
        room.map_err(|error| self.out_of_memory(error))
    }

    #[cold]
    fn out_of_memory(&self, OutOfMemory { bytes }: OutOfMemory) -> Refused {
        Refused::out_of_memory(self.memory_bytes() as u64, bytes as u64)
    }

    /// Counts the connection, and spends one of each rate that applies and is not in excess. There
    /// must be [room](Self::reserve).
    #[inline]
    pub(crate) fn admit(&mut self, visit: &Visit) -> Retired {
        match visit.address {
            Some(Address::V4(bits, hash)) => self.v4.commit(bits, hash, visit),
            Some(Address::V6(bits, hash)) => self.v6.commit(bits, hash, visit),
            None => Retired::new(),
        }
    }

    /// One connection from there ended.
    #[inline]
    pub(crate) fn leave(&mut self, address: Address) {
        match address {
            Address::V4(bits, hash) => self.v4.leave(bits, hash),
            Address::V6(bits, hash) => self.v6.leave(bits, hash),
        }
    }

    /// Whether the address has to be validated before a connection from there is admitted: its
    /// prefixes are beyond half of what their rates allow, or there is no memory to know. Spends of
    /// them otherwise.
    pub(crate) fn should_validate(&mut self, address: Address, now: Duration) -> (bool, Retired) {
        let mut visit = Visit::for_validation(address);
        self.check(&mut visit, now);
        if visit.refused().is_some() || self.reserve(&visit).is_err() {
            return (true, Retired::new());
        }
        (false, self.admit(&visit))
    }

    /// Begins to put other limits in force. Until the [switch](Self::switch) the old ones hold. The
    /// caller makes one change after the other.
    pub(crate) fn begin(&mut self, change: Change) {
        self.v4.begin(change.v4, self.now);
        self.v6.begin(change.v6, self.now);
    }

    /// Prepares the change a little further, in another turn of the lock each time. Aborts the
    /// process where there is no memory for the new limits' tables.
    pub(crate) fn go_on(&mut self) -> Progress {
        match self.v4.go_on(self.now) {
            Progress::Going => Progress::Going,
            Progress::Done => self.v6.go_on(self.now),
        }
    }

    /// Puts the new limits in force, once they are [prepared](Self::go_on). Connections beyond a new
    /// limit stay.
    pub(crate) fn switch(&mut self) -> Replaced {
        Replaced { _v4: self.v4.switch(), _v6: self.v6.switch() }
    }

    /// Looks through a part of what is kept about rates, and gives back what is paid off. `sketch`
    /// is where to go on, from zero; returns where to go on next, in another turn of the lock. If
    /// limits change in between, some sketch has to wait for the next time.
    pub(crate) fn maintain(&mut self, sketch: usize, now: Duration) -> (Option<usize>, Retired) {
        let now = self.turn(now);
        let mut retired = Retired::new();
        let mut sketches = self.v4.sketches_mut().chain(self.v6.sketches_mut());
        let next = sketches.nth(sketch).map(|some| {
            match some.maintain(now, LINES_AT_ONCE, &mut retired) {
                Progress::Going => sketch,
                Progress::Done => sketch + 1,
            }
        });
        (next, retired)
    }

    /// What is allocated behind this.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.v4.memory_bytes() + self.v6.memory_bytes()
    }

    /// Time never falls.
    #[inline]
    fn turn(&mut self, now: Duration) -> u64 {
        self.now = self.now.max(nanoseconds(now));
        self.now
    }
}

/// The share of each sketch.
fn room_for(limits: &SubnetLimits) -> Room {
    let lengths = limits.ipv4.values().chain(limits.ipv6.values());
    let rates = lengths.filter(|limits| limits.rate.is_some()).count().max(1);
    Room { admission: ADMISSION_BYTES / rates, validation: VALIDATION_BYTES / rates }
}

fn by_family(limits: &SubnetLimits) -> (FamilyLimits<u32>, FamilyLimits<u128>) {
    let mut v4 = FamilyLimits { lengths: lengths::<u32>(&limits.ipv4), networks: Vec::new() };
    let mut v6 = FamilyLimits { lengths: lengths::<u128>(&limits.ipv6), networks: Vec::new() };
    for (network, limits) in &limits.networks {
        let network = network.trunc();
        let (address, length) = (network.addr(), network.prefix_len());
        match (network, address.to_canonical()) {
            (IpNet::V4(_), IpAddr::V4(address)) => {
                v4.networks.push((address.to_bits(), length, *limits));
            }
            // A network of IPv4 addresses in IPv6 form is one of IPv4 addresses, as these are.
            (IpNet::V6(_), IpAddr::V4(address)) if length >= 96 => {
                v4.networks.push((address.to_bits(), length - 96, *limits));
            }
            (IpNet::V6(network), _) => {
                v6.networks.push((network.addr().to_bits(), length, *limits));
            }
            (IpNet::V4(_), IpAddr::V6(_)) => unreachable!("IPv4 is canonical"),
        }
    }
    (v4, v6)
}

/// The rules of one family. A length that its addresses do not have never comes here: limits are
/// validated before.
fn lengths<B: Bits>(
    limits: &std::collections::BTreeMap<u8, PrefixLimits>,
) -> Vec<(u8, PrefixLimits)> {
    limits.range(..=B::LENGTH).map(|(length, limits)| (*length, *limits)).collect()
}
