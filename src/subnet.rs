//! Where inbound connections come from, and how many: what [`SubnetLimits`] are held against.
//!
//! **Promises.**
//! - *Exact counts.* No prefix has more connections than its limit at that instant allows, and none
//!   is refused one that it allows. That holds across changes of limits, since the connections of
//!   every single address are counted, and all else follows from these.
//! - *No more than its rate.* However many other addresses come by, and whatever is done to make
//!   this forget, no prefix gets more new connections than its rate.
//! - *Bounded.* What is kept about connections that are gone, their rates, never takes more than
//!   48 MiB, and nothing once they are paid off. What is kept about live ones goes with them.
//! - *No roll-back.* A [`Visit`] says whether one more may come, and changes nothing; admitting it
//!   is a step of its own.
//!
//! ```text
//!   visit ──▶ Visit ── (the scopes are charged) ──▶ admit ──▶ counted ── leave ──▶
//!               └────── dropped: nothing happened
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
mod family;
mod gcra;
mod live;
mod rules;
mod sketch;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::error::Refused;
use crate::keyed::KeyedHasher;
use crate::limits::{PrefixLimits, SubnetLimits};
use bits::Bits;
use family::{Family, FamilyLimits};
use gcra::nanoseconds;
use rules::{Purpose, Room};
pub(crate) use sketch::Retired;
use sketch::Sweep;

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
    /// The latest time that was ever told. Clocks are read before the lock is had, so times may
    /// come out of order; here they do not.
    now: u64,
}

/// An address in its canonical form, with the hash that it is found by. Made before the lock.
#[derive(Clone, Copy)]
pub(crate) enum Address {
    V4(u32, u64),
    V6(u128, u64),
}

/// Someone at the door, held against the limits. Good for as long as the lock is held and nobody
/// else is admitted.
#[must_use = "nobody is counted before it is admitted"]
pub(crate) enum Visit {
    V4(family::Visit<u32>),
    V6(family::Visit<u128>),
}

/// What a change of limits left over, to be dropped once no lock is held.
pub(crate) struct Replaced {
    _v4: family::Replaced<u32>,
    _v6: family::Replaced<u128>,
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

impl Visit {
    /// Why the connection would be refused, if it would.
    #[inline]
    pub(crate) fn refused(&self) -> Option<&Refused> {
        match self {
            Self::V4(visit) => visit.refused(),
            Self::V6(visit) => visit.refused(),
        }
    }
}

impl Subnets {
    pub(crate) fn new(limits: &SubnetLimits, key: KeyedHasher) -> Self {
        let mut subnets = Self { v4: Family::new(key), v6: Family::new(key), now: 0 };
        drop(subnets.set_limits(limits));
        subnets
    }

    /// Holds one more connection from there against the limits. `now` is time since the governor's
    /// epoch.
    #[inline]
    pub(crate) fn visit(&mut self, address: Address, now: Duration) -> Visit {
        self.visit_for(Purpose::Admission, address, now)
    }

    #[inline]
    fn visit_for(&mut self, purpose: Purpose, address: Address, now: Duration) -> Visit {
        let now = self.turn(now);
        match address {
            Address::V4(bits, hash) => Visit::V4(self.v4.visit(bits, hash, purpose, now)),
            Address::V6(bits, hash) => Visit::V6(self.v6.visit(bits, hash, purpose, now)),
        }
    }

    /// Counts the connection, and spends one of each rate that applies and is not in excess.
    #[inline]
    pub(crate) fn admit(&mut self, visit: &Visit) -> Retired {
        match visit {
            Visit::V4(visit) => self.v4.admit(visit),
            Visit::V6(visit) => self.v6.admit(visit),
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

    /// Takes a [`leave`](Self::leave) back in the step in which it was made.
    pub(crate) fn stay(&mut self, address: Address) {
        match address {
            Address::V4(bits, hash) => self.v4.stay(bits, hash),
            Address::V6(bits, hash) => self.v6.stay(bits, hash),
        }
    }

    /// Whether the address has to be validated before a connection from there is admitted: its
    /// prefixes are beyond half of what their rates allow. Spends of them otherwise.
    pub(crate) fn should_validate(&mut self, address: Address, now: Duration) -> (bool, Retired) {
        let visit = self.visit_for(Purpose::Validation, address, now);
        if visit.refused().is_some() {
            return (true, Retired::new());
        }
        let retired = match &visit {
            Visit::V4(visit) => self.v4.spend(visit),
            Visit::V6(visit) => self.v6.spend(visit),
        };
        (false, retired)
    }

    /// Replaces the limits. Connections beyond a new limit stay.
    pub(crate) fn set_limits(&mut self, limits: &SubnetLimits) -> Replaced {
        let (v4, v6) = by_family(limits);
        let (room, now) = (room_for(limits), self.now);
        Replaced { _v4: self.v4.set_limits(v4, room, now), _v6: self.v6.set_limits(v6, room, now) }
    }

    /// Looks through a part of what is kept about rates, and gives back what is paid off. `sketch`
    /// is where to go on, from zero; the answer is where to go on next, in another turn of the lock.
    /// If limits change in between, some sketch has to wait for the next time.
    pub(crate) fn maintain(&mut self, sketch: usize, now: Duration) -> (Option<usize>, Retired) {
        let now = self.turn(now);
        let mut retired = Retired::new();
        let mut sketches = self.v4.sketches_mut().chain(self.v6.sketches_mut());
        let next = sketches.nth(sketch).map(|some| {
            match some.maintain(now, LINES_AT_ONCE, &mut retired) {
                Sweep::Going => sketch,
                Sweep::Done => sketch + 1,
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

/// The rules of one family. What has no length that its addresses have is refused where limits are
/// validated.
fn lengths<B: Bits>(
    limits: &std::collections::BTreeMap<u8, PrefixLimits>,
) -> Vec<(u8, PrefixLimits)> {
    limits.range(..=B::LENGTH).map(|(length, limits)| (*length, *limits)).collect()
}
