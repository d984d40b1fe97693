//! Other limits for one family of addresses, on their way into force.
//!
//! **Promise.** The old limits hold, with all that they count, until the switch; from then on the
//! new ones do, as if they had counted from the start. No step takes long, however many addresses
//! have connections.
//!
//! ```text
//!   RuleSet::new ──▶ begin ──▶ go_on ─ … ─ go_on ──▶ switch ──▶ the old limits are dropped
//!    (no lock)       └───── each in a turn of the lock ────┘         (no lock)
//! ```
//!
//! In between, connections come and go. What they spend of a rate is spent under the old and the new
//! limits. They are counted under both too, but for those of an address that the [round](super::live)
//! through all addresses has not passed yet: the round counts them when it does.
//!
//! What stays the same is not made anew. A table of prefixes counts the same connections under the
//! new limits if these have the same networks, and a sketch has the same charges if neither its rate
//! nor its bound is another. Such tables and sketches change hands at the switch.

use std::mem::swap;

use super::bits::Bits;
use super::live::{Counts, Round};
use super::networks::Network;
use super::rules::{Meters, Purpose, Rule, RuleSet};
use super::sketch::{Copied, Retired, Sketch};
use super::{OutOfMemory, Progress};

/// Networks that take over what was spent of their rates in one piece.
const NETWORKS_AT_ONCE: usize = 256;

pub(super) struct Change<B: Bits> {
    rules: RuleSet<B>,
    /// How many networks have taken over what was spent of their rates.
    carried: usize,
    /// Whether the networks are the same as before, as far as that is known.
    same_networks: bool,
    /// The sketches that are still to be copied.
    copies: Vec<Copy>,
    /// Whether the round has begun.
    counting: bool,
}

/// A sketch of the old limits, by its rule and its purpose, on its way into that of the new ones.
struct Copy {
    length: u8,
    purpose: Purpose,
    copied: Copied,
    /// No arrival time is later under the new rate.
    latest: u64,
}

impl<B: Bits> Change<B> {
    pub(super) fn new(rules: RuleSet<B>) -> Self {
        Self { rules, carried: 0, same_networks: true, copies: Vec::new(), counting: false }
    }

    /// Takes the new limits as they are: no connection has come yet.
    pub(super) fn into_rules(self) -> RuleSet<B> {
        self.rules
    }

    /// From here to the switch, the change is told of all that comes, goes and spends.
    pub(super) fn begin(&mut self, old: &RuleSet<B>, now: u64) {
        self.same_networks = self.rules.networks.len() == old.networks.len();
        for rule in &mut self.rules.rules {
            let length = rule.length;
            let old = old.rule(length);
            let Some((rates, old)) = old.and_then(|old| copied(rule, old)) else { continue };
            for purpose in Purpose::BOTH {
                let meter = rates.of_mut(purpose);
                let latest = meter.pace.latest_arrival(now);
                meter.spent.begin_copy(&old.of(purpose).spent, latest);
                self.copies.push(Copy { length, purpose, copied: Copied::default(), latest });
            }
        }
    }

    /// Takes over a part of what the old limits know.
    pub(super) fn go_on(&mut self, live: &mut Counts<B>, old: &RuleSet<B>, now: u64) -> Progress {
        if self.carried < self.rules.networks.len() {
            self.carry_some(old, now);
            return Progress::Going;
        }
        if let Some(copy) = self.copies.last_mut() {
            if copy.go_on(&mut self.rules, old) == Progress::Done {
                self.copies.pop();
            }
            return Progress::Going;
        }
        if !self.counting {
            if !self.needs_counts(old) {
                return Progress::Done;
            }
            live.begin_round();
            self.counting = true;
        }
        live.pass_some(|address, count| self.rules.add(address, count))
    }

    /// Takes over what was spent of the rates of some networks.
    fn carry_some(&mut self, old: &RuleSet<B>, now: u64) {
        let networks = &mut self.rules.networks;
        let end = networks.len().min(self.carried + NETWORKS_AT_ONCE);
        for index in self.carried..end {
            let network = networks.at_mut(index);
            match old.networks.same(network) {
                Some(old_index) => network.carry(old.networks.at(old_index), now),
                None => self.same_networks = false,
            }
        }
        self.carried = end;
    }

