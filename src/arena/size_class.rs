//! One size class: its slabs, and the way to a block's record.

use std::panic::Location;
use std::ptr::NonNull;

use crossbeam_utils::CachePadded;
use hashbrown::HashTable;

use super::SizeClassReport;
use super::anchored::Anchored;
use super::bitmap::Bitmap;
use super::block::{Block, Record, split};
use super::books::{Books, Bound};
use super::directory::{CAPACITY, Directory};
use super::slab::{BYTES, IdlePages, Slab, State};
use crate::sync::Mutex;
use crate::try_box::OutOfMemory;

pub(super) struct SizeClass {
    /// Blocks are this power of two, in bytes.
    block_shift: u32,
    directory: Directory,
    slabs: CachePadded<Mutex<Slabs>>,
}

/// The slabs of a size class, by number, and for each of their states the numbers of the slabs in it.
/// A full slab is in none. Low numbers are used first, for slabs as for blocks, so that the others
/// can empty.
#[derive(Default)]
struct Slabs {
    mapped: HashTable<(u32, Slab)>,
    /// Numbers that no slab has.
    vacant: Bitmap,
    /// Slabs with a free block, and one that is out or set aside.
    partly_used: Bitmap,
    /// Slabs of which every block is free.
    empty: Bitmap,
    /// Slabs in which a block came back since idle pages were last sought there.
    unsearched: Bitmap,
}

/// A way to blocks that does not borrow their arena.
#[derive(Clone, Copy)]
pub(crate) struct Lookup(NonNull<SizeClass>);

// SAFETY: it leads to a `SizeClass`, which is `Send + Sync`, and reads it only.
unsafe impl Send for Lookup {}
// SAFETY: as above.
unsafe impl Sync for Lookup {}

impl Lookup {
    /// A way to the blocks of an arena with these size classes.
    #[inline]
    pub(super) fn new(classes: &Anchored<[SizeClass]>) -> Self {
        Self(classes.as_ptr().cast())
    }

    /// The record of a block, its first byte, and its size in bytes.
    ///
    /// # Safety
    ///
    /// The block with this `number` of this `class` has left the arena that this value is from, and
    /// is not given back while the result is used. Until then the slab, its place in the directory
    /// and its records stay; and the holder of the block guarantees that the arena does.
    #[inline(always)]
    pub(crate) unsafe fn locate<'a>(
        self,
        class: usize,
        number: u32,
    ) -> (&'a Record, NonNull<u8>, usize) {
        // SAFETY: a block of this class is out, so there is such a class; and by the caller's promise
        // the arena is alive, which keeps its size classes in one place.
        let class = unsafe { self.0.add(class).as_ref() };
        let (slab, index) = split(number);
        // SAFETY: the block is out, by the caller's promise. It was handed out with this number, so
        // `index` is below the number of the slab's records and blocks.
        unsafe {
            let (records, base) = class.directory.find(slab);
            let base = base.add(index << class.block_shift);
            (records.add(index).as_ref(), base, class.block_bytes())
        }
    }
}

impl SizeClass {
    pub(super) fn new(block_bytes: usize) -> Self {
        Self {
            block_shift: block_bytes.trailing_zeros(),
            directory: Directory::new(),
            slabs: CachePadded::new(Mutex::new(Slabs::default())),
        }
    }

    #[inline(always)]
    fn block_bytes(&self) -> usize {
        1 << self.block_shift
    }

    /// Hands out a block of a slab that is mapped. `None` if there is none, or none that is
    /// resident while `bound` allows no more to become so.
    pub(super) fn take(&self, books: &Books, bound: Bound) -> Option<Block> {
        let mut slabs = self.slabs.lock();
        let number = slabs.partly_used.first().or_else(|| slabs.empty.first())?;
        slabs.take_from(number, |bytes| books.wake(bytes, bound))
    }

    /// Hands out a block that is resident already, from any slab.
    pub(super) fn take_resident(&self) -> Option<Block> {
        let mut slabs = self.slabs.lock();
        let with_free = slabs.mapped.iter().filter(|(_, slab)| slab.has_resident());
        let number = with_free.map(|(number, _)| *number).min()?;
        slabs.take_from(number as usize, |_| false)
    }

    /// Takes a block back. `true`: more than one slab is empty now, of which one is kept and the
    /// others are to be [unmapped](Self::unmap_empty).
    pub(super) fn give(&self, block: Block) -> bool {
        let (number, index) = split(block.number());
        let mut slabs = self.slabs.lock();
        let Some(slab) = slabs.get_mut(number) else {
            debug_assert!(false, "a block of an unmapped slab was given back");
            return false;
        };
        let given = slab.give(index);
        debug_assert!(given, "a block was given back twice");
        let state = slab.state();
        slabs.file(number, state);
        slabs.unsearched.set(number as usize, true);
        state == State::Empty && slabs.empty.len() > 1
    }

