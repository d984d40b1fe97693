//! The limits of one family of addresses, compiled for use, with what they have counted.
//!
//! An address is governed either by the longest network that it lies in, as a whole, or by every
//! rule for a length of prefix. A length with neither a limit nor a rate has no rule, and costs
//! nothing; but a network without limits still keeps the rules off its addresses.

use std::num::NonZeroU64;

use super::OutOfMemory;
use super::bits::Bits;
use super::gcra::Pace;
use super::live::Counts;
use super::networks::{Network, Networks};
use super::sketch::Sketch;
use crate::error::Refused;
use crate::keyed::KeyedHasher;
use crate::limit::Limit;
use crate::limits::{PrefixLimits, Rate};

/// The limits of one family, as they were configured.
pub(super) struct FamilyLimits<B> {
    pub(super) lengths: Vec<(u8, PrefixLimits)>,
    pub(super) networks: Vec<(B, u8, PrefixLimits)>,
}

/// How many bytes each sketch of a purpose may take.
#[derive(Clone, Copy)]
pub(super) struct Room {
    pub(super) admission: usize,
    pub(super) validation: usize,
}

/// All limits of one family.
pub(super) struct RuleSet<B: Bits> {
    key: KeyedHasher,
    pub(super) networks: Networks<B>,
    /// The longest prefix first.
    pub(super) rules: Vec<Rule<B>>,
}

impl<B: Bits> RuleSet<B> {
    /// Limits that have counted nothing yet.
    pub(super) fn new(limits: FamilyLimits<B>, room: Room, key: KeyedHasher) -> Self {
        let FamilyLimits { lengths, networks } = limits;
        let networks = networks.into_iter();
        let networks =
            networks.map(|(prefix, length, limits)| Network::new(prefix, length, limits));
        let rules = lengths.into_iter();
        let rules = rules.filter_map(|(length, limits)| Rule::new(length, limits, room, key));
        let mut rules: Vec<_> = rules.collect();
        rules.sort_by_key(|rule| B::LENGTH - rule.length);
        Self { key, networks: Networks::new(networks.collect()), rules }
    }

    pub(super) fn rule(&self, length: u8) -> Option<&Rule<B>> {
        self.rules.iter().find(|rule| rule.length == length)
    }

    pub(super) fn rule_mut(&mut self, length: u8) -> Option<&mut Rule<B>> {
        self.rules.iter_mut().find(|rule| rule.length == length)
    }

    /// The hash of an address's prefix, given the hash of the address.
    #[inline]
    pub(super) fn hash_of(&self, address: B, hash: u64, length: u8) -> u64 {
        match length == B::LENGTH {
            true => hash,
            false => address.prefix(length).hash(length, &self.key),
        }
    }

    /// Makes room to count one more connection from an address.
    pub(super) fn reserve(&mut self, address: B) -> Result<(), OutOfMemory> {
        let mut room = Ok(());
        self.each_count(
            address,
            |_| (),
            |counts, _, hash| {
                if room.is_ok() {
                    room = counts.reserve(hash);
                }
            },
        );
        room
    }

    /// Counts `more` connections from an address.
    pub(super) fn add(&mut self, address: B, more: u32) {
        self.each_count(
            address,
            |count| *count += more,
            |counts, prefix, hash| counts.add(prefix, hash, more),
        );
    }

    /// Counts one connection less from an address.
    #[inline]
    pub(super) fn remove(&mut self, address: B) {
        self.each_count(address, |count| *count -= 1, Counts::remove);
    }

