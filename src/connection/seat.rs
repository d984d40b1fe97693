//! The key under which a connection knows a lease.

/// Which block a lease has, packed, because every lease carries it. A whole word: a lease is moved
/// in words, and a half would make the compiler move it in halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seat(usize);

/// A [`Seat`], taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spot {
    /// A slot of the magazine of a class.
    Slot { class: usize, slot: usize },
    /// A key in the table of what the magazines have no place for.
    Loose { key: u32 },
}

impl Seat {
    const LOOSE: usize = 1 << 31;
    /// The highest key of a loose lease.
    pub(super) const MOST_KEY: u32 = Self::LOOSE as u32 - 1;

    #[inline(always)]
    pub(super) fn slot(class: usize, slot: usize) -> Self {
        Self(class << 8 | slot)
    }

    pub(super) fn loose(key: u32) -> Self {
        debug_assert!(key <= Self::MOST_KEY);
        Self(key as usize | Self::LOOSE)
    }

    #[inline(always)]
    pub(super) fn spot(self) -> Spot {
        if self.0 & Self::LOOSE == 0 {
            Spot::Slot { class: self.0 >> 8, slot: self.0 & 0xff }
        } else {
            Spot::Loose { key: (self.0 & !Self::LOOSE) as u32 }
        }
    }
}
