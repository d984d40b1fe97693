//! Where the bytes are: slabs cut into equal blocks, and what is known of each block.
//!
//! **Promises.** A block that was handed out is not handed out again before it is given back, and it
//! is given back once. Memory is asked of the system in *slabs* of 1 MiB, or in one mapping of its
//! own for a lease larger than every size class. What is mapped is bounded: a size class keeps at
//! most one wholly empty slab, so mapped memory is at most the blocks in use, plus one slab for each
//! size class, plus the free blocks inside partly used slabs (*fragmentation*). Those are kept few by
//! handing out from partly used slabs first, and of those from the one with the lowest number; they
//! are given back to the system page by page when the arena would otherwise outgrow its [`Bounds`],
//! and beyond those it refuses to map more.
//!
//! The arena knows nothing of budgets, and nothing of connections.
//!
//! **States of a slab:**
//!
//! ```text
//!           mmap                                            munmap
//!  entered ──────▶ partly used ◀─────▶ empty ──▶ given up ─────────▶ struck
//!                   ▲       │       one of two,
//!                   ▼       ▼       or to make room
//!                 full    pages set aside ──────────▶ partly used, less these pages
//!                                           madvise
//! ```
//!
//! They change under the lock of the slab's size class, and the calls to the system are made without
//! it. From *entered* to *struck* the books count a slab as resident, less the pages that were given
//! back.
//!
//! **Giving up.** Memory goes back to the system in three steps: under a lock it leaves what can be
//! handed out, and the [`books`] note that it is *being given up*, while it still counts as
//! resident; then the calling thread unmaps or discards it, with no lock held; then the books strike
//! it and wake the threads that wait for that.
//!
//! - A thread that *gives* ([`give`](Arena::give), [`settle`](Arena::settle),
//!   [`unmap_large`](Arena::unmap_large)) never waits for another thread's call to the system.
//! - A thread that *asks* ([`grow`](Arena::grow), [`map_large`](Arena::map_large)) is not refused for
//!   want of memory that is idle, or that is being given up. If the arena would outgrow its frugal
//!   bound, or the system has no memory, the thread waits for what others are giving up, gives up
//!   itself all that is idle, and asks again. Where only memory that is being given up stands between
//!   it and the hard bound, it waits for that.
//!
//! What must be allocated for a block or a slab is reserved before anything changes, so a system
//! without memory leads to a refusal ([`Reason::OutOfMemory`](crate::Reason::OutOfMemory)) and not to
//! an abort. Giving allocates nothing.
//!
//! **Finding a block.** A block's number is 32 bits: which slab of its size class, which block of the
//! slab. A [`directory`] leads from it to the block's record without a lock, since a block that is
//! out keeps its slab mapped. A record costs 64 bytes, a cache line of its own, so that two
//! connections never write the same one: 12.5 % of a 512-byte block, 1.6 % of 4 KiB, 0.1 % of 64 KiB.

mod anchored;
mod bitmap;
mod block;
mod books;
mod directory;
mod mapping;
mod size_class;
mod sizes;
mod slab;

use std::panic::Location;

use crossbeam_utils::CachePadded;

use crate::error::{ConfigError, Refused};
use crate::ranges::{MAX_BLOCK_BYTES, MAX_SIZE_CLASSES, MIN_BLOCK_BYTES};
use crate::sync::Mutex;
use crate::sync::unmodelled::{AtomicU32, Relaxed};
pub(crate) use anchored::Anchored;
pub(crate) use block::{Block, BlockCell, Note};
pub(crate) use books::Bounds;
use books::{Books, Bound};
pub(crate) use mapping::Mapping;
pub(crate) use size_class::Lookup;
use size_class::SizeClass;
pub(crate) use sizes::SizeClasses;

/// Block sizes unless others are configured, in bytes.
#[cfg(not(leasehold_loom))]
pub(crate) const DEFAULT_SIZE_CLASSES: &[usize] = &[512, 2 << 10, 4 << 10, 16 << 10, 64 << 10];
#[cfg(leasehold_loom)]
pub(crate) const DEFAULT_SIZE_CLASSES: &[usize] = &[MIN_BLOCK_BYTES];

/// What the arena holds, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArenaReport {
    /// Address space that is mapped for slabs and for large leases.
    pub mapped_bytes: u64,
    /// An estimate from above of what of it is resident: mapped, less the idle pages that were
    /// given back to the system.
    pub resident_bytes: u64,
    /// Blocks and large leases that left the arena: cached, leased, pinned or detached.
    pub in_use_bytes: u64,
    /// Of `in_use_bytes`, the leases with a mapping of their own.
    pub large_bytes: u64,
    /// The arena's own records, outside what it maps.
    pub bookkeeping_bytes: u64,
    /// One row for each size class, smallest first.
    pub size_classes: Vec<SizeClassReport>,
}

