//! All that is wrong with a limits file, each with its place.

mod kind;

use std::fmt;
use std::io;
use std::num::NonZeroUsize;

pub use kind::ProblemKind;

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
    path: String,
    position: Option<Position>,
    kind: ProblemKind,
}

/// A place in a text, as editors count: from one, and columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: NonZeroUsize,
    /// The character in it.
    pub column: NonZeroUsize,
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
    pub(super) fn of(path: &str, position: Option<Position>, kind: ProblemKind) -> Self {
        let problem = Problem { path: path.to_owned(), position, kind };
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
