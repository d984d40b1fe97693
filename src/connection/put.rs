//! How blocks come back, and what becomes of those that lie idle.
//!
//! A return that finds its magazine slow comes here, with its block still out. On an open connection
//! that may keep blocks it lies idle from then on; else it goes to the arena, and its charge off the
//! scopes.

use super::depot::Depot;
use super::locked::{Leftovers, Locked, LockedScopes};
use super::state::{Ledger, Phase};
use super::{Connection, Home, Shared, State};
use crate::magazine::{Hold, SLOTS};
use crate::sync::Arc;
use crate::sync::unmodelled::Relaxed;
use crate::usage::Tally;

/// Magazines of a size class that may be stocked beside the first while nothing looks through what
/// lies idle: 16 blocks in all.
const STOCKED_UNMAINTAINED: usize = 1;

/// Returns.
impl Connection {
    /// Returns a lease's block, taking the mutex while it is still out.
    #[cold]
    #[inline(never)]
    pub(crate) fn put_slowly(&self, home: Home<'_>, slot: usize, hold: Hold) -> Leftovers {
        let mut locked = self.lock();
        locked.leftovers.share = locked.state.ledger.keep.clone();
        if locked.state.ledger.phase == Phase::Open {
            if !self.keep_idle(&mut locked, home, slot, hold) {
                self.take_back(&mut locked, home, slot);
            }
        } else {
            self.take_back(&mut locked, home, slot);
            self.forget_straggler(&mut locked, home);
            self.wind_up(&mut locked);
        }
        self.unlock(locked)
    }

    /// Takes back a block whose holder let go of it after the close, and lives on revoked.
    #[cold]
    #[inline(never)]
    pub(crate) fn reclaim_unpinned(&self, home: Home<'_>, slot: usize) -> Leftovers {
        let mut locked = self.lock();
        if let Some(shared) = locked.state.shared.as_deref() {
            shared.folded.lock().revoked_leases += 1;
        }
        self.take_back(&mut locked, home, slot);
        self.wind_up(&mut locked);
        self.unlock(locked)
    }

    /// Returns a block that was leased a moment ago, and is not needed after all.
    #[cold]
    #[inline(never)]
    pub(super) fn put_back(&self, class: usize, slot: usize, hold: Hold) {
        if !self.magazines[class].try_put(slot, hold) {
            drop(self.put_slowly(Home::First(class), slot, hold));
        }
    }

    /// Lets a block lie idle where it is, if it may.
    fn keep_idle(&self, locked: &mut Locked<'_>, home: Home<'_>, slot: usize, hold: Hold) -> bool {
        let State { shared, ledger } = &mut *locked.state;
        let Some(shared) = shared.as_deref() else { return false };
        let class = match home {
            Home::First(class) => class,
            Home::Extra(extra) if extra.is_large() => return false,
            Home::Extra(extra) => {
                let stocked = ledger.depot().map_or(0, |depot| depot.row(extra.kind()).stocked());
                if stocked >= STOCKED_UNMAINTAINED && !self.hot.is_maintained() {
                    return false;
                }
                extra.kind()
            }
        };
        if !ledger.caching {
            self.start_caching(ledger, &mut shared.tree.lock());
        }
        if !ledger.caching {
            return false;
        }
        match home {
            Home::First(class) => self.magazines[class].put_idle(slot, hold),
            Home::Extra(extra) => {
                let Some(depot) = ledger.depot_mut() else { return false };
                let row = depot.row_mut(class);
                let stocked = row.stocked();
                row.put_idle(extra, slot, hold);
                self.note_stock(class, stocked, row.stocked());
            }
        }
        true
    }

    /// Takes a block out for good, if a close has not taken it. A large lease is left to be unmapped
    /// after the lock, and stays charged until then.
    fn take_back(&self, locked: &mut Locked<'_>, home: Home<'_>, slot: usize) {
        let State { shared, ledger } = &mut *locked.state;
        let Some(shared) = shared.as_deref() else { return };
        let magazine = self.magazine(home);
        let kind = match home {
            Home::First(class) => class,
            Home::Extra(extra) => extra.kind(),
        };
        if let Home::Extra(extra) = home
            && extra.is_large()
        {
            magazine.vacate_held(slot);
            return;
        }
        let Some(block) = magazine.evict(slot) else { return };
        shared.arena.give(kind, block);
        self.credit(shared, ledger, &Tally::of_blocks(self.block_bytes(kind)));
        self.remove_if_over(locked, home);
    }

