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
//! - *No roll-back.* An [`Entrance`] holds the lock from the check to the commit; without a commit
//!   nothing has changed.
//!
//! ```text
//!   enter ──▶ Entrance ── check ──▶ (the scopes are charged) ── commit ──▶ counted ── leave ──▶
//!                 └──────────────────── drop: nothing happened
//! ```
//!
//! The lock comes before those of the scope tree.
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
use crate::sync::{Mutex, MutexGuard};
use bits::Bits;
use family::{Family, FamilyLimits, Replaced, Visit};
use gcra::nanoseconds;
use rules::{Purpose, Room};
use sketch::{Retired, Sketch, Sweep};

/// For all rates of connections together.
const ADMISSION_BYTES: usize = 32 << 20;
/// For all rates of validation together.
const VALIDATION_BYTES: usize = 16 << 20;
/// Lines of a sketch, 128 KiB, that maintenance looks through under one lock.
const LINES_AT_ONCE: usize = 2048;

/// Whether a refusal stands, or is only counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Enforcement {
    Enforce,
    Observe,
}

/// The state behind the limits by address.
pub(crate) struct Subnets {
    /// Outside the lock, so that a hash is ready when the lock is had.
    key: KeyedHasher,
    state: Mutex<State>,
}

struct State {
    v4: Family<u32>,
    v6: Family<u128>,
    /// The latest time that was ever told. Clocks are read before the lock is had, so times may
    /// come out of order; here they do not.
    now: u64,
}

impl Subnets {
    pub(crate) fn new(limits: &SubnetLimits) -> Self {
        let state = State { v4: Family::new(), v6: Family::new(), now: 0 };
        let subnets = Self { key: KeyedHasher::random(), state: Mutex::new(state) };
        subnets.set_limits(limits, || {});
        subnets
    }

    /// Someone is at the door. The answer holds the lock. `now` is time since the governor's epoch.
    #[inline]
    pub(crate) fn enter(&self, address: IpAddr, now: Duration) -> Entrance<'_> {
        let now = nanoseconds(now);
        let address = Hashed::new(address, &self.key);
        let mut state = self.state.lock();
        let now = state.turn(now);
        let visitor = state.visit(address, &self.key);
        Entrance { state, key: &self.key, visitor, now }
    }

    /// One connection from there ended.
    #[inline]
    pub(crate) fn leave(&self, address: IpAddr) {
        let address = Hashed::new(address, &self.key);
        let mut state = self.state.lock();
        let visitor = state.visit(address, &self.key);
        state.uncount(&visitor, &self.key);
    }

    /// Replaces the limits. `along` runs in the same step. Connections beyond a new limit stay.
    pub(crate) fn set_limits(&self, limits: &SubnetLimits, along: impl FnOnce()) {
        let (v4, v6) = by_family(limits);
        let room = room_for(limits);
        let mut state = self.state.lock();
        let replaced = state.set_limits(v4, v6, room, &self.key);
        along();
        drop(state);
        drop(replaced);
    }

    /// Whether the address has to be validated before a connection from there is admitted: its
    /// prefixes are beyond half of what their rates allow. Spends of them otherwise.
    pub(crate) fn should_validate(&self, address: IpAddr, now: Duration) -> bool {
        let now = nanoseconds(now);
        let address = Hashed::new(address, &self.key);
        let mut retired = Retired::new();
        let mut state = self.state.lock();
        let now = state.turn(now);
        let visitor = state.visit(address, &self.key);
        let within = state.check_rates(&visitor, Purpose::Validation, now, &self.key).is_ok();
        if within {
            state.spend(&visitor, Purpose::Validation, now, &self.key, &mut retired);
        }
        drop(state);
        !within
    }

    /// A connection's address turns out to be another. Holds `to` against the limits, in one step
    /// with `from`, if it was counted, taken off. `along` runs in the same step, last, and may
    /// object. Answers a refusal that was only observed; after one that stands, or an objection,
    /// nothing has changed.
    pub(crate) fn rebind<E: From<Refused>>(
        &self,
        from: Option<IpAddr>,
        to: IpAddr,
        now: Duration,
        enforcement: Enforcement,
        along: impl FnOnce() -> Result<(), E>,
    ) -> Result<Option<Refused>, E> {
        let from = from.map(|from| Hashed::new(from, &self.key));
        let mut entrance = self.enter(to, now);
        let from = from.map(|from| entrance.state.visit(from, &self.key));
        if let Some(from) = &from {
            entrance.state.uncount(from, &self.key);
        }
        let refused = entrance.check().err();
        let allowed = match (refused, enforcement) {
            (Some(refused), Enforcement::Enforce) => Err(refused.into()),
            _ => along(),
        };
        match allowed {
            Ok(()) => {
                entrance.commit();
                Ok(refused)
            }
            Err(objection) => {
                // Nobody has seen it gone: the lock was held.
                if let Some(from) = &from {
                    entrance.state.count(from, &self.key);
                }
                Err(objection)
            }
        }
    }

    /// Gives back what is kept about debts that are paid off.
    pub(crate) fn maintain(&self, now: Duration) {
        let now = nanoseconds(now);
        // Limits may change between two turns of the lock; then some sketch has to wait for the
        // next time.
        for sketch in 0.. {
            loop {
                let mut retired = Retired::new();
                let mut state = self.state.lock();
                let now = state.turn(now);
                let Some(sketch) = state.sketches_mut().nth(sketch) else { return };
                let swept = sketch.maintain(now, LINES_AT_ONCE, &mut retired);
                drop(state);
                drop(retired);
                if swept == Sweep::Done {
                    break;
                }
            }
        }
    }

    /// What is allocated behind this.
    pub(crate) fn memory_bytes(&self) -> usize {
        let state = self.state.lock();
        state.v4.memory_bytes() + state.v6.memory_bytes()
    }
}

