//! All that is known of the addresses of one family.
//!
//! **Promise.** The count of every single address that has connections is kept, whatever the limits
//! are. All other counts follow from these, so limits can change at any time and no connection is
//! counted wrongly after.

use super::bits::Bits;
use super::live::Counts;
use super::rules::{Network, Networks, Purpose, Room, Rule, room};
use super::sketch::{Retired, Sketch};
use crate::error::Refused;
use crate::keyed::KeyedHasher;
use crate::limits::PrefixLimits;

/// Hashes that are kept from a check to its commit. Whoever has more rules pays for them twice.
const HASHES_KEPT: usize = 4;

pub(super) struct Family<B: Bits> {
    /// Connections of each single address.
    live: Counts<B>,
    networks: Networks<B>,
    /// The longest prefix first.
    rules: Vec<Rule<B>>,
}

/// An address, and what governs it while the state stays locked.
pub(super) struct Visit<B> {
    address: B,
    hash: u64,
    governed: Governed,
}

enum Governed {
    /// By one network, found by its index.
    Network(usize),
    /// By every rule; these are the hashes of the first prefixes.
    Rules([u64; HASHES_KEPT]),
}

/// The limits of one family, as they were configured.
pub(super) struct FamilyLimits<B> {
    pub(super) lengths: Vec<(u8, PrefixLimits)>,
    pub(super) networks: Vec<(B, u8, PrefixLimits)>,
}

/// What a change of limits left over, to be dropped once no lock is held.
pub(super) struct Replaced<B: Bits> {
    _rules: Vec<Rule<B>>,
    _networks: Networks<B>,
    _sketches: Retired,
}

impl<B: Bits> Family<B> {
    pub(super) fn new() -> Self {
        Self {
            live: Counts::new(B::LENGTH),
            networks: Networks::new(Vec::new()),
            rules: Vec::new(),
        }
    }

    /// Finds what governs an address, whose hash is known already.
    #[inline]
    pub(super) fn visit(&self, address: B, hash: u64, key: &KeyedHasher) -> Visit<B> {
        let governed = match self.networks.find(address) {
            Some(network) => Governed::Network(network),
            None => {
                let mut hashes = [0; HASHES_KEPT];
                for (kept, rule) in hashes.iter_mut().zip(&self.rules) {
                    *kept = hash_of(address, hash, rule.length, key);
                }
                Governed::Rules(hashes)
            }
        };
        Visit { address, hash, governed }
    }

    /// Why one more connection would be refused.
    #[inline]
    pub(super) fn check(
        &self,
        visit: &Visit<B>,
        now: u64,
        key: &KeyedHasher,
    ) -> Result<(), Refused> {
        match &visit.governed {
            Governed::Network(index) => {
                let network = self.networks.at(*index);
                room(network.length, network.limit, network.count)?;
            }
            Governed::Rules(hashes) => {
                for (index, rule) in self.rules.iter().enumerate() {
                    let Some(counts) = self.counts(rule) else { continue };
                    let hash = visit.rule_hash(hashes, index, rule.length, key);
                    let count = counts.get(visit.address.prefix(rule.length), hash);
                    room(rule.length, rule.limit, count)?;
                }
            }
        }
        self.check_rates(visit, Purpose::Admission, now, key)
    }

    /// Which rate one more would exceed.
    #[inline]
    pub(super) fn check_rates(
        &self,
        visit: &Visit<B>,
        purpose: Purpose,
        now: u64,
        key: &KeyedHasher,
    ) -> Result<(), Refused> {
        match &visit.governed {
            Governed::Network(index) => {
                let network = self.networks.at(*index);
                if let Some(rates) = &network.rates {
                    let meter = rates.of(purpose);
                    meter.spend(network.length, meter.spent, now)?;
                }
            }
            Governed::Rules(hashes) => {
                for (index, rule) in self.rules.iter().enumerate() {
                    let Some(rates) = &rule.rates else { continue };
                    let meter = rates.of(purpose);
                    let hash = visit.rule_hash(hashes, index, rule.length, key);
                    meter.spend(rule.length, meter.spent.arrival(hash), now)?;
                }
            }
        }
        Ok(())
    }

    /// Spends one token of each rate that is not in excess; one that is stays where it is.
    #[inline]
    pub(super) fn spend(
        &mut self,
        visit: &Visit<B>,
        purpose: Purpose,
        now: u64,
        key: &KeyedHasher,
        retired: &mut Retired,
    ) {
        match &visit.governed {
            Governed::Network(index) => {
                if let Some(rates) = &mut self.networks.at_mut(*index).rates {
                    let meter = rates.of_mut(purpose);
                    if let Ok(arrival) = meter.pace.spend(meter.spent, now) {
                        meter.spent = arrival;
                    }
                }
            }
            Governed::Rules(hashes) => {
                for (index, rule) in self.rules.iter_mut().enumerate() {
                    let Some(rates) = &mut rule.rates else { continue };
                    let meter = rates.of_mut(purpose);
                    let hash = visit.rule_hash(hashes, index, rule.length, key);
                    if let Ok(arrival) = meter.pace.spend(meter.spent.arrival(hash), now) {
                        meter.spent.raise(hash, arrival, now, retired);
                    }
                }
            }
        }
    }

