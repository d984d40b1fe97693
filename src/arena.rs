//! Where the bytes are: slabs cut into equal blocks, and what is known of each block.
//!
//! **Promises.** A block that was handed out is handed out to nobody else before it is given back,
//! and it is given back once. Memory is asked of the system in *slabs* of 1 MiB, or in one mapping
//! of its own for a lease larger than every class. What is mapped is bounded: a class keeps at most
//! one wholly empty slab, so mapped memory is at most the blocks in use, plus one slab per class,
//! plus the free blocks inside partly used slabs (*fragmentation*). Those are kept few by handing
//! out from the slab with the lowest address first, are given back to the system page by page when
//! the arena would otherwise outgrow its [`Bounds`], and beyond those it refuses to map more.
//!
//! **States of a slab**, under its class's lock:
//!
//! ```text
//!  mapped ──▶ empty ◀──▶ partly used ◀──▶ full
//!               └──▶ retired ──▶ unmapped, after every lock is let go
//! ```
//!
//! The arena knows nothing of budgets, and nothing of connections. It maps, unmaps and advises under
//! no lock that anybody needs for a block it could have: [`Arena::grow`] and [`Arena::settle`] are
//! called with none held, and take turns among themselves.
//!
//! **Finding a block.** A handle is 32 bits: which slab of its class, which block of the slab. A
//! [`directory`] of two levels leads from it to the block's record without a lock, since whoever
//! holds a block keeps its slab mapped.
//!
//! A block's record costs 64 bytes, a cache line of its own, so that two connections never write
//! the same one: 12.5 % of a 512-byte block, 1.6 % of 4 KiB, 0.1 % of 64 KiB.

mod bitmap;
mod books;
mod class;
mod directory;
mod mapping;
mod slab;

use std::panic::Location;
use std::ptr::NonNull;

use crossbeam_utils::CachePadded;

use crate::error::{ConfigError, Refused};
use crate::sync::unmodelled::{AtomicPtr, AtomicU32, Relaxed};
use crate::sync::{Mutex, Probe};
pub(crate) use books::Bounds;
use books::{Books, Bound};
pub(crate) use class::Class;
pub(crate) use mapping::Mapping;

/// The most size classes a governor can have. Each costs every connection 40 bytes.
#[cfg(not(leasehold_loom))]
pub const MAX_CLASSES: usize = 5;
/// The most size classes a governor can have. Each costs every connection 40 bytes.
#[cfg(leasehold_loom)]
pub const MAX_CLASSES: usize = 2;
/// The smallest block, in bytes.
pub const MIN_CLASS_BYTES: usize = 256;
/// The largest block, in bytes. Larger leases get a mapping of their own.
pub const MAX_CLASS_BYTES: usize = 256 << 10;

/// Block sizes unless others are configured, in bytes.
#[cfg(not(leasehold_loom))]
pub(crate) const DEFAULT_CLASSES: &[usize] = &[512, 2 << 10, 4 << 10, 16 << 10, 64 << 10];
#[cfg(leasehold_loom)]
pub(crate) const DEFAULT_CLASSES: &[usize] = &[MIN_CLASS_BYTES];

/// A block that left the arena. Not `Copy`: it is either somewhere, or given back.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a block that is dropped is lost"]
pub(crate) struct Block(pub(crate) u32);

/// What is known of one block, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Record {
    note: Note,
    /// Watches the block's bytes in the models.
    pub(crate) probe: Probe,
}

impl Record {
    pub(crate) fn note(&self) -> &Note {
        &self.note
    }
}

/// Who leased a block, and when.
#[derive(Debug, Default)]
pub(crate) struct Note {
    site: AtomicPtr<Location<'static>>,
    tick: AtomicU32,
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
    pub classes: Vec<ClassReport>,
}