    /// Visits what counts an address: its network, or else each table of prefixes, with the
    /// address's prefix and the hash of that.
    #[inline]
    fn each_count(
        &mut self,
        address: B,
        of_network: impl FnOnce(&mut u32),
        mut of_prefix: impl FnMut(&mut Counts<B>, B, u64),
    ) {
        if let Some(index) = self.networks.find(address) {
            self.networks.counts.get_mut(index).map(of_network);
            return;
        }
        for rule in &mut self.rules {
            if let Some(counts) = &mut rule.counts {
                let prefix = address.prefix(rule.length);
                of_prefix(counts, prefix, prefix.hash(rule.length, &self.key));
            }
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.networks.memory_bytes()
            + self.rules.capacity() * size_of::<Rule<B>>()
            + self.rules.iter().map(Rule::memory_bytes).sum::<usize>()
    }
}

/// The limits of every prefix of one length.
pub(super) struct Rule<B: Bits> {
    pub(super) length: u8,
    pub(super) limit: Limit,
    pub(super) rates: Option<Meters<Sketch>>,
    /// Where connections are limited, unless the prefix is the whole address, which is counted
    /// anyway.
    pub(super) counts: Option<Counts<B>>,
}

impl<B: Bits> Rule<B> {
    /// `None` if nothing is limited.
    fn new(length: u8, limits: PrefixLimits, room: Room, key: KeyedHasher) -> Option<Self> {
        let PrefixLimits { connections: limit, rate } = limits;
        if limit == Limit::Unlimited && rate.is_none() {
            return None;
        }
        let sketches = || [room.admission, room.validation].map(Sketch::new);
        let rates = rate.map(|rate| Meters::new(rate, sketches()));
        let mut rule = Self { length, limit, rates, counts: None };
        rule.counts = rule.counts_prefixes().then(|| Counts::new(length, key));
        Some(rule)
    }

    pub(super) fn counts_prefixes(&self) -> bool {
        self.limit != Limit::Unlimited && self.length < B::LENGTH
    }

    fn memory_bytes(&self) -> usize {
        let counts = self.counts.as_ref().map_or(0, Counts::memory_bytes);
        let sketches = self.rates.iter().flat_map(Meters::both);
        counts + sketches.map(|meter| meter.spent.memory_bytes()).sum::<usize>()
    }
}

/// The arrival time after one more; `None` where there is no rate, or it is in excess.
pub(super) type Spent = Option<NonZeroU64>;

/// A rate and what was spent of it: by one network, or by every prefix of a length.
pub(super) struct Meter<S> {
    pub(super) pace: Pace,
    pub(super) spent: S,
}

/// The two rates of a rule: of connections, and of those that are taken without validation.
pub(super) struct Meters<S> {
    pub(super) admission: Meter<S>,
    pub(super) validation: Meter<S>,
}

/// What a rate is spent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Admission,
    Validation,
}

impl Purpose {
    pub(super) const BOTH: [Self; 2] = [Self::Admission, Self::Validation];
}

impl<S> Meters<S> {
    pub(super) fn new(rate: Rate, [admission, validation]: [S; 2]) -> Self {
        Self {
            admission: Meter { pace: Pace::new(rate), spent: admission },
            validation: Meter { pace: Pace::of_validation(rate), spent: validation },
        }
    }

    #[inline]
    pub(super) fn of(&self, purpose: Purpose) -> &Meter<S> {
        match purpose {
            Purpose::Admission => &self.admission,
            Purpose::Validation => &self.validation,
        }
    }

    #[inline]
    pub(super) fn of_mut(&mut self, purpose: Purpose) -> &mut Meter<S> {
        match purpose {
            Purpose::Admission => &mut self.admission,
            Purpose::Validation => &mut self.validation,
        }
    }

    pub(super) fn both(&self) -> [&Meter<S>; 2] {
        [&self.admission, &self.validation]
    }

    pub(super) fn both_mut(&mut self) -> [&mut Meter<S>; 2] {
        [&mut self.admission, &mut self.validation]
    }
}

impl<S> Meter<S> {
    /// What the arrival time becomes with one more. If that is too soon, `refused` says so, unless
    /// it says something already.
    #[inline]
    pub(super) fn spend(
        &self,
        length: u8,
        arrival: u64,
        now: u64,
        refused: &mut Option<Refused>,
    ) -> Spent {
        match self.pace.spend(arrival, now) {
            Ok(arrival) => NonZeroU64::new(arrival),
            Err(wait) => {
                let burst = self.pace.rate().burst_size().get();
                refused.get_or_insert_with(|| Refused::by_rate(length, burst, wait));
                None
            }
        }
    }
}

/// Checks that a limit leaves room for one more. If not, `refused` says so, unless it says something
/// already.
#[inline]
pub(super) fn check_room(length: u8, limit: Limit, count: u32, refused: &mut Option<Refused>) {
    if !limit.admits(count.into(), 1) {
        refused.get_or_insert_with(|| Refused::by_subnet(length, limit, count.into()));
    }
}
