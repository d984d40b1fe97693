//! How a connection ends, and how what it left behind comes back.

use super::locked::{Locked, Sides};
use super::state::{Ledger, Phase};
use super::wakers::wake_all;
use super::{Connection, Home, Shared, State};
use crate::report::Reclaimed;
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
        let phase = locked.ledger().phase;
        let closes_now = phase == Phase::Open;
        let ends_now = closer == Closer::Guard && phase != Phase::Gone;
        let mut wakers = (None, None);
        if (closes_now || ends_now)
            && let Ok((shared, ledger)) = locked.parts()
        {
            let before = ledger.usage();
            if closes_now {
                self.take_memory(shared, ledger, &mut reclaimed);
                let further = ledger.tables.as_mut().and_then(|tables| tables.wakers.take());
                wakers = (ledger.waker.take(), further);
            }
            if ends_now {
                reclaimed.streams = ledger.stream_counts().into_iter().map(u64::from).sum();
                if ledger.stragglers > 0 {
                    let revoked_bytes = reclaimed.leased_bytes;
                    self.take_forgotten(shared, ledger, &mut reclaimed);
                    reclaimed.forgotten_bytes = reclaimed.leased_bytes - revoked_bytes;
                }
            }
            shared.count_reclaimed(&reclaimed);
            self.leave_stream_classes(shared, ledger, ends_now);
            if let Ok(mut sides) = locked.sides(self) {
                sides.leave(&before, ends_now);
            }
            if ends_now {
                locked.ledger().end_streams();
            }
        }
        if locked.ledger().stragglers > 0 {
            self.count_what_is_out(locked.ledger(), &mut reclaimed);
        }
        #[cfg(feature = "tracing")]
        let orphaned = if ends_now { self.orphans(&locked.state) } else { None };
        self.remove_over(&mut locked);
        drop(self.unlock(locked));
        #[cfg(feature = "tracing")]
        if let Some((shared, orphans)) = orphaned {
            shared.tell_orphaned(self.serial, &orphans);
        }
        // Last, for a waker may run any code, and panic: by now all of the above is true.
        if let (Some(_), _) | (_, Some(_)) = wakers {
            wake_all(wakers.0, wakers.1);
        }
        (closes_now || closer == Closer::Guard).then_some(reclaimed)
    }

    /// Phase one: everything that is idle or revocable.
    fn take_memory(&self, shared: &Shared, ledger: &mut Ledger, reclaimed: &mut Reclaimed) {
        ledger.phase = Phase::Closed;
        reclaimed.reserved_bytes = std::mem::take(&mut ledger.reserved);
        let (mut freed, mut out) = (reclaimed.reserved_bytes, 0);
        for home in self.magazines(ledger) {
            let magazine = self.magazine(home);
            // What is vacant stays so: a block is installed under the mutex and while open.
            if magazine.word().is_vacant() {
                continue;
            }
            // One step: a return or a pin after it sees *closed*, one before it has left its mark in
            // the word.
            let before = magazine.close();
            let bytes = self.block_bytes(home);
            out += before.outstanding().len();
            if let Home::Extra(extra) = home {
                extra.set_stragglers(before.outstanding().len());
            }
            reclaimed.cached_bytes += u64::from(before.idle().len()) * bytes;
            reclaimed.leased_bytes += u64::from(before.revocable().len()) * bytes;
            reclaimed.revoked_leases += u64::from(before.revocable().len());
            freed += self.give(shared, home, before.idle().union(before.revocable()));
        }
        // The first magazine carries the mark in any case, for all to see.
        if !self.is_closed() {
            self.magazines[0].close();
        }
        ledger.memory -= freed;
        ledger.stragglers = out;
        if let Some(depot) = ledger.depot_mut() {
            depot.unstock_all();
        }
    }

    /// Phase two: what was borrowed and forgotten.
    fn take_forgotten(&self, shared: &Shared, ledger: &mut Ledger, reclaimed: &mut Reclaimed) {
        let (mut freed, mut count) = (0, 0);
        for home in self.magazines(ledger) {
            let forgotten = self.magazine(home).take_forgotten();
            count += forgotten.len();
            if let Home::Extra(extra) = home {
                extra.forget_stragglers(forgotten.len());
            }
            reclaimed.leased_bytes += u64::from(forgotten.len()) * self.block_bytes(home);
            freed += self.give(shared, home, forgotten);
        }
        ledger.memory -= freed;
        ledger.stragglers -= count;
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
                let counts = if ends_now { stream.counts() } else { Tally::default() };
                let Some(of) = &mut stream.class else { continue };
                let less = counts.with_memory(std::mem::take(&mut of.memory));
                scopes.credit_class(of.class, parents, &less);
                if ends_now {
                    scopes.release_class(of.class, parents);
                    stream.class = None;
                }
            }
        }
    }

    /// A lease that was out when the connection closed has dropped.
    pub(super) fn forget_straggler(&self, locked: &mut Locked<'_>, home: Home<'_>) {
        if locked.ledger().phase == Phase::Open {
            return;
        }
        locked.ledger().stragglers -= 1;
        if let Home::Extra(extra) = home {
            extra.forget_stragglers(1);
            self.remove_if_over(locked, home);
        }
    }

    /// Once the guard is gone and the last block back, nothing needs to know of the connection.
    pub(super) fn wind_up(&self, locked: &mut Locked<'_>) {
        let Locked { state, leftovers } = locked;
        let State { shared, ledger } = &mut **state;
        if ledger.phase != Phase::Gone || ledger.memory > 0 {
            return;
        }
        if let Some(shared) = shared.take() {
            if ledger.keep.is_some() {
                self.fold(Some(&shared), self.magazines(ledger));
            }
            if ledger.parents.peer().is_some() {
                shared.tree.lock().release(ledger.parents);
            }
            leftovers.keep(shared.registry.remove(self));
            leftovers.shared = Some(shared);
            if let Some(tables) = &mut ledger.tables {
                tables.source = None;
            }
        }
        if ledger.stragglers == 0 {
            leftovers.keep(ledger.keep.take());
            ledger.forget_accounts();
        }
    }

    fn count_what_is_out(&self, ledger: &Ledger, reclaimed: &mut Reclaimed) {
        for home in self.magazines(ledger) {
            let word = self.magazine(home).word();
            let [out, detached] = [word.outstanding().len(), word.detached().len()];
            reclaimed.pinned_bytes += u64::from(out - detached) * self.block_bytes(home);
            reclaimed.detached_bytes += u64::from(detached) * self.block_bytes(home);
        }
    }
}

impl Sides<'_> {
    /// Takes off the scopes what came back, and, as the guard ends, all that the connection itself
    /// counts for: in one step, after the classes of its streams.
    fn leave(&mut self, before: &Tally, ends_now: bool) {
        self.stop_caching();
        let mut less = *before;
        let left = self.ledger.usage();
        if !ends_now {
            less.sub(&left);
            self.scopes.credit(self.ledger.parents, &less);
            return;
        }
        self.leave_address();
        let left_behind = Tally { counts: Default::default(), ..left };
        less.sub(&left_behind);
        let parents = self.ledger.parents;
        self.ledger.parents = self.scopes.depart(parents, &less, &left_behind);
        let age = self.connection.hot.age(self.connection.admitted_tick);
        self.scopes.ended.count(age, self.ledger.marks.peak_bucket());
        self.ledger.phase = Phase::Gone;
    }
}
