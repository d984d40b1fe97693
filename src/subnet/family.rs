//! All that is known of the addresses of one family.
//!
//! **Promise.** The count of every single address that has connections is kept, whatever the limits
//! are. All other counts follow from these, so limits can change at any time and no connection is
//! counted wrongly after.

use super::bits::Bits;
use super::live::Counts;
use super::rules::{Network, Networks, Purpose, Room, Rule, Spent, check_room};
use super::sketch::{Retired, Sketch};
use crate::error::Refused;
use crate::keyed::KeyedHasher;
use crate::limits::PrefixLimits;

/// Prefixes that are kept from a visit to its admission. Whoever has more rules pays for them twice.
const PREFIXES_KEPT: usize = 4;

pub(super) struct Family<B: Bits> {
    key: KeyedHasher,
    /// Connections of each single address.
    live: Counts<B>,
    networks: Networks<B>,
    /// The longest prefix first.
    rules: Vec<Rule<B>>,
}

/// Someone at the door, held against what governs its address.
pub(crate) struct Visit<B> {
    address: B,
    hash: u64,
    purpose: Purpose,
    now: u64,
    governed: Governed,
    refused: Option<Refused>,
}

enum Governed {
    /// By one network, found by its index, of whose rate this is left.
    Network(usize, Spent),
    /// By every rule; these are the first prefixes.
    Rules([Prefix; PREFIXES_KEPT]),
}

/// What an address is to one rule.
#[derive(Clone, Copy, Default)]
struct Prefix {
    hash: u64,
    spent: Spent,
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

impl<B> Visit<B> {
    #[inline]
    pub(super) fn refused(&self) -> Option<&Refused> {
        self.refused.as_ref()
    }
}

impl<B: Bits> Family<B> {
    pub(super) fn new(key: KeyedHasher) -> Self {
        Self {
            key,
            live: Counts::new(B::LENGTH, key),
            networks: Networks::new(Vec::new()),
            rules: Vec::new(),
        }
    }

    /// Holds one more from an address, whose hash is known already, against the limits: those of
    /// connections first, if that is what it is for, then the rates.
    #[inline]
    pub(super) fn visit(&self, address: B, hash: u64, purpose: Purpose, now: u64) -> Visit<B> {
        let counts = purpose == Purpose::Admission;
        let mut refused = None;
        let governed = match self.networks.find(address) {
            Some(index) => {
                let network = self.networks.at(index);
                if counts {
                    check_room(network.length, network.limit, network.count, &mut refused);
                }
                let spent = network.rates.as_ref().and_then(|rates| {
                    let meter = rates.of(purpose);
                    meter.spend(network.length, meter.spent, now, &mut refused)
                });
                Governed::Network(index, spent)
            }
            None => {
                let mut prefixes = [Prefix::default(); PREFIXES_KEPT];
                for (index, rule) in self.rules.iter().enumerate() {
                    let hash = self.hash_of(address, hash, rule.length);
                    if counts && let Some(counts) = self.counts(rule) {
                        let count = counts.get(address.prefix(rule.length), hash);
                        check_room(rule.length, rule.limit, count, &mut refused);
                    }
                    if let Some(kept) = prefixes.get_mut(index) {
                        kept.hash = hash;
                    }
                }
                for (index, rule) in self.rules.iter().enumerate() {
                    match prefixes.get_mut(index) {
                        Some(kept) => {
                            kept.spent = rule.spend(kept.hash, purpose, now, &mut refused);
                        }
                        None => {
                            let hash = self.hash_of(address, hash, rule.length);
                            rule.spend(hash, purpose, now, &mut refused);
                        }
                    }
                }
                Governed::Rules(prefixes)
            }
        };
        Visit { address, hash, purpose, now, governed, refused }
    }

    /// Counts a connection, and spends one of each rate that is not in excess.
    #[inline]
    pub(super) fn admit(&mut self, visit: &Visit<B>) -> Retired {
        let retired = self.spend(visit);
        self.live.add(visit.address, visit.hash, 1);
        match &visit.governed {
            Governed::Network(index, _) => self.networks.at_mut(*index).count += 1,
            Governed::Rules(prefixes) => {
                for (index, rule) in self.rules.iter_mut().enumerate() {
                    let Some(counts) = &mut rule.counts else { continue };
                    let prefix = visit.address.prefix(rule.length);
                    let hash = match prefixes.get(index) {
                        Some(kept) => kept.hash,
                        None => prefix.hash(rule.length, &self.key),
                    };
                    counts.add(prefix, hash, 1);
                }
            }
        }
        retired
    }

