//! Charging: the connection's own limits, every scope above it, and the class of a stream, all or
//! none; and idle memory, which is given back before anyone is refused.

use super::account::{Entry, StreamAccount};
use super::errand::Halt;
use super::ledger::{Ledger, StreamClass};
use super::loose::Loose;
use super::{Above, Connection};
use crate::arena::Block;
use crate::error::{LeaseError, Refused, Resource, Scope};
use crate::magazine::{Tight, Word};
use crate::priority::Priority;
use crate::scope::{ClassRef, Excused, LevelRef, Realm, Request, Shortfall, Unmet};
use crate::sync::Arc;
use crate::usage::Tally;

/// A place on a stream's account, for a request at a priority.
pub(super) struct Entered<'a> {
    entry: Entry<'a>,
    priority: Priority,
}

impl Entered<'_> {
    pub(super) fn account(&self) -> &StreamAccount {
        self.entry.account()
    }

    /// Whether the whole of a limit would do.
    pub(super) fn fits(&self, limit: u64) -> bool {
        self.entry.fits(limit)
    }

    /// Leaves what was entered taken.
    pub(super) fn commit(self) {
        self.entry.commit();
    }

    /// Holds the place against the limits in force while the tree is locked.
    fn check(&self, line: &Above<'_>, excused: &Excused) -> Result<(), Shortfall> {
        let (others, bytes) = (self.entry.others(), self.entry.bytes());
        line.check_stream_memory(others, bytes, self.priority, excused)
    }
}

