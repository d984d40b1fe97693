//! Everything that can be wrong in one place of a limits file, and the sentence for it.

use std::fmt;
use std::time::Duration;

use ipnet::IpNet;

use super::super::path::{Quoted, shorten};
use crate::error::NameTooLong;
use crate::limits::Rate;

/// What is wrong in one place of a limits file.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ProblemKind {
    /// The file is longer than any that is read.
    FileTooLarge {
        /// Its length in bytes.
        bytes: usize,
        /// The length up to which files are read.
        most: usize,
    },
    /// Tables and lists are nested deeper than any that is read.
    TooDeep {
        /// The depth down to which they are read.
        most: usize,
    },
    /// It is not TOML, or not JSON.
    Syntax {
        /// What the parser says.
        message: String,
    },
    /// No such key is known here.
    UnknownKey {
        /// The key.
        key: String,
        /// The known key most like it.
        nearest: Option<&'static str>,
        /// All keys known here.
        known: &'static [&'static str],
    },
    /// A key is given twice, perhaps in different spellings.
    Duplicate {
        /// How it was given first, if that is spelled differently.
        first: Option<String>,
    },
    /// A value of another type than is needed here.
    WrongType {
        /// What is needed.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A word that is no limit.
    NotALimit {
        /// The word.
        text: String,
        /// What was probably meant.
        meant: Option<&'static str>,
        /// What is needed.
        expected: &'static str,
    },
    /// A limit is asked for by the word "default", which leaving its key out already does.
    DefaultWord,
    /// A number below zero.
    Negative {
        /// The number.
        text: String,
    },
    /// A number of more than the field holds.
    NumberTooLarge {
        /// The largest number that fits.
        most: u64,
    },
    /// A size in quotes that does not say of what.
    SizeWithoutUnit {
        /// The number.
        number: String,
    },
    /// A size in a unit that is not known.
    UnknownUnit {
        /// The unit.
        unit: String,
        /// What was probably meant.
        nearest: Option<&'static str>,
    },
    /// A size that ends within a byte.
    NotWholeBytes {
        /// The size.
        text: String,
    },
    /// Text that begins with a digit and is no size.
    NotASize {
        /// The text.
        text: String,
    },
    /// A size where a count is needed.
    SizeForCount {
        /// The size.
        text: String,
    },
    /// Text that is no rate.
    NotARate {
        /// The text.
        text: String,
    },
    /// A rate of nothing at all, which is not a rate.
    NoRate {
        /// The rate.
        text: String,
    },
    /// A rate more often than once in a nanosecond, or less often than once in
    /// [`Rate::MAX_INTERVAL`].
    RateOutOfRange {
        /// The rate.
        text: String,
    },
    /// A rate does not say how many may come at once.
    RateWithoutBurst,
    /// A burst does not say at which rate it may come again.
    BurstWithoutRate,
    /// A burst of nothing lets nothing in, ever.
    ZeroBurst,
    /// A key of `subnets.ipv4` or `subnets.ipv6` that is no number of bits.
    NotAPrefixLength {
        /// The key.
        key: String,
        /// The length of such an address in bits.
        most: u8,
    },
    /// A prefix longer than the address.
    PrefixLength {
        /// The length given, in bits.
        length: u64,
        /// The length of such an address in bits.
        most: u8,
    },
    /// Text that is no network in CIDR notation.
    NotANetwork {
        /// The text.
        text: String,
        /// The network of an address that stands alone.
        meant: Option<IpNet>,
    },
    /// A network whose address has bits behind its prefix, so that the one or the other is wrong.
    HostBits {
        /// The network given.
        network: IpNet,
        /// The network in which that address lies.
        truncated: IpNet,
    },
    /// The key of a peer or the name of a class is too long.
    NameTooLong(NameTooLong),
    /// A binary key of a peer whose digits are not pairs of hexadecimal ones.
    NotHex {
        /// The digits.
        digits: String,
    },
    /// Text that is none of the names possible here.
    UnknownName {
        /// The text.
        name: String,
        /// The known name most like it.
        nearest: Option<&'static str>,
        /// All names possible here.
        known: &'static [&'static str],
    },
    /// A rule of the allow list that names neither a network nor a peer.
    EmptyRule,
    /// A key that changes what a node type makes of the host, without a node type.
    NeedsNodeType,
    /// A key that needs a host, where there is none: read such a file as a
    /// [`LimitsFile`](crate::LimitsFile).
    NeedsHost,
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use ProblemKind::*;
        match self {
            FileTooLarge { bytes, most } => {
                write!(f, "a file of {bytes} bytes is longer than the {most} that are read")
            }
            TooDeep { most } => write!(f, "nested deeper than the {most} levels that are read"),
            Syntax { message } => f.write_str(message),
            UnknownKey { key, nearest, known } => {
                write!(
                    f,
                    "unknown key `{}`; {}",
                    shorten(key),
                    Guess { nearest, known, quote: '`' }
                )
            }
            Duplicate { first: Some(first) } => write!(f, "given before, as {first}"),
            Duplicate { first: None } => f.write_str("given before"),
            WrongType { expected, found } => write!(f, "expected {expected}, found {found}"),
            NotALimit { text, meant: Some(meant), .. } => {
                write!(f, "{} is no limit; did you mean \"{meant}\"?", Quoted(text))
            }
            NotALimit { text, meant: None, expected } => {
                write!(f, "{} is no limit; expected {expected}", Quoted(text))
            }
            DefaultWord => f.write_str("leave the key out for the default"),
            Negative { text } => write!(
                f,
                "{} is no limit; write \"unlimited\" for no limit, \
                 or \"blocked\" for nothing at all",
                shorten(text)
            ),
            NumberTooLarge { most } => write!(f, "a number above {most}, the largest possible"),
            SizeWithoutUnit { number } => {
                let number = shorten(number);
                write!(f, "\"{number}\" has no unit; write \"{number} B\" or \"{number} MiB\"")
            }
            UnknownUnit { unit, nearest: Some(nearest) } => {
                write!(f, "unknown unit {}; did you mean \"{nearest}\"?", Quoted(unit))
            }
            UnknownUnit { unit, nearest: None } => write!(
                f,
                "unknown unit {}; known are B, KiB, MiB, GiB and kB, MB, GB",
                Quoted(unit)
            ),
            NotWholeBytes { text } => write!(f, "{} is not a whole number of bytes", Quoted(text)),
            NotASize { text } => {
                write!(f, "{} is no size; expected one such as \"64 MiB\"", Quoted(text))
            }
            SizeForCount { text } => {
                write!(f, "{} is a size; this is a count, without a unit", Quoted(text))
            }
            NotARate { text } => write!(
                f,
                "{} is no rate; expected one such as \"12/m\", \"0.2/s\" or \"1/5s\"",
                Quoted(text)
            ),
            NoRate { text } => write!(
                f,
                "{} is no rate; to let nothing in, write connections = \"blocked\"",
                Quoted(text)
            ),
            RateOutOfRange { text } => write!(
                f,
                "the rate {} is more than one in a nanosecond, or less than one in {} days",
                Quoted(text),
                Rate::MAX_INTERVAL.as_secs() / Duration::from_secs(86_400).as_secs()
            ),
            RateWithoutBurst => {
                f.write_str("a rate needs a burst: how many may come at once after a rest")
            }
            BurstWithoutRate => f.write_str("a burst needs a rate, such as rate = \"12/m\""),
            ZeroBurst => f.write_str("a burst of 0 lets nothing in; the least is 1"),
            NotAPrefixLength { key, most } => write!(
                f,
                "{} is no prefix length; expected a number from 0 to {most}, or \"/{most}\"",
                Quoted(key)
            ),
            PrefixLength { length, most } => {
                write!(f, "a prefix length of {length} is more than the {most} bits of the address")
            }
            NotANetwork { text, meant: Some(meant) } => {
                write!(f, "{} is a single address; did you mean \"{meant}\"?", Quoted(text))
            }
            NotANetwork { text, meant: None } => {
                write!(f, "{} is no network; expected one such as \"192.0.2.0/24\"", Quoted(text))
            }
            HostBits { network, truncated } => {
                write!(f, "\"{network}\" has bits behind its prefix; did you mean \"{truncated}\"?")
            }
            NameTooLong(error) => error.fmt(f),
            NotHex { digits } => {
                write!(f, "{} after \"hex:\" is not pairs of hexadecimal digits", Quoted(digits))
            }
            UnknownName { name, nearest, known } => {
                write!(f, "unknown name {}; {}", Quoted(name), Guess { nearest, known, quote: '"' })
            }
            EmptyRule => f.write_str("a rule needs a network, a peer or both"),
            NeedsNodeType => f.write_str("has no effect without a node_type"),
            NeedsHost => f.write_str("is not possible where the host is not known"),
        }
    }
}

/// What may have been meant by a name that is not known.
struct Guess<'a> {
    nearest: &'a Option<&'static str>,
    known: &'a [&'static str],
    quote: char,
}

impl fmt::Display for Guess<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nearest, known, quote } = *self;
        match nearest {
            Some(nearest) => write!(f, "did you mean {quote}{nearest}{quote}?"),
            None => write!(f, "known are {}", known.join(", ")),
        }
    }
}
