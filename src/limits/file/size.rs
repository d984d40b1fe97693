//! Sizes with a unit: `"64 MiB"`.
//!
//! Exact or refused. The crates that read sizes round what is not whole (`parse-size`) or compute
//! in floating point (`bytesize`), and read a number without a unit as bytes or a `b` as a `B`.

use super::problem::ProblemKind;

/// Every unit and its bytes. Prefixes mean what the standards say: `M` a million, `Mi` 2^20.
const UNITS: [(&str, u64); 14] = [
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("PB", 1_000_000_000_000_000),
    ("EB", 1_000_000_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("PiB", 1 << 50),
    ("EiB", 1 << 60),
];

/// How many bytes a text is, which begins with a digit.
pub(super) fn parse(text: &str) -> Result<u64, ProblemKind> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].trim_start());
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits_in_unit = unit.contains(|c: char| c.is_ascii_digit());
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') || digits_in_unit {
        return Err(ProblemKind::NotASize { text: text.to_owned() });
    }
    if unit.is_empty() {
        return Err(ProblemKind::SizeWithoutUnit { number: number.to_owned() });
    }
    let Some(&(_, factor)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(ProblemKind::UnknownUnit { unit: unit.to_owned(), nearest: nearest(unit) });
    };

    let too_large = ProblemKind::NumberTooLarge { most: u64::MAX };
    let fraction = fraction.trim_end_matches('0');
    let Ok(digits) = format!("{whole}{fraction}").parse::<u128>() else { return Err(too_large) };
    let Some(scaled) = digits.checked_mul(factor.into()) else { return Err(too_large) };
    let places = u32::try_from(fraction.len()).unwrap_or(u32::MAX);
    match 10_u128.checked_pow(places) {
        Some(power) if scaled.is_multiple_of(power) => {
            u64::try_from(scaled / power).map_err(|_| too_large)
        }
        _ => Err(ProblemKind::NotWholeBytes { text: text.to_owned() }),
    }
}

/// A size as [`parse`] reads it, in the largest binary unit of which it is a whole number; `None`
/// where that is the byte.
pub(super) fn format(bytes: u64) -> Option<String> {
    let whole = |(_, factor): &&(&str, u64)| factor.is_power_of_two() && *factor > 1;
    let mut units = UNITS.iter().filter(whole).rev();
    let (unit, factor) = units.find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor))?;
    Some(format!("{} {unit}", bytes / factor))
}

/// The unit that was probably meant: `m`, `mb`, `mib` and `Mb` are all in use.
fn nearest(unit: &str) -> Option<&'static str> {
    let unit = unit.to_lowercase();
    let known = |name: &str| UNITS.iter().map(|(known, _)| *known).find(|known| *known == name);
    let mut spellings = unit.chars();
    match (spellings.next()?, spellings.as_str()) {
        ('b', "" | "yte" | "ytes") => known("B"),
        ('k', "" | "i" | "ib") => known("KiB"),
        ('k', "b") => known("kB"),
        (prefix @ ('m' | 'g' | 't' | 'p' | 'e'), rest) => {
            let prefix = prefix.to_ascii_uppercase();
            match rest {
                "" | "i" | "ib" => known(&format!("{prefix}iB")),
                "b" => known(&format!("{prefix}B")),
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_exact() {
        for (text, bytes) in [
            ("0 B", 0),
            ("1 kB", 1_000),
            ("1KiB", 1_024),
            ("64 MB", 64_000_000),
            ("64  MiB", 64 << 20),
            ("1.5 GiB", 3 << 29),
            ("1.50000000000000000000000000000000000000000000000000 GiB", 3 << 29),
            ("0.0009765625 KiB", 1),
            ("0.125 EiB", 1 << 57),
            ("15 EiB", 15 << 60),
            ("18446744073709551615 B", u64::MAX),
            ("00000000000000000000000000000000000000000000000000001 B", 1),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for bytes in (0..64).flat_map(|shift| [1 << shift, 3 << shift, u64::MAX << shift]) {
            if let Some(text) = format(bytes) {
                assert_eq!(parse(&text), Ok(bytes), "{text}");
            }
        }
        assert_eq!(format(1 << 30).as_deref(), Some("1 GiB"));
        assert_eq!((format(0), format(1_000_001)), (None, None));
    }
}
