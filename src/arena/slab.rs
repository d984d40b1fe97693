//! One mapping, cut into equal blocks.

use std::ops::Range;
use std::ptr::NonNull;

use super::anchored::Anchored;
use super::bitmap::Bitmap;
use super::block::Record;
use super::mapping::{Mapping, granule};
use crate::try_box::{OutOfMemory, try_slice};

/// The size of every slab.
#[cfg(not(leasehold_loom))]
pub(super) const BYTES: usize = 1 << 20;
/// Two of the smallest blocks: enough for every state of a slab.
#[cfg(leasehold_loom)]
pub(super) const BYTES: usize = 2 * super::MIN_BLOCK_BYTES;

/// A slab and which of its blocks are free. Guarded by its size class's lock.
pub(super) struct Slab {
    block_bytes: usize,
    /// Anchored: through the directory, threads that hold blocks reach it without the lock.
    memory: Anchored<Memory>,
    free: Bitmap,
    /// Groups whose pages were given back to the system and not used since.
    discarded: Bitmap,
    /// Free blocks that are set aside while their pages are given back.
    set_aside: usize,
}

/// What can be had from a slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No block.
    Full,
    /// Blocks, but others are out, or set aside.
    PartlyUsed,
    /// All blocks.
    Empty,
}

struct Memory {
    mapping: Mapping,
    records: Box<[Record]>,
}

impl Slab {
    /// Maps a slab. Call with no lock held.
    pub(super) fn map(block_bytes: usize) -> Result<Self, OutOfMemory> {
        let blocks = BYTES / block_bytes;
        let records = try_slice(blocks, Record::default)?;
        let memory = Memory { mapping: Mapping::new(BYTES)?, records };
        Ok(Self {
            block_bytes,
            memory: Anchored::try_new(memory)?,
            free: Bitmap::try_full(blocks)?,
            discarded: Bitmap::try_empty(blocks)?,
            set_aside: 0,
        })
    }

    /// The first of its records. They stay until the slab is dropped.
    pub(super) fn first_record(&self) -> NonNull<Record> {
        NonNull::from(&*self.memory.records).cast()
    }

    /// The first byte of its first block, which stays until the slab is dropped.
    pub(super) fn base(&self) -> NonNull<u8> {
        self.memory.mapping.base()
    }

    pub(super) fn records(&self) -> &[Record] {
        &self.memory.records
    }

    pub(super) fn state(&self) -> State {
        match self.free.len() {
            0 => State::Full,
            free if free == self.records().len() => State::Empty,
            _ => State::PartlyUsed,
        }
    }

    pub(super) fn blocks_in_use(&self) -> usize {
        self.records().len() - self.free.len() - self.set_aside
    }

    pub(super) fn discarded_bytes(&self) -> usize {
        self.discarded.len() * self.group_bytes()
    }

    /// Whether a free block has its pages.
    pub(super) fn has_resident(&self) -> bool {
        // All blocks of a discarded group are free.
        self.free.len() > self.discarded.len() * self.group_blocks()
    }

    /// Hands out the lowest free block that is resident; or else, if `wake` allows it, one whose
    /// pages then become so.
    pub(super) fn take(&mut self, wake: impl FnOnce(u64) -> bool) -> Option<usize> {
        let block = match self.first_resident() {
            Some(block) => block,
            None => {
                let block = self.free.first()?;
                if !wake(self.group_bytes() as u64) {
                    return None;
                }
                self.discarded.remove(block / self.group_blocks());
                block
            }
        };
        self.free.remove(block);
        self.records()[block].probe.issue();
        Some(block)
    }

    fn first_resident(&self) -> Option<usize> {
        let mut block = self.free.first()?;
        if self.discarded.is_empty() {
            return Some(block);
        }
        let size = self.group_blocks();
        while self.discarded.contains(block / size) {
            block = self.free.next((block / size + 1) * size)?;
        }
        Some(block)
    }

    /// Takes a block back. `false`: it was not out.
    pub(super) fn give(&mut self, block: usize) -> bool {
        if block >= self.records().len() || self.free.contains(block) {
            return false;
        }
        self.records()[block].probe.retire();
        self.free.insert(block);
        true
    }

    /// Sets the first free blocks aside whose pages can be given back.
    pub(super) fn set_idle_aside(&mut self) -> Option<IdlePages> {
        let size = self.group_blocks();
        let count = self.records().len() / size;
        let is_idle = |&group: &usize| {
            !self.discarded.contains(group) && self.free.contains_all(group * size, size)
        };
        let first = (0..count).find(is_idle)?;
        let end = (first..count).find(|group| !is_idle(group)).unwrap_or(count);
        for block in first * size..end * size {
            self.free.remove(block);
            self.set_aside += 1;
        }
        Some(IdlePages {
            groups: first..end,
            group_bytes: self.group_bytes(),
            memory: self.memory.as_ptr(),
        })
    }

    /// Puts back what was set aside, with its pages or without them.
    pub(super) fn put_back(&mut self, idle: IdlePages, is_discarded: bool) {
        let size = self.group_blocks();
        for block in idle.groups.start * size..idle.groups.end * size {
            self.free.insert(block);
            self.set_aside -= 1;
        }
        if is_discarded {
            idle.groups.for_each(|group| self.discarded.insert(group));
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        size_of::<Memory>()
            + size_of_val(self.records())
            + self.free.heap_bytes()
            + self.discarded.heap_bytes()
    }

    /// The fewest neighbouring blocks that fill whole pages.
    fn group_blocks(&self) -> usize {
        (granule() / self.block_bytes).max(1)
    }

    fn group_bytes(&self) -> usize {
        self.group_blocks() * self.block_bytes
    }
}

/// Neighbouring groups of free blocks that are set aside while their pages are given back: none of
/// these blocks is handed out, and so the slab, which is not empty, stays mapped.
#[must_use = "blocks that are not put back are lost"]
pub(super) struct IdlePages {
    groups: Range<usize>,
    group_bytes: usize,
    memory: NonNull<Memory>,
}

impl IdlePages {
    pub(super) fn bytes(&self) -> usize {
        self.groups.len() * self.group_bytes
    }

    /// Gives the pages back to the system. `false`: it keeps them. Call with no lock held.
    pub(super) fn discard(&self) -> bool {
        // SAFETY: while this value exists its slab stays mapped, because its size class unmaps empty
        // slabs only; and its blocks are free and not handed out, because `Slab::set_idle_aside` took
        // them out of the free ones. Groups are whole pages.
        unsafe {
            let offset = self.groups.start * self.group_bytes;
            self.memory.as_ref().mapping.discard(offset, self.bytes())
        }
    }
}
