//! The slow way: try under the locks, run errands without them, try again.
//!
//! An attempt either succeeds, or says what has to happen before the next one: a slab has to be
//! mapped, a scope pressed on, a sibling swept. [`Connection::run`] does that with no lock held.
//! It ends: mapping hands its first block to the one who asked, and under pressure the list of
//! members to sweep only shrinks.

use super::account::{Entry, StreamAccount};
use super::ledger::{Ledger, Phase};
use super::loose::{Loose, LooseLease, LooseMemory};
use super::shared::Shared;
use super::{Connection, Granted, Memory, Seat};
use crate::arena::{Arena, Block, Mapping, Note};
use crate::error::{LeaseError, Refused, Resource, Scope};
use crate::magazine::{Hold, Tight, Word};
use crate::scope::{KeyedScope, Place, Pressure};
use crate::sync::Arc;
use crate::usage::Usage;

/// Why an attempt stopped.
pub(super) enum Halt {
    /// For good: a limit.
    Refused(Refused),
    /// For good: the connection is closed.
    Closed,
    /// Until a slab of this class is mapped.
    Grow(usize),
    /// Until this many bytes are mapped for a large lease.
    MapLarge(usize),
    /// Until the refusing scope is under pressure, so that nobody caches in it any more.
    Press(Scope, Option<Arc<KeyedScope<Arc<Connection>>>>),
    /// Until this sibling's idle memory is swept.
    Sweep(Arc<Connection>),
}

/// Why a request failed.
pub(super) enum Halted {
    Refused(Refused),
    Closed,
}

impl From<Halted> for LeaseError {
    fn from(halted: Halted) -> Self {
        match halted {
            Halted::Refused(refused) => refused.into(),
            Halted::Closed => LeaseError::Closed,
        }
    }
}

/// What one request has brought along from between its attempts. What is left is given back.
pub(super) struct Errand<'a> {
    shared: &'a Shared,
    block: Option<(usize, Block)>,
    mapping: Option<Mapping>,
    pressures: [Option<Pressure<'a, Arc<Connection>>>; 4],
    /// Records that may not be dropped under a lock.
    litter: Vec<Arc<Connection>>,
}

impl<'a> Errand<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            block: None,
            mapping: None,
            pressures: [const { None }; 4],
            litter: Vec::new(),
        }
    }

    /// What to do about a charge that did not go through, all of one's own idle memory being back
    /// already: sweep the siblings, or else refuse.
    pub(super) fn overcome(
        &mut self,
        refused: Refused,
        victim: Option<Arc<Connection>>,
        peer: Option<&Arc<KeyedScope<Arc<Connection>>>>,
        class: Option<&Arc<KeyedScope<Arc<Connection>>>>,
    ) -> Halt {
        let Some(victim) = victim else { return Halt::Refused(refused) };
        let scope = refused.scope();
        if self.pressures.iter().flatten().any(|pressure| pressure.is_on(scope)) {
            return Halt::Sweep(victim);
        }
        self.drop_later(Some(victim));
        match scope {
            Scope::Peer => Halt::Press(scope, peer.cloned()),
            Scope::Class => Halt::Press(scope, class.cloned()),
            _ => Halt::Press(scope, None),
        }
    }

    /// Keeps a record until no lock is held.
    pub(super) fn drop_later(&mut self, record: Option<Arc<Connection>>) {
        self.litter.extend(record);
    }

    fn run(&mut self, halt: Halt) -> Result<(), Halted> {
        match halt {
            Halt::Refused(refused) => return Err(Halted::Refused(refused)),
            Halt::Closed => return Err(Halted::Closed),
            Halt::Grow(class) => {
                let block = self.ask_arena(|arena| arena.grow(class))?;
                self.block = Some((class, block));
            }
            Halt::MapLarge(bytes) => {
                self.mapping = Some(self.ask_arena(|arena| arena.map_large(bytes))?);
            }
            Halt::Press(scope, keyed) => {
                let pressure = self.shared.tree.press(scope, keyed);
                if let Some(place) = self.pressures.iter_mut().find(|place| place.is_none()) {
                    *place = Some(pressure);
                }
            }
            Halt::Sweep(sibling) => {
                sibling.sweep();
                self.shared.arena.settle();
            }
        }
        Ok(())
    }

    /// Asks the arena for memory. Before it refuses, because too much is resident or the system has
    /// no more, the idle blocks of all connections go back to it: those may be what keeps pages from
    /// being given up.
    fn ask_arena<T>(&self, ask: impl Fn(&Arena) -> Result<T, Refused>) -> Result<T, Halted> {
        let Shared { arena, tree, .. } = self.shared;
        if let Ok(granted) = ask(arena) {
            return Ok(granted);
        }
        let _pressure = tree.press(Scope::System, None);
        while let Some(member) = tree.first_caching() {
            member.sweep();
        }
        ask(arena).map_err(Halted::Refused)
    }

    /// Takes a block along, unless one was brought along already. `false`: none is mapped.
    fn take_along(&mut self, class: usize) -> bool {
        if self.block.is_none() {
            self.block = self.shared.arena.take(class).map(|block| (class, block));
        }
        self.block.is_some()
    }
}

