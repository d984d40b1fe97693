//! What is wrong with a limits file: everything at once, each with its place and what would be right.

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::time::Duration;

use ipnet::IpNet;

use super::super::Rate;
use super::path::{Quoted, shorten};
use crate::error::NameTooLong;

/// A limits file that cannot be used, with all that is wrong with it.
///
/// Displayed, it is a line that counts the problems and one line for each:
///
/// ```
/// use leasehold::LimitsFile;
///
/// let error = LimitsFile::from_toml("[peers.alice]\nmemry = \"1 MiB\"\nfds = -1").unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "2 problems in the limits file:\n  \
///      line 2, column 1: peers.alice.memry: unknown key `memry`; did you mean `memory`?\n  \
///      line 3, column 1: peers.alice.fds: -1 is no limit; \
///      write \"unlimited\" for no limit, or \"blocked\" for nothing at all"
/// );
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct FileError {
    problems: Vec<Problem>,
    omitted: usize,
}

/// One thing that is wrong with a limits file.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    pub(super) path: String,
    pub(super) position: Option<Position>,
    pub(super) kind: ProblemKind,
}

/// A place in a text, as editors count: from one, and columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: NonZeroUsize,
    /// The character in it.
    pub column: NonZeroUsize,
}

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

impl FileError {
    /// The most problems that one error lists.
    pub const MAX_PROBLEMS: usize = 100;

    /// The problems in the order of the file, at most [`MAX_PROBLEMS`](Self::MAX_PROBLEMS) and at
    /// least one.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// How many more there are.
    pub fn omitted(&self) -> usize {
        self.omitted
    }
}

impl Problem {
    /// The keys that lead to it, as one would write them in TOML, and shortened if they are very
    /// long: `peers.alice.memry`, `allow[2].network`. Empty if it concerns the file as a whole.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Where it stands in the text. In JSON, only syntax errors know.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// What is wrong there.
    pub fn kind(&self) -> &ProblemKind {
        &self.kind
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.len() + self.omitted {
            1 => f.write_str("1 problem in the limits file:")?,
            count => write!(f, "{count} problems in the limits file:")?,
        }
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        match self.omitted {
            0 => Ok(()),
            omitted => write!(f, "\n  and {omitted} more"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(position) = self.position {
            write!(f, "{position}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        self.kind.fmt(f)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
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
                "{} is no limit; write \"unlimited\" for no limit, or \"blocked\" for nothing at all",
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

impl std::error::Error for FileError {}

impl From<FileError> for io::Error {
    fn from(error: FileError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// Collects the problems of one file, as many as an error lists.
#[derive(Default)]
pub(super) struct Problems {
    found: Vec<(Problem, Option<usize>)>,
    omitted: usize,
}

impl Problems {
    /// Adds one, at an offset in the text if that is known.
    pub(super) fn add(&mut self, path: impl ToString, at: Option<usize>, kind: ProblemKind) {
        if self.found.len() < FileError::MAX_PROBLEMS {
            self.found.push((Problem { path: path.to_string(), position: None, kind }, at));
        } else {
            self.omitted += 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The error that lists them, in the order of the text.
    pub(super) fn into_error(mut self, text: &str) -> FileError {
        self.found.sort_by_key(|(_, at)| *at);
        let placed = self.found.into_iter().map(|(problem, at)| match at {
            Some(at) => Problem { position: Some(Position::of(text, at)), ..problem },
            None => problem,
        });
        FileError { problems: placed.collect(), omitted: self.omitted }
    }
}

impl FileError {
    /// An error that lists one problem.
    pub(super) fn of(kind: ProblemKind, position: Option<Position>) -> Self {
        let problem = Problem { path: String::new(), position, kind };
        Self { problems: vec![problem], omitted: 0 }
    }
}

impl Position {
    /// Where an offset in bytes lies in a text.
    fn of(text: &str, at: usize) -> Self {
        let before = text.get(..at).unwrap_or(text);
        let start = before.rfind('\n').map_or(0, |end| end + 1);
        let line = before.bytes().filter(|byte| *byte == b'\n').count();
        let after = |count: usize| NonZeroUsize::MIN.saturating_add(count);
        Self { line: after(line), column: after(before[start..].chars().count()) }
    }

    /// What a parser says, which counts from one too.
    pub(super) fn new(line: usize, column: usize) -> Option<Self> {
        let column = NonZeroUsize::new(column).unwrap_or(NonZeroUsize::MIN);
        Some(Self { line: NonZeroUsize::new(line)?, column })
    }
}
