//! How a connection ends, and how what it left behind comes back.

use super::Connection;
use super::ledger::{Ledger, Phase};
use super::loose::{Loose, LooseLease, LooseMemory};
use super::seat::{Seat, Spot};
use crate::arena::{Block, Mapping};
use crate::magazine::Hold;
use crate::report::Reclaimed;
use crate::scope::Vacated;
use crate::sync::{Arc, MutexGuard};
use crate::usage::Tally;

/// Who closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closer {
    /// The governor or a handle: the guard lives on, and keeps its counts.
    Outside,
    /// The guard itself, which ends here: no borrow of it can be alive.
    Guard,
}

/// What has to happen once the mutex is let go.
#[derive(Default)]
struct Aftermath {
    unmap: Vec<Mapping>,
    vacated: Vacated<Arc<Connection>>,
    unlisted: [Option<Arc<Connection>>; 4],
    deregister: bool,
    keep: Option<Arc<Connection>>,
}

impl Connection {
    /// Takes everything back that nobody is touching. The guard's close does what an earlier one from
    /// outside had to leave; of those from outside, only the first finds anything to do.
    pub(crate) fn close(&self, closer: Closer) -> Option<Reclaimed> {
        let mut reclaimed = Reclaimed::default();
        let mut aftermath = Aftermath::default();
        let mut guard = self.ledger.lock();
        let ledger = &mut *guard;
        let closes_now = ledger.phase == Phase::Open;
        let ends_now = closer == Closer::Guard && ledger.phase != Phase::Gone;
        let mut bytes = 0;
        if closes_now {
            ledger.phase = Phase::Closed;
            reclaimed.reserved_bytes = std::mem::take(&mut ledger.reserved);
            bytes += reclaimed.reserved_bytes;
            if ledger.has_leased() {
                bytes += self.take_memory(ledger, &mut reclaimed, &mut aftermath);
            } else {
                // The first magazine carries the mark for all to see.
                self.magazines[0].close();
            }
        }
        if ends_now {
            let streams = [ledger.streams_inbound, ledger.streams_outbound];
            reclaimed.streams = streams.into_iter().map(u64::from).sum();
            if ledger.stragglers > 0 {
                bytes += self.take_forgotten(ledger, &mut reclaimed, &mut aftermath);
            }
        }
        if closes_now || ends_now {
            self.credit_close(ledger, bytes, ends_now, &mut aftermath);
        }
        self.count_what_is_out(ledger, &mut reclaimed);
        self.wind_up(ledger, &mut aftermath);
        let wakers = if closes_now { ledger.wakers.take() } else { None };
        drop(guard);
        self.finish(aftermath);
        // Last, for a waker may run any code, and panic: by now all of the above is true.
        if let Some(wakers) = wakers {
            wakers.wake_all();
        }
        (closes_now || closer == Closer::Guard).then_some(reclaimed)
    }

    /// Phase one: everything that is idle or revocable. Answers how many bytes that is.
    #[inline(never)]
    fn take_memory(
        &self,
        ledger: &mut Ledger,
        reclaimed: &mut Reclaimed,
        aftermath: &mut Aftermath,
    ) -> u64 {
        for (class, magazine) in self.magazines() {
            // What is vacant stays so: a block is installed under the mutex and while open. Only
            // the first magazine carries the mark in any case, for all to see.
            if class > 0 && magazine.word().is_vacant() {
                continue;
            }
            // One step: whoever returns or pins after it sees *closed*, whoever did before it has
            // left its mark in the word.
            let before = magazine.close();
            ledger.stragglers += before.outstanding().len();
            let bytes = self.block_bytes(class);
            for slot in before.cached() {
                self.shared.arena.give(class, Block(magazine.block(slot)));
                reclaimed.cached_bytes += bytes;
            }
            for slot in before.revocable() {
                self.shared.arena.give(class, Block(magazine.block(slot)));
                reclaimed.leased_bytes += bytes;
            }
        }
        for (class, block) in ledger.loose_mut().map(Loose::take_spares).unwrap_or_default() {
            self.shared.arena.give(class, block);
            reclaimed.cached_bytes += self.block_bytes(class);
        }
        ledger.stragglers += ledger.loose().map_or(0, Loose::len) as u32;
        let revoked =
            ledger.loose_mut().map(|loose| loose.take_held(Hold::Owned)).unwrap_or_default();
        reclaimed.leased_bytes += self.give_loose(ledger, revoked, aftermath);
        reclaimed.cached_bytes + reclaimed.leased_bytes
    }