impl Drop for Errand<'_> {
    fn drop(&mut self) {
        if let Some((class, block)) = self.block.take() {
            self.shared.arena.give(class, block);
        }
        if let Some(mapping) = self.mapping.take() {
            self.shared.arena.unmap_large(mapping);
        }
        self.shared.arena.settle();
    }
}

impl Connection {
    /// Attempts until it succeeds or is halted for good. Call with no lock held.
    pub(super) fn run<'a, T>(
        &'a self,
        mut attempt: impl FnMut(&mut Errand<'a>) -> Result<T, Halt>,
    ) -> Result<T, Halted> {
        let mut errand = Errand::new(&self.shared);
        loop {
            match attempt(&mut errand) {
                Ok(granted) => return Ok(granted),
                Err(halt) => errand.run(halt)?,
            }
        }
    }

    /// As [`run`](Self::run), and counts a refusal.
    pub(super) fn run_counted<'a, T>(
        &'a self,
        attempt: impl FnMut(&mut Errand<'a>) -> Result<T, Halt>,
    ) -> Result<T, Halted> {
        self.run(attempt).inspect_err(|halted| {
            if let Halted::Refused(refused) = halted {
                self.shared.tree.count_refusal(refused);
            }
        })
    }

    /// Counts a refusal that reaches the caller.
    pub(crate) fn count_refusal(&self, error: &LeaseError) {
        if let Some(refused) = error.refused() {
            self.shared.tree.count_refusal(refused);
        }
    }

    /// Leases what the magazine alone could not. A refusal is not [counted](Self::count_refusal).
    #[cold]
    #[inline(never)]
    pub(crate) fn lease_slowly(
        &self,
        len: usize,
        hold: Hold,
        account: Option<&StreamAccount>,
    ) -> Result<Granted, LeaseError> {
        let class = self.shared.arena.class_for(len);
        if let (Some(class), None) = (class, account)
            && let Some(granted) = self.lease_spare(class, hold)
        {
            return Ok(granted);
        }
        let granted = match class {
            Some(class) => self.run(|errand| self.attempt_block(class, hold, account, errand)),
            None => {
                let bytes = Mapping::round_up(len).unwrap_or(usize::MAX);
                self.run(|errand| self.attempt_large(bytes, hold, account, errand))
            }
        };
        granted.map_err(LeaseError::from)
    }

    /// Leases an idle block beyond the magazine's, if there is one: the connection's mutex, and
    /// nothing else.
    fn lease_spare(&self, class: usize, hold: Hold) -> Option<Granted> {
        let mut ledger = self.ledger.lock();
        if ledger.phase != Phase::Open || !self.magazines[class].word().cached().is_empty() {
            return None;
        }
        let block = ledger.loose_mut()?.take_spare(class)?;
        Some(grant_loose_block(&mut ledger, class, block, self.block_bytes(class), hold))
    }

