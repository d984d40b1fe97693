//! The magazines of a connection beyond its first ones.
//!
//! Those of one kind stand in a row: first those that have no idle block, which are *slow*, then
//! those that have (*stocked*), which are not. So a lease takes from the last in O(1); a return to a
//! stocked magazine takes no lock; and what looks for idle blocks walks the stocked ones only. Idle
//! blocks become fewer under the connection's mutex alone, so a stocked magazine always has one.

use crate::arena::{Anchored, Block, Mapping};
use crate::counters::LARGE;
use crate::magazine::{Extra, Hold, Word};
use crate::try_box::OutOfMemory;

/// One row for each size class, and one for large leases, which are never stocked.
#[derive(Default)]
pub(super) struct Depot {
    rows: [Row; LARGE + 1],
    /// What large leases have mapped, in bytes. Falls when it is unmapped.
    pub(super) large_bytes: u64,
}

/// The extra magazines of one kind.
#[derive(Default)]
pub(super) struct Row {
    magazines: Vec<Anchored<Extra>>,
    stocked: u32,
    /// Rises whenever other magazines are stocked than before.
    restocks: u32,
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

    /// The magazines that have idle blocks.
    pub(super) fn iter_stocked(&self) -> impl Iterator<Item = &Extra> {
        self.rows.iter().flat_map(|row| row.iter().skip(row.first_stocked()))
    }

    /// Rises whenever other magazines are stocked than before.
    pub(super) fn restocks(&self) -> u64 {
        self.rows.iter().fold(0, |all, row| all + u64::from(row.restocks))
    }

    /// Takes out all magazines that nothing needs any more, and shows each to `removed`.
    pub(super) fn remove_over(&mut self, mut removed: impl FnMut(&Extra)) {
        for row in &mut self.rows {
            // Downward: what changes places with a magazine that is removed was looked at before it.
            for place in (0..row.first_stocked()).rev() {
                if row.magazines[place].is_over() {
                    removed(&row.remove(place));
                }
            }
        }
    }

    /// Takes the memory of a large lease that was returned and is still mapped: of the last that is
    /// before the place `end`, which becomes the place of that. Its magazine comes along if nothing
    /// needs it any more.
    pub(super) fn take_returned_large(
        &mut self,
        end: &mut usize,
    ) -> Option<(Mapping, Option<Anchored<Extra>>)> {
        let row = &mut self.rows[LARGE];
        // Downward, as in `remove_over`.
        while let Some(place) = (*end).min(row.magazines.len()).checked_sub(1) {
            *end = place;
            if let Some(mapping) = row.magazines[place].take_returned_large() {
                let over = row.magazines[place].is_over().then(|| row.remove(place));
                return Some((mapping, over));
            }
        }
        None
    }

    /// Takes every idle block, with its size class, out of the magazines that `pick` picks; they are
    /// slow from then on.
    pub(super) fn flush(
        &mut self,
        pick: impl Fn(Word) -> bool,
        mut give: impl FnMut(usize, Block),
    ) {
        for (class, row) in self.rows.iter_mut().enumerate() {
            // Upward: what changes places with a magazine that is unstocked was looked at before it.
            for place in row.first_stocked()..row.magazines.len() {
                let magazine = row.magazines[place].magazine();
                if pick(magazine.word()) {
                    magazine.flush(true).for_each(|block| give(class, block));
                    row.unstock(place);
                }
            }
        }
    }

    /// A close has taken all idle blocks.
    pub(super) fn unstock_all(&mut self) {
        self.rows.iter_mut().for_each(|row| row.stocked = 0);
    }

    /// Whether it holds nothing, and counts no large lease that a thread is unmapping.
    pub(super) fn is_empty(&self) -> bool {
        self.large_bytes == 0 && self.iter().next().is_none()
    }
}

impl Row {
    fn iter(&self) -> impl Iterator<Item = &Extra> {
        self.magazines.iter().map(|extra| &**extra)
    }

    /// How many magazines have idle blocks.
    pub(super) fn stocked(&self) -> usize {
        self.stocked as usize
    }

    fn first_stocked(&self) -> usize {
        self.magazines.len() - self.stocked()
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
        let first_stocked = self.first_stocked();
        if extra.place() < first_stocked {
            self.swap(extra.place(), first_stocked - 1);
            self.stocked += 1;
            self.restocks = self.restocks.wrapping_add(1);
        }
    }

    /// Makes sure that there is a vacant slot, for a block that is yet to come.
    pub(super) fn make_room(&mut self, class: usize) -> Result<(), OutOfMemory> {
        if self.vacancy().is_none() {
            self.reserve()?;
            self.add(Extra::of_blocks(class)?);
        }
        Ok(())
    }

    /// Puts a block that is leased at once into a vacant slot, which there is.
    pub(super) fn install(&self, block: Block, hold: Hold) -> Option<(&Extra, usize)> {
        let (extra, slot) = self.vacancy()?;
        extra.magazine().install(slot, block, hold, extra.place() < self.first_stocked());
        Some((extra, slot))
    }

    /// A vacant slot. The youngest magazines are the likeliest to have one.
    fn vacancy(&self) -> Option<(&Extra, usize)> {
        let mut youngest_first = self.magazines.iter().rev();
        youngest_first.find_map(|extra| Some((&**extra, extra.magazine().vacant_slot()?)))
    }

    /// Makes room for one more magazine.
    pub(super) fn reserve(&mut self) -> Result<(), OutOfMemory> {
        self.magazines.try_reserve(1).map_err(|_| OutOfMemory)
    }

    /// Adds a magazine without idle blocks, for which there is room.
    pub(super) fn add(&mut self, extra: Anchored<Extra>) {
        self.magazines.push(extra);
        let last = self.magazines.len() - 1;
        self.swap(last, last - self.stocked());
    }

    /// Takes out a magazine without idle blocks.
    pub(super) fn remove(&mut self, place: usize) -> Anchored<Extra> {
        let last_unstocked = self.first_stocked() - 1;
        debug_assert!(place <= last_unstocked);
        self.swap(place, last_unstocked);
        self.swap(last_unstocked, self.magazines.len() - 1);
        let removed = self.magazines.pop().expect("the last place is there");
        if self.magazines.len() < self.magazines.capacity() / 4 {
            self.magazines.shrink_to(self.magazines.len() * 2);
        }
        removed
    }

    /// A stocked magazine has no idle block any more. Returns its new place.
    fn unstock(&mut self, place: usize) -> usize {
        let first_stocked = self.first_stocked();
        self.swap(place, first_stocked);
        self.stocked -= 1;
        self.restocks = self.restocks.wrapping_add(1);
        first_stocked
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.magazines.swap(a, b);
        self.magazines[a].set_place(a);
        self.magazines[b].set_place(b);
    }
}