/// One size class of the arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassReport {
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
    /// The class for a length of `n`, by the bits that `n - 1` takes.
    class_of: [u8; usize::BITS as usize + 1],
    classes: Box<[Class]>,
    /// Whether blocks are overwritten with zeroes as they come back.
    zero_on_return: bool,
    /// Whether slabs wait to be unmapped: a hint that spares the classes' locks.
    unsettled: CachePadded<AtomicU32>,
    /// Held while memory goes back to the system, so that nobody is refused for want of what is on
    /// its way. The one lock that is held across such calls; taken with no other held.
    giving_up: CachePadded<Mutex<()>>,
    /// Held while a slab is mapped, before `giving_up`: whoever comes next may need no other one, and
    /// is not refused because of slabs that several map of which each needs one block.
    growing: CachePadded<Mutex<()>>,
    books: Books,
}

impl Arena {
    const NO_CLASS: u8 = u8::MAX;

    pub(crate) fn new(
        sizes: &[usize],
        bounds: Bounds,
        zero_on_return: bool,
    ) -> Result<Self, ConfigError> {
        check_sizes(sizes)?;
        let mut class_of = [Self::NO_CLASS; usize::BITS as usize + 1];
        for (bits, class) in class_of.iter_mut().enumerate() {
            let fits = |size: &usize| size.trailing_zeros() as usize >= bits;
            if let Some(found) = sizes.iter().position(fits) {
                *class = found as u8;
            }
        }
        Ok(Self {
            class_of,
            classes: sizes.iter().map(|&size| Class::new(size)).collect(),
            zero_on_return,
            unsettled: CachePadded::new(AtomicU32::new(0)),
            giving_up: CachePadded::new(Mutex::new(())),
            growing: CachePadded::new(Mutex::new(())),
            books: Books::new(bounds),
        })
    }

    pub(crate) fn class_count(&self) -> usize {
        self.classes.len()
    }

    /// The smallest class with blocks of at least `len` bytes.
    #[inline]
    pub(crate) fn class_for(&self, len: usize) -> Option<usize> {
        let bits = usize::BITS - len.saturating_sub(1).leading_zeros();
        let class = self.class_of[bits as usize];
        (class != Self::NO_CLASS).then_some(class as usize)
    }

    /// The size of a block, in bytes.
    #[inline]
    pub(crate) fn block_bytes(&self, class: usize) -> usize {
        self.classes[class].block_bytes()
    }

    /// Hands out a block from a slab that is mapped already.
    pub(crate) fn take(&self, class: usize) -> Option<Block> {
        self.classes[class].take(&self.books, Bound::Frugal)
    }

    /// Whether blocks are overwritten with zeroes as they come back.
    #[inline]
    pub(crate) fn zero_on_return(&self) -> bool {
        self.zero_on_return
    }

    /// Takes a block back.
    pub(crate) fn give(&self, class: usize, block: Block) {
        if self.zero_on_return {
            let class = self.class(class);
            // SAFETY: the block is still out, in the caller's hands alone, and this many bytes.
            unsafe { class.locate(block.0).1.write_bytes(0, class.block_bytes()) };
        }
        if self.classes[class].give(block, &self.books) {
            self.unsettled.store(1, Relaxed);
        }
    }

    /// Hands out a block, making room and mapping a slab if need be. Call with no lock held.
    pub(crate) fn grow(&self, class: usize) -> Result<Block, Refused> {
        let _turn = self.growing.lock();
        self.with_room(slab::BYTES as u64, || self.try_grow(class))
    }

    /// Maps a block of its own for a lease larger than every class. Call with no lock held.
    pub(crate) fn map_large(&self, bytes: usize) -> Result<Mapping, Refused> {
        self.with_room(bytes as u64, || {
            self.books.map_large(bytes as u64)?;
            Mapping::new(bytes).map_err(|_| {
                self.books.unmap_large(bytes as u64);
                Refused::out_of_memory(self.books.read().mapped(), bytes as u64)
            })
        })
    }

    /// Unmaps a large block. Call with no lock held.
    pub(crate) fn unmap_large(&self, mapping: Mapping) {
        let _turn = self.giving_up.lock();
        let bytes = mapping.len() as u64;
        drop(mapping);
        self.books.unmap_large(bytes);
    }

    /// Unmaps every slab of which no block is out. Call with no lock held.
    pub(crate) fn release_empty(&self) {
        let _turn = self.giving_up.lock();
        self.classes.iter().for_each(|class| class.retire_empty(&self.books));
        self.unmap_retired();
    }

