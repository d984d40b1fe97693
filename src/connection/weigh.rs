//! Charging: the connection's own limits, every scope above it, and the class of a stream, all or
//! none; and idle memory, which is given back before anyone is refused.

use super::Connection;
use super::account::{Entry, StreamAccount};
use super::errand::{Errand, Halt};
use super::ledger::{Ledger, StreamClass};
use super::loose::Loose;
use crate::arena::Block;
use crate::error::{LeaseError, Refused, Resource, Scope};
use crate::limits::{Observe, ScopeLimits};
use crate::magazine::{Tight, Word};
use crate::priority::Priority;
use crate::scope::{ClassRef, LevelRef, Line, Realm, Request, Shortfall};
use crate::sync::Arc;
use crate::usage::Tally;

/// What to do with a request for which there is room.
pub(super) enum Weigh<'e, 'a> {
    /// Charge nothing.
    Check,
    /// Charge it.
    Charge,
    /// Charge it for a block of this class, which is taken along, and list the connection as one
    /// that may cache, unless a scope is tight.
    ChargeBlock(usize, &'e mut Errand<'a>),
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weighed {
    /// It is done. For a block: whether a scope above is tight, so that nothing may be cached.
    Charged { tight: bool },
    /// There is more room now: idle blocks are gone, or the connection has moved to the
    /// allow-listed scopes. Try again.
    Flushed,
}

/// What came of a move to another realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moved {
    Done,
    /// Not yet: idle memory is back first.
    Flushed,
}

/// A place on a stream's account, and the refusal that a stream scope that only observes did not
/// make.
pub(super) struct Entered<'a> {
    entry: Entry<'a>,
    priority: Priority,
    observed: Option<Refused>,
}

impl Entered<'_> {
    pub(super) fn account(&self) -> &StreamAccount {
        self.entry.account()
    }

    /// Holds the place against the limits in force while the tree is locked.
    fn check(&self, line: &Line<'_, Arc<Connection>>, excused: Observe) -> Result<(), Shortfall> {
        let (before, bytes) = (self.entry.before, self.entry.bytes());
        line.check_stream_memory(before, bytes, self.priority, excused)
    }
}

