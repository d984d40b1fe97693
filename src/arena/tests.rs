use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::thread;

use super::*;
use crate::error::{Reason, Scope};
use crate::limit::Limit;

/// An allocator that counts what the calling thread has, and fails when it is told to.
struct Failing;

#[global_allocator]
static ALLOCATOR: Failing = Failing;

thread_local! {
    static LIVE_BYTES: Cell<isize> = const { Cell::new(0) };
    /// How many more allocations of this thread succeed.
    static LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
}

// SAFETY: each call is passed on to the system's allocator as it came, or fails.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let left = LEFT.get();
        if left == 0 {
            return std::ptr::null_mut();
        }
        LEFT.set(if left == usize::MAX { left } else { left - 1 });
        LIVE_BYTES.set(LIVE_BYTES.get() + layout.size() as isize);
        // SAFETY: passed on to the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE_BYTES.set(LIVE_BYTES.get() - layout.size() as isize);
        // SAFETY: passed on to the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Does `work` while only the first `allocations` of this thread succeed.
fn with_allocations<T>(allocations: usize, work: impl FnOnce() -> T) -> T {
    LEFT.set(allocations);
    let done = work();
    LEFT.set(usize::MAX);
    done
}

/// The bytes that are live beyond those at its call, on this thread.
fn live_since() -> impl Fn() -> isize {
    let before = LIVE_BYTES.get();
    move || LIVE_BYTES.get() - before
}

/// Room for this many slabs of the only size class, or for any number, and none for fragmentation.
fn arena(block_bytes: usize, slabs: Option<u64>) -> Arena {
    let memory = slabs.map_or(Limit::Unlimited, |slabs| Limit::Max((slabs - 1) * SLAB));
    Arena::new(&[block_bytes], Bounds::new(memory, 1, Some(0)), false).unwrap()
}

fn unlimited() -> Arena {
    let bounds = Bounds::new(Limit::Unlimited, DEFAULT_SIZE_CLASSES.len(), None);
    Arena::new(DEFAULT_SIZE_CLASSES, bounds, false).unwrap()
}

/// Blocks until this many slabs are full.
fn fill(arena: &Arena, slabs: usize) -> Vec<Block> {
    let blocks = slabs * slab::BYTES / arena.sizes().block_bytes(0);
    let take = |_| arena.take(0).unwrap_or_else(|| arena.grow(0).unwrap());
    (0..blocks).map(take).collect()
}

fn give_all(arena: &Arena, blocks: impl IntoIterator<Item = Block>) {
    blocks.into_iter().for_each(|block| arena.give(0, block));
    arena.settle();
}

/// Slabs after which the next one needs larger tables: all of them are full.
const FULL_TABLES: [usize; 4] = [0, 1, 64, 448];

#[test]
fn without_memory_for_its_records_a_slab_is_refused_and_nothing_changes() {
    for slabs in FULL_TABLES {
        let live = live_since();
        let arena = arena(MAX_BLOCK_BYTES, None);
        let blocks = fill(&arena, slabs);
        let before = arena.report();
        for allocations in 0.. {
            let asked = with_allocations(allocations, || arena.grow(0));
            let refused = match asked {
                Err(refused) => refused,
                Ok(block) => {
                    assert!(allocations > 0);
                    give_all(&arena, [block]);
                    break;
                }
            };
            assert_eq!(refused.reason(), Reason::OutOfMemory);
            let after = arena.report();
            // Tables that grew already stay so.
            let bookkeeping_bytes = before.bookkeeping_bytes;
            assert_eq!(ArenaReport { bookkeeping_bytes, ..after }, before);
        }
        give_all(&arena, blocks);
        assert_eq!(arena.report().in_use_bytes, 0);
        drop((arena, before));
        assert_eq!(live(), 0);
    }
}

#[test]
fn giving_allocates_nothing() {
    for slabs in FULL_TABLES {
        let arena = arena(MAX_BLOCK_BYTES, None);
        let blocks = fill(&arena, slabs);
        let large = arena.map_large(1 << 20).unwrap();
        with_allocations(0, || {
            give_all(&arena, blocks);
            arena.unmap_large(large);
            arena.unmap_empty(0);
        });
        assert_eq!(arena.report().mapped_bytes, 0);
    }
}

#[test]
fn a_fresh_arena_takes_little_and_a_dropped_one_leaves_nothing() {
    let live = live_since();
    let arena = unlimited();
    assert!(live() < 4 << 10, "{} bytes", live());
    let blocks: Vec<_> =
        (0..arena.sizes().count()).map(|class| arena.grow(class).unwrap()).collect();
    assert!(arena.report().bookkeeping_bytes > 64 << 10);
    for (class, block) in blocks.into_iter().enumerate() {
        arena.give(class, block);
    }
    arena.settle();
    drop(arena);
    assert_eq!(live(), 0);
}

