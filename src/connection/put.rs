//! How blocks come back, and what becomes of those that lie idle.
//!
//! A return that finds its magazine slow comes here, with its block still out. On an open connection
//! that may keep blocks it lies idle from then on; else it goes to the arena, and its charge off the
//! scopes.

use super::depot::Depot;
use super::locked::{Leftovers, Locked, Sides};
use super::state::Phase;
use super::{Connection, Home, Shared, State};
use crate::magazine::{Hold, Slots, Word};
use crate::usage::Tally;

/// Magazines of a size class that may be stocked beside the first while nothing looks through what
/// lies idle: 16 blocks in all.
const STOCKED_UNMAINTAINED: usize = 1;

/// Returns.
impl Connection {
    /// Returns a lease's block, taking the mutex while it is still out. The caller
    /// [unlocks](Self::unlock), which may free the magazine that this is lent.
    #[cold]
    #[inline(never)]
    pub(crate) fn put_slowly(&self, home: Home<'_>, slot: usize, hold: Hold) -> Locked<'_> {
        let mut locked = self.lock();
        let share = locked.ledger().keep.clone();
        locked.leftovers.keep(share);
        if !self.keep_idle(&mut locked, home, slot, hold) {
            self.take_back(&mut locked, home, slot);
            self.forget_straggler(&mut locked, home);
        }
        locked
    }

    /// Takes back a block whose holder let go of it after the close, and lives on revoked. The caller
    /// [unlocks](Self::unlock).
    #[cold]
    #[inline(never)]
    pub(crate) fn reclaim_unpinned(&self, home: Home<'_>, slot: usize) -> Locked<'_> {
        let mut locked = self.lock();
        if let Some(shared) = locked.state.shared.as_deref() {
            shared.folded.lock().revoked_leases += 1;
        }
        self.take_back(&mut locked, home, slot);
        locked
    }

    /// Returns a block that was leased a moment ago, and is not needed after all.
    #[cold]
    #[inline(never)]
    pub(super) fn put_back(&self, class: usize, slot: usize, hold: Hold) {
        if !self.magazines[class].try_put(slot, hold) {
            drop(self.unlock(self.put_slowly(Home::First(class), slot, hold)));
        }
    }

    /// Lets a block lie idle where it is, if the connection is open and may keep it.
    fn keep_idle(&self, locked: &mut Locked<'_>, home: Home<'_>, slot: usize, hold: Hold) -> bool {
        let stocked = |depot: &Depot| depot.row(home.kind()).stocked();
        let ledger = locked.ledger();
        if ledger.phase != Phase::Open || home.is_large() {
            return false;
        }
        if let Home::Extra(_) = home
            && ledger.depot().map_or(0, stocked) >= STOCKED_UNMAINTAINED
            && !self.hot.is_maintained()
        {
            return false;
        }
        if !ledger.caching
            && let Ok(mut sides) = locked.sides(self)
        {
            sides.start_caching();
        }
        let ledger = locked.ledger();
        match home {
            _ if !ledger.caching => return false,
            Home::First(class) => self.magazines[class].put_idle(slot, hold),
            Home::Extra(extra) => {
                let Some(depot) = ledger.depot_mut() else { return false };
                depot.row_mut(extra.kind()).put_idle(extra, slot, hold);
            }
        }
        true
    }

    /// Takes a block out for good, if a close has not taken it. A large lease is left to be unmapped
    /// after the lock, and stays charged until then.
    fn take_back(&self, locked: &mut Locked<'_>, home: Home<'_>, slot: usize) {
        let magazine = self.magazine(home);
        let Ok((shared, _)) = locked.parts() else { return };
        if home.is_large() {
            magazine.vacate_held(slot);
        } else if let Some(block) = magazine.evict(slot) {
            shared.arena.give(home.kind(), block);
            if let Ok(mut sides) = locked.sides(self) {
                sides.credit(&Tally::of_blocks(self.block_bytes(home)));
            }
            self.remove_if_over(locked, home);
        }
    }

    /// Gives blocks that a close has vacated to the arena, and returns how many bytes that is. Large
    /// leases are unmapped after the lock, and charged until then.
    pub(super) fn give(&self, shared: &Shared, home: Home<'_>, vacated: Slots) -> u64 {
        if home.is_large() {
            return 0;
        }
        let blocks = self.magazine(home).take_vacated(vacated);
        blocks.for_each(|block| shared.arena.give(home.kind(), block));
        u64::from(vacated.len()) * self.block_bytes(home)
    }

    /// Takes an extra magazine out if nothing needs it any more.
    pub(super) fn remove_if_over(&self, locked: &mut Locked<'_>, home: Home<'_>) {
        if let Home::Extra(extra) = home
            && extra.is_over()
        {
            self.fold(locked.state.shared.as_deref(), [home]);
            let row = locked.ledger().depot_mut().map(|depot| depot.row_mut(extra.kind()));
            locked.leftovers.extra = row.map(|row| row.remove(extra.place()));
            locked.ledger().drop_empty_tables();
        }
    }

    /// Takes out all extra magazines that nothing needs any more.
    pub(super) fn remove_over(&self, locked: &mut Locked<'_>) {
        let State { shared, ledger } = &mut *locked.state;
        if let Some(depot) = ledger.depot_mut() {
            depot.remove_over(|extra| self.fold(shared.as_deref(), [Home::Extra(extra)]));
        }
        ledger.drop_empty_tables();
    }

    /// Lets go of the lock, and does what has to be done without it: unmaps large leases that were
    /// returned, and empty slabs.
    pub(crate) fn unlock<'a>(&'a self, mut locked: Locked<'a>) -> Leftovers {
        // One by one, and each goes off the scopes after that: the arena is never asked for room that
        // the scopes already have.
        let mut end = usize::MAX;
        while let Some(depot) = locked.ledger().depot_mut()
            && let Some((mapping, over)) = depot.take_returned_large(&mut end)
        {
            let Some(shared) = locked.state.shared.clone() else { break };
            if let Some(extra) = over {
                self.fold(Some(&shared), [Home::Extra(&extra)]);
            }
            let bytes = mapping.len() as u64;
            locked = locked.without_lock(self, || shared.arena.unmap_large(mapping));
            if let Some(depot) = locked.ledger().depot_mut() {
                depot.large_bytes -= bytes;
            }
            if let Ok(mut sides) = locked.sides(self) {
                sides.credit(&Tally::of_memory(bytes));
            }
            locked.ledger().drop_empty_tables();
        }
        self.wind_up(&mut locked);
        // What ended just now has let go of its governor, and leaves it behind the lock.
        let shared = locked.state.shared.as_ref().or(locked.leftovers.shared.as_ref());
        let unsettled = shared.filter(|shared| shared.arena.is_unsettled()).cloned();
        let leftovers = locked.unlock();
        if let Some(shared) = unsettled {
            shared.arena.settle();
        }
        leftovers
    }
}

/// Idle blocks.
impl Connection {
    /// Gives the connection's idle blocks back, and returns how many bytes that was.
    pub(crate) fn trim(&self) -> u64 {
        let bytes = self.give_up(false, |_| true);
        drop(self.unlock(self.lock()));
        bytes
    }

