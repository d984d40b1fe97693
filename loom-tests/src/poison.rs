//! Makes use after free visible.
//!
//! Leases point to their connection's record without a reference count, which loom cannot follow:
//! what it knows of a freed record stays as it was. So freed memory is overwritten, and a thread
//! that still uses it finds locks and atomics that do not exist.

use std::alloc::{GlobalAlloc, Layout, System};

#[global_allocator]
static ALLOCATOR: Poison = Poison;

const POISON: u8 = 0xa5;

struct Poison;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Poison {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: passed on to the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: passed on to the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller gives up this memory, which is so large. Volatile, since the compiler
        // may leave out what is written to memory that is about to be freed.
        unsafe {
            for word in 0..layout.size() / 8 * usize::from(layout.align() >= 8) {
                memory.cast::<u64>().add(word).write_volatile(u64::from_ne_bytes([POISON; 8]));
            }
            System.dealloc(memory, layout);
        }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: passed on to the caller.
        unsafe { System.realloc(memory, layout, size) }
    }
}
