//! One size class: its slabs, and the way to a block's record.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::Location;
use std::ptr::NonNull;

use crossbeam_utils::CachePadded;

use super::books::{Books, Bound};
use super::directory::{CAPACITY, Directory};
use super::slab::{BYTES, Discarder, Slab};
use super::{Block, ClassReport, Record};
use crate::error::Refused;
use crate::sync::Mutex;

/// Groups of pages that are given back in one go, between two looks at the lock.
const DISCARD_BATCH: usize = 256;

/// How many low bits of a handle number the block within its slab: enough for the smallest blocks.
const INDEX_BITS: u32 = (BYTES / super::MIN_CLASS_BYTES).ilog2();
const _: () = assert!(CAPACITY << INDEX_BITS <= u32::MAX as usize);

pub(crate) struct Class {
    /// Blocks are this power of two, in bytes.
    block_shift: u32,
    directory: Directory,
    slabs: CachePadded<Mutex<Slabs>>,
}

/// The slabs of a class. Their numbers stay inside handles.
struct Slabs {
    numbered: BTreeMap<u32, Slab>,
    /// Where the search for an unused number starts.
    next_number: u32,
    /// Slabs with a free block, lowest address first.
    available: BTreeSet<(usize, u32)>,
    /// How many of those are wholly empty: at most one is kept.
    empty: usize,
    /// Whether a block came back since idle pages were last looked for.
    has_news: bool,
    /// Struck from everything, waiting to be unmapped outside the lock.
    retired: Vec<Slab>,
}

impl Class {
    pub(super) fn new(block_bytes: usize) -> Self {
        let slabs = Slabs {
            numbered: BTreeMap::new(),
            next_number: 0,
            available: BTreeSet::new(),
            empty: 0,
            has_news: false,
            retired: Vec::new(),
        };
        Self {
            block_shift: block_bytes.trailing_zeros(),
            directory: Directory::new(),
            slabs: CachePadded::new(Mutex::new(slabs)),
        }
    }

    #[inline]
    pub(crate) fn block_bytes(&self) -> usize {
        1 << self.block_shift
    }

    /// Hands out a block of a slab that is mapped. `None` if there is none, or none that is
    /// resident while `bound` allows no more to become so.
    pub(super) fn take(&self, books: &Books, bound: Bound) -> Option<Block> {
        let mut slabs = self.slabs.lock();
        let (_, number) = *slabs.available.first()?;
        slabs.take_from(number, |bytes| books.wake(bytes, bound))
    }

    /// Hands out a block that is resident already, from whichever slab.
    pub(super) fn take_resident(&self) -> Option<Block> {
        let mut slabs = self.slabs.lock();
        let mut numbers = slabs.available.iter().map(|(_, number)| *number);
        let number = numbers.find(|number| slabs.numbered[number].has_resident())?;
        slabs.take_from(number, |_| false)
    }

    /// Takes a block back. `true`: a slab now waits to be [unmapped](Self::unmap_retired).
    pub(super) fn give(&self, block: Block, books: &Books) -> bool {
        let (number, index) = split(block.0);
        let mut slabs = self.slabs.lock();
        let Some(slab) = slabs.numbered.get_mut(&number) else {
            debug_assert!(false, "a block of an unmapped slab was given back");
            return false;
        };
        let was_full = !slab.has_free();
        let given = slab.give(index);
        debug_assert!(given, "a block was given back twice");
        let (address, is_empty) = (slab.address(), slab.is_empty());
        slabs.has_news = true;
        if was_full {
            slabs.available.insert((address, number));
        }
        if is_empty && given {
            slabs.empty += 1;
            if slabs.empty > 1 {
                self.retire(&mut slabs, number, books);
                return true;
            }
        }
        false
    }

    /// Maps a slab and hands out its first block. Call with no lock held.
    pub(super) fn grow(&self) -> Result<Block, Refused> {
        let slab = Slab::map(self.block_bytes())?;
        let mut slabs = self.slabs.lock();
        let Some(number) = slabs.unused_number() else {
            drop(slabs);
            return Err(Refused::out_of_memory((CAPACITY * BYTES) as u64, BYTES as u64));
        };
        self.directory.insert(number as usize, slab.entry());
        slabs.available.insert((slab.address(), number));
        slabs.empty += 1;
        slabs.numbered.insert(number, slab);
        Ok(slabs.take_from(number, |_| true).expect("a slab was added under this lock"))
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
        let entry = unsafe { self.directory.entry(number as usize) };
        // SAFETY: the handle was made by `take_from`, so `index` is one of the slab's blocks; its
        // records and its memory stay while the block is held.
        unsafe { (&*entry.records.add(index), entry.base.add(index << self.block_shift)) }
    }

    pub(super) fn note(&self, block: u32) -> Option<(&'static Location<'static>, u32)> {
        let (number, index) = split(block);
        self.slabs.lock().numbered.get(&number)?.records().get(index)?.note().read()
    }

