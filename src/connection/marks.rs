//! What is noted of a connection in one byte, under its mutex.

use crate::counters::{PEAK_BYTES_BUCKETS, peak_bucket};

/// ```text
/// 7     6        5 ─ 4     3 ─ 0
/// kept  counted  walk      peak
/// ```
///
/// *kept*: the connection has kept blocks idle, at any time. *counted*: its address counts the
/// connection. *walk*: which of two walks in turn saw it last, zero before the first. *peak*: the bucket
/// of the most memory that it ever had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks(u8);

const PEAK: u8 = 0x0f;
const WALK: u32 = 4;
const WALK_MASK: u8 = 0x03 << WALK;
const COUNTED: u8 = 1 << 6;
const KEPT: u8 = 1 << 7;

const _: () = assert!(PEAK_BYTES_BUCKETS.len() <= PEAK as usize);

/// The number of a walk over all connections: never zero, and not that of the walk before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Walk(u8);

impl Walk {
    pub(super) const FIRST: Self = Self(1);

    pub(super) fn next(self) -> Self {
        Self(3 - self.0)
    }
}

impl Marks {
    pub(super) fn new(counted: bool, bytes: u64) -> Self {
        let mut marks = Self::default();
        marks.set_counted(counted);
        marks.raise_peak(bytes);
        marks
    }

    pub(super) fn has_kept(self) -> bool {
        self.0 & KEPT != 0
    }

    pub(super) fn set_kept(&mut self) {
        self.0 |= KEPT;
    }

    pub(super) fn is_counted(self) -> bool {
        self.0 & COUNTED != 0
    }

    pub(super) fn set_counted(&mut self, counted: bool) {
        self.0 = self.0 & !COUNTED | if counted { COUNTED } else { 0 };
    }

    pub(super) fn take_counted(&mut self) -> bool {
        let counted = self.is_counted();
        self.set_counted(false);
        counted
    }

    /// Notes that a walk has come by. `false` if it had before: the record stands elsewhere in the
    /// registry than it did.
    pub(super) fn see(&mut self, walk: Walk) -> bool {
        let before = *self;
        self.0 = self.0 & !WALK_MASK | walk.0 << WALK;
        *self != before
    }

    /// The connection has so much memory now.
    #[inline]
    pub(super) fn raise_peak(&mut self, bytes: u64) {
        let bucket = peak_bucket(bytes) as u8;
        if bucket > self.0 & PEAK {
            self.0 = self.0 & !PEAK | bucket;
        }
    }

    pub(super) fn peak_bucket(self) -> usize {
        usize::from(self.0 & PEAK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_keeps_what_the_others_say() {
        let mut marks = Marks::default();
        assert!(marks.see(Walk::FIRST));
        for nth in 0..64_u64 {
            let walk = if nth % 2 == 0 { Walk::FIRST.next() } else { Walk::FIRST };
            marks.raise_peak(1 << nth);
            marks.set_counted(nth % 3 == 0);
            assert!(marks.see(walk));
            assert!(!marks.see(walk));
            marks.raise_peak(0);
            assert_eq!(marks.is_counted(), nth % 3 == 0);
            assert_eq!(marks.peak_bucket(), peak_bucket(1 << nth));
        }
    }
}
