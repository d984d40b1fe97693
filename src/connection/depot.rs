//! The magazines of a connection beyond its first ones.
//!
//! Those of one kind stand in a row: first those that have no idle block, which are *slow*, then
//! those that have (*stocked*), which are not. So a lease takes from the last in O(1); a return to a
//! stocked magazine takes no lock; and what looks for idle blocks walks the stocked ones only. Idle
//! blocks become fewer under the connection's mutex alone, so a stocked magazine always has one.

use crate::arena::{Anchored, Block, Mapping};
use crate::magazine::{Extra, Hold};
use crate::ranges::MAX_SIZE_CLASSES;
use crate::try_box::OutOfMemory;

/// One row for each size class, and one for large leases, which are never stocked.
#[derive(Default)]
pub(super) struct Depot {
    rows: [Row; MAX_SIZE_CLASSES + 1],
    /// What large leases have mapped, in bytes. Falls when it is unmapped.
    pub(super) large_bytes: u64,
}

/// The extra magazines of one kind.
#[derive(Default)]
pub(super) struct Row {
    magazines: Vec<Anchored<Extra>>,
    stocked: usize,
}

/// A large lease that has been returned, of which the memory is still to be unmapped.
pub(super) struct Returned {
    pub(super) place: usize,
    pub(super) mapping: Mapping,
    /// Its magazine, if nothing else needs that.
    pub(super) over: Option<Anchored<Extra>>,
}

impl Depot {
    pub(super) fn row(&self, kind: usize) -> &Row {
        &self.rows[kind]
    }

    pub(super) fn row_mut(&mut self, kind: usize) -> &mut Row {
        &mut self.rows[kind]
    }

    /// Every magazine.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Extra> {
        self.rows.iter().flat_map(Row::iter)
    }

    pub(super) fn rows_mut(&mut self) -> impl Iterator<Item = &mut Row> {
        self.rows.iter_mut()
    }

    /// Whether no magazine holds a block.
    pub(super) fn has_no_blocks(&self) -> bool {
        let mut of_blocks = self.rows[..MAX_SIZE_CLASSES].iter().flat_map(Row::iter);
        of_blocks.all(|extra| extra.magazine().word().is_vacant())
    }

    /// Whether it holds nothing, and counts no large lease that a thread is unmapping.
    pub(super) fn is_empty(&self) -> bool {
        self.large_bytes == 0 && self.rows.iter().all(|row| row.magazines.is_empty())
    }
}

impl Row {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Extra> {
        self.magazines.iter().map(|extra| &**extra)
    }

    /// How many magazines have idle blocks.
    pub(super) fn stocked(&self) -> usize {
        self.stocked
    }

    /// The magazines that have idle blocks.
    pub(super) fn iter_stocked(&self) -> impl Iterator<Item = &Extra> {
        self.iter().skip(self.magazines.len() - self.stocked)
    }

    /// Leases an idle block.
    pub(super) fn take_idle(&mut self, hold: Hold) -> Option<(&Extra, usize)> {
        if self.stocked == 0 {
            return None;
        }
        let last = self.magazines.len() - 1;
        let (slot, was_last) = self.magazines[last].magazine().take_idle(hold, true)?;
        let place = if was_last { self.unstock(last) } else { last };
        Some((&self.magazines[place], slot))
    }

    /// Returns a block, to lie idle.
    pub(super) fn put_idle(&mut self, extra: &Extra, slot: usize, hold: Hold) {
        extra.magazine().put_idle(slot, hold);
        let place = extra.place();
        let first_stocked = self.magazines.len() - self.stocked;
        if place < first_stocked {
            self.swap(place, first_stocked - 1);
            self.stocked += 1;
        }
    }

    /// Makes sure that there is a vacant slot, for a block that is yet to come.
    pub(super) fn make_room(&mut self, class: usize) -> Result<(), OutOfMemory> {
        if self.vacancy().is_none() {
            self.add(Extra::of_blocks(class)?)?;
        }
        Ok(())
    }

