//! All that is known of the addresses of one family.
//!
//! **Promise.** The count of every single address that has connections is kept, whatever the limits
//! are. All other counts follow from these, so limits can change at any time and no connection is
//! counted wrongly after.

use super::bits::Bits;
use super::change::Change;
use super::live::Counts;
use super::rules::{Purpose, Rule, RuleSet, Spent, check_room};
use super::sketch::{Retired, Sketch};
use super::{Address, OutOfMemory, Progress};
use crate::error::Refused;
use crate::keyed::KeyedHasher;

/// Prefixes that a visit keeps for its commit. For further rules an address is hashed twice.
const PREFIXES_KEPT: usize = 4;

pub(super) struct Family<B: Bits> {
    /// Connections of each single address.
    live: Counts<B>,
    in_force: RuleSet<B>,
    /// Other limits, until they are in force.
    change: Option<Box<Change<B>>>,
}

/// One more connection from an address. Once it is checked, what it says holds as long as the lock is
/// held and no other connection is admitted.
#[must_use = "no connection is counted before it is admitted"]
pub(crate) struct Visit {
    /// `None` of a connection that no address counts.
    pub(super) address: Option<Address>,
    /// Where the connection is counted until now.
    leaving: Option<Address>,
    purpose: Purpose,
    now: u64,
    /// The index of the network that governs the address. If there is none, every rule does.
    network: Option<usize>,
    /// What the address is to the network, or to the first rules.
    prefixes: [Prefix; PREFIXES_KEPT],
    refused: Option<Refused>,
    /// Whether its commit may have to write where no room is yet.
    lacks_room: bool,
}

/// What an address is to one rule or network.
#[derive(Clone, Copy, Default)]
struct Prefix {
    hash: u64,
    spent: Spent,
}

impl Visit {
    /// A connection from an address, or from nowhere that is counted.
    #[inline]
    pub(crate) fn new(address: Option<Address>) -> Self {
        Self {
            address,
            leaving: None,
            purpose: Purpose::Admission,
            now: 0,
            network: None,
            prefixes: [Prefix::default(); PREFIXES_KEPT],
            refused: None,
            lacks_room: false,
        }
    }

    /// The same of a connection that is counted at `leaving` until now. Once it is admitted, it has
    /// to [leave](super::Subnets::leave) there.
    pub(crate) fn instead_of(self, leaving: Option<Address>) -> Self {
        Self { leaving, ..self }
    }

    pub(super) fn for_validation(address: Address) -> Self {
        Self { purpose: Purpose::Validation, ..Self::new(Some(address)) }
    }

    /// Whether an address counts the connection once it is admitted.
    #[inline]
    pub(crate) fn counts(&self) -> bool {
        self.address.is_some()
    }

    /// Why the connection would be refused, if it would.
    #[inline]
    pub(crate) fn refused(&self) -> Option<&Refused> {
        self.refused.as_ref()
    }
}

impl<B: Bits> Family<B> {
    pub(super) fn new(rules: RuleSet<B>, key: KeyedHasher) -> Self {
        Self { live: Counts::new(B::LENGTH, key), in_force: rules, change: None }
    }

    /// Checks one more from an address against the limits: those of connections first, if that is
    /// what it is for, then the rates.
    #[inline]
    pub(super) fn check(&self, address: B, hash: u64, visit: &mut Visit, now: u64) {
        let RuleSet { networks, rules, .. } = &self.in_force;
        let leaving = visit.leaving.and_then(B::of);
        let purpose = visit.purpose;
        visit.now = now;
        let Visit { network, prefixes, refused, lacks_room, .. } = visit;
        let counts = purpose == Purpose::Admission;
        *network = networks.find(address);
        *lacks_room = self.change.is_some() || counts && !self.live.has_room(hash);
        if let Some(index) = *network {
            let network = networks.at(index);
            if counts {
                let leaves = leaving.is_some_and(|from| networks.find(from) == Some(index));
                let count = networks.counts[index] - u32::from(leaves);
                check_room(network.length, network.limit, count, refused);
            }
            if let Some(rates) = &network.rates {
                let meter = rates.of(purpose);
                prefixes[0].spent = meter.spend(network.length, meter.spent, now, refused);
            }
            return;
        }
        let leaving = leaving.filter(|from| networks.find(*from).is_none());
        for (index, rule) in rules.iter().enumerate() {
            let hash = self.in_force.hash_of(address, hash, rule.length);
            if counts && let Some(counts) = self.counts(rule) {
                let prefix = address.prefix(rule.length);
                let leaves = leaving.is_some_and(|from| from.prefix(rule.length) == prefix);
                let count = counts.get(prefix, hash) - u32::from(leaves);
                check_room(rule.length, rule.limit, count, refused);
            }
            if counts && let Some(counts) = &rule.counts {
                *lacks_room |= !counts.has_room(hash);
            }
            if let Some(kept) = prefixes.get_mut(index) {
                kept.hash = hash;
            }
        }
        for (index, rule) in rules.iter().enumerate() {
            let Some(rates) = &rule.rates else { continue };
            let meter = rates.of(purpose);
            let hash = match prefixes.get(index) {
                Some(kept) => kept.hash,
                None => self.in_force.hash_of(address, hash, rule.length),
            };
            let (arrival, has_room) = meter.spent.arrival(hash);
            let spent = meter.spend(rule.length, arrival, now, refused);
            *lacks_room |= !has_room;
            if let Some(kept) = prefixes.get_mut(index) {
                kept.spent = spent;
            }
        }
    }