    /// Spends one of each rate that is not in excess; one that is stays where it is.
    #[inline]
    pub(super) fn spend(&mut self, visit: &Visit<B>) -> Retired {
        let mut retired = Retired::new();
        match &visit.governed {
            Governed::Network(index, spent) => {
                if let (Some(spent), Some(rates)) = (spent, &mut self.networks.at_mut(*index).rates)
                {
                    rates.of_mut(visit.purpose).spent = spent.get();
                }
            }
            Governed::Rules(prefixes) => {
                for index in 0..self.rules.len() {
                    let Prefix { hash, spent } = match prefixes.get(index) {
                        Some(kept) => *kept,
                        None => self.prefix_again(visit, index),
                    };
                    if let (Some(spent), Some(rates)) = (spent, &mut self.rules[index].rates) {
                        let sketch = &mut rates.of_mut(visit.purpose).spent;
                        sketch.raise(hash, spent.get(), visit.now, &mut retired);
                    }
                }
            }
        }
        retired
    }

    /// What a visitor is to a rule that there was no room to keep it for.
    #[cold]
    fn prefix_again(&self, visit: &Visit<B>, index: usize) -> Prefix {
        let rule = &self.rules[index];
        let hash = self.hash_of(visit.address, visit.hash, rule.length);
        Prefix { hash, spent: rule.spend(hash, visit.purpose, visit.now, &mut None) }
    }

    /// One connection less.
    #[inline]
    pub(super) fn leave(&mut self, address: B, hash: u64) {
        self.live.remove(address, hash);
        self.each_count(address, |network| network.count -= 1, Counts::remove);
    }

    /// One connection more, which has just [left](Self::leave).
    pub(super) fn stay(&mut self, address: B, hash: u64) {
        self.live.add(address, hash, 1);
        self.each_count(
            address,
            |network| network.count += 1,
            |counts, prefix, hash| {
                counts.add(prefix, hash, 1);
            },
        );
    }

    /// Changes what an address counts for besides itself.
    #[inline]
    fn each_count(
        &mut self,
        address: B,
        of_network: impl FnOnce(&mut Network<B>),
        of_prefix: impl Fn(&mut Counts<B>, B, u64),
    ) {
        if let Some(index) = self.networks.find(address) {
            return of_network(self.networks.at_mut(index));
        }
        for rule in &mut self.rules {
            let Some(counts) = &mut rule.counts else { continue };
            let prefix = address.prefix(rule.length);
            of_prefix(counts, prefix, prefix.hash(rule.length, &self.key));
        }
    }

    /// Puts other limits in force, and counts what was not counted for the old ones. What was spent
    /// of a rate stays spent where there is one for the same prefixes again.
    pub(super) fn set_limits(
        &mut self,
        limits: FamilyLimits<B>,
        room: Room,
        now: u64,
    ) -> Replaced<B> {
        let mut retired = Retired::new();
        let mut networks = Networks::new(
            limits
                .networks
                .into_iter()
                .map(|(prefix, length, limits)| {
                    let old = self.networks.get(prefix, length);
                    Network::new(prefix, length, &limits, old, now)
                })
                .collect(),
        );
        // Other networks take other addresses from the rules.
        let are_same = networks.try_count_as(&self.networks);
        let networks = std::mem::replace(&mut self.networks, networks);
        let mut old = std::mem::take(&mut self.rules);
        for (length, limits) in limits.lengths {
            let mut known = old.iter_mut().find(|old| old.length == length);
            let rule = Rule::new(length, &limits, known.as_deref_mut(), room, now, &mut retired);
            self.rules.extend(rule.map(|rule| match known {
                Some(known) if are_same && rule.counts_prefixes() => {
                    Rule { counts: known.counts.take(), ..rule }
                }
                _ => rule,
            }));
        }
        self.rules.sort_by_key(|rule| B::LENGTH - rule.length);
        self.count_anew(!are_same);
        Replaced { _rules: old, _networks: networks, _sketches: retired }
    }

    /// Derives the counts that are not there from those of addresses.
    fn count_anew(&mut self, of_networks: bool) {
        let mut uncounted: Vec<_> = self
            .rules
            .iter_mut()
            .filter(|rule| rule.counts.is_none() && rule.counts_prefixes())
            .collect();
        for rule in &mut uncounted {
            rule.counts = Some(Counts::new(rule.length, self.key));
        }
        if uncounted.is_empty() && !of_networks {
            return;
        }
        for (address, count) in self.live.iter() {
            if let Some(network) = self.networks.find(address) {
                if of_networks {
                    self.networks.at_mut(network).count += count;
                }
                continue;
            }
            for Rule { length, counts, .. } in uncounted.iter_mut().map(|rule| &mut **rule) {
                let prefix = address.prefix(*length);
                if let Some(counts) = counts {
                    counts.add(prefix, prefix.hash(*length, &self.key), count);
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

    /// The hash of an address's prefix, given the hash of the address.
    #[inline]
    fn hash_of(&self, address: B, hash: u64, length: u8) -> u64 {
        match length == B::LENGTH {
            true => hash,
            false => address.prefix(length).hash(length, &self.key),
        }
    }
}
