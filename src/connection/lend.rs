//! Leases that the magazine alone could not serve.

use std::panic::Location;

use super::account::StreamAccount;
use super::errand::{Errand, Halt};
use super::ledger::{Ledger, Phase};
use super::loose::{LooseLease, LooseMemory};
use super::weigh::stream_class;
use super::{Connection, Granted, Memory, Seat};
use crate::arena::{Block, Mapping, Note};
use crate::error::LeaseError;
use crate::magazine::Hold;
use crate::priority::Priority;
use crate::scope::Request;
use crate::usage::Tally;

/// How a lease is asked for.
#[derive(Clone, Copy)]
struct LeaseTerms<'a> {
    hold: Hold,
    account: Option<&'a StreamAccount>,
    priority: Priority,
    site: &'static Location<'static>,
}

impl Connection {
    /// Leases what the magazine alone could not. A refusal is not [counted](Self::count_refusal).
    #[cold]
    #[inline(never)]
    pub(crate) fn lease_slowly(
        &self,
        len: usize,
        hold: Hold,
        account: Option<&StreamAccount>,
        priority: Priority,
        site: &'static Location<'static>,
    ) -> Result<Granted, LeaseError> {
        let class = self.shared.arena.class_for(len);
        if let (Some(class), None, Priority::Critical) = (class, account, priority)
            && let Some(granted) = self.lease_spare(class, hold)
        {
            return Ok(granted);
        }
        let terms = LeaseTerms { hold, account, priority, site };
        let mut errand = Errand::new(&self.shared);
        let granted = match class {
            Some(class) => errand.run(|errand| self.attempt_block(class, terms, errand)),
            None => {
                let bytes = Mapping::round_up(len).unwrap_or(usize::MAX);
                errand.run(|errand| self.attempt_large(bytes, terms, errand))
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
        let LeaseTerms { hold, account, priority, .. } = terms;
        let bytes = self.block_bytes(class);
        let entry = self.enter(account, bytes, priority)?;
        let mut guard = self.lock_open()?;
        let ledger = &mut *guard;
        self.keep(ledger);
        let magazine = &self.magazines[class];
        if magazine.word().wants_fold() {
            self.fold(ledger);
        }
        // An idle block is charged already. Only a class of the stream, which is not charged for
        // idle blocks, and a priority below the highest still have a say.
        let class_of_stream = match account {
            Some(account) => stream_class(ledger, account)?,
            None => None,
        };
        let limit = self.shared.stream_memory();
        let is_plain = priority == Priority::Critical
            && class_of_stream.is_none()
            && entry.as_ref().is_none_or(|entered| entered.fits(limit));
        let request = Request { usage: Tally::of_memory(bytes), idle_bytes: 0, priority };
        let granted = loop {
            if is_plain {
                if let Some(granted) = self.take_idle(ledger, class, hold) {
                    break granted;
                }
            } else if self.has_idle(ledger, class) {
                let request = Request { idle_bytes: bytes, ..request };
                let take = |ledger: &mut Ledger| self.take_idle(ledger, class, hold);
                match self.weigh(ledger, entry.as_ref(), &request, take)? {
                    Some((granted, _)) => break granted,
                    // Another thread was faster, on the way that needs no lock.
                    None => continue,
                }
            }
            // Under the tree's lock: the arena is never short of a block that someone holds who is
            // about to be refused. Nor is anything mapped for one who would be.
            let take = |_: &mut Ledger| errand.take_block(class);
            let Some((block, mut line)) = self.weigh(ledger, entry.as_ref(), &request, take)?
            else {
                return Err(Halt::Grow(class));
            };
            let tight = line.is_tight();
            if !tight
                && !ledger.listed
                && let Some(me) = &ledger.keep
            {
                line.list(self.id, me);
                ledger.listed = true;
            }
            drop(line);
            break match magazine.vacant_slot() {
                Some(slot) => {
                    magazine.install(slot, block.0, hold, tight);
                    self.granted_slot(class, slot)
                }
                None => grant_loose_block(ledger, class, block, bytes, hold),
            };
        };
        drop(guard);
        if let Some(entered) = entry {
            entered.commit();
        }
        Ok(granted)
    }

    fn attempt_large<'a>(
        &'a self,
        bytes: usize,
        terms: LeaseTerms<'a>,
        errand: &mut Errand<'a>,
    ) -> Result<Granted, Halt> {
        let LeaseTerms { hold, account, priority, site } = terms;
        let entry = self.enter(account, bytes as u64, priority)?;
        let mut guard = self.lock_open()?;
        let ledger = &mut *guard;
        self.keep(ledger);
        let request = Request::new(Tally::of_memory(bytes as u64)).at(priority);
        let take = |_: &mut Ledger| errand.take_mapping();
        let Some((mapping, line)) = self.weigh(ledger, entry.as_ref(), &request, take)? else {
            return Err(Halt::MapLarge(bytes));
        };
        drop(line);
        let memory = Memory::Large { base: mapping.base(), bytes: mapping.len() };
        let note = Box::new(Note::default());
        note.write(site, self.shared.tick());
        let large = LooseMemory::Large { mapping, note };
        let seat = insert_loose(ledger, LooseLease { memory: large, hold }, bytes as u64);
        drop(guard);
        if let Some(entered) = entry {
            entered.commit();
        }
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
