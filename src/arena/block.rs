//! Blocks that left the arena, and what is known of each.

use std::panic::Location;
use std::ptr::NonNull;

use super::slab;
use crate::sync::unmodelled::{self, Relaxed};
use crate::sync::{AtomicU32, Ordering, Probe};

/// How many low bits of a block's number say which block of its slab it is: enough for the smallest
/// blocks. The other bits number the slab.
const INDEX_BITS: u32 = (slab::BYTES / super::MIN_BLOCK_BYTES).ilog2();
const _: () = assert!((super::directory::CAPACITY as u64) << INDEX_BITS <= 1 << u32::BITS);

/// A block that left the arena. Not `Copy`: a block is in one place, and is given back once.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a block that is dropped is lost"]
pub(crate) struct Block(u32);

impl Block {
    pub(super) fn new(slab: u32, index: usize) -> Self {
        Self(slab << INDEX_BITS | index as u32)
    }

    /// The block's number within its size class, by which a [`Lookup`](super::Lookup) finds it.
    #[inline]
    pub(crate) fn number(&self) -> u32 {
        self.0
    }

    /// A block of no arena, for tests of what keeps blocks.
    #[cfg(test)]
    pub(crate) fn fake(number: u32) -> Self {
        Self(number)
    }
}

/// The slab of the block with this number, and the block's index in it.
#[inline(always)]
pub(super) fn split(number: u32) -> (u32, usize) {
    (number >> INDEX_BITS, (number & ((1 << INDEX_BITS) - 1)) as usize)
}

/// A place where one block is kept: four bytes, all zero at first.
///
/// The cell does not know whether it is full; its owner keeps that beside it. The owner orders these
/// steps too, so all of them are relaxed: it stores the block before the releasing step that first
/// offers it, and takes or numbers it after an acquiring step that found it there.
#[derive(Debug)]
pub(crate) struct BlockCell(AtomicU32);

impl BlockCell {
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Keeps a block. The cell must be vacant, and the caller the only thread that fills it.
    #[inline]
    pub(crate) fn store(&self, block: Block) {
        self.0.store(block.0, Ordering::Relaxed);
    }

    /// Takes the block out. The caller has just vacated the cell: the step that did so found a block
    /// in it, and no other thread's step found the same block.
    #[inline]
    pub(crate) fn take(&self) -> Block {
        Block(self.0.load(Ordering::Relaxed))
    }

    /// The number of the block that was stored last. It is of use only while that block is out.
    #[inline]
    pub(crate) fn number(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(not(leasehold_loom))]
const _: () = assert!(size_of::<BlockCell>() == 4);

/// What is known of one block, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Record {
    pub(crate) note: Note,
    /// Watches the block's bytes in the models.
    pub(crate) probe: Probe,
}

/// Which line leased a block, and when.
#[derive(Debug, Default)]
pub(crate) struct Note {
    site: unmodelled::AtomicPtr<Location<'static>>,
    tick: unmodelled::AtomicU32,
}

impl Note {
    /// Two plain stores; nothing depends on their order.
    #[inline]
    pub(crate) fn write(&self, site: &'static Location<'static>, tick: u32) {
        self.site.store(std::ptr::from_ref(site).cast_mut(), Relaxed);
        self.tick.store(tick, Relaxed);
    }

    /// Where the block was last leased, and the tick of the coarse clock then.
    pub(crate) fn read(&self) -> Option<(&'static Location<'static>, u32)> {
        let site = NonNull::new(self.site.load(Relaxed))?;
        // SAFETY: the only writer is `write`, which stores a `&'static Location`.
        Some((unsafe { site.as_ref() }, self.tick.load(Relaxed)))
    }
}