/// Someone at the door, for whom the state is locked.
#[must_use = "nothing is counted without a commit"]
pub(crate) struct Entrance<'a> {
    state: MutexGuard<'a, State>,
    key: &'a KeyedHasher,
    visitor: Visitor,
    now: u64,
}

impl Entrance<'_> {
    /// Why the connection would be refused, if it would. Changes nothing.
    #[inline]
    pub(crate) fn check(&self) -> Result<(), Refused> {
        self.state.check(&self.visitor, self.now, self.key)
    }

    /// Counts the connection, and spends one of each rate that applies and is not in excess.
    #[inline]
    pub(crate) fn commit(self) {
        let Self { mut state, key, visitor, now } = self;
        let mut retired = Retired::new();
        state.spend(&visitor, Purpose::Admission, now, key, &mut retired);
        state.count(&visitor, key);
        drop(state);
        drop(retired);
    }
}

/// An address in its canonical form, with the hash that it is found by.
enum Hashed {
    V4(u32, u64),
    V6(u128, u64),
}

impl Hashed {
    #[inline]
    fn new(address: IpAddr, key: &KeyedHasher) -> Self {
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

/// An address and what governs it.
enum Visitor {
    V4(Visit<u32>),
    V6(Visit<u128>),
}

/// Each of these asks the family that the visitor belongs to.
impl State {
    /// Time never falls.
    #[inline]
    fn turn(&mut self, now: u64) -> u64 {
        self.now = self.now.max(now);
        self.now
    }

    #[inline]
    fn visit(&self, address: Hashed, key: &KeyedHasher) -> Visitor {
        match address {
            Hashed::V4(bits, hash) => Visitor::V4(self.v4.visit(bits, hash, key)),
            Hashed::V6(bits, hash) => Visitor::V6(self.v6.visit(bits, hash, key)),
        }
    }

    #[inline]
    fn check(&self, visitor: &Visitor, now: u64, key: &KeyedHasher) -> Result<(), Refused> {
        match visitor {
            Visitor::V4(visit) => self.v4.check(visit, now, key),
            Visitor::V6(visit) => self.v6.check(visit, now, key),
        }
    }

    #[inline]
    fn check_rates(
        &self,
        visitor: &Visitor,
        purpose: Purpose,
        now: u64,
        key: &KeyedHasher,
    ) -> Result<(), Refused> {
        match visitor {
            Visitor::V4(visit) => self.v4.check_rates(visit, purpose, now, key),
            Visitor::V6(visit) => self.v6.check_rates(visit, purpose, now, key),
        }
    }

    #[inline]
    fn spend(
        &mut self,
        visitor: &Visitor,
        purpose: Purpose,
        now: u64,
        key: &KeyedHasher,
        retired: &mut Retired,
    ) {
        match visitor {
            Visitor::V4(visit) => self.v4.spend(visit, purpose, now, key, retired),
            Visitor::V6(visit) => self.v6.spend(visit, purpose, now, key, retired),
        }
    }

    #[inline]
    fn count(&mut self, visitor: &Visitor, key: &KeyedHasher) {
        match visitor {
            Visitor::V4(visit) => self.v4.count(visit, key),
            Visitor::V6(visit) => self.v6.count(visit, key),
        }
    }

    #[inline]
    fn uncount(&mut self, visitor: &Visitor, key: &KeyedHasher) {
        match visitor {
            Visitor::V4(visit) => self.v4.uncount(visit, key),
            Visitor::V6(visit) => self.v6.uncount(visit, key),
        }
    }

    fn set_limits(
        &mut self,
        v4: FamilyLimits<u32>,
        v6: FamilyLimits<u128>,
        room: Room,
        key: &KeyedHasher,
    ) -> (Replaced<u32>, Replaced<u128>) {
        let now = self.now;
        (self.v4.set_limits(v4, room, now, key), self.v6.set_limits(v6, room, now, key))
    }

    fn sketches_mut(&mut self) -> impl Iterator<Item = &mut Sketch> {
        self.v4.sketches_mut().chain(self.v6.sketches_mut())
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