    /// Phase two: what was borrowed and forgotten. Answers how many bytes that is.
    #[inline(never)]
    fn take_forgotten(
        &self,
        ledger: &mut Ledger,
        reclaimed: &mut Reclaimed,
        aftermath: &mut Aftermath,
    ) -> u64 {
        let mut bytes = 0;
        for (class, magazine) in self.magazines() {
            for slot in magazine.reclaim_forgotten() {
                self.shared.arena.give(class, Block(magazine.block(slot)));
                bytes += self.block_bytes(class);
                ledger.stragglers -= 1;
            }
        }
        let forgotten =
            ledger.loose_mut().map(|loose| loose.take_held(Hold::Borrowed)).unwrap_or_default();
        ledger.stragglers -= forgotten.len() as u32;
        bytes += self.give_loose(ledger, forgotten, aftermath);
        reclaimed.leased_bytes += bytes;
        bytes
    }

    /// Takes off the scopes what came back, and, as the guard ends, all that the connection itself
    /// counts for: in one step.
    fn credit_close(
        &self,
        ledger: &mut Ledger,
        bytes: u64,
        ends_now: bool,
        aftermath: &mut Aftermath,
    ) {
        let ended = ledger.usage().with_memory(bytes);
        ledger.memory -= bytes;
        let left = self.ip(ledger).filter(|_| ends_now && ledger.counted);
        let left = left.map(|ip| self.shared.tree.address(ip));
        let mut line = self.line(ledger);
        if std::mem::take(&mut ledger.listed) {
            aftermath.unlisted = line.unlist(self.id);
        }
        for stream in ledger.streams() {
            let Some(of) = &mut stream.class else { continue };
            line.credit_stream(of.class, &Tally::of_memory(std::mem::take(&mut of.memory)));
            if ends_now {
                let class = of.class;
                line.credit_stream(class, &stream.counts());
                stream.class = None;
                aftermath.vacated.merge(line.release_stream(class));
            }
        }
        if !ends_now {
            line.credit(&Tally::of_memory(bytes));
            return;
        }
        if let Some(left) = left {
            line.subnets().leave(left);
        }
        aftermath.vacated.merge(line.depart(&ended, &Tally::of_memory(ledger.memory)));
        drop(line);
        ledger.phase = Phase::Gone;
        ledger.counted = false;
        ledger.place.class = None;
        if ledger.memory == 0 {
            ledger.place.set_peer(None);
        }
        (ledger.streams_inbound, ledger.streams_outbound) = (0, 0);
        ledger.end_streams();
    }

    /// Returns a `'static` lease's block, taking the mutex while it is still out. The answer keeps
    /// this record in memory, and is dropped after the last use of `self`.
    #[cold]
    #[inline(never)]
    #[must_use = "the record may go with it: drop it after the last use of the reference"]
    pub(crate) fn put_slowly(&self, seat: Seat) -> Option<Arc<Connection>> {
        let mut ledger = self.ledger.lock();
        let alive = ledger.keep.clone();
        if !self.put_spare(&mut ledger, seat) {
            self.put_locked(ledger, seat);
        }
        alive
    }

    /// Returns a loose block that a `Lease<'_>` had, whose guard keeps the record.
    #[cold]
    #[inline(never)]
    pub(super) fn put_loose_borrowed(&self, seat: Seat) {
        let mut ledger = self.ledger.lock();
        if !self.put_spare(&mut ledger, seat) {
            self.put_locked(ledger, seat);
        }
    }

    /// Keeps the block of a loose lease for the next one, if the connection may cache.
    fn put_spare(&self, ledger: &mut Ledger, seat: Seat) -> bool {
        let may_cache = ledger.phase == Phase::Open && ledger.listed;
        let (Spot::Loose { key }, true) = (seat.spot(), may_cache) else { return false };
        ledger.loose_mut().is_some_and(|loose| loose.keep_spare(key, &self.shared.arena))
    }

    fn put_locked(&self, mut guard: MutexGuard<'_, Ledger>, seat: Seat) {
        let mut aftermath = Aftermath::default();
        let ledger = &mut *guard;
        self.take_back(ledger, seat, &mut aftermath.unmap);
        if ledger.phase != Phase::Open {
            ledger.stragglers -= 1;
            self.wind_up(ledger, &mut aftermath);
        }
        drop(guard);
        self.finish(aftermath);
    }

    /// Takes back a block whose holder let go of it after the close, and lives on revoked.
    #[cold]
    #[inline(never)]
    pub(super) fn reclaim_unpinned(&self, seat: Seat) {
        let mut aftermath = Aftermath::default();
        let mut guard = self.ledger.lock();
        let ledger = &mut *guard;
        self.take_back(ledger, seat, &mut aftermath.unmap);
        self.wind_up(ledger, &mut aftermath);
        drop(guard);
        self.finish(aftermath);
    }

