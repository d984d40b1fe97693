//! Leases that the magazines have no place for: the ninth block of a class and beyond, and large
//! leases with a mapping of their own. All their transitions happen under the connection's mutex.
//!
//! A few blocks rest here between two such leases, as they do in a magazine, under the same rule:
//! only while the connection is listed as one that may cache.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::panic::Location;

use super::ledger::insert_in_turn;
use crate::arena::{Arena, Block, Mapping, Note};
use crate::magazine::Hold;

/// One lease.
pub(crate) struct LooseLease {
    pub(super) memory: LooseMemory,
    pub(super) hold: Hold,
}

pub(crate) enum LooseMemory {
    Block { class: usize, block: Block },
    Large { mapping: Mapping, note: Box<Note> },
}

impl LooseLease {
    pub(super) fn bytes(&self, arena: &Arena) -> u64 {
        match &self.memory {
            LooseMemory::Block { class, .. } => arena.block_bytes(*class) as u64,
            LooseMemory::Large { mapping, .. } => mapping.len() as u64,
        }
    }

    pub(super) fn note(&self, arena: &Arena) -> Option<(&'static Location<'static>, u32)> {
        match &self.memory {
            LooseMemory::Block { class, block } => arena.note(*class, block.0),
            LooseMemory::Large { note, .. } => note.read(),
        }
    }
}

/// Idle blocks that one connection may keep here.
const MOST_SPARES: usize = 8;

/// The leases of one connection, and what has been leased and returned through them.
#[derive(Default)]
pub(super) struct Loose {
    leases: BTreeMap<u32, LooseLease>,
    next_key: u32,
    /// Idle blocks, charged like the leased ones.
    spares: Vec<(usize, Block)>,
    pub(super) leased_bytes: u64,
    pub(super) returned_bytes: u64,
}

impl Loose {
    pub(super) fn insert(&mut self, lease: LooseLease) -> u32 {
        insert_in_turn(&mut self.leases, &mut self.next_key, |_| lease)
    }

    pub(super) fn get_mut(&mut self, key: u32) -> Option<&mut LooseLease> {
        self.leases.get_mut(&key)
    }

    pub(super) fn remove(&mut self, key: u32) -> Option<LooseLease> {
        self.leases.remove(&key)
    }

    /// Ends a lease and keeps its block for the next one. `false`, and nothing changes: there is no
    /// room, or the memory is no block.
    pub(super) fn keep_spare(&mut self, key: u32, arena: &Arena) -> bool {
        if self.spares.len() == MOST_SPARES {
            return false;
        }
        let Entry::Occupied(lease) = self.leases.entry(key) else { return false };
        let LooseMemory::Block { class, .. } = lease.get().memory else { return false };
        if let LooseMemory::Block { block, .. } = lease.remove().memory {
            self.spares.push((class, block));
            self.returned_bytes += arena.block_bytes(class) as u64;
        }
        true
    }

    pub(super) fn take_spare(&mut self, class: usize) -> Option<Block> {
        let found = self.spares.iter().rposition(|(of, _)| *of == class)?;
        Some(self.spares.swap_remove(found).1)
    }

    pub(super) fn has_spare(&self, class: usize) -> bool {
        self.spares.iter().any(|(of, _)| *of == class)
    }

    /// Takes out every idle block.
    pub(super) fn take_spares(&mut self) -> Vec<(usize, Block)> {
        std::mem::take(&mut self.spares)
    }

    pub(super) fn has_spares(&self) -> bool {
        !self.spares.is_empty()
    }

    pub(super) fn spare_bytes(&self, arena: &Arena) -> u64 {
        self.spares.iter().map(|(class, _)| arena.block_bytes(*class) as u64).sum()
    }

    /// Whether there is nothing here to remember.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
            && self.spares.is_empty()
            && self.leased_bytes == 0
            && self.returned_bytes == 0
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &LooseLease> {
        self.leases.values()
    }

    pub(super) fn len(&self) -> usize {
        self.leases.len()
    }

    /// Takes out every lease that is held in one way: the owned ones at a close, the borrowed ones
    /// after the guard is gone.
    pub(super) fn take_held(&mut self, hold: Hold) -> Vec<LooseLease> {
        let (taken, kept): (BTreeMap<_, _>, _) =
            std::mem::take(&mut self.leases).into_iter().partition(|(_, lease)| lease.hold == hold);
        self.leases = kept;
        taken.into_values().collect()
    }
}
