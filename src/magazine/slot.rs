//! Where the block of a lease is.

use std::ptr;

use super::{Extra, Magazine, SLOTS};

/// The slot that a lease's block is in: the magazine's address, with the slot in its low bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotRef(*const u8);

const _: () = assert!(SLOTS.is_power_of_two());
const _: () = assert!(align_of::<Magazine>() >= SLOTS && align_of::<Extra>() >= SLOTS);

impl SlotRef {
    #[inline(always)]
    pub(crate) fn of(magazine: &Magazine, slot: usize) -> Self {
        Self::new(ptr::from_ref(magazine).cast(), slot)
    }

    /// Of an extra magazine: its address leads to all of it.
    pub(crate) fn of_extra(extra: &Extra, slot: usize) -> Self {
        Self::new(ptr::from_ref(extra).cast(), slot)
    }

    #[inline(always)]
    fn new(address: *const u8, slot: usize) -> Self {
        debug_assert!(slot < SLOTS);
        Self(address.map_addr(|address| address | slot))
    }

    #[inline(always)]
    pub(crate) fn slot(self) -> usize {
        self.0.addr() % SLOTS
    }

    /// The address of the magazine, or of the [`Extra`] that it is the first part of.
    #[inline(always)]
    pub(crate) fn address(self) -> *const u8 {
        self.0.wrapping_sub(self.slot())
    }
}
