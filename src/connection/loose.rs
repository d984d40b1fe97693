//! Leases that the magazines have no place for: the ninth block of a class and beyond, and large
//! leases with a mapping of their own. All their transitions happen under the connection's mutex.

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

/// The leases of one connection, and what has been leased and returned through them.
#[derive(Default)]
pub(super) struct Loose {
    open: Slab<LooseLease>,
    /// After the close only those still out are kept, under their old keys: a slab would keep the
    /// room of all that were revoked.
    closed: BTreeMap<u32, LooseLease>,
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
        self.closed
            .extract_if(.., |_, lease| lease.hold == Hold::Borrowed)
            .map(|(_, l)| l)
            .collect()
    }
}