    /// Makes room for all that a [commit](Self::commit) writes.
    #[inline]
    pub(super) fn reserve(
        &mut self,
        address: B,
        hash: u64,
        visit: &Visit,
    ) -> Result<(), OutOfMemory> {
        if visit.lacks_room { self.make_room(address, hash, visit) } else { Ok(()) }
    }

    #[cold]
    fn make_room(&mut self, address: B, hash: u64, visit: &Visit) -> Result<(), OutOfMemory> {
        let counts = visit.purpose == Purpose::Admission;
        if counts {
            self.live.reserve(hash)?;
            if let Some(change) = &mut self.change {
                change.reserve(address)?;
            }
        }
        if visit.network.is_some() {
            return Ok(());
        }
        for index in 0..self.in_force.rules.len() {
            let Prefix { hash, spent } = self.prefix(address, hash, visit, index);
            let rule = &mut self.in_force.rules[index];
            if counts && let Some(counts) = &mut rule.counts {
                counts.reserve(hash)?;
            }
            if let (Some(_), Some(rates)) = (spent, &mut rule.rates) {
                rates.of_mut(visit.purpose).spent.reserve(hash)?;
                if let Some(change) = &mut self.change {
                    change.reserve_charge(rule, visit.purpose, hash)?;
                }
            }
        }
        Ok(())
    }

    /// Counts the connection, if it is to be admitted, and spends one of each rate that is not in
    /// excess; one that is stays where it is. There must be [room](Self::reserve).
    #[inline]
    pub(super) fn commit(&mut self, address: B, hash: u64, visit: &Visit) -> Retired {
        let mut retired = Retired::new();
        let counts = visit.purpose == Purpose::Admission;
        if counts {
            self.live.add(address, hash, 1);
            if let Some(change) = &mut self.change {
                change.add(address, self.live.round(address, hash));
            }
        }
        if let Some(index) = visit.network {
            let networks = &mut self.in_force.networks;
            networks.counts[index] += u32::from(counts);
            let network = networks.at_mut(index);
            if let (Some(spent), Some(rates)) = (visit.prefixes[0].spent, &mut network.rates) {
                rates.of_mut(visit.purpose).spent = spent.get();
                if let Some(change) = &mut self.change {
                    change.charge_network(network, visit.now);
                }
            }
            return retired;
        }
        for index in 0..self.in_force.rules.len() {
            let Prefix { hash, spent } = self.prefix(address, hash, visit, index);
            let rule = &mut self.in_force.rules[index];
            if counts && let Some(counts) = &mut rule.counts {
                counts.add(address.prefix(rule.length), hash, 1);
            }
            if let (Some(spent), Some(rates)) = (spent, &mut rule.rates) {
                let (arrival, purpose, now) = (spent.get(), visit.purpose, visit.now);
                rates.of_mut(purpose).spent.raise(hash, arrival, now, &mut retired);
                if let Some(change) = &mut self.change {
                    change.charge(rule, purpose, hash, arrival, now, &mut retired);
                }
            }
        }
        retired
    }

    /// What an address is to a rule: as the visit keeps it, or found again.
    #[inline]
    fn prefix(&self, address: B, hash: u64, visit: &Visit, index: usize) -> Prefix {
        match visit.prefixes.get(index) {
            Some(kept) => *kept,
            None => self.prefix_again(address, hash, visit, index),
        }
    }

    #[cold]
    fn prefix_again(&self, address: B, hash: u64, visit: &Visit, index: usize) -> Prefix {
        let rule = &self.in_force.rules[index];
        let hash = self.in_force.hash_of(address, hash, rule.length);
        let spent = rule.rates.as_ref().and_then(|rates| {
            let meter = rates.of(visit.purpose);
            meter.spend(rule.length, meter.spent.arrival(hash).0, visit.now, &mut None)
        });
        Prefix { hash, spent }
    }

    /// One connection less.
    #[inline]
    pub(super) fn leave(&mut self, address: B, hash: u64) {
        if let Some(change) = &mut self.change {
            change.remove(address, self.live.round(address, hash));
        }
        self.live.remove(address, hash);
        self.in_force.remove(address);
    }

    /// Begins to put other limits in force.
    pub(super) fn begin(&mut self, mut change: Box<Change<B>>, now: u64) {
        debug_assert!(self.change.is_none(), "a change began within another");
        change.begin(&self.in_force, now);
        self.change = Some(change);
    }

    /// Takes over a part of what the limits in force know.
    pub(super) fn go_on(&mut self, now: u64) -> Progress {
        match &mut self.change {
            Some(change) => change.go_on(&mut self.live, &self.in_force, now),
            None => Progress::Done,
        }
    }

    /// Puts the other limits in force. Those that were are returned, to be dropped without the lock.
    pub(super) fn switch(&mut self) -> Option<Box<Change<B>>> {
        let mut change = self.change.take()?;
        change.switch(&mut self.in_force);
        Some(change)
    }

    pub(super) fn sketches_mut(&mut self) -> impl Iterator<Item = &mut Sketch> {
        let rates = self.in_force.rules.iter_mut().flat_map(|rule| &mut rule.rates);
        rates.flat_map(|rates| rates.both_mut().map(|meter| &mut meter.spent))
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let change = self.change.as_ref().map_or(0, |change| change.memory_bytes());
        self.live.memory_bytes() + self.in_force.memory_bytes() + change
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