/// Charges.
impl Connection {
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
            Ok(entry) => return Ok(Some(Entered { entry, priority, observed: None })),
            Err(refused) => refused,
        };
        if self.is_closed() || self.ledger.lock().stream_mut(account.key()).is_none() {
            // Revoked leases that still exist fill the account of a stream that can lease no more,
            // and of a stream that is over there is nothing to be had either.
            return Err(Halt::Closed);
        }
        if !observes {
            return Err(Halt::Refused(refused));
        }
        let entry = account.enter(bytes, priority, ScopeLimits::unlimited);
        let entry = entry.map_err(Halt::Refused)?;
        Ok(Some(Entered { entry, priority, observed: Some(refused) }))
    }

    /// Leaves what was entered on a stream's account taken.
    pub(super) fn commit(&self, entered: Option<Entered<'_>>) {
        let Some(Entered { entry, observed, .. }) = entered else { return };
        entry.commit();
        if let Some(refused) = observed {
            self.shared.tree.count_observed(&refused);
        }
    }

    /// Charges `request` to the connection and every scope above it, or to nothing.
    pub(super) fn charge(
        &self,
        ledger: &mut Ledger,
        entered: Option<&Entered<'_>>,
        request: &Request,
    ) -> Result<(), Halt> {
        while self.weigh(ledger, entered, request, Weigh::Charge)? == Weighed::Flushed {}
        Ok(())
    }

    /// Finds room for `request`, at the cost of idle memory where need be, and does with it what
    /// `weigh` says.
    pub(super) fn weigh(
        &self,
        ledger: &mut Ledger,
        entered: Option<&Entered<'_>>,
        request: &Request,
        mut weigh: Weigh<'_, '_>,
    ) -> Result<Weighed, Halt> {
        let own = ledger.usage();
        let class = match entered {
            Some(entered) => stream_class(ledger, entered.account())?,
            None => None,
        };
        let of_class = Request { idle_bytes: 0, ..*request };
        let mut excused = Observe::none();
        let mut line = self.line(ledger);
        let shortfall = loop {
            let checked = line
                .check(&own, request, excused)
                .and_then(|()| match class {
                    Some(class) => line.check_stream(class, &of_class, excused),
                    None => Ok(()),
                })
                .and_then(|()| match entered {
                    Some(entered) => entered.check(&line, excused),
                    None => Ok(()),
                });
            let Err(shortfall) = checked else { break None };
            if self.own_idle_memory_helps(ledger, &shortfall) {
                drop(line);
                self.flush(ledger);
                return Ok(Weighed::Flushed);
            }
            if let Some((level, victim)) = line.victim(&shortfall) {
                return Err(Halt::MakeRoom(level, victim));
            }
            if excused.contains(shortfall.refused.scope())
                || !line.observes(shortfall.refused.scope())
            {
                break Some(shortfall);
            }
            // Nothing idle is in the way: this is what would really be refused.
            excused = excused.scope(shortfall.refused.scope());
        };
        if let Some(shortfall) = shortfall {
            let is_ordinary = matches!(shortfall.refused.scope(), Scope::System | Scope::Transient);
            let has_fallback = is_ordinary && line.is_allowlisted(self.ip(ledger));
            let mut fits_stream = true;
            if let Some(class) = class
                && has_fallback
                && let Err(of_stream) = line.check_stream(class, &of_class, Observe::none())
            {
                if let Some((level, victim)) = line.victim(&of_stream) {
                    return Err(Halt::MakeRoom(level, victim));
                }
                let everything = Observe::everything();
                fits_stream = line.observes(of_stream.refused.scope())
                    && line.check_stream(class, &of_class, everything).is_ok();
            }
            if has_fallback && fits_stream {
                // While both systems are seen at once: else one could have room when the other is
                // looked at, and the other when the one is.
                match self.move_to_realm(ledger, line, Realm::Allowlisted, request) {
                    Err(Halt::Refused(_)) => {}
                    Err(halt) => return Err(halt),
                    Ok(_) => return Ok(Weighed::Flushed),
                }
            }
            return Err(Halt::Refused(shortfall.refused.with_fallback(has_fallback)));
        }
        // Under the scopes' lock: the arena is never short of a block that someone holds who is
        // about to be refused. Nor is anything mapped for one who would be.
        if let Weigh::ChargeBlock(class, errand) = &mut weigh
            && !errand.take_along(*class)
        {
            return Err(Halt::Grow(*class));
        }
        if !matches!(weigh, Weigh::Check) {
            line.charge(&own, request);
            ledger.memory += request.usage.memory - request.idle_bytes;
            if let (Some(class), Some(entered)) = (class, entered) {
                line.charge_stream(class, &of_class);
                if let Some(of) = stream_class_mut(ledger, entered.account()) {
                    of.memory += of_class.usage.memory;
                }
            }
        }
        if !matches!(weigh, Weigh::ChargeBlock(..)) {
            return Ok(Weighed::Charged { tight: false });
        }
        let tight = line.is_tight();
        if !tight
            && !ledger.listed
            && let Some(me) = &ledger.keep
        {
            line.list(self.id, me);
            ledger.listed = true;
        }
        Ok(Weighed::Charged { tight })
    }

    /// Moves the connection to the scopes of another realm, if they have room for it and for
    /// `request`, at the cost of idle memory where need be. No address counts who is allow-listed.
    pub(super) fn enter_realm(
        &self,
        ledger: &mut Ledger,
        realm: Realm,
        request: &Request,
    ) -> Result<(), Halt> {
        loop {
            let line = self.line(ledger);
            if self.move_to_realm(ledger, line, realm, request)? == Moved::Done {
                return Ok(());
            }
        }
    }

    /// As [`enter_realm`](Self::enter_realm), in the same step with what was seen of the line. If
    /// idle memory had to be given back, the line was let go of.
    fn move_to_realm(
        &self,
        ledger: &mut Ledger,
        mut line: Line<'_, Arc<Connection>>,
        realm: Realm,
        request: &Request,
    ) -> Result<Moved, Halt> {
        let own = ledger.usage();
        let mut excused = Observe::none();
        loop {
            let moved = line.change_realm(realm, &own, request, self.id, excused);
            let Err(shortfall) = moved else {
                ledger.place = line.place();
                drop(line);
                if realm == Realm::Allowlisted {
                    self.uncount(ledger);
                }
                return Ok(Moved::Done);
            };
            if self.own_idle_memory_helps(ledger, &shortfall) {
                drop(line);
                self.flush(ledger);
                return Ok(Moved::Flushed);
            }
            if let Some((level, victim)) = line.victim(&shortfall) {
                return Err(Halt::MakeRoom(level, victim));
            }
            let scope = shortfall.refused.scope();
            if excused.contains(scope) || !line.observes(scope) {
                return Err(Halt::Refused(shortfall.refused));
            }
            excused = excused.scope(scope);
        }
    }

    /// Takes off a stream's class what was charged to it in vain.
    pub(super) fn uncharge_stream(
        &self,
        ledger: &mut Ledger,
        entered: Option<&Entered<'_>>,
        bytes: u64,
    ) {
        let Some(entered) = entered else { return };
        if let Some(of) = stream_class_mut(ledger, entered.account()) {
            of.memory -= bytes;
            let class = of.class;
            self.line(ledger).credit_stream(class, &Tally::of_memory(bytes));
        }
    }

    /// Whether idle blocks of the connection's own stand in the way.
    pub(super) fn own_idle_memory_helps(&self, ledger: &Ledger, shortfall: &Shortfall) -> bool {
        let own_or_above = match shortfall.level {
            Some(LevelRef::Class(class)) => ledger.place.class == Some(class),
            Some(LevelRef::ClassPeer(class, _)) => ledger.place.class == Some(class),
            Some(_) => true,
            None => shortfall.refused.scope() == Scope::Connection,
        };
        shortfall.refused.resource() == Resource::Memory && own_or_above && self.has_cached(ledger)
    }

    /// Counts a refusal that reaches the caller.
    pub(crate) fn count_refusal(&self, error: &LeaseError) {
        if let Some(refused) = error.refused() {
            self.shared.tree.count_refusal(refused);
        }
    }
}

/// Idle memory.
impl Connection {
    /// Gives the connection's own idle blocks back, and answers how many bytes that was.
    pub(super) fn flush(&self, ledger: &mut Ledger) -> u64 {
        self.give_up_cached(ledger, Tight::Keep)
    }

    /// Gives the connection's idle blocks back and keeps it from caching more, for a sibling that
    /// needs the room.
    pub(super) fn sweep(&self) {
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

/// The class that a stream is charged to besides its connection's.
pub(super) fn stream_class(
    ledger: &mut Ledger,
    account: &StreamAccount,
) -> Result<Option<ClassRef>, Halt> {
    // A stream that was closed and drained is forgotten. What is left of it can have no more.
    let stream = ledger.stream_mut(account.key()).ok_or(Halt::Closed)?;
    Ok(stream.class.map(|of| of.class))
}

fn stream_class_mut<'a>(
    ledger: &'a mut Ledger,
    account: &StreamAccount,
) -> Option<&'a mut StreamClass> {
    ledger.stream_mut(account.key())?.class.as_mut()
}