#[test]
fn records_are_in_proportion_to_the_slabs_and_not_to_the_most_there_were() {
    let live = live_since();
    let arena = arena(MAX_BLOCK_BYTES, None);
    let fresh = live();
    let mut blocks = fill(&arena, 2000);
    // The one with the highest number stays.
    let late = blocks.pop().unwrap();
    let (full, blocks_bytes) = (live(), blocks.capacity() * size_of::<Block>());
    give_all(&arena, blocks);
    arena.unmap_empty(0);
    let left = live() - fresh;
    assert_eq!(arena.report().bookkeeping_bytes as isize, fresh + left);
    println!("{} bytes for 2,000 slabs, {left} for the last one", full - blocks_bytes as isize);
    assert!(left < 24 << 10, "{left} bytes");
    give_all(&arena, [late]);
    arena.unmap_empty(0);
    assert_eq!(arena.report().bookkeeping_bytes as isize, fresh);
}

#[test]
fn a_block_is_found_by_its_number() {
    let arena = unlimited();
    let lookup = arena.lookup();
    let blocks: Vec<_> = (0..arena.sizes().count())
        .flat_map(|c| (0..9).map(move |_| c))
        .map(|class| (class, arena.take(class).unwrap_or_else(|| arena.grow(class).unwrap())))
        .collect();
    let mut ranges = Vec::new();
    for (tick, (class, block)) in blocks.iter().enumerate() {
        // SAFETY: the block is out, and given back below.
        let (record, base, bytes) = unsafe { lookup.locate(*class, block.number()) };
        record.note.write(Location::caller(), tick as u32);
        ranges.push((base.addr().get(), bytes));
    }
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "blocks overlap");
    for (tick, (class, block)) in blocks.into_iter().enumerate() {
        assert_eq!(arena.note(class, block.number()).unwrap().1, tick as u32);
        arena.give(class, block);
    }
}

#[test]
fn no_length_overflows_the_books() {
    let arena = unlimited();
    let large = arena.map_large(1).unwrap();
    let page = large.len();
    for bytes in
        [usize::MAX, usize::MAX - page + 1, isize::MAX as usize, isize::MAX as usize - page]
    {
        let refused = arena.map_large(bytes).err().unwrap();
        assert_eq!((refused.scope(), refused.reason()), (Scope::Arena, Reason::OutOfMemory));
        assert_eq!(arena.report().mapped_bytes, page as u64);
    }
    arena.unmap_large(large);
}

#[test]
fn beyond_its_bound_the_arena_refuses_and_names_it() {
    let arena = arena(MAX_BLOCK_BYTES, Some(2));
    let blocks = fill(&arena, 2);
    let refused = arena.grow(0).err().unwrap();
    assert_eq!((refused.reason(), refused.limit()), (Reason::Limit, Limit::Max(2 * SLAB)));
    give_all(&arena, blocks);
}

/// As if another thread were in the system's call, and stayed there.
#[test]
fn giving_waits_for_no_other_thread() {
    let arena = arena(MAX_BLOCK_BYTES, None);
    let blocks = fill(&arena, 3);
    let [other, own] = [(); 2].map(|()| arena.map_large(1 << 20).unwrap());
    arena.books.begin_giving_up(other.len() as u64);
    arena.unmap_large(own);
    give_all(&arena, blocks);
    arena.unmap_empty(0);
    assert_eq!(arena.report().mapped_bytes, other.len() as u64);
    arena.books.end_giving_up(other.len() as u64, |_| ());
    arena.unmap_large(other);
}

/// A request that fits once another thread has given up what it is giving up: it is granted then, and
/// not refused before. One that would not fit even so is refused at once.
#[test]
fn a_request_waits_for_what_makes_room_for_it() {
    let arena = arena(MAX_BLOCK_BYTES, Some(3));
    let large = arena.map_large(2 << 20).unwrap();
    arena.books.begin_giving_up(large.len() as u64);
    let books = &arena.books;
    assert!(books.enter(4 << 20, |figures| &mut figures.large).is_err());
    thread::scope(|scope| {
        // Whichever comes first: the request, or what it waits for.
        let ask = || arena.map_large(3 << 20).map(|granted| arena.unmap_large(granted));
        let asking = scope.spawn(ask);
        let bytes = large.len() as u64;
        drop(large);
        books.end_giving_up(bytes, |figures| figures.large -= bytes);
        assert_eq!(asking.join().unwrap(), Ok(()));
    });
    assert_eq!(arena.report().mapped_bytes, 0);
}