    /// Maps a slab and hands out its first block, or changes nothing. Call with no lock held.
    pub(super) fn grow(&self) -> Result<Block, OutOfMemory> {
        let slab = Slab::map(self.block_bytes())?;
        let mut slabs = self.slabs.lock();
        let number = slabs.reserve()?;
        // SAFETY: the lock is held. The number is vacant, so no slab of it is entered. Records and
        // base stay while the slab is mapped; `unmap_empty` removes it from the directory before.
        unsafe { self.directory.insert(number, slab.first_record(), slab.base())? };
        slabs.insert(number, slab);
        // From this slab, so that it does not stay empty beside another.
        Ok(slabs.take_from(number as usize, |_| true).expect("a slab was added under this lock"))
    }

    pub(super) fn note(&self, number: u32) -> Option<(&'static Location<'static>, u32)> {
        let (slab, index) = split(number);
        self.slabs.lock().get_mut(slab)?.records().get(index)?.note.read()
    }

    pub(super) fn set_note(&self, number: u32, site: &'static Location<'static>, tick: u32) {
        let (slab, index) = split(number);
        if let Some(slab) = self.slabs.lock().get_mut(slab) {
            slab.records()[index].note.write(site, tick);
        }
    }

    /// Unmaps empty slabs while there are more than `keep`, one after another. Call with no lock
    /// held.
    pub(super) fn unmap_empty(&self, keep: usize, books: &Books) {
        while let Some(slab) = self.strike_empty(keep, books) {
            let discarded = slab.discarded_bytes() as u64;
            drop(slab);
            books.end_giving_up(BYTES as u64 - discarded, |figures| {
                figures.slabs -= BYTES as u64;
                figures.discarded -= discarded;
            });
        }
    }

    fn strike_empty(&self, keep: usize, books: &Books) -> Option<Slab> {
        let mut slabs = self.slabs.lock();
        if slabs.empty.len() <= keep {
            return None;
        }
        let number = slabs.empty.first()? as u32;
        // SAFETY: the lock is held, and the slab is entered as long as it is mapped. All its blocks
        // are free, and under the same lock it leaves the slabs from which blocks are handed out.
        unsafe { self.directory.remove(number) };
        let slab = slabs.remove(number)?;
        books.begin_giving_up((BYTES - slab.discarded_bytes()) as u64);
        Some(slab)
    }

    /// Gives the idle pages inside partly used slabs back to the system. Call with no lock held.
    pub(super) fn discard_idle(&self, books: &Books) {
        while let Some((number, idle)) = self.search_one(books) {
            if let Some(idle) = idle {
                let is_discarded = idle.discard();
                self.put_back(number, idle, is_discarded, books);
            }
        }
    }

    /// Searches one slab, and sets aside what is idle there. `None`: all slabs have been searched.
    fn search_one(&self, books: &Books) -> Option<(u32, Option<IdlePages>)> {
        let mut slabs = self.slabs.lock();
        let number = slabs.unsearched.first()? as u32;
        let slab = slabs.get_mut(number)?;
        let idle = slab.set_idle_aside();
        let state = slab.state();
        match &idle {
            Some(idle) => {
                slabs.file(number, state);
                books.begin_giving_up(idle.bytes() as u64);
            }
            None => slabs.unsearched.remove(number as usize),
        }
        Some((number, idle))
    }

    fn put_back(&self, number: u32, idle: IdlePages, is_discarded: bool, books: &Books) {
        let bytes = idle.bytes() as u64;
        let mut slabs = self.slabs.lock();
        let slab = slabs.get_mut(number).expect("a slab stays while blocks of it are set aside");
        slab.put_back(idle, is_discarded);
        let state = slab.state();
        slabs.file(number, state);
        if !is_discarded {
            // Not again before another block comes back there.
            slabs.unsearched.set(number as usize, false);
        }
        books.end_giving_up(bytes, |figures| {
            figures.discarded += if is_discarded { bytes } else { 0 };
        });
    }

    pub(super) fn report(&self) -> SizeClassReport {
        let slabs = self.slabs.lock();
        let (count, each) = (slabs.mapped.len(), || slabs.mapped.iter().map(|(_, slab)| slab));
        SizeClassReport {
            block_bytes: self.block_bytes(),
            slabs: count,
            blocks: count * (BYTES / self.block_bytes()),
            blocks_in_use: each().map(Slab::blocks_in_use).sum(),
            discarded_bytes: each().map(Slab::discarded_bytes).sum(),
        }
    }

