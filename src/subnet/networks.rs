//! Networks that have limits of their own, as a whole.

use std::ops::Range;

use super::bits::Bits;
use super::rules::Meters;
use crate::limit::Limit;
use crate::limits::PrefixLimits;

/// One network, limited as a whole.
pub(super) struct Network<B> {
    pub(super) prefix: B,
    pub(super) length: u8,
    pub(super) limit: Limit,
    /// What was spent is an arrival time.
    pub(super) rates: Option<Meters<u64>>,
}

impl<B: Bits> Network<B> {
    pub(super) fn new(prefix: B, length: u8, limits: PrefixLimits) -> Self {
        let rates = limits.rate.map(|rate| Meters::new(rate, [0; 2]));
        Self { prefix, length, limit: limits.connections, rates }
    }

    /// Takes over what was spent of the rate of the same network under other limits.
    pub(super) fn carry(&mut self, old: &Self, now: u64) {
        if let (Some(rates), Some(old)) = (&mut self.rates, &old.rates) {
            for (meter, old) in rates.both_mut().into_iter().zip(old.both()) {
                meter.spent = meter.spent.max(old.spent.min(meter.pace.latest_arrival(now)));
            }
        }
    }

    /// The longest first, then by prefix.
    fn key(&self) -> (u8, B) {
        (B::LENGTH - self.length, self.prefix)
    }
}

/// Networks by what lies in them.
pub(super) struct Networks<B> {
    sorted: Box<[Network<B>]>,
    /// The connections in each of them.
    pub(super) counts: Box<[u32]>,
    /// The networks of each length.
    lengths: Box<[(u8, Range<usize>)]>,
}

impl<B: Bits> Networks<B> {
    pub(super) fn new(mut networks: Vec<Network<B>>) -> Self {
        networks.sort_by_key(Network::key);
        networks.dedup_by_key(|network| network.key());
        let mut lengths: Vec<(u8, Range<usize>)> = Vec::new();
        for (index, network) in networks.iter().enumerate() {
            match lengths.last_mut() {
                Some((length, range)) if *length == network.length => range.end = index + 1,
                _ => lengths.push((network.length, index..index + 1)),
            }
        }
        let counts = vec![0; networks.len()].into();
        Self { sorted: networks.into(), counts, lengths: lengths.into() }
    }

    pub(super) fn len(&self) -> usize {
        self.sorted.len()
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

    /// The network that is the same one as `other`.
    pub(super) fn same(&self, other: &Network<B>) -> Option<usize> {
        self.sorted.binary_search_by_key(&other.key(), Network::key).ok()
    }

    #[inline]
    pub(super) fn at(&self, index: usize) -> &Network<B> {
        &self.sorted[index]
    }

    #[inline]
    pub(super) fn at_mut(&mut self, index: usize) -> &mut Network<B> {
        &mut self.sorted[index]
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.sorted) + size_of_val(&*self.counts) + size_of_val(&*self.lengths)
    }
}