/// Charges.
impl Connection {
    /// Takes a place on a stream's account, if there is one. It is held against the limits when the
    /// request is [weighed](Self::weigh).
    pub(super) fn enter<'a>(
        &self,
        account: Option<&'a StreamAccount>,
        bytes: u64,
        priority: Priority,
    ) -> Result<Option<Entered<'a>>, Halt> {
        let Some(account) = account else { return Ok(None) };
        match account.enter(bytes) {
            Some(entry) => Ok(Some(Entered { entry, priority })),
            None => Err(self.uncountable(account, bytes, priority)),
        }
    }

    /// What an account says to more than it can count.
    #[cold]
    fn uncountable(&self, account: &StreamAccount, bytes: u64, priority: Priority) -> Halt {
        if self.is_closed() || self.ledger.lock().stream_mut(account.key()).is_none() {
            // Revoked leases that still exist fill the account of a stream that can lease no more,
            // and of a stream that is over there is nothing to be had either.
            return Halt::Closed;
        }
        let limit = self.shared.tree.stream_limits().memory;
        let refused = Refused::new(Scope::Stream, Resource::Memory, limit, account.in_use(), bytes);
        Halt::Refused(refused.at(priority))
    }

    /// Charges `request` to the connection and every scope above it, or to nothing.
    pub(super) fn charge(
        &self,
        ledger: &mut Ledger,
        entered: Option<&Entered<'_>>,
        request: &Request,
    ) -> Result<(), Halt> {
        self.weigh(ledger, entered, request, |_| Some(())).map(drop)
    }

    /// If there is room for `request`, does `take`, under the tree's lock, and charges it if that took
    /// something. If there is no room in the ordinary system, one whom the allow list covers moves to
    /// the other. Answers what was taken, with the lock, under which nobody else is granted anything.
    pub(super) fn weigh<T>(
        &self,
        ledger: &mut Ledger,
        entered: Option<&Entered<'_>>,
        request: &Request,
        take: impl FnOnce(&mut Ledger) -> Option<T>,
    ) -> Result<Option<(T, Above<'_>)>, Halt> {
        let own = ledger.usage();
        let class = match entered {
            Some(entered) => stream_class(ledger, entered.account())?,
            None => None,
        };
        let of_class = Request { idle_bytes: 0, ..*request };
        let mut line = self.line(ledger);
        let met = line.insist(self.own_idle(ledger), |line, excused| {
            if let Some(entered) = entered {
                entered.check(line, excused)?;
            }
            line.check(&own, request, excused)?;
            class.map_or(Ok(()), |class| line.check_stream(class, &of_class, excused))
        });
        let moves = match met {
            Ok(()) => false,
            Err(Unmet::Refused(refused)) => {
                let is_ordinary = matches!(refused.scope(), Scope::System | Scope::Transient);
                let has_fallback = is_ordinary && line.is_allowlisted(self.ip(ledger));
                let refused = refused.with_fallback(has_fallback);
                if !has_fallback {
                    return Err(Halt::Refused(refused));
                }
                // In the same step: else one system could have room when the other is looked at, and
                // the other when the one is.
                if let Some(class) = class {
                    line.insist(
                        |_| None,
                        |line, excused| line.check_stream(class, &of_class, excused),
                    )
                    .map_err(|unmet| unmet.instead(refused))?;
                }
                line.insist(self.own_idle(ledger), |line, excused| {
                    line.check_realm(Realm::Allowlisted, &own, request, excused)
                })
                .map_err(|unmet| unmet.instead(refused))?;
                true
            }
            Err(unmet) => return Err(unmet.into()),
        };
        // Nothing has changed until here, and from here on nothing fails.
        let Some(taken) = take(ledger) else { return Ok(None) };
        if moves {
            self.change_realm(Realm::Allowlisted, ledger, &mut line, &own, request);
        } else {
            line.charge(&own, request);
        }
        ledger.memory += request.usage.memory - request.idle_bytes;
        if let Some(entered) = entered {
            if let Err(over) = entered.check(&line, &Excused::default()) {
                line.count_observed(&over.refused);
            }
            if let Some(of) = stream_class_mut(ledger, entered.account()) {
                line.charge_stream(of.class, &of_class);
                of.memory += of_class.usage.memory;
            }
        }
        Ok(Some((taken, line)))
    }

    /// Moves the connection to the scopes of another realm, if they have room for it.
    pub(super) fn move_to(
        &self,
        realm: Realm,
        ledger: &mut Ledger,
        line: &mut Above<'_>,
    ) -> Result<(), Unmet<Arc<Connection>>> {
        let (own, nothing) = (ledger.usage(), Request::new(Tally::default()));
        line.insist(self.own_idle(ledger), |line, excused| {
            line.check_realm(realm, &own, &nothing, excused)
        })?;
        self.change_realm(realm, ledger, line, &own, &nothing);
        Ok(())
    }

    /// Moves the connection, with what it asks for, to the scopes of another realm, which have room.
    /// No address counts who is allow-listed.
    fn change_realm(
        &self,
        realm: Realm,
        ledger: &mut Ledger,
        line: &mut Above<'_>,
        own: &Tally,
        request: &Request,
    ) {
        line.change_realm(realm, own, request, self.id);
        ledger.place = line.place();
        if realm == Realm::Allowlisted {
            self.uncount(ledger, line);
        }
    }

    /// Answers for idle blocks of the connection's own that stand in the way: the record, to be
    /// flushed.
    pub(super) fn own_idle(&self, ledger: &Ledger) -> impl Fn(&Shortfall) -> Option<Arc<Self>> {
        move |shortfall| {
            let own_or_above = match shortfall.level {
                Some(LevelRef::Class(class) | LevelRef::ClassPeer(class, _)) => {
                    ledger.place.class == Some(class)
                }
                Some(_) => true,
                None => shortfall.refused.scope() == Scope::Connection,
            };
            let is_memory = shortfall.refused.resource() == Resource::Memory;
            let helps = is_memory && own_or_above && self.has_cached(ledger);
            if helps { ledger.keep.clone() } else { None }
        }
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
    /// Gives idle cached blocks back, and answers how many bytes that was.
    pub(crate) fn trim(&self) -> u64 {
        let mut ledger = self.ledger.lock();
        let bytes = self.give_up_cached(&mut ledger, Tight::Keep);
        self.fold(&mut ledger);
        drop(ledger);
        self.shared.arena.settle();
        bytes
    }

    /// Gives the connection's idle blocks back and keeps it from caching more, for a sibling that
    /// needs the room.
    pub(super) fn sweep(&self) {
        self.give_up_cached(&mut self.ledger.lock(), Tight::Set);
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
