//! One size class: its slabs, and the way to a block's record.

use std::collections::BTreeSet;
use std::panic::Location;
use std::ptr::NonNull;

use crossbeam_utils::CachePadded;
use slab::Slab as Numbered;

use super::directory::{CAPACITY, Directory};
use super::slab::{BYTES, Slab};
use super::{Block, ClassReport, Record};
use crate::error::Refused;
use crate::sync::Mutex;
use crate::sync::unmodelled::{AtomicU32, AtomicU64, Relaxed};

/// Groups of pages that are given back in one go, between two looks at the lock.
const DISCARD_BATCH: usize = 256;

/// How many low bits of a handle number the block within its slab: enough for the smallest blocks.
const INDEX_BITS: u32 = (BYTES / super::MIN_CLASS_BYTES).ilog2();
const _: () = assert!(CAPACITY << INDEX_BITS <= u32::MAX as usize);

pub(crate) struct Class {
    /// Blocks are this power of two, in bytes.
    block_shift: u32,
    directory: Directory,
    /// Idle bytes given back to the system; written under the lock, read by anyone.
    discarded_bytes: AtomicU64,
    /// Whether anything waits to be unmapped: a hint that spares the lock.
    has_retired: AtomicU32,
    slabs: CachePadded<Mutex<Slabs>>,
}

/// The slabs of a class. Their numbers stay inside handles.
struct Slabs {
    numbered: Numbered<Slab>,
    /// Slabs with a free block, lowest address first.
    available: BTreeSet<(usize, u32)>,
    /// How many of those are wholly empty: at most one is kept.
    empty: usize,
    /// Struck from everything, waiting to be unmapped outside the lock.
    retired: Vec<Slab>,
}

impl Class {
    pub(super) fn new(block_bytes: usize) -> Self {
        let slabs = Slabs {
            numbered: Numbered::new(),
            available: BTreeSet::new(),
            empty: 0,
            retired: Vec::new(),
        };
        Self {
            block_shift: block_bytes.trailing_zeros(),
            directory: Directory::new(),
            discarded_bytes: AtomicU64::new(0),
            has_retired: AtomicU32::new(0),
            slabs: CachePadded::new(Mutex::new(slabs)),
        }
    }

    #[inline]
    pub(crate) fn block_bytes(&self) -> usize {
        1 << self.block_shift
    }

    pub(super) fn discarded_bytes(&self) -> u64 {
        self.discarded_bytes.load(Relaxed)
    }

    pub(super) fn take(&self) -> Option<Block> {
        self.take_from(&mut self.slabs.lock())
    }

    pub(super) fn give(&self, block: Block) {
        let (number, index) = split(block.0);
        let mut slabs = self.slabs.lock();
        let Some(slab) = slabs.numbered.get_mut(number) else {
            debug_assert!(false, "a block of an unmapped slab was given back");
            return;
        };
        let was_full = !slab.has_free();
        let given = slab.give(index);
        debug_assert!(given, "a block was given back twice");
        let (address, is_empty) = (slab.address(), slab.is_empty());
        if was_full {
            slabs.available.insert((address, number as u32));
        }
        if is_empty && given {
            slabs.empty += 1;
            if slabs.empty > 1 {
                self.retire(&mut slabs, number);
            }
        }
    }

    /// Maps a slab and hands out its first block. Call with no lock held.
    pub(super) fn grow(&self) -> Result<Block, Refused> {
        let slab = Slab::map(self.block_bytes())?;
        let mut slabs = self.slabs.lock();
        let number = slabs.numbered.vacant_key();
        if number >= CAPACITY {
            drop(slabs);
            return Err(Refused::out_of_memory((CAPACITY * BYTES) as u64, BYTES as u64));
        }
        self.directory.insert(number, slab.entry());
        slabs.available.insert((slab.address(), number as u32));
        slabs.empty += 1;
        slabs.numbered.insert(slab);
        Ok(self.take_from(&mut slabs).expect("a slab was added under this lock"))
    }

    /// The record of a block, and its first byte.
    ///
    /// # Safety
    ///
    /// `block` must have left the arena and not be given back while the answer is used: the slab,
    /// its directory entry and its records stay exactly as long as one of its blocks is out.
    #[inline(always)]
    pub(crate) unsafe fn locate(&self, block: u32) -> (&Record, NonNull<u8>) {
        let (number, index) = split(block);
        // SAFETY: the block is held, so its slab is in the directory.
        let entry = unsafe { self.directory.entry(number) };
        // SAFETY: the handle was made by `take_from`, so `index` is one of the slab's blocks; its
        // records and its memory stay while the block is held.
        unsafe { (&*entry.records.add(index), entry.base.add(index << self.block_shift)) }
    }

    pub(super) fn note(&self, block: u32) -> Option<(&'static Location<'static>, u32)> {
        let (number, index) = split(block);
        self.slabs.lock().numbered.get(number)?.records().get(index)?.note().read()
    }

    /// Retires every empty slab, even the one that is usually kept.
    pub(super) fn retire_empty(&self) {
        let mut slabs = self.slabs.lock();
        while let Some(number) = slabs.first_empty() {
            self.retire(&mut slabs, number);
        }
    }

