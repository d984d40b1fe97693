//! Rates: so many in a time, `"12/m"`, or one in a longer time, `"1/5s"`.

use std::time::Duration;

use super::super::Rate;
use super::problem::ProblemKind;

/// Every unit of time in nanoseconds, ascending.
const UNITS: [(&str, u64); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("h", 3_600 * 1_000_000_000),
    ("d", 86_400 * 1_000_000_000),
];

/// The interval between two of what a text allows, to the nearest nanosecond.
pub(super) fn parse(text: &str) -> Result<Duration, ProblemKind> {
    let (count, places, period) =
        parts(text).ok_or_else(|| ProblemKind::NotARate { text: text.to_owned() })?;
    if count == 0 {
        return Err(ProblemKind::NoRate { text: text.to_owned() });
    }
    let most = Rate::MAX_INTERVAL.as_nanos();
    let nanos = 10_u128
        .checked_pow(places)
        .and_then(|power| period.checked_mul(power))
        .and_then(|scaled| scaled.checked_add(count / 2))
        .map(|scaled| scaled / count)
        .filter(|nanos| (1..=most).contains(nanos));
    match nanos.and_then(|nanos| u64::try_from(nanos).ok()) {
        Some(nanos) => Ok(Duration::from_nanos(nanos)),
        None => Err(ProblemKind::RateOutOfRange { text: text.to_owned() }),
    }
}

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

/// An interval as [`parse`] reads it, in the largest unit of which it is a whole number.
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
        let second = 1_000_000_000;
        for (text, nanos) in [
            ("0.2/s", 5 * second),
            ("12/m", 5 * second),
            ("1/5s", 5 * second),
            ("1.50 / 3 s", 2 * second),
            ("5/h", 720 * second),
            ("24/d", 3_600 * second),
            ("3/s", 333_333_333),
            ("1.5/s", 666_666_667),
            ("1000000000/s", 1),
            ("2000000000/s", 1),
            ("1/1000000000s", second * second),
            ("1/1us", 1_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for nanos in (0..60).flat_map(|shift| [1 << shift, 3_600_000_000_000 << (shift % 18)]) {
            let interval = Duration::from_nanos(nanos).min(Rate::MAX_INTERVAL);
            assert_eq!(parse(&format(interval)), Ok(interval));
        }
    }
}
