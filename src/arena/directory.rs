//! From a slab's number to its records and memory, without a lock.
//!
//! Two levels: a root, and nodes of which each has the places of some slabs. Each is allocated with
//! the first slab that needs it, and freed with the last. A thread that holds a block reads them
//! without a lock, for as long as the block is out its slab has a place, and so are there the node
//! with that place and the root. Only a thread with the size class's lock changes them.

use std::ptr::{self, NonNull};

use super::block::Record;
use crate::sync::AtomicPtr;
// Relaxed, all of them. A thread that writes holds the size class's lock, and so does the one that
// hands a block out after the slab was entered, and the one that takes the last block back before it
// is struck: whatever passes the block on in between orders its holder too.
use crate::sync::Ordering::Relaxed;
use crate::try_box::{OutOfMemory, try_slice};

#[cfg(not(leasehold_loom))]
const NODES: usize = 1024;
#[cfg(not(leasehold_loom))]
const PLACES: usize = 512;
#[cfg(leasehold_loom)]
const NODES: usize = 2;
#[cfg(leasehold_loom)]
const PLACES: usize = 4;

/// How many slabs a size class can have: 512 GiB of them.
pub(super) const CAPACITY: usize = NODES * PLACES;

pub(super) struct Directory {
    /// Null while there is no slab.
    root: AtomicPtr<Root>,
}

/// Null where no slab has one of the node's numbers.
type Root = [AtomicPtr<Node>; NODES];

type Node = [Place; PLACES];

/// Where one slab is. Both pointers are null while there is no slab of that number.
struct Place {
    records: AtomicPtr<Record>,
    base: AtomicPtr<u8>,
}

impl Directory {
    pub(super) fn new() -> Self {
        Self { root: null() }
    }

    /// The first record of a slab, and the first byte of its first block.
    ///
    /// # Safety
    ///
    /// A block of the slab is out, and stays so until this returns.
    #[inline(always)]
    pub(super) unsafe fn find(&self, slab: u32) -> (NonNull<Record>, NonNull<u8>) {
        let slab = slab as usize;
        // SAFETY: by the caller's promise the slab has a place, and stays in the directory; `insert`
        // made both levels before it wrote the place, and `remove` frees none that has a place.
        let place = unsafe {
            let root = self.root.load(Relaxed);
            debug_assert!(!root.is_null(), "a block is sought whose slab is gone");
            let node = (*root)[slab / PLACES % NODES].load(Relaxed);
            debug_assert!(!node.is_null(), "a block is sought whose slab is gone");
            &(*node)[slab % PLACES]
        };
        let (records, base) = (place.records.load(Relaxed), place.base.load(Relaxed));
        debug_assert!(!records.is_null() && !base.is_null(), "a block of a slab that is gone");
        // SAFETY: the slab has a place, so neither is null.
        unsafe { (NonNull::new_unchecked(records), NonNull::new_unchecked(base)) }
    }

    /// Enters a slab, or changes nothing.
    ///
    /// # Safety
    ///
    /// The caller holds the size class's lock. No slab of this number is entered. Until this one is
    /// removed, `records` leads to its records and `base` to its memory.
    pub(super) unsafe fn insert(
        &self,
        slab: u32,
        records: NonNull<Record>,
        base: NonNull<u8>,
    ) -> Result<(), OutOfMemory> {
        let (upper, lower) = (slab as usize / PLACES, slab as usize % PLACES);
        let mut root = self.root.load(Relaxed);
        // SAFETY: either level is freed only under the lock that the caller holds.
        let mut node = unsafe { root.as_ref() }.map_or(ptr::null_mut(), |r| r[upper].load(Relaxed));
        let new_root = if root.is_null() { Some(try_array::<_, NODES>(null)?) } else { None };
        let new_node =
            if node.is_null() { Some(try_array::<_, PLACES>(Place::vacant)?) } else { None };
        // Nothing fails from here on.
        if let Some(new) = new_root {
            root = Box::into_raw(new);
            self.root.store(root, Relaxed);
        }
        if let Some(new) = new_node {
            node = Box::into_raw(new);
            // SAFETY: the root was there before, or has just been made.
            let nodes = unsafe { &*root };
            nodes[upper].store(node, Relaxed);
        }
        // SAFETY: as for the root.
        let place = unsafe { &(*node)[lower] };
        place.records.store(records.as_ptr(), Relaxed);
        place.base.store(base.as_ptr(), Relaxed);
        Ok(())
    }

    /// Strikes a slab.
    ///
    /// # Safety
    ///
    /// The caller holds the size class's lock. The slab is entered. None of its blocks is out, and
    /// none is handed out any more.
    pub(super) unsafe fn remove(&self, slab: u32) {
        let (upper, lower) = (slab as usize / PLACES, slab as usize % PLACES);
        let root = self.root.load(Relaxed);
        // SAFETY: the slab was entered, so both levels exist, and the caller's lock keeps them.
        let nodes = unsafe { &*root };
        let node = nodes[upper].load(Relaxed);
        // SAFETY: as above.
        let places = unsafe { &*node };
        places[lower].records.store(ptr::null_mut(), Relaxed);
        places[lower].base.store(ptr::null_mut(), Relaxed);
        if places.iter().any(|place| !place.records.load(Relaxed).is_null()) {
            return;
        }
        nodes[upper].store(ptr::null_mut(), Relaxed);
        // SAFETY: `insert` made it from a `Box`. No slab in it has a block out, so no thread without
        // the lock reads it, and nothing leads to it any more.
        drop(unsafe { Box::from_raw(node) });
        if nodes.iter().all(|node| node.load(Relaxed).is_null()) {
            self.root.store(ptr::null_mut(), Relaxed);
            // SAFETY: as for the node.
            drop(unsafe { Box::from_raw(root) });
        }
    }

    /// What the directory itself takes.
    ///
    /// # Safety
    ///
    /// The caller holds the size class's lock.
    pub(super) unsafe fn heap_bytes(&self) -> usize {
        // SAFETY: the root is freed only under the lock that the caller holds.
        let Some(root) = (unsafe { self.root.load(Relaxed).as_ref() }) else { return 0 };
        let nodes = root.iter().filter(|node| !node.load(Relaxed).is_null()).count();
        size_of::<Root>() + nodes * size_of::<Node>()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let root = self.root.load(Relaxed);
        if root.is_null() {
            return;
        }
        // SAFETY: `insert` made it from a `Box`, and `&mut self` says that no thread reads it.
        let root = unsafe { Box::from_raw(root) };
        for node in root.iter().map(|node| node.load(Relaxed)).filter(|node| !node.is_null()) {
            // SAFETY: as for the root.
            drop(unsafe { Box::from_raw(node) });
        }
    }
}

impl Place {
    fn vacant() -> Self {
        Self { records: null(), base: null() }
    }
}

fn null<T>() -> AtomicPtr<T> {
    AtomicPtr::new(ptr::null_mut())
}

fn try_array<T, const N: usize>(make: impl FnMut() -> T) -> Result<Box<[T; N]>, OutOfMemory> {
    try_slice(N, make)?.try_into().map_err(|_| OutOfMemory)
}