    fn attempt_block<'a>(
        &'a self,
        class: usize,
        hold: Hold,
        account: Option<&'a StreamAccount>,
        errand: &mut Errand<'a>,
    ) -> Result<Granted, Halt> {
        let bytes = self.block_bytes(class);
        let entry = self.enter(account, bytes)?;
        let mut guard = self.ledger.lock();
        let ledger = &mut *guard;
        if ledger.phase != Phase::Open {
            return Err(Halt::Closed);
        }
        let magazine = &self.magazines[class];
        if magazine.word().wants_fold() {
            self.fold(ledger);
        }
        if let Some(slot) = magazine.take_cached(hold) {
            drop(guard);
            if let Some(entry) = entry {
                entry.commit();
            }
            return Ok(self.granted_slot(class, slot));
        }
        if let Some(block) = ledger.loose_mut().and_then(|loose| loose.take_spare(class)) {
            let granted = grant_loose_block(ledger, class, block, bytes, hold);
            drop(guard);
            if let Some(entry) = entry {
                entry.commit();
            }
            return Ok(granted);
        }
        let usage = Usage::of_memory(bytes);
        let tight = self.weigh(ledger, &usage, errand, Weigh::ChargeBlock(class))?;
        let Some((_, block)) = errand.block.take() else { return Err(Halt::Grow(class)) };
        let granted = match magazine.vacant_slot() {
            Some(slot) => {
                magazine.install(slot, block.0, hold, tight);
                self.granted_slot(class, slot)
            }
            None => grant_loose_block(ledger, class, block, bytes, hold),
        };
        drop(guard);
        if let Some(entry) = entry {
            entry.commit();
        }
        Ok(granted)
    }

    fn attempt_large<'a>(
        &'a self,
        bytes: usize,
        hold: Hold,
        account: Option<&'a StreamAccount>,
        errand: &mut Errand<'a>,
    ) -> Result<Granted, Halt> {
        let entry = self.enter(account, bytes as u64)?;
        let mut guard = self.ledger.lock();
        let ledger = &mut *guard;
        if ledger.phase != Phase::Open {
            return Err(Halt::Closed);
        }
        let usage = Usage::of_memory(bytes as u64);
        if errand.mapping.is_none() {
            self.check(ledger, &usage, errand)?;
            return Err(Halt::MapLarge(bytes));
        }
        self.charge(ledger, &usage, errand)?;
        let Some(mapping) = errand.mapping.take() else { return Err(Halt::MapLarge(bytes)) };
        let memory = Memory::Large { base: mapping.base(), bytes: mapping.len() };
        let large = LooseMemory::Large { mapping, note: Box::new(Note::default()) };
        let seat = insert_loose(ledger, LooseLease { memory: large, hold }, bytes as u64);
        drop(guard);
        if let Some(entry) = entry {
            entry.commit();
        }
        Ok(Granted { seat, memory })
    }

    fn granted_slot(&self, class: usize, slot: usize) -> Granted {
        Granted {
            seat: Seat::slot(class, slot),
            memory: Memory::Block { class, block: self.magazines[class].block(slot) },
        }
    }

    /// Takes a place on a stream's account, if there is one.
    pub(super) fn enter<'a>(
        &self,
        account: Option<&'a StreamAccount>,
        bytes: u64,
    ) -> Result<Option<Entry<'a>>, Halt> {
        let Some(account) = account else { return Ok(None) };
        let limit = || self.shared.tree.limits().stream.memory;
        account.enter(bytes, limit).map(Some).map_err(|refused| {
            // Revoked leases that still exist fill the account of a stream that can lease no more.
            if self.is_closed() { Halt::Closed } else { Halt::Refused(refused) }
        })
    }

    /// Charges `more` to the connection and every scope above it, or to nothing.
    pub(super) fn charge(
        &self,
        ledger: &mut Ledger,
        more: &Usage,
        errand: &mut Errand<'_>,
    ) -> Result<(), Halt> {
        self.weigh(ledger, more, errand, Weigh::Charge).map(drop)
    }

    /// Whether [`charge`](Self::charge) would go through now.
    fn check(
        &self,
        ledger: &mut Ledger,
        more: &Usage,
        errand: &mut Errand<'_>,
    ) -> Result<(), Halt> {
        self.weigh(ledger, more, errand, Weigh::Check).map(drop)
    }

    /// Finds room for `more`, at the cost of idle memory where need be, and does with it what
    /// `weigh` says. Answers whether a scope above is tight, so that nothing may be cached.
    fn weigh(
        &self,
        ledger: &mut Ledger,
        more: &Usage,
        errand: &mut Errand<'_>,
        weigh: Weigh,
    ) -> Result<bool, Halt> {
        loop {
            let own = ledger.usage();
            let mut line = self.line(&ledger.place, ledger.phase);
            let connection = line.connection_limits().check(Scope::Connection, &own, more);
            let Err(refused) = connection.and_then(|()| line.check(more)) else {
                let tight = line.is_tight();
                // Under the scopes' locks: the arena is never short of a block that someone holds
                // who is about to be refused. Nor is anything mapped for one who would be.
                let charges_block = match weigh {
                    Weigh::ChargeBlock(class) if !errand.take_along(class) => {
                        return Err(Halt::Grow(class));
                    }
                    Weigh::ChargeBlock(_) => true,
                    Weigh::Check | Weigh::Charge => false,
                };
                if weigh != Weigh::Check {
                    line.charge(more);
                    ledger.memory += more.memory;
                }
                if charges_block
                    && !tight
                    && !ledger.listed
                    && let Some(me) = &ledger.keep
                {
                    line.list(self.id, me);
                    ledger.listed = true;
                }
                return Ok(tight);
            };
            let own_idle_memory_helps =
                refused.resource() == Resource::Memory && self.has_cached(ledger);
            if own_idle_memory_helps {
                drop(line);
                self.flush(ledger);
                continue;
            }
            let victim = line.victim(&refused);
            drop(line);
            let Place { peer, class, .. } = &ledger.place;
            return Err(errand.overcome(refused, victim, peer.as_ref(), class.as_ref()));
        }
    }

    /// Gives the connection's own idle blocks back, and answers how many bytes that was.
    pub(super) fn flush(&self, ledger: &mut Ledger) -> u64 {
        self.give_up_cached(ledger, Tight::Keep)
    }

    /// Gives the connection's idle blocks back and keeps it from caching more, for a sibling that
    /// needs the room.
    fn sweep(&self) {
        let mut ledger = self.ledger.lock();
        self.give_up_cached(&mut ledger, Tight::Set);
    }

    fn give_up_cached(&self, ledger: &mut Ledger, tight: Tight) -> u64 {
        let mut bytes = 0;
        let mut may_cache = false;
        for (class, magazine) in self.magazines() {
            for slot in magazine.flush(tight) {
                self.shared.arena.give(class, Block(magazine.block(slot)));
                bytes += self.block_bytes(class);
            }
            may_cache |= magazine.word().may_cache();
        }
        for (class, block) in ledger.loose_mut().map(Loose::take_spares).unwrap_or_default() {
            self.shared.arena.give(class, block);
            bytes += self.block_bytes(class);
        }
        ledger.memory -= bytes;
        // Off the scopes and off their lists in one step: an entry stands exactly while there may
        // be idle memory behind it.
        let mut line = self.line(&ledger.place, ledger.phase);
        line.credit(&Usage::of_memory(bytes));
        let unlisted = if ledger.listed && !may_cache {
            ledger.listed = false;
            line.unlist(self.id)
        } else {
            [None, None, None]
        };
        drop(line);
        // Not the last share of this record: its caller has one.
        drop(unlisted);
        bytes
    }

    /// After a borrowed block was returned to a tight or closed magazine, whose word was `before`:
    /// passes it on.
    #[cold]
    #[inline(never)]
    pub(super) fn flush_returned(&self, class: usize, before: Word) {
        let mut guard = self.ledger.lock();
        let ledger = &mut *guard;
        let magazine = &self.magazines[class];
        let mut bytes = 0;
        for slot in magazine.flush(Tight::Keep) {
            self.shared.arena.give(class, Block(magazine.block(slot)));
            bytes += self.block_bytes(class);
        }
        if before.is_closed() {
            ledger.stragglers -= 1;
        }
        self.credit(ledger, bytes);
        drop(guard);
        self.shared.arena.settle();
    }

    /// Takes bytes that are back in the arena off the connection and every scope above it.
    pub(super) fn credit(&self, ledger: &mut Ledger, bytes: u64) {
        if bytes > 0 {
            ledger.memory -= bytes;
            self.line(&ledger.place, ledger.phase).credit(&Usage::of_memory(bytes));
        }
    }

    fn has_cached(&self, ledger: &Ledger) -> bool {
        ledger.loose().is_some_and(Loose::has_spares)
            || self.magazines().any(|(_, magazine)| !magazine.word().cached().is_empty())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Weigh {
    /// Charge nothing.
    Check,
    /// Charge it.
    Charge,
    /// Charge it for a block of this class, which is taken along, and list the connection as one
    /// that may cache, unless a scope is tight.
    ChargeBlock(usize),
}

/// Leases a block that no magazine has a place for.
fn grant_loose_block(
    ledger: &mut Ledger,
    class: usize,
    block: Block,
    bytes: u64,
    hold: Hold,
) -> Granted {
    let memory = Memory::Block { class, block: block.0 };
    let lease = LooseLease { memory: LooseMemory::Block { class, block }, hold };
    Granted { seat: insert_loose(ledger, lease, bytes), memory }
}

/// Enters a lease that no magazine has a place for.
fn insert_loose(ledger: &mut Ledger, lease: LooseLease, bytes: u64) -> Seat {
    let loose = ledger.loose_or_new();
    loose.leased_bytes += bytes;
    Seat::loose(loose.insert(lease))
}
