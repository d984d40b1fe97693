//! The slow way: try under the locks, run errands without them, try again.
//!
//! An attempt either succeeds, or says what has to happen before the next one: a slab has to be
//! mapped, a scope pressed on, a sibling swept. [`Connection::run`] does that with no lock held.
//! It ends: mapping hands its first block to the one who asked, and under pressure the list of
//! members to sweep only shrinks.

use super::account::{Entry, StreamAccount};
use super::ledger::{Ledger, Phase, StreamClass};
use super::loose::{Loose, LooseLease, LooseMemory};
use super::shared::Shared;
use super::{Connection, Granted, Memory, Seat};
use crate::arena::{Arena, Block, Mapping, Note};
use crate::error::{LeaseError, Refused, Resource, Scope};
use crate::limits::ScopeLimits;
use crate::magazine::{Hold, Tight, Word};
use crate::priority::Priority;
use crate::scope::{ClassRef, LevelRef, Pressure, Realm, Request, Shortfall};
use crate::sync::Arc;
use crate::usage::Tally;

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
    Press(LevelRef),
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
    pressures: Vec<Pressure<'a, Arc<Connection>>>,
    /// Records that may not be dropped under a lock.
    litter: Vec<Arc<Connection>>,
}

impl<'a> Errand<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self { shared, block: None, mapping: None, pressures: Vec::new(), litter: Vec::new() }
    }

    /// Attempts until it succeeds or is halted for good. Call with no lock held.
    pub(super) fn run<T>(
        shared: &'a Shared,
        mut attempt: impl FnMut(&mut Self) -> Result<T, Halt>,
    ) -> Result<T, Halted> {
        let mut errand = Self::new(shared);
        loop {
            match attempt(&mut errand) {
                Ok(granted) => return Ok(granted),
                Err(halt) => errand.go(halt)?,
            }
        }
    }

    /// What to do about a charge that did not go through, all of one's own idle memory being back
    /// already: sweep the siblings, or else refuse.
    pub(super) fn overcome(
        &mut self,
        refused: Refused,
        victim: Option<(LevelRef, Arc<Connection>)>,
    ) -> Halt {
        let Some((level, victim)) = victim else { return Halt::Refused(refused) };
        if self.pressures.iter().any(|pressure| pressure.is_on(level)) {
            return Halt::Sweep(victim);
        }
        self.litter.push(victim);
        Halt::Press(level)
    }

    fn go(&mut self, halt: Halt) -> Result<(), Halted> {
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
            Halt::Press(level) => self.pressures.push(self.shared.tree.press(level)),
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
        for realm in [Realm::Ordinary, Realm::Allowlisted] {
            let _pressure = tree.press(LevelRef::System(realm));
            while let Some(member) = tree.first_caching(realm) {
                member.sweep();
            }
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
    /// Attempts until it succeeds or is halted for good, and counts a refusal. Call with no lock
    /// held.
    pub(super) fn run_counted<'a, T>(
        &'a self,
        attempt: impl FnMut(&mut Errand<'a>) -> Result<T, Halt>,
    ) -> Result<T, Halted> {
        Errand::run(&self.shared, attempt).inspect_err(|halted| {
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
        priority: Priority,
    ) -> Result<Granted, LeaseError> {
        let class = self.shared.arena.class_for(len);
        if let (Some(class), None, Priority::Critical) = (class, account, priority)
            && let Some(granted) = self.lease_spare(class, hold)
        {
            return Ok(granted);
        }
        let terms = LeaseTerms { hold, account, priority };
        let granted = match class {
            Some(class) => {
                Errand::run(&self.shared, |errand| self.attempt_block(class, terms, errand))
            }
            None => {
                let bytes = Mapping::round_up(len).unwrap_or(usize::MAX);
                Errand::run(&self.shared, |errand| self.attempt_large(bytes, terms, errand))
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
        terms: LeaseTerms<'a>,
        errand: &mut Errand<'a>,
    ) -> Result<Granted, Halt> {
        let LeaseTerms { hold, account, priority } = terms;
        let bytes = self.block_bytes(class);
        let entry = self.enter(account, bytes, priority)?;
        let mut guard = self.ledger.lock();
        let ledger = &mut *guard;
        if ledger.phase != Phase::Open {
            return Err(Halt::Closed);
        }
        self.keep(ledger);
        let magazine = &self.magazines[class];
        if magazine.word().wants_fold() {
            self.fold(ledger);
        }
        // An idle block is charged already. Only a class of the stream, which is not charged for
        // idle blocks, and a priority below the highest still have a say.
        let is_plain = priority == Priority::Critical && stream_class(ledger, account).is_none();
        let granted = loop {
            let mut idle_bytes = 0;
            if is_plain {
                if let Some(granted) = self.take_idle(ledger, class, hold) {
                    break granted;
                }
            } else if self.has_idle(ledger, class) {
                idle_bytes = bytes;
            }
            let request = Request { usage: Tally::of_memory(bytes), idle_bytes, priority };
            let weigh = if idle_bytes > 0 { Weigh::Charge } else { Weigh::ChargeBlock(class) };
            let tight = match self.weigh(ledger, account, &request, errand, weigh)? {
                Weighed::Charged { tight } => tight,
                Weighed::Flushed => continue,
            };
            if idle_bytes > 0 {
                match self.take_idle(ledger, class, hold) {
                    Some(granted) => break granted,
                    None => {
                        // Another thread was faster, on the way that needs no lock.
                        self.uncharge_stream(ledger, account, bytes);
                        continue;
                    }
                }
            }
            let Some((_, block)) = errand.block.take() else { return Err(Halt::Grow(class)) };
            break match magazine.vacant_slot() {
                Some(slot) => {
                    magazine.install(slot, block.0, hold, tight);
                    self.granted_slot(class, slot)
                }
                None => grant_loose_block(ledger, class, block, bytes, hold),
            };
        };
        drop(guard);
        self.commit(entry);
        Ok(granted)
    }

    fn attempt_large<'a>(
        &'a self,
        bytes: usize,
        terms: LeaseTerms<'a>,
        errand: &mut Errand<'a>,
    ) -> Result<Granted, Halt> {
        let LeaseTerms { hold, account, priority } = terms;
        let entry = self.enter(account, bytes as u64, priority)?;
        let mut guard = self.ledger.lock();
        let ledger = &mut *guard;
        if ledger.phase != Phase::Open {
            return Err(Halt::Closed);
        }
        self.keep(ledger);
        let request = Request::new(Tally::of_memory(bytes as u64)).at(priority);
        if errand.mapping.is_none() {
            while self.weigh(ledger, account, &request, errand, Weigh::Check)? == Weighed::Flushed {
            }
            return Err(Halt::MapLarge(bytes));
        }
        self.charge(ledger, account, &request, errand)?;
        let Some(mapping) = errand.mapping.take() else { return Err(Halt::MapLarge(bytes)) };
        let memory = Memory::Large { base: mapping.base(), bytes: mapping.len() };
        let large = LooseMemory::Large { mapping, note: Box::new(Note::default()) };
        let seat = insert_loose(ledger, LooseLease { memory: large, hold }, bytes as u64);
        drop(guard);
        self.commit(entry);
        Ok(Granted { seat, memory })
    }

    fn granted_slot(&self, class: usize, slot: usize) -> Granted {
        Granted {
            seat: Seat::slot(class, slot),
            memory: Memory::Block { class, block: self.magazines[class].block(slot) },
        }
    }

    /// Leases an idle block of the connection's own.
    fn take_idle(&self, ledger: &mut Ledger, class: usize, hold: Hold) -> Option<Granted> {
        if let Some(slot) = self.magazines[class].take_cached(hold) {
            return Some(self.granted_slot(class, slot));
        }
        let block = ledger.loose_mut()?.take_spare(class)?;
        Some(grant_loose_block(ledger, class, block, self.block_bytes(class), hold))
    }

    fn has_idle(&self, ledger: &Ledger, class: usize) -> bool {
        !self.magazines[class].word().cached().is_empty()
            || ledger.loose().is_some_and(|loose| loose.has_spare(class))
    }

    /// Sees to it that the record keeps itself, which it does from its first lease on.
    fn keep(&self, ledger: &mut Ledger) {
        if ledger.keep.is_none() {
            ledger.keep = self.shared.registry.get(self.id);
            debug_assert!(ledger.keep.is_some(), "a connection that leases is registered");
        }
    }

    /// Takes a place on a stream's account, if there is one.
    pub(super) fn enter<'a>(
        &self,
        account: Option<&'a StreamAccount>,
        bytes: u64,
        priority: Priority,
    ) -> Result<Option<Entered<'a>>, Halt> {
        let Some(account) = account else { return Ok(None) };
        let (limits, observes) = self.shared.tree.stream_limits();
        let refused = match account.enter(bytes, priority, || limits) {
            Ok(entry) => return Ok(Some(Entered { entry, observed: None })),
            Err(refused) => refused,
        };
        if self.is_closed() {
            // Revoked leases that still exist fill the account of a stream that can lease no more.
            return Err(Halt::Closed);
        }
        if !observes {
            return Err(Halt::Refused(refused));
        }
        let entry = account.enter(bytes, priority, ScopeLimits::unlimited);
        let entry = entry.map_err(Halt::Refused)?;
        Ok(Some(Entered { entry, observed: Some(refused) }))
    }

    /// Leaves what was entered on a stream's account taken.
    pub(super) fn commit(&self, entered: Option<Entered<'_>>) {
        let Some(Entered { entry, observed }) = entered else { return };
        entry.commit();
        if let Some(refused) = observed {
            self.shared.tree.count_observed(&refused);
        }
    }

    /// Charges `request` to the connection and every scope above it, or to nothing.
    pub(super) fn charge(
        &self,
        ledger: &mut Ledger,
        account: Option<&StreamAccount>,
        request: &Request,
        errand: &mut Errand<'_>,
    ) -> Result<(), Halt> {
        while self.weigh(ledger, account, request, errand, Weigh::Charge)? == Weighed::Flushed {}
        Ok(())
    }

    /// Finds room for `request`, at the cost of idle memory where need be, and does with it what
    /// `weigh` says.
    fn weigh(
        &self,
        ledger: &mut Ledger,
        account: Option<&StreamAccount>,
        request: &Request,
        errand: &mut Errand<'_>,
        weigh: Weigh,
    ) -> Result<Weighed, Halt> {
        let own = ledger.usage();
        let class = stream_class(ledger, account);
        let of_class = Request { idle_bytes: 0, ..*request };
        let mut line = self.line(ledger);
        let checked = line.check(&own, request).and_then(|()| match class {
            Some(class) => line.check_stream(class, &of_class).map_err(Shortfall::from),
            None => Ok(()),
        });
        let Err(shortfall) = checked else {
            let tight = line.is_tight();
            // Under the scopes' lock: the arena is never short of a block that someone holds who
            // is about to be refused. Nor is anything mapped for one who would be.
            let charges_block = match weigh {
                Weigh::ChargeBlock(class) if !errand.take_along(class) => {
                    return Err(Halt::Grow(class));
                }
                Weigh::ChargeBlock(_) => true,
                Weigh::Check | Weigh::Charge => false,
            };
            if weigh != Weigh::Check {
                line.charge(&own, request);
                ledger.memory += request.usage.memory - request.idle_bytes;
                if let (Some(class), Some(account)) = (class, account) {
                    line.charge_stream(class, &of_class);
                    if let Some(of) = stream_class_mut(ledger, account) {
                        of.memory += of_class.usage.memory;
                    }
                }
            }
            if charges_block
                && !tight
                && !ledger.listed
                && let Some(me) = &ledger.keep
            {
                line.list(self.id, me);
                ledger.listed = true;
            }
            return Ok(Weighed::Charged { tight });
        };
        if self.own_idle_memory_helps(ledger, &shortfall) {
            drop(line);
            self.flush(ledger);
            return Ok(Weighed::Flushed);
        }
        let victim = line.victim(&shortfall);
        let is_ordinary = matches!(shortfall.refused.scope(), Scope::System | Scope::Transient);
        if victim.is_none()
            && is_ordinary
            && line.is_allowlisted(self.ip(ledger))
            && line.change_realm(Realm::Allowlisted, &own, request, self.id).is_ok()
        {
            ledger.place = line.place();
            return Ok(Weighed::Flushed);
        }
        drop(line);
        Err(errand.overcome(shortfall.refused, victim))
    }

    /// Takes off a stream's class what was charged to it in vain.
    fn uncharge_stream(&self, ledger: &mut Ledger, account: Option<&StreamAccount>, bytes: u64) {
        if let (Some(class), Some(account)) = (stream_class(ledger, account), account) {
            if let Some(of) = stream_class_mut(ledger, account) {
                of.memory -= bytes;
            }
            self.line(ledger).credit_stream(class, &Tally::of_memory(bytes));
        }
    }

    /// Whether idle blocks of the connection's own stand in the way.
    pub(super) fn own_idle_memory_helps(&self, ledger: &Ledger, shortfall: &Shortfall) -> bool {
        let is_of_stream = shortfall.level.is_none()
            && matches!(shortfall.refused.scope(), Scope::Class | Scope::ClassPeer);
        shortfall.refused.resource() == Resource::Memory && !is_of_stream && self.has_cached(ledger)
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
        let mut line = self.line(ledger);
        line.credit(&Tally::of_memory(bytes));
        let unlisted = if ledger.listed && !may_cache {
            ledger.listed = false;
            line.unlist(self.id)
        } else {
            [const { None }; 4]
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
            self.line(ledger).credit(&Tally::of_memory(bytes));
        }
    }

    fn has_cached(&self, ledger: &Ledger) -> bool {
        ledger.loose().is_some_and(Loose::has_spares)
            || self.magazines().any(|(_, magazine)| !magazine.word().cached().is_empty())
    }
}

/// How a lease is asked for.
#[derive(Clone, Copy)]
struct LeaseTerms<'a> {
    hold: Hold,
    account: Option<&'a StreamAccount>,
    priority: Priority,
}

/// A place on a stream's account, and the refusal that a stream scope that only observes did not
/// make.
pub(super) struct Entered<'a> {
    entry: Entry<'a>,
    observed: Option<Refused>,
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

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weighed {
    /// It is done. Whether a scope above is tight, so that nothing may be cached.
    Charged { tight: bool },
    /// There is more room now: idle blocks are gone, or the connection has moved to the
    /// allow-listed scopes. Try again.
    Flushed,
}

/// The class that a stream is charged to besides its connection's.
fn stream_class(ledger: &mut Ledger, account: Option<&StreamAccount>) -> Option<ClassRef> {
    Some(stream_class_mut(ledger, account?)?.class)
}

fn stream_class_mut<'a>(
    ledger: &'a mut Ledger,
    account: &StreamAccount,
) -> Option<&'a mut StreamClass> {
    ledger.stream_mut(account.key())?.class.as_mut()
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
