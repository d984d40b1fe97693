//! Rates: so many in a time, `"12/m"`, or one in a longer time, `"1/5s"`.

use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use crate::error::ConfigError;
use crate::ranges;

/// How often something may happen: once in an interval, after a burst.
///
/// ```
/// use leasehold::Rate;
///
/// let rate = Rate::per_minute(6).burst(16);
/// assert_eq!(rate, "6/m".parse::<Rate>()?.burst(16));
/// assert_eq!(rate.interval().as_secs(), 10);
/// # Ok::<(), leasehold::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    interval: Duration,
    burst: NonZeroU32,
}

impl Rate {
    /// The longest interval between two events: about 31 years.
    pub const MAX_INTERVAL: Duration = ranges::MAX_RATE_INTERVAL;

    /// Once in `interval`, and up to `burst` times at once after a rest. The interval is kept
    /// between a nanosecond and [`MAX_INTERVAL`](Self::MAX_INTERVAL).
    pub fn new(interval: Duration, burst: NonZeroU32) -> Self {
        Self { interval: interval.clamp(Duration::from_nanos(1), Self::MAX_INTERVAL), burst }
    }

    /// So many in each second, all of which may come at once after a rest.
    ///
    /// # Panics
    ///
    /// If `count` is zero.
    #[track_caller]
    pub const fn per_second(count: u32) -> Self {
        Self::per(SECOND, count)
    }

    /// So many in each minute, all of which may come at once after a rest.
    ///
    /// # Panics
    ///
    /// If `count` is zero.
    #[track_caller]
    pub const fn per_minute(count: u32) -> Self {
        Self::per(60 * SECOND, count)
    }

    #[track_caller]
    const fn per(nanos: u64, count: u32) -> Self {
        let burst = NonZeroU32::new(count).expect("a rate of zero lets nothing in");
        let count = count as u64;
        let interval = (nanos + count / 2) / count;
        Self { interval: Duration::from_nanos(if interval == 0 { 1 } else { interval }), burst }
    }

    /// Sets how many may come at once after a rest.
    ///
    /// # Panics
    ///
    /// If it is zero.
    #[must_use]
    #[track_caller]
    pub const fn burst(mut self, burst: u32) -> Self {
        self.burst = NonZeroU32::new(burst).expect("a burst of zero lets nothing in");
        self
    }

    /// The time in which one more becomes possible.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// How many may come at once after a rest.
    pub fn burst_size(&self) -> NonZeroU32 {
        self.burst
    }
}

/// Reads a rate as limits files have it: `"12/m"`, `"0.2/s"`, `"1/5s"`, with the units `ns`, `us`,
/// `ms`, `s`, `m`, `h` and `d`. Before the slash stands how many may come at once after a rest, but
/// at least one, unless [`burst`](Rate::burst) says otherwise.
impl FromStr for Rate {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let (count, places, period) = parts(text).ok_or(ConfigError::NotARate)?;
        if count == 0 {
            return Err(ConfigError::NoRate);
        }
        let rate = || {
            let power = 10_u128.checked_pow(places)?;
            let nanos = period.checked_mul(power)?.checked_add(count / 2)? / count;
            if !(1..=Self::MAX_INTERVAL.as_nanos()).contains(&nanos) {
                return None;
            }
            let burst = u32::try_from(count.div_ceil(power)).unwrap_or(u32::MAX);
            Some(Self::new(
                Duration::from_nanos(u64::try_from(nanos).ok()?),
                NonZeroU32::new(burst)?,
            ))
        };
        rate().ok_or(ConfigError::RateOutOfRange)
    }
}

const SECOND: u64 = 1_000_000_000;

/// Every unit of time in nanoseconds, ascending.
const UNITS: [(&str, u64); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", SECOND),
    ("m", 60 * SECOND),
    ("h", 3_600 * SECOND),
    ("d", 86_400 * SECOND),
];

/// The digits of the count, how many of them stand behind its point, and the time in nanoseconds.
fn parts(text: &str) -> Option<(u128, u32, u128)> {
    let (count, period) = text.split_once('/')?;
    let (whole, fraction) = count.trim().split_once('.').unwrap_or((count.trim(), ""));
    let fraction = fraction.trim_end_matches('0');
    let count = digits(&format!("{whole}{fraction}"))?;
    let period = period.trim();
    let unit = period.trim_start_matches(|c: char| c.is_ascii_digit());
    let number = match &period[..period.len() - unit.len()] {
        "" => 1,
        number => digits(number)?,
    };
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit.trim_start())?;
    let period = number.checked_mul((*factor).into())?;
    Some((count, u32::try_from(fraction.len()).ok()?, period))
}

fn digits(text: &str) -> Option<u128> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// An interval as a [`Rate`] is read, in the largest unit of which it is a whole number.
#[cfg(feature = "serde")]
pub(super) fn format(interval: Duration) -> String {
    let nanos = interval.as_nanos();
    let mut units = UNITS.iter().rev();
    let (unit, factor) = units
        .find(|(_, factor)| nanos.is_multiple_of(u128::from(*factor)))
        .expect("everything is a whole number of nanoseconds");
    match nanos / u128::from(*factor) {
        1 => format!("1/{unit}"),
        number => format!("1/{number}{unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_to_the_nanosecond() {
        let second = SECOND;
        for (text, nanos, burst) in [
            ("0.2/s", 5 * second, 1),
            ("12/m", 5 * second, 12),
            ("1/5s", 5 * second, 1),
            ("1.50 / 3 s", 2 * second, 2),
            ("5/h", 720 * second, 5),
            ("24/d", 3_600 * second, 24),
            ("3/s", 333_333_333, 3),
            ("1.5/s", 666_666_667, 2),
            ("1000000000/s", 1, 1_000_000_000),
            ("2000000000/s", 1, 2_000_000_000),
            ("9000000000/m", 7, u32::MAX),
            ("1/1000000000s", second * second, 1),
            ("1/1us", 1_000, 1),
        ] {
            let rate: Rate = text.parse().unwrap();
            let burst = NonZeroU32::new(burst).unwrap();
            assert_eq!(rate, Rate::new(Duration::from_nanos(nanos), burst), "{text}");
        }
    }

    #[test]
    fn what_is_no_rate_is_told() {
        for (text, error) in [
            ("", ConfigError::NotARate),
            ("6", ConfigError::NotARate),
            ("6/week", ConfigError::NotARate),
            ("-6/m", ConfigError::NotARate),
            ("0/m", ConfigError::NoRate),
            ("6/0s", ConfigError::RateOutOfRange),
            ("1/1000000001s", ConfigError::RateOutOfRange),
            ("9000000000/s", ConfigError::RateOutOfRange),
        ] {
            assert_eq!(text.parse::<Rate>(), Err(error), "{text}");
        }
    }

    #[test]
    fn rates_in_code_are_those_of_texts() {
        for count in [1, 3, 7, 60, 1_000_000_000] {
            assert_eq!(Ok(Rate::per_second(count)), format!("{count}/s").parse());
            assert_eq!(Ok(Rate::per_minute(count)), format!("{count}/m").parse());
        }
        assert_eq!(Rate::per_second(u32::MAX).interval(), Duration::from_nanos(1));
    }

    #[cfg(feature = "serde")]
    #[test]
    fn what_is_written_is_read() {
        for nanos in (0..60).flat_map(|shift| [1 << shift, 3_600_000_000_000 << (shift % 18)]) {
            let interval = Duration::from_nanos(nanos).min(Rate::MAX_INTERVAL);
            let read = format(interval).parse().map(|rate: Rate| rate.interval());
            assert_eq!(read, Ok(interval));
        }
    }
}