    /// Retires every empty slab, even the one that is usually kept.
    pub(super) fn retire_empty(&self, books: &Books) {
        let mut slabs = self.slabs.lock();
        while let Some(number) = slabs.first_empty() {
            self.retire(&mut slabs, number, books);
        }
    }

    /// Unmaps what was retired, and answers how many bytes that was. Call with no lock held.
    pub(super) fn unmap_retired(&self) -> u64 {
        let retired = std::mem::take(&mut self.slabs.lock().retired);
        (retired.len() * BYTES) as u64
    }

    /// Gives the idle pages inside partly used slabs back to the system. Call with no lock held.
    pub(super) fn discard_idle(&self, books: &Books) {
        let mut slabs = self.slabs.lock();
        if !std::mem::take(&mut slabs.has_news) {
            return;
        }
        let numbers: Vec<u32> = slabs.partly_used().collect();
        drop(slabs);
        for number in numbers {
            loop {
                let mut slabs = self.slabs.lock();
                let Some((groups, discarder)) = slabs.set_aside(number) else { break };
                drop(slabs);
                let discarded = discarder.discard(&groups);
                drop(discarder);
                self.put_back(number, &groups, discarded, books);
                if discarded < groups.len() {
                    break;
                }
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
            blocks_in_use: slabs.numbered.values().map(Slab::blocks_in_use).sum(),
            discarded_bytes: slabs.numbered.values().map(Slab::discarded_bytes).sum(),
        }
    }

    pub(super) fn bookkeeping_bytes(&self) -> usize {
        let slabs = self.slabs.lock();
        let records: usize = slabs.numbered.values().map(Slab::heap_bytes).sum();
        records + self.directory.heap_bytes()
    }

    /// Strikes an empty slab. It is unmapped by [`unmap_retired`](Self::unmap_retired).
    fn retire(&self, slabs: &mut Slabs, number: u32, books: &Books) {
        self.directory.remove(number as usize);
        let slab = slabs.numbered.remove(&number).expect("an empty slab is there to be struck");
        slabs.available.remove(&(slab.address(), number));
        slabs.empty -= 1;
        books.forget_discarded(slab.discarded_bytes() as u64);
        slabs.retired.push(slab);
    }

    fn put_back(&self, number: u32, groups: &[usize], discarded: usize, books: &Books) {
        let mut slabs = self.slabs.lock();
        // It is not empty while groups of it are set aside, so nobody retired it.
        let Some(slab) = slabs.numbered.get_mut(&number) else { return };
        let was_full = !slab.has_free();
        books.discard(slab.release_idle(groups, discarded) as u64);
        let (address, is_empty) = (slab.address(), slab.is_empty());
        if was_full {
            slabs.available.insert((address, number));
        }
        if is_empty {
            slabs.empty += 1;
            if slabs.empty > 1 {
                self.retire(&mut slabs, number, books);
            }
        }
    }
}

/// A handle's slab, and the block's index in it.
#[inline(always)]
fn split(block: u32) -> (u32, usize) {
    (block >> INDEX_BITS, (block & ((1 << INDEX_BITS) - 1)) as usize)
}

impl Slabs {
    /// Hands out a block of a slab with a free one. `wake` is asked before one is taken whose pages
    /// would become resident again.
    fn take_from(&mut self, number: u32, wake: impl FnOnce(u64) -> bool) -> Option<Block> {
        let slab = self.numbered.get_mut(&number)?;
        let was_empty = slab.is_empty();
        let index = slab.take(wake)?;
        if !slab.has_free() {
            self.available.remove(&(slab.address(), number));
        }
        if was_empty {
            self.empty -= 1;
        }
        Some(Block(number << INDEX_BITS | index as u32))
    }

    /// A number that no slab has. They are used in turn, so that nothing has to remember which
    /// are free.
    fn unused_number(&mut self) -> Option<u32> {
        if self.numbered.len() == CAPACITY {
            return None;
        }
        loop {
            let number = self.next_number;
            self.next_number = (number + 1) % CAPACITY as u32;
            if !self.numbered.contains_key(&number) {
                return Some(number);
            }
        }
    }

    fn first_empty(&self) -> Option<u32> {
        if self.empty == 0 {
            return None;
        }
        let mut numbers = self.available.iter().map(|(_, number)| *number);
        numbers.find(|number| self.numbered[number].is_empty())
    }

    fn partly_used(&self) -> impl Iterator<Item = u32> {
        self.available
            .iter()
            .map(|(_, number)| *number)
            .filter(|number| !self.numbered[number].is_empty())
    }

    /// Sets idle blocks of a partly used slab aside, so that their pages can be given back.
    fn set_aside(&mut self, number: u32) -> Option<(Vec<usize>, Discarder)> {
        let slab = self.numbered.get_mut(&number).filter(|slab| !slab.is_empty())?;
        let groups = slab.claim_idle(DISCARD_BATCH);
        if groups.is_empty() {
            return None;
        }
        let discarder = slab.discarder();
        if !slab.has_free() {
            let entry = (slab.address(), number);
            self.available.remove(&entry);
        }
        Some((groups, discarder))
    }
}
