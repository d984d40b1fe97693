//! The limits of one family of addresses, compiled for use, with what they limit.
//!
//! An address is governed either by the longest network that it lies in, as a whole, or by every
//! rule for a length of prefix. What has neither a limit nor a rate is no rule at all, and costs
//! nothing; but a network without limits still keeps the rules off its addresses.

use std::num::NonZeroU64;

use super::bits::Bits;
use super::gcra::Pace;
use super::live::Counts;
use super::sketch::{Retired, Sketch};
use crate::error::Refused;
use crate::limit::Limit;
use crate::limits::{PrefixLimits, Rate};

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

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Admission,
    Validation,
}

impl<S> Meters<S> {
    fn new(rate: Rate, [admission, validation]: [S; 2]) -> Self {
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
                let burst = self.pace.rate().burst().get();
                refused.get_or_insert_with(|| Refused::by_rate(length, burst, wait));
                None
            }
        }
    }
}

/// Whether a limit leaves room for one more. If not, `refused` says so, unless it says something
/// already.
#[inline]
pub(super) fn check_room(length: u8, limit: Limit, count: u32, refused: &mut Option<Refused>) {
    if !limit.admits(count.into(), 1) {
        refused.get_or_insert_with(|| Refused::by_subnet(length, limit, count.into()));
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

/// How many bytes each sketch of a purpose may take.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) admission: usize,
    pub(super) validation: usize,
}

impl<B: Bits> Rule<B> {
    /// `None` if nothing is limited. `old` is the rule for this length until now; what it knows of
    /// rates is taken from it if it is still needed.
    pub(super) fn new(
        length: u8,
        limits: &PrefixLimits,
        old: Option<&mut Self>,
        room: Room,
        now: u64,
        retired: &mut Retired,
    ) -> Option<Self> {
        let PrefixLimits { connections: limit, rate } = *limits;
        let rates = rate.map(|rate| match old.and_then(|old| old.rates.take()) {
            Some(old) => carry_over(old, rate, room, now, retired),
            None => Meters::new(rate, [Sketch::new(room.admission), Sketch::new(room.validation)]),
        });
        (limit != Limit::Unlimited || rates.is_some()).then_some(Self {
            length,
            limit,
            rates,
            counts: None,
        })
    }

    /// Whether connections are counted by prefix for it.
    pub(super) fn counts_prefixes(&self) -> bool {
        self.limit != Limit::Unlimited && self.length < B::LENGTH
    }

    /// What the arrival time of a prefix becomes with one more.
    #[inline]
    pub(super) fn spend(
        &self,
        hash: u64,
        purpose: Purpose,
        now: u64,
        refused: &mut Option<Refused>,
    ) -> Spent {
        let meter = self.rates.as_ref()?.of(purpose);
        meter.spend(self.length, meter.spent.arrival(hash), now, refused)
    }
}

/// What was spent of an old rate is spent of the new one, as far as that goes.
fn carry_over(
    old: Meters<Sketch>,
    rate: Rate,
    room: Room,
    now: u64,
    retired: &mut Retired,
) -> Meters<Sketch> {
    let changed = old.admission.pace.rate() != rate;
    let mut meters = Meters::new(rate, [old.admission.spent, old.validation.spent]);
    for (meter, bytes) in meters.both_mut().into_iter().zip([room.admission, room.validation]) {
        if changed {
            meter.spent.lower_to(meter.pace.latest_arrival(now));
        }
        meter.spent.rebound(bytes, retired);
    }
    meters
}

/// One network, limited as a whole.
pub(super) struct Network<B> {
    pub(super) prefix: B,
    pub(super) length: u8,
    pub(super) limit: Limit,
    pub(super) count: u32,
    pub(super) rates: Option<Meters<u64>>,
}

impl<B: Bits> Network<B> {
    pub(super) fn new(
        prefix: B,
        length: u8,
        limits: &PrefixLimits,
        old: Option<&Self>,
        now: u64,
    ) -> Self {
        let old = old.and_then(|old| old.rates.as_ref());
        let rates = limits.rate.map(|rate| {
            let spent = old.map_or([0; 2], |old| [old.admission.spent, old.validation.spent]);
            let mut meters = Meters::new(rate, spent);
            for meter in meters.both_mut() {
                meter.spent = meter.spent.min(meter.pace.latest_arrival(now));
            }
            meters
        });
        Self { prefix, length, limit: limits.connections, count: 0, rates }
    }
}

/// Networks by what lies in them.
pub(super) struct Networks<B> {
    /// By length, the longest first, then by prefix.
    sorted: Box<[Network<B>]>,
    /// The networks of each length.
    lengths: Box<[(u8, std::ops::Range<usize>)]>,
}

impl<B: Bits> Networks<B> {
    pub(super) fn new(mut networks: Vec<Network<B>>) -> Self {
        let key = |network: &Network<B>| (B::LENGTH - network.length, network.prefix);
        networks.sort_by_key(key);
        networks.dedup_by_key(|network| key(network));
        let mut lengths: Vec<(u8, std::ops::Range<usize>)> = Vec::new();
        for (index, network) in networks.iter().enumerate() {
            match lengths.last_mut() {
                Some((length, range)) if *length == network.length => range.end = index + 1,
                _ => lengths.push((network.length, index..index + 1)),
            }
        }
        Self { sorted: networks.into(), lengths: lengths.into() }
    }

    /// The longest network that an address lies in.
    #[inline]
    pub(super) fn find(&self, address: B) -> Option<usize> {
        self.lengths.iter().find_map(|(length, range)| {
            let prefix = address.prefix(*length);
            let found =
                self.sorted[range.clone()].binary_search_by_key(&prefix, |found| found.prefix);
            found.ok().map(|index| range.start + index)
        })
    }

    pub(super) fn get(&self, prefix: B, length: u8) -> Option<&Network<B>> {
        let key = (B::LENGTH - length, prefix);
        let place = |network: &Network<B>| (B::LENGTH - network.length, network.prefix).cmp(&key);
        self.sorted.binary_search_by(place).ok().map(|index| &self.sorted[index])
    }

    #[inline]
    pub(super) fn at(&self, index: usize) -> &Network<B> {
        &self.sorted[index]
    }

    #[inline]
    pub(super) fn at_mut(&mut self, index: usize) -> &mut Network<B> {
        &mut self.sorted[index]
    }

    /// Takes the counts of these networks over, if they are the same ones.
    pub(super) fn try_count_as(&mut self, others: &Self) -> bool {
        let key = |network: &Network<B>| (network.length, network.prefix);
        let are_same = self.sorted.iter().map(key).eq(others.sorted.iter().map(key));
        if are_same {
            for (network, other) in self.sorted.iter_mut().zip(&others.sorted) {
                network.count = other.count;
            }
        }
        are_same
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.sorted) + size_of_val(&*self.lengths)
    }
}
