//! How a connection ends, and how what it left behind comes back.

use super::depot::Depot;
use super::locked::Locked;
use super::state::{Ledger, Phase};
use super::wakers::wake_all;
use super::{Connection, Home, Shared, State};
use crate::report::Reclaimed;
use crate::scope::ClassRef;
use crate::usage::Tally;

/// What closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closer {
    /// The governor or a handle: the guard lives on, and keeps its counts.
    Outside,
    /// The guard itself, which ends here: no borrow of it can be alive.
    Guard,
}

impl Connection {
    /// Takes everything back that no thread is touching. The guard's close does what an earlier one
    /// from outside had to leave; of those from outside, only the first finds anything to do.
    pub(crate) fn close(&self, closer: Closer) -> Option<Reclaimed> {
        let mut reclaimed = Reclaimed::default();
        let mut locked = self.lock();
        let State { shared, ledger } = &mut *locked.state;
        let closes_now = ledger.phase == Phase::Open;
        let ends_now = closer == Closer::Guard && ledger.phase != Phase::Gone;
        let mut wakers = (None, None);
        if let Some(shared) = shared.as_deref() {
            let before = ledger.usage();
            if closes_now {
                ledger.phase = Phase::Closed;
                reclaimed.reserved_bytes = std::mem::take(&mut ledger.reserved);
                ledger.memory -= reclaimed.reserved_bytes;
                self.take_memory(shared, ledger, &mut reclaimed);
                let further = ledger.tables.as_mut().and_then(|tables| tables.wakers.take());
                wakers = (ledger.waker.take(), further);
            }
            if ends_now {
                let streams = ledger.streams().map_or([0; 2], |s| [s.inbound, s.outbound]);
                reclaimed.streams = streams.into_iter().map(u64::from).sum();
                if ledger.stragglers > 0 {
                    let revoked_bytes = reclaimed.leased_bytes;
                    self.take_forgotten(shared, ledger, &mut reclaimed);
                    reclaimed.forgotten_bytes = reclaimed.leased_bytes - revoked_bytes;
                }
            }
            if closes_now || ends_now {
                self.leave_scopes(shared, ledger, &before, ends_now);
                shared.count_reclaimed(&reclaimed);
            }
        }
        self.count_what_is_out(&locked.state.ledger, &mut reclaimed);
        #[cfg(feature = "tracing")]
        let orphaned = if ends_now { self.orphans(&locked.state) } else { None };
        self.remove_over(&mut locked);
        self.wind_up(&mut locked);
        drop(self.unlock(locked));
        #[cfg(feature = "tracing")]
        if let Some((shared, orphans)) = orphaned {
            shared.tell_orphaned(self.serial, &orphans);
        }
        // Last, for a waker may run any code, and panic: by now all of the above is true.
        let (first, further) = wakers;
        wake_all(first, further);
        (closes_now || closer == Closer::Guard).then_some(reclaimed)
    }

    /// Phase one: everything that is idle or revocable.
    fn take_memory(&self, shared: &Shared, ledger: &mut Ledger, reclaimed: &mut Reclaimed) {
        for (class, magazine) in self.first_magazines() {
            // What is vacant stays so: a block is installed under the mutex and while open. Only
            // the first magazine carries the mark in any case, for all to see.
            if class > 0 && magazine.word().is_vacant() {
                continue;
            }
            // One step: a return or a pin after it sees *closed*, one before it has left its mark in
            // the word.
            let before = magazine.close();
            ledger.stragglers += before.outstanding().len();
            let bytes = self.block_bytes(class);
            reclaimed.cached_bytes += u64::from(before.idle().len()) * bytes;
            reclaimed.leased_bytes += u64::from(before.revocable().len()) * bytes;
            reclaimed.revoked_leases += u64::from(before.revocable().len());
            for block in magazine.take_vacated(before.idle().union(before.revocable())) {
                shared.arena.give(class, block);
                ledger.memory -= bytes;
            }
        }
        let Ledger { tables, stragglers, memory, .. } = ledger;
        let depot = tables.as_ref().and_then(|tables| tables.depot.as_deref());
        for extra in depot.into_iter().flat_map(Depot::iter) {
            let before = extra.magazine().close();
            extra.set_stragglers(before.outstanding().len());
            *stragglers += before.outstanding().len();
            let bytes = self.extra_bytes(extra);
            reclaimed.cached_bytes += u64::from(before.idle().len()) * bytes;
            reclaimed.leased_bytes += u64::from(before.revocable().len()) * bytes;
            reclaimed.revoked_leases += u64::from(before.revocable().len());
            // A large lease is unmapped after the lock, and charged until then.
            if !extra.is_large() {
                let taken = before.idle().union(before.revocable());
                for block in extra.magazine().take_vacated(taken) {
                    shared.arena.give(extra.kind(), block);
                    *memory -= bytes;
                }
            }
        }
        if let Some(depot) = ledger.depot_mut() {
            depot.rows_mut().for_each(|row| row.unstock_all());
        }
    }

