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
//! The arena knows nothing of budgets, and nothing of connections. It never maps, unmaps or
//! advises under a lock: [`Arena::grow`] and [`Arena::settle`] are called with none held.
//!
//! **Finding a block.** A handle is 32 bits: which slab of its class, which block of the slab. A
//! [`directory`] of two levels leads from it to the block's record without a lock, since whoever
//! holds a block keeps its slab mapped.
//!
//! A block's record costs 64 bytes, a cache line of its own, so that two connections never write
//! the same one: 12.5 % of a 512-byte block, 1.6 % of 4 KiB, 0.1 % of 64 KiB.

mod bitmap;
mod class;
mod directory;
mod mapping;
mod slab;

use std::panic::Location;
use std::ptr::NonNull;

use crossbeam_utils::CachePadded;

use crate::error::{ConfigError, Refused, Resource, Scope};
use crate::limit::Limit;
use crate::sync::unmodelled::{AtomicPtr, AtomicU32, Relaxed};
use crate::sync::{Mutex, Probe};
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

/// How much the arena may map, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Beyond this, empty slabs and idle pages are given up before more is mapped.
    pub(crate) frugal: u64,
    /// Beyond this, nothing more is mapped.
    pub(crate) hard: u64,
}

impl Bounds {
    /// A budget of `memory`, one slab for each of `classes`, and a quarter of all that (or what is
    /// configured) for fragmentation.
    pub(crate) fn new(memory: Limit, classes: usize, fragmentation: Option<u64>) -> Self {
        let Limit::Max(memory) = memory else {
            return Self { frugal: u64::MAX, hard: u64::MAX };
        };
        let frugal = memory.saturating_add((classes * slab::BYTES) as u64);
        let fragmentation = fragmentation.unwrap_or(frugal / 4);
        Self { frugal, hard: frugal.saturating_add(fragmentation) }
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
    mapped: CachePadded<Mutex<Mapped>>,
}

#[derive(Clone, Copy)]
struct Mapped {
    slab_bytes: u64,
    large_bytes: u64,
    bounds: Bounds,
}

impl Mapped {
    fn total(&self) -> u64 {
        self.slab_bytes + self.large_bytes
    }
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
        let mapped = Mapped { slab_bytes: 0, large_bytes: 0, bounds };
        Ok(Self {
            class_of,
            classes: sizes.iter().map(|&size| Class::new(size)).collect(),
            zero_on_return,
            mapped: CachePadded::new(Mutex::new(mapped)),
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
        self.classes[class].take()
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
        self.classes[class].give(block);
    }

    /// Maps one more slab and hands out its first block. Call with no lock held.
    pub(crate) fn grow(&self, class: usize) -> Result<Block, Refused> {
        let bytes = slab::BYTES as u64;
        if self.resident_bytes().saturating_add(bytes) > self.bounds().frugal {
            self.give_up_idle(class);
            // Somebody may have given a block back meanwhile.
            if let Some(block) = self.take(class) {
                return Ok(block);
            }
        }
        self.account_slab()?;
        self.classes[class].grow().inspect_err(|_| self.mapped.lock().slab_bytes -= bytes)
    }

    /// Maps a block of its own for a lease larger than every class. Call with no lock held.
    pub(crate) fn map_large(&self, bytes: usize) -> Result<Mapping, Refused> {
        let mapping = Mapping::new(bytes).map_err(|_| {
            let mapped = self.mapped.lock().total();
            Refused::out_of_memory(mapped, bytes as u64)
        })?;
        self.mapped.lock().large_bytes += bytes as u64;
        Ok(mapping)
    }

    /// Unmaps a large block. Call with no lock held.
    pub(crate) fn unmap_large(&self, mapping: Mapping) {
        self.mapped.lock().large_bytes -= mapping.len() as u64;
        drop(mapping);
    }

    /// Unmaps the slabs that were retired. Call with no lock held, after giving blocks back.
    pub(crate) fn settle(&self) {
        for class in &self.classes {
            let unmapped = class.unmap_retired();
            if unmapped > 0 {
                self.mapped.lock().slab_bytes -= unmapped;
            }
        }
    }

    /// Changes how much may be mapped. What is mapped already stays.
    pub(crate) fn set_bounds(&self, bounds: Bounds) {
        self.mapped.lock().bounds = bounds;
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
        let Mapped { slab_bytes, large_bytes, .. } = *self.mapped.lock();
        let blocks = classes.iter().map(|c| c.blocks_in_use * c.block_bytes).sum::<usize>();
        let discarded = classes.iter().map(|c| c.discarded_bytes).sum::<usize>();
        ArenaReport {
            mapped_bytes: slab_bytes + large_bytes,
            resident_bytes: (slab_bytes + large_bytes).saturating_sub(discarded as u64),
            in_use_bytes: blocks as u64 + large_bytes,
            large_bytes,
            bookkeeping_bytes: bookkeeping as u64,
            classes,
        }
    }

    /// Counts one more slab as mapped, if the bounds allow it.
    fn account_slab(&self) -> Result<(), Refused> {
        let bytes = slab::BYTES as u64;
        let discarded = self.discarded_bytes();
        let mut mapped = self.mapped.lock();
        let resident = mapped.total().saturating_sub(discarded);
        if resident.saturating_add(bytes) > mapped.bounds.hard {
            let limit = Limit::Max(mapped.bounds.hard);
            return Err(Refused::new(Scope::Arena, Resource::Memory, limit, resident, bytes));
        }
        mapped.slab_bytes += bytes;
        Ok(())
    }

    /// Gives up what nobody uses: empty slabs of other classes, then idle pages of all.
    fn give_up_idle(&self, except: usize) {
        for (index, class) in self.classes.iter().enumerate() {
            if index != except {
                class.retire_empty();
            }
        }
        self.settle();
        if Mapping::CAN_DISCARD {
            for class in &self.classes {
                class.discard_idle();
            }
            self.settle();
        }
    }

    fn resident_bytes(&self) -> u64 {
        let discarded = self.discarded_bytes();
        self.mapped.lock().total().saturating_sub(discarded)
    }

    fn bounds(&self) -> Bounds {
        self.mapped.lock().bounds
    }

    fn discarded_bytes(&self) -> u64 {
        self.classes.iter().map(Class::discarded_bytes).sum()
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
