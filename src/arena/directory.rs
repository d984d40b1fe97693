//! From a slab's number to its records and memory, without a lock.
//!
//! Two levels. The upper one is as old as the arena; a lower one exists while any of its slabs
//! does. Entries are written under the class's lock and read by whoever holds a block: the holder's
//! slab has an entry, so the lower level with that entry exists too.

use std::ptr::{self, NonNull};

use super::Record;
use crate::sync::{AtomicPtr, Ordering};

#[cfg(not(leasehold_loom))]
const UPPER: usize = 1024;
#[cfg(not(leasehold_loom))]
const LOWER: usize = 512;
#[cfg(leasehold_loom)]
const UPPER: usize = 2;
#[cfg(leasehold_loom)]
const LOWER: usize = 4;

/// How many slabs a class can have: 512 GiB of them.
pub(super) const CAPACITY: usize = UPPER * LOWER;

pub(super) struct Directory {
    upper: Box<[AtomicPtr<Lower>; UPPER]>,
}

struct Lower {
    entries: [Slot; LOWER],
}

/// One slab's place. Both pointers are null while there is no slab of that number.
#[derive(Default)]
struct Slot {
    records: AtomicPtr<Record>,
    base: AtomicPtr<u8>,
}

/// Where a slab is.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    /// The first of its records.
    pub(super) records: *const Record,
    /// The first byte of its first block.
    pub(super) base: NonNull<u8>,
}

impl Directory {
    pub(super) fn new() -> Self {
        Self { upper: Box::new(std::array::from_fn(|_| AtomicPtr::new(ptr::null_mut()))) }
    }

    /// Where a slab is.
    ///
    /// # Safety
    ///
    /// The caller holds a block of the slab, and so reads after the [`insert`](Self::insert) that
    /// came before the block was handed out, and before the [`remove`](Self::remove) that comes
    /// after it is given back.
    #[inline(always)]
    pub(super) unsafe fn entry(&self, slab: usize) -> Entry {
        // Relaxed, all three: the hand-out of the block already orders this after the entry was
        // written.
        let lower = self.upper[slab / LOWER % UPPER].load(Ordering::Relaxed);
        debug_assert!(!lower.is_null(), "a block is sought whose slab is gone");
        // SAFETY: the slab has an entry, so its lower level exists; see above.
        let slot = unsafe { &(*lower).entries[slab % LOWER] };
        let base = slot.base.load(Ordering::Relaxed);
        debug_assert!(!base.is_null(), "a block is sought whose slab is gone");
        // SAFETY: the slab has an entry, so neither pointer is null.
        let base = unsafe { NonNull::new_unchecked(base) };
        Entry { records: slot.records.load(Ordering::Relaxed), base }
    }

    /// Enters a slab. Called under the class's lock.
    pub(super) fn insert(&self, slab: usize, entry: Entry) {
        let upper = &self.upper[slab / LOWER];
        let mut lower = upper.load(Ordering::Relaxed);
        if lower.is_null() {
            lower = Box::into_raw(Box::new(Lower {
                entries: std::array::from_fn(|_| Slot::default()),
            }));
            upper.store(lower, Ordering::Release);
        }
        // SAFETY: made above or by an earlier insert, and freed only by `remove` or `drop`, which
        // the class's lock (or `&mut self`) keeps away.
        let slot = unsafe { &(*lower).entries[slab % LOWER] };
        slot.records.store(entry.records.cast_mut(), Ordering::Release);
        slot.base.store(entry.base.as_ptr(), Ordering::Release);
    }

    /// Strikes a slab of which no block is out. Called under the class's lock.
    pub(super) fn remove(&self, slab: usize) {
        let upper = &self.upper[slab / LOWER];
        let lower = upper.load(Ordering::Relaxed);
        // SAFETY: the slab was entered, so its lower level exists, and only one caller at a time
        // holds the class's lock.
        let entries = unsafe { &(*lower).entries };
        entries[slab % LOWER].records.store(ptr::null_mut(), Ordering::Release);
        entries[slab % LOWER].base.store(ptr::null_mut(), Ordering::Release);
        if entries.iter().all(|slot| slot.records.load(Ordering::Relaxed).is_null()) {
            upper.store(ptr::null_mut(), Ordering::Release);
            // SAFETY: it came from `Box::into_raw`. No slab in it has a block out, so nobody reads
            // it, and it was unlinked above, so nobody will.
            drop(unsafe { Box::from_raw(lower) });
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let used = |upper: &&AtomicPtr<Lower>| !upper.load(Ordering::Relaxed).is_null();
        size_of_val(&*self.upper) + self.upper.iter().filter(used).count() * size_of::<Lower>()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        for upper in &*self.upper {
            let lower = upper.load(Ordering::Relaxed);
            if !lower.is_null() {
                // SAFETY: it came from `Box::into_raw`, and `&mut self` says that nobody reads it.
                drop(unsafe { Box::from_raw(lower) });
            }
        }
    }
}