    /// One connection more.
    #[inline]
    pub(super) fn count(&mut self, visit: &Visit<B>, key: &KeyedHasher) {
        self.live.add(visit.address, visit.hash, 1, key);
        match &visit.governed {
            Governed::Network(index) => self.networks.at_mut(*index).count += 1,
            Governed::Rules(hashes) => {
                for (index, rule) in self.rules.iter_mut().enumerate() {
                    let Some(counts) = &mut rule.counts else { continue };
                    let hash = visit.rule_hash(hashes, index, rule.length, key);
                    counts.add(visit.address.prefix(rule.length), hash, 1, key);
                }
            }
        }
    }

    /// One connection less.
    #[inline]
    pub(super) fn uncount(&mut self, visit: &Visit<B>, key: &KeyedHasher) {
        self.live.remove(visit.address, visit.hash, key);
        match &visit.governed {
            Governed::Network(index) => self.networks.at_mut(*index).count -= 1,
            Governed::Rules(hashes) => {
                for (index, rule) in self.rules.iter_mut().enumerate() {
                    let Some(counts) = &mut rule.counts else { continue };
                    let hash = visit.rule_hash(hashes, index, rule.length, key);
                    counts.remove(visit.address.prefix(rule.length), hash, key);
                }
            }
        }
    }

    /// Puts other limits in force and counts anew what they limit. What was spent of a rate stays
    /// spent where there is one for the same prefixes again.
    pub(super) fn set_limits(
        &mut self,
        limits: FamilyLimits<B>,
        room: Room,
        now: u64,
        key: &KeyedHasher,
    ) -> Replaced<B> {
        let mut retired = Retired::new();
        let networks = Networks::new(
            limits
                .networks
                .into_iter()
                .map(|(prefix, length, limits)| {
                    let old = self.networks.get(prefix, length);
                    Network::new(prefix, length, &limits, old, now)
                })
                .collect(),
        );
        let networks = std::mem::replace(&mut self.networks, networks);
        let mut old = std::mem::take(&mut self.rules);
        for (length, limits) in limits.lengths {
            let known = old.iter_mut().find(|old| old.length == length);
            self.rules.extend(Rule::new(length, &limits, known, room, now, &mut retired));
        }
        self.rules.sort_by_key(|rule| B::LENGTH - rule.length);
        self.count_anew(key);
        Replaced { _rules: old, _networks: networks, _sketches: retired }
    }

    /// Derives the counts of networks and prefixes, which are all zero, from those of addresses.
    fn count_anew(&mut self, key: &KeyedHasher) {
        for (address, count) in self.live.iter() {
            if let Some(network) = self.networks.find(address) {
                self.networks.at_mut(network).count += count;
                continue;
            }
            for rule in &mut self.rules {
                let prefix = address.prefix(rule.length);
                if let Some(counts) = &mut rule.counts {
                    counts.add(prefix, prefix.hash(rule.length, key), count, key);
                }
            }
        }
    }

    pub(super) fn sketches_mut(&mut self) -> impl Iterator<Item = &mut Sketch> {
        let rates = self.rules.iter_mut().flat_map(|rule| &mut rule.rates);
        rates.flat_map(|rates| rates.both_mut().map(|meter| &mut meter.spent))
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let of_rule = |rule: &Rule<B>| {
            let counts = rule.counts.as_ref().map_or(0, Counts::memory_bytes);
            let sketches = rule.rates.as_ref().map_or(0, |rates| {
                rates.admission.spent.memory_bytes() + rates.validation.spent.memory_bytes()
            });
            counts + sketches
        };
        self.live.memory_bytes()
            + self.networks.memory_bytes()
            + self.rules.capacity() * size_of::<Rule<B>>()
            + self.rules.iter().map(of_rule).sum::<usize>()
    }

    /// Where the connections that a rule limits are counted, if it limits any.
    #[inline]
    fn counts<'a>(&'a self, rule: &'a Rule<B>) -> Option<&'a Counts<B>> {
        match &rule.counts {
            Some(counts) => Some(counts),
            None => (rule.length == B::LENGTH).then_some(&self.live),
        }
    }
}

impl<B: Bits> Visit<B> {
    #[inline]
    fn rule_hash(
        &self,
        kept: &[u64; HASHES_KEPT],
        index: usize,
        length: u8,
        key: &KeyedHasher,
    ) -> u64 {
        match kept.get(index) {
            Some(hash) => *hash,
            None => hash_of(self.address, self.hash, length, key),
        }
    }
}

/// The hash of an address's prefix, given the hash of the address.
#[inline]
fn hash_of<B: Bits>(address: B, hash: u64, length: u8, key: &KeyedHasher) -> u64 {
    match length == B::LENGTH {
        true => hash,
        false => address.prefix(length).hash(length, key),
    }
}
