//! Where the bytes of a `'static` lease are.

use std::panic::Location;

use super::window::Window;
use crate::arena::Class;
use crate::sync::Watch;

/// A block that was leased and that nobody has looked for yet: its number, and what is to be noted
/// in its record. Plain data, and of no use once the block was taken.
///
/// In whole words, as a window is: beside halves the compiler would move the window in halves too.
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

    /// A window on the block's bytes. Notes who leased it.
    ///
    /// # Safety
    ///
    /// `class` is the block's. The block is leased to the caller, in a hold that a close leaves
    /// alone: borrowed, pinned or detached. Whenever the window is used it still is.
    #[inline(always)]
    pub(super) unsafe fn find(self, class: &Class) -> Window {
        // SAFETY: by the caller's promise the block is out and stays so for now; what the window
        // keeps of the answer is used only while it is out, as promised too.
        let (record, base) = unsafe { class.locate((self.block_and_tick >> 32) as u32) };
        let watch = Watch::of(&record.probe);
        // In the models: the block is out, and was handed out before this.
        watch.read();
        record.note().write(self.site, self.block_and_tick as u32);
        Window::new(base, class.block_bytes(), watch)
    }
}

/// What was leased: a block of a class, or a mapping of its own.
pub(super) enum Leased<'c> {
    Block(&'c Class, Sought),
    Large(Window),
}

impl Leased<'_> {
    /// A window on the bytes.
    ///
    /// # Safety
    ///
    /// As for [`Sought::find`]; the class here is the block's.
    #[inline(always)]
    pub(super) unsafe fn find(self) -> Window {
        match self {
            // SAFETY: passed on to the caller.
            Leased::Block(class, sought) => unsafe { sought.find(class) },
            Leased::Large(window) => window,
        }
    }
}

/// Where the bytes of a `'static` lease are, as far as it knows.
pub(super) enum Place {
    /// Not looked for: the lease was never pinned.
    Sought(Sought),
    Found(Window),
}

impl Place {
    /// All that an owned lease may know before its first pin, since a close may have taken it
    /// already: of a block its number. Of a mapping the address, which the mapping told before it
    /// was leased.
    #[inline(always)]
    pub(super) fn unpinned(leased: Leased<'_>) -> Self {
        match leased {
            Leased::Block(_, sought) => Place::Sought(sought),
            Leased::Large(window) => Place::Found(window),
        }
    }

    /// The window, which is there in every hold that lets its bytes be touched.
    #[inline(always)]
    pub(super) fn window(&self) -> &Window {
        match self {
            Place::Found(window) => window,
            Place::Sought(_) => touched_unfound(),
        }
    }

    /// As [`window`](Self::window).
    #[inline(always)]
    pub(super) fn window_mut(&mut self) -> &mut Window {
        match self {
            Place::Found(window) => window,
            Place::Sought(_) => touched_unfound(),
        }
    }
}

#[cold]
#[inline(never)]
fn touched_unfound() -> ! {
    unreachable!("the bytes of a lease that was never pinned")
}