    /// Gives the connection's idle blocks back, and keeps it from letting more lie idle before its
    /// next slow return, for a request elsewhere that needs the room. The arena is left to settle.
    pub(crate) fn sweep(&self) -> u64 {
        self.give_up(true, |_| true)
    }

    /// Gives back what lay idle since the last time: the idle blocks of magazines from which nothing
    /// was leased. Counts anew. The arena is left to settle.
    pub(super) fn give_up_unused(&self) {
        self.give_up(false, |word| word.leases() == 0);
    }

    fn give_up(&self, then_slow: bool, pick: impl Fn(Word) -> bool) -> u64 {
        let mut locked = self.lock();
        let Ok(mut sides) = locked.sides(self) else { return 0 };
        let bytes = sides.flush(then_slow, pick);
        let is_vacant = |home: Home<'_>| self.magazine(home).word().is_vacant();
        if then_slow || self.magazines(sides.ledger).all(|home| home.is_large() || is_vacant(home))
        {
            sides.stop_caching();
        }
        drop(sides);
        self.remove_over(&mut locked);
        self.fold(locked.state.shared.as_deref(), self.magazines(&locked.state.ledger));
        bytes
    }

    /// Moves the counts of leases and returns into the governor's.
    pub(super) fn fold<'a>(
        &self,
        shared: Option<&Shared>,
        magazines: impl IntoIterator<Item = Home<'a>>,
    ) {
        let mut folded = None;
        for home in magazines {
            let (leases, returns) = self.magazine(home).fold();
            if let Some(shared) = shared
                && (leases, returns) != (0, 0)
            {
                let folded = folded.get_or_insert_with(|| shared.folded.lock());
                let (size, bytes) = (home.kind(), self.block_bytes(home));
                folded.leased_bytes[size] += leases * bytes;
                folded.returned_bytes[size] += returns * bytes;
            }
        }
    }
}

impl Sides<'_> {
    /// Gives the idle blocks of the magazines that `pick` picks to the arena, and takes them off the
    /// scopes in the same step. Returns how many bytes that is.
    pub(super) fn flush(&mut self, then_slow: bool, pick: impl Fn(Word) -> bool) -> u64 {
        let Sides { connection, shared, ledger, .. } = self;
        let mut bytes = 0;
        let mut give = |class, block| {
            shared.arena.give(class, block);
            bytes += connection.block_bytes(Home::First(class));
        };
        for home in connection.first_magazines() {
            let magazine = connection.magazine(home);
            if pick(magazine.word()) {
                magazine.flush(then_slow).for_each(|block| give(home.kind(), block));
            }
        }
        if let Some(depot) = ledger.depot_mut() {
            depot.flush(pick, give);
        }
        if bytes > 0 {
            self.credit(&Tally::of_blocks(bytes));
        }
        bytes
    }
}