    /// Takes a block back, if the close has not.
    fn take_back(&self, ledger: &mut Ledger, seat: Seat, unmap: &mut Vec<Mapping>) {
        let bytes = match seat.spot() {
            Spot::Slot { class, slot } => {
                let magazine = &self.magazines[class];
                if !magazine.evict(slot) {
                    return;
                }
                self.shared.arena.give(class, Block(magazine.block(slot)));
                self.block_bytes(class)
            }
            Spot::Loose { key } => {
                let Some(loose) = ledger.loose_mut() else { return };
                let Some(lease) = loose.remove(key) else { return };
                let bytes = lease.bytes(&self.shared.arena);
                loose.returned_bytes += bytes;
                self.give(lease.memory, unmap);
                bytes
            }
        };
        self.credit(ledger, bytes);
    }

    /// Once the guard is gone and the last block back, nothing needs to know of the connection.
    fn wind_up(&self, ledger: &mut Ledger, aftermath: &mut Aftermath) {
        if ledger.phase != Phase::Gone {
            return;
        }
        if ledger.memory == 0 && ledger.charged {
            self.fold(ledger);
            ledger.charged = false;
            ledger.set_source(None);
            if ledger.place.peer().is_some() {
                aftermath.vacated.merge(self.line(ledger).release_peer());
                ledger.place.set_peer(None);
            }
            aftermath.deregister = true;
        }
        if ledger.stragglers == 0 {
            ledger.forget_accounts();
            aftermath.keep = ledger.keep.take();
        }
    }

    fn finish(&self, aftermath: Aftermath) {
        let Aftermath { unmap, vacated, unlisted, deregister, keep } = aftermath;
        for mapping in unmap {
            self.shared.arena.unmap_large(mapping);
        }
        self.shared.arena.settle();
        let registered = if deregister { self.shared.registry.remove(self.id) } else { None };
        if deregister {
            self.shared.release_if_deserted();
        }
        drop((vacated, unlisted, registered, keep));
    }

    fn count_what_is_out(&self, ledger: &Ledger, reclaimed: &mut Reclaimed) {
        if ledger.stragglers == 0 {
            return;
        }
        let usage = self.usage_of(ledger);
        reclaimed.pinned_bytes = usage.leased_bytes;
        reclaimed.detached_bytes = usage.detached_bytes;
    }

    /// Gives loose leases back that were taken from their holders, and counts them as returned.
    fn give_loose(
        &self,
        ledger: &mut Ledger,
        leases: Vec<LooseLease>,
        aftermath: &mut Aftermath,
    ) -> u64 {
        let mut bytes = 0;
        for lease in leases {
            bytes += lease.bytes(&self.shared.arena);
            self.give(lease.memory, &mut aftermath.unmap);
        }
        if let Some(loose) = ledger.loose_mut() {
            loose.returned_bytes += bytes;
        }
        bytes
    }

    /// Gives the memory of a loose lease back. Mappings are unmapped later, outside the mutex.
    fn give(&self, memory: LooseMemory, unmap: &mut Vec<Mapping>) {
        match memory {
            LooseMemory::Block { class, block } => self.shared.arena.give(class, block),
            LooseMemory::Large { mapping, .. } => unmap.push(mapping),
        }
    }

    /// Moves the counts of leases and returns into the governor's tallies.
    pub(super) fn fold(&self, ledger: &mut Ledger) {
        let (mut leased_bytes, mut returned_bytes) = (0, 0);
        if !ledger.has_leased() {
            return;
        }
        for (class, magazine) in self.magazines() {
            let (leases, returns) = magazine.fold();
            leased_bytes += leases * self.block_bytes(class);
            returned_bytes += returns * self.block_bytes(class);
        }
        if let Some(loose) = ledger.loose_mut() {
            leased_bytes += std::mem::take(&mut loose.leased_bytes);
            returned_bytes += std::mem::take(&mut loose.returned_bytes);
        }
        ledger.drop_empty_tables();
        if leased_bytes == 0 && returned_bytes == 0 {
            return;
        }
        let mut tallies = self.shared.tallies.lock();
        tallies.leased_bytes += leased_bytes;
        tallies.returned_bytes += returned_bytes;
    }

    /// What [`fold`](Self::fold) would move.
    pub(super) fn unfolded(&self, ledger: &Ledger) -> (u64, u64) {
        let (mut leased_bytes, mut returned_bytes) = match ledger.loose() {
            Some(loose) => (loose.leased_bytes, loose.returned_bytes),
            None => (0, 0),
        };
        for (class, magazine) in self.magazines() {
            let word = magazine.word();
            leased_bytes += word.leases() * self.block_bytes(class);
            returned_bytes += word.returns() * self.block_bytes(class);
        }
        (leased_bytes, returned_bytes)
    }
}