    /// Takes an extra magazine out that nothing needs any more.
    pub(super) fn remove_if_over(&self, locked: &mut Locked<'_>, home: Home<'_>) {
        let Locked { state, leftovers } = locked;
        if let Home::Extra(extra) = home
            && extra.is_over()
        {
            let State { shared, ledger } = &mut **state;
            self.fold_extra(shared.as_deref(), extra);
            let row = ledger.depot_mut().map(|depot| depot.row_mut(extra.kind()));
            leftovers.extra = row.map(|row| row.remove(extra.place()));
            ledger.drop_empty_tables();
        }
    }

    /// Lets go of the lock, and then unmaps the large leases that were returned under it.
    pub(super) fn unlock(&self, locked: Locked<'_>) -> Leftovers {
        let has_large = locked.state.ledger.depot().is_some_and(|depot| depot.large_bytes > 0);
        // What ended just now has let go of its governor, and leaves it behind the lock.
        let shared = locked.state.shared.as_ref().or(locked.leftovers.shared.as_ref());
        let shared = shared.filter(|shared| has_large || shared.arena.is_unsettled()).cloned();
        let leftovers = locked.unlock();
        if let Some(shared) = shared {
            if has_large {
                self.unmap_returned(&shared);
            }
            shared.arena.settle();
        }
        leftovers
    }

    /// Unmaps large leases that were returned, one by one, and takes each off the scopes after that:
    /// the arena is never asked for room that the scopes already have.
    fn unmap_returned(&self, shared: &Arc<Shared>) {
        loop {
            let mut locked = self.lock();
            let Some(depot) = locked.ledger().depot() else { return };
            let large = depot.row(crate::ranges::MAX_SIZE_CLASSES);
            let Some(mapping) = large.iter().find_map(|extra| extra.take_returned_large()) else {
                return;
            };
            drop(locked);
            let bytes = mapping.len() as u64;
            shared.arena.unmap_large(mapping);
            let mut locked = self.lock();
            let State { ledger, .. } = &mut *locked.state;
            if let Some(depot) = ledger.depot_mut() {
                depot.large_bytes -= bytes;
            }
            self.credit(shared, ledger, &Tally::of_memory(bytes));
            self.remove_over(&mut locked);
            self.wind_up(&mut locked);
            drop(locked.unlock());
        }
    }

    /// Takes out all extra magazines that nothing needs any more.
    pub(super) fn remove_over(&self, locked: &mut Locked<'_>) {
        let State { shared, ledger } = &mut *locked.state;
        let rows = ledger.depot_mut().into_iter().flat_map(Depot::rows_mut);
        for row in rows {
            while let Some(place) = row.over() {
                let extra = row.remove(place);
                self.fold_extra(shared.as_deref(), &extra);
            }
        }
        locked.ledger().drop_empty_tables();
    }
}

/// Idle blocks.
impl Connection {
    /// Gives the connection's idle blocks back, and returns how many bytes that was.
    pub(crate) fn trim(&self) -> u64 {
        let mut locked = self.lock();
        let bytes = self.give_up_idle(&mut locked, false);
        drop(self.unlock(locked));
        bytes
    }

    /// Gives the connection's idle blocks back, and keeps it from letting more lie idle before its
    /// next slow return, for a request elsewhere that needs the room.
    pub(crate) fn sweep(&self) -> u64 {
        let mut locked = self.lock();
        let bytes = self.give_up_idle(&mut locked, true);
        drop(locked.unlock());
        bytes
    }

    fn give_up_idle(&self, locked: &mut Locked<'_>, then_slow: bool) -> u64 {
        let State { shared, ledger } = &mut *locked.state;
        let Some(shared) = shared.as_deref() else { return 0 };
        let mut scopes = shared.tree.lock();
        let bytes = self.flush_idle(shared, ledger, &mut scopes, then_slow);
        if ledger.caching && (then_slow || self.is_vacant(ledger)) {
            ledger.caching = false;
            scopes.unlist(self.serial, ledger.parents);
        }
        drop(scopes);
        self.remove_over(locked);
        self.fold(locked);
        bytes
    }

    /// Gives idle blocks to the arena, and takes them off the scopes in the same step.
    pub(super) fn flush_idle(
        &self,
        shared: &Shared,
        ledger: &mut Ledger,
        scopes: &mut LockedScopes<'_>,
        then_slow: bool,
    ) -> u64 {
        let mut bytes = 0;
        for (class, magazine) in self.first_magazines() {
            for block in magazine.flush(then_slow) {
                shared.arena.give(class, block);
                bytes += self.block_bytes(class);
            }
        }
        bytes += self.flush_stocked(shared, ledger, |_| true);
        self.credit_blocks(ledger, scopes, bytes)
    }