    pub(super) fn bookkeeping_bytes(&self) -> usize {
        let slabs = self.slabs.lock();
        // SAFETY: the lock is held.
        slabs.heap_bytes() + unsafe { self.directory.heap_bytes() }
    }
}

impl Slabs {
    /// The fewest numbers that there is room for, if there is any slab.
    const FEWEST: usize = 64;

    fn get_mut(&mut self, number: u32) -> Option<&mut Slab> {
        self.mapped.find_mut(hash(number), |(of, _)| *of == number).map(|(_, slab)| slab)
    }

    /// Hands out a block of a slab with a free one. `wake` is asked before one is taken whose pages
    /// would become resident again.
    fn take_from(&mut self, number: usize, wake: impl FnOnce(u64) -> bool) -> Option<Block> {
        let number = number as u32;
        let slab = self.get_mut(number)?;
        let index = slab.take(wake)?;
        let state = slab.state();
        self.file(number, state);
        Some(Block::new(number, index))
    }

    /// Files a slab under its state.
    fn file(&mut self, number: u32, state: State) {
        self.partly_used.set(number as usize, state == State::PartlyUsed);
        self.empty.set(number as usize, state == State::Empty);
    }

    /// A number for one more slab. Inserting it allocates nothing.
    fn reserve(&mut self) -> Result<u32, OutOfMemory> {
        self.mapped.try_reserve(1, |(number, _)| hash(*number))?;
        if self.vacant.is_empty() {
            let (old, new) = (self.vacant.bound(), (self.vacant.bound() * 2).max(Self::FEWEST));
            if old >= CAPACITY {
                return Err(OutOfMemory);
            }
            self.resize(new)?;
            (old..new.min(CAPACITY)).for_each(|number| self.vacant.insert(number));
        }
        self.vacant.first().map(|number| number as u32).ok_or(OutOfMemory)
    }

    /// Adds a slab under a number that was [reserved](Self::reserve).
    fn insert(&mut self, number: u32, slab: Slab) {
        self.vacant.remove(number as usize);
        self.file(number, slab.state());
        self.mapped.insert_unique(hash(number), (number, slab), |(number, _)| hash(*number));
    }

    /// Takes an empty slab out, and shrinks the tables if they have much room left.
    fn remove(&mut self, number: u32) -> Option<Slab> {
        let entry = self.mapped.find_entry(hash(number), |(of, _)| *of == number).ok()?;
        let ((_, slab), _) = entry.remove();
        for set in [&mut self.partly_used, &mut self.empty, &mut self.unsearched] {
            set.set(number as usize, false);
        }
        self.vacant.insert(number as usize);
        self.shrink();
        Some(slab)
    }

    /// Keeps the tables in proportion to the slabs, if there is memory for smaller ones.
    fn shrink(&mut self) {
        let count = self.mapped.len();
        if count == 0 {
            *self = Self::default();
            return;
        }
        if count < self.mapped.capacity() / 4 && self.mapped.capacity() > 16 {
            let mut smaller = HashTable::new();
            if smaller.try_reserve(2 * count, |(number, _)| hash(*number)).is_ok() {
                for slab in self.mapped.drain() {
                    smaller.insert_unique(hash(slab.0), slab, |(number, _)| hash(*number));
                }
                self.mapped = smaller;
            }
        }
        let half = self.vacant.bound() / 2;
        if count < half / 2 && half >= Self::FEWEST && self.vacant.contains_all(half, half) {
            // Later, if not now.
            let _ = self.resize(half);
        }
    }

    /// Changes for how many numbers there is room, or nothing. Those beyond are vacant.
    fn resize(&mut self, bound: usize) -> Result<(), OutOfMemory> {
        let vacant = self.vacant.try_resized(bound)?;
        let partly_used = self.partly_used.try_resized(bound)?;
        let empty = self.empty.try_resized(bound)?;
        let unsearched = self.unsearched.try_resized(bound)?;
        let mapped = std::mem::take(&mut self.mapped);
        *self = Self { mapped, vacant, partly_used, empty, unsearched };
        Ok(())
    }

    fn heap_bytes(&self) -> usize {
        let slabs: usize = self.mapped.iter().map(|(_, slab)| slab.heap_bytes()).sum();
        let sets = [&self.vacant, &self.partly_used, &self.empty, &self.unsearched];
        let sets: usize = sets.into_iter().map(Bitmap::heap_bytes).sum();
        slabs + sets + self.mapped.allocation_size()
    }
}

/// Numbers are the arena's own, so any spread will do.
fn hash(number: u32) -> u64 {
    u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