    /// Unmaps the slabs that were retired. Call with no lock held, after giving blocks back.
    #[inline]
    pub(crate) fn settle(&self) {
        if self.unsettled.load(Relaxed) != 0 {
            self.settle_now();
        }
    }

    #[cold]
    #[inline(never)]
    fn settle_now(&self) {
        let _turn = self.giving_up.lock();
        self.unmap_retired();
    }

    /// Called by whose turn it is to give memory up.
    fn unmap_retired(&self) {
        self.unsettled.store(0, Relaxed);
        for class in &self.classes {
            let unmapped = class.unmap_retired();
            if unmapped > 0 {
                self.books.unmap_slabs(unmapped);
            }
        }
    }

    /// Changes how much may be mapped. What is mapped already stays.
    pub(crate) fn set_bounds(&self, bounds: Bounds) {
        self.books.set_bounds(bounds);
    }

    /// Everything about one size class.
    #[inline(always)]
    pub(crate) fn class(&self, class: usize) -> &Class {
        &self.classes[class]
    }

    /// Where and when a block that is out was leased. Takes the class's lock.
    pub(crate) fn note(
        &self,
        class: usize,
        block: u32,
    ) -> Option<(&'static Location<'static>, u32)> {
        self.classes[class].note(block)
    }

    /// What the arena holds right now, class by class.
    pub(crate) fn report(&self) -> ArenaReport {
        let classes: Vec<_> = self.classes.iter().map(Class::report).collect();
        let bookkeeping = self.classes.iter().map(Class::bookkeeping_bytes).sum::<usize>();
        let figures = self.books.read();
        let blocks = classes.iter().map(|c| c.blocks_in_use * c.block_bytes).sum::<usize>();
        ArenaReport {
            mapped_bytes: figures.mapped(),
            resident_bytes: figures.resident(),
            in_use_bytes: blocks as u64 + figures.large,
            large_bytes: figures.large,
            bookkeeping_bytes: bookkeeping as u64,
            classes,
        }
    }

    /// Asks for `bytes` more, first out of what is there. If that would take the arena beyond its
    /// frugal bound, or fails, what nobody uses is given up before it is refused: with whatever
    /// another thread is giving up at the moment.
    fn with_room<T>(&self, bytes: u64, ask: impl Fn() -> Result<T, Refused>) -> Result<T, Refused> {
        if self.books.admit(bytes, Bound::Frugal)
            && let Ok(granted) = ask()
        {
            return Ok(granted);
        }
        let _turn = self.giving_up.lock();
        self.give_up_idle();
        ask()
    }

    fn try_grow(&self, number: usize) -> Result<Block, Refused> {
        let class = &self.classes[number];
        if let Some(block) = class.take(&self.books, Bound::Hard) {
            return Ok(block);
        }
        match self.books.map_slab() {
            Ok(()) => class.grow().inspect_err(|_| self.books.unmap_slabs(slab::BYTES as u64)),
            // Nothing more may become resident: is there a block that already is?
            Err(refused) => class.take_resident().ok_or(refused),
        }
    }

    /// Gives up what nobody uses: empty slabs, then idle pages. Called by whose turn it is.
    fn give_up_idle(&self) {
        self.classes.iter().for_each(|class| class.retire_empty(&self.books));
        self.unmap_retired();
        if Mapping::CAN_DISCARD {
            self.classes.iter().for_each(|class| class.discard_idle(&self.books));
            self.unmap_retired();
        }
    }
}

fn check_sizes(sizes: &[usize]) -> Result<(), ConfigError> {
    if sizes.is_empty() || sizes.len() > MAX_CLASSES {
        return Err(ConfigError::ClassCount { count: sizes.len() });
    }
    let mut previous = 0;
    for &bytes in sizes {
        if !bytes.is_power_of_two() || !(MIN_CLASS_BYTES..=MAX_CLASS_BYTES).contains(&bytes) {
            return Err(ConfigError::ClassSize { bytes });
        }
        if bytes <= previous {
            return Err(ConfigError::ClassOrder { bytes });
        }
        previous = bytes;
    }
    Ok(())
}