/// One size class of the arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SizeClassReport {
    /// The size of a block.
    pub block_bytes: usize,
    /// Slabs that are mapped.
    pub slabs: usize,
    /// Blocks in those slabs.
    pub blocks: usize,
    /// Blocks that left the arena.
    pub blocks_in_use: usize,
    /// Idle bytes that were given back to the system while their slab is partly used.
    pub discarded_bytes: usize,
}

/// The memory of one governor.
pub(crate) struct Arena {
    sizes: SizeClasses,
    /// Anchored: a [`Lookup`] leads here.
    classes: Anchored<[SizeClass]>,
    /// Whether blocks are overwritten with zeroes as they come back.
    zero_on_return: bool,
    /// Whether a size class has more than one empty slab: a hint that spares the locks. Relaxed, for
    /// the locks order it: a thread that clears the mark and then finds no such slab had the lock
    /// before the block came back, so the mark that follows the return is the later one, and stays.
    unsettled: CachePadded<AtomicU32>,
    /// Held while a slab is mapped, with no other lock. Otherwise threads that each need one block
    /// would each map a slab, and be refused although one slab serves all.
    growing: CachePadded<Mutex<()>>,
    books: Books,
}

/// The size of a slab, in bytes.
const SLAB: u64 = slab::BYTES as u64;

impl Arena {
    pub(crate) fn new(
        sizes: &[usize],
        bounds: Bounds,
        zero_on_return: bool,
    ) -> Result<Self, ConfigError> {
        check_sizes(sizes)?;
        Ok(Self {
            sizes: SizeClasses::new(sizes),
            classes: Anchored::new(sizes.iter().map(|&size| SizeClass::new(size)).collect()),
            zero_on_return,
            unsettled: CachePadded::new(AtomicU32::new(0)),
            growing: CachePadded::new(Mutex::new(())),
            books: Books::new(bounds),
        })
    }

    /// The block sizes.
    #[inline]
    pub(crate) fn sizes(&self) -> SizeClasses {
        self.sizes
    }

    /// The way to blocks that have left this arena.
    #[inline]
    pub(crate) fn lookup(&self) -> Lookup {
        Lookup::new(&self.classes)
    }

    /// Whether blocks are overwritten with zeroes as they come back.
    #[inline]
    pub(crate) fn zero_on_return(&self) -> bool {
        self.zero_on_return
    }

    /// Hands out a block from a slab that is mapped already.
    pub(crate) fn take(&self, class: usize) -> Option<Block> {
        self.classes[class].take(&self.books, Bound::Frugal)
    }

    /// Takes back a block of this size class. Call [`settle`](Self::settle) afterwards, with no lock
    /// held.
    pub(crate) fn give(&self, class: usize, block: Block) {
        if self.zero_on_return {
            // SAFETY: a `Block` is out as long as it exists, and no lease has it: its owner vacated
            // the place where it was. It is of this arena and class, as the caller says, and goes
            // back below.
            unsafe {
                let (_, base, bytes) = self.lookup().locate(class, block.number());
                base.write_bytes(0, bytes);
            }
        }
        if self.classes[class].give(block) {
            self.unsettled.store(1, Relaxed);
        }
    }

    /// Hands out a block, making room and mapping a slab if need be. Call with no lock held.
    pub(crate) fn grow(&self, class: usize) -> Result<Block, Refused> {
        let _turn = self.growing.lock();
        self.with_room(SLAB, || self.try_grow(&self.classes[class]))
    }

    /// Maps at least `bytes` for a lease larger than every size class. Call with no lock held.
    pub(crate) fn map_large(&self, bytes: usize) -> Result<Mapping, Refused> {
        let Some(rounded) = Mapping::round_up(bytes) else {
            return Err(Refused::out_of_memory(self.books.read().mapped(), bytes as u64));
        };
        self.with_room(rounded as u64, || {
            self.books.enter(rounded as u64, |figures| &mut figures.large)?;
            let strike = |_| self.books.strike(rounded as u64, |figures| &mut figures.large);
            Mapping::new(rounded).map_err(strike)
        })
    }

    /// Unmaps a large block. Call with no lock held.
    pub(crate) fn unmap_large(&self, mapping: Mapping) {
        let bytes = mapping.len() as u64;
        self.books.begin_giving_up(bytes);
        drop(mapping);
        self.books.end_giving_up(bytes, |figures| figures.large -= bytes);
    }