    /// Unmaps what was retired, and answers how many bytes that was. Call with no lock held.
    pub(super) fn unmap_retired(&self) -> u64 {
        if self.has_retired.load(Relaxed) == 0 {
            return 0;
        }
        let mut slabs = self.slabs.lock();
        self.has_retired.store(0, Relaxed);
        let retired = std::mem::take(&mut slabs.retired);
        drop(slabs);
        (retired.len() * BYTES) as u64
    }

    /// Gives the idle pages inside partly used slabs back to the system. Call with no lock held.
    pub(super) fn discard_idle(&self) {
        let numbers: Vec<usize> = self.slabs.lock().partly_used().collect();
        for number in numbers {
            loop {
                let mut slabs = self.slabs.lock();
                let Some((groups, discarder)) = slabs.set_aside(number) else { break };
                drop(slabs);
                discarder.discard(&groups);
                drop(discarder);
                self.put_back(number, &groups);
            }
        }
    }

    pub(super) fn report(&self) -> ClassReport {
        let slabs = self.slabs.lock();
        let count = slabs.numbered.len();
        ClassReport {
            block_bytes: self.block_bytes(),
            slabs: count,
            blocks: count * (BYTES / self.block_bytes()),
            blocks_in_use: slabs.numbered.iter().map(|(_, slab)| slab.blocks_in_use()).sum(),
            discarded_bytes: slabs.numbered.iter().map(|(_, slab)| slab.discarded_bytes()).sum(),
        }
    }

    pub(super) fn bookkeeping_bytes(&self) -> usize {
        let slabs = self.slabs.lock();
        let records: usize = slabs.numbered.iter().map(|(_, slab)| slab.heap_bytes()).sum();
        records + self.directory.heap_bytes()
    }

    fn take_from(&self, slabs: &mut Slabs) -> Option<Block> {
        let lowest = *slabs.available.first()?;
        let number = lowest.1;
        let slab = &mut slabs.numbered[number as usize];
        let was_empty = slab.is_empty();
        let (index, resident) = slab.take()?;
        if !slab.has_free() {
            slabs.available.remove(&lowest);
        }
        if was_empty {
            slabs.empty -= 1;
        }
        if resident > 0 {
            self.discarded_bytes.fetch_sub(resident as u64, Relaxed);
        }
        Some(Block(number << INDEX_BITS | index as u32))
    }

    /// Strikes an empty slab. It is unmapped by [`unmap_retired`](Self::unmap_retired).
    fn retire(&self, slabs: &mut Slabs, number: usize) {
        self.directory.remove(number);
        let slab = slabs.numbered.remove(number);
        slabs.available.remove(&(slab.address(), number as u32));
        slabs.empty -= 1;
        self.discarded_bytes.fetch_sub(slab.discarded_bytes() as u64, Relaxed);
        if slabs.numbered.len() < slabs.numbered.capacity() / 4 {
            slabs.numbered.shrink_to_fit();
        }
        slabs.retired.push(slab);
        self.has_retired.store(1, Relaxed);
    }

    fn put_back(&self, number: usize, groups: &[usize]) {
        let mut slabs = self.slabs.lock();
        let slab = &mut slabs.numbered[number];
        let was_full = !slab.has_free();
        let bytes = slab.release_idle(groups);
        let (address, is_empty) = (slab.address(), slab.is_empty());
        self.discarded_bytes.fetch_add(bytes as u64, Relaxed);
        if was_full {
            slabs.available.insert((address, number as u32));
        }
        if is_empty {
            slabs.empty += 1;
            if slabs.empty > 1 {
                self.retire(&mut slabs, number);
            }
        }
    }
}

/// A handle's slab, and the block's index in it.
#[inline(always)]
fn split(block: u32) -> (usize, usize) {
    ((block >> INDEX_BITS) as usize, (block & ((1 << INDEX_BITS) - 1)) as usize)
}

impl Slabs {
    fn first_empty(&self) -> Option<usize> {
        if self.empty == 0 {
            return None;
        }
        let mut numbers = self.available.iter().map(|(_, number)| *number as usize);
        numbers.find(|&number| self.numbered[number].is_empty())
    }

    fn partly_used(&self) -> impl Iterator<Item = usize> {
        self.available
            .iter()
            .map(|(_, number)| *number as usize)
            .filter(|&number| !self.numbered[number].is_empty())
    }

    /// Sets idle blocks of a partly used slab aside, so that their pages can be given back.
    fn set_aside(&mut self, number: usize) -> Option<(Vec<usize>, super::slab::Discarder)> {
        let slab = self.numbered.get_mut(number).filter(|slab| !slab.is_empty())?;
        let groups = slab.claim_idle(DISCARD_BATCH);
        if groups.is_empty() {
            return None;
        }
        let discarder = slab.discarder();
        if !slab.has_free() {
            let entry = (slab.address(), number as u32);
            self.available.remove(&entry);
        }
        Some((groups, discarder))
    }
}
