//! Tests of the whole, by promise.

mod counts;
mod flood;
mod holds;
mod rates;

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use super::{Address, Change, Progress, Subnets, Visit};
use crate::error::Refused;
use crate::keyed::KeyedHasher;
use crate::limits::{PrefixLimits, Rate, SubnetLimits};

/// What tables take that have been used and are empty: the smallest there are.
const IDLE_BYTES: usize = 20 << 10;

fn ip(address: &str) -> IpAddr {
    address.parse().expect("an address")
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Limits of so many connections at once.
fn at_once(connections: u64) -> PrefixLimits {
    PrefixLimits::unlimited().connections(connections)
}

/// Limits of one new connection in `interval`.
fn every(interval: Duration, burst: u32) -> PrefixLimits {
    let burst = NonZeroU32::new(burst).expect("a burst");
    PrefixLimits::unlimited().rate(Rate::new(interval, burst))
}

/// Limits by address as a scope tree uses them, with the key of their hashes.
struct Door {
    subnets: Subnets,
    key: KeyedHasher,
}

impl Door {
    fn new(limits: &SubnetLimits) -> Self {
        let key = KeyedHasher::random();
        Self { subnets: Subnets::new(limits, key), key }
    }

    fn address(&self, address: IpAddr) -> Address {
        Address::new(address, &self.key)
    }

    fn visit(&mut self, address: IpAddr, now: Duration) -> Visit {
        let mut visit = Visit::new(Some(self.address(address)));
        self.subnets.check(&mut visit, now);
        visit
    }

    /// Asks for one connection as an admission does.
    fn knock(&mut self, address: IpAddr, now: Duration) -> Result<(), Refused> {
        let visit = self.visit(address, now);
        if let Some(refused) = visit.refused() {
            return Err(*refused);
        }
        self.admit(&visit);
        Ok(())
    }

    fn admit(&mut self, visit: &Visit) {
        self.subnets.reserve(visit).expect("memory");
        drop(self.subnets.admit(visit));
    }

    /// Moves a connection as a rebind does, whether the limits are enforced or only observed.
    fn rebind(
        &mut self,
        from: Option<IpAddr>,
        to: IpAddr,
        now: Duration,
        enforced: bool,
    ) -> Result<Option<Refused>, Refused> {
        let from = from.map(|from| self.address(from));
        let to = self.address(to);
        let mut visit = Visit::new(Some(to)).instead_of(from);
        self.subnets.check(&mut visit, now);
        match visit.refused() {
            Some(refused) if enforced => Err(*refused),
            refused => {
                self.admit(&visit);
                if let Some(from) = from {
                    self.subnets.leave(from);
                }
                Ok(refused.copied())
            }
        }
    }

    fn leave(&mut self, address: IpAddr) {
        let address = self.address(address);
        self.subnets.leave(address);
    }

    fn should_validate(&mut self, address: IpAddr, now: Duration) -> bool {
        let address = self.address(address);
        self.subnets.should_validate(address, now).0
    }

    /// Changes the limits as a scope tree does, with nothing in between.
    fn set_limits(&mut self, limits: &SubnetLimits) {
        self.begin(limits);
        while self.subnets.go_on() == Progress::Going {}
        drop(self.subnets.switch());
    }

    fn begin(&mut self, limits: &SubnetLimits) {
        self.subnets.begin(Change::new(limits, self.key));
    }

    fn maintain(&mut self, now: Duration) {
        let mut next = Some(0);
        while let Some(sketch) = next {
            next = self.subnets.maintain(sketch, now).0;
        }
    }

    fn memory_bytes(&self) -> usize {
        self.subnets.memory_bytes()
    }
}
