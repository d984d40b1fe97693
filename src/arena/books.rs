//! What is mapped, what of it is resident, and how much may be.

use crossbeam_utils::CachePadded;

use super::slab;
use crate::error::{Refused, Resource, Scope};
use crate::limit::Limit;
use crate::sync::Mutex;

/// How much of the arena may be resident, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Beyond this, empty slabs and idle pages are given up before more becomes resident.
    frugal: u64,
    /// Beyond this, nothing more becomes resident.
    hard: u64,
}

/// One of the two [`Bounds`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    Frugal,
    Hard,
}

impl Bounds {
    /// A budget of `memory`, one slab for each of `classes`, and a quarter of all that (or what is
    /// configured) for fragmentation.
    pub(crate) fn new(memory: Limit, classes: usize, fragmentation: Option<u64>) -> Self {
        let Limit::Max(memory) = memory else {
            return Self { frugal: u64::MAX, hard: u64::MAX };
        };
        let frugal = memory.saturating_add((classes * slab::BYTES) as u64);
        let fragmentation = fragmentation.unwrap_or(frugal / 4);
        Self { frugal, hard: frugal.saturating_add(fragmentation) }
    }

    fn get(self, bound: Bound) -> u64 {
        match bound {
            Bound::Frugal => self.frugal,
            Bound::Hard => self.hard,
        }
    }
}

/// The books of one arena. Its lock is the innermost of all.
pub(super) struct Books(CachePadded<Mutex<Figures>>);

/// What the books say, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figures {
    /// Mapped for slabs.
    pub(super) slabs: u64,
    /// Mapped for large leases.
    pub(super) large: u64,
    /// Of the slabs, idle pages that were given back to the system.
    pub(super) discarded: u64,
    bounds: Bounds,
}

impl Figures {
    pub(super) fn mapped(&self) -> u64 {
        self.slabs + self.large
    }

    pub(super) fn resident(&self) -> u64 {
        self.mapped() - self.discarded
    }

    fn admits(&self, bytes: u64, bound: Bound) -> bool {
        self.resident().saturating_add(bytes) <= self.bounds.get(bound)
    }
}

impl Books {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self(CachePadded::new(Mutex::new(Figures { slabs: 0, large: 0, discarded: 0, bounds })))
    }

    pub(super) fn read(&self) -> Figures {
        *self.0.lock()
    }

    pub(super) fn set_bounds(&self, bounds: Bounds) {
        self.0.lock().bounds = bounds;
    }

    /// Whether `bytes` more may become resident.
    pub(super) fn admit(&self, bytes: u64, bound: Bound) -> bool {
        self.0.lock().admits(bytes, bound)
    }

    /// Enters one more slab, if the hard bound allows it.
    pub(super) fn map_slab(&self) -> Result<(), Refused> {
        self.map(slab::BYTES as u64, |figures| &mut figures.slabs)
    }

    /// Strikes slabs that were unmapped, or were not mapped after all.
    pub(super) fn unmap_slabs(&self, bytes: u64) {
        self.0.lock().slabs -= bytes;
    }

    /// Enters a large lease, if the hard bound allows it.
    pub(super) fn map_large(&self, bytes: u64) -> Result<(), Refused> {
        self.map(bytes, |figures| &mut figures.large)
    }

    /// Strikes a large lease.
    pub(super) fn unmap_large(&self, bytes: u64) {
        self.0.lock().large -= bytes;
    }

    /// Enters idle pages that were given back to the system.
    pub(super) fn discard(&self, bytes: u64) {
        self.0.lock().discarded += bytes;
    }

    /// Strikes discarded pages that are about to be used again, if the bound allows it.
    pub(super) fn wake(&self, bytes: u64, bound: Bound) -> bool {
        let mut figures = self.0.lock();
        let admitted = figures.admits(bytes, bound);
        if admitted {
            figures.discarded -= bytes;
        }
        admitted
    }

    /// Strikes discarded pages whose slab goes.
    pub(super) fn forget_discarded(&self, bytes: u64) {
        self.0.lock().discarded -= bytes;
    }

    fn map(&self, bytes: u64, field: impl FnOnce(&mut Figures) -> &mut u64) -> Result<(), Refused> {
        let mut figures = self.0.lock();
        if !figures.admits(bytes, Bound::Hard) {
            let (limit, in_use) = (Limit::Max(figures.bounds.hard), figures.resident());
            return Err(Refused::new(Scope::Arena, Resource::Memory, limit, in_use, bytes));
        }
        *field(&mut figures) += bytes;
        Ok(())
    }
}