    /// A vacant slot. The youngest magazines are the likeliest to have one.
    pub(super) fn vacancy(&self) -> Option<(&Extra, usize)> {
        let mut youngest_first = self.magazines.iter().rev();
        youngest_first.find_map(|extra| Some((&**extra, extra.magazine().vacant_slot()?)))
    }

    /// Puts a block that is leased at once into a vacant slot, which there is.
    pub(super) fn install(&self, block: Block, hold: Hold) -> Option<(&Extra, usize)> {
        let (extra, slot) = self.vacancy()?;
        let is_stocked = extra.place() >= self.magazines.len() - self.stocked;
        extra.magazine().install(slot, block, hold, !is_stocked);
        Some((extra, slot))
    }

    /// Adds a magazine without idle blocks.
    pub(super) fn add(&mut self, extra: Anchored<Extra>) -> Result<(), OutOfMemory> {
        self.reserve()?;
        self.magazines.push(extra);
        let last = self.magazines.len() - 1;
        self.magazines[last].set_place(last);
        self.swap(last, last - self.stocked);
        Ok(())
    }

    /// Makes room for one more magazine.
    pub(super) fn reserve(&mut self) -> Result<(), OutOfMemory> {
        self.magazines.try_reserve(1).map_err(|_| OutOfMemory)
    }

    /// Takes out a magazine without idle blocks.
    pub(super) fn remove(&mut self, place: usize) -> Anchored<Extra> {
        let last_unstocked = self.magazines.len() - self.stocked - 1;
        debug_assert!(place <= last_unstocked);
        self.swap(place, last_unstocked);
        let last = self.magazines.len() - 1;
        self.swap(last_unstocked, last);
        let removed = self.magazines.pop().expect("the last place is there");
        if self.magazines.len() < self.magazines.capacity() / 4 {
            self.magazines.shrink_to(self.magazines.len() * 2);
        }
        removed
    }

    /// Takes every idle block out of the stocked magazines for which `pick` says so; they are slow
    /// from then on.
    pub(super) fn flush(&mut self, pick: impl Fn(&Extra) -> bool, mut give: impl FnMut(Block)) {
        let first_stocked = self.magazines.len() - self.stocked;
        // Upward: what changes places with a magazine that is unstocked was looked at before it.
        for place in first_stocked..self.magazines.len() {
            if pick(&self.magazines[place]) {
                self.magazines[place].magazine().flush(true).for_each(&mut give);
                self.unstock(place);
            }
        }
    }

    /// Takes out a large lease that has been returned: the last below the place `above`.
    pub(super) fn take_returned(&mut self, above: usize) -> Option<Returned> {
        // Downward: what takes the place of a magazine that is removed comes from above, where this has
        // looked already.
        let mut places = (0..above.min(self.magazines.len())).rev();
        let (place, mapping) =
            places.find_map(|place| Some((place, self.magazines[place].take_returned_large()?)))?;
        let over = self.magazines[place].is_over().then(|| self.remove(place));
        Some(Returned { place, mapping, over })
    }

    /// Takes out all magazines that nothing needs any more.
    pub(super) fn remove_over(&mut self, mut take_leave: impl FnMut(&Extra)) {
        // Downward, as in `take_returned`.
        for place in (0..self.magazines.len()).rev() {
            if self.magazines[place].is_over() {
                take_leave(&self.remove(place));
            }
        }
    }

    /// Marks all magazines as having no idle blocks, which a close has taken.
    pub(super) fn unstock_all(&mut self) {
        self.stocked = 0;
    }

    /// A stocked magazine has no idle block any more. Returns its new place.
    fn unstock(&mut self, place: usize) -> usize {
        let first_stocked = self.magazines.len() - self.stocked;
        self.swap(place, first_stocked);
        self.stocked -= 1;
        first_stocked
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.magazines.swap(a, b);
        self.magazines[a].set_place(a);
        self.magazines[b].set_place(b);
    }
}
