//! Where the bytes of a `'static` lease are.

use std::fmt;
use std::panic::Location;

use super::window::Window;
use crate::arena::Class;
use crate::sync::Watch;

/// A block that was leased and that nobody has looked for yet: its number, and what is to be noted
/// in its record. Plain data, and of no use once the block was taken.
#[derive(Clone, Copy)]
pub(super) struct Sought {
    site: &'static Location<'static>,
    tick: u32,
    block: u32,
    class: u32,
    capacity: u32,
}

impl Sought {
    #[inline(always)]
    pub(super) fn new(
        class: usize,
        capacity: usize,
        block: u32,
        site: &'static Location<'static>,
        tick: u32,
    ) -> Self {
        Self { site, tick, block, class: class as u32, capacity: capacity as u32 }
    }

    #[inline(always)]
    pub(super) fn class(self) -> usize {
        self.class as usize
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
        let (record, base) = unsafe { class.locate(self.block) };
        let watch = Watch::of(&record.probe);
        // In the models: the block is out, and was handed out before this.
        watch.read();
        record.note().write(self.site, self.tick);
        Window::new(base, self.capacity as usize, watch)
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
    /// As for [`Sought::find`], of whose blocks the class is the one here.
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

    /// The size of the block, in bytes.
    #[inline(always)]
    pub(super) fn capacity(&self) -> usize {
        match self {
            Place::Found(window) => window.capacity(),
            Place::Sought(sought) => sought.capacity as usize,
        }
    }
}

#[cold]
#[inline(never)]
fn touched_unfound() -> ! {
    unreachable!("the bytes of a lease that was never pinned")
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Found(window) => window.fmt(f),
            Place::Sought(sought) => write!(f, "0 of {} bytes", sought.capacity),
        }
    }
}