    /// Phase two: what was borrowed and forgotten.
    fn take_forgotten(&self, shared: &Shared, ledger: &mut Ledger, reclaimed: &mut Reclaimed) {
        for (class, magazine) in self.first_magazines() {
            let forgotten = magazine.take_forgotten();
            ledger.stragglers -= forgotten.len();
            for block in magazine.take_vacated(forgotten) {
                shared.arena.give(class, block);
                ledger.memory -= self.block_bytes(class);
                reclaimed.leased_bytes += self.block_bytes(class);
            }
        }
        let Ledger { tables, stragglers, memory, .. } = ledger;
        let depot = tables.as_ref().and_then(|tables| tables.depot.as_deref());
        for extra in depot.into_iter().flat_map(Depot::iter) {
            let forgotten = extra.magazine().take_forgotten();
            extra.forget_stragglers(forgotten.len());
            *stragglers -= forgotten.len();
            let bytes = self.extra_bytes(extra);
            reclaimed.leased_bytes += u64::from(forgotten.len()) * bytes;
            if !extra.is_large() {
                for block in extra.magazine().take_vacated(forgotten) {
                    shared.arena.give(extra.kind(), block);
                    *memory -= bytes;
                }
            }
        }
    }

    /// Takes off the scopes what came back, and, as the guard ends, all that the connection itself
    /// counts for: in one step, after the classes of its streams.
    fn leave_scopes(&self, shared: &Shared, ledger: &mut Ledger, before: &Tally, ends_now: bool) {
        self.leave_stream_classes(shared, ledger, ends_now);
        let mut scopes = shared.tree.lock();
        if std::mem::take(&mut ledger.caching) {
            scopes.unlist(self.serial, ledger.parents);
        }
        let left = ledger.usage();
        if !ends_now {
            let mut less = *before;
            less.sub(&left);
            scopes.credit(ledger.parents, ledger.standing(), &less);
            return;
        }
        self.leave_address(shared, ledger, &mut scopes);
        let left_behind = Tally { counts: Default::default(), ..left };
        let mut ended = *before;
        ended.sub(&left_behind);
        scopes.depart(ledger.parents, &ended, &left_behind);
        scopes.ended.count(self.hot.age(self.admitted_tick), ledger.marks.peak_bucket());
        drop(scopes);
        ledger.phase = Phase::Gone;
        ledger.parents.class = None;
        if ledger.memory == 0 {
            ledger.parents.set_peer(None);
        }
        ledger.end_streams();
    }

    /// Takes what streams have in classes of their own off these, a few streams with each turn of the
    /// lock.
    fn leave_stream_classes(&self, shared: &Shared, ledger: &mut Ledger, ends_now: bool) {
        const AT_ONCE: usize = 64;
        let parents = ledger.parents;
        let Some(streams) = ledger.streams_mut() else { return };
        let mut classed = streams.iter_mut().filter(|stream| stream.class.is_some()).peekable();
        while classed.peek().is_some() {
            let mut scopes = shared.tree.lock();
            for stream in classed.by_ref().take(AT_ONCE) {
                let counts = stream.counts();
                let Some(of) = &mut stream.class else { continue };
                let less = Tally::of_memory(std::mem::take(&mut of.memory));
                let class: ClassRef = of.class;
                if ends_now {
                    scopes.credit_class(class, parents, &counts.with_memory(less.memory));
                    scopes.release_class(class, parents);
                    stream.class = None;
                } else {
                    scopes.credit_class(class, parents, &less);
                }
            }
        }
    }

    /// A lease that was out when the connection closed has dropped.
    pub(super) fn forget_straggler(&self, locked: &mut Locked<'_>, home: Home<'_>) {
        locked.ledger().stragglers -= 1;
        if let Home::Extra(extra) = home {
            extra.forget_stragglers(1);
            self.remove_if_over(locked, home);
        }
    }

    /// Once the guard is gone and the last block back, nothing needs to know of the connection.
    pub(super) fn wind_up(&self, locked: &mut Locked<'_>) {
        if locked.state.ledger.phase != Phase::Gone {
            return;
        }
        if locked.state.ledger.memory == 0 && locked.state.shared.is_some() {
            self.fold(locked);
            let Locked { state, leftovers } = locked;
            let State { shared, ledger } = &mut **state;
            if let Some(shared) = shared.take() {
                if ledger.parents.peer().is_some() {
                    shared.tree.lock().release(ledger.parents);
                    ledger.parents.set_peer(None);
                }
                leftovers.registered = shared.registry.remove(self);
                leftovers.shared = Some(shared);
            }
        }
        let Locked { state, leftovers } = locked;
        let State { shared, ledger } = &mut **state;
        if shared.is_none()
            && let Some(tables) = &mut ledger.tables
        {
            tables.source = None;
        }
        if ledger.stragglers == 0 {
            leftovers.keep = ledger.keep.take();
            ledger.forget_accounts();
            ledger.drop_empty_tables();
        }
    }

    fn count_what_is_out(&self, ledger: &Ledger, reclaimed: &mut Reclaimed) {
        if ledger.stragglers == 0 {
            return;
        }
        self.for_each_magazine(ledger, |_, magazine, bytes| {
            let [out, detached] = [magazine.word().outstanding(), magazine.word().detached()];
            reclaimed.pinned_bytes += u64::from(out.len() - detached.len()) * bytes;
            reclaimed.detached_bytes += u64::from(detached.len()) * bytes;
        });
    }
}
