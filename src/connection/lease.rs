//! Leases that the first magazine of a size class could not serve.

use std::panic::Location;
use std::ptr::NonNull;

use super::account::{HeldAccount, StreamAccount};
use super::attempt::{Attempts, Stop};
use super::locked::Locked;
use super::state::Ledger;
use super::{Connection, Home, LARGE, Shared};
use crate::arena::Mapping;
use crate::error::{LeaseError, Refused, Resource, Scope};
use crate::magazine::{Extra, Hold, Magazine, SlotRef};
use crate::priority::Priority;
use crate::registry::Registered;
use crate::scope::{Demand, StreamCharge};
use crate::usage::Tally;

/// How a lease is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub(crate) len: usize,
    pub(crate) hold: Hold,
    /// The stream's, if it is leased on one.
    pub(crate) account: Option<&'a StreamAccount>,
    pub(crate) priority: Priority,
    pub(crate) site: &'static Location<'static>,
}

/// A block that was leased the slow way.
pub(crate) struct Granted {
    pub(crate) slot: SlotRef,
    pub(crate) memory: Memory,
}

/// Where the bytes of a lease are.
pub(crate) enum Memory {
    Block { class: usize, number: u32 },
    Large { base: NonNull<u8>, bytes: usize },
}

impl Connection {
    /// Leases what the magazine alone could not. A refusal is not [counted](Self::count_refusal).
    #[cold]
    #[inline(never)]
    pub(crate) fn lease_slowly(&self, ask: &Ask<'_>) -> Result<Granted, LeaseError> {
        let granted = match self.hot.sizes.for_len(ask.len) {
            Some(class) => self.attempt(|attempts| self.attempt_block(class, ask, attempts)),
            None => {
                let bytes = Mapping::round_up(ask.len).unwrap_or(usize::MAX);
                self.attempt(|attempts| self.attempt_large(bytes, ask, attempts))
            }
        };
        #[cfg(feature = "testing")]
        if granted.is_ok() && self.revokes() {
            // As if another thread closed the connection at this moment.
            self.close(super::Closer::Outside);
        }
        Ok(granted?)
    }

    #[cfg(feature = "testing")]
    fn revokes(&self) -> bool {
        self.lock().state.shared.as_deref().is_some_and(|shared| shared.faults.revokes())
    }

    fn attempt_block(
        &self,
        class: usize,
        ask: &Ask<'_>,
        attempts: &mut Attempts,
    ) -> Result<Granted, Stop> {
        let bytes = self.block_bytes(Home::First(class));
        let mut locked = self.lock_open()?;
        if self.magazines[class].word().wants_fold() {
            self.fold(locked.state.shared.as_deref(), self.first_magazines());
        }
        let on_stream = OnStream::enter(&mut locked, ask, bytes)?;
        let stream = on_stream.as_ref().map(|on| on.charge);
        // An idle block is charged already. Only a class of the stream, which is not charged for idle
        // blocks, its limit, and a priority below the highest still have a say.
        let is_plain = ask.priority == Priority::Critical
            && stream.is_none_or(|stream| {
                stream.class.is_none() && stream.in_use + bytes <= self.hot.stream_memory()
            });
        let of_block = Demand::new(Tally::of_blocks(bytes)).at(ask.priority);
        let mut granted = None;
        if is_plain {
            let (shared, ledger) = locked.parts()?;
            granted = self.take_idle(shared, ledger, class, ask.hold);
        } else if self.has_idle(locked.ledger(), class) {
            let request = Demand { idle_bytes: bytes, ..of_block };
            granted =
                locked.sides(self)?.charge(attempts, &request, stream, |shared, ledger, _| {
                    self.take_idle(shared, ledger, class, ask.hold)
                })?;
        }
        let granted = match granted {
            Some(granted) => granted,
            None => self.lease_fresh(&mut locked, class, ask, &of_block, stream, attempts)?,
        };
        if let Some(on_stream) = on_stream {
            on_stream.commit(&mut locked, bytes);
        }
        Ok(granted)
    }

    /// Leases a block that is not charged yet.
    fn lease_fresh(
        &self,
        locked: &mut Locked<'_>,
        class: usize,
        ask: &Ask<'_>,
        request: &Demand,
        stream: Option<StreamCharge>,
        attempts: &mut Attempts,
    ) -> Result<Granted, Stop> {
        self.keep(locked)?;
        let first = &self.magazines[class];
        if first.vacant_slot().is_none() {
            locked.ledger().depot_or_new()?.row_mut(class).make_room(class)?;
        }
        // Under the tree's lock: the arena is never short of a block that a request holds which is
        // about to be refused. Nor is anything mapped for one that would be.
        let mut brought = attempts.block.take();
        let charged = locked.sides(self)?.charge(attempts, request, stream, |shared, _, spare| {
            let at_hand = brought.take().map(|(_, block)| block).or_else(|| spare.take(class));
            at_hand.or_else(|| shared.arena.take(class))
        });
        attempts.block = brought;
        let block = charged?.ok_or(Stop::Map(class))?;
        let (shared, ledger) = locked.parts()?;
        if ask.hold == Hold::Owned {
            // It may be kept without ever being pinned, which is when it would note this itself.
            shared.arena.set_note(class, &block, ask.site, self.hot.tick());
        }
        if let Some(vacant) = first.vacant_slot() {
            first.install(vacant, block, ask.hold, !ledger.caching);
            return Ok(granted_of_first(class, first, vacant));
        }
        let row = ledger.depot_mut().map(|depot| depot.row_mut(class));
        let (extra, vacant) =
            row.and_then(|row| row.install(block, ask.hold)).expect("room was made");
        Ok(self.granted_of_extra(shared, extra, vacant))
    }