    /// Whether connections have to be counted anew, for some table. The others are let go of.
    fn needs_counts(&mut self, old: &RuleSet<B>) -> bool {
        if self.same_networks {
            self.rules.networks.counts = Box::default();
            for rule in &mut self.rules.rules {
                if old.rule(rule.length).is_some_and(|old| old.counts.is_some()) {
                    rule.counts = None;
                }
            }
        }
        let mut tables = self.rules.rules.iter();
        !self.rules.networks.counts.is_empty() || tables.any(|rule| rule.counts.is_some())
    }

    /// Puts the new limits in the place of the old ones, which remain here.
    pub(super) fn switch(&mut self, old: &mut RuleSet<B>) {
        let new = &mut self.rules;
        if self.same_networks {
            swap(&mut new.networks.counts, &mut old.networks.counts);
        }
        for rule in &mut new.rules {
            let Some(old) = old.rule_mut(rule.length) else { continue };
            if rule.counts_prefixes() && rule.counts.is_none() {
                swap(&mut rule.counts, &mut old.counts);
            }
            if copied(rule, old).is_none() && rule.rates.is_some() && old.rates.is_some() {
                swap(&mut rule.rates, &mut old.rates);
            }
        }
        swap(new, old);
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.copies.capacity() * size_of::<Copy>() + self.rules.memory_bytes()
    }
}

/// What happens under the old limits meanwhile.
impl<B: Bits> Change<B> {
    /// Makes room for one more connection from an address.
    #[cold]
    pub(super) fn reserve(&mut self, address: B) -> Result<(), OutOfMemory> {
        if self.counting { self.rules.reserve(address) } else { Ok(()) }
    }

    /// One more connection from an address, of whose count the round says this.
    #[cold]
    pub(super) fn add(&mut self, address: B, round: Round) {
        if self.counting && round == Round::Passed {
            self.rules.add(address, 1);
        }
    }

    /// One connection less.
    #[cold]
    pub(super) fn remove(&mut self, address: B, round: Round) {
        if self.counting && round == Round::Passed {
            self.rules.remove(address);
        }
    }

    /// Makes room to charge a prefix of an old rule.
    #[cold]
    pub(super) fn reserve_charge(
        &mut self,
        old: &Rule<B>,
        purpose: Purpose,
        hash: u64,
    ) -> Result<(), OutOfMemory> {
        match self.copied(old) {
            Some(rates) => rates.of_mut(purpose).spent.reserve(hash),
            None => Ok(()),
        }
    }

    /// A prefix of an old rule was charged: this is its arrival time.
    #[cold]
    pub(super) fn charge(
        &mut self,
        old: &Rule<B>,
        purpose: Purpose,
        hash: u64,
        arrival: u64,
        now: u64,
        retired: &mut Retired,
    ) {
        if let Some(rates) = self.copied(old) {
            let meter = rates.of_mut(purpose);
            let arrival = arrival.min(meter.pace.latest_arrival(now));
            meter.spent.raise(hash, arrival, now, retired);
        }
    }

    /// A network was charged.
    #[cold]
    pub(super) fn charge_network(&mut self, old: &Network<B>, now: u64) {
        if let Some(index) = self.rules.networks.same(old) {
            self.rules.networks.at_mut(index).carry(old, now);
        }
    }

    fn copied<'a>(&'a mut self, old: &'a Rule<B>) -> Option<&'a mut Meters<Sketch>> {
        let new = self.rules.rule_mut(old.length)?;
        copied(new, old).map(|(rates, _)| rates)
    }
}

impl Copy {
    fn go_on<B: Bits>(&mut self, rules: &mut RuleSet<B>, old: &RuleSet<B>) -> Progress {
        let Self { length, purpose, copied: so_far, latest } = self;
        let new = rules.rule_mut(*length).zip(old.rule(*length));
        let Some((rates, old)) = new.and_then(|(new, old)| copied(new, old)) else {
            return Progress::Done;
        };
        rates.of_mut(*purpose).spent.copy_some(&old.of(*purpose).spent, so_far, *latest)
    }
}

/// The rates of a rule, new and old, if they are not the same, so that what was spent of the old
/// ones is copied.
fn copied<'a, B: Bits>(
    new: &'a mut Rule<B>,
    old: &'a Rule<B>,
) -> Option<(&'a mut Meters<Sketch>, &'a Meters<Sketch>)> {
    let (new, old) = (new.rates.as_mut()?, old.rates.as_ref()?);
    let same_rate = new.admission.pace.rate() == old.admission.pace.rate();
    let same_bounds = std::iter::zip(new.both(), old.both())
        .all(|(new, old)| new.spent.is_as_large_as(&old.spent));
    (!same_rate || !same_bounds).then_some((new, old))
}
