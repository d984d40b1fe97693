//! Leases that the magazines have no place for: the ninth block of a class and beyond, and large
//! leases with a mapping of their own. All their transitions happen under the connection's mutex.
//!
//! A few blocks rest here between two such leases, as they do in a magazine, under the same rule:
//! only while the connection is listed as one that may cache.

use std::collections::BTreeMap;
use std::panic::Location;

use slab::Slab;

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
    open: Slab<LooseLease>,
    /// After the close only those still out are kept, under their old keys: a slab would keep the
    /// room of all that were revoked.
    closed: BTreeMap<u32, LooseLease>,
    /// Idle blocks, charged like the leased ones.
    spares: Vec<(usize, Block)>,
    pub(super) leased_bytes: u64,
    pub(super) returned_bytes: u64,
}

impl Loose {
    pub(super) fn insert(&mut self, lease: LooseLease) -> u32 {
        self.open.insert(lease) as u32
    }

    pub(super) fn get_mut(&mut self, key: u32) -> Option<&mut LooseLease> {
        self.open.get_mut(key as usize).or_else(|| self.closed.get_mut(&key))
    }

    pub(super) fn remove(&mut self, key: u32) -> Option<LooseLease> {
        self.open.try_remove(key as usize).or_else(|| self.closed.remove(&key))
    }

    /// Keeps a block for the next lease, or hands it back for want of room.
    pub(super) fn keep_spare(&mut self, class: usize, block: Block) -> Option<Block> {
        if self.spares.len() == MOST_SPARES {
            return Some(block);
        }
        self.spares.push((class, block));
        None
    }

    pub(super) fn take_spare(&mut self, class: usize) -> Option<Block> {
        let found = self.spares.iter().rposition(|(of, _)| *of == class)?;
        Some(self.spares.swap_remove(found).1)
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
        self.open.iter().map(|(_, lease)| lease).chain(self.closed.values())
    }

    pub(super) fn len(&self) -> usize {
        self.open.len() + self.closed.len()
    }

    /// Takes out the owned leases that nobody has pinned.
    pub(super) fn close(&mut self) -> Vec<LooseLease> {
        let mut revoked = Vec::new();
        for (key, lease) in std::mem::take(&mut self.open) {
            if lease.hold == Hold::Owned {
                revoked.push(lease);
            } else {
                self.closed.insert(key as u32, lease);
            }
        }
        revoked
    }

    /// Takes out what is still borrowed after the guard is gone.
    pub(super) fn take_forgotten(&mut self) -> Vec<LooseLease> {
        let (forgotten, kept): (BTreeMap<_, _>, _) = std::mem::take(&mut self.closed)
            .into_iter()
            .partition(|(_, lease)| lease.hold == Hold::Borrowed);
        self.closed = kept;
        forgotten.into_values().collect()
    }
}
