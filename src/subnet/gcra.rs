//! Whether one more connection comes too soon.
//!
//! The `governor` crate decides that, by the algorithm GCRA: all that has to be kept of a prefix is
//! one *theoretical arrival time*, at which a whole burst would be due again. One that is not later
//! than now is as good as zero. The caller keeps that time: it comes in and goes out as a number of
//! nanoseconds.
//!
//! **Promise.** No rate that can be configured, and no time, makes the arithmetic overflow.

use std::cell::Cell;
use std::hash::{Hash, Hasher};
use std::num::NonZeroU32;
use std::time::Duration;

use gcra::clock::Clock;
use gcra::middleware::NoOpMiddleware;
use gcra::nanos::Nanos;
use gcra::{Quota, RateLimiter, state::StateStore};

use crate::limits::Rate;

/// Times stay below this, 146 years, and so do bursts; a sum of two and an interval fits in 64 bits.
const MOST: u64 = 1 << 62;

/// A time since the governor's epoch.
pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).min(MOST)
}

/// One rate.
pub(super) struct Pace {
    rate: Rate,
    limiter: RateLimiter<Arrival, InKey, Turned, NoOpMiddleware<Nanos>>,
}

impl Pace {
    pub(super) fn new(rate: Rate) -> Self {
        let interval = nanoseconds(rate.interval()).max(1);
        let burst = u64::from(rate.burst_size().get()).min(1 + MOST / interval);
        let burst = u32::try_from(burst).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(Duration::from_nanos(interval))
            .expect("an interval is never zero")
            .allow_burst(burst);
        // The clock stands at the epoch, which arrival times count from.
        Self { rate, limiter: RateLimiter::new(quota, InKey, Turned(Cell::new(0))) }
    }

    /// The rate of validation that goes with a rate of connections: half the burst.
    pub(super) fn of_validation(rate: Rate) -> Self {
        let burst = NonZeroU32::new(rate.burst_size().get() / 2).unwrap_or(NonZeroU32::MIN);
        Self::new(Rate::new(rate.interval(), burst))
    }

    pub(super) fn rate(&self) -> Rate {
        self.rate
    }

    /// The arrival time after one more, or how long to wait for it.
    #[inline]
    pub(super) fn spend(&self, arrival: u64, now: u64) -> Result<u64, Duration> {
        self.limiter.clock().0.set(now);
        let arrival = Arrival(Cell::new(arrival));
        match self.limiter.check_key(&arrival) {
            Ok(()) => Ok(arrival.0.get()),
            Err(refused) => Err(refused.wait_time_from(Nanos::from(now))),
        }
    }

    /// The latest arrival time that this rate alone can lead to until now.
    pub(super) fn latest_arrival(&self, now: u64) -> u64 {
        let interval = nanoseconds(self.rate.interval()).max(1);
        now.saturating_add(interval.saturating_mul(u64::from(self.rate.burst_size().get())))
    }
}

/// A theoretical arrival time: key and state at once.
#[derive(Clone, PartialEq, Eq)]
struct Arrival(Cell<u64>);

/// The crate demands it of every key and never calls it.
impl Hash for Arrival {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.get().hash(state);
    }
}

/// The store that keeps nothing.
struct InKey;

impl StateStore for InKey {
    type Key = Arrival;

    #[inline]
    fn measure_and_replace<T, F, E>(&self, key: &Arrival, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let (decision, next) = decide(Some(Nanos::from(key.0.get())))?;
        key.0.set(next.into());
        Ok(decision)
    }
}

/// A clock that shows what it was set to.
struct Turned(Cell<u64>);

impl Clock for Turned {
    type Instant = Nanos;

    #[inline]
    fn now(&self) -> Nanos {
        Nanos::from(self.0.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(interval: Duration, burst: u32) -> Rate {
        Rate::new(interval, NonZeroU32::new(burst).expect("a burst"))
    }

    #[test]
    fn a_burst_then_one_in_an_interval() {
        let pace = Pace::new(rate(Duration::from_nanos(10), 3));
        let mut arrival = 0;
        for _ in 0..3 {
            arrival = pace.spend(arrival, 100).expect("within the burst");
        }
        assert_eq!(arrival, 130);
        assert_eq!(pace.latest_arrival(100), 130);
        assert_eq!(pace.spend(arrival, 101), Err(Duration::from_nanos(9)));
        assert_eq!(pace.spend(arrival, 110), Ok(140));
    }

    #[test]
    fn validation_has_half_the_burst_and_at_least_one() {
        for (burst, half) in [(1, 1), (2, 1), (3, 1), (16, 8)] {
            let pace = Pace::of_validation(rate(Duration::from_secs(1), burst));
            assert_eq!(pace.rate(), rate(Duration::from_secs(1), half));
        }
    }

    #[test]
    fn no_rate_and_no_time_overflows() {
        let intervals = [Duration::ZERO, Duration::from_nanos(1), Duration::MAX];
        let times = [0, 1, MOST, nanoseconds(Duration::MAX)];
        for interval in intervals {
            for burst in [1, 2, u32::MAX] {
                let pace = Pace::new(rate(interval, burst));
                for now in times {
                    let mut arrival = 0;
                    for _ in 0..30 {
                        arrival = pace.spend(arrival, now).unwrap_or(arrival);
                        assert!(arrival <= pace.latest_arrival(now));
                    }
                    assert!(arrival > now);
                    assert!(pace.spend(u64::MAX, now).is_err());
                }
            }
        }
    }
}