    /// Gives back what lay idle since the last time: the idle blocks of magazines from which nothing
    /// was leased. Counts anew.
    pub(super) fn give_up_unused(&self) {
        let mut locked = self.lock();
        let State { shared, ledger } = &mut *locked.state;
        let Some(shared) = shared.as_deref() else { return };
        let mut scopes = shared.tree.lock();
        let mut bytes = 0;
        for (class, magazine) in self.first_magazines() {
            if magazine.word().leases() > 0 {
                continue;
            }
            for block in magazine.flush(false) {
                shared.arena.give(class, block);
                bytes += self.block_bytes(class);
            }
        }
        bytes += self.flush_stocked(shared, ledger, |word| word.leases() == 0);
        self.credit_blocks(ledger, &mut scopes, bytes);
        if ledger.caching && self.is_vacant(ledger) {
            ledger.caching = false;
            scopes.unlist(self.serial, ledger.parents);
        }
        drop(scopes);
        self.remove_over(&mut locked);
        self.fold(&mut locked);
        drop(locked.unlock());
    }

    fn flush_stocked(
        &self,
        shared: &Shared,
        ledger: &mut Ledger,
        pick: impl Fn(crate::magazine::Word) -> bool,
    ) -> u64 {
        let Some(depot) = ledger.depot_mut() else { return 0 };
        let mut bytes = 0;
        for (class, _) in self.first_magazines() {
            let row = depot.row_mut(class);
            let stocked = row.stocked();
            row.flush(
                |extra| pick(extra.magazine().word()),
                |block| {
                    shared.arena.give(class, block);
                    bytes += self.block_bytes(class);
                },
            );
            self.note_stock(class, stocked, row.stocked());
        }
        bytes
    }

    /// Takes blocks off the connection and the scopes. Returns how many bytes that is.
    fn credit_blocks(&self, ledger: &mut Ledger, scopes: &mut LockedScopes<'_>, bytes: u64) -> u64 {
        if bytes > 0 {
            ledger.memory -= bytes;
            scopes.credit(ledger.parents, ledger.standing(), &Tally::of_blocks(bytes));
        }
        bytes
    }

    /// How much of the connection's own memory lies idle.
    pub(super) fn idle_bytes(&self, ledger: &Ledger) -> u64 {
        let mut bytes = self.first_idle_bytes();
        for (class, _) in self.first_magazines() {
            let stocked = ledger.depot().map(|depot| depot.row(class).iter_stocked());
            let idle = stocked.into_iter().flatten().map(|extra| extra.magazine().word().idle());
            bytes += idle.map(|idle| u64::from(idle.len())).sum::<u64>() * self.block_bytes(class);
        }
        bytes
    }

    /// Whether no magazine holds a block that may come to lie idle.
    fn is_vacant(&self, ledger: &Ledger) -> bool {
        self.first_magazines().all(|(_, magazine)| magazine.word().is_vacant())
            && ledger.depot().is_none_or(|depot| depot.has_no_blocks())
    }

    /// Notes, for threads without the mutex, about how much lies idle in extra magazines.
    pub(super) fn note_stock(&self, class: usize, before: usize, after: usize) {
        if before != after {
            let blocks = (after as i64 - before as i64) * SLOTS as i64;
            let pieces = blocks * (self.block_bytes(class) / super::STOCK_PIECE) as i64;
            let stock = i64::from(self.stock.load(Relaxed)) + pieces;
            self.stock.store(stock.clamp(0, u32::MAX.into()) as u32, Relaxed);
        }
    }
}

/// Counts.
impl Connection {
    /// Moves the counts of leases and returns into the governor's.
    pub(super) fn fold(&self, locked: &mut Locked<'_>) {
        let State { shared, ledger } = &mut *locked.state;
        let Some(shared) = shared.as_deref() else { return };
        for (class, magazine) in self.first_magazines() {
            let (leases, returns) = magazine.fold();
            let bytes = self.block_bytes(class);
            shared.count(class, leases * bytes, returns * bytes);
        }
        for extra in ledger.depot().into_iter().flat_map(|depot| depot.iter()) {
            self.fold_extra(Some(shared), extra);
        }
    }

    pub(super) fn fold_extra(&self, shared: Option<&Shared>, extra: &crate::magazine::Extra) {
        let bytes = self.extra_bytes(extra);
        let (leases, returns) = extra.magazine().fold();
        if let Some(shared) = shared {
            shared.count(extra.kind(), leases * bytes, returns * bytes);
        }
    }

    /// The size of a block of an extra magazine.
    pub(super) fn extra_bytes(&self, extra: &crate::magazine::Extra) -> u64 {
        if extra.is_large() { extra.large_bytes() } else { self.block_bytes(extra.kind()) }
    }
}
