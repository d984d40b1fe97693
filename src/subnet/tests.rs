//! Tests of the whole, by promise.

mod counts;
mod flood;
mod rates;

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use super::Subnets;
use crate::error::Refused;
use crate::limits::{PrefixLimits, Rate};

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

/// Asks for one connection as an admission does.
fn knock(subnets: &Subnets, address: IpAddr, now: Duration) -> Result<(), Refused> {
    let entrance = subnets.enter(address, now);
    entrance.check()?;
    entrance.commit();
    Ok(())
}
