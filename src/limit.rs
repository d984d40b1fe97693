//! The most of one thing.

use std::fmt;

/// The most that a scope may use of one resource.
///
/// There is no magic number: zero, `-1` and `MAX` mean nothing special.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Limit {
    /// As much as there is.
    #[default]
    Unlimited,
    /// Nothing at all.
    Blocked,
    /// At most this much: bytes for memory, else a count.
    Max(u64),
}

impl Limit {
    /// At most `max`, for a number that is a `usize`.
    ///
    /// There is no `From<usize>`: beside `From<u64>` it would leave open which of the two a plain
    /// number is, and `memory(64 << 20)` would no longer compile.
    pub const fn at_most(max: usize) -> Self {
        Limit::Max(max as u64)
    }

    /// Whether `requested` more fits on top of `in_use`. Never wraps: a sum beyond `u64::MAX` fits
    /// nowhere, not even in [`Limit::Unlimited`].
    #[inline]
    pub(crate) fn admits(self, in_use: u64, requested: u64) -> bool {
        let Some(total) = in_use.checked_add(requested) else { return false };
        match self {
            Limit::Unlimited => true,
            Limit::Blocked => requested == 0,
            Limit::Max(max) => total <= max || requested == 0,
        }
    }

    /// The number, if there is one.
    pub(crate) fn max(self) -> u64 {
        match self {
            Limit::Unlimited => u64::MAX,
            Limit::Blocked => 0,
            Limit::Max(max) => max,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Unlimited => f.write_str("unlimited"),
            Limit::Blocked => f.write_str("blocked"),
            Limit::Max(max) => max.fmt(f),
        }
    }
}

impl From<u64> for Limit {
    fn from(max: u64) -> Self {
        Limit::Max(max)
    }
}