    /// A block of an extra magazine that was leased just now. All leases from there come by here, and
    /// none of them heeds the mark that sends leases from a first magazine to fold its counts.
    fn granted_of_extra(&self, shared: &Shared, extra: &Extra, slot: usize) -> Granted {
        let magazine = extra.magazine();
        if magazine.word().wants_fold() {
            self.fold(Some(shared), [Home::Extra(extra)]);
        }
        let memory = Memory::Block { class: extra.kind(), number: magazine.number(slot) };
        Granted { slot: SlotRef::of_extra(extra, slot), memory }
    }

    fn attempt_large(
        &self,
        bytes: usize,
        ask: &Ask<'_>,
        attempts: &mut Attempts,
    ) -> Result<Granted, Stop> {
        let mut locked = self.lock_open()?;
        self.keep(&mut locked)?;
        let on_stream = OnStream::enter(&mut locked, ask, bytes as u64)?;
        let stream = on_stream.as_ref().map(|on| on.charge);
        locked.ledger().depot_or_new()?.row_mut(LARGE).reserve()?;
        let request = Demand::new(Tally::of_memory(bytes as u64)).at(ask.priority);
        let mut brought = attempts.large.take();
        let charged =
            locked.sides(self)?.charge(attempts, &request, stream, |_, _, _| brought.take());
        attempts.large = brought;
        let extra = charged?.ok_or(Stop::MapLarge(bytes))?;
        extra.magazine().occupy(0, ask.hold, true);
        let tick = self.hot.tick();
        let base = extra.with_large(|large| {
            large.note.write(ask.site, tick);
            large.mapping.base()
        });
        let base = base.expect("a mapping was brought");
        let slot = SlotRef::of_extra(&extra, 0);
        if let Some(depot) = locked.ledger().depot_mut() {
            depot.large_bytes += bytes as u64;
            depot.row_mut(LARGE).add(extra);
        }
        if let Some(on_stream) = on_stream {
            on_stream.commit(&mut locked, bytes as u64);
        }
        Ok(Granted { slot, memory: Memory::Large { base, bytes } })
    }

    /// Leases an idle block of the connection's own.
    fn take_idle(
        &self,
        shared: &Shared,
        ledger: &mut Ledger,
        class: usize,
        hold: Hold,
    ) -> Option<Granted> {
        let first = &self.magazines[class];
        if let Some((slot, _)) = first.take_idle(hold, false) {
            return Some(granted_of_first(class, first, slot));
        }
        let (extra, slot) = ledger.depot_mut()?.row_mut(class).take_idle(hold)?;
        Some(self.granted_of_extra(shared, extra, slot))
    }

    fn has_idle(&self, ledger: &Ledger, class: usize) -> bool {
        !self.magazines[class].word().idle().is_empty()
            || ledger.depot().is_some_and(|depot| depot.row(class).stocked() > 0)
    }

    /// Sees to it that the record keeps itself, which it does from its first lease on.
    fn keep(&self, locked: &mut Locked<'_>) -> Result<(), Stop> {
        let (shared, ledger) = locked.parts()?;
        if ledger.keep.is_none() {
            ledger.keep = shared.registry.get(self.id());
            debug_assert!(ledger.keep.is_some(), "a connection that leases is registered");
        }
        Ok(())
    }
}

fn granted_of_first(class: usize, first: &Magazine, slot: usize) -> Granted {
    let memory = Memory::Block { class, number: first.number(slot) };
    Granted { slot: SlotRef::of(first, slot), memory }
}

/// The account of the stream that a request is for, held while it is decided.
pub(super) struct OnStream<'a> {
    account: HeldAccount<'a>,
    pub(super) charge: StreamCharge,
}

impl<'a> OnStream<'a> {
    pub(super) fn enter(
        locked: &mut Locked<'_>,
        ask: &Ask<'a>,
        bytes: u64,
    ) -> Result<Option<Self>, Stop> {
        let Some(account) = ask.account else { return Ok(None) };
        let (shared, ledger) = locked.parts()?;
        // A stream that was closed and drained is forgotten. What is left of it can have no more.
        let stream = ledger.stream_mut(account.key()).ok_or(Stop::Closed)?;
        let class = stream.class.map(|of| of.class);
        let account = account.hold();
        let in_use = account.in_use();
        if !account.can_count(bytes) {
            let limit = shared.tree.stream_limits().memory;
            let refused = Refused::new(Scope::Stream, Resource::Memory, limit, in_use, bytes);
            return Err(refused.at(ask.priority).into());
        }
        Ok(Some(Self { account, charge: StreamCharge { in_use, class } }))
    }

    /// Takes the bytes, which were granted.
    pub(super) fn commit(self, locked: &mut Locked<'_>, bytes: u64) {
        self.account.add(bytes);
        if self.charge.class.is_some()
            && let Some(stream) = locked.ledger().stream_mut(self.account.key())
            && let Some(of) = &mut stream.class
        {
            of.memory += bytes;
        }
    }
}
