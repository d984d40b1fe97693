//! Where the bytes of a `'static` lease are.

use std::panic::Location;

use super::view::BufferView;
use crate::arena::{Lookup, SizeClasses};
use crate::sync::Watch;

/// A block that was leased and that its lease has not looked for yet: its number, and what is to be noted
/// in its record. Plain data, and of no use once the block was taken.
///
/// In whole words, as a view is: beside halves the compiler would move the view in halves too.
#[derive(Clone, Copy)]
pub(super) struct Sought {
    site: &'static Location<'static>,
    /// The block's number in the high half, the tick of the coarse clock in the low one.
    block_and_tick: u64,
    class: usize,
}

impl Sought {
    #[inline(always)]
    pub(super) fn new(
        class: usize,
        block: u32,
        site: &'static Location<'static>,
        tick: u32,
    ) -> Self {
        Self { site, block_and_tick: u64::from(block) << 32 | u64::from(tick), class }
    }

    /// The block's class.
    #[inline(always)]
    pub(super) fn class(self) -> usize {
        self.class
    }

    /// A view of the block's bytes. Notes the line that leased it.
    ///
    /// # Safety
    ///
    /// `lookup` and `sizes` are those of the block's arena. The block is leased to the caller, in a hold that a close leaves
    /// alone: borrowed, pinned or detached. Whenever the view is used it still is.
    #[inline(always)]
    pub(super) unsafe fn find(self, lookup: Lookup, sizes: SizeClasses) -> BufferView {
        let number = (self.block_and_tick >> 32) as u32;
        // SAFETY: by the caller's promise the block is out and stays so for now; what the view keeps
        // of the result is used only while it is out, as promised too.
        let (record, base) = unsafe { lookup.locate(self.class, number) };
        let watch = Watch::of(&record.probe);
        // In the models: the block is out, and was handed out before this.
        watch.read();
        record.note().write(self.site, self.block_and_tick as u32);
        // SAFETY: the block's bytes and its watch; the caller promises to use the view only while the
        // block is leased to it.
        unsafe { BufferView::new(base, sizes.block_bytes(self.class), watch) }
    }
}

/// What was leased: a block of a class, or a mapping of its own.
pub(super) enum Leased {
    Block(Lookup, SizeClasses, Sought),
    Large(BufferView),
}

impl Leased {
    /// A view of the bytes.
    ///
    /// # Safety
    ///
    /// As for [`Sought::find`].
    #[inline(always)]
    pub(super) unsafe fn find(self) -> BufferView {
        match self {
            // SAFETY: passed on to the caller.
            Leased::Block(lookup, sizes, sought) => unsafe { sought.find(lookup, sizes) },
            Leased::Large(view) => view,
        }
    }
}

/// Where the bytes of a `'static` lease are, as far as it knows.
pub(super) enum Place {
    /// Not looked for: the lease was never pinned.
    Sought(Sought),
    Found(BufferView),
}

impl Place {
    /// All that an owned lease may know before its first pin, since a close may have taken it
    /// already: of a block its number. Of a mapping the address, which the mapping told before it
    /// was leased.
    #[inline(always)]
    pub(super) fn unpinned(leased: Leased) -> Self {
        match leased {
            Leased::Block(_, _, sought) => Place::Sought(sought),
            Leased::Large(view) => Place::Found(view),
        }
    }

    /// The view, which is there in every hold that lets its bytes be touched.
    #[inline(always)]
    pub(super) fn view(&self) -> &BufferView {
        match self {
            Place::Found(view) => view,
            Place::Sought(_) => touched_unfound(),
        }
    }

    /// As [`view`](Self::view).
    #[inline(always)]
    pub(super) fn view_mut(&mut self) -> &mut BufferView {
        match self {
            Place::Found(view) => view,
            Place::Sought(_) => touched_unfound(),
        }
    }
}

#[cold]
#[inline(never)]
fn touched_unfound() -> ! {
    unreachable!("the bytes of a lease that was never pinned")
}