    /// Whether [`settle`](Self::settle) has anything to do.
    #[inline]
    pub(crate) fn is_unsettled(&self) -> bool {
        self.unsettled.load(Relaxed) != 0
    }

    /// Unmaps empty slabs beyond one of each size class. Call with no lock held, after giving blocks
    /// back.
    #[inline]
    pub(crate) fn settle(&self) {
        if self.is_unsettled() {
            self.settle_now();
        }
    }

    #[cold]
    #[inline(never)]
    fn settle_now(&self) {
        // Before the look at the slabs: a block that another thread gives back after it sets the
        // mark again.
        self.unsettled.store(0, Relaxed);
        self.unmap_empty(1);
    }

    /// Changes how much may be mapped. What is mapped already stays.
    pub(crate) fn set_bounds(&self, bounds: Bounds) {
        self.books.set_bounds(bounds);
    }

    /// Where and when a block that is out was leased. Takes the size class's lock.
    pub(crate) fn note(
        &self,
        class: usize,
        number: u32,
    ) -> Option<(&'static Location<'static>, u32)> {
        self.classes[class].note(number)
    }

    /// Notes the line that leases a block that is out. Takes the size class's lock.
    pub(crate) fn set_note(
        &self,
        class: usize,
        block: &Block,
        site: &'static Location<'static>,
        tick: u32,
    ) {
        self.classes[class].set_note(block.number(), site, tick);
    }

    /// What the arena holds right now, one size class after another.
    pub(crate) fn report(&self) -> ArenaReport {
        let size_classes: Vec<_> = self.classes.iter().map(SizeClass::report).collect();
        let bookkeeping = self.classes.iter().map(SizeClass::bookkeeping_bytes).sum::<usize>();
        let figures = self.books.read();
        let blocks = size_classes.iter().map(|c| c.blocks_in_use * c.block_bytes).sum::<usize>();
        ArenaReport {
            mapped_bytes: figures.mapped(),
            resident_bytes: figures.resident(),
            in_use_bytes: blocks as u64 + figures.large,
            large_bytes: figures.large,
            bookkeeping_bytes: (bookkeeping + size_of_val(&*self.classes)) as u64,
            size_classes,
        }
    }

    /// Asks for `bytes` more: first while that keeps the arena within its frugal bound, then, if it
    /// does not or fails, after giving up what is idle.
    fn with_room<T>(&self, bytes: u64, ask: impl Fn() -> Result<T, Refused>) -> Result<T, Refused> {
        if self.books.admits(bytes, Bound::Frugal)
            && let Ok(granted) = ask()
        {
            return Ok(granted);
        }
        // Before this thread looks for what is idle: what others set aside may be part of it.
        self.books.wait_for_others();
        self.unmap_empty(0);
        if Mapping::CAN_DISCARD {
            self.classes.iter().for_each(|class| class.discard_idle(&self.books));
            // What came back while pages of its slab were set aside may have emptied the slab.
            self.unmap_empty(0);
        }
        ask()
    }

    fn try_grow(&self, class: &SizeClass) -> Result<Block, Refused> {
        if let Some(block) = class.take(&self.books, Bound::Hard) {
            return Ok(block);
        }
        match self.books.enter(SLAB, |figures| &mut figures.slabs) {
            Ok(()) => {
                class.grow().map_err(|_| self.books.strike(SLAB, |figures| &mut figures.slabs))
            }
            // Nothing more may become resident: is there a block that already is?
            Err(refused) => class.take_resident().ok_or(refused),
        }
    }

    fn unmap_empty(&self, keep: usize) {
        self.classes.iter().for_each(|class| class.unmap_empty(keep, &self.books));
    }
}

fn check_sizes(sizes: &[usize]) -> Result<(), ConfigError> {
    if sizes.is_empty() || sizes.len() > MAX_SIZE_CLASSES {
        return Err(ConfigError::ClassCount { count: sizes.len() });
    }
    let mut previous = 0;
    for &bytes in sizes {
        if !bytes.is_power_of_two() || !(MIN_BLOCK_BYTES..=MAX_BLOCK_BYTES).contains(&bytes) {
            return Err(ConfigError::ClassSize { bytes });
        }
        if bytes <= previous {
            return Err(ConfigError::ClassOrder { bytes });
        }
        previous = bytes;
    }
    Ok(())
}

#[cfg(all(test, not(leasehold_loom)))]
mod tests;
