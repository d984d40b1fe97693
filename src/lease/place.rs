//! Where the bytes of a lease are.

use std::panic::Location;

use super::view::BufferView;
use crate::arena::Lookup;
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
    /// `lookup` is that of the block's arena. The block is leased to the caller, in a hold that a close
    /// leaves alone: borrowed, pinned or detached. Whenever the view is used it still is.
    #[inline(always)]
    pub(super) unsafe fn find(self, lookup: Lookup) -> BufferView {
        let number = (self.block_and_tick >> 32) as u32;
        // SAFETY: by the caller's promise the block is out and stays so for now; what the view keeps
        // of the result is used only while it is out, as promised too.
        let (record, base, bytes) = unsafe { lookup.locate(self.class, number) };
        let watch = Watch::of(&record.probe);
        // In the models: the block is out, and was handed out before this.
        watch.read();
        record.note.write(self.site, self.block_and_tick as u32);
        // SAFETY: the block's bytes and its watch; the caller promises to use the view only while the
        // block is leased to it.
        unsafe { BufferView::new(base, bytes, watch) }
    }
}

/// Where the bytes of a lease are, as far as it knows.
pub(super) enum Place {
    /// In a block that was not looked for yet: all that an owned lease may know before its first pin,
    /// since a close may have taken the block already.
    Sought(Sought),
    /// A mapping tells its address before it is leased.
    Found(BufferView),
}

impl Place {
    /// A view of the bytes.
    ///
    /// # Safety
    ///
    /// As for [`Sought::find`].
    #[inline(always)]
    pub(super) unsafe fn find(self, lookup: Lookup) -> BufferView {
        match self {
            // SAFETY: passed on to the caller.
            Place::Sought(sought) => unsafe { sought.find(lookup) },
            Place::Found(view) => view,
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
